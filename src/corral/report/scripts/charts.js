// The values of a chart, beside the pointer and for the arrow keys. A chart's data-marks has "texts", and "marks":
// [x, y, place in texts, run or null, class or null], in the units of its viewBox.
const REACH = 24; // pixels from a mark at which it answers

const tip = document.createElement("div");
tip.className = "tip";
tip.setAttribute("role", "status");
tip.hidden = true;
document.body.append(tip);
let told = null; // the chart, its marks and the mark that the tip is of
addEventListener("scroll", () => { if (!tip.hidden) tell(...told); }, true);

function place(chart, [x, y]) {
  const at = new DOMPoint(x, y).matrixTransform(chart.getScreenCTM());
  return [at.x, at.y];
}

function visible({ marks }) {
  return marks.filter(([, , , run, kind]) =>
    !(run !== null && run.split(" ").every((one) => hiddenRuns.has(one)))
    && !(kind !== null && shownClass !== "" && String(kind) !== shownClass));
}

function tell(chart, drawn, mark) {
  told = [chart, drawn, mark];
  const [x, y] = place(chart, mark);
  tip.textContent = drawn.texts[mark[2]];
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(x + 12, innerWidth - width - 4))}px`;
  tip.style.top = `${y > 0 && y < height + 10 ? y + 14 : y - height - 10}px`;
}

function nearest(chart, drawn, event) {
  let best = null, closest = REACH;
  for (const mark of visible(drawn)) {
    const [x, y] = place(chart, mark), distance = Math.hypot(x - event.clientX, y - event.clientY);
    if (distance < closest) [best, closest] = [mark, distance];
  }
  return best;
}

for (const chart of document.querySelectorAll("svg[data-marks]")) {
  const drawn = JSON.parse(chart.dataset.marks);
  let current = -1;
  chart.setAttribute("tabindex", "0");
  chart.setAttribute("aria-description", "The arrow keys read its values.");
  const point = (event) => {
    const mark = nearest(chart, drawn, event);
    if (mark) tell(chart, drawn, mark); else tip.hidden = true;
  };
  chart.addEventListener("pointermove", point);
  chart.addEventListener("pointerdown", point);
  chart.addEventListener("pointerleave", () => { tip.hidden = true; });
  chart.addEventListener("blur", () => { tip.hidden = true; current = -1; });
  chart.addEventListener("keydown", (event) => {
    const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }, marks = visible(drawn);
    if (event.key === "Escape") tip.hidden = true;
    if (!(event.key in steps) || !marks.length) return;
    event.preventDefault();
    const step = steps[event.key];
    current = current < 0 ? (step > 0 ? 0 : marks.length - 1) : (current + step + marks.length) % marks.length;
    tell(chart, drawn, marks[current]);
  });
}
