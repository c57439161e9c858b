// Networks by the text of a card's `net=` option.

import { didYouMean } from "../../core/nearest.ts";
import { type Net, NetError } from "./types.ts";

export { type Net, NetError } from "./types.ts";

/** What a card's options say of its network. */
export interface NetOptions {
  /** The kind of network and what it is connected to; one of {@linkcode NET_FORMS}. */
  net?: string;
  /** Ports of the host that lead to the guest, for `user`. */
  hostfwd?: string;
  /** Whether the guest reaches nothing outside, for `user`. */
  restrict?: boolean;
  /** A file that all frames are captured in. */
  pcap?: string;
}

/** The forms of `net=`. */
export const NET_FORMS: readonly string[] = [
  "user",
  "hub=NAME",
  "listen=ADDRESS",
  "connect=ADDRESS",
  "dgram=LOCAL-REMOTE",
  "tap=NAME",
  "none",
];

/**
 * Opens the network of a card. Each kind's module is loaded when it is first used.
 *
 * @param options What to open.
 * @param id The card's id, for messages.
 * @param notify Tells the user what they need to know while it runs.
 * @returns The network; its user closes it.
 * @throws {NetError} When the text is malformed, or the host refuses.
 */
export async function openNet(
  options: NetOptions,
  id: string,
  notify: (message: string) => void = () => {},
): Promise<Net> {
  const { pcap } = options;
  if (pcap === "") {
    throw new NetError(`pcap= of ${id} is empty: give the path of a file`);
  }
  const net = await openKind(options, id, notify);
  if (pcap === undefined) return net;
  const { capture } = await import("./pcap.ts");
  try {
    return capture(net, pcap, id, notify);
  } catch (error) {
    await net.close();
    throw error;
  }
}

async function openKind(
  options: NetOptions,
  id: string,
  notify: (message: string) => void,
): Promise<Net> {
  const { net = "user", hostfwd, restrict } = options;
  const equals = net.indexOf("=");
  const kind = equals < 0 ? net : net.slice(0, equals);
  const value = equals < 0 ? "" : net.slice(equals + 1);
  const form = NET_FORMS.find((form) => form.split("=")[0] === kind);
  if (form === undefined) {
    throw new NetError(
      `unknown network "${net}" of ${id}: expected one of ${
        NET_FORMS.join(", ")
      }.${didYouMean(kind, NET_FORMS.map((form) => form.split("=")[0]))}`,
    );
  }
  if (form.includes("=") !== (value !== "")) {
    throw new NetError(
      `malformed network "${net}" of ${id}: write net=${form}`,
    );
  }
  if (kind !== "user" && (hostfwd !== undefined || restrict !== undefined)) {
    throw new NetError(
      `hostfwd and restrict of ${id} are for net=user, but its network is "${net}"`,
    );
  }
  switch (kind) {
    case "user": {
      const { openUser } = await import("./user/mod.ts");
      return await openUser({ hostfwd, restrict }, id);
    }
    case "hub": {
      const { openHub } = await import("./hub.ts");
      return openHub(value);
    }
    case "listen":
    case "connect": {
      const { openStream } = await import("./stream.ts");
      return await openStream(kind, value, id, notify);
    }
    case "dgram": {
      const { openDgram } = await import("./dgram.ts");
      return await openDgram(value, id);
    }
    case "tap": {
      const { openTap } = await import("./tap.ts");
      return openTap(value, id);
    }
    default: {
      const { openNone } = await import("./none.ts");
      return openNone();
    }
  }
}
