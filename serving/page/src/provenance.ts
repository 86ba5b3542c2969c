/** Where something comes from, folded away until a reader asks. */

import { element } from "./element.ts";
import { facts } from "./words.ts";
import type { Facts } from "./wire.ts";

export function provenance(title: string, told: Facts): HTMLElement {
  const rows = facts(told).flatMap(({ name, shown, whole }) => [
    element("dt", {}, name),
    element("dd", { title: whole === shown ? undefined : whole }, shown),
  ]);
  return element("details", { class: "provenance" }, element("summary", {}, title), element("dl", {}, ...rows));
}
