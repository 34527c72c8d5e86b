import { BenchmarkError } from "../benchmark.js";
import { runPeer, versionOf } from "./peer-program.js";

/** What fio is to read of an export. In bytes. */
export interface FioLoad {
  readonly mode: "randread" | "read";
  readonly blockBytes: number;
  readonly depth: number;
  readonly offset: number;
  readonly sizeBytes: number;
}

interface FioReport {
  readonly jobs: readonly [
    {
      readonly error: number;
      readonly read: { readonly total_ios: number; readonly iops: number };
    },
  ];
}

/** fio with its engine for NBD: one client, one connection. */
export class Fio {
  readonly version: string;

  private constructor(version: string) {
    this.version = version;
  }

  /** Rejects with BenchmarkError when it is not there. */
  static async find(): Promise<Fio> {
    return new Fio(await versionOf("fio", "fio"));
  }

  /** As a person would write the load. */
  command({ mode, blockBytes, depth }: FioLoad): string {
    return `fio ${this.version} --ioengine=nbd --rw=${mode} --bs=${blockBytes / 1024}k --iodepth=${depth} --norandommap`;
  }

  /** Reads so many blocks. @returns Seconds, without the connection. */
  async read(uri: string, load: FioLoad, requests: number): Promise<number> {
    const { mode, blockBytes, depth, offset, sizeBytes } = load;
    const text = await runPeer(
      "fio",
      [
        "--name=bench",
        "--ioengine=nbd",
        `--uri=${uri}`,
        `--rw=${mode}`,
        `--bs=${blockBytes}`,
        `--iodepth=${depth}`,
        `--offset=${offset}`,
        `--size=${sizeBytes}`,
        `--io_size=${requests * blockBytes}`,
        "--norandommap",
        "--output-format=json",
      ],
      "fio",
    );
    // What the engine has to say comes first.
    const { jobs } = JSON.parse(text.slice(text.indexOf("{"))) as FioReport;
    const [{ error, read }] = jobs;
    if (error !== 0 || read.total_ios !== requests)
      throw new BenchmarkError(`fio has read ${read.total_ios} of ${requests} blocks from ${uri}`);
    return read.total_ios / read.iops;
  }
}
