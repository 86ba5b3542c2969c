/** Files go to the reader's disk by way of memory, because a plain link could not send the key. */

import { alertIn } from "./announce.ts";
import type { Api } from "./api.ts";
import { byId, element } from "./element.ts";

export async function save(api: Api, url: string, name: string): Promise<void> {
  try {
    const source = URL.createObjectURL(await api.blob(url));
    element("a", { href: source, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(source), 60_000);
  } catch (error) {
    alertIn(byId("viewer-alert", HTMLElement), error instanceof Error ? error.message : "It could not be downloaded.");
  }
}
