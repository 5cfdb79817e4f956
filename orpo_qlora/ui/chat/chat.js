// Runs once for each part of the conversation; `element` and `trigger` are that component's own.
element.addEventListener("click", (event) => {
  const choice = event.target.closest("[data-choice]");
  if (choice) { trigger("click", { choice: choice.dataset.choice }); }
  const copy = event.target.closest("[data-copy]");
  if (copy) { window.orpoChat.copy(copy); }
});

window.orpoChat ??= (() => {
  const part = (id) => document.querySelector(`#${id}`);

  // Without TLS there is no clipboard but the old one.
  const put = async (text) => {
    if (window.isSecureContext) { await navigator.clipboard.writeText(text); return; }
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  };

  const copy = async (button) => {
    const text = button.closest(".chat-reply").querySelector(".chat-text").textContent;
    await put(text);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
    button.focus();
  };

  // A finger would get the keyboard on the screen in the way of the answers.
  const focus = () => {
    const box = part("chat-message")?.querySelector("textarea");
    if (box?.offsetParent && window.matchMedia("(pointer: fine)").matches) { box.focus(); }
  };

  const press = (id) => {
    const button = part(id);
    if (!button?.offsetParent || button.disabled) { return false; }
    button.click();
    return true;
  };

  document.addEventListener("keydown", (event) => {
    // In an open list Escape closes the list.
    if (event.key !== "Escape" || event.target.closest?.("[role=combobox], [role=listbox]")) {
      return;
    }
    if (press("chat-stop") || press("chat-cancel-edit")) { focus(); }
  });

  // The newest words stay in sight, unless the person has scrolled up to read.
  let isAtEnd = true, newest = "";
  const follow = () => {
    const box = part("chat-scroll");
    if (!box) { return; }
    const all = box.querySelectorAll("[data-exchange]");
    const last = all[all.length - 1]?.dataset.exchange ?? "";
    if (last !== newest) { isAtEnd = true; newest = last; }
    if (isAtEnd) { box.scrollTop = box.scrollHeight; }
  };
  // What a person does, and not where the box stands: it moves by itself while words come.
  const readUp = (event) => {
    if (event.target.closest?.("#chat-scroll") && !(event.deltaY > 0)) { isAtEnd = false; }
  };
  for (const kind of ["wheel", "touchmove", "pointerdown"]) {
    document.addEventListener(kind, readUp, { passive: true });
  }
  document.addEventListener("scroll", (event) => {
    const box = event.target;
    if (box.id !== "chat-scroll") { return; }
    if (box.scrollHeight - box.scrollTop - box.clientHeight < 40) { isAtEnd = true; }
  }, true);

  return { copy, focus, follow };
})();

new MutationObserver(window.orpoChat.follow).observe(element, { childList: true, subtree: true });
