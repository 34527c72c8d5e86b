import { describe, expect, test } from "vitest";
import {
  DeviceClass,
  Feature,
  HypercallStatus,
  InitiateContact,
  MessageType,
  ModifyConnection,
  NIL_GUID,
  PAGE_SIZE,
  ProtocolVersion,
  RequestOffers,
  Unload,
  formatVersion,
  negotiationOrder,
  protocolVersions,
  versionHas,
  type VersionResponse,
} from "@hyperv-is/vmbus-core/protocol";
import { SUPPORTED_FEATURES, type PartitionOptions } from "../src/index.js";
import { ScriptedGuest, type HostMessage } from "./scripted-guest.js";

const all = protocolVersions.map(({ version }) => version);
const INTERRUPT_PAGE = 100 * PAGE_SIZE;
const MONITOR = {
  parentToChildMonitorGpa: 101 * PAGE_SIZE,
  childToParentMonitorGpa: 102 * PAGE_SIZE,
};

function contact(
  guest: ScriptedGuest,
  version: ProtocolVersion,
  fields: Partial<InitiateContact> = {},
): HostMessage & VersionResponse {
  guest.version = version;
  const needsPage = !versionHas(version, "eventFlags");
  const messages = guest.contact(version, {
    interruptPageGpa: needsPage ? INTERRUPT_PAGE : 0,
    ...fields,
  });
  expect(messages).toHaveLength(1);
  return messages[0] as HostMessage & VersionResponse;
}

const oldHost = (ceiling: ProtocolVersion): Partial<PartitionOptions> => ({
  bus: { versions: negotiationOrder(ceiling) },
});

describe("version matrix", () => {
  const cases = all.flatMap((host) => all.map((guest) => [host, guest] as const));

  test.each(cases.map(([host, guest]) => [formatVersion(host), formatVersion(guest), host, guest]))(
    "host up to %s, guest asks for %s",
    (_host, _guest, host, asked) => {
      const guest = new ScriptedGuest(oldHost(host));
      if (versionHas(asked, "namedMessageConnection") && host < ProtocolVersion.v5_0) {
        // Such a host does not know the connection at all.
        const bytes = InitiateContact.emit({ ...contactFields, version: asked });
        expect(guest.post(bytes, 4)).toBe(HypercallStatus.invalidConnectionId);
        expect(guest.brokenRules).toEqual([]);
        return;
      }
      const response = contact(guest, asked);
      const isSupported = asked <= host;
      const selected = versionHas(asked, "namedMessageConnection") ? 1 : asked;
      expect(response).toMatchObject({
        type: MessageType.versionResponse,
        supported: isSupported,
        connectionState: 0,
        selectedVersionOrConnectionId: isSupported ? selected : 0,
        features: 0,
      });
      expect(guest.partition.stats()).toMatchObject({
        state: isSupported ? "connected" : "disconnected",
        version: isSupported ? formatVersion(asked) : undefined,
      });
      expect(guest.brokenRules).toEqual([]);
    },
  );

  const contactFields = {
    targetVp: 0,
    interruptPageGpa: 0,
    sint: 2,
    vtl: 0,
    features: 0,
    parentToChildMonitorGpa: 0,
    childToParentMonitorGpa: 0,
    clientId: NIL_GUID,
  };

  test.each([0, 0x0000_000e, 0x0004_0002, 0x0006_0001, 0xffff_ffff])(
    "%i is no version, and no violation either",
    (version) => {
      const guest = new ScriptedGuest();
      expect(contact(guest, version)).toMatchObject({ supported: false });
      expect(guest.brokenRules).toEqual([]);
    },
  );

  test("a list with gaps is taken as it is", () => {
    const { v5_3, v5_0, v3_0 } = ProtocolVersion;
    const guest = new ScriptedGuest({ bus: { versions: [v5_3, v3_0] } });
    expect(contact(guest, v5_0).supported).toBe(false);
    expect(contact(guest, v3_0).supported).toBe(true);
  });

  test("the answer to an unsupported version is 16 bytes of nothing else", () => {
    const guest = new ScriptedGuest(oldHost(ProtocolVersion.v5_3));
    guest.post(InitiateContact.emit({ ...contactFields, version: ProtocolVersion.v6_0 }), 4);
    guest.partition.run();
    guest.takeMessages();
    expect(guest.received[0]?.bytes).toEqual(Uint8Array.of(15, ...new Array<number>(15).fill(0)));
  });

  test("the connection that the response names is the host's choice, and works", () => {
    const guest = new ScriptedGuest({ bus: { messageConnectionId: 0x1234 } });
    guest.connect(ProtocolVersion.v5_3);
    expect(guest.connectionId).toBe(0x1234);
    guest.requestOffers();
    expect(guest.brokenRules).toEqual([]);
    guest.send(Unload.emit({}), 1);
    expect(guest.brokenRules).toEqual(["message-connection"]);
    // With the connection it is gone.
    expect(guest.post(RequestOffers.emit({}), 0x1234)).toBe(HypercallStatus.invalidConnectionId);
  });
});

