/** The endpoint's routes. The key travels in a header and lives in this tab's session only. */

import { chunks } from "./sse.ts";
import type { ChatRequest, Chunk, Study } from "./wire.ts";

const KEY = "vilam3.api-key";

/** What the server refused, in its own sentence. */
export class Refused extends Error {
  readonly status: number;

  constructor(message: string, status: number) {
    super(message);
    this.status = status;
  }
}

export interface Model {
  id: string;
  digest: string;
  /** Whether segmentations can be stored in a PACS from here. */
  stows?: boolean;
}

export class Api {
  /** Whether the server knows a PACS. */
  stows = false;
  private key = sessionStorage.getItem(KEY) ?? "";

  get hasKey(): boolean {
    return this.key !== "";
  }

  setKey(key: string): void {
    this.key = key;
    if (key) sessionStorage.setItem(KEY, key);
    else sessionStorage.removeItem(KEY);
  }

  async model(): Promise<Model | undefined> {
    const { data } = await this.json<{ data: Model[] }>("v1/models");
    this.stows = data[0]?.stows ?? false;
    return data[0];
  }

  /** Store the segmentations of an answer in the PACS; tells how many are there now. */
  async stow(answer: string): Promise<number> {
    const response = await this.request(`v1/results/${answer}/stow`, { method: "POST" });
    return ((await response.json()) as { stored: unknown[] }).stored.length;
  }

  async studies(): Promise<Study[]> {
    return (await this.json<{ data: Study[] }>("v1/studies")).data;
  }

  async forget(study: Study): Promise<void> {
    await this.request(`v1/studies/${study.id}`, { method: "DELETE" });
  }

  async blob(path: string, signal?: AbortSignal): Promise<Blob> {
    return (await this.request(path, signal ? { signal } : {})).blob();
  }

  async bytes(path: string, signal?: AbortSignal): Promise<ArrayBuffer> {
    return (await this.request(path, signal ? { signal } : {})).arrayBuffer();
  }

  /** Ask; yields what happens until the answer is complete. */
  async *ask(request: ChatRequest, signal: AbortSignal): AsyncGenerator<Chunk> {
    const headers = { "Content-Type": "application/json" };
    const body = JSON.stringify(request);
    const response = await this.request("v1/chat/completions", { method: "POST", headers, body, signal });
    if (!response.body) throw new Refused("The server sent no answer; ask again.", response.status);
    yield* chunks(response.body);
  }

  /** Upload the files of one study; `fetch` does not tell how much has been sent, so this is the older interface. */
  upload(files: readonly File[], onProgress: (fraction: number) => void): Promise<Study> {
    const form = new FormData();
    for (const file of files) form.append("file", file, file.name);
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      request.open("POST", here("v1/studies"));
      for (const [name, value] of Object.entries(this.headers())) request.setRequestHeader(name, value);
      request.upload.onprogress = (event) => onProgress(event.total ? event.loaded / event.total : 0);
      request.onerror = () => reject(new Refused(UNREACHABLE, 0));
      request.onload = () => {
        if (request.status < 300) resolve(JSON.parse(request.responseText) as Study);
        else reject(new Refused(sentence(request.responseText, request.status), request.status));
      };
      request.send(form);
    });
  }

  private async json<T>(path: string): Promise<T> {
    return (await (await this.request(path)).json()) as T;
  }

  private async request(path: string, options: RequestInit = {}): Promise<Response> {
    const headers = { ...this.headers(), ...options.headers };
    const response = await fetch(here(path), { ...options, headers, cache: "no-store" }).catch((error: unknown) => {
      if (error instanceof DOMException && error.name === "AbortError") throw error;
      throw new Refused(UNREACHABLE, 0);
    });
    if (!response.ok) throw new Refused(sentence(await response.text(), response.status), response.status);
    return response;
  }

  private headers(): Record<string, string> {
    return this.key ? { Authorization: `Bearer ${this.key}` } : {};
  }
}

const UNREACHABLE = "The server cannot be reached; see whether it runs, and try again.";

/** An address of this server, also where the page lies below a prefix of an ingress. */
function here(path: string): string {
  return new URL(path.replace(/^\/+/, ""), document.baseURI).href;
}

/** What a reader can do about a refusal: the server's own sentence, where it sent one. */
function sentence(body: string, status: number): string {
  try {
    const { error } = JSON.parse(body) as { error?: { message?: string } };
    if (error?.message) return error.message;
  } catch {
    // no JSON: a proxy answered, and its page is not for our reader
  }
  return `The server answered ${status}; try again in a moment.`;
}
