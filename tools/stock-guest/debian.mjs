// Packages of another architecture from the machine's own Debian sources, through apt, without root and
// without touching what is installed: apt runs on a configuration, lists and a status file of our own.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { debianRelease } from "./recipe.mjs";
import { StockGuestError } from "./stock-guest-error.mjs";

const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";

/** A package as the archive has it. @typedef {{ name: string, version: string, architecture: string, sha256: string }} DebianPackage */

/** The archive as seen by one private apt. */
export class DebianArchive {
  /** @type {string} */
  #directory;
  /** What the last update complained of. */
  #updateLog = "";

  /**
   * @param {string} directory - empty, for everything that apt writes
   * @param {string | undefined} mirror - URL of a Debian archive; the machine's own sources when absent
   * @throws StockGuestError `ERR_NO_APT`, `ERR_NO_KEYRING`
   */
  constructor(directory, mirror) {
    this.#directory = directory;
    for (const name of ["lists/partial", "archives/partial", "packages"])
      mkdirSync(join(directory, name), { recursive: true });
    writeFileSync(join(directory, "status"), "");
    writeFileSync(join(directory, "apt.conf"), this.#configuration(mirror));
  }

  /** @param {string | undefined} mirror */
  #configuration(mirror) {
    const at = this.#directory;
    // How the machine reaches the network (proxies, certificates) is kept; hooks and extra indices are not.
    const network = this.#run("apt-config", ["dump"], { config: process.env["APT_CONFIG"] })
      .stdout.split("\n")
      .filter((line) => /^Acquire::(?!IndexTargets)/.test(line));
    const settings = {
      "APT::Architecture": "i386",
      "APT::Architectures": "i386",
      "Acquire::Languages": "none",
      ...(!network.some((line) => line.startsWith("Acquire::Retries ")) && {
        "Acquire::Retries": "3",
      }),
      "Dir::State": at,
      "Dir::State::lists": join(at, "lists"),
      "Dir::State::status": join(at, "status"),
      "Dir::Cache": at,
      "Dir::Cache::archives": join(at, "archives"),
      "Dir::Etc::main": "/dev/null",
      "Dir::Etc::parts": "/dev/null",
      "Dir::Etc::preferences": "/dev/null",
      "Dir::Etc::preferencesparts": "/dev/null",
      // Without this apt, run by root, fetches as a user who may not write here.
      ...(process.getuid?.() === 0 && { "APT::Sandbox::User": "root" }),
      ...(mirror !== undefined && {
        "Dir::Etc::sourcelist": join(at, "sources.list"),
        "Dir::Etc::sourceparts": "/dev/null",
      }),
    };
    if (mirror !== undefined) {
      if (!existsSync(keyring))
        throw new StockGuestError(
          "ERR_NO_KEYRING",
          `${keyring} is missing: install the package debian-archive-keyring, then try again.`,
        );
      writeFileSync(
        join(at, "sources.list"),
        `deb [signed-by=${keyring}] ${mirror} ${debianRelease} main\n`,
      );
    }
    return [
      ...network,
      ...Object.entries(settings).map(([key, value]) => `${key} "${value}";`),
      "",
    ].join("\n");
  }

  /**
   * Fetches the lists of packages. A source that fails is no error as long as the others have what is wanted.
   *
   * @throws StockGuestError `ERR_NO_APT`
   */
  update() {
    this.#updateLog = this.#run("apt-get", ["update", "-q"]).stderr;
  }

  /** The package that a metapackage stands for. @param {string} name @param {RegExp} pattern */
  dependency(name, pattern) {
    const { stdout, stderr } = this.#run("apt-cache", ["depends", "--important", name]);
    const found = stdout
      .split("\n")
      .map((line) => line.trim().replace(/^Depends: /, ""))
      .find((one) => pattern.test(one));
    if (found === undefined) throw this.#explain(name, stderr);
    return found;
  }

