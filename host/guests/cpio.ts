/**
 * Writes cpio archives of the "newc" kind, the format of Linux's initramfs
 * (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).
 *
 * @module
 */

const MAGIC = "070701";
const TRAILER = "TRAILER!!!";
const ALIGNMENT = 4;
// File types of st_mode.
const S_IFDIR = 0o040000;
const S_IFREG = 0o100000;
const S_IFLNK = 0o120000;
const S_IFCHR = 0o020000;
const LINK_MODE = 0o777;

/** One member of an archive. */
export type CpioEntry =
  | { path: string; type: "directory"; mode?: number }
  | { path: string; type: "file"; content: Uint8Array; mode?: number }
  | { path: string; type: "link"; target: string }
  | {
    path: string;
    type: "character";
    major: number;
    minor: number;
    mode?: number;
  };

/**
 * Encodes an archive. Equal entries give equal bytes: all times are zero, all owners root.
 *
 * @param entries The members, parents before what they contain.
 * @returns The archive with its trailer.
 */
export function encodeCpio(entries: readonly CpioEntry[]): Uint8Array {
  const encoder = new TextEncoder();
  const parts: Uint8Array[] = [];
  let size = 0;
  const push = (bytes: Uint8Array) => {
    parts.push(bytes);
    size += bytes.length;
    const padding = -size & (ALIGNMENT - 1);
    if (padding > 0) {
      parts.push(new Uint8Array(padding));
      size += padding;
    }
  };
  const member = (
    path: string,
    inode: number,
    mode: number,
    content: Uint8Array,
    device: [number, number] = [0, 0],
  ) => {
    const name = encoder.encode(`${path}\0`);
    const fields = [
      inode,
      mode,
      0, // uid
      0, // gid
      1, // nlink
      0, // mtime
      content.length,
      0, // devmajor
      0, // devminor
      ...device,
      name.length,
      0, // check
    ];
    const header = encoder.encode(
      MAGIC + fields.map((n) => n.toString(16).padStart(8, "0")).join(""),
    );
    const named = new Uint8Array(header.length + name.length);
    named.set(header);
    named.set(name, header.length);
    push(named);
    if (content.length > 0) push(content);
  };
  const nothing = new Uint8Array();
  entries.forEach((entry, i) => {
    const inode = i + 1;
    switch (entry.type) {
      case "directory":
        member(entry.path, inode, S_IFDIR | (entry.mode ?? 0o755), nothing);
        break;
      case "file":
        member(
          entry.path,
          inode,
          S_IFREG | (entry.mode ?? 0o644),
          entry.content,
        );
        break;
      case "link":
        member(
          entry.path,
          inode,
          S_IFLNK | LINK_MODE,
          encoder.encode(entry.target),
        );
        break;
      case "character":
        member(
          entry.path,
          inode,
          S_IFCHR | (entry.mode ?? 0o600),
          nothing,
          [entry.major, entry.minor],
        );
        break;
    }
  });
  member(TRAILER, 0, 0, nothing);
  const archive = new Uint8Array(size);
  let at = 0;
  for (const part of parts) {
    archive.set(part, at);
    at += part.length;
  }
  return archive;
}
