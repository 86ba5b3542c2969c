/** The studies of this caller: pick one, upload one, remove one. Names of files stay in this tab. */

import { alertIn, announce } from "./announce.ts";
import { Refused, type Api } from "./api.ts";
import { byId, element } from "./element.ts";
import { described, moment } from "./words.ts";
import type { Study } from "./wire.ts";

export class Studies {
  private readonly api: Api;
  private readonly onChosen: (study: Study | undefined) => void;
  private readonly select = byId("studies", HTMLSelectElement);
  private readonly input = byId("files", HTMLInputElement);
  private readonly alert = byId("viewer-alert", HTMLElement);
  private readonly progress = byId("upload", HTMLProgressElement);
  private readonly named = new Map<string, string>();
  private readonly forgotten = new Set<string>();
  private known: Study[] = [];

  constructor(api: Api, onChosen: (study: Study | undefined) => void) {
    this.api = api;
    this.onChosen = onChosen;
    this.select.addEventListener("change", () => this.choose(this.select.value));
    byId("open-files", HTMLButtonElement).addEventListener("click", () => this.input.click());
    byId("forget", HTMLButtonElement).addEventListener("click", () => void this.forget());
    this.input.addEventListener("change", () => void this.upload([...(this.input.files ?? [])]));
    this.dropOn(byId("stage", HTMLElement));
  }

  /** Read anew what the server has; what came or went in this tab while the list was on its way is newer than the list. */
  async refresh(): Promise<void> {
    const before = new Set(this.known.map(({ id }) => id));
    const listed = (await this.api.studies()).filter(({ id }) => !this.forgotten.has(id));
    const ids = new Set(listed.map(({ id }) => id));
    this.known = [...this.known.filter(({ id }) => !before.has(id) && !ids.has(id)), ...listed];
    this.list(this.select.value);
  }

  private choose(id: string): void {
    this.list(id);
    this.onChosen(this.known.find((study) => study.id === id));
  }

  private list(chosen: string): void {
    const options = this.known.map((study) => element("option", { value: study.id }, this.title(study)));
    this.select.replaceChildren(element("option", { value: "" }, "No study chosen"), ...options);
    this.select.value = this.known.some(({ id }) => id === chosen) ? chosen : "";
    byId("forget", HTMLElement).hidden = !this.select.value;
  }

  private title(study: Study): string {
    const name = this.named.get(study.id);
    return `${name ? `${name} · ` : ""}${described(study)} · ${moment(study.created)}`;
  }

  private async upload(files: File[]): Promise<void> {
    this.input.value = "";
    const [first] = files;
    if (!first) return;
    alertIn(this.alert, "");
    this.progress.hidden = false;
    announce("Uploading");
    try {
      const study = await this.api.upload(files, (fraction) => (this.progress.value = fraction));
      this.named.set(study.id, files.length === 1 ? first.name : `${files.length} files`);
      this.known.unshift(study);
      this.choose(study.id);
      announce(`Uploaded: ${described(study)}`);
    } catch (error) {
      alertIn(this.alert, error instanceof Refused ? error.message : "The upload failed; try again.");
    } finally {
      this.progress.hidden = true;
      this.progress.value = 0;
    }
  }

  private async forget(): Promise<void> {
    const study = this.known.find(({ id }) => id === this.select.value);
    if (!study || !confirm(`Remove ${this.title(study)} from the server?`)) return;
    try {
      await this.api.forget(study);
      this.forgotten.add(study.id);
      this.known = this.known.filter(({ id }) => id !== study.id);
      this.choose("");
      announce("Removed");
    } catch (error) {
      alertIn(this.alert, error instanceof Error ? error.message : "It could not be removed; try again.");
    }
  }

  private dropOn(place: HTMLElement): void {
    const mark = (over: boolean) => (event: DragEvent) => {
      event.preventDefault();
      place.classList.toggle("over", over);
    };
    place.addEventListener("dragover", mark(true));
    place.addEventListener("dragleave", mark(false));
    place.addEventListener("drop", (event) => {
      mark(false)(event);
      void this.upload([...(event.dataTransfer?.files ?? [])]);
    });
  }
}
