import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { channels, labelled } from "../src/palette.ts";

test("a label has the colour in which its expert drew it", () => {
  const labels = labelled({ "26": "hepatic tumor", "1": "liver" }, { red: "liver", blue: "hepatic tumor" });
  assert.deepEqual(labels, [
    { id: 1, name: "liver", color: "#ff0000" },
    { id: 26, name: "hepatic tumor", color: "#0000ff" },
  ]);
});

test("labels that are not in the slice get colours that are free", () => {
  const colors = labelled({ "1": "liver", "3": "spleen", "4": "pancreas" }, { red: "spleen" }).map(({ color }) => color);
  assert.equal(colors[1], "#ff0000");
  assert.equal(new Set(colors).size, 3);
});

test("labels that share a colour keep it", () => {
  const labels = labelled({ "1": "one", "2": "two" }, { orange: "one, two" });
  assert.deepEqual(labels.map(({ color }) => color), ["#ffa500", "#ffa500"]);
});

test("every colour that experts give out is known here", () => {
  const palette = JSON.parse(readFileSync(new URL("../../../vilam3/experts/data/palette.json", import.meta.url), "utf8")) as string[];
  for (const color of palette) {
    const [label] = labelled({ "1": "liver" }, { [color]: "liver" });
    assert.match(label?.color ?? "", /^#[0-9a-f]{6}$/, color);
  }
});

test("a colour is its three channels", () => {
  assert.deepEqual(channels("#ff8c00"), [255, 140, 0]);
});
