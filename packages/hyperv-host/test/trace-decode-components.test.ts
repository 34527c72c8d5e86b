import { describe, expect, test } from "vitest";
import { icAnswer, emitIcMessage, parseIcMessage } from "@hyperv-is/hv-utils/protocol";
import { DeviceClass } from "@hyperv-is/vmbus-core/protocol";
import {
  TraceDecoder,
  decodeIntegration,
  decodeNetwork,
  traceLine,
  type DecodedFields,
} from "@hyperv-is/hyperv-host/trace";
import kvp from "../../hv-kvp/test/vectors/kvp.json" with { type: "json" };
import components from "../../hv-utils/test/vectors/integration-components.json" with { type: "json" };
import network from "../../hv-netvsc/test/vectors/network.json" with { type: "json" };

/** The payload of a packet of the reference. */
function vector(id: string): Uint8Array {
  const ours = components.vectors.find((one) => one.id === id);
  const theirs = kvp.vectors.find((one) => one.id === id);
  const bytes = new Uint8Array(ours?.bytes ?? theirs!.bytes);
  for (const { at, hex } of theirs?.parts ?? [{ at: 0, hex: ours!.hex }])
    bytes.set(Buffer.from(hex, "hex"), at);
  return bytes;
}

describe("integration components", () => {
  const request = { flags: "TRANSACTION|REQUEST" };
  const answer = { flags: "TRANSACTION|RESPONSE", status: "OK" };
  const v = (version: string) => ({ framework: "3.0", version });
  const nic = "{f8615163-df3e-46c5-913f-f2d2f965ed0e}";
  const staticV4 = {
    dhcp: false,
    addresses: "192.0.2.10/24",
    gateways: "192.0.2.1",
    dnsServers: "192.0.2.53,198.51.100.53",
  };

  test.each<[string, string, DecodedFields]>([
    ["V1", "NEGOTIATE", { ...request, frameworks: "1.0,3.0", messages: "3.0,4.0,5.0" }],
    ["V2", "NEGOTIATE", { ...answer, chosenFramework: "3.0", chosenMessage: "4.0" }],
    ["V7", "HEARTBEAT", { ...request, ...v("3.0"), sequence: "42", state: "UNKNOWN" }],
    ["V8", "HEARTBEAT", { ...answer, ...v("3.0"), sequence: "43", state: "UNKNOWN" }],
    [
      "V9",
      "SHUTDOWN",
      { ...request, ...v("3.2"), shutdown: "FORCE", reason: "0x80000000", timeoutSeconds: 0 },
    ],
    ["V10", "SHUTDOWN", { ...answer, ...v("3.2") }],
    [
      "V12",
      "TIME_SYNC",
      {
        ...request,
        ...v("4.0"),
        parentTime: "133485408000000000",
        referenceTime: "600000000",
        time: "SYNC",
      },
    ],
    [
      "V13",
      "TIME_SYNC",
      { ...request, ...v("3.0"), parentTime: "133485408000000000", time: "SAMPLE" },
    ],
    ["V29", "VSS", { ...request, ...v("5.0"), operation: "HOT_BACKUP", backup: "0x0" }],
    ["V30", "VSS", { ...answer, ...v("5.0"), operation: "HOT_BACKUP", backup: "0x5" }],
    ["V31", "VSS", { ...request, ...v("5.0"), operation: "FREEZE", luns: 1 }],
    ["V32", "VSS", { ...answer, ...v("5.0"), operation: "FREEZE" }],
    ["V33", "VSS", { ...request, ...v("5.0"), operation: "THAW", backup: "0x0" }],
    ["V34", "VSS", { ...answer, ...v("5.0"), status: "FAIL", operation: "FREEZE" }],
    [
      "V14",
      "KVP",
      {
        ...request,
        ...v("4.0"),
        operation: "SET",
        pool: "EXTERNAL",
        key: "color",
        value: "green",
      },
    ],
    [
      "V16",
      "KVP",
      { ...request, ...v("4.0"), operation: "SET", pool: "EXTERNAL", key: "q", value: "1" },
    ],
    ["V17", "KVP", { ...request, ...v("4.0"), operation: "GET", pool: "GUEST", key: "color" }],
    [
      "V18",
      "KVP",
      { ...request, ...v("4.0"), operation: "DELETE", pool: "EXTERNAL", key: "color" },
    ],
    ["V19", "KVP", { ...request, ...v("4.0"), operation: "ENUMERATE", pool: "AUTO", index: 5 }],
    [
      "V20",
      "KVP",
      { ...answer, ...v("4.0"), operation: "ENUMERATE", key: "OSName", value: "FreeBSD" },
    ],
    ["V21", "KVP", { ...answer, ...v("4.0"), status: "NO_MORE_ITEMS", operation: "ENUMERATE" }],
    [
      "V22",
      "KVP",
      { ...request, ...v("4.0"), operation: "SET_IP_INFO", adapter: nic, ...staticV4 },
    ],
    ["V23", "KVP", { ...answer, ...v("4.0") }],
    [
      "V24",
      "KVP",
      { ...request, ...v("4.0"), operation: "GET_IP_INFO", adapter: "00:15:5D:01:02:03" },
    ],
    [
      "V25",
      "KVP",
      {
        ...answer,
        ...v("4.0"),
        operation: "GET_IP_INFO",
        adapter: "00:15:5D:01:02:03",
        dhcp: true,
        addresses: "192.0.2.10/24,2001:db8::10/64",
        gateways: "192.0.2.1",
        dnsServers: "192.0.2.53",
      },
    ],
    [
      "V26",
      "KVP",
      { ...request, ...v("5.0"), operation: "SET_IP_INFO", adapter: nic, ...staticV4 },
    ],
    ["V27", "NEGOTIATE", { ...request, frameworks: "1.0,3.0", messages: "4.0,5.0,6.0,7.0" }],
    ["V28", "NEGOTIATE", { ...answer, chosenFramework: "3.0", chosenMessage: "5.0" }],
  ])("%s is %s", (id, name, fields) => {
    expect(decodeIntegration(vector(id))).toEqual({ name, fields });
  });

  test("what is wrong with a message is said", () => {
    expect(decodeIntegration(vector("V7").subarray(0, 20))).toMatchObject({
      name: "IC",
      fields: { problem: "short" },
    });
    const pool = vector("V14");
    pool[29] = 200;
    expect(decodeIntegration(pool).fields).toMatchObject({ operation: "SET", problem: "pool" });
    const none = vector("V2").fill(0, 28, 32);
    expect(decodeIntegration(none).fields).toMatchObject({ chosen: "none" });
    const unknown = vector("V7");
    unknown[12] = 9;
    expect(decodeIntegration(unknown)).toMatchObject({ name: "0x9", fields: { body: /^2a00/ } });
    const offered = vector("V1").subarray(0, 28);
    expect(decodeIntegration(offered)).toMatchObject({ fields: { problem: "pipe-length" } });
  });

  test("a line of a trace has nothing that a terminal would obey", () => {
    const asked = parseIcMessage(vector("V19"));
    if (typeof asked === "string") throw new Error(asked);
    const body = parseIcMessage(vector("V20"));
    if (typeof body === "string") throw new Error(body);
    const hostile = body.body.slice();
    // "OSName" becomes ESC, CSI, "Name".
    hostile.set([0x1b, 0, 0x9b, 0], 20);
    const payload = emitIcMessage(icAnswer(asked, 0, hostile));
    const decoder = new TraceDecoder();
    decoder.decode({
      kind: "channel-opened",
      ...{ time: 0, vp: 0, offset: 0, channel: 1, relid: 9 },
      instanceId: DeviceClass.kvp.classId,
      classId: DeviceClass.kvp.classId,
      ...{ subChannelIndex: 0, version: 0x5_0003, features: 0, ringGpadlId: 1 },
      ...{ downstreamPageOffset: 4, eventFlag: 9 },
    });
    const bytes = new Uint8Array(16 + payload.byteLength);
    bytes.set(payload, 16);
    const line = traceLine(
      decoder.decode({
        kind: "packet",
        ...{ time: 12_345, vp: 0, offset: 0, toGuest: false, channel: 1, bytes },
        ...{ headerBytes: 16, type: 6, flags: 0, transactionId: 7n },
      }),
    );
    expect(line).toContain("> vp0  9.kvp        KVP id=0x7 ");
    expect(line).toContain(String.raw`key="\u001b\u009bName" value=FreeBSD`);
  });
});

