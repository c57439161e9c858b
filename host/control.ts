// The control socket: QMP, QEMU's machine protocol, over a UNIX socket that only its owner opens.

/** What a command does; what it returns is the reply. */
export type ControlCommand = (
  args: Readonly<Record<string, unknown>>,
) => unknown | Promise<unknown>;

/** A control socket that listens. */
export interface ControlSocket {
  /** Tells every client. */
  event(name: string, data?: Record<string, unknown>): void;
  /** Ends listening, closes every connection, removes the socket. */
  close(): Promise<void>;
}

/** A line longer than this ends the connection. */
const MAX_LINE = 1 << 20;
const OWNER_ONLY = 0o177;

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
  /** Whether `qmp_capabilities` was given: no other command is taken before. */
  ready = false;

  constructor(connection: Deno.UnixConn) {
    this.#connection = connection;
  }

  send(message: unknown): Promise<void> {
    const bytes = new TextEncoder().encode(`${JSON.stringify(message)}\r\n`);
    this.#writing = this.#writing.then(async () => {
      for (let at = 0; at < bytes.length;) {
        at += await this.#connection.write(bytes.subarray(at));
      }
    }).catch(() => {}); // A client that has gone needs no reply.
    return this.#writing;
  }

  /** The lines that it sends, until it goes. */
  async *lines(): AsyncGenerator<string> {
    const decoder = new TextDecoder();
    const buffer = new Uint8Array(1 << 16);
    let text = "";
    for (;;) {
      const read = await this.#connection.read(buffer).catch(() => null);
      if (read === null) return;
      text += decoder.decode(buffer.subarray(0, read), { stream: true });
      const lines = text.split("\n");
      text = lines.pop()!;
      for (const line of lines) if (line.trim() !== "") yield line;
      if (text.length > MAX_LINE) return;
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

/**
 * Listens on a control socket.
 *
 * @param path The socket; it must not exist.
 * @param version Version of the program: major, minor, patch.
 * @param commands The commands by name.
 * @returns The socket.
 */
export function listenControl(
  path: string,
  version: readonly [number, number, number],
  commands: Readonly<Record<string, ControlCommand>>,
): ControlSocket {
  const mask = Deno.umask(OWNER_ONLY);
  let listener: Deno.UnixListener;
  try {
    listener = Deno.listen({ transport: "unix", path });
  } finally {
    Deno.umask(mask);
  }
  const clients = new Set<Client>();
  const [major, minor, micro] = version;
  const qemu = { major, minor, micro };

  const execute = async (client: Client, line: string): Promise<unknown> => {
    let id: unknown = undefined;
    const refuse = (desc: string, kind = "GenericError") => ({
      error: { class: kind, desc },
      ...id === undefined ? {} : { id },
    });
    let request: Record<string, unknown>;
    try {
      const parsed = JSON.parse(line);
      if (typeof parsed !== "object" || parsed === null) throw new Error();
      request = parsed;
    } catch {
      return refuse("Invalid JSON syntax");
    }
    id = request.id;
    const { execute: name, arguments: args = {} } = request;
    if (typeof name !== "string") return refuse("expected a key 'execute'");
    if (typeof args !== "object" || args === null) {
      return refuse("expected an object as 'arguments'");
    }
    const isHandshake = name === "qmp_capabilities";
    if (client.ready === isHandshake) {
      return refuse(
        isHandshake
          ? "Capabilities negotiation is already complete, command ignored"
          : "Expecting capabilities negotiation with 'qmp_capabilities'",
        "CommandNotFound",
      );
    }
    if (isHandshake) {
      client.ready = true;
    } else if (name !== "query-commands" && !Object.hasOwn(commands, name)) {
      return refuse(
        `The command ${name} has not been found`,
        "CommandNotFound",
      );
    }
    try {
      const result = isHandshake
        ? {}
        : name === "query-commands"
        ? Object.keys(commands).map((name) => ({ name }))
        : await commands[name](args as Record<string, unknown>) ?? {};
      return { return: result, ...id === undefined ? {} : { id } };
    } catch (error) {
      return refuse(error instanceof Error ? error.message : String(error));
    }
  };

  const serve = async (connection: Deno.UnixConn) => {
    const client = new Client(connection);
    clients.add(client);
    await client.send({
      QMP: { version: { qemu, package: "diapause" }, capabilities: [] },
    });
    for await (const line of client.lines()) {
      await client.send(await execute(client, line));
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
    event(name, data = {}) {
      for (const client of clients) {
        if (client.ready) {
          void client.send({ event: name, data, timestamp: now() });
        }
      }
    },
    async close() {
      listener.close();
      for (const client of clients) client.close();
      await accepting;
      await Deno.remove(path).catch(() => {});
    },
  };
}
