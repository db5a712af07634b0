// SPDX-License-Identifier: Apache-2.0
/**
 * An image: streamed into the engine, then proved. The engine's word is not taken: its image ID must be the
 * digest that was signed (config or manifest, by the kind of its store), its layers the ones that the config
 * names, and, in the containerd store, the content must really be there (oci.md §2).
 */
import { rm } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { SealiftError } from '../../errors.ts';
import type { VerifiedImage } from '../../bundle/open.ts';
import type { Digest } from '../../store/digest.ts';
import { Abandoned } from '../../store/pool.ts';
import { imageArchive, imageBytes, type ArchiveOptions, type ArchiveSource } from '../archive.ts';
import { borrowLayers, type Borrowed } from '../base.ts';
import { expectedId, type EngineClient, type EngineImage, type StoreKind } from '../engine-client.ts';
import type { Progress, Step, StepState, UndoRecord, World } from '../step.ts';

/** What an image ID proves, for the receipt. */
export const howProved = (store: StoreKind): string =>
  store === 'classic'
    ? 'image ID equals the signed config digest; layer digests equal'
    : 'image ID equals the signed manifest digest; layer digests equal; content available';

/** What an engine has instead of what was signed. */
interface Difference {
  what: string;
  signed: string;
  engine: string;
}

export class ImageStep implements Step {
  readonly kind = 'image';
  readonly id: string;
  readonly bytes: number;
  readonly record: UndoRecord;
  readonly #world: World;
  readonly #source: ArchiveSource;
  readonly #image: VerifiedImage;
  readonly #expected: Digest;
  readonly #borrowed: readonly Borrowed[];

