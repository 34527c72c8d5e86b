/** @import { Channel } from "@hyperv-is/vmbus-core" */
/** @import { EchoDescription } from "./echo-driver.js" */

/**
 * What word `index` of packet `id` holds: both ends compute it, so each checks every word that it gets.
 * @param {number} seed @param {number} id @param {number} index
 */
export function payloadWord(seed, id, index) {
  return Math.imul(seed ^ Math.imul(id + 1, 0x9e3779b1), index * 2 + 1) ^ index;
}

/**
 * Words of packet `id`.
 * @param {EchoDescription} echo @param {number} id
 */
export function payloadWords({ seed, leastWords, mostWords }, id) {
  return leastWords + ((payloadWord(seed, id, 7) >>> 3) % (mostWords - leastWords + 1));
}

/**
 * A packet of another length or with other words than its id demands.
 * @param {EchoDescription} echo
 * @param {Channel} channel with the packet
 * @param {Int32Array} words that receive it
 * @param {number} mask which every word was combined with
 */
export function checkPacket(echo, channel, words, mask) {
  const { idLow, payloadBytes } = channel.incoming;
  const count = payloadWords(echo, idLow);
  // The ring pads to 8 bytes.
  if (payloadBytes !== ((count * 4 + 7) & ~7))
    throw new Error(`packet ${idLow}: ${payloadBytes} bytes instead of ${count * 4}`);
  channel.incoming.readWords(channel.incoming.headerBytes, words, 0, count);
  for (let index = 0; index < count; index++)
    if (words[index] !== (payloadWord(echo.seed, idLow, index) ^ mask))
      throw new Error(`packet ${idLow}: word ${index} is wrong`);
  return count;
}
