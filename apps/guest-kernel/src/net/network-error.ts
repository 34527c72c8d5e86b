/** FreeBSD's errors of sockets and interfaces, with the words of `perror`. */
export const NetworkErrno = {
  EACCES: "Permission denied",
  EADDRINUSE: "Address already in use",
  EADDRNOTAVAIL: "Can't assign requested address",
  EEXIST: "File exists",
  EHOSTDOWN: "Host is down",
  EHOSTUNREACH: "No route to host",
  EINVAL: "Invalid argument",
  ENODEV: "Operation not supported by device",
  EMSGSIZE: "Message too long",
  ENETDOWN: "Network is down",
  ENETUNREACH: "Network is unreachable",
  ENOBUFS: "No buffer space available",
  EOPNOTSUPP: "Operation not supported",
  ESRCH: "No such process",
} as const;
export type NetworkErrno = keyof typeof NetworkErrno;

/** What became of a packet: taken by the interface or waiting for its neighbour's address, or why not. */
export type SendOutcome = "sent" | "held" | NetworkErrno;

/** An operation on the network that was refused; `code` is FreeBSD's. */
export class NetworkError extends Error {
  readonly code: NetworkErrno;

  constructor(code: NetworkErrno, options?: ErrorOptions) {
    super(NetworkErrno[code], options);
    this.name = "NetworkError";
    this.code = code;
  }
}
