import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  Vmbus,
  type ChannelDescription,
  type ChannelHandler,
  type Gpadl,
  type OfferedChannel,
} from "@hyperv-is/vmbus-core";
import {
  AllOffersDelivered,
  CloseReservedResponse,
  DeviceClass,
  GpadlCreated,
  GpadlHeader,
  GpadlTeardown,
  GpadlTorndown,
  HypercallStatus,
  MESSAGE_PAYLOAD_MAX,
  MessageHeader,
  MessageSlot,
  MessageType,
  ModifyChannel,
  ModifyChannelResponse,
  OfferChannel,
  OpenChannel,
  OpenChannelResult,
  PAGE_SIZE,
  ProtocolVersion,
  RescindChannelOffer,
  SynicMessageType,
  UnloadResponse,
  VersionResponse,
} from "@hyperv-is/vmbus-core/protocol";
import { runCpu, startCpu, type TestCpu } from "./fake-hypervisor.js";
import { offerOf } from "./vmbus-host.js";

/** More time than all time-outs of a bus together. */
const LONG_MS = 10_000_000;
const MEMORY_PAGES = 96;

/** Relids that the messages of a hostile host are about; the last two cannot be. */
const relid = fc.constantFrom(1, 2, 3, 2047, 0, 2048);
const gpadlId = fc.oneof(
  fc.integer({ min: 0xe1e10, max: 0xe1e14 }),
  fc.constantFrom(0, 0xffff_ffff),
);
const status = fc.constantFrom(0, 0, 0, 1, 0x8000_ffff);

const CONNECTED = VersionResponse.emit(
  {
    supported: true,
    connectionState: 0,
    selectedVersionOrConnectionId: 1,
    features: 0,
    parentToChildMonitorGpa: 0,
    childToParentMonitorGpa: 0,
  },
  ProtocolVersion.v6_0,
);

const offer = fc
  .record({
    relid,
    classId: fc.constantFrom(DeviceClass.scsi.classId, DeviceClass.network.classId),
    subChannelIndex: fc.constantFrom(0, 0, 1, 2),
    monitorAllocated: fc.boolean(),
    monitorId: fc.constantFrom(0, 127, 128, 255),
    dedicatedInterrupt: fc.boolean(),
  })
  .map((fields) => OfferChannel.emit(offerOf(fields.relid, fields)));

const response = fc
  .record({
    supported: fc.boolean(),
    connectionState: fc.constantFrom(0, 0, 1, 255),
    selectedVersionOrConnectionId: fc.nat(),
    features: fc.nat(),
    parentToChildMonitorGpa: fc.constant(0),
    childToParentMonitorGpa: fc.constantFrom(0, PAGE_SIZE, 3, 2 ** 52),
    version: fc.constantFrom(ProtocolVersion.v6_0, ProtocolVersion.v5_3, ProtocolVersion.v1_1),
  })
  .map(({ version, ...fields }) => VersionResponse.emit(fields, version));

/** Well-formed messages about things that exist or might. */
const plausible = fc.oneof(
  response,
  offer,
  relid.map((id) => RescindChannelOffer.emit({ relid: id })),
  fc.constant(AllOffersDelivered.emit({})),
  fc
    .record({ relid, status })
    .map((fields) => OpenChannelResult.emit({ ...fields, openId: fields.relid })),
  fc.record({ relid, openId: relid, status }).map((fields) => OpenChannelResult.emit(fields)),
  fc.record({ relid, gpadlId, status }).map((fields) => GpadlCreated.emit(fields)),
  gpadlId.map((id) => GpadlTorndown.emit({ gpadlId: id })),
  fc.record({ relid, status }).map((fields) => ModifyChannelResponse.emit(fields)),
  relid.map((id) => CloseReservedResponse.emit({ relid: id })),
  fc.constant(UnloadResponse.emit({})),
);

/** Any bytes behind a message type that exists or nearly. */
const garbled = fc
  .record({
    type: fc.integer({ min: 0, max: 31 }),
    body: fc.uint8Array({ maxLength: MESSAGE_PAYLOAD_MAX - MessageHeader.SIZE }),
  })
  .map(({ type, body }) => {
    const bytes = new Uint8Array(MessageHeader.SIZE + body.byteLength);
    MessageHeader.write(bytes, { type });
    bytes.set(body, MessageHeader.SIZE);
    return bytes;
  });

