// The control socket: QMP, QEMU's machine protocol ("QEMU Machine Protocol Specification",
// docs/interop/qmp-spec), over a UNIX socket that only its owner opens. Replies, error classes and
// their texts are those of QEMU, so that its clients work. Unlike there, several clients may be
// connected at a time.

import { dirname } from "node:path";
import { JsonMessages } from "./json_messages.ts";

/** The type of an argument. */
export type ArgumentType =
  | "string"
  | "boolean"
  | "number"
  | "object"
  | "array";

/** The arguments of a command, as they were checked. */
export type ControlArguments = Readonly<Record<string, unknown>>;

/** A command. */
export interface ControlCommand {
  /** Its arguments; those whose type ends with `?` may be left out. */
  readonly arguments?: Readonly<
    Record<string, ArgumentType | `${ArgumentType}?`>
  >;
  /** What it does; what it returns, or `{}`, is the reply. */
  run(args: ControlArguments): unknown | Promise<unknown>;
}

/** Error classes of the protocol. */
export type ErrorClass =
  | "GenericError"
  | "CommandNotFound"
  | "DeviceNotActive"
  | "DeviceNotFound";

/** An error that a client is told. */
export class ControlError extends Error {
  /** The class's name, as `Error` has it. */
  override name = "ControlError";
  /** Its class in the protocol. */
  readonly errorClass: ErrorClass;

  /**
   * @param message What is wrong.
   * @param errorClass Its class.
   */
  constructor(message: string, errorClass: ErrorClass = "GenericError") {
    super(message);
    this.errorClass = errorClass;
  }
}

/** A control socket that listens. */
export interface ControlSocket {
  /** Tells every client that has negotiated. */
  event(name: string, data?: Record<string, unknown>): void;
  /** Ends listening, closes every connection, removes the socket. */
  close(): Promise<void>;
}

/** Bytes of a message at most; a longer one ends the connection. */
export const MAX_MESSAGE = 1 << 20;
/** Bytes that wait for a client to read them at most; a client with more is cut off. */
export const MAX_UNREAD = 1 << 20;
const OWNER_ONLY = 0o177;
/** Bytes of a socket's path at most: sun_path with its end (unix(7)). */
const MAX_PATH = 107;
/** How long the last messages may take when the machine ends, in milliseconds. */
const FAREWELL_MS = 200;
const HANDSHAKE = "qmp_capabilities";
const MEMBERS: readonly string[] = ["execute", "arguments", "id"];

function now(): { seconds: number; microseconds: number } {
  const ms = Date.now();
  return {
    seconds: Math.floor(ms / 1000),
    microseconds: (ms % 1000) * 1000,
  };
}

class Client {
  readonly #connection: Deno.UnixConn;
  #writing: Promise<void> = Promise.resolve();
  /** Bytes that are sent but not yet taken. */
  #unread = 0;
  /** Whether `qmp_capabilities` was given: no other command is taken before. */
  ready = false;

  constructor(connection: Deno.UnixConn) {
    this.#connection = connection;
  }

  /** Resolves when the client has taken it, or has gone. */
  send(message: unknown): Promise<void> {
    const bytes = new TextEncoder().encode(`${JSON.stringify(message)}\r\n`);
    this.#unread += bytes.length;
    if (this.#unread > MAX_UNREAD + bytes.length) this.close();
    this.#writing = this.#writing.then(async () => {
      for (let at = 0; at < bytes.length;) {
        at += await this.#connection.write(bytes.subarray(at));
      }
      this.#unread -= bytes.length;
    }).catch(() => {}); // A client that has gone needs no reply.
    return this.#writing;
  }

  /** Resolves when everything was taken. */
  get written(): Promise<void> {
    return this.#writing;
  }

  /** The messages that it sends, until it goes. */
  async *messages(): AsyncGenerator<string> {
    const messages = new JsonMessages(MAX_MESSAGE);
    const buffer = new Uint8Array(1 << 16);
    for (;;) {
      const read = await this.#connection.read(buffer).catch(() => null);
      if (read === null) return;
      yield* messages.push(buffer.subarray(0, read));
    }
  }

  close(): void {
    try {
      this.#connection.close();
    } catch {
      // It has gone.
    }
  }
}

