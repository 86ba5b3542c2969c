/** The viewer of volumes: Niivue, told which slice, plane, window and labels to show. Loaded only where it can run. */

import { NVImage, Niivue, SLICE_TYPE } from "@niivue/niivue";

import { clampZoom, type Camera } from "./camera.ts";
import { channels, type Label } from "./palette.ts";

export type Plane = "axial" | "coronal" | "sagittal" | "all";
/** Lowest and highest intensity shown. */
export type Window = readonly [number, number];

const TYPES: Readonly<Record<Plane, SLICE_TYPE>> = {
  axial: SLICE_TYPE.AXIAL,
  coronal: SLICE_TYPE.CORONAL,
  sagittal: SLICE_TYPE.SAGITTAL,
  all: SLICE_TYPE.MULTIPLANAR,
};
/** The axis along which a plane is scrolled: X right, Y anterior, Z superior. */
const AXIS: Readonly<Record<Plane, number>> = { sagittal: 0, coronal: 1, axial: 2, all: 2 };
const OPAQUE = 255;

/** A segmentation over the image, and which of its labels are shown. */
export interface Overlay {
  labels: readonly Label[];
  shown: ReadonlySet<number>;
  opacity: number;
}

export class VolumeView implements Camera {
  private readonly niivue: Niivue;
  private readonly overlays = new Map<string, NVImage>();
  private readonly canvas: HTMLCanvasElement;
  private asSeen: Window = [0, 1];
  private plane: Plane = "axial";

  private constructor(niivue: Niivue, canvas: HTMLCanvasElement) {
    this.niivue = niivue;
    this.canvas = canvas;
  }

  /**
   * A viewer on a new canvas in `place`; its text for those who do not see it is the caller's.
   *
   * @throws where the browser has no WebGL 2.
   */
  static async on(place: HTMLElement): Promise<VolumeView> {
    const canvas = document.createElement("canvas");
    place.replaceChildren(canvas);
    const niivue = new Niivue({
      interactive: false,
      dragAndDropEnabled: false,
      isRadiologicalConvention: true,
      showAllOrientationMarkers: true,
      sliceType: SLICE_TYPE.AXIAL,
      crosshairWidth: 0,
      crosshairColor: [0.37, 0.71, 0.83, 0.7],
      fontColor: [0.72, 0.78, 0.84, 1],
      fontMinPx: 14,
      fontSizeScaling: 0,
      backColor: [0, 0, 0, 1],
      loadingText: "",
      logLevel: "error",
    });
    await niivue.attachToCanvas(canvas, true);
    return new VolumeView(niivue, canvas);
  }

  /** Show another image, without overlays, on its middle slices. */
  async load(bytes: ArrayBuffer): Promise<void> {
    const image = await read(bytes, "image.nii.gz", "gray");
    for (const volume of [...this.niivue.volumes].reverse()) this.niivue.removeVolume(volume);
    this.overlays.clear();
    this.asSeen = [image.cal_min ?? 0, image.cal_max ?? 1];
    this.niivue.addVolume(image);
    this.niivue.scene.crosshairPos = [0.5, 0.5, 0.5];
    this.fit();
  }

  get planeShown(): Plane {
    return this.plane;
  }

  get count(): number {
    return this.dimension(AXIS[this.plane]);
  }

  get slice(): number {
    const axis = AXIS[this.plane];
    return Math.round(this.niivue.frac2vox(this.niivue.scene.crosshairPos)[axis] ?? 0);
  }

  set slice(index: number) {
    const axis = AXIS[this.plane];
    const voxel = [...this.niivue.frac2vox(this.niivue.scene.crosshairPos)] as [number, number, number];
    voxel[axis] = index;
    this.niivue.scene.crosshairPos = this.niivue.vox2frac(voxel);
    this.niivue.drawScene();
  }

  look(plane: Plane): void {
    this.plane = plane;
    this.niivue.opts.crosshairWidth = plane === "all" ? 1 : 0;
    this.niivue.setSliceType(TYPES[plane]);
  }

  /** Intensities from black to white; without a window, those that the model is shown. */
  window(range?: Window): void {
    const [image] = this.niivue.volumes;
    if (!image) return;
    [image.cal_min, image.cal_max] = range ?? this.asSeen;
    this.niivue.updateGLVolume();
  }

  async overlay(key: string, bytes: ArrayBuffer, overlay: Overlay): Promise<void> {
    const mask = await read(bytes, `${key}.nii.gz`, "");
    this.overlays.set(key, mask);
    mask.setColormapLabel(colormap(overlay));
    mask.opacity = overlay.opacity;
    this.niivue.addVolume(mask);
  }

  /** Change which labels of an overlay are shown, and how strongly. */
  paint(key: string, overlay: Overlay): void {
    const mask = this.overlays.get(key);
    if (!mask) return;
    mask.setColormapLabel(colormap(overlay));
    mask.opacity = overlay.opacity;
    this.niivue.updateGLVolume();
  }

  /** Move the cross of the three planes to a place on the canvas. */
  point(x: number, y: number): void {
    this.niivue.mouseClick(x, y);
  }

  zoomBy(factor: number): void {
    const [x, y, z, zoom] = this.pan();
    const next = clampZoom(zoom * factor);
    this.niivue.setPan2Dxyzmm([x, y, z, next]);
  }

  panBy(right: number, down: number): void {
    const [x, y, z, zoom] = this.pan();
    const step = this.millimetresPerPixel() / zoom;
    const left = this.plane === "sagittal" ? 0 : -right * step; // the patient's right is on the left
    const forward = this.plane === "sagittal" ? right * step : this.plane === "axial" ? -down * step : 0;
    const upward = this.plane === "axial" ? 0 : -down * step;
    this.niivue.setPan2Dxyzmm([x + left, y + forward, z + upward, zoom]);
  }

  fit(): void {
    this.niivue.setPan2Dxyzmm([0, 0, 0, 1]);
  }

  private pan(): [number, number, number, number] {
    const [x = 0, y = 0, z = 0, zoom = 1] = this.niivue.scene.pan2Dxyzmm;
    return [x, y, z, zoom];
  }

  private dimension(axis: number): number {
    return this.niivue.volumes[0]?.dimsRAS?.[axis + 1] ?? 1;
  }

  private millimetresPerPixel(): number {
    const [image] = this.niivue.volumes;
    const [across, along] = ([0, 1, 2] as const).filter((axis) => axis !== AXIS[this.plane]);
    const length = (axis = 0): number => this.dimension(axis) * (image?.pixDimsRAS?.[axis + 1] ?? 1);
    return Math.max(length(across) / this.canvas.clientWidth, length(along) / this.canvas.clientHeight);
  }
}

async function read(bytes: ArrayBuffer, name: string, colormap: string): Promise<NVImage> {
  return NVImage.loadFromUrl({ url: bytes, name, colormap });
}

/** Colours by label id; what is not shown is transparent, as is what is no label. */
function colormap({ labels, shown }: Overlay): { R: number[]; G: number[]; B: number[]; A: number[]; I: number[] } {
  const listed = [{ id: 0, color: "#000000" }, ...labels];
  const colors = listed.map(({ color }) => channels(color));
  return {
    R: colors.map(([red]) => red),
    G: colors.map(([, green]) => green),
    B: colors.map(([, , blue]) => blue),
    A: listed.map(({ id }) => (shown.has(id) ? OPAQUE : 0)),
    I: listed.map(({ id }) => id),
  };
}
