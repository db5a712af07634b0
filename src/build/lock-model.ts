// SPDX-License-Identifier: Apache-2.0
import { describeSigner, isSafePath } from '../bundle/inventory.ts';
import { SealiftError } from '../errors.ts';
import type { Digest, Expected } from '../store/digest.ts';
import { inParallel } from '../store/pool.ts';
import { caseCollisions } from './collide.ts';
import { asItem, type Sources } from './context.ts';
import { checkedByGit, recall, remember } from './gitindex.ts';
import { demandSignature, withOwnSignature, type LockTrust } from './lock-signature.ts';
import type { LockedModel } from './lockfile.ts';
import type { Manifest } from './manifest.ts';
import { selectFiles } from './select.ts';
import { printable } from '../text.ts';
import { reasonOf } from './sources/retry.ts';
import type { ChooseFiles, ResolvedModel, SourceContext, SourceFile } from './sources/source.ts';

type ModelEntry = Manifest['models'][string];

/** How often a small file is asked for again when the connection drops; larger ones resume in the store. */
const ATTEMPTS = 4;

/**
 * Resolves a model to a commit and to the sha256 and size of every file. Files in LFS have their sha256 from the
 * hub and are not fetched; the others are, into the store.
 * @throws {SealiftError} UNSAFE_NAME, MANIFEST_INVALID (no file is left), SOURCE_INVALID, UPSTREAM_NOT_SIGNED,
 *   UPSTREAM_UNTRUSTED, UPSTREAM_BAD_SIGNATURE, KEY_MISSING, and the source's own
 */
export async function lockModel(
  name: string,
  entry: ModelEntry,
  context: SourceContext,
  sources: Sources,
  trust: LockTrust,
): Promise<LockedModel> {
  const item = { id: `model ${name}`, kind: 'model' as const, label: `${name} ← ${entry.from}` };
  return asItem(context.emit, item, async () => {
    const source = sources.model(entry.from, context);
    let listed: readonly SourceFile[] = [];
    const choose: ChooseFiles = (all) => {
      listed = all;
      return chooseFiles(name, entry, all, context);
    };
    const resolved = await source.resolve(context.emit, choose);
    const carried = await lockFiles(name, resolved, context);
    const signature = await demandSignature(name, carried, trust, (path, maxBytes) =>
      readFile(
        name,
        listed.find((file) => file.path === path),
        maxBytes,
        resolved,
        context,
      ),
    );
    const { files, oms } = withOwnSignature(name, entry, carried, trust);
    const result = {
      name,
      from: entry.from,
      ...originOf(resolved),
      ...(signature === undefined ? {} : { signature }),
      files,
      ...(oms === undefined ? {} : { oms }),
    };
    const bytes = files.reduce((sum, file) => sum + file.size, 0);
    const signer = signature === undefined ? '' : `, signed by ${describeSigner(signature.by)}`;
    const detail = `${resolved.revision.slice(0, 19)}, ${files.length} files, ${bytes} bytes${signer}`;
    return { result, detail };
  });
}

function originOf({
  hub,
  repo,
  revision,
  license,
}: ResolvedModel): Omit<LockedModel, 'name' | 'from' | 'files'> {
  return {
    ...(hub === undefined ? {} : { hub }),
    ...(repo === undefined ? {} : { repo }),
    revision,
    ...(license === undefined ? {} : { license }),
  };
}

async function lockFiles(
  name: string,
  resolved: ResolvedModel,
  context: SourceContext,
): Promise<LockedModel['files']> {
  const byContent = new Map<string, Promise<Digest>>();
  const unknown = resolved.files.filter(({ digest }) => digest === undefined);
  const fetched = await inParallel(unknown, context.signal, async (file, signal) => {
    const fetch = (): Promise<Digest> => lockFile(name, file, resolved, { ...context, signal });
    return [file.path, await once(byContent, file, fetch)] as const;
  });
  const digests = new Map(fetched);
  return resolved.files.map(({ path, size, digest }) => ({
    path,
    digest: digest ?? digests.get(path)!,
    size,
  }));
}

/** The content of a small file that may not be carried; undefined when the model has no such file. */
async function readFile(
  name: string,
  file: SourceFile | undefined,
  maxBytes: number,
  resolved: ResolvedModel,
  context: SourceContext,
): Promise<Buffer | undefined> {
  if (file === undefined) return undefined;
  const what = `model ${name}: ${file.path}`;
  if (file.size > maxBytes)
    throw new SealiftError(
      'SOURCE_INVALID',
      `${what} is ${file.size} bytes, more than the ${maxBytes} allowed`,
    );
  const digest = file.digest ?? (await lockFile(name, file, resolved, context));
  const expected = { digest, size: file.size };
  const { store, emit, signal } = context;
  const known = await store.readIfSound(expected, maxBytes, emit);
  if (known !== undefined) return known;
  await store.add(expected, resolved.file(file.path), { what, signal });
  return store.readBytes(expected, maxBytes);
}

