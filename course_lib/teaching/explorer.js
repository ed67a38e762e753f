// Front end of the pruning explorer. It runs in JupyterLab (anywidget) and in the host that
// widgets.py writes into the page, and it only shows cuts that Python computed: see widgets.py
// for what `data` holds. The functions before `render` touch no document.

export const count = (n) => n.toLocaleString("en-US");

/** Share of a whole in percent, never rounded to "100 %" or "0 %" while it is neither. */
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
    const spread = seeds > 1 ? `${seeds} seeds, sd ${sd.toFixed(1)}` : "1 seed";
    return [`${mean.toFixed(1)} %`, `(measured, ${spread})`];
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
const text = (x, y, words, anchor = "middle") =>
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
    ...marks.map((mark) => text((100 * mark) / axis || 0, TOP + PLOT + 17, `${mark}`)),
    cutLine((100 * threshold) / axis || 0),
  ];
}

/** Accuracy against the cut, on the sparsity slider's own scale; other curves are dashed. */
function curves(data, scope, position) {
  const last = data.cuts.length - 1;
  const x = (cut) => (100 * cut) / last;
  const grid = [0, 50, 100].flatMap((a) => [
    make("line", { class: "grid", x2: "100%", y1: height(a / 100), y2: height(a / 100) }),
    text(0, height(a / 100) - 4, `${a} %`, "start"),
  ]);
  const lines = Object.entries(data.accuracy).map(([name, curve]) => {
    const points = data.cuts.flatMap((_, cut) => {
      const a = interpolate(curve, data.cuts, cut);
      return a === null ? [] : [`${cut},${(100 - a).toFixed(1)}`];
    });
    return make("polyline", { class: curveClass(name, data, scope), points: points.join(" ") });
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
      text(x(nearest(data.cuts, s)), TOP + PLOT + 17, `${100 * s}`)),
  ];
}

const isScope = (name) => name === "global" || name === "local";
/** Each control has a dash of its own: with two of them, colour alone would not do. */
function curveClass(name, data, scope) {
  if (isScope(name)) return `curve ${name === scope ? "active" : "other"}`;
  const controls = Object.keys(data.accuracy).filter((other) => !isScope(other));
  return `curve control dash-${controls.indexOf(name) % 3}`;
}

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

const SCOPE_WORDS = {
  global: "global: one threshold for all layers",
  local: "local: one threshold for each layer",
};

function choice(legend, names, group) {
  const inputs = names.map((_, i) => make("input", { type: "radio", name: group, value: i }));
  const labels = inputs.map((input, i) => make("label", {}, input, make("span", {}, names[i])));
  return { inputs, labels, box: make("fieldset", {}, make("legend", {}, legend), ...labels) };
}

function slider(name, attributes) {
  const input = make("input", { type: "range", min: 0, ...attributes });
  const value = make("span", { class: "value", "aria-hidden": "true" });
  const words = make("span", { class: "label" }, make("label", { for: input.id }, name), value);
  return { input, value, box: make("div", { class: "slider" }, words, input) };
}

/** The radio of every layer with its survivors: how many weights it keeps, and a bar of them. */
function survivors(names, group) {
  const layers = choice("Layers: pick one to look into", names, group);
  layers.box.className = "layers";
  layers.rows = layers.labels.map((row) => {
    const [words, bar] = [make("span", { class: "survivors" }), make("span")];
    row.append(words, make("span", { class: "bar" }, bar));
    return { words, bar };
  });
  return layers;
}

const chart = () => make("svg", { class: "chart", role: "img", height: TOP + PLOT + 24 });
const note = (words = "") => make("p", { class: "note" }, words);

/** Every part that the reader moves or that changes, made once. */
function makeParts(data) {
  const id = `x${Math.random().toString(36).slice(2)}`; // two views of one widget share no ids
  const scopes = Object.keys(data.scopes);
  return {
    hatchId: `${id}-hatch`,
    scope: choice("Where the cut falls", scopes.map((s) => SCOPE_WORDS[s]), `${id}-scope`),
    sparsity: slider("Sparsity", { id: `${id}-s`, max: data.cuts.length - 1, step: 1 }),
    threshold: slider("Threshold on |w|", { id: `${id}-t`, step: "any" }),
    layers: survivors(data.layers.map((l) => l.name), `${id}-layer`),
    output: make("output", { "aria-live": "polite" }),
    curves: chart(),
    legend: make("p", { class: "legend" }),
    histogram: chart(),
    histogramNote: note(),
    mask: make("svg", { class: "mask", role: "img" }),
    maskNote: note(),
  };
}

