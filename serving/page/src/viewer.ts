/** The controls around the stage: which study, slice, plane, window, sequence and labels are shown. */

import { alertIn } from "./announce.ts";
import type { Api } from "./api.ts";
import { byId, element } from "./element.ts";
import { Gestures } from "./gestures.ts";
import { Layers, type Layer } from "./layers.ts";
import type { Label } from "./palette.ts";
import { Stage } from "./stage.ts";
import { plural } from "./words.ts";
import type { Plane } from "./volume.ts";
import { windowNames, windowOf } from "./windows.ts";
import type { ExpertCall, Study } from "./wire.ts";

const PLANES: readonly (readonly [Plane, string])[] = [
  ["axial", "Axial"],
  ["coronal", "Coronal"],
  ["sagittal", "Sagittal"],
  ["all", "All three"],
];
const MODALITIES: readonly (readonly [string, string])[] = [
  ["", "What the file says"],
  ["CXR", "Chest X-ray"],
  ["CT", "CT"],
  ["MRI", "MR"],
];
const ZOOM_STEP = 1.25;

export class Viewer {
  readonly stage: Stage;
  private readonly api: Api;
  private readonly layers: Layers;
  private readonly alert = byId("viewer-alert", HTMLElement);
  private readonly position = byId("position", HTMLInputElement);
  private readonly sequence = byId("sequence", HTMLSelectElement);
  private readonly windows = byId("window", HTMLSelectElement);
  private readonly modalities = byId("modality", HTMLSelectElement);
  /** Segmentations by their address, for when another sequence comes below them. */
  private readonly masks = new Map<string, ArrayBuffer>();
  private study: Study | undefined;
  private readonly onMoved: () => void;

  constructor(api: Api, onMoved: () => void) {
    this.api = api;
    this.onMoved = onMoved;
    const parts = {
      image: byId("slice", HTMLImageElement),
      volume: byId("volume", HTMLElement),
      empty: byId("empty", HTMLElement),
      loading: byId("loading", HTMLElement),
    };
    this.stage = new Stage(api, parts, () => this.moved(), (sentence) => alertIn(this.alert, sentence));
    this.layers = new Layers(byId("layers", HTMLElement), byId("layer-groups", HTMLElement), (layer) => this.stage.paint(layer));
    this.listen();
  }

  get shownStudy(): Study | undefined {
    return this.study;
  }

  /** What the study is to be read as, where its files do not say. */
  get modality(): string | undefined {
    return this.modalities.value || undefined;
  }

  /** The slice that a question is about; undefined for flat studies. */
  get sliceIndex(): number | undefined {
    return this.study?.volumes.length ? this.stage.axialSlice : undefined;
  }

  async open(study: Study | undefined): Promise<void> {
    this.study = study;
    this.layers.clear();
    this.masks.clear();
    alertIn(this.alert, "");
    this.offer(study);
    this.warn(study?.warnings ?? []);
    await this.stage.open(study);
  }

  goTo(sliceIndex: number | undefined): void {
    if (sliceIndex !== undefined) this.stage.goAxial(sliceIndex);
  }

  /** Show a finding: its segmentation alone, and its slice where the reader asks for it. */
  async show(call: ExpertCall, labels: readonly Label[], goes: boolean): Promise<void> {
    const slice = call.provenance?.["slice_index"];
    if (goes && typeof slice === "number") this.goTo(slice);
    try {
      if (this.stage.shown) await this.lay(call, labels);
      else if (call.overlay_url && (goes || slice === this.sliceIndex)) await this.pin(call);
    } catch (error) {
      alertIn(this.alert, `The finding cannot be shown: ${error instanceof Error ? error.message : "it is damaged"}`);
    }
  }

  private async lay({ mask_url: url, expert, argument }: ExpertCall, labels: readonly Label[]): Promise<void> {
    if (!url) return;
    if (this.layers.get(url)) {
      this.layers.only(url);
      return;
    }
    const mask = await this.api.bytes(url);
    if (this.layers.get(url)) return;
    this.masks.set(url, mask);
    const layer: Layer = this.layers.add(url, argument ? `${expert}, ${argument}` : expert, labels);
    await this.stage.overlay(layer, mask);
  }

  private async pin(call: ExpertCall): Promise<void> {
    const drawn = Object.values(call.colors).join(", ") || "nothing in this slice";
    await this.stage.pin(call.overlay_url ?? "", `Overlay by ${call.expert}: ${drawn}`);
  }

