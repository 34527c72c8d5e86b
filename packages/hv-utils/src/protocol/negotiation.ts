import { record, u16, type RecordOf } from "@hyperv-is/vmbus-core/protocol";
import {
  IC_VERSION_BYTES,
  versionField,
  type IcVersion,
  type IcVersionLists,
  type IcVersions,
} from "./version.js";

/** In front of the versions, in the body of a negotiation message, request or answer; framework versions come first. */
export const IcVersionCounts = record({ frameworks: u16(0), messages: u16(2) }, 8);
export type IcVersionCounts = RecordOf<typeof IcVersionCounts.fields>;

/** Most versions of a list that a guest reads. Source: Linux. */
export const IC_VERSION_COUNT_MAX = 100;

/** The host's offer; undefined if a list is empty or too long, or the body ends before them. In no order. */
export function parseIcOffer(body: Uint8Array): IcVersionLists | undefined {
  const counts = IcVersionCounts.parse(body);
  if (counts === undefined || counts.frameworks === 0 || counts.messages === 0) return undefined;
  const { frameworks, messages } = counts;
  if (frameworks > IC_VERSION_COUNT_MAX || messages > IC_VERSION_COUNT_MAX) return undefined;
  const versions = parseVersions(body, frameworks + messages);
  return (
    versions && {
      frameworks: versions.slice(0, frameworks),
      messages: versions.slice(frameworks),
    }
  );
}

/** The body of the host's offer. */
export function emitIcOffer({ frameworks, messages }: IcVersionLists): Uint8Array<ArrayBuffer> {
  return emitVersions({ frameworks: frameworks.length, messages: messages.length }, [
    ...frameworks,
    ...messages,
  ]);
}

/**
 * The guest's answer to an offer: "none" if the two have nothing in common, which is to say that the counts are
 * not 1 and 1; undefined if the body ends too early. Whether the versions were offered is not looked at.
 */
export function parseIcChoice(body: Uint8Array): IcVersions | "none" | undefined {
  const counts = IcVersionCounts.parse(body);
  if (counts === undefined) return undefined;
  if (counts.frameworks !== 1 || counts.messages !== 1) return "none";
  const versions = parseVersions(body, 2);
  return versions && { framework: versions[0]!, message: versions[1]! };
}

/** The body of the guest's answer. Without a choice the counts are 0, as Linux has it, and the versions are 0.0. */
export function emitIcChoice(choice: IcVersions | undefined): Uint8Array<ArrayBuffer> {
  const count = choice === undefined ? 0 : 1;
  return emitVersions({ frameworks: count, messages: count }, [
    choice?.framework ?? 0,
    choice?.message ?? 0,
  ]);
}

/**
 * What a side with these versions, best first, makes of an offer: its best framework and its best message version
 * among the offered, each for itself; undefined if there is none. Only equal versions match. FreeBSD takes any
 * that is not newer than its own instead, and so versions whose messages it does not understand.
 */
export function chooseIcVersions(
  own: IcVersionLists,
  offer: IcVersionLists,
): IcVersions | undefined {
  const framework = own.frameworks.find((version) => offer.frameworks.includes(version));
  const message = own.messages.find((version) => offer.messages.includes(version));
  return framework === undefined || message === undefined ? undefined : { framework, message };
}

const versionAt = (index: number): ReturnType<typeof versionField> =>
  versionField(IcVersionCounts.SIZE + index * IC_VERSION_BYTES);

function parseVersions(body: Uint8Array, count: number): IcVersion[] | undefined {
  if (body.byteLength < IcVersionCounts.SIZE + count * IC_VERSION_BYTES) return undefined;
  const view = new DataView(body.buffer, body.byteOffset, body.byteLength);
  return Array.from({ length: count }, (_, index) => versionAt(index).read(view));
}

function emitVersions(
  counts: IcVersionCounts,
  versions: readonly IcVersion[],
): Uint8Array<ArrayBuffer> {
  const body = new Uint8Array(IcVersionCounts.SIZE + versions.length * IC_VERSION_BYTES);
  IcVersionCounts.write(body, counts);
  const view = new DataView(body.buffer);
  for (const [index, version] of versions.entries()) versionAt(index).write(view, version);
  return body;
}
