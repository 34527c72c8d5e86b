import {
  Frame,
  OneRun,
  noOffloads,
  parseMac,
  privateMemory,
  type Port,
  type PortEnd,
  type VirtualSwitch,
} from "@hyperv-is/hyperv-host";

/** Addresses of the peer, and what it gives to the guest that asks. */
export const PEER_ADDRESS = "192.0.2.1";
export const GUEST_ADDRESS = "192.0.2.10";

const PEER_MAC = parseMac("02:00:00:00:00:01")!;
const MASK = "255.255.255.0";
const LEASE_S = 3600;

const EtherType = { ipv4: 0x0800, arp: 0x0806 } as const;
const Protocol = { icmp: 1, udp: 17 } as const;
const Icmp = { echoReply: 0, echoRequest: 8 } as const;
const Dhcp = { discover: 1, offer: 2, request: 3, ack: 5 } as const;
const DhcpPort = { server: 67, client: 68 } as const;
const DHCP_COOKIE = 0x6382_5363;
/** Where options begin, behind the cookie (RFC 2131). */
const DHCP_OPTIONS = 240;
const ETHERNET = 14;
const IPV4 = 20;

const bytesOf = (address: string): number[] => address.split(".").map(Number);
const words = (...values: number[]): number[] =>
  values.flatMap((value) => [value >>> 8, value & 255]);

/** The internet checksum. */
function checksum(bytes: readonly number[]): number {
  let sum = 0;
  for (let at = 0; at < bytes.length; at += 2) sum += bytes[at]! * 256 + (bytes[at + 1] ?? 0);
  while (sum > 0xffff) sum = (sum >>> 16) + (sum & 0xffff);
  return 0xffff - sum;
}

/** A station at a switch, by obvious code: it knows ARP and ping, both ways, and gives the guest its address by DHCP. */
export class NetworkPeer implements PortEnd {
  readonly offloads = noOffloads;
  /** Kinds of DHCP messages that came. */
  readonly dhcp: number[] = [];
  /** Echo requests that were answered. */
  pinged = 0;
  readonly #lan: VirtualSwitch;
  readonly #port: Port;
  readonly #frame = new Frame();
  readonly #run = new OneRun();
  readonly #arrived: Uint8Array[] = [];
  /** Who waits for the answer to a ping, by its number. */
  readonly #pings = new Map<number, (payload: Uint8Array) => void>();
  #guestMac: readonly number[] = [];

  constructor(lan: VirtualSwitch) {
    this.#lan = lan;
    this.#port = lan.connect(this, { name: "peer", kind: "external" });
  }

  deliver(frame: Frame): boolean {
    const memory = privateMemory((frame.lengthBytes + 7) & ~7);
    // Nothing may be sent while a frame is delivered.
    if (this.#arrived.length === 0) queueMicrotask(() => this.#answer());
    this.#arrived.push(memory.bytes.subarray(0, frame.copyTo(memory, 0)));
    return true;
  }

  flush(): void {
    // They are answered one by one.
  }

  linkChanged(): void {
    // It has nothing to do with it.
  }

  /** Pings the guest, which has spoken before; resolves when it has answered with the same bytes. */
  async ping(number: number, payloadBytes = 56): Promise<void> {
    const payload = Array.from({ length: payloadBytes }, (_, at) => (at * 7 + number) & 255);
    const answer = new Promise<Uint8Array>((resolve) => this.#pings.set(number, resolve));
    this.#sendIcmp(Icmp.echoRequest, this.#guestMac, bytesOf(GUEST_ADDRESS), [
      ...words(0x4856, number),
      ...payload,
    ]);
    const answered = await answer;
    if (!payload.every((byte, at) => byte === answered[at])) throw new Error("another payload");
  }

