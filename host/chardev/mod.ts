// Chardevs by the text of a console's `backend=` option.

import { didYouMean } from "../../core/nearest.ts";
import type { EscapeCommands } from "../terminal.ts";
import { type Chardev, ChardevError } from "./types.ts";

export { type Chardev, ChardevError } from "./types.ts";

/** What chardevs may need of the program. */
export interface ChardevHost {
  /** The guest goes on from a snapshot: what it has written to files stays. */
  isRestored?: boolean;
  /** What the keys after Ctrl-A do. */
  escape: EscapeCommands;
  /**
   * Tells the user something that they need to know, such as the path of a terminal.
   *
   * @param message One line.
   */
  notify(message: string): void;
}

/** The forms of `backend=`. */
const FORMS = ["stdio", "null", "file=PATH", "unix=PATH", "pty"];

/** Standard input can feed one console. */
let stdioOwner: string | undefined;

/**
 * Opens a chardev. Each kind's module is loaded when it is first used.
 *
 * @param text `stdio`, `null`, `file=PATH`, `unix=PATH` or `pty`.
 * @param id The id of the device it is for, for messages.
 * @param host What it may need.
 * @returns The chardev, open.
 * @throws {ChardevError} If the text is malformed, or the host refuses.
 */
export async function openChardev(
  text: string,
  id: string,
  host: ChardevHost,
): Promise<Chardev> {
  const equals = text.indexOf("=");
  const kind = equals < 0 ? text : text.slice(0, equals);
  const path = equals < 0 ? undefined : text.slice(equals + 1);
  const form = FORMS.find((form) => form.split("=")[0] === kind);
  if (form === undefined) {
    throw new ChardevError(
      `unknown backend "${text}" of ${id}: expected one of ${
        FORMS.join(", ")
      }.${didYouMean(kind, FORMS.map((form) => form.split("=")[0]))}`,
    );
  }
  if (form.includes("=") !== (path !== undefined && path !== "")) {
    throw new ChardevError(
      `malformed backend "${text}" of ${id}: write backend=${form}`,
    );
  }
  switch (kind) {
    case "stdio": {
      if (stdioOwner !== undefined) {
        throw new ChardevError(
          `${id} and ${stdioOwner} both want backend=stdio: give one of them another backend (${
            FORMS.slice(1).join(", ")
          })`,
        );
      }
      const { StdioChardev } = await import("./stdio.ts");
      const chardev = new StdioChardev(host.escape);
      stdioOwner = id;
      const close = chardev.close.bind(chardev);
      chardev.close = () => {
        stdioOwner = undefined;
        return close();
      };
      return chardev;
    }
    case "file":
      return (await import("./file.ts")).FileChardev.open(
        path!,
        host.isRestored,
      );
    case "unix":
      return await (await import("./unix.ts")).UnixChardev.open(path!);
    case "pty": {
      const pty = (await import("./pty.ts")).PtyChardev.open();
      host.notify(`${id}: console on ${pty.path}`);
      return pty;
    }
    default:
      return new (await import("./null.ts")).NullChardev();
  }
}
