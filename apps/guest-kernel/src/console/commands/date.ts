import { CommandError, UsageError, getopt, type Command } from "../command.js";

const NS_PER_MS = 1_000_000n;
const DAYS = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"] as const;
const MONTHS = [
  ...["Jan", "Feb", "Mar", "Apr", "May", "Jun"],
  ...["Jul", "Aug", "Sep", "Oct", "Nov", "Dec"],
] as const;

const two = (value: number): string => String(value).padStart(2, "0");

/** As FreeBSD prints it in the C locale; the guest's time zone is UTC. */
function defaultText(time: Date): string {
  const clock = [time.getUTCHours(), time.getUTCMinutes(), time.getUTCSeconds()].map(two).join(":");
  const day = String(time.getUTCDate()).padStart(2);
  return `${DAYS[time.getUTCDay()]!} ${MONTHS[time.getUTCMonth()]!} ${day} ${clock} UTC ${time.getUTCFullYear()}`;
}

/** The conversions of strftime that a script wants; others stay as they are. */
function formatted(format: string, time: Date): string {
  const iso = time.toISOString();
  const conversions: Readonly<Record<string, string>> = {
    Y: iso.slice(0, 4),
    m: iso.slice(5, 7),
    d: iso.slice(8, 10),
    H: iso.slice(11, 13),
    M: iso.slice(14, 16),
    S: iso.slice(17, 19),
    F: iso.slice(0, 10),
    T: iso.slice(11, 19),
    Z: "UTC",
    z: "+0000",
    s: String(Math.floor(time.getTime() / 1000)),
    "%": "%",
  };
  return format.replaceAll(/%(.)/g, (whole, letter: string) => conversions[letter] ?? whole);
}

/** `[[[[[cc]yy]mm]dd]HH]MM[.SS]`; what is left out is as it is now. */
function parseTime(text: string, now: Date): number {
  const match = /^((?:\d\d){1,6})(?:\.(\d\d))?$/.exec(text);
  if (match === null) throw new UsageError("illegal time format");
  const pairs = match[1]!.match(/\d\d/g)!.map(Number);
  const seconds = Number(match[2] ?? 0);
  const take = (otherwise: number): number => pairs.pop() ?? otherwise;
  const minute = take(now.getUTCMinutes());
  const hour = take(now.getUTCHours());
  const day = take(now.getUTCDate());
  const month = take(now.getUTCMonth() + 1);
  const year = take(now.getUTCFullYear() % 100);
  const century = take(year < 69 ? 20 : 19);
  if (month < 1 || month > 12 || day < 1 || day > 31 || hour > 23 || minute > 59 || seconds > 60)
    throw new CommandError("date: nonexistent time");
  return Date.UTC(century * 100 + year, month - 1, day, hour, minute, seconds);
}

export const date: Command = {
  name: "date",
  summary: "print or set the time",
  usage: "date [-u] [[[[[cc]yy]mm]dd]HH]MM[.SS] | [+output_fmt]",
  async run({ args, system, print }) {
    const { operands } = getopt(args, "un");
    const [operand] = operands;
    if (operands.length > 1) throw new UsageError();
    const now = new Date(Number(system.realTime.nowNs() / NS_PER_MS));
    if (operand?.startsWith("+") === true) {
      await print(formatted(operand.slice(1), now));
      return 0;
    }
    if (operand === undefined) {
      await print(defaultText(now));
      return 0;
    }
    const timeMs = parseTime(operand, now);
    system.realTime.set(BigInt(timeMs) * NS_PER_MS);
    await print(defaultText(new Date(timeMs)));
    return 0;
  },
};
