/**
 * A network for the tests of cards: the test is everything at the other end of the cable.
 *
 * @module
 */
import type { NetBackend } from "../../core/plugin.ts";

/** The network. */
export class TestNet implements NetBackend {
  /** Frames that the card has sent. */
  readonly sent: Uint8Array[] = [];
  /** Frames that the card had no room for. */
  readonly held: Uint8Array[] = [];
  /** The network is full. */
  full = false;
  #link = true;
  #accept: (frame: Uint8Array) => boolean = () => false;
  #drained: () => void = () => {};
  #linkChanged: () => void = () => {};

  /** Whether the cable is in. */
  get link(): boolean {
    return this.#link;
  }
  set link(value: boolean) {
    this.#link = value;
    this.#linkChanged();
  }

  send(frame: Uint8Array): boolean {
    if (this.full) return false;
    this.sent.push(frame.slice());
    return true;
  }

  onReceive(accept: (frame: Uint8Array) => boolean): void {
    this.#accept = accept;
  }

  ready(): void {
    while (this.held.length > 0 && this.#accept(this.held[0])) {
      this.held.shift();
    }
  }

  onDrain(listener: () => void): void {
    this.#drained = listener;
  }

  onLink(listener: () => void): void {
    this.#linkChanged = listener;
  }

  /** The other end sends a frame; it is held when the card has no room. */
  deliver(frame: Uint8Array): void {
    if (this.held.length > 0 || !this.#accept(frame)) this.held.push(frame);
  }

  /** The network has room again. */
  drain(): void {
    this.full = false;
    this.#drained();
  }
}

/**
 * Makes an Ethernet frame.
 *
 * @param to Destination.
 * @param from Source.
 * @param length Bytes of payload, numbered.
 * @param type EtherType.
 */
export function frameTo(
  to: Uint8Array,
  from: Uint8Array,
  length: number,
  type = 0x88b5,
): Uint8Array {
  const frame = new Uint8Array(14 + length);
  frame.set(to);
  frame.set(from, 6);
  frame.set([type >>> 8, type & 0xff], 12);
  for (let i = 0; i < length; i++) frame[14 + i] = i;
  return frame;
}

/** Everybody. */
export const BROADCAST: Uint8Array = new Uint8Array(6).fill(0xff);
