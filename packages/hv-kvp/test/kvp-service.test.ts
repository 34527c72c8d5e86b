import { IcMessageType, IcStatus } from "@hyperv-is/hv-utils/protocol";
import { describe, expect, test } from "vitest";
import { KvpDaemon, MemoryPools, attachDaemon, noNetwork } from "../src/index.js";
import * as protocol from "../src/protocol/index.js";
import { Rig, type TestDaemon } from "./rig.js";
import { body, vector } from "./vectors.js";

const { emitDeviceAnswer, freebsdDialect, linuxDialect, KvpOperation } = protocol;

/** A driver whose daemon serves, and whose versions are agreed. */
function served(options?: ConstructorParameters<typeof Rig>[0], version = 4) {
  const rig = new Rig(options);
  const daemon = rig.openDaemon();
  expect(rig.negotiate(version)).toBe(version);
  return { rig, daemon };
}

/** Answers what the daemon got last. */
function reply(daemon: TestDaemon, answer: protocol.DeviceAnswer): string | undefined {
  return daemon.file.write(emitDeviceAnswer(daemon.inbox.shift()!, answer));
}

describe("versions", () => {
  test.each([
    [[3, 4, 5], 5],
    [[4, 3], 4],
    [[3], 3],
    [[1], 1],
    [[2], 0],
    [[6], 0],
  ])("of %j the driver takes %i", (offered, chosen) => {
    const rig = new Rig();
    rig.openDaemon();
    expect(rig.negotiate(...offered)).toBe(chosen);
  });

  test("a driver that stops at 4.0, as FreeBSD's and Linux's do, is not talked into 5.0", () => {
    const rig = new Rig({ versions: [4 << 16, 3 << 16] });
    rig.openDaemon();
    expect(rig.negotiate(3, 4, 5)).toBe(4);
  });
});

describe.each([freebsdDialect, linuxDialect])("$name: requests and answers", (dialect) => {
  test("V14 becomes V38, and its answer V23", () => {
    const { rig, daemon } = served({ dialect });
    rig.request(body("V14"));
    expect(daemon.inbox[0]).toEqual(vector("V38").subarray(0, dialect.messageBytes));
    reply(daemon, { status: IcStatus.ok });
    expect(rig.take()).toMatchObject({ status: 0, flags: 5, body: new Uint8Array(0) });
  });

  test("numbers reach the daemon as unsigned text", () => {
    const { rig, daemon } = served({ dialect });
    for (const [id, value] of [
      ["V15", "4000000000"],
      ["V16", "1"],
    ] as const) {
      rig.request(body(id));
      expect(protocol.parseDeviceRequest(daemon.inbox[0]!)).toMatchObject({ value });
      reply(daemon, { status: IcStatus.ok });
      expect(rig.take()?.status).toBe(IcStatus.ok);
    }
  });

  test("V19 is answered by V20, and past the end by V21", () => {
    const { rig, daemon } = served({ dialect });
    rig.request(body("V19"));
    reply(daemon, { status: IcStatus.ok, item: { key: "OSName", value: "FreeBSD" } });
    expect(rig.take()?.body).toEqual(body("V20"));
    rig.request(body("V21"));
    reply(daemon, { status: IcStatus.noMoreItems });
    expect(rig.take()).toMatchObject({ status: IcStatus.noMoreItems, body: body("V21") });
  });

  test("GET gives the whole value, also of a stock daemon, which copies as many bytes as it is told", () => {
    const { rig, daemon } = served({ dialect });
    rig.request(body("V17"));
    const message = daemon.inbox.shift()!;
    const view = new DataView(message.buffer);
    const stored = protocol.emitPool([{ key: "color", value: "dark green" }]).subarray(512);
    const told = view.getUint32(4 + protocol.ValueLayout.valueBytes, true);
    message.set(stored.subarray(0, told), 4 + protocol.ValueLayout.value);
    view.setUint32(0, 0, true);
    daemon.file.write(message);
    expect(protocol.parseItemAnswer(rig.take()!.body)).toEqual({
      key: "color",
      value: "dark green",
    });
  });

  test("addresses are read and set in text form", () => {
    const { rig, daemon } = served({ dialect });
    const adapter = protocol.parseIpAnswer(body("V25"), "text")!;
    rig.request(body("V24"));
    reply(daemon, { status: IcStatus.ok, adapter });
    expect(protocol.parseIpAnswer(rig.take()!.body, "text")).toEqual(adapter);
    rig.request(body("V22"));
    expect(protocol.parseDeviceRequest(daemon.inbox[0]!)).toMatchObject({
      adapter: { adapterId: "{f8615163-df3e-46c5-913f-f2d2f965ed0e}" },
    });
    reply(daemon, { status: IcStatus.ok });
    expect(rig.take()?.status).toBe(IcStatus.ok);
  });

  test("version 5.0 has them in binary form, to the daemon they are text", () => {
    const { rig, daemon } = served({ dialect }, 5);
    rig.request(body("V26"));
    const text = protocol.parseDeviceRequest(daemon.inbox[0]!);
    const asText = protocol.parseKvpRequest(body("V22"), "text");
    expect(asText).toMatchObject((text as { adapter: object }).adapter);
    reply(daemon, { status: IcStatus.ok });
    rig.take();
    const adapter = protocol.parseIpAnswer(body("V25"), "text")!;
    rig.request(protocol.emitKvpRequest({ operation: 4, adapterId: adapter.adapterId }, "binary"));
    reply(daemon, { status: IcStatus.ok, adapter });
    expect(protocol.parseIpAnswer(rig.take()!.body, "binary")).toEqual(adapter);
  });

  test("statuses of the daemon reach the host unchanged", () => {
    const { rig, daemon } = served({ dialect });
    for (const status of [IcStatus.notFound, IcStatus.invalidArgument, 0x8007_0005]) {
      rig.request(body("V22"));
      reply(daemon, { status });
      expect(rig.take()?.status).toBe(status);
    }
  });
});

