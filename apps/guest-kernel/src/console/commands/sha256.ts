import { createHash } from "node:crypto";
import { UsageError, getopt, type Command } from "../command.js";

export const sha256: Command = {
  name: "sha256",
  summary: "print the SHA-256 of files and disks",
  usage: "sha256 [-qr] [file ...]",
  async run({ args, files, stdin, signal, print, warn, piped }) {
    const { flags, operands } = getopt(args, "qr");
    if (operands.length === 0) {
      if (!piped) throw new UsageError();
      const hash = createHash("sha256");
      for await (const chunk of stdin) hash.update(chunk);
      await print(hash.digest("hex"));
      return 0;
    }
    let status = 0;
    for (const path of operands) {
      const node = await files.find(path);
      if (node === undefined || node.kind === "directory") {
        const reason = node === undefined ? "No such file or directory" : "Is a directory";
        warn(`sha256: ${path}: ${reason}`);
        status = 1;
        continue;
      }
      const hash = createHash("sha256");
      for await (const chunk of files.bytes(node, signal)) hash.update(chunk);
      signal.throwIfAborted();
      const digest = hash.digest("hex");
      if (flags.has("q")) await print(digest);
      else await print(flags.has("r") ? `${digest} ${path}` : `SHA256 (${path}) = ${digest}`);
    }
    return status;
  },
};
