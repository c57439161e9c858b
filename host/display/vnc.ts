// A VNC server: the remote frame buffer protocol, versions 3.3, 3.7 and 3.8 (RFC 6143), with the
// encodings raw and zlib, DesktopSize, and QEMU's extended key events. Whoever can connect can see
// and type: there is no password, for the only one that the protocol has needs DES, which Deno has
// not, and keeps nobody out.

import { constants, createDeflate, type Deflate } from "node:zlib";
import type { Rectangle } from "../../core/plugin.ts";
import { BUTTON, type InputHub } from "../input/hub.ts";
import type { Display, Viewer } from "./display.ts";
import { usageOfKeysym, usageOfXtCode } from "./keysyms.ts";
import {
  decodeFormat,
  encodeNativeFormat,
  encodePixels,
  FORMAT_BYTES,
  NATIVE_FORMAT,
  type PixelFormat,
} from "./pixels.ts";

const FIRST_PORT = 5900;
const MAX_CLIENTS = 10;
/** A client has so long to say who it is, in milliseconds. */
const HANDSHAKE_MS = 10_000;
const MAX_PARTS = 64;
const READ_BYTES = 1 << 16;
const MAX_ENCODINGS = 1024;
/** Bytes of a text that a client has cut; it is not used. */
const MAX_CUT = 1 << 20;

const VERSION_BYTES = 12;
const SECURITY_NONE = 1;
const NAME = "diapause";

// Messages of clients (section 7.5) and what follows their type, in bytes.
const SET_PIXEL_FORMAT = 0;
const SET_ENCODINGS = 2;
const UPDATE_REQUEST = 3;
const KEY_EVENT = 4;
const POINTER_EVENT = 5;
const CLIENT_CUT_TEXT = 6;
const QEMU_MESSAGE = 255;
const QEMU_KEY_EVENT = 0;

const ENCODING_RAW = 0;
const ENCODING_ZLIB = 6;
const ENCODING_DESKTOP_SIZE = -223;
const ENCODING_QEMU_KEYS = -258;

/** The greatest position of a tablet. */
const TABLET_MAX = 32767;
/** Buttons of a client by their bits: 3 and 4 are the wheel. */
const BUTTON_BITS: readonly (readonly [number, number])[] = [
  [0, BUTTON.left],
  [1, BUTTON.middle],
  [2, BUTTON.right],
  [7, BUTTON.back],
  [8, BUTTON.forward],
];
const WHEEL_UP = 1 << 3;
const WHEEL_DOWN = 1 << 4;

/** A wrong address, or a client that broke the protocol. */
export class VncError extends Error {
  /** The class's name, as `Error` has it. */
  override name = "VncError";
}

/** Where a server listens. */
export type VncAddress =
  | { transport: "tcp"; hostname: string; port: number }
  | { transport: "unix"; path: string };

/**
 * Reads an address.
 *
 * @param text `[HOST]:DISPLAY` or `unix=PATH`; display 0 is port 5900. Without a host only this host can connect.
 * @returns It.
 * @throws {VncError} When it is none.
 */
export function parseVncAddress(text: string): VncAddress {
  const path = /^unix=(.+)$/.exec(text)?.[1];
  if (path !== undefined) return { transport: "unix", path };
  const match = /^(.*):(\d{1,5})$/.exec(text);
  const port = FIRST_PORT + Number(match?.[2]);
  if (match === null || port > 0xffff) {
    throw new VncError(
      `--vnc is "${text}": expected [HOST]:DISPLAY, such as :0 for port ${FIRST_PORT}, or unix=PATH`,
    );
  }
  const hostname = match[1].replace(/^\[(.*)\]$/, "$1") || "127.0.0.1";
  return { transport: "tcp", hostname, port };
}

/** Reads a number of bytes at a time. */
class Reader {
  readonly #connection: Deno.Conn;
  #held: Uint8Array = new Uint8Array(0);

  constructor(connection: Deno.Conn) {
    this.#connection = connection;
  }