/** Checks the arguments of a command. */
function checkArguments(
  types: NonNullable<ControlCommand["arguments"]>,
  given: Record<string, unknown>,
): ControlArguments {
  for (const [name, value] of Object.entries(given)) {
    if (!Object.hasOwn(types, name)) {
      throw new ControlError(`Parameter '${name}' is unexpected`);
    }
    const type = types[name].replace("?", "");
    const actual = value === null
      ? "null"
      : Array.isArray(value)
      ? "array"
      : typeof value;
    if (actual !== type) {
      throw new ControlError(
        `Invalid parameter type for '${name}', expected: ${type}`,
      );
    }
  }
  for (const [name, type] of Object.entries(types)) {
    if (!type.endsWith("?") && given[name] === undefined) {
      throw new ControlError(`Parameter '${name}' is missing`);
    }
  }
  return given;
}

/** Takes a message apart. */
function parse(text: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new ControlError(
      `JSON parse error, ${error instanceof Error ? error.message : error}`,
    );
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new ControlError("QMP input must be a JSON object");
  }
  return value as Record<string, unknown>;
}

function requestOf(
  message: Record<string, unknown>,
): { name: string; given: Record<string, unknown> } {
  const { execute: name, arguments: given = {} } = message;
  const stray = Object.keys(message).find((key) => !MEMBERS.includes(key));
  if (stray !== undefined) {
    throw new ControlError(`QMP input member '${stray}' is unexpected`);
  }
  if (name === undefined) {
    throw new ControlError("QMP input lacks member 'execute'");
  }
  if (typeof name !== "string") {
    throw new ControlError("QMP input member 'execute' must be a string");
  }
  if (typeof given !== "object" || given === null || Array.isArray(given)) {
    throw new ControlError("QMP input member 'arguments' must be an object");
  }
  return { name, given: given as Record<string, unknown> };
}

/** The commands of one machine, as its clients give them. */
class Dispatcher {
  readonly #commands: Readonly<Record<string, ControlCommand>>;

  constructor(commands: Readonly<Record<string, ControlCommand>>) {
    this.#commands = {
      ...commands,
      "query-commands": {
        run: () => Object.keys(this.#commands).map((name) => ({ name })),
      },
    };
  }

