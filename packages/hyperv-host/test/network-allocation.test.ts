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
import { CaptureFile } from "../src/node/index.js";
import { build, type Packet } from "./frame-model.js";
import { NicRig, infoOf } from "./nic-rig.js";
import { macOf } from "./switch-rig.js";
import { leastGarbage } from "../../../tools/garbage.js";

const BATCHES = 500;
/** Frames in each of them. */
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

test.each([
  ["frames with their checksums", false, false],
  ["super-frames that are cut", true, false],
  ["super-frames that are captured", true, true],
])(
  "from one guest through the switch to another nothing is left on the heap: %s",
  (_name, isLarge, isCaptured) => {
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
    const captures = isCaptured
      ? [sender, receiver].map(
          ({ adapter }) =>
            new CaptureFile(adapter.port, timers, { path: "/dev/null", name: "hn0" }),
        )
      : [];
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
    let sent = 0;
    const sendBatch = (): void => {
      sent += BATCH;
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
    };
    const least = leastGarbage(
      BATCHES * BATCH,
      () => {
        for (let batch = 0; batch < BATCHES; batch++) sendBatch();
      },
      4,
    );
    expect(received).toBe(sent * (isLarge ? 4 : 1));
    for (const capture of captures) capture.close();
    if (isCaptured) expect(captures.map(({ frames }) => frames)).toEqual([sent, received]);
    expect(receiver.adapter.stats().receiveSlotsBusy).toBe(0);
    expect([sender.violations, receiver.violations]).toEqual([[], []]);
    expect(least).toBeLessThan(4);
  },
);
