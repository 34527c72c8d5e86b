import fc from "fast-check";
import { expect } from "vitest";
import {
  CloseChannel,
  CloseReservedChannel,
  DeviceClass,
  FIRST_GPADL_ID,
  Feature,
  GpadlBody,
  GpadlCreated,
  GpadlTeardown,
  GpadlTorndown,
  InitiateContact,
  MessageHeader,
  MessageType,
  ModifyChannel,
  NIL_GUID,
  OfferChannel,
  OpenChannel,
  OpenReservedChannel,
  PAGE_SIZE,
  ProtocolVersion,
  RelidReleased,
  RequestOffers,
  RescindChannelOffer,
  Unload,
  emitGpadl,
  protocolVersions,
  type Guid,
} from "@hyperv-is/vmbus-core/protocol";
import { Bus, type BusReply, type WorkerRequest } from "../src/index.js";
import { memoryAtOffset } from "./scripted-guest.js";

const memory = memoryAtOffset(64);
const instances: readonly Guid[] = [1, 2, 3].map(
  (number): Guid => `00000000-0000-0000-0000-00000000000${number}`,
);
const features = Feature.guestSignalParameters | Feature.pauseResume | Feature.modifyConnection;

/** An act of one of the three; `pick` chooses among what there is to act on. */
export type Act = readonly [
  kind:
    | "create"
    | "begin"
    | "continue"
    | "teardown"
    | "open"
    | "open-reserved"
    | "close"
    | "close-reserved"
    | "release"
    | "modify"
    | "request-offers"
    | "unload"
    | "contact"
    | "raw"
    | "answer"
    | "refuse"
    | "settle"
    | "sub-channels"
    | "rescind-sub-channel"
    | "offer"
    | "rescind"
    | "reset",
  pick: number,
];

const weights: Readonly<Record<Act[0], number>> = {
  create: 10,
  begin: 1,
  continue: 1,
  teardown: 4,
  open: 14,
  "open-reserved": 2,
  close: 8,
  "close-reserved": 3,
  release: 3,
  modify: 2,
  "request-offers": 3,
  unload: 1,
  contact: 2,
  raw: 2,
  answer: 20,
  refuse: 1,
  settle: 8,
  "sub-channels": 4,
  "rescind-sub-channel": 2,
  offer: 4,
  rescind: 4,
  reset: 1,
};

/** Acts that are worth trying more often come more often. */
export const act: fc.Arbitrary<Act> = fc.tuple(
  fc.oneof(
    ...Object.entries(weights).map(([kind, weight]) => ({
      weight,
      arbitrary: fc.constant(kind as Act[0]),
    })),
  ),
  fc.nat(1000),
);

function contact(version: ProtocolVersion): Uint8Array {
  return InitiateContact.emit({
    version,
    targetVp: 0,
    interruptPageGpa: 0,
    sint: 2,
    vtl: 0,
    features,
    parentToChildMonitorGpa: 0x8000,
    childToParentMonitorGpa: 0x9000,
    clientId: NIL_GUID,
  });
}

function pickOf<T>(list: readonly T[], pick: number): T | undefined {
  return list[pick % Math.max(1, list.length)];
}

/** A guest that knows what it was told, a bus, and a worker that answers when it is its turn. */
export class World {
  readonly bus = new Bus({ memory, vpCount: 1 });
  unloaded = 0;
  resets = 0;
  /** States that channels were seen in. */
  readonly seen = new Set<string>();
  readonly #requests: WorkerRequest[] = [];
  readonly #offered = new Set<Guid>();
  readonly #ports = new Set<number>();
  readonly #monitors = new Set<number>();
  /** What the worker has of the guest's memory: rings (with their relid) by key, GPADLs by key and id. */
  readonly #rings = new Map<number, number>();
  readonly #gpadls = new Set<string>();
  /** Relids that the guest was offered, and GPADLs that were created for it. */
  #relids: number[] = [];
  #created: { readonly relid: number; readonly gpadlId: number }[] = [];
  #begun: number[] = [];
  #nextGpadl = FIRST_GPADL_ID;

  constructor() {
    for (const instanceId of instances) this.#offer(instanceId);
    this.#post(contact(ProtocolVersion.v5_3), 4);
    this.#post(RequestOffers.emit({}));
    this.settle();
  }

