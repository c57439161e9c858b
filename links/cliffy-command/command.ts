// `Command` of @cliffy/command: a chain of declarations, parsed by commander.

import {
  Command as Parser,
  type CommanderError,
  Option as ParserOption,
} from "commander";
import { didYouMean, ValidationError } from "./errors.ts";
import { generateHelp, type HelpOptions } from "./help.ts";
import type {
  ArgumentsOf,
  BuiltInTypes,
  Merge,
  OptionOptions,
  OptionRecord,
  OptionValue,
} from "./inference.ts";
import { BUILT_IN, type Type } from "./type.ts";

/** One declared option. */
export interface OptionDefinition {
  /** Flags, short first. */
  flags: string[];
  /** `<name:type>`, `[name:type]` or nothing. */
  typeText: string;
  /** Type name of the value. */
  type: string;
  /** Description. */
  description: string;
  /** Settings. */
  settings: OptionOptions;
}

/** What help needs to know of a command. */
export interface Definition {
  /** Name. */
  name: string;
  /** Names from the main command on. */
  path: string;
  /** Version, of the main command. */
  version: string | undefined;
  /** Description. */
  description: string;
  /** Arguments string. */
  argumentsText: string;
  /** Options. */
  options: OptionDefinition[];
  /** Sub-commands. */
  children: Definition[];
  /** Examples: name and text. */
  examples: [string, string][];
  /** The type of that name. */
  typeOf(name: string): Type<unknown> | undefined;
}

/** What `parse` resolves to. */
export interface CommandResult<TOptions, TArguments> {
  /** Parsed options. */
  options: TOptions;
  /** Parsed arguments. */
  args: TArguments;
}

// deno-lint-ignore no-explicit-any
type AnyCommand = Command<any, any, any>;
type Action = (options: unknown, ...args: unknown[]) => unknown;

const TYPED_VALUE = /[<[](?:\.\.\.)?[^:>\]]+(?::([^>\]]+?))?(\[\])?[>\]]/;

function quoted(message: string): string {
  return /'([^']*)'/.exec(message)?.[1] ?? "";
}

/** Chainable command factory. */
export class Command<
  TOptions extends object = Record<never, never>,
  TArguments extends unknown[] = [],
  TTypes extends object = BuiltInTypes,
