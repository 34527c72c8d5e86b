import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Fault, Guid } from "../src/index.js";
import { NO_VLAN_TAG, type Frame } from "../src/switch/frame.js";
import { formatMac, parseMac } from "../src/switch/mac-address.js";
import { MacTable } from "../src/switch/mac-table.js";
import { setPartialChecksum, verifyTransport } from "../src/switch/checksum-offload.js";
import { setSuperFrame } from "../src/switch/segmentation.js";
import type { VlanMode } from "../src/switch/switch-port.js";
import {
  build,
  expectBytes,
  expectFrames,
  frameOf,
  segments,
  transportAt,
  type Packet,
} from "./frame-model.js";
import { SwitchRig, all, allOffloads, macOf, plainFrame } from "./switch-rig.js";

const outsider = macOf(200);
const group = Uint8Array.of(0x01, 0, 0x5e, 0, 0, 18);

function send(rig: SwitchRig, from: number, bytes: Uint8Array): void {
  rig.ports[from]!.send(frameOf(bytes));
  rig.switch.flush();
}

describe("a virtual switch", () => {
  test("sends to the port of an assigned address, and to nobody else", () => {
    const rig = new SwitchRig();
    for (let port = 0; port < 3; port++) rig.port();
    rig.port({ kind: "external" });
    send(rig, 0, plainFrame(macOf(2), macOf(0)));
    expect(rig.take()).toEqual([0, 0, 1, 0]);
    expect(rig.ends.map(({ flushes }) => flushes)).toEqual([0, 0, 1, 0]);
  });

  test("sends to all what goes to all or to a group, but not back", () => {
    const rig = new SwitchRig();
    for (let port = 0; port < 3; port++) rig.port();
    send(rig, 1, plainFrame(all, macOf(1)));
    expect(rig.take()).toEqual([1, 0, 1]);
    send(rig, 1, plainFrame(group, macOf(1)));
    expect(rig.take()).toEqual([1, 0, 1]);
    send(rig, 1, plainFrame(macOf(1), macOf(1)));
    expect(rig.take()).toEqual([0, 0, 0]);
  });

  test("sends what goes to an unknown address to external ports, and those that may have any", () => {
    const rig = new SwitchRig();
    rig.port();
    rig.port();
    rig.port({ allowMacSpoofing: true });
    rig.port({ kind: "external" });
    send(rig, 0, plainFrame(outsider, macOf(0)));
    expect(rig.take()).toEqual([0, 0, 1, 1]);
    send(rig, 3, plainFrame(macOf(99), outsider));
    expect(rig.take()).toEqual([0, 0, 1, 0]);
    expect(rig.switch.floods).toBe(2);
  });

  test("drops what a guest sends from another address, silently", () => {
    const rig = new SwitchRig();
    rig.port();
    rig.port();
    send(rig, 0, plainFrame(all, outsider));
    expect(rig.take()).toEqual([0, 0]);
    expect(rig.ports[0]!.counters).toMatchObject({ framesSent: 1, droppedSpoofed: 1 });
  });

  test("learns addresses where spoofing is on, moves them along, and forgets them in time", () => {
    const rig = new SwitchRig();
    const virtual = Uint8Array.of(0, 0, 0x5e, 0, 1, 42);
    rig.port();
    rig.port({ allowMacSpoofing: true });
    rig.port({ allowMacSpoofing: true });
    send(rig, 1, plainFrame(group, virtual));
    rig.take();
    const ask = (): number[] => {
      send(rig, 0, plainFrame(virtual, macOf(0)));
      return rig.take();
    };
    expect(ask()).toEqual([0, 1, 0]);
    send(rig, 2, plainFrame(group, virtual));
    rig.take();
    expect(ask()).toEqual([0, 0, 1]);
    rig.timers.advance(300_001);
    expect(ask()).toEqual([0, 1, 1]);
    send(rig, 2, plainFrame(group, virtual));
    rig.take();
    rig.ports[2]!.allowMacSpoofing = false;
    expect(ask()).toEqual([0, 1, 0]);
    send(rig, 2, plainFrame(group, virtual));
    expect(rig.take()).toEqual([0, 0, 0]);
  });

  test("does not believe that an assigned address is elsewhere", () => {
    const rig = new SwitchRig();
    rig.port();
    rig.port();
    rig.port({ kind: "external" });
    send(rig, 2, plainFrame(all, macOf(1)));
    rig.take();
    send(rig, 0, plainFrame(macOf(1), macOf(0)));
    expect(rig.take()).toEqual([0, 1, 0]);
  });

  test("does not keep what was learned at a port that is gone", () => {
    const rig = new SwitchRig();
    rig.port();
    rig.port({ kind: "external" });
    rig.port({ kind: "external" });
    send(rig, 1, plainFrame(all, outsider));
    rig.take();
    rig.ports[1]!.close();
    // Takes the number of the one that is gone.
    rig.port({ kind: "external" });
    send(rig, 0, plainFrame(outsider, macOf(0)));
    expect(rig.take()).toEqual([0, 0, 1, 1]);
  });

  test("gives an assigned address to one port, and takes it back", () => {
    const rig = new SwitchRig();
    rig.port();
    expect(() => rig.port({ mac: macOf(0) })).toThrow(RangeError);
    rig.ports[0]!.close();
    rig.ends.pop();
    expect(rig.switch.ports).toEqual([]);
    expect(rig.port({ mac: macOf(0) })).toBe(1);
    expect(() => rig.port({ mac: group })).toThrow("none of one station");
    expect(() => rig.switch.connect(rig.ends[0]!, { name: "x", kind: "guest" })).toThrow(
      "has no address",
    );
  });

  test("drops what is no frame", () => {
    const rig = new SwitchRig();
    rig.port();
    send(rig, 0, plainFrame(all, macOf(0)).subarray(0, 13));
    expect(rig.ports[0]!.counters.droppedShort).toBe(1);
  });

  test("counts what has no room", () => {
    const rig = new SwitchRig();
    rig.port();
    rig.port();
    rig.ends[1]!.hasRoom = false;
    send(rig, 0, plainFrame(macOf(1), macOf(0)));
    expect(rig.ports[1]!.counters).toMatchObject({ framesDelivered: 0, droppedByEnd: 1 });
  });

  test("carries nothing over a link that is down, and tells both ends of it", () => {
    const rig = new SwitchRig();
    rig.port();
    rig.port();
    rig.ports[1]!.setLink(false);
    rig.ports[1]!.setLink(false);
    send(rig, 0, plainFrame(macOf(1), macOf(0)));
    send(rig, 1, plainFrame(macOf(0), macOf(1)));
    expect(rig.take()).toEqual([0, 0]);
    expect(rig.ports[1]!.counters.droppedLinkDown).toBe(2);
    rig.ports[1]!.setLink(true);
    send(rig, 0, plainFrame(macOf(1), macOf(0)));
    expect(rig.take()).toEqual([0, 1]);
    expect(rig.ends[1]!.links).toEqual([false, true]);
  });
});

