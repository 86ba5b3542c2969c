/** Numbers, times and names as a reader wants them. */

import type { Facts, Measurement, Study } from "./wire.ts";

const NAMES: Readonly<Record<string, string>> = { CXR: "Chest X-ray", MRI: "MR", US: "Ultrasound", Unknown: "Picture" };

/** "MR, 96 slices, 4 sequences". */
export function described(study: Study): string {
  const parts = [NAMES[study.modality] ?? study.modality];
  if (study.volumes.length > 0) parts.push(plural(study.num_slices, "slice"));
  if (study.num_views > 1) parts.push(plural(study.num_views, "sequence"));
  return parts.join(", ");
}

export function plural(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

/** "14:05" today, "24 Nov, 14:05" before. */
export function moment(unixTime: number, now: Date = new Date()): string {
  const then = new Date(unixTime * 1000);
  const time = then.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  if (then.toDateString() === now.toDateString()) return time;
  return `${then.toLocaleDateString([], { day: "numeric", month: "short" })}, ${time}`;
}

/** "0.4 s", "12 s", "3 min 20 s". */
export function duration(seconds: number): string {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}

/** "15.1 ml". */
export function quantity(measurement: Measurement): string {
  const digits = Math.abs(measurement.value) < 100 ? 1 : 0;
  return `${measurement.value.toFixed(digits)} ${measurement.unit}`;
}

const FACTS: Readonly<Record<string, string>> = {
  expert: "Expert",
  version: "Version",
  weights_digest: "Weights",
  argument: "Asked for",
  study_digest: "Study content",
  series: "Series",
  slice_index: "Slice",
  seconds: "Computed in",
  created_at: "Computed at",
  model: "Model",
  model_digest: "Weights",
  engine: "Engine",
  dialect: "Wording",
  rounds: "Replies of the model",
  ending: "Ended by",
};

export interface Fact {
  name: string;
  shown: string;
  /** The whole value, where `shown` is cut. */
  whole: string;
}

const DIGEST = /^[0-9a-f]{32,}$/;

/** Provenance as rows; what is empty is left out, and what the page does not know by name is shown all the same. */
export function facts(provenance: Facts): Fact[] {
  return Object.entries(provenance)
    .filter(([, value]) => value !== null && value !== "")
    .map(([key, value]) => ({ name: FACTS[key] ?? key.replaceAll("_", " "), ...valued(key, value) }));
}

function valued(key: string, value: Facts[string] | undefined): Omit<Fact, "name"> {
  const whole = String(value);
  if (key === "slice_index") return { shown: String(Number(value) + 1), whole: `index ${whole}` };
  if (key === "seconds") return { shown: duration(Number(value)), whole: `${whole} s` };
  return { shown: DIGEST.test(whole) ? whole.slice(0, 12) : whole, whole };
}
