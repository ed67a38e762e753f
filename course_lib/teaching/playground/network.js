// A network of linear layers with ReLU between them: forward, backward, and SGD with momentum.
// A layer is {inputs, outputs, weight, bias, mask, open}: weights row by row, one row for each
// output; `mask` says which weights are there, `open` which outputs have a bias.

export function copy(net) {
  return net.map((layer) => ({
    ...layer,
    weight: layer.weight.slice(),
    bias: layer.bias.slice(),
    mask: layer.mask.slice(),
    open: layer.open.slice(),
  }));
}

/** The network under its masks: what is removed is zero. */
export function project(net) {
  for (const { weight, bias, mask, open } of net) {
    for (let i = 0; i < weight.length; i++) if (!mask[i]) weight[i] = 0;
    for (let i = 0; i < bias.length; i++) if (!open[i]) bias[i] = 0;
  }
  return net;
}

/** Room for the entries of one row that are not zero. */
const scratch = { place: new Int32Array(1024), value: new Float64Array(1024) };

/** List the entries of x[start ..] that are not zero, and return their number. */
function nonzero(x, start, length) {
  let found = 0;
  for (let i = 0; i < length; i++) {
    const value = x[start + i];
    if (value !== 0) {
      scratch.place[found] = i;
      scratch.value[found++] = value;
    }
  }
  return found;
}

function linear({ inputs, outputs, weight, bias }, x, n, relu) {
  const out = new Float32Array(n * outputs);
  const { place, value } = scratch;
  for (let image = 0; image < n; image++) {
    const count = nonzero(x, image * inputs, inputs);
    for (let o = 0; o < outputs; o++) {
      const row = o * inputs;
      let sum = bias[o];
      for (let k = 0; k < count; k++) sum += weight[row + place[k]] * value[k];
      out[image * outputs + o] = relu && sum < 0 ? 0 : sum;
    }
  }
  return out;
}

/** What each layer gets and what the last one gives, for n images: [x, hidden, …, logits]. */
export function forward(net, x, n) {
  const seen = [x];
  net.forEach((layer, i) => seen.push(linear(layer, seen[i], n, i < net.length - 1)));
  return seen;
}

/** The probabilities of each class, image by image. */
export function softmax(logits, classes) {
  const found = new Float32Array(logits.length);
  for (let start = 0; start < logits.length; start += classes) {
    const row = logits.subarray(start, start + classes);
    const top = Math.max(...row);
    let sum = 0;
    row.forEach((value, c) => { sum += found[start + c] = Math.exp(value - top); });
    for (let c = 0; c < classes; c++) found[start + c] /= sum;
  }
  return found;
}

/** The place of the largest number of a row; the first of several. */
export function best(values, start, length) {
  let found = 0;
  for (let i = 1; i < length; i++) if (values[start + i] > values[start + found]) found = i;
  return found;
}

/** The accuracy in percent. */
export function accuracy(net, x, labels) {
  const classes = net[net.length - 1].outputs;
  const logits = forward(net, x, labels.length).pop();
  let right = 0;
  labels.forEach((label, i) => { right += best(logits, i * classes, classes) === label; });
  return (100 * right) / labels.length;
}

/** The gradient of the mean cross-entropy: for each layer {weight, bias}. */
export function gradient(net, x, labels) {
  const n = labels.length;
  const seen = forward(net, x, n);
  const classes = net[net.length - 1].outputs;
  let delta = softmax(seen[net.length], classes);
  labels.forEach((label, i) => { delta[i * classes + label] -= 1; });
  delta = delta.map((value) => value / n);
  const found = [];
  for (let l = net.length - 1; l >= 0; l--) {
    const { part, before } = backward(net[l], seen[l], delta, n, l > 0);
    found.unshift(part);
    delta = before;
  }
  return found;
}

/** One layer's gradients, and the errors of the layer before it where its outputs are not zero. */
function backward({ inputs, outputs, weight }, x, delta, n, further) {
  const part = { weight: new Float32Array(weight.length), bias: new Float32Array(outputs) };
  const before = new Float32Array(further ? n * inputs : 0);
  const { place, value } = scratch;
  for (let image = 0; image < n; image++) {
    const start = image * inputs;
    const count = nonzero(x, start, inputs);
    for (let o = 0; o < outputs; o++) {
      const error = delta[image * outputs + o];
      if (error === 0) continue;
      const row = o * inputs;
      part.bias[o] += error;
      for (let k = 0; k < count; k++) part.weight[row + place[k]] += error * value[k];
      if (!further) continue;
      for (let k = 0; k < count; k++) before[start + place[k]] += error * weight[row + place[k]];
    }
  }
  return { part, before };
}

/** Where SGD keeps its momentum: zeros in the shape of the network. */
export function still(net) {
  return net.map(({ weight, bias }) => ({
    weight: new Float32Array(weight.length),
    bias: new Float32Array(bias.length),
  }));
}

/** One step of SGD, after which what is removed is zero again. */
export function step(net, gradients, velocity, { rate, momentum }) {
  net.forEach((layer, l) => {
    for (const name of ["weight", "bias"]) {
      const [values, moving, slope] = [layer[name], velocity[l][name], gradients[l][name]];
      for (let i = 0; i < values.length; i++) {
        moving[i] = momentum * moving[i] + slope[i];
        values[i] -= rate * moving[i];
      }
    }
  });
  project(net);
}
