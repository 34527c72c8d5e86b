/** What is used of the libraries that read partition tables; they bring no types. */
declare module "gpt" {
  interface Entry {
    readonly type: string;
    readonly guid: string;
    readonly name: string;
    readonly firstLBA: bigint;
    readonly lastLBA: bigint;
    isEmpty(): boolean;
  }
  export default class GPT {
    constructor(options: { blockSize: number });
    readonly firstLBA: bigint;
    readonly lastLBA: bigint;
    readonly tableOffset: bigint;
    readonly entries: number;
    readonly entrySize: number;
    readonly partitions: readonly Entry[];
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
