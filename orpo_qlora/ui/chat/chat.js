// Runs once per part of the conversation; `element` and `trigger` belong to that component.
element.addEventListener("click", (event) => {
  const choice = event.target.closest("[data-choice]");
  if (choice) { trigger("click", { choice: choice.dataset.choice }); }
  const copy = event.target.closest("[data-copy]");
  if (copy) { window.orpoChat.copy(copy); }
});

window.orpoChat ??= (() => {
  const part = (id) => document.querySelector(`#${id}`);

  // Without TLS only execCommand can copy.
  const toClipboard = async (text) => {
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
    await toClipboard(text);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
    button.focus();
  };

  // On a touch screen the keyboard would cover the answers.
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
    // Escape in an open list closes the list.
    if (event.key !== "Escape" || event.target.closest?.("[role=combobox], [role=listbox]")) {
      return;
    }
    if (press("chat-stop") || press("chat-cancel-edit")) { focus(); }
  });

  // Scroll with the newest text unless the user has scrolled up.
  let isAtEnd = true, newest = "";
  const follow = () => {
    const box = part("chat-scroll");
    if (!box) { return; }
    const all = box.querySelectorAll("[data-exchange]");
    const last = all[all.length - 1]?.dataset.exchange ?? "";
    if (last !== newest) { isAtEnd = true; newest = last; }
    if (isAtEnd) { box.scrollTop = box.scrollHeight; }
  };
  // Watch the user's actions, not the position: the box also scrolls by itself.
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
