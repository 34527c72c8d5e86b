import { resolve } from "node:path";
import { isIPv4, isIPv6 } from "node:net";
import { BootError } from "../boot-error.js";

/** Where clients of an export connect to: the path of a unix socket, or a port of a loopback address. */
export type NbdAddress =
  | { readonly unix: string }
  | {
      /** An IP address of the loopback interface; 127.0.0.1 unless told. */
      readonly host?: string;
      /** 0: any that is free; the machine says which. */
      readonly port: number;
    };

/** A disk of the guest, and where it is served. Several may share an address: a client chooses by name. */
export type NbdExportOptions = NbdAddress & {
  /** Name of the disk in the guest: `da0`. */
  readonly disk: string;
};

/** Where an export is served. */
export interface NbdServed {
  readonly disk: string;
  /** As clients take it: `nbd+unix:///da0?socket=/run/da0.sock`, `nbd://127.0.0.1:10809/da0`. */
  readonly uri: string;
}

const LOOPBACK = "127.0.0.1";

/** Parses `da0=unix:PATH`, `da0=tcp:HOST:PORT` or `da0=HOST:PORT`. Throws `BootError` `ERR_NBD`. */
export function parseNbdExport(text: string): NbdExportOptions {
  const [, disk = "", place = ""] = /^([^=]+)=(.+)$/.exec(text) ?? [];
  const unix = /^unix:(.+)$/.exec(place)?.[1];
  if (unix !== undefined) return checkExport({ disk, unix });
  const [, host = "", port = ""] = /^(?:tcp:)?(\[.+\]|[^[\]:]+):(\d{1,5})$/.exec(place) ?? [];
  if (disk === "" || host === "" || Number(port) > 0xffff)
    throw refuse(text, "write it as da0=unix:PATH, da0=tcp:127.0.0.1:10809 or da0=127.0.0.1:10809");
  return checkExport({ disk, host: host.replace(/^\[|\]$/g, ""), port: Number(port) });
}

/** Checks what needs no look at the machine, and makes the path absolute. Throws `BootError` `ERR_NBD`. */
export function checkExport(options: NbdExportOptions): NbdExportOptions {
  if ("unix" in options) return { disk: options.disk, unix: resolve(options.unix) };
  const { disk, port } = options;
  const host = options.host === undefined || options.host === "localhost" ? LOOPBACK : options.host;
  if (!Number.isInteger(port) || port < 0 || port > 0xffff)
    throw refuse(disk, `${port} is no port`);
  const isLoopback = (isIPv4(host) && host.startsWith("127.")) || (isIPv6(host) && host === "::1");
  if (!isLoopback)
    throw refuse(
      `${disk} at ${host}`,
      "whoever connects may read and write the disk, so it is served on loopback addresses only",
    );
  return { disk, host, port };
}

/** Two exports with the same key share a listener. Port 0 is a new one each time. */
export function addressKey(address: NbdAddress, index: number): string {
  if ("unix" in address) return `unix:${address.unix}`;
  return `${address.host ?? LOOPBACK}:${address.port === 0 ? `any ${index}` : address.port}`;
}

/** What clients call an export at an address. */
export function exportUri(disk: string, address: NbdAddress): string {
  if ("unix" in address)
    return `nbd+unix:///${encodeURIComponent(disk)}?socket=${encodeURI(address.unix)}`;
  const { host = LOOPBACK, port } = address;
  return `nbd://${isIPv6(host) ? `[${host}]` : host}:${port}/${encodeURIComponent(disk)}`;
}

function refuse(what: string, why: string): BootError {
  return new BootError("ERR_NBD", `NBD export ${what}: ${why}`);
}