describe("features of 6.0", () => {
  test.each([
    [0, 0],
    [0xff, SUPPORTED_FEATURES],
    [Feature.clientId, Feature.clientId],
    [Feature.confidentialChannels | Feature.gpaPinning, 0],
    [Feature.hostMonitorPages, 0],
  ])("of %i it grants %i", (features, granted) => {
    const guest = new ScriptedGuest();
    expect(contact(guest, ProtocolVersion.v6_0, { features })).toMatchObject({
      supported: true,
      features: granted,
    });
  });

  test("none below", () => {
    const guest = new ScriptedGuest();
    expect(contact(guest, ProtocolVersion.v5_3, { features: 0xff }).features).toBe(0);
  });

  test("a ceiling of the host's", () => {
    const guest = new ScriptedGuest({ bus: { features: Feature.pauseResume } });
    expect(contact(guest, ProtocolVersion.v6_0, { features: 0xff }).features).toBe(0x20);
  });

  test("the host's own monitor pages, for a guest that asks for them", () => {
    const hostMonitorPages = { parentToChild: 0x7_0000, childToParent: 0x7_1000 };
    const guest = new ScriptedGuest({ bus: { hostMonitorPages } });
    const response = contact(guest, ProtocolVersion.v6_0, { features: Feature.hostMonitorPages });
    expect(response).toMatchObject({
      features: Feature.hostMonitorPages,
      parentToChildMonitorGpa: 0x7_0000,
      childToParentMonitorGpa: 0x7_1000,
    });
    expect(guest.partition.state.monitorPage).toBe(0x7_1000);
    expect(contact(guest, ProtocolVersion.v6_0).features).toBe(0);
    expect(guest.partition.state.monitorPage).toBeUndefined();
  });

  test("a client id that is announced must be there", () => {
    const guest = new ScriptedGuest();
    const bytes = InitiateContact.emit({
      version: ProtocolVersion.v6_0,
      targetVp: 0,
      interruptPageGpa: 0,
      sint: 2,
      vtl: 0,
      features: Feature.clientId,
      parentToChildMonitorGpa: 0,
      childToParentMonitorGpa: 0,
      clientId: NIL_GUID,
    });
    expect(guest.send(bytes.subarray(0, 40), 4)).toEqual([]);
    expect(guest.brokenRules).toEqual(["message-too-short"]);
  });

  test("new monitor pages, unless something is wrong with them", () => {
    const guest = new ScriptedGuest();
    guest.connect(ProtocolVersion.v6_0, { features: Feature.modifyConnection });
    const modify = (parentToChild: number, childToParent: number): unknown =>
      guest.send(
        ModifyConnection.emit({
          parentToChildMonitorGpa: parentToChild,
          childToParentMonitorGpa: childToParent,
        }),
      )[0]?.["connectionState"];
    expect(modify(0x5_0000, 0x5_1000)).toBe(0);
    expect(guest.partition.state.monitorPage).toBe(0x5_1000);
    expect(guest.brokenRules).toEqual([]);
    expect(modify(0x5_0000, 0)).toBe(2);
    expect(modify(0x5_0000, 0x5_1008)).toBe(2);
    expect(guest.partition.state.monitorPage).toBe(0x5_1000);
    expect(modify(0, 0)).toBe(0);
    expect(guest.partition.state.monitorPage).toBeUndefined();
    expect(guest.brokenRules).toEqual(["modify-connection"]);
  });
});