  private listen(): void {
    new Gestures(byId("stage", HTMLElement), {
      camera: { zoomBy: (factor) => this.stage.camera.zoomBy(factor), panBy: (x, y) => this.stage.camera.panBy(x, y), fit: () => this.stage.camera.fit() },
      step: (slices) => this.stage.go(this.stage.position + slices),
      point: (x, y) => this.stage.point(x, y),
    });
    this.position.addEventListener("input", () => this.stage.go(Number(this.position.value)));
    this.sequence.addEventListener("change", () => void this.changeSequence());
    this.windows.addEventListener("change", () => this.stage.window(windowOf(this.windows.value)));
    this.modalities.addEventListener("change", () => this.onMoved());
    byId("opacity", HTMLInputElement).addEventListener("input", (event) => this.changeOpacity(event));
    const buttons: Record<string, () => void> = {
      up: () => this.stage.go(this.stage.position + 1),
      down: () => this.stage.go(this.stage.position - 1),
      "zoom-in": () => this.stage.camera.zoomBy(ZOOM_STEP),
      "zoom-out": () => this.stage.camera.zoomBy(1 / ZOOM_STEP),
      fit: () => this.stage.camera.fit(),
    };
    for (const [id, act] of Object.entries(buttons)) byId(id, HTMLButtonElement).addEventListener("click", act);
    byId("planes", HTMLElement).append(...PLANES.map(([plane, name]) => this.planeChoice(plane, name)));
  }

  private planeChoice(plane: Plane, name: string): HTMLElement {
    const radio = element("input", { type: "radio", name: "plane", value: plane });
    radio.addEventListener("change", () => this.stage.look(plane));
    return element("label", {}, radio, element("span", {}, name));
  }

  /** Another sequence of the same study, on the same grid: the segmentations lie over it as they did. */
  private async changeSequence(): Promise<void> {
    await this.stage.showSequence(Number(this.sequence.value));
    for (const [key, mask] of this.masks) {
      const layer = this.layers.get(key);
      if (layer) await this.stage.overlay(layer, mask);
    }
  }

  private changeOpacity(event: Event): void {
    this.stage.opacity = Number((event.target as HTMLInputElement).value);
    for (const layer of this.layers.all()) this.stage.paint(layer);
  }

  /** What can be chosen for this study. */
  private offer(study: Study | undefined): void {
    const isVolume = Boolean(study?.volumes.length);
    byId("views", HTMLElement).hidden = study === undefined;
    byId("sequence-field", HTMLElement).hidden = (study?.num_views ?? 1) < 2;
    byId("window-field", HTMLElement).hidden = study?.modality !== "CT" || !isVolume;
    byId("modality-field", HTMLElement).hidden = isVolume;
    byId("slicer", HTMLElement).hidden = !isVolume;
    byId("zooms", HTMLElement).hidden = study === undefined;
    this.modalities.replaceChildren(...MODALITIES.map(([value, name]) => element("option", { value }, name)));
    const names = study?.volumes ?? [];
    this.sequence.replaceChildren(...names.map((name, at) => element("option", { value: String(at) }, name || `Volume ${at + 1}`)));
    this.windows.replaceChildren(...windowNames(study?.modality ?? "").map((name) => element("option", {}, name)));
  }

  private warn(warnings: string[]): void {
    const list = byId("study-warnings", HTMLElement);
    list.replaceChildren(...warnings.map((warning) => element("li", {}, warning)));
    list.hidden = warnings.length === 0;
  }

  /** Bring every control to what the stage shows. */
  private moved(): void {
    const { position, count, plane } = this.stage;
    this.position.max = String(count - 1);
    this.position.value = String(position);
    const name = plane === "coronal" || plane === "sagittal" ? plane : "axial";
    this.position.setAttribute("aria-label", `${name.charAt(0).toUpperCase()}${name.slice(1)} slice`);
    this.position.setAttribute("aria-valuetext", `${position + 1} of ${plural(count, "slice")}`);
    byId("position-told", HTMLElement).textContent = `${position + 1} / ${count}`;
    byId("planes", HTMLElement).hidden = !this.stage.shown;
    for (const radio of document.querySelectorAll<HTMLInputElement>("#planes input")) radio.checked = radio.value === plane;
    const volume = byId("volume", HTMLElement);
    volume.setAttribute("role", "img");
    volume.setAttribute("aria-label", this.stage.description());
    this.onMoved();
  }
}
