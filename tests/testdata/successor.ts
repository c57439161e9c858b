// For the tests of replacement: another implementation of a device, around the first, whose state
// counts how often it was restored.

import type {
  Backends,
  OptionSpec,
  Plugin,
  SnapshotPort,
} from "../../core/plugin.ts";
import { schema, u32 } from "../../snapshot/schema.ts";

/**
 * Makes another implementation of a device.
 *
 * @param first The device's plugin.
 * @returns A plugin with the next version of its state.
 */
export function successor<
  S extends Record<string, OptionSpec>,
  T,
  B extends keyof Backends,
>(
  first: Plugin<S, T, B>,
): Plugin<S, { inner: T; restored: number }, B> {
  const { name, version, type } = first.state;
  return {
    ...first,
    name: `${first.name}-successor`,
    version: "9.0.0",
    accepts: undefined,
    state: schema(
      name,
      version + 1,
      { inner: type, restored: u32() },
      { [version]: (old: unknown) => ({ inner: old, restored: 0 }) },
    ) as Plugin<S, { inner: T; restored: number }, B>["state"],
    create(ctx, options) {
      let restored = 0;
      const snapshot: SnapshotPort<T> = {
        register: ({ save, restore }) =>
          ctx.snapshot.register({
            save: () => ({ inner: save(), restored }),
            restore: (state) => {
              restore(state.inner);
              restored = state.restored + 1;
            },
          }),
      };
      return first.create({ ...ctx, snapshot }, options);
    },
  };
}
