// Training, in a thread of its own where the browser allows one, else in slices on the page.
import { Random } from "./numbers.js";
import { gradient, step, still } from "./network.js";
import { setMove } from "./change.js";

const BATCH = 100;
const SLICE = 40; // milliseconds between two reports

/** The images and labels at these places. */
export function gather({ images, labels }, places) {
  const pixels = images.length / labels.length;
  const found = { images: new Float32Array(places.length * pixels), labels: new Uint8Array(places.length) };
  places.forEach((place, i) => {
    found.images.set(images.subarray(place * pixels, (place + 1) * pixels), i * pixels);
    found.labels[i] = labels[place];
  });
  return found;
}

/**
 * Train for one pass over the images, in place. With `every` above 0 the mask moves (SET) after every
 * so many steps. Between slices, `report` hears how far it is and is waited for.
 */
export async function epoch(net, data, { rate, seed, fraction = 0, every = 0 }, report = () => {}) {
  const [order, velocity] = [new Random(seed).order(data.labels.length), still(net)];
  const random = new Random(2 ** 31 + seed);
  const steps = Math.ceil(order.length / BATCH);
  let before = performance.now();
  for (let k = 1; k <= steps; k++) {
    const { images, labels } = gather(data, order.subarray((k - 1) * BATCH, k * BATCH));
    step(net, gradient(net, images, labels), velocity, { rate, momentum: 0.9 });
    const moves = every && k % every === 0 && k < steps; // what has just grown trains a little
    if (moves) setMove(net, velocity, fraction, random);
    if (performance.now() - before > SLICE) {
      await report({ net, done: k / steps });
      before = performance.now();
    }
  }
  return net;
}

/** What the thread does: it keeps the images, and trains the networks that it is sent. */
export function serve(scope) {
  let data;
  scope.onmessage = async ({ data: message }) => {
    if (message.data) {
      data = message.data;
      return;
    }
    const net = await epoch(message.net, data, message.options, (part) => scope.postMessage(part));
    scope.postMessage({ net, done: 1, finished: true });
  };
}
if (typeof document === "undefined" && typeof postMessage === "function") serve(globalThis);

/** Trains in a thread. Where that cannot start or does not answer, it says so and uses the page. */
export class Trainer {
  constructor(address, data, { say = () => {} } = {}) {
    Object.assign(this, { address, data, patience: 5000, say, worker: null, alone: false });
  }

  start() {
    if (this.worker || this.alone) return;
    try {
      this.worker = new Worker(this.address);
      this.worker.postMessage({ data: this.data });
    } catch {
      this.fail("This browser allows no thread beside the page, so the page trains by itself.");
    }
  }

  fail(sentence) {
    this.worker?.terminate();
    [this.worker, this.alone] = [null, true];
    this.say(sentence);
  }

  /** The network after an epoch; `report` gets {net, done} on the way. The given one stays as it is. */
  async epoch(net, options, report) {
    this.start();
    const trained = this.worker && await this.elsewhere(net, options, report);
    return trained || this.here(structuredClone(net), options, report);
  }

  elsewhere(net, options, report) {
    return new Promise((resolve) => {
      let timer;
      const give = (sentence) => {
        clearTimeout(timer);
        this.fail(sentence);
        resolve(null);
      };
      const wait = () => {
        clearTimeout(timer);
        timer = setTimeout(give, this.patience,
          "The thread beside the page does not answer. The page has stopped it and trains by itself.");
      };
      this.worker.onerror = () => give("The thread beside the page has failed, so the page trains by itself.");
      this.worker.onmessage = ({ data: part }) => {
        wait();
        report(part);
        if (!part.finished) return;
        clearTimeout(timer);
        resolve(part.net);
      };
      this.worker.postMessage({ net, options });
      wait();
    });
  }

  here(net, options, report) {
    const pause = () => new Promise((resume) => { setTimeout(resume); });
    return epoch(net, this.data, options, (part) => {
      report(part);
      return pause();
    });
  }
}
