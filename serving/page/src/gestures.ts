/** Wheel, mouse and fingers on the stage: scroll through slices, zoom, move, point. */

import type { Camera } from "./camera.ts";

export interface Target {
  readonly camera: Camera;
  /** Go so many slices up. */
  step(slices: number): void;
  /** A place was pointed at, in CSS pixels of the stage; true if that meant something. */
  point(x: number, y: number): boolean;
}

const WHEEL_STEP = 40;
const DRAG_STEP = 8;
const ZOOM_STEP = 1.2;
const PRIMARY = 0;

interface Finger {
  x: number;
  y: number;
}

export class Gestures {
  private readonly stage: HTMLElement;
  private readonly target: Target;
  private readonly fingers = new Map<number, Finger>();
  private wheel = 0;
  private drag = 0;

  constructor(stage: HTMLElement, target: Target) {
    this.stage = stage;
    this.target = target;
    stage.addEventListener("wheel", (event) => this.onWheel(event), { passive: false });
    stage.addEventListener("pointerdown", (event) => this.onDown(event));
    stage.addEventListener("pointermove", (event) => this.onMove(event));
    for (const end of ["pointerup", "pointercancel"] as const) stage.addEventListener(end, (event) => this.onUp(event));
    stage.addEventListener("dblclick", () => target.camera.fit());
    stage.addEventListener("contextmenu", (event) => event.preventDefault());
  }

  private onWheel(event: WheelEvent): void {
    event.preventDefault();
    if (event.ctrlKey || event.metaKey) {
      this.target.camera.zoomBy(event.deltaY < 0 ? ZOOM_STEP : 1 / ZOOM_STEP);
      return;
    }
    this.wheel -= event.deltaY;
    this.wheel = this.whole(this.wheel, WHEEL_STEP);
  }

  private onDown(event: PointerEvent): void {
    this.stage.setPointerCapture(event.pointerId);
    const finger = { x: event.clientX, y: event.clientY };
    this.fingers.set(event.pointerId, finger);
    this.drag = 0;
    if (event.button === PRIMARY) this.pointed(event);
  }

  private onMove(event: PointerEvent): void {
    const before = this.fingers.get(event.pointerId);
    if (!before) return;
    const right = event.clientX - before.x;
    const down = event.clientY - before.y;
    if (this.fingers.size === 2) this.pinch(event, right, down);
    else if (event.shiftKey || (event.buttons & 1) === 0) this.target.camera.panBy(right, down);
    else if (!this.pointed(event)) this.drag = this.whole(this.drag - down, DRAG_STEP);
    this.fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  }

  private onUp(event: PointerEvent): void {
    this.fingers.delete(event.pointerId);
  }

  private pointed(event: PointerEvent): boolean {
    const { left, top } = this.stage.getBoundingClientRect();
    return this.target.point(event.clientX - left, event.clientY - top);
  }

  /** Two fingers: their distance zooms, their middle moves. */
  private pinch(event: PointerEvent, right: number, down: number): void {
    const other = [...this.fingers].find(([id]) => id !== event.pointerId)?.[1];
    const before = this.fingers.get(event.pointerId);
    if (!other || !before) return;
    const now = Math.hypot(event.clientX - other.x, event.clientY - other.y);
    const then = Math.hypot(before.x - other.x, before.y - other.y);
    if (then > 0) this.target.camera.zoomBy(now / then);
    this.target.camera.panBy(right / 2, down / 2);
  }

  /** Go the whole steps that have come together; returns what is left. */
  private whole(sum: number, step: number): number {
    const steps = Math.trunc(sum / step);
    if (steps !== 0) this.target.step(steps);
    return sum - steps * step;
  }
}
