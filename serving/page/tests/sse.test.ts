import assert from "node:assert/strict";
import { test } from "node:test";

import { chunks } from "../src/sse.ts";
import type { Chunk } from "../src/wire.ts";

function body(...pieces: string[]): ReadableStream<Uint8Array> {
  return bytes(...pieces.map((piece) => new TextEncoder().encode(piece)));
}

function bytes(...pieces: Uint8Array[]): ReadableStream<Uint8Array> {
  return new ReadableStream({
    start(controller) {
      for (const piece of pieces) controller.enqueue(piece);
      controller.close();
    },
  });
}

async function read(stream: ReadableStream<Uint8Array>): Promise<Chunk[]> {
  const found = [];
  for await (const chunk of chunks(stream)) found.push(chunk);
  return found;
}

test("an event is one whatever the pieces in which it comes", async () => {
  assert.deepEqual(await read(body('data: {"id"', ':"a"}\n', '\ndata: {"id":"b"}\n\ndata: [DONE]\n\n')), [{ id: "a" }, { id: "b" }]);
});

test("a letter that is cut between two pieces is whole again", async () => {
  const whole = new TextEncoder().encode('data: {"id":"µ"}\n\n');
  const cut = whole.indexOf(0xc2) + 1;
  assert.deepEqual(await read(bytes(whole.slice(0, cut), whole.slice(cut))), [{ id: "µ" }]);
});

test("names of events, comments and carriage returns are passed over", async () => {
  assert.deepEqual(await read(body(': beat\r\n\r\nevent: expert.started\r\ndata: {"id":"a"}\r\n\r\n')), [{ id: "a" }]);
});

test("nothing after the end is read, and a last event needs no empty line", async () => {
  assert.deepEqual(await read(body('data: [DONE]\n\ndata: {"id":"late"}\n\n')), []);
  assert.deepEqual(await read(body('data: {"id":"last"}')), [{ id: "last" }]);
});
