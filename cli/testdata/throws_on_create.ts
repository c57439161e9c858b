// A device that cannot be made.

import { definePlugin } from "../../core/plugin.ts";
import { schema, u8 } from "../../snapshot/schema.ts";

export default definePlugin({
  name: "stillborn",
  version: "1.0.0",
  summary: "fails when it is made",
  options: {},
  state: schema("stillborn", 1, { value: u8() }),
  create() {
    throw new Error("no crystal found");
  },
});
