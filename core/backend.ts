/**
 * What a device may be connected to outside of the machine: a console, a disk, a network, a
 * display, the user's hands. Hosts implement these; devices use them as `ctx.backend`.
 *
 * @module
 */

/** A character stream: terminal, file, socket, pty. */
export interface CharBackend {
  /** Takes bytes from the guest. Never blocks; returns false when its queue is full and the device should hold more. */
  write(bytes: Uint8Array): boolean;
  /** The device takes host input here; it returns how many bytes it accepted, the rest is offered again after `ready()`. */
  onInput(accept: (bytes: Uint8Array) => number): void;
  /** The device tells that it can accept input again. */
  ready(): void;
  /** The device is called when the backend can take bytes again after `write` returned false. */
  onDrain(listener: () => void): void;
  /** The size of the terminal, where it is one. */
  readonly size?: TerminalSize;
  /** The device is called when {@linkcode size} changes. */
  onResize?(listener: () => void): void;
}

/** What a terminal shows. */
export interface TerminalSize {
  /** Characters in a row. */
  readonly columns: number;
  /** Rows. */
  readonly rows: number;
}

/** The operations of {@linkcode BlockBackend} for one that never waits: finished on return, throwing on an I/O error. */
export interface ImmediateBlock {
  /** Reads into `target`. */
  read(offset: number, target: Uint8Array): void;
  /** Writes `source`. */
  write(offset: number, source: Uint8Array): void;
  /** Makes all completed writes durable. */
  flush(): void;
  /** Says that the range's content no longer matters. */
  discard(offset: number, length: number): void;
  /** Makes the range read as zeroes; `unmap` permits deallocation. */
  writeZeroes(offset: number, length: number, unmap: boolean): void;
}

/** Content of a backend at one instant; later writes do not change it. */
export interface FrozenContent {
  /** Bytes; the last page may reach beyond them, with zeroes. */
  readonly bytes: number;
  /**
   * One page.
   *
   * @param index Number of the page, from 0.
   * @returns 4096 bytes, valid until {@linkcode release}; undefined where all of them are zero.
   */
  page(index: number): Uint8Array | undefined;
  /** Ends it: what was kept for it may go. */
  release(): void;
}

/** Content that belongs into snapshots. */
export interface BackendContent {
  /** Takes the content as it is now, without copying it. */
  freeze(): FrozenContent;
  /**
   * Puts a page back at a restore, even into a disk that is read-only for the guest. What is not put back is zero.
   *
   * @param index Number of the page, from 0.
   * @param page 4096 bytes, the caller's again afterwards.
   */
  restore(index: number, page: Uint8Array): void;
}

/** A drive whose medium comes and goes. While there is none, reads of the backend reject and its size is 0. */
export interface RemovableMedia {
  /** Whether there is a medium. */
  readonly present: boolean;
  /** Takes a listener that is called when the user has put a medium in or taken it out, or asks for it. */
  onChange(
    listener: (event: "inserted" | "removed" | "requested") => void,
  ): void;
  /** The guest keeps the user from taking the medium out. */
  lock(locked: boolean): void;
  /** The guest takes the medium out. */
  eject(): void;
  /** The guest pulls the tray in: the medium that it ejected is there again, unless the user has changed it. */
  load(): void;
}

/** A block image. Offsets and lengths are bytes, multiples of 512 unless a method says otherwise. */
export interface BlockBackend {
  /** Bytes. */
  readonly size: number;
  /** Whether writes are refused. */
  readonly readOnly: boolean;
  /** Reads into `target`. Rejects with an Error on an I/O error. */
  read(offset: number, target: Uint8Array): Promise<void>;
  /** Writes `source`. */
  write(offset: number, source: Uint8Array): Promise<void>;
  /** Makes all completed writes durable. */
  flush(): Promise<void>;
  /** Says that the range's content no longer matters. */
  discard(offset: number, length: number): Promise<void>;
  /** Makes the range read as zeroes; `unmap` permits deallocation. */
  writeZeroes(offset: number, length: number, unmap: boolean): Promise<void>;
  /** The medium, of a drive that the user may change it in. */
  readonly media?: RemovableMedia;
  /** The same operations without a promise, where the backend never waits (memory): a device completes at once. */
  readonly immediate?: ImmediateBlock;
  /** Content that belongs into snapshots: disks in memory have it, images in files do not. */
  readonly content?: BackendContent;
}

