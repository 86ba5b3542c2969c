/** The segmentations over the image: a group for each finding, a box for each label. */

import { element, uniqueId } from "./element.ts";
import type { Label } from "./palette.ts";
import { swatch } from "./swatch.ts";

const MANY = 6;

export interface Layer {
  key: string;
  title: string;
  labels: readonly Label[];
  shown: Set<number>;
}

export class Layers {
  private readonly panel: HTMLElement;
  private readonly groups: HTMLElement;
  private readonly layers = new Map<string, Layer>();
  private readonly onChange: (layer: Layer) => void;

  constructor(panel: HTMLElement, groups: HTMLElement, onChange: (layer: Layer) => void) {
    this.panel = panel;
    this.groups = groups;
    this.onChange = onChange;
  }

  get(key: string): Layer | undefined {
    return this.layers.get(key);
  }

  all(): Layer[] {
    return [...this.layers.values()];
  }

  /** Add a layer with all its labels shown; the others are hidden, so that one finding is seen at a time. */
  add(key: string, title: string, labels: readonly Label[]): Layer {
    const layer: Layer = { key, title, labels, shown: new Set() };
    this.layers.set(key, layer);
    this.groups.prepend(this.group(layer));
    this.panel.hidden = false;
    this.only(key);
    return layer;
  }

  /** Show all of one layer and nothing of the others. */
  only(key: string): void {
    for (const layer of this.layers.values()) {
      this.show(layer, layer.key === key ? layer.labels.map(({ id }) => id) : []);
    }
  }

  clear(): void {
    this.layers.clear();
    this.groups.replaceChildren();
    this.panel.hidden = true;
  }

  private show(layer: Layer, ids: readonly number[]): void {
    layer.shown = new Set(ids);
    for (const box of this.boxes(layer)) box.checked = layer.shown.has(Number(box.value));
    this.summarise(layer);
    this.onChange(layer);
  }

  private boxes(layer: Layer): HTMLInputElement[] {
    return [...this.groups.querySelectorAll<HTMLInputElement>(`[data-layer="${layer.key}"] .label input`)];
  }

  /** The box of the whole layer says whether all, some or none of its labels are shown. */
  private summarise(layer: Layer): void {
    const whole = this.groups.querySelector<HTMLInputElement>(`[data-layer="${layer.key}"] .whole input`);
    if (!whole) return;
    whole.checked = layer.shown.size > 0 && layer.shown.size === layer.labels.length;
    whole.indeterminate = layer.shown.size > 0 && !whole.checked;
  }

  private group(layer: Layer): HTMLElement {
    const title = uniqueId("layer");
    const whole = element("input", { type: "checkbox" });
    whole.addEventListener("change", () => this.show(layer, whole.checked ? layer.labels.map(({ id }) => id) : []));
    const head = element("label", { class: "whole", id: title }, whole, layer.title);
    const list = element("div", { class: "labels" }, ...layer.labels.map((label) => this.label(layer, label)));
    const group = element("div", { class: "layer", role: "group", "aria-labelledby": title, "data-layer": layer.key }, head);
    if (layer.labels.length <= MANY) group.append(list);
    else group.append(element("details", {}, element("summary", {}, `${layer.labels.length} labels`), list));
    return group;
  }

  private label(layer: Layer, { id, name, color }: Label): HTMLElement {
    const box = element("input", { type: "checkbox", value: String(id) });
    box.addEventListener("change", () => {
      if (box.checked) layer.shown.add(id);
      else layer.shown.delete(id);
      this.summarise(layer);
      this.onChange(layer);
    });
    return element("label", { class: "label" }, box, swatch(color), name);
  }
}
