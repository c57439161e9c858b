// A process to be killed: saves a machine's snapshot to a file again and again, each time with the
// next number in guest memory, and tells each number when its save is done.
//
// deno run -A saver.ts SNAPSHOT FILE FIRST MARK

import { openSource, writeWhole, zstd } from "../../host/snapshot_file.ts";
import { SnapshotReader, writeSnapshot } from "../../snapshot/container.ts";
import { contentOf, pagesOf } from "../../snapshot/memory_image.ts";

if (import.meta.main) {
  const [snapshot, path, first, mark] = Deno.args;
  const reader = await SnapshotReader.open(await openSource(snapshot), zstd);
  const ram = new Uint8Array(reader.bytes("ram"));
  await reader.readMemory("ram", ram);
  const { manifest, components } = reader;
  for (let number = Number(first);; number++) {
    new DataView(ram.buffer).setUint32(Number(mark), number, true);
    await writeWhole(path, async (sink) => {
      const memories = [pagesOf("ram", contentOf(ram))];
      await writeSnapshot({ manifest, components, memories }, sink, zstd);
    });
    console.log(number);
  }
}