  /** The next bytes. @throws {VncError} When the client goes before. */
  async take(count: number): Promise<DataView> {
    while (this.#held.length < count) {
      const buffer = new Uint8Array(READ_BYTES);
      const read = await this.#connection.read(buffer);
      if (read === null) throw new VncError("the client has gone");
      const joined = new Uint8Array(this.#held.length + read);
      joined.set(this.#held);
      joined.set(buffer.subarray(0, read), this.#held.length);
      this.#held = joined;
    }
    const taken = this.#held.subarray(0, count);
    this.#held = this.#held.subarray(count);
    return new DataView(taken.buffer, taken.byteOffset, count);
  }
}

/** One client. */
class Client implements Viewer {
  readonly #connection: Deno.Conn;
  readonly #display: Display;
  readonly #input: InputHub;
  readonly #reader: Reader;
  #format: PixelFormat = NATIVE_FORMAT;
  #encodings = new Set<number>();
  #deflate: Deflate | undefined;
  /** What the client has not seen yet. */
  #parts: Rectangle[] = [];
  #isResized = false;
  #isAsked = false;
  #isSending = false;
  #isClosed = false;
  #tellsKeys = false;
  #width = 0;
  #height = 0;
  readonly #down = new Set<number>();
  #x = 0;
  #y = 0;
  #wheel = 0;

  constructor(connection: Deno.Conn, display: Display, input: InputHub) {
    this.#connection = connection;
    this.#display = display;
    this.#input = input;
    this.#reader = new Reader(connection);
  }

  get waits(): boolean {
    return this.#isAsked && !this.#isSending && !this.#isClosed;
  }

  resized(): void {
    this.#isResized = true;
    this.#parts = [];
    this.#send();
  }

  changed(parts: readonly Rectangle[]): void {
    this.#add(parts);
    this.#send();
  }

  #add(parts: readonly Rectangle[]): void {
    this.#parts.push(...parts);
    if (this.#parts.length > MAX_PARTS) this.#parts = [around(this.#parts)];
  }

  /** Serves until the client goes; a client that breaks the protocol is hung up on. */
  async serve(isFull: boolean): Promise<void> {
    const timer = setTimeout(() => this.close(), HANDSHAKE_MS);
    Deno.unrefTimer(timer);
    try {
      if (await this.#handshake(isFull)) {
        clearTimeout(timer);
        this.#display.add(this);
        for (;;) await this.#message();
      }
    } finally {
      clearTimeout(timer);
      this.#display.remove(this);
      for (const usage of this.#down) this.#input.key(usage, false);
      this.close();
    }
  }

  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#deflate?.close();
    try {
      this.#connection.close();
    } catch {
      // It has gone.
    }
  }

  async #write(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length;) {
      at += await this.#connection.write(bytes.subarray(at));
    }
  }

  /** Refuses with a reason (section 7.1.2). */
  async #refuse(isOld: boolean, text: string): Promise<void> {
    const reason = new TextEncoder().encode(text);
    const at = isOld ? 4 : 1;
    const message = new Uint8Array(at + 4 + reason.length);
    new DataView(message.buffer).setUint32(at, reason.length);
    message.set(reason, at + 4);
    await this.#write(message);
  }

