import fc from "fast-check";
import { describe, expect, test } from "vitest";
import * as protocol from "../src/protocol/index.js";
import { body } from "./vectors.js";

const { KvpOperation, parseKvpRequest } = protocol;

/** A request of the reference with some bytes changed. */
function changed(id: string, change: (body: Uint8Array, view: DataView) => void): Uint8Array {
  const bytes = body(id).slice();
  change(bytes, new DataView(bytes.buffer));
  return bytes;
}

const KEY_AT = 4 + protocol.ValueLayout.key;
const VALUE_AT = 4 + protocol.ValueLayout.value;
const KEY_BYTES_AT = 4 + protocol.ValueLayout.keyBytes;
const VALUE_BYTES_AT = 4 + protocol.ValueLayout.valueBytes;

describe("hostile requests are refused for what is wrong with them", () => {
  const cases: [string, protocol.KvpFlaw, Uint8Array][] = [
    ["nothing", "length", new Uint8Array(0)],
    ["a body that ends in the value", "length", body("V14").slice(0, 2575)],
    ["a body without an index", "length", body("V19").slice(0, 7)],
    ["addresses one byte short", "length", body("V22").slice(0, 7427)],
    ["operation 77", "operation", changed("V14", (bytes) => (bytes[0] = 77))],
    ["pool 200", "pool", changed("V14", (bytes) => (bytes[1] = 200))],
    ["pool 5", "pool", changed("V19", (bytes) => (bytes[1] = 5))],
    ["pool 4, which is never exchanged", "pool", changed("V14", (bytes) => (bytes[1] = 4))],
    ["index 0xffffffff", "index", changed("V19", (_, v) => v.setUint32(4, 0xffff_ffff, true))],
    ["index 0x80000000", "index", changed("V19", (_, v) => v.setUint32(4, 0x8000_0000, true))],
    [
      "a key of 512 bytes without NUL",
      "key",
      changed("V14", (bytes, view) => {
        bytes.fill(0x41, KEY_AT, VALUE_AT);
        view.setUint32(KEY_BYTES_AT, 512, true);
      }),
    ],
    ["an odd key size", "key", changed("V14", (_, v) => v.setUint32(KEY_BYTES_AT, 11, true))],
    [
      "a key size without the NUL",
      "key",
      changed("V14", (_, v) => v.setUint32(KEY_BYTES_AT, 10, true)),
    ],
    ["a key size of 514", "key", changed("V14", (_, v) => v.setUint32(KEY_BYTES_AT, 514, true))],
    [
      "a key that fills its field, with a size beyond it",
      "key",
      changed("V14", (_, view) => {
        for (let at = KEY_AT; at < KEY_AT + 510; at += 2) view.setUint16(at, 0x41, true);
        view.setUint32(KEY_BYTES_AT, 514, true);
      }),
    ],
    [
      "a key size of 4 GiB",
      "key",
      changed("V14", (_, v) => v.setUint32(KEY_BYTES_AT, 0xffff_fffe, true)),
    ],
    ["a key size of 0", "key", changed("V14", (_, v) => v.setUint32(KEY_BYTES_AT, 0, true))],
    [
      "an empty key",
      "key",
      changed("V14", (bytes, view) => {
        bytes.fill(0, KEY_AT, VALUE_AT);
        view.setUint32(KEY_BYTES_AT, 2, true);
      }),
    ],
    ["a NUL within a key", "key", changed("V14", (_, v) => v.setUint16(KEY_AT + 4, 0, true))],
    ["a line feed in a key", "key", changed("V14", (_, v) => v.setUint16(KEY_AT + 4, 10, true))],
    [
      "half a surrogate pair in a key",
      "key",
      changed("V14", (_, v) => v.setUint16(KEY_AT, 0xd800, true)),
    ],
    ["the other half", "key", changed("V14", (_, v) => v.setUint16(KEY_AT, 0xdc00, true))],
    [
      "a key of 255 characters of 3 bytes",
      "key",
      changed("V14", (_, view) => {
        for (let at = KEY_AT; at < KEY_AT + 510; at += 2) view.setUint16(at, 0x4e2d, true);
        view.setUint32(KEY_BYTES_AT, 512, true);
      }),
    ],
    ["a NUL within a value", "value", changed("V14", (_, v) => v.setUint16(VALUE_AT + 2, 0, true))],
    [
      "half a surrogate pair in a value",
      "value",
      changed("V14", (_, v) => v.setUint16(VALUE_AT, 0xdbff, true)),
    ],
    [
      "a value size of 65538",
      "value",
      changed("V14", (_, v) => v.setUint32(VALUE_BYTES_AT, 65_538, true)),
    ],
    [
      "a value of 2048 bytes of UTF-8",
      "value",
      changed("V14", (_, view) => {
        for (let unit = 0; unit < 682; unit++) view.setUint16(VALUE_AT + 2 * unit, 0x4e2d, true);
        view.setUint16(VALUE_AT + 2 * 682, 0x41, true);
        view.setUint16(VALUE_AT + 2 * 683, 0x41, true);
        view.setUint32(VALUE_BYTES_AT, 2 * 685, true);
      }),
    ],
    ["a value of an unknown type", "value", changed("V14", (bytes) => (bytes[4] = 3))],
    [
      "a number of 8 bytes as a u32",
      "value",
      changed("V15", (_, v) => v.setUint32(VALUE_BYTES_AT, 8, true)),
    ],
    [
      "a number of 16 bytes as a u64",
      "value",
      changed("V16", (_, v) => v.setUint32(VALUE_BYTES_AT, 16, true)),
    ],
    [
      "an upper-case hexadecimal that is no MAC",
      "adapter",
      changed("V24", (_, v) => v.setUint16(2, 0x47, true)),
    ],
    ["an empty MAC", "adapter", changed("V24", (bytes) => bytes.fill(0, 2, 258))],
    [
      "an interface's name for a GUID",
      "adapter",
      changed("V22", (_, v) => v.setUint16(2, 0x68, true)),
    ],
  ];
  test.each(cases)("%s: %s", (_, flaw, bytes) => {
    expect(parseKvpRequest(bytes, "text")).toBe(flaw);
  });

  test("registry text with variables is text", () => {
    const bytes = changed("V14", (_, view) => view.setUint32(4, 2, true));
    expect(parseKvpRequest(bytes, "text")).toEqual(parseKvpRequest(body("V14"), "text"));
  });

  test("a GUID may be in upper case", () => {
    const upper = changed("V22", (bytes, view) => {
      for (let at = 2; at < 80; at += 2)
        view.setUint16(at, String.fromCharCode(bytes[at]!).toUpperCase().charCodeAt(0), true);
    });
    expect(parseKvpRequest(upper, "text")).toEqual(parseKvpRequest(body("V22"), "text"));
  });
});

