// The page itself: what the reader chooses, and what is shown of it.
import { accuracy, best, forward, softmax } from "./network.js";
import {
  ALLOCATIONS, CRITERIA, deadUnits, masked, unitScores, weakest, weakestGlobally, weightsLeft, withoutUnits,
} from "./prune.js";
import { quantized } from "./change.js";
import { coded } from "./coding.js";
import { rasterised } from "./draw.js";
import { CHOICES, fromFragment, toFragment } from "./state.js";
import { Trainer } from "./train.js";
import { unpack } from "./unpack.js";
import { drawChart, drawImage, drawStrokes, drawTiles, percent, probabilities, tileRows } from "./view.js";

const STILL = "The page still trains. Try again in a moment.";
const REST = 150; // milliseconds after which a slider is taken to rest
const LATER = 700; // and after which its file is written, which takes longest

/** The network that the choices leave of the trained one. */
export function cut(net, data, { criterion, allocation, structure, sparsity }, cache = {}) {
  const scores = (cache[criterion] ??= CRITERIA[criterion](net, { ...data, seed: 0 }));
  if (structure === "weights") {
    const shapes = net.map(({ outputs, inputs }) => [outputs, inputs]);
    return masked(net, ALLOCATIONS[allocation](scores, sparsity, shapes));
  }
  const units = (cache[`units ${criterion}`] ??= unitScores(net, scores));
  return withoutUnits(net, (allocation === "globally" ? weakestGlobally : weakest)(units, sparsity));
}

/** A network's probabilities for one image, and its answer. */
export function ask(net, image) {
  const p = softmax(forward(net, image, 1).pop(), 10);
  return { p, answer: best(p, 0, 10) };
}

/** A digit with its article. */
function a(digit) {
  return digit === 8 ? "an 8" : `a ${digit}`;
}

/** Of the small networks trained from the start, the largest whose file is no longer, at these bits. */
export function opponent(opponents, bytes, bits) {
  const found = opponents.filter((one) => one.bytes[bits] <= bytes).at(-1);
  const kind = found === opponents.at(-1) ? "Another" : "A small"; // the largest is as large as the page's
  return found && { ...found, kind, bytes: found.bytes[bits], right: found.right[bits] };
}

export class Playground {
  constructor(root, data, settings, trainer) {
    Object.assign(this, { root, data, settings, trainer, cache: {}, strokes: [], curve: [], run: 0 });
    this.showProbabilities = probabilities(this.part("probabilities"));
    this.dense = accuracy(data.net, data.test.images, data.test.labels);
    this.listen();
    this.press();
    this.tour();
    this.pen(this.part("pad"));
    this.address();
  }

  part(name) {
    return this.root.querySelector(`[data-part="${name}"]`);
  }

  say(sentence) {
    this.part("notice").textContent = sentence;
  }

  /** Take the state from the page's address. */
  address() {
    const { start, presets } = this.settings;
    const preset = presets[location.hash.slice(1)];
    const asked = location.hash.includes("=") ? location.hash : "";
    const { state, unknown } = fromFragment(asked, { ...start, ...preset?.state }, this.data.test.labels.length);
    this.show(state, unknown.length ? `The address asks for ${unknown.join(", ")}, which this page does not know.`
      : preset?.question ?? "");
  }

  /** Show a state, with nothing drawn. */
  show(state, sentence = "") {
    Object.assign(this, { state, strokes: [] });
    this.part("digit").value = this.data.test.labels[state.image];
    this.again();
    this.say(sentence);
  }

