/** What gestures and buttons move, whichever of the two viewers is shown. */

export interface Camera {
  zoomBy(factor: number): void;
  /** By so many CSS pixels. */
  panBy(right: number, down: number): void;
  fit(): void;
}

export const LEAST_ZOOM = 0.5;
export const MOST_ZOOM = 12;

export function clampZoom(zoom: number): number {
  return Math.min(MOST_ZOOM, Math.max(LEAST_ZOOM, zoom));
}