test("FreeBSD's daemon gets the name of the interface, and never an adapter that is not there", () => {
  const interfaceName = (guid: string) => (guid.startsWith("f8615163") ? "hn0" : undefined);
  const { rig, daemon } = served({ interfaceName });
  rig.request(body("V22"));
  expect(protocol.parseDeviceRequest(daemon.inbox[0]!)).toMatchObject({
    adapter: { adapterId: "hn0" },
  });
  reply(daemon, { status: IcStatus.ok });
  rig.take();
  const other = body("V22").slice();
  other[4] = "a".charCodeAt(0);
  rig.request(other);
  expect(rig.take()?.status).toBe(IcStatus.notFound);
  expect(daemon.inbox).toEqual([]);
});

test("hostile requests are refused before the daemon, and the next one is served", () => {
  const { rig, daemon } = served();
  const change = (id: string, at: number, value: number): Uint8Array => {
    const bytes = body(id).slice();
    bytes[at] = value;
    return bytes;
  };
  const endless = body("V14").slice();
  endless.fill(0x41, 16, 528);
  new DataView(endless.buffer).setUint32(8, 512, true);
  const index = body("V19").slice().fill(0xff, 4, 8);
  const item = protocol.IpTextLayout.addresses + 2;
  const long = body("V22").slice();
  protocol.writeUtf16(long.subarray(item, item + 2048).fill(0), "1".repeat(100));
  const injected = body("V22").slice();
  const subnets = protocol.IpTextLayout.subnets + 2;
  protocol.writeUtf16(
    injected.subarray(subnets, subnets + 2048).fill(0),
    "255.255.255.0;x\nEVIL=1",
  );
  const { invalidArgument, noMoreItems, notSupported, notFound } = IcStatus;
  for (const [hostile, status] of [
    [change("V14", 1, 200), invalidArgument],
    [change("V14", 0, 77), notSupported],
    [index, noMoreItems],
    [endless, invalidArgument],
    [change("V14", 18, 0), invalidArgument],
    [change("V14", 18, 10), invalidArgument],
    [change("V14", 17, 0xd8), invalidArgument],
    [long, invalidArgument],
    [injected, invalidArgument],
    [change("V22", 2, 0x68), notFound],
    [body("V14").slice(0, 100), invalidArgument],
    [new Uint8Array(0), invalidArgument],
  ] as const) {
    rig.request(hostile);
    expect(rig.take()?.status).toBe(status);
  }
  expect(daemon.inbox).toEqual([]);
  expect(rig.service.counters.refused).toBe(12);
  rig.request(body("V14"));
  reply(daemon, { status: IcStatus.ok });
  expect(rig.take()?.status).toBe(IcStatus.ok);
});

