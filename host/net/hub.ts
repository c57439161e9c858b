// A hub: every card that is connected to one of the same name gets what the others send.

import { Inbox, type Net } from "./types.ts";

const hubs = new Map<string, Set<HubPort>>();

class HubPort implements Net {
  readonly link = true;
  readonly #name: string;
  readonly #ports: Set<HubPort>;
  readonly #inbox = new Inbox();

  constructor(name: string) {
    this.#name = name;
    this.#ports = hubs.get(name) ?? new Set();
    this.#ports.add(this);
    hubs.set(name, this.#ports);
  }

  send(frame: Uint8Array): boolean {
    for (const port of this.#ports) {
      if (port !== this) port.#inbox.push(frame);
    }
    return true;
  }

  onReceive(accept: (frame: Uint8Array) => boolean): void {
    this.#inbox.onReceive(accept);
  }

  ready(): void {
    this.#inbox.ready();
  }

  onDrain(): void {}

  onLink(): void {}

  // deno-lint-ignore require-await -- what it throws becomes a rejection
  async close(): Promise<void> {
    this.#ports.delete(this);
    if (this.#ports.size === 0) hubs.delete(this.#name);
  }
}

/**
 * Connects to a hub of this process; the first connection makes it.
 *
 * @param name Its name.
 * @returns The connection.
 */
export function openHub(name: string): Net {
  return new HubPort(name);
}
