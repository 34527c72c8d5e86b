import { createHash, randomFillSync } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { createImageFile } from "@hyperv-is/vhd/node";
import { boot, type BootDisk, type Machine } from "@hyperv-is/guest-kernel";
import { Cmd, Flag, NbdClient, type ClientOptions } from "./nbd-client.js";

const directory = mkdtempSync(join(tmpdir(), "guest-nbd-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const MIB = 2 ** 20;
const DISK_BYTES = 40 * MIB;
const [EPERM, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP] = [1, 22, 28, 75, 95];
const HOLE_OF_ZEROES = 3;
const DATA = 0;

const ram = (sizeBytes: number, more = {}): BootDisk => ({
  kind: "ram",
  sizeBytes,
  identity: randomFillSync(new Uint8Array(16)),
  ...more,
});
const random = (length: number): Buffer => randomFillSync(Buffer.alloc(length));

const styles: [string, ClientOptions][] = [
  ["in chunks", { structured: true }],
  ["in simple replies", { structured: false }],
];

/** Connections are read past Node where koffi is installed, and by Node where not. */
describe.each([
  ["on", [512, 4096, 128 * 1024, 128 * 1024 + 512, MIB, 9 * MIB + 1024, 32 * MIB]],
  ["off", [512, 4096, 128 * 1024, MIB, 9 * MIB + 1024]],
])("a guest's disks, served to clients with native sockets %s", (nativeSockets, lengths) => {
  const image = join(directory, `sparse-${nativeSockets}.vhdx`);
  const socket = join(directory, `${nativeSockets}.sock`);
  let machine: Machine;
  let unix: string;
  let tcp: string;
  beforeAll(async () => {
    (
      await createImageFile(image, { format: "vhdx-dynamic", sizeBytes: 64 * MIB, blockBytes: MIB })
    ).close();
    vi.stubEnv("HYPERV_IS_NATIVE_SOCKETS", nativeSockets);
    machine = await boot({
      disks: [
        ram(DISK_BYTES),
        image,
        ram(MIB, { readOnly: true }),
        ram(MIB, { logicalSectorBytes: 4096 }),
      ],
      nbd: [
        { disk: "da0", unix: socket },
        { disk: "da1", unix: socket },
        { disk: "da2", unix: socket },
        { disk: "da3", unix: socket },
        { disk: "da0", port: 0 },
      ],
    });
    vi.unstubAllEnvs();
    unix = machine.nbd[0]!.uri;
    tcp = machine.nbd[4]!.uri;
  });
  afterAll(async () => {
    expect(machine.host.violations).toEqual([]);
    await machine.shutdown();
  });

  const flushes = async (disk: number): Promise<number> =>
    (await machine.host.stats()).controllers[0]!.disks[disk]!.flushes;

  test("are told with their size and what they can do", async () => {
    expect(machine.nbd.map(({ disk, uri }) => [disk, uri])).toEqual([
      ...["da0", "da1", "da2", "da3"].map((disk) => [disk, `nbd+unix:///${disk}?socket=${socket}`]),
      ["da0", expect.stringMatching(/^nbd:\/\/127\.0\.0\.1:\d+\/da0$/)],
    ]);
    const told: [string, number, number][] = [];
    for (const exportName of ["", "da1", "da2", "da3"]) {
      const client = await NbdClient.connect(unix, { exportName });
      told.push([exportName, client.sizeBytes, client.flags]);
      await client.close();
    }
    // Flush, FUA, trim, zeroes, DF, several connections, cache and fast zeroes; without what writes on da2.
    expect(told).toEqual([
      ["", DISK_BYTES, 0x0ded],
      ["da1", 64 * MIB, 0x0ded],
      ["da2", MIB, 0x058f],
      ["da3", MIB, 0x0ded],
    ]);
    await expect(NbdClient.connect(tcp, { exportName: "da1" })).rejects.toThrow("unknown");
  });

  describe.each(styles)("%s", (_name, options) => {
    test.each(lengths)(
      "%i bytes come back as they were written, also to another client and to the guest",
      async (length) => {
        const client = await NbdClient.connect(unix, options);
        const other = await NbdClient.connect(tcp, options);
        const data = random(length);
        const offset = DISK_BYTES - length - 512;
        expect((await client.write(offset, data)).error).toBe(0);
        const [own, others] = await Promise.all([
          client.read(offset, length),
          other.read(offset, length),
        ]);
        expect([own.error, own.data.equals(data)]).toEqual([0, true]);
        expect([others.error, others.data.equals(data)]).toEqual([0, true]);
        await Promise.all([client.close(), other.close()]);
        const blocks = length / 512;
        const { stdout } = await machine.exec(
          `dd if=/dev/da0 of=/dev/da1 skip=${offset / 512} bs=512 count=${Math.min(blocks, 9)} status=none; ` +
            `dd if=/dev/da1 bs=512 count=${Math.min(blocks, 9)} status=none | sha256`,
        );
        const first = data.subarray(0, 512 * Math.min(blocks, 9));
        expect(stdout.trim()).toBe(createHash("sha256").update(first).digest("hex"));
      },
    );

    test("hundreds of requests at once, over two connections, end as a model says", async () => {
      const clients = await Promise.all([
        NbdClient.connect(unix, options),
        NbdClient.connect(tcp, options),
      ]);
      const model = Buffer.alloc(4 * MIB);
      expect((await clients[0].write(0, model)).error).toBe(0);
      const operation = fc.record({
        slot: fc.nat(31),
        client: fc.nat(1),
        kind: fc.constantFrom(Cmd.read, Cmd.read, Cmd.write, Cmd.write, Cmd.zeroes, Cmd.flush),
        from: fc.nat(255),
        blocks: fc.integer({ min: 1, max: 256 }),
        fill: fc.integer({ min: 1, max: 255 }),
        flags: fc.constantFrom(0, 0, 0, Flag.fua),
      });
      await fc.assert(
        fc.asyncProperty(fc.array(operation, { minLength: 200, maxLength: 300 }), async (steps) => {
          // Each 128 KiB of the disk has a queue of its own; the queues run side by side.
          const queues = new Map<number, Promise<void>>();
          for (const { slot, client, kind, from, blocks, fill, flags } of steps) {
            const offset = slot * 128 * 1024 + from * 512;
            const length = Math.min(blocks, 256 - from) * 512;
            const nbd = clients[client]!;
            const run = async (): Promise<void> => {
              if (kind === Cmd.flush) expect((await nbd.command(kind)).error).toBe(0);
              else if (kind === Cmd.read) {
                const { error, data } = await nbd.read(offset, length);
                expect([error, data.equals(model.subarray(offset, offset + length))]).toEqual([
                  0,
                  true,
                ]);
              } else if (kind === Cmd.write) {
                model.fill(fill, offset, offset + length);
                const sent = Buffer.from(model.subarray(offset, offset + length));
                expect((await nbd.write(offset, sent, flags)).error).toBe(0);
              } else {
                model.fill(0, offset, offset + length);
                expect((await nbd.command(kind, offset, length, flags)).error).toBe(0);
              }
            };
            queues.set(slot, (queues.get(slot) ?? Promise.resolve()).then(run));
          }
          await Promise.all(queues.values());
        }),
        { numRuns: 6 },
      );
      const { data } = await clients[0].read(0, model.byteLength);
      expect(data.equals(model)).toBe(true);
      await Promise.all(clients.map((client) => client.close()));
    });

    test("what cannot be is refused, and the connection goes on", async () => {
      const client = await NbdClient.connect(unix, options);
      const refusals = await Promise.all([
        client.read(DISK_BYTES, 512),
        client.read(511, 512),
        client.read(0, 0),
        client.write(DISK_BYTES - 512, random(1024)),
        client.write(1, random(MIB)),
        client.command(Cmd.trim, DISK_BYTES, 512),
        client.command(Cmd.zeroes, DISK_BYTES, 512),
        client.command(77),
        client.command(Cmd.flush, 512, 512),
        client.read(0, 2 ** 25 + 512, Flag.df),
      ]);
      const tooLong = options.structured === true ? EOVERFLOW : EINVAL;
      expect(refusals.map(({ error }) => error)).toEqual([
        EINVAL,
        EINVAL,
        EINVAL,
        ENOSPC,
        EINVAL,
        EINVAL,
        ENOSPC,
        EINVAL,
        EINVAL,
        tooLong,
      ]);
      expect((await client.read(0, 512)).error).toBe(0);
      await client.close();
    });
  });

  test("long reads come in chunks, and in one where that was asked for", async () => {
    const client = await NbdClient.connect(unix);
    expect((await client.read(0, MIB)).chunks).toBe(8);
    expect((await client.read(0, 65536, Flag.df)).chunks).toBe(1);
    expect(await client.read(0, 256 * 1024, Flag.df)).toMatchObject({
      error: EOVERFLOW,
      chunks: 1,
    });
    await client.close();
  });

  test("a simple read of more than 32 MiB is refused; in chunks it is not", async () => {
    const simple = await NbdClient.connect(unix, { structured: false });
    expect((await simple.read(0, 2 ** 25 + 512)).error).toBe(EINVAL);
    await simple.close();
    const chunks = await NbdClient.connect(unix);
    expect((await chunks.read(0, 36 * MIB)).chunks).toBe(288);
    await chunks.close();
  });

  test("FUA and FLUSH reach the host's disk", async () => {
    const client = await NbdClient.connect(unix);
    const before = await flushes(0);
    await client.write(0, random(512));
    expect(await flushes(0)).toBe(before);
    await client.write(0, random(MIB), Flag.fua);
    expect(await flushes(0)).toBe(before + 1);
    await client.command(Cmd.flush);
    expect(await flushes(0)).toBe(before + 2);
    await client.command(Cmd.zeroes, 0, 4096, Flag.fua);
    expect(await flushes(0)).toBe(before + 3);
    await client.close();
  });

  test("a disk that is only for reading is not written", async () => {
    const client = await NbdClient.connect(unix, { exportName: "da2" });
    const answers = await Promise.all([
      client.write(0, random(4096)),
      client.command(Cmd.trim, 0, 4096),
      client.command(Cmd.zeroes, 0, 4096),
      client.read(0, MIB),
      client.command(Cmd.flush),
    ]);
    expect(answers.map(({ error }) => error)).toEqual([EPERM, EPERM, EPERM, 0, 0]);
    expect(answers[3].data.equals(Buffer.alloc(MIB))).toBe(true);
    await client.close();
  });

  test("a disk with blocks of 4096 bytes takes nothing smaller", async () => {
    const client = await NbdClient.connect(unix, { exportName: "da3" });
    const data = random(8192);
    expect((await client.write(4096, data)).error).toBe(0);
    expect((await client.read(4096, 8192)).data.equals(data)).toBe(true);
    expect((await client.read(512, 4096)).error).toBe(EINVAL);
    expect((await client.read(0, 512)).error).toBe(EINVAL);
    await client.close();
  });

  test("holes are told, made, filled with zeros and kept", async () => {
    const client = await NbdClient.connect(unix, { exportName: "da1" });
    const status = async (offset: number, length: number, flags = 0) => {
      const { error, extents } = await client.command(Cmd.status, offset, length, flags);
      return [error, ...extents.map(([bytes, state]) => [bytes / MIB, state])];
    };
    const fill = random(64 * MIB);
    for (let at = 0; at < 64; at += 32)
      await client.write(at * MIB, fill.subarray(at * MIB, (at + 32) * MIB));
    expect(await status(0, 64 * MIB)).toEqual([0, [64, DATA]]);
    // Nothing is a hole, so nothing can be zeroed without writing.
    expect((await client.command(Cmd.zeroes, 0, 64 * MIB, Flag.fastZero)).error).toBe(ENOTSUP);
    expect((await client.read(0, MIB)).data.equals(fill.subarray(0, MIB))).toBe(true);

    expect((await client.command(Cmd.trim, 8 * MIB, 8 * MIB)).error).toBe(0);
    expect(await status(0, 64 * MIB)).toEqual([0, [8, DATA], [8, HOLE_OF_ZEROES], [48, DATA]]);
    expect(await status(10 * MIB, 2 * MIB)).toEqual([0, [2, HOLE_OF_ZEROES]]);
    expect(await status(0, 64 * MIB, Flag.reqOne)).toEqual([0, [8, DATA]]);
    expect((await client.command(Cmd.zeroes, 8 * MIB, 8 * MIB, Flag.fastZero)).error).toBe(0);

    // Whole blocks become holes, the rest is written; what lies beside stays.
    expect((await client.command(Cmd.zeroes, 20 * MIB - 512, 4 * MIB + 1024)).error).toBe(0);
    expect(await status(18 * MIB, 8 * MIB)).toEqual([0, [2, DATA], [4, HOLE_OF_ZEROES], [2, DATA]]);
    const { data } = await client.read(19 * MIB, 6 * MIB);
    const wanted = Buffer.from(fill.subarray(19 * MIB, 25 * MIB));
    wanted.fill(0, MIB - 512, 5 * MIB + 512);
    expect(data.equals(wanted)).toBe(true);

    // Provisioned zeros are written even into a hole.
    expect((await client.command(Cmd.zeroes, 8 * MIB, MIB, Flag.noHole)).error).toBe(0);
    expect(await status(8 * MIB, 8 * MIB)).toEqual([0, [1, DATA], [7, HOLE_OF_ZEROES]]);
    expect(
      (await client.command(Cmd.zeroes, 9 * MIB, MIB, Flag.noHole | Flag.fastZero)).error,
    ).toBe(ENOTSUP);
    await client.close();
  });

  test("the status is for those who agreed on it", async () => {
    const client = await NbdClient.connect(unix, { context: false });
    expect(await client.command(Cmd.status, 0, 512)).toMatchObject({ error: EINVAL, chunks: 1 });
    await client.close();
  });

  test("a range is read into the caches below", async () => {
    const client = await NbdClient.connect(unix);
    const before = (await machine.host.stats()).controllers[0]!.disks[0]!.readBytes;
    expect((await client.command(Cmd.cache, MIB, 3 * MIB)).error).toBe(0);
    const after = (await machine.host.stats()).controllers[0]!.disks[0]!.readBytes;
    expect(after - before).toBe(3 * MIB);
    await client.close();
  });

  test("counters are sysctls", async () => {
    const client = await NbdClient.connect(unix);
    const read = async (leaf: string): Promise<number> =>
      Number((await machine.exec(`sysctl -n kern.nbd.da0.${leaf}`)).stdout);
    const before = {
      connections: await read("connections"),
      requests: await read("requests"),
      read: await read("read_bytes"),
      errors: await read("errors"),
    };
    await client.read(0, 4096);
    await client.read(1, 4096);
    await client.write(0, random(512));
    expect(await read("connections")).toBe(before.connections);
    expect(await read("requests")).toBe(before.requests + 3);
    expect(await read("read_bytes")).toBe(before.read + 4096);
    expect(await read("errors")).toBe(before.errors + 1);
    await client.close();
  });
});
