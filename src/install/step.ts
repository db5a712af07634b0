// SPDX-License-Identifier: Apache-2.0
/**
 * An install is one list of steps. Plan, dry run, resume, undo and receipt come out of that list. A step says
 * with `check` whether the host is already as it wants it; `record` is all that taking it back needs, as data:
 * it goes to the journal before `apply` begins, so that a later process, without the bundle, can undo it.
 */
import * as z from 'zod';
import { DigestSchema, Name, SafePath, Version } from '../bundle/inventory.ts';
import type { Emit, ItemKind } from '../events.ts';
import type { Store } from '../store/store.ts';
import type { EngineClient } from './engine-client.ts';
import type { Home } from './home.ts';
import type { Compose } from './host.ts';

export type StepState = 'done' | 'needed';

/** Reports bytes that a step has moved; negative when something starts over. */
export type Progress = (delta: number) => void;

export interface Step {
  /** Unique within an install, and the same for the same thing in another release. */
  readonly id: string;
  readonly kind: ItemKind;
  /** Bytes that `apply` moves from the bundle, 0 when it moves none. */
  readonly bytes: number;
  readonly record: UndoRecord;
  /** True for a step that only remembers something for an undo: it is no change, and no plan shows it. */
  readonly passive?: true;
  /** One line for the plan: what would be done. */
  describe(): string;
  check(): Promise<StepState>;
  apply(progress: Progress, signal?: AbortSignal): Promise<void>;
}

/** What steps and their undoing work on. */
export interface World {
  home: Home;
  store: Store;
  engine: EngineClient;
  /** Looked for when it is first needed. @throws {SealiftError} COMPOSE_UNSUPPORTED */
  compose: () => Promise<Compose>;
  emit: Emit;
}

const Release = z.string().regex(/^[a-z][A-Za-z0-9.-]*$/);

/** How to take a step back, one form for each kind of step. */
export const UndoRecord = z.discriminatedUnion('kind', [
  z.strictObject({
    kind: z.literal('folder'),
    path: SafePath,
    blobs: z.array(DigestSchema),
    /** True when a release of this home has the folder already: taking back the install must not take it away. */
    inUse: z.boolean(),
  }),
  z.strictObject({ kind: z.literal('image'), ref: z.string(), id: DigestSchema }),
  z.strictObject({ kind: z.literal('return'), project: z.string(), release: Release.optional() }),
  z.strictObject({
    kind: z.literal('files'),
    release: Release,
    /** Whether the release had a folder before this install. */
    hadFolder: z.boolean(),
    newCaches: SafePath.optional(),
  }),
  z.strictObject({
    kind: z.literal('service'),
    project: z.string(),
    release: Release,
    replaces: z.boolean(),
  }),
  z.strictObject({ kind: z.literal('smoke') }),
  z.strictObject({
    kind: z.literal('current'),
    name: Name,
    /** The release that is being installed, and whether it had a receipt already. */
    made: Release,
    hadReceipt: z.boolean(),
    /** What was current and installed before. */
    release: Release.optional(),
    installed: z.strictObject({ version: Version, digest: DigestSchema }).optional(),
  }),
]);
export type UndoRecord = z.infer<typeof UndoRecord>;
