/** The windows offered for CT: lowest and highest HU from black to white. The first is the model's own. */

import type { Window } from "./volume.ts";

export const AS_SEEN = "As the model sees it";

const CT: readonly (readonly [string, Window])[] = [
  ["Soft tissue", [-160, 240]],
  ["Liver", [-45, 105]],
  ["Lung", [-1350, 150]],
  ["Bone", [-450, 1050]],
  ["Brain", [0, 80]],
];

/** Names of the windows of a modality, in the order offered. */
export function windowNames(modality: string): string[] {
  return [AS_SEEN, ...(modality === "CT" ? CT.map(([name]) => name) : [])];
}

/** The window of a name; undefined is the model's own. */
export function windowOf(name: string): Window | undefined {
  return CT.find(([known]) => known === name)?.[1];
}
