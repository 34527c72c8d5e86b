import { KERNEL_INTERFACE } from "@hyperv-is/vmbus-core";
import { deviceClasses } from "@hyperv-is/vmbus-core/protocol";
import { expect, test } from "vitest";
import * as driver from "../src/module.js";
import { NETWORK_CLASS_ID, Oid, parseRssParameters } from "../src/protocol/index.js";
import { Rig } from "./rig.js";

test("is what a kernel loads", () => {
  expect(driver.driver).toMatchObject({
    name: "hv_netvsc",
    deviceName: "hn",
    kernelInterface: KERNEL_INTERFACE,
  });
  expect(driver.version).toMatch(/^\d+\.\d+\.\d+$/u);
  expect(driver.probe(NETWORK_CLASS_ID)).toBe("Hyper-V Network Interface");
  expect(driver.probe("f912ad6d-2b17-48ea-bd65-f927a61c7684")).toBeUndefined();
  expect(deviceClasses.map(({ classId }) => classId)).toContain(NETWORK_CLASS_ID);
});

test("follows FreeBSD's tunables", async () => {
  const rig = new Rig({ cpus: 4 });
  const tunables: Readonly<Record<string, number>> = {
    "hw.hn.chan_cnt": 2,
    "hw.hn.tx_chimney_size": 100,
    "hw.hn.tx_agg_size": 0,
    "hw.hn.tx_agg_pkts": 0,
    "hw.hn.udpcs_fixup_mtu": 65_537,
    "hw.hn.trust_hosttcp": 0,
    "hw.hn.trust_hostudp": 0,
    "hw.hn.trust_hostip": 0,
    "hw.hn.enable_udp4cs": 0,
    "hw.hn.enable_udp6cs": 0,
    "hw.hn.tso_maxlen": 20_000,
  };
  const control = (tunable: (name: string) => number | undefined) =>
    driver.control({ ...rig.context, tunable } as Parameters<typeof driver.control>[0]);
  // Buffers of the size that FreeBSD takes do not fit into a test's memory.
  await expect(rig.settle(control(() => undefined))).rejects.toThrow("no memory");
  const address = rig.arenas[0]!.allocate(256)!;
  Object.assign(rig.context.device, {
    createGpadl: () => Promise.resolve({ gpadlId: 0xe1e10, address, pageCount: 4096 }),
    tearDownGpadl: () => Promise.resolve(),
  });
  rig.adapter.gpadls.set(0xe1e10, { address, lengthBytes: 256 * 4096 });
  const hn = await rig.settle(control((name) => tunables[name]));
  expect(hn.channels).toHaveLength(2);
  expect(hn.parameters.offloads).toMatchObject({
    transmitChecksums: 0x0b,
    largeSend4BytesMax: 20_000,
  });
  expect(hn.channels[1]!.description.tuning).toEqual({
    descriptors: 512,
    copyBytesMax: 100,
    aggregationBytes: 0,
    aggregationPackets: 0,
    udpChecksumBytesMax: 65_537,
    trust: 0,
  });
  const set = rig.adapter.controls.find(({ oid }) => oid === Oid.genReceiveScaleParameters)!;
  expect(parseRssParameters(set.information)!.table.slice(0, 4)).toEqual([0, 1, 0, 1]);
});
