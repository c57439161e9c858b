import { assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { Command, EnumType, ValidationError } from "@cliffy/command";

function example() {
  return new Command()
    .name("tool")
    .throwErrors()
    .type("mode", new EnumType(["fast", "slow"]))
    .option("-d, --dev <spec:string>", "a device", { collect: true })
    .option("--mem <size:string>", "memory", { default: "1M" })
    .option("--count <n:integer>", "a number")
    .option("--mode <mode:mode>", "speed", { conflicts: ["verbose"] })
    .option("--verbose", "say more")
    .arguments("[file:string] [...rest:string]");
}

Deno.test("parse gives typed options and arguments", async () => {
  let seen: unknown;
  const command = example().action((options, file, ...rest) => {
    const dev: string[] | undefined = options.dev;
    const mem: string = options.mem;
    const mode: "fast" | "slow" | undefined = options.mode;
    const verbose: true | undefined = options.verbose;
    seen = [dev, mem, options.count, mode, verbose, file, rest];
  });
  await command.parse(["-d", "a", "--dev=b", "--count", "3", "x", "y", "z"]);
  assertEquals(seen, [["a", "b"], "1M", 3, undefined, undefined, "x", [
    "y",
    "z",
  ]]);
  await command.parse(["--mode", "slow"]);
  assertEquals(seen, [
    undefined,
    "1M",
    undefined,
    "slow",
    undefined,
    undefined,
    [],
  ]);
});

Deno.test("parse refuses wrong usage in the original's words", async () => {
  const refused = (args: string[], message: string) =>
    assertRejects(() => example().parse(args), ValidationError, message);
  await refused(
    ["--memm"],
    'Unknown option "--memm". Did you mean option "--mem"?',
  );
  await refused(["--mem"], 'Missing value for option "--mem".');
  await refused(
    ["--count", "x"],
    'Option "--count" must be of type "integer", but got "x".',
  );
  await refused(
    ["--mode", "x"],
    'Option "--mode" must be of type "mode", but got "x". Expected values: "fast", "slow"',
  );
  await refused(
    ["--mem", "1", "--mem", "2"],
    'Option "--mem" can only occur once, but was found several times.',
  );
  await refused(
    ["--mode", "fast", "--verbose"],
    'Option "--mode" conflicts with option "--verbose".',
  );
});

Deno.test("parse runs the sub-command that is named", async () => {
  const calls: string[] = [];
  const main = new Command().name("tool").throwErrors();
  main.command(
    "one",
    new Command().arguments("<a:string>").action((_, a) => {
      calls.push(a);
    }),
  );
  main.command("two", new Command().action(() => void calls.push("two")));
  await main.parse(["one", "x"]);
  await main.parse(["two"]);
  assertEquals(calls, ["x", "two"]);
  const refused = (args: string[], message: string) =>
    assertRejects(() => main.parse(args), ValidationError, message);
  await refused(["tow"], 'Unknown command "tow". Did you mean command "two"?');
  await refused(["one"], "Missing argument: a");
  await refused(["one", "x", "y"], "Too many arguments: y");
  await refused(["two", "x"], 'No arguments allowed for command "tool two".');
});

Deno.test("getHelp lists options, values and defaults", () => {
  const help = example().description("A tool.").getHelp();
  assertStringIncludes(help, "Usage:   tool [file] [...rest]");
  assertStringIncludes(help, "A tool.");
  assertStringIncludes(help, 'memory           (Default: "1M")');
  assertStringIncludes(
    help,
    '(Conflicts: --verbose, Values: "fast", "slow")',
  );
});
