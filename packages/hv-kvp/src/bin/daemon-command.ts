import { uptime } from "node:os";
import { setTimeout as delay } from "node:timers/promises";
import manifest from "../../package.json" with { type: "json" };
import { KvpDaemon } from "../daemon.js";
import { KvpError } from "../errors.js";
import { noNetwork, type IpConfigurator } from "../ip-configurator.js";
import { findDevice, serveDaemon } from "../node/device-client.js";
import { FreebsdNetwork } from "../node/freebsd-network.js";
import { systemFacts } from "../node/guest-facts.js";
import { LinuxNetwork } from "../node/linux-network.js";
import { dialectOf } from "../node/locations.js";
import type { PoolFiles } from "../node/pool-files.js";
import { deviceDialects, KvpPool, type DeviceDialect } from "../protocol/index.js";
import {
  exactly,
  poolFiles,
  rootOption,
  UsageError,
  type Command,
  type OptionValues,
} from "./command.js";

/** How long until a daemon whose driver has gone looks for it again. */
const REOPEN_MS = 1000;

/** `hv-kvp daemon`. */
export const daemon: Command = {
  summary: "serve the driver in place of the system's own daemon",
  help: `Usage: hv-kvp daemon [--device PATH] [--dialect freebsd|linux] [--clear-stale] [--no-network] [--root DIR]

Answers the host from the pools, tells it about this guest, and sets the addresses that it asks for. Stays in the
foreground. Does not start beside another daemon.

  --device PATH           the driver's device, or a unix socket that stands for one
                          (/dev/hv_kvp_dev, on Linux /dev/vmbus/hv_kvp)
  --dialect NAME          whose kernel's messages it speaks; this system's unless told
  --clear-stale           first empty pools 0 and 3, and pool 1 if it was last written before this boot:
                          what an image has kept from another virtual machine
  --no-network            let the host neither see nor set addresses
  --root DIR              pools of the system below this directory; its network is left alone`,
  options: {
    device: { type: "string" },
    dialect: { type: "string" },
    "clear-stale": { type: "boolean" },
    "no-network": { type: "boolean" },
    root: { type: "string" },
  },

  async run(values, words) {
    exactly(words, []);
    const dialect = dialectOption(values);
    const pools = poolFiles(values);
    const { device = dialect.devicePath } = values as { readonly device?: string };
    // Where there is nothing to serve, nothing is changed.
    const isSocket = findDevice(device) === "socket";
    pools.create();
    const hasNetwork = values["no-network"] !== true && rootOption(values) === "/";
    const network = hasNetwork ? await systemNetwork(dialect, pools) : noNetwork;
    const served = new KvpDaemon({
      dialect,
      pools,
      network,
      facts: systemFacts(manifest.version),
      failed: (error) => say(error.message),
    });
    const stop = new AbortController();
    // A read of a real device cannot be interrupted, but by the end of the process: what is written is complete then.
    if (isSocket) for (const end of ["SIGINT", "SIGTERM"]) process.once(end, () => stop.abort());
    if (values["clear-stale"] === true) clearStale(pools);
    let isFirst = true;
    const isStopped = (): boolean => stop.signal.aborted;
    while (!isStopped()) {
      try {
        await serveDaemon(device, served, stop.signal);
        if (!isStopped()) say(`${device}: the driver is gone; waiting for it`);
      } catch (error) {
        const isWaiting = !isFirst && error instanceof KvpError && error.code === "ERR_KVP_DEVICE";
        if (!isWaiting) throw error;
      }
      isFirst = false;
      await delay(REOPEN_MS, undefined, { signal: stop.signal }).catch(() => undefined);
    }
    return 0;
  },
};

function dialectOption(values: OptionValues): DeviceDialect {
  const given = values["dialect"];
  if (typeof given !== "string") return dialectOf(rootOption(values));
  const found = deviceDialects.find(({ name }) => name === given);
  if (found === undefined) throw new UsageError(`--dialect ${given} is not freebsd or linux`);
  return found;
}

async function systemNetwork(dialect: DeviceDialect, pools: PoolFiles): Promise<IpConfigurator> {
  if (dialect.name === "freebsd") return new FreebsdNetwork();
  const network = new LinuxNetwork({ directory: pools.directory });
  for (const line of await network.restore()) say(line);
  return network;
}

function clearStale(pools: PoolFiles): void {
  pools.clear(KvpPool.external);
  pools.clear(KvpPool.autoExternal);
  const bootMs = Date.now() - uptime() * 1000;
  if ((pools.changedMs(KvpPool.guest) ?? Infinity) < bootMs) pools.clear(KvpPool.guest);
}

function say(line: string): void {
  process.stderr.write(`hv-kvp: ${line}\n`);
}