describe("the daemon's life", () => {
  test("without a daemon the host is not heard, the offer of versions included; a late one is served at once", () => {
    const rig = new Rig();
    expect(rig.negotiate(4)).toBeUndefined();
    rig.timers.advance(3_600_000);
    expect(rig.take()).toBeUndefined();
    const daemon = rig.openDaemon();
    expect(rig.chosen()).toBe(4);
    // What the host sets right behind, at a failover, is there for the daemon.
    rig.request(body("V22"));
    expect(daemon.inbox).toHaveLength(1);
  });

  test("an open without a registration is no daemon", () => {
    const rig = new Rig();
    const file = rig.service.device.open({ message: () => undefined, gone: () => undefined });
    if (typeof file === "string") throw new Error(file);
    expect(file.write(new Uint8Array(7430))).toBe("EINVAL");
    expect(file.write(new Uint8Array(7429))).toBe("EINVAL");
    expect(rig.negotiate(4)).toBeUndefined();
    expect(file.write(protocol.emitRegistration(freebsdDialect, 4))).toBeUndefined();
    expect(rig.chosen()).toBe(4);
  });

  test("one has the device at a time", () => {
    const rig = new Rig();
    const daemon = rig.openDaemon();
    expect(() => rig.openDaemon()).toThrow("EBUSY");
    daemon.file.close();
    rig.openDaemon();
    expect(daemon.file.write(new Uint8Array(7430))).toBe("EINVAL");
  });

  test("what is no whole message of the one that has the device answers nothing", () => {
    const { rig, daemon } = served();
    const old = daemon.file;
    old.close();
    const next = rig.openDaemon();
    old.close();
    expect(() => rig.openDaemon()).toThrow("EBUSY");
    rig.request(body("V14"));
    const answer = emitDeviceAnswer(next.inbox[0]!, { status: IcStatus.ok });
    expect(old.write(answer)).toBe("EINVAL");
    expect(next.file.write(answer.subarray(1))).toBe("EINVAL");
    expect(rig.take()).toBeUndefined();
    expect(next.file.write(answer)).toBeUndefined();
    expect(rig.take()?.status).toBe(IcStatus.ok);
  });

  test("addresses of a daemon that are none fail the request", () => {
    const { rig, daemon } = served();
    rig.request(body("V24"));
    const adapter = protocol.parseIpAnswer(body("V25"), "text")!;
    const answer = emitDeviceAnswer(daemon.inbox[0]!, { status: IcStatus.ok, adapter });
    answer[4 + protocol.IpTextLayout.addresses] = 0x78;
    expect(daemon.file.write(answer)).toBeUndefined();
    expect(rig.take()?.status).toBe(IcStatus.fail);
  });

  test("FreeBSD: a slow daemon costs the host 5 s, and so does the next request, until it writes", () => {
    const { rig, daemon } = served();
    rig.request(body("V14"));
    rig.timers.advance(4999);
    expect(rig.take()).toBeUndefined();
    rig.timers.advance(1);
    expect(rig.take()?.status).toBe(IcStatus.fail);
    rig.request(body("V18"));
    expect(daemon.inbox).toHaveLength(1);
    rig.timers.advance(5000);
    expect(rig.take()?.status).toBe(IcStatus.fail);
    // The late answer is dropped, and is taken for no other.
    expect(reply(daemon, { status: IcStatus.ok })).toBeUndefined();
    expect(rig.take()).toBeUndefined();
    rig.request(body("V18"));
    reply(daemon, { status: IcStatus.noMoreItems });
    expect(rig.take()?.status).toBe(IcStatus.noMoreItems);
    expect(rig.service.counters).toMatchObject({ timeouts: 2, late: 1, answered: 1 });
  });

  test("Linux: 30 s, and the late write is refused", () => {
    const { rig, daemon } = served({ dialect: linuxDialect });
    rig.request(body("V14"));
    rig.timers.advance(29_999);
    expect(rig.take()).toBeUndefined();
    rig.timers.advance(1);
    expect(rig.take()?.status).toBe(IcStatus.fail);
    expect(reply(daemon, { status: IcStatus.ok })).toBe("EINVAL");
  });

  test("FreeBSD: a daemon that dies with a request costs the host the rest of the 5 s; its successor serves", () => {
    const { rig, daemon } = served();
    rig.request(body("V14"));
    rig.timers.advance(1000);
    daemon.file.close();
    rig.timers.advance(3999);
    expect(rig.take()).toBeUndefined();
    const successor = rig.openDaemon();
    rig.timers.advance(1);
    expect(rig.take()?.status).toBe(IcStatus.fail);
    // Nothing of the dead one's is left for it to read.
    expect(successor.inbox).toEqual([]);
    rig.request(body("V18"));
    reply(successor, { status: IcStatus.ok });
    expect(rig.take()?.status).toBe(IcStatus.ok);
  });

  test("Linux: it costs the host nothing, and the host is not heard until the next one", () => {
    const { rig, daemon } = served({ dialect: linuxDialect });
    rig.request(body("V14"));
    daemon.file.close();
    expect(rig.take()?.status).toBe(IcStatus.fail);
    rig.request(body("V18"));
    rig.timers.advance(3_600_000);
    expect(rig.take()).toBeUndefined();
    const successor = rig.openDaemon();
    rig.run();
    expect(successor.inbox).toHaveLength(1);
  });

  test("a daemon that dies idle is nobody's loss: the next one goes on", () => {
    const { rig, daemon } = served();
    daemon.file.close();
    rig.request(body("V14"));
    rig.timers.advance(60_000);
    expect(rig.take()).toBeUndefined();
    const next = rig.openDaemon();
    rig.run();
    reply(next, { status: IcStatus.ok });
    expect(rig.take()?.status).toBe(IcStatus.ok);
  });

  test("a new agreement on versions drops the request; its answer is not sent", () => {
    const { rig, daemon } = served();
    rig.request(body("V14"));
    expect(rig.negotiate(4)).toBe(4);
    reply(daemon, { status: IcStatus.ok });
    expect(rig.take()).toBeUndefined();
    rig.request(body("V18"));
    reply(daemon, { status: IcStatus.ok });
    expect(rig.take()?.status).toBe(IcStatus.ok);
  });

  test("when the channel closes the daemon is told, and the device cannot be opened", () => {
    const { rig, daemon } = served();
    rig.close();
    expect(daemon.isGone).toBe(true);
    expect(daemon.file.write(new Uint8Array(7430))).toBe("EINVAL");
    expect(() => rig.openDaemon()).toThrow("ENXIO");
  });

  test("a request of another component is refused", () => {
    const { rig } = served();
    rig.send(IcMessageType.vss, new Uint8Array(32));
    expect(rig.take()?.status).toBe(IcStatus.notSupported);
  });
});

