import { type BlockFile } from "../block-file.js";
import { copyDisk } from "../disk-copy.js";
import { ImageError } from "../errors.js";
import { foreignFormat, openImage } from "../image.js";
import { createImageFile, naming, openFile, systemRandom } from "../node/open.js";
import { RawDisk } from "../raw-disk.js";
import { type ImageFormat, type VirtualDisk } from "../virtual-disk.js";
import {
  choiceOption,
  type Command,
  imageFormats,
  layoutArguments,
  layoutOptions,
  type OptionValues,
  printJson,
  UsageError,
} from "./command.js";
import { printDescription } from "./info.js";
import { Progress } from "./progress.js";
import { makeTarget } from "./target-file.js";

const formats = [...imageFormats, "raw"] as const;
type Format = ImageFormat | "raw";

type Source = Pick<VirtualDisk, "sizeBytes" | "logicalSectorBytes" | "read" | "nextData"> &
  Partial<Pick<VirtualDisk, "physicalSectorBytes">>;

/** `vhd convert`. */
export const convert: Command = {
  summary: "copy a disk into another format",
  help: `Usage: vhd convert [--from FORMAT] [--to FORMAT] [options] SOURCE TARGET

Copies the disk in SOURCE into a new image. What is zero takes no space in TARGET.

  --from FORMAT           ${formats.join(", ")}
                          (default: what the content says, raw when it says nothing)
  --to FORMAT             the same formats
                          (default: by TARGET's name: .vhd and .vhdx dynamic, .raw and .img raw)
${layoutArguments.help}`,
  options: { ...layoutArguments.options, from: { type: "string" }, to: { type: "string" } },

  async run(values, paths) {
    const [sourcePath, targetPath] = paths;
    if (sourcePath === undefined || targetPath === undefined || paths.length !== 2)
      throw new UsageError("give a source and a target file");
    const from = choiceOption(values, "from", formats);
    const to = choiceOption(values, "to", formats) ?? formatByName(targetPath);
    // Whatever is wrong with the command line is told before any file is touched.
    if (to !== "raw") layoutOptions(values, to);
    const sourceFile = await openFile(sourcePath, { readOnly: true });
    try {
      const source = openSource(sourceFile, sourcePath, from);
      const progress = new Progress(source.sizeBytes);
      await makeTarget(targetPath, values["force"] === true, async (temporaryPath, pause) => {
        const target = await openTarget(temporaryPath, to, source, values);
        try {
          for (const doneBytes of copyDisk(source, target)) {
            progress.update(doneBytes);
            await pause();
          }
        } finally {
          progress.end();
          target.close();
        }
      });
      if (to !== "raw") await printDescription(targetPath, values["json"] === true);
      else if (values["json"] === true)
        printJson({ file: targetPath, format: "raw", sizeBytes: source.sizeBytes });
    } finally {
      sourceFile.close();
    }
    return 0;
  },
};

function formatByName(path: string): Format {
  const extension = /\.[^./]*$/.exec(path.toLowerCase())?.[0];
  if (extension === ".vhd") return "vhd-dynamic";
  if (extension === ".vhdx") return "vhdx-dynamic";
  if (extension === ".raw" || extension === ".img") return "raw";
  throw new UsageError(`the name ${path} tells no format; give it with --to`);
}

function openSource(file: BlockFile, path: string, from: Format | undefined): Source {
  const raw = (): RawDisk => new RawDisk(file, Math.ceil(file.sizeBytes / 512) * 512);
  if (from === "raw") return raw();
  try {
    return openImage(file, { random: systemRandom, readOnly: true, format: from });
  } catch (error) {
    const isRaw = error instanceof ImageError && error.code === "ERR_IMAGE_FOREIGN";
    if (!isRaw || from !== undefined || foreignFormat(file) !== undefined)
      throw naming(path, error);
    process.stderr.write(`vhd convert: ${path} is no VHD or VHDX; reading it as raw\n`);
    return raw();
  }
}

type Target = Pick<VirtualDisk, "sizeBytes" | "write" | "close">;

async function openTarget(
  path: string,
  to: Format,
  source: Source,
  values: OptionValues,
): Promise<Target> {
  if (to === "raw") {
    const file = await openFile(path, { create: true, exclusive: true });
    file.truncate(source.sizeBytes);
    const disk = new RawDisk(file, source.sizeBytes);
    return {
      sizeBytes: disk.sizeBytes,
      write: disk.write.bind(disk),
      close: () => file.close(),
    };
  }
  const layout = layoutOptions(values, to);
  const sectorBytes = layout.logicalSectorBytes ?? source.logicalSectorBytes;
  const isVhd = to === "vhd-fixed" || to === "vhd-dynamic";
  if (sectorBytes !== source.logicalSectorBytes || (isVhd && sectorBytes !== 512)) {
    const wanted = isVhd ? 512 : sectorBytes;
    throw new ImageError("ERR_IMAGE_UNSUPPORTED", {
      text: `the source has sectors of ${source.logicalSectorBytes} bytes and the target ${wanted}, so partition tables would not be found`,
      advice: "Keep the sector size, with a VHDX or raw target.",
    });
  }
  const sizes = isVhd
    ? {}
    : {
        logicalSectorBytes: sectorBytes === 4096 ? (4096 as const) : (512 as const),
        physicalSectorBytes:
          layout.physicalSectorBytes ?? (source.physicalSectorBytes === 4096 ? 4096 : 512),
      };
  return createImageFile(path, {
    format: to,
    sizeBytes: source.sizeBytes,
    blockBytes: layout.blockBytes,
    ...sizes,
  });
}
