import { assert, assertEquals, assertRejects } from "@std/assert";
import type { Chardev } from "./types.ts";
import { ChardevError } from "./types.ts";
import { MemoryChardev } from "./memory.ts";
import { type ChardevHost, openChardev } from "./mod.ts";
import { StdioChardev } from "./stdio.ts";

const encode = (text: string) => new TextEncoder().encode(text);

function host(notes: string[] = []): ChardevHost {
  return {
    escape: { quit() {}, help() {} },
    notify: (message) => void notes.push(message),
  };
}

/** Waits until the device's end of a chardev has been given `text`. */
function expectInput(chardev: Chardev, text: string): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  let got = "";
  chardev.onInput((bytes) => {
    got += new TextDecoder().decode(bytes);
    if (got.includes(text)) resolve();
    return bytes.length;
  });
  return promise;
}

async function readText(
  reader: { read(buffer: Uint8Array): Promise<number | null> },
  length: number,
): Promise<string> {
  let text = "";
  const buffer = new Uint8Array(256);
  while (text.length < length) {
    const n = await reader.read(buffer);
    if (n === null) break;
    text += new TextDecoder().decode(buffer.subarray(0, n));
  }
  return text;
}

Deno.test("null drops output", async () => {
  const chardev = await openChardev("null", "uart0", host());
  assert(chardev.write(encode("x")));
  await chardev.close();
});

Deno.test("memory keeps output and delivers input", async () => {
  const line = new MemoryChardev();
  const found = line.waitFor("login: ");
  line.write(encode("log"));
  line.write(encode("in: "));
  await found;
  assertEquals(line.text(), "login: ");
  line.send("root\n");
  await expectInput(line, "root\n");
});

Deno.test("file writes output to the file", async () => {
  const path = await Deno.makeTempFile();
  const chardev = await openChardev(`file=${path}`, "uart0", host());
  chardev.write(encode("hello "));
  chardev.write(encode("x".repeat(5000)));
  await chardev.close();
  assertEquals(await Deno.readTextFile(path), "hello " + "x".repeat(5000));
  await Deno.remove(path);
});

Deno.test("file that cannot be written is named", async () => {
  await assertRejects(
    () => openChardev("file=/no/such/dir/log", "uart0", host()),
    ChardevError,
    'cannot write console file "/no/such/dir/log"',
  );
});

Deno.test("unix serves several clients in a row", async () => {
  const dir = await Deno.makeTempDir();
  const path = `${dir}/line`;
  const chardev = await openChardev(`unix=${path}`, "uart0", host());
  chardev.write(encode("early "));
  for (const word of ["one", "two", "three"]) {
    chardev.write(encode(word));
    const client = await Deno.connect({ transport: "unix", path });
    const expected = word === "one" ? "early one" : word;
    assertEquals(await readText(client, expected.length), expected);
    const input = expectInput(chardev, `${word}\r`);
    await client.write(encode(`${word}\r`));
    await input;
    client.close();
  }
  await chardev.close();
  await assertRejects(() => Deno.stat(path), Deno.errors.NotFound);
  await Deno.remove(dir);
});

Deno.test("unix replaces the socket of a process that is gone", async () => {
  const dir = await Deno.makeTempDir();
  const path = `${dir}/line`;
  const script = `Deno.listen({ transport: "unix", path: ${
    JSON.stringify(path)
  } }); Deno.kill(Deno.pid, "SIGKILL");`;
  await new Deno.Command(Deno.execPath(), { args: ["eval", script] }).output();
  assert((await Deno.lstat(path)).isSocket);
  const chardev = await openChardev(`unix=${path}`, "uart0", host());
  await assertRejects(
    () => openChardev(`unix=${path}`, "uart1", host()),
    ChardevError,
    "cannot listen on console socket",
  );
  await chardev.close();
  await Deno.remove(dir, { recursive: true });
});

