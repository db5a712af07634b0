// SPDX-License-Identifier: Apache-2.0
/**
 * Images that only a local Docker engine has: `docker-daemon:name:tag`.
 *
 * An engine does not keep the manifest an image once had, so one is made: the config as it is, and the layers
 * uncompressed, whose digests are the diff_ids of the config. One image therefore has one digest here, whichever
 * engine exports it, and everything but the layer sizes is pinned by the config.
 */
import type { Readable } from 'node:stream';
import Docker from 'dockerode';
import type { Descriptor } from '../../bundle/inventory.ts';
import { parseImageManifest } from '../../bundle/oci.ts';
import { asSealiftError, SealiftError } from '../../errors.ts';
import type { Emit } from '../../events.ts';
import { isDigest } from '../../store/digest.ts';
import { EngineExport, type Made } from './engine-export.ts';
import { assertBytes, assertPlatform, MAX_MANIFEST_BYTES } from './image.ts';
import { printable } from '../../text.ts';
import { localSource } from './local-file.ts';
import { fullName, parseReference } from './reference.ts';
import type { ImageSource, SourceContext } from './source.ts';
import { tarEntries } from '../../store/tar-entries.ts';

/** @param name as the engine knows it: `name:tag`, or an image ID `sha256:…` */
export function daemonImage(
  name: string,
  context: SourceContext,
  locked?: { manifest: Descriptor },
): ImageSource {
  const ref = isDigest(name) ? undefined : fullName(parseReference(name));
  // Without a tag an engine exports every tag of the repository.
  const tagged = /[:@][^/]*$/.test(name) ? name : `${name}:latest`;
  return {
    async resolve(emit) {
      const kept = locked && (await fromStore(locked.manifest, context));
      const made = kept ?? (await exportImage(tagged, context, emit));
      if (locked) assertBytes(made.manifestBytes, locked.manifest, `docker-daemon:${name}`);
      return { ref, ...made, blob: ({ digest }) => localSource(context.store.path(digest)) };
    },
  };
}

/** An image that an earlier run has exported: then the engine is not needed at all. */
async function fromStore(manifest: Descriptor, { store, emit }: SourceContext): Promise<Made | undefined> {
  const manifestBytes = await store.readIfSound(manifest, MAX_MANIFEST_BYTES, emit);
  if (manifestBytes === undefined) return undefined;
  const { config, layers } = parseImageManifest(manifestBytes, manifest.digest, 'SOURCE_INVALID');
  const present = await Promise.all([config, ...layers].map((blob) => store.has(blob)));
  return present.every(Boolean) ? { manifest, manifestBytes } : undefined;
}

async function exportImage(name: string, context: SourceContext, emit: Emit): Promise<Made> {
  const what = `docker-daemon:${name}`;
  const image = new Docker({ socketPath: requireSocket(context) }).getImage(name);
  const facts = await ask(what, context, () => image.inspect());
  assertPlatform(`${facts.Os}/${facts.Architecture}`, context.platform, what);
  const id = `export:${name}`;
  emit({ type: 'item-start', id, kind: 'image', label: what, bytes: facts.Size });
  const archive = (await ask(what, context, () => image.get())) as Readable;
  const taking = new EngineExport(context, what, (delta) => emit({ type: 'item-progress', id, delta }));
  const abort = (): unknown => archive.destroy();
  context.signal?.addEventListener('abort', abort, { once: true });
  try {
    for await (const entry of tarEntries(received(archive, what), `the export of ${what}`))
      await taking.take(entry);
    const made = await taking.finish();
    emit({ type: 'item-end', id, outcome: 'done' });
    return made;
  } catch (error) {
    emit({ type: 'item-end', id, outcome: 'failed' });
    if (context.signal?.aborted)
      throw new SealiftError('INTERRUPTED', `exporting ${what}: interrupted`, { cause: error });
    throw asSealiftError(error, `exporting ${what}`);
  } finally {
    context.signal?.removeEventListener('abort', abort);
    archive.destroy();
  }
}

function requireSocket({ docker }: SourceContext): string {
  if (docker !== undefined) return docker;
  throw new SealiftError('ENGINE_NOT_RUNNING', 'no container engine is named', {
    hint: 'set DOCKER_HOST, or give --engine',
  });
}

async function ask<T>(what: string, { docker }: SourceContext, request: () => Promise<T>): Promise<T> {
  try {
    return await request();
  } catch (cause) {
    const { code, statusCode, message } = cause as NodeJS.ErrnoException & { statusCode?: number };
    if (statusCode === 404) {
      throw new SealiftError(
        'IMAGE_NOT_FOUND',
        `the engine has no image ${what.replace('docker-daemon:', '')}`,
        {
          hint: 'docker images lists what it has',
          cause,
        },
      );
    }
    if (statusCode !== undefined) {
      throw new SealiftError(
        'SOURCE_INVALID',
        `${what}: the engine answered ${statusCode}: ${printable(message, 200)}`,
        { cause },
      );
    }
    const reason =
      code === 'EACCES'
        ? 'may not be opened by this user'
        : `does not answer (${code ?? printable(message, 200)})`;
    throw new SealiftError('ENGINE_NOT_RUNNING', `the engine's socket ${docker} ${reason}`, { cause });
  }
}

/** The export, with a broken connection told apart from a full disk of ours. */
async function* received(archive: AsyncIterable<Uint8Array>, what: string): AsyncGenerator<Uint8Array> {
  try {
    yield* archive;
  } catch (cause) {
    throw new SealiftError('NETWORK_ERROR', `${what}: the engine broke off the export`, { cause });
  }
}
