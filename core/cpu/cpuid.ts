/**
 * CPUID as data: feature bits by name, feature sets, and the leaves made of them (Intel SDM vol. 2, CPUID).
 *
 * The identity is GenuineIntel family 6 model 0x36 (Atom "Saltwell"), for the sake of speed: this in-order core has
 * no speculation, kernels know it, and so leave out page-table isolation, retpolines, register clearing and return-stack
 * stuffing, each of which an emulator pays dearly for and none of which protects anything here. The same is said to
 * systems that do not look at models by IA32_ARCH_CAPABILITIES. Intel rather than AMD, because leaf 15H then gives
 * Linux the TSC and APIC timer frequencies with no calibration.
 *
 * @module
 */
import { CR4 } from "./state.ts";

/** Where a feature bit is: leaf, subleaf, register (0 EAX, 1 EBX, 2 ECX, 3 EDX), bit. */
type FeatureBit = readonly [
  leaf: number,
  subleaf: number,
  register: 0 | 1 | 2 | 3,
  bit: number,
];

const EAX = 0, EBX = 1, ECX = 2, EDX = 3;
const EXTENDED = 0x8000_0001;
const POWER = 0x8000_0007;

/** Every feature bit that can be advertised, by the name that Linux gives it in /proc/cpuinfo. */
export const FEATURE_BITS = {
  fpu: [1, 0, EDX, 0],
  vme: [1, 0, EDX, 1],
  de: [1, 0, EDX, 2],
  pse: [1, 0, EDX, 3],
  tsc: [1, 0, EDX, 4],
  msr: [1, 0, EDX, 5],
  pae: [1, 0, EDX, 6],
  mce: [1, 0, EDX, 7],
  cx8: [1, 0, EDX, 8],
  apic: [1, 0, EDX, 9],
  sep: [1, 0, EDX, 11],
  mtrr: [1, 0, EDX, 12],
  pge: [1, 0, EDX, 13],
  mca: [1, 0, EDX, 14],
  cmov: [1, 0, EDX, 15],
  pat: [1, 0, EDX, 16],
  pse36: [1, 0, EDX, 17],
  clflush: [1, 0, EDX, 19],
  mmx: [1, 0, EDX, 23],
  fxsr: [1, 0, EDX, 24],
  sse: [1, 0, EDX, 25],
  sse2: [1, 0, EDX, 26],
  sse3: [1, 0, ECX, 0],
  pclmulqdq: [1, 0, ECX, 1],
  ssse3: [1, 0, ECX, 9],
  fma: [1, 0, ECX, 12],
  cx16: [1, 0, ECX, 13],
  pcid: [1, 0, ECX, 17],
  sse4_1: [1, 0, ECX, 19],
  sse4_2: [1, 0, ECX, 20],
  x2apic: [1, 0, ECX, 21],
  movbe: [1, 0, ECX, 22],
  popcnt: [1, 0, ECX, 23],
  tsc_deadline_timer: [1, 0, ECX, 24],
  aes: [1, 0, ECX, 25],
  xsave: [1, 0, ECX, 26],
  avx: [1, 0, ECX, 28],
  hypervisor: [1, 0, ECX, 31],
  arat: [6, 0, EAX, 2],
  fsgsbase: [7, 0, EBX, 0],
  tsc_adjust: [7, 0, EBX, 1],
  smep: [7, 0, EBX, 7],
  erms: [7, 0, EBX, 9],
  smap: [7, 0, EBX, 20],
  umip: [7, 0, ECX, 2],
  fsrm: [7, 0, EDX, 4],
  serialize: [7, 0, EDX, 14],
  arch_capabilities: [7, 0, EDX, 29],
  lahf_lm: [EXTENDED, 0, ECX, 0],
  syscall: [EXTENDED, 0, EDX, 11],
  nx: [EXTENDED, 0, EDX, 20],
  pdpe1gb: [EXTENDED, 0, EDX, 26],
  rdtscp: [EXTENDED, 0, EDX, 27],
  lm: [EXTENDED, 0, EDX, 29],
  constant_tsc: [POWER, 0, EDX, 8],
} as const satisfies Record<string, FeatureBit>;

/** Name of a feature. */
export type Feature = keyof typeof FEATURE_BITS;

const V2: readonly Feature[] = [
  ...[
    "fpu",
    "de",
    "pse",
    "tsc",
    "msr",
    "pae",
    "mce",
    "cx8",
    "apic",
    "sep",
    "mtrr",
    "pge",
    "mca",
    "cmov",
  ] as const,
  ...[
    "pat",
    "pse36",
    "clflush",
    "mmx",
    "fxsr",
    "sse",
    "sse2",
    "sse3",
    "pclmulqdq",
    "ssse3",
    "cx16",
  ] as const,
  ...[
    "sse4_1",
    "sse4_2",
    "x2apic",
    "popcnt",
    "tsc_deadline_timer",
    "aes",
    "hypervisor",
  ] as const,
  // String moves are one dispatch whatever their length: the fastest copy here, which these two say.
  ...[
    "arat",
    "fsgsbase",
    "tsc_adjust",
    "erms",
    "fsrm",
    "arch_capabilities",
  ] as const,
  // Linux serializes with an IRET to itself otherwise, a hundred thousand times while it patches its code.
  "serialize",
  ...[
    "lahf_lm",
    "syscall",
    "nx",
    "pdpe1gb",
    "rdtscp",
    "lm",
    "constant_tsc",
  ] as const,
];

