// A station at a switch of a machine, for tests and for the programs that record sessions.
import { Frame, OneRun, noOffloads, privateMemory } from "@hyperv-is/hyperv-host";

/**
 * @typedef {import("@hyperv-is/hyperv-host").PortEnd} PortEnd
 * @typedef {import("@hyperv-is/hyperv-host").VirtualSwitch} VirtualSwitch
 * @typedef {readonly number[]} Bytes
 */

/** Addresses of the peer, and what it gives to the guest that asks. */
export const PEER_ADDRESS = "192.0.2.1";
export const GUEST_ADDRESS = "192.0.2.10";

const PEER_MAC = [2, 0, 0, 0, 0, 1];
const MASK = "255.255.255.0";
const LEASE_S = 3600;

const EtherType = { ipv4: 0x0800, arp: 0x0806 };
const Protocol = { icmp: 1, udp: 17 };
const Icmp = { echoReply: 0, echoRequest: 8 };
const Dhcp = { discover: 1, offer: 2, request: 3, ack: 5 };
const DhcpPort = { server: 67, client: 68 };
const DHCP_COOKIE = 0x6382_5363;
/** Where options begin, behind the cookie (RFC 2131). */
const DHCP_OPTIONS = 240;
const ETHERNET = 14;
const ETHERNET_LEAST = 60;
const IPV4 = 20;
/** Identifier of our echo requests. */
const PING_ID = 0x4856;

/** @param {string} address */
const bytesOf = (address) => address.split(".").map(Number);
/** @param {number[]} values - of 16 bits each. */
const words = (...values) => values.flatMap((value) => [value >>> 8, value & 255]);

/** The internet checksum. @param {Bytes} bytes */
function checksum(bytes) {
  let sum = 0;
  for (let at = 0; at < bytes.length; at += 2) sum += (bytes[at] ?? 0) * 256 + (bytes[at + 1] ?? 0);
  while (sum > 0xffff) sum = (sum >>> 16) + (sum & 0xffff);
  return 0xffff - sum;
}

/** Reads 16 bits. @param {Uint8Array} bytes @param {number} at */
const word = (bytes, at) => ((bytes[at] ?? 0) << 8) | (bytes[at + 1] ?? 0);

/**
 * A station at a switch, by obvious code: it knows ARP and ping, both ways, and gives the guest its address by DHCP.
 *
 * @implements {PortEnd}
 */
export class NetworkPeer {
  offloads = noOffloads;
  /** Kinds of DHCP messages that came. @type {number[]} */
  dhcp = [];
  /** Echo requests that were answered. */
  pinged = 0;
  #lan;
  #port;
  #frame = new Frame();
  #run = new OneRun();
  /** @type {Uint8Array[]} */
  #arrived = [];
  /** Who waits for the answer to a ping, by its number. @type {Map<number, (payload: Uint8Array) => void>} */
  #pings = new Map();
  /** @type {Bytes} */
  #guestMac = [];

  /** @param {VirtualSwitch} lan */
  constructor(lan) {
    this.#lan = lan;
    this.#port = lan.connect(this, { name: "peer", kind: "external" });
  }

  /** @param {Frame} frame */
  deliver(frame) {
    const memory = privateMemory((frame.lengthBytes + 7) & ~7);
    // Nothing may be sent while a frame is delivered.
    if (this.#arrived.length === 0) void Promise.resolve().then(() => this.#answer());
    this.#arrived.push(memory.bytes.subarray(0, frame.copyTo(memory, 0)));
    return true;
  }

  flush() {
    // They are answered one by one.
  }

  linkChanged() {
    // It has nothing to do with it.
  }

  /** Pings the guest, which has spoken before; resolves when it has answered with the same bytes. @param {number} number */
  async ping(number, payloadBytes = 56) {
    const payload = Array.from({ length: payloadBytes }, (_, at) => (at * 7 + number) & 255);
    /** @type {Promise<Uint8Array>} */
    const answer = new Promise((resolve) => this.#pings.set(number, resolve));
    const message = [...words(PING_ID, number), ...payload];
    this.#sendIcmp(Icmp.echoRequest, this.#guestMac, bytesOf(GUEST_ADDRESS), message);
    const answered = await answer;
    if (!payload.every((byte, at) => byte === answered[at])) throw new Error("another payload");
  }

  #answer() {
    for (const bytes of this.#arrived.splice(0)) {
      const type = word(bytes, 12);
      if (type === EtherType.arp) this.#arp(bytes);
      else if (type === EtherType.ipv4) this.#ipv4(bytes);
    }
  }

  /** @param {Uint8Array} bytes */
  #arp(bytes) {
    const isRequest = bytes[ETHERNET + 7] === 1;
    const target = bytes.subarray(ETHERNET + 24, ETHERNET + 28).join(".");
    if (!isRequest || target !== PEER_ADDRESS) return;
    const asker = [...bytes.subarray(ETHERNET + 8, ETHERNET + 18)];
    const answer = [...PEER_MAC, ...bytesOf(PEER_ADDRESS), ...asker];
    this.#send(asker.slice(0, 6), EtherType.arp, [...words(1, 0x0800), 6, 4, 0, 2, ...answer]);
  }