describe("VLANs", () => {
  const access = (id: number): VlanMode => ({ mode: "access", id });
  const trunk = (nativeId: number, ...allowedIds: number[]): VlanMode => ({
    mode: "trunk",
    nativeId,
    allowedIds,
  });

  test.each([
    ["no VLAN to the same", access(0), undefined, access(0), NO_VLAN_TAG],
    ["access to the same", access(5), undefined, access(5), NO_VLAN_TAG],
    ["access to another", access(5), undefined, access(6), "dropped"],
    ["its own tag", access(5), 0x0005, access(5), NO_VLAN_TAG],
    ["a priority only", access(5), 0xe000, access(5), NO_VLAN_TAG],
    ["a tag of another", access(5), 0x0006, access(6), "dropped"],
    ["access to a trunk", access(5), undefined, trunk(1, 5), 5],
    ["access to a trunk that does not have it", access(5), undefined, trunk(1, 6), "dropped"],
    ["access to a trunk where it is native", access(5), undefined, trunk(5), NO_VLAN_TAG],
    ["a trunk to access", trunk(1, 5), 0x2005, access(5), NO_VLAN_TAG],
    ["a trunk to a trunk, with the priority", trunk(1, 5), 0x3005, trunk(1, 5), 0x3005],
    ["a trunk's native one", trunk(7), undefined, trunk(1, 7), 7],
    ["a trunk's native one with a priority", trunk(7), 0x4000, trunk(1, 7), 0x4007],
    ["a trunk, not allowed", trunk(1, 5), 0x0006, trunk(1, 6), "dropped"],
    ["a trunk of all", { mode: "trunk", nativeId: 0 }, 4094, access(4094), NO_VLAN_TAG],
  ] as const)("%s", (_name, from, tag, to, expected) => {
    for (const takesTags of [true, false]) {
      const rig = new SwitchRig();
      rig.port({ vlan: from });
      rig.port({ vlan: to });
      rig.ends[1]!.offloads = { ...rig.ends[1]!.offloads, vlanTag: takesTags };
      const untagged = plainFrame(all, macOf(0));
      send(rig, 0, plainFrame(all, macOf(0), tag, tag === undefined ? 60 : 64));
      const [got, ...more] = rig.ends[1]!.frames;
      expect(more).toEqual([]);
      if (expected === "dropped") expect(got).toBeUndefined();
      else if (takesTags || expected === NO_VLAN_TAG) {
        expectBytes(got!.bytes, untagged);
        expect(got!.vlanTag).toBe(expected);
      } else expectBytes(got!.bytes, plainFrame(all, macOf(0), expected, 64));
    }
  });

  test("tell apart addresses that are learned in them", () => {
    const rig = new SwitchRig();
    rig.port({ vlan: trunk(0, 5, 6) });
    rig.port({ kind: "external", vlan: access(5) });
    rig.port({ kind: "external", vlan: access(6) });
    send(rig, 1, plainFrame(all, outsider));
    rig.take();
    send(rig, 0, plainFrame(outsider, macOf(0), 5));
    expect(rig.take()).toEqual([0, 1, 0]);
    send(rig, 0, plainFrame(outsider, macOf(0), 6));
    expect(rig.take()).toEqual([0, 0, 1]);
  });

  test("a frame to many is tagged for each as it must be", () => {
    const rig = new SwitchRig();
    rig.port({ vlan: access(5) });
    rig.port({ kind: "external" });
    rig.port({ vlan: access(5) });
    rig.port({ kind: "external" });
    send(rig, 0, plainFrame(all, macOf(0)));
    const lengths = rig.ends.map(({ frames }) => frames[0]?.bytes.length);
    expect(lengths).toEqual([undefined, 64, 60, 64]);
  });

  test("keep the priority for a trunk behind a port that has no tags", () => {
    const rig = new SwitchRig();
    rig.port({ vlan: trunk(1, 5) });
    rig.port({ vlan: access(5) });
    rig.port({ vlan: trunk(1, 5) });
    for (const end of rig.ends) end.offloads = allOffloads;
    send(rig, 0, plainFrame(all, macOf(0), 0x3005, 64));
    expect(rig.ends.map(({ frames }) => frames[0]?.vlanTag)).toEqual([
      undefined,
      NO_VLAN_TAG,
      0x3005,
    ]);
  });

  test("can be changed; what was learned there is forgotten", () => {
    const rig = new SwitchRig();
    rig.port({ kind: "external" });
    rig.port({ kind: "external" });
    rig.port({ kind: "external" });
    send(rig, 1, plainFrame(all, outsider));
    rig.take();
    rig.ports[1]!.setVlan(access(9));
    send(rig, 0, plainFrame(outsider, macOf(0)));
    expect(rig.take()).toEqual([0, 0, 1]);
    expect(() => rig.ports[1]!.setVlan(access(4095))).toThrow(RangeError);
  });
});