describe("pages of a contact", () => {
  test.each(all.map((version) => [formatVersion(version), version]))(
    "%s: one monitor page alone is a failure, told as the version can",
    (_, version) => {
      const guest = new ScriptedGuest();
      const response = contact(guest, version, { childToParentMonitorGpa: 0x5_0000 });
      const canTell = versionHas(version, "connectionState");
      expect(response).toMatchObject({ supported: canTell, connectionState: canTell ? 2 : 0 });
      expect(guest.partition.stats().state).toBe("disconnected");
      expect(guest.brokenRules).toEqual(["contact-monitor-pages"]);
    },
  );

  test.each([
    ["misaligned", { ...MONITOR, childToParentMonitorGpa: 0x5_0008 }],
    ["outside memory", { ...MONITOR, parentToChildMonitorGpa: 2 ** 40 }],
    ["nowhere at all", { ...MONITOR, parentToChildMonitorGpa: Number.MAX_SAFE_INTEGER }],
  ])("%s", (_, fields) => {
    const guest = new ScriptedGuest();
    expect(contact(guest, ProtocolVersion.v5_3, fields)).toMatchObject({ connectionState: 2 });
    expect(guest.brokenRules).toEqual(["contact-monitor-pages"]);
  });

  test("an interrupt page that is needed must be in memory", () => {
    const guest = new ScriptedGuest();
    const { v1_1, v2_4 } = ProtocolVersion;
    const fields = { interruptPageGpa: guest.memory.sizeBytes };
    expect(contact(guest, v1_1, fields).supported).toBe(false);
    expect(guest.brokenRules).toEqual(["contact-interrupt-page"]);
    // From 2.4 on nobody looks at it.
    expect(contact(guest, v2_4, fields).supported).toBe(true);
  });

  test("a guest below 2.4 without an interrupt page is accepted, and recorded", () => {
    const guest = new ScriptedGuest();
    expect(contact(guest, ProtocolVersion.v0_13, { interruptPageGpa: 0 }).supported).toBe(true);
    expect(guest.brokenRules).toEqual(["contact-interrupt-page"]);
  });
});

describe("where the answer goes", () => {
  const { v2_4, v3_0, v5_3 } = ProtocolVersion;
  test.each([
    ["2.4", v2_4, 0],
    ["3.0", v3_0, 1],
    ["5.3", v5_3, 1],
  ])("%s: to the processor of the contact, from 3.0 on", (_, version, vp) => {
    const guest = new ScriptedGuest({ vps: 2 });
    guest.version = version;
    const connection = version === v5_3 ? 4 : 1;
    const bytes = InitiateContact.emit({
      version,
      targetVp: 1,
      interruptPageGpa: 0,
      sint: 2,
      vtl: 0,
      features: 0,
      parentToChildMonitorGpa: 0,
      childToParentMonitorGpa: 0,
      clientId: NIL_GUID,
    });
    guest.post(bytes, connection);
    guest.post(RequestOffers.emit({}), 1, 1);
    do guest.partition.run();
    while (guest.takeMessages());
    expect(guest.received.map((received) => [received.vp, received.message.type])).toEqual([
      [vp, MessageType.versionResponse],
      [vp, MessageType.allOffersDelivered],
    ]);
  });

  test("a processor that does not exist is a failure, told to the first", () => {
    const guest = new ScriptedGuest();
    expect(contact(guest, v5_3, { targetVp: 3 })).toMatchObject({ connectionState: 2 });
    expect(guest.brokenRules).toEqual(["contact-target-vp"]);
  });

  test("another SINT is not supported, and does not disturb the connection", () => {
    const guest = new ScriptedGuest();
    guest.connect();
    // Its slot is SINT 5's, which this guest has masked.
    expect(guest.contact(v5_3, { sint: 5 })).toEqual([]);
    expect(guest.brokenRules).toEqual(["contact-target", "message-to-masked-sint"]);
    expect(guest.partition.stats().state).toBe("connected");
    expect(guest.contact(ProtocolVersion.v5_1, { vtl: 2 })).toMatchObject([{ supported: false }]);
    expect(guest.partition.stats()).toMatchObject({ state: "connected", version: "5.3" });
  });

  test("on connection 1 SINT and trust level do not count", () => {
    const guest = new ScriptedGuest();
    const bytes = InitiateContact.emit({
      version: v5_3,
      targetVp: 0,
      interruptPageGpa: 0,
      sint: 5,
      vtl: 2,
      features: 0,
      parentToChildMonitorGpa: 0,
      childToParentMonitorGpa: 0,
      clientId: NIL_GUID,
    });
    expect(guest.send(bytes, 1)).toMatchObject([{ supported: true }]);
    expect(guest.brokenRules).toEqual([]);
  });
});

describe("UNLOAD", () => {
  test.each(all.map((version) => [formatVersion(version), version]))("%s", (_, version) => {
    const guest = new ScriptedGuest();
    guest.partition.offer({
      classId: DeviceClass.kvp.classId,
      instanceId: DeviceClass.kvp.instanceIds[0],
      worker: 0,
    });
    guest.connect(version, { interruptPageGpa: INTERRUPT_PAGE });
    guest.requestOffers();
    const answer = version >= ProtocolVersion.v1_1 ? [{ type: MessageType.unloadResponse }] : [];
    expect(guest.send(Unload.emit({}))).toEqual(answer);
    expect(guest.partition.stats().state).toBe("disconnected");
    expect(guest.brokenRules).toEqual([]);
  });
});