/** Feature sets by name: `v2` is x86-64-v2 with what a system needs beside it. */
export const FEATURE_SETS = { v2: V2 } as const satisfies Record<
  string,
  readonly Feature[]
>;

/** Name of a feature set. */
export type FeatureSetName = keyof typeof FEATURE_SETS;

/** Frequency of the TSC, of the crystal in leaf 15H, and so of the local APIC's timer before its divider. */
export const TSC_HZ = 1_000_000_000;

/** Width of physical addresses (leaf 80000008H). */
export const PHYSICAL_BITS = 40;
/** Width of linear addresses. */
export const LINEAR_BITS = 48;

const VENDOR = "GenuineIntel";
const HYPERVISOR = "DiapausevCPU";
const BRAND = "Diapause vCPU";
const FAMILY = 6, MODEL = 0x36, STEPPING = 9;

const MAX_BASIC = 0x16;
const MAX_HYPERVISOR = 0x4000_0000;
const MAX_EXTENDED = 0x8000_0008;
const CLFLUSH_BYTES = 64;
const BRAND_FIRST = 0x8000_0002, BRAND_LAST = 0x8000_0004;

/** Leaf 1 EDX bit that follows IA32_APIC_BASE, ECX bit that follows CR4.OSXSAVE. */
const APIC_BIT = 1 << 9, OSXSAVE_BIT = 1 << 27;

/** Deterministic cache parameters (leaf 4): type, level, ways, sets; lines of 64 bytes. */
const CACHES = [
  { type: 1, level: 1, ways: 8, sets: 64 },
  { type: 2, level: 1, ways: 8, sets: 64 },
  { type: 3, level: 2, ways: 16, sets: 512 },
] as const;
/** Leaf 2 descriptor: "see leaf 4", and one repetition. */
const LEAF2_EAX = 0x00ff_ff01;

/** What of CPUID depends on the state of the vCPU. */
export interface DynamicFeatures {
  /** IA32_APIC_BASE.EN. */
  readonly apicEnabled: boolean;
  /** CR4.OSXSAVE. */
  readonly osxsave: boolean;
}

/** The four registers. */
export type CpuidResult = [eax: number, ebx: number, ecx: number, edx: number];

function textWords(text: string, count: number): number[] {
  const bytes = new Uint8Array(count * 4);
  new TextEncoder().encodeInto(text, bytes);
  return [...new Uint32Array(bytes.buffer)];
}

function bitsFor(count: number): number {
  return count <= 1 ? 0 : 32 - Math.clz32(count - 1);
}

/** One vCPU's identity and features. */
export class CpuModel {
  private readonly features: ReadonlySet<Feature>;
  private readonly masks = new Map<string, number>();

  /**
   * Makes the identity of one vCPU.
   *
   * @param features Feature set by name, or the features themselves (a snapshot's).
   * @param apicId x2APIC id of this vCPU.
   * @param count vCPUs of the machine: one package of single-thread cores.
   * @throws {RangeError} for a feature name that does not exist.
   */
  constructor(
    features: FeatureSetName | readonly Feature[] = "v2",
    readonly apicId = 0,
    readonly count = 1,
  ) {
    const list = typeof features === "string"
      ? FEATURE_SETS[features]
      : features;
    this.features = new Set(list);
    for (const name of list) {
      const at: FeatureBit | undefined = FEATURE_BITS[name];
      if (!at) {
        throw new RangeError(
          `CPU feature "${name}" does not exist; known are ${
            Object.keys(FEATURE_BITS).join(", ")
          }`,
        );
      }
      const key = `${at[0]}.${at[1]}.${at[2]}`;
      this.masks.set(key, (this.masks.get(key) ?? 0) | (1 << at[3]));
    }
  }

  /** The advertised features, in order. */
  list(): Feature[] {
    return [...this.features];
  }

  /** Whether a feature is advertised. */
  has(feature: Feature): boolean {
    return this.features.has(feature);
  }

  /** CPUID. */
  cpuid(leaf: number, subleaf: number, dynamic: DynamicFeatures): CpuidResult {
    leaf >>>= 0;
    // Out of range gives the highest basic leaf (SDM vol. 2, CPUID).
    if (
      leaf >= 0x8000_0000
        ? leaf > MAX_EXTENDED
        : leaf >= 0x4000_0000
        ? leaf > MAX_HYPERVISOR
        : leaf > MAX_BASIC
    ) {
      leaf = MAX_BASIC;
    }
    const result = this.leaf(leaf, subleaf >>> 0);
    if (leaf === 1) {
      if (!dynamic.apicEnabled) result[3] &= ~APIC_BIT;
      if (dynamic.osxsave) result[2] |= OSXSAVE_BIT;
    }
    for (let i = 0; i < 4; i++) result[i] >>>= 0;
    return result;
  }

