import type { GuestMemory } from "@hyperv-is/vmbus-core";
import {
  PAGE_SIZE,
  PFN_SIZE,
  parseGpaRanges,
  type GpaRange,
  type GpadlBody,
  type GpadlHeader,
} from "@hyperv-is/vmbus-core/protocol";
import type { SavedGpadl } from "../saved-partition.js";

/** How far a GPADL is. */
export type GpadlState =
  /** Messages are missing. */
  | "in-progress"
  /** The worker has it, and has not answered. */
  | "offered"
  /** The same, but the guest is gone. */
  | "offered-tearing-down"
  /** The guest was told. */
  | "accepted"
  /** The worker was asked to let go. */
  | "tearing-down";

/** Memory that a guest lends to a channel. */
export class Gpadl {
  /** Key of the channel. */
  readonly key: number;
  readonly id: number;
  state: GpadlState = "in-progress";
  /** Every page checked; there once all messages are. */
  ranges: readonly GpaRange[] = [];
  readonly #rangeCount: number;
  readonly #bytes: Uint8Array;
  #filled = 0;

  constructor(key: number, header: Omit<GpadlHeader, "relid" | "data">) {
    this.key = key;
    this.id = header.gpadlId;
    this.#rangeCount = header.rangeCount;
    this.#bytes = new Uint8Array(header.rangeBytes - (header.rangeBytes % 8));
  }

  /** Bytes that the guest announced. */
  get announcedBytes(): number {
    return this.#bytes.byteLength;
  }

  /** Takes more bytes of the ranges, as many as are missing; true when all are there. */
  append(data: Uint8Array): boolean {
    const part = data.subarray(0, this.#bytes.byteLength - this.#filled);
    this.#bytes.set(part, this.#filled);
    this.#filled += part.byteLength;
    return this.#filled === this.#bytes.byteLength;
  }

  /** Checks the ranges, once all bytes are there. @returns What is wrong with them. */
  check(memory: GuestMemory): GpadlFault | undefined {
    const outcome = parseGpaRanges(this.#bytes, this.#rangeCount, this.#bytes.byteLength);
    if (outcome.kind === "fault")
      return {
        rule: "gpadl-ranges",
        detail: `range ${outcome.range}: ${outcome.fault} at byte ${outcome.offset}`,
      };
    for (const range of outcome.ranges)
      for (const pfn of range.pfns)
        if (!memory.contains(pfn * PAGE_SIZE, PAGE_SIZE))
          return {
            rule: "gpadl-outside-memory",
            detail: `page 0x${pfn.toString(16)} is not in guest memory`,
          };
    this.ranges = outcome.ranges;
    return undefined;
  }
}

/** Why a GPADL is refused. */
export interface GpadlFault {
  readonly rule: string;
  readonly detail: string;
}

/** Outcome of a GPADL message. */
export type GpadlOutcome =
  | { readonly kind: "complete"; readonly gpadl: Gpadl }
  | { readonly kind: "in-progress" }
  /** Nothing is left of the GPADL. */
  | { readonly kind: "fault"; readonly key: number; readonly fault: GpadlFault }
  /** A body that belongs to no header. */
  | { readonly kind: "unknown" };

/** Times that the guest's memory may be lent, all GPADLs together: what they name takes the host's memory. */
const MEMORY_MULTIPLE = 4;

/** Page numbers that are always granted. */
const LEAST_LIMIT = 65_536;

/** The GPADLs of a connection. An id names one per channel; while messages are missing, one of all. */
export class GpadlTable {
  readonly #memory: GuestMemory;
  readonly #limitBytes: number;
  readonly #channels = new Map<number, Map<number, Gpadl>>();
  readonly #incomplete = new Map<number, Gpadl>();
  #announcedBytes = 0;

  constructor(memory: GuestMemory) {
    this.#memory = memory;
    const pages = (memory.sizeBytes / PAGE_SIZE) * MEMORY_MULTIPLE + LEAST_LIMIT;
    this.#limitBytes = pages * PFN_SIZE;
  }

  /** GPADL_HEADER for a channel. */
  begin(key: number, header: GpadlHeader): GpadlOutcome {
    const fault = (rule: string, detail: string): GpadlOutcome => ({
      kind: "fault",
      key,
      fault: { rule, detail },
    });
    if (this.find(key, header.gpadlId) !== undefined)
      return fault("gpadl-duplicate-id", "the id is in use on this channel");
    const gpadl = new Gpadl(key, header);
    if (this.#announcedBytes + gpadl.announcedBytes > this.#limitBytes)
      return fault("gpadl-too-many-pages", "the guest lends its memory several times over");
    const isComplete = gpadl.append(header.data);
    if (!isComplete && this.#incomplete.has(header.gpadlId))
      return fault("gpadl-duplicate-id", "messages of another GPADL with this id are missing");
    this.#add(gpadl);
    if (isComplete) return this.#complete(gpadl);
    this.#incomplete.set(gpadl.id, gpadl);
    return { kind: "in-progress" };
  }

  /** GPADL_BODY. */
  append(body: GpadlBody): GpadlOutcome {
    const gpadl = this.#incomplete.get(body.gpadlId);
    if (gpadl === undefined) return { kind: "unknown" };
    if (!gpadl.append(body.data)) return { kind: "in-progress" };
    this.#incomplete.delete(gpadl.id);
    return this.#complete(gpadl);
  }

  /** Puts back a GPADL that a worker has. */
  restore(key: number, { id, announcedBytes, ranges }: SavedGpadl): void {
    const header = { gpadlId: id, rangeCount: ranges.length, rangeBytes: announcedBytes };
    const gpadl = new Gpadl(key, header);
    gpadl.ranges = ranges;
    gpadl.state = "accepted";
    this.#add(gpadl);
  }

  /** The GPADL with this id of a channel. */
  find(key: number, id: number): Gpadl | undefined {
    return this.#channels.get(key)?.get(id);
  }

  /** The GPADLs of a channel; may be changed while one walks along. */
  of(key: number): readonly Gpadl[] {
    return Array.from(this.#channels.get(key)?.values() ?? []);
  }

  /** True if the channel has any. */
  has(key: number): boolean {
    return this.#channels.has(key);
  }

  /** Forgets a GPADL. */
  remove(gpadl: Gpadl): void {
    const ofChannel = this.#channels.get(gpadl.key);
    if (ofChannel?.delete(gpadl.id) !== true) return;
    if (ofChannel.size === 0) this.#channels.delete(gpadl.key);
    if (gpadl.state === "in-progress") this.#incomplete.delete(gpadl.id);
    this.#announcedBytes -= gpadl.announcedBytes;
  }

  #add(gpadl: Gpadl): void {
    const ofChannel = this.#channels.get(gpadl.key) ?? new Map<number, Gpadl>();
    ofChannel.set(gpadl.id, gpadl);
    this.#channels.set(gpadl.key, ofChannel);
    this.#announcedBytes += gpadl.announcedBytes;
  }

  #complete(gpadl: Gpadl): GpadlOutcome {
    const fault = gpadl.check(this.#memory);
    if (fault !== undefined) {
      this.remove(gpadl);
      return { kind: "fault", key: gpadl.key, fault };
    }
    gpadl.state = "offered";
    return { kind: "complete", gpadl };
  }
}
