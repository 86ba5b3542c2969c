/** What a screen reader says while the page changes. */

import { byId } from "./element.ts";

/** Say something; the same sentence twice is said twice. */
export function announce(text: string): void {
  const status = byId("status", HTMLElement);
  status.textContent = "";
  setTimeout(() => (status.textContent = text), 50);
}

/** Show a sentence in one of the page's alerts, or hide it. */
export function alertIn(place: HTMLElement, sentence: string): void {
  place.textContent = sentence;
  place.hidden = !sentence;
}
