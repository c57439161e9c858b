// No network: the cable is out.

import type { Net } from "./types.ts";

/**
 * Opens nothing.
 *
 * @returns A network without a link, which takes every frame and keeps none.
 */
export function openNone(): Net {
  return {
    link: false,
    send: () => true,
    onReceive: () => {},
    ready: () => {},
    onDrain: () => {},
    onLink: () => {},
    close: () => Promise.resolve(),
  };
}
