// A tab that watches a run asks for its news by a request of its own: Gradio's way costs ten times
// the processor time, which is taken from training. What is more than a text, Gradio changes.
(() => {
  const held = {};  // parts of the page that can be changed here, by id
  let shown = { from: null, seen: "", latest: {} };
  let isAsking = false;
  let asked = "", notBefore = 0;  // the last question, and when there can be another answer to it

  window.orpoHold = (id, element, props) => { held[id] = { element, props }; };

  const field = (id) => document.querySelector(`#${id} :is(input, textarea)`);
  const turn = () => document.getElementById("run-turn")?.click();

  const show = (id, text) => {
    const part = held[id];
    if (part) {
      if (part.element.isConnected && part.props.value !== text) { part.props.value = text; }
      return;
    }
    const area = field(id);
    if (!area || area.value === text) { return; }
    const isAtEnd = area.scrollTop + area.clientHeight >= area.scrollHeight - 2;
    area.value = text;
    if (isAtEnd) { area.scrollTop = area.scrollHeight; }
  };

  const ask = async (run, seen, choices) => {
    // What Gradio drew is the beginning; what came here since is known here only.
    if (shown.from !== seen) { shown = { from: seen, seen, latest: {} }; }
    const query = new URLSearchParams({ run, seen: shown.seen, choices: JSON.stringify(choices) });
    const answer = await fetch(`watch?${query}`);
    notBefore = performance.now() + 1000 * Number(answer.headers.get("x-again-in"));
    // Meanwhile Gradio may have drawn something else.
    if ((field("run-seen")?.value ?? seen) !== seen) { return; }
    const news = answer.status === 204 ? {} : await answer.json();
    if (!answer.ok || news.turn) { turn(); return; }
    if (news.parts) {
      shown.seen = news.seen;
      Object.assign(shown.latest, news.parts);
    }
    // All of them: what stood in a closed fold before may be open now.
    for (const [id, text] of Object.entries(shown.latest)) { show(id, text); }
  };

  window.orpoLook = async (run, seen, ...choices) => {
    if (isAsking) { return; }
    if (!run) { turn(); return; }
    const question = JSON.stringify([run, seen, choices]);
    if (question === asked && performance.now() < notBefore) { return; }
    asked = question;
    isAsking = true;
    try {
      await ask(run, seen, choices);
    } catch {
      asked = "";
      turn();  // Gradio says what is wrong with the connection
    } finally {
      isAsking = false;
    }
  };
})();
