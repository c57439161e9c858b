import { assertEquals, assertThrows } from "@std/assert";
import {
  createTestContext,
  type TestContext,
} from "../../core/testing/context.ts";
import { addWords, fold, parseMac, word } from "../net/frame.ts";
import { TestNet } from "../../core/testing/backends.ts";
import { testRoundTrip } from "../../tests/golden.ts";
import { BROADCAST, frameTo } from "../net/testing.ts";
import e1000 from "./e1000.ts";
import {
  ARRAYS,
  COUNTERS,
  CTRL_RST,
  CTRL_SLU,
  CTRL_VME,
  EERD,
  ICR,
  ICR_LSC,
  ICR_RXO,
  ICR_RXT0,
  ICR_TXDW,
  IMS,
  MDIC,
  RCTL_BAM,
  RCTL_EN,
  RCTL_MPE,
  RCTL_SECRC,
  RCTL_UPE,
  RCTL_VFE,
  REGISTERS,
  RXCSUM_IPOFLD,
  RXCSUM_TUOFLD,
  STATUS,
  STATUS_LU,
  TCTL_EN,
  TCTL_PSP,
} from "./registers.ts";

const MAC = parseMac("52:54:00:12:34:56")!;
const PEER = parseMac("52:54:00:65:43:21")!;
const BAR = 0xf000_0000;
const TX_RING = 0x1_0000;
const RX_RING = 0x1_1000;
const TX_DATA = 0x2_0000;
const RX_DATA = 0x4_0000;
const RING = 8;
const BUFFER = 2048;
const CMD_EOP = 0x01, CMD_IC = 0x04, CMD_TSE = 0x04, CMD_RS = 0x08;
const CMD_DEXT = 0x20, CMD_VLE = 0x40;
const DD = 1;

/** A driver of the card in a machine. */
class Driver {
  readonly machine: TestContext;
  #tail = 0;

  constructor(machine: TestContext) {
    this.machine = machine;
  }

  /** Places the registers. */
  attach(): void {
    this.machine.configWrite(1, 0, 0x10, BAR);
    this.machine.configWrite(1, 0, 4, 6);
  }

  read(offset: number): number {
    return this.machine.load(BAR + offset);
  }

  write(offset: number, value: number): void {
    this.machine.store(BAR + offset, value >>> 0);
  }

  /** Sets both rings up; the driver gives every receive descriptor but one. */
  start(rctl = RCTL_EN | RCTL_BAM): void {
    const { memory } = this.machine;
    this.write(REGISTERS.CTRL.offset, CTRL_SLU);
    for (let i = 0; i < RING; i++) {
      memory.write(RX_RING + i * 16, new Uint8Array(16));
      memory.writeU32(RX_RING + i * 16, RX_DATA + i * BUFFER);
    }
    this.write(REGISTERS.RDBAL.offset, RX_RING);
    this.write(REGISTERS.RDLEN.offset, RING * 16);
    this.write(REGISTERS.RDT.offset, RING - 1);
    this.write(REGISTERS.RCTL.offset, rctl);
    this.write(REGISTERS.TDBAL.offset, TX_RING);
    this.write(REGISTERS.TDLEN.offset, RING * 16);
    this.write(REGISTERS.TCTL.offset, TCTL_EN | TCTL_PSP);
    this.write(IMS, 0xffff_ffff);
  }

  /** Puts a descriptor into the ring. */
  put(low: bigint, high: bigint): number {
    const at = TX_RING + this.#tail * 16;
    this.machine.memory.writeU64(at, low);
    this.machine.memory.writeU64(at + 8, high);
    this.#tail = (this.#tail + 1) % RING;
    return at;
  }