  /** @param {Uint8Array} bytes */
  #ipv4(bytes) {
    const source = [...bytes.subarray(ETHERNET + 12, ETHERNET + 16)];
    const target = bytes.subarray(ETHERNET + 16, ETHERNET + 20).join(".");
    const payload = bytes.subarray(ETHERNET + IPV4, ETHERNET + word(bytes, ETHERNET + 2));
    if (target !== "255.255.255.255" && target !== PEER_ADDRESS) return;
    this.#guestMac = [...bytes.subarray(6, 12)];
    const protocol = bytes[ETHERNET + 9];
    if (protocol === Protocol.icmp) this.#icmp(source, payload);
    else if (protocol === Protocol.udp && word(payload, 2) === DhcpPort.server)
      this.#serveDhcp(payload.subarray(8));
  }

  /** @param {Bytes} source @param {Uint8Array} bytes */
  #icmp(source, bytes) {
    if (checksum([...bytes]) !== 0) throw new Error("an ICMP message with a wrong checksum");
    if (bytes[0] === Icmp.echoRequest) {
      this.pinged++;
      this.#sendIcmp(Icmp.echoReply, this.#guestMac, source, [...bytes.subarray(4)]);
    } else if (bytes[0] === Icmp.echoReply) this.#pings.get(word(bytes, 6))?.(bytes.slice(8));
  }

  /** @param {number} type @param {Bytes} mac @param {Bytes} to @param {Bytes} rest */
  #sendIcmp(type, mac, to, rest) {
    const sum = checksum([type, 0, 0, 0, ...rest]);
    this.#sendIpv4(mac, to, Protocol.icmp, [type, 0, ...words(sum), ...rest]);
  }

  /** Gives its address to whoever asks. @param {Uint8Array} bytes */
  #serveDhcp(bytes) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    if (view.getUint32(DHCP_OPTIONS - 4) !== DHCP_COOKIE) throw new Error("no DHCP message");
    const kind = view.getUint8(DHCP_OPTIONS + 2);
    this.dhcp.push(kind);
    const answer = new Map([
      [Dhcp.discover, Dhcp.offer],
      [Dhcp.request, Dhcp.ack],
    ]).get(kind);
    if (answer === undefined) return;
    const reply = bytes.slice(0, DHCP_OPTIONS);
    reply[0] = 2;
    reply.set(bytesOf(GUEST_ADDRESS), 16);
    const options = [
      ...[53, 1, answer],
      ...[54, 4, ...bytesOf(PEER_ADDRESS)],
      ...[51, 4, ...words(0, LEASE_S)],
      ...[1, 4, ...bytesOf(MASK)],
      ...[3, 4, ...bytesOf(PEER_ADDRESS)],
      255,
    ];
    const message = [...reply, ...options];
    // UDP goes without a checksum.
    const udp = words(DhcpPort.server, DhcpPort.client, 8 + message.length, 0);
    const all = [255, 255, 255, 255];
    this.#sendIpv4([...all, 255, 255], all, Protocol.udp, [...udp, ...message]);
  }

  /** @param {Bytes} mac @param {Bytes} to @param {number} protocol @param {Bytes} payload */
  #sendIpv4(mac, to, protocol, payload) {
    /** @param {number} sum */
    const header = (sum) => [
      ...[0x45, 0],
      ...words(IPV4 + payload.length, 0, 0),
      ...[64, protocol],
      ...words(sum),
      ...bytesOf(PEER_ADDRESS),
      ...to,
    ];
    this.#send(mac, EtherType.ipv4, [...header(checksum(header(0))), ...payload]);
  }

  /** @param {Bytes} mac @param {number} type @param {Bytes} payload */
  #send(mac, type, payload) {
    const bytes = [...mac, ...PEER_MAC, ...words(type), ...payload];
    const lengthBytes = Math.max(bytes.length, ETHERNET_LEAST);
    const memory = privateMemory((lengthBytes + 7) & ~7);
    memory.bytes.set(bytes);
    this.#run.set(0, lengthBytes);
    this.#frame.load(memory, this.#run, 0, lengthBytes);
    this.#port.send(this.#frame);
    this.#lan.flush();
  }
}

/** What a stock Linux runs to have its adapter up, with an address of the peer's: a script of udhcpc, and udhcpc. */
export const LINUX_NETWORK_UP = [
  "until [ -e /sys/class/net/eth0 ]; do usleep 10000; done; ip link set eth0 up",
  "echo '[ $1 = bound ] && ip addr add $ip/$mask dev $interface' > /tmp/bound",
  "(echo '#!/bin/sh'; cat /tmp/bound) > /tmp/dhcp; chmod +x /tmp/dhcp",
  "udhcpc -f -q -n -i eth0 -s /tmp/dhcp",
].join("; ");