  async #handshake(isFull: boolean): Promise<boolean> {
    await this.#write(new TextEncoder().encode("RFB 003.008\n"));
    const said = new TextDecoder().decode(
      await this.#reader.take(VERSION_BYTES),
    );
    const minor = Number(/^RFB 003\.(\d{3})\n$/.exec(said)?.[1]);
    if (Number.isNaN(minor)) {
      throw new VncError(
        `the client says ${JSON.stringify(said)}: expected RFB 003.008`,
      );
    }
    const isOld = minor < 7;
    if (isFull) {
      await this.#refuse(isOld, `${MAX_CLIENTS} clients are connected already`);
      return false;
    }
    if (isOld) {
      await this.#write(Uint8Array.of(0, 0, 0, SECURITY_NONE));
    } else {
      await this.#write(Uint8Array.of(1, SECURITY_NONE));
      const chosen = (await this.#reader.take(1)).getUint8(0);
      if (chosen !== SECURITY_NONE) {
        throw new VncError(
          `the client wants security type ${chosen}: expected ${SECURITY_NONE}, none`,
        );
      }
      if (minor >= 8) await this.#write(new Uint8Array(4));
    }
    await this.#reader.take(1); // Every session is shared.
    const picture = this.#display.update();
    this.#width = picture?.width ?? 1;
    this.#height = picture?.height ?? 1;
    this.#parts = [{ x: 0, y: 0, width: this.#width, height: this.#height }];
    const name = new TextEncoder().encode(NAME);
    const init = new Uint8Array(8 + FORMAT_BYTES + name.length);
    const view = new DataView(init.buffer);
    view.setUint16(0, this.#width);
    view.setUint16(2, this.#height);
    init.set(encodeNativeFormat(), 4);
    view.setUint32(4 + FORMAT_BYTES, name.length);
    init.set(name, 8 + FORMAT_BYTES);
    await this.#write(init);
    return true;
  }

  async #message(): Promise<void> {
    const type = (await this.#reader.take(1)).getUint8(0);
    switch (type) {
      case SET_PIXEL_FORMAT: {
        const body = await this.#reader.take(3 + FORMAT_BYTES);
        const format = decodeFormat(
          new DataView(body.buffer, body.byteOffset + 3, FORMAT_BYTES),
        );
        if (typeof format === "string") {
          throw new VncError(`the client wants ${format}`);
        }
        this.#format = format;
        return;
      }
      case SET_ENCODINGS: {
        const count = (await this.#reader.take(3)).getUint16(1);
        if (count > MAX_ENCODINGS) {
          throw new VncError(
            `the client names ${count} encodings: expected ${MAX_ENCODINGS} at most`,
          );
        }
        const list = await this.#reader.take(4 * count);
        this.#encodings = new Set(
          Array.from({ length: count }, (_, i) => list.getInt32(4 * i)),
        );
        this.#tellsKeys = this.#encodings.has(ENCODING_QEMU_KEYS);
        return;
      }
      case UPDATE_REQUEST:
        return this.#request(await this.#reader.take(9));
      case KEY_EVENT: {
        const body = await this.#reader.take(7);
        this.#key(usageOfKeysym(body.getUint32(3)), body.getUint8(0) !== 0);
        return;
      }
      case POINTER_EVENT: {
        const body = await this.#reader.take(5);
        this.#pointer(body.getUint8(0), body.getUint16(1), body.getUint16(3));
        return;
      }
      case CLIENT_CUT_TEXT: {
        const length = (await this.#reader.take(7)).getUint32(3);
        if (length > MAX_CUT) {
          throw new VncError(
            `the client has cut ${length} bytes: expected ${MAX_CUT} at most`,
          );
        }
        await this.#reader.take(length);
        return;
      }
      case QEMU_MESSAGE: {
        const body = await this.#reader.take(11);
        if (body.getUint8(0) !== QEMU_KEY_EVENT) break;
        this.#key(
          usageOfXtCode(body.getUint32(7)) ?? usageOfKeysym(body.getUint32(3)),
          body.getUint16(1) !== 0,
        );
        return;
      }
    }
    throw new VncError(
      `the client sends a message of type ${type}, which is not of the protocol`,
    );
  }

  #request(body: DataView): void {
    const isIncremental = body.getUint8(0) !== 0;
    const [x, y, width, height] = [1, 3, 5, 7].map((at) => body.getUint16(at));
    if (!isIncremental && width > 0 && height > 0) {
      this.#parts = [around([...this.#parts, { x, y, width, height }])];
    }
    this.#isAsked = true;
    this.#display.update();
    this.#send();
    this.#display.look();
  }

  #key(usage: number | undefined, down: boolean): void {
    if (usage === undefined) return;
    if (down) this.#down.add(usage);
    else this.#down.delete(usage);
    this.#input.key(usage, down);
  }

