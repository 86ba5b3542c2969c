/** Asks for an API key where the server wants one. */

import { alertIn } from "./announce.ts";
import { Refused, type Api, type Model } from "./api.ts";
import { byId } from "./element.ts";

const UNAUTHORIZED = 401;

export class KeyDialog {
  private readonly api: Api;
  private readonly dialog = byId("key-dialog", HTMLDialogElement);
  private readonly input = byId("key", HTMLInputElement);
  private readonly alert = byId("key-alert", HTMLElement);
  private readonly button = byId("open-key", HTMLButtonElement);
  private readonly onKnown: (model: Model | undefined) => void;

  constructor(api: Api, onKnown: (model: Model | undefined) => void) {
    this.api = api;
    this.onKnown = onKnown;
    byId("key-form", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      this.api.setKey(this.input.value.trim());
      void this.knock();
    });
    byId("key-cancel", HTMLButtonElement).addEventListener("click", () => this.dialog.close());
    this.button.addEventListener("click", () => this.open());
  }

  /** See whether the server knows us, and ask for a key where it does not. */
  async knock(): Promise<void> {
    try {
      const model = await this.api.model();
      this.button.hidden = !this.api.hasKey;
      if (this.dialog.open) this.dialog.close();
      this.input.value = "";
      alertIn(this.alert, "");
      this.onKnown(model);
    } catch (error) {
      if (!(error instanceof Refused) || error.status !== UNAUTHORIZED) throw error;
      this.button.hidden = false;
      alertIn(this.alert, this.api.hasKey ? "The server does not know this key." : "");
      this.api.setKey("");
      this.open();
    }
  }

  private open(): void {
    if (!this.dialog.open) this.dialog.showModal();
    this.input.focus();
  }
}
