import { describeImageFile } from "../node/open.js";
import { type ImageFormat } from "../virtual-disk.js";
import { choiceOption, type Command, imageFormats, onePath, printJson } from "./command.js";
import { formatSize } from "./sizes.js";

/** `vhd info`. */
export const info: Command = {
  summary: "say what an image is",
  help: `Usage: vhd info [--json] [--format FORMAT] FILE

Prints an image's format, sizes and identity. Reads also an image that is in use.

  --format FORMAT         what the file is, where its content is ambiguous:
                          ${imageFormats.join(", ")}
  --json                  print JSON`,
  options: { json: { type: "boolean" }, format: { type: "string" } },

  async run(values, paths) {
    const format = choiceOption(values, "format", imageFormats);
    await printDescription(onePath(paths), values["json"] === true, format);
    return 0;
  },
};

/** Prints what the image in a file says about itself, as lines or as JSON. */
export async function printDescription(
  path: string,
  asJson: boolean,
  format?: ImageFormat,
): Promise<void> {
  const description = { file: path, ...(await describeImageFile(path, format)) };
  if (asJson) {
    printJson(description);
    return;
  }
  const lines = Object.entries(description).map(
    ([name, value]) => `${words(name).padEnd(24)}${valueText(name, value)}\n`,
  );
  process.stdout.write(lines.join(""));
}

/** `logicalSectorBytes` is shown as `logical sector`: the value has its unit. */
function words(name: string): string {
  return name
    .replace(/^sizeBytes$/, "diskSize")
    .replace(/^fileBytes$/, "fileSize")
    .replace(/(Bytes|UnixSeconds)$/, "")
    .replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);
}

function valueText(name: string, value: unknown): string {
  if (typeof value === "number" && name.endsWith("Bytes"))
    return value < 1024 ? formatSize(value) : `${formatSize(value)} (${value} bytes)`;
  if (typeof value === "number" && name.endsWith("UnixSeconds"))
    return new Date(value * 1000).toISOString();
  if (typeof value === "object" && value !== null)
    return Object.entries(value)
      .map(([part, partValue]) => `${words(part)} ${String(partValue)}`)
      .join(", ");
  return String(value).trimEnd();
}
