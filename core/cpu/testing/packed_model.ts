/**
 * A plain model of the packed instructions, lane by lane in bigints, after the operation sections of Intel SDM vol. 2. It shares
 * nothing with the semantics it checks.
 *
 * @module
 */

/** The result of an instruction from the bytes of its destination and source, its immediate and XMM0. */
export type PackedModel = (
  d: Uint8Array,
  s: Uint8Array,
  imm: number,
  xmm0: Uint8Array,
) => Uint8Array;

type Lane = bigint;

/** The lanes of a register, `bits` wide. */
export function toLanes(
  bytes: Uint8Array,
  bits: number,
  signed = false,
): Lane[] {
  const size = bits / 8;
  return Array.from({ length: bytes.length / size }, (_, i) => {
    let lane = 0n;
    for (let k = size - 1; k >= 0; k--) {
      lane = lane << 8n | BigInt(bytes[i * size + k]);
    }
    return signed ? BigInt.asIntN(bits, lane) : lane;
  });
}

/** The register of some lanes, cut to `bits`. */
export function fromLanes(lanes: readonly Lane[], bits: number): Uint8Array {
  const size = bits / 8;
  return Uint8Array.from(
    lanes.flatMap((lane) =>
      Array.from(
        { length: size },
        (_, k) => Number(lane >> BigInt(8 * k) & 0xffn),
      )
    ),
  );
}

function clamp(value: Lane, low: Lane, high: Lane): Lane {
  return value < low ? low : value > high ? high : value;
}

/** Saturation to `bits`. */
function saturate(value: Lane, bits: number, signed: boolean): Lane {
  const range = 1n << BigInt(bits);
  return signed
    ? clamp(value, -range / 2n, range / 2n - 1n)
    : clamp(value, 0n, range - 1n);
}

const abs = (value: Lane) => value < 0n ? -value : value;
const bool = (value: boolean) => value ? -1n : 0n;

function each(
  bits: number,
  signed: boolean,
  f: (a: Lane, b: Lane) => Lane,
): PackedModel {
  return (d, s) => {
    const b = toLanes(s, bits, signed);
    return fromLanes(toLanes(d, bits, signed).map((a, i) => f(a, b[i])), bits);
  };
}

function unpack(bits: number, high: boolean): PackedModel {
  return (d, s) => {
    const a = toLanes(d, bits), b = toLanes(s, bits);
    const half = a.length / 2;
    const out: Lane[] = [];
    for (let i = 0; i < half; i++) {
      out.push(a[i + (high ? half : 0)], b[i + (high ? half : 0)]);
    }
    return fromLanes(out, bits);
  };
}

function pack(from: number, signed: boolean): PackedModel {
  return (d, s) =>
    fromLanes(
      [...toLanes(d, from, true), ...toLanes(s, from, true)].map((x) =>
        saturate(x, from / 2, signed)
      ),
      from / 2,
    );
}

function horizontal(bits: number, f: (a: Lane, b: Lane) => Lane): PackedModel {
  return (d, s) => {
    const all = [...toLanes(d, bits, true), ...toLanes(s, bits, true)];
    return fromLanes(
      all.filter((_, i) => i % 2 === 0).map((x, i) => f(x, all[2 * i + 1])),
      bits,
    );
  };
}

/** Products of lanes of `bits`, summed in pairs. */
function pairs(products: Lane[], bits: number, saturated = false): Uint8Array {
  const sums = products.filter((_, i) => i % 2 === 0).map((x, i) =>
    x + products[2 * i + 1]
  );
  return fromLanes(
    saturated ? sums.map((x) => saturate(x, bits, true)) : sums,
    bits,
  );
}

function evenProducts(signed: boolean): PackedModel {
  return (d, s) => {
    const b = toLanes(s, 32, signed);
    return fromLanes(
      toLanes(d, 32, signed).map((a, i) => a * b[i]).filter((_, i) =>
        i % 2 === 0
      ),
      64,
    );
  };
}

function shift(
  bits: number,
  f: (a: Lane, n: bigint) => Lane,
  signed = false,
): PackedModel {
  return (d, s) => {
    const [count] = toLanes(s.subarray(0, 8), 64);
    const most = BigInt(bits);
    return fromLanes(
      toLanes(d, bits, signed).map((a) => f(a, count < most ? count : most)),
      bits,
    );
  };
}