function arrange(parts, data, fallback) {
  const panel = (...children) => make("div", { class: "panel" }, ...children);
  const curveNote = note(
    `${data.metric} against % of weights removed; the scale is stretched above 90 %.`);
  return make("div", { class: "frame", role: "group", "aria-label": data.title },
    hatching(parts.hatchId),
    make("p", { class: "title" }, data.title),
    ...(parts.scope.inputs.length > 1 ? [parts.scope.box] : []),
    parts.output,
    make("div", { class: "panels" },
      panel(parts.sparsity.box, parts.curves, curveNote, parts.legend),
      panel(parts.threshold.box, parts.histogram, parts.histogramNote),
      panel(parts.layers.box),
      panel(parts.mask, parts.maskNote)),
    make("details", {}, make("summary", {}, "The same numbers as a table"), tables(fallback)));
}

function hatching(id) {
  const turn = { patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" };
  const line = make("line", { class: "hatch", x1: 0, x2: 0, y1: 0, y2: 5 });
  const pattern = make("pattern", { id, width: 5, height: 5, ...turn }, line);
  // not class "hidden": JupyterLab takes that off the page, and the pattern with it
  const unseen = { class: "pattern", "aria-hidden": "true", width: 0, height: 0 };
  return make("svg", unseen, make("defs", {}, pattern));
}

/** Python's tables of the same numbers, without the sentence that went before them. */
function tables(fallback) {
  const holder = make("div");
  holder.innerHTML = fallback;
  holder.querySelectorAll(":scope > p").forEach((p) => p.remove());
  return holder;
}

/** From the reader to the state. */
function listen(parts, data, model, draw) {
  const { sparsity, threshold, scope, layers } = parts;
  const last = data.cuts.length - 1;
  const set = (name, value) => {
    if (model.get(name) === value) return draw(); // the slider's thumb snaps back to its cut
    model.set(name, value);
    model.save_changes();
  };
  const move = (position) => set("position", Math.max(0, Math.min(last, position)));

  sparsity.input.addEventListener("input", () => move(Number(sparsity.input.value)));
  threshold.input.addEventListener("input", () => {
    const { thresholds } = data.scopes[model.get("scope")];
    const own = thresholds[model.get("scope") === "local" ? model.get("layer") : 0];
    move(nearest(own, Number(threshold.input.value)));
  });
  threshold.input.addEventListener("keydown", (event) => {
    // from cut to cut: the browser's own steps in |w| would fall between two cuts and stick
    const step = {
      ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1,
      PageUp: 10, PageDown: -10, Home: -last, End: last,
    }[event.key];
    if (!step) return;
    event.preventDefault();
    move(model.get("position") + step);
  });
  Object.keys(data.scopes).forEach((name, i) =>
    scope.inputs[i].addEventListener("change", () => set("scope", name)));
  layers.inputs.forEach((input, i) => input.addEventListener("change", () => set("layer", i)));
}

/** From the state to everything that is seen, heard or read by a test. */
function show(parts, data, scope, at, position) {
  const cut = cutAt(data, scope, at, position);
  const share = `${percent(cut.total - cut.keptTotal, cut.total)} removed`;
  showControls(parts, data, scope, at, position, cut, share);
  showSurvivors(parts.layers.rows, data, cut);
  showOutput(parts.output, data, scope, at, position, cut);
  showCurves(parts, data, scope, position, share);
  showHistogram(parts, data, scope, at, cut);
  showMask(parts, data.layers[at], cut.threshold);
}

const widest = (data, scope, at) =>
  scope === "local" ? data.layers[at].top : Math.max(...data.layers.map((l) => l.top));

function showControls({ scope: choices, layers, sparsity, threshold }, data, scope, at, position,
  cut, share) {
  choices.inputs[Object.keys(data.scopes).indexOf(scope)].checked = true;
  layers.inputs[at].checked = true;
  sparsity.input.value = position;
  sparsity.value.textContent = share;
  sparsity.input.setAttribute("aria-valuetext", share);
  const where = scope === "local" ? ` in ${data.layers[at].name}` : "";
  threshold.input.max = widest(data, scope, at);
  threshold.input.value = cut.threshold;
  threshold.value.textContent = `${cut.threshold}${where}`;
  threshold.input.setAttribute("aria-valuetext", `${cut.threshold}${where}, ${share}`);
}

function showSurvivors(rows, data, cut) {
  rows.forEach(({ words, bar }, i) => {
    const [kept, { n }] = [cut.kept[i], data.layers[i]];
    const share = kept ? percent(kept, n) : "collapsed";
    words.textContent = `${count(kept)} of ${count(n)} kept · ${share}`;
    words.classList.toggle("collapsed", !kept);
    bar.style.width = `${(100 * kept) / n}%`;
  });
}

function showOutput(output, data, scope, at, position, cut) {
  const controls = Object.entries(data.accuracy).filter(([name]) => !isScope(name))
    .map(([name, curve]) => `${name}: ${accuracyAt(curve, data.cuts, position)[0]}`);
  const collapsed = data.layers.filter((_, i) => !cut.kept[i]).map((l) => l.name).join(", ");
  const fate = collapsed
    ? make("strong", {}, `Collapsed: no weight is left in ${collapsed}.`)
    : "Every layer still has weights.";
  output.replaceChildren(
    figure("kept weights", count(cut.keptTotal), `of ${count(cut.total)}`),
    figure(data.metric, ...accuracyAt(data.accuracy[scope], data.cuts, position), ...controls),
    figure("stored as CSR", bytes(cut.csr), `(dense: ${bytes(cut.dense)})`),
    figure("multiplications", count(cut.multiplications),
      `per image (dense: ${count(cut.allMultiplications)})`),
    make("span", { class: "fate" }, fate));
  Object.assign(output.dataset, {
    scope, position, layer: data.layers[at].name, threshold: cut.threshold,
    removed: cut.total - cut.keptTotal, keptPerLayer: JSON.stringify(cut.kept),
  });
}

const figure = (name, value, ...more) => make("span", { class: "part" },
  make("span", { class: "name" }, `${name} `),
  make("strong", {}, value),
  ...more.map((words) => make("span", { class: "more" }, ` ${words}`)));

function showCurves({ curves: picture, legend }, data, scope, position, share) {
  const accuracy = accuracyAt(data.accuracy[scope], data.cuts, position).join(" ");
  picture.replaceChildren(...curves(data, scope, position));
  describe(picture,
    `${data.metric} against sparsity, ${scope} threshold: ${accuracy} at ${share}.`);
  legend.replaceChildren(...Object.keys(data.accuracy).map((name) => {
    const stroke = { class: curveClass(name, data, scope), x1: 0, x2: 26, y1: 5, y2: 5 };
    const size = { width: 26, height: 10, "aria-hidden": "true" };
    return make("span", {}, make("svg", size, make("line", stroke)),
      ` ${name}${name === "random" ? " (control)" : ""}`);
  }));
}

function showHistogram({ histogram: picture, histogramNote, hatchId }, data, scope, at, cut) {
  const [layer, kept] = [data.layers[at], cut.kept[at]];
  const removed = count(layer.n - kept);
  picture.replaceChildren(
    ...histogram(layer, widest(data, scope, at), cut.threshold, hatchId));
  describe(picture, `Histogram of the weights' magnitudes in ${layer.name}: `
    + `the cut at ${cut.threshold} removes ${removed} of ${count(layer.n)}.`);
  histogramNote.textContent = `Magnitudes |w| in ${layer.name}. Hatched: the ${removed} at or `
    + `below the cut, removed. Solid: the ${count(kept)} kept.`;
}

function showMask({ mask, maskNote }, layer, threshold) {
  const cells = layer.patch.flat();
  const [rows, columns] = [layer.patch.length, layer.patch[0].length];
  const kept = cells.filter((w) => w > threshold).length;
  mask.setAttribute("viewBox", `0 0 ${columns} ${rows}`);
  mask.style.aspectRatio = `${columns} / ${rows}`;
  mask.replaceChildren(...maskPicture(layer, threshold));
  describe(mask, `Mask of a patch of ${layer.name}: ${kept} of ${cells.length} weights are kept.`);
  maskNote.textContent = `The middle of ${layer.name}: ${rows} × ${columns} of its ${layer.rows} `
    + `× ${layer.columns} weights, ${kept} kept. The stronger the grey, the larger |w|; a dot is `
    + "a weight removed.";
}

const describe = (picture, sentence) => picture.setAttribute("aria-label", sentence);

function render({ model, el }) {
  const data = model.get("data");
  const parts = makeParts(data);
  const draw = () =>
    show(parts, data, model.get("scope"), model.get("layer"), model.get("position"));
  const changes = ["change:scope", "change:layer", "change:position"];

  el.classList.add("explorer");
  // JupyterLab would take the arrow keys.
  el.onkeydown = (event) => event.stopPropagation();
  el.replaceChildren(arrange(parts, data, model.get("fallback")));
  listen(parts, data, model, draw);
  changes.forEach((change) => model.on(change, draw));
  draw();
  return () => changes.forEach((change) => model.off(change, draw));
}

export default { render };