describe("the network protocol", () => {
  const bytesOf = (name: keyof typeof network.vectors): Uint8Array =>
    Uint8Array.from(network.vectors[name] as number[]);
  const section = { offset: 0, subAllocationSize: 1806, subAllocationCount: 9289 };

  test.each<[keyof typeof network.vectors, string, DecodedFields]>([
    ["nvspInitV5Request", "INIT", { version: "5" }],
    ["nvspInitV61Request40", "INIT", { version: "6.1" }],
    [
      "nvspInitCompleteAccept",
      "INIT_COMPLETE",
      { deprecatedVersion: "0xffffffff", maxMdlChainLength: 34, status: "SUCCESS" },
    ],
    [
      "nvspInitCompleteReject",
      "INIT_COMPLETE",
      { deprecatedVersion: "0xffffffff", maxMdlChainLength: 34, status: "NONE" },
    ],
    [
      "nvspSendNdisConfigMtu1514VlanSriov",
      "SEND_NDIS_CONFIG",
      { mtu: 1514, capabilities: "SRIOV|IEEE8021Q" },
    ],
    ["nvspSendNdisVersion630", "SEND_NDIS_VERSION", { major: 6, minor: 30 }],
    ["nvspSendReceiveBuffer", "SEND_RECEIVE_BUFFER", { gpadl: "0xe1e10", id: "0xcafe" }],
    [
      "nvspSendReceiveBufferComplete",
      "SEND_RECEIVE_BUFFER_COMPLETE",
      { status: "SUCCESS", sectionCount: 1, ...section, endOffset: 16_775_934 },
    ],
    ["nvspSendSendBuffer", "SEND_SEND_BUFFER", { gpadl: "0xe1e11", id: "0xface" }],
    [
      "nvspSendSendBufferComplete",
      "SEND_SEND_BUFFER_COMPLETE",
      { status: "SUCCESS", sectionSize: 6144 },
    ],
    [
      "nvspRndisDataSection5",
      "SEND_RNDIS_PACKET",
      { channelType: "DATA", sectionIndex: 5, sectionBytes: 126 },
    ],
    [
      "nvspRndisControlGpa",
      "SEND_RNDIS_PACKET",
      { channelType: "CONTROL", sectionIndex: "none", sectionBytes: 0 },
    ],
    ["nvspRndisCompleteSuccess", "SEND_RNDIS_PACKET_COMPLETE", { status: "SUCCESS" }],
    ["nvspSubchannelRequest3", "SUB_CHANNEL", { operation: "ALLOCATE", subChannels: 3 }],
    ["nvspIndirectionTableOffset124chan", "SEND_INDIRECTION_TABLE", { count: 16, tableOffset: 12 }],
    ["nvspVfAssociation", "SEND_VF_ASSOCIATION", { allocated: 1, serial: 7 }],
    ["nvspSwitchDataPathVf", "SWITCH_DATA_PATH", { activePath: "VF" }],
    ["nvspRevokeReceiveBuffer", "REVOKE_RECEIVE_BUFFER", { id: "0xcafe" }],
  ])("%s is %s", (vectorName, name, fields) => {
    expect(decodeNetwork(bytesOf(vectorName), undefined)).toEqual({ name, fields });
  });

  test("an answer about sub-channels has the number of its request", () => {
    const request = bytesOf("nvspSubchannelRequest3");
    expect(decodeNetwork(bytesOf("nvspSubchannelComplete3"), request)).toEqual({
      name: "SUB_CHANNEL",
      fields: { status: "SUCCESS", subChannels: 3 },
    });
  });

  test("what is too short, or unknown, is said", () => {
    expect(decodeNetwork(new Uint8Array(0), undefined)).toEqual({
      name: "NVSP",
      fields: { payloadBytes: 0 },
    });
    expect(decodeNetwork(bytesOf("nvspInitV5Request").subarray(0, 8), undefined)).toEqual({
      name: "INIT",
      fields: { problem: "too-short" },
    });
    expect(decodeNetwork(Uint8Array.of(200, 0, 0, 0), undefined)).toEqual({
      name: "0xc8",
      fields: {},
    });
  });
});
