/** What is used of the libraries that read partition tables; they bring no types. */
declare module "gpt" {
  interface EntryOptions {
    readonly type: string;
    readonly guid: string;
    readonly name: string;
    readonly firstLBA: bigint;
    readonly lastLBA: bigint;
  }
  class Entry {
    constructor(options: EntryOptions);
    readonly type: string;
    readonly guid: string;
    readonly name: string;
    readonly firstLBA: bigint;
    readonly lastLBA: bigint;
    isEmpty(): boolean;
  }
  export default class GPT {
    static readonly PartitionEntry: typeof Entry;
    constructor(options: {
      blockSize: number;
      guid?: string;
      backupLBA?: bigint;
      lastLBA?: bigint;
    });
    readonly firstLBA: bigint;
    readonly lastLBA: bigint;
    readonly tableOffset: bigint;
    readonly entries: number;
    readonly entrySize: number;
    readonly partitions: Entry[];
    write(buffer: Buffer, offset: number): Buffer;
    writeBackupFromPrimary(buffer: Buffer, offset: number): Buffer;
    parseHeader(buffer: Buffer, offset?: number): this;
    parseTable(buffer: Buffer, offset?: number, end?: number): this;
    verifyHeader(): boolean;
    verifyTable(): boolean;
  }
}

declare module "mbr" {
  export default class MBR {
    constructor(buffer: Buffer);
    readonly partitions: readonly {
      readonly type: number;
      readonly firstLBA: number;
      readonly sectors: number;
    }[];
  }
}