  listen() {
    this.root.addEventListener("change", ({ target }) => {
      if (!(target.name in CHOICES)) return;
      this.state[target.name] = target.value;
      this.again();
    });
    for (const name of ["sparsity", "bits"]) {
      this.part(name).addEventListener("input", ({ target }) => {
        this.state[name] = name === "bits" ? this.settings.bits[target.value] : Number(target.value);
        if (name === "bits") this.paint();
        else this.again();
      });
    }
    this.root.addEventListener("keydown", (event) => event.stopPropagation()); // the theme has keys too
    this.part("digit").addEventListener("change", () => this.other(-1));
    this.part("tile-words").addEventListener("toggle", () => this.rest());
    addEventListener("hashchange", () => {
      if (location.hash.includes("=") || location.hash.slice(1) in this.settings.presets) this.address();
    });
    new MutationObserver(() => this.paint())
      .observe(document.documentElement, { attributeFilter: ["data-theme"] });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.paint());
  }

  press() {
    const acts = {
      next: () => this.other(this.state.image),
      clear: () => this.draw([], "The pad is empty. The network reads the test image."),
      retrain: () => this.retrain({ rate: this.rates().still }),
      keep: () => this.keep(),
      drop: () => this.drop(),
      replay: () => this.replay(),
      move: () => this.retrain({ rate: this.rates().moving, ...this.settings.moves }),
      back: () => this.backToTour(),
    };
    for (const [name, act] of Object.entries(acts)) this.part(name).addEventListener("click", act);
  }

  /** The buttons of the guided tour set the page to a state. */
  tour() {
    for (const button of this.root.querySelectorAll("[data-state]")) {
      button.hidden = false;
      button.addEventListener("click", () => {
        const count = this.data.test.labels.length;
        this.show(fromFragment(button.dataset.state, this.settings.start, count).state);
        this.asked = button;
        this.part("back").hidden = false;
        this.part(button.dataset.look).scrollIntoView({ block: "start" });
      });
    }
  }

  /** From where the tour has sent the reader, back to its question. */
  backToTour() {
    this.part("back").hidden = true;
    this.asked.closest("li").scrollIntoView({ block: "start" });
    this.asked.focus({ preventScroll: true });
  }

  /** Show this network beside the next ones. */
  keep() {
    this.settle();
    const { images, labels } = this.data.test;
    const chosen = Object.keys(CHOICES).map((name) =>
      this.root.querySelector(`[name="${name}"]:checked`).parentElement.textContent.trim());
    const epochs = this.curve.length - 1;
    this.kept = this.shown;
    this.part("drop").hidden = false;
    this.part("kept-said").textContent = `Kept: ${(100 * this.state.sparsity).toFixed(1)} % removed `
      + `(${chosen.join("; ")}), ${epochs} epoch${epochs === 1 ? "" : "s"} of training, ${this.state.bits} bits. `
      + `It reads ${accuracy(this.kept, images, labels).toFixed(1)} % of the test images right.`;
    this.paint();
  }

  drop() {
    this.kept = null;
    this.part("drop").hidden = true;
    this.part("keep").focus();
    this.part("kept-said").textContent = "";
    this.paint();
  }

  /** Show the cut growing from nothing to where it is; in few steps for a reader who wants no motion. */
  async replay() {
    if (this.busy) return this.say(STILL);
    const run = ++this.run;
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const [steps, pause] = calm ? [4, 800] : [60, 33];
    for (let k = 0; k < steps; k++) {
      const state = { ...this.state, sparsity: (this.state.sparsity * k) / steps };
      this.paint(state, cut(this.data.net, this.data.train, state, this.cache));
      await new Promise((resume) => { setTimeout(resume, pause); });
      if (run !== this.run) return; // something else was chosen, and shows itself
    }
    this.paint();
    this.say("The replay is over.");
  }

  /** The next test image after place `from` that shows the chosen digit. */
  other(from) {
    const { labels } = this.data.test;
    const digit = Number(this.part("digit").value);
    const next = labels.findIndex((label, i) => i > from && label === digit);
    this.state.image = next < 0 ? labels.indexOf(digit) : next;
    this.draw([]);
  }

  pen(pad) {
    let down = false;
    const at = ({ clientX, clientY }) => {
      const box = pad.getBoundingClientRect();
      return [(clientX - box.left) / box.width, (clientY - box.top) / box.height];
    };
    pad.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      pad.setPointerCapture(event.pointerId);
      down = true;
      this.draw([...this.strokes, [at(event)]]);
    });
    pad.addEventListener("pointermove", (event) => {
      if (!down) return;
      this.strokes.at(-1).push(at(event));
      this.draw(this.strokes);
    });
    for (const end of ["pointerup", "pointercancel"]) {
      pad.addEventListener(end, () => { down = false; });
    }
  }

  draw(strokes, sentence = "") {
    this.strokes = strokes;
    this.say(sentence);
    this.paint();
  }

  /** Cut the trained network anew. What was trained on this page is gone. */
  again() {
    const { state } = this;
    const units = state.structure === "units";
    if (units && state.allocation === "erdos_renyi") state.allocation = "per_layer";
    this.root.querySelector('[value="erdos_renyi"]').disabled = units;
    this.part("move").disabled = units;
    this.run += 1; // what is being trained is dropped when it ends
    this.current = cut(this.data.net, this.data.train, state, this.cache);
    this.curve = [];
    for (const name of Object.keys(CHOICES)) {
      this.root.querySelector(`[name="${name}"][value="${state[name]}"]`).checked = true;
    }
    this.paint();
  }

  /** Everything that is fast; the rest follows when nothing has moved for a moment. */
  paint(state = this.state, net = this.current) {
    clearTimeout(this.timer);
    clearTimeout(this.later);
    this.shown = quantized(net, state.bits);
    this.dead = deadUnits(net);
    const drawn = rasterised(this.strokes);
    this.image = drawn ?? this.data.test.images.subarray(state.image * 196, (state.image + 1) * 196);
    drawStrokes(this.part("pad"), this.strokes);
    drawImage(this.part("seen"), this.image);
    drawTiles(this.part("tiles"), net[0], this.dead[0]);
    const networks = [["dense", this.data.net], ["pruned", this.shown], ["kept", this.kept]];
    this.answers = networks.filter(([, there]) => there).map(([name, there]) => ({ name, ...ask(there, this.image) }));
    this.showProbabilities(this.answers);
    this.showSliders(state);
    if (net !== this.current) return; // a replay goes on
    this.timer = setTimeout(() => this.rest(), REST);
    this.later = setTimeout(() => this.write(), LATER);
  }

  /** End a replay and say the rest now: the curve begins with the cut. */
  settle() {
    if (!this.busy) this.run += 1;
    this.paint();
    this.rest();
  }

  showSliders({ sparsity, bits }) {
    const shown = { sparsity: `${(100 * sparsity).toFixed(1)} %`, bits: `${bits}` };
    for (const [name, text] of Object.entries(shown)) {
      this.part(`${name}-shown`).textContent = text;
      this.part(name).setAttribute("aria-valuetext", text);
    }
    this.part("sparsity").value = sparsity;
    this.part("bits").value = this.settings.bits.indexOf(bits);
  }

  /** The network's file, for the library, and the networks whose file is no longer. */
  write() {
    const { fingerprint, opponents } = this.settings;
    const file = coded(this.shown, fingerprint);
    const plain = this.shown === this.current ? file : coded(this.current, fingerprint);
    this.showCurve(opponent(opponents, plain.length, 32));
    const link = this.part("file");
    URL.revokeObjectURL(link.href);
    link.href = URL.createObjectURL(new Blob([file], { type: "application/octet-stream" }));
    const { bits } = this.state;
    this.part("bytes-said").textContent = this.fileSentence(file.length, opponent(opponents, file.length, bits));
  }

  fileSentence(bytes, small) {
    const { bits } = this.state;
    const dense = 4 * this.data.net.reduce((sum, { weight, bias }) => sum + weight.length + bias.length, 0);
    return `The pruned network's file has ${bytes.toLocaleString("en")} bytes. `
      + `As 32-bit numbers, the dense network has ${dense.toLocaleString("en")}. `
      + (small ? `${small.kind} dense network with ${bits} bits per weight and ${small.weights.toLocaleString("en")} weights `
        + `has a file of ${small.bytes.toLocaleString("en")} bytes and reads ${small.right.toFixed(1)} % right. `
        + `The pruned one reads ${this.right.toFixed(1)} %.`
        : "No small dense network was measured whose file is so short.");
  }

  /** How the accuracy has moved while the reader trained, beside two dense networks. */
  showCurve(small) {
    const lines = [{ name: "dense", value: this.dense, dash: "none" }];
    if (small) lines.push({ name: `${small.kind.replace("A ", "").toLowerCase()} dense`, value: small.right, dash: "6 4" });
    drawChart(this.part("chart"), this.curve, lines);
    this.part("chart-said").textContent = chartSentence(this.curve, this.dense, small);
  }

  /** What takes longer: accuracy on all test images, and the sentences. */
  rest() {
    const { images, labels } = this.data.test;
    this.right = accuracy(this.shown, images, labels);
    if (!this.curve.length) this.curve = [accuracy(this.current, images, labels)];
    const left = weightsLeft(this.current);
    this.part("said").textContent = this.sentence(left);
    this.part("right-said").textContent = `Right now it reads ${this.right.toFixed(1)} % of the test images right; `
      + `the dense network reads ${this.dense.toFixed(1)} %.`;
    this.part("tiles-said").textContent = this.tileSentence();
    if (this.part("tile-words").open) {
      this.part("tile-list").textContent = `${tileRows(this.current[0], this.dead[0]).join("; ")}.`;
    }
    const untouched = toFragment(this.state) === toFragment(this.settings.start);
    if (!untouched || location.hash) history.replaceState(null, "", toFragment(this.state));
  }

  sentence(left) {
    const [dense, pruned] = this.answers;
    const truth = this.strokes.length ? "Your drawing"
      : `Test image ${this.state.image}, ${a(this.data.test.labels[this.state.image])},`;
    const all = weightsLeft(this.data.net);
    const end = left ? "" : " Everything is removed, so only the biases answer, and they say the same of every image.";
    return `${truth} is ${a(dense.answer)} for the dense network (${percent(dense.p[dense.answer])}) and `
      + `${a(pruned.answer)} for the pruned one (${percent(pruned.p[pruned.answer])}). `
      + `${left.toLocaleString("en")} of ${all.toLocaleString("en")} weights stay. Of `
      + `${this.data.test.labels.length.toLocaleString("en")} test images the dense network reads `
      + `${this.dense.toFixed(1)} % right, the pruned one ${this.right.toFixed(1)} %.${end}`;
  }

  tileSentence() {
    const [first, second] = this.dead.map((units) => units.reduce((a, b) => a + b, 0));
    const [one, two, three] = this.current.map(({ mask }) => {
      const stay = mask.reduce((a, b) => a + b, 0);
      return `${stay.toLocaleString("en")} of ${mask.length.toLocaleString("en")} weights`;
    });
    return `In the first layer ${one} stay, in the second ${two}, and in the last ${three}. `
      + `Of the ${this.dead[0].length} units of the first layer ${first} ${first === 1 ? "is" : "are"} dead, and of the `
      + `${this.dead[1].length} of the second ${second}. A dead unit has no weight into it or none out of it.`;
  }

  /** The learning rates that were best where the training begins. */
  rates() {
    return this.settings.rates[this.state.criterion === "random" ? "random" : "cut"];
  }

  /** Train the current network for an epoch. */
  async retrain(options) {
    if (this.busy) return this.say(STILL);
    this.settle();
    const run = ++this.run;
    const seed = this.curve.length;
    const show = ({ net, done }) => {
      if (run !== this.run) return;
      this.part("progress").value = done;
      if (options.every) drawTiles(this.part("tiles"), net[0], deadUnits(net)[0]);
    };
    this.busy = true;
    this.part("retrain").textContent = "Training …";
    const net = await this.trainer.epoch(this.current, { seed, ...options }, show).finally(() => { this.busy = false; });
    this.part("retrain").textContent = "Retrain for one epoch";
    this.part("progress").value = 0;
    if (run !== this.run) return; // something else was chosen in the meantime
    this.current = net;
    this.paint();
    const { images, labels } = this.data.test;
    this.curve.push(accuracy(net, images, labels));
    this.rest();
    this.write();
  }
}

