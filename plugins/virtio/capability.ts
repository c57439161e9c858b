/**
 * The PCI capabilities that say where a virtio device's structures are: virtio 1.2, section 4.1.4.
 *
 * @module
 */
import type { PciCapability, PciFunction } from "../../core/plugin.ts";

// Capabilities, section 4.1.4: cfg_type, and offsets in struct virtio_pci_cap.
const PCI_CAP_ID_VNDR = 0x09;
const PCI_CAPABILITIES_POINTER = 0x34;
/** Common configuration. */
export const VIRTIO_PCI_CAP_COMMON_CFG = 1;
/** Notifications; notify_off_multiplier follows. */
export const VIRTIO_PCI_CAP_NOTIFY_CFG = 2;
/** ISR status. */
export const VIRTIO_PCI_CAP_ISR_CFG = 3;
/** Device configuration. */
export const VIRTIO_PCI_CAP_DEVICE_CFG = 4;
/** PCI configuration access; pci_cfg_data follows. */
export const VIRTIO_PCI_CAP_PCI_CFG = 5;
/** cap_len. */
export const CAP_LEN = 2;
const CAP_CFG_TYPE = 3;
/** bar. */
export const CAP_BAR = 4;
/** offset. */
export const CAP_OFFSET = 8;
/** length. */
export const CAP_LENGTH = 12;
/** What follows in some types. */
export const CAP_EXTRA = 16;
const CAP_SIZE = 16;

/**
 * struct virtio_pci_cap.
 *
 * @param type cfg_type.
 * @param bar The BAR that holds the structure.
 * @param offset Where in the BAR.
 * @param length Bytes.
 * @param extra The 32 bits that follow it in some types.
 */
export function virtioCapability(
  type: number,
  bar: number,
  offset: number,
  length: number,
  extra?: number,
): PciCapability {
  const size = extra === undefined ? CAP_SIZE : CAP_SIZE + 4;
  const view = new DataView(new ArrayBuffer(size));
  view.setUint8(CAP_LEN, size);
  view.setUint8(CAP_CFG_TYPE, type);
  view.setUint8(CAP_BAR, bar);
  view.setUint32(CAP_OFFSET, offset, true);
  view.setUint32(CAP_LENGTH, length, true);
  if (extra !== undefined) view.setUint32(CAP_EXTRA, extra, true);
  return {
    id: PCI_CAP_ID_VNDR,
    body: new Uint8Array(view.buffer, CAP_LEN),
  };
}

/** Where in configuration space the PCI configuration access capability is. */
export function findConfigAccess(config: PciFunction): number {
  let at = config.readConfig(PCI_CAPABILITIES_POINTER, 1);
  while (
    config.readConfig(at, 1) !== PCI_CAP_ID_VNDR ||
    config.readConfig(at + CAP_CFG_TYPE, 1) !== VIRTIO_PCI_CAP_PCI_CFG
  ) at = config.readConfig(at + 1, 1);
  return at;
}