  #pointer(mask: number, x: number, y: number): void {
    const buttons = BUTTON_BITS.reduce(
      (all, [bit, button]) => all | (mask >> bit & 1 ? button : 0),
      0,
    );
    const pressed = mask & ~this.#wheel;
    const wheel = (pressed & WHEEL_UP ? 1 : 0) - (pressed & WHEEL_DOWN ? 1 : 0);
    this.#wheel = mask;
    if (this.#input.hasTablet) {
      const scale = (at: number, size: number) =>
        Math.min(
          TABLET_MAX,
          Math.round(at * TABLET_MAX / Math.max(1, size - 1)),
        );
      this.#input.point(
        scale(x, this.#width),
        scale(y, this.#height),
        wheel,
        buttons,
      );
    } else {
      this.#input.move(x - this.#x, y - this.#y, wheel, buttons);
    }
    this.#x = x;
    this.#y = y;
  }

  /** Sends what has changed, where the client waits for it; one update at a time. */
  #send(): void {
    if (!this.waits) return;
    const isNews = this.#parts.length > 0 || this.#isResized || this.#tellsKeys;
    if (!isNews) return;
    this.#isAsked = false;
    this.#isSending = true;
    void this.#update().then(() => {
      this.#isSending = false;
      this.#send();
      this.#display.look();
    }, () => this.close());
  }

  async #update(): Promise<void> {
    const { picture } = this.#display;
    const chunks: Uint8Array[] = [];
    let count = 0;
    const header = (part: Rectangle, encoding: number) => {
      const view = new DataView(new ArrayBuffer(12));
      [part.x, part.y, part.width, part.height].forEach((value, i) =>
        view.setUint16(2 * i, value)
      );
      view.setInt32(8, encoding);
      chunks.push(new Uint8Array(view.buffer));
      count++;
    };
    if (this.#tellsKeys) {
      this.#tellsKeys = false;
      header({ x: 0, y: 0, width: 0, height: 0 }, ENCODING_QEMU_KEYS);
    }
    const canResize = this.#encodings.has(ENCODING_DESKTOP_SIZE);
    if (picture !== undefined && this.#isResized) {
      this.#isResized = false;
      const { width, height } = picture;
      if (canResize && (width !== this.#width || height !== this.#height)) {
        this.#width = width;
        this.#height = height;
        header({ x: 0, y: 0, width, height }, ENCODING_DESKTOP_SIZE);
      }
      this.#parts = [{ x: 0, y: 0, width, height }];
    }
    const parts = this.#parts;
    this.#parts = [];
    for (const part of picture === undefined ? [] : parts) {
      // A client that cannot have another size sees what fits into the old one.
      const width = Math.min(picture!.width, this.#width) - part.x;
      const height = Math.min(picture!.height, this.#height) - part.y;
      const shown = {
        x: part.x,
        y: part.y,
        width: Math.min(part.width, width),
        height: Math.min(part.height, height),
      };
      if (shown.width <= 0 || shown.height <= 0) continue;
      const bytes = encodePixels(
        picture!.pixels,
        picture!.width,
        shown,
        this.#format,
      );
      if (!this.#encodings.has(ENCODING_ZLIB)) {
        header(shown, ENCODING_RAW);
        chunks.push(bytes);
        continue;
      }
      header(shown, ENCODING_ZLIB);
      const packed = await this.#compress(bytes);
      const length = new DataView(new ArrayBuffer(4));
      length.setUint32(0, packed.length);
      chunks.push(new Uint8Array(length.buffer), packed);
    }
    const start = new DataView(new ArrayBuffer(4));
    start.setUint16(2, count);
    await this.#write(joined([new Uint8Array(start.buffer), ...chunks]));
  }

  /** Compresses a part: all of a client are one stream (section 7.7.6 of the community's version of the protocol). */
  #compress(bytes: Uint8Array): Promise<Uint8Array> {
    const deflate = this.#deflate ??= createDeflate({ level: 1 });
    const { promise, resolve, reject } = Promise.withResolvers<Uint8Array>();
    const parts: Uint8Array[] = [];
    const onData = (part: Uint8Array) => void parts.push(part);
    deflate.on("data", onData);
    deflate.once("error", reject);
    deflate.write(bytes);
    deflate.flush(constants.Z_SYNC_FLUSH, () => {
      deflate.off("data", onData);
      deflate.off("error", reject);
      resolve(joined(parts));
    });
    return promise;
  }
}

