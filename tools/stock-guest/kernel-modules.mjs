// Kernel modules and what they need, read from the modules themselves: Debian runs depmod only when the
// package is installed, so the package has no modules.dep.
import { readFileSync, readdirSync } from "node:fs";
import { basename, join } from "node:path";
import { StockGuestError } from "./stock-guest-error.mjs";

/**
 * A module of the guest.
 *
 * @typedef {{
 *   readonly name: string,
 *   readonly path: string,
 *   readonly content: Buffer,
 *   readonly depends: readonly string[],
 *   readonly softDepends: readonly string[],
 *   readonly aliases: readonly string[],
 * }} KernelModule
 */

/** A module's name as the kernel has it; file names also use hyphens. @param {string} name */
const kernelName = (name) => name.replaceAll("-", "_");

/**
 * The value of every line `key=value` of a module's .modinfo section (Linux scripts/mod/modpost.c writes it).
 *
 * @param {Buffer} elf - 32-bit, little endian
 * @param {string} path - for the error
 * @returns {Map<string, string[]>}
 */
function moduleInformation(elf, path) {
  if (elf.readUInt32BE(0) !== 0x7f454c46 || elf[4] !== 1)
    throw new StockGuestError("ERR_MODULE_FORMAT", `${path} is not a 32-bit ELF file.`);
  // Elf32_Ehdr: e_shoff at 32, e_shentsize 46, e_shnum 48, e_shstrndx 50.
  // Elf32_Shdr: sh_name at 0, sh_offset 16, sh_size 20.
  const sections = elf.readUInt32LE(32);
  const entryBytes = elf.readUInt16LE(46);
  /** @param {number} index */
  const section = (index) => {
    const at = sections + index * entryBytes;
    const offset = elf.readUInt32LE(at + 16);
    return {
      name: elf.readUInt32LE(at),
      bytes: elf.subarray(offset, offset + elf.readUInt32LE(at + 20)),
    };
  };
  const names = section(elf.readUInt16LE(50)).bytes;
  /** @type {Map<string, string[]>} */
  const values = new Map();
  for (let index = 1; index < elf.readUInt16LE(48); index++) {
    const { name, bytes } = section(index);
    if (names.toString("latin1", name, names.indexOf(0, name)) !== ".modinfo") continue;
    for (const line of bytes.toString("latin1").split("\0")) {
      const equals = line.indexOf("=");
      if (equals < 0) continue;
      const key = line.slice(0, equals);
      values.set(key, [...(values.get(key) ?? []), line.slice(equals + 1)]);
    }
  }
  return values;
}

/**
 * The modules of `wanted` and all that they need, each after what it depends on: the order to load them in.
 *
 * @param {string} tree - the folder `lib/modules/RELEASE` of the kernel's package
 * @param {readonly string[]} wanted - names of modules, in the order to prefer
 * @returns {KernelModule[]} with `path` relative to `tree`
 * @throws StockGuestError `ERR_MODULE_GONE` when the kernel has none of that name, or none that a module
 *   asks to have loaded before it.
 */
export function modulesInLoadOrder(tree, wanted) {
  const paths = new Map(
    readdirSync(join(tree, "kernel"), { recursive: true, encoding: "utf8" })
      .filter((path) => path.endsWith(".ko"))
      .map((path) => [kernelName(basename(path, ".ko")), join("kernel", path)]),
  );
  const builtIn = new Set(
    readFileSync(join(tree, "modules.builtin"), "utf8")
      .split("\n")
      .map((path) => kernelName(basename(path, ".ko"))),
  );
  /** @type {Map<string, KernelModule>} */
  const loaded = new Map();
  /** @param {string} name @param {string} reason */
  const load = (name, reason) => {
    if (loaded.has(name) || builtIn.has(name)) return;
    const path = paths.get(name);
    if (path === undefined)
      throw new StockGuestError("ERR_MODULE_GONE", `The kernel has no module ${name}; ${reason}.`);
    const content = readFileSync(join(tree, path));
    const information = moduleInformation(content, path);
    const depends = (information.get("depends")?.[0] ?? "").split(",").filter(Boolean);
    for (const needed of depends) load(kernelName(needed), `${name} depends on it`);
    loaded.set(name, {
      name,
      path,
      content,
      depends: depends.map(kernelName).filter((needed) => !builtIn.has(needed)),
      softDepends: (information.get("softdep") ?? []).flatMap((line) =>
        (/^pre:(.*?)(?:post:|$)/.exec(line)?.[1] ?? "").split(" ").filter(Boolean),
      ),
      aliases: information.get("alias") ?? [],
    });
  };
  for (const name of wanted) load(name, "the recipe names it");
  const modules = [...loaded.values()];
  for (const { name, softDepends } of modules)
    for (const needed of softDepends)
      if (!builtIn.has(kernelName(needed)) && !modules.some((one) => answersTo(one, needed)))
        throw new StockGuestError(
          "ERR_MODULE_GONE",
          `No module of the guest answers to ${needed}, which ${name} wants to have before it.`,
        );
  return modules;
}

/** @param {KernelModule} module @param {string} name - of the module, or an alias */
const answersTo = ({ name: own, aliases }, name) =>
  own === kernelName(name) || aliases.includes(name);

/**
 * The files that depmod would make of these modules, as modprobe reads them.
 *
 * @param {readonly KernelModule[]} modules - in load order
 * @returns {Readonly<Record<string, string>>} file name to text
 */
export function moduleIndex(modules) {
  /** @type {Map<string, readonly KernelModule[]>} */
  const needs = new Map();
  for (const module of modules) {
    const direct = modules.filter(({ name }) => module.depends.includes(name));
    const all = new Set(direct.flatMap((one) => [...(needs.get(one.name) ?? []), one]));
    needs.set(
      module.name,
      modules.filter((one) => all.has(one)),
    );
  }
  /** @param {KernelModule} module */
  const dependencies = ({ path, name }) =>
    // modprobe loads a line's modules from its end to its beginning.
    `${path}:${[...(needs.get(name) ?? [])]
      .reverse()
      .map((one) => ` ${one.path}`)
      .join("")}\n`;
  return {
    "modules.dep": modules.map(dependencies).join(""),
    "modules.alias": modules
      .flatMap(({ name, aliases }) => aliases.map((alias) => `alias ${alias} ${name}\n`))
      .join(""),
  };
}
