import { fromBase64, halves, inflate, pixels } from "./numbers.js";

/** The network and the images out of the page's bytes. */
export async function unpack(base64, { sizes, train, test }) {
  const bytes = await inflate(fromBase64(base64));
  let at = 0;
  const take = (n) => bytes.subarray(at, (at += n));
  const net = sizes.slice(1).map((outputs, l) => {
    const inputs = sizes[l];
    const weight = halves(take(2 * inputs * outputs), inputs * outputs);
    const bias = halves(take(2 * outputs), outputs);
    const [mask, open] = [weight, bias].map(({ length }) => new Uint8Array(length).fill(1));
    return { inputs, outputs, weight, bias, mask, open };
  });
  const images = (n) => ({ images: pixels(take((n * sizes[0]) / 2)), labels: take(n).slice() });
  return { net, train: images(train), test: images(test) };
}
