import { parseArgs } from "node:util";
import type { PlainIpSettings } from "@hyperv-is/hv-kvp/protocol";
import { ControlError } from "../control/control-error.js";
import type { KeyValuePair } from "../control/key-value-methods.js";
import { controlPath } from "../node/control-address.js";
import { ControlClient } from "../node/control-client.js";
import { writeOut } from "./standard-output.js";

export const vmKvpUsage = `       hyperv-host vm kvp list VM [--pool N]         the pairs of a pool of its guest: 1, what its programs
                                          say, unless told; 0 external, 2 auto, 3 auto-external
       hyperv-host vm kvp get VM KEY [--pool N]      the value of a key; of pool 1 unless told
       hyperv-host vm kvp set VM KEY VALUE [--pool N]
       hyperv-host vm kvp delete VM KEY [--pool N]   in pool 0 unless told
       hyperv-host vm ip get VM ADAPTER              the addresses of an adapter (its GUID or MAC), as its guest says
       hyperv-host vm ip set VM ADAPTER --address A/PREFIX... [--gateway A]... [--dns A]... | --dhcp
`;

/** Longer than a guest may take. */
const ANSWER_TIMEOUT_MS = 40_000;

/** What such a command prints: JSON, and lines. */
type Answer = readonly [value: unknown, lines: readonly string[], status?: number];

/**
 * Runs `hyperv-host vm kvp` or `vm ip`. @returns Exit status; undefined if the command line is none of these.
 * Throws what `parseArgs` throws.
 */
export async function vmKvpCommand(
  noun: string,
  args: readonly string[],
  json: boolean,
): Promise<number | undefined> {
  const options = {
    pool: { type: "string" },
    address: { type: "string", multiple: true },
    gateway: { type: "string", multiple: true },
    dns: { type: "string", multiple: true },
    dhcp: { type: "boolean" },
  } as const;
  const { values, positionals } = parseArgs({ args: [...args], options, allowPositionals: true });
  const [verb = "", vm, ...words] = positionals;
  const isPool = values.pool === undefined || /^[0-4]$/.test(values.pool);
  const wanted = wordCounts[`${noun} ${verb}`];
  if (vm === undefined || words.length !== wanted || !isPool) return undefined;
  const pool = values.pool === undefined ? {} : { pool: Number(values.pool) };
  const { address: addresses = [], gateway: gateways = [], dns: dnsServers = [] } = values;
  const settings = { dhcp: values.dhcp ?? false, addresses, gateways, dnsServers };
  const hasSettings = settings.dhcp || addresses.length > 0;
  if (verb === "set" && noun === "ip" && !hasSettings) return undefined;
  const path = controlPath(vm);
  try {
    using client = await ControlClient.connect(path, ANSWER_TIMEOUT_MS);
    const [value, lines, status = 0] =
      noun === "ip"
        ? await askAddresses(client, verb, words[0]!, settings)
        : await askPairs(client, verb, words, pool);
    await writeOut(json ? `${JSON.stringify(value, null, 2)}\n` : lines.join(""));
    return status;
  } catch (error) {
    if (!(error instanceof ControlError)) throw error;
    process.stderr.write(`hyperv-host: ${vm}: ${error.message}\n`);
    return 1;
  }
}

/** How many words each command takes behind the machine. */
const wordCounts: Readonly<Record<string, number | undefined>> = {
  "kvp list": 0,
  "kvp get": 1,
  "kvp set": 2,
  "kvp delete": 1,
  "ip get": 1,
  "ip set": 1,
};

async function askPairs(
  client: ControlClient,
  verb: string,
  [key = "", value = ""]: readonly string[],
  pool: { readonly pool?: number },
): Promise<Answer> {
  switch (verb) {
    case "set":
      return [await client.call("set-vm-kvp", { ...pool, key, value }), []];
    case "delete":
      return [await client.call("remove-vm-kvp", { ...pool, key }), []];
    case "get": {
      // Guests have never answered GET as they should: what they enumerate is right.
      const pairs = await client.call("get-vm-kvp", pool);
      const found = pairs.findLast((pair) => pair.key === key);
      if (found === undefined) process.stderr.write(`hyperv-host: no key '${shown(key)}'\n`);
      return [found ?? null, found === undefined ? [] : [`${found.value}\n`], found ? 0 : 1];
    }
    default: {
      const pairs = await client.call("get-vm-kvp", pool);
      return [pairs, pairLines(pairs)];
    }
  }
}

async function askAddresses(
  client: ControlClient,
  verb: string,
  adapter: string,
  settings: PlainIpSettings,
): Promise<Answer> {
  if (verb === "set") return [await client.call("set-vm-ip", { adapter, ...settings }), []];
  const found = await client.call("get-vm-ip", { adapter });
  const rows: [string, string][] = [
    ["DHCP", found.dhcp ? "on" : "off"],
    ["Addresses", found.addresses.join(", ")],
    ["Gateways", found.gateways.join(", ")],
    ["DNS servers", found.dnsServers.join(", ")],
  ];
  return [found, rows.map(([title, text]) => `${title.padEnd(14)}${text}\n`)];
}

function pairLines(pairs: readonly KeyValuePair[]): string[] {
  const width = Math.max(0, ...pairs.map(({ key }) => shown(key).length));
  return pairs.map(({ key, value }) => `${shown(key).padEnd(width)}  ${shown(value)}\n`);
}

/** Text of the guest, for a terminal: control characters as escapes. */
function shown(text: string): string {
  return text.replace(
    /\p{Cc}/gu,
    (control) => `\\x${control.charCodeAt(0).toString(16).padStart(2, "0")}`,
  );
}
