// A device that fails when the guest touches it.

import { definePlugin } from "../../core/plugin.ts";
import { schema, u8 } from "../../snapshot/schema.ts";

export default definePlugin({
  name: "fragile",
  version: "1.0.0",
  summary: "fails when it is touched",
  options: { port: { type: "number", help: "port number", default: 0x500 } },
  state: schema("fragile", 1, { value: u8() }),
  create(ctx, options) {
    const fail = (): never => {
      throw new Error("wire came off");
    };
    ctx.isa.claimPorts(options.port, 1, { read: fail, write: fail });
    ctx.snapshot.register({ save: () => ({ value: 0 }), restore() {} });
    return { reset() {} };
  },
});
