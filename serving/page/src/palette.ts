/** Which colour a label has in the viewer: the one of the expert's own overlay, or else one that is still free. */

export interface Label {
  id: number;
  name: string;
  /** `#rrggbb`. */
  color: string;
}

/** CSS names as experts give them out, in their order (`vilam3/experts/data/palette.json`), each once. */
const HEX: Readonly<Record<string, string>> = {
  red: "#ff0000",
  blue: "#0000ff",
  yellow: "#ffff00",
  magenta: "#ff00ff",
  green: "#008000",
  indigo: "#4b0082",
  darkorange: "#ff8c00",
  cyan: "#00ffff",
  pink: "#ffc0cb",
  brown: "#a52a2a",
  orange: "#ffa500",
  lime: "#00ff00",
  gold: "#ffd700",
  yellowgreen: "#9acd32",
  darkgreen: "#006400",
};

/**
 * Give every label its colour.
 *
 * @param names Label id to name.
 * @param drawn Colour name to label name (several may share one, with a comma between), as the overlay was drawn.
 */
export function labelled(names: Readonly<Record<string, string>>, drawn: Readonly<Record<string, string>>): Label[] {
  const given = new Map<string, string>();
  for (const [color, shared] of Object.entries(drawn)) {
    for (const name of shared.split(", ")) given.set(name, HEX[color] ?? color);
  }
  const used = new Set(given.values());
  const free = Object.values(HEX).filter((color) => !used.has(color));
  const others = free.length > 0 ? free : Object.values(HEX);
  let next = 0;
  return Object.entries(names)
    .map(([id, name]) => ({ id: Number(id), name }))
    .sort((one, other) => one.id - other.id)
    .map(({ id, name }) => ({ id, name, color: given.get(name) ?? others[next++ % others.length] ?? "#ffffff" }));
}

/** Red, green and blue of `#rrggbb`, 0 to 255. */
export function channels(color: string): [number, number, number] {
  const value = Number.parseInt(color.slice(1), 16);
  return [(value >> 16) & 255, (value >> 8) & 255, value & 255];
}
