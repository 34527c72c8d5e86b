import { expect, test } from "vitest";
import { SendResult } from "@hyperv-is/vmbus-core";
import { PacketType } from "@hyperv-is/vmbus-core/protocol";
import {
  FrameInfoPart,
  NvspStatus,
  SECTION_INDEX_NONE,
  largeSend,
} from "@hyperv-is/hv-netvsc/protocol";
import { VirtualTimers } from "@hyperv-is/vmbus-core/testing";
import { VirtualSwitch } from "../src/index.js";
import { build, type Packet } from "./frame-model.js";
import { NicRig, infoOf } from "./nic-rig.js";
import { macOf } from "./switch-rig.js";

const ROUNDS = 500;
/** Until the engine has compiled what is measured. */
const WARM_UP_ROUNDS = 3_000;
/** Frames in each round. */
const BATCH = 8;
const DATA = 300 * 4096;

const packet: Packet = {
  ipVersion: 4,
  protocol: 6,
  ipOptions: 0,
  tcpOptions: 3,
  flags: 0x10,
  sequence: 7,
  identification: 1,
  payload: Array.from({ length: 1400 }, (_, index) => index & 0xff),
};

/** Bytes per round that are left on the heap; the least of several tries, as others allocate, too. */
function bytesPerRound(round: () => void): number {
  for (let number = 0; number < WARM_UP_ROUNDS; number++) round();
  let least = Infinity;
  for (let attempt = 0; attempt < 4; attempt++) {
    const before = process.memoryUsage().heapUsed;
    for (let number = 0; number < ROUNDS; number++) round();
    const grown = process.memoryUsage().heapUsed - before;
    // A negative difference means that garbage was collected: that try says nothing.
    if (grown >= 0) least = Math.min(least, grown / ROUNDS);
  }
  return least;
}

test.each([
  ["frames with their checksums", false],
  ["super-frames that are cut", true],
])(
  "from one guest through the switch to another nothing is left on the heap: %s",
  (_name, isLarge) => {
    const timers = new VirtualTimers();
    const network = new VirtualSwitch({ timers });
    const sender = new NicRig({ timers, network, mac: macOf(1) });
    const receiver = new NicRig({
      timers,
      network,
      mac: macOf(2),
      instanceId: "f8615163-0000-4000-8000-000000000002",
    });
    sender.attach();
    receiver.attach();
    const info = infoOf({ parts: FrameInfoPart.largeSend, largeSend: largeSend(400, 34, false) });
    const message = isLarge
      ? sender.message(build(packet, "lso"), info)
      : sender.message(build(packet));
    sender.memory.bytes.set(message, DATA);

    const [from, to] = [sender.pairs[0]!, receiver.pairs[0]!];
    let received = 0;
    /** The receiving guest, without what a rig keeps. */
    const drain = (): void => {
      const { incoming, outgoing } = to.left;
      while (incoming.next() === 1) {
        if (incoming.type === PacketType.transferPages) {
          received += incoming.u32(20);
          if (
            to.left.begin(PacketType.completion, 0, 16, 24, incoming.idLow, 0) !== SendResult.Ready
          )
            throw new Error("no room for a completion");
          outgoing.putU32(108);
          outgoing.putU32(NvspStatus.success);
          outgoing.end();
        }
        incoming.release();
      }
      incoming.commit();
      outgoing.publish();
      to.right.poll(1000);
    };
    const page = DATA / 4096;
    const least = bytesPerRound(() => {
      const { left } = from;
      for (let number = 0; number < BATCH; number++) {
        const result = left.begin(PacketType.gpaDirect, 1, 40, 80, number, 0);
        if (result !== SendResult.Ready) throw new Error("no room for a send");
        const { outgoing } = left;
        outgoing.putU32(0);
        outgoing.putU32(1);
        outgoing.putU32(message.length);
        outgoing.putU32(0);
        outgoing.putU32(page);
        outgoing.putU32(0);
        outgoing.putU32(107);
        outgoing.putU32(0);
        outgoing.putU32(SECTION_INDEX_NONE | 0);
        for (let word = 3; word < 10; word++) outgoing.putU32(0);
        outgoing.end();
      }
      left.outgoing.publish();
      from.right.poll(1000);
      while (left.incoming.next() === 1) left.incoming.release();
      left.incoming.commit();
      drain();
    });
    expect(received).toBe((WARM_UP_ROUNDS + 4 * ROUNDS) * BATCH * (isLarge ? 4 : 1));
    expect(receiver.adapter.stats().receiveSlotsBusy).toBe(0);
    expect([sender.violations, receiver.violations]).toEqual([[], []]);
    expect(least / BATCH).toBeLessThan(4);
  },
);
