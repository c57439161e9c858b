import { assertEquals } from "@std/assert";
import { ProgressBar } from "@std/cli/unstable-progress-bar";

async function draw(clear: boolean): Promise<string> {
  const text = new TextDecoderStream();
  const encode = new TransformStream<Uint8Array, Uint8Array<ArrayBuffer>>({
    transform: (chunk, controller) => controller.enqueue(chunk.slice()),
  });
  const read = Array.fromAsync(encode.readable.pipeThrough(text));
  const bar = new ProgressBar({
    writable: encode.writable,
    max: 4096,
    barLength: 4,
    clear,
    keepOpen: false,
  });
  bar.value = 1024;
  await bar.stop();
  return (await read).join("");
}

Deno.test("ProgressBar draws at the start and at the end", async () => {
  assertEquals(
    await draw(false),
    "\r\u001b[K[00:00] [----] [0.00/4.00 KiB]" +
      "\r\u001b[K[00:00] [#---] [1.00/4.00 KiB]\n",
  );
});

Deno.test("ProgressBar clears its line where it is asked to", async () => {
  assertEquals(
    await draw(true),
    "\r\u001b[K[00:00] [----] [0.00/4.00 KiB]\r\u001b[K",
  );
});
