// Entry of the thread that waits for files on behalf of another thread.
import { Doorbell } from "./doorbell.js";
import type { FileAlarmData } from "./file-alarm.js";
import { EpollEvent, libc } from "./libc.js";
import { runWorker } from "./worker-body.js";

const EPOLL_CTL_DEL = 2;
const EPOLLERR = 8;
const EPOLLHUP = 0x10;
/** A thread in a system call cannot be terminated: a program that ends in a hurry waits so long. */
const WAIT_TIMEOUT_MS = 500;

await runWorker<FileAlarmData>("blocking", ({ data, doorbell: own }) => {
  const { epollFd, stopFd, armed } = data;
  const owner = new Doorbell(data.words, data.index);
  const system = libc();
  const event = new Uint32Array(EpollEvent.WORDS);
  const eventBytes = new Uint8Array(event.buffer);
  return {
    drain() {
      while (!own.stopRequested) {
        if (system.epollWait(epollFd, eventBytes, 1, WAIT_TIMEOUT_MS) <= 0) continue;
        const fd = event[EpollEvent.value]!;
        if (fd === stopFd) continue;
        // What is broken would never be silent again.
        if ((event[EpollEvent.events]! & (EPOLLERR | EPOLLHUP)) !== 0)
          system.epollControl(epollFd, EPOLL_CTL_DEL, fd, eventBytes);
        Atomics.store(armed, 0, 0);
        owner.ring();
      }
      return false;
    },
  };
});