/** A SET_IP_INFO in text form with one of its lists replaced. */
function ipRequest(list: "addresses" | "subnets" | "gateways" | "dnsServers", text: string) {
  return parseKvpRequest(
    changed("V22", (bytes) => {
      const ends = { addresses: 2306, subnets: 4354, gateways: 5378, dnsServers: 7426 };
      const at = protocol.IpTextLayout[list];
      protocol.writeUtf16(bytes.subarray(2 + at, 2 + ends[list]).fill(0), text);
    }),
    "text",
  );
}

describe("addresses of the host", () => {
  test.each([
    ["addresses", "1".repeat(100)],
    ["addresses", `192.0.2.1${"0".repeat(100)}`],
    ["addresses", "192.0.2.1\nEVIL=1"],
    ["addresses", "192.0.2.01"],
    ["addresses", "192.0.2.256"],
    ["addresses", "192.0.2.1;;192.0.2.2"],
    ["addresses", "192.0.2.10;192.0.2.11"],
    ["addresses", ":::"],
    ["addresses", "fe80::1%hn0"],
    ["addresses", "1:2:3:4:5:6:7:8:9"],
    ["addresses", "$(reboot)"],
    ["subnets", "::"],
    ["subnets", "255.255.255.0;x\nEVIL=1"],
    ["subnets", "255.0.255.0"],
    ["subnets", "24"],
    ["gateways", "192.0.2.1\n"],
    ["gateways", "host.example"],
    ["dnsServers", "192.0.2.53;`id`"],
    ["dnsServers", "192.0.2.53 192.0.2.54"],
  ] as const)("%s '%s' are refused", (list, text) => {
    expect(ipRequest(list, text)).toBe("address");
  });

  test("a list that fills its field has no end and is refused", () => {
    const endless = changed("V22", (bytes) => {
      for (let at = 4356; at < 5380; at += 2) bytes[at] = 0x31;
    });
    expect(parseKvpRequest(endless, "text")).toBe("address");
  });

  test("spaces around items and a separator at the end are taken", () => {
    expect(ipRequest("dnsServers", " 192.0.2.53; 198.51.100.53 ;")).toEqual(
      parseKvpRequest(body("V22"), "text"),
    );
  });

  test.each([
    ["a count beyond its array", (view: DataView) => view.setUint32(4, 65, true)],
    ["six gateways", (view: DataView) => view.setUint32(4 + 8, 6, true)],
    ["a count of 4 GiB", (view: DataView) => view.setUint32(4 + 16, 0xffff_ffff, true)],
    ["a mask with holes", (view: DataView) => view.setUint32(4 + 1564, 0x00ff_00ff, true)],
  ])("%s in the binary form is refused", (_, change) => {
    expect(
      parseKvpRequest(
        changed("V26", (__, view) => change(view)),
        "binary",
      ),
    ).toBe("address");
  });

  test("a prefix of 129 bits in the binary form is refused", () => {
    const request = changed("V26", (_, view) => {
      view.setUint32(4 + 4, 1, true);
      view.setUint32(4 + 1820, 129, true);
    });
    expect(parseKvpRequest(request, "binary")).toBe("address");
  });
});

