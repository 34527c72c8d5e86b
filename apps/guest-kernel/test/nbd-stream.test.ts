import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { connect, createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeEach, describe, expect, test } from "vitest";
import type { ByteStream } from "../src/nbd/byte-stream.js";
import { openStream } from "../src/nbd/open-stream.js";
import { PumpForStreams } from "./pump-for-streams.js";

const directory = mkdtempSync(join(tmpdir(), "nbd-stream-"));
afterAll(() => rmSync(directory, { recursive: true }));

describe.each([
  ["the pump", "TCP"],
  ["the pump", "unix"],
  ["Node", "TCP"],
])("a stream that %s reads and writes, over %s", (who, family) => {
  let pump: PumpForStreams;
  let server: Server;
  let client: Socket;
  let stream: ByteStream;
  let received: Buffer[];
  let happened: string[];
  /** Called when something has come. */
  let onReceived: () => void;
  let ended: Promise<void>;
  let closed: Promise<void>;
  beforeEach(async () => {
    pump = new PumpForStreams();
    server = createServer({ allowHalfOpen: true, pauseOnConnect: true });
    const path = join(directory, "socket");
    if (family === "unix") server.listen(path);
    else server.listen(0, "127.0.0.1");
    await once(server, "listening");
    const connection = once(server, "connection") as Promise<[Socket]>;
    const to =
      family === "unix"
        ? { path }
        : { port: (server.address() as AddressInfo).port, host: "127.0.0.1" };
    client = connect({ ...to, allowHalfOpen: true }).pause();
    client.on("error", () => undefined);
    const [accepted] = await connection;
    received = [];
    happened = [];
    onReceived = () => undefined;
    ended = new Promise((resolve) => {
      closed = new Promise((resolveClosed) => {
        const user = {
          received(bytes: Uint8Array, end: number) {
            received.push(Buffer.from(bytes.subarray(0, end)));
            onReceived();
          },
          ended() {
            happened.push("ended");
            resolve();
          },
          closed() {
            happened.push("closed");
            resolveClosed();
          },
        };
        stream = openStream(accepted, user, who === "Node" ? undefined : pump.streams);
      });
    });
  });
  afterEach(async () => {
    stream.destroy();
    client.destroy();
    await closed;
    server.close();
    await pump.stop();
    expect(pump.driven.size).toBe(0);
  });

  /** Sends pieces until some of them wait for the client to read. @returns All of them, and which are done. */
  async function sendTooMuch(): Promise<{ sent: Buffer; pieces: number; done: number[] }> {
    const done: number[] = [];
    const sent: Buffer[] = [];
    let pieces = 0;
    for (let quiet = 0; quiet < 10; quiet = stream.waitingBytes > 0 ? quiet + 1 : 0) {
      if (quiet === 0)
        for (let at = 0; at < 2 ** 20; at += 2 ** 17) {
          const index = pieces++;
          const piece = pump.memory.bytes.subarray(at, at + 2 ** 17);
          sent.push(Buffer.from(piece));
          stream.send(piece, () => done.push(index));
        }
      await new Promise((resolve) => setImmediate(resolve));
    }
    return { sent: Buffer.concat(sent), pieces, done };
  }

  test("goes on sending when a client reads again that had stopped", async () => {
    pump.memory.bytes.forEach((_, at, bytes) => (bytes[at] = (at * 31) >>> 3));
    const { sent, pieces, done } = await sendTooMuch();
    expect(done.length).toBeLessThan(pieces);
    const got: Buffer[] = [];
    client.on("data", (bytes) => got.push(bytes)).resume();
    stream.end();
    await once(client, "end");
    expect(Buffer.concat(got).equals(sent)).toBe(true);
    expect(done).toEqual(Array.from({ length: pieces }, (_, index) => index));
    client.end();
    await closed;
    expect(happened).toEqual(["ended", "closed"]);
  });

  if (who === "the pump" && family === "unix")
    test("has the system hold more for the client than it does unless it is asked", async () => {
      const { sent } = await sendTooMuch();
      const unaskedBytes = Number(readFileSync("/proc/sys/net/core/wmem_default", "utf8"));
      expect(sent.byteLength - stream.waitingBytes).toBeGreaterThan(1.5 * unaskedBytes);
    });

  test("gives back what waits when the client is gone, and says so once", async () => {
    const { pieces, done } = await sendTooMuch();
    client.destroy();
    await closed;
    expect(stream.isClosed).toBe(true);
    stream.send(pump.memory.bytes, () => done.push(pieces));
    expect(done).not.toContain(pieces);
    await Promise.resolve();
    expect(done).toEqual(Array.from({ length: pieces + 1 }, (_, index) => index));
    expect(happened.filter((what) => what === "closed")).toEqual(["closed"]);
  });

  test("takes nothing while it is paused, and all of it afterwards", async () => {
    const sent = Buffer.alloc(3_000_000, "what a client sends");
    const first = new Promise<void>((resolve) => {
      onReceived = () => {
        stream.pause();
        resolve();
      };
    });
    client.end(sent);
    await first;
    onReceived = () => happened.push("received");
    for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
    expect(happened).toEqual([]);
    stream.resume();
    await ended;
    expect(Buffer.concat(received).equals(sent)).toBe(true);
  });

  test("tells at its end at once that nothing more comes, and closes when the client ends, too", async () => {
    stream.end();
    await once(client.resume(), "end");
    expect(happened).toEqual([]);
    client.end();
    await closed;
    expect(happened).toEqual(["ended", "closed"]);
  });

  test("hears at its end what the client still has to say, though it was paused", async () => {
    stream.pause();
    stream.end();
    client.resume().end("the last words");
    await closed;
    expect(Buffer.concat(received).toString()).toBe("the last words");
    expect(happened).toEqual(["ended", "closed"]);
  });

  test("hears of a client that goes with its last bytes", async () => {
    client.write("the last words", () => client.destroy());
    await ended;
    expect(Buffer.concat(received).toString()).toBe("the last words");
    expect(happened).toEqual(["ended"]);
  });
});
