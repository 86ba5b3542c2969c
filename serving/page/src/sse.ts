/** Server-sent events out of a response body, whatever the pieces in which the network delivers it. */

import type { Chunk } from "./wire.ts";

const DONE = "[DONE]";

/** Yields the JSON of every event until `[DONE]` or the end of the body. */
export async function* chunks(body: ReadableStream<Uint8Array>): AsyncGenerator<Chunk> {
  for await (const data of events(body)) {
    if (data === DONE) return;
    yield JSON.parse(data) as Chunk;
  }
}

async function* events(body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  let held = "";
  for await (const text of decoded(body)) {
    held = (held + text).replaceAll("\r\n", "\n");
    const blocks = held.split("\n\n");
    held = blocks.pop() ?? "";
    for (const block of blocks) yield* dataOf(block);
  }
  yield* dataOf(held);
}

/** The text of a body; a reader and not `for await` on the stream, which not every browser has. */
async function* decoded(body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield decoder.decode(value, { stream: true });
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}

function* dataOf(block: string): Generator<string> {
  const lines = block.split("\n").filter((line) => line.startsWith("data:"));
  if (lines.length > 0) yield lines.map((line) => line.slice("data:".length).trimStart()).join("\n");
}
