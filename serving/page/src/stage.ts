/** The image stage: the server's slice pictures at once, and the volume with its segmentations when it has arrived. */

import type { Api } from "./api.ts";
import type { Camera } from "./camera.ts";
import type { Layer } from "./layers.ts";
import { PictureView } from "./picture.ts";
import { described } from "./words.ts";
import type { Overlay, Plane, VolumeView, Window } from "./volume.ts";
import type { Study } from "./wire.ts";

export interface StageParts {
  image: HTMLImageElement;
  volume: HTMLElement;
  empty: HTMLElement;
  loading: HTMLElement;
}

export class Stage {
  private readonly api: Api;
  private readonly parts: StageParts;
  private readonly picture: PictureView;
  private readonly onMoved: () => void;
  private readonly onTrouble: (sentence: string) => void;
  /** Null where the browser cannot; made when it is first needed. */
  private view: VolumeView | null | undefined;
  private study: Study | undefined;
  private axial = 0;
  private sequence = 0;
  private loads = new AbortController();
  private paints = new AbortController();
  private pictureUrl = "";
  /** Whether the volume is what is shown. */
  private hasVolume = false;
  opacity = 0.55;

  constructor(api: Api, parts: StageParts, onMoved: () => void, onTrouble: (sentence: string) => void) {
    this.api = api;
    this.parts = parts;
    this.picture = new PictureView(parts.image);
    this.onMoved = onMoved;
    this.onTrouble = onTrouble;
  }

  get camera(): Camera {
    return this.shown ?? this.picture;
  }

  /** The volume view, when it is what is shown. */
  get shown(): VolumeView | undefined {
    return this.hasVolume && this.view ? this.view : undefined;
  }

  get plane(): Plane {
    return this.shown?.planeShown ?? "axial";
  }

  /** Axial slice, the one a question is about. */
  get axialSlice(): number {
    return this.axial;
  }

  get position(): number {
    return this.plane === "axial" || this.plane === "all" ? this.axial : (this.shown?.slice ?? 0);
  }

  get count(): number {
    return this.shown?.count ?? this.study?.num_slices ?? 1;
  }

  /** Show a study from its middle slice on, or nothing. */
  async open(study: Study | undefined): Promise<void> {
    this.study = study;
    this.sequence = 0;
    this.axial = study ? Math.floor(study.num_slices / 2) : 0;
    this.parts.empty.hidden = study !== undefined;
    this.picture.fit();
    if (study) await this.load();
    else this.close();
  }

  async showSequence(sequence: number): Promise<void> {
    this.sequence = sequence;
    await this.load();
  }

  /** Go to a slice of the plane that is shown. */
  go(position: number): void {
    const index = Math.min(this.count - 1, Math.max(0, position));
    if (this.plane === "axial" || this.plane === "all") this.axial = index;
    if (this.shown) this.shown.slice = index;
    else void this.paintPicture();
    this.onMoved();
  }

  goAxial(index: number): void {
    if (this.plane !== "axial" && this.plane !== "all") this.look("axial");
    this.go(index);
  }

  look(plane: Plane): void {
    this.shown?.look(plane);
    this.onMoved();
  }

  window(range: Window | undefined): void {
    this.shown?.window(range);
  }

  /** A click; in the view of three planes it moves them all. */
  point(x: number, y: number): boolean {
    if (this.plane !== "all" || !this.shown) return false;
    this.shown.point(x, y);
    this.axial = this.shown.slice;
    this.onMoved();
    return true;
  }

  /** Put a segmentation over the volume; false where only pictures can be shown. */
  async overlay(layer: Layer, mask: ArrayBuffer): Promise<boolean> {
    if (!this.shown) return false;
    await this.shown.overlay(layer.key, mask, this.painted(layer));
    return true;
  }

  paint(layer: Layer): void {
    this.shown?.paint(layer.key, this.painted(layer));
  }

  /** Where only pictures can be shown: an expert's own drawing in place of the slice, until the slice changes. */
  async pin(url: string, description: string): Promise<void> {
    const picture = await this.api.blob(url);
    if (!this.hasVolume) this.showPicture(picture, description);
  }

  private painted({ labels, shown }: Layer): Overlay {
    return { labels, shown, opacity: this.opacity };
  }

  /** The controls at once, for a reader need not wait to move; then pictures; then the volume, unless another study has been chosen meanwhile. */
  private async load(): Promise<void> {
    this.loads.abort();
    this.loads = new AbortController();
    const { signal } = this.loads;
    this.hideVolume();
    this.onMoved();
    await this.paintPicture();
    if (this.study?.volumes.length && !signal.aborted) await this.loadVolume(this.study, signal);
  }

  private async loadVolume(study: Study, signal: AbortSignal): Promise<void> {
    this.tell("Loading the volume …");
    try {
      const view = await this.volumeView();
      if (!view) return;
      const bytes = await this.api.bytes(`v1/studies/${study.id}/volumes/${this.sequence}.nii.gz`, signal);
      if (signal.aborted) return;
      await view.load(bytes);
      if (signal.aborted) return;
      this.hasVolume = true;
      this.parts.volume.hidden = false;
      view.look("axial");
      view.slice = this.axial;
      this.picture.hide();
      this.onMoved();
    } catch (error) {
      if (signal.aborted) return;
      this.hideVolume();
      this.onTrouble(`The volume cannot be shown, only its slices: ${error instanceof Error ? error.message : "it is damaged"}`);
    } finally {
      if (!signal.aborted) this.tell("");
    }
  }

  /** Niivue is a megabyte of program: it is fetched when the first volume is opened. */
  private async volumeView(): Promise<VolumeView | null> {
    if (this.view !== undefined) return this.view;
    try {
      const { VolumeView } = await import("./volume.ts");
      this.view = await VolumeView.on(this.parts.volume);
    } catch {
      this.view = null;
      this.onTrouble("This browser shows slices one by one: it has no WebGL 2, which volumes and their labels need.");
    }
    return this.view;
  }

  private async paintPicture(): Promise<void> {
    const { study } = this;
    if (!study) return;
    this.paints.abort();
    this.paints = new AbortController();
    const { signal } = this.paints;
    try {
      const path = `v1/studies/${study.id}/slices/${this.axial}.png?view=${this.sequence}`;
      const picture = await this.api.blob(path, signal);
      if (!signal.aborted && !this.hasVolume) this.showPicture(picture, this.description());
    } catch (error) {
      if (!signal.aborted) this.onTrouble(error instanceof Error ? error.message : "The slice cannot be shown.");
    }
  }

  private showPicture(picture: Blob, description: string): void {
    URL.revokeObjectURL(this.pictureUrl);
    this.pictureUrl = URL.createObjectURL(picture);
    this.picture.show(this.pictureUrl, description);
  }

  /** What is on the stage, for those who do not see it. */
  description(): string {
    if (!this.study) return "";
    if (this.study.volumes.length === 0) return described(this.study);
    const plane = this.plane === "all" ? "three planes" : this.plane;
    return `${described(this.study)}: ${plane}, slice ${this.position + 1} of ${this.count}`;
  }

  private hideVolume(): void {
    this.hasVolume = false;
    this.parts.volume.hidden = true;
  }

  private close(): void {
    this.loads.abort();
    this.hideVolume();
    this.picture.hide();
    this.tell("");
    this.onMoved();
  }

  private tell(sentence: string): void {
    this.parts.loading.textContent = sentence;
    this.parts.loading.hidden = !sentence;
  }
}
