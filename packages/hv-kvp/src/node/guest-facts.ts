import { lookup, lookupService } from "node:dns/promises";
import { machine, networkInterfaces, release, type as kernelName, hostname } from "node:os";
import type { GuestFacts, GuestFactsSource } from "../auto-items.js";
import { parseIpAddress, type IpAddress } from "../protocol/index.js";
import { readText } from "./system-files.js";

const RESOLVER_TIMEOUT_MS = 1000;

/** The facts of the system that this program runs on. @param version - What is said of the integration services. */
export function systemFacts(version: string): GuestFactsSource {
  return {
    async read(): Promise<GuestFacts> {
      const distribution = osRelease(readText("/etc/os-release"));
      const kernel = release();
      const kernelVersion = kernel.replace(/-.*$/, "");
      return {
        fullyQualifiedDomainName: await canonicalName(),
        integrationServicesVersion: version,
        addresses: systemAddresses(),
        osName: distribution.get("NAME") ?? kernelName(),
        osVersion: distribution.get("VERSION_ID") ?? kernelVersion,
        kernelRelease: kernel,
        machine: machine(),
      };
    },
  };
}

/** The variables of `os-release`. */
export function osRelease(text: string): ReadonlyMap<string, string> {
  const lines = text.matchAll(/^([A-Z_]+)=(?:"([^"]*)"|'([^']*)'|(.*))$/gm);
  return new Map(
    [...lines].map(([, name = "", double, single, bare]) => [name, double ?? single ?? bare ?? ""]),
  );
}

function systemAddresses(): IpAddress[] {
  return Object.values(networkInterfaces()).flatMap((addresses = []) =>
    addresses.flatMap(({ address, internal }) => {
      const parsed = internal ? undefined : parseIpAddress(address.replace(/%.*$/, ""));
      return parsed === undefined ? [] : [parsed];
    }),
  );
}

/** What a resolver says, and the plain name if none says anything in time. */
async function canonicalName(): Promise<string> {
  const name = hostname();
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<string>((resolve) => {
    timer = setTimeout(() => resolve(name), RESOLVER_TIMEOUT_MS);
  });
  const resolved = fullName(name).catch(() => name);
  const result = await Promise.race([resolved, late]);
  clearTimeout(timer);
  return result;
}

async function fullName(name: string): Promise<string> {
  const { address } = await lookup(name, 4);
  const { hostname: full } = await lookupService(address, 0);
  return full.startsWith(`${name}.`) ? full : name;
}
