import { assert, assertEquals } from "@std/assert";
import { declareAcpi } from "./declaration.ts";
import { buildAcpiTables, installAcpi } from "./tables.ts";
import { pirqOf } from "./dsdt.ts";
import { BIOS_AREA_BASE, HIGH_MEMORY_BASE } from "../e820.ts";

const everything = declareAcpi({
  cpus: [0, 1, 255],
  ps2: true,
  vga: true,
  uarts: [{ port: 0x3f8, irq: 4 }, { port: 0x3e8, irq: 4 }],
  pciHole64: { base: 2 ** 36, length: 2 ** 34 },
});
const least = declareAcpi({ cpus: 1, hpet: false });

function sum(bytes: Uint8Array): number {
  return bytes.reduce((total, byte) => total + byte, 0) & 0xff;
}

Deno.test("buildAcpiTables gives every table a right checksum and length", () => {
  for (const declaration of [everything, least]) {
    for (const { signature, bytes } of buildAcpiTables(declaration)) {
      if (signature === "FACS") continue;
      assertEquals(sum(bytes), 0, signature);
      const view = new DataView(bytes.buffer);
      const lengthAt = signature === "RSD PTR " ? 20 : 4;
      assertEquals(view.getUint32(lengthAt, true), bytes.length, signature);
    }
  }
});

Deno.test("buildAcpiTables places tables in the BIOS area without overlap", () => {
  const tables = buildAcpiTables(everything)
    .toSorted((a, b) => a.address - b.address);
  let end = BIOS_AREA_BASE;
  for (const { address, bytes } of tables) {
    assert(address >= end);
    end = address + bytes.length;
  }
  assert(end <= HIGH_MEMORY_BASE);
});

Deno.test("installAcpi writes an RSDP that leads to every table", () => {
  const memory = new Uint8Array(HIGH_MEMORY_BASE);
  const ram = {
    size: memory.length,
    write: (pa: number, bytes: Uint8Array) => memory.set(bytes, pa),
  };
  const rsdp = installAcpi(ram, everything);
  const view = new DataView(memory.buffer);
  const ascii = (at: number, length: number) =>
    String.fromCharCode(...memory.subarray(at, at + length));
  assertEquals(ascii(rsdp, 8), "RSD PTR ");
  assertEquals(sum(memory.subarray(rsdp, rsdp + 20)), 0);
  const roots = (at: number, width: number) => {
    const found: string[] = [];
    for (let i = 36; i < view.getUint32(at + 4, true); i += width) {
      found.push(ascii(view.getUint32(at + i, true), 4));
    }
    return found;
  };
  const expected = ["FACP", "APIC", "MCFG", "HPET"];
  assertEquals(roots(view.getUint32(rsdp + 16, true), 4), expected);
  assertEquals(roots(Number(view.getBigUint64(rsdp + 24, true)), 8), expected);
});

Deno.test("pirqOf spreads slots and pins over the eight lines", () => {
  assertEquals(pirqOf(0, 0), 0);
  assertEquals(pirqOf(6, 3), 1);
  assertEquals(pirqOf(31, 0), 7);
});

/** Runs a tool of acpica-tools; undefined where it is not installed and need not be. */
async function run(
  command: string,
  ...args: string[]
): Promise<string | undefined> {
  try {
    const { code, stdout, stderr } = await new Deno.Command(command, { args })
      .output();
    const text = new TextDecoder().decode(stdout) +
      new TextDecoder().decode(stderr);
    assertEquals(code, 0, text);
    return text;
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    if (Deno.env.get("CI") === "true") {
      throw new Error(`${command} is missing: install acpica-tools`);
    }
    console.log(`skipped: ${command} is missing (Debian: acpica-tools)`);
    return undefined;
  }
}

Deno.test("ACPICA disassembles, recompiles and loads the tables", async () => {
  const directory = await Deno.makeTempDir({ prefix: "diapause-acpi-" });
  try {
    for (const declaration of [everything, least]) {
      for (const { signature, bytes } of buildAcpiTables(declaration)) {
        if (signature === "RSD PTR ") continue;
        const file = `${directory}/${signature}`;
        await Deno.writeFile(`${file}.dat`, bytes);
        const text = await run("iasl", "-d", `${file}.dat`);
        if (text === undefined) return;
        assert(!/error|warning|invalid/i.test(text), text);
      }
      const compiled = await run("iasl", "-tc", `${directory}/DSDT.dsl`);
      assert(compiled?.includes("0 Errors, 0 Warnings"), compiled);
      const loaded = await run(
        "acpiexec",
        "-b",
        "execute \\_PIC 1;execute \\_SB.PCI0._PRT;execute \\_SB.PCI0._CRS;quit",
        `${directory}/DSDT.dat`,
      );
      if (loaded === undefined) return;
      assert(loaded.includes("successfully acquired and loaded"), loaded);
      assert(!/ACPI (Error|Warning|BIOS)/.test(loaded), loaded);
      assert(loaded.includes("Evaluation of \\_SB.PCI0._PRT returned"), loaded);
    }
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});