function chartSentence(curve, dense, small) {
  const now = curve.at(-1).toFixed(1);
  const epochs = curve.length - 1;
  const way = epochs
    ? `After ${epochs} epoch${epochs > 1 ? "s" : ""} of retraining: ${curve[0].toFixed(1)} % → ${now} %`
    : `As cut: ${now} %`;
  const other = small
    ? `${small.kind} dense network whose file is no longer, with ${small.weights.toLocaleString("en")} weights `
      + `(${small.units.join(" and ")} hidden units), reads ${small.right.toFixed(1)} % right (mean of five seeds).`
    : "No small dense network was measured whose file is so short.";
  return `${way}. The dense network's line is at ${dense.toFixed(1)} %. ${other}`;
}

/** Bring the page to life: unpack its numbers, and show the state that its address asks for. */
export async function start(root) {
  const text = (name) => root.querySelector(`script[data-text="${name}"]`).textContent;
  const settings = JSON.parse(text("settings"));
  const data = await unpack(text("numbers"), settings);
  root.querySelector(".live").hidden = false;
  root.querySelector(".still").open = false;
  // From file:// a thread may be no module, so the code goes there as a script.
  const code = text("modules").replace(/^export /gm, "");
  const address = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
  let page;
  const trainer = new Trainer(address, data.train, { say: (sentence) => page.say(sentence) });
  page = new Playground(root, data, settings, trainer);
  root.dataset.alive = "";
  return page;
}