> {
  #name = "COMMAND";
  #version: string | undefined;
  #description = "";
  #arguments = "";
  #help: HelpOptions = {};
  #throwErrors = false;
  #action: Action | undefined;
  #parent: AnyCommand | undefined;
  readonly #options: OptionDefinition[] = [];
  readonly #types = new Map<string, Type<unknown>>(Object.entries(BUILT_IN));
  readonly #commands = new Map<string, AnyCommand>();
  readonly #examples: [string, string][] = [];

  /** Set the command name. */
  name(name: string): this {
    this.#name = name;
    return this;
  }

  /** Set the version that `--version` prints. */
  version(version: string): this {
    this.#version = version;
    return this;
  }

  /** Set the description. */
  description(description: string): this {
    this.#description = description;
    return this;
  }

  /** Set options of the generated help. */
  help(help: HelpOptions): this {
    this.#help = help;
    return this;
  }

  /** Add an example to help. */
  example(name: string, description: string): this {
    this.#examples.push([name, description]);
    return this;
  }

  /** Throw validation errors instead of printing them and exiting. */
  throwErrors(): this {
    this.#throwErrors = true;
    return this;
  }

  /** Register a value type. */
  type<const TName extends string, TValue>(
    name: TName,
    handler: Type<TValue>,
  ): Command<TOptions, TArguments, TTypes & { [Key in TName]: TValue }> {
    this.#types.set(name, handler);
    return this as unknown as Command<
      TOptions,
      TArguments,
      TTypes & { [Key in TName]: TValue }
    >;
  }

  /** Register an option. */
  option<
    const TFlags extends string,
    const TRequired extends boolean | undefined = undefined,
    const TCollect extends boolean | undefined = undefined,
    const TDefault = undefined,
    TMapped = undefined,
  >(
    flags: TFlags,
    desc: string,
    opts: OptionOptions<
      TRequired,
      TCollect,
      TDefault,
      OptionValue<TFlags, TTypes>,
      TMapped
    > = {},
  ): Command<
    Merge<
      TOptions,
      OptionRecord<TFlags, TTypes, TRequired, TCollect, TDefault, TMapped>
    >,
    TArguments,
    TTypes
  > {
    const value = TYPED_VALUE.exec(flags);
    this.#options.push({
      flags: flags.slice(0, value?.index).trim().split(/[\s,]+/),
      typeText: value?.[0] ?? "",
      type: value?.[1] ?? "string",
      description: desc,
      settings: opts as OptionOptions,
    });
    return this as unknown as Command<
      Merge<
        TOptions,
        OptionRecord<TFlags, TTypes, TRequired, TCollect, TDefault, TMapped>
      >,
      TArguments,
      TTypes
    >;
  }

  /** Set the arguments. */
  arguments<const TText extends string>(
    args: TText,
  ): Command<TOptions, ArgumentsOf<TText, TTypes>, TTypes> {
    this.#arguments = args;
    return this as unknown as Command<
      TOptions,
      ArgumentsOf<TText, TTypes>,
      TTypes
    >;
  }

  /** Set the function to call. */
  action(
    fn: (options: TOptions, ...args: TArguments) => unknown | Promise<unknown>,
  ): this {
    this.#action = fn as unknown as Action;
    return this;
  }

  /** Register a sub-command. */
  command<TCommand extends AnyCommand>(name: string, cmd: TCommand): TCommand {
    cmd.#name = name;
    cmd.#parent = this;
    this.#commands.set(name, cmd);
    return cmd;
  }

  /** The help text. */
  getHelp(options: HelpOptions = {}): string {
    return generateHelp(this.#define(), {
      ...this.#inheritedHelp(),
      ...options,
    });
  }

  /** Print the help text. */
  showHelp(options?: HelpOptions): void {
    console.log(this.getHelp(options));
  }

  /** Parse arguments and run the command they name. */
  async parse(
    args: string[] = Deno.args,
  ): Promise<CommandResult<TOptions, TArguments>> {
    const result = { options: {}, args: [] as unknown[] };
    const parser = this.#build(args, result);
    try {
      await parser.parseAsync(args, { from: "user" });
    } catch (error) {
      if (!(error instanceof ValidationError) || this.#throwErrors) throw error;
      this.showHelp();
      console.error(`  error: ${error.message}\n`);
      Deno.exit(error.exitCode);
    }
    return result as unknown as CommandResult<TOptions, TArguments>;
  }

  #inheritedHelp(): HelpOptions {
    return {
      ...(this.#parent && this.#parent.#inheritedHelp()),
      ...this.#help,
    };
  }

  #inheritedVersion(): string | undefined {
    return this.#version ??
      (this.#parent && this.#parent.#inheritedVersion());
  }

  #path(): string {
    return this.#parent ? `${this.#parent.#path()} ${this.#name}` : this.#name;
  }

  #define(): Definition {
    return {
      name: this.#name,
      path: this.#path(),
      version: this.#inheritedVersion(),
      description: this.#description,
      argumentsText: this.#arguments,
      options: this.#options,
      children: [...this.#commands.values()].map((child) => child.#define()),
      examples: this.#examples,
      typeOf: (name) => this.#types.get(name),
    };
  }

  /** The commander parser of this command and those below it. */
  #build(
    args: readonly string[],
    result: { options: object; args: unknown[] },
  ): Parser {
    const parser = new Parser(this.#name);
    parser.helpOption(false).helpCommand(false).allowExcessArguments(false)
      .enablePositionalOptions()
      .exitOverride((error) => {
        throw this.#translate(error, parser);
      })
      .configureOutput({ writeErr: () => {}, writeOut: () => {} });
    parser.addOption(new ParserOption("-h, --help"));
    parser.on("option:help", () => {
      this.showHelp({ long: args.includes("--help") });
      Deno.exit(0);
    });
    if (this.#version !== undefined) {
      parser.addOption(new ParserOption("-V, --version"));
      parser.on("option:version", () => {
        console.log(
          args.includes("--version")
            ? `${this.#name} ${this.#version}`
            : this.#version,
        );
        Deno.exit(0);
      });
    }
    for (const option of this.#options) {
      parser.addOption(this.#parserOption(option));
    }
    const words = this.#arguments.split(" ").filter((word) => word !== "");
    for (const word of words) {
      const type = TYPED_VALUE.exec(word)?.[1] ?? "string";
      const name = word.replaceAll(/[<>[\]]|\.\.\.|:.*/g, "");
      const variadic = word.includes("...");
      const text = `${name}${variadic ? "..." : ""}`;
      parser.argument(
        word.startsWith("<") ? `<${text}>` : `[${text}]`,
        "",
        (value: string, previous: unknown) => {
          const parsed = this.#parseValue("Argument", name, type, value);
          if (!variadic) return parsed;
          return Array.isArray(previous) ? [...previous, parsed] : [parsed];
        },
      );
    }
    for (const child of this.#commands.values()) {
      parser.addCommand(child.#build(args, result));
    }
    parser.action(async (...given: unknown[]) => {
      const values = given.slice(0, words.length).flatMap((value, index) =>
        words[index].includes("...") ? value ?? [] : [value]
      );
      result.options = this.#finish(parser);
      result.args = values;
      await this.#action?.(result.options, ...values);
    });
    return parser;
  }

  #parseValue(
    label: string,
    name: string,
    type: string,
    value: string,
  ): unknown {
    const handler = this.#types.get(type);
    if (!handler) throw new Error(`Unknown type "${type}".`);
    return handler.parse({ label, name, type, value });
  }

  #parserOption(option: OptionDefinition): ParserOption {
    const value = option.typeText === ""
      ? ""
      : option.typeText.startsWith("<")
      ? " <value>"
      : " [value]";
    const parserOption = new ParserOption(option.flags.join(", ") + value);
    const { collect, value: map } = option.settings;
    const flag = option.flags[option.flags.length - 1];
    let seen: unknown;
    const list = option.typeText.includes("[]");
    if (value === "") return parserOption;
    return parserOption.argParser((text: string) => {
      if (seen !== undefined && !collect) {
        throw new ValidationError(
          `Option "${flag}" can only occur once, but was found several times.`,
        );
      }
      const parse = (part: string) =>
        this.#parseValue("Option", flag, option.type, part);
      const parsed: unknown = list ? text.split(",").map(parse) : parse(text);
      if (map) seen = map(parsed, seen);
      else if (collect) seen = [...(seen as unknown[] ?? []), parsed];
      else seen = parsed;
      return seen;
    });
  }

  /** Defaults, and the checks that look at several options. */
  #finish(parser: Parser): Record<string, unknown> {
    const given = parser.opts();
    const options: Record<string, unknown> = { ...given };
    const camel = (name: string) =>
      name.replaceAll(/-([a-z])/g, (_, letter: string) => letter.toUpperCase());
    for (const { flags, settings } of this.#options) {
      const flag = flags[flags.length - 1];
      const key = camel(flag.replace(/^-+/, ""));
      if (given[key] !== undefined) {
        for (const other of settings.conflicts ?? []) {
          if (given[camel(other)] === undefined) continue;
          throw new ValidationError(
            `Option "${flag}" conflicts with option "--${other}".`,
          );
        }
        for (const other of settings.depends ?? []) {
          if (given[camel(other)] !== undefined) continue;
          throw new ValidationError(
            `Option "${flag}" depends on option "--${other}".`,
          );
        }
      } else if (settings.required) {
        throw new ValidationError(`Missing required option "${flag}".`);
      } else if (settings.default !== undefined) {
        options[key] = typeof settings.default === "function"
          ? settings.default()
          : settings.default;
      }
    }
    return options;
  }

  /** Commander's error, in the words of @cliffy/command. */
  #translate(error: CommanderError, parser: Parser): Error {
    const name = quoted(error.message);
    switch (error.code) {
      case "commander.unknownOption": {
        const known = this.#options.flatMap(({ flags }) => flags);
        const flag = name.split("=")[0];
        return new ValidationError(
          `Unknown option "${flag}".${
            didYouMean("option", flag, [...known, "-h", "--help"])
          }`,
        );
      }
      case "commander.unknownCommand":
        return this.#unknownCommand(name);
      case "commander.excessArguments":
        if (this.#commands.size > 0) {
          return this.#unknownCommand(parser.args[0]);
        }
        return new ValidationError(
          this.#arguments === ""
            ? `No arguments allowed for command "${this.#path()}".`
            : `Too many arguments: ${
              parser.args.slice(this.#arguments.split(" ").length).join(" ")
            }`,
        );
      case "commander.missingArgument":
        return new ValidationError(`Missing argument: ${name}`);
      case "commander.optionMissingArgument":
        return new ValidationError(
          `Missing value for option "${
            name.split(/[\s,]+/).findLast((word) => word.startsWith("-"))
          }".`,
        );
    }
    return error;
  }

  #unknownCommand(name: string): ValidationError {
    return new ValidationError(
      `Unknown command "${name}".${
        didYouMean("command", name, [...this.#commands.keys()])
      }`,
    );
  }
}
