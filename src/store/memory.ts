// SPDX-License-Identifier: Apache-2.0
/** What Node leaves to chance about memory: where it begins, how it is copied, and when it is given back. */

const WASM_PAGE_BYTES = 65_536;

/** TypeScript knows it only where there is a DOM; `node --jitless` has none. */
interface Wasm {
  Memory: new (size: { initial: number; maximum: number; shared: boolean }) => {
    buffer: ArrayBuffer | SharedArrayBuffer;
  };
}

/**
 * Memory that begins on a page, as writing past the page cache wants it: WebAssembly's does, that of Buffers does not.
 * @param bytes a multiple of 64 KiB
 */
export function onPage(bytes: number, kind: 'shared'): SharedArrayBuffer;
export function onPage(bytes: number, kind: 'own'): ArrayBuffer;
export function onPage(bytes: number, kind: 'shared' | 'own'): ArrayBuffer | SharedArrayBuffer {
  const { WebAssembly: wasm } = globalThis as { WebAssembly?: Wasm };
  const shared = kind === 'shared';
  if (wasm === undefined) return shared ? new SharedArrayBuffer(bytes) : new ArrayBuffer(bytes);
  const pages = bytes / WASM_PAGE_BYTES;
  return new wasm.Memory({ initial: pages, maximum: pages, shared }).buffer;
}

/**
 * Copies all of the bytes. `set` of a typed array takes five times as long when one side is shared and they do not begin
 * at the same place in a word: V8 then copies them one by one.
 */
export function copyBytes(from: Uint8Array, to: Uint8Array, at: number): void {
  const copied = Buffer.from(from.buffer, from.byteOffset, from.byteLength).copy(to, at);
  if (copied !== from.byteLength) throw new RangeError('the bytes do not fit');
}

/**
 * Gives memory back at once that nobody reads any more, if all of it belongs to these bytes. What is left to the garbage
 * collector is counted by it: hundreds of gigabytes in pieces of 64 KiB make it search the whole heap for every 64 MiB,
 * which costs more than receiving them.
 */
export function giveBack({ buffer, byteLength }: Uint8Array): void {
  if (buffer instanceof ArrayBuffer && buffer.byteLength === byteLength) buffer.transfer(0);
}
