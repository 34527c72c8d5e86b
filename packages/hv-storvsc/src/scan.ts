import type { CommandExecutor } from "./command-executor.js";
import { ScsiError } from "./errors.js";
import { patchInquiry } from "./inquiry-patches.js";
import { LogicalUnit } from "./logical-unit.js";
import {
  InquiryData,
  LunList,
  parseReportLuns,
  parseStandardInquiry,
  type StandardInquiry,
} from "./protocol/index.js";

/** What is known about one address after a scan. */
export interface ScannedUnit {
  readonly target: number;
  readonly lun: number;
  /** What answered; undefined if nothing is there, or if the unit could not be asked. */
  readonly inquiry: StandardInquiry | undefined;
  /** The data as it came, with the corrections of `patchInquiry`. */
  readonly inquiryData: Uint8Array;
  /** The unit could not be asked: it is neither there nor gone. */
  readonly unknown: boolean;
}

/** A unit that answered. */
export type FoundUnit = ScannedUnit & { readonly inquiry: StandardInquiry };

/** Where to look. */
export interface ScanOptions {
  /** Targets of the bus, from 0 on; FreeBSD has 2. */
  readonly targets: number;
  /** LUNs of a target, from 0 on; a Hyper-V controller has 64. */
  readonly luns: number;
  /** The agreed protocol version. */
  readonly version: number;
  /** Units that were there before: asked even if no list names them. */
  readonly known?: readonly { readonly target: number; readonly lun: number }[];
}

/** Without a list of LUNs, those above are not looked for, as in FreeBSD. */
const LAST_SEQUENTIAL_LUN = 7;
const ABSENT_QUALIFIER_MIN = 1;

/**
 * Looks for logical units: LUN 0 of each target, then what its REPORT LUNS lists.
 *
 * Only a command that succeeded is evidence. A failed INQUIRY leaves its buffer as it was, and taking that
 * for an answer makes phantom disks; a missing LUN 0 does not mean that the others are missing; and one
 * LUN that is gone does not take its target along. At most two INQUIRYs per LUN below `luns` and two
 * REPORT LUNS per target are sent.
 *
 * Rejects with `StorvscError` when the controller goes away.
 */
export async function scanBus(
  executor: CommandExecutor,
  options: ScanOptions,
): Promise<readonly ScannedUnit[]> {
  const targets = Array.from({ length: options.targets }, (_, target) =>
    scanTarget(executor, target, options),
  );
  return (await Promise.all(targets)).flat();
}

/** Asks one address what lives there. */
export async function scanUnit(
  executor: CommandExecutor,
  target: number,
  lun: number,
  version: number,
): Promise<ScannedUnit> {
  const unit = new LogicalUnit(executor, target, lun, true);
  const nothing = { target, lun, inquiry: undefined, inquiryData: new Uint8Array() };
  try {
    let bytes = await unit.inquiry(InquiryData.SIZE);
    const whole = (bytes[InquiryData.additionalLength] ?? 0) + InquiryData.additionalLength + 1;
    if (bytes.byteLength === InquiryData.SIZE && whole > InquiryData.SIZE) {
      const longer = await unit.inquiry(whole + (whole & 1));
      if (longer.byteLength > bytes.byteLength) bytes = longer;
    }
    patchInquiry(bytes, version);
    const inquiry = parseStandardInquiry(bytes);
    if (inquiry === undefined || inquiry.peripheralQualifier >= ABSENT_QUALIFIER_MIN)
      return { ...nothing, unknown: false };
    return { target, lun, inquiry, inquiryData: bytes, unknown: false };
  } catch (error) {
    if (!(error instanceof ScsiError)) throw error;
    return { ...nothing, unknown: error.code !== "ERR_SCSI_NOT_THERE" };
  }
}

async function scanTarget(
  executor: CommandExecutor,
  target: number,
  options: ScanOptions,
): Promise<readonly ScannedUnit[]> {
  const ask = (lun: number): Promise<ScannedUnit> =>
    scanUnit(executor, target, lun, options.version);
  const first = await ask(0);
  const reported = await reportLuns(new LogicalUnit(executor, target, 0, true));
  if (reported !== undefined) {
    const others = [...new Set(reported)]
      .filter((lun) => lun > 0 && lun < options.luns)
      .sort((left, right) => left - right);
    return [first, ...(await Promise.all(others.map(ask)))];
  }
  const units = [first];
  const known = (options.known ?? []).filter((unit) => unit.target === target);
  let goOn = first.inquiry !== undefined;
  for (let lun = 1; lun < options.luns; lun++) {
    goOn &&= lun <= LAST_SEQUENTIAL_LUN;
    if (!goOn && !known.some((unit) => unit.lun === lun)) continue;
    const unit = await ask(lun);
    units.push(unit);
    goOn &&= unit.inquiry !== undefined;
  }
  return units;
}

/** The LUNs of a target, or undefined when it does not tell. */
async function reportLuns(unit: LogicalUnit): Promise<readonly number[] | undefined> {
  try {
    const one = parseReportLuns(await unit.reportLuns(LunList.entries + LunList.ENTRY_SIZE));
    if (one === undefined || one.listBytes <= LunList.ENTRY_SIZE) return one?.luns;
    // A one-byte LUN bounds the list, whatever its header says.
    const listBytes = Math.min(one.listBytes, 256 * LunList.ENTRY_SIZE);
    return parseReportLuns(await unit.reportLuns(LunList.entries + listBytes))?.luns ?? one.luns;
  } catch (error) {
    if (!(error instanceof ScsiError)) throw error;
    return undefined;
  }
}
