// Stand-in for @cliffy/command 1.2.1 over npm:commander: the part this project uses, with the
// original's names, option types, messages and exit codes. See ../README.md.

export { Command, type CommandResult } from "./command.ts";
export type { HelpOptions } from "./help.ts";
export { EnumType, Type } from "./type.ts";
export type { ArgumentValue } from "./type.ts";
export { ValidationError, type ValidationErrorOptions } from "./errors.ts";
export type { OptionOptions } from "./inference.ts";
