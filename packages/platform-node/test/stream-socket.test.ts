import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { connect, createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import {
  FixedMemory,
  nativeSockets,
  SOCKET_BROKEN,
  SOCKET_EMPTY,
  SOCKET_ENDED,
  StreamSocket,
} from "@hyperv-is/platform-node";
import { whyNot } from "./koffi.js";

const reason = whyNot("sockets that are read past Node");
if (reason !== undefined) console.log(reason);

const directory = mkdtempSync(join(tmpdir(), "stream-socket-"));
afterAll(() => rmSync(directory, { recursive: true }));

const ROOM_BYTES = 4096;
const MEMORY_BYTES = 1 << 20;

describe.skipIf(reason !== undefined).each(["unix", "TCP"])("a socket of %s", (family) => {
  let server: Server;
  let client: Socket;
  let accepted: Socket;
  let memory: FixedMemory;
  let stream: StreamSocket;
  beforeEach(async () => {
    const path = join(directory, "socket");
    server = createServer({ allowHalfOpen: true, pauseOnConnect: true });
    if (family === "unix") server.listen(path);
    else server.listen(0, "127.0.0.1");
    await once(server, "listening");
    const address = server.address() as string | { port: number };
    const connection = once(server, "connection") as Promise<[Socket]>;
    client =
      typeof address === "string"
        ? connect(address)
        : connect({ port: address.port, host: "127.0.0.1" });
    client.on("error", () => undefined);
    [accepted] = await connection;
    // Beside others in one buffer, as guest memory is.
    const bytes = new Uint8Array(new SharedArrayBuffer(MEMORY_BYTES + 4096), 4096);
    for (let at = 0; at < bytes.byteLength; at++) bytes[at] = (at * 31) >>> 3;
    memory = new FixedMemory(bytes);
    stream = new StreamSocket(StreamSocket.fdOf(accepted)!, memory, ROOM_BYTES);
  });
  afterEach(async () => {
    stream.close();
    accepted.destroy();
    client.destroy();
    server.close();
    await once(server, "close");
  });

  /** Waits, without a clock, until something has come. */
  async function received(): Promise<number> {
    for (;;) {
      const taken = stream.receive();
      if (taken !== SOCKET_EMPTY) return taken;
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  test("is read in pieces of its room, and says when nothing waits and when nothing comes any more", async () => {
    expect(stream.receive()).toBe(SOCKET_EMPTY);
    const sent = Buffer.from(memory.bytes.subarray(0, ROOM_BYTES + 100));
    client.end(sent);
    const pieces: Buffer[] = [];
    for (let taken = await received(); taken !== SOCKET_ENDED; taken = await received())
      pieces.push(Buffer.from(stream.received.subarray(0, taken)));
    expect(Buffer.concat(pieces).equals(sent)).toBe(true);
    expect(Math.max(...pieces.map(({ byteLength }) => byteLength))).toBe(ROOM_BYTES);
    expect(stream.receive()).toBe(SOCKET_ENDED);
  });

  test("has all that it sends arrive in order, however little of it the peer takes at a time", async () => {
    const want: Buffer[] = [];
    const done: number[] = [];
    let pieces = 0;
    const send = (bytes: Uint8Array): void => {
      const index = pieces++;
      want.push(Buffer.from(bytes));
      stream.send(bytes, () => done.push(index));
    };
    // More than the system takes at once, in more pieces than there is room for at first: of the memory, short ones, long ones.
    const round = (): void => {
      for (let piece = 0; piece < 100; piece++) {
        send(memory.bytes.subarray(piece * 8192 + piece, (piece + 1) * 8192));
        send(new Uint8Array(26).fill(piece));
        if (piece % 10 === 0) send(new Uint8Array(5000).fill(piece + 1));
      }
    };
    do round();
    while (stream.flush() === "sent");
    expect(done.length).toBeLessThan(pieces);
    // The first of those that wait is cut, and not at the beginning of the row.
    round();
    const got: Buffer[] = [];
    let gotBytes = 0;
    client.on("data", (bytes) => {
      got.push(bytes);
      gotBytes += bytes.byteLength;
    });
    let outcome = stream.flush();
    while (outcome === "blocked") {
      await new Promise((resolve) => setImmediate(resolve));
      outcome = stream.flush();
    }
    expect(outcome).toBe("sent");
    expect(stream.waitingBytes).toBe(0);
    expect(done).toEqual(Array.from({ length: pieces }, (_, index) => index));
    const all = Buffer.concat(want);
    while (gotBytes < all.byteLength) await once(client, "data");
    expect(Buffer.concat(got).equals(all)).toBe(true);
  });

  test("sends more pieces than the system takes in one call", async () => {
    const want = Buffer.alloc(5000);
    let done = 0;
    for (let piece = 0; piece < want.byteLength; piece++) {
      const at = piece * 7;
      want[piece] = memory.bytes[at]!;
      stream.send(memory.bytes.subarray(at, at + 1), () => done++);
    }
    expect(stream.flush()).toBe("sent");
    expect([done, stream.waitingBytes]).toEqual([want.byteLength, 0]);
    const got: Buffer[] = [];
    client.on("data", (bytes) => got.push(bytes));
    while (Buffer.concat(got).byteLength < want.byteLength) await once(client, "data");
    expect(Buffer.concat(got).equals(want)).toBe(true);
  });

  test("goes over the end of its row of pieces", async () => {
    const want: Buffer[] = [];
    let sent = 0;
    let done = 0;
    const send = (lengthBytes: number): void => {
      const at = (sent++ * 4099) % (MEMORY_BYTES - lengthBytes);
      const piece = memory.bytes.subarray(at, at + lengthBytes);
      want.push(Buffer.from(piece));
      stream.send(piece, () => done++);
    };
    // So many that some are sent and some are not, and in room for 128 pieces.
    for (let piece = 0; piece < 100; piece++) send(64 * 1024);
    expect(stream.flush()).toBe("blocked");
    expect(done).toBeGreaterThan(0);
    while (sent - done < 128) send(100);
    const got: Buffer[] = [];
    client.on("data", (bytes) => got.push(bytes));
    while (stream.flush() !== "sent") await new Promise((resolve) => setImmediate(resolve));
    const all = Buffer.concat(want);
    while (Buffer.concat(got).byteLength < all.byteLength) await once(client, "data");
    expect(Buffer.concat(got).equals(all)).toBe(true);
    expect(done).toBe(sent);
  });

  test("goes on when what is called at the end of one piece sends the next", async () => {
    let left = 500;
    const next = (): void => {
      if (left-- > 0) stream.send(memory.bytes.subarray(left, left + 1), next);
    };
    next();
    next();
    expect(stream.flush()).toBe("sent");
    let gotBytes = 0;
    client.on("data", (bytes) => (gotBytes += bytes.byteLength));
    while (gotBytes < 500) await once(client, "data");
    expect(stream.waitingBytes).toBe(0);
  });

  test("has the system hold as much as it is asked to", () => {
    const heldBytes = (): number => {
      for (let at = 0; at + 4096 <= MEMORY_BYTES; at += 4096)
        stream.send(memory.bytes.subarray(at, at + 4096), () => undefined);
      const { waitingBytes } = stream;
      expect(stream.flush()).toBe("blocked");
      const held = waitingBytes - stream.waitingBytes;
      stream.drop();
      return held;
    };
    stream.setSendBuffer(32 * 1024);
    const least = heldBytes();
    stream.setSendBuffer(128 * 1024);
    expect(heldBytes()).toBeGreaterThan(least);
  });

  test("tells the peer that nothing more comes, and goes on reading", async () => {
    stream.send(memory.bytes.subarray(0, 10), () => undefined);
    expect(stream.flush()).toBe("sent");
    stream.shutDown();
    client.resume();
    await once(client, "end");
    expect(await received()).toBe(SOCKET_ENDED);
  });

  test("is broken when the peer is gone, and forgets what waits when it is told to", async () => {
    let done = 0;
    const piece = (): void => stream.send(memory.bytes, () => done++);
    let pieces = 0;
    do {
      piece();
      pieces++;
    } while (stream.flush() === "sent");
    client.destroy();
    let outcome = stream.flush();
    while (outcome === "blocked") {
      await new Promise((resolve) => setImmediate(resolve));
      outcome = stream.flush();
    }
    expect(outcome).toBe("broken");
    stream.drop();
    expect([done, stream.waitingBytes]).toEqual([pieces, 0]);
  });

  test("is broken once it is closed, within what a sent piece calls as well", () => {
    stream.send(memory.bytes.subarray(0, 10), () => stream.close());
    for (let piece = 0; piece < 20; piece++) stream.send(memory.bytes, () => undefined);
    expect(stream.flush()).toBe("broken");
    expect(stream.receive()).toBe(SOCKET_BROKEN);
  });
});

test("sockets are read past Node unless the environment says otherwise", () => {
  expect(nativeSockets()).toBe(reason === undefined);
  vi.stubEnv("HYPERV_IS_NATIVE_SOCKETS", "on");
  expect(nativeSockets()).toBe(reason === undefined);
  vi.stubEnv("HYPERV_IS_NATIVE_SOCKETS", "off");
  expect(nativeSockets()).toBe(false);
  vi.stubEnv("HYPERV_IS_NATIVE_SOCKETS", "no");
  expect(() => nativeSockets()).toThrow(expect.objectContaining({ code: "ERR_BAD_SETTING" }));
  vi.unstubAllEnvs();
});