describe("text", () => {
  test.each(["naïve", "中文", "😀 key", "\u{10ffff}", "a\ufeffb", "\ufeffbom"])(
    "'%s' comes through UTF-16 and UTF-8 unchanged",
    (key) => {
      const request = { operation: KvpOperation.set, pool: 1, key, value: `${key}${key}` } as const;
      expect(parseKvpRequest(protocol.emitKvpRequest(request, "text"), "text")).toEqual(request);
      const message = protocol.emitDeviceRequest(protocol.linuxDialect, request);
      expect(protocol.parseDeviceRequest(message)).toEqual(request);
    },
  );

  test("an answer is cut between two characters, where stock kernels cut it", () => {
    const item = { key: "k".repeat(253) + "😀", value: "v".repeat(1021) + "😀" };
    const answer = protocol.parseItemAnswer(protocol.emitItemAnswer(body("V19"), item));
    expect(answer).toEqual({ key: "k".repeat(253), value: "v".repeat(1021) });
    const whole = { key: "k".repeat(300), value: "v".repeat(2000) };
    expect(protocol.parseItemAnswer(protocol.emitItemAnswer(body("V19"), whole))).toEqual({
      key: "k".repeat(254),
      value: "v".repeat(1022),
    });
  });

  test("an answer has nothing of what the request left in the fields", () => {
    const dirty = body("V19").fill(0xff, 8);
    expect(protocol.emitItemAnswer(dirty, { key: "OSName", value: "FreeBSD" })).toEqual(
      body("V20"),
    );
  });

  test("a record takes 511 bytes of key and 2047 of value, and no NUL", () => {
    const item = { key: "k".repeat(511), value: "v".repeat(2047) };
    expect(protocol.parsePool(protocol.emitPool([item]))).toEqual([item]);
    for (const wrong of [
      { ...item, key: "k".repeat(512) },
      { ...item, value: "v".repeat(2048) },
      { ...item, value: "a\0b" },
    ])
      expect(() => protocol.emitPool([wrong])).toThrow(RangeError);
  });

  test("an answer to the driver has nothing of what the request left, and an end in every field", () => {
    const request = protocol.emitDeviceRequest(protocol.linuxDialect, {
      operation: KvpOperation.enumerate,
      pool: 1,
      index: 0,
    });
    const { key, value, SIZE } = protocol.ValueLayout;
    const fields = (item: protocol.KvpItem): [key: string, value: string] => {
      const dirty = request.slice().fill(0xff, 8);
      const answer = protocol.emitDeviceAnswer(dirty, { status: 0, item });
      const texts = answer.subarray(8, 8 + SIZE);
      const text = (from: number, to: number) => new TextDecoder().decode(texts.slice(from, to));
      return [text(key, value), text(value, SIZE)];
    };
    expect(fields({ key: "OSName", value: "FreeBSD" })).toEqual([
      "OSName".padEnd(512, "\0"),
      "FreeBSD".padEnd(2048, "\0"),
    ]);
    expect(fields({ key: "k".repeat(600), value: "v".repeat(3000) })).toEqual([
      `${"k".repeat(511)}\0`,
      `${"v".repeat(2047)}\0`,
    ]);
  });

  test("what ends a record's text is its first NUL", () => {
    const bytes = protocol.emitPool([{ key: "k", value: "AAAAAAAAAAAA" }]);
    bytes.set([0x62, 0x62, 0], 512);
    expect(protocol.parsePool(bytes)).toEqual([{ key: "k", value: "bb" }]);
  });
});

const octets = (length: number) => fc.uint8Array({ minLength: length, maxLength: length });
const network = fc.oneof(
  fc.record({ address: octets(4), prefixBits: fc.nat(32) }),
  fc.record({ address: octets(16), prefixBits: fc.nat(128) }),
);
const address = fc.oneof(octets(4), octets(16));

