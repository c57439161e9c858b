/**
 * The loop that measures plain instruction speed, and the smallest kernel that runs it: the same
 * bytes run in a guest and on the host's own processor.
 *
 * The kernel is an ELF64 file with a PVH note: it is entered in 32-bit protected mode with flat
 * segments and paging off (the Xen project's "x86/HVM direct boot ABI"). It enters IA-32e mode
 * (Intel SDM vol. 3, 10.8.5), marks the begin on COM1, runs the loop, prints the result, marks
 * the end and halts.
 *
 * @module
 */

import { HostContext, hostCpu } from "../core/cpu/testing/host_cpu.ts";

/** The name in the marks. */
export const LOOP = "loop";
/** Instructions of one turn of {@linkcode LOOP_CODE}. */
export const LOOP_INSTRUCTIONS = 10;
/** Turns that are timed. */
export const LOOP_TURNS = 50_000_000;

/**
 * The loop. Before it, RCX is the number of turns, RSI points to 8 bytes of zeroes, RBX and RDI
 * are 0; after it, RDI is the result.
 */
export const LOOP_CODE: readonly number[] = [
  ...[0x48, 0x8b, 0x06], // turn: mov rax, [rsi]
  ...[0x48, 0x01, 0xc8], // add rax, rcx
  ...[0x48, 0x31, 0xc3], // xor rbx, rax
  ...[0x48, 0xc1, 0xc3, 0x07], // rol rbx, 7
  ...[0x48, 0x89, 0x1e], // mov [rsi], rbx
  ...[0x48, 0x8d, 0x14, 0x58], // lea rdx, [rax + rbx*2]
  ...[0x0f, 0xb6, 0xd2], // movzx edx, dl
  ...[0x48, 0x01, 0xd7], // add rdi, rdx
  ...[0x48, 0xff, 0xc9], // dec rcx
  ...[0x75, 0xe1], // jnz turn
];

const RCX = 1, RBX = 3, RSP = 4, RSI = 6, RDI = 7;

/** Sixteen hexadecimal digits, as the kernel prints the result. */
function digits(value: bigint): string {
  return value.toString(16).padStart(16, "0");
}

/**
 * Runs the loop on the host's processor.
 *
 * @param turns How often.
 * @returns The result in hexadecimal.
 * @throws {Error} If the host is no x86-64 Linux.
 */
export function runLoopNatively(turns: number): string {
  const host = hostCpu();
  const context = new HostContext();
  host.scratch.fill(0);
  context.setGpr(RCX, BigInt(turns));
  context.setGpr(RBX, 0n);
  context.setGpr(RSI, BigInt(host.scratchAddress));
  context.setGpr(RDI, 0n);
  const middle = host.scratchAddress + (host.scratch.length >> 1);
  context.setGpr(RSP, BigInt(middle));
  host.run(Uint8Array.from(LOOP_CODE), context);
  return digits(context.gpr(RDI));
}

// Where the kernel's parts are in memory.
const BASE = 0x100000;
const GDT = BASE + 0x800;
const GDT_POINTER = BASE + 0x840;
const MESSAGES = BASE + 0x900;
const PML4 = BASE + 0x1000;
const PDPT = BASE + 0x2000;
const PAGE_DIRECTORY = BASE + 0x3000;
const DATA = BASE + 0x4000;
const STACK_TOP = BASE + 0x6000;
const IMAGE_END = STACK_TOP;
const CODE_SELECTOR = 0x08;

/** Page-table entry bits: Intel SDM vol. 3, 4.5.4. */
const PRESENT_WRITABLE = 0x3;
const LARGE_PAGE = 0x80;
/** Descriptors: a 64-bit code segment at CPL 0, and a flat data segment. */
const GDT_ENTRIES = [0n, 0x00af9b000000ffffn, 0x00cf93000000ffffn];

/** A 32-bit value, low byte first. */
function imm32(value: number): number[] {
  return [0, 8, 16, 24].map((shift) => value >>> shift & 0xff);
}

/** Machine code with labels: calls and jumps know their targets only when all is placed. */
class Code {
  readonly #bytes: number[] = [];
  readonly #labels = new Map<string, number>();
  readonly #calls: { at: number; label: string }[] = [];

  /** Adds bytes. */
  add(...bytes: readonly number[]): this {
    this.#bytes.push(...bytes);
    return this;
  }

