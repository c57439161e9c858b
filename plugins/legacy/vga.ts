/**
 * The standard VGA of Bochs and QEMU: a VGA (IBM PS/2 Hardware Interface Technical Reference,
 * Video Subsystem) with the Bochs display interface for linear modes, on PCI.
 *
 * BAR 0 has the video memory, BAR 2 the registers (QEMU, docs/specs/standard-vga): those at 0x400
 * are ports 0x3C0 to 0x3DF, those at 0x500 the DISPI's. There is no EDID and no option ROM:
 * at power-on the adapter is in text mode with its font loaded, as a video BIOS leaves it.
 *
 * @module
 */
import {
  type AccessSize,
  bytewise,
  definePlugin,
  type Device,
  type DeviceContext,
  type IoHandler,
  type Rectangle,
} from "../../core/plugin.ts";
import {
  bytes,
  type Infer,
  list,
  schema,
  u16,
  u32,
  u8,
} from "../../snapshot/schema.ts";
import { check, checkBits } from "./support.ts";
import {
  dispiDepth,
  dispiStride,
  dispiWidth,
  type Geometry,
  geometry,
  isDispi,
  VgaCanvas,
} from "./vga_draw.ts";
import { FONT_HEIGHT, startFont } from "./vga_font.ts";
import * as vga from "./vga_registers.ts";
import {
  AR_INDEX_MASK,
  AR_MASKS,
  CR,
  CR_COUNT,
  CRTC_PROTECT,
  DISPI,
  DISPI_COUNT,
  GR,
  GR_MASKS,
  MISC,
  PORT,
  SR,
  SR_MASKS,
  textMode,
  type VgaRegisters,
} from "./vga_registers.ts";
import { VideoMemory, videoPages } from "./video_memory.ts";

const VENDOR = 0x1234;
const DEVICE = 0x1111;
/** Display controller, VGA compatible. */
const CLASS_CODE = 0x030000;
/** What QEMU's has, which drivers look for. */
const REVISION = 2;
const MEMORY_BAR = 0;
const REGISTER_BAR = 2;
const REGISTER_BAR_SIZE = 4096;
const MEMORY_SIZE = 16 << 20;
/** In the register BAR. */
const BAR_VGA = 0x400;
const BAR_DISPI = 0x500;

const WINDOW_BASE = 0xa0000;
const WINDOW_SIZE = 0x20000;
/** Graphics controller, miscellaneous bits 3 and 2: start and length of the window. */
const WINDOWS = [
  [0x00000, 0x20000],
  [0x00000, 0x10000],
  [0x10000, 0x08000],
  [0x18000, 0x08000],
] as const;
const BANK_SHIFT = 16;
const PLANE_WORDS_MASK = 0xffff;
const CHARACTER_LINES = 32;
/** What is on the screen at power-on. */
const TEXT_CELLS = 80 * 25;
const SPACE = 0x20;
const GREY_ON_BLACK = 0x07;
const FONT_PLANE = 2;

/** A frame of 640 by 480 at 60 Hz: 525 lines, of which the beam shows 480. */
const LINE_NS = 31_778;
const LINES = 525;
const SHOWN_LINES = 480;
const RETRACE_LINE = 490;
/** The part of a line in which the beam returns. */
const SHOWN_LINE_NS = 25_422;
const STATUS1_DISABLED = 0x01;
const STATUS1_RETRACE = 0x08;
/** DAC_READ_INDEX, when it is read. */
const DAC_WRITING = 0;
const DAC_READING = 3;
const PALETTE_BYTES = 768;

/** Four bits as four bytes of ones or zeroes: one bit for each plane. */
const SPREAD = Uint32Array.from(
  { length: 16 },
  (_, bits) =>
    [0, 1, 2, 3].reduce(
      (word, plane) => word | (bits >> plane & 1 ? 0xff << 8 * plane : 0),
      0,
    ),
);