/** A network as a network card sees it: Ethernet frames, from the destination address to the end of the payload, without the frame check sequence. */
export interface NetBackend {
  /**
   * Takes a frame from the guest, of at most 65,550 bytes; it copies what it keeps. Never blocks.
   *
   * @returns False when its queue is full: the frame is not taken, and the card holds it until it is called.
   */
  send(frame: Uint8Array): boolean;
  /**
   * The card takes frames from the network here. It returns false when it has no room: the backend holds the frame,
   * and a bounded number after it, until {@linkcode ready}. The frame is valid during the call only.
   */
  onReceive(accept: (frame: Uint8Array) => boolean): void;
  /** The card tells that it has room again. */
  ready(): void;
  /** The card is called when the backend can take frames again after {@linkcode send} returned false. */
  onDrain(listener: () => void): void;
  /** Whether the cable is in and the other side is there. */
  readonly link: boolean;
  /** The card is called when {@linkcode link} changes. */
  onLink(listener: () => void): void;
}

/** A part of a picture, in pixels. */
export interface Rectangle {
  /** Left edge. */
  x: number;
  /** Upper edge. */
  y: number;
  /** Pixels from the left edge to the right one. */
  width: number;
  /** Pixels from the upper edge to the lower one. */
  height: number;
}

/** A picture that a display device keeps. Nothing is drawn until somebody looks. */
export interface Picture {
  /** Pixels a line. */
  readonly width: number;
  /** Lines. */
  readonly height: number;
  /** The pixels as of the last {@linkcode update}, line by line from the top: 0x00RRGGBB. */
  readonly pixels: Uint32Array;
  /**
   * Brings {@linkcode pixels} up to date. Where the device finds that it is in another mode it calls
   * {@linkcode DisplayBackend.show} instead, and returns nothing.
   *
   * @returns The parts that changed since the last call, at most 64; at the first call, the whole.
   */
  update(): readonly Rectangle[];
}

/** What a display device is connected to: somebody who may look at it. */
export interface DisplayBackend {
  /**
   * The device has another picture from now on: another mode. It is called at the first reset, too, and after a restore.
   *
   * @param picture The picture, until the next call.
   */
  show(picture: Picture): void;
}

/**
 * Keys and pointers of the user, as a keyboard or mouse sees them. While the device does not run, or is paused, events
 * wait in a bounded queue.
 */
export interface InputBackend {
  /**
   * Takes the keys.
   *
   * @param listener Gets the USB HID usage (page 7) of a key and whether it went down.
   */
  onKey(listener: (usage: number, down: boolean) => void): void;
  /**
   * Takes the motion of a mouse.
   *
   * @param listener Gets counts to the right and towards the user, wheel steps away from the user, and the buttons that
   * are down as a bit mask (1 left, 2 right, 4 middle, 8 back, 16 forward).
   */
  onPointer(
    listener: (dx: number, dy: number, wheel: number, buttons: number) => void,
  ): void;
  /**
   * Takes the positions of a tablet.
   *
   * @param listener Gets the position, 0 to 32767 from the left and from the top, wheel steps and buttons.
   */
  onTablet(
    listener: (x: number, y: number, wheel: number, buttons: number) => void,
  ): void;
  /**
   * Shows the LEDs of the keyboard.
   *
   * @param leds As the guest set them: 1 num, 2 caps, 4 scroll.
   */
  setLeds(leds: number): void;
}

/** The backends a device may be given; which one is there follows from the plugin's `backend` kind. */
export interface Backends {
  /** A character stream. */
  char: CharBackend;
  /** A block image. */
  block: BlockBackend;
  /** A network. */
  net: NetBackend;
  /** A display. */
  display: DisplayBackend;
  /** Keys and pointers. */
  input: InputBackend;
}
