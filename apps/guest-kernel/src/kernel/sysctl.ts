/** One leaf of the sysctl tree. */
export interface SysctlNode {
  /** One line, as `sysctl -d` prints it. */
  readonly description: string;
  read(): string | number;
  /** Sets the value; throws an `Error` whose message says what is wrong with the text. Absent: read only. */
  write?(text: string): void;
}

/** The sysctl tree: FreeBSD's names, and values computed when they are read. */
export class SysctlTree {
  readonly #nodes = new Map<string, SysctlNode>();

  /** Adds a leaf; its name must be new. */
  add(name: string, node: SysctlNode): void {
    if (this.#nodes.has(name)) throw new Error(`sysctl ${name} exists already`);
    this.#nodes.set(name, node);
  }

  /** Adds a leaf that only shows a value. */
  show(name: string, description: string, read: () => string | number): void {
    this.add(name, { description, read });
  }

  /** Removes a leaf or everything below a name. */
  remove(name: string): void {
    for (const [found] of this.find(name)) this.#nodes.delete(found);
  }

  /** The leaf of that name, or all leaves below it, in the order they were added. */
  find(name: string): readonly (readonly [string, SysctlNode])[] {
    const prefix = `${name}.`;
    return [...this.#nodes].filter(([leaf]) => leaf === name || leaf.startsWith(prefix));
  }

  /** All leaves. */
  all(): readonly (readonly [string, SysctlNode])[] {
    return [...this.#nodes];
  }
}