  /** Names the place. */
  label(name: string): this {
    this.#labels.set(name, this.#bytes.length);
    return this;
  }

  /** Adds `call label`. */
  call(label: string): this {
    this.add(0xe8);
    this.#calls.push({ at: this.#bytes.length, label });
    return this.add(0, 0, 0, 0);
  }

  /** The address of the place, for code at {@linkcode BASE}. */
  get here(): number {
    return BASE + this.#bytes.length;
  }

  /** The bytes. */
  finish(): Uint8Array {
    const bytes = Uint8Array.from(this.#bytes);
    for (const { at, label } of this.#calls) {
      bytes.set(imm32(this.#labels.get(label)! - (at + 4)), at);
    }
    return bytes;
  }
}

/** `mov esi, text; call print`. */
function print(code: Code, address: number): void {
  code.add(0xbe, ...imm32(address)).call("print");
}

function assemble(turns: number, begin: number, end: number): Uint8Array {
  const FAR_JUMP_LENGTH = 7;
  const code = new Code();
  code
    .add(0xb8, ...imm32(0x20)) // mov eax, CR4.PAE
    .add(0x0f, 0x22, 0xe0) // mov cr4, eax
    .add(0xb8, ...imm32(PML4)) // mov eax, PML4
    .add(0x0f, 0x22, 0xd8) // mov cr3, eax
    .add(0xb9, ...imm32(0xc0000080)) // mov ecx, IA32_EFER
    .add(0x0f, 0x32) // rdmsr
    .add(0x0d, ...imm32(0x100)) // or eax, EFER.LME
    .add(0x0f, 0x30) // wrmsr
    .add(0x0f, 0x20, 0xc0) // mov eax, cr0
    .add(0x0d, ...imm32(0x80000000)) // or eax, CR0.PG
    .add(0x0f, 0x22, 0xc0) // mov cr0, eax
    .add(0x0f, 0x01, 0x15, ...imm32(GDT_POINTER)); // lgdt [GDT_POINTER]
  code.add(0xea, ...imm32(code.here + FAR_JUMP_LENGTH), CODE_SELECTOR, 0);
  code.add(0xbc, ...imm32(STACK_TOP)); // mov esp, STACK_TOP
  print(code, begin);
  code
    .add(0xb9, ...imm32(turns)) // mov ecx, turns
    .add(0xbe, ...imm32(DATA)) // mov esi, DATA
    .add(0x31, 0xff) // xor edi, edi
    .add(0x31, 0xdb) // xor ebx, ebx
    .add(...LOOP_CODE)
    .add(0x48, 0x89, 0xfb) // mov rbx, rdi
    .add(0xb9, ...imm32(16)) // mov ecx, 16
    .add(0x48, 0xc1, 0xc3, 0x04) // digit: rol rbx, 4
    .add(0x88, 0xd8) // mov al, bl
    .add(0x24, 0x0f) // and al, 15
    .add(0x3c, 0x0a) // cmp al, 10
    .add(0x72, 0x02) // jb +2
    .add(0x04, 0x27) // add al, 'a' - 10 - '0'
    .add(0x04, 0x30) // add al, '0'
    .call("putc")
    .add(0xff, 0xc9) // dec ecx
    .add(0x75, 0xe7); // jnz digit
  print(code, end);
  code
    .add(0xf4) // hlt
    .add(0xeb, 0xfd); // jmp hlt
  code.label("print")
    .add(0xac) // lodsb
    .add(0x84, 0xc0) // test al, al
    .add(0x74, 0x07) // jz ret
    .call("putc")
    .add(0xeb, 0xf4) // jmp print
    .add(0xc3); // ret
  code.label("putc")
    .add(0x88, 0xc4) // mov ah, al
    .add(0x66, 0xba, 0xfd, 0x03) // mov dx, COM1 line status
    .add(0xec) // wait: in al, dx
    .add(0xa8, 0x20) // test al, LSR.THRE
    .add(0x74, 0xfb) // jz wait
    .add(0x66, 0xba, 0xf8, 0x03) // mov dx, COM1 transmitter holding
    .add(0x88, 0xe0) // mov al, ah
    .add(0xee) // out dx, al
    .add(0xc3); // ret
  return code.finish();
}

/** Everything that the kernel has in memory, from {@linkcode BASE} on. */
function image(turns: number): Uint8Array {
  const bytes = new Uint8Array(IMAGE_END - BASE);
  const view = new DataView(bytes.buffer);
  const encoder = new TextEncoder();
  const beginText = encoder.encode(`\n@bench ${LOOP} begin\n\0`);
  const endText = encoder.encode(`\n@bench ${LOOP} end\n\0`);
  const end = MESSAGES + beginText.length;
  bytes.set(beginText, MESSAGES - BASE);
  bytes.set(endText, end - BASE);
  bytes.set(assemble(turns, MESSAGES, end));
  GDT_ENTRIES.forEach((entry, i) =>
    view.setBigUint64(GDT - BASE + 8 * i, entry, true)
  );
  view.setUint16(GDT_POINTER - BASE, 8 * GDT_ENTRIES.length - 1, true);
  view.setUint32(GDT_POINTER - BASE + 2, GDT, true);
  // The first 2 MiB are mapped to themselves.
  view.setUint32(PML4 - BASE, PDPT | PRESENT_WRITABLE, true);
  view.setUint32(PDPT - BASE, PAGE_DIRECTORY | PRESENT_WRITABLE, true);
  view.setUint32(PAGE_DIRECTORY - BASE, LARGE_PAGE | PRESENT_WRITABLE, true);
  return bytes;
}

// ELF-64 object file format, 1.5: the sizes of its headers, and the offsets of what is set here.
const EHDR_SIZE = 64;
const PHDR_SIZE = 56;
const EM_X86_64 = 62;
const ET_EXEC = 2;
const PT_LOAD = 1;
const PT_NOTE = 4;
const PF_RWX = 7;
const FILE_ALIGNMENT = 0x1000;
/** The 32-bit entry point of a PVH kernel. */
const XEN_ELFNOTE_PHYS32_ENTRY = 18;

/**
 * Makes the kernel.
 *
 * @param turns How often the loop runs, below 2^32.
 * @returns An ELF64 file with a PVH note.
 */
export function loopKernel(turns: number): Uint8Array {
  const loaded = image(turns);
  const file = new Uint8Array(FILE_ALIGNMENT + loaded.length);
  const view = new DataView(file.buffer);
  const name = new TextEncoder().encode("Xen\0");
  const noteAt = EHDR_SIZE + 2 * PHDR_SIZE;
  const noteLength = 12 + name.length + 4;
  file.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]); // "\x7fELF", 64 bits, low byte first, version 1
  view.setUint16(16, ET_EXEC, true);
  view.setUint16(18, EM_X86_64, true);
  view.setUint32(20, 1, true); // e_version
  view.setUint32(24, BASE, true); // e_entry
  view.setUint32(32, EHDR_SIZE, true); // e_phoff
  view.setUint16(52, EHDR_SIZE, true);
  view.setUint16(54, PHDR_SIZE, true);
  view.setUint16(56, 2, true); // e_phnum
  const header = (
    at: number,
    type: number,
    offset: number,
    address: number,
    size: number,
    alignment: number,
  ) => {
    view.setUint32(at, type, true);
    view.setUint32(at + 4, PF_RWX, true);
    view.setUint32(at + 8, offset, true);
    view.setUint32(at + 16, address, true); // p_vaddr
    view.setUint32(at + 24, address, true); // p_paddr
    view.setUint32(at + 32, size, true); // p_filesz
    view.setUint32(at + 40, size, true); // p_memsz
    view.setUint32(at + 48, alignment, true);
  };
  header(
    EHDR_SIZE,
    PT_LOAD,
    FILE_ALIGNMENT,
    BASE,
    loaded.length,
    FILE_ALIGNMENT,
  );
  header(EHDR_SIZE + PHDR_SIZE, PT_NOTE, noteAt, 0, noteLength, 4);
  view.setUint32(noteAt, name.length, true);
  view.setUint32(noteAt + 4, 4, true); // length of the descriptor
  view.setUint32(noteAt + 8, XEN_ELFNOTE_PHYS32_ENTRY, true);
  file.set(name, noteAt + 12);
  view.setUint32(noteAt + 12 + name.length, BASE, true);
  file.set(loaded, FILE_ALIGNMENT);
  return file;
}
