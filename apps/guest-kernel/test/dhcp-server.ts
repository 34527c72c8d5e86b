import { parseAddress, prefixMask } from "../src/net/addresses.js";
import type { TestHost } from "./network-link.js";

/** What a message of a client says, written from RFC 2131 and not from the client's constants. */
export interface ClientMessage {
  readonly type: string;
  readonly transaction: number;
  readonly clientAddress: string;
  readonly options: ReadonlyMap<number, Buffer>;
}

const types = ["", "discover", "offer", "request", "decline", "ack", "nak", "release"];
const dotted = (data: Uint8Array): string => [...data].join(".");

export function readMessage(message: Uint8Array): ClientMessage {
  const bytes = Buffer.from(message);
  const options = new Map<number, Buffer>();
  if (bytes.readUInt32BE(236) !== 0x63825363) throw new Error("no magic cookie");
  for (let at = 240; bytes[at] !== 255;) {
    const code = bytes[at]!;
    const data = bytes.subarray(at + 2, at + 2 + bytes[at + 1]!);
    options.set(code, data);
    at += 2 + data.byteLength;
  }
  return {
    type: types[options.get(53)![0]!]!,
    transaction: bytes.readUInt32BE(4),
    clientAddress: dotted(bytes.subarray(12, 16)),
    options,
  };
}

export type ServerOptions = Readonly<Record<number, readonly number[] | string>>;

/** A reply of a server. @param yours - The client's address, dotted. */
export function buildReply(
  type: "offer" | "ack" | "nak",
  transaction: number,
  mac: Uint8Array,
  yours: string,
  options: ServerOptions,
): Uint8Array {
  const all: ServerOptions = { 53: [types.indexOf(type)], ...options };
  const tail = Object.entries(all).flatMap(([code, value]) => {
    const data = typeof value === "string" ? [...Buffer.from(value)] : value;
    return [Number(code), data.length, ...data];
  });
  const message = Buffer.alloc(240 + tail.length + 1);
  message.set([2, 1, 6, 0]);
  message.writeUInt32BE(transaction, 4);
  message.set(yours.split(".").map(Number), 16);
  message.set(mac, 28);
  message.writeUInt32BE(0x63825363, 236);
  message.set([...tail, 255], 240);
  return message;
}

export const SERVER = "192.0.2.1";

/** A DHCP server on a host of a segment: offers one address, and does as it is told. */
export class TestDhcpServer {
  /** `discover`, `request 192.0.2.50 to 192.0.2.1 by 192.0.2.50`: what came. */
  readonly heard: string[] = [];
  offered = "192.0.2.50";
  options: ServerOptions = {
    1: [255, 255, 255, 0],
    3: [192, 0, 2, 1],
    6: [192, 0, 2, 1, 192, 0, 2, 3],
    15: "example.org",
    51: [0, 0, 14, 16],
    54: [192, 0, 2, 1],
  };
  isSilent = false;
  refuses = false;

  constructor(
    { stack, hn0 }: TestHost,
    client: { readonly device: { readonly macAddress: Uint8Array } },
  ) {
    hn0.addAddress(parseAddress(SERVER)!, prefixMask(24));
    const socket = stack.openUdp({
      port: 67,
      interface: hn0,
      onDatagram: ({ payload, source }) => {
        const { type, transaction, clientAddress, options } = readMessage(payload);
        const wanted = options.get(50);
        const server = options.get(54);
        this.heard.push(
          [
            type,
            wanted && dotted(wanted),
            server && `to ${dotted(server)}`,
            clientAddress !== "0.0.0.0" && `by ${clientAddress}`,
          ]
            .filter(Boolean)
            .join(" "),
        );
        if (this.isSilent || type === "release" || type === "decline") return;
        const answer = type === "discover" ? "offer" : this.refuses ? "nak" : "ack";
        const reply = buildReply(
          answer,
          transaction,
          client.device.macAddress,
          answer === "nak" ? "0.0.0.0" : this.offered,
          answer === "nak" ? { 54: [192, 0, 2, 1] } : this.options,
        );
        // To a client that has no address yet, a server may send as to everybody.
        socket.send(reply, source === 0 ? 0xffff_ffff : source, 68);
      },
    });
  }
}
