import assert from "node:assert/strict";
import { test } from "node:test";

import { Conversation, type Asked } from "../src/question.ts";
import type { Study } from "../src/wire.ts";

const study: Study = { id: "study-1", modality: "CT", num_slices: 9, num_views: 1, volumes: [""], series: "s", warnings: [], created: 0 };

function asked(changes: Partial<Asked> = {}): Asked {
  return { text: "Is there a tumor?", study, sliceIndex: 4, wholeVolume: false, modality: undefined, withExperts: true, ...changes };
}

function images(conversation: Conversation, question: Asked): boolean[] {
  return conversation.request(question).messages.map(({ content }) => typeof content !== "string");
}

test("the study travels with the first question, not with those that follow", () => {
  const conversation = new Conversation();
  assert.deepEqual(images(conversation, asked()), [true]);
  conversation.answered(asked(), "yes");
  assert.deepEqual(images(conversation, asked({ text: "How large?" })), [true, false, false]);
});

test("another slice is shown to the model again", () => {
  const conversation = new Conversation();
  conversation.answered(asked(), "yes");
  assert.deepEqual(images(conversation, asked({ sliceIndex: 5 })), [true, false, true]);
  assert.equal(conversation.request(asked({ sliceIndex: 5 })).slice_index, 5);
});

test("a question about the whole volume names no slice, and shows the study again", () => {
  const conversation = new Conversation();
  conversation.answered(asked(), "yes");
  const request = conversation.request(asked({ wholeVolume: true }));
  assert.equal(request.scope, "volume");
  assert.equal("slice_index" in request, false);
  assert.deepEqual(images(conversation, asked({ wholeVolume: true })), [true, false, true]);
});

test("a question that was not answered leaves nothing behind", () => {
  const conversation = new Conversation();
  conversation.request(asked());
  assert.equal(conversation.request(asked()).messages.length, 1);
});

test("a new conversation knows nothing of the old one", () => {
  const conversation = new Conversation();
  conversation.answered(asked(), "yes");
  conversation.clear();
  assert.deepEqual(images(conversation, asked()), [true]);
});

test("without a study nothing but the question is sent", () => {
  const request = new Conversation().request(asked({ study: undefined, sliceIndex: undefined }));
  assert.deepEqual(request.messages, [{ role: "user", content: "Is there a tumor?" }]);
  assert.equal("slice_index" in request, false);
});
