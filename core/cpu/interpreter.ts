/**
 * Tier 0: the one wasm function that executes records (ENGINE.md section 1).
 *
 * @module
 */
import type { Form } from "./decode.ts";
import { EXIT, FIRST_FORM_HANDLER, JUMP_CACHE_ENTRIES, REC } from "./record.ts";
import {
  CHECK_SEGMENT,
  IMPORTS,
  LOCAL_PC,
  LOCAL_RIP,
  LOCAL_START,
  LOCAL_STATE,
  OUTLINED_FAULT,
  OUTLINED_NEXT,
  RecordEmitter,
  StaysInLoop,
} from "./record_emitter.ts";
import { makeOperands } from "./record_operands.ts";
import { SW } from "./isa/x87_state.ts";
import { OFF, VECTOR } from "./state.ts";
import { W } from "./wasm/codes.ts";
import { encodeModule, type FunctionBody } from "./wasm/module.ts";

/** Whether a form has a memory operand when ModRM names memory. */
function hasModrm(form: Form): boolean {
  return form.extension !== -2 && form.fixed < 0;
}

/** The interpreter's code and the handler of every variant. */
export interface InterpreterCode {
  readonly module: WebAssembly.Module;
  /** Handler number by {@linkcode variantKey}. */
  readonly handlers: Uint16Array;
}

/** Index of a variant: form, operand size (0: 2, 1: 4, 2: 8), memory operand, 64-bit mode. */
export function variantKey(
  form: Form,
  size: number,
  memory: boolean,
  long: boolean,
): number {
  const sizeIndex = form.sized ? (size === 2 ? 0 : size === 4 ? 1 : 2) : 0;
  const longIndex = form.definition.options.modes || usesStackOrBranch(form)
    ? (long ? 1 : 0)
    : 0;
  return form.id * 12 + sizeIndex * 4 + (memory ? 2 : 0) + longIndex;
}

function usesStackOrBranch(form: Form): boolean {
  return form.operands.some((o) => o.letter === "J");
}

