/** A small square in a label's colour; the name beside it says the same to those who do not see it. */

import { element } from "./element.ts";

export function swatch(color: string): HTMLElement {
  const made = element("span", { class: "swatch", "aria-hidden": "true" });
  made.style.backgroundColor = color;
  return made;
}
