/** The kernel's message buffer: what `dmesg` prints, and what the console shows while the guest boots. */
export class MessageBuffer {
  readonly #lines: string[] = [];
  readonly #onLine: (line: string) => void;

  /** @param onLine - gets each line as it is printed. */
  constructor(onLine: (line: string) => void) {
    this.#onLine = onLine;
  }

  get lines(): readonly string[] {
    return this.#lines;
  }

  /** Prints lines, each as it is; FreeBSD's own form for a device is `name0: text`. */
  print(...lines: readonly string[]): void {
    for (const line of lines) {
      this.#lines.push(line);
      this.#onLine(line);
    }
  }
}