function extend(from: number, to: number, signed: boolean): PackedModel {
  return (_d, s) => fromLanes(toLanes(s, from, signed).slice(0, 128 / to), to);
}

function shuffleWords(first: number): PackedModel {
  return (_d, s, imm) => {
    const words = toLanes(s, 16);
    return fromLanes(
      words.map((w, i) =>
        i >= first && i < first + 4
          ? words[first + (imm >> 2 * (i - first) & 3)]
          : w
      ),
      16,
    );
  };
}

function blend(
  bits: number,
  choose: (i: number, imm: number, mask: Lane) => boolean,
): PackedModel {
  return (d, s, imm, xmm0) => {
    const b = toLanes(s, bits), mask = toLanes(xmm0, bits, true);
    return fromLanes(
      toLanes(d, bits).map((a, i) => choose(i, imm, mask[i]) ? b[i] : a),
      bits,
    );
  };
}

const byBit = (i: number, imm: number) => (imm >> i & 1) === 1;
const bySign = (_i: number, _imm: number, mask: Lane) => mask < 0n;

function align(d: Uint8Array, s: Uint8Array, imm: number): Uint8Array {
  const both = [...s, ...d];
  return Uint8Array.from(d, (_, i) => both[i + imm] ?? 0);
}

/** Sum of |a[i + k] - b[j + k]| over `n` bytes. */
function distance(
  a: Uint8Array,
  i: number,
  b: Uint8Array,
  j: number,
  n: number,
): Lane {
  let sum = 0;
  for (let k = 0; k < n; k++) sum += Math.abs(a[i + k] - b[j + k]);
  return BigInt(sum);
}

const table: Record<string, PackedModel> = {
  pmaddwd: (d, s) => {
    const b = toLanes(s, 16, true);
    return pairs(toLanes(d, 16, true).map((a, i) => a * b[i]), 32);
  },
  pmaddubsw: (d, s) => {
    const b = toLanes(s, 8, true);
    return pairs(toLanes(d, 8).map((a, i) => a * b[i]), 16, true);
  },
  pmuludq: evenProducts(false),
  pmuldq: evenProducts(true),
  psadbw: (d, s) =>
    fromLanes(
      Array.from({ length: d.length / 8 }, (_, i) =>
        distance(d, 8 * i, s, 8 * i, 8)),
      64,
    ),
  mpsadbw: (d, s, imm) => {
    const window = imm & 4, block = (imm & 3) * 4;
    return fromLanes(
      Array.from({ length: 8 }, (_, i) => distance(d, window + i, s, block, 4)),
      16,
    );
  },
  phminposuw: (_d, s) => {
    const words = toLanes(s, 16);
    const least = words.reduce((a, b) => a < b ? a : b);
    return fromLanes([
      least,
      BigInt(words.indexOf(least)),
      0n,
      0n,
      0n,
      0n,
      0n,
      0n,
    ], 16);
  },
  pshufb: (d, s) =>
    Uint8Array.from(s, (n) => n & 0x80 ? 0 : d[n & (d.length - 1)]),
  pshufd: (_d, s, imm) => {
    const x = toLanes(s, 32);
    return fromLanes(x.map((_, i) => x[imm >> 2 * i & 3]), 32);
  },
  pshufw: shuffleWords(0),
  pshuflw: shuffleWords(0),
  pshufhw: shuffleWords(4),
  shufps: (d, s, imm) => {
    const a = toLanes(d, 32), b = toLanes(s, 32);
    return fromLanes(a.map((_, i) => (i < 2 ? a : b)[imm >> 2 * i & 3]), 32);
  },
  shufpd: (d, s, imm) =>
    fromLanes([toLanes(d, 64)[imm & 1], toLanes(s, 64)[imm >> 1 & 1]], 64),
  palignr: align,
  psrldq: (d, _s, imm) => align(new Uint8Array(16), d, imm),
  pslldq: (d, _s, imm) =>
    imm > 15 ? new Uint8Array(16) : align(d, new Uint8Array(16), 16 - imm),
  pblendvb: blend(8, bySign),
  blendvps: blend(32, bySign),
  blendvpd: blend(64, bySign),
  pblendw: blend(16, byBit),
  blendps: blend(32, byBit),
  blendpd: blend(64, byBit),
  movsldup: (_d, s) =>
    fromLanes(toLanes(s, 32).map((_, i, x) => x[i & ~1]), 32),
  movshdup: (_d, s) => fromLanes(toLanes(s, 32).map((_, i, x) => x[i | 1]), 32),
  movddup: (_d, s) =>
    Uint8Array.from([...s.subarray(0, 8), ...s.subarray(0, 8)]),
};

