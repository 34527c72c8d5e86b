import {
  SendResult,
  putGpaRange,
  gpaDirectHeaderBytes,
  type Channel,
  type ChannelHandler,
  type GuestMemory,
} from "@hyperv-is/vmbus-core";
import {
  PACKET_FLAG_COMPLETION_REQUESTED,
  PAGE_SIZE,
  PacketType,
} from "@hyperv-is/vmbus-core/protocol";
import type { ChannelPeer } from "./channel-peers.js";
import { Prng } from "./prng.js";
import { fail, same, type Case } from "./suite.js";

/** A channel whose near end is in this thread. */
export interface ConnectedEnd {
  readonly channel: Channel;
  /** At least 64 KiB of it, from `scratchAddress` on, belong to the suite. */
  readonly memory: GuestMemory;
  readonly scratchAddress: number;
  /** Lets both ends work until `done` is true; throws when that does not come. */
  until(done: () => boolean): Promise<void>;
  close(): Promise<void>;
}

/** What an implementation brings to be checked. */
export interface ChannelSetup {
  /** Connects rings of `ringPages` each (control page included) to a far end that behaves as `peer`. */
  connect(ringPages: number, peer: ChannelPeer, handler: ChannelHandler): Promise<ConnectedEnd>;
}

interface Arrival {
  readonly id: number;
  readonly payload: Uint8Array;
}

/** Keeps completions; takes them only while it is told to. */
class Collector implements ChannelHandler {
  readonly arrivals: Arrival[] = [];
  #resume: (() => void) | undefined;

  packet(channel: Channel): void {
    const { incoming } = channel;
    if (incoming.type !== PacketType.completion) fail(`a packet of type ${incoming.type} arrived`);
    this.arrivals.push({
      id: incoming.idHigh * 2 ** 32 + (incoming.idLow >>> 0),
      payload: incoming.copyOut(incoming.headerBytes, incoming.payloadBytes),
    });
  }

  batchEnd(): void {
    // The suite publishes by itself.
  }

  spaceArrived(): void {
    this.#resume?.();
  }

  closed(): void {
    this.#resume?.();
  }

  /** Sends one request, waiting for room as a driver would. */
  async send(end: ConnectedEnd, id: number, payload: Uint8Array): Promise<void> {
    const { channel } = end;
    const low = (id % 2 ** 32) | 0;
    const high = Math.floor(id / 2 ** 32);
    for (;;) {
      const bytes = 16 + payload.byteLength;
      const flags = PACKET_FLAG_COMPLETION_REQUESTED;
      const result = channel.begin(PacketType.inBand, flags, 16, bytes, low, high);
      if (result === SendResult.Corrupt) fail("the channel closed");
      if (result === SendResult.Ready) {
        channel.outgoing.putBytes(payload, 0, payload.byteLength);
        channel.outgoing.end();
        return;
      }
      let room = channel.waitForSpace(bytes);
      this.#resume = () => (room = true);
      await end.until(() => room);
    }
  }
}

const pattern = (length: number, seed: number): Uint8Array => {
  const prng = new Prng(seed);
  return Uint8Array.from({ length }, () => prng.next());
};

/** The padding that the ring adds belongs to what arrives. */
const padded = (payload: Uint8Array): number[] => {
  const whole = new Uint8Array((payload.byteLength + 7) & ~7);
  whole.set(payload);
  return [...whole];
};

async function echo(setup: ChannelSetup, ringPages: number, payloads: Uint8Array[]): Promise<void> {
  const collector = new Collector();
  const end = await setup.connect(ringPages, "echo", collector);
  try {
    for (const [index, payload] of payloads.entries()) {
      await collector.send(end, index + 1, payload);
      if (index % 7 === 0) end.channel.flush();
    }
    end.channel.flush();
    await end.until(() => collector.arrivals.length === payloads.length);
    for (const [index, arrival] of collector.arrivals.entries()) {
      same(arrival.id, index + 1, "transaction id");
      same([...arrival.payload], padded(payloads[index]!), `payload of packet ${index + 1}`);
    }
  } finally {
    await end.close();
  }
}

