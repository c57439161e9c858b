import { assertThrows } from "@std/assert";
import { GuestMemory } from "./memory.ts";
import { MachineError } from "../plugin.ts";

Deno.test("memory that the host has no room for is refused by its size", () => {
  const { Memory } = WebAssembly;
  WebAssembly.Memory = class extends Memory {
    constructor(descriptor: WebAssembly.MemoryDescriptor) {
      // As V8 does it.
      if (descriptor.initial > 0) {
        throw new RangeError("WebAssembly.Memory(): could not allocate memory");
      }
      super(descriptor);
    }
  };
  try {
    assertThrows(
      () => new GuestMemory(64 << 20),
      MachineError,
      "memory of 64 MiB: this host has no room for it",
    );
  } finally {
    WebAssembly.Memory = Memory;
  }
});