test("agrees with an obvious model of itself", () => {
  const vlan = fc.oneof(
    fc.record({ mode: fc.constant("access" as const), id: fc.nat(3) }),
    fc.record({
      mode: fc.constant("trunk" as const),
      nativeId: fc.nat(3),
      allowedIds: fc.uniqueArray(fc.nat(3)),
    }),
  );
  const port = fc.record({ external: fc.boolean(), allowMacSpoofing: fc.boolean(), vlan });
  const act = fc.record({
    from: fc.nat(4),
    source: fc.option(fc.nat(7), { nil: undefined, freq: 2 }),
    to: fc.nat(9),
    tag: fc.option(fc.nat(3), { nil: undefined }),
    setVlan: fc.option(vlan, { nil: undefined, freq: 10 }),
  });
  fc.assert(
    fc.property(
      fc.array(port, { minLength: 2, maxLength: 5 }),
      fc.array(act, { maxLength: 60, size: "max" }),
      (ports, acts) => {
        const rig = new SwitchRig();
        const config = ports.map((own) => ({ ...own }));
        for (const { external, allowMacSpoofing, vlan } of ports)
          rig.port({ kind: external ? "external" : "guest", allowMacSpoofing, vlan });
        const learned = new Map<string, number>();
        const has = (number: number, id: number): boolean => {
          const own = config[number]!.vlan;
          return own.mode === "access"
            ? own.id === id
            : own.nativeId === id || own.allowedIds.includes(id);
        };
        const learns = (number: number): boolean =>
          config[number]!.external || config[number]!.allowMacSpoofing;
        const isAssigned = (mac: number): boolean => ports[mac]?.external === false;
        for (const { from: any, source: other, to, tag, setVlan } of acts) {
          const from = any % ports.length;
          const source = other ?? from;
          if (setVlan !== undefined) {
            config[from]!.vlan = setVlan;
            rig.ports[from]!.setVlan(setVlan);
            for (const [key, at] of learned) if (at === from) learned.delete(key);
          }
          const expected = ports.map(() => 0);
          const own = config[from]!.vlan;
          const native = own.mode === "access" ? own.id : own.nativeId;
          const id = tag === undefined || tag === 0 ? native : tag;
          const destination = to > 7 ? all : macOf(to);
          if ((learns(from) || source === from) && has(from, id)) {
            if (learns(from) && !isAssigned(source)) learned.set(`${id} ${source}`, from);
            const others = ports.map((_, number) => number).filter((number) => number !== from);
            const known = isAssigned(to) && has(to, id) ? to : learned.get(`${id} ${to}`);
            const targets = to > 7 ? others : known !== undefined ? [known] : others.filter(learns);
            for (const target of targets)
              if (target !== from && has(target, id)) expected[target] = 1;
          }
          send(rig, from, plainFrame(destination, macOf(source), tag));
          expect(rig.take()).toEqual(expected);
        }
      },
    ),
    { numRuns: 300 },
  );
});