type Action =
  | { readonly kind: "message"; readonly bytes: Uint8Array }
  /** The whole slot, whatever is in it. */
  | { readonly kind: "slot"; readonly bytes: Uint8Array }
  /** The answer to a request that the guest made, out of order. */
  | { readonly kind: "answer"; readonly index: number; readonly status: number }
  | { readonly kind: "guest"; readonly call: GuestCall; readonly index: number }
  /** What the next posts come to. */
  | { readonly kind: "posts"; readonly statuses: readonly HypercallStatus[] }
  | { readonly kind: "time"; readonly ms: number };

const guestCall = fc.oneof(
  { weight: 2, arbitrary: fc.constant("connect" as const) },
  { weight: 2, arbitrary: fc.constant("requestOffers" as const) },
  { weight: 1, arbitrary: fc.constant("unload" as const) },
  {
    weight: 20,
    arbitrary: fc.constantFrom(
      ...(["prepare", "open", "move", "close", "createGpadl", "tearDownGpadl"] as const),
    ),
  },
);
type GuestCall = typeof guestCall extends fc.Arbitrary<infer Call> ? Call : never;

const action: fc.Arbitrary<Action> = fc.oneof(
  { weight: 4, arbitrary: plausible.map((bytes) => ({ kind: "message", bytes }) as const) },
  { weight: 1, arbitrary: garbled.map((bytes) => ({ kind: "message", bytes }) as const) },
  {
    weight: 1,
    arbitrary: fc
      .record({
        bytes: fc.uint8Array({ minLength: MessageSlot.SIZE, maxLength: MessageSlot.SIZE }),
        channel: fc.boolean(),
      })
      .map(({ bytes, channel }) => {
        if (channel) bytes.set([SynicMessageType.channel, 0, 0, 0]);
        return { kind: "slot", bytes } as const;
      }),
  },
  {
    weight: 10,
    arbitrary: fc.record({ kind: fc.constant("answer" as const), index: fc.nat(3), status }),
  },
  {
    weight: 10,
    arbitrary: fc.record({
      kind: fc.constant("guest" as const),
      call: guestCall,
      index: fc.nat(7),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant("posts" as const),
      statuses: fc.array(
        fc.constantFrom(
          HypercallStatus.success,
          HypercallStatus.insufficientBuffers,
          HypercallStatus.invalidConnectionId,
          HypercallStatus.accessDenied,
        ),
        { maxLength: 6 },
      ),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant("time" as const),
      ms: fc.constantFrom(0.001, 1, 30_000, 100_000),
    }),
  },
);

/** What a host says to a message, as far as it says anything. */
function answerTo(request: Uint8Array, result: number): Uint8Array[] {
  switch (MessageHeader.parse(request)!.type) {
    case MessageType.initiateContact:
      return [CONNECTED];
    case MessageType.requestOffers:
      return [
        OfferChannel.emit(offerOf(1)),
        OfferChannel.emit(offerOf(2, { classId: DeviceClass.network.classId })),
        AllOffersDelivered.emit({}),
      ];
    case MessageType.openChannel: {
      const { relid: id, openId } = OpenChannel.parse(request, 0)!;
      const sub = OfferChannel.emit(offerOf(3, { subChannelIndex: 1 }));
      return [OpenChannelResult.emit({ relid: id, openId, status: result }), sub];
    }
    case MessageType.gpadlHeader: {
      const { relid: id, gpadlId: gpadl } = GpadlHeader.parse(request)!;
      return [GpadlCreated.emit({ relid: id, gpadlId: gpadl, status: result })];
    }
    case MessageType.gpadlTeardown:
      return [GpadlTorndown.emit({ gpadlId: GpadlTeardown.parse(request)!.gpadlId })];
    case MessageType.modifyChannel:
      return [
        ModifyChannelResponse.emit({ relid: ModifyChannel.parse(request)!.relid, status: result }),
      ];
    case MessageType.unload:
      return [UnloadResponse.emit({})];
    default:
      return [];
  }
}

/** Whether a promise has settled; what it settled with does not matter here. */
interface Watched {
  readonly what: string;
  /** True if it must settle when all channels are rescinded, without a millisecond passing. */
  readonly wokenByRescind: boolean;
  settled: boolean;
}

