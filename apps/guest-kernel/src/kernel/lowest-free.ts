/** The number that FreeBSD gives to the next of a kind: the lowest that none of the others has, from 0. */
export function lowestFree(taken: readonly number[]): number {
  let number = 0;
  while (taken.includes(number)) number++;
  return number;
}
