// What the reader has chosen, and how it stands in the address: #criterion=random&sparsity=0.9

export const CHOICES = {
  criterion: ["magnitude", "random", "input", "taylor"],
  allocation: ["globally", "per_layer", "erdos_renyi"],
  structure: ["weights", "units"],
};
const NUMBERS = ["sparsity", "bits", "image"];

/** Whether a choice may have this value. */
function fits(name, text, images) {
  if (name in CHOICES) return CHOICES[name].includes(text);
  const number = Number(text);
  if (!NUMBERS.includes(name) || text.trim() === "" || !Number.isFinite(number)) return false;
  if (name === "image") return Number.isInteger(number) && number >= 0 && number < images;
  if (name === "bits") return number === 32 || (Number.isInteger(number) && number >= 2 && number <= 8);
  return number >= 0 && number <= 1;
}

/** The state that a fragment names, on top of `start`, and what could not be read. */
export function fromFragment(fragment, start, images) {
  const state = { ...start };
  const unknown = [];
  for (const [name, text] of new URLSearchParams(fragment.replace(/^#/, ""))) {
    if (!fits(name, text, images)) unknown.push(`${name}=${text}`);
    else state[name] = name in CHOICES ? text : Number(text);
  }
  return { state, unknown };
}

export const toFragment = (state) => `#${new URLSearchParams(state)}`;
