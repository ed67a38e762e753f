// Front end of the pruning explorer. It runs in JupyterLab (anywidget) and in the host that
// widgets.py writes into the page, and it only shows cuts that Python computed: see widgets.py
// for what `data` holds. The functions before `render` touch no document.

export const count = (n) => n.toLocaleString("en-US");

/** Share of a whole in percent, never rounded up to "100 %" or down to "0 %" while it is neither. */
export function percent(part, total) {
  const share = (100 * part) / total;
  const digits = share >= 99 ? 2 : 1;
  const text = share.toFixed(digits);
  if (part > 0 && Number(text) === 0) return "under 0.1 %";
  if (part < total && Number(text) === 100) return "over 99.99 %";
  return part === total ? "100 %" : `${text} %`;
}

export function bytes(n) {
  if (n < 1000) return `${n} bytes`;
  return n < 1e6 ? `${(n / 1e3).toFixed(1)} kB` : `${(n / 1e6).toFixed(2)} MB`;
}

/** Index of the entry of `values` nearest to `target`; the first of equals. */
export function nearest(values, target) {
  const gaps = values.map((value) => Math.abs(value - target));
  return gaps.indexOf(Math.min(...gaps));
}

/** Marks 0, step, 2 step, … below `top`, the step being 1, 2 or 5 times a power of ten. */
export function ticks(top) {
  const power = 10 ** Math.floor(Math.log10(top / 2));
  const step = power * [5, 2, 1].find((factor) => factor * power <= top / 2);
  const marks = [];
  for (let i = 0; i * step <= top; i++) marks.push(Number((i * step).toPrecision(6)));
  return marks;
}

/** The numbers of one cut: threshold of the layer shown, kept weights a layer, and their cost. */
export function cutAt(data, scope, layer, position) {
  const { thresholds, removed } = data.scopes[scope];
  const kept = data.layers.map(({ n }, i) => n - removed[i][position]);
  const sum = (of) => data.layers.reduce((total, l, i) => total + of(l, kept[i]), 0);
  return {
    threshold: thresholds[scope === "local" ? layer : 0][position],
    kept,
    keptTotal: sum((l, k) => k),
    total: sum((l) => l.n),
    dense: sum((l) => 4 * l.n),
    csr: sum((l, k) => 8 * k + 4 * (l.rows + 1)), // values, columns, row pointers: 4 bytes each
    multiplications: sum((l, k) => k * l.positions),
    allMultiplications: sum((l) => l.n * l.positions),
  };
}

/** Accuracy of a curve at one cut, linear in sparsity between measured points, else null. */
export function interpolate(curve, cuts, position) {
  const to = curve.find(([cut]) => cut >= position);
  const from = curve.findLast(([cut]) => cut <= position);
  if (!to || !from) return null;
  if (to === from) return to[1];
  const share = (cuts[position] - cuts[from[0]]) / (cuts[to[0]] - cuts[from[0]]);
  return from[1] + share * (to[1] - from[1]);
}

/** [value, note] of a curve at one cut: measured, interpolated or not measured. */
export function accuracyAt(curve, cuts, position) {
  const here = curve.find(([cut]) => cut === position);
  if (here) {
    const [, mean, sd, seeds] = here;
    const note = seeds > 1 ? `(measured, ${seeds} seeds, sd ${sd.toFixed(1)})` : "(measured, 1 seed)";
    return [`${mean.toFixed(1)} %`, note];
  }
  const value = interpolate(curve, cuts, position);
  if (value === null) return ["not measured", ""];
  const ends = [curve.findLast(([cut]) => cut < position), curve.find(([cut]) => cut > position)];
  const [a, b] = ends.map(([cut]) => `${Number((100 * cuts[cut]).toFixed(2))} %`);
  return [`about ${value.toFixed(0)} %`, `(interpolated between ${a} and ${b})`];
}

// ------------------------------------------------------------------------------------- pictures
// Charts are SVG without a viewBox: horizontal places in percent of the width, vertical ones in
// pixels, so that they fill any column with letters of one size and line up with their sliders.

const TOP = 18; // room above the plot
const PLOT = 130; // height of the plot
const SVG_TAGS = "svg g rect line path circle text defs pattern polyline".split(" ");

