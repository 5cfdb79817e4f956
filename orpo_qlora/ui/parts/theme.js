// Read before the first tab opens itself and changes the address.
window.orpoAddress = JSON.stringify(Object.fromEntries(new URLSearchParams(location.search)));

// Said once: a run that is opened again later is seen as any other.
let orpoUnseen = window.orpoAddress;
window.orpoView = (run) => {
  const said = orpoUnseen;
  if (run) { orpoUnseen = "{}"; }
  return said;
};

// What the page shows is in its address, so a reload or a bookmark shows the same.
window.orpoRemember = (name, value) => {
  const url = new URL(window.location.href);
  if (value) { url.searchParams.set(name, value); } else { url.searchParams.delete(name); }
  window.history.replaceState(null, "", url);
};
// The tab is read off the page: Gradio tells of two that open one after the other in any order. The
// first one opens by itself; until somebody does something, only the one asked for counts.
let orpoAsked = (() => {
  const asked = new URLSearchParams(location.search);
  return asked.get("tab") ?? (asked.get("run") || asked.get("compare") ? "runs" : null);
})();
for (const kind of ["pointerdown", "keydown", "click"]) {
  document.addEventListener(kind, () => { orpoAsked = null; }, { capture: true, once: true });
}
new MutationObserver(() => {
  const open = document.querySelector('[role="tab"][aria-selected="true"]')?.dataset.tabId;
  if (!open || open === document.body.dataset.tab || (orpoAsked && open !== orpoAsked)) { return; }
  document.body.dataset.tab = open;
  document.title = `${open[0].toUpperCase()}${open.slice(1)} · orpo-qlora`;
  window.orpoRemember("tab", open);
}).observe(document, { subtree: true, childList: true, attributeFilter: ["aria-selected"] });
const orpoSoon = {};
window.orpoRememberSoon = (name, value) => {
  clearTimeout(orpoSoon[name]);
  orpoSoon[name] = setTimeout(() => { window.orpoRemember(name, String(value ?? "")); }, 150);
};

// The style sheet says “changed” behind the labels of the settings that are.
window.orpoMark = (names) => {
  const changed = new Set((names || "").split(" ").map((name) => `setting-${name}`));
  for (const setting of document.querySelectorAll('[id^="setting-"]')) {
    setting.toggleAttribute("data-changed", changed.has(setting.id));
  }
};

// One token of a part can be reached by Tab; arrow keys move on, and the line below says which it is.
(() => {
  const tell = (token) => {
    const line = token.closest(".token-view")?.querySelector(".token-readout");
    if (line) { line.textContent = `“${token.textContent}” · ${token.title}`; }
  };

  document.addEventListener("focusin", (event) => {
    if (event.target.matches?.(".tokens > .token")) { tell(event.target); }
  });
  // What a scrolling page moves under a pointer at rest is not pointed at.
  let pointedAt = "";
  document.addEventListener("pointerover", (event) => {
    const here = `${event.clientX} ${event.clientY}`;
    if (here !== pointedAt && event.target.matches?.(".tokens > .token")) { tell(event.target); }
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
