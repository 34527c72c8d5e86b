import { GpaRanges, type Channel } from "@hyperv-is/vmbus-core";
import { PacketType } from "@hyperv-is/vmbus-core/protocol";
import { expect, test } from "vitest";
import { leastGarbage } from "../../../tools/garbage.js";
import { TransmitOffload, TransmitResult, type EthernetUser } from "../src/index.js";
import * as protocol from "../src/protocol/index.js";
import { Rig } from "./rig.js";
import { packetMessage } from "./scripted-host.js";

const FRAMES = 20_000;
const BATCH = 64;

async function rigWithQuietHost() {
  const rig = new Rig();
  const hn = await rig.attach({ mtu: 9000, descriptors: 128 });
  const { left, right } = rig.pair(0);
  const words = Int32Array.of(
    protocol.NvspType.sendRndisPacketComplete,
    protocol.NvspStatus.success,
  );
  let completions = 0;
  // The host of this test makes no garbage itself: it answers by ids alone.
  rig.adapter.primary.packet = (channel: Channel) => {
    const { incoming, outgoing } = channel;
    if (incoming.type === PacketType.completion) {
      completions++;
      return;
    }
    channel.begin(PacketType.completion, 0, 16, 24, incoming.idLow, incoming.idHigh);
    outgoing.putWords(words, 0, 2);
    outgoing.end();
  };
  const turn = (): void => {
    right.poll(1_000);
    left.poll(1_000);
  };
  return { rig, hn, turn, right, completed: () => completions };
}

class Quiet implements EthernetUser {
  returned = 0;
  received(): void {
    throw new Error("nothing is received here");
  }
  batchEnd(): void {
    // Nothing is put together here.
  }
  transmitted(): void {
    this.returned++;
  }
  transmitReady(): void {
    throw new Error("there is room all the time");
  }
  closed(): void {
    // The test is over.
  }
}

test.each([
  ["copied", 60, TransmitResult.copied],
  ["lent", 9_000, TransmitResult.lent],
])("frames that are %s are sent without garbage", async (_, bytes, result) => {
  const { rig, hn, turn } = await rigWithQuietHost();
  const { port } = hn;
  const user = new Quiet();
  port.user = user;
  const list = new GpaRanges(rig.memory);
  list.add(rig.arenas[0]!.allocate(4)! + 100, bytes);
  const offload = new TransmitOffload();
  offload.checksum = protocol.TransmitChecksum.ipv4 | protocol.TransmitChecksum.tcp;
  offload.headerOffset = 34;
  offload.vlanTag = 5;
  offload.hasHash = true;
  offload.hashValue = -7;
  let wrong = 0;
  const least = leastGarbage(FRAMES, () => {
    for (let sent = 0; sent < FRAMES; sent += BATCH) {
      for (let index = 0; index < BATCH; index++)
        if (port.transmit(list, offload, index) !== result) wrong++;
      port.flush();
      turn();
    }
  });
  expect(wrong).toBe(0);
  expect(port.outstanding).toBe(0);
  expect(least).toBeLessThan(1);
});

test("frames are received without garbage", async () => {
  const { rig, hn, turn, right, completed } = await rigWithQuietHost();
  const { port } = hn;
  let bytes = 0;
  port.user = Object.assign(new Quiet(), {
    received(frame: { ticket: number; lengthBytes: number }): void {
      bytes += frame.lengthBytes;
      port.release(frame.ticket);
    },
  });
  const info = {
    parts:
      protocol.FrameInfoPart.checksum |
      protocol.FrameInfoPart.hashInfo |
      protocol.FrameInfoPart.hashValue,
    checksum: 0x28,
    hashInfo: 0x201,
    hashValue: -5,
  };
  const { address } = rig.adapter.receiveBuffer!;
  rig.memory.bytes.set(packetMessage(new Uint8Array(1_400).fill(3), info), address + 17 * 1806);
  // Header of a transfer-page packet with one range, and the NVSP message.
  const words = Int32Array.of(0xcafe, 1, 1806, 17 * 1806, 107, 0, -1, 0);
  let sent = 0;
  const least = leastGarbage(FRAMES, () => {
    for (let count = 0; count < FRAMES; count += BATCH) {
      for (let index = 0; index < BATCH; index++) {
        right.begin(PacketType.transferPages, 1, 32, 48, sent++ & 0xff, 0);
        right.outgoing.putWords(words, 0, 8);
        right.outgoing.end();
      }
      right.flush();
      turn();
    }
    right.poll(1_000);
  });
  expect(completed()).toBe(sent);
  expect(bytes).toBe(sent * 1_400);
  expect(least).toBeLessThan(1);
});
