import { device, integer, ioPorts, named, resourceTemplate, scope, string, table } from "./aml.js";

/** Present, enabled, shown, functioning. */
const STATUS_WORKING = 0xf;

/**
 * The ACPI table (an SSDT) with the device by which guests find out that there is a VMBus: `_HID` "VMBus",
 * and a `_CRS`, without which Linux does not look at it. The port that it claims exists only on paper.
 */
export function vmbusTable(): Uint8Array {
  return table(
    {
      signature: "SSDT",
      revision: 2,
      oemId: "HVIS  ",
      oemTableId: "VMBUSTBL",
      oemRevision: 1,
    },
    scope(
      "\\_SB",
      device(
        "VMB0",
        named("_HID", string("VMBus")),
        named("_UID", integer(0)),
        named("_STA", integer(STATUS_WORKING)),
        named("_CRS", resourceTemplate(ioPorts(0x900, 0x900, 1, 1))),
      ),
    ),
  );
}
