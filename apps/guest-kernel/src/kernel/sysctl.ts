/** One leaf of the sysctl tree. */
export interface SysctlNode {
  /** One line, as `sysctl -d` prints it. */
  readonly description: string;
  /** The value; rejects when it cannot be had now. */
  read(): string | number | Promise<string | number>;
  /** Sets the value; throws an `Error` whose message says what is wrong with the text. Absent: read only. */
  write?(text: string): void | Promise<void>;
}

/** A leaf with its whole name. */
export type SysctlLeaf = readonly [name: string, node: SysctlNode];

/** The number that a text sets an int to; throws in the words of FreeBSD's `sysctl`. */
export function parseInteger(text: string): number {
  if (/^-?\d+$/.test(text) && Math.abs(Number(text)) < 2 ** 31) return Number(text);
  throw new Error(`invalid integer '${text}'`);
}

/** The sysctl tree: FreeBSD's names, and values computed when they are read. */
export class SysctlTree {
  readonly #nodes = new Map<string, SysctlNode>();
  /** Parts of the tree that are made when somebody looks, by their names. */
  readonly #mounts = new Map<string, () => readonly SysctlLeaf[]>();
  /** What counters had counted when they were set to 0. */
  readonly #countedBefore = new Map<string, number>();

  /** Adds a leaf; its name must be new. */
  add(name: string, node: SysctlNode): void {
    if (this.#nodes.has(name)) throw new Error(`sysctl ${name} exists already`);
    this.#nodes.set(name, node);
  }

  /** Adds a leaf that only shows a value. */
  show(name: string, description: string, read: SysctlNode["read"]): void {
    this.add(name, { description, read });
  }

  /** Adds a counter, which counts from 0 again when a number is written to it, as FreeBSD's drivers have it. */
  count(name: string, description: string, total: () => number | Promise<number>): void {
    this.add(name, this.counter(name, description, total));
  }

  /** The same for a leaf of a mount: what was counted before it was set is kept by its name. */
  counter(name: string, description: string, total: () => number | Promise<number>): SysctlNode {
    const read = async (): Promise<number> => {
      const now = await total();
      // What is counted may have begun anew, too.
      if (now < this.#before(name)) this.#countedBefore.delete(name);
      return now - this.#before(name);
    };
    const write = async (text: string): Promise<void> => {
      parseInteger(text);
      this.#countedBefore.set(name, this.#before(name) + (await read()));
    };
    return { description, read, write };
  }

  /** Adds everything below a name, which may be different at each look. @param list - Returns whole names. */
  mount(name: string, list: () => readonly SysctlLeaf[]): void {
    this.#mounts.set(name, list);
  }

  /** Removes a leaf or everything below a name. */
  remove(name: string): void {
    for (const map of [this.#nodes, this.#mounts, this.#countedBefore])
      for (const found of map.keys()) if (isWithin(name, found)) map.delete(found);
  }

  /** The leaf of that name, or all leaves below it, in the order they were added. */
  find(name: string): readonly SysctlLeaf[] {
    return this.all().filter(([leaf]) => isWithin(name, leaf));
  }

  #before(name: string): number {
    return this.#countedBefore.get(name) ?? 0;
  }

  /** All leaves. */
  all(): readonly SysctlLeaf[] {
    return [...this.#nodes, ...[...this.#mounts.values()].flatMap((list) => list())];
  }
}

/** True for a name itself, and for everything below it. */
function isWithin(name: string, leaf: string): boolean {
  return leaf === name || leaf.startsWith(`${name}.`);
}
