import { PAGE_SIZE, GpadlTeardown, emitGpadl } from "../protocol/index.js";
import { BusError } from "./bus-error.js";
import type { BusLink } from "./bus-link.js";
import {
  creatingGpadl,
  stepGpadl,
  type GpadlEffect,
  type GpadlInput,
  type GpadlState,
} from "./gpadl.js";
import { Machine } from "./machine.js";
import { Waiter } from "./waiter.js";

/** A run of pages that a channel shares with the host by a GPADL. The pages go back to the arena when the host has let go of them. */
export class SharedPages {
  readonly relid: number;
  readonly gpadlId: number;
  /** GPA of the first page. */
  readonly address: number;
  readonly pageCount: number;
  readonly #link: BusLink;
  readonly #settled: (pages: SharedPages) => void;
  readonly #machine: Machine<GpadlState, GpadlInput, GpadlEffect>;
  readonly #created = new Waiter();
  readonly #over = new Waiter();

  /**
   * Allocates zeroed pages, of which the host does not know yet. Throws `ERR_NO_MEMORY`.
   * @param settled - Called once, when the fate of the pages is decided.
   */
  constructor(
    link: BusLink,
    relid: number,
    pageCount: number,
    settled: (pages: SharedPages) => void,
  ) {
    const address = link.allocator.allocate(pageCount);
    if (address === undefined) throw new BusError("ERR_NO_MEMORY", `${pageCount} pages to share`);
    this.#link = link;
    this.#settled = settled;
    this.relid = relid;
    this.address = address;
    this.pageCount = pageCount;
    this.gpadlId = link.gpadls.newId();
    this.#machine = new Machine(
      link.timers,
      creatingGpadl(link.timers.now(), link.answerMs),
      (state, input, now) => stepGpadl(state, input, now, link.answerMs),
      (effect) => this.#carryOut(effect),
    );
    link.gpadls.add(this);
  }

  get state(): GpadlState["name"] {
    return this.#machine.state.name;
  }

  /** Announces the pages to the host; settles when it has answered, or will not. To be called once. */
  announce(): Promise<void> {
    const { relid, gpadlId, pageCount } = this;
    const first = this.address / PAGE_SIZE;
    const range = {
      byteCount: pageCount * PAGE_SIZE,
      byteOffset: 0,
      pfns: Array.from({ length: pageCount }, (_, page) => first + page),
    };
    this.#send(emitGpadl(relid, gpadlId, [range]));
    return this.#created.promise;
  }

  input(input: GpadlInput): void {
    this.#machine.input(input);
  }

  /** Takes the pages back; resolves when the host has let go of them, or they are given up. */
  release(): Promise<void> {
    this.input({ kind: "release" });
    return this.#over.promise;
  }

  #send(messages: readonly Uint8Array[]): void {
    this.#link.send(messages, ({ status, sent }) =>
      this.input({ kind: "post-failed", status, sent }),
    );
  }

  #carryOut(effect: GpadlEffect): void {
    const { allocator, counters } = this.#link;
    switch (effect.kind) {
      case "established":
        this.#created.resolve();
        break;
      case "failed":
        this.#created.reject(
          new BusError(effect.code, `sharing memory on channel ${this.relid}`, effect.status),
        );
        break;
      case "send-teardown":
        this.#send([GpadlTeardown.emit({ relid: this.relid, gpadlId: this.gpadlId })]);
        break;
      case "let-go":
        this.#over.resolve();
        break;
      case "free":
        allocator.free(this.address);
        this.#end();
        break;
      case "leak":
        allocator.leak(this.address);
        counters.leakedPages += this.pageCount;
        this.#end();
        break;
      case "unexpected":
        counters.unmatched++;
        break;
    }
  }

  #end(): void {
    this.#link.gpadls.delete(this);
    this.#over.resolve();
    this.#settled(this);
  }
}
