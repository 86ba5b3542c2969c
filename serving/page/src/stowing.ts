/** Sends an answer's segmentations to the PACS when the reader says so, and tells what came of it. */

import { announce } from "./announce.ts";
import type { Api } from "./api.ts";
import { element } from "./element.ts";

/** The button and, in its place, what happened; storing again would change nothing, but there is no need to. */
export function stowing(api: Api, answer: string): HTMLElement {
  const button = element("button", { type: "button", class: "plain" }, "Send segmentations to the PACS");
  const told = element("span", { role: "status" });
  button.addEventListener("click", () => {
    button.disabled = true;
    told.textContent = "Sending to the PACS …";
    void api.stow(answer).then(
      (count) => {
        told.textContent = count === 1 ? "1 segmentation is in the PACS." : `${count} segmentations are in the PACS.`;
        announce(told.textContent);
        button.remove();
      },
      (error: unknown) => {
        told.textContent = error instanceof Error ? error.message : "It could not be stored; try again.";
        announce(told.textContent);
        button.disabled = false;
      },
    );
  });
  return element("span", { class: "stowing" }, button, told);
}
