// SPDX-License-Identifier: Apache-2.0
/**
 * An image: streamed into the engine, then proved. The engine's word is not taken: its image ID must be the
 * digest that was signed (config or manifest, by the kind of its store), its layers the ones that the config
 * names, and, in the containerd store, the content must really be there (oci.md §2).
 */
import { SealiftError } from '../../errors.ts';
import type { VerifiedImage } from '../../bundle/open.ts';
import type { Digest } from '../../store/digest.ts';
import { imageArchive, imageBytes, type ArchiveSource } from '../archive.ts';
import type { EngineImage, StoreKind } from '../engine-client.ts';
import type { Progress, Step, StepState, UndoRecord, World } from '../step.ts';

/** The image ID that an engine must report for a signed image. */
export const expectedId = (image: VerifiedImage, store: StoreKind): Digest =>
  store === 'classic' ? image.config.digest : image.manifest.digest;

/** What an image ID proves, for the receipt. */
export const howProved = (store: StoreKind): string =>
  store === 'classic'
    ? 'image ID equals the signed config digest; layer digests equal'
    : 'image ID equals the signed manifest digest; layer digests equal; content available';

export class ImageStep implements Step {
  readonly kind = 'image';
  readonly id: string;
  readonly bytes: number;
  readonly record: UndoRecord;
  readonly #world: World;
  readonly #source: ArchiveSource;
  readonly #image: VerifiedImage;
  readonly #expected: Digest;

  constructor(world: World, source: ArchiveSource, image: VerifiedImage) {
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
    const archive = imageArchive(this.#source, this.#image, {
      unpackZstd: !engine.facts.readsZstd,
      spoolFolder: home.path('spool'),
      onBytes: progress,
      ...(signal === undefined ? {} : { signal }),
    });
    await engine.load(archive, this.#image.ref, signal).catch((error: unknown) => this.#dropOwn(error));
    await this.#prove().catch((error: unknown) => this.#dropOwn(error));
  }

  async #prove(): Promise<void> {
    const found = await this.#world.engine.image(this.#image.ref);
    const problem = found === undefined ? 'the engine does not have it' : await this.#problem(found);
    if (found === undefined || problem !== undefined) {
      throw new SealiftError(
        'IMAGE_NOT_PROVED',
        `image ${this.#image.ref} is not the signed one after loading: ${problem}`,
        {
          details: [
            ['signed', this.#expected],
            ['engine', found?.id ?? 'none'],
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

  /** Why an image of the engine is not the signed one, or undefined when it is. */
  async #problem(found: EngineImage): Promise<string | undefined> {
    if (found.id !== this.#expected) return 'another image ID';
    const { diffIds, manifest } = this.#image;
    if (found.layers.length !== diffIds.length || found.layers.some((layer, i) => layer !== diffIds[i]))
      return 'other layers';
    if (this.#world.engine.facts.store === 'classic') return undefined;
    return (await this.#world.engine.hasContent(manifest.digest)) ? undefined : 'content is missing';
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

/** Removes the tag if it still stands on the image that was brought. */
export async function undoImage(record: Extract<UndoRecord, { kind: 'image' }>, world: World): Promise<void> {
  const found = await world.engine.image(record.ref);
  if (found?.id === record.id) await world.engine.removeImage(record.ref);
}
