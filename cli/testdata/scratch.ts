// A device of a third party: one byte at a port.

import { definePlugin } from "../../core/plugin.ts";
import { schema, u8 } from "../../snapshot/schema.ts";

export default definePlugin({
  name: "scratch",
  version: "1.0.0",
  summary: "one byte at a port",
  options: { port: { type: "number", help: "port number", default: 0x500 } },
  state: schema("scratch", 1, { value: u8() }),
  create(ctx, options) {
    let value = 0;
    ctx.isa.claimPorts(options.port, 1, {
      read: () => value,
      write: (_port, _size, v) => void (value = v & 0xff),
    });
    ctx.snapshot.register({
      save: () => ({ value }),
      restore: (state) => void (value = state.value),
    });
    return { reset: () => void (value = 0) };
  },
});
