/** What the command line got wrong; exit status 2. */
export class UsageMistake extends Error {}
