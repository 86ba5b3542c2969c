/** The conversation as the protocol takes it: a study travels with the first question about it, and when the slice changes. */

import type { ChatRequest, Message, Study } from "./wire.ts";

export interface Asked {
  text: string;
  study: Study | undefined;
  /** Axial slice, from 0. */
  sliceIndex: number | undefined;
  /** About all slices at once; no slice is sent with it. */
  wholeVolume: boolean;
  /** What the study is read as, where the reader knows better than its files. */
  modality: string | undefined;
  withExperts: boolean;
}

export class Conversation {
  private readonly past: Message[] = [];
  private seen = "";

  /** The request for a question; nothing is remembered of it until `answered`. */
  request(asked: Asked): ChatRequest {
    const request: ChatRequest = {
      model: "vilam3",
      stream: true,
      messages: [...this.past, this.message(asked)],
      experts: asked.withExperts,
    };
    if (asked.study && asked.wholeVolume) request.scope = "volume";
    else if (asked.study && asked.sliceIndex !== undefined) request.slice_index = asked.sliceIndex;
    if (asked.study && asked.modality) request.modality = asked.modality;
    return request;
  }

  /** Remember a question with its answer. */
  answered(asked: Asked, answer: string): void {
    this.past.push(this.message(asked), { role: "assistant", content: answer });
    this.seen = sight(asked);
  }

  /** Begin anew: another patient, or another subject. */
  clear(): void {
    this.past.length = 0;
    this.seen = "";
  }

  private message(asked: Asked): Message {
    if (!asked.study || sight(asked) === this.seen) return { role: "user", content: asked.text };
    const image = { type: "image_url" as const, image_url: { url: `study://${asked.study.id}` } };
    return { role: "user", content: [image, { type: "text", text: asked.text }] };
  }
}

function sight(asked: Asked): string {
  return asked.study ? `${asked.study.id}#${asked.wholeVolume ? "volume" : (asked.sliceIndex ?? "")}` : "";
}