  do([kind, pick]: Act): void {
    const relid = pickOf(this.#relids, pick) ?? pick % 8;
    const ofChannel = this.#created.filter((gpadl) => gpadl.relid === relid);
    const gpadlId = pickOf(ofChannel, pick)?.gpadlId ?? FIRST_GPADL_ID;
    switch (kind) {
      case "create":
        for (const bytes of this.#gpadlMessages(relid, 4)) this.#post(bytes);
        break;
      case "begin": {
        const [header] = this.#gpadlMessages(relid, 40);
        this.#begun.push(this.#nextGpadl - 1);
        this.#post(header!);
        break;
      }
      case "continue": {
        const begun = pickOf(this.#begun, pick) ?? 1;
        const data = new Uint8Array(14 * 8);
        this.#post(GpadlBody.emit({ messageNumber: 0, gpadlId: begun, data }));
        break;
      }
      case "teardown":
        this.#created = this.#created.filter((gpadl) => gpadl.gpadlId !== gpadlId);
        this.#post(GpadlTeardown.emit({ relid, gpadlId }));
        break;
      case "open":
        this.#post(
          OpenChannel.emit(
            {
              relid,
              openId: relid,
              ringGpadlId: gpadlId,
              targetVp: 0,
              downstreamPageOffset: 2,
              userData: new Uint8Array(0),
              redirectInterrupt: false,
              // Sometimes of another channel's, which is refused.
              signal: { connectionId: 100 + (pick % 7), eventFlag: relid },
            },
            this.bus.connection?.features ?? 0,
          ),
        );
        break;
      case "open-reserved": {
        const target = { targetVp: 0, sint: 2, downstreamPageOffset: 2 };
        this.#post(OpenReservedChannel.emit({ relid, ringGpadlId: gpadlId, ...target }));
        break;
      }
      case "close":
        this.#post(CloseChannel.emit({ relid }));
        break;
      case "close-reserved":
        this.#post(CloseReservedChannel.emit({ relid, targetVp: 0, sint: 2 }));
        break;
      case "release": {
        const isTaken = this.#isReleasable(relid);
        this.#post(RelidReleased.emit({ relid }));
        if (isTaken && !this.#isOffered(relid))
          this.#relids = this.#relids.filter((known) => known !== relid);
        break;
      }
      case "modify":
        this.#post(ModifyChannel.emit({ relid, targetVp: 0 }));
        break;
      case "request-offers":
        this.#post(RequestOffers.emit({}));
        break;
      case "unload":
        this.#post(Unload.emit({}));
        break;
      case "contact":
        this.#post(contact(pickOf(protocolVersions, pick)!.version), 4);
        break;
      case "raw": {
        const bytes = new Uint8Array(pick % 241).fill(pick);
        if (bytes.byteLength >= 8) bytes.set([pick % 31, 0, 0, 0, 0, 0, 0, 0]);
        this.#post(bytes);
        break;
      }
      case "answer":
        this.#answer(true);
        break;
      case "refuse":
        this.#answer(false);
        break;
      case "settle":
        this.settle();
        break;
      case "sub-channels": {
        const key = pickOf([...this.#rings.keys()], pick);
        if (key !== undefined)
          this.bus.reply({
            kind: "offer-sub-channels",
            key,
            count: 1 + (pick % 2),
            repeated: pick % 16 === 0,
          });
        break;
      }
      case "rescind-sub-channel": {
        const key = pickOf([...this.#rings.keys()], pick);
        const name = key === undefined ? undefined : this.bus.rescindSubChannel(key);
        if (name !== undefined && pick % 2 === 0) this.bus.offerSubChannel(name);
        break;
      }
      case "offer":
        this.#offer(pickOf(instances, pick)!);
        break;
      case "rescind": {
        const instanceId = pickOf(instances, pick)!;
        expect(this.bus.rescind(instanceId)).toBe(this.#offered.delete(instanceId));
        break;
      }
      case "reset":
        this.bus.reset();
    }
    this.#drain();
    for (const { state } of this.bus.channels) this.seen.add(state);
  }

  /** The worker answers everything. */
  settle(): void {
    do this.#drain();
    while (this.#answer(true));
  }

  #offer(instanceId: Guid): void {
    if (this.#offered.has(instanceId)) return;
    this.#offered.add(instanceId);
    const { classId } = DeviceClass.scsi;
    this.bus.offer({ classId, instanceId, worker: 0, monitored: true });
  }

  #isReleasable(relid: number): boolean {
    const state = this.bus.channels.find((channel) => channel.relid === relid)?.state ?? "";
    const states = ["closed", "closing", "revoked", "rescinding"];
    return this.bus.connection !== undefined && states.includes(state);
  }

  #isOffered(relid: number): boolean {
    return this.bus.channels.some((channel) => channel.relid === relid);
  }

  #gpadlMessages(relid: number, pages: number): Uint8Array[] {
    const pfns = Array.from({ length: pages }, (_, index) => 16 + index);
    return emitGpadl(relid, this.#nextGpadl++, [
      { byteCount: pages * PAGE_SIZE, byteOffset: 0, pfns },
    ]);
  }

  #post(payload: Uint8Array, connectionId = 1): void {
    this.bus.message({ connectionId, payload });
    this.#drain();
  }

  #drain(): void {
    for (const effect of this.bus.take())
      switch (effect.kind) {
        case "request":
          this.#requests.push(effect.request);
          break;
        case "connect-port":
          expect(this.#ports.has(effect.connectionId)).toBe(false);
          this.#ports.add(effect.connectionId);
          break;
        case "disconnect-port":
          expect(this.#ports.delete(effect.connectionId)).toBe(true);
          break;
        case "connect-monitor":
          expect(this.#monitors.has(effect.monitorId)).toBe(false);
          this.#monitors.add(effect.monitorId);
          break;
        case "disconnect-monitor":
          expect(this.#monitors.delete(effect.monitorId)).toBe(true);
          break;
        case "message":
          this.#heard(effect.bytes);
          break;
        case "reset-complete":
          this.resets++;
          this.#forget();
          expect([...this.#rings, ...this.#gpadls]).toEqual([]);
          expect([...this.#ports, ...this.#monitors]).toEqual([]);
          break;
        case "violation":
        case "signal-pages":
        case "message-connections":
      }
  }

  /** What the host says must be true of the worker. */
  #heard(bytes: Uint8Array): void {
    const { type } = MessageHeader.parse(bytes)!;
    switch (type) {
      case MessageType.unloadResponse:
      case MessageType.versionResponse: {
        if (type === MessageType.unloadResponse) this.unloaded++;
        this.#forget();
        const reserved = this.bus.channels.filter((channel) => channel.relid !== undefined);
        expect(reserved.every((channel) => channel.targetVp === 0xffff_ffff)).toBe(true);
        // Only reserved channels keep memory, and with it ports.
        expect(this.#rings.size).toBeLessThanOrEqual(reserved.length);
        if (reserved.length === 0) {
          expect([...this.#rings, ...this.#gpadls]).toEqual([]);
          expect([...this.#ports, ...this.#monitors]).toEqual([]);
        }
        break;
      }
      case MessageType.offerChannel: {
        const { relid } = OfferChannel.parse(bytes)!;
        if (!this.#relids.includes(relid)) this.#relids.push(relid);
        this.#created = this.#created.filter((gpadl) => gpadl.relid !== relid);
        break;
      }
      case MessageType.rescindChannelOffer: {
        const { relid } = RescindChannelOffer.parse(bytes)!;
        // Nobody touches its memory any more, or will.
        expect([...this.#rings.values()]).not.toContain(relid);
        const requests = this.#requests.map((request) =>
          request.kind === "open" ? request.opening.relid : undefined,
        );
        expect(requests).not.toContain(relid);
        break;
      }
      case MessageType.gpadlCreated: {
        const { relid, gpadlId, status } = GpadlCreated.parse(bytes)!;
        this.#begun = this.#begun.filter((id) => id !== gpadlId);
        if (status === 0) this.#created.push({ relid, gpadlId });
        break;
      }
      case MessageType.gpadlTorndown: {
        // The only proof that nobody touches the memory any more.
        const { gpadlId } = GpadlTorndown.parse(bytes)!;
        expect([...this.#gpadls].filter((held) => held.endsWith(`.${gpadlId}`))).toEqual([]);
        break;
      }
    }
  }

  #forget(): void {
    this.#relids = [];
    this.#created = [];
    this.#begun = [];
  }

  /** The worker answers its oldest request; false if there is none. */
  #answer(succeeds: boolean): boolean {
    const request = this.#requests.shift();
    if (request === undefined) return false;
    const reply = this.#replyTo(request, succeeds);
    if (reply !== undefined) this.bus.reply(reply);
    this.#drain();
    return true;
  }

  #replyTo(request: WorkerRequest, succeeds: boolean): BusReply | undefined {
    const status = succeeds ? 0 : 0x8000_ffff;
    switch (request.kind) {
      case "open":
        if (succeeds) this.#rings.set(request.opening.key, request.opening.relid);
        return { kind: "opened", key: request.opening.key, status };
      case "close":
        this.#rings.delete(request.key);
        return { kind: "closed", key: request.key };
      case "revoke":
        this.#rings.delete(request.key);
        for (const held of [...this.#gpadls])
          if (held.startsWith(`${request.key}.`)) this.#gpadls.delete(held);
        return { kind: "revoked", key: request.key };
      case "modify":
        return { kind: "modified", key: request.key, status };
      case "gpadl-create":
        if (succeeds) this.#gpadls.add(`${request.key}.${request.gpadlId}`);
        return { kind: "gpadl-created", key: request.key, gpadlId: request.gpadlId, status };
      case "gpadl-teardown":
        this.#gpadls.delete(`${request.key}.${request.gpadlId}`);
        return { kind: "gpadl-torndown", key: request.key, gpadlId: request.gpadlId };
      case "guest-released":
        return undefined;
    }
  }
}
