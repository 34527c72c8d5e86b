/** A promise with its ends outside; only the first settling counts. */
export class Waiter<T = void> {
  readonly promise: Promise<T>;
  readonly resolve: (value: T) => void;
  readonly reject: (reason: Error) => void;

  constructor() {
    let ends: Pick<Waiter<T>, "resolve" | "reject"> | undefined;
    this.promise = new Promise<T>((resolve, reject) => (ends = { resolve, reject }));
    ({ resolve: this.resolve, reject: this.reject } = ends!);
  }
}
