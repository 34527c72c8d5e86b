import { DiskOperation, Outcome, type DiskQueue } from "@hyperv-is/hv-storvsc";
import { PAGE_SIZE } from "@hyperv-is/vmbus-core/protocol";
import type { Admission } from "./nbd-export.js";
import { NbdRequest, SLOT_BYTES, SLOT_PAGES, Slot } from "./connection-slots.js";
import { DiskCommands, outcomeOf } from "./disk-commands.js";
import type { Agreement } from "./handshake.js";
import { Command, CommandFlag, NbdError, PAYLOAD_BYTES_MAX, SimpleReply } from "./protocol.js";
import {
  DATA_CHUNK_BYTES,
  ERROR_CHUNK_BYTES,
  putDataChunk,
  putErrorChunk,
  putSimpleReply,
  statusReply,
} from "./replies.js";
import { checkRequest } from "./request-check.js";
import { Verdict, type RequestFields, type RequestSink } from "./request-reader.js";

/** Parts of a read that has the connection for itself that are read before the first of them is sent. */
const PARTS_AHEAD = 4;

/** Where replies go. */
export interface ReplyLink {
  /** Nothing can be sent any more. */
  readonly isClosed: boolean;
  /** Sends bytes, which stay as they are until `done` is called: always, once, and not inside. */
  send(bytes: Uint8Array, done: () => void): void;
  /** Requests are to be offered again. */
  ready(): void;
  /** All that was to be sent is, and nothing more comes. */
  end(): void;
  /** The client broke the protocol, or cannot be told what went wrong. */
  abort(): void;
}

/**
 * The transmission phase of one connection: requests of the client as commands to the disk, many at a time, and
 * their replies in the order in which they end.
 *
 * Reads and writes take the driver's fast path; what does not simply succeed there is done once more by the driver's
 * promises, which know when to try again. Data goes from the disk into guest memory and from there to the socket. A
 * reply holds what its request has taken until the system has its bytes, so a client that does not read stops only
 * itself. Reads and writes allocate nothing here.
 */
export class Transmission implements RequestSink {
  readonly #admission: Admission;
  readonly #agreement: Agreement;
  readonly #link: ReplyLink;
  readonly #released: () => void;
  readonly #queue: DiskQueue;
  readonly #commands: DiskCommands;
  readonly #slots: Slot[] = [];
  readonly #freeSlots: Slot[] = [];
  readonly #freeRequests: NbdRequest[] = [];
  readonly #depth: number;
  /** A read that lacks slots, or that wants the connection for itself: no request is taken meanwhile. */
  #unfinished: NbdRequest | undefined;
  /** The unfinished read has the connection for itself, and goes on. */
  #isAlone = false;
  /** Lets that read go on when it waits for a slot. */
  #slotFreed: () => void = () => undefined;
  /** The write whose data comes, and the slot that it goes to. */
  #receiving: NbdRequest | undefined;
  #filling: Slot | undefined;
  #state: "open" | "refusing" | "ending" | "closed" = "open";
  #isReleased = false;
  /** Something waits for slots or requests, and whether it is about to be told. */
  #isBusy = false;
  #isWaking = false;

