// Another implementation of virtio-blk.

import blk from "../../plugins/virtio/blk.ts";
import { successor } from "./successor.ts";

export default successor(blk);