  /** @param borrowed layers that the bundle leaves out */
  constructor(world: World, source: ArchiveSource, image: VerifiedImage, borrowed: readonly Borrowed[] = []) {
    this.#borrowed = borrowed;
    this.#world = world;
    this.#source = source;
    this.#image = image;
    this.#expected = expectedId(image, world.engine.facts.store);
    this.id = `image:${image.ref}@${image.manifest.digest}`;
    this.bytes = imageBytes(image);
    this.record = { kind: 'image', ref: image.ref, id: this.#expected };
  }

  describe(): string {
    return `load image ${this.#image.ref}`;
  }

  /** @throws {SealiftError} TAG_CONFLICT when the tag stands on another image */
  async check(): Promise<StepState> {
    const found = await this.#world.engine.image(this.#image.ref);
    if (found === undefined) return 'needed';
    if (found.id !== this.#expected) throw tagConflict(this.#image.ref, found.id, this.#expected);
    return (await this.#problem(found)) === undefined ? 'done' : 'needed';
  }

  async apply(progress: Progress, signal?: AbortSignal): Promise<void> {
    const { engine, home } = this.#world;
    await this.check(); // right before loading: somebody may have tagged another image since the plan was made
    const spoolFolder = home.path('spool');
    const held = await borrowLayers(engine, this.#borrowed, spoolFolder, signal);
    try {
      await this.#load(progress, signal, { spoolFolder, held });
    } finally {
      for (const { path } of held.values()) await rm(path, { force: true });
    }
  }

  async #load(
    progress: Progress,
    signal: AbortSignal | undefined,
    more: Pick<ArchiveOptions, 'spoolFolder' | 'held'>,
  ): Promise<void> {
    const { engine } = this.#world;
    const archive = imageArchive(this.#source, this.#image, {
      unpackZstd: !engine.facts.readsZstd,
      onBytes: progress,
      ...more,
      ...(signal === undefined ? {} : { signal }),
    });
    let sent = false;
    const watched = async function* (): AsyncGenerator<Buffer> {
      yield* archive;
      sent = true;
    };
    const stop = new AbortController();
    // An engine that has received everything goes on without us, and sets the tag when nobody takes it back any more:
    // because of something else that failed, its answer is not given up.
    const pass = (): void => {
      if (!sent || !(signal?.reason instanceof Abandoned)) stop.abort(signal?.reason);
    };
    signal?.throwIfAborted();
    signal?.addEventListener('abort', pass, { once: true });
    try {
      await engine.load(watched(), this.#image.ref, stop.signal);
    } catch (error) {
      if (sent && isUnanswered(error)) await settle(engine, this.#image.ref).catch(() => undefined);
      return await this.#dropOwn(error);
    } finally {
      signal?.removeEventListener('abort', pass);
    }
    await this.#prove().catch((error: unknown) => this.#dropOwn(error));
  }

  async #prove(): Promise<void> {
    const found = await this.#world.engine.image(this.#image.ref);
    const problem =
      found === undefined
        ? { what: 'the engine does not have it', signed: this.#expected, engine: 'none' }
        : await this.#problem(found);
    if (found === undefined || problem !== undefined) {
      throw new SealiftError(
        'IMAGE_NOT_PROVED',
        `image ${this.#image.ref} is not the signed one after loading: ${problem?.what}`,
        {
          details: [
            ['signed', problem?.signed ?? ''],
            ['engine', problem?.engine ?? ''],
          ],
          hint: 'do not start it by hand; the engine or its data folder is damaged or tampered with',
        },
      );
    }
    this.#world.emit({
      type: 'check',
      name: `image ${this.#image.ref}`,
      outcome: 'ok',
      detail: `${found.id}: ${howProved(this.#world.engine.facts.store)}`,
    });
  }

  /** How an image of the engine differs from the signed one, or undefined when it does not. */
  async #problem(found: EngineImage): Promise<Difference | undefined> {
    if (found.id !== this.#expected)
      return { what: 'another image ID', signed: this.#expected, engine: found.id };
    const { diffIds, manifest } = this.#image;
    // Before the layers: without its content the containerd store of Docker 28 names none.
    const { engine } = this.#world;
    if (engine.facts.store === 'containerd' && !(await engine.hasContent(manifest.digest)))
      return { what: 'content is missing', signed: manifest.digest, engine: `${found.id}, incomplete` };
    const count = Math.max(diffIds.length, found.layers.length);
    for (let i = 0; i < count; i++) {
      const [signed = 'none', has = 'none'] = [diffIds[i], found.layers[i]];
      if (signed !== has) return { what: `another layer ${i + 1}`, signed, engine: has };
    }
    return undefined;
  }

  /**
   * The tag was free, or stood on our own image, right before loading: what is under it now came from this
   * load, whatever its ID is. The error that is thrown stays the first one.
   */
  async #dropOwn(error: unknown): Promise<never> {
    await this.#world.engine.removeImage(this.#image.ref).catch(() => undefined);
    throw error;
  }
}

function tagConflict(ref: string, found: string, expected: Digest): SealiftError {
  return new SealiftError('TAG_CONFLICT', `the engine has ${ref} already, and it is another image`, {
    details: [
      ['engine', found],
      ['bundle', expected],
    ],
    hint: `look at it, then: docker image rm ${ref}   (or keep it under another tag first: docker tag ${ref} NAME)`,
  });
}

/** Whether the engine's answer never came: it may go on with what it has received. */
function isUnanswered(error: unknown): boolean {
  const { code, cause } = error as { code?: string; cause?: { statusCode?: number } };
  return code === 'IMAGE_LOAD_FAILED' && cause !== undefined && cause.statusCode === undefined;
}

/**
 * An engine that had received a whole archive when the connection or sealift ended goes on without it, and sets
 * the tag when it is done. No API says whether it still works, so the tag is given this long to appear.
 */
const SETTLE_MS = 10_000;

/** Waits for a tag that the engine may still set, for 10 s at most. */
export async function settle(engine: EngineClient, ref: string): Promise<void> {
  const end = performance.now() + SETTLE_MS;
  while ((await engine.image(ref)) === undefined && performance.now() < end) await sleep(250);
}

/** Removes the tag if it still stands on the image that was brought. */
export async function undoImage(record: Extract<UndoRecord, { kind: 'image' }>, world: World): Promise<void> {
  const found = await world.engine.image(record.ref);
  if (found?.id === record.id) await world.engine.removeImage(record.ref);
}