describe("offloads", () => {
  const packet: Packet = {
    ipVersion: 4,
    protocol: 6,
    ipOptions: 0,
    tcpOptions: 3,
    flags: 0x18,
    sequence: 0xffff_fff0,
    identification: 0xffff,
    payload: Array.from({ length: 1000 }, (_, index) => index & 0xff),
  };
  /** From port 1 to port 2: the addresses in the model's frames. */
  const rigTo = (offloads = allOffloads, faults: Fault[] = []): SwitchRig => {
    const rig = new SwitchRig(faults);
    for (let port = 0; port < 3; port++) rig.port();
    rig.ends[2]!.offloads = offloads;
    return rig;
  };
  const superFrame = (ipVersion: 4 | 6): Frame => {
    const own = { ...packet, ipVersion };
    const frame = frameOf(build(own, "lso"));
    setSuperFrame(frame, ipVersion, transportAt(own), 300);
    return frame;
  };

  test("leave a super-frame whole for a receiver that cuts it itself", () => {
    const rig = rigTo();
    rig.ports[1]!.send(superFrame(4));
    const [got] = rig.ends[2]!.frames;
    expectBytes(got!.bytes, build(packet, "partial"));
    expect([got!.segmentBytes, got!.checksumStart]).toEqual([300, 34]);
    expect(rig.ports[2]!.counters).toMatchObject({ superFramesCut: 0, checksumsFilled: 0 });
  });

  test.each([4, 6] as const)(
    "cut one of IPv%i for a receiver that takes only the other",
    (version) => {
      const rig = rigTo({ ...allOffloads, [`segmentation${version}`]: false });
      rig.ports[1]!.send(superFrame(version));
      expect(rig.ends[2]!.frames.map(({ segmentBytes }) => segmentBytes)).toEqual([0, 0, 0, 0]);
      rig.ports[1]!.send(superFrame(version === 4 ? 6 : 4));
      expect(rig.ends[2]!.frames.at(-1)!.segmentBytes).toBe(300);
      expect(rig.ports[2]!.counters).toMatchObject({ superFramesCut: 1, segmentsCut: 4 });
    },
  );

  test.each([4, 6] as const)(
    "cut and fill in checksums of IPv%i for one that does nothing",
    (version) => {
      const rig = rigTo({
        ...allOffloads,
        partialChecksum: false,
        segmentation4: false,
        segmentation6: false,
      });
      rig.ports[1]!.send(superFrame(version));
      const { frames } = rig.ends[2]!;
      expectFrames(
        frames.map(({ bytes }) => bytes),
        segments({ ...packet, ipVersion: version }, 300),
      );
      expect(frames.every(({ isChecksumValid }) => isChecksumValid)).toBe(true);
    },
  );

  test("complete a checksum only for a receiver that does not", () => {
    for (const partialChecksum of [true, false]) {
      const rig = rigTo({ ...allOffloads, partialChecksum });
      const frame = frameOf(build(packet, "partial"));
      setPartialChecksum(frame, 34, 16);
      rig.ports[1]!.send(frame);
      expectBytes(
        rig.ends[2]!.frames[0]!.bytes,
        build(packet, partialChecksum ? "partial" : "full"),
      );
      expect(rig.ports[2]!.counters.checksumsFilled).toBe(partialChecksum ? 0 : 1);
    }
  });

  test("do not spoil a super-frame for the receivers that follow", () => {
    const rig = new SwitchRig();
    rig.port({ vlan: { mode: "access", id: 3 } });
    rig.port({ mac: macOf(1), vlan: { mode: "access", id: 3 } });
    for (let port = 2; port < 5; port++) rig.port({ kind: "external" });
    rig.ends[3]!.offloads = allOffloads;
    const bytes = build(packet, "lso");
    bytes.set(all);
    const frame = frameOf(bytes);
    setSuperFrame(frame, 4, 34, 300);
    rig.ports[1]!.send(frame);
    expect(rig.ends.map(({ frames }) => frames.length)).toEqual([4, 0, 4, 1, 4]);
    expectFrames(
      rig.ends[4]!.frames.map((arrived) => arrived.bytes),
      rig.ends[2]!.frames.map((arrived) => arrived.bytes),
    );
    expect(rig.ends[3]!.frames[0]).toMatchObject({
      vlanTag: 3,
      segmentBytes: 300,
      checksumStart: 34,
    });
  });

  test("show observers of a port what goes through it", () => {
    const rig = rigTo({ ...allOffloads, segmentation4: false });
    const seen: [string, boolean, number][] = [];
    const watch = (name: string) => ({
      observe: (frame: Frame, isSent: boolean) => void seen.push([name, isSent, frame.lengthBytes]),
    });
    const observer = watch("to");
    rig.ports[1]!.addObserver(watch("from"));
    rig.ports[2]!.addObserver(observer);
    rig.ports[1]!.send(superFrame(4));
    const header = 14 + 20 + 32;
    expect(seen).toEqual([
      ["from", true, header + 1000],
      ...[300, 300, 300, 100].map((bytes) => ["to", false, header + bytes]),
    ]);
    rig.ports[2]!.removeObserver(observer);
    rig.ports[1]!.send(superFrame(4));
    expect(seen.length).toBe(6);
  });

  test("a byte that is to be wrong is wrong on arrival, and the checksum tells", () => {
    for (const offset of [undefined, 22, 100]) {
      const fault: Fault = {
        kind: "corrupt-frame",
        count: 2,
        operation: "receive",
        ...(offset !== undefined && { offset }),
      };
      const rig = rigTo(allOffloads, [fault]);
      const frame = frameOf(build(packet, "partial"));
      setPartialChecksum(frame, 34, 16);
      rig.ports[1]!.send(frame);
      rig.ports[1]!.send(superFrame(4));
      const good = [build(packet), ...segments(packet, 300)];
      const { frames } = rig.ends[2]!;
      expect(frames.map(({ bytes }) => verifyTransport(frameOf(bytes)))).toEqual(
        offset === 22 ? [1, 1, 1, 1, 1] : [2, 2, 1, 1, 1],
      );
      expect(
        frames.map(({ bytes }, index) => bytes.findIndex((byte, at) => byte !== good[index]![at])),
      ).toEqual([offset ?? good[0]!.length - 1, offset ?? good[1]!.length - 1, -1, -1, -1]);
      expect(frames[0]!.isChecksumValid).toBe(false);
    }
  });
});

