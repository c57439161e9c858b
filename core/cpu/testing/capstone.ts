/**
 * Capstone, for messages of failed tests and to check decoded lengths.
 *
 * @module
 */
import loadCapstone from "@alexaltea/capstone-js";

/** What is used of Capstone's module. */
interface CapstoneModule {
  readonly ARCH_X86: number;
  readonly MODE_16: number;
  readonly MODE_32: number;
  readonly MODE_64: number;
  readonly Capstone: new (arch: number, mode: number) => {
    disasm(
      code: Uint8Array | number[],
      address: number,
      max?: number,
    ): CapstoneInsn[];
  };
}

/** An instruction as Capstone gives it. */
export interface CapstoneInsn {
  readonly size: number;
  readonly mnemonic: string;
  readonly op_str: string;
}

/** A disassembler of one mode. */
export class Disassembler {
  readonly #capstone: InstanceType<CapstoneModule["Capstone"]>;

  private constructor(module: CapstoneModule, mode: 16 | 32 | 64) {
    this.#capstone = new module.Capstone(
      module.ARCH_X86,
      mode === 64
        ? module.MODE_64
        : mode === 32
        ? module.MODE_32
        : module.MODE_16,
    );
  }

  /** Loads Capstone. */
  static async open(mode: 16 | 32 | 64 = 64): Promise<Disassembler> {
    return new Disassembler(
      await (loadCapstone as unknown as () => Promise<CapstoneModule>)(),
      mode,
    );
  }

  /** The instruction at the start of `code`, or undefined where Capstone knows none. */
  first(code: Uint8Array, address = 0): CapstoneInsn | undefined {
    try {
      return this.#capstone.disasm(code, address, 1)[0];
    } catch {
      return undefined;
    }
  }

  /** Its text. */
  text(code: Uint8Array, address = 0): string {
    const insn = this.first(code, address);
    return insn === undefined
      ? "(unknown to Capstone)"
      : `${insn.mnemonic} ${insn.op_str}`.trim();
  }
}
