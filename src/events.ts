// SPDX-License-Identifier: Apache-2.0
/**
 * What the core tells the outside while it works. The core never prints: it emits these, and `cli/progress.ts`
 * turns them into a terminal line, log lines or JSON. Additive within a stream version.
 */

/** Version of the event stream, stated by the first event of `--progress json`. */
export const EVENT_STREAM_VERSION = 1;

export type ItemKind = 'blob' | 'file' | 'image' | 'model' | 'config' | 'service' | 'bundle';
export type CheckOutcome = 'ok' | 'failed' | 'warning' | 'skipped';

export type SealiftEvent =
  /** A stage of the command begins; totalBytes is what it will move or hash, when known. */
  | { type: 'stage'; name: string; totalBytes?: number }
  /** One artefact begins. `id` is unique within the command. */
  | { type: 'item-start'; id: string; kind: ItemKind; label: string; bytes?: number }
  /** `delta` bytes more of the artefact are done (negative when a download starts over). */
  | { type: 'item-progress'; id: string; delta: number }
  /** `stopped` is what a failure elsewhere, or a signal, has broken off. */
  | { type: 'item-end'; id: string; outcome: 'done' | 'cached' | 'failed' | 'stopped'; detail?: string }
  /** One line of evidence, printed by `verify` and `install`; `advice` is what to do about it. */
  | { type: 'check'; name: string; outcome: CheckOutcome; detail: string; advice?: string }
  | { type: 'warning'; code: string; message: string }
  /** A retry is going to happen after `delayMs` milliseconds. */
  | { type: 'retry'; what: string; reason: string; delayMs: number };

export type Emit = (event: SealiftEvent) => void;

/** For callers who do not care. */
export const silent: Emit = () => {};
