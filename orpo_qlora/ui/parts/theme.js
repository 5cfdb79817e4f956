// Svelte watches each property of a plain object through a proxy, and Gradio looks through all events
// for every component: seconds of processor time as the page opens. What the server sent never
// changes, and Svelte leaves objects with a prototype of their own as they are.
const orpoPlain = {};
for (const part of ["components", "dependencies"]) {
  for (const one of window.gradio_config?.[part] ?? []) { Object.setPrototypeOf(one, orpoPlain); }
}

// Read before the first tab opens itself and changes the address.
window.orpoAddress = JSON.stringify(Object.fromEntries(new URLSearchParams(location.search)));

// The address applies once: a run that is opened again later has the default view. Gradio may report
// one selection twice, once more when the tab is drawn: what was chosen since then stays.
let orpoUnseen = window.orpoAddress;
let orpoSelected = "";
window.orpoView = (run) => {
  const address = run && run === orpoSelected ? '{"reported": "again"}' : orpoUnseen;
  orpoSelected = run;
  if (run) { orpoUnseen = "{}"; }
  return address;
};

// The run of a selection that was not reported before; empty for the second report.
let orpoReported = "";
window.orpoNewSelection = (run) => {
  const isNew = run !== orpoReported;
  orpoReported = run;
  return isNew ? run : "";
};

// What the page shows is in its address, so a reload or a bookmark shows the same.
window.orpoRemember = (name, value) => {
  const url = new URL(window.location.href);
  if (value) { url.searchParams.set(name, value); } else { url.searchParams.delete(name); }
  window.history.replaceState(null, "", url);
};
// The open tab is read from the page, because Gradio's select events can arrive out of order. The
// first tab opens by itself; until the user acts, only the tab in the address counts.
let orpoRequestedTab = (() => {
  const query = new URLSearchParams(location.search);
  return query.get("tab") ?? (query.get("run") || query.get("compare") ? "runs" : null);
})();
for (const kind of ["pointerdown", "keydown", "click"]) {
  document.addEventListener(kind, () => { orpoRequestedTab = null; }, { capture: true, once: true });
}
new MutationObserver(() => {
  const open = document.querySelector('[role="tab"][aria-selected="true"]')?.dataset.tabId;
  const isOther = orpoRequestedTab && open !== orpoRequestedTab;
  if (!open || open === document.body.dataset.tab || isOther) { return; }
  document.body.dataset.tab = open;
  document.title = `${open[0].toUpperCase()}${open.slice(1)} · orpo-qlora`;
  window.orpoRemember("tab", open);
}).observe(document, { subtree: true, childList: true, attributeFilter: ["aria-selected"] });
const orpoSoon = {};
window.orpoRememberSoon = (name, value) => {
  clearTimeout(orpoSoon[name]);
  orpoSoon[name] = setTimeout(() => { window.orpoRemember(name, String(value ?? "")); }, 150);
};

// The style sheet shows “changed” beside the labels of changed settings.
window.orpoMark = (names) => {
  const changed = new Set((names || "").split(" ").map((name) => `setting-${name}`));
  for (const setting of document.querySelectorAll('[id^="setting-"]')) {
    setting.toggleAttribute("data-changed", changed.has(setting.id));
  }
};

// Token view: Tab focuses one token, arrow keys move, and the line below describes it.
(() => {
  const describe = (token) => {
    const line = token.closest(".token-view")?.querySelector(".token-readout");
    if (line) { line.textContent = `“${token.textContent}” · ${token.title}`; }
  };

  document.addEventListener("focusin", (event) => {
    if (event.target.matches?.(".tokens > .token")) { describe(event.target); }
  });
  // Scrolling under a resting pointer is not pointing.
  let pointedAt = "";
  document.addEventListener("pointerover", (event) => {
    const here = `${event.clientX} ${event.clientY}`;
    if (here !== pointedAt && event.target.matches?.(".tokens > .token")) { describe(event.target); }
    pointedAt = here;
  });
  document.addEventListener("pointermove", (event) => {
    pointedAt = `${event.clientX} ${event.clientY}`;
  });
  document.addEventListener("keydown", (event) => {
    const token = event.target;
    if (!token.matches?.(".tokens > .token")) { return; }
    const all = [...token.parentElement.querySelectorAll(".token")];
    const at = all.indexOf(token);
    const steps = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1,
      Home: 0, End: all.length - 1 };
    const next = all[steps[event.key]];
    if (!next) { return; }
    event.preventDefault();
    token.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
})();
