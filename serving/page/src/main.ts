/** Puts the page together. */

import { alertIn } from "./announce.ts";
import { Api, type Model } from "./api.ts";
import { Chat } from "./chat.ts";
import { byId } from "./element.ts";
import { KeyDialog } from "./key.ts";
import { Studies } from "./studies.ts";
import { Viewer } from "./viewer.ts";

const SHOWN_OF_DIGEST = 12;
const api = new Api();
const viewer: Viewer = new Viewer(api, () => chat.see());
const chat = new Chat(api, viewer);
const studies = new Studies(api, (study) => {
  void viewer.open(study);
  chat.clear();
});

function introduce(model: Model | undefined): void {
  const told = byId("model", HTMLElement);
  told.textContent = model?.digest ? `model ${model.digest.slice(0, SHOWN_OF_DIGEST)}` : "";
  told.title = model?.digest ?? "";
  void attempt(() => studies.refresh());
}

/** Say what went wrong instead of nothing. */
async function attempt(work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    alertIn(byId("viewer-alert", HTMLElement), error instanceof Error ? error.message : "Something went wrong; load the page again.");
  }
}

chat.clear();
void attempt(() => new KeyDialog(api, introduce).knock());
