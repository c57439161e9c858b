import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { parseLargestMapping, parseUsage } from "./process.ts";
import { BenchError, parseMark, runSession, Session } from "./session.ts";

Deno.test("parseMark reads a mark, behind other text too", () => {
  assertEquals(parseMark("@bench awk begin 1.60"), {
    name: "awk",
    event: "begin",
    guestAt: 1.6,
  });
  assertEquals(parseMark("\x1b[2J@bench loop end\r"), {
    name: "loop",
    event: "end",
  });
});

Deno.test("parseMark ignores what is no mark", () => {
  for (const line of ["", "@bench awk", 'echo "@bench $1 $2 $up"']) {
    assertEquals(parseMark(line), undefined);
  }
});

Deno.test("Session.span has the time, the processor time and the output between marks", () => {
  const session = new Session("guest");
  const usage = (cpuSeconds: number) => () => ({ cpuSeconds, peakRssMib: 1 });
  session.push("SeaBIOS\r\n@bench sum be", 1, usage(1));
  session.push("gin 10.5\nabc\n", 2, usage(2));
  session.push("def\n@bench sum end 12.0\nrest", 5, usage(4));
  assertEquals(session.span("sum"), {
    seconds: 3,
    guestSeconds: 1.5,
    cpuSeconds: 2,
    output: "abc\ndef",
  });
});

Deno.test("Session.span shows the console where a mark is missing", () => {
  const session = new Session("guest");
  session.push("@bench sum begin\nKernel panic\n", 1, () => undefined);
  session.pushError("killed\n");
  const error = assertThrows(() => session.span("sum"), BenchError);
  assertEquals(
    error.message,
    "guest: no end of sum; its last lines:\n" +
      "    @bench sum begin\n    Kernel panic\n    killed",
  );
});

Deno.test("runSession ends a program that goes on behind the last mark", async () => {
  const text =
    "console.log('@bench x begin\\n7\\n@bench x end'); setInterval(() => {}, 1e9)";
  const session = await runSession("deno", {
    command: Deno.execPath(),
    args: ["eval", text],
  }, { endAfter: "x" });
  assertEquals(session.span("x").output, "7");
});

Deno.test("runSession reports a program that fails", async () => {
  const text = "console.error('out of paper'); Deno.exit(3)";
  await assertRejects(
    () =>
      runSession("printer", {
        command: Deno.execPath(),
        args: ["eval", text],
      }),
    BenchError,
    "printer: ended with status 3; its last lines:\n    out of paper",
  );
});

Deno.test("parseUsage reads a process whose name has a space and a parenthesis", () => {
  const stat = "7 (a ) b) S 1 7 7 0 -1 4194304 9 0 0 0 150 50 0 0 20 0";
  assertEquals(parseUsage(stat, "Name:\ta\nVmHWM:\t    2048 kB\n"), {
    cpuSeconds: 2,
    peakRssMib: 2,
  });
  assertEquals(parseUsage(stat, "Name:\tzombie\n"), undefined);
});

Deno.test("parseLargestMapping takes the largest that can be written and not executed", () => {
  const mapping = (header: string, size: number, rss: number) =>
    `${header} 00:00 0\nSize:  ${size} kB\nKernelPageSize: 4 kB\n` +
    `MMUPageSize: 4 kB\nRss:   ${rss} kB\nPss: 1 kB\n`;
  const smaps = mapping("1000-2000 rw-p", 573440, 118784) +
    mapping("3000-4000 ---p", 8 << 20, 0) +
    mapping("7000-8000 rwxp", 1 << 20, 44) +
    mapping("5000-6000 rw-p", 100, 100);
  assertEquals(parseLargestMapping(smaps), 116);
});
