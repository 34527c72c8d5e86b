import type { LinkerFile } from "../../kernel/linker-files.js";
import { UsageError, getopt, type Command } from "../command.js";

function row({ id, refs, address, sizeBytes, name, path }: LinkerFile, verbose: boolean): string {
  const where = `0x${address.toString(16)}`.padStart(18);
  const size = sizeBytes.toString(16).padStart(8);
  const start = `${String(id).padStart(2)} ${String(refs).padStart(4)} ${where} ${size} ${name}`;
  return verbose ? `${start} (${path})` : start;
}

export const kldstat: Command = {
  name: "kldstat",
  summary: "list the kernel and the modules that are loaded",
  usage: "kldstat [-v] [-n name]",
  async run({ args, system, print, warn }) {
    const { flags, values, operands } = getopt(args, "vn:");
    if (operands.length > 0) throw new UsageError();
    const verbose = flags.has("v");
    const name = values.get("n");
    let files = system.linker.list();
    if (name !== undefined) {
      const file = system.linker.find(name);
      if (file === undefined) {
        warn(`kldstat: can't find file ${name}: No such file or directory`);
        return 1;
      }
      files = [file];
    }
    await print("Id Refs Address                Size Name");
    for (const file of files) {
      await print(row(file, verbose));
      if (!verbose) continue;
      await print("\tContains modules:");
      await print("\t\t Id Name");
      for (const module of file.modules)
        await print(`\t\t${String(module.id).padStart(3)} ${module.name}`);
    }
    return 0;
  },
};

/** Modules are chosen at boot (`--module FILE`), so nothing can be loaded or unloaded later; FreeBSD's words say so. */
export const kldload: Command = {
  name: "kldload",
  summary: "load a module: they are named at boot, by --module FILE",
  usage: "kldload module",
  run({ args, system, warn }) {
    const { operands } = getopt(args, "nqv");
    const [name] = operands;
    if (name === undefined || operands.length > 1) throw new UsageError();
    const loaded = system.linker
      .list()
      .some(({ modules }) => modules.some((module) => `hv_${module.name}` === name));
    if (loaded || system.linker.find(name) !== undefined)
      warn(`kldload: can't load ${name}: module already loaded or in kernel`);
    else warn(`kldload: can't load ${name}: No such file or directory`);
    return Promise.resolve(1);
  },
};

export const kldunload: Command = {
  name: "kldunload",
  summary: "unload a module: those in use cannot be",
  usage: "kldunload module",
  run({ args, system, warn }) {
    const { operands } = getopt(args, "fv");
    const [name] = operands;
    if (name === undefined || operands.length > 1) throw new UsageError();
    if (system.linker.find(name) === undefined)
      warn(`kldunload: can't find file ${name}: No such file or directory`);
    else warn("kldunload: can't unload file: Device busy");
    return Promise.resolve(1);
  },
};