const silent: ChannelHandler = {
  packet: () => undefined,
  batchEnd: () => undefined,
  spaceArrived: () => undefined,
  closed: () => undefined,
};

/** A guest that does anything at any time, as drivers may, and remembers what it waits for. */
class AnyGuest {
  readonly machine: TestCpu;
  readonly bus: Vmbus;
  readonly waits: Watched[] = [];
  readonly statuses: HypercallStatus[] = [];
  /** Messages of the guest's that were not answered yet. */
  readonly #requests: Uint8Array[] = [];
  readonly #channels: OfferedChannel[] = [];
  readonly #prepared: {
    readonly channel: OfferedChannel;
    readonly description: ChannelDescription;
  }[] = [];
  readonly #gpadls: { readonly channel: OfferedChannel; readonly gpadl: Gpadl }[] = [];
  /** Errors that are not an expected outcome: they would have been thrown through the process. */
  readonly bugs: unknown[] = [];

  constructor() {
    this.machine = startCpu({ pages: MEMORY_PAGES });
    const { cpu, hypervisor } = this.machine;
    hypervisor.posted = (_connectionId, bytes) => {
      const posted = this.statuses.shift() ?? HypercallStatus.success;
      if (posted === HypercallStatus.success) this.#requests.push(bytes);
      return posted;
    };
    this.bus = new Vmbus({ cpu, hypervisor });
    this.bus.onDevice((device) => {
      this.#channels.push(device);
      device.onSubChannel((channel) => this.#channels.push(channel));
    });
  }

  act(action: Action): void {
    const { hypervisor, timers } = this.machine;
    switch (action.kind) {
      case "message":
        hypervisor.send(action.bytes);
        break;
      case "slot":
        this.machine.memory.bytes.set(action.bytes, hypervisor.slot);
        hypervisor.interruptPending = true;
        break;
      case "answer": {
        const [request] = this.#requests.splice(action.index, 1);
        if (request !== undefined) hypervisor.send(...answerTo(request, action.status));
        break;
      }
      case "guest":
        this.#call(action.call, action.index);
        break;
      case "posts":
        this.statuses.push(...action.statuses);
        break;
      case "time":
        timers.advance(action.ms);
        break;
    }
  }

  async settle(): Promise<void> {
    for (let quiet = 0; quiet < 12; quiet++) {
      while (runCpu(this.machine)) quiet = 0;
      await Promise.resolve();
    }
  }

  /** Gives back everything that the guest still holds. */
  closeAll(): void {
    for (const { channel, description } of this.#prepared.splice(0)) {
      this.machine.cpu.unbindChannel(description);
      this.#watch("close", channel.closeChannel(description), false);
    }
    for (const { channel, gpadl } of this.#gpadls.splice(0))
      this.#watch("tearDownGpadl", channel.tearDownGpadl(gpadl), false);
  }

  #watch<T>(
    what: string,
    promise: Promise<T>,
    wokenByRescind: boolean,
    then?: (value: T) => void,
  ): void {
    const watched: Watched = { what, wokenByRescind, settled: false };
    this.waits.push(watched);
    promise.then(
      (value) => {
        watched.settled = true;
        then?.(value);
      },
      (error: unknown) => {
        watched.settled = true;
        if (!(error instanceof Error && "code" in error)) this.bugs.push(error);
      },
    );
  }

  #call(call: GuestCall, index: number): void {
    const channel = this.#channels[index % this.#channels.length];
    const prepared = this.#prepared[index % this.#prepared.length];
    switch (call) {
      case "connect":
        if (this.bus.inspect().state === "disconnected")
          this.#watch(call, this.bus.connect(), false);
        break;
      case "requestOffers":
        this.#watch(call, this.bus.requestOffers(), false);
        break;
      case "unload":
        this.#watch(call, this.bus.unload(), false);
        break;
      case "prepare":
        if (channel === undefined || this.#busy.has(channel)) break;
        this.#prepare(channel);
        break;
      case "open":
        if (prepared === undefined) break;
        this.#watch(call, prepared.channel.openChannel(prepared.description), true);
        break;
      case "move":
        if (prepared === undefined) break;
        this.#watch(call, prepared.channel.moveChannel(prepared.description, 0), true);
        break;
      case "close":
        if (prepared === undefined) break;
        this.#prepared.splice(this.#prepared.indexOf(prepared), 1);
        this.machine.cpu.unbindChannel(prepared.description);
        this.#watch(call, prepared.channel.closeChannel(prepared.description), false, () =>
          this.#busy.delete(prepared.channel),
        );
        break;
      case "createGpadl":
        if (channel === undefined) break;
        this.#watch(call, channel.createGpadl(1 + (index % 3)), true, (gpadl) =>
          this.#gpadls.push({ channel, gpadl }),
        );
        break;
      case "tearDownGpadl": {
        const [held] = this.#gpadls.splice(index, 1);
        if (held === undefined) break;
        this.#watch(call, held.channel.tearDownGpadl(held.gpadl), false);
        break;
      }
    }
  }

  /** Channels that are prepared or about to be: preparing one twice is a mistake of the caller's. */
  readonly #busy = new Set<OfferedChannel>();

  #prepare(channel: OfferedChannel): void {
    this.#busy.add(channel);
    const preparing = channel.prepareChannel({ outgoingPages: 2, incomingPages: 2, cpu: 0 });
    preparing.catch(() => this.#busy.delete(channel));
    this.#watch("prepare", preparing, true, (description) => {
      this.#prepared.push({ channel, description });
      // A relid that another channel has been given meanwhile stays with the one that bound it.
      try {
        this.machine.cpu.bindChannel(description, silent);
      } catch {
        return;
      }
    });
  }
}

