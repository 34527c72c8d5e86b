import { mkdtempSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { EmulatorError, PcError } from "@hyperv-is/hyperv-pc";
import {
  bootPc,
  emulatorModule,
  preferQuickCompilation,
  type PcMachine,
  type PcOptions,
} from "@hyperv-is/hyperv-pc/node";
import { BenchmarkError, type Benchmark, type OptionValues } from "../benchmark.js";
import { median, significant, type MeasuringOptions } from "../comparison.js";
import { ProcessorTime } from "../processor-time.js";
import type { BenchmarkResult } from "../report.js";

/** What the repository's tool says of a guest that it has composed. */
interface StockGuest {
  readonly directory: string;
  readonly kernel: string;
  readonly initrd: string;
}

interface GuestLocation {
  readonly composeCommand: string;
  readGuest(directory: string): StockGuest | undefined;
  stockGuest(): StockGuest | undefined;
}

/** Ends what the guest prints for a command, before its status; the same comes first of all. */
const ANSWER = new RegExp(`${String.fromCharCode(0x1e)}\\d+\n`);
/** As the tests boot it: without self-tests that have nothing to do with its drivers. */
const APPEND = "nokaslr cryptomgr.notests noisapnp stock.console=commands";

async function run(values: OptionValues, measuring: MeasuringOptions): Promise<BenchmarkResult[]> {
  const guest = await findGuest(values["guest"]);
  const directory = mkdtempSync(join(tmpdir(), "hyperv-is-bench-"));
  const remove = (): void => rmSync(directory, { recursive: true, force: true });
  process.once("exit", remove);
  const options: PcOptions = {
    kernel: guest.kernel,
    initrd: guest.initrd,
    bios: guest.directory,
    append: APPEND,
  };
  const snapshot = { path: join(directory, "guest.snapshot"), at: ANSWER };
  try {
    // Made once for each version of the emulator, and kept: no part of a boot.
    await emulatorModule();
    // As the program hyperv-pc does.
    preferQuickCompilation();
    const boot = await measure("boot to shell", measuring, async () => {
      await using pc = await bootPc(options);
      await pc.serial.waitFor(ANSWER);
    });
    measuring.progress("saving a booted guest");
    await (await bootPc({ ...options, snapshot })).stop();
    const restore = await measure("shell from a snapshot", measuring, async () => {
      await using pc = await bootPc({ ...options, snapshot });
      if (!pc.isRestored) throw new BenchmarkError("the snapshot does not fit its own guest");
      await answerCommand(pc);
    });
    return [boot, restore];
  } catch (error) {
    if (error instanceof PcError || error instanceof EmulatorError)
      throw new BenchmarkError(error.message, { cause: error });
    throw error;
  } finally {
    remove();
  }
}

/** The guest goes on where it was saved: waiting for a command, its first answer on the console. */
async function answerCommand(pc: PcMachine): Promise<void> {
  await pc.serial.waitFor(ANSWER);
  pc.serial.write("echo here\n");
  const answer = await pc.serial.waitFor(ANSWER);
  if (!answer.startsWith("here\n")) throw new BenchmarkError(`the guest answered '${answer}'`);
}

/** The median of what `work` takes. */
async function measure(
  name: string,
  { runs, processorTime, progress }: MeasuringOptions,
  work: () => Promise<void>,
): Promise<BenchmarkResult> {
  const seconds: number[] = [];
  let noisyRuns = 0;
  while (seconds.length < runs) {
    progress(`${name}: run ${seconds.length + 1} of ${runs}`);
    await processorTime.untilIdle();
    const others = processorTime.watch();
    const from = performance.now();
    await work();
    seconds.push((performance.now() - from) / 1e3);
    if (ProcessorTime.isNoisy(others())) noisyRuns++;
  }
  return {
    name,
    value: significant(median(seconds)),
    unit: "s",
    peer: null,
    peerValue: null,
    ratio: null,
    runs,
    ...(noisyRuns > 0 && { noisyRuns }),
  };
}

async function findGuest(directory: OptionValues[string]): Promise<StockGuest> {
  const { resolve: find } = createRequire(import.meta.url);
  const tools = join(dirname(find("@hyperv-is/bench/package.json")), "..", "..", "tools");
  const url = pathToFileURL(join(tools, "stock-guest", "location.mjs")).href;
  const location = (await import(url)) as GuestLocation;
  if (typeof directory === "string") {
    const found = location.readGuest(resolve(directory));
    if (found === undefined)
      throw new BenchmarkError(
        `${directory} holds no guest: '${location.composeCommand} -- --out DIR' makes one`,
      );
    return found;
  }
  const found = location.stockGuest();
  if (found === undefined)
    throw new BenchmarkError(
      `there is no stock guest to boot: '${location.composeCommand}' composes one`,
    );
  return found;
}

/** A stock kernel on the PC emulator. */
export const realGuest: Benchmark = {
  summary:
    "how long a stock Linux kernel on the PC emulator takes to its shell, booted and from a snapshot",
  help: `  --guest DIR       a guest that 'npm run -s stock-guest -- --out DIR' made; the one in the cache unless given
`,
  options: { guest: { type: "string" } },
  leftOut: [
    "composing the guest, and patching the emulator, which is done once and kept.",
    "writing the snapshot; reading it is a part of the restore, from the page cache.",
    "any work of the guest but its drivers' start.",
    "what the kernel's command line switches off: address randomization, self-tests of ciphers, a search for ISA cards.",
  ],
  run,
};
