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
// The first tab opens itself, sooner or later than the one that was asked for: until somebody does
// something, only the latter is the person's choice.
// A run or a comparison is asked for on the tab that shows it.
const orpoFirst = new URLSearchParams(location.search);
let orpoAsked = orpoFirst.get("tab")
  ?? (orpoFirst.get("run") || orpoFirst.get("compare") ? "runs" : null);
for (const kind of ["pointerdown", "keydown", "click"]) {
  document.addEventListener(kind, () => { orpoAsked = null; }, { capture: true, once: true });
}
window.orpoRemember = (name, value) => {
  if (name === "tab") {
    if (orpoAsked && value !== orpoAsked) { return; }
    document.body.dataset.tab = value;
    document.title = `${value[0].toUpperCase()}${value.slice(1)} · orpo-qlora`;
  }
  const url = new URL(window.location.href);
  if (value) { url.searchParams.set(name, value); } else { url.searchParams.delete(name); }
  window.history.replaceState(null, "", url);
};
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
  document.addEventListener("pointerover", (event) => {
    if (event.target.matches?.(".tokens > .token")) { tell(event.target); }
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