/** What every transport for channels must do, whatever carries it. */
export const channelSuite: readonly Case<ChannelSetup>[] = [
  {
    name: "payloads of every length from 0 to 256 arrive whole and in order",
    run: (setup) =>
      echo(
        setup,
        3,
        Array.from({ length: 257 }, (_, length) => pattern(length, length)),
      ),
  },
  {
    name: "a packet as large as the ring allows arrives whole, wherever it starts",
    run: (setup) => {
      const largest = PAGE_SIZE - 16 - 8 - 16;
      return echo(
        setup,
        2,
        Array.from({ length: 40 }, (_, index) =>
          pattern(index % 2 === 0 ? largest : 8 * index, index),
        ),
      );
    },
  },
  {
    name: "many packets through the smallest ring: none lost, none doubled",
    run: (setup) => {
      const prng = new Prng(7);
      return echo(
        setup,
        2,
        Array.from({ length: 3000 }, (_, index) => pattern(prng.below(600), index)),
      );
    },
  },
  {
    name: "transaction ids keep all their 64 bits that a number can hold",
    run: async (setup) => {
      const collector = new Collector();
      const end = await setup.connect(3, "echo", collector);
      const ids = [1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 2 ** 32, 2 ** 52 + 12_345];
      try {
        for (const id of ids) await collector.send(end, id, new Uint8Array(0));
        end.channel.flush();
        await end.until(() => collector.arrivals.length === ids.length);
        same(
          collector.arrivals.map(({ id }) => id),
          ids,
          "transaction ids",
        );
      } finally {
        await end.close();
      }
    },
  },
  {
    name: "a batch that is published at once costs one signal at most",
    run: async (setup) => {
      const collector = new Collector();
      const end = await setup.connect(5, "echo", collector);
      try {
        for (let round = 1; round <= 20; round++) {
          const before = end.channel.counters.signalsSent;
          for (let index = 0; index < 32; index++)
            await collector.send(end, round * 100 + index, pattern(40, index));
          end.channel.flush();
          await end.until(() => collector.arrivals.length === round * 32);
          const signals = end.channel.counters.signalsSent - before;
          if (signals > 1) fail(`${signals} signals for one batch`);
        }
      } finally {
        await end.close();
      }
    },
  },
  {
    name: "ranges of guest memory are read and written in place",
    run: async (setup) => {
      const collector = new Collector();
      const end = await setup.connect(3, "increment", collector);
      try {
        const { memory, scratchAddress, channel } = end;
        const shapes: [number, number][] = [
          [0, 1],
          [0, PAGE_SIZE],
          [100, 5000],
          [PAGE_SIZE - 1, 2],
          [17, 3 * PAGE_SIZE],
        ];
        for (const [index, [offset, length]] of shapes.entries()) {
          const before = pattern(5 * PAGE_SIZE, index);
          memory.bytes.set(before, scratchAddress);
          const address = scratchAddress + offset;
          const header = gpaDirectHeaderBytes(address, length);
          const flags = PACKET_FLAG_COMPLETION_REQUESTED;
          if (
            channel.begin(PacketType.gpaDirect, flags, header, header, index + 1, 0) !==
            SendResult.Ready
          )
            fail("no room for one packet");
          putGpaRange(channel.outgoing, address, length);
          channel.outgoing.end();
          channel.flush();
          await end.until(() => collector.arrivals.length === index + 1);
          for (let at = offset; at < offset + length; at++) before[at]!++;
          same([...memory.copyOut(scratchAddress, 5 * PAGE_SIZE)], [...before], `range ${index}`);
        }
      } finally {
        await end.close();
      }
    },
  },
  {
    name: "a closed end handles nothing more and sends nothing more",
    run: async (setup) => {
      const collector = new Collector();
      const end = await setup.connect(3, "echo", collector);
      await collector.send(end, 1, pattern(8, 1));
      end.channel.flush();
      await end.until(() => collector.arrivals.length === 1);
      end.channel.close();
      const result = end.channel.begin(PacketType.inBand, 0, 16, 24, 2, 0);
      same(result, SendResult.Corrupt, "begin on a closed channel");
      await end.close();
      same(collector.arrivals.length, 1, "arrivals");
    },
  },
];