describe("a hostile host", () => {
  test(
    "cannot make the guest throw, wait for ever, or lose or reuse a page",
    { timeout: 120_000 },
    async () => {
      await fc.assert(
        fc.asyncProperty(
          fc.array(action, { minLength: 1, maxLength: 200, size: "max" }),
          async (actions) => {
            const guest = new AnyGuest();
            const { bus, machine, waits } = guest;
            const { allocator, hypervisor, timers } = machine;
            const total = allocator.freePages;
            // Most runs shall get further than a wrong first word.
            guest.act({ kind: "guest", call: "connect", index: 0 });
            hypervisor.send(CONNECTED);
            for (const next of actions) {
              guest.act(next);
              await guest.settle();
              expect(guest.bugs).toEqual([]);
            }

            // Whatever waits on a channel wakes when the channel is rescinded, at once.
            guest.statuses.length = 0;
            for (const { relid: id } of bus.inspect().channels)
              hypervisor.send(RescindChannelOffer.emit({ relid: id }));
            await guest.settle();
            expect(hypervisor.backlog).toBe(0);
            expect(waits.filter((wait) => wait.wokenByRescind && !wait.settled)).toEqual([]);

            // The guest gives everything back and leaves; the host never says a word again.
            guest.closeAll();
            guest.act({ kind: "guest", call: "unload", index: 0 });
            await guest.settle();
            timers.advance(LONG_MS);
            await guest.settle();
            expect(waits.filter((wait) => !wait.settled)).toEqual([]);
            expect(timers.pending).toBe(0);
            expect(guest.bugs).toEqual([]);
            expect(allocator.freePages + allocator.leakedPages).toBe(total);
            expect(structuredClone(bus.inspect())).toEqual(bus.inspect());
          },
        ),
        { numRuns: 400 },
      );
    },
  );

  test("finds no byte of a message beyond its announced end", () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ minLength: MessageSlot.SIZE, maxLength: MessageSlot.SIZE }),
        (slot) => {
          const machine = startCpu();
          slot.set([SynicMessageType.channel, 0, 0, 0]);
          let received: Uint8Array | undefined;
          machine.cpu.setMessageHandler((bytes) => (received = bytes));
          machine.memory.bytes.set(slot, machine.hypervisor.slot);
          machine.cpu.interrupt();
          const size = slot[4]!;
          if (size > MESSAGE_PAYLOAD_MAX) expect(received).toBeUndefined();
          else expect([...received!]).toEqual([...slot.subarray(16, 16 + size)]);
          expect(machine.memory.words[machine.hypervisor.slot! >>> 2]).toBe(0);
        },
      ),
    );
  });
});
