import { VirtualTimers } from "@hyperv-is/vmbus-core/testing";
import { expect, test } from "vitest";
import { NetvscError, RndisConversation } from "../src/index.js";
import * as protocol from "../src/protocol/index.js";
import { codeOf } from "./rig.js";

const { NvspStatus, Oid, RndisType } = protocol;
const TIMEOUT_MS = 1_000;

/** A conversation whose other end is the test. */
class Talk {
  readonly timers = new VirtualTimers();
  readonly sent: Uint8Array[] = [];
  readonly indicated: number[] = [];
  taken: ((status: number) => void)[] = [];
  canSend = true;
  /** Messages that were let go of. */
  readonly free: number[] = [];
  readonly conversation = new RndisConversation(this.timers, TIMEOUT_MS, {
    send: (message, taken) => {
      if (!this.canSend) return undefined;
      this.taken.push(taken);
      const count = this.sent.push(message);
      return () => void this.free.push(count - 1);
    },
    indicated: ({ status }) => this.indicated.push(status),
  });

  get lastId(): number {
    return protocol.get32(this.sent.at(-1)!, 8);
  }

  queryDone(information: Uint8Array = Uint8Array.of(1, 2, 3, 4), requestId = this.lastId): void {
    this.conversation.receive(protocol.emitRndisQueryComplete(requestId, 0, information));
  }
}

test("answers come in either order, and each ends one question", async () => {
  const talk = new Talk();
  const first = talk.conversation.query(Oid.genLinkSpeed);
  talk.queryDone();
  talk.taken[0]!(NvspStatus.success);
  expect(await first).toEqual(Uint8Array.of(1, 2, 3, 4));
  const second = talk.conversation.query(Oid.genLinkSpeed);
  talk.taken[1]!(NvspStatus.success);
  talk.queryDone(Uint8Array.of(9));
  expect(await second).toEqual(Uint8Array.of(9));
});

test("an answer shows that the question was read, and nothing else does", async () => {
  const talk = new Talk();
  const first = talk.conversation.query(Oid.genLinkSpeed);
  const second = talk.conversation.query(Oid.genLinkSpeed);
  talk.queryDone(undefined, talk.lastId + 1);
  expect(talk.free).toEqual([]);
  talk.queryDone();
  expect(talk.free).toEqual([0]);
  await first;
  talk.timers.advance(TIMEOUT_MS);
  expect(await codeOf(second)).toBe("ERR_NETVSC_TIMEOUT");
  expect(talk.free).toEqual([0]);
});

test("one question is asked at a time, by ids whose lower half is 0", async () => {
  const talk = new Talk();
  const answers = [1, 2, 3].map(() => talk.conversation.query(Oid.genLinkSpeed));
  for (let index = 1; index <= 3; index++) {
    expect(talk.sent).toHaveLength(index);
    expect(talk.lastId).toBe(index * 0x1_0000);
    talk.queryDone();
  }
  await Promise.all(answers);
});

test("what answers nothing is counted", async () => {
  const talk = new Talk();
  talk.conversation.receive(protocol.RndisSetComplete.emit({ requestId: 0, status: 0 }));
  const answer = talk.conversation.query(Oid.genLinkSpeed);
  const id = talk.lastId;
  talk.conversation.receive(protocol.RndisSetComplete.emit({ requestId: id, status: 0 }));
  talk.queryDone(undefined, id + 1);
  talk.queryDone();
  talk.queryDone();
  expect(await answer).toEqual(Uint8Array.of(1, 2, 3, 4));
  expect(talk.conversation.counters).toMatchObject({ unexpected: 4, malformed: 0, asked: 1 });
});

test("a late answer is not taken for that of the next question", async () => {
  const talk = new Talk();
  const late = talk.conversation.query(Oid.genLinkSpeed);
  const id = talk.lastId;
  talk.timers.advance(TIMEOUT_MS);
  expect(await codeOf(late)).toBe("ERR_NETVSC_TIMEOUT");
  const next = talk.conversation.query(Oid.genLinkSpeed);
  talk.queryDone(Uint8Array.of(7), id);
  talk.taken[0]!(NvspStatus.failure);
  talk.queryDone(Uint8Array.of(8));
  expect(await next).toEqual(Uint8Array.of(8));
});

test("each way to be refused has its error, and the next question is asked", async () => {
  const talk = new Talk();
  const outcomes = [
    codeOf(talk.conversation.query(Oid.genLinkSpeed)),
    codeOf(talk.conversation.set(Oid.genCurrentPacketFilter, Uint8Array.of(1, 0, 0, 0))),
    codeOf(talk.conversation.query(Oid.genLinkSpeed)),
  ];
  talk.taken[0]!(NvspStatus.failure);
  talk.conversation.receive(
    protocol.RndisSetComplete.emit({
      requestId: talk.lastId,
      status: protocol.RndisStatus.invalidData,
    }),
  );
  const broken = protocol.emitRndisQueryComplete(talk.lastId, 0, Uint8Array.of(1, 2));
  protocol.put32(broken, 16, 3);
  talk.conversation.receive(broken);
  talk.canSend = false;
  outcomes.push(codeOf(talk.conversation.query(Oid.genLinkSpeed)));
  expect(await Promise.all(outcomes)).toEqual([
    "ERR_NETVSC_REFUSED",
    "ERR_NETVSC_REFUSED",
    "ERR_NETVSC_REPLY",
    "ERR_NETVSC_BUSY",
  ]);
  const error = await talk.conversation
    .ask({ kind: "keepalive" })
    .catch((reason: unknown) => reason);
  expect((error as NetvscError).message).toBe("the host has not taken earlier messages");
});

test("its end ends every question, asked or not, and those that come later", async () => {
  const talk = new Talk();
  const outcomes = [
    codeOf(talk.conversation.query(Oid.genLinkSpeed)),
    codeOf(talk.conversation.query(Oid.genLinkSpeed)),
    codeOf(talk.conversation.ask({ kind: "halt" })),
  ];
  talk.conversation.close(new NetvscError("ERR_RESCINDED", "gone"));
  talk.conversation.close(new NetvscError("ERR_CLOSED", "again"));
  outcomes.push(
    codeOf(talk.conversation.query(Oid.genLinkSpeed)),
    codeOf(talk.conversation.ask({ kind: "halt" })),
  );
  talk.queryDone();
  expect(new Set(await Promise.all(outcomes))).toEqual(new Set(["ERR_RESCINDED"]));
  expect(talk.timers.pending).toBe(0);
});

test("HALT is over when the host has read it", async () => {
  const talk = new Talk();
  const halted = talk.conversation.ask({ kind: "halt" });
  expect(protocol.RndisHeader.parse(talk.sent[0]!)).toEqual({ type: RndisType.halt, length: 12 });
  talk.taken[0]!(NvspStatus.success);
  await halted;
  const late = codeOf(talk.conversation.ask({ kind: "halt" }));
  talk.timers.advance(TIMEOUT_MS);
  expect(await late).toBe("ERR_NETVSC_TIMEOUT");
  talk.canSend = false;
  expect(await codeOf(talk.conversation.ask({ kind: "halt" }))).toBe("ERR_NETVSC_BUSY");
});
