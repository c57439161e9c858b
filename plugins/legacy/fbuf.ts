/**
 * A linear frame buffer on the PCI bus with the registers of bhyve's `fbuf` device
 * (FreeBSD, bhyve(8), and the driver that UEFI firmware for bhyve has for it).
 *
 * BAR 0 has the registers, BAR 1 the frame buffer, 32 bits a pixel, 0x00RRGGBB. The guest may
 * choose another size. A kernel that is loaded without firmware finds it as the screen that
 * firmware has set up.
 *
 * @module
 */
import {
  type AccessSize,
  definePlugin,
  type Device,
  type DeviceContext,
  type OptionsOf,
  type Picture,
} from "../../core/plugin.ts";
import { type Infer, schema, u16 } from "../../snapshot/schema.ts";
import { changedLines, VideoMemory, videoPages } from "./video_memory.ts";

const VENDOR = 0xfb5d;
const DEVICE = 0x40fb;
/** Display controller, VGA compatible. */
const CLASS_CODE = 0x030000;
const REGISTER_BAR = 0;
const FRAME_BUFFER_BAR = 1;
const REGISTER_BAR_SIZE = 4096;
/** Bytes of the frame buffer. */
const FB_SIZE = 16 << 20;
const BYTES_PER_PIXEL = 4;
const DEPTH = 32;
const REFRESH_RATE = 60;

/** Offsets of the registers. */
const REG = {
  FBSIZE: 0,
  WIDTH: 4,
  HEIGHT: 6,
  DEPTH: 8,
  REFRESH_RATE: 10,
  /** The end of the registers; the rest of the BAR is reserved. */
  END: 12,
};

/** Sizes that a picture can have. */
const MIN_WIDTH = 640;
const MIN_HEIGHT = 480;
const MAX_WIDTH = 1920;
const MAX_HEIGHT = 1200;

/** State of the frame buffer. */
export const fbufState = schema("fbuf", 1, {
  /** The registers, as the guest last wrote them: they may name a size that cannot be shown. */
  width: u16(),
  height: u16(),
  depth: u16(),
  refreshRate: u16(),
  /** The size that is shown. */
  shownWidth: u16({ min: 1, max: MAX_WIDTH }),
  shownHeight: u16({ min: 1, max: MAX_HEIGHT }),
  /** The frame buffer. */
  memory: videoPages(),
});

type FbufState = Infer<typeof fbufState>;
type Registers = Omit<FbufState, "memory">;

const options = {
  width: {
    type: "number",
    help: "width of the picture at the start",
    default: 1024,
    min: MIN_WIDTH,
    max: MAX_WIDTH,
  },
  height: {
    type: "number",
    help: "height of the picture at the start",
    default: 768,
    min: MIN_HEIGHT,
    max: MAX_HEIGHT,
  },
} as const;

/** The registers in the order of their offsets. */
function encode(registers: Registers): DataView {
  const view = new DataView(new ArrayBuffer(REG.END));
  view.setUint32(REG.FBSIZE, FB_SIZE, true);
  view.setUint16(REG.WIDTH, registers.width, true);
  view.setUint16(REG.HEIGHT, registers.height, true);
  view.setUint16(REG.DEPTH, registers.depth, true);
  view.setUint16(REG.REFRESH_RATE, registers.refreshRate, true);
  return view;
}

class Fbuf implements Device {
  readonly #ctx: DeviceContext<FbufState, "display">;
  readonly #start: Registers;
  readonly #memory = new VideoMemory(FB_SIZE);
  #registers: Registers;

  constructor(
    ctx: DeviceContext<FbufState, "display">,
    { width, height }: OptionsOf<typeof options>,
  ) {
    this.#ctx = ctx;
    this.#start = {
      width,
      height,
      depth: DEPTH,
      refreshRate: REFRESH_RATE,
      shownWidth: width,
      shownHeight: height,
    };
    this.#registers = { ...this.#start };
    ctx.pci.attach({
      vendor: VENDOR,
      device: DEVICE,
      classCode: CLASS_CODE,
      bars: [
        {
          index: REGISTER_BAR,
          kind: "memory",
          size: REGISTER_BAR_SIZE,
          handler: {
            read: (offset, size) => this.#read(offset, size),
            write: (offset, size, value) => this.#write(offset, size, value),
          },
        },
        {
          index: FRAME_BUFFER_BAR,
          kind: "memory",
          size: FB_SIZE,
          prefetchable: true,
          handler: this.#memory.handler,
        },
      ],
    });
    ctx.declare({
      kind: "screen",
      screen: { bar: FRAME_BUFFER_BAR, width, height },
    });
    ctx.snapshot.register({
      save: () => ({ ...this.#registers, memory: this.#memory.save() }),
      restore: ({ memory, ...registers }) => {
        this.#memory.restore(memory);
        this.#registers = registers;
        this.#show();
      },
    });
  }

  reset(): void {
    this.#registers = { ...this.#start };
    this.#memory.clear();
    this.#show();
  }

  #read(offset: number, size: AccessSize): number {
    const view = encode(this.#registers);
    let value = 0;
    for (let i = 0; i < size && offset + i < REG.END; i++) {
      value |= view.getUint8(offset + i) << (8 * i);
    }
    return value >>> 0;
  }

  #write(offset: number, size: AccessSize, value: number): void {
    const view = encode(this.#registers);
    for (let i = 0; i < size && offset + i < REG.END; i++) {
      view.setUint8(offset + i, value >>> (8 * i) & 0xff);
    }
    const registers = {
      ...this.#registers,
      width: view.getUint16(REG.WIDTH, true),
      height: view.getUint16(REG.HEIGHT, true),
      depth: view.getUint16(REG.DEPTH, true),
      refreshRate: view.getUint16(REG.REFRESH_RATE, true),
    };
    this.#registers = registers;
    const { width, height, depth, shownWidth, shownHeight } = registers;
    if (width === shownWidth && height === shownHeight) return;
    // The guest writes one after the other: what cannot be shown is not, until it can.
    if (
      depth !== DEPTH || width === 0 || width > MAX_WIDTH || height === 0 ||
      height > MAX_HEIGHT
    ) return;
    registers.shownWidth = width;
    registers.shownHeight = height;
    this.#show();
  }

  #show(): void {
    const memory = this.#memory;
    const { shownWidth: width, shownHeight: height } = this.#registers;
    memory.touchAll();
    let drawn: Uint32Array | undefined;
    const stride = width * BYTES_PER_PIXEL;
    const picture: Picture = {
      width,
      height,
      get pixels() {
        return drawn ??= new Uint32Array(width * height);
      },
      update() {
        if (!memory.isDirty) return [];
        const parts = changedLines(
          (line) => memory.wasWritten(line * stride, stride),
          width,
          height,
        );
        memory.forget();
        const { pixels } = picture;
        for (const { y, height } of parts) {
          const end = (y + height) * width;
          for (let i = y * width; i < end; i++) {
            pixels[i] = memory.words[i] & 0xffffff;
          }
        }
        return parts;
      },
    };
    this.#ctx.backend.show(picture);
  }
}

/** A linear frame buffer. */
export default definePlugin({
  name: "fbuf",
  version: "1.0.0",
  summary: "linear frame buffer on the PCI bus",
  options,
  state: fbufState,
  backend: "display",
  create: (ctx: DeviceContext<FbufState, "display">, options) =>
    new Fbuf(ctx, options),
});