/** State of the display adapter. */
export const vgaState = schema("vga", 1, {
  misc: u8(),
  /** Sequencer. */
  srIndex: u8({ max: 7 }),
  sr: bytes(SR_MASKS.length),
  /** CRT controller. */
  crIndex: u8({ max: 0x3f }),
  cr: bytes(CR_COUNT),
  /** Graphics controller. */
  grIndex: u8({ max: 15 }),
  gr: bytes(GR_MASKS.length),
  /** Attribute controller; the next write is of its index (0) or its data (1). */
  arIndex: u8({ max: AR_INDEX_MASK }),
  arFlip: u8({ max: 1 }),
  ar: bytes(AR_MASKS.length),
  feature: u8({ max: 3 }),
  enable: u8({ max: 1 }),
  /** The byte of each plane at the address that was read last. */
  latch: u32(),
  palette: bytes(PALETTE_BYTES),
  dacMask: u8(),
  dacReadIndex: u8(),
  dacWriteIndex: u8(),
  /** Which colour of the index is next; those written before it wait for the third. */
  dacComponent: u8({ max: 2 }),
  dacPending: bytes(2),
  /** What DAC_READ_INDEX reads: 0 after it was set for writing, 3 for reading. */
  dacState: u8({ max: DAC_READING }),
  dispiIndex: u16(),
  dispi: list(u16(), { length: DISPI_COUNT }),
  memory: videoPages(),
});

type VgaState = Infer<typeof vgaState>;
/** Registers that do not show. */
type Hidden = Omit<VgaState, keyof VgaRegisters | "memory">;

/** The picture of a mode; it has a canvas once somebody looks. */
interface Shown {
  mode: Geometry;
  canvas?: VgaCanvas;
}

function powerOn(): Hidden {
  return {
    srIndex: 0,
    crIndex: 0,
    grIndex: 0,
    arFlip: 0,
    feature: 0,
    enable: 1,
    latch: 0,
    dacReadIndex: 0,
    dacWriteIndex: 0,
    dacComponent: 0,
    dacPending: new Uint8Array(2),
    dacState: DAC_WRITING,
    dispiIndex: 0,
  };
}

class Vga implements Device {
  readonly #ctx: DeviceContext<VgaState, "display">;
  readonly #memory = new VideoMemory(MEMORY_SIZE);
  #registers = textMode();
  #hidden = powerOn();
  /** Registers or fonts have changed: everything is drawn anew. */
  #isStale = true;
  /** The cursor has moved. */
  #isCursorStale = true;
  #shown: Shown;

  constructor(ctx: DeviceContext<VgaState, "display">) {
    this.#ctx = ctx;
    this.#shown = { mode: this.#geometry() };
    const ports = bytewise({
      read: (port) => this.#readPort(port),
      write: (port, value) => this.#writePort(port, value),
    });
    ctx.isa.claimPorts(PORT.MONO_FIRST, PORT.MONO_COUNT, ports);
    ctx.isa.claimPorts(PORT.FIRST, PORT.COUNT, ports);
    ctx.isa.claimPorts(PORT.DISPI_INDEX, PORT.DISPI_COUNT, {
      read: (port) =>
        port === PORT.DISPI_INDEX
          ? this.#hidden.dispiIndex
          : this.#readDispi(this.#hidden.dispiIndex),
      write: (port, _size, value) => {
        if (port === PORT.DISPI_INDEX) this.#hidden.dispiIndex = value & 0xffff;
        else this.#writeDispi(this.#hidden.dispiIndex, value & 0xffff);
      },
    });
    ctx.isa.claimMemory(
      WINDOW_BASE,
      WINDOW_SIZE,
      bytewise({
        read: (offset) => this.#readWindow(offset),
        write: (offset, value) => this.#writeWindow(offset, value),
      }),
    );
    ctx.pci.attach({
      vendor: VENDOR,
      device: DEVICE,
      classCode: CLASS_CODE,
      revision: REVISION,
      bars: [
        {
          index: MEMORY_BAR,
          kind: "memory",
          size: MEMORY_SIZE,
          prefetchable: true,
          handler: this.#linear(),
        },
        {
          index: REGISTER_BAR,
          kind: "memory",
          size: REGISTER_BAR_SIZE,
          handler: this.#registerBar(ports),
        },
      ],
    });
    ctx.declare({ kind: "vga" });
    ctx.snapshot.register({
      save: () => this.#save(),
      restore: (state) => this.#restore(state),
    });
  }

