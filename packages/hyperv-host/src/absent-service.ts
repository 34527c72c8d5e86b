import type { HostChannelHandler, HostService } from "./host-service.js";

/** Takes what the guest sends and never answers. */
class AbsentChannel implements HostChannelHandler {
  opened(): void {
    // Nothing to say first either.
  }

  packet(): void {
    // Read and dropped: a ring that fills up would tell the guest more than an idle component does.
  }

  batchEnd(): void {
    // Nothing was sent.
  }

  spaceArrived(): void {
    // Nothing waits.
  }

  closed(): void {
    // Nothing is kept.
  }

  release(done: () => void): void {
    done();
  }

  save(): { readonly data: undefined } {
    return { data: undefined };
  }
}

/**
 * Serves every device that nobody else serves: it can be opened, and stays silent.
 *
 * A real host offers some fourteen devices and opens all of them, whether or not a component behind one has
 * anything to do. To refuse the opening would be an answer that no such host gives, and guests treat it as
 * a broken device; to leave the device out would hide that a guest must cope with offers it has no driver
 * for. Silence is what an integration component does that is switched off in the host's settings.
 */
export const absentService: HostService = {
  open: () => new AbsentChannel(),
};
