// Pictures: bars, tiles, a chart. Each has the same in words or numbers beside it.

const SVG = ["svg", "path", "circle", "text", "g"];

export function make(tag, attributes = {}, ...children) {
  const el = SVG.includes(tag)
    ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) el.setAttribute(name, value);
  el.append(...children);
  return el;
}

export const percent = (p) => `${p > 0 && p < 0.001 ? "< 0.1" : (100 * p).toFixed(1)} %`;

/** A table with a row for each digit and a bar for each network; `draw` gets [{name, p, answer}]. */
export function probabilities(table) {
  return (networks) => {
    const head = make("tr", {}, make("th", { scope: "col" }, "digit"),
      ...networks.map(({ name }) => make("th", { scope: "col" }, name)));
    const rows = Array.from({ length: 10 }, (_, digit) => make("tr", {},
      make("th", { scope: "row" }, String(digit)),
      ...networks.map(({ p, answer }) => make("td", answer === digit ? { class: "answer" } : {},
        make("i", { style: `width:${(60 * p[digit]).toFixed(1)}%` }),
        make("span", {}, `${percent(p[digit])}${answer === digit ? " ←" : ""}`)))));
    table.tHead.replaceChildren(head);
    table.tBodies[0].replaceChildren(...rows);
  };
}

/** An image of 14 × 14 pixels in the text's colour. */
export function drawImage(canvas, image) {
  const context = canvas.getContext("2d");
  context.fillStyle = getComputedStyle(canvas).color;
  context.clearRect(0, 0, 14, 14);
  image?.forEach((ink, i) => {
    context.globalAlpha = ink;
    context.fillRect(i % 14, Math.floor(i / 14), 1, 1);
  });
}

/** What was drawn on the pad. */
export function drawStrokes(canvas, strokes) {
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.strokeStyle = getComputedStyle(canvas).color;
  Object.assign(context, { lineWidth: canvas.width / 16, lineCap: "round", lineJoin: "round" });
  for (const stroke of strokes) {
    context.beginPath();
    for (const [x, y] of [stroke[0], ...stroke]) context.lineTo(x * canvas.width, y * canvas.height);
    context.stroke();
  }
}

const DOTS = 3; // the size of a weight on the canvas

/** The first layer's mask: for each unit a tile of 14 × 14 weights; a dead unit's is grey and crossed. */
export function drawTiles(canvas, { mask, outputs }, dead) {
  const size = 14 * DOTS + 4;
  const across = canvas.parentElement.clientWidth < 500 ? 10 : 20; // a phone's are not too small
  [canvas.width, canvas.height] = [across * size, Math.ceil(outputs / across) * size];
  const context = canvas.getContext("2d");
  const style = getComputedStyle(canvas);
  context.strokeStyle = context.fillStyle = style.color;
  for (let unit = 0; unit < outputs; unit++) {
    const [x, y] = [(unit % across) * size + 2, Math.floor(unit / across) * size + 2];
    context.globalAlpha = dead[unit] ? 0.35 : 0.12;
    context.fillRect(x - 1, y - 1, size - 2, size - 2);
    context.globalAlpha = dead[unit] ? 0.5 : 1;
    for (let i = 0; i < 196; i++) {
      if (mask[unit * 196 + i]) {
        context.fillRect(x + (i % 14) * DOTS, y + Math.floor(i / 14) * DOTS, DOTS, DOTS);
      }
    }
    if (dead[unit]) cross(context, x, y, 14 * DOTS);
  }
}

function cross(context, x, y, side) {
  context.beginPath();
  context.moveTo(x, y);
  context.lineTo(x + side, y + side);
  context.moveTo(x + side, y);
  context.lineTo(x, y + side);
  context.lineWidth = 2;
  context.stroke();
}

/** The tiles in numbers: how many weights each unit reads with. */
export function tileRows({ mask, inputs, outputs }, dead) {
  return Array.from({ length: outputs }, (_, unit) => {
    const left = mask.subarray(unit * inputs, (unit + 1) * inputs).reduce((a, b) => a + b, 0);
    return `unit ${unit + 1}: ${left}${dead[unit] ? ", dead" : ""}`;
  });
}

/** Accuracy after each epoch, between the dense network's line and that of its small opponent. */
export function drawChart(svg, curve, lines) {
  const values = [...curve, ...lines.map(({ value }) => value)];
  const low = Math.max(0, 10 * Math.floor(Math.min(...values) / 10 - 0.5));
  const last = Math.max(5, curve.length - 1);
  const x = (epoch) => 34 + (270 * epoch) / last;
  const y = (value) => 8 + (120 * (100 - value)) / (100 - low);
  const words = (at, text, anchor) => make("text", { x: at[0], y: at[1], "text-anchor": anchor }, text);
  const ticks = [low, 100].map((value) => words([31, y(value) + 4], `${value} %`, "end"));
  const epochs = [0, last].map((epoch) => words([x(epoch), 145], `${epoch}`, "middle"));
  const points = curve.map((value, i) => `${x(i)} ${y(value)}`);
  const names = lines.map(({ name, value }, i) => words([304, y(value) + (i ? 13 : -4)], name, "end"));
  svg.replaceChildren(make("path", { class: "axis", d: "M34 8V128H304" }), ...ticks, ...epochs,
    words([170, 145], "epochs of retraining", "middle"), ...names,
    ...lines.map(({ value, dash }) => make("path",
      { class: "line", "stroke-dasharray": dash, d: `M34 ${y(value)}H304` })),
    make("path", { class: "curve", d: `M${points.join("L")}` }),
    ...curve.map((value, i) => make("circle", { cx: x(i), cy: y(value), r: 3.5 })));
}
