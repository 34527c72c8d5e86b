import { expect, test } from "vitest";
import { GpaRanges, GuestMemory, PageAllocator, type ChannelHandler } from "@hyperv-is/vmbus-core";
import { DeviceClass, PAGE_SIZE, type GpaRange } from "@hyperv-is/vmbus-core/protocol";
import {
  VirtualTimers,
  connectedChannels,
  type ConnectedChannels,
} from "@hyperv-is/vmbus-core/testing";
import { TransmitOffload, attachOverChannel, type NetvscInterface } from "@hyperv-is/hv-netvsc";
import { PacketFilter, nvspVersions } from "@hyperv-is/hv-netvsc/protocol";
import {
  FaultPlan,
  NetworkAdapter,
  VirtualSwitch,
  networkAdapterId,
  type Guid,
} from "@hyperv-is/hyperv-host";

const MEMORY_BYTES = 8 << 20;
const ARENA = 1 << 20;

/** A guest with our driver, whose adapter is at a port of the switch. */
class Guest {
  readonly memory = new GuestMemory(new ArrayBuffer(MEMORY_BYTES));
  readonly allocator = new PageAllocator(this.memory, ARENA, MEMORY_BYTES - ARENA);
  readonly violations: string[] = [];
  readonly frames: Uint8Array[] = [];
  readonly adapter: NetworkAdapter;
  readonly instanceId: Guid;
  pair: ConnectedChannels | undefined;
  hn!: NetvscInterface;
  readonly #timers: VirtualTimers;
  readonly #faults: FaultPlan;
  readonly #shared = new Map<number, GpaRange>();

  constructor(number: number, network: VirtualSwitch, timers: VirtualTimers) {
    this.#timers = timers;
    this.#faults = FaultPlan.none(timers);
    this.instanceId = networkAdapterId(number);
    const mac = Uint8Array.of(0x00, 0x15, 0x5d, 0x0a, 0x01, number);
    this.adapter = new NetworkAdapter(
      { instanceId: this.instanceId, mac, switch: "lan" },
      network,
      timers,
    );
  }

  async attach(version: number): Promise<void> {
    this.hn = await attachOverChannel(
      {
        memory: this.memory,
        allocator: this.allocator,
        timers: this.#timers,
        connect: (left) => this.#connect(left),
        close: () => this.pair?.right.close(),
        share: (address, lengthBytes) => {
          const id = this.#shared.size + 1;
          const first = address / PAGE_SIZE;
          const pfns = Array.from({ length: lengthBytes / PAGE_SIZE }, (_, index) => first + index);
          this.#shared.set(id, { byteOffset: 0, byteCount: lengthBytes, pfns });
          return id;
        },
      },
      { versions: [version], receiveBufferBytes: 1 << 20, sendBufferBytes: 1 << 20 },
    );
    await this.hn.setFilter(PacketFilter.directed | PacketFilter.broadcast);
    this.hn.port.user = {
      received: (arrived) => {
        const bytes: number[] = [];
        for (let run = 0; run < arrived.runs; run++)
          bytes.push(...this.memory.copyOut(arrived.runAddress(run), arrived.runLength(run)));
        this.frames.push(Uint8Array.from(bytes));
        this.hn.port.release(arrived.ticket);
      },
      batchEnd: () => undefined,
      transmitted: () => undefined,
      transmitReady: () => undefined,
      closed: () => undefined,
    };
  }

  send(frame: Uint8Array, offload = new TransmitOffload()): void {
    const pages = Math.ceil(frame.length / PAGE_SIZE);
    const address = this.allocator.allocate(pages)!;
    this.memory.bytes.set(frame, address);
    const list = new GpaRanges(this.memory);
    list.add(address, frame.length);
    this.hn.port.transmit(list, offload, 0);
    this.hn.port.flush();
  }

  #connect(left: ChannelHandler) {
    const handler = this.adapter.open(
      {
        key: 1,
        relid: 1,
        classId: DeviceClass.network.classId,
        instanceId: this.instanceId,
        subChannelIndex: 0,
        version: 0x0005_0003,
        features: 0,
        ringGpadlId: 99,
        ringPages: [],
        downstreamPageOffset: 17,
        interrupt: undefined,
        userData: new Uint8Array(120),
      },
      {
        memory: this.memory,
        timers: this.#timers,
        faults: this.#faults,
        gpadl: (id) => {
          const range = this.#shared.get(id);
          return range && [range];
        },
        schedule: () => void this.pair?.right.poll(1000),
        offerSubChannels: () => undefined,
        rescind: () => undefined,
        violation: (rule, detail) => void this.violations.push(`${rule}: ${detail}`),
      },
    );
    if (typeof handler === "number") throw new Error("refused");
    this.pair = connectedChannels({ memory: this.memory, left, right: handler });
    handler.opened(this.pair.right);
    return this.pair.left;
  }
}

test.each(nvspVersions.map(({ name, value }) => [name, value] as const))(
  "our driver and our host: frames between two guests by version %s",
  async (_name, version) => {
    const timers = new VirtualTimers();
    const network = new VirtualSwitch({ timers });
    const guests = [1, 2].map((number) => new Guest(number, network, timers));
    const [a, b] = guests as [Guest, Guest];
    const run = (): void => {
      for (let round = 0; round < 4; round++) for (const { pair } of guests) pair?.run();
    };
    const during = async <T>(work: Promise<T>): Promise<T> => {
      const state = { isDone: false };
      const done = work.finally(() => (state.isDone = true));
      done.catch(() => undefined);
      for (let turn = 0; turn < 10_000 && !state.isDone; turn++) {
        run();
        await new Promise((resolve) => setImmediate(resolve));
        timers.advance(1);
      }
      return done;
    };
    for (const guest of guests) await during(guest.attach(version));
    const frame = (to: number, from: number, length: number): Uint8Array => {
      const bytes = new Uint8Array(length).fill(length & 0xff, 14);
      bytes.set([0, 0x15, 0x5d, 0x0a, 1, to, 0, 0x15, 0x5d, 0x0a, 1, from, 0x88, 0xb5]);
      return bytes;
    };
    const sent = [60, 100, 900, 1514].map((length) => frame(2, 1, length));
    for (const bytes of sent) a.send(bytes);
    b.send(frame(1, 2, 77));
    run();
    expect(b.frames.map((bytes) => [...bytes])).toEqual(sent.map((bytes) => [...bytes]));
    expect(a.frames).toHaveLength(1);
    expect([a.violations, b.violations]).toEqual([[], []]);
    expect([a.hn.mtu, a.hn.link.up]).toEqual([1500, true]);
    b.adapter.port.setLink(false);
    await during(new Promise((resolve) => timers.after(50, () => resolve(undefined))));
    expect([a.hn.link.up, b.hn.link.up]).toEqual([true, false]);
    await during(a.hn.setMtu(3000));
    expect(a.hn.mtu).toBe(version === 2 ? 1500 : 3000);
    for (const { hn } of guests) await during(hn.detach());
    expect([a.violations, b.violations]).toEqual([[], []]);
    for (const { adapter } of guests)
      expect(adapter.stats()).toMatchObject({ receiveSlotsBusy: 0, version: null });
  },
);
