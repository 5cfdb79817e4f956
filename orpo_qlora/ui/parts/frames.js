// Gradio's status display redraws its clock on every frame, and one that is removed while it runs, as
// the "Loading..." of every page is, does so for ever: a tenth of a core, even if nobody uses the page.
// It shows tenths of a second; a few redraws per second are enough.
(() => {
  const REDRAW_MS = 250;
  const CLOCK = /performance\.now\(\) *- *[^/]*\/ *(1e3|1000)/;
  const request = window.requestAnimationFrame.bind(window);
  window.requestAnimationFrame = (callback) => CLOCK.test(callback)
    ? setTimeout(() => callback(performance.now()), REDRAW_MS)
    : request(callback);
})();
