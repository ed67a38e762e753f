// The library's compressed file (`coding.save`), byte for byte: distances between the weights that
// are left, shared values, and Huffman's code where it is shorter.

const MOST_SYMBOLS = 4096;
const LONGEST_WORD = 32;

const bitsOf = (n) => (n ? Math.floor(Math.log2(n)) + 1 : 0);

/** The checksum CRC-32. */
export function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let k = 0; k < 8; k++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return (crc ^ 0xffffffff) >>> 0;
}

/** A number in so many bytes, the lowest first. */
const little = (n, bytes) => Array.from({ length: bytes }, (_, k) => Math.floor(n / 256 ** k) % 256);

/** Bits in bytes, the highest first; `word` and `length` say what to write for each symbol. */
function written(symbols, word, length) {
  const total = symbols.reduce((sum, symbol) => sum + length(symbol), 0);
  const bytes = new Uint8Array(Math.ceil(total / 8));
  let at = 0;
  for (const symbol of symbols) {
    const [value, n] = [word(symbol), length(symbol)];
    for (let k = n - 1; k >= 0; k--, at++) {
      if (Math.floor(value / 2 ** k) % 2) bytes[at >> 3] |= 128 >> (at & 7);
    }
  }
  return bytes;
}

/** The length of each symbol's word in Huffman's code. Of equal counts the older node goes first. */
export function codeLengths(counts) {
  const leaves = [...counts.keys()].filter((i) => counts[i]).map((symbol) => ({ n: counts[symbol], symbol }));
  leaves.sort((a, b) => a.n - b.n || a.symbol - b.symbol);
  const lengths = new Uint8Array(counts.length);
  if (leaves.length === 1) lengths[leaves[0].symbol] = 1;
  const joined = []; // younger than all leaves, and in the order of age and of count
  const next = () => (joined.length && !(leaves.length && leaves[0].n <= joined[0].n) ? joined : leaves).shift();
  const all = leaves.length;
  for (let k = 1; k < all; k++) {
    const [left, right] = [next(), next()];
    joined.push({ n: left.n + right.n, parts: [left, right] });
  }
  const walk = (node, depth) => {
    if (node.parts) node.parts.forEach((part) => walk(part, depth + 1));
    else lengths[node.symbol] = depth;
  };
  if (all > 1) walk(joined[0], 0);
  return lengths;
}

/** The words of a code, from their lengths alone. */
export function canonical(lengths) {
  const words = new Array(lengths.length).fill(0);
  const order = [...lengths.keys()].filter((i) => lengths[i]).sort((i, j) => lengths[i] - lengths[j] || i - j);
  let [word, length] = [-1, lengths[order[0]]];
  for (const symbol of order) {
    word = (word + 1) * 2 ** (lengths[symbol] - length);
    length = lengths[symbol];
    words[symbol] = word;
  }
  return words;
}

/** Symbols below `alphabet` in Huffman's code, where that is shorter, else with equal lengths. */
function stream(symbols, alphabet) {
  const width = bitsOf(alphabet - 1);
  if (symbols.length && alphabet <= MOST_SYMBOLS) {
    const counts = new Uint32Array(alphabet);
    for (const symbol of symbols) counts[symbol] += 1;
    const lengths = codeLengths(counts);
    const bits = counts.reduce((sum, n, symbol) => sum + n * lengths[symbol], 0);
    const shorter = alphabet + Math.ceil(bits / 8) < Math.ceil((symbols.length * width) / 8);
    if (shorter && Math.max(...lengths) <= LONGEST_WORD) {
      const words = canonical(lengths);
      return { coded: 1, bytes: [...lengths, ...written(symbols, (s) => words[s], (s) => lengths[s])] };
    }
  }
  return { coded: 0, bytes: written(symbols, (s) => s, () => width) };
}

/** The numbers between the weights in `bits` bits each, and the weights with zeros to fill gaps. */
function entries(words, bits) {
  const [distances, values, span] = [[], [], 2 ** bits];
  let last = -1;
  words.forEach((word, at) => {
    if (word << 1 === 0) return; // 0.0 or −0.0
    let skipped = at - last - 1;
    for (; skipped >= span; skipped -= span) {
      distances.push(span - 1);
      values.push(0);
    }
    distances.push(skipped);
    values.push(word);
    last = at;
  });
  return { distances, values };
}

function sparse(words, bits) {
  const { distances, values } = entries(words, bits);
  const indices = stream(distances, 2 ** bits);
  const codebook = [...new Set(values)].sort((a, b) => a - b);
  let [form, shared, rest] = [1 + 4 * indices.coded, [], values.flatMap((value) => little(value, 4))];
  if (codebook.length && codebook.length <= MOST_SYMBOLS) {
    const place = new Map(codebook.map((value, i) => [value, i]));
    const numbers = stream(values.map((value) => place.get(value)), codebook.length);
    const table = [...little(codebook.length, 2), ...codebook.flatMap((value) => little(value, 4))];
    if (table.length + numbers.bytes.length < rest.length) {
      [form, shared, rest] = [form + 2 + 8 * numbers.coded, table, numbers.bytes];
    }
  }
  return [form, bits, ...little(values.length, 4), ...shared, ...indices.bytes, ...rest];
}

/** The shortest form of one tensor. */
function shortest(values) {
  const words = new Uint32Array(values.slice().buffer);
  const kept = words.reduce((sum, word) => sum + (word << 1 !== 0), 0);
  const mean = bitsOf(Math.floor(words.length / Math.max(kept, 1)));
  const widths = new Set([0]);
  for (let bits = Math.max(0, mean - 2); bits <= mean + 4; bits++) widths.add(bits);
  const forms = [[0, ...new Uint8Array(words.buffer)], ...[...widths].map((bits) => sparse(words, bits))];
  return forms.reduce((best, form) => (form.length < best.length ? form : best));
}

/** The file of a network, which `coding.load` reads into the library's network. */
export function coded(net, fingerprint) {
  const tensors = net.flatMap(({ weight, bias }) => [weight, bias]);
  const checked = [...fingerprint];
  for (const values of tensors) for (const byte of shortest(values)) checked.push(byte);
  return Uint8Array.from([..."DCF2"].map((letter) => letter.charCodeAt(0))
    .concat(little(crc32(checked), 4), checked));
}
