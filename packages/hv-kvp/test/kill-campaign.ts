import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { PoolFiles } from "../src/node/index.js";
import { packageFile } from "./built.js";
import { Prng } from "./prng.js";

/** What to kill, and how often. */
export interface KillCampaign {
  readonly directory: string;
  readonly seed: number;
  /** SETs at least, over all daemons. */
  readonly sets: number;
  readonly isOver?: () => boolean;
}

/**
 * Daemons that set keys without end, each killed at a random moment. Afterwards the file must be one that every
 * daemon can read, and every SET that was answered must be in it, unless a later one has replaced it.
 */
export async function runKillCampaign(
  campaign: KillCampaign,
): Promise<{ kills: number; sets: number }> {
  const { directory, seed, sets, isOver = () => false } = campaign;
  const prng = new Prng(seed);
  const files = new PoolFiles(directory);
  const newest = new Map<string, number>();
  let next = 0;
  let kills = 0;
  while (next < sets && !isOver()) {
    const wanted = next + 1 + prng.below(400);
    const answered = await setUntilKilled(directory, next, wanted);
    for (let call = next; call <= answered; call++) newest.set(`key-${call % 30}`, call);
    kills++;
    check(files, newest, seed);
    // The call after the last answer may have been done as well.
    next = answered + 2;
  }
  return { kills, sets: next };
}

/** @returns The last call that was answered before the daemon was killed. */
async function setUntilKilled(directory: string, first: number, wanted: number): Promise<number> {
  const writer = spawn(
    process.execPath,
    [packageFile("test/kill-writer.mjs"), directory, `${first}`],
    {
      stdio: ["ignore", "pipe", "inherit"],
    },
  );
  let said = "";
  writer.stdout.setEncoding("latin1").on("data", (text: string) => {
    said += text;
    if (Number(said.split("\n").at(-2)) >= wanted) writer.kill("SIGKILL");
  });
  const [code] = (await once(writer, "close")) as [number | null];
  if (code !== null) throw new Error(`the daemon ended with status ${code}`);
  const complete = said.slice(0, said.lastIndexOf("\n"));
  return Number(complete.split("\n").at(-1));
}

function check(files: PoolFiles, newest: ReadonlyMap<string, number>, seed: number): void {
  const bytes = readFileSync(files.path(0));
  if (bytes.byteLength % 2560 !== 0)
    console.info(`a torn record of ${bytes.byteLength % 2560} bytes`);
  const items = new Map(files.items(0).map(({ key, value }) => [key, value]));
  for (const [key, call] of newest) {
    const value = items.get(key);
    const [number = "", filling = ""] = value?.split(" ") ?? [];
    const found = Number(number);
    const isWhole = value !== undefined && filling === "x".repeat(found % 1500);
    if (!isWhole || found < call || `key-${found % 30}` !== key)
      throw new Error(`${key} is '${value?.slice(0, 20) ?? ""}' after call ${call}, seed ${seed}`);
  }
}
