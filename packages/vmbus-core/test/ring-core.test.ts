import { afterEach, describe, expect, test, vi } from "vitest";
import {
  GuestMemory,
  IncomingRing,
  OutgoingRing,
  ReceiveResult,
  ringCore,
  RingArea,
  SendResult,
} from "@hyperv-is/vmbus-core";
import { PAGE_SIZE, PacketType } from "@hyperv-is/vmbus-core/protocol";
import { assemble } from "../../../tools/wat.js";

const sharedMemory = (units: number): WebAssembly.Memory =>
  new WebAssembly.Memory({ initial: units, maximum: units, shared: true });

describe("the ring core", () => {
  afterEach(() => vi.unstubAllGlobals());

  test("changes nothing in the memory that it is loaded for, of which it is one for all", () => {
    const memory = sharedMemory(2);
    const bytes = new Uint8Array(memory.buffer).fill(0xa5);
    const core = ringCore(memory);
    expect(core).toBeDefined();
    expect(ringCore(memory)).toBe(core);
    expect(bytes.every((byte) => byte === 0xa5)).toBe(true);
  });

  test("is not to be had for memory that is not shared, nor for a mere buffer", () => {
    expect(ringCore(new WebAssembly.Memory({ initial: 1, maximum: 1 }))).toBeUndefined();
    expect(ringCore({ buffer: new ArrayBuffer(65_536) })).toBeUndefined();
  });

  test("is not to be had from an engine without WebAssembly", () => {
    const memory = sharedMemory(1);
    vi.stubGlobal("WebAssembly", undefined);
    expect(ringCore(memory)).toBeUndefined();
    vi.unstubAllGlobals();
    expect(ringCore(memory)).toBeDefined();
  });

  test("carries packets at the end of 4 GiB", () => {
    const wasm = sharedMemory(65_536);
    const memory = new GuestMemory(wasm.buffer, 0, 2 ** 32, ringCore(wasm));
    expect(memory.ringCore).toBeDefined();
    const area = RingArea.at(memory, 2 ** 32 - 2 * PAGE_SIZE, 2);
    const [source, target] = [2 ** 32 - 3 * PAGE_SIZE, 2 ** 32 - 4 * PAGE_SIZE];
    const out = new OutgoingRing(area);
    const incoming = new IncomingRing(area);
    // Odd lengths, so that the last of many packets ends in the last bytes of memory.
    for (let length = 0; length < 1000; length++) {
      memory.bytes.fill(length, source, source + length);
      const { inBand } = PacketType;
      expect(out.putPacket(inBand, 1, length, -1, source, length)).toBe(SendResult.Ready);
      expect(out.publish()).toBe(true);
      expect(incoming.take(target, PAGE_SIZE)).toBe(ReceiveResult.Packet);
      expect([incoming.idLow, incoming.idHigh, incoming.flags]).toEqual([length, -1, 1]);
      const arrived = memory.copyOut(target, length);
      expect(arrived.every((byte) => byte === (length & 0xff))).toBe(true);
      incoming.commit();
    }
  });

  test("looks for small packets to come no further than they were written", () => {
    const wasm = sharedMemory(1);
    const memory = new GuestMemory(wasm.buffer, 0, wasm.buffer.byteLength, ringCore(wasm));
    // Behind this ring there is no memory, which a load would find out.
    const area = RingArea.at(memory, memory.sizeBytes - 2 * PAGE_SIZE, 2);
    const out = new OutgoingRing(area);
    const incoming = new IncomingRing(area);
    const { inBand } = PacketType;
    for (let round = 0; round < 20; round++) {
      let put = 0;
      while (out.putPacket(inBand, 0, put, round, 0, 64 - round) === SendResult.Ready) put++;
      out.publish();
      expect(put).toBeGreaterThan(40);
      for (let taken = 0; taken < put; taken++) {
        expect(incoming.take(PAGE_SIZE, 64)).toBe(ReceiveResult.Packet);
        expect([incoming.idLow, incoming.idHigh]).toEqual([taken, round]);
      }
      incoming.commit();
    }
  });
});

describe("what the build makes of WebAssembly text", () => {
  const guest = '(import "guest" "memory" (memory 1))';

  test("functions of an imported memory are a module", async () => {
    const text = `(module ${guest} (func (export "one") (result i32) (i32.load (i32.const 0))))`;
    expect(WebAssembly.validate(await assemble("text", text))).toBe(true);
  });

  test.each([
    ["data, which would be written over the guest's page 0", '(data (i32.const 0) "x")'],
    ["data that is only kept", '(data "x")'],
    ["a start function", "(func $start) (start $start)"],
    ["state", "(global (mut i32) (i32.const 0))"],
    ["a table", "(table 1 funcref)"],
  ])("%s is refused", async (_name, part) => {
    await expect(assemble("text", `(module ${guest} ${part})`)).rejects.toThrow(
      /^text: section \d+ of the module is none of type, import, function, export, code$/,
    );
  });

  test("a memory of its own is refused", async () => {
    await expect(assemble("text", "(module (memory 1))")).rejects.toThrow("section 5");
  });

  test("an error says where", async () => {
    await expect(assemble("text", "(module\n  (fun))")).rejects.toThrow("text:2:4");
  });
});
