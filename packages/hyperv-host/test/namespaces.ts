import { execFileSync, spawn, spawnSync, type ChildProcess } from "node:child_process";
import { once } from "node:events";

/** Why there are no TAP devices in network namespaces here, and what to do; undefined if there are. */
export const noTaps = whyNot();
if (noTaps !== undefined) {
  if (process.env["CI"]) throw new Error(noTaps);
  console.log(`skipped: ${noTaps}`);
}

function whyNot(): string | undefined {
  if (process.platform !== "linux") return "TAP devices are those of Linux";
  if (process.getuid?.() !== 0) return "TAP devices need root: sudo npx vitest run tap";
  const missing = ["ip", "ping"].filter((name) => spawnSync(name, ["-V"]).error !== undefined);
  return missing.length > 0
    ? `${missing.join(", ")} missing: apt-get install iproute2 iputils-ping`
    : undefined;
}

const run = (command: string, ...args: readonly string[]): string =>
  execFileSync(command, args, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });

let made = 0;

/** A network namespace of a test, with nothing in it that sends by itself. */
export class Namespace {
  readonly name = `hvis-host-${process.pid}-${made++}`;
  readonly #children: ChildProcess[] = [];

  constructor() {
    run("ip", "netns", "add", this.name);
    this.run("sysctl", "-qw", "net.ipv6.conf.all.accept_dad=0");
    this.run("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0");
    this.run("sysctl", "-qw", "net.ipv6.conf.default.router_solicitations=0");
  }

  /** Runs a command in it; throws if that fails. @returns Its standard output. */
  run(...command: readonly string[]): string {
    return run("ip", "netns", "exec", this.name, ...command);
  }

  /** Gives a device an address, with the length of its prefix. */
  address(device: string, address: string): void {
    run("ip", "-n", this.name, "address", "add", address, "dev", device);
  }

  start(...command: readonly string[]): ChildProcess {
    const child = spawn("ip", ["netns", "exec", this.name, ...command]);
    this.#children.push(child);
    return child;
  }

  /** Runs a program of Node until it ends. @returns What it has printed. */
  async node(script: string, printed?: (text: string) => void): Promise<string> {
    const child = this.start(process.execPath, "-e", script);
    let text = "";
    child.stdout!.setEncoding("utf8").on("data", (chunk: string) => {
      text += chunk;
      printed?.(text);
    });
    child.stderr!.resume();
    await once(child, "close");
    return text;
  }

  delete(): void {
    for (const child of this.#children) child.kill("SIGKILL");
    run("ip", "netns", "delete", this.name);
  }
}

/**
 * Sends bytes by TCP from one namespace to another.
 *
 * @returns Hashes of what was sent, and of what arrived.
 */
export async function transfer(
  from: Namespace,
  to: Namespace,
  address: string,
  megabytes: number,
): Promise<[sent: string, received: string]> {
  const receive = `
    const hash = require("crypto").createHash("sha256");
    require("net").createServer((socket) => {
      socket.on("data", (data) => hash.update(data)).on("end", () => {
        console.log(hash.digest("hex"));
        process.exit();
      });
    }).listen(5001, "::", () => console.log("listening"));`;
  const send = `
    const hash = require("crypto").createHash("sha256");
    const socket = require("net").connect(5001, "${address}");
    const block = require("crypto").randomBytes(2 ** 20);
    let left = ${megabytes};
    (function more() {
      for (; left > 0; left--) {
        hash.update(block);
        if (!socket.write(block)) { left--; socket.once("drain", more); return; }
      }
      socket.end();
    })();
    socket.on("close", () => console.log(hash.digest("hex")));`;
  let listening: () => void = () => undefined;
  const isListening = new Promise<void>((resolve) => (listening = resolve));
  const received = to.node(receive, listening);
  await isListening;
  const sent = await from.node(send);
  return [sent.trim(), (await received).replace("listening", "").trim()];
}
