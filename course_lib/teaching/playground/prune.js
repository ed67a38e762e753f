// What to remove: scores, how many of each layer, and masks. A higher score means keep. Of equal
// scores the earlier one stays: the earlier layer, and within a layer the earlier entry.
import { Random, roundEven } from "./numbers.js";
import { copy, forward, gradient, project } from "./network.js";

/** For each layer the root of the sum of squares of each of its inputs, over n images. */
export function inputNorms(net, x, n) {
  return forward(net, x, n).slice(0, -1).map((seen, l) => {
    const sums = new Float64Array(net[l].inputs);
    seen.forEach((value, i) => { sums[i % sums.length] += value * value; });
    return Float32Array.from(sums, Math.sqrt);
  });
}

export const CRITERIA = {
  magnitude: (net) => net.map(({ weight }) => weight.map(Math.abs)),
  random: (net, { seed }) => {
    const random = new Random(seed);
    return net.map(({ weight }) => random.uniform(weight.length));
  },
  input: (net, { images, labels }) => {
    const norms = inputNorms(net, images, labels.length);
    return net.map(({ weight, inputs }, l) => weight.map((w, i) => Math.abs(w) * norms[l][i % inputs]));
  },
  taylor: (net, { images, labels }) => {
    const slopes = gradient(net, images, labels);
    return net.map(({ weight }, l) => weight.map((w, i) => Math.fround(w * slopes[l].weight[i]) ** 2));
  },
};

const orders = new WeakMap(); // scores -> their places, best first: a slider asks again and again

function ranked(scores) {
  if (!orders.has(scores)) {
    const places = Uint32Array.from(scores, (_, i) => i);
    orders.set(scores, places.sort((i, j) => scores[j] - scores[i] || i - j));
  }
  return orders.get(scores);
}

/** 1 at the `count` highest of some scores, else 0. */
export function keepTop(scores, count) {
  const keep = new Uint8Array(scores.length);
  const order = ranked(scores);
  for (let i = 0; i < count; i++) keep[order[i]] = 1;
  return keep;
}

const joins = new WeakMap();

/** The scores of all layers in one row; the same scores give the same row. */
function joined(scores) {
  if (!joins.has(scores)) {
    const all = new Float32Array(scores.reduce((sum, part) => sum + part.length, 0));
    scores.reduce((at, part) => (all.set(part, at), at + part.length), 0);
    joins.set(scores, all);
  }
  return joins.get(scores);
}

/** One ranking of all layers: a mask for each. */
export function globally(scores, sparsity) {
  const all = joined(scores);
  const keep = keepTop(all, all.length - roundEven(sparsity * all.length));
  let at = 0;
  return scores.map((part) => keep.slice(at, (at += part.length)));
}

/** Every layer loses its own fraction. */
export function perLayer(scores, sparsities) {
  return scores.map((part, l) => keepTop(part, part.length - roundEven(sparsities[l] * part.length)));
}

/** Parts that add up to `total`: rounded down, and those with the largest remainders up. */
export function wholeNumbers(parts, total) {
  const down = parts.map(Math.floor);
  const order = parts.map((_, i) => i).sort((i, j) => (down[i] - parts[i]) - (down[j] - parts[j]) || i - j);
  const missing = total - down.reduce((a, b) => a + b, 0);
  for (const i of order.slice(0, missing)) down[i] += 1;
  return down;
}

/** Sparsities of the layers by the Erdős–Rényi rule: small layers stay denser. */
export function erdosRenyi(shapes, sparsity) {
  const size = shapes.map(([out, into]) => out * into);
  const raw = shapes.map(([out, into], l) => (out + into) / size[l]);
  const sum = (layers, of) => layers.reduce((total, l) => total + of(l), 0);
  const all = shapes.map((_, l) => l);
  const stay = (1 - sparsity) * sum(all, (l) => size[l]);
  const dense = new Set();
  let epsilon = 0;
  while (dense.size < shapes.length) {
    const shared = all.filter((l) => !dense.has(l));
    epsilon = (stay - sum([...dense], (l) => size[l])) / sum(shared, (l) => raw[l] * size[l]);
    const full = shared.filter((l) => epsilon * raw[l] > 1);
    if (!full.length) break;
    full.forEach((l) => dense.add(l));
  }
  const removed = all.map((l) => (dense.has(l) ? 0 : (1 - epsilon * raw[l]) * size[l]));
  const counts = wholeNumbers(removed, roundEven(sparsity * sum(all, (l) => size[l])));
  return counts.map((count, l) => count / size[l]);
}

export const ALLOCATIONS = {
  globally: (scores, sparsity) => globally(scores, sparsity),
  per_layer: (scores, sparsity) => perLayer(scores, scores.map(() => sparsity)),
  erdos_renyi: (scores, sparsity, shapes) => perLayer(scores, erdosRenyi(shapes, sparsity)),
};

/** The mean score of the weights that enter each unit of the hidden layers. */
export function unitScores(net, scores) {
  return net.slice(0, -1).map(({ inputs, outputs }, l) => {
    const found = new Float64Array(outputs);
    scores[l].forEach((score, i) => { found[Math.floor(i / inputs)] += score / inputs; });
    return Float32Array.from(found);
  });
}

/** Which units stay if every hidden layer loses the same fraction, but never its last unit. */
export function weakest(scores, sparsity) {
  return scores.map((part) =>
    keepTop(part, Math.max(1, part.length - roundEven(sparsity * part.length))));
}

/** Which units stay if all hidden layers are compared; the best unit of a layer never goes. */
export function weakestGlobally(scores, sparsity) {
  const all = joined(scores);
  const starts = scores.map((_, l) => scores.slice(0, l).reduce((sum, part) => sum + part.length, 0));
  const spared = new Set(scores.map((part, l) => starts[l] + ranked(part)[0]));
  const mayGo = [...ranked(all)].filter((i) => !spared.has(i));
  const gone = mayGo.slice(Math.max(0, mayGo.length - roundEven(sparsity * all.length)));
  const keep = new Uint8Array(all.length).fill(1);
  gone.forEach((i) => { keep[i] = 0; });
  return scores.map((part, l) => keep.slice(starts[l], starts[l] + part.length));
}

/** The network without the weights that a mask of each layer removes. */
export function masked(net, masks) {
  const found = copy(net);
  found.forEach((layer, l) => { layer.mask = masks[l].slice(); });
  return project(found);
}

/** The network without the units that are not kept: the weights that enter and leave them, and biases. */
export function withoutUnits(net, keep) {
  const found = copy(net);
  found.forEach((layer, l) => {
    layer.mask = Uint8Array.from(layer.weight, (_, i) =>
      (keep[l]?.[Math.floor(i / layer.inputs)] ?? 1) * (keep[l - 1]?.[i % layer.inputs] ?? 1));
    if (keep[l]) layer.open = keep[l].slice();
  });
  return project(found);
}

/** For each hidden layer, 1 at a unit with no weight into it or none out of it. */
export function deadUnits(net) {
  return net.slice(0, -1).map(({ inputs, outputs, mask }, l) => {
    const [into, out] = [new Uint8Array(outputs), new Uint8Array(outputs)];
    mask.forEach((stays, i) => { if (stays) into[Math.floor(i / inputs)] = 1; });
    net[l + 1].mask.forEach((stays, i) => { if (stays) out[i % outputs] = 1; });
    return into.map((any, unit) => (any && out[unit] ? 0 : 1));
  });
}

export const weightsLeft = (net) =>
  net.reduce((sum, { mask }) => sum + mask.reduce((a, b) => a + b, 0), 0);