function make(tag, attributes = {}, ...children) {
  const node = SVG_TAGS.includes(tag)
    ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

const height = (share) => TOP + PLOT * (1 - share);
const label = (x, y, words, anchor = "middle") =>
  make("text", { x: `${x}%`, y, "text-anchor": anchor }, words);
const cutLine = (x) =>
  make("line", { class: "cut", x1: `${x}%`, x2: `${x}%`, y1: TOP - 10, y2: TOP + PLOT });

/** Bars of |w|; what the cut removes is hatched, what it keeps is solid. */
function histogram(layer, axis, threshold, hatch) {
  const width = layer.top / layer.bins.length;
  const peak = Math.max(...layer.bins);
  const bars = [];
  const bar = (from, to, n, kind) => {
    if (to <= from || !n) return;
    const y = height(n / peak);
    const size = { x: `${(100 * from) / axis}%`, width: `${(100 * (to - from)) / axis}%` };
    const paint = kind === "removed" ? { fill: `url(#${hatch})` } : {};
    bars.push(make("rect", { class: kind, y, height: TOP + PLOT - y, ...size, ...paint }));
  };
  layer.bins.forEach((n, i) => {
    const [from, to] = [i * width, (i + 1) * width];
    bar(from, Math.min(to, threshold), n, "removed");
    bar(Math.max(from, threshold), to, n, "kept");
  });
  const marks = axis ? ticks(axis) : [0];
  return [
    ...bars,
    make("line", { class: "axis", x1: "0%", x2: "100%", y1: TOP + PLOT, y2: TOP + PLOT }),
    ...marks.map((mark) => label((100 * mark) / axis || 0, TOP + PLOT + 17, `${mark}`)),
    cutLine((100 * threshold) / axis || 0),
  ];
}

/** Accuracy against the cut, on the sparsity slider's own scale; other curves are dashed. */
function curves(data, scope, position) {
  const last = data.cuts.length - 1;
  const x = (cut) => (100 * cut) / last;
  const grid = [0, 50, 100].flatMap((a) => [
    make("line", { class: "grid", x1: "0%", x2: "100%", y1: height(a / 100), y2: height(a / 100) }),
    label(0, height(a / 100) - 4, `${a} %`, "start"),
  ]);
  const lines = Object.entries(data.accuracy).map(([name, curve]) => {
    const points = data.cuts.flatMap((_, cut) => {
      const a = interpolate(curve, data.cuts, cut);
      return a === null ? [] : [`${cut},${(100 - a).toFixed(1)}`];
    });
    return make("polyline", { class: curveClass(name, scope), points: points.join(" ") });
  });
  const frame = { viewBox: `0 0 ${last} 100`, preserveAspectRatio: "none" };
  const marks = data.accuracy[scope].flatMap(([cut, a, sd]) => [
    make("line", {
      class: "spread", x1: `${x(cut)}%`, x2: `${x(cut)}%`,
      y1: height(Math.min(100, a + sd) / 100), y2: height(Math.max(0, a - sd) / 100),
    }),
    make("circle", { class: "measured", cx: `${x(cut)}%`, cy: height(a / 100), r: 3.5 }),
  ]);
  const accuracy = interpolate(data.accuracy[scope], data.cuts, position);
  const spot = { class: "here", cx: `${x(position)}%`, cy: height(accuracy / 100), r: 6 };
  return [
    ...grid,
    make("svg", { y: TOP, width: "100%", height: PLOT, ...frame }, ...lines),
    ...marks,
    cutLine(x(position)),
    ...(accuracy === null ? [] : [make("circle", spot)]),
    ...[0, 0.5, 0.9, 0.95, 0.99, 1].map((s) =>
      label(x(nearest(data.cuts, s)), TOP + PLOT + 17, `${100 * s}`)),
  ];
}

const curveClass = (name, scope) =>
  `curve ${name === scope ? "active" : name === "global" || name === "local" ? "other" : "control"}`;

/** The patch of one layer: kept weights grey by |w|, removed ones only a dot. */
function maskPicture({ patch, top }, threshold) {
  const shades = Array.from({ length: 6 }, () => "");
  let dots = "";
  patch.forEach((line, y) => line.forEach((w, x) => {
    if (w <= threshold) dots += `M${x + 0.5},${y + 0.5}h0`;
    else shades[Math.min(5, Math.floor((9 * w) / top))] += `M${x + 0.05},${y + 0.05}h.9v.9h-.9z`;
  }));
  return [
    ...shades.map((d, i) => make("path", { d, "fill-opacity": 0.35 + 0.13 * i })),
    make("path", { class: "gone", d: dots }),
  ];
}

// ---------------------------------------------------------------------------------------- widget

function choice(legend, names, group) {
  const inputs = names.map((_, i) => make("input", { type: "radio", name: group, value: i }));
  const labels = inputs.map((input, i) => make("label", {}, input, make("span", {}, names[i])));
  return { inputs, labels, box: make("fieldset", {}, make("legend", {}, legend), ...labels) };
}

function slider(name, attributes) {
  const input = make("input", { type: "range", ...attributes });
  const value = make("span", { class: "value", "aria-hidden": "true" });
  const words = make("span", { class: "label" }, make("label", {}, name), value);
  words.firstChild.htmlFor = input.id;
  return { input, value, box: make("div", { class: "slider" }, words, input) };
}

const chart = () => make("svg", { class: "chart", role: "img", height: TOP + PLOT + 24 });

function render({ model, el }) {
  const data = model.get("data");
  const scopes = Object.keys(data.scopes);
  const last = data.cuts.length - 1;
  const id = `x${Math.random().toString(36).slice(2)}`; // two views of one widget share no ids
  const move = (key, value) => {
    model.set(key, value);
    model.save_changes();
  };

  // --- the parts
  const scopeChoice = choice("Where the cut falls", scopes.map((s) => SCOPE_WORDS[s]), `${id}-scope`);
  const sparsity = slider("Sparsity", { id: `${id}-s`, min: 0, max: last, step: 1 });
  const threshold = slider("Threshold on |w|", { id: `${id}-t`, min: 0, step: "any" });
  const layerChoice = choice("Layers: pick one to look into", data.layers.map((l) => l.name), `${id}-layer`);
  const survivors = layerChoice.labels.map((row) => {
    const bar = make("span", { class: "bar" }, make("span"));
    const words = make("span", { class: "survivors" });
    row.append(words, bar);
    return { words, bar: bar.firstChild };
  });
  layerChoice.box.className = "layers";

  const output = make("output", { "aria-live": "polite" });
  const [curveChart, histogramChart] = [chart(), chart()];
  const picture = make("svg", { class: "mask", role: "img" });
  const hatch = make("pattern",
    { id: `${id}-hatch`, width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
    make("line", { class: "hatch", x1: 0, x2: 0, y1: 0, y2: 5 }));
  const curveNote = make("p", { class: "note" },
    `${data.metric[0].toUpperCase()}${data.metric.slice(1)} against % of weights removed; the scale is stretched above 90 %.`);
  const legend = make("p", { class: "legend" });
  const histogramNote = make("p", { class: "note" });
  const maskNote = make("p", { class: "note" });
  const panel = (...children) => make("div", { class: "panel" }, ...children);

  el.classList.add("explorer");
  el.replaceChildren(make("div", { class: "frame", role: "group", "aria-label": data.title },
    make("svg", { class: "hidden", "aria-hidden": "true", width: 0, height: 0 }, make("defs", {}, hatch)),
    make("p", { class: "title" }, data.title),
    ...(scopes.length > 1 ? [scopeChoice.box] : []),
    output,
    make("div", { class: "panels" },
      panel(sparsity.box, curveChart, curveNote, legend),
      panel(threshold.box, histogramChart, histogramNote),
      panel(layerChoice.box),
      panel(picture, maskNote)),
    make("details", {}, make("summary", {}, "The same numbers as a table"), table(model))));

  // --- from the reader to the state
  const thresholdsNow = () => {
    const all = data.scopes[model.get("scope")].thresholds;
    return all[model.get("scope") === "local" ? model.get("layer") : 0];
  };
  sparsity.input.addEventListener("input", () => move("position", Number(sparsity.input.value)));
  threshold.input.addEventListener("input", () => {
    move("position", nearest(thresholdsNow(), Number(threshold.input.value)));
    draw(); // the thumb snaps to the cut even where the position stays
  });
  threshold.input.addEventListener("keydown", (event) => {
    // from cut to cut: the browser's own steps in |w| would fall between two cuts and stick
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 10,
      PageDown: -10, Home: -last, End: last }[event.key];
    if (!step) return;
    event.preventDefault();
    move("position", Math.max(0, Math.min(last, model.get("position") + step)));
  });
  scopeChoice.inputs.forEach((input, i) =>
    input.addEventListener("change", () => move("scope", scopes[i])));
  layerChoice.inputs.forEach((input, i) =>
    input.addEventListener("change", () => move("layer", i)));

  // --- from the state to the picture
  function draw() {
    const [scope, at, position] = ["scope", "layer", "position"].map((key) => model.get(key));
    const layer = data.layers[at];
    const cut = cutAt(data, scope, at, position);
    const removed = cut.total - cut.keptTotal;
    const axis = scope === "local" ? layer.top : Math.max(...data.layers.map((l) => l.top));
    const share = `${percent(removed, cut.total)} removed`;
    const accuracy = accuracyAt(data.accuracy[scope], data.cuts, position);
    const gone = layer.n - cut.kept[at];

    scopeChoice.inputs[scopes.indexOf(scope)].checked = true;
    layerChoice.inputs[at].checked = true;
    sparsity.input.value = position;
    sparsity.value.textContent = share;
    sparsity.input.setAttribute("aria-valuetext", share);
    threshold.input.max = axis;
    threshold.input.value = cut.threshold;
    threshold.value.textContent = `${cut.threshold}${scope === "local" ? ` in ${layer.name}` : ""}`;
    threshold.input.setAttribute("aria-valuetext", `${threshold.value.textContent}, ${share}`);

    survivors.forEach(({ words, bar }, i) => {
      const { n } = data.layers[i];
      const fate = cut.kept[i] ? percent(cut.kept[i], n) : "collapsed";
      words.textContent = `${count(cut.kept[i])} of ${count(n)} kept · ${fate}`;
      words.classList.toggle("collapsed", !cut.kept[i]);
      bar.style.width = `${(100 * cut.kept[i]) / n}%`;
    });

    output.replaceChildren(...readout(data, cut, accuracy, scope, position));
    Object.assign(output.dataset, {
      threshold: cut.threshold, removed, keptPerLayer: JSON.stringify(cut.kept), scope,
      layer: layer.name, position,
    });

    curveChart.replaceChildren(...curves(data, scope, position));
    legend.replaceChildren(...key(data, scope));
    describe(curveChart, `${data.metric} against sparsity, ${scope} threshold: `
      + `${accuracy.join(" ")} at ${share}.`);
    histogramChart.replaceChildren(...histogram(layer, axis, cut.threshold, hatch.id));
    describe(histogramChart, `Histogram of the weights' magnitudes in ${layer.name}: `
      + `the cut at ${cut.threshold} removes ${count(gone)} of ${count(layer.n)}.`);
    histogramNote.textContent = `Magnitudes |w| in ${layer.name}. Hatched: the `
      + `${count(gone)} at or below the cut, removed. Solid: the ${count(cut.kept[at])} kept.`;

    const [rows, columns] = [layer.patch.length, layer.patch[0].length];
    const cells = layer.patch.flat();
    const left = cells.filter((w) => w > cut.threshold).length;
    picture.setAttribute("viewBox", `0 0 ${columns} ${rows}`);
    picture.style.aspectRatio = `${columns} / ${rows}`;
    picture.replaceChildren(...maskPicture(layer, cut.threshold));
    describe(picture, `Mask of a patch of ${layer.name}: `
      + `${left} of ${cells.length} weights are kept.`);
    maskNote.textContent = `The middle of ${layer.name}: ${rows} × ${columns} of its `
      + `${layer.rows} × ${layer.columns} weights, ${left} kept. The stronger the grey, the larger `
      + `|w|; a dot is a weight removed.`;
  }

  const keys = ["change:position", "change:scope", "change:layer"];
  keys.forEach((key) => model.on(key, draw));
  draw();
  return () => keys.forEach((key) => model.off(key, draw));
}

const SCOPE_WORDS = { global: "global: one threshold for all layers", local: "local: one threshold for each layer" };

function describe(picture, sentence) {
  picture.setAttribute("aria-label", sentence);
}

function readout(data, cut, [value, note], scope, position) {
  const part = (name, number, more, ...rest) => make("span", { class: "part" },
    make("span", { class: "name" }, `${name} `),
    make("strong", {}, number),
    make("span", { class: "more" }, ` ${more}`),
    ...rest);
  const controls = Object.entries(data.accuracy).filter(([name]) => !(name in data.scopes))
    .map(([name, curve]) => make("span", { class: "more" },
      ` ${name}: ${accuracyAt(curve, data.cuts, position)[0]}`));
  const collapsed = data.layers.filter((_, i) => cut.kept[i] === 0).map((l) => l.name);
  return [
    part("kept weights", count(cut.keptTotal), `of ${count(cut.total)}`),
    part(data.metric, value, note, ...controls),
    part("stored as CSR", bytes(cut.csr), `(dense: ${bytes(cut.dense)})`),
    part("multiplications", count(cut.multiplications), `per image (dense: ${count(cut.allMultiplications)})`),
    make("span", { class: collapsed.length ? "alarm" : "calm" }, collapsed.length
      ? `Collapsed: no weight is left in ${collapsed.join(", ")}.`
      : "Every layer still has weights."),
  ];
}

/** What the lines of the accuracy chart are, each with a sample of its stroke. */
function key(data, scope) {
  return Object.keys(data.accuracy).map((name) => {
    const stroke = { class: curveClass(name, scope), x1: 0, x2: 26, y1: 5, y2: 5 };
    const sample = make("svg", { width: 26, height: 10, "aria-hidden": "true" }, make("line", stroke));
    return make("span", {}, sample, ` ${name}${name in data.scopes ? "" : " (control)"}`);
  });
}

/** Python's table of the same numbers, without the sentence that went before it. */
function table(model) {
  const holder = make("div");
  holder.innerHTML = model.get("fallback");
  holder.querySelectorAll(":scope > p").forEach((p) => p.remove());
  return holder;
}

export default { render };