  /**
   * @param {string} name
   * @returns {DebianPackage} the version that apt would install
   * @throws StockGuestError `ERR_PACKAGE_GONE`, `ERR_NO_NETWORK`
   */
  find(name) {
    const { stdout, stderr } = this.#run("apt-cache", ["show", "--no-all-versions", name]);
    /** @param {string} field */
    const value = (field) => new RegExp(`^${field}: (.*)$`, "m").exec(stdout)?.[1];
    const [version, architecture, sha256] = ["Version", "Architecture", "SHA256"].map(value);
    if (version === undefined || architecture === undefined || sha256 === undefined)
      throw this.#explain(name, stderr);
    return { name, version, architecture, sha256 };
  }

  /**
   * Downloads packages, apt checks their hashes, and unpacks them over each other.
   *
   * @param {readonly DebianPackage[]} packages
   * @returns {string} the folder with their files
   * @throws StockGuestError `ERR_NO_NETWORK`, `ERR_APT`, `ERR_PACKAGE_FORMAT`
   */
  unpack(packages) {
    const downloads = join(this.#directory, "packages");
    const names = packages.map(({ name, version }) => `${name}=${version}`);
    const { status, stderr } = this.#run("apt-get", ["download", "-q", ...names], {
      cwd: downloads,
    });
    if (status !== 0) throw this.#explain(names.join(", "), stderr);
    const root = join(this.#directory, "root");
    for (const file of readdirSync(downloads)) {
      const unpacked = this.#run("dpkg-deb", ["-x", join(downloads, file), root]);
      if (unpacked.status !== 0)
        throw new StockGuestError("ERR_PACKAGE_FORMAT", `${file}: ${unpacked.stderr.trim()}`);
    }
    return root;
  }

  /**
   * @param {string} command
   * @param {readonly string[]} args
   * @param {{ cwd?: string, config?: string | undefined }} at - where it runs, and on whose configuration
   */
  #run(command, args, at = {}) {
    const { cwd, config } = {
      cwd: this.#directory,
      config: join(this.#directory, "apt.conf"),
      ...at,
    };
    const { status, stdout, stderr, error } = spawnSync(command, args, {
      cwd,
      encoding: "utf8",
      maxBuffer: 1 << 26,
      env: { ...process.env, APT_CONFIG: config, LC_ALL: "C.UTF-8" },
    });
    if (error !== undefined)
      throw new StockGuestError(
        "ERR_NO_APT",
        `${command} does not run on this system (${error.message}). The stock guest is composed from ` +
          "Debian packages: run this on Debian 12, in a container as well, with --out DIR, then copy DIR " +
          "here and set HYPERV_IS_STOCK_GUEST to its path.",
        { cause: error },
      );
    return { status, stdout, stderr };
  }

  /** What apt's refusal means and what to do about it. @param {string} what @param {string} output */
  #explain(what, output) {
    const said = [...this.#updateLog.split("\n"), ...output.split("\n")]
      .filter((line) => /^(E|W|Err)/.test(line))
      .slice(0, 6);
    const quoted = said.length === 0 ? "" : `\napt said:\n  ${said.join("\n  ")}`;
    const offline =
      /Could not (resolve|connect)|Temporary failure|Connection (timed out|refused)|unreachable/.test(
        said.join("\n"),
      );
    if (offline)
      return new StockGuestError(
        "ERR_NO_NETWORK",
        `The Debian archive cannot be reached, and ${what} comes from there. Check the network and apt's ` +
          `proxy (apt-config dump Acquire), then try again.${quoted}`,
      );
    if (/Unable to locate package|No packages found/.test(output) || output.trim() === "")
      return new StockGuestError(
        "ERR_PACKAGE_GONE",
        `The machine's package sources have no ${what} for i386. Debian 12 (${debianRelease}) is the last ` +
          "release with 32-bit kernels: on a newer Debian, on Ubuntu, or once Debian 12 has moved to the " +
          "archive, name where it is: --mirror http://deb.debian.org/debian or " +
          `--mirror http://archive.debian.org/debian.${quoted}`,
      );
    return new StockGuestError(
      "ERR_APT",
      `apt could not get ${what}. A mirror in the middle of an update passes by itself; ` +
        `otherwise apt's own words say what to mend.${quoted}`,
    );
  }
}
