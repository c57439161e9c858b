// Another implementation of uart.

import uart from "../../plugins/legacy/uart.ts";
import { successor } from "./successor.ts";

export default successor(uart);
