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
}

/** The forms of `net=`. */
export const NET_FORMS: readonly string[] = ["user", "hub=NAME", "none"];

/**
 * Opens the network of a card. Each kind's module is loaded when it is first used.
 *
 * @param options What to open.
 * @param id The card's id, for messages.
 * @returns The network; its user closes it.
 * @throws {NetError} When the text is malformed, or the host refuses.
 */
export async function openNet(options: NetOptions, id: string): Promise<Net> {
  const { net = "user", hostfwd, restrict } = options;
  const equals = net.indexOf("=");
  const kind = equals < 0 ? net : net.slice(0, equals);
  const value = equals < 0 ? undefined : net.slice(equals + 1);
  const form = NET_FORMS.find((form) => form.split("=")[0] === kind);
  if (form === undefined) {
    throw new NetError(
      `unknown network "${net}" of ${id}: expected one of ${
        NET_FORMS.join(", ")
      }.${didYouMean(kind, NET_FORMS.map((form) => form.split("=")[0]))}`,
    );
  }
  if (form.includes("=") !== (value !== undefined && value !== "")) {
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
      return openHub(value!);
    }
    default: {
      const { openNone } = await import("./none.ts");
      return openNone();
    }
  }
}