/** Generates the interpreter for every declared form. */
export function buildInterpreter(
  forms: readonly Form[],
  memory: { initial: number; maximum: number },
): InterpreterCode {
  const handlers = new Uint16Array(forms.length * 12);
  const helperHandlers = new Map<string, number>();
  const bodies: ((e: RecordEmitter) => void)[] = [
    (e) => { // reenter
      e.local(W.localGet, LOCAL_STATE);
      e.state(W.i32Load, OFF.budget);
      e.record(W.i32Load8u, REC.remaining);
      e.raw(W.i32Add);
      e.mem(W.i32Store, OFF.budget);
      // The record that took this one's place, once TypeScript has found it.
      e.record(W.i32Load, REC.target);
      const target = e.pop1("i32");
      e.if(target, () => {
        e.push1(target);
        e.local(W.localSet, LOCAL_PC);
        e.br("enter");
      });
      e.state(W.i64Load, OFF.ripPage);
      e.record(W.i64Load16u, REC.offset);
      e.raw(W.i64Add);
      e.local(W.localSet, LOCAL_RIP);
      e.leave(EXIT.lookup, true);
    },
    (e) => { // chain
      e.state(W.i64Load, OFF.ripPage);
      e.record(W.i64Load16u, REC.next);
      e.raw(W.i64Add);
      e.local(W.localSet, LOCAL_RIP);
      e.br("lookup");
    },
    (e) => { // leave
      e.state(W.i64Load, OFF.ripPage);
      e.record(W.i64Load16u, REC.next);
      e.raw(W.i64Add);
      e.local(W.localSet, LOCAL_RIP);
      e.leave(EXIT.leave, false);
    },
    (e) => { // fault
      e.local(W.localGet, LOCAL_STATE);
      e.record(W.i32Load, REC.imm);
      e.mem(W.i32Store, OFF.fault);
      e.local(W.localGet, LOCAL_STATE);
      e.constI32(0);
      e.mem(W.i32Store, OFF.faultError);
      e.br("fault");
    },
    (e) => legacyAddress(e, true),
    (e) => legacyAddress(e, false),
  ];
  for (const form of forms) {
    const { semantic, options } = form.definition;
    const sizes: (2 | 4 | 8)[] = form.sized ? [2, 4, 8] : [4];
    const memories = hasModrm(form) && form.only === ""
      ? [false, true]
      : [hasModrm(form) && form.only === "m"];
    const modes = options.modes || usesStackOrBranch(form)
      ? [false, true]
      : [true];
    if (typeof semantic !== "function") {
      // Helpers with the same checks share a handler: the record says the rest.
      const checks = `${options.unit} ${options.privileged}`;
      let handler = helperHandlers.get(checks);
      if (handler === undefined) {
        handler = bodies.length;
        helperHandlers.set(checks, handler);
        bodies.push((e) => {
          checkUnits(e, options.unit);
          if (options.privileged) privilegeCheck(e);
          e.callHelper();
        });
      }
      handlers.fill(handler, form.id * 12, form.id * 12 + 12);
      continue;
    }
    for (const size of sizes) {
      for (const mem of memories) {
        for (const long of modes) {
          if (size === 8 && !long && options.modes) continue;
          const key = variantKey(form, size, mem, long);
          handlers[key] = bodies.length;
          bodies.push((e) => {
            e.size = size;
            e.long = long;
            checkUnits(e, options.unit);
            if (options.privileged) privilegeCheck(e);
            semantic(e, ...makeOperands(form, size, mem, long));
            if (options.unit === "mmx") {
              enterMmx(e, options.emptiesX87 === true);
            }
            if (!e.ended) {
              e.advance();
              e.br("next");
            }
          });
        }
      }
    }
  }
  const count = bodies.length;
  if (bodies.length < FIRST_FORM_HANDLER) {
    throw new Error("internal handlers are missing");
  }

  // function run(state, pc): block $fault { loop $lookup { if (pc == 0) {find pc} loop $enter { budget; loop $next { dispatch } } } }
  const e = new RecordEmitter();
  const functions: FunctionBody[] = [];
  const out = e.out;
  const open = (kind: number) => e.raw(kind, W.void);
  open(W.block); // $fault
  // Entering with a record: start there, else look RIP up.
  e.state(W.i64Load, OFF.rip);
  e.local(W.localSet, LOCAL_RIP);
  e.local(W.localGet, LOCAL_PC);
  e.local(W.localSet, LOCAL_START);
  open(W.loop); // $lookup
  e.local(W.localGet, LOCAL_START);
  e.raw(W.i32Eqz);
  e.raw(W.if, W.void);
  lookup(e);
  e.raw(W.else);
  e.local(W.localGet, LOCAL_START);
  e.local(W.localSet, LOCAL_PC);
  e.constI32(0);
  e.local(W.localSet, LOCAL_START);
  e.raw(W.end);
  setRipPage(e);
  open(W.loop); // $enter
  enterBlock(e);
  open(W.loop); // $next
  for (let i = 0; i < count; i++) open(W.block);
  e.record(W.i32Load16u, REC.handler);
  e.raw(W.brTable);
  out.u32(count - 1);
  for (let i = 0; i < count; i++) out.u32(i);
  for (let i = 0; i < count; i++) {
    e.raw(W.end);
    const around = count - 1 - i;
    e.targets = {
      next: around,
      enter: around + 1,
      lookup: around + 2,
      fault: around + 3,
    };
    try {
      const start = e.mark();
      e.startHandler();
      bodies[i](e);
      if (e.manyLocals()) {
        const body = outlined(bodies[i], `handler${i}`);
        if (body !== undefined) {
          e.rollBack(start);
          e.startHandler();
          callOutlined(e, IMPORTS.length + 1 + functions.length);
          functions.push(body);
        }
      }
    } catch (error) {
      const form = forms.find((f) =>
        handlers.subarray(f.id * 12, f.id * 12 + 12).includes(i)
      );
      throw new Error(
        `${form?.definition.name} "${form?.definition.encoding}": ${
          (error as Error).message
        }`,
        { cause: error },
      );
    }
  }
  e.raw(W.end, W.end, W.end, W.end); // $next, $enter, $lookup, $fault
  e.local(W.localGet, LOCAL_STATE);
  e.local(W.localGet, LOCAL_PC);
  e.mem(W.i32Store, OFF.faultRecord);
  e.constI32(EXIT.fault);

  const bytes = encodeModule(memory, IMPORTS, [{
    name: "run",
    type: { params: ["i32", "i32"], results: ["i32"] },
    locals: ["i64", "i32", ...e.locals],
    code: out.view(),
  }, ...functions]);
  return { module: new WebAssembly.Module(bytes), handlers };
}

