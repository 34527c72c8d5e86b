/** Writes to standard output, as fast as that is read. @returns False if nobody reads any more. */
export function writeOut(text: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    // A broken pipe is also reported as an event, which would end the program with a stack trace.
    const ignore = (): void => undefined;
    process.stdout.once("error", ignore);
    process.stdout.write(text, (error) => {
      const { code } = (error ?? {}) as NodeJS.ErrnoException;
      if (error && code !== "EPIPE") reject(error);
      else resolve(!error);
      if (!error) process.stdout.off("error", ignore);
    });
  });
}
