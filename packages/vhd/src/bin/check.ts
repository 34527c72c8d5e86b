import { checkImageFile } from "../node/open.js";
import { choiceOption, type Command, imageFormats, onePath, printJson } from "./command.js";

/** `vhd check`. */
export const check: Command = {
  summary: "look for damage",
  help: `Usage: vhd check [--json] [--format FORMAT] FILE

Checks every structure of an image, and changes nothing. Exits with 1 when there is an error; a
warning (something that opening for writing repairs, or that costs only space) leaves it at 0.

  --format FORMAT         what the file is, where its content is ambiguous:
                          ${imageFormats.join(", ")}
  --json                  print JSON: {"file", "findings": [{"severity", "structure", "offset", "text"}]}`,
  options: { json: { type: "boolean" }, format: { type: "string" } },

  async run(values, paths) {
    const path = onePath(paths);
    const format = choiceOption(values, "format", imageFormats);
    const findings = await checkImageFile(path, format);
    const errors = findings.filter(({ severity }) => severity === "error").length;
    if (values["json"] === true) printJson({ file: path, findings });
    else {
      for (const { severity, structure, offset, text } of findings)
        process.stdout.write(`${severity}: ${structure} at file offset ${offset}: ${text}\n`);
      const counts = `${errors} errors, ${findings.length - errors} warnings`;
      process.stdout.write(`${path}: ${findings.length === 0 ? "no damage found" : counts}\n`);
    }
    return errors === 0 ? 0 : 1;
  },
};
