// Networks that change while they train (SET), and weights in few bits.
import { roundEven } from "./numbers.js";
import { keepTop } from "./prune.js";

/** Keep all but a fraction of the active weights of each sign: the smallest go, zeros are positive. */
export function dropEachSign(weight, mask, fraction) {
  const kept = new Uint8Array(mask.length);
  for (const negative of [true, false]) {
    const part = [...mask.keys()].filter((i) => mask[i] && weight[i] < 0 === negative);
    const keep = keepTop(Float32Array.from(part, (i) => Math.abs(weight[i])),
      part.length - Math.floor(fraction * part.length));
    part.forEach((i, k) => { kept[i] = keep[k]; });
  }
  return kept;
}

/** The mask with `count` more places: the free ones with the highest scores. */
export function grow(mask, count, scores) {
  const free = [...mask.keys()].filter((i) => !mask[i]);
  const chosen = keepTop(Float32Array.from(free, (i) => scores[i]), count);
  const grown = mask.slice();
  free.forEach((i, k) => { grown[i] |= chosen[k]; });
  return grown;
}

const count = (mask) => mask.reduce((a, b) => a + b, 0);

/** One move of SET: drop a fraction of each layer, grow as many at random, from zero and standing. */
export function setMove(net, velocity, fraction, random) {
  net.forEach((layer, l) => {
    const kept = dropEachSign(layer.weight, layer.mask, fraction);
    const grown = grow(kept, count(layer.mask) - count(kept), random.uniform(kept.length));
    grown.forEach((stays, i) => {
      if (stays && !layer.mask[i]) velocity[l].weight[i] = 0;
      if (!stays) layer.weight[i] = 0;
    });
    layer.mask = grown;
  });
}

/** A layer's weights on the symmetric grid of 2^bits points, one scale for the layer. */
export function onGrid(weight, bits) {
  const top = weight.reduce((found, w) => Math.max(found, Math.abs(w)), 0);
  const half = 2 ** (bits - 1);
  const scale = Math.max(Math.fround(top / (half - 1)), 2 ** -126);
  const inverse = Math.fround(1 / scale);
  return weight.map((w) => {
    const nearest = roundEven(Math.fround(w * inverse));
    return Math.min(Math.max(nearest, -half), half - 1) * scale;
  });
}

/** The network with rounded weights; biases stay as they are. 32 bits change nothing. */
export function quantized(net, bits) {
  return bits === 32 ? net : net.map((layer) => ({ ...layer, weight: onGrid(layer.weight, bits) }));
}
