import { describe, expect, test } from "vitest";
import { newNicCounters } from "../src/netvsp/nic-config.js";
import { newPortCounters } from "../src/switch/switch-port.js";
import type { MachineStats } from "../src/control/index.js";
import { statsText } from "../src/bin/machine-text.js";
import { formatBytes, formatDuration } from "../src/bin/text-table.js";
import { redrawn } from "../src/bin/watch.js";

const channel = {
  classId: "ba6163d9-04a1-4d29-b605-72e2ffb1dc7f",
  instanceId: "5c51c000-0000-4000-8000-000000000000",
  device: "SCSI",
  subChannelIndex: 0,
  relid: 14,
  state: "open",
  targetVp: 1,
  worker: 0,
  packetsIn: 1000,
  packetsOut: 990,
  signalsSent: 40,
  spaceSignalsSent: 2,
  interrupts: 50,
  outgoingFull: 3,
} as const;
const disk = { path: 0, target: 0, unmaps: 1, errors: 0, lastError: undefined } as const;

const stats: MachineStats = {
  name: "web",
  uptimeMs: 3_723_000,
  bus: { state: "connected", version: "5.3", messagesIn: 45, messagesOut: 60, backlog: 1 },
  channels: [
    channel,
    { ...channel, relid: 15, subChannelIndex: 1, targetVp: 2, packetsIn: 5 },
    { ...channel, relid: 2, device: "keyboard", state: "closed", targetVp: null, worker: null },
  ],
  controllers: [
    {
      instanceId: channel.instanceId,
      requests: 1000,
      completionsDelayed: 4,
      faults: 7,
      disks: [
        {
          ...disk,
          lun: 0,
          reads: 800,
          readBytes: 3_276_800,
          writes: 190,
          writtenBytes: 778_240,
          flushes: 9,
        },
        {
          ...disk,
          lun: 1,
          reads: 0,
          readBytes: 0,
          writes: 0,
          writtenBytes: 0,
          flushes: 0,
          errors: 2,
          lastError: "EIO: \u0007",
        },
      ],
    },
  ],
  integration: null,
  adapters: [],
  faults: [
    { kind: "late-completion", lun: 1, operation: "read", happened: 7 },
    { kind: "rescind", device: "scsi", happened: 0 },
  ],
  violations: { total: 3, rules: { "msr-access": 3 } },
};

describe("stats as text", () => {
  test("are what was counted in all", () => {
    expect(statsText(stats, "guest-kernel 1.0.0").join("\n")).toBe(
      `web: guest-kernel 1.0.0, up 01:02:03
VMBus 5.3 connected: 45 messages in, 60 out, 1 waiting; 1 channels closed; 3 violations; 7 faults

CHANNEL  DEVICE  SUB  STATE  VCPU  PACKETS IN  OUT  SIGNALS  INTERRUPTS  RING FULL
14       SCSI    0    open   1           1000  990       50          42          3
15       SCSI    1    open   2              5  990       50          42          3

CONTROLLER  REQUESTS  DELAYED  FAULTS
SCSI 0          1000        4       7

DISK      READS  READ  WRITES  WRITTEN  FLUSHES  UNMAPS  ERRORS
SCSI 0:0    800  3.1M     190     760K        9       1       0
SCSI 0:1      0    0B       0       0B        0       1       2
SCSI 0:1 failed last with: EIO: \\x07

FAULT                       HAPPENED
late-completion LUN 1 read         7
rescind scsi                       0

VIOLATION   TIMES
msr-access      3`,
    );
  });

  test("tell of network adapters", () => {
    const adapter = {
      ...newNicCounters(),
      instanceId: channel.instanceId,
      mac: "00:15:5d:0a:01:01",
      version: "6.1",
      mtu: 1500,
      isLinkUp: true,
      packetFilter: 9,
      channels: 1,
      receiveSlots: 9289,
      receiveSlotsBusy: 0,
      port: newPortCounters(),
    };
    const silent = { ...adapter, version: null, isLinkUp: false };
    const busy = {
      ...adapter,
      transmitFrames: 12,
      transmitBytes: 2048,
      receiveNoSlot: 3,
      receiveRingFull: 4,
    };
    expect(statsText({ ...stats, adapters: [busy, silent] }, "x").join("\n")).toContain(
      `
ADAPTER  NVSP  LINK  SENT  BYTES OUT  RECEIVED  BYTES IN  NO ROOM  ERRORS
hn0      6.1   up      12         2K         0        0B        7       0
hn1      -     down     0         0B         0        0B        0       0
`,
    );
  });

  test("are rates where there is something to compare with", () => {
    const [ofSystem, ofData] = stats.controllers[0]!.disks;
    const later: MachineStats = {
      ...stats,
      uptimeMs: stats.uptimeMs + 2000,
      channels: [
        { ...channel, packetsIn: 1001, packetsOut: 1190, interrupts: 50 },
        // Opened anew: what counts less than before has begun at 0.
        { ...channel, relid: 15, subChannelIndex: 1, packetsIn: 4 },
      ],
      controllers: [
        {
          ...stats.controllers[0]!,
          disks: [{ ...ofSystem!, reads: 1000, readBytes: ofSystem!.readBytes + 4096 }, ofData!],
        },
      ],
    };
    const lines = statsText(later, "guest-kernel 1.0.0", { stats });
    expect(lines.slice(3, 6)).toEqual([
      "CHANNEL  DEVICE  SUB  STATE  VCPU  PACKETS IN/s  OUT/s  SIGNALS/s  INTERRUPTS/s  RING FULL/s",
      "14       SCSI    0    open   1              0.5    100          0             0            0",
      "15       SCSI    1    open   1              2.0      0          0             0            0",
    ]);
    expect(lines.map((line) => line.split(/ {2,}/))).toContainEqual([
      "SCSI 0:0",
      "100",
      "2K",
      "0",
      "0B",
      "0",
      "0",
      "0",
    ]);
  });

  test("are averages since the machine's start at first", () => {
    const lines = statsText({ ...stats, uptimeMs: 10_000 }, "guest-kernel 1.0.0", {
      stats: undefined,
    });
    expect(lines).toContain(
      "14       SCSI    0    open   1              100     99        5.0           4.2          0.3",
    );
  });
});

test("bytes", () => {
  const bytes = [0, 1, 1023, 1024, 1536, 2 ** 20 * 100.4, 2 ** 31, 2 ** 60];
  expect(bytes.map(formatBytes)).toEqual([
    "0B",
    "1B",
    "1023B",
    "1K",
    "1.5K",
    "100M",
    "2G",
    "1024P",
  ]);
});

test("durations", () => {
  const durations = [0, 999, 59_999, 3_600_000, 86_399_999, 4 * 86_400_000 + 3_723_000];
  expect(durations.map(formatDuration)).toEqual([
    "00:00:00",
    "00:00:00",
    "00:00:59",
    "01:00:00",
    "23:59:59",
    "4d 01:02:03",
  ]);
});

test("a terminal shows the same from its first row on, as far as it fits", () => {
  expect(redrawn(["one", "a long line"], 6, 3, true)).toBe(
    "\x1b[2J\x1b[Hone\x1b[K\na lon\x1b[K\n\x1b[J",
  );
  expect(redrawn(["1", "2", "3", "4"], 80, 3, false)).toBe("\x1b[H1\x1b[K\n2\x1b[K\n\x1b[J");
});
