import { describe, expect, test } from "vitest";
import { Offload, transmitChannelOf } from "../src/index.js";
import { chooseOffloads, NO_OFFLOADS, offloadParameters } from "../src/offload-choice.js";
import type { NdisOffload } from "../src/protocol/index.js";
import { scalingParameters } from "../src/scaling.js";
import { fullOffload } from "./scripted-host.js";

const { ipHeader, tcp4, udp4, tcp6, udp6 } = Offload;

test.each<[string, Partial<NdisOffload>, number]>([
  ["all of it", {}, ipHeader | tcp4 | udp4 | tcp6 | udp6],
  ["a header without options", { ipv4TxChecksum: 0x154 }, tcp4 | udp4 | tcp6 | udp6],
  ["TCP without options", { ipv4TxChecksum: 0x151 }, ipHeader | udp4 | tcp6 | udp6],
  ["no UDP", { ipv4TxChecksum: 0x115 }, ipHeader | tcp4 | tcp6 | udp6],
  ["IPv6 without extensions", { ipv6TxChecksum: 0x54 }, ipHeader | tcp4 | udp4],
  ["IPv6 TCP without options", { ipv6TxChecksum: 0x51 }, ipHeader | tcp4 | udp4 | udp6],
  ["nothing", { ipv4TxChecksum: 0, ipv6TxChecksum: 0 }, 0],
])("of checksums a host has %s", (_, changed, expected) => {
  const chosen = chooseOffloads({ ...fullOffload, ...changed }, 1500, true, {});
  expect(chosen.transmitChecksums).toBe(expected);
  expect(chosen.receiveChecksums).toBe(ipHeader | tcp4 | udp4 | tcp6 | udp6);
});

describe("segmentation", () => {
  const choose = (changed: Partial<NdisOffload>, mtu = 1500, wishes = {}) => {
    const chosen = chooseOffloads({ ...fullOffload, ...changed }, mtu, true, wishes);
    return [chosen.largeSend4BytesMax, chosen.largeSend6BytesMax];
  };
  test.each<[string, Partial<NdisOffload>, readonly number[]]>([
    ["up to the host's limit", {}, [62_780, 62_780]],
    ["up to what IP can say", { lsoV2Ipv4MaxBytes: 0x2_0000 }, [65_535, 62_780]],
    [
      "not by another encapsulation",
      { lsoV2Ipv4Encapsulation: 1, lsoV2Ipv6Encapsulation: 4 },
      [0, 0],
    ],
    ["not of IPv6 without extensions", { lsoV2Ipv6Options: 4 }, [62_780, 0]],
    ["not if the host takes less than two packets", { lsoV2Ipv4MaxBytes: 2_999 }, [0, 62_780]],
  ])("%s", (_, changed, expected) => {
    expect(choose(changed)).toEqual(expected);
  });
  test("follows MTU and wishes", () => {
    expect(choose({}, 32_000)).toEqual([0, 0]);
    expect(choose({}, 1500, { largeSendBytesMax: 10_000 })).toEqual([10_000, 10_000]);
    expect(choose({}, 1500, { largeSend: false })).toEqual([0, 0]);
  });
});

test("what is not wanted, or not in the version, is off", () => {
  const wishes = { udp4Checksum: false, udp6Checksum: false, receiveCoalescing: false };
  const chosen = chooseOffloads(fullOffload, 1500, true, wishes);
  expect(chosen.transmitChecksums).toBe(ipHeader | tcp4 | tcp6);
  expect(chosen.coalescing4 || chosen.coalescing6).toBe(false);
  const old = chooseOffloads(fullOffload, 1500, false, {});
  expect(old.coalescing4 || old.coalescing6).toBe(false);
});

test("parameters say of each offload whether it is on", () => {
  const all = chooseOffloads(fullOffload, 1500, true, {});
  expect(offloadParameters(all, 3)).toMatchObject({
    ipv4Checksum: 4,
    tcp4Checksum: 4,
    udp4Checksum: 4,
    tcp6Checksum: 4,
    udp6Checksum: 4,
    lsoV1: 0,
    lsoV2Ipv4: 2,
    lsoV2Ipv6: 2,
    rscIpv4: 2,
    rscIpv6: 2,
  });
  expect(offloadParameters({ ...all, receiveChecksums: 0 }, 2)).toMatchObject({
    revision: 2,
    tcp4Checksum: 2,
    rscIpv4: 0,
  });
  expect(offloadParameters({ ...NO_OFFLOADS, receiveChecksums: tcp4 }, 3)).toMatchObject({
    ipv4Checksum: 1,
    tcp4Checksum: 3,
    lsoV2Ipv4: 1,
    rscIpv4: 1,
  });
});

test("a flow is sent on the channel that its hash, and the host's table, say", () => {
  expect([0, 1, 5, -1].map((hash) => transmitChannelOf(hash, 4))).toEqual([0, 1, 1, 3]);
  const table = Array.from({ length: 16 }, (_, index) => 15 - index);
  expect([0, 1, 17, -1].map((hash) => transmitChannelOf(hash, 4, table))).toEqual([3, 2, 2, 0]);
});

test("reception is spread evenly over the channels that are there", () => {
  const scaling = { receiveQueues: 8, indirectionEntries: 128, hashInfo: 0x201 };
  const { table } = scalingParameters(scaling, [0, 2, 5]);
  expect(table.slice(0, 4)).toEqual([0, 2, 5, 0]);
  expect(table.filter((channel) => channel === 5)).toHaveLength(42);
});
