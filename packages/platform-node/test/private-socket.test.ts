import { once } from "node:events";
import {
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { PrivateSocket, isSocketPath, removeDeadSocket } from "../src/index.js";

let directory = "";
const open: { close(): void }[] = [];
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "private-socket-"));
});
afterEach(() => {
  for (const one of open.splice(0)) one.close();
  rmSync(directory, { recursive: true });
});

const at = (name: string): string => join(directory, name);
const left = (): string[] => readdirSync(directory).sort();

/** Serves at a path, and tells each client who it is. */
async function serve(path: string, who: string): Promise<PrivateSocket> {
  // Who only looks whether somebody is there hears nothing.
  const server = createServer((client) => client.on("error", () => undefined).end(who));
  open.push(server);
  return PrivateSocket.claim(path, server);
}

async function whoServes(path: string): Promise<string> {
  let said = "";
  for await (const chunk of connect(path).setEncoding("utf8")) said += chunk as string;
  return said;
}

/** A socket on which nobody listens any more, as a program leaves it that is killed. */
async function leaveDead(path: string): Promise<void> {
  const server = createServer().listen(`${path}.made`);
  await once(server, "listening");
  linkSync(`${path}.made`, path);
  server.close();
  await once(server, "close");
}

const inUse = { name: "PlatformError", code: "ERR_SOCKET_IN_USE" };

describe("a private socket", () => {
  test("is the user's alone, and is gone when it is released", async () => {
    const socket = await serve(at("a"), "a");
    expect([lstatSync(at("a")).mode & 0o7777, left()]).toEqual([0o600, ["a"]]);
    expect(await whoServes(at("a"))).toBe("a");
    socket.release();
    socket.release();
    expect(left()).toEqual([]);
  });

  test("on which somebody listens is left to them", async () => {
    await serve(at("a"), "first");
    const second = serve(at("a"), "second");
    await expect(second).rejects.toMatchObject(inUse);
    await expect(second).rejects.toThrow(`${at("a")}: another program serves there`);
    expect([await whoServes(at("a")), left()]).toEqual(["first", ["a"]]);
  });

  test("on which nobody listens any more is replaced, by one of many that want it", async () => {
    await leaveDead(at("a"));
    const all = await Promise.allSettled(
      Array.from({ length: 8 }, (_, number) => serve(at("a"), `${number}`)),
    );
    const served = all.flatMap(({ status }, number) => (status === "fulfilled" ? [number] : []));
    expect(served).toHaveLength(1);
    for (const one of all) if (one.status === "rejected") expect(one.reason).toMatchObject(inUse);
    expect([await whoServes(at("a")), left()]).toEqual([`${served[0]!}`, ["a"]]);
  });

  test("takes no other file's place, and follows no link", async () => {
    writeFileSync(at("file"), "precious");
    mkdirSync(at("directory"));
    await leaveDead(at("dead"));
    for (const target of ["file", "directory", "dead", "nowhere"])
      symlinkSync(at(target), at(`to-${target}`));
    const before = left();
    for (const name of before.filter((each) => each !== "dead")) {
      const serving = serve(at(name), "new");
      await expect(serving).rejects.toMatchObject(inUse);
      await expect(serving).rejects.toThrow("is there, and is no socket");
    }
    expect([left(), readFileSync(at("file"), "utf8")]).toEqual([before, "precious"]);
  });

  test.each<[string, () => string, string]>([
    ["a directory that is not there", () => "none/a", "/none/a: there is no directory "],
    ["a file for a directory", () => "file/a", "/file/a: there is no directory "],
    ["a long name", () => "n".repeat(110), "too long for a socket's path"],
    ["a long directory", () => `${"n".repeat(102 - directory.length)}/a`, "too long"],
  ])("needs more than %s", async (_, place, message) => {
    writeFileSync(at("file"), "");
    mkdirSync(at("n".repeat(102 - directory.length)));
    const serving = serve(at(place()), "a");
    await expect(serving).rejects.toMatchObject({ code: "ERR_SOCKET_PATH" });
    await expect(serving).rejects.toThrow(message);
  });

  test("whose place another one has taken leaves that alone", async () => {
    const socket = await serve(at("a"), "a");
    await serve(at("b"), "b");
    renameSync(at("b"), at("a"));
    socket.release();
    expect([await whoServes(at("a")), left()]).toEqual(["b", ["a"]]);
  });
});

describe("a socket that may be dead", () => {
  test("is removed if it is", async () => {
    await leaveDead(at("dead"));
    await serve(at("live"), "live");
    writeFileSync(at("file"), "");
    expect(await removeDeadSocket(at("dead"))).toBe("nobody");
    expect(await removeDeadSocket(at("none"))).toBe("nobody");
    expect(await removeDeadSocket(at("live"))).toBe("listener");
    expect(await removeDeadSocket(at("file"))).toBe("file");
    expect(left()).toEqual(["file", "live"]);
  });

  test("stays if it comes to life while it is found dead", async () => {
    await leaveDead(at("a"));
    await serve(at("b"), "b");
    const removing = removeDeadSocket(at("a"));
    renameSync(at("b"), at("a"));
    await removing;
    expect([await whoServes(at("a")), left()]).toEqual(["b", ["a"]]);
  });
});

test("a path has to fit into the address of a socket", () => {
  expect([isSocketPath("/".repeat(100)), isSocketPath("ä".repeat(60))]).toEqual([true, false]);
});