describe("properties", () => {
  test("settings come through both forms, and through the device", () => {
    const settings = fc.record({
      dhcp: fc.boolean(),
      addresses: fc.array(network, { maxLength: 12 }),
      gateways: fc.array(address, { maxLength: 5 }),
      dnsServers: fc.array(address, { maxLength: 12 }),
    });
    fc.assert(
      fc.property(settings, fc.constantFrom("text", "binary"), (given, form) => {
        const sorted = {
          ...given,
          addresses: protocol.ipv4First(given.addresses, (one) => one.address),
          gateways: protocol.ipv4First(given.gateways, (one) => one),
          dnsServers: protocol.ipv4First(given.dnsServers, (one) => one),
        };
        const adapter = { adapterId: "00:15:5D:01:02:03", settings: given };
        const expected = { ...adapter, settings: sorted };
        expect(protocol.parseIpAnswer(protocol.emitIpAnswer(adapter, form), form)).toEqual(
          expected,
        );
        const { freebsdDialect } = protocol;
        const request = { operation: KvpOperation.setIpInfo, adapter } as const;
        const message = protocol.emitDeviceRequest(freebsdDialect, request);
        expect(protocol.parseDeviceRequest(message)).toEqual({ ...request, adapter: expected });
      }),
      { numRuns: 100 },
    );
  });

  test("an address is the one that its text says", () => {
    fc.assert(
      fc.property(address, (bytes) => {
        expect(protocol.parseIpAddress(protocol.formatIpAddress(bytes))).toEqual(bytes);
      }),
    );
  });

  test("no body and no message throws", () => {
    const size = { maxLength: 300, size: "max" } as const;
    fc.assert(
      fc.property(
        fc.uint8Array(size),
        fc.nat(7432),
        fc.constantFrom("text", "binary"),
        (head, lengthBytes, form) => {
          const bytes = new Uint8Array(lengthBytes);
          bytes.set(head.subarray(0, lengthBytes));
          if (lengthBytes > 0) bytes[0] = bytes[0]! % 7;
          parseKvpRequest(bytes, form);
          protocol.parseItemAnswer(bytes);
          protocol.parseIpAnswer(bytes, form);
          const message = new Uint8Array(7430);
          message.set(bytes.subarray(0, 7430));
          protocol.parseDeviceRequest(message);
          protocol.parseDeviceSettings(message);
        },
      ),
    );
  });
});

test.each([
  ["0.0.0.0", [0, 0, 0, 0]],
  ["::", new Array<number>(16).fill(0)],
  ["::1", [...new Array<number>(15).fill(0), 1]],
  ["::ffff:192.0.2.1", [...new Array<number>(10).fill(0), 255, 255, 192, 0, 2, 1]],
  ["2001:DB8::10", [0x20, 1, 0x0d, 0xb8, ...new Array<number>(11).fill(0), 0x10]],
  ["1::", [0, 1, ...new Array<number>(14).fill(0)]],
])("address %s", (text, bytes) => {
  expect(protocol.parseIpAddress(text)).toEqual(Uint8Array.from(bytes));
});

test("a MAC address is upper case in messages, whoever writes it", () => {
  expect(protocol.parseMac("00:15:5d:01:02:0a")).toBe("00:15:5D:01:02:0A");
});

test.each([
  [false, 2],
  [true, 1],
])(
  "binary form, DHCP %s: every address has origin %i, IPv6 directly behind IPv4",
  (dhcp, origin) => {
    const plain = { addresses: ["192.0.2.10/24", "2001:db8::10/64", "2001:db8::11/64"] };
    const settings = protocol.parseIpSettings({ ...plain, dhcp, gateways: [], dnsServers: [] })!;
    const answer = protocol.emitIpAnswer({ adapterId: "", settings }, "binary");
    const view = new DataView(answer.buffer, 4 + protocol.IpBinaryLayout.origins);
    expect([0, 2, 4, 6].map((at) => view.getUint16(at, true))).toEqual([origin, origin, origin, 0]);
  },
);

test.each([
  "1:2:3:4:5:6:7::8",
  "1:2:3:4:5:6:7:8::",
  "1::2::3",
  "1:2:3:4:5:6:7",
  "::12345",
  "1.2.3",
])("'%s' is no address", (text) => {
  expect(protocol.parseIpAddress(text)).toBeUndefined();
});

test("settings come through their plain form, and what is no address is refused", () => {
  const plain = {
    dhcp: false,
    addresses: ["192.0.2.10/24", "2001:db8::10/64"],
    gateways: ["192.0.2.1"],
    dnsServers: ["2001:db8::53"],
  };
  expect(protocol.formatIpSettings(protocol.parseIpSettings(plain)!)).toEqual(plain);
  for (const wrong of ["192.0.2.10", "192.0.2.10/33", "::/129", "x/24", 5, { toString: 1 }, null])
    expect(protocol.parseIpSettings({ ...plain, addresses: [wrong] })).toBeUndefined();
  for (const wrong of ["192.0.2.1/24", "", { toString: 1 }])
    expect(protocol.parseIpSettings({ ...plain, gateways: [wrong] })).toBeUndefined();
});
