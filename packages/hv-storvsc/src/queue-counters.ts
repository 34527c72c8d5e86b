/** Running totals of a queue; the first four have FreeBSD's names. */
export interface StorvscQueueCounters {
  /** Transfers of blocks in one run of memory. */
  data_bio_cnt: number;
  /** Commands with a buffer. */
  data_vaddr_cnt: number;
  /** Transfers of blocks in a scatter list. */
  data_sg_cnt: number;
  /** Requests put into the ring. */
  send_req: number;
  /** Transfers that were copied, because no single range describes their memory. */
  bounced: number;
  /** Times that a request had to wait for room in the ring. */
  ring_full: number;
  /** Completions with an id that nothing waits for: late, double, or invented. */
  unknown_id: number;
  /** Completions too short, or of another operation. */
  malformed: number;
  /** Unsolicited packets that mean nothing. */
  dropped: number;
  /** ENUMERATE_BUS and REMOVE_DEVICE. */
  bus_changed: number;
}

/** Nothing has happened yet. */
export function newQueueCounters(): StorvscQueueCounters {
  return {
    data_bio_cnt: 0,
    data_vaddr_cnt: 0,
    data_sg_cnt: 0,
    send_req: 0,
    bounced: 0,
    ring_full: 0,
    unknown_id: 0,
    malformed: 0,
    dropped: 0,
    bus_changed: 0,
  };
}