test("Linux's legacy daemon says with an empty key that there is no more, and sets no addresses", () => {
  const rig = new Rig({ dialect: linuxDialect });
  const daemon = rig.openDaemon(4);
  rig.negotiate(4);
  rig.request(body("V19"));
  const message = daemon.inbox.shift()!;
  message[0] = 77;
  daemon.file.write(message);
  expect(rig.take()?.status).toBe(IcStatus.noMoreItems);
  for (const id of ["V22", "V24"]) {
    rig.request(body(id));
    expect(rig.take()?.status).toBe(IcStatus.notSupported);
  }
});

test("our daemon and its driver, in one program", async () => {
  const rig = new Rig();
  const pools = new MemoryPools();
  const facts = {
    read: () => Promise.reject(new Error("nobody enumerates pool 2")),
  };
  const daemon = new KvpDaemon({ dialect: freebsdDialect, pools, facts, network: noNetwork });
  expect(attachDaemon(rig.service.device, daemon)).toBeDefined();
  rig.negotiate(4);
  const requests: [protocol.KvpRequest, number][] = [
    [{ operation: KvpOperation.set, pool: 0, key: "größe", value: "😀" }, IcStatus.ok],
    [{ operation: KvpOperation.get, pool: 0, key: "größe" }, IcStatus.ok],
    [{ operation: KvpOperation.delete, pool: 0, key: "größ" }, IcStatus.noMoreItems],
    [{ operation: KvpOperation.delete, pool: 0, key: "größe" }, IcStatus.ok],
    [{ operation: KvpOperation.get, pool: 0, key: "größe" }, IcStatus.noMoreItems],
  ];
  for (const [request, status] of requests) {
    rig.request(protocol.emitKvpRequest(request, "text"));
    while (rig.received.length === 0) {
      await Promise.resolve();
      rig.run();
    }
    const answer = rig.take()!;
    expect(answer.status).toBe(status);
    if (request.operation === KvpOperation.get && status === IcStatus.ok)
      expect(protocol.parseItemAnswer(answer.body)).toEqual({ key: "größe", value: "😀" });
  }
});
