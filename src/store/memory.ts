// SPDX-License-Identifier: Apache-2.0

/**
 * Gives memory back at once that nobody reads any more, if all of it belongs to these bytes. What is left to the garbage
 * collector is counted by it: hundreds of gigabytes in pieces of 64 KiB make it search the whole heap for every 64 MiB,
 * which costs more than receiving them.
 */
export function giveBack({ buffer, byteLength }: Uint8Array): void {
  if (buffer instanceof ArrayBuffer && buffer.byteLength === byteLength) buffer.transfer(0);
}
