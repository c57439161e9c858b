/**
 * Backends for the tests of devices, whose other end the test holds: what a device sends and asks
 * for is in their journal, and answers come when and in which order the test says.
 *
 * @module
 */
import type {
  BlockBackend,
  CharBackend,
  DisplayBackend,
  InputBackend,
  NetBackend,
  Picture,
  Rectangle,
  TerminalSize,
} from "../plugin.ts";

const SECTOR = 512;
/** Size of a disk that says none. */
const DEFAULT_DISK = 256 * SECTOR;

/** A character stream. */
export class TestChar implements CharBackend {
  /** Bytes that the device has sent. */
  readonly sent: number[] = [];
  /** Whether it was ever full: what a guest does then depends on when it ends. */
  isDisturbed = false;
  #queue: number[] = [];
  #full = false;
  #accept: (bytes: Uint8Array) => number = () => 0;
  #drained: () => void = () => {};
  #size: TerminalSize | undefined;
  #resized: () => void = () => {};

  get size(): TerminalSize | undefined {
    return this.#size;
  }

  /** Makes the other end a terminal of a size, or none. */
  set size(size: TerminalSize | undefined) {
    this.#size = size;
    this.#resized();
  }

  onResize(listener: () => void): void {
    this.#resized = listener;
  }

  write(bytes: Uint8Array): boolean {
    for (const byte of bytes) this.sent.push(byte);
    return !this.#full;
  }

  onInput(accept: (bytes: Uint8Array) => number): void {
    this.#accept = accept;
  }

  ready(): void {
    while (this.#queue.length > 0) {
      const taken = this.#accept(Uint8Array.from(this.#queue));
      if (taken <= 0) return;
      this.#queue.splice(0, taken);
    }
  }

  onDrain(listener: () => void): void {
    this.#drained = listener;
  }

  /**
   * Input from the other end; what the device does not take now waits for it.
   *
   * @param input Text, or bytes.
   */
  type(input: string | Iterable<number>): void {
    const bytes = typeof input === "string"
      ? new TextEncoder().encode(input)
      : input;
    this.#queue.push(...bytes);
    this.ready();
  }

  /** The queue is full: the device should hold more from its next byte on. */
  block(): void {
    this.#full = true;
    this.isDisturbed = true;
  }

  /** The queue is empty again. */
  drain(): void {
    this.#full = false;
    this.#drained();
  }

  /** Whether nothing waits for the other end. */
  get isQuiet(): boolean {
    return !this.#full;
  }

  /** Input that the device has not taken. */
  get waiting(): readonly number[] {
    return this.#queue;
  }

  /**
   * Takes the place of another one after a restore: the input that waits there waits here, and its
   * queue for output is empty.
   *
   * @param other The backend of the machine that was saved.
   */
  continue(other: TestChar): void {
    this.#queue = [...other.#queue];
    this.#size = other.#size;
  }
}

/** A request that waits for its answer. */
interface Waiting {
  perform(): void;
  done(): void;
  failed(error: Error): void;
}

/** A disk in memory. */
export class TestBlock implements BlockBackend {
  /** What the disk holds. */
  readonly bytes: Uint8Array;
  /** What the device has asked for: `write 0x200 512 #1a2b3c4d`. */
  readonly journal: string[] = [];
  /** Whether a request ever failed: what a device does then depends on which it is. */
  isDisturbed = false;
  readonly #waiting: Waiting[] = [];
  #held = false;

  /**
   * A disk of zeroes that answers at once.
   *
   * @param size Bytes, a multiple of 512; 128 KiB when absent.
   * @param readOnly Whether writes are refused.
   */
  constructor(size: number = DEFAULT_DISK, readonly readOnly: boolean = false) {
    this.bytes = new Uint8Array(size);
  }

  get size(): number {
    return this.bytes.length;
  }

  #ask(what: string, perform: () => void): Promise<void> {
    this.journal.push(what);
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const waiting = { perform, done: resolve, failed: reject };
    if (this.#held) this.#waiting.push(waiting);
    else {
      perform();
      resolve();
    }
    return promise;
  }