  /** @param released - Called once, when the connection is closed and nothing of the admission is in use. */
  constructor(admission: Admission, agreement: Agreement, link: ReplyLink, released: () => void) {
    const { disk, memory, address, queue } = admission;
    const { depth } = queue;
    this.#admission = admission;
    this.#agreement = agreement;
    this.#link = link;
    this.#released = released;
    this.#depth = depth;
    this.#queue = queue;
    admission.onComplete = this.#complete;
    const slotBytes = SLOT_PAGES * PAGE_SIZE;
    for (let index = 0; index < depth; index++) {
      this.#slots.push(new Slot(index, memory, address + index * slotBytes, this.#slotSent));
      this.#freeRequests.push(new NbdRequest(this.#freeRequest));
    }
    this.#freeSlots.push(...this.#slots);
    const zeroes = address + depth * slotBytes;
    this.#commands = new DiskCommands(
      disk,
      { lengthBytes: SLOT_BYTES, zeroes, scratch: zeroes + slotBytes },
      () => !link.isClosed && this.#state !== "refusing",
    );
  }

  request(fields: RequestFields): Verdict {
    const { type, lengthBytes } = fields;
    if (type === Command.disconnect) {
      this.end();
      return Verdict.end;
    }
    // Nobody means such a length, and to drop so much data would keep us busy for nothing.
    if (type === Command.write && lengthBytes > PAYLOAD_BYTES_MAX) {
      this.violation();
      return Verdict.end;
    }
    const request = this.#unfinished === undefined ? this.#freeRequests.pop() : undefined;
    if (request === undefined) {
      this.#isBusy = true;
      return Verdict.busy;
    }
    this.#admission.counters.requests++;
    request.begin(fields, this.#check(fields));
    if (request.error !== NbdError.none) {
      request.unissuedBytes = 0;
      this.#reply(request);
      return type === Command.write ? Verdict.skip : Verdict.taken;
    }
    if (type === Command.write) {
      this.#receiving = request;
      return Verdict.payload;
    }
    if (type === Command.read) this.#read(request);
    else if (type === Command.blockStatus) void this.#tellStatus(request);
    else void this.#carryOut(request);
    return Verdict.taken;
  }

  payload(bytes: Uint8Array, at: number, end: number): number {
    const request = this.#receiving!;
    while (at < end) {
      this.#filling ??= this.#takeSlot(request);
      const slot = this.#filling;
      if (slot === undefined) break;
      at += slot.fill(bytes, at, end);
      if (slot.filledBytes < slot.lengthBytes) break;
      this.#filling = undefined;
      if (request.unissuedBytes === 0) this.#receiving = undefined;
      this.#submit(slot);
    }
    return at;
  }

  violation(): void {
    this.#admission.counters.violations++;
    this.#link.abort();
  }

  /** Publishes what requests have put into the disk's queue. */
  flush(): void {
    this.#queue.flush();
  }

  /** No request comes any more: ends the connection when all replies are out. */
  end(): void {
    this.#leave("ending");
  }

  /** Refuses what comes from now on, and ends the connection when all replies are out. */
  refuse(): void {
    if (this.#state === "open") this.#leave("refusing");
  }

  /** The connection is gone: what the disk still does is waited for, and nobody hears of it. */
  closed(): void {
    this.#leave("closed");
  }

  #leave(state: "refusing" | "ending" | "closed"): void {
    this.#state = state;
    if (state !== "refusing") this.#stopReceiving();
    this.#settle();
  }

  #check(fields: RequestFields): NbdError {
    if (this.#state !== "open") return NbdError.ESHUTDOWN;
    const error = checkRequest(fields, this.#agreement);
    const { type, flags, lengthBytes } = fields;
    if (error !== NbdError.none || type !== Command.read || lengthBytes <= SLOT_BYTES) return error;
    if ((flags & CommandFlag.df) !== 0) return NbdError.EOVERFLOW;
    const isTooLong = !this.#agreement.structuredReplies && lengthBytes > PAYLOAD_BYTES_MAX;
    return isTooLong ? NbdError.EINVAL : NbdError.none;
  }

  #read(request: NbdRequest): void {
    if (request.lengthBytes <= SLOT_BYTES || this.#agreement.structuredReplies)
      this.#issue(request);
    else {
      // The parts of a simple reply come in order, and nothing comes between them.
      this.#unfinished = request;
      this.#settle();
    }
  }

  /** Has slots carry as much of a read as there are slots. */
  #issue(request: NbdRequest): void {
    this.#unfinished = undefined;
    while (request.unissuedBytes > 0) {
      const slot = this.#takeSlot(request);
      if (slot === undefined) {
        this.#unfinished = request;
        return;
      }
      this.#submit(slot);
    }
  }

  /** A slot for the next part of a request; undefined, and busy, when there is none. */
  #takeSlot(request: NbdRequest): Slot | undefined {
    const slot = this.#freeSlots.pop();
    if (slot === undefined) this.#isBusy = true;
    else slot.begin(request);
    return slot;
  }

  #submit(slot: Slot): void {
    const { blockBytes } = this.#admission.disk.device;
    const isRead = slot.request!.type === Command.read;
    const operation = isRead ? DiskOperation.read : DiskOperation.write;
    const lba = slot.position / blockBytes;
    const blocks = slot.lengthBytes / blockBytes;
    if (!this.#queue.submit(operation, lba, blocks, slot, slot.index))
      this.#partDone(slot, NbdError.ESHUTDOWN);
  }

  readonly #complete = (index: number, outcome: Outcome): void => {
    const slot = this.#slots[index]!;
    if (outcome === Outcome.ok) this.#partDone(slot, NbdError.none);
    else if (outcome === Outcome.closed) this.#partDone(slot, this.#noteGone(NbdError.ESHUTDOWN));
    else void this.#doAgain(slot);
  };

  async #doAgain(slot: Slot): Promise<void> {
    this.#partDone(slot, await this.#attempt(this.#transfer(slot)));
  }

  /** Does by the driver's promises what its fast path does else. */
  #transfer(slot: Slot): Promise<void> {
    const { device } = this.#admission.disk;
    const { position, address, lengthBytes } = slot;
    if (slot.request!.type === Command.read) return device.read(position, address, lengthBytes);
    return device.write(position, address, lengthBytes);
  }

  async #attempt(command: Promise<unknown>): Promise<NbdError> {
    return this.#noteGone(await outcomeOf(command));
  }

  /** When the disk went, the host may have kept what it was given. */
  #noteGone(error: NbdError): NbdError {
    if (error === NbdError.ESHUTDOWN) this.#admission.isMemoryLost = true;
    return error;
  }

  #partDone(slot: Slot, error: NbdError): void {
    const request = slot.request!;
    request.parts--;
    if (error !== NbdError.none) {
      request.error = error;
      // The rest of a read is of no use; the rest of a write comes all the same.
      if (request.type === Command.read) request.unissuedBytes = 0;
      if (this.#unfinished === request) this.#unfinished = undefined;
    }
    const isLast = request.parts === 0 && request.unissuedBytes === 0;
    if (request.type === Command.read && request.error === NbdError.none) {
      this.#sendData(slot, isLast);
      return;
    }
    if (error === NbdError.none) this.#admission.counters.writtenBytes += slot.lengthBytes;
    this.#freeSlot(slot);
    if (isLast) this.#finish(request);
  }

  /** Sends what a slot holds: the reply, or a chunk of it. */
  #sendData(slot: Slot, isLast: boolean): void {
    const { header, position, lengthBytes } = slot;
    const request = slot.request!;
    const isStructured = this.#agreement.structuredReplies;
    const headerBytes = isStructured ? DATA_CHUNK_BYTES : SimpleReply.SIZE;
    const at = slot.headerAt(headerBytes);
    if (isStructured) putDataChunk(header, at, request, position, lengthBytes, isLast);
    else putSimpleReply(header, at, request, NbdError.none);
    this.#sendSlot(slot, headerBytes, isLast);
  }

  #sendSlot(slot: Slot, headerBytes: number, isLast: boolean): void {
    slot.isLast = isLast;
    this.#admission.counters.readBytes += slot.lengthBytes;
    this.#link.send(slot.reply(headerBytes), slot.sent);
  }

  /** Reads for a simple reply that needs several slots, while nothing else is sent. */
  async #readAlone(request: NbdRequest): Promise<void> {
    this.#isAlone = true;
    const parts: { readonly slot: Slot; readonly read: Promise<NbdError> }[] = [];
    let sentBytes = 0;
    for (;;) {
      while (parts.length < PARTS_AHEAD && request.unissuedBytes > 0) {
        const slot = this.#takeSlot(request);
        if (slot === undefined) break;
        parts.push({ slot, read: this.#attempt(this.#transfer(slot)) });
      }
      const part = parts.shift();
      if (part === undefined) {
        if (request.unissuedBytes === 0) break;
        // The client is slower than the disk.
        await new Promise<void>((resolve) => (this.#slotFreed = resolve));
        continue;
      }
      const error = await part.read;
      request.parts--;
      if (request.error === NbdError.none) request.error = error;
      if (request.error !== NbdError.none) {
        request.unissuedBytes = 0;
        this.#freeSlot(part.slot);
        continue;
      }
      const headerBytes = sentBytes === 0 ? SimpleReply.SIZE : 0;
      const at = part.slot.headerAt(SimpleReply.SIZE);
      if (sentBytes === 0) putSimpleReply(part.slot.header, at, request, NbdError.none);
      sentBytes += part.slot.lengthBytes;
      this.#sendSlot(part.slot, headerBytes, sentBytes === request.lengthBytes);
    }
    this.#isAlone = false;
    this.#unfinished = undefined;
    if (request.error === NbdError.none) this.#wake();
    else if (sentBytes === 0) this.#reply(request);
    else {
      // The client counts on all of the data, and there is no way to take that back.
      this.#link.abort();
      this.#freeRequest(request);
    }
  }

  async #tellStatus(request: NbdRequest): Promise<void> {
    const { flags, offset, lengthBytes } = request;
    const { disk } = this.#admission;
    const isOne = (flags & CommandFlag.reqOne) !== 0;
    const telling = this.#commands.extents(offset, lengthBytes, isOne);
    request.unissuedBytes = 0;
    request.error = await this.#attempt(telling);
    if (request.error !== NbdError.none) this.#reply(request);
    else
      this.#link.send(statusReply(request, await telling, disk.unmappedReadsZero), request.replied);
  }

  /** The commands that move no data of the client. */
  async #carryOut(request: NbdRequest): Promise<void> {
    const { type, flags, offset, lengthBytes } = request;
    request.unissuedBytes = 0;
    const commands = this.#commands;
    const command =
      type === Command.flush
        ? commands.flush()
        : type === Command.trim
          ? commands.trim(offset, lengthBytes)
          : type === Command.cache
            ? commands.cache(offset, lengthBytes)
            : commands.writeZeroes(
                offset,
                lengthBytes,
                (flags & CommandFlag.noHole) !== 0,
                (flags & CommandFlag.fastZero) !== 0,
              );
    request.error = this.#noteGone(await command);
    this.#finish(request);
  }

  /** All of a request but a read is done: what it wrote is made to last if that was asked for, and it is answered. */
  #finish(request: NbdRequest): void {
    const { type, flags, error } = request;
    const lasts = (flags & CommandFlag.fua) !== 0 && type !== Command.flush;
    if (lasts && error === NbdError.none && type !== Command.cache) void this.#flushFor(request);
    else this.#reply(request);
  }

  async #flushFor(request: NbdRequest): Promise<void> {
    request.error = this.#noteGone(await this.#commands.flush());
    this.#reply(request);
  }

  /** Sends a reply without data. */
  #reply(request: NbdRequest): void {
    const { type, error, reply, replyView } = request;
    if (error !== NbdError.none) this.#admission.counters.errors++;
    const mustBeChunk = type === Command.read || type === Command.blockStatus;
    const isChunk = mustBeChunk && this.#agreement.structuredReplies;
    if (isChunk) putErrorChunk(replyView, 0, request, error);
    else putSimpleReply(replyView, 0, request, error);
    const length = isChunk ? ERROR_CHUNK_BYTES : SimpleReply.SIZE;
    this.#link.send(reply.subarray(0, length), request.replied);
  }

  /** The client is gone in the middle of a write's data. */
  #stopReceiving(): void {
    const request = this.#receiving;
    if (request === undefined) return;
    const slot = this.#filling;
    this.#receiving = undefined;
    this.#filling = undefined;
    request.unissuedBytes = 0;
    request.error = NbdError.EINVAL;
    if (slot !== undefined) this.#partDone(slot, NbdError.EINVAL);
    else if (request.parts === 0) this.#reply(request);
  }

  readonly #slotSent = (slot: Slot): void => {
    const { isLast } = slot;
    const request = slot.request!;
    this.#freeSlot(slot);
    if (isLast) this.#freeRequest(request);
  };

  #freeSlot(slot: Slot): void {
    slot.request = undefined;
    this.#freeSlots.push(slot);
    this.#slotFreed();
    this.#wake();
  }

  readonly #freeRequest = (request: NbdRequest): void => {
    this.#freeRequests.push(request);
    this.#wake();
    this.#settle();
  };

  /** Lets what waits go on, once for all that becomes free in one go. */
  #wake(): void {
    if (!this.#isBusy || this.#isWaking) return;
    this.#isWaking = true;
    queueMicrotask(this.#goOn);
  }

  readonly #goOn = (): void => {
    this.#isWaking = false;
    if (this.#isAlone) return;
    this.#isBusy = false;
    const request = this.#unfinished;
    if (request !== undefined && this.#agreement.structuredReplies) this.#issue(request);
    this.#link.ready();
    this.#queue.flush();
  };

  /** Does what waits for requests to end. */
  #settle(): void {
    const active = this.#depth - this.#freeRequests.length;
    if (active === 1 && this.#unfinished !== undefined && !this.#agreement.structuredReplies) {
      if (!this.#isAlone) void this.#readAlone(this.#unfinished);
    }
    if (active > 0 || this.#state === "open") return;
    if (this.#state !== "closed") this.#link.end();
    else if (!this.#isReleased) {
      this.#isReleased = true;
      this.#released();
    }
  }
}