  #answer(): void {
    for (const bytes of this.#arrived.splice(0)) {
      const type = (bytes[12]! << 8) | bytes[13]!;
      if (type === EtherType.arp) this.#arp(bytes);
      else if (type === EtherType.ipv4) this.#ipv4(bytes);
    }
  }

  #arp(bytes: Uint8Array): void {
    const isRequest = bytes[ETHERNET + 7] === 1;
    const target = bytes.subarray(ETHERNET + 24, ETHERNET + 28).join(".");
    if (!isRequest || target !== PEER_ADDRESS) return;
    const asker = [...bytes.subarray(ETHERNET + 8, ETHERNET + 18)];
    const answer = [...PEER_MAC, ...bytesOf(PEER_ADDRESS), ...asker];
    this.#send(asker.slice(0, 6), EtherType.arp, [...words(1, 0x0800), 6, 4, 0, 2, ...answer]);
  }

  #ipv4(bytes: Uint8Array): void {
    const [source, target] = [12, 16].map((at) => [
      ...bytes.subarray(ETHERNET + at, ETHERNET + at + 4),
    ]) as [number[], number[]];
    const end = ETHERNET + ((bytes[ETHERNET + 2]! << 8) | bytes[ETHERNET + 3]!);
    const payload = bytes.subarray(ETHERNET + IPV4, end);
    const isBroadcast = target.every((byte) => byte === 255);
    if (!isBroadcast && target.join(".") !== PEER_ADDRESS) return;
    this.#guestMac = [...bytes.subarray(6, 12)];
    switch (bytes[ETHERNET + 9]) {
      case Protocol.icmp:
        this.#icmp(source, payload);
        return;
      case Protocol.udp:
        if (((payload[2]! << 8) | payload[3]!) === DhcpPort.server)
          this.#serveDhcp(payload.subarray(8));
    }
  }

  #icmp(source: readonly number[], bytes: Uint8Array): void {
    if (checksum([...bytes]) !== 0) throw new Error("an ICMP message with a wrong checksum");
    if (bytes[0] === Icmp.echoRequest) {
      this.pinged++;
      this.#sendIcmp(Icmp.echoReply, this.#guestMac, source, [...bytes.subarray(4)]);
    } else if (bytes[0] === Icmp.echoReply)
      this.#pings.get((bytes[6]! << 8) | bytes[7]!)?.(bytes.slice(8));
  }

  #sendIcmp(type: number, mac: readonly number[], to: readonly number[], rest: number[]): void {
    const sum = checksum([type, 0, 0, 0, ...rest]);
    this.#sendIpv4(mac, to, Protocol.icmp, [type, 0, ...words(sum), ...rest]);
  }

  /** Gives its address to whoever asks. */
  #serveDhcp(bytes: Uint8Array): void {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    if (view.getUint32(DHCP_OPTIONS - 4) !== DHCP_COOKIE) throw new Error("no DHCP message");
    const kind = bytes[DHCP_OPTIONS + 2]!;
    this.dhcp.push(kind);
    const answers: Readonly<Record<number, number>> = {
      [Dhcp.discover]: Dhcp.offer,
      [Dhcp.request]: Dhcp.ack,
    };
    const answer = answers[kind];
    if (answer === undefined) return;
    const reply = new Uint8Array(DHCP_OPTIONS);
    reply.set(bytes.subarray(0, DHCP_OPTIONS));
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
    this.#sendIpv4(Array<number>(6).fill(255), all, Protocol.udp, [...udp, ...message]);
  }

  #sendIpv4(
    mac: readonly number[],
    to: readonly number[],
    protocol: number,
    payload: readonly number[],
  ): void {
    const header = (sum: number): number[] => [
      ...[0x45, 0],
      ...words(IPV4 + payload.length, 0, 0),
      ...[64, protocol],
      ...words(sum),
      ...bytesOf(PEER_ADDRESS),
      ...to,
    ];
    this.#send(mac, EtherType.ipv4, [...header(checksum(header(0))), ...payload]);
  }

  #send(mac: readonly number[], type: number, payload: readonly number[]): void {
    const bytes = [...mac, ...PEER_MAC, ...words(type), ...payload];
    const lengthBytes = Math.max(bytes.length, 60);
    const memory = privateMemory((lengthBytes + 7) & ~7);
    memory.bytes.set(bytes);
    this.#run.set(0, lengthBytes);
    this.#frame.load(memory, this.#run, 0, lengthBytes);
    this.#port.send(this.#frame);
    this.#lan.flush();
  }
}
