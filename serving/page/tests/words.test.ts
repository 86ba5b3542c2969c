import assert from "node:assert/strict";
import { test } from "node:test";

import { described, duration, facts, quantity } from "../src/words.ts";

test("times are told as precisely as they matter", () => {
  assert.deepEqual([0.44, 12.4, 200].map(duration), ["0.4 s", "12 s", "3 min 20 s"]);
});

test("a quantity has its unit", () => {
  assert.equal(quantity({ label: "liver", quantity: "volume", value: 1512.4, unit: "ml" }), "1512 ml");
});

test("a study is told by what it is, never by whose", () => {
  const study = { id: "s", modality: "MRI", num_slices: 96, num_views: 4, volumes: ["t1c", "t1", "t2", "flair"], series: "s", warnings: [], created: 0 };
  assert.equal(described(study), "MR, 96 slices, 4 sequences");
  assert.equal(described({ ...study, modality: "CXR", num_slices: 1, num_views: 1, volumes: [] }), "Chest X-ray");
});

test("provenance is told whole: digests are cut for the eye only, empty facts are left out", () => {
  const digest = "ab".repeat(32);
  const told = facts({ expert: "CXR", argument: "", weights_digest: digest, slice_index: 0, cache_hit: true });
  assert.deepEqual(told.map(({ name, shown }) => [name, shown]), [
    ["Expert", "CXR"],
    ["Weights", digest.slice(0, 12)],
    ["Slice", "1"],
    ["cache hit", "true"],
  ]);
  assert.equal(told[1]?.whole, digest);
});
