import { CommandError, UsageError, getopt, type Command } from "../command.js";

/** Not in FreeBSD, whose kernel starts its threads itself. */
export const kthread: Command = {
  name: "kthread",
  summary: "run modules as kernel threads on chosen CPUs (an extra)",
  usage: "kthread list\nkthread run [-b] [-c cpu] [-n name] file [argument ...]\nkthread stop id",
  async run({ args, system, signal, print }) {
    const [verb, ...rest] = args;
    const { kthreads } = system;
    if (verb === "list" && rest.length === 0) {
      await print("ID CPU NAME");
      for (const { id, cpu, name } of kthreads.list())
        await print(`${String(id).padStart(2)} ${String(cpu).padStart(3)} ${name}`);
      return 0;
    }
    if (verb === "stop" && rest.length === 1) {
      const id = Number(rest[0]);
      if (!kthreads.list().some((thread) => thread.id === id))
        throw new CommandError(`${rest[0]!}: No such process`);
      await kthreads.stop(id);
      return 0;
    }
    if (verb !== "run") throw new UsageError();
    const { flags, values, operands } = getopt(rest, "bc:n:");
    const [file, ...passed] = operands;
    const cpu = values.get("c") ?? "0";
    if (file === undefined || !/^\d+$/.test(cpu)) throw new UsageError();
    const { id } = await kthreads.load({ file, cpu: Number(cpu), name: values.get("n") });
    const ended = kthreads.run(id, passed);
    if (flags.has("b")) {
      ended.catch(() => undefined);
      await print(String(id));
      return 0;
    }
    const stop = (): void => void kthreads.stop(id).catch(() => undefined);
    signal.addEventListener("abort", stop, { once: true });
    try {
      const value = await ended;
      if (value !== undefined) await print(JSON.stringify(value));
    } finally {
      signal.removeEventListener("abort", stop);
    }
    return 0;
  },
};
