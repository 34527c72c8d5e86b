import { once } from "node:events";
import {
  chmodSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { createServer, type Server } from "node:net";
import { homedir, tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import {
  ControlClient,
  ControlServer,
  controlDirectory,
  controlPath,
  runningMachines,
} from "../src/node/control.js";
import { describeMachine } from "./control-rig.js";

let directory = "";
const open: { close(): void }[] = [];
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "control-"));
  vi.stubEnv("XDG_RUNTIME_DIR", directory);
});
afterEach(() => {
  for (const one of open.splice(0)) one.close();
  vi.unstubAllEnvs();
  rmSync(directory, { recursive: true });
});

async function listen(address: string): Promise<ControlServer> {
  const server = await ControlServer.listen(address, describeMachine());
  open.push(server);
  return server;
}

/** A socket on which nobody listens any more, as a machine leaves it that is killed. */
async function leaveDead(path: string): Promise<void> {
  const server = createServer().listen(`${path}.made`);
  await once(server, "listening");
  linkSync(`${path}.made`, path);
  server.close();
  await once(server, "close");
}

async function listenBare(path: string): Promise<Server> {
  const server = createServer((client) => client.destroy()).listen(path);
  open.push(server);
  await once(server, "listening");
  return server;
}

async function nameBehind(path: string): Promise<string> {
  using client = await ControlClient.connect(path);
  return (await client.call("get-vm", {})).name;
}

const mode = (path: string): number => lstatSync(path).mode & 0o7777;
const left = (): string[] => readdirSync(directory, { recursive: true, encoding: "utf8" });

describe("where a control socket is", () => {
  test.each<[NodeJS.ProcessEnv, string]>([
    [{ XDG_RUNTIME_DIR: "/run/user/7" }, "/run/user/7/hyperv-is"],
    [{ XDG_RUNTIME_DIR: "run", XDG_CACHE_HOME: "/cache" }, "/cache/hyperv-is/run"],
    [{ XDG_CACHE_HOME: "cache" }, join(homedir(), ".cache/hyperv-is/run")],
    [{}, join(homedir(), ".cache/hyperv-is/run")],
  ])("named machines in the user's own directory, by %j", (environment, expected) => {
    expect(controlDirectory(environment)).toBe(expected);
  });

  test.each([
    ["web", "/d/web.sock"],
    ["Web-1.2_3", "/d/Web-1.2_3.sock"],
    ["./web", join(process.cwd(), "web")],
    ["web.sock", join(process.cwd(), "web.sock")],
    ["/tmp/a b", "/tmp/a b"],
  ])("%s", (address, expected) => {
    expect(controlPath(address, "/d")).toBe(expected);
  });

  test.each(["", "-v", ".hidden", "a b", "ä", "a".repeat(64), `/tmp/${"a".repeat(110)}`])(
    "'%s' is refused",
    (address) => {
      const refused = expect.objectContaining({ code: "ERR_CONTROL_ADDRESS" }) as Error;
      expect(() => controlPath(address, "/d")).toThrow(refused);
    },
  );
});

describe("a control socket", () => {
  test("is the user's alone, and gone with the machine", async () => {
    const server = await listen("web");
    expect(server.path).toBe(join(directory, "hyperv-is", "web.sock"));
    expect([mode(server.path), mode(join(directory, "hyperv-is"))]).toEqual([0o600, 0o700]);
    expect(await nameBehind(server.path)).toBe("web");
    server.close();
    server.close();
    expect(left()).toEqual(["hyperv-is"]);
  });

  test("may be at any path", async () => {
    const path = join(directory, "my machine.sock");
    const server = await listen(path);
    expect([server.path, mode(path), left()]).toEqual([path, 0o600, ["my machine.sock"]]);
    expect(await nameBehind(path)).toBe("my machine");
  });

  test("of a machine that runs is left to it", async () => {
    await listen("web");
    const second = ControlServer.listen("web", describeMachine());
    await expect(second).rejects.toMatchObject({ code: "ERR_CONTROL_IN_USE" });
    await expect(second).rejects.toThrow(
      /web\.sock: another program serves there: give the machine another name/,
    );
    expect(await nameBehind(controlPath("web"))).toBe("web");
    expect(left()).toEqual(["hyperv-is", "hyperv-is/web.sock"]);
  });

  test("of a machine that was killed is replaced", async () => {
    const path = join(directory, "a.sock");
    await leaveDead(path);
    await listen(path);
    expect(await nameBehind(path)).toBe("a");
    expect(left()).toEqual(["a.sock"]);
  });

  test("takes no other file's place, and needs a directory", async () => {
    writeFileSync(join(directory, "file"), "precious");
    await expect(listen(join(directory, "file"))).rejects.toMatchObject({
      code: "ERR_CONTROL_IN_USE",
    });
    await expect(listen(join(directory, "none", "a.sock"))).rejects.toMatchObject({
      code: "ERR_CONTROL_ADDRESS",
    });
    expect([left(), readFileSync(join(directory, "file"), "utf8")]).toEqual([["file"], "precious"]);
  });

  test.each([
    ["others may enter", () => mkdirSync(join(directory, "hyperv-is"), { mode: 0o755 })],
    [
      "is somewhere else",
      () => {
        mkdirSync(join(directory, "other"), { mode: 0o700 });
        symlinkSync(join(directory, "other"), join(directory, "hyperv-is"));
      },
    ],
    ["is none", () => writeFileSync(join(directory, "hyperv-is"), "", { mode: 0o600 })],
  ])("is not made in a directory of names that %s", async (_, make) => {
    make();
    const refused = { code: "ERR_CONTROL_ADDRESS" };
    await expect(listen("web")).rejects.toMatchObject(refused);
    await expect(runningMachines()).rejects.toMatchObject(refused);
    expect(existsSync(join(directory, "hyperv-is", "web.sock"))).toBe(false);
  });
});

describe("the machines that run", () => {
  test("are those with a live socket; dead ones are removed", async () => {
    expect(await runningMachines()).toEqual([]);
    const [b, a] = [await listen("b"), await listen("a")];
    const names = join(directory, "hyperv-is");
    await leaveDead(join(names, "c.sock"));
    writeFileSync(join(names, "d.sock"), "");
    await listenBare(join(names, ".hidden.sock"));
    expect(await runningMachines()).toEqual([a.path, b.path]);
    expect(readdirSync(names).sort()).toEqual([".hidden.sock", "a.sock", "b.sock", "d.sock"]);
    chmodSync(names, 0o770);
    await expect(runningMachines()).rejects.toThrow(/nobody else may enter/);
    chmodSync(names, 0o700);
  });
});
