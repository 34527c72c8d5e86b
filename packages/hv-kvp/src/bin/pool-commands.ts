import { once } from "node:events";
import { watchPools, type PoolChange } from "../node/pool-watch.js";
import { findValue, poolNames, splitValue } from "../pools.js";
import { KVP_POOL_COUNT, KvpPool } from "../protocol/index.js";
import {
  exactly,
  poolFiles,
  poolHelp,
  poolOption,
  poolOptions,
  presentPools,
  printJson,
  shown,
  type Command,
} from "./command.js";

const allPools = Array.from({ length: KVP_POOL_COUNT }, (_, pool) => pool);

/** Where a key is looked for that may be anywhere: what comes from the host first. */
const lookupOrder = [KvpPool.external, KvpPool.autoExternal, KvpPool.guest, KvpPool.autoInternal];

/** `hv-kvp list`. */
export const list: Command = {
  summary: "print the pools, or one of them",
  help: `Usage: hv-kvp list [--pool N] [--json] [--root DIR]

Prints keys and values in the order of the files. Pool 2 is made at each enumeration of the host and is in no file.

${poolHelp}`,
  options: poolOptions,

  run(values, words) {
    exactly(words, []);
    const pool = poolOption(values);
    const files = presentPools(values);
    const found = (pool === undefined ? allPools : [pool]).flatMap((one) =>
      files.items(one).map((item) => ({ pool: one, ...item })),
    );
    if (values["json"] === true) printJson(found);
    else {
      const width = Math.max(0, ...found.map(({ key }) => shown(key).length));
      for (const { pool: of, key, value } of found)
        process.stdout.write(`${of}  ${shown(key).padEnd(width)}  ${shown(value)}\n`);
    }
    return Promise.resolve(0);
  },
};

/** `hv-kvp get`. */
export const get: Command = {
  summary: "print the value of a key",
  help: `Usage: hv-kvp get [--pool N] [--json] [--root DIR] KEY

Prints the value alone, as it is. Without --pool: of pool 0, 3, 1 or 4, the first that has the key.

${poolHelp}`,
  options: poolOptions,

  run(values, words) {
    const [key = ""] = exactly(words, ["one KEY"]);
    const pool = poolOption(values);
    const files = presentPools(values);
    for (const one of pool === undefined ? lookupOrder : [pool]) {
      const value = findValue(files.items(one), key);
      if (value === undefined) continue;
      if (values["json"] === true) printJson({ pool: one, key, value });
      else process.stdout.write(`${value}\n`);
      return Promise.resolve(0);
    }
    return Promise.resolve(noSuchKey(key, pool, values["json"] === true));
  },
};

/** `hv-kvp set`. */
export const set: Command = {
  summary: "set a key, by default one that the host reads",
  help: `Usage: hv-kvp set [--pool N] [--split] [--root DIR] KEY VALUE

Sets a key in pool 1, which the host enumerates, or in --pool N. Stock kernels pass on at most 254 characters of
a key and 1022 of a value.

  --split                 store a longer value as KEY|0, KEY|1, ... of 1024 bytes at most
${poolHelp}`,
  options: { ...poolOptions, split: { type: "boolean" } },

  run(values, words) {
    const [key = "", value = ""] = exactly(words, ["KEY", "VALUE"]);
    const pool = poolOption(values) ?? KvpPool.guest;
    const items = values["split"] === true ? splitValue(key, value) : [{ key, value }];
    const files = poolFiles(values);
    for (const item of items) files.set(pool, item);
    if (values["json"] === true) printJson(items.map((item) => ({ pool, ...item })));
    return Promise.resolve(0);
  },
};

/** `hv-kvp delete`. */
export const remove: Command = {
  summary: "delete a key",
  help: `Usage: hv-kvp delete [--pool N] [--root DIR] KEY

Deletes a key from pool 1, or from --pool N. What the host has set, it may set again.

${poolHelp}`,
  options: poolOptions,

  run(values, words) {
    const [key = ""] = exactly(words, ["one KEY"]);
    const pool = poolOption(values) ?? KvpPool.guest;
    if (!presentPools(values).delete(pool, key))
      return Promise.resolve(noSuchKey(key, pool, values["json"] === true));
    if (values["json"] === true) printJson({ pool, key });
    return Promise.resolve(0);
  },
};

/** `hv-kvp watch`. */
export const watch: Command = {
  summary: "print changes as they happen",
  help: `Usage: hv-kvp watch [--pool N] [--json] [--root DIR]

Prints each key that is set or deleted from now on, until Ctrl-C. With --json: one object a line.

${poolHelp}`,
  options: poolOptions,

  async run(values, words) {
    exactly(words, []);
    const pool = poolOption(values);
    const files = presentPools(values);
    const stop = new AbortController();
    for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => stop.abort());
    process.stdout.on("error", () => stop.abort());
    const asJson = values["json"] === true;
    for await (const change of watchPools(
      files,
      pool === undefined ? allPools : [pool],
      stop.signal,
    )) {
      const line = asJson ? JSON.stringify(change) : describe(change);
      if (!process.stdout.write(`${line}\n`)) await once(process.stdout, "drain");
    }
    return 0;
  },
};

function describe(change: PoolChange): string {
  const { pool, key } = change;
  return change.kind === "set"
    ? `${pool}  ${shown(key)} = ${shown(change.value)}`
    : `${pool}  ${shown(key)} deleted`;
}

function noSuchKey(key: string, pool: number | undefined, asJson: boolean): number {
  if (asJson) printJson(null);
  const where = pool === undefined ? "any pool" : `pool ${pool} (${poolNames[pool] ?? ""})`;
  process.stderr.write(`hv-kvp: no key '${shown(key)}' in ${where}\n`);
  return 1;
}