/**
 * A handler as a function of its own: run(state, record) → 0 go on, 1 fault, else the exit reason. Every local of the dispatch
 * loop lives across all handlers as far as the compiler can tell, so those that need many would cost all the others.
 *
 * @returns undefined when the handler branches into the dispatch loop and so must stay there.
 */
function outlined(
  body: (e: RecordEmitter) => void,
  name: string,
): FunctionBody | undefined {
  const e = new RecordEmitter(1 << 12);
  e.outlined = true;
  e.startHandler();
  try {
    body(e);
  } catch (error) {
    if (error instanceof StaysInLoop) return undefined;
    throw error;
  }
  e.constI32(OUTLINED_NEXT);
  return {
    name,
    type: { params: ["i32", "i32"], results: ["i32"] },
    locals: ["i64", "i32", ...e.locals],
    code: e.out.view(),
  };
}

/** Calls an outlined handler and does what it says. */
function callOutlined(e: RecordEmitter, index: number): void {
  e.local(W.localGet, LOCAL_STATE);
  e.local(W.localGet, LOCAL_PC);
  e.raw(W.call);
  e.out.u32(index);
  const code = e.pop1("i32");
  e.if(code, () => {
    e.push1(code);
    e.constI32(OUTLINED_FAULT);
    e.raw(W.i32Eq);
    e.br("fault", true);
    e.push1(code);
    e.raw(W.return);
  });
  e.advance();
  e.br("next");
}

function checkUnits(
  e: RecordEmitter,
  unit: "x87" | "mmx" | "sse" | undefined,
): void {
  if (unit === "x87") e.checkUnit(OFF.fpuTrap);
  else if (unit === "sse") e.checkUnit(OFF.sseTrap);
  else if (unit === "mmx") {
    e.checkUnit(OFF.mmxTrap);
    // A pending x87 exception comes first (Intel SDM vol. 1, 9.6.2).
    e.if(
      e.op("i32.and", e.get32(OFF.fsw), e.i32(SW.ES)),
      () => e.slow("x87Pending"),
    );
  }
}

/** Every MMX instruction sets TOP to 0 and marks all registers valid, EMMS empty (Intel SDM vol. 1, 9.2.1), once nothing can fault. */
function enterMmx(e: RecordEmitter, empty: boolean): void {
  e.put32(OFF.fsw, e.op("i32.and", e.get32(OFF.fsw), e.i32(~SW.TOP)));
  e.put32(OFF.ftw, e.i32(empty ? 0 : 0xff));
}

function privilegeCheck(e: RecordEmitter): void {
  e.faultIf(e.op("i32.ne", e.get32(OFF.cpl), e.i32(0)), VECTOR.GP, 0);
}

/** LOCAL_PC from the jump cache for LOCAL_RIP, or leave. */
function lookup(e: RecordEmitter): void {
  e.local(W.localGet, LOCAL_RIP);
  e.local(W.localGet, LOCAL_RIP);
  e.constI64(12n);
  e.raw(W.i64ShrU, W.i64Xor, W.i32WrapI64);
  e.constI32(JUMP_CACHE_ENTRIES - 1);
  e.raw(W.i32And);
  e.constI32(4);
  e.raw(W.i32Shl);
  e.state(W.i32Load, OFF.jumpCache);
  e.raw(W.i32Add);
  e.local(W.localSet, LOCAL_PC);
  e.local(W.localGet, LOCAL_PC);
  e.mem(W.i64Load, 0);
  e.local(W.localGet, LOCAL_RIP);
  e.raw(W.i64Ne);
  e.local(W.localGet, LOCAL_PC);
  e.mem(W.i32Load, 8);
  e.state(W.i32Load, OFF.jumpKey);
  e.raw(0x47, W.i32Or); // i32.ne
  e.raw(W.if, W.void);
  e.leave(EXIT.lookup, false);
  e.raw(W.end);
  e.local(W.localGet, LOCAL_PC);
  e.mem(W.i32Load, 12);
  e.local(W.localSet, LOCAL_PC);
}

