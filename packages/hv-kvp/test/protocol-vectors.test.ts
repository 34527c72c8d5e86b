import { describe, expect, test } from "vitest";
import * as protocol from "../src/protocol/index.js";
import { body, structs, vector } from "./vectors.js";

const { KvpOperation, formatIpAddress } = protocol;

/** Settings with addresses as text. */
function readable({ settings, adapterId }: protocol.AdapterSettings) {
  const { dhcp, addresses, gateways, dnsServers } = settings;
  return {
    adapterId,
    dhcp,
    addresses: protocol.describeNetworks(addresses),
    gateways: gateways.map(formatIpAddress),
    dnsServers: dnsServers.map(formatIpAddress),
  };
}

function networks(...texts: string[]): protocol.IpNetwork[] {
  return texts.map((text) => {
    const [address = "", prefix] = text.split("/");
    return { address: protocol.parseIpAddress(address)!, prefixBits: Number(prefix) };
  });
}

const addresses = (...texts: string[]): protocol.IpAddress[] =>
  texts.map((text) => protocol.parseIpAddress(text)!);

const staticSettings: protocol.IpSettings = {
  dhcp: false,
  addresses: networks("192.0.2.10/24"),
  gateways: addresses("192.0.2.1"),
  dnsServers: addresses("192.0.2.53", "198.51.100.53"),
};
const nic = "{f8615163-df3e-46c5-913f-f2d2f965ed0e}";
const mac = "00:15:5D:01:02:03";

describe("requests", () => {
  const requests: [string, protocol.KvpRequest][] = [
    ["V14", { operation: KvpOperation.set, pool: 0, key: "color", value: "green" }],
    ["V15", { operation: KvpOperation.set, pool: 0, key: "n", value: 4_000_000_000 }],
    ["V16", { operation: KvpOperation.set, pool: 0, key: "q", value: 1n }],
    ["V17", { operation: KvpOperation.get, pool: 1, key: "color" }],
    ["V18", { operation: KvpOperation.delete, pool: 0, key: "color" }],
    ["V19", { operation: KvpOperation.enumerate, pool: 2, index: 5 }],
    ["V22", { operation: KvpOperation.setIpInfo, adapterId: nic, settings: staticSettings }],
    ["V24", { operation: KvpOperation.getIpInfo, adapterId: mac }],
  ];
  test.each(requests)("%s parses into its record, and the record gives its bytes", (id, record) => {
    expect(protocol.parseKvpRequest(body(id), "text")).toEqual(record);
    expect(protocol.emitKvpRequest(record, "text")).toEqual(body(id));
  });

  test("V26, the binary form of V22", () => {
    const record = { operation: KvpOperation.setIpInfo, adapterId: nic, settings: staticSettings };
    expect(protocol.parseKvpRequest(body("V26"), "binary")).toEqual(record);
    const emitted = protocol.emitKvpRequest(record, "binary");
    emitted[1] = 1; // OpenVMM's pool of an operation that has none
    expect(emitted).toEqual(body("V26"));
  });

  test("a 64-bit value is also taken by the number that FreeBSD and Linux have for it", () => {
    const bytes = body("V16");
    bytes[4] = 8;
    expect(protocol.parseKvpRequest(bytes, "text")).toMatchObject({ value: 1n });
  });
});

describe("answers", () => {
  test("V20 is V19 with the item", () => {
    const item = { key: "OSName", value: "FreeBSD" };
    expect(protocol.emitItemAnswer(body("V19"), item)).toEqual(body("V20"));
    expect(protocol.parseItemAnswer(body("V20"))).toEqual(item);
  });

  test("V25 has addresses of both families", () => {
    const parsed = protocol.parseIpAnswer(body("V25"), "text")!;
    expect(readable(parsed)).toEqual({
      adapterId: mac,
      dhcp: true,
      addresses: "192.0.2.10/24, 2001:db8::10/64",
      gateways: ["192.0.2.1"],
      dnsServers: ["192.0.2.53"],
    });
    const emitted = protocol.emitIpAnswer(parsed, "text");
    expect(protocol.parseIpAnswer(emitted, "text")).toEqual(parsed);
    // Linux ends the last two lists by a separator.
    const [gateways, dnsServers] = [
      protocol.IpTextLayout.gateways,
      protocol.IpTextLayout.dnsServers,
    ];
    for (const at of [gateways + 2 * "192.0.2.1".length, dnsServers + 2 * "192.0.2.53".length])
      emitted[protocol.KvpBody.ipText + at] = ";".charCodeAt(0);
    expect(emitted).toEqual(body("V25"));
  });
});