  /** Does what a message says; returns the reply. */
  async reply(client: Client, text: string): Promise<unknown> {
    let id: { id?: unknown } = {};
    try {
      const message = parse(text);
      if (message.id !== undefined) id = { id: message.id };
      const { name, given } = requestOf(message);
      return { return: await this.#execute(client, name, given) ?? {}, ...id };
    } catch (error) {
      const kind = error instanceof ControlError
        ? error.errorClass
        : "GenericError";
      const desc = error instanceof Error ? error.message : String(error);
      return { ...id, error: { class: kind, desc } };
    }
  }

  #execute(
    client: Client,
    name: string,
    given: Record<string, unknown>,
  ): unknown | Promise<unknown> {
    if (client.ready === (name === HANDSHAKE)) {
      throw new ControlError(
        client.ready
          ? "Capabilities negotiation is already complete, command ignored"
          : `Expecting capabilities negotiation with '${HANDSHAKE}'`,
        "CommandNotFound",
      );
    }
    if (name === HANDSHAKE) {
      const { enable = [], ...rest } = given;
      checkArguments({}, rest);
      if (!Array.isArray(enable)) {
        throw new ControlError(
          "Invalid parameter type for 'enable', expected: array",
        );
      }
      if (enable.length > 0) {
        throw new ControlError(`Capability '${enable[0]}' is not available`);
      }
      client.ready = true;
      return {};
    }
    if (!Object.hasOwn(this.#commands, name)) {
      throw new ControlError(
        `The command ${name} has not been found`,
        "CommandNotFound",
      );
    }
    const command = this.#commands[name];
    return command.run(checkArguments(command.arguments ?? {}, given));
  }
}

/** Makes sure that a path is free, or has a socket on which nobody listens. */
async function requireFree(path: string): Promise<void> {
  const length = new TextEncoder().encode(path).length;
  if (length > MAX_PATH) {
    throw new Error(
      `the path has ${length} bytes: expected at most ${MAX_PATH}, all that a socket's may have`,
    );
  }
  let found: Deno.FileInfo;
  try {
    found = await Deno.lstat(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return;
    throw error;
  }
  if (found.isSocket !== true) {
    throw new Error("there is a file that is no socket: give another path");
  }
  let connection: Deno.UnixConn;
  try {
    connection = await Deno.connect({ transport: "unix", path });
  } catch (error) {
    if (!(error instanceof Deno.errors.ConnectionRefused)) throw error;
    return;
  }
  connection.close();
  throw new Error("another machine listens there: give another path");
}

/**
 * Listens on a control socket. A socket that a machine left behind at its path is replaced.
 *
 * @param path The socket.
 * @param version Version of the program: major, minor, patch.
 * @param commands The commands by name.
 * @returns The socket.
 * @throws {Error} When the path is in use by another machine or is no socket, or cannot be made.
 */
export async function listenControl(
  path: string,
  version: readonly [number, number, number],
  commands: Readonly<Record<string, ControlCommand>>,
): Promise<ControlSocket> {
  await requireFree(path);
  // It gets its name when it listens: nobody finds it sooner, and a dead one is gone at once.
  const unnamed = `${dirname(path)}/.${Deno.pid.toString(36)}`;
  const mask = Deno.umask(OWNER_ONLY);
  let listener: Deno.UnixListener;
  try {
    listener = Deno.listen({ transport: "unix", path: unnamed });
  } finally {
    Deno.umask(mask);
  }
  try {
    Deno.renameSync(unnamed, path);
  } catch (error) {
    listener.close();
    Deno.removeSync(unnamed);
    throw error;
  }
  const { ino } = await Deno.lstat(path);
  const clients = new Set<Client>();
  const dispatcher = new Dispatcher(commands);
  const [major, minor, micro] = version;

  const serve = async (connection: Deno.UnixConn) => {
    const client = new Client(connection);
    clients.add(client);
    void client.send({
      QMP: {
        version: { qemu: { micro, minor, major }, package: "diapause" },
        capabilities: [],
      },
    });
    try {
      for await (const text of client.messages()) {
        await client.send(await dispatcher.reply(client, text));
      }
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      await client.send({
        error: { class: "GenericError", desc: error.message },
      });
    }
    clients.delete(client);
    client.close();
  };
  const accepting = (async () => {
    try {
      for await (const connection of listener) void serve(connection);
    } catch (error) {
      if (!(error instanceof Deno.errors.BadResource)) throw error;
    }
  })();
  return {
    event(name, data) {
      const message = {
        timestamp: now(),
        event: name,
        ...data === undefined ? {} : { data },
      };
      for (const client of clients) {
        if (client.ready) void client.send(message);
      }
    },
    async close() {
      listener.close();
      let timer: ReturnType<typeof setTimeout> | undefined;
      const farewell = new Promise<void>((resolve) =>
        timer = setTimeout(resolve, FAREWELL_MS)
      );
      const written = Promise.all([...clients].map((each) => each.written));
      await Promise.race([written, farewell]);
      clearTimeout(timer);
      for (const client of clients) client.close();
      await accepting;
      const left = await Deno.lstat(path).catch(() => undefined);
      if (left?.ino === ino) await Deno.remove(path).catch(() => {});
    },
  };
}
