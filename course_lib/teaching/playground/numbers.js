// Numbers as Python and torch have them: rounding, random numbers, half precision.

/** Round to the nearest integer, and halves to the even one, as Python's `round` does. */
export function roundEven(x) {
  const down = Math.floor(x);
  const rest = x - down;
  if (rest !== 0.5) return rest < 0.5 ? down : down + 1;
  return down % 2 ? down + 1 : down;
}

/** The Mersenne Twister with which torch fills a tensor on the CPU. */
export class Random {
  constructor(seed) {
    const state = (this.state = new Uint32Array(624));
    state[0] = seed >>> 0;
    for (let i = 1; i < 624; i++) {
      state[i] = Math.imul(1812433253, state[i - 1] ^ (state[i - 1] >>> 30)) + i;
    }
    this.at = 624;
  }

  twist() {
    const { state } = this;
    for (let i = 0; i < 624; i++) {
      const y = (state[i] & 0x80000000) | (state[(i + 1) % 624] & 0x7fffffff);
      state[i] = state[(i + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
    }
    this.at = 0;
  }

  /** The next 32 bits. */
  bits() {
    if (this.at === 624) this.twist();
    let y = this.state[this.at++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  /** `torch.rand(n)`: numbers in [0, 1) with 24 bits each. */
  uniform(n) {
    return Float32Array.from({ length: n }, () => (this.bits() & 0xffffff) / 2 ** 24);
  }

  /** The numbers below n in a random order. */
  order(n) {
    const found = Uint32Array.from({ length: n }, (_, i) => i);
    for (let i = n - 1; i > 0; i--) {
      const j = this.bits() % (i + 1);
      [found[i], found[j]] = [found[j], found[i]];
    }
    return found;
  }
}

/** The number that 16 bits stand for. */
export function half(bits) {
  const [sign, exponent, fraction] = [bits >> 15 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** The bytes that a text in base64 stands for. */
export function fromBase64(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

export async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** n numbers out of little-endian half precision. */
export function halves(bytes, n) {
  return Float32Array.from({ length: n }, (_, i) => half(bytes[2 * i] | (bytes[2 * i + 1] << 8)));
}

/** Two pixels of a byte, from 0 to 1. */
export function pixels(bytes) {
  const found = new Float32Array(2 * bytes.length);
  bytes.forEach((pair, i) => {
    found[2 * i] = (pair >> 4) / 15;
    found[2 * i + 1] = (pair & 15) / 15;
  });
  return found;
}
