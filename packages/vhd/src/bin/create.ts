import { createImageFile } from "../node/open.js";
import {
  choiceOption,
  type Command,
  imageFormats,
  layoutArguments,
  layoutOptions,
  onePath,
  sizeOption,
  UsageError,
} from "./command.js";
import { printDescription } from "./info.js";
import { makeTarget } from "./target-file.js";

/** `vhd create`. */
export const create: Command = {
  summary: "make an empty image",
  help: `Usage: vhd create --size SIZE [options] FILE

Makes an empty disk image.

  --size SIZE             size of the disk: 512, 127M, 40G, 2T
  --format FORMAT         ${imageFormats.join(", ")}
                          (default: dynamic, VHD or VHDX by the file's name)
${layoutArguments.help}`,
  options: { ...layoutArguments.options, size: { type: "string" }, format: { type: "string" } },

  async run(values, paths) {
    const path = onePath(paths);
    const sizeBytes = sizeOption(values, "size");
    if (sizeBytes === undefined) throw new UsageError("give the size of the disk with --size");
    const format =
      choiceOption(values, "format", imageFormats) ??
      (path.toLowerCase().endsWith(".vhd") ? "vhd-dynamic" : "vhdx-dynamic");
    const layout = layoutOptions(values, format);
    await makeTarget(path, values["force"] === true, async (temporaryPath) =>
      (await createImageFile(temporaryPath, { format, sizeBytes, ...layout })).close(),
    );
    await printDescription(path, values["json"] === true);
    return 0;
  },
};
