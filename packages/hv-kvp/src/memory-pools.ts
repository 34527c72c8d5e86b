import { checkItem, checkPool, type Pools } from "./pools.js";
import type { KvpItem, KvpPool } from "./protocol/index.js";

/** Pools that last as long as the program: for a guest without a file system. */
export class MemoryPools implements Pools {
  readonly #pools = new Map<KvpPool, Map<string, string>>();

  items(pool: KvpPool): readonly KvpItem[] {
    return [...this.#pool(pool)].map(([key, value]) => ({ key, value }));
  }

  set(pool: KvpPool, item: KvpItem): void {
    checkItem(pool, item);
    this.#pool(pool).set(item.key, item.value);
  }

  delete(pool: KvpPool, key: string): boolean {
    return this.#pool(pool).delete(key);
  }

  #pool(pool: KvpPool): Map<string, string> {
    checkPool(pool);
    let found = this.#pools.get(pool);
    if (found === undefined) this.#pools.set(pool, (found = new Map<string, string>()));
    return found;
  }
}
