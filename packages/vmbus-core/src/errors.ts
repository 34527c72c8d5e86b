/** Base of every error that this package throws on purpose; `code` is stable, the message is for people. */
export class VmbusError<Code extends string = string> extends Error {
  readonly code: Code;

  constructor(code: Code, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
    this.code = code;
  }
}