const WIDTHS: readonly [string, number][] = [["b", 8], ["w", 16], ["d", 32], [
  "q",
  64,
]];
for (const [letter, bits] of WIDTHS) {
  table[`padd${letter}`] = each(bits, false, (a, b) => a + b);
  table[`psub${letter}`] = each(bits, false, (a, b) => a - b);
  table[`pcmpeq${letter}`] = each(bits, false, (a, b) => bool(a === b));
  table[`pcmpgt${letter}`] = each(bits, true, (a, b) => bool(a > b));
  table[`psll${letter}`] = shift(bits, (a, n) => a << n);
  table[`psrl${letter}`] = shift(bits, (a, n) => a >> n);
  table[`psra${letter}`] = shift(bits, (a, n) => a >> n, true);
  table[`pabs${letter}`] = each(bits, true, (_a, b) => abs(b));
  table[`psign${letter}`] = each(
    bits,
    true,
    (a, b) => b < 0n ? -a : b === 0n ? 0n : a,
  );
  table[`phadd${letter}`] = horizontal(bits, (a, b) => a + b);
  table[`phsub${letter}`] = horizontal(bits, (a, b) => a - b);
  table[`pavg${letter}`] = each(bits, false, (a, b) => (a + b + 1n) >> 1n);
  for (const [s, signed] of [["s", true], ["u", false]] as const) {
    table[`pmin${s}${letter}`] = each(bits, signed, (a, b) => a < b ? a : b);
    table[`pmax${s}${letter}`] = each(bits, signed, (a, b) => a > b ? a : b);
  }
  for (const [s, signed] of [["s", true], ["us", false]] as const) {
    table[`padd${s}${letter}`] = each(
      bits,
      signed,
      (a, b) => saturate(a + b, bits, signed),
    );
    table[`psub${s}${letter}`] = each(
      bits,
      signed,
      (a, b) => saturate(a - b, bits, signed),
    );
  }
}
WIDTHS.forEach(([from, fromBits], i) => {
  for (const [to, toBits] of WIDTHS.slice(i + 1)) {
    table[`pmovsx${from}${to}`] = extend(fromBits, toBits, true);
    table[`pmovzx${from}${to}`] = extend(fromBits, toBits, false);
  }
});
for (
  const [suffix, bits] of [["bw", 8], ["wd", 16], ["dq", 32], ["qdq", 64], [
    "ps",
    32,
  ], ["pd", 64]] as const
) {
  const stem = suffix.startsWith("p") ? "unpck" : "punpck";
  table[`${stem}l${suffix}`] = unpack(bits, false);
  table[`${stem}h${suffix}`] = unpack(bits, true);
}
Object.assign(table, {
  packsswb: pack(16, true),
  packuswb: pack(16, false),
  packssdw: pack(32, true),
  packusdw: pack(32, false),
  pmullw: each(16, true, (a, b) => a * b),
  pmulld: each(32, true, (a, b) => a * b),
  pmulhw: each(16, true, (a, b) => (a * b) >> 16n),
  pmulhuw: each(16, false, (a, b) => (a * b) >> 16n),
  pmulhrsw: each(16, true, (a, b) => ((a * b >> 14n) + 1n) >> 1n),
  phaddsw: horizontal(16, (a, b) => saturate(a + b, 16, true)),
  phsubsw: horizontal(16, (a, b) => saturate(a - b, 16, true)),
});
for (const suffix of ["", "ps", "pd"]) {
  const stem = suffix === "" ? "p" : "";
  table[`${stem}and${suffix}`] = each(8, false, (a, b) => a & b);
  table[`${stem}andn${suffix}`] = each(8, false, (a, b) => ~a & b);
  table[`${stem}or${suffix}`] = each(8, false, (a, b) => a | b);
  table[`${stem}xor${suffix}`] = each(8, false, (a, b) => a ^ b);
}

/** Models by mnemonic; MMX and XMM forms share them. */
export const PACKED_MODELS: Readonly<Record<string, PackedModel>> = table;
