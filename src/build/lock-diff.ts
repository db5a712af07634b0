// SPDX-License-Identifier: Apache-2.0
/** What changed between two locks, in words that a reviewer can judge. */
import { describeSigner, type UpstreamSignature } from '../bundle/inventory.ts';
import { digestOf } from '../store/digest.ts';
import type { Lock, LockedImage, LockedModel } from './lockfile.ts';

export interface LockChange {
  kind: 'platform' | 'image' | 'model' | 'file' | 'config';
  /** Name in the manifest; `model/path` for a file. */
  name: string;
  /** One sentence, without kind and name. */
  text: string;
  before?: string;
  after?: string;
}

/** Lists what differs, sorted by kind and name. Empty when both carry the same. */
export function diffLocks(before: Lock, after: Lock): LockChange[] {
  const platform = changed('platform', 'platform', 'changed', before.platform, after.platform);
  return [
    ...platform,
    ...diffLists('image', before.images, after.images, (image) => image.manifest.digest, diffImage),
    ...diffLists('model', before.models, after.models, (model) => model.revision, diffModel),
    ...diffLists('config', before.configs, after.configs, contentOf, (a, b) =>
      changed('config', a.name, `content changed (${sizes(a.size, b.size)})`, a.digest, b.digest),
    ),
  ];
}

function diffLists<T extends { name: string }>(
  kind: LockChange['kind'],
  before: readonly T[],
  after: readonly T[],
  identity: (item: T) => string,
  diff: (before: T, after: T) => LockChange[],
): LockChange[] {
  const old = new Map(before.map((item) => [item.name, item]));
  const young = new Map(after.map((item) => [item.name, item]));
  const names = [...new Set([...old.keys(), ...young.keys()])].toSorted((a, b) => (a < b ? -1 : 1));
  return names.flatMap((name): LockChange[] => {
    const [a, b] = [old.get(name), young.get(name)];
    if (a && b) return diff(a, b);
    if (b) return [{ kind, name, text: `added: ${identity(b)}`, after: identity(b) }];
    return [{ kind, name, text: `removed: ${identity(a!)}`, before: identity(a!) }];
  });
}

function diffImage(a: LockedImage, b: LockedImage): LockChange[] {
  const { name } = a;
  const text =
    a.from === b.from
      ? `${b.from} moved from ${a.manifest.digest} to ${b.manifest.digest}`
      : `content changed from ${a.manifest.digest} to ${b.manifest.digest}`;
  return [
    ...changed('image', name, `now taken from ${b.from}, before from ${a.from}`, a.from, b.from),
    ...changed('image', name, text, a.manifest.digest, b.manifest.digest),
    ...changed('image', name, `called ${b.ref}, before ${a.ref}`, a.ref, b.ref),
    ...diffSignature('image', name, a.signature, b.signature, a.manifest.digest !== b.manifest.digest),
  ];
}

/**
 * Who signed, and who said whom to trust.
 * @param moved the content changed: that another digest is signed then goes without saying
 */
function diffSignature(
  kind: 'image' | 'model',
  name: string,
  a: UpstreamSignature | undefined,
  b: UpstreamSignature | undefined,
  moved: boolean,
): LockChange[] {
  const [before, after] = [a, b].map((signature) => signature && describeSigner(signature.by));
  if (before !== after) {
    const text = after === undefined ? 'its signature is not demanded any more' : `signed by ${after}`;
    return changed(kind, name, before && after ? `${text}, before by ${before}` : text, before, after);
  }
  return [
    ...changed(kind, name, 'the file that says who may sign it has other content', a?.anchor, b?.anchor),
    ...changed(kind, name, `its signature is in another form: ${b?.kind}`, a?.kind, b?.kind),
    ...(moved ? [] : changed(kind, name, `its signature is over ${b?.over} now`, a?.over, b?.over)),
  ];
}

/** Fingerprint of the key that made model.sig for us. */
const ownKey = ({ oms }: LockedModel): string | undefined => oms && digestOf(Buffer.from(oms.key, 'base64'));

function diffModel(a: LockedModel, b: LockedModel): LockChange[] {
  const { name } = a;
  const files = diffLists('file', named(name, a), named(name, b), contentOf, (x, y) =>
    changed('file', x.name, `content changed (${sizes(x.size, y.size)})`, x.digest, y.digest),
  );
  const [from, to] = [total(a), total(b)];
  const summary = `${from === to ? `${to} bytes` : sizes(from, to)} in all, ${files.length} files differ`;
  return [
    ...changed('model', name, `now taken from ${b.from}, before from ${a.from}`, a.from, b.from),
    ...changed(
      'model',
      name,
      `revision moved from ${a.revision} to ${b.revision}; ${summary}`,
      a.revision,
      b.revision,
    ),
    ...changed(
      'model',
      name,
      `licence changed from ${a.license ?? 'none'} to ${b.license ?? 'none'}`,
      a.license,
      b.license,
    ),
    ...diffSignature('model', name, a.signature, b.signature, files.length > 0),
    ...changed('model', name, `model.sig is by key ${ownKey(b) ?? 'nobody'} now`, ownKey(a), ownKey(b)),
    ...files,
  ];
}

const named = (model: string, { files }: LockedModel): { name: string; digest: string; size: number }[] =>
  files.map(({ path, digest, size }) => ({ name: `${model}/${path}`, digest, size }));

const total = ({ files }: LockedModel): number => files.reduce((sum, file) => sum + file.size, 0);
const contentOf = ({ digest, size }: { digest: string; size: number }): string => `${digest} (${size} bytes)`;

function sizes(before: number, after: number): string {
  const delta = after - before;
  return `${before} → ${after} bytes, ${delta < 0 ? '' : '+'}${delta}`;
}

function changed(
  kind: LockChange['kind'],
  name: string,
  text: string,
  before: string | undefined,
  after: string | undefined,
): LockChange[] {
  if (before === after) return [];
  return [
    {
      kind,
      name,
      text,
      ...(before === undefined ? {} : { before }),
      ...(after === undefined ? {} : { after }),
    },
  ];
}
