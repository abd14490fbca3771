// A line chart in SVG: one cursor over all its panels, moved by pointer or arrow keys; its values are also shown as a table.
//
// drawChart(figure, { title, note, x, panels: [{ height, y, low, series }], marks })
//   x: its label; y: a panel's label; low: the lowest value to show, else the data's own.
//   series: { name, kind, points: [[x, y, low, high, extra]], style: "line" | "faint" | "dots" | "area", digits, unit }
//   marks: [[x, label]], vertical lines.

const LEFT = 46,
  RIGHT = 14,
  TOP = 20,
  BETWEEN = 30,
  BOTTOM = 40;

function drawChart(figure, chart) {
  const every = chart.panels.flatMap((panel) => panel.series);
  const named = every.filter((series) => series.name);
  const key = (series, ...values) =>
    make("li", { class: `is-${series.kind}` }, make("i"), make("span", { class: "soft" }, series.name), ...values);
  const legend = make(
    "ul",
    { class: "legend" },
    named.map((series) => key(series)),
  );
  const label = `${chart.title}. Use the arrow keys to read the values.`;
  const plot = make("div", { class: "plot", tabindex: "0", role: "img", "aria-label": label });
  const readout = make("ul", { class: "readout" });
  const spoken = make("p", { class: "hidden", "aria-live": "polite" });
  const caption = make("figcaption", {}, chart.title, make("small", {}, chart.note));
  figure.append(caption, legend, plot, readout, spoken, numbersTable(chart, named));
  const stops = [...new Set(every.flatMap((series) => series.points.map((point) => point[0])))].sort((a, b) => a - b);
  let at = null;
  let frame = null;

  function showValues() {
    frame?.moveCursor(at);
    if (at === null) {
      readout.replaceChildren(
        make("li", {}, "To read values, point at the plot, or focus it and use the arrow keys."),
      );
      return;
    }
    const values = named.map((series) => [series, nearest(series, at)]).filter(([, point]) => point);
    readout.replaceChildren(
      make("li", {}, `${chart.x} `, make("b", {}, number(at))),
      ...values.map(([series, point]) => key(series, " ", make("b", {}, valueText(series, point)))),
    );
    if (document.activeElement === plot) {
      const said = values.map(([series, point]) => `${series.name} ${valueText(series, point)}`);
      spoken.textContent = `${chart.x} ${at}: ${said.join(", ")}`;
    }
  }

  function redraw() {
    const width = Math.max(280, plot.clientWidth);
    frame = drawFrame(chart, width, stops);
    plot.replaceChildren(frame.svg);
    showValues();
  }

  function pointAt(event) {
    const x = frame.valueAt(event.clientX - plot.getBoundingClientRect().left);
    at = stops.reduce((best, stop) => (Math.abs(stop - x) < Math.abs(best - x) ? stop : best));
    showValues();
  }

  plot.addEventListener("pointermove", pointAt);
  plot.addEventListener("pointerdown", pointAt);
  plot.addEventListener("pointerleave", (event) => {
    if (event.pointerType !== "mouse") return; // what a finger pointed at stays
    at = null;
    showValues();
  });
  plot.addEventListener("blur", () => {
    at = null;
    spoken.textContent = "";
    showValues();
  });
  plot.addEventListener("keydown", (event) => {
    const jump = Math.max(1, Math.round(stops.length / 20)),
      here = at === null ? -1 : stops.indexOf(at);
    const to = {
      ArrowRight: here + 1,
      ArrowLeft: here - 1,
      PageUp: here + jump,
      PageDown: here - jump,
      Home: 0,
      End: stops.length - 1,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    at = stops[Math.min(stops.length - 1, Math.max(0, to))];
    showValues();
  });
  new ResizeObserver(redraw).observe(plot);
}

function drawFrame(chart, width, stops) {
  const first = stops[0],
    last = stops.at(-1);
  const x = (value) => LEFT + ((value - first) / (last - first || 1)) * (width - LEFT - RIGHT);
  const height =
    TOP + BOTTOM + chart.panels.reduce((sum, panel) => sum + panel.height, BETWEEN * (chart.panels.length - 1));
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  const bottom = height - BOTTOM;
  for (const [at, label] of chart.marks ?? []) {
    svg.append(
      draw("line", { class: "epoch", x1: x(at), x2: x(at), y1: TOP, y2: bottom }),
      draw("text", { x: x(at), y: TOP - 7, "text-anchor": "middle" }, label),
    );
  }
  let top = TOP;
  for (const panel of chart.panels) {
    drawPanel(svg, panel, x, top, width);
    top += panel.height + BETWEEN;
  }
  for (const tick of niceTicks(first, last, Math.min(8, width / 80), true)) {
    svg.append(draw("text", { x: x(tick), y: bottom + 18, "text-anchor": "middle" }, number(tick)));
  }
  svg.append(draw("text", { x: width - RIGHT, y: bottom + 35, "text-anchor": "end" }, chart.x));
  const cursor = draw("line", { class: "cursor", y1: TOP, y2: bottom, visibility: "hidden" });
  svg.append(cursor);
  return {
    svg,
    valueAt: (pixel) => first + ((pixel - LEFT) / (width - LEFT - RIGHT)) * (last - first),
    moveCursor(at) {
      cursor.setAttribute("visibility", at === null ? "hidden" : "visible");
      if (at !== null) {
        cursor.setAttribute("x1", x(at));
        cursor.setAttribute("x2", x(at));
      }
    },
  };
}

function drawPanel(svg, panel, x, top, width) {
  const [low, high] = limits(panel);
  const y = (value) =>
    top + panel.height - ((Math.min(Math.max(value, low), high) - low) / (high - low)) * panel.height;
  for (const tick of niceTicks(low, high, Math.max(3, panel.height / 45))) {
    svg.append(
      draw("line", { class: "grid-line", x1: LEFT, x2: width - RIGHT, y1: y(tick), y2: y(tick) }),
      draw("text", { x: LEFT - 8, y: y(tick) + 4, "text-anchor": "end" }, tickText(tick)),
    );
  }
  svg.append(draw("text", { x: 0, y: top - 8 }, panel.y));
  for (const series of panel.series) {
    const known = series.points.filter((point) => point[1] !== null);
    const group = draw("g", { class: `is-${series.kind}` });
    const path = series.points
      .map((point, i) =>
        point[1] === null
          ? ""
          : `${i && series.points[i - 1][1] !== null ? "L" : "M"}${x(point[0]).toFixed(1)} ${y(point[1]).toFixed(1)}`,
      )
      .join("");
    if (known.length > 1 && known[0][2] !== undefined)
      group.append(draw("path", { class: "band", d: band(known, x, y) }));
    if (series.style === "area" && known.length)
      group.append(
        draw("path", { class: "area", d: `${path}L${x(known.at(-1)[0])} ${y(low)}L${x(known[0][0])} ${y(low)}Z` }),
      );
    group.append(draw("path", { class: series.style === "faint" ? "line faint" : "line", d: path }));
    if (series.style === "dots" || known.length === 1)
      group.append(...known.map((point) => draw("circle", { cx: x(point[0]), cy: y(point[1]), r: 4 })));
    if (series.best && known.length)
      markBest(
        group,
        known.reduce((a, b) => (b[1] < a[1] ? b : a)),
        x,
        y,
        width,
      );
    svg.append(group);
  }
}

function markBest(group, [step, value], x, y, width) {
  const side = x(step) > 0.8 * width ? "end" : x(step) < 0.2 * width ? "start" : "middle";
  group.append(
    draw("circle", { class: "ring", cx: x(step), cy: y(value), r: 8 }),
    draw(
      "text",
      { class: "mark", x: x(step), y: y(value) - 16, "text-anchor": side },
      `best ${value.toFixed(3)} at step ${number(step)}`,
    ),
  );
}

function band(points, x, y) {
  const up = points.map((point) => `${x(point[0]).toFixed(1)} ${y(point[3]).toFixed(1)}`);
  const back = points.map((point) => `${x(point[0]).toFixed(1)} ${y(point[2]).toFixed(1)}`).reverse();
  return `M${[...up, ...back].join("L")}Z`;
}

// By what is drawn in full: a single wild value of a faint series would press everything else into a line.
function limits(panel) {
  const values = (some) =>
    some.flatMap((series) =>
      series.points.flatMap((point) => [point[1], ...point.slice(2, 4)]).filter((value) => Number.isFinite(value)),
    );
  const shown = values(panel.series.filter((series) => series.style !== "faint")),
    all = values(panel.series);
  const low = panel.low ?? Math.min(...all),
    high = Math.max(...shown);
  if (panel.low === 0 && high === 0) return [0, 1];
  const margin = 0.06 * Math.max(high - low, Math.abs(high) * 0.02, 1e-9);
  return [panel.low ?? low - margin, high + 2 * margin];
}

function niceTicks(low, high, count, whole = false) {
  const rough = (high - low) / Math.max(1, count),
    power = 10 ** Math.floor(Math.log10(rough || 1));
  let step = [1, 2, 5, 10].find((factor) => factor * power >= rough) * power;
  if (whole) step = Math.max(1, Math.round(step));
  const ticks = [];
  for (let tick = Math.ceil(low / step - 1e-9) * step; tick <= high + step * 1e-6; tick += step)
    ticks.push(Number(tick.toPrecision(10)));
  return ticks;
}

const tickText = (value) =>
  value !== 0 && Math.abs(value) < 0.001 ? value.toExponential(0).replace("e-", "e−") : number(value);
const nearest = (series, at) => series.points.find((point) => point[0] === at && point[1] !== null) ?? null;

function valueText(series, [, value, low, high, extra]) {
  const text = series.digits === "short" ? value.toPrecision(3) : value.toFixed(series.digits);
  const range = low === undefined ? "" : ` (${low.toFixed(series.digits)} to ${high.toFixed(series.digits)})`;
  return `${text}${series.unit ?? ""}${range}${extra === undefined ? "" : `, ${plural(extra, "reply", "replies")}`}`;
}

// Filled when it is first opened: a long run has thousands of rows.
function numbersTable(chart, named) {
  const box = make("div", { class: "scroll", tabindex: "0", style: "max-height:20rem;overflow:auto" });
  const open = () => {
    if (box.firstChild) return;
    const rows = new Map();
    named.forEach((series, column) =>
      series.points.forEach((point) => {
        if (point[1] === null) return;
        if (!rows.has(point[0]))
          rows.set(
            point[0],
            named.map(() => "–"),
          );
        rows.get(point[0])[column] = valueText(series, point);
      }),
    );
    box.append(
      make(
        "table",
        {},
        make(
          "thead",
          {},
          make(
            "tr",
            {},
            [chart.x, ...named.map((series) => series.name)].map((name) => make("th", { scope: "col" }, name)),
          ),
        ),
        make(
          "tbody",
          {},
          [...rows]
            .sort((a, b) => a[0] - b[0])
            .map(([at, cells]) =>
              make(
                "tr",
                {},
                make("th", { scope: "row" }, number(at)),
                cells.map((cell) => make("td", {}, cell)),
              ),
            ),
        ),
      ),
    );
  };
  return make("details", { class: "more", toggle: open }, make("summary", {}, "Show as a table"), box);
}