  #writable(): void {
    if (this.readOnly) throw new Error("the disk is read-only");
  }

  read(offset: number, target: Uint8Array): Promise<void> {
    return this.#ask(
      `read 0x${offset.toString(16)} ${target.length}`,
      () => target.set(this.bytes.subarray(offset, offset + target.length)),
    );
  }

  write(offset: number, source: Uint8Array): Promise<void> {
    this.#writable();
    return this.#ask(
      `write 0x${offset.toString(16)} ${source.length} #${digest(source)}`,
      () => this.bytes.set(source, offset),
    );
  }

  flush(): Promise<void> {
    return this.#ask("flush", () => {});
  }

  discard(offset: number, length: number): Promise<void> {
    this.#writable();
    return this.#ask(`discard 0x${offset.toString(16)} ${length}`, () => {});
  }

  writeZeroes(offset: number, length: number, unmap: boolean): Promise<void> {
    this.#writable();
    return this.#ask(
      `zero 0x${offset.toString(16)} ${length}${unmap ? " unmap" : ""}`,
      () => this.bytes.fill(0, offset, offset + length),
    );
  }

  /** Requests wait for {@linkcode answer} from now on. */
  hold(): void {
    this.#held = true;
  }

  /** Requests are answered at once from now on, and those that wait, now. */
  release(): void {
    this.#held = false;
    this.answerAll();
  }

  /** Whether nothing waits for the disk. */
  get isQuiet(): boolean {
    return !this.#held && this.#waiting.length === 0;
  }

  /** How many requests wait. */
  get waiting(): number {
    return this.#waiting.length;
  }

  /**
   * Answers one of the requests that wait.
   *
   * @param which Its place among them, the oldest being 0; counted around.
   * @param error Fails it.
   */
  answer(which = 0, error?: Error): void {
    if (this.#waiting.length === 0) return;
    const at = which % this.#waiting.length;
    const [request] = this.#waiting.splice(at, 1);
    if (error !== undefined) {
      this.isDisturbed = true;
      request.failed(error);
    } else {
      request.perform();
      request.done();
    }
  }

  /** Answers all that wait, the oldest first. */
  answerAll(): void {
    while (this.#waiting.length > 0) this.answer();
  }

  /**
   * Takes the place of another one after a restore: what the disk holds is the same.
   *
   * @param other The backend of the machine that was saved.
   */
  continue(other: TestBlock): void {
    this.bytes.set(other.bytes);
    this.#held = other.#held;
  }
}

/** A network of which the test is the other end. */
export class TestNet implements NetBackend {
  /** Frames that the card has sent, the same text for the same content: `60 #1a2b3c4d`. */
  readonly sent: string[] = [];
  /** The same frames. */
  readonly frames: Uint8Array[] = [];
  /** Whether it was ever full: what a guest does then depends on when it ends. */
  isDisturbed = false;
  #queue: Uint8Array[] = [];
  #full = false;
  #link = true;
  #accept: (frame: Uint8Array) => boolean = () => false;
  #drained: () => void = () => {};
  #linkChanged: () => void = () => {};

  send(frame: Uint8Array): boolean {
    if (this.#full) return false;
    this.sent.push(`${frame.length} #${digest(frame)}`);
    this.frames.push(frame.slice());
    return true;
  }

  /** Frames that wait because the card has no room. */
  get waiting(): number {
    return this.#queue.length;
  }

  onReceive(accept: (frame: Uint8Array) => boolean): void {
    this.#accept = accept;
  }

  ready(): void {
    while (this.#queue.length > 0) {
      if (!this.#accept(this.#queue[0])) return;
      this.#queue.shift();
    }
  }

  onDrain(listener: () => void): void {
    this.#drained = listener;
  }

  get link(): boolean {
    return this.#link;
  }

  /** Plugs the cable in or pulls it. */
  set link(link: boolean) {
    if (link === this.#link) return;
    this.#link = link;
    this.#linkChanged();
  }

  onLink(listener: () => void): void {
    this.#linkChanged = listener;
  }

  /**
   * A frame from the network; it waits while the card has no room.
   *
   * @param frame The frame.
   */
  receive(frame: Uint8Array): void {
    this.#queue.push(frame.slice());
    this.ready();
  }

  /** The queue is full: frames are not taken. */
  block(): void {
    this.#full = true;
    this.isDisturbed = true;
  }

  /** Whether nothing waits for the network. */
  get isQuiet(): boolean {
    return !this.#full;
  }

  /** The queue is empty again. */
  drain(): void {
    this.#full = false;
    this.#drained();
  }

  /**
   * Takes the place of another one after a restore: frames that wait there wait here.
   *
   * @param other The backend of the machine that was saved.
   */
  continue(other: TestNet): void {
    this.#queue = [...other.#queue];
    this.#link = other.#link;
  }
}

/** A user of whom the test is the hands. */
export class TestInput implements InputBackend {
  /** The LEDs as the guest set them last: 1 num, 2 caps, 4 scroll. */
  leds = 0;
  #key: (usage: number, down: boolean) => void = () => {};
  #pointer: (dx: number, dy: number, wheel: number, buttons: number) => void =
    () => {};
  #tablet: (x: number, y: number, wheel: number, buttons: number) => void =
    () => {};

  onKey(listener: (usage: number, down: boolean) => void): void {
    this.#key = listener;
  }

  onPointer(
    listener: (dx: number, dy: number, wheel: number, buttons: number) => void,
  ): void {
    this.#pointer = listener;
  }

  onTablet(
    listener: (x: number, y: number, wheel: number, buttons: number) => void,
  ): void {
    this.#tablet = listener;
  }

  setLeds(leds: number): void {
    this.leds = leds;
  }

  /**
   * Presses or releases keys, one after the other.
   *
   * @param down Whether they go down.
   * @param usages Their HID usages.
   */
  key(down: boolean, ...usages: number[]): void {
    for (const usage of usages) this.#key(usage, down);
  }

  /**
   * Moves the mouse, turns its wheel, presses its buttons.
   *
   * @param dx Counts to the right.
   * @param dy Counts towards the user.
   * @param wheel Steps away from the user.
   * @param buttons Those that are down.
   */
  move(dx: number, dy: number, wheel = 0, buttons = 0): void {
    this.#pointer(dx, dy, wheel, buttons);
  }

  /**
   * Moves the pen of a tablet.
   *
   * @param x 0 to 32767 from the left.
   * @param y 0 to 32767 from the top.
   * @param wheel Steps away from the user.
   * @param buttons Those that are down.
   */
  point(x: number, y: number, wheel = 0, buttons = 0): void {
    this.#tablet(x, y, wheel, buttons);
  }
}

/** A display that the test looks at. */
export class TestDisplay implements DisplayBackend {
  #picture: Picture | undefined;

  show(picture: Picture): void {
    this.#picture = picture;
  }

  /**
   * The picture of the present mode.
   *
   * @throws {TypeError} When the device shows none.
   */
  get picture(): Picture {
    if (this.#picture === undefined) {
      throw new TypeError("the device shows no picture");
    }
    return this.#picture;
  }

  /** Looks: the parts that changed since the last look, and where the mode is another, the whole. */
  look(): readonly Rectangle[] {
    for (;;) {
      const { picture } = this;
      const parts = picture.update();
      if (picture === this.#picture) return parts;
    }
  }

  /**
   * Looks at one pixel.
   *
   * @param x Its column.
   * @param y Its line.
   * @returns 0x00RRGGBB.
   */
  pixel(x: number, y: number): number {
    this.look();
    return this.picture.pixels[y * this.picture.width + x];
  }

  /** Looks at the whole; the same text for the same picture: `640x480 #1a2b3c4d`. */
  get seen(): string {
    this.look();
    const { width, height, pixels } = this.picture;
    return `${width}x${height} #${digest(pixels)}`;
  }
}

/** FNV-1a, enough to tell contents apart in a journal. */
function digest(values: Uint8Array | Uint32Array): string {
  let hash = 0x811c9dc5;
  for (const value of values) hash = Math.imul(hash ^ value, 0x01000193);
  return (hash >>> 0).toString(16);
}