  send(): void {
    this.write(REGISTERS.TDT.offset, this.#tail);
  }

  /** Sends a frame with a legacy descriptor. */
  transmit(frame: Uint8Array, command = CMD_EOP | CMD_RS, extra = 0n): number {
    this.machine.memory.write(TX_DATA, frame);
    const at = this.put(
      BigInt(TX_DATA),
      BigInt(frame.length) | BigInt(command) << 24n | extra,
    );
    this.send();
    return at;
  }

  /** What a receive descriptor holds. */
  received(index: number) {
    const { memory } = this.machine;
    const at = RX_RING + index * 16;
    const length = memory.readU16(at + 8);
    const data = new Uint8Array(length);
    memory.read(RX_DATA + index * BUFFER, data);
    return {
      data,
      status: memory.readU8(at + 12),
      errors: memory.readU8(at + 13),
      special: memory.readU16(at + 14),
    };
  }
}

/** A card with its driver. */
function card() {
  const net = new TestNet();
  const device = createTestContext(e1000, {
    options: { mac: "52:54:00:12:34:56" },
    backend: net,
  });
  const driver = new Driver(device.machine);
  driver.attach();
  device.instance.start();
  return Object.assign(driver, { net, device });
}

/** A TCP segment over IPv4, its sums right, but for what a card is to add. */
function tcpFrame(length: number, isWhole: boolean): Uint8Array {
  const frame = frameTo(PEER, MAC, 40 + length, 0x0800);
  const view = new DataView(frame.buffer);
  frame.fill(0, 14, 54);
  frame[14] = 0x45;
  view.setUint16(16, 40 + length);
  frame[22] = 64;
  frame[23] = 6;
  frame.set([10, 0, 2, 15, 10, 0, 2, 2], 26);
  view.setUint16(34, 1000);
  view.setUint16(36, 80);
  view.setUint32(38, 0x1000);
  frame[46] = 0x50;
  frame[47] = 0x19;
  if (isWhole) {
    view.setUint16(24, fold(addWords(frame, 14, 34)));
    const pseudo = addWords(frame, 26, 34) + 6 + 20 + length;
    view.setUint16(50, fold(addWords(frame, 34, frame.length, pseudo)));
  }
  return frame;
}

function sumsAreRight(frame: Uint8Array): boolean {
  const end = 14 + word(frame, 16);
  const pseudo = addWords(frame, 26, 34) + 6 + end - 34;
  return fold(addWords(frame, 14, 34)) === 0 &&
    fold(addWords(frame, 34, end, pseudo)) === 0;
}

Deno.test("the EEPROM holds the address and sums to 0xBABA, through EERD and EECD", () => {
  const driver = card();
  const words = Array.from({ length: 64 }, (_, address) => {
    driver.write(EERD, 1 | address << 8);
    return driver.read(EERD) >>> 16;
  });
  assertEquals(words.slice(0, 3), [0x5452, 0x1200, 0x5634]);
  assertEquals(words.reduce((sum, each) => sum + each, 0) & 0xffff, 0xbaba);
  const eecd = REGISTERS.EECD.offset;
  const clock = (bits: number, count: number) => {
    for (let i = count - 1; i >= 0; i--) {
      const line = 0x42 | (bits >>> i & 1) << 2;
      driver.write(eecd, line);
      driver.write(eecd, line | 1);
      driver.write(eecd, line);
    }
  };
  driver.write(eecd, 0x40);
  clock(0b110_000010, 9);
  let value = 0;
  for (let i = 0; i < 16; i++) {
    driver.write(eecd, 0x43);
    value = value << 1 | driver.read(eecd) >>> 3 & 1;
    driver.write(eecd, 0x42);
  }
  assertEquals(value, 0x5634);
});

Deno.test("the PHY is a Marvell one with a gigabit link", () => {
  const driver = card();
  const phy = (register: number) => {
    driver.write(MDIC, 1 << 21 | register << 16 | 2 << 26);
    return driver.read(MDIC);
  };
  assertEquals(phy(2), (1 << 28 | 1 << 21 | 2 << 16 | 2 << 26) + 0x141);
  assertEquals(phy(3) & 0xffff, 0x0c20);
  assertEquals(phy(1) & 0x24, 0x24);
  driver.net.link = false;
  assertEquals(phy(1) & 0x24, 0);
});

Deno.test("STATUS.LU follows the cable, and LSC tells", () => {
  const driver = card();
  driver.start();
  assertEquals(driver.read(STATUS) & STATUS_LU, STATUS_LU);
  driver.read(ICR);
  driver.net.link = false;
  assertEquals(driver.read(STATUS) & STATUS_LU, 0);
  assertEquals(driver.read(ICR), ICR_LSC);
  assertEquals(driver.read(ICR), 0);
});

Deno.test("a legacy descriptor sends a frame, padded, and is written back", () => {
  const driver = card();
  driver.start();
  const at = driver.transmit(frameTo(PEER, MAC, 10));
  assertEquals(driver.net.frames.map((frame) => frame.length), [60]);
  assertEquals(driver.machine.memory.readU8(at + 12) & DD, DD);
  assertEquals(driver.read(ICR) & ICR_TXDW, ICR_TXDW);
  assertEquals(driver.read(COUNTERS.GPTC), 1);
  assertEquals(driver.read(COUNTERS.GPTC), 0);
});

Deno.test("a frame over several descriptors is one frame", () => {
  const driver = card();
  driver.start();
  const frame = frameTo(PEER, MAC, 200);
  driver.machine.memory.write(TX_DATA, frame);
  for (const [from, to] of [[0, 14], [14, 100], [100, frame.length]]) {
    const command = to === frame.length ? CMD_EOP | CMD_RS : 0;
    driver.put(
      BigInt(TX_DATA + from),
      BigInt(to - from) | BigInt(command) << 24n,
    );
  }
  driver.send();
  assertEquals(driver.net.frames, [frame]);
});

Deno.test("a frame waits while the network is full, and is sent once", () => {
  const driver = card();
  driver.start();
  driver.net.block();
  const at = driver.transmit(frameTo(PEER, MAC, 100));
  assertEquals(driver.machine.memory.readU8(at + 12) & DD, 0);
  driver.net.drain();
  assertEquals(driver.net.frames.length, 1);
  assertEquals(driver.machine.memory.readU8(at + 12) & DD, DD);
});

Deno.test("checksums are added, by legacy and by extended descriptors", () => {
  const driver = card();
  driver.start();
  const frame = tcpFrame(100, false);
  const view = new DataView(frame.buffer);
  view.setUint16(24, fold(addWords(frame, 14, 34)));
  const pseudo = addWords(frame, 26, 34) + 6 + 120;
  view.setUint16(50, ~fold(pseudo) & 0xffff);
  driver.transmit(
    frame,
    CMD_EOP | CMD_RS | CMD_IC,
    50n << 16n | 34n << 40n,
  );
  view.setUint16(24, 0);
  driver.machine.memory.write(TX_DATA, frame);
  driver.put(
    14n | 24n << 8n | 33n << 16n | 34n << 32n | 50n << 40n,
    BigInt(CMD_DEXT) << 24n,
  );
  driver.put(
    BigInt(TX_DATA),
    BigInt(frame.length) | 1n << 20n |
      BigInt(CMD_DEXT | CMD_EOP | CMD_RS) << 24n | 3n << 40n,
  );
  driver.send();
  assertEquals(driver.net.frames.map(sumsAreRight), [true, true]);
});

Deno.test("a long TCP segment is split, each part whole and in order", () => {
  const driver = card();
  driver.start();
  const frame = tcpFrame(3000, false);
  driver.machine.memory.write(TX_DATA, frame);
  driver.put(
    14n | 24n << 8n | 33n << 16n | 34n << 32n | 50n << 40n,
    3000n | BigInt(CMD_DEXT | CMD_TSE | 0x03) << 24n | 54n << 40n |
      1400n << 48n,
  );
  driver.put(
    BigInt(TX_DATA),
    BigInt(frame.length) | 1n << 20n |
      BigInt(CMD_DEXT | CMD_EOP | CMD_RS | CMD_TSE) << 24n | 3n << 40n,
  );
  driver.send();
  const { frames: sent } = driver.net;
  assertEquals(sent.map((part) => part.length), [1454, 1454, 254]);
  assertEquals(sent.map(sumsAreRight), [true, true, true]);
  assertEquals(sent.map((part) => part[47]), [0x10, 0x10, 0x19]);
  assertEquals(
    sent.flatMap((part) => [...part.subarray(54)]),
    [...frame.subarray(54)],
  );
});

Deno.test("VLAN tags are put in and taken out", () => {
  const driver = card();
  driver.start(RCTL_EN | RCTL_UPE | RCTL_SECRC | RCTL_VFE);
  driver.write(REGISTERS.CTRL.offset, CTRL_SLU | CTRL_VME);
  driver.write(ARRAYS.VFTA.offset, 1 << 5);
  const frame = frameTo(PEER, MAC, 100);
  driver.transmit(frame, CMD_EOP | CMD_RS | CMD_VLE, 5n << 48n);
  const [tagged] = driver.net.frames;
  assertEquals([word(tagged, 12), word(tagged, 14)], [0x8100, 5]);
  driver.net.receive(tagged);
  const { data, special, status } = driver.received(0);
  assertEquals([data, special, status & 8], [frame, 5, 8]);
  tagged[15] = 6;
  driver.net.receive(tagged);
  assertEquals(driver.read(REGISTERS.RDH.offset), 1);
});

Deno.test("a frame is received with its check sequence, and told of", () => {
  const driver = card();
  driver.start();
  driver.read(ICR);
  driver.net.receive(frameTo(MAC, PEER, 100));
  const { data, status } = driver.received(0);
  assertEquals(data.length, 118);
  assertEquals(status & 3, 3);
  assertEquals(driver.read(ICR), ICR_RXT0);
});

Deno.test("filters: address, broadcast, multicast table and promiscuous modes", () => {
  const driver = card();
  const group = parseMac("00:00:5e:00:00:fb")!;
  group[0] = 1;
  const taken = (rctl: number, to: Uint8Array) => {
    driver.write(REGISTERS.RCTL.offset, rctl);
    const before = driver.read(REGISTERS.RDH.offset);
    driver.net.receive(frameTo(to, PEER, 50));
    const after = driver.read(REGISTERS.RDH.offset);
    driver.write(REGISTERS.RDT.offset, (after + RING - 1) % RING);
    return before !== after;
  };
  driver.start();
  assertEquals(taken(RCTL_EN, MAC), true);
  assertEquals(taken(RCTL_EN, PEER), false);
  assertEquals(taken(RCTL_EN | RCTL_UPE, PEER), true);
  assertEquals(taken(RCTL_EN, BROADCAST), false);
  assertEquals(taken(RCTL_EN | RCTL_BAM, BROADCAST), true);
  assertEquals(taken(RCTL_EN, group), false);
  assertEquals(taken(RCTL_EN | RCTL_MPE, group), true);
  const hash = (group[4] | group[5] << 8) >>> 4;
  driver.write(
    ARRAYS.MTA.offset + 4 * (hash >>> 5),
    2 ** (hash & 31),
  );
  assertEquals(taken(RCTL_EN, group), true);
});

Deno.test("without descriptors frames wait, and none is lost", () => {
  const driver = card();
  driver.start();
  driver.read(ICR);
  for (let i = 0; i < RING + 2; i++) {
    driver.net.receive(frameTo(MAC, PEER, 50 + i));
  }
  assertEquals(driver.net.waiting, 3);
  assertEquals(driver.read(ICR) & ICR_RXO, ICR_RXO);
  driver.write(REGISTERS.RDT.offset, 4);
  assertEquals(driver.net.waiting, 0);
  assertEquals(driver.received(0).data.length, 50 + 8 + 18);
});

Deno.test("received checksums are checked", () => {
  const driver = card();
  driver.start(RCTL_EN | RCTL_UPE);
  driver.write(REGISTERS.RXCSUM.offset, RXCSUM_IPOFLD | RXCSUM_TUOFLD);
  const frame = tcpFrame(100, true);
  driver.net.receive(frame);
  frame[60] ^= 1;
  driver.net.receive(frame);
  assertEquals(driver.received(0).status & 0x64, 0x60);
  assertEquals(driver.received(0).errors, 0);
  assertEquals(driver.received(1).errors, 0x20);
});

Deno.test("ITR holds the next interrupt back", () => {
  const driver = card();
  const { machine } = driver;
  driver.start();
  driver.read(ICR);
  driver.write(REGISTERS.ITR.offset, 1000);
  machine.gsiEvents.length = 0;
  driver.net.receive(frameTo(MAC, PEER, 50));
  driver.read(ICR);
  driver.net.receive(frameTo(MAC, PEER, 50));
  assertEquals(machine.gsiEvents.map(([, level]) => level), [true, false]);
  machine.advance(256_000);
  assertEquals(machine.gsiEvents.map(([, level]) => level), [
    true,
    false,
    true,
  ]);
});

Deno.test("CTRL.RST brings back the address of the EEPROM and stops both rings", () => {
  const driver = card();
  driver.start();
  driver.write(ARRAYS.RA.offset, 0);
  driver.write(REGISTERS.CTRL.offset, CTRL_RST);
  assertEquals(driver.read(ARRAYS.RA.offset), 0x1200_5452);
  assertEquals(driver.read(REGISTERS.RCTL.offset), 0);
  assertEquals(driver.read(IMS), 0);
});

Deno.test("rings outside memory and of odd sizes do no harm", () => {
  const driver = card();
  driver.start();
  for (const base of [0xf800_0000, 0xff_ff00]) {
    driver.write(REGISTERS.TDBAL.offset, base);
    driver.write(REGISTERS.RDBAL.offset, base);
    driver.write(REGISTERS.TDH.offset, 0);
    driver.write(REGISTERS.TDT.offset, 5);
    driver.net.receive(frameTo(MAC, PEER, 50));
  }
  driver.write(REGISTERS.RDH.offset, 0xffff);
  driver.write(REGISTERS.TDT.offset, 0xffff);
  driver.net.receive(frameTo(MAC, PEER, 50));
  assertEquals(driver.machine.faults, []);
});

Deno.test("a frame that cannot be read is lost as a whole, and read once", () => {
  const driver = card();
  driver.start();
  const { memory, meter } = driver.machine;
  const DESCRIPTORS = 4096;
  const ring = 0x10_0000;
  for (let i = 0; i < DESCRIPTORS; i++) {
    const isLast = i === DESCRIPTORS - 2;
    memory.writeU64(ring + i * 16, isLast ? 1n << 40n : BigInt(TX_DATA));
    memory.writeU32(ring + i * 16 + 8, 1 | (isLast ? CMD_EOP << 24 : 0));
  }
  driver.write(REGISTERS.TDBAL.offset, ring);
  driver.write(REGISTERS.TDLEN.offset, DESCRIPTORS * 16);
  meter.restart();
  driver.write(REGISTERS.TDT.offset, DESCRIPTORS - 1);
  assertEquals(driver.read(REGISTERS.TDH.offset), DESCRIPTORS - 1);
  assertEquals(driver.net.frames, []);
  assertEquals(meter.accesses < 3 * DESCRIPTORS, true);
});

Deno.test("an address that is none is refused", () => {
  assertThrows(
    () =>
      createTestContext(e1000, {
        options: { mac: "01:00:00:00:00:00" },
        backend: new TestNet(),
      }),
    Error,
    'mac "01:00:00:00:00:00": expected six bytes',
  );
});

testRoundTrip(e1000, {
  make: () => ({ options: { mac: "52:54:00:12:34:56" } }),
  steps: [
    (machine) => new Driver(machine).attach(),
    (machine) => new Driver(machine).start(),
    (machine) => new Driver(machine).write(REGISTERS.ITR.offset, 1000),
    (machine) => machine.nets[0].block(),
    (machine) => void new Driver(machine).transmit(frameTo(PEER, MAC, 100)),
    (machine) => machine.nets[0].receive(frameTo(MAC, PEER, 70)),
    (machine) => new Driver(machine).read(ICR),
    (machine) => machine.nets[0].drain(),
    (machine) => machine.advance(100_000),
    (machine) => new Driver(machine).write(REGISTERS.RDTR.offset, 50),
    (machine) => new Driver(machine).write(REGISTERS.RADV.offset, 80),
    (machine) => machine.nets[0].receive(frameTo(BROADCAST, PEER, 1000)),
    (machine) => machine.advance(60_000),
    (machine) => new Driver(machine).received(1).data.slice(0, 40),
    (machine) => void (machine.nets[0].link = false),
    (machine) => new Driver(machine).read(STATUS),
    (machine) => new Driver(machine).read(ICR),
    (machine) => {
      for (let i = 0; i < RING; i++) {
        machine.nets[0].receive(frameTo(MAC, PEER, 200 + i));
      }
    },
    (machine) => new Driver(machine).write(REGISTERS.RDT.offset, 6),
    (machine) => new Driver(machine).read(COUNTERS.GPRC),
    (machine) => new Driver(machine).write(EERD, 0x101),
    (machine) => new Driver(machine).read(EERD),
  ],
}, import.meta.url);
