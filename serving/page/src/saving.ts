/** Files go to the reader's disk by way of memory, because a plain link could not send the key. */

import { alertIn } from "./announce.ts";
import { Refused, type Api } from "./api.ts";
import { byId, element } from "./element.ts";

const NOT_FOUND = 404;

/** Save what is at `url`, or at `otherwise` where a server has nothing there. */
export async function save(api: Api, url: string, name: string, otherwise?: string): Promise<void> {
  try {
    const source = URL.createObjectURL(await fetched(api, url, otherwise));
    element("a", { href: source, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(source), 60_000);
  } catch (error) {
    alertIn(byId("viewer-alert", HTMLElement), error instanceof Error ? error.message : "It could not be downloaded.");
  }
}

async function fetched(api: Api, url: string, otherwise?: string): Promise<Blob> {
  try {
    return await api.blob(url);
  } catch (error) {
    if (otherwise && error instanceof Refused && error.status === NOT_FOUND) return api.blob(otherwise);
    throw error;
  }
}