function joined(parts: readonly Uint8Array[]): Uint8Array {
  const all = new Uint8Array(parts.reduce((n, part) => n + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** The rectangle that has them all. */
function around(parts: readonly Rectangle[]): Rectangle {
  const x = Math.min(...parts.map((part) => part.x));
  const y = Math.min(...parts.map((part) => part.y));
  const right = Math.max(...parts.map((part) => part.x + part.width));
  const bottom = Math.max(...parts.map((part) => part.y + part.height));
  return { x, y, width: right - x, height: bottom - y };
}

/** Makes a file that nobody else can open. */
function privately<T>(make: () => T): T {
  const before = Deno.umask(0o177);
  try {
    return make();
  } finally {
    Deno.umask(before);
  }
}

/** A server that listens. */
export class VncServer {
  readonly #listener: Deno.Listener;
  readonly #address: VncAddress;
  readonly #clients = new Set<Client>();

  private constructor(
    listener: Deno.Listener,
    address: VncAddress,
    display: Display,
    input: InputHub,
    notify: (message: string) => void,
  ) {
    this.#listener = listener;
    this.#address = address;
    void this.#serve(display, input, notify);
  }

  /**
   * Listens.
   *
   * @param address Where; TCP port 0 takes any that is free.
   * @param display What is shown.
   * @param input Who gets keys and pointer.
   * @param notify Takes what is wrong with a client, a line each.
   * @returns The server.
   * @throws {VncError} When nobody can listen there.
   */
  static listen(
    address: VncAddress,
    display: Display,
    input: InputHub,
    notify: (message: string) => void,
  ): VncServer {
    try {
      const listener = address.transport === "unix"
        ? privately(() => Deno.listen(address))
        : Deno.listen(address);
      return new VncServer(listener, address, display, input, notify);
    } catch (cause) {
      const where = address.transport === "unix"
        ? `"${address.path}"`
        : `${address.hostname} port ${address.port}`;
      throw new VncError(
        `--vnc: cannot listen on ${where}: ${(cause as Error).message}`,
        { cause },
      );
    }
  }

  /** Where it listens: the TCP port; undefined of a socket file. */
  get port(): number | undefined {
    const { addr } = this.#listener;
    return addr.transport === "tcp" ? addr.port : undefined;
  }

  /** How many clients are connected. */
  get clients(): number {
    return this.#clients.size;
  }

  async #serve(
    display: Display,
    input: InputHub,
    notify: (message: string) => void,
  ): Promise<void> {
    for (;;) {
      let connection: Deno.Conn;
      try {
        connection = await this.#listener.accept();
      } catch {
        return; // Closed.
      }
      const client = new Client(connection, display, input);
      const isFull = this.#clients.size >= MAX_CLIENTS;
      if (!isFull) this.#clients.add(client);
      void client.serve(isFull).catch((error) => {
        const isGone = !(error instanceof VncError) ||
          error.message === "the client has gone";
        if (!isGone) notify(`vnc: ${error.message}`);
      }).finally(() => this.#clients.delete(client));
    }
  }

  /** Hangs up on everybody and listens no more. */
  close(): void {
    this.#listener.close();
    for (const client of this.#clients) client.close();
    if (this.#address.transport === "unix") {
      try {
        Deno.removeSync(this.#address.path);
      } catch {
        // Somebody else has.
      }
    }
  }
}
