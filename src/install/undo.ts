// SPDX-License-Identifier: Apache-2.0
/** Taking steps back, from their records alone, in the reverse of the order in which they were begun. */
import { asSealiftError, SealiftError } from '../errors.ts';
import type { Journal } from './journal.ts';
import type { UndoRecord, World } from './step.ts';
import { undoFiles } from './steps/files.ts';
import { undoCurrent } from './steps/finish.ts';
import { undoFolder } from './steps/folder.ts';
import { settle, undoImage } from './steps/image.ts';
import { undoReturn, undoService } from './steps/service.ts';

/** Takes one step back. It may have been applied wholly, in part or not at all, and this may be the second try. */
export async function takeBack(record: UndoRecord, world: World): Promise<void> {
  switch (record.kind) {
    case 'folder':
      return undoFolder(record, world);
    case 'image':
      return undoImage(record, world);
    case 'files':
      return undoFiles(record, world.home);
    case 'return':
      return undoReturn(record, world);
    case 'service':
      return undoService(record, world);
    case 'current':
      return undoCurrent(record, world.home);
    case 'smoke':
      return undefined;
  }
}

/**
 * Takes back all that a journal says, and removes the journal. What cannot be taken back stays in it.
 * @param reason the error that made it necessary
 * @throws {SealiftError} ROLLBACK_INCOMPLETE with the list of what is left
 */
export async function rollBack(
  journal: Journal,
  world: World,
  reason: SealiftError | undefined,
): Promise<void> {
  const left: (readonly [string, string])[] = [];
  world.emit({ type: 'stage', name: 'taking back' });
  for (const { id, record, state } of journal.state.entries.toReversed()) {
    try {
      // Without a reason the journal is one that a killed process left.
      if (reason === undefined && state === 'begun' && record.kind === 'image')
        await settle(world.engine, record.ref);
      await takeBack(record, world);
      await journal.forget(id);
    } catch (error) {
      left.push([id, asSealiftError(error, 'taking it back').message]);
    }
  }
  if (left.length === 0) return journal.remove();
  const because = reason === undefined ? '' : `: ${reason.message}`;
  throw new SealiftError('ROLLBACK_INCOMPLETE', `${left.length} steps could not be taken back${because}`, {
    details: [...(reason === undefined ? [] : ([['code', reason.code]] as const)), ...left],
    hint: 'remove the cause, then run `sealift uninstall`: it takes back the rest of this install, and no other release; or remove by hand what is listed',
    ...(reason === undefined ? {} : { cause: reason }),
  });
}