describe("faults of frames", () => {
  const rigWith = (fault: Fault, instanceId?: Guid): SwitchRig => {
    const rig = new SwitchRig([fault]);
    rig.port({}, instanceId);
    rig.port();
    return rig;
  };
  const go = (rig: SwitchRig, number: number): void =>
    send(rig, 0, plainFrame(macOf(1), macOf(0), undefined, 60 + number));
  const lengths = (rig: SwitchRig): number[] =>
    rig.ends[1]!.frames.map(({ bytes }) => bytes.length - 60);

  test.each(["transmit", "receive"] as const)("%s", (operation) => {
    const usual = { operation, nth: 2 } as const;
    const three = (fault: Fault): SwitchRig => {
      const rig = rigWith(fault);
      for (let number = 1; number <= 3; number++) go(rig, number);
      return rig;
    };
    expect(lengths(three({ ...usual, kind: "dropped-frame" }))).toEqual([1, 3]);
    expect(lengths(three({ ...usual, kind: "duplicate-frame" }))).toEqual([1, 2, 2, 3]);
    const late = three({ ...usual, kind: "late-frame", delayMs: 10 });
    expect(lengths(late)).toEqual([1, 3]);
    late.timers.advance(10);
    expect(lengths(late)).toEqual([1, 3, 2]);
    expect(late.ends[1]!.flushes).toBe(3);
    const inverted = three({ ...usual, kind: "wrong-checksum-flags" });
    expect(inverted.ends[1]!.frames.map(({ invertsVerdict }) => invertsVerdict)).toEqual([
      false,
      true,
      false,
    ]);
    const flap = three({ ...usual, kind: "link-flap", downMs: 10 });
    const victim = operation === "transmit" ? 0 : 1;
    expect(lengths(flap)).toEqual([1]);
    flap.timers.advance(10);
    go(flap, 4);
    expect(lengths(flap)).toEqual([1, 4]);
    expect(flap.ends[victim]!.links).toEqual([false, true]);
    expect(flap.ports[victim]!.counters.faults).toBe(1);
  });

  test("keep with a copy what is still to be done to it", () => {
    const rig = new SwitchRig([{ kind: "duplicate-frame", operation: "receive" }]);
    const vlan: VlanMode = { mode: "trunk", nativeId: 0 };
    for (let port = 0; port < 3; port++) rig.port({ vlan });
    rig.ends[2]!.offloads = allOffloads;
    const packet: Packet = {
      ipVersion: 6,
      protocol: 6,
      ipOptions: 12,
      tcpOptions: 0,
      flags: 0,
      sequence: 0,
      identification: 0,
      tag: 0x6007,
      payload: Array.from({ length: 500 }, (_, index) => index & 0xff),
    };
    const frame = frameOf(build(packet, "lso"));
    expect(setSuperFrame(frame, 6, transportAt(packet), 200)).toBe(true);
    rig.ports[1]!.send(frame);
    const known = frameOf(build(packet));
    known.isChecksumValid = true;
    rig.ports[1]!.send(known);
    const [first, second, third, fourth] = rig.ends[2]!.frames;
    expect(first).toMatchObject({ vlanTag: 0x6007, segmentBytes: 200, isChecksumValid: false });
    expect(second).toEqual(first);
    expect(third).toMatchObject({ segmentBytes: 0, isChecksumValid: true });
    expect(fourth).toEqual(third);
    rig.ends[2]!.offloads = { ...allOffloads, segmentation6: false, partialChecksum: false };
    rig.ports[1]!.send(frame);
    const cut = rig.ends[2]!.frames.slice(4).map(({ bytes }) => bytes);
    const expected = segments({ ...packet, tag: undefined }, 200);
    expectFrames(cut, [...expected, ...expected]);
  });

  test("of a link end early when the cable is plugged in, and lose what is late meanwhile", () => {
    const rig = new SwitchRig([
      { kind: "link-flap", nth: 2, downMs: 100, operation: "transmit" },
      { kind: "late-frame", nth: 1, delayMs: 10, operation: "transmit" },
    ]);
    rig.port();
    rig.port();
    go(rig, 1);
    go(rig, 2);
    rig.timers.advance(50);
    expect(lengths(rig)).toEqual([]);
    rig.ports[0]!.setLink(true);
    expect(rig.timers.pending).toBe(0);
    rig.ports[0]!.setLink(false);
    rig.timers.advance(100);
    expect(rig.ports[0]!.isLinkUp).toBe(false);
  });

  test("of one device are those of its port", () => {
    const id = "f8615163-0000-4000-8000-000000000001";
    const rig = rigWith({ kind: "dropped-frame", device: id, operation: "transmit" }, id);
    go(rig, 1);
    send(rig, 1, plainFrame(macOf(0), macOf(1)));
    expect(rig.take()).toEqual([1, 0]);
  });

  test("leave nothing behind when the port closes", () => {
    const rig = rigWith({ kind: "late-frame", delayMs: 10 });
    go(rig, 1);
    rig.ports[0]!.close();
    rig.ports[1]!.close();
    expect(rig.timers.pending).toBe(0);
  });
});

