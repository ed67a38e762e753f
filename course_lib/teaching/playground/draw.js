// From strokes of a pen to an image of 14 × 14 pixels that looks like the course's glyphs.

const SIDE = 14;
const HEIGHT = 9.8; // of a digit, as high as those that the network was trained on
const PEN = 1.5; // pixels

/** The strokes, moved and scaled: as high as a glyph, or as wide if they are wider, and centred. */
export function fitted(strokes) {
  const points = strokes.flat();
  const ends = [0, 1].map((axis) => {
    const along = points.map((point) => point[axis]);
    return [Math.min(...along), Math.max(...along)];
  });
  const largest = Math.max(...ends.map(([low, high]) => high - low));
  const scale = largest > 0 ? (HEIGHT - PEN) / largest : 0;
  return strokes.map((stroke) => stroke.map((point) =>
    ends.map(([low, high], axis) => SIDE / 2 + (point[axis] - (low + high) / 2) * scale)));
}

/** How far a point is from a piece of a line. */
export function distance([x, y], [x0, y0], [x1, y1]) {
  const [dx, dy] = [x1 - x0, y1 - y0];
  const length = dx * dx + dy * dy;
  const t = length ? Math.min(1, Math.max(0, ((x - x0) * dx + (y - y0) * dy) / length)) : 0;
  return Math.hypot(x - x0 - t * dx, y - y0 - t * dy);
}

/** The image, with 16 shades of grey: ink 1 on paper 0. Null if nothing is drawn. */
export function rasterised(strokes) {
  if (!strokes.flat().length) return null;
  const image = new Float32Array(SIDE * SIDE);
  const lines = fitted(strokes).flatMap((stroke) =>
    stroke.map((point, i) => [point, stroke[Math.min(i + 1, stroke.length - 1)]]));
  image.forEach((_, i) => {
    const middle = [(i % SIDE) + 0.5, Math.floor(i / SIDE) + 0.5];
    const near = Math.min(...lines.map(([from, to]) => distance(middle, from, to)));
    const ink = Math.min(1, Math.max(0, PEN / 2 + 0.5 - near));
    image[i] = Math.round(15 * ink) / 15;
  });
  return image;
}
