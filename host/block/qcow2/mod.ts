// qcow2 images, as QEMU's docs/interop/qcow2.txt specifies them.

export { findBacking, Qcow2Block } from "./block.ts";
export { createQcow2, type Qcow2Options } from "./create.ts";
