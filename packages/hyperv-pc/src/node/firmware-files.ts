import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { PcError } from "../pc-error.js";

/** Where Debian's package seabios puts its files. */
const DEFAULT_DIRECTORY = "/usr/share/seabios";

/** The firmware of an emulated PC. */
export interface Firmware {
  readonly bios: Uint8Array;
  readonly vgaBios: Uint8Array;
}

/**
 * Reads SeaBIOS and its VGA BIOS.
 * Rejects with `ERR_FIRMWARE`, saying where they can be had, if one is not there.
 */
export async function readFirmware(directory = DEFAULT_DIRECTORY): Promise<Firmware> {
  const read = async (name: string): Promise<Uint8Array> => {
    try {
      return await readFile(join(directory, name));
    } catch (cause) {
      throw new PcError(
        "ERR_FIRMWARE",
        `${join(directory, name)} cannot be read. The firmware is SeaBIOS: on Debian and Ubuntu 'apt-get install seabios' brings it; ` +
          `elsewhere name a directory that has bios.bin (the 128 KiB one) and vgabios-stdvga.bin with --bios`,
        { cause },
      );
    }
  };
  return { bios: await read("bios.bin"), vgaBios: await read("vgabios-stdvga.bin") };
}
