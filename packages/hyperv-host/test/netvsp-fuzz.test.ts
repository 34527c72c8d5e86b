import fc from "fast-check";
import { expect, test } from "vitest";
import { PacketType } from "@hyperv-is/vmbus-core/protocol";
import { FrameInfoPart, largeSend, put32, transmitChecksum } from "@hyperv-is/hv-netvsc/protocol";
import { build, packets, transportAt } from "./frame-model.js";
import { NicRig, infoOf } from "./nic-rig.js";
import { TestEnd, macOf } from "./switch-rig.js";

/** A rig whose guest has a frame with the host's receive slots, and an end behind another port. */
function rigWithPeer(): NicRig {
  const rig = new NicRig();
  rig.attach();
  rig.network.connect(new TestEnd(), { name: "peer", kind: "guest", mac: macOf(2) });
  return rig;
}

test("damaged RNDIS messages end in a completion, or in the end of the channel, and nothing else", () => {
  let rig = rigWithPeer();
  const damage = fc.tuple(fc.nat(120), fc.oneof(fc.nat(0x200), fc.nat(0xffff_ffff)));
  fc.assert(
    fc.property(
      packets({ payload: 400 }),
      fc.array(damage, { minLength: 1, maxLength: 4 }),
      fc.constantFrom("section" as const, "pages" as const, "mixed" as const),
      fc.boolean(),
      fc.integer(),
      (packet, damages, way, isLarge, value) => {
        const info = isLarge
          ? infoOf({
              parts: FrameInfoPart.largeSend | FrameInfoPart.vlan,
              largeSend: largeSend(100, transportAt(packet), packet.ipVersion === 6),
            })
          : infoOf({
              parts: FrameInfoPart.checksum | FrameInfoPart.vlan,
              checksum: transmitChecksum(value & 0x1f, transportAt(packet)),
            });
        const message = rig.message(build(packet, isLarge ? "lso" : "partial"), info);
        for (const [at, word] of damages) if (at + 4 <= message.length) put32(message, at, word);
        const before = rig.completions.length;
        const status = rig.transmit(message, way);
        if (rig.closedCode === undefined) {
          expect([1, 2]).toContain(status);
          expect(rig.completions.length).toBe(before + 1);
          return;
        }
        expect(rig.closedCode).toMatch(/^ERR_NETVSP_CONTROL_/);
        rig = rigWithPeer();
      },
    ),
    { numRuns: 1500 },
  );
});

test("any NVSP message, in any order, is answered or ends the channel", () => {
  const types = [1, 2, 100, 101, 103, 104, 106, 107, 108, 125, 129, 131, 133, 134, 200];
  const words = fc.oneof(
    fc.nat(8),
    fc.constantFrom(0xe1e10, 0xe1e11, 0xffff_ffff, 0x0005_0000, 0x0006_0001, 1514),
    fc.nat(0xffff_ffff),
  );
  const message = fc.record({
    type: fc.constantFrom(...types),
    rest: fc.array(words, { maxLength: 9 }),
    flags: fc.constantFrom(1, 1, 1, 0),
    kind: fc.constantFrom(PacketType.inBand, PacketType.inBand, PacketType.completion),
  });
  const seeds: number[][] = [[], [1, 0x0005_0000], [1, 0x0006_0001]];
  fc.assert(
    fc.property(
      fc.constantFrom(...seeds),
      fc.array(message, { maxLength: 12, size: "max" }),
      (start, messages) => {
        const rig = new NicRig();
        const send = (values: readonly number[], flags: number, type: number): void => {
          const bytes = new Uint8Array(values.length * 4);
          values.forEach((value, index) => put32(bytes, index * 4, value));
          rig.send(bytes, { flags, type });
        };
        if (start.length > 0) send([...start, ...Array<number>(6).fill(0)], 1, PacketType.inBand);
        for (const { type, rest, flags, kind } of messages) {
          if (rig.closedCode !== undefined) break;
          send([type, ...rest], kind === PacketType.completion ? 0 : flags, kind);
        }
        const { receiveSlotsBusy, receiveSlots } = rig.adapter.stats();
        expect(receiveSlotsBusy).toBeLessThanOrEqual(receiveSlots);
        if (rig.closedCode !== undefined) expect(rig.closedCode).toMatch(/^ERR_(NETVSP|RING)_/);
      },
    ),
    { numRuns: 500 },
  );
});
