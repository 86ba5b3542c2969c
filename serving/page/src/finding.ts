/** One expert call in the conversation: running, then what it found and where that comes from, or why it failed. */

import { element, type Child } from "./element.ts";
import { labelled, type Label } from "./palette.ts";
import { provenance } from "./provenance.ts";
import { swatch } from "./swatch.ts";
import { duration, quantity } from "./words.ts";
import type { ExpertCall, Measurement } from "./wire.ts";

const SCORES_AT_ONCE = 5;
const LIKELY = 0.5;

/** What a finding needs of the page around it. */
export interface Surroundings {
  picture(url: string): Promise<string>;
  save(url: string, name: string): void;
  /** Bring the finding into the viewer; `goes` also to its slice. */
  show(call: ExpertCall, labels: Label[], goes: boolean): void;
}

export class Finding {
  readonly root: HTMLElement;
  private readonly progress = element("progress", { "aria-label": "Expert's progress" });
  private readonly state = element("span", { class: "state" }, "running");
  private readonly around: Surroundings;

  constructor(expert: string, argument: string, around: Surroundings) {
    this.around = around;
    const name = element("h4", {}, expert, argument && element("span", { class: "argument" }, argument));
    const head = element("header", {}, element("span", { class: "dot", "aria-hidden": "true" }), name, this.state);
    this.root = element("article", { class: "finding running", "aria-label": `Expert ${expert} ${argument}`.trim() }, head);
    this.root.append(this.progress);
  }

  advance(fraction: number): void {
    this.progress.value = fraction;
    this.state.textContent = `${Math.round(100 * fraction)} %`;
  }

  /** Show what came of it. */
  end(call: ExpertCall): void {
    this.progress.remove();
    this.root.className = `finding ${call.error ? "failed" : "done"}`;
    this.state.textContent = ended(call);
    if (call.error) this.root.append(element("p", { class: "error" }, call.error));
    else this.root.append(...this.found(call));
  }

  /** It was never finished: the question was stopped, or the connection broke. */
  abandon(): void {
    if (!this.progress.isConnected) return;
    this.progress.remove();
    this.root.className = "finding abandoned";
    this.state.textContent = "stopped";
  }

  private found(call: ExpertCall): HTMLElement[] {
    const labels = labelled(call.labels ?? {}, call.colors);
    this.around.show(call, labels, false);
    const parts = [this.drawn(call, labels), measured(call.measurements, labels), scored(call.scores), told(call.text)];
    if (call.provenance) parts.push(provenance("Where this finding comes from", call.provenance));
    parts.push(this.downloads(call));
    return parts.filter((part): part is HTMLElement => part !== null);
  }

  private drawn(call: ExpertCall, labels: Label[]): HTMLElement | null {
    if (!call.overlay_url && !call.mask_url) return null;
    const show = element("button", { type: "button", class: "plain" }, "Show in viewer");
    show.addEventListener("click", () => this.around.show(call, labels, true));
    const figure = element("figure", { class: "drawn" });
    if (call.overlay_url) figure.append(this.thumbnail(call));
    figure.append(element("figcaption", {}, legend(call), show));
    return figure;
  }

  private thumbnail(call: ExpertCall): HTMLElement {
    const drawn = Object.values(call.colors).join(", ") || "nothing in this slice";
    const picture = element("img", { alt: `Overlay by ${call.expert}: ${drawn}`, class: "overlay" });
    void this.around.picture(call.overlay_url ?? "").then((source) => (picture.src = source));
    return picture;
  }

  private downloads(call: ExpertCall): HTMLElement | null {
    const files: [string | null | undefined, string, string][] = [
      [call.overlay_url, "Overlay (PNG)", "overlay.png"],
      [call.mask_url, "Mask (NIfTI)", "mask.nii.gz"],
      [call.segmentation_url, "DICOM SEG", "segmentation.dcm"],
    ];
    const links = files.flatMap(([url, title, file]) => (url ? [this.download(url, title, `${call.expert}-${file}`)] : []));
    return links.length > 0 ? element("p", { class: "downloads" }, ...links) : null;
  }

  private download(url: string, title: string, file: string): HTMLElement {
    const link = element("button", { type: "button", class: "link", "aria-label": `Download ${title}` }, title);
    link.addEventListener("click", () => this.around.save(url, file));
    return link;
  }
}

function ended(call: ExpertCall): string {
  if (call.error) return "failed";
  if (call.cached) return "found before, remembered";
  return call.seconds === null ? "done" : duration(call.seconds);
}

function legend(call: ExpertCall): HTMLElement {
  const entries = Object.entries(call.colors);
  if (entries.length === 0) return element("p", { class: "quiet" }, "Nothing is drawn in this slice.");
  return element("ul", { class: "legend" }, ...entries.map(([color, name]) => element("li", {}, swatch(color), name)));
}

function measured(measurements: Measurement[], labels: Label[]): HTMLElement | null {
  if (measurements.length === 0) return null;
  const color = new Map(labels.map((label) => [label.name, label.color]));
  const rows = measurements.map((one) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, color.has(one.label) && swatch(color.get(one.label) ?? ""), one.label),
      element("td", {}, one.quantity),
      element("td", { class: "number" }, quantity(one)),
    ),
  );
  return table("Measurements", rows);
}

function scored(scores: Record<string, number>): HTMLElement | null {
  const sorted = Object.entries(scores).sort(([, one], [, other]) => other - one);
  if (sorted.length === 0) return null;
  const rows = sorted.map(([name, score]) => scoreRow(name, score));
  const first = table("Scores", rows.slice(0, SCORES_AT_ONCE));
  if (rows.length <= SCORES_AT_ONCE) return first;
  const rest = element("details", {}, element("summary", {}, `${rows.length - SCORES_AT_ONCE} more`));
  rest.append(table("Further scores", rows.slice(SCORES_AT_ONCE)));
  return element("div", {}, first, rest);
}

function scoreRow(name: string, score: number): HTMLElement {
  const meter = element("meter", { min: "0", max: "1", value: String(score), "aria-hidden": "true" });
  const likely = score >= LIKELY ? "likely" : "";
  return element(
    "tr",
    { class: likely },
    element("th", { scope: "row" }, name),
    element("td", {}, meter),
    element("td", { class: "number" }, `${Math.round(100 * score)} %`),
  );
}

function table(caption: string, rows: HTMLElement[]): HTMLElement {
  return element("table", {}, element("caption", {}, caption), element("tbody", {}, ...rows));
}

function told(text: string): HTMLElement | null {
  const words: Child = text.trim();
  if (!words) return null;
  return element("details", {}, element("summary", {}, "What the expert told the model"), element("p", { class: "words" }, words));
}
