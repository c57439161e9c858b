// What a display device is connected to: its picture, and those who look at it. Nothing is drawn,
// and no timer runs, while nobody waits for a change.

import type { DisplayBackend, Picture, Rectangle } from "../../core/plugin.ts";

/** A change is looked for so often while somebody waits for one, in milliseconds: 40 times a second. */
const LOOK_MS = 25;

/** Somebody who looks at a display. */
export interface Viewer {
  /** The display has another picture, whose size may be another. */
  resized(): void;
  /** Parts of the picture have changed. */
  changed(parts: readonly Rectangle[]): void;
  /** Whether it waits for a change. */
  readonly waits: boolean;
}

/** One display of a machine. */
export class Display implements DisplayBackend {
  #picture: Picture | undefined;
  readonly #viewers = new Set<Viewer>();
  #timer: ReturnType<typeof setTimeout> | undefined;

  show(picture: Picture): void {
    this.#picture = picture;
    for (const viewer of this.#viewers) viewer.resized();
    this.look();
  }

  /** The present picture; undefined before the device has any. */
  get picture(): Picture | undefined {
    return this.#picture;
  }

  /**
   * Adds somebody who looks.
   *
   * @param viewer Who.
   */
  add(viewer: Viewer): void {
    this.#viewers.add(viewer);
  }

  /**
   * Somebody looks no longer.
   *
   * @param viewer Who.
   */
  remove(viewer: Viewer): void {
    this.#viewers.delete(viewer);
  }

  /**
   * Brings the picture up to date, and tells everybody what has changed.
   *
   * @returns The picture: that of the mode which the device is in now.
   */
  update(): Picture | undefined {
    for (;;) {
      const picture = this.#picture;
      const parts = picture?.update() ?? [];
      // The device may have found that it is in another mode.
      if (picture !== this.#picture) continue;
      if (parts.length > 0) {
        for (const viewer of this.#viewers) viewer.changed(parts);
      }
      return picture;
    }
  }

  /** Looks for changes from now on, for as long as somebody waits for one. */
  look(): void {
    if (this.#timer !== undefined || !this.#isAwaited) return;
    const timer = setTimeout(() => {
      this.#timer = undefined;
      if (!this.#isAwaited) return;
      this.update();
      this.look();
    }, LOOK_MS);
    Deno.unrefTimer(timer);
    this.#timer = timer;
  }

  get #isAwaited(): boolean {
    return [...this.#viewers].some((viewer) => viewer.waits);
  }
}