describe("a bandwidth", () => {
  const bandwidth = { bitsPerSecond: 8_000_000, burstBytes: 1000, queueBytes: 3000 };
  const rigOf = (): SwitchRig => {
    const rig = new SwitchRig();
    rig.port({ bandwidth });
    rig.port();
    return rig;
  };
  const go = (rig: SwitchRig, count: number): void => {
    for (let number = 0; number < count; number++)
      send(rig, 0, plainFrame(macOf(1), macOf(0), undefined, 1000));
  };

  test("lets a burst through, then as much as it is, and drops what does not fit", () => {
    const rig = rigOf();
    go(rig, 6);
    expect(rig.ends[1]!.frames.length).toBe(1);
    expect(rig.ports[0]!.counters.droppedBandwidth).toBe(2);
    const arrived: number[] = [];
    for (let ms = 0; ms < 8; ms++) {
      rig.timers.advance(1);
      arrived.push(rig.ends[1]!.frames.length);
    }
    // 1000 bytes a millisecond.
    expect(arrived.at(-1)).toBe(4);
    expect(arrived[1]).toBeLessThanOrEqual(3);
    expect(rig.ends[1]!.flushes).toBeGreaterThan(1);
  });

  test("is kept over a long time", () => {
    const rig = rigOf();
    for (let ms = 0; ms < 1000; ms++) {
      go(rig, 2);
      rig.timers.advance(1);
    }
    const { framesDelivered } = rig.ports[1]!.counters;
    expect(framesDelivered).toBeGreaterThan(980);
    expect(framesDelivered).toBeLessThanOrEqual(1002);
  });

  test("is no larger after a pause, and keeps the order of what waits", () => {
    const rig = rigOf();
    for (const pauseMs of [0, 10_000, 10_000]) {
      rig.timers.advance(pauseMs);
      rig.ends[1]!.frames.length = 0;
      for (const bytes of [1000, 900, 800, 60])
        send(rig, 0, plainFrame(macOf(1), macOf(0), undefined, bytes));
      expect(rig.ends[1]!.frames.map(({ bytes }) => bytes.length)).toEqual([1000]);
      rig.timers.advance(0.5);
      send(rig, 0, plainFrame(macOf(1), macOf(0), undefined, 100));
      rig.timers.advance(10);
      expect(rig.ends[1]!.frames.map(({ bytes }) => bytes.length)).toEqual([
        1000, 900, 800, 60, 100,
      ]);
    }
    expect(rig.ports[0]!.counters.droppedBandwidth).toBe(0);
  });

  test("lets go of what waits when the port closes", () => {
    const rig = rigOf();
    go(rig, 3);
    rig.ports[0]!.close();
    expect(rig.timers.pending).toBe(0);
    expect(() => rig.port({ mac: macOf(9), bandwidth: { bitsPerSecond: 0 } })).toThrow(RangeError);
  });
});