describe("the device's messages", () => {
  const { linuxDialect, freebsdDialect } = protocol;
  const setColor = { operation: KvpOperation.set, pool: 0, key: "color", value: "green" } as const;

  test("V35 to V37: registrations", () => {
    expect(protocol.emitRegistration(linuxDialect, 100)).toEqual(vector("V35"));
    expect(protocol.emitRegistration(linuxDialect, 100, "3.1")).toEqual(vector("V36"));
    expect(protocol.parseRegistration(vector("V36"))).toBe("3.1");
    expect(protocol.emitRegistration(freebsdDialect, 4)).toEqual(vector("V37"));
  });

  test("V38: the kernel's request, in both sizes", () => {
    expect(protocol.emitDeviceRequest(linuxDialect, setColor)).toEqual(vector("V38"));
    expect(protocol.parseDeviceRequest(vector("V38"))).toEqual(setColor);
    const packed = protocol.emitDeviceRequest(freebsdDialect, setColor);
    expect(packed).toEqual(vector("V38").subarray(0, 7430));
  });

  test("V39: the daemon's answer", () => {
    expect(protocol.emitDeviceAnswer(vector("V38"), { status: 0 })).toEqual(vector("V39"));
    expect(protocol.deviceStatus(vector("V39"))).toBe(0);
  });
});

test("V40: a pool's file", () => {
  const items = [
    { key: "color", value: "green" },
    { key: "n", value: "7" },
  ];
  expect(protocol.parsePool(vector("V40"))).toEqual(items);
  expect(protocol.emitPool(items)).toEqual(vector("V40"));
});

describe("layouts are those that a C compiler measured", () => {
  const { freebsd, openvmm, linux_uapi: linux } = structs;
  const { ValueLayout, IpTextLayout, IpBinaryLayout, EnumerateLayout, DeleteLayout } = protocol;
  test("values", () => {
    const { size, fields } = freebsd.hv_kvp_exchg_msg_value;
    expect({ ...ValueLayout }).toEqual({
      type: fields.value_type.offset,
      keyBytes: fields.key_size.offset,
      valueBytes: fields.value_size.offset,
      key: fields.key.offset,
      value: fields.msg_value.offset,
      SIZE: size,
    });
    expect(DeleteLayout).toEqual({ keyBytes: 0, key: 4, SIZE: freebsd.hv_kvp_msg_delete.size });
    expect(EnumerateLayout.SIZE).toBe(freebsd.hv_kvp_msg_enumerate.size);
    expect(protocol.KvpBody.SIZE).toBe(openvmm.KvpMessage.size);
    expect(protocol.KvpBody.IP_SIZE).toBe(openvmm.KvpMessage2.size);
    expect(protocol.freebsdDialect.messageBytes).toBe(freebsd.hv_kvp_msg.size);
    expect(protocol.linuxDialect.messageBytes).toBe(linux.hv_kvp_msg.size);
  });

  test("addresses as text", () => {
    const { size, fields } = openvmm.IpText;
    expect({ ...IpTextLayout }).toEqual({
      adapterId: fields.adapter_id.offset,
      family: fields.address_family.offset,
      dhcp: fields.dhcp_enabled.offset,
      addresses: fields.ip_address.offset,
      subnets: fields.subnet.offset,
      gateways: fields.gateway.offset,
      dnsServers: fields.dns_server_addresses.offset,
      SIZE: size,
    });
  });

  test("addresses as numbers", () => {
    const { size, fields } = openvmm.IpBinary;
    expect({ ...IpBinaryLayout }).toEqual({
      ipv4Count: fields.ipv4_address_count.offset,
      ipv6Count: fields.ipv6_address_count.offset,
      ipv4GatewayCount: fields.ipv4_gateway_count.offset,
      ipv6GatewayCount: fields.ipv6_gateway_count.offset,
      ipv4DnsCount: fields.ipv4_dns_server_count.offset,
      ipv6DnsCount: fields.ipv6_dns_server_count.offset,
      adapterId: fields.adapter_id.offset,
      family: fields.address_family.offset,
      dhcp: fields.dhcp_enabled.offset,
      ipv4Addresses: fields.ipv4_addresses.offset,
      ipv6Addresses: fields.ipv6_addresses.offset,
      ipv4Masks: fields.ipv4_subnets.offset,
      ipv6Prefixes: fields.ipv6_subnets.offset,
      ipv4Gateways: fields.ipv4_gateways.offset,
      ipv6Gateways: fields.ipv6_gateways.offset,
      ipv4DnsServers: fields.ipv4_dns_servers.offset,
      ipv6DnsServers: fields.ipv6_dns_servers.offset,
      origins: fields.ip_address_origins.offset,
      SIZE: size,
    });
  });
});
