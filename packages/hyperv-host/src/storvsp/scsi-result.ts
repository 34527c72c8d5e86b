import {
  AdditionalSense,
  SENSE_AREA_BYTES,
  ScsiStatus,
  SenseKey,
  SrbStatus,
  SrbStatusFlag,
  emitFixedSense,
} from "@hyperv-is/hv-storvsc/protocol";

/**
 * How a command ended, as it goes into the completion. One object serves every command of a channel: each of the
 * methods below sets all of it, and allocates nothing.
 */
export class ScsiResult {
  /** Flags included. */
  srbStatus: number = SrbStatus.success;
  scsiStatus: number = ScsiStatus.good;
  /** Bytes moved; 0 for every failure. */
  dataTransferLength = 0;
  /** Sense data; valid while `srbStatus` has `SrbStatusFlag.autosenseValid`, else whatever an earlier command left. */
  readonly sense = new Uint8Array(SENSE_AREA_BYTES);
  /** Key and additional sense of `sense`: key << 16 | additional sense; 0 without sense data. */
  senseCode = 0;

  /** The command did what it was asked for. */
  good(dataTransferLength: number): void {
    this.srbStatus = SrbStatus.success;
    this.scsiStatus = ScsiStatus.good;
    this.dataTransferLength = dataTransferLength;
    this.senseCode = 0;
  }

  /** The command asked for something that this device does not do. */
  invalidRequest(additionalSense: AdditionalSense = AdditionalSense.invalidFieldInCdb): void {
    this.#failWithSense(SrbStatus.invalidRequest, SenseKey.illegalRequest, additionalSense);
  }

  /** The buffer is too small for an answer of a fixed size. */
  dataOverrun(): void {
    this.#failWithSense(
      SrbStatus.dataOverrun,
      SenseKey.illegalRequest,
      AdditionalSense.invalidFieldInCdb,
    );
  }

  /** The command was right, but the device could not or would not do it. */
  error(key: SenseKey, additionalSense: AdditionalSense): void {
    this.#failWithSense(SrbStatus.error, key, additionalSense);
  }

  /** The command did not reach a device, or a status says it all: no sense data. */
  failWithoutSense(srbStatus: SrbStatus, scsiStatus: ScsiStatus): void {
    this.srbStatus = srbStatus;
    this.scsiStatus = scsiStatus;
    this.dataTransferLength = 0;
    this.senseCode = 0;
  }

  #failWithSense(srbStatus: SrbStatus, key: SenseKey, additionalSense: AdditionalSense): void {
    this.srbStatus = srbStatus | SrbStatusFlag.autosenseValid;
    this.scsiStatus = ScsiStatus.checkCondition;
    this.dataTransferLength = 0;
    this.senseCode = (key << 16) | additionalSense;
    this.sense.fill(0);
    emitFixedSense(this.sense, 0, key, additionalSense);
  }
}
