import type { Channel } from "@hyperv-is/vmbus-core";
import { expect, test } from "vitest";
import { IcComponent, type IcChannel, type IcRequest, type IcService } from "../src/index.js";
import * as ic from "../src/protocol/index.js";
import { Rig } from "./rig.js";
import { vector } from "./vectors.js";

/** A component that keeps what it is asked. */
class Keeper implements IcService {
  readonly type = ic.IcMessageType.heartbeat;
  readonly frameworks = ic.frameworkVersions;
  readonly messages = ic.heartbeatVersions;
  readonly heard: string[] = [];
  readonly requests: IcRequest[] = [];
  readonly channel: IcChannel;
  /** Answers at once. */
  prompt = true;

  constructor(channel: IcChannel) {
    this.channel = channel;
  }

  agreed({ message }: ic.IcVersions): void {
    this.heard.push(`agreed ${message >>> 16}`);
  }

  request(request: IcRequest): void {
    this.heard.push("request");
    this.requests.push(request);
    if (this.prompt) this.channel.respond(request, 0, request.message.body);
  }

  cancelled(): void {
    this.heard.push("cancelled");
  }

  closed(reason: string): void {
    this.heard.push(`closed ${reason}`);
  }
}

interface Attached {
  readonly rig: Rig;
  readonly keeper: Keeper;
  readonly component: IcComponent;
}

async function attach(held = false): Promise<Attached> {
  const rig = new Rig();
  let keeper: Keeper | undefined;
  const serve = (channel: IcChannel): IcService => (keeper = new Keeper(channel));
  const component = await IcComponent.attach(rig.context, serve, { held });
  return { rig, keeper: keeper!, component };
}

test("a component opens its channel on the boot processor, hears, answers, and closes", async () => {
  const { rig, keeper, component } = await attach();
  expect(component.versions).toBeUndefined();
  expect(rig.negotiate(ic.heartbeatVersions)).toEqual({
    framework: ic.icVersion(3),
    message: ic.icVersion(3),
  });
  expect(component.versions?.message).toBe(ic.icVersion(3));
  rig.put(vector("V7"), 77);
  rig.run();
  expect(rig.received).toHaveLength(2);
  expect(rig.received[1]!.body).toEqual(vector("V7").subarray(28));
  expect(rig.ids[1]).toEqual([77, 0]);
  await component.detach();
  await component.detach();
  expect(keeper.heard).toEqual(["agreed 3", "request", "closed closed"]);
  expect(component.counters).toEqual({
    negotiations: 1,
    requests: 1,
    answers: 2,
    cancelled: 0,
    refused: 0,
    dropped: 0,
  });
  expect(rig.calls.join(", ")).toBe(
    "prepare 4+4 on 0, start on 0, bind, open, unbind closed, close",
  );
});

test("one request at a time: a second one is refused, and a negotiation voids the first", async () => {
  const { rig, keeper, component } = await attach();
  rig.negotiate(ic.heartbeatVersions);
  keeper.prompt = false;
  expect(rig.ask(vector("V7"))).toEqual([]);
  expect(rig.ask(vector("V7"))).toMatchObject([{ status: 0x8000_4005 }]);
  rig.negotiate(ic.heartbeatVersions);
  keeper.channel.respond(keeper.requests[0]!, 0, new Uint8Array());
  rig.run();
  expect(rig.received).toHaveLength(3);
  expect(keeper.heard).toEqual(["agreed 3", "request", "cancelled", "agreed 3"]);
  expect(component.counters).toMatchObject({ cancelled: 1, refused: 1 });
});

test("an answer that is given later is sent at once", async () => {
  const { rig, keeper } = await attach();
  rig.negotiate(ic.heartbeatVersions);
  keeper.prompt = false;
  rig.ask(vector("V7"));
  keeper.channel.respond(keeper.requests[0]!, ic.IcStatus.notFound, new Uint8Array());
  rig.run();
  expect(rig.received[1]).toMatchObject({ status: 0x8004_1002, body: new Uint8Array() });
});

test("a component that holds does not even read the offer of versions", async () => {
  const { rig, keeper, component } = await attach(true);
  expect(rig.ask(vector("V4"))).toEqual([]);
  expect(keeper.heard).toEqual([]);
  component.channel.listen();
  rig.run();
  expect(keeper.heard).toEqual(["agreed 3"]);
  component.channel.hold();
  expect(rig.ask(vector("V7"))).toEqual([]);
  component.channel.listen();
  rig.run();
  expect(rig.received).toHaveLength(2);
});

test("what is no request of a host is dropped, and the next one is heard", async () => {
  const { rig, component } = await attach();
  rig.negotiate(ic.heartbeatVersions);
  expect(rig.ask(new Uint8Array(8))).toEqual([]);
  rig.put(vector("V7"), 0, 11);
  rig.run();
  expect(component.counters.dropped).toBe(2);
  expect(rig.ask(vector("V7"))).toHaveLength(1);
});

/** Requests of a host that reads nothing, as many as there is room for: the guest answers until its ring is full. */
function flood(
  rig: Rig,
  { versions }: IcComponent,
): { readonly right: Channel; readonly sent: number } {
  const { right } = rig.connected!;
  const body = new Uint8Array(1000);
  const request = ic.emitIcMessage(ic.icRequest(ic.IcMessageType.heartbeat, body, versions!));
  right.pause();
  let sent = 0;
  for (let round = 0; round < 4; round++) {
    while (rig.put(request)) sent++;
    rig.run();
  }
  return { right, sent };
}

test("a host that does not read is not heard, and gets every answer when it does", async () => {
  const { rig, component } = await attach();
  rig.negotiate(ic.heartbeatVersions);
  const { right, sent } = flood(rig, component);
  expect(sent).toBeGreaterThan(20);
  expect(component.counters.requests).toBeLessThan(sent);
  right.resume();
  right.poll(100);
  rig.run();
  expect(rig.received).toHaveLength(1 + sent);
  expect(component.counters).toMatchObject({ requests: sent, refused: 0 });
});

test("while answers wait for room, listening anew reads nothing, and holding goes on when there is room", async () => {
  const { rig, component } = await attach();
  rig.negotiate(ic.heartbeatVersions);
  const { right, sent } = flood(rig, component);
  const { counters, channel } = component;
  const { requests } = counters;
  expect(requests).toBe(counters.answers);
  channel.hold();
  channel.listen();
  expect(counters.requests).toBe(requests);
  channel.hold();
  right.resume();
  right.poll(100);
  rig.run();
  expect(rig.received).toHaveLength(1 + requests);
  expect(counters.requests).toBe(requests);
  channel.listen();
  rig.run();
  expect(counters).toMatchObject({ requests: sent, refused: 0 });
});

test("a rescind ends it", async () => {
  const { rig, keeper } = await attach();
  rig.rescind();
  await Promise.resolve();
  expect(keeper.heard).toEqual(["closed rescinded"]);
  await Promise.resolve();
  expect(rig.calls.slice(-2)).toEqual(["unbind rescinded", "close"]);
});

test("a channel that the host does not open is taken back", async () => {
  const rig = new Rig();
  rig.openError = new Error("no");
  const attaching = IcComponent.attach(rig.context, (channel) => new Keeper(channel));
  await expect(attaching).rejects.toThrow("no");
  expect(rig.calls.slice(-3)).toEqual(["open", "unbind closed", "close"]);
});
