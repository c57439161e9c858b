// The option and argument types that a flags string such as `-m, --mem <size:string>` implies.

/** What the built-in type names parse to. */
export type BuiltInTypes = {
  string: string;
  file: string;
  secret: string;
  number: number;
  integer: number;
  boolean: boolean;
};

type CamelCase<T extends string> = T extends `${infer Head}-${infer Rest}`
  ? `${Head}${Capitalize<CamelCase<Rest>>}`
  : T;

type NamedType<TName extends string, TTypes> = TName extends keyof TTypes
  ? TTypes[TName]
  : unknown;

/** The value of the inside of `<…>` or `[…]`. */
type Inner<T extends string, TTypes> = T extends `${string}:${infer Name}[]`
  ? NamedType<Name, TTypes>[]
  : T extends `${string}:${infer Name}` ? NamedType<Name, TTypes>
  : string;

type Simplify<T> = { [Key in keyof T]: T[Key] };

/** The long flag of a flags string, and what follows it. */
type LongFlag<TFlags extends string> = TFlags extends
  `${string}--${infer Name} ${infer Rest}` ? [Name, Rest]
  : TFlags extends `${string}--${infer Name}` ? [Name, ""]
  : never;

type ValueOf<TRest extends string, TTypes> = TRest extends "" ? true
  : TRest extends `<${infer Text}>` ? Inner<Text, TTypes>
  : TRest extends `[${infer Text}]` ? true | Inner<Text, TTypes>
  : unknown;

/** The value that an option's handler is given. */
export type OptionValue<TFlags extends string, TTypes> =
  LongFlag<TFlags> extends [string, infer Rest extends string]
    ? ValueOf<Rest, TTypes>
    : never;

type Collected<TValue, TMapped, TCollect> = TMapped extends undefined
  ? TCollect extends true ? TValue[] : TValue
  : TMapped;

type IsPresent<TRequired, TDefault> = TRequired extends true ? true
  : TDefault extends undefined ? false
  : true;

/** `{ name: value }` for one option. */
export type OptionRecord<
  TFlags extends string,
  TTypes,
  TRequired,
  TCollect,
  TDefault,
  TMapped,
> = LongFlag<TFlags> extends [infer Name extends string, string]
  ? IsPresent<TRequired, TDefault> extends true ? {
      [Key in CamelCase<Name>]: Collected<
        OptionValue<TFlags, TTypes>,
        TMapped,
        TCollect
      >;
    }
  : {
    [Key in CamelCase<Name>]?: Collected<
      OptionValue<TFlags, TTypes>,
      TMapped,
      TCollect
    >;
  }
  : never;

/** Options known so far, with one more. */
export type Merge<TOptions, TMore> = Simplify<TOptions & TMore>;

/** The tuple of an arguments string such as `<path:string> [...rest:string]`. */
export type ArgumentsOf<TText extends string, TTypes> = TText extends
  `${infer First} ${infer Rest}`
  ? [...ArgumentsOf<First, TTypes>, ...ArgumentsOf<Rest, TTypes>]
  : TText extends `<...${infer Text}>`
    ? [Inner<Text, TTypes>, ...Inner<Text, TTypes>[]]
  : TText extends `[...${infer Text}]` ? Inner<Text, TTypes>[]
  : TText extends `<${infer Text}>` ? [Inner<Text, TTypes>]
  : TText extends `[${infer Text}]` ? [Inner<Text, TTypes>?]
  : [];

/** Settings of an option. */
export interface OptionOptions<
  TRequired = boolean,
  TCollect = boolean,
  TDefault = unknown,
  TValue = unknown,
  TMapped = unknown,
> {
  /** Leave out of help. */
  hidden?: boolean;
  /** The option must be given. */
  required?: TRequired;
  /** The option may be given several times; its value is an array. */
  collect?: TCollect;
  /** Value when the option is not given. */
  default?: TDefault;
  /** Names of options that this one excludes. */
  conflicts?: string[];
  /** Names of options that this one needs. */
  depends?: string[];
  /** Maps the parsed value. */
  value?: (value: TValue, previous?: TMapped) => TMapped;
}