  private mask(leaf: number, subleaf: number, register: number): number {
    return this.masks.get(`${leaf}.${subleaf}.${register}`) ?? 0;
  }

  private leaf(leaf: number, subleaf: number): CpuidResult {
    switch (leaf) {
      case 0: {
        const [b, d, c] = textWords(VENDOR, 3);
        return [MAX_BASIC, b, c, d];
      }
      case 1: {
        const signature = STEPPING | ((MODEL & 0xf) << 4) | (FAMILY << 8) |
          ((MODEL >> 4) << 16);
        const ebx = ((CLFLUSH_BYTES / 8) << 8) |
          ((1 << bitsFor(this.count)) << 16) | ((this.apicId & 0xff) << 24);
        const htt = this.count > 1 ? 1 << 28 : 0;
        return [
          signature,
          ebx,
          this.mask(1, 0, ECX),
          this.mask(1, 0, EDX) | htt,
        ];
      }
      case 2:
        return [LEAF2_EAX, 0, 0, 0];
      case 4: {
        const cache = CACHES[subleaf];
        if (!cache) return [0, 0, 0, 0];
        const cores = (1 << bitsFor(this.count)) - 1;
        return [
          cache.type | (cache.level << 5) | (1 << 8) | (cores << 26),
          (CLFLUSH_BYTES - 1) | ((cache.ways - 1) << 22),
          cache.sets - 1,
          0,
        ];
      }
      case 6:
        return [this.mask(6, 0, EAX), 0, 0, 0];
      case 7:
        return subleaf === 0
          ? [
            0,
            this.mask(7, 0, EBX),
            this.mask(7, 0, ECX),
            this.mask(7, 0, EDX),
          ]
          : [0, 0, 0, 0];
      case 0xb: {
        // Level 0: threads, one to a core; level 1: cores (SDM vol. 2, leaf 0BH).
        const levels: readonly CpuidResult[] = [
          [0, 1, 1 << 8, this.apicId],
          [bitsFor(this.count), this.count, 2 << 8 | 1, this.apicId],
        ];
        return levels[subleaf]
          ? [...levels[subleaf]] as CpuidResult
          : [0, 0, subleaf & 0xff, this.apicId];
      }
      case 0x15:
        return [1, 1, TSC_HZ, 0];
      case 0x16:
        return [TSC_HZ / 1e6, TSC_HZ / 1e6, TSC_HZ / 1e6, 0];
      case 0x4000_0000: {
        if (!this.has("hypervisor")) return [0, 0, 0, 0];
        const [b, c, d] = textWords(HYPERVISOR, 3);
        return [MAX_HYPERVISOR, b, c, d];
      }
      case 0x8000_0000:
        return [MAX_EXTENDED, 0, 0, 0];
      case EXTENDED:
        return [0, 0, this.mask(EXTENDED, 0, ECX), this.mask(EXTENDED, 0, EDX)];
      case 0x8000_0006:
        // L2: 512 KiB, 16 ways, as in leaf 4.
        return [0, 0, CLFLUSH_BYTES | (8 << 12) | (512 << 16), 0];
      case POWER:
        return [0, 0, 0, this.mask(POWER, 0, EDX)];
      case 0x8000_0008:
        return [PHYSICAL_BITS | (LINEAR_BITS << 8), 0, 0, 0];
      default:
        if (leaf >= BRAND_FIRST && leaf <= BRAND_LAST) {
          return textWords(BRAND, 12).slice(
            (leaf - BRAND_FIRST) * 4,
            (leaf - BRAND_FIRST) * 4 + 4,
          ) as CpuidResult;
        }
        return [0, 0, 0, 0];
    }
  }
}

/**
 * The bits of CR4 that a model's features have.
 *
 * @param model The model.
 * @returns Their mask.
 */
export function cr4Bits(model: CpuModel): number {
  let bits = 0;
  if (model.has("vme")) bits |= CR4.VME | CR4.PVI;
  if (model.has("tsc")) bits |= CR4.TSD;
  if (model.has("de")) bits |= CR4.DE;
  if (model.has("pse")) bits |= CR4.PSE;
  if (model.has("pae")) bits |= CR4.PAE;
  if (model.has("mce")) bits |= CR4.MCE;
  if (model.has("pge")) bits |= CR4.PGE;
  if (model.has("fxsr")) bits |= CR4.OSFXSR;
  if (model.has("sse")) bits |= CR4.OSXMMEXCPT;
  if (model.has("umip")) bits |= CR4.UMIP;
  if (model.has("fsgsbase")) bits |= CR4.FSGSBASE;
  if (model.has("pcid")) bits |= CR4.PCIDE;
  if (model.has("xsave")) bits |= CR4.OSXSAVE;
  if (model.has("smep")) bits |= CR4.SMEP;
  if (model.has("smap")) bits |= CR4.SMAP;
  return bits | CR4.PCE;
}
