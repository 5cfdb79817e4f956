// Polls /watch for the run on screen and updates status, charts and log in place. Gradio answers
// the same poll with ten times the processor time, which a run on the CPU would lose.
(() => {
  const POLLS_SKIPPED = 2;
  const components = {};  // Gradio components that can be updated from here, by element id
  let drawn = null;  // fingerprints of what Gradio drew last
  let etag = "";  // of what the tab shows now
  let latest = {};  // texts received since Gradio drew, by element id
  let isPolling = false;
  let skipped = 0;  // polls since the last one while another tab of the page is open

  window.orpoHold = (id, element, props) => { components[id] = { element, props }; };

  const field = (id) => document.querySelector(`#${id} :is(input, textarea)`);
  const refresh = () => document.getElementById("run-refresh")?.click();

  const show = (id, text) => {
    const component = components[id];
    if (component) {
      const { element, props } = component;
      if (element.isConnected && props.value !== text) { props.value = text; }
      return;
    }
    const area = field(id);
    if (!area || area.value === text) { return; }
    const isAtEnd = area.scrollTop + area.clientHeight >= area.scrollHeight - 2;
    area.value = text;
    if (isAtEnd) { area.scrollTop = area.scrollHeight; }
  };

  const poll = async (run, seen, choices) => {
    if (drawn !== seen) {
      drawn = seen;
      etag = `"${encodeURIComponent(seen)}"`;
      latest = {};
    }
    const query = new URLSearchParams({ run, choices: JSON.stringify(choices) });
    const response = await fetch(`watch?${query}`, { headers: { "If-None-Match": etag } });
    if (response.status !== 304 && !response.ok) { throw new Error(response.statusText); }
    const update = response.status === 304 ? {} : await response.json();
    // Gradio may have drawn something else in the meantime.
    if ((field("run-seen")?.value ?? seen) !== seen) { return; }
    if (update.refresh) { refresh(); return; }
    if (update.parts) {
      etag = response.headers.get("etag");
      Object.assign(latest, update.parts);
    }
    // All texts, not only the new ones: a section that was collapsed before may be open now.
    for (const [id, text] of Object.entries(latest)) { show(id, text); }
  };

  // Each update costs the browser processor time that a run on the same machine would lose.
  const mayWait = () => {
    if (document.hidden) { return true; }
    const isShown = document.getElementById("tab-runs")?.offsetParent != null;
    skipped = isShown || skipped === POLLS_SKIPPED ? 0 : skipped + 1;
    return skipped > 0;
  };

  window.orpoPoll = async (run, seen, ...choices) => {
    if (isPolling || mayWait()) { return; }
    if (!run) { refresh(); return; }
    isPolling = true;
    try {
      await poll(run, seen, choices);
    } catch {
      refresh();  // Gradio reports the lost connection
    } finally {
      isPolling = false;
    }
  };
})();
