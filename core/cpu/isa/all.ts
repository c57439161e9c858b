/**
 * Every declared instruction. The order of imports is the order of the tables; it is fixed so that handler numbers do not depend
 * on who imports what first.
 *
 * @module
 */
import "./integer.ts";
import "./shifts.ts";
import "./control.ts";
import "./string.ts";
import "./interrupts.ts";
import "./port.ts";
import "./system.ts";
import "./syscalls.ts";
import "./far.ts";
import "./sse_moves.ts";
import "./sse_integer.ts";
import "./string_compare.ts";
import "./crypto.ts";
import "./mmx.ts";
import "./sse_float.ts";
import "./sse_convert.ts";
import "./x87.ts";
import "./x87_control.ts";