Deno.test("unix tells the device to hold when a client does not read", async () => {
  const dir = await Deno.makeTempDir();
  const path = `${dir}/line`;
  const chardev = await openChardev(`unix=${path}`, "uart0", host());
  const client = await Deno.connect({ transport: "unix", path });
  const input = expectInput(chardev, "x");
  await client.write(encode("x"));
  await input;
  const drained = Promise.withResolvers<void>();
  chardev.onDrain(drained.resolve);
  let written = 0;
  const piece = new Uint8Array(4096).fill(0x2e);
  while (chardev.write(piece)) {
    written += piece.length;
    // Let the socket take what it can.
    await new Promise((resolve) => setTimeout(resolve));
  }
  written += piece.length;
  assertEquals((await readText(client, written)).length, written);
  await drained.promise;
  client.close();
  await chardev.close();
  await Deno.remove(dir, { recursive: true });
});

Deno.test("pty carries bytes both ways, unchanged, for clients in a row", async () => {
  const notes: string[] = [];
  const chardev = await openChardev("pty", "uart0", host(notes));
  const path = /^uart0: console on (\/dev\/pts\/\d+)$/.exec(notes[0])?.[1];
  assert(path !== undefined, notes[0]);
  for (const word of ["one\n", "\x03two\r"]) {
    const client = await Deno.open(path, { read: true, write: true });
    chardev.write(encode(word));
    assertEquals(await readText(client, word.length), word);
    const input = expectInput(chardev, word);
    await client.write(encode(word));
    await input;
    client.close();
  }
  await chardev.close();
});

Deno.test("stdio passes input on and outlives its end", async () => {
  const pieces = [encode("ab"), encode("\x01\x01c"), null];
  const written: string[] = [];
  const chardev = new StdioChardev(host().escape, {
    read(buffer) {
      const piece = pieces.shift() ?? null;
      if (piece !== null) buffer.set(piece);
      return Promise.resolve(piece?.length ?? null);
    },
    writeSync(bytes) {
      written.push(new TextDecoder().decode(bytes.subarray(0, 3)));
      return Math.min(3, bytes.length);
    },
  });
  await expectInput(chardev, "ab\x01c");
  chardev.write(encode("hello"));
  await chardev.close();
  assertEquals(written, ["hel", "lo"]);
});

Deno.test("stdio quits on Ctrl-A x although the guest takes nothing", async () => {
  const { promise, resolve } = Promise.withResolvers<void>();
  const pieces = [encode("typed\x01"), encode("x")];
  const chardev = new StdioChardev({ quit: resolve, help() {} }, {
    read(buffer) {
      const piece = pieces.shift();
      if (piece === undefined) return Promise.resolve(null);
      buffer.set(piece);
      return Promise.resolve(piece.length);
    },
    writeSync: (bytes) => bytes.length,
  });
  await promise;
  await chardev.close();
});

Deno.test("openChardev says what a backend may be", async () => {
  const refused = (text: string, message: string) =>
    assertRejects(
      () => openChardev(text, "uart0", host()),
      ChardevError,
      message,
    );
  await refused("sdtio", 'unknown backend "sdtio" of uart0');
  await refused("sdtio", 'Did you mean "stdio"?');
  await refused("file", "write backend=file=PATH");
  await refused("unix=", "write backend=unix=PATH");
  await refused("null=x", "write backend=null");
});

Deno.test("file keeps what a restored guest has written before", async () => {
  const path = await Deno.makeTempFile();
  for (const [isRestored, text] of [[false, "one "], [true, "two"]] as const) {
    const chardev = await openChardev(`file=${path}`, "uart0", {
      isRestored,
      escape: { quit() {}, help() {} },
      notify() {},
    });
    chardev.write(new TextEncoder().encode(text));
    await chardev.close();
  }
  assertEquals(await Deno.readTextFile(path), "one two");
  await Deno.remove(path);
});
