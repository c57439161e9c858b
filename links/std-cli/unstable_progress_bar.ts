// Stand-in for @std/cli/unstable-progress-bar 1.0.32. See ../README.md.

/** What the `fmt` function of a {@linkcode ProgressBar} is given. */
export interface ProgressBarFormatter {
  /** The duration as `mm:ss`. */
  styledTime: string;
  /** The bar, `###-------`. */
  progressBar: string;
  /** The duration in milliseconds. */
  time: number;
  /** The duration of the last call. */
  previousTime: number;
  /** The current value. */
  value: number;
  /** The value of the last call. */
  previousValue: number;
  /** The value that means done. */
  max: number;
}

/** Options of a {@linkcode ProgressBar}. */
export interface ProgressBarOptions {
  /** Where the bar is written; standard error by default. */
  writable?: WritableStream<Uint8Array>;
  /** The value to start from, 0 by default. */
  value?: number;
  /** The value that means done. */
  max: number;
  /** Length of the bar in characters, 50 by default. */
  barLength?: number;
  /** Character of what is done, `#` by default. */
  fillChar?: string;
  /** Character of what is to do, `-` by default. */
  emptyChar?: string;
  /** Whether to remove the bar at the end; not by default. */
  clear?: boolean;
  /** Makes the line; `[mm:ss] [###---] [0.24/97.6 KiB]` by default. */
  fmt?: (fmt: ProgressBarFormatter) => string;
  /** Whether to keep the writable open at the end; it is by default. */
  keepOpen?: boolean;
}

const CLEAR_LINE = "\r\u001b[K";
const REFRESH_MS = 1000;
const UNITS = ["KiB", "MiB", "GiB", "TiB", "PiB"];

function fraction(value: number, max: number): string {
  let power = 1;
  while (power < UNITS.length && max >= 1024 ** (power + 1)) power++;
  const show = (n: number) => (n / 1024 ** power).toFixed(2);
  return `${show(value)}/${show(max)} ${UNITS[power - 1]}`;
}

/** A progress bar, drawn once a second until it is stopped. */
export class ProgressBar {
  /** The current value. */
  value: number;
  /** The value that means done. */
  max: number;

  readonly #options: Required<Omit<ProgressBarOptions, "value" | "max">>;
  readonly #writer: WritableStreamDefaultWriter<string>;
  readonly #piped: Promise<void>;
  readonly #start = Date.now();
  readonly #timer: ReturnType<typeof setInterval>;
  #previousTime = 0;
  #previousValue: number;

  /** @param options The bar's limits and looks. */
  constructor(options: ProgressBarOptions) {
    const { value = 0, max, ...looks } = options;
    this.value = this.#previousValue = value;
    this.max = max;
    this.#options = {
      writable: Deno.stderr.writable,
      barLength: 50,
      fillChar: "#",
      emptyChar: "-",
      clear: false,
      fmt: (x) =>
        `[${x.styledTime}] [${x.progressBar}] [${fraction(x.value, x.max)}]`,
      keepOpen: true,
      ...looks,
    };
    const encoder = new TextEncoderStream();
    this.#timer = setInterval(() => this.#print(), REFRESH_MS);
    this.#piped = encoder.readable.pipeTo(this.#options.writable, {
      preventClose: this.#options.keepOpen,
    }).catch(() => clearInterval(this.#timer));
    this.#writer = encoder.writable.getWriter();
    this.#print();
  }

  #format(): ProgressBarFormatter {
    const { barLength, fillChar, emptyChar } = this.#options;
    const time = Date.now() - this.#start;
    const done = Math.trunc(
      Math.min(Math.max(this.value / this.max, 0), 1) * barLength,
    );
    const two = (n: number) => Math.trunc(n).toString().padStart(2, "0");
    return {
      styledTime: `${two(time / 60_000)}:${two(time / 1000 % 60)}`,
      progressBar: fillChar.repeat(done) + emptyChar.repeat(barLength - done),
      time,
      previousTime: this.#previousTime,
      value: this.value,
      previousValue: this.#previousValue,
      max: this.max,
    };
  }

  async #print(): Promise<void> {
    const state = this.#format();
    this.#previousTime = state.time;
    this.#previousValue = state.value;
    await this.#write(CLEAR_LINE + this.#options.fmt(state));
  }

  /** A bar that cannot be drawn is no reason to fail. */
  async #write(text: string): Promise<void> {
    await this.#writer.write(text).catch(() => {});
  }

  /** Ends the bar. */
  async stop(): Promise<void> {
    clearInterval(this.#timer);
    if (this.#options.clear) {
      await this.#write(CLEAR_LINE);
    } else {
      await this.#print();
      await this.#write("\n");
    }
    await this.#writer.close().catch(() => {});
    await this.#piped;
  }
}
