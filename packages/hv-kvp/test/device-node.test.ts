import { once } from "node:events";
import { statSync } from "node:fs";
import { connect } from "node:net";
import { IcStatus } from "@hyperv-is/hv-utils/protocol";
import { describe, expect, test } from "vitest";
import { KvpDaemon, noNetwork } from "../src/index.js";
import { PoolFiles, serveDaemon, serveDevice } from "../src/node/index.js";
import { MessageStream } from "../src/node/message-stream.js";
import * as protocol from "../src/protocol/index.js";
import { runDeviceCampaign } from "./device-campaign.js";
import { ReferenceClient } from "./reference-client.js";
import { Rig } from "./rig.js";
import { temporaryDirectory } from "./temporary-directory.js";

const path = temporaryDirectory();
const { freebsdDialect, linuxDialect } = protocol;
const facts = { read: () => Promise.reject(new Error("nobody enumerates pool 2")) };
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

async function until(isSo: () => boolean): Promise<void> {
  while (!isSo()) await turn();
}

describe.each([freebsdDialect, linuxDialect])(
  "the device node in the dialect of $name",
  (dialect) => {
    test("exchanges messages with a client written from the reference", async () => {
      const seed = Number(process.env["SEED"] ?? Date.now() % 1_000_000_007);
      const deadline = performance.now() + 700;
      const isOver = (): boolean => performance.now() > deadline;
      const node = path(`campaign-${dialect.name}`);
      const count = await runDeviceCampaign({
        path: node,
        dialect,
        seed,
        messages: 100_000,
        isOver,
      });
      console.info(`${dialect.name}: ${count} messages from seed ${seed}`);
      expect(count).toBeGreaterThan(20);
    });

    test("is one daemon's at a time, and only this user's", async () => {
      const rig = new Rig({ dialect });
      const served = await serveDevice(path(`one-${dialect.name}`), rig.service.device);
      expect(statSync(served.path).mode & 0o777).toBe(0o600);
      const first = await ReferenceClient.connect(served.path, dialect.name === "linux");
      await until(() => rig.service.state === "idle");
      const second = connect(served.path);
      await once(second, "close");
      expect(rig.service.state).toBe("idle");
      first.close();
      await until(() => rig.service.state === "absent");
      served.close();
    });

    test("closes on a first write that is no registration", async () => {
      const rig = new Rig({ dialect });
      const served = await serveDevice(path(`first-${dialect.name}`), rig.service.device);
      const socket = connect(served.path);
      const wrong = Buffer.alloc(dialect.messageBytes, 7);
      socket.write(wrong);
      await once(socket, "close");
      await until(() => rig.service.state === "absent");
      served.close();
    });

    test("stays open to a daemon that answers too late", async () => {
      const rig = new Rig({ dialect });
      const served = await serveDevice(path(`late-${dialect.name}`), rig.service.device);
      const socket = connect(served.path);
      const messages: Buffer[] = [];
      let bytes = Buffer.alloc(0);
      socket.on("data", (chunk: Buffer) => {
        bytes = Buffer.concat([bytes, chunk]);
        for (; bytes.length >= dialect.messageBytes; bytes = bytes.subarray(dialect.messageBytes))
          messages.push(bytes.subarray(0, dialect.messageBytes));
      });
      const answer = (): void => {
        const message = messages.pop()!;
        socket.write(protocol.emitDeviceAnswer(message, { status: IcStatus.ok }));
      };
      const open = (isSo: () => boolean) => until(() => socket.destroyed || isSo());
      socket.write(protocol.emitRegistration(dialect, dialect.registerOperation));
      await open(() => rig.service.state === "idle");
      rig.negotiate(4);
      const request = { operation: 1, pool: 0, key: "color", value: "green" } as const;
      const ask = async (): Promise<void> => {
        const before = messages.length;
        rig.request(protocol.emitKvpRequest(request, "text"));
        await open(() => messages.length > before);
      };
      await open(() => messages.length === (dialect.answersRegistration ? 1 : 0));
      messages.length = 0;
      await ask();
      rig.timers.advance(dialect.timeoutMs);
      expect(rig.take()?.status).toBe(IcStatus.fail);
      answer();
      await open(() => rig.service.counters.late === 1);
      await ask();
      expect(socket.destroyed).toBe(false);
      answer();
      await open(() => {
        rig.run();
        return rig.received.length > 0;
      });
      expect(rig.take()?.status).toBe(IcStatus.ok);
      const closed = once(socket, "close");
      served.close();
      await closed;
      await until(() => rig.service.state === "absent");
    });

    test("goes away with the driver", async () => {
      const rig = new Rig({ dialect });
      const served = await serveDevice(path(`gone-${dialect.name}`), rig.service.device);
      const socket = connect(served.path);
      socket.write(protocol.emitRegistration(dialect, dialect.registerOperation));
      await until(() => rig.service.state === "idle");
      rig.close();
      socket.resume();
      await once(socket, "close");
      served.close();
    });

    test("our daemon serves it, and leaves when the driver does", async () => {
      const rig = new Rig({ dialect });
      const served = await serveDevice(path(`ours-${dialect.name}`), rig.service.device);
      const pools = new PoolFiles(path(`pools-${dialect.name}`));
      const daemon = new KvpDaemon({ dialect, pools, facts, network: noNetwork });
      const serving = serveDaemon(served.path, daemon);
      await until(() => rig.service.state === "idle");
      rig.negotiate(4);
      const request = { operation: 1, pool: 0, key: "color", value: "green" } as const;
      rig.request(protocol.emitKvpRequest(request, "text"));
      await until(() => {
        rig.run();
        return rig.received.length > 0;
      });
      expect(rig.take()?.status).toBe(IcStatus.ok);
      expect(pools.items(0)).toEqual([{ key: "color", value: "green" }]);
      const other = new KvpDaemon({ dialect, pools, facts, network: noNetwork });
      await expect(serveDaemon(served.path, other)).rejects.toMatchObject({
        code: "ERR_KVP_DAEMON",
      });
      rig.close();
      await serving;
      served.close();
    });
  },
);

test("messages that come in one piece, and in pieces, are arrays of their own", () => {
  const arrived: Uint8Array[] = [];
  const stream = new MessageStream(4, (message) => void arrived.push(message));
  stream.push(Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8, 9));
  stream.push(Uint8Array.of(10, 11));
  stream.push(Uint8Array.of(12));
  expect(arrived.map((message) => [...message])).toEqual([
    [1, 2, 3, 4],
    [5, 6, 7, 8],
    [9, 10, 11, 12],
  ]);
});

test("without a device there is nothing to serve: at once, and with a reason", async () => {
  const pools = new PoolFiles(path("pools"));
  const daemon = new KvpDaemon({ dialect: linuxDialect, pools, facts, network: noNetwork });
  await expect(serveDaemon(path("missing"), daemon)).rejects.toMatchObject({
    code: "ERR_KVP_DEVICE",
    message: expect.stringContaining("Is this a guest of Hyper-V") as string,
  });
});
