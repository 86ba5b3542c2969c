/** The viewer of pictures: flat studies, and slices as the server renders them while a volume is on its way. */

import { clampZoom, type Camera } from "./camera.ts";

export class PictureView implements Camera {
  private readonly image: HTMLImageElement;
  private zoom = 1;
  private right = 0;
  private down = 0;

  constructor(image: HTMLImageElement) {
    this.image = image;
  }

  show(source: string, description: string): void {
    this.image.src = source;
    this.image.alt = description;
    this.image.hidden = false;
  }

  hide(): void {
    this.image.hidden = true;
  }

  zoomBy(factor: number): void {
    const zoom = clampZoom(this.zoom * factor);
    this.right *= zoom / this.zoom;
    this.down *= zoom / this.zoom;
    this.zoom = zoom;
    this.place();
  }

  panBy(right: number, down: number): void {
    this.right += right;
    this.down += down;
    this.place();
  }

  fit(): void {
    this.zoom = 1;
    this.right = this.down = 0;
    this.place();
  }

  private place(): void {
    this.image.style.transform = `translate(${this.right}px, ${this.down}px) scale(${this.zoom})`;
  }
}
