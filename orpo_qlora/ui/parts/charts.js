// Values under the pointer, and a selection of steps by dragging. The selected steps are kept in a
// field of the page, so they survive every new rendering.
(() => {
  const AREA = ".chart-area[data-curves]";
  const LEAST_DRAG = 8;
  let tip, drag;

  const page = () => document.querySelector(".gradio-container") ?? document.body;
  const clamp = (share) => Math.min(1, Math.max(0, share));

  const formats = {
    number: (value) => Math.abs(value) >= 1000
      ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(4))),
    scientific: (value) => value ? Number(value.toPrecision(4)).toExponential() : "0",
    percent: (value) => `${Number((100 * value).toPrecision(3))} %`,
  };

  const nearest = (points, step) =>
    points.reduce((best, point) =>
      Math.abs(point[0] - step) < Math.abs(best[0] - step) ? point : best);

  const line = (colour, text) => {
    const entry = document.createElement("div");
    const dot = document.createElement("span");
    dot.style.background = colour;
    entry.append(dot, text);
    return entry;
  };

  const hide = () => { tip?.remove(); };

  const stepAt = (place, clientX) => {
    const share = clamp((clientX - place.box.left) / place.box.width);
    return place.low + share * (place.high - place.low);
  };

  const placeOf = (area) => ({
    box: area.getBoundingClientRect(),
    low: Number(area.dataset.low),
    high: Number(area.dataset.high),
  });

  const valueText = (curve, step, format) => {
    const [when, value] = nearest(curve.raw ?? curve.points, step);
    const at = when === step ? "" : ` (step ${when.toLocaleString("en")})`;
    const smooth = curve.raw ? `, smoothed ${format(nearest(curve.points, step)[1])}` : "";
    return `${curve.label} ${format(value)}${smooth}${at}`;
  };

  const show = (area, event) => {
    const place = placeOf(area);
    const curves = JSON.parse(area.dataset.curves);
    if (!curves.length || event.clientX < place.box.left || event.clientX > place.box.right) {
      hide();
      return;
    }
    const wanted = stepAt(place, event.clientX);
    const within = curves.flatMap((curve) => curve.raw ?? curve.points);
    const step = nearest(within, wanted)[0];
    hide();
    tip = document.createElement("div");
    tip.className = "chart-tip";
    tip.append(line("transparent", `step ${step.toLocaleString("en")}`));
    for (const curve of curves) {
      tip.append(line(curve.colour, valueText(curve, step, formats[area.dataset.format])));
    }
    page().append(tip);
    const left = Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 8);
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${Math.max(8, event.clientY - tip.offsetHeight - 10)}px`;
  };

  const choose = (text) => {
    const field = document.querySelector("#chart-steps :is(input, textarea)");
    if (!field || field.value === text) { return; }
    field.value = text;
    field.dispatchEvent(new Event("input", { bubbles: true }));
  };

  const paint = (event) => {
    const left = Math.min(drag.from, Math.max(drag.box.left, event.clientX));
    const right = Math.max(drag.from, Math.min(drag.box.right, event.clientX));
    drag.shade.style.left = `${left}px`;
    drag.shade.style.width = `${right - left}px`;
  };

  const end = () => { drag?.shade.remove(); drag = undefined; };

  // A refresh may replace the chart during a drag, so the drag's state is not kept in it.
  document.addEventListener("pointerdown", (event) => {
    const area = event.target.closest?.(AREA);
    if (!area || event.button !== 0) { return; }
    end();
    const shade = document.createElement("div");
    drag = { ...placeOf(area), from: event.clientX, shade };
    shade.className = "chart-drag";
    shade.style.top = `${drag.box.top}px`;
    shade.style.height = `${drag.box.height}px`;
    page().append(shade);
    paint(event);
  });
  document.addEventListener("pointermove", (event) => {
    if (drag) { paint(event); }
    const area = event.target.closest?.(AREA);
    if (area) { show(area, event); } else { hide(); }
  });
  document.addEventListener("pointerup", (event) => {
    if (!drag) { return; }
    const steps = [stepAt(drag, drag.from), stepAt(drag, event.clientX)].map(Math.round);
    const isWide = Math.abs(event.clientX - drag.from) >= LEAST_DRAG;
    end();
    steps.sort((one, other) => one - other);
    if (isWide && steps[1] > steps[0]) { choose(`${steps[0]}-${steps[1]}`); }
  });
  document.addEventListener("pointercancel", end);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") { end(); } });
  document.addEventListener("dblclick", (event) => {
    // Also on an empty chart: the selected steps may have no measurements.
    if (event.target.closest?.(`${AREA}, .chart-waiting`)) { choose(""); }
  });
})();
