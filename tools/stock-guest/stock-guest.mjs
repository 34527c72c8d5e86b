// npm run -s stock-guest -- [--out DIR] [--mirror URL] [--refresh] [--json]
import { cpSync, mkdirSync } from "node:fs";
import { resolve } from "node:path";
import { parseArgs } from "node:util";
import { composeGuest } from "./compose.mjs";
import { cachedGuestDirectory, composeCommand, readGuest } from "./location.mjs";
import { StockGuestError } from "./stock-guest-error.mjs";

const usage = `usage: ${composeCommand} -- [--out DIR] [--mirror URL] [--refresh] [--json]

Composes a guest from Debian's 32-bit kernel, its modules and a few programs, for tests of the host with
drivers that nobody here wrote. Needs apt and dpkg-deb, no root. Kept in the user's cache.

  --out DIR      also copies the guest there
  --mirror URL   takes the packages from this Debian archive, not from the machine's own sources
  --refresh      composes again, from the packages that are current now
  --json         prints the manifest, with the folder that the guest is in`;

/** @returns {ReturnType<typeof parse>} */
function options() {
  try {
    return parse();
  } catch (error) {
    console.error(`${error instanceof Error ? error.message : String(error)}\n\n${usage}`);
    process.exit(2);
  }
}

function parse() {
  return parseArgs({
    options: {
      out: { type: "string" },
      mirror: { type: "string" },
      refresh: { type: "boolean", default: false },
      json: { type: "boolean", default: false },
      help: { type: "boolean", default: false },
    },
  }).values;
}

const { out, mirror, refresh, json, help } = options();
if (help) {
  console.log(usage);
  process.exit(0);
}
const directory = cachedGuestDirectory();
try {
  const present = refresh ? undefined : readGuest(directory);
  const guest =
    present ??
    composeGuest(directory, {
      mirror,
      progress: (line) => {
        if (process.stderr.isTTY) console.error(line);
      },
    });
  let where = guest;
  if (out !== undefined) {
    const target = resolve(process.env["INIT_CWD"] ?? ".", out);
    mkdirSync(target, { recursive: true });
    cpSync(guest.directory, target, { recursive: true });
    where = readGuest(target) ?? guest;
  }
  const { manifest, ...paths } = where;
  if (json) {
    console.log(JSON.stringify({ ...paths, ...manifest }, null, 2));
  } else {
    console.log(`Linux ${manifest.kernelRelease}`);
    for (const { name, version, architecture } of manifest.packages)
      console.log(`  ${name} ${version} ${architecture}`);
    console.log(`kernel ${paths.kernel}\ninitrd ${paths.initrd}`);
  }
} catch (error) {
  if (!(error instanceof StockGuestError)) throw error;
  console.error(`${error.code}: ${error.message}`);
  process.exit(1);
}