/** The files to carry, sorted by path, after every check that needs names only. */
function chooseFiles(
  name: string,
  entry: ModelEntry,
  listed: readonly SourceFile[],
  context: SourceContext,
): SourceFile[] {
  const { selected, unused, unusedExcludes } = selectFiles(listed, entry.include, entry.exclude);
  const files = selected.toSorted((a, b) => (a.path < b.path ? -1 : 1));
  if (files.length === 0) throw nothingLeft(name, entry, listed);
  refuseUnsafe(name, files);
  const warn = (code: string, message: string): void => context.emit({ type: 'warning', code, message });
  for (const pattern of unused)
    warn('PATTERN_UNUSED', `model ${name}: no file fits the include pattern '${pattern}'`);
  for (const pattern of unusedExcludes)
    warn('PATTERN_UNUSED', `model ${name}: no file fits the exclude pattern '${pattern}'`);
  for (const [a, b] of caseCollisions(files.map((file) => file.path))) {
    warn('CASE_COLLISION', `model ${name}: '${a}' and '${b}' are one file on a disk that ignores case`);
  }
  if (!files.some(({ path }) => isLicence(path))) {
    warn('NO_LICENSE_FILE', `model ${name} carries no licence file; see that its terms reach the enclave`);
  }
  return files;
}

const isLicence = (path: string): boolean => /(^|\/)[^/]*(licen[cs]e|copying)[^/]*$/i.test(path);

function nothingLeft(name: string, entry: ModelEntry, listed: readonly SourceFile[]): SealiftError {
  if (listed.length === 0)
    return new SealiftError('SOURCE_INVALID', `model ${name}: ${entry.from} has no file at all`);
  const example = listed.slice(0, 5).map((file) => file.path);
  return new SealiftError(
    'MANIFEST_INVALID',
    `model ${name}: include and exclude leave no file of ${entry.from}`,
    {
      hint: `it has ${listed.length} files, such as ${example.join(', ')}`,
    },
  );
}

/** Checked here whatever the source is: a name from outside never reaches a path of ours. */
function refuseUnsafe(name: string, files: readonly SourceFile[]): void {
  const paths = new Set<string>();
  const folders = new Set(files.flatMap(({ path }) => parents(path)));
  for (const { path } of files) {
    if (!isSafePath(path)) {
      throw new SealiftError(
        'UNSAFE_NAME',
        `model ${name} has a file with an unsafe name: '${printable(path, 200)}'`,
        {
          hint: 'if the model is to be trusted all the same, leave the file out with `exclude`',
        },
      );
    }
    if (paths.has(path) || folders.has(path)) {
      throw new SealiftError('SOURCE_INVALID', `model ${name}: the source lists '${path}' twice`);
    }
    paths.add(path);
  }
}

function parents(path: string): string[] {
  const parts = path.split('/').slice(0, -1);
  return parts.map((_, i) => parts.slice(0, i + 1).join('/'));
}

/** Files of equal content (empty `__init__.py`, mostly) are fetched and noted once. */
function once(
  known: Map<string, Promise<Digest>>,
  file: SourceFile,
  work: () => Promise<Digest>,
): Promise<Digest> {
  const key = `${file.gitOid ?? file.path} ${file.size}`;
  const digest = known.get(key) ?? work();
  known.set(key, digest);
  return digest;
}

async function lockFile(
  name: string,
  file: SourceFile,
  resolved: ResolvedModel,
  context: SourceContext,
): Promise<Digest> {
  const { hub = '', repo = '' } = resolved;
  const note = file.gitOid === undefined ? undefined : { hub, repo, oid: file.gitOid, size: file.size };
  const known = note && (await recall(context.store, note));
  if (known) return known.digest;
  const { digest } = await fetchFile(`model ${name}`, file, resolved, context);
  if (note) await remember(context.store, note, digest);
  return digest;
}

async function fetchFile(
  id: string,
  file: SourceFile,
  resolved: ResolvedModel,
  context: SourceContext,
): Promise<Expected> {
  const what = `${id}: ${file.path}`;
  for (let attempt = 1; ; attempt++) {
    let received = 0;
    const onBytes = (delta: number): void => {
      received += delta;
      context.emit({ type: 'item-progress', id, delta });
    };
    // Outside: opening has its own retries, and only a body that broke off is worth another opening.
    const body = await bodyOf(file, resolved, context);
    try {
      const checked = checkedByGit(body, { oid: file.gitOid, size: file.size }, what);
      const signal = context.signal ? { signal: context.signal } : {};
      return await context.store.addStream(checked, { what, onBytes, maxBytes: file.size, ...signal });
    } catch (error) {
      if (received > 0) context.emit({ type: 'item-progress', id, delta: -received });
      const dropped = error instanceof SealiftError && error.code === 'NETWORK_ERROR';
      if (!dropped || attempt >= ATTEMPTS) throw error;
      context.emit({ type: 'retry', what, reason: reasonOf(error.message, what), delayMs: 0 });
    }
  }
}

/** Hubs answer a request for part of an empty file in different ways, so an empty file is not asked for. */
async function bodyOf(
  file: SourceFile,
  resolved: ResolvedModel,
  context: SourceContext,
): Promise<AsyncIterable<Uint8Array>> {
  if (file.size === 0) return (async function* (): AsyncGenerator<Uint8Array> {})();
  return (await resolved.file(file.path).open(0, context.signal)).body;
}