  reset(): void {
    this.#registers = textMode();
    this.#hidden = powerOn();
    this.#memory.clear();
    const { bytes } = this.#memory;
    startFont().forEach((row, i) => {
      const character = Math.floor(i / FONT_HEIGHT);
      const word = character * CHARACTER_LINES + i % FONT_HEIGHT;
      bytes[4 * word + FONT_PLANE] = row;
      this.#memory.touch(4 * word);
    });
    for (let cell = 0; cell < TEXT_CELLS; cell++) {
      bytes[4 * cell] = SPACE;
      bytes[4 * cell + 1] = GREY_ON_BLACK;
      this.#memory.touch(4 * cell);
    }
    this.#show();
  }

  #geometry(): Geometry {
    return geometry(this.#registers, MEMORY_SIZE);
  }

  /** Shows a picture of the present mode. */
  #show(): void {
    const mode = this.#geometry();
    const shown: Shown = { mode };
    this.#shown = shown;
    this.#isStale = true;
    this.#memory.touchAll();
    const canvas = () => shown.canvas ??= new VgaCanvas(mode, this.#memory);
    this.#ctx.backend.show({
      width: mode.width,
      height: mode.height,
      get pixels() {
        return canvas().pixels;
      },
      update: () => shown === this.#shown ? this.#update(canvas()) : [],
    });
  }

  #update(canvas: VgaCanvas): Rectangle[] {
    const all = this.#isStale;
    if (!all && !this.#isCursorStale && !this.#memory.isDirty) return [];
    const mode = this.#geometry();
    const { width, height } = this.#shown.mode;
    if (mode.width !== width || mode.height !== height) {
      this.#show();
      return [];
    }
    const parts = canvas.draw(this.#registers, mode, all);
    this.#memory.forget();
    this.#isStale = this.#isCursorStale = false;
    return parts;
  }

  /** The video memory as it is. */
  #linear(): IoHandler {
    const { handler } = this.#memory;
    return {
      read: handler.read,
      write: (offset, size, value) => {
        // It may be a font.
        if (!isDispi(this.#registers)) this.#isStale = true;
        handler.write(offset, size, value);
      },
    };
  }

  #registerBar(ports: IoHandler): IoHandler {
    const isVga = (offset: number, size: AccessSize) =>
      offset >= BAR_VGA && offset + size <= BAR_VGA + PORT.COUNT;
    const dispi = (offset: number) => {
      const index = (offset - BAR_DISPI) >> 1;
      return index >= 0 && index <= DISPI.VIDEO_MEMORY_64K ? index : -1;
    };
    return {
      read: (offset, size) => {
        if (isVga(offset, size)) {
          return ports.read(offset - BAR_VGA + PORT.FIRST, size);
        }
        const index = dispi(offset);
        return index < 0 ? 0 : this.#readDispi(index);
      },
      write: (offset, size, value) => {
        if (isVga(offset, size)) {
          ports.write(offset - BAR_VGA + PORT.FIRST, size, value);
          return;
        }
        const index = dispi(offset);
        if (index >= 0) this.#writeDispi(index, value & 0xffff);
      },
    };
  }

  /** The port as it is with the registers at 0x3Dx; undefined where nothing is. */
  #translate(port: number): number | undefined {
    const isColor = (this.#registers.misc & MISC.COLOR) !== 0;
    switch (port) {
      case PORT.CRTC_INDEX_MONO:
      case PORT.CRTC_DATA_MONO:
      case PORT.STATUS1_MONO:
        return isColor
          ? undefined
          : port + PORT.CRTC_INDEX - PORT.CRTC_INDEX_MONO;
      case PORT.CRTC_INDEX:
      case PORT.CRTC_DATA:
      case PORT.STATUS1:
        return isColor ? port : undefined;
      default:
        return port;
    }
  }

  #readPort(given: number): number {
    const registers = this.#registers;
    const hidden = this.#hidden;
    switch (this.#translate(given)) {
      case PORT.ATTRIBUTE:
        return registers.arIndex;
      case PORT.ATTRIBUTE_READ:
        return registers.ar[registers.arIndex & 0x1f] ?? 0;
      case PORT.MISC_WRITE:
        return 0;
      case PORT.ENABLE:
        return hidden.enable;
      case PORT.SEQUENCER_INDEX:
        return hidden.srIndex;
      case PORT.SEQUENCER_DATA:
        return registers.sr[hidden.srIndex] ?? 0;
      case PORT.DAC_MASK:
        return registers.dacMask;
      case PORT.DAC_READ_INDEX:
        return hidden.dacState;
      case PORT.DAC_WRITE_INDEX:
        return hidden.dacWriteIndex;
      case PORT.DAC_DATA:
        return this.#readDac();
      case PORT.FEATURE_READ:
        return hidden.feature;
      case PORT.MISC_READ:
        return registers.misc;
      case PORT.GRAPHICS_INDEX:
        return hidden.grIndex;
      case PORT.GRAPHICS_DATA:
        return registers.gr[hidden.grIndex] ?? 0;
      case PORT.CRTC_INDEX:
        return hidden.crIndex;
      case PORT.CRTC_DATA:
        return registers.cr[hidden.crIndex] ?? 0;
      case PORT.STATUS1:
        hidden.arFlip = 0;
        return this.#status1();
      default:
        return 0xff;
    }
  }

  /** Input status 1: where the beam is. */
  #status1(): number {
    const time = this.#ctx.clock.now() % (LINE_NS * LINES);
    const line = Math.floor(time / LINE_NS);
    const isShown = line < SHOWN_LINES && time % LINE_NS < SHOWN_LINE_NS;
    return (isShown ? 0 : STATUS1_DISABLED) |
      (line >= RETRACE_LINE ? STATUS1_RETRACE : 0);
  }

  #writePort(given: number, value: number): void {
    const registers = this.#registers;
    const hidden = this.#hidden;
    switch (this.#translate(given)) {
      case PORT.ATTRIBUTE:
        return this.#writeAttribute(value);
      case PORT.MISC_WRITE:
        registers.misc = value;
        return;
      case PORT.ENABLE:
        hidden.enable = value & 1;
        return;
      case PORT.SEQUENCER_INDEX:
        hidden.srIndex = value & 7;
        return;
      case PORT.SEQUENCER_DATA:
        return this.#set(registers.sr, hidden.srIndex, value, SR_MASKS);
      case PORT.DAC_MASK:
        if (registers.dacMask !== value) this.#isStale = true;
        registers.dacMask = value;
        return;
      case PORT.DAC_READ_INDEX:
        hidden.dacReadIndex = value;
        hidden.dacComponent = 0;
        hidden.dacState = DAC_READING;
        return;
      case PORT.DAC_WRITE_INDEX:
        hidden.dacWriteIndex = value;
        hidden.dacComponent = 0;
        hidden.dacState = DAC_WRITING;
        return;
      case PORT.DAC_DATA:
        return this.#writeDac(value);
      case PORT.GRAPHICS_INDEX:
        hidden.grIndex = value & 15;
        return;
      case PORT.GRAPHICS_DATA:
        return this.#set(registers.gr, hidden.grIndex, value, GR_MASKS);
      case PORT.CRTC_INDEX:
        hidden.crIndex = value & 0x3f;
        return;
      case PORT.CRTC_DATA:
        return this.#writeCrtc(hidden.crIndex, value);
      case PORT.STATUS1:
        hidden.feature = value & 3;
    }
  }

  /** Writes one of a file of registers; what does not exist is ignored. */
  #set(
    file: Uint8Array,
    index: number,
    value: number,
    masks: readonly number[],
  ): void {
    if (index >= file.length) return;
    const masked = value & masks[index];
    if (file[index] === masked) return;
    file[index] = masked;
    // These say how the guest reaches memory, not what is seen of it.
    const isAccess = file === this.#registers.sr
      ? index === SR.RESET || index === SR.MAP_MASK || index === SR.MEMORY_MODE
      : file === this.#registers.gr && index !== GR.MODE && index !== GR.MISC;
    if (!isAccess) this.#isStale = true;
  }

  #writeAttribute(value: number): void {
    const registers = this.#registers;
    const hidden = this.#hidden;
    if (hidden.arFlip === 1) {
      this.#set(registers.ar, registers.arIndex & 0x1f, value, AR_MASKS);
    } else {
      const index = value & AR_INDEX_MASK;
      const changed = registers.arIndex ^ index;
      if (changed & vga.AR_INDEX_SCREEN_ON) this.#isStale = true;
      registers.arIndex = index;
    }
    hidden.arFlip ^= 1;
  }

  #writeCrtc(index: number, value: number): void {
    const { cr } = this.#registers;
    if (index >= CR_COUNT) return;
    let written = value;
    if (
      index <= CR.OVERFLOW && cr[CR.VERTICAL_RETRACE_END] & CRTC_PROTECT
    ) {
      if (index !== CR.OVERFLOW) return;
      const mask = vga.OVERFLOW_LINE_COMPARE;
      written = (cr[index] & ~mask) | (value & mask);
    }
    if (cr[index] === written) return;
    cr[index] = written;
    if (index === CR.CURSOR_HIGH || index === CR.CURSOR_LOW) {
      this.#isCursorStale = true;
    } else this.#isStale = true;
  }

  #readDac(): number {
    const hidden = this.#hidden;
    const { palette } = this.#registers;
    const value = palette[3 * hidden.dacReadIndex + hidden.dacComponent];
    hidden.dacComponent = (hidden.dacComponent + 1) % 3;
    if (hidden.dacComponent === 0) {
      hidden.dacReadIndex = hidden.dacReadIndex + 1 & 0xff;
    }
    return value;
  }

  #writeDac(value: number): void {
    const hidden = this.#hidden;
    const component = hidden.dacComponent;
    hidden.dacComponent = (component + 1) % 3;
    if (component < 2) {
      hidden.dacPending[component] = value;
      return;
    }
    const at = 3 * hidden.dacWriteIndex;
    this.#registers.palette.set([...hidden.dacPending, value], at);
    hidden.dacWriteIndex = hidden.dacWriteIndex + 1 & 0xff;
    this.#isStale = true;
  }

  #readDispi(index: number): number {
    const { dispi } = this.#registers;
    if (index === DISPI.VIDEO_MEMORY_64K) return MEMORY_SIZE >> 16;
    if (index > DISPI.VIDEO_MEMORY_64K) return 0;
    if (dispi[DISPI.ENABLE] & vga.DISPI_GETCAPS) {
      if (index === DISPI.XRES) return vga.DISPI_MAX_XRES;
      if (index === DISPI.YRES) return vga.DISPI_MAX_YRES;
      if (index === DISPI.BPP) return vga.DISPI_MAX_BPP;
    }
    if (index === DISPI.VIRT_HEIGHT && isDispi(this.#registers)) {
      const pixels = Math.max(
        dispi[DISPI.VIRT_WIDTH],
        dispiWidth(this.#registers),
      );
      const stride = dispiStride(this.#registers, pixels);
      return Math.min(Math.floor(MEMORY_SIZE / stride), 0xffff);
    }
    return dispi[index];
  }

  #writeDispi(index: number, value: number): void {
    const registers = this.#registers;
    const { dispi } = registers;
    switch (index) {
      case DISPI.ID:
        if (value < vga.DISPI_ID0 || value > vga.DISPI_ID5) return;
        break;
      case DISPI.ENABLE: {
        const wasOn = isDispi(registers);
        dispi[index] = value & vga.DISPI_ENABLE_MASK;
        if (!wasOn && isDispi(registers)) {
          dispi[DISPI.VIRT_WIDTH] = dispiWidth(registers);
          dispi[DISPI.X_OFFSET] = dispi[DISPI.Y_OFFSET] = 0;
          if ((value & vga.DISPI_NOCLEARMEM) === 0) this.#memory.clear();
        }
        dispi[DISPI.BANK] = 0;
        this.#isStale = true;
        return;
      }
      case DISPI.VIRT_HEIGHT:
      case DISPI.VIDEO_MEMORY_64K:
        return;
    }
    if (index >= DISPI_COUNT || dispi[index] === value) return;
    dispi[index] = value;
    if (index !== DISPI.BANK) this.#isStale = true;
  }

  /** The offset in the window's memory; -1 outside the part that is mapped. */
  #mapped(offset: number): number {
    const [start, length] = WINDOWS[this.#registers.gr[GR.MISC] >> 2 & 3];
    if (
      (this.#registers.misc & MISC.ENABLE_RAM) === 0 || offset < start ||
      offset >= start + length
    ) return -1;
    return offset - start;
  }

  /** The offset in video memory of the window's, where the DISPI has a linear mode; -1 where it has none. */
  #banked(offset: number): number {
    const registers = this.#registers;
    if (!isDispi(registers) || dispiDepth(registers) === 4) return -1;
    const at = (registers.dispi[DISPI.BANK] << BANK_SHIFT) + offset;
    return offset >> BANK_SHIFT === 0 && at < MEMORY_SIZE ? at : MEMORY_SIZE;
  }

  /** The word of the planes. */
  #word(at: number): number {
    const registers = this.#registers;
    if (!isDispi(registers)) return at & PLANE_WORDS_MASK;
    const bank = registers.dispi[DISPI.BANK] << BANK_SHIFT;
    return (bank + at) & (MEMORY_SIZE / 4 - 1);
  }

  #readWindow(offset: number): number {
    const linear = this.#banked(offset);
    if (linear >= 0) return this.#memory.bytes[linear] ?? 0xff;
    const address = this.#mapped(offset);
    if (address < 0) return 0xff;
    const { sr, gr } = this.#registers;
    const isChained = (sr[SR.MEMORY_MODE] & vga.MEMORY_CHAIN_4) !== 0;
    const isOddEven = (gr[GR.MODE] & vga.MODE_ODD_EVEN) !== 0;
    let plane = gr[GR.READ_MAP];
    let at = address;
    if (isChained) {
      plane = address & 3;
      at = address >> 2;
    } else if (isOddEven) {
      plane = (plane & 2) | (address & 1);
      at = address >> 1;
    }
    const latch = this.#memory.words[this.#word(at)];
    this.#hidden.latch = latch;
    if ((gr[GR.MODE] & vga.MODE_READ_COMPARE) === 0) {
      return latch >>> 8 * plane & 0xff;
    }
    const differs = (latch ^ SPREAD[gr[GR.COLOR_COMPARE]]) &
      SPREAD[gr[GR.COLOR_CARE]];
    return ~(differs | differs >>> 8 | differs >>> 16 | differs >>> 24) & 0xff;
  }

  #writeWindow(offset: number, value: number): void {
    const memory = this.#memory;
    const linear = this.#banked(offset);
    if (linear >= 0) {
      if (linear < MEMORY_SIZE) memory.handler.write(linear, 1, value);
      return;
    }
    const address = this.#mapped(offset);
    if (address < 0) return;
    const { sr } = this.#registers;
    const mode = sr[SR.MEMORY_MODE];
    let planes = sr[SR.MAP_MASK];
    let at = address;
    if (mode & vga.MEMORY_CHAIN_4) {
      planes &= 1 << (address & 3);
      at = address >> 2;
    } else if ((mode & vga.MEMORY_ODD_EVEN_OFF) === 0) {
      // Planes 0 and 2 at even addresses, 1 and 3 at odd ones.
      planes &= 0b0101 << (address & 1);
      at = address >> 1;
    }
    const word = this.#word(at);
    const mask = SPREAD[planes];
    const { words } = memory;
    const written = (words[word] & ~mask | this.#written(value) & mask) >>> 0;
    if (words[word] === written) return;
    words[word] = written;
    memory.touch(4 * word);
    const isText = (this.#registers.gr[GR.MISC] & vga.GR_MISC_GRAPHICS) === 0;
    if (isText && planes >> FONT_PLANE & 1) this.#isStale = true;
  }

  /** What a write of a byte makes of the four planes. */
  #written(value: number): number {
    const { gr } = this.#registers;
    const { latch } = this.#hidden;
    const count = gr[GR.ROTATE] & 7;
    const rotated = (value >> count | value << (8 - count)) & 0xff;
    const setReset = SPREAD[gr[GR.SET_RESET]];
    let bitMask = gr[GR.BIT_MASK];
    let data: number;
    switch (gr[GR.MODE] & vga.MODE_WRITE) {
      case 0: {
        const isSet = SPREAD[gr[GR.ENABLE_SET_RESET]];
        data = setReset & isSet | Math.imul(rotated, 0x01010101) & ~isSet;
        break;
      }
      case 1:
        return latch;
      case 2:
        data = SPREAD[value & 15];
        break;
      default:
        data = setReset;
        bitMask &= rotated;
    }
    switch (gr[GR.ROTATE] >> 3) {
      case 1:
        data &= latch;
        break;
      case 2:
        data |= latch;
        break;
      case 3:
        data ^= latch;
    }
    const bits = Math.imul(bitMask, 0x01010101);
    return data & bits | latch & ~bits;
  }

  #save(): VgaState {
    const { sr, cr, gr, ar, palette, dispi, ...others } = this.#registers;
    const { dacPending, ...hidden } = this.#hidden;
    return {
      ...others,
      ...hidden,
      sr: sr.slice(),
      cr: cr.slice(),
      gr: gr.slice(),
      ar: ar.slice(),
      palette: palette.slice(),
      dispi: [...dispi],
      dacPending: dacPending.slice(),
      memory: this.#memory.save(),
    };
  }

  #restore(state: VgaState): void {
    const masked = { sr: SR_MASKS, gr: GR_MASKS, ar: AR_MASKS };
    for (const name of ["sr", "gr", "ar"] as const) {
      masked[name].forEach((mask, i) =>
        checkBits(`${name}[${i}]`, state[name][i], mask)
      );
    }
    const { dispi, dacState } = state;
    check(
      dacState === DAC_WRITING || dacState === DAC_READING,
      "dacState",
      dacState,
      `${DAC_WRITING} or ${DAC_READING}`,
    );
    const id = dispi[DISPI.ID];
    check(
      id >= vga.DISPI_ID0 && id <= vga.DISPI_ID5,
      "dispi[0]",
      id,
      `${vga.DISPI_ID0} to ${vga.DISPI_ID5}`,
    );
    checkBits(
      "dispi[4]",
      dispi[DISPI.ENABLE],
      vga.DISPI_ENABLE_MASK,
    );
    checkBits("dispi[7]", dispi[DISPI.VIRT_HEIGHT], 0);
    const { misc, sr, cr, gr, ar, arIndex, palette, dacMask } = state;
    const { memory, dispi: _, ...rest } = state;
    this.#memory.restore(memory);
    this.#registers = {
      misc,
      sr: sr.slice(),
      cr: cr.slice(),
      gr: gr.slice(),
      ar: ar.slice(),
      arIndex,
      palette: palette.slice(),
      dacMask,
      dispi: Uint16Array.from(dispi),
    };
    const hidden = powerOn();
    for (const name of Object.keys(hidden) as (keyof Hidden)[]) {
      Object.assign(hidden, { [name]: rest[name] });
    }
    hidden.dacPending = rest.dacPending.slice();
    this.#hidden = hidden;
    this.#show();
  }
}

/** The standard VGA. */
export default definePlugin({
  name: "vga",
  version: "1.0.0",
  summary: "VGA with the Bochs display interface",
  options: {},
  state: vgaState,
  backend: "display",
  create: (ctx: DeviceContext<VgaState, "display">) => new Vga(ctx),
});