/** ripPage = RIP - offset of the block's first instruction. */
function setRipPage(e: RecordEmitter): void {
  e.local(W.localGet, LOCAL_STATE);
  e.local(W.localGet, LOCAL_RIP);
  e.record(W.i64Load16u, REC.offset);
  e.raw(W.i64Sub);
  e.mem(W.i64Store, OFF.ripPage);
}

/** Charges the block to the budget, or leaves. */
function enterBlock(e: RecordEmitter): void {
  e.local(W.localGet, LOCAL_STATE);
  e.state(W.i32Load, OFF.budget);
  e.record(W.i32Load8u, REC.remaining);
  e.raw(W.i32Sub);
  e.mem(W.i32Store, OFF.budget);
  e.state(W.i32Load, OFF.budget);
  e.constI32(0);
  e.raw(W.i32LtS);
  e.raw(W.if, W.void);
  e.local(W.localGet, LOCAL_STATE);
  e.state(W.i32Load, OFF.budget);
  e.record(W.i32Load8u, REC.remaining);
  e.raw(W.i32Add);
  e.mem(W.i32Store, OFF.budget);
  e.state(W.i64Load, OFF.ripPage);
  e.record(W.i64Load16u, REC.offset);
  e.raw(W.i64Add);
  e.local(W.localSet, LOCAL_RIP);
  e.leave(EXIT.budget, false);
  e.raw(W.end);
}

/** tmp0 = segment base + ((base + index << scale + imm) & mask); REC.disp holds the mask, REC.target what to check. */
function legacyAddress(e: RecordEmitter, segmented: boolean): void {
  const field = (offset: number) => {
    e.record(W.i32Load16u, offset);
    e.local(W.localGet, LOCAL_STATE);
    e.raw(W.i32Add);
    e.mem(W.i64Load, 0);
  };
  field(REC.rm);
  field(REC.index);
  e.record(W.i64Load8u, REC.scale);
  e.raw(W.i64Shl, W.i64Add);
  e.record(W.i64Load, REC.imm);
  e.raw(W.i64Add);
  e.record(W.i64Load32s, REC.disp); // -1: no mask (64-bit); 0xffff; 0 stands for 0xffffffff
  const mask = e.pop1("i64");
  const offset = e.pop1("i64");
  const real = e.select(e.op("i64.eqz", mask), e.i64(0xffffffffn), mask);
  const masked = e.op("i64.and", offset, real);
  if (!segmented) {
    e.put(OFF.tmp0, masked);
  } else {
    // REC.target: segment | size << 8 | write << 16, or -1 for no check (64-bit mode).
    e.record(W.i32Load, REC.target);
    const check = e.pop1("i32");
    e.if(e.op("i32.ge_s", check, e.i32(0)), () => {
      const flat = e.op(
        "i32.and",
        e.op(
          "i32.shr_u",
          e.get32(OFF.segFlat),
          e.op("i32.and", check, e.i32(7)),
        ),
        e.i32(1),
      );
      e.if(e.op("i32.eqz", flat), () => {
        e.local(W.localGet, LOCAL_STATE);
        e.local(W.localGet, LOCAL_PC);
        e.push1(masked);
        e.raw(W.i32WrapI64);
        e.push1(check);
        e.raw(W.call, CHECK_SEGMENT);
        e.br("fault", true);
      });
    });
    field(REC.segment);
    e.push1(masked);
    e.raw(W.i64Add);
    const linear = e.pop1("i64");
    const wrap = e.op("i64.and", linear, e.i64(0xffffffffn));
    e.put(OFF.tmp0, e.select(e.op("i32.ge_s", check, e.i32(0)), wrap, linear));
  }
  e.advance();
  e.br("next");
}