describe("a table of addresses", () => {
  test("agrees with a map, and is never fuller than it may be", () => {
    const act = fc.record({
      vlan: fc.nat(2),
      mac: fc.nat(40),
      port: fc.nat(5),
      elapsedMs: fc.nat(30),
      forget: fc.option(fc.nat(5), { nil: undefined, freq: 12 }),
    });
    fc.assert(
      fc.property(fc.array(act, { maxLength: 200, size: "max" }), (acts) => {
        const table = new MacTable(16);
        const model = new Map<string, { port: number; seenMs: number }>();
        let nowMs = 0;
        for (const { vlan, mac, port, elapsedMs, forget } of acts) {
          nowMs += elapsedMs;
          const sinceMs = nowMs - 100;
          const key = `${vlan} ${mac}`;
          if (forget !== undefined) {
            table.forgetPort(forget);
            for (const [name, entry] of model) if (entry.port === forget) model.delete(name);
          }
          if (table.learn(vlan, 0x15, mac << 20, port, nowMs, sinceMs))
            model.set(key, { port, seenMs: nowMs });
          else
            expect(
              [...model.values()].filter(({ seenMs }) => seenMs >= sinceMs).length,
            ).toBeGreaterThanOrEqual(16);
          for (let each = 0; each <= 40; each++) {
            const known = model.get(`${vlan} ${each}`);
            const expected = known !== undefined && known.seenMs >= sinceMs ? known.port : -1;
            expect(table.find(vlan, 0x15, each << 20, sinceMs)).toBe(expected);
          }
          expect(table.size).toBeLessThanOrEqual(16);
        }
      }),
      { numRuns: 20 },
    );
  });
});

test("addresses are read and written as one knows them", () => {
  const address = Uint8Array.of(0, 0x15, 0x5d, 0x0a, 1, 0xfe);
  for (const text of ["00:15:5d:0a:01:fe", "00-15-5D-0A-01-FE", "00155d0a01fe"])
    expect(parseMac(text)).toEqual(address);
  for (const text of ["", "00:15:5d:0a:01", "00:15-5d:0a:01:fe", "00:15:5d:0a:01:fg"])
    expect(parseMac(text)).toBeUndefined();
  expect(formatMac(address)).toBe("00:15:5d:0a:01:fe");
});
