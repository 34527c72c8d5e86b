import { spawnSync } from "node:child_process";
import { randomFillSync } from "node:crypto";
import { once } from "node:events";
import {
  existsSync,
  linkSync,
  mkdtempSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { createServer, type AddressInfo, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { VirtualTimers } from "@hyperv-is/vmbus-core/testing";
import {
  boot,
  scsiControllerId,
  type BootDisk,
  type BootOptions,
  type Machine,
} from "@hyperv-is/guest-kernel";
import { NbdConnection } from "../src/nbd/nbd-connection.js";
import { Cmd, Flag, NbdClient, socketOf } from "./nbd-client.js";
import { big, clientFlags, infoOption, option, request } from "./nbd-wire.js";
import { PumpForStreams } from "./pump-for-streams.js";

const directory = mkdtempSync(join(tmpdir(), "guest-nbd-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const MIB = 2 ** 20;
const [EPERM, EIO, EINVAL, ENOSPC, ESHUTDOWN] = [1, 5, 22, 28, 108];

const ram = (sizeBytes = 8 * MIB): BootDisk => ({
  kind: "ram",
  sizeBytes,
  identity: randomFillSync(new Uint8Array(16)),
});
const random = (length: number): Buffer => randomFillSync(Buffer.alloc(length));

/** Resolves when a connection is closed, however that came about. */
function closeOf(socket: Socket): Promise<void> {
  socket.on("error", () => undefined);
  return new Promise((resolve) => socket.once("close", () => resolve()));
}

let made = 0;
const newSocket = (): string => join(directory, `${made++}.sock`);

/** A machine with one disk, which is served. */
async function serve(options: BootOptions = {}): Promise<Machine & { uri: string }> {
  const machine = await boot({
    disks: [ram()],
    nbd: [{ disk: "da0", unix: newSocket() }],
    ...options,
  });
  return Object.assign(machine, { uri: machine.nbd[0]!.uri });
}

describe("a disk that has trouble", () => {
  test("late, doubled and disordered completions change nothing but the order of replies", async () => {
    await using machine = await serve({
      faults: {
        seed: 5,
        faults: [
          { kind: "late-completion", operation: "read", probability: 0.3, delayMs: 3 },
          { kind: "duplicate-completion", operation: "write", probability: 0.3 },
        ],
      },
    });
    for (const structured of [true, false]) {
      const client = await NbdClient.connect(machine.uri, { structured });
      const data = random(4 * MIB);
      const blocks = Array.from({ length: 64 }, (_, at) => at * 65536);
      const part = (at: number): Buffer => data.subarray(at, at + 65536);
      const written = await Promise.all(blocks.map((at) => client.write(at, part(at))));
      expect(written.map(({ error }) => error)).toEqual(blocks.map(() => 0));
      const read = await Promise.all(blocks.map((at) => client.read(at, 65536)));
      expect(read.every((answer, index) => answer.data.equals(part(blocks[index]!)))).toBe(true);
      expect((await client.read(0, 4 * MIB)).data.equals(data)).toBe(true);
      await client.close();
    }
    expect(machine.host.violations).toEqual([]);
  });

  describe("for good", () => {
    let machine: Machine & { uri: string };
    beforeAll(async () => {
      machine = await serve();
    });
    afterAll(() => machine.shutdown());

    /** Sense key and additional sense of a command that fails for good, and what the client hears. */
    test.each([
      ["a medium error", "read", 3, 0x11, 0, EIO],
      ["a write fault", "write", 3, 3, 0, EIO],
      ["no space at the host", "write", 7, 0x27, 7, ENOSPC],
      ["write protection", "write", 7, 0x27, 0, EPERM],
      ["a range that is not there", "read", 5, 0x21, 0, EINVAL],
      ["a failed flush", "flush", 3, 3, 0, EIO],
    ] as const)(
      "%s is told, and the connection goes on",
      async (_name, operation, senseKey, code, qualifier, error) => {
        await machine.host.setFaults({
          faults: [
            {
              kind: "check-condition",
              operation,
              probability: 1,
              senseKey,
              additionalCode: code,
              additionalQualifier: qualifier,
            },
          ],
        });
        for (const structured of [true, false]) {
          const client = await NbdClient.connect(machine.uri, { structured });
          const answers = await Promise.all([
            client.read(0, 4096),
            client.write(4096, random(4096)),
            client.command(Cmd.flush),
            client.write(8192, random(512), Flag.fua),
            client.read(0, MIB),
            client.write(0, random(MIB)),
          ]);
          const fails = [
            operation === "read",
            operation === "write",
            operation === "flush",
            operation !== "read",
            operation === "read",
            operation === "write",
          ];
          expect(answers.map((answer) => answer.error)).toEqual(
            fails.map((is) => (is ? error : 0)),
          );
          await client.close();
        }
        expect(machine.host.violations).toEqual([]);
      },
    );
  });

  test("an error behind the header of a long simple read cuts the connection, since it cannot be told", async () => {
    await using machine = await serve({
      disks: [ram(16 * MIB)],
      faults: {
        // A few parts in the middle, as often as the driver tries them.
        faults: Array.from({ length: 24 }, (_, at) => ({
          kind: "check-condition" as const,
          operation: "read" as const,
          nth: 12 + at,
          senseKey: 3,
          additionalCode: 0x11,
          additionalQualifier: 0,
        })),
      },
    });
    const client = await NbdClient.connect(machine.uri, { structured: false });
    await expect(client.read(0, 8 * MIB)).rejects.toThrow("the connection is closed");
    const next = await NbdClient.connect(machine.uri, { structured: false });
    expect((await next.read(0, 8 * MIB)).error).toBe(0);
    await next.close();
  });

  test("a unit attention is acted on and never seen", async () => {
    await using machine = await serve({
      faults: {
        seed: 9,
        faults: [
          // Power on or reset: news, no failure.
          {
            kind: "check-condition",
            probability: 0.05,
            senseKey: 6,
            additionalCode: 0x29,
            additionalQualifier: 0,
          },
        ],
      },
    });
    const client = await NbdClient.connect(machine.uri);
    const answers = await Promise.all(
      Array.from({ length: 200 }, (_, at) => client.read((at % 64) * 65536, 65536)),
    );
    expect(answers.filter(({ error }) => error !== 0)).toEqual([]);
    await client.close();
  });

  test("a controller that is taken away ends what is under way; when it is back, so is the export", async () => {
    await using machine = await serve();
    const client = await NbdClient.connect(machine.uri);
    const back = new Promise<void>((resolve) => {
      const seen = machine.dmesg.length;
      const look = async (): Promise<void> => {
        // Each command at the console is a turn of the guest.
        while (!machine.dmesg.slice(seen).some((line) => line.startsWith("da0: 8MB")))
          await machine.exec("true");
        resolve();
      };
      void look();
    });
    let errors = 0;
    let lastError = 0;
    const load = async (): Promise<void> => {
      while (lastError === 0) {
        lastError = (await client.read(0, 65536)).error;
        errors += lastError === 0 ? 0 : 1;
      }
    };
    const loads = Promise.all(Array.from({ length: 16 }, load));
    expect(machine.host.rescind(scsiControllerId(0), 50)).toBe(true);
    await loads;
    expect([errors > 0, lastError]).toEqual([true, ESHUTDOWN]);
    expect((await client.write(0, random(512))).error).toBe(ESHUTDOWN);
    expect((await client.command(Cmd.flush)).error).toBe(ESHUTDOWN);
    expect((await client.command(Cmd.status, 0, 512)).error).toBe(ESHUTDOWN);
    await client.close();
    await back;
    const again = await NbdClient.connect(machine.uri);
    expect((await again.read(0, 65536)).error).toBe(0);
    await again.close();
    expect(machine.host.violations).toEqual([]);
  });
});

/** Connections are read past Node where koffi is installed, and by Node where not. */
const sockets = ["on", "off"] as const;

describe.each(sockets)("clients that do not keep to the protocol, native sockets %s", (native) => {
  let machine: Machine & { uri: string };
  beforeAll(async () => {
    vi.stubEnv("HYPERV_IS_NATIVE_SOCKETS", native);
    machine = await serve({
      nbd: [
        { disk: "da0", unix: newSocket() },
        { disk: "da0", port: 0 },
      ],
    });
    vi.unstubAllEnvs();
  });
  afterAll(async () => {
    // Nobody has done the guest any harm.
    const client = await NbdClient.connect(machine.uri);
    expect((await client.read(0, MIB)).error).toBe(0);
    await client.close();
    expect(machine.host.violations).toEqual([]);
    await machine.shutdown();
  });

  const enter = Buffer.concat([clientFlags(), option(8), infoOption(7, "")]);
  const read = request({ type: Cmd.read, length: 4096 });
  const cases: [string, Buffer][] = [
    ["noise instead of a handshake", Buffer.alloc(100_000, "GET / HTTP/1.1\r\n")],
    ["flags that nobody offered", clientFlags(0x104)],
    [
      "an option of 4 GiB",
      Buffer.concat([clientFlags(), option(7).subarray(0, 12), big(4, 0xffff_ffff)]),
    ],
    [
      "a broken magic behind requests",
      Buffer.concat([enter, read, read, request({ type: 0, magic: 1 })]),
    ],
    ["noise instead of requests", Buffer.concat([enter, random(100_000)])],
    [
      "a write of 4 GiB",
      Buffer.concat([enter, request({ type: Cmd.write, length: 0xffff_fe00 }), random(100_000)]),
    ],
  ];
  test.each(cases)("%s ends the connection", async (_name, bytes) => {
    for (const { uri } of machine.nbd) {
      const socket = socketOf(uri);
      const closed = closeOf(socket.resume());
      socket.write(bytes);
      await closed;
    }
  });

  test("those cut are counted", async () => {
    const { stdout } = await machine.exec("sysctl -n kern.nbd.da0.violations");
    expect(Number(stdout)).toBe(6);
  });

  test.each([
    ["the handshake", clientFlags().subarray(0, 2)],
    ["an option", option(7).subarray(0, 9)],
    ["a request", Buffer.concat([enter, read, read.subarray(0, 20)])],
    [
      "the data of a write",
      Buffer.concat([enter, request({ type: Cmd.write, length: MIB }), random(200_000)]),
    ],
    ["nothing", Buffer.alloc(0)],
  ])("one that goes in the middle of %s is forgotten", async (_name, bytes) => {
    for (const how of ["end", "destroy"] as const) {
      const socket = socketOf(machine.uri);
      const closed = closeOf(socket);
      await once(socket, "data");
      socket.resume().write(bytes, () => socket[how]());
      await closed;
    }
  });

  test("one that only listens any more gets all that it had asked for", async () => {
    const client = await NbdClient.connect(machine.uri);
    const answers = Promise.all(Array.from({ length: 100 }, () => client.read(0, 65536)));
    client.socket.end();
    expect((await answers).every(({ error }) => error === 0)).toBe(true);
    await client.closed;
  });

  test("one that takes no replies stops itself and nobody else", async () => {
    const deaf = await NbdClient.connect(machine.uri);
    deaf.socket.pause();
    const flood = request({ type: Cmd.read, length: 131072 });
    const wrong = request({ type: 99 });
    // Until the server stops reading, and the system's buffers are full.
    while (deaf.socket.write(Buffer.concat([flood, wrong])));
    const client = await NbdClient.connect(machine.uri);
    for (let count = 0; count < 50; count++) expect((await client.read(0, 65536)).error).toBe(0);
    await client.close();
    deaf.socket.destroy();
    await deaf.closed;
  });

  test("bytes that come one at a time are requests all the same", async () => {
    const socket = socketOf(machine.uri);
    await once(socket, "data");
    const bytes = Buffer.concat([
      enter,
      request({ type: Cmd.write, data: random(512) }),
      request({ type: 2 }),
    ]);
    let received = 0;
    socket.on("data", (data) => (received += data.byteLength));
    for (const byte of bytes)
      await new Promise((resolve) => socket.write(Uint8Array.of(byte), resolve));
    await once(socket, "close");
    // Three replies to options with 12 + 14 bytes of data but one, and the reply to the write.
    expect(received).toBe(20 + (20 + 12) + (20 + 14) + 20 + 16);
  });

  test("more clients than there is room for are told so, and the next one comes in when one leaves", async () => {
    const clients: NbdClient[] = [];
    const refused = async (): Promise<string> => {
      for (;;) {
        try {
          clients.push(await NbdClient.connect(machine.uri));
        } catch (error) {
          return (error as Error).message;
        }
      }
    };
    expect(await refused()).toMatch(/^policy: /);
    expect(clients.length).toBeGreaterThanOrEqual(6);
    expect((await clients.at(-1)!.read(0, 4096)).error).toBe(0);
    await clients.pop()!.close();
    const next = await NbdClient.connect(machine.uri);
    expect((await next.read(0, 4096)).error).toBe(0);
    await Promise.all([next, ...clients].map((client) => client.close()));
  });
});

describe.each(sockets)("a client in its handshake, native sockets %s", (native) => {
  /** A connection of a server without exports, with its client. */
  async function connection() {
    const timers = new VirtualTimers();
    const pump = new PumpForStreams();
    let release: () => void;
    const released = new Promise<void>((resolve) => (release = resolve));
    const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (accepted) => {
      new NbdConnection(accepted, {
        exports: [],
        timers,
        pump: native === "on" ? pump.streams : undefined,
        isShuttingDown: false,
        turnNow: () => undefined,
        released: () => release(),
      });
    }).listen(0, "127.0.0.1");
    await once(server, "listening");
    const socket = socketOf(`nbd://127.0.0.1:${(server.address() as AddressInfo).port}/`);
    await once(socket, "data");
    /** Waits until both ends are closed, and looks whether anything is left. */
    const end = async (): Promise<void> => {
      if (!socket.closed) await closeOf(socket.resume());
      server.close();
      await Promise.all([once(server, "close"), released]);
      expect([timers.pending, pump.driven.size]).toEqual([0, 0]);
      await pump.stop();
    };
    return { timers, socket, end };
  }

  test("is cut off when it does not get to its first request in time", async () => {
    const { timers, socket, end } = await connection();
    timers.advance(29_999);
    expect(socket.destroyed).toBe(false);
    timers.advance(1);
    await end();
  });

  test("is cut off when it asks on and on and reads no answers", async () => {
    const { socket, end } = await connection();
    socket.pause().write(clientFlags());
    const flood = Buffer.concat(Array<Buffer>(4096).fill(option(3)));
    const closed = closeOf(socket);
    while (!socket.closed)
      if (!socket.write(flood))
        await Promise.race([closed, new Promise((resolve) => socket.once("drain", resolve))]);
    await end();
  });
});

// Most of this is waiting.
describe.concurrent("one machine beside another", () => {
  describe("when the guest shuts down", () => {
    test("what is under way is answered, what comes later refused, and the socket is gone", async () => {
      const machine = await serve({
        faults: {
          faults: [{ kind: "late-completion", operation: "write", probability: 1, delayMs: 2500 }],
        },
      });
      const path = new URL(machine.uri).searchParams.get("socket")!;
      const client = await NbdClient.connect(machine.uri);
      const idle = await NbdClient.connect(machine.uri);
      const greeted = socketOf(machine.uri);
      await once(greeted, "data");
      const cut = closeOf(greeted.resume());
      const data = random(4096);
      const under = Promise.all(
        Array.from({ length: 8 }, (_, at) => client.write(at * 4096, data)),
      );
      // The guest has them when it answers a later request that needs no disk.
      expect((await client.read(1, 512)).error).toBe(EINVAL);
      const off = machine.shutdown();
      await idle.closed;
      const late = await client.read(0, 512);
      expect(late.error).toBe(ESHUTDOWN);
      expect((await under).map(({ error }) => error)).toEqual(Array(8).fill(0));
      await client.closed;
      await cut;
      await off;
      expect(existsSync(path)).toBe(false);
      await expect(NbdClient.connect(machine.uri)).rejects.toThrow();
    });

    test("a client that fetches no replies does not keep it", async () => {
      const machine = await serve();
      const client = await NbdClient.connect(machine.uri);
      client.socket.pause();
      for (let count = 0; count < 64; count++)
        client.socket.write(request({ type: Cmd.read, length: 131072 }));
      await machine.exec("true");
      await machine.shutdown();
      client.socket.resume();
      await client.closed;
    });
  });

  describe("where a disk is served", () => {
    describe("one after the other", { concurrent: false }, () => {
      const refusal = (nbd: BootOptions["nbd"]) =>
        boot({ disks: [ram(MIB)], nbd: nbd! }).then(
          (machine) => machine.shutdown().then(() => "booted"),
          (error: unknown) => {
            const { code, message } = error as { code: string; message: string };
            return `${code}: ${message}`;
          },
        );

      test("only this user may connect to a unix socket", async () => {
        await using machine = await serve();
        const path = new URL(machine.uri).searchParams.get("socket")!;
        expect(statSync(path).mode.toString(8)).toBe("140600");
      });

      test("a socket that nobody serves any more is replaced; one that is served, and what is none, is not", async () => {
        const path = newSocket();
        const orphan = spawnSync(process.execPath, [
          "-e",
          "require('net').createServer().listen(process.argv[1], () => process.kill(process.pid, 'SIGKILL'))",
          path,
        ]);
        expect([orphan.signal, statSync(path).isSocket()]).toEqual(["SIGKILL", true]);
        await using machine = await boot({ disks: [ram()], nbd: [{ disk: "da0", unix: path }] });
        const client = await NbdClient.connect(machine.nbd[0]!.uri);
        expect(await refusal([{ disk: "da0", unix: path }])).toBe(
          `ERR_NBD: ${path}: another program serves there`,
        );
        expect((await client.read(0, 512)).error).toBe(0);
        await client.close();

        const file = join(directory, "file");
        writeFileSync(file, "precious");
        expect(await refusal([{ disk: "da0", unix: file }])).toBe(
          `ERR_NBD: ${file}: is there, and is no socket`,
        );
        const link = join(directory, "link");
        symlinkSync(join(directory, "elsewhere"), link);
        expect(await refusal([{ disk: "da0", unix: link }])).toBe(
          `ERR_NBD: ${link}: is there, and is no socket`,
        );
      });

      test("what has taken the socket's place is left alone at the end", async () => {
        const machine = await serve();
        const path = new URL(machine.uri).searchParams.get("socket")!;
        const other = join(directory, "other");
        writeFileSync(other, "somebody else's");
        rmSync(path);
        linkSync(other, path);
        await machine.shutdown();
        expect(existsSync(path)).toBe(true);
      });

      test("what cannot be served keeps the guest from booting, and says why", async () => {
        const busy = createServer().listen(0, "127.0.0.1");
        await once(busy, "listening");
        const { port } = busy.address() as AddressInfo;
        const path = newSocket();
        expect(await refusal([{ disk: "da7", unix: path }])).toBe(
          "ERR_NBD: NBD export da7: the guest has no such disk; it has da0",
        );
        expect(
          await refusal([
            { disk: "da0", unix: path },
            { disk: "da0", port },
          ]),
        ).toMatch(/^ERR_NBD: NBD: listen EADDRINUSE/);
        expect(existsSync(path)).toBe(false);
        busy.close();
        const deep = join(directory, "a".repeat(120));
        expect(await refusal([{ disk: "da0", unix: deep }])).toContain(
          "too long for a socket's path",
        );
        expect(await refusal([{ disk: "da0", unix: "/nowhere/x.sock" }])).toContain(
          "/nowhere/x.sock: there is no directory /nowhere",
        );
        expect(await refusal([{ disk: "da0", host: "0.0.0.0", port: 1 }])).toContain(
          "loopback addresses only",
        );
      });
    });
  });
});
