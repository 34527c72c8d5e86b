import { once } from "node:events";
import { connect, createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { setImmediate as eventLoopTurn } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { createDoorbells, FixedMemory, nativeSockets, type Pumped } from "@hyperv-is/platform-node";
import type { ByteStream, StreamPump } from "../src/nbd/byte-stream.js";
import { openStream } from "../src/nbd/open-stream.js";
import { PumpedStream } from "../src/nbd/pumped-stream.js";

/** A pump that a test turns by hand, and that is told by hand of news at a file. */
class HandPump implements StreamPump {
  readonly memory = new FixedMemory(new Uint8Array(2 ** 20));
  readonly doorbell = createDoorbells(1)[0]!;
  /** What the file is waited for. */
  waitsFor = { input: true, output: false };
  #news: (() => void) | undefined;
  #pumped: Pumped | undefined;

  /** True while the stream wants to hear of its file, and to be turned. */
  get isUsed(): boolean {
    return this.#news !== undefined || this.#pumped !== undefined;
  }

  watch(_fd: number, news?: () => void): () => void {
    this.#news = news;
    return () => (this.#news = undefined);
  }

  watchFor(_fd: number, input: boolean, output: boolean): void {
    this.waitsFor = { input, output };
  }

  drive(pumped: Pumped): () => void {
    this.#pumped = pumped;
    return () => (this.#pumped = undefined);
  }

  /** Tells of news. */
  tell(): void {
    this.#news?.();
  }

  /** @returns Whether there was work. */
  turn(): boolean {
    return this.#pumped?.drain() ?? false;
  }
}

describe.skipIf(!nativeSockets())("a stream, turn by turn", () => {
  let pump: HandPump;
  let server: Server;
  let client: Socket;
  let stream: ByteStream;
  let happened: (string | number)[];
  let closed: Promise<void>;
  beforeEach(async () => {
    pump = new HandPump();
    server = createServer({ allowHalfOpen: true, pauseOnConnect: true }).listen(0, "127.0.0.1");
    await once(server, "listening");
    const connection = once(server, "connection") as Promise<[Socket]>;
    const { port } = server.address() as AddressInfo;
    client = connect({ port, host: "127.0.0.1", allowHalfOpen: true });
    client.on("error", () => undefined);
    const [accepted] = await connection;
    happened = [];
    closed = new Promise((resolve) => {
      const user = {
        received: (_bytes: Uint8Array, end: number) => void happened.push(end),
        ended: () => void happened.push("ended"),
        closed() {
          happened.push("closed");
          resolve();
        },
      };
      stream = openStream(accepted, user, pump);
    });
    expect(stream).toBeInstanceOf(PumpedStream);
  });
  afterEach(async () => {
    stream.destroy();
    client.destroy();
    await closed;
    server.close();
    expect(pump.isUsed).toBe(false);
  });

  /** Turns the pump with news until something happens. */
  async function turnUntilSomething(): Promise<void> {
    const { length } = happened;
    while (happened.length === length) {
      await eventLoopTurn();
      pump.tell();
      pump.turn();
    }
  }

  /** Has bytes wait to be received. */
  async function fill(): Promise<void> {
    await new Promise((resolve) => client.write("what a client sends", resolve));
  }

  test("looks for what comes where it has news", async () => {
    expect(pump.turn()).toBe(false);
    await fill();
    expect(pump.turn()).toBe(false);
    pump.tell();
    expect(pump.turn()).toBe(true);
    expect(happened).toEqual([19]);
    expect(pump.turn()).toBe(false);
  });

  test("takes nothing while it is paused, whatever the news", async () => {
    stream.pause();
    expect(pump.waitsFor).toEqual({ input: false, output: false });
    await fill();
    expect(pump.turn()).toBe(false);
    pump.tell();
    expect(pump.turn()).toBe(false);
    expect(happened).toEqual([]);
    stream.resume();
    expect(pump.waitsFor).toEqual({ input: true, output: false });
    expect(pump.turn()).toBe(true);
    expect(happened).toEqual([19]);
  });

  test("says once that the client sends nothing more, and waits for no more of it", async () => {
    client.end();
    await turnUntilSomething();
    expect(happened).toEqual(["ended"]);
    expect(pump.waitsFor).toEqual({ input: false, output: false });
    stream.pause();
    stream.resume();
    pump.tell();
    expect(pump.turn()).toBe(false);
    expect(happened).toEqual(["ended"]);
    expect(pump.waitsFor).toEqual({ input: false, output: false });
  });

  test("sends what it is given without a turn, once the running code is done", async () => {
    let done = 0;
    stream.send(pump.memory.bytes.subarray(0, 100), () => done++);
    stream.send(pump.memory.bytes.subarray(0, 100), () => done++);
    expect([done, stream.waitingBytes]).toEqual([0, 200]);
    await Promise.resolve();
    expect([done, stream.waitingBytes]).toEqual([2, 0]);
    expect(pump.turn()).toBe(false);
  });

  test("waits for a client that takes nothing, and counts as work what it takes", async () => {
    let done = 0;
    let pieces = 0;
    while (!pump.waitsFor.output) {
      stream.send(pump.memory.bytes, () => done++);
      pieces++;
      await Promise.resolve();
    }
    expect(pump.turn()).toBe(false);
    client.resume();
    while (stream.waitingBytes > 0) {
      const { waitingBytes } = stream;
      await eventLoopTurn();
      pump.tell();
      expect(pump.turn()).toBe(stream.waitingBytes < waitingBytes);
    }
    expect(done).toBe(pieces);
    expect(pump.waitsFor).toEqual({ input: true, output: false });
  });

  test("closes when the client breaks the connection off", async () => {
    client.resetAndDestroy();
    await turnUntilSomething();
    expect(happened).toEqual(["closed"]);
    expect(pump.isUsed).toBe(false);
  });
});
