import { existsSync } from "node:fs";
import { join } from "node:path";
import { freebsdDialect, linuxDialect, type DeviceDialect } from "../protocol/index.js";

/** Where FreeBSD's port and its first daemons kept the pools. */
const FREEBSD_PORT_POOLS = "/usr/local/hyperv/pool";

/** Whose files lie below a root directory: that of the system that has pools there, else of this system. */
export function dialectOf(root = "/"): DeviceDialect {
  const has = (dialect: DeviceDialect): boolean => existsSync(poolDirectory(dialect, root));
  if (root !== "/" && has(freebsdDialect) !== has(linuxDialect))
    return has(freebsdDialect) ? freebsdDialect : linuxDialect;
  return process.platform === "freebsd" ? freebsdDialect : linuxDialect;
}

/** Where the pools are below a root directory. */
export function poolDirectory(dialect: DeviceDialect, root = "/"): string {
  const usual = join(root, dialect.poolDirectory);
  const port = join(root, FREEBSD_PORT_POOLS);
  return dialect.name === "freebsd" && !existsSync(usual) && existsSync(port) ? port : usual;
}
