/**
 * Host bridge of the Q35 memory controller hub, 00:00.0 (Intel 3 Series Express Chipset data
 * sheet, 316966, chapter 5). The firmware's part is done: where memory and PCI Express
 * configuration space lie is fixed, and these registers report it.
 *
 * @module
 */
import {
  definePlugin,
  type Device,
  type DeviceContext,
} from "../../core/plugin.ts";
import { schema } from "../../snapshot/schema.ts";

const VENDOR_INTEL = 0x8086;
const DEVICE_82Q35_MCH = 0x29c0;
const CLASS_HOST_BRIDGE = 0x06_00_00;
const REVISION = 2;

/** PCIEXBAR: base 0xE0000000, 256 buses, enabled (section 5.1.16). */
const PCIEXBAR = 0x60;
const PCIEXBAR_VALUE = [0x01, 0x00, 0x00, 0xe0, 0, 0, 0, 0];
/** PAM0 to PAM6: 0xC0000 to 0xFFFFF read and written in RAM (sections 5.1.19 to 5.1.25). */
const PAM0 = 0x90;
const PAM_VALUE = [0x30, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33];
/** TOLUD: the first address past memory below 4 GiB, in MiB, in bits 15:4 (section 5.1.30). */
const TOLUD = 0xb0;
const TOLUD_SHIFT = 4;
/** TOM and TOUUD: all memory, and the address past memory above 4 GiB (sections 5.1.27, 5.1.28). */
const TOM = 0xa0;
const TOM_SHIFT = 26;
const TOUUD = 0xa2;
const MIB_SHIFT = 20;
const FOUR_GIB = 2 ** 32;

const q35State = schema("q35", 1, {});

function word(value: number): Uint8Array {
  return Uint8Array.of(value & 0xff, value >> 8 & 0xff);
}

/** The bridge has no state of its own: configuration space is the bus's. */
class HostBridge implements Device {
  constructor(ctx: DeviceContext<Record<string, never>>) {
    const { low, high } = ctx.machine.memory;
    ctx.pci.attach({
      vendor: VENDOR_INTEL,
      device: DEVICE_82Q35_MCH,
      classCode: CLASS_HOST_BRIDGE,
      revision: REVISION,
      address: { slot: 0, fn: 0 },
      registers: {
        initial: [
          { offset: PCIEXBAR, bytes: Uint8Array.from(PCIEXBAR_VALUE) },
          { offset: PAM0, bytes: Uint8Array.from(PAM_VALUE) },
          {
            offset: TOM,
            bytes: word(Math.ceil((low + high) / 2 ** TOM_SHIFT)),
          },
          {
            offset: TOUUD,
            bytes: word(high === 0 ? 0 : (FOUR_GIB + high) / 2 ** MIB_SHIFT),
          },
          {
            offset: TOLUD,
            bytes: word(Math.ceil(low / 2 ** MIB_SHIFT) << TOLUD_SHIFT),
          },
        ],
      },
    });
    ctx.snapshot.register({ save: () => ({}), restore: () => {} });
  }

  /** Nothing here changes after power-on. */
  reset(): void {}
}

/** The PCI host bridge. */
export default definePlugin({
  name: "q35",
  version: "1.0.0",
  summary: "Q35 host bridge",
  options: {},
  state: q35State,
  create: (ctx) => new HostBridge(ctx),
});
