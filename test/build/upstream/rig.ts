// SPDX-License-Identifier: Apache-2.0
/** A registry with images to sign, and locks of manifests that demand signatures of them. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createHash } from 'node:crypto';
import { resolveLock, type Lock } from '../../../src/build/lock.ts';
import { parseManifest, type Manifest } from '../../../src/build/manifest.ts';
import { multiArch, pushLayout, tinyImage } from '../../support/images.ts';
import type { Registry } from '../../support/registry.ts';
import { tempDir } from '../../support/workspace.ts';
import { bench, NOW } from '../fakes.ts';

export interface Pushed {
  /** `HOST/REPOSITORY:TAG` */
  reference: string;
  repository: string;
  /** `sha256:…` of what the tag names. */
  digest: string;
  /** Of the platform's manifest; the same without an index. */
  manifest: string;
  /** `HOST/REPOSITORY@DIGEST` */
  pinned: string;
}

let count = 0;

/** Pushes a small image, alone or as one of two platforms of an index. */
export async function pushImage(registry: Registry, form: 'single' | 'index' = 'single'): Promise<Pushed> {
  const repository = `signed/image-${++count}`;
  const image = tinyImage({ name: 'image', payload: `content ${count}` });
  const dir = form === 'index' ? multiArch(image.dir, tempDir('multi')) : image.dir;
  const reference = `${registry.host}/${repository}:v1`;
  await pushLayout(`${dir}:image`, reference);
  const digest = await digestOfTag(registry, repository, 'v1');
  return {
    reference,
    repository,
    digest,
    manifest: image.manifest.digest,
    pinned: `${registry.host}/${repository}@${digest}`,
  };
}

const MANIFESTS = 'application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json';

export async function getManifest(registry: Registry, repository: string, name: string): Promise<Buffer> {
  const answer = await fetch(`${registry.url}/v2/${repository}/manifests/${name}`, {
    headers: { accept: MANIFESTS },
  });
  if (!answer.ok) throw new Error(`${name}: ${answer.status}`);
  return Buffer.from(await answer.arrayBuffer());
}

async function digestOfTag(registry: Registry, repository: string, tag: string): Promise<string> {
  return sha256(await getManifest(registry, repository, tag));
}

export const sha256 = (bytes: Uint8Array | string): string =>
  `sha256:${createHash('sha256').update(bytes).digest('hex')}`;

/** Puts a manifest or an index under a tag, or under its own digest. */
export async function putManifest(
  registry: Registry,
  repository: string,
  manifest: object,
  tag?: string,
): Promise<{ mediaType: string; digest: string; size: number }> {
  const text = JSON.stringify(manifest);
  const mediaType = (manifest as { mediaType: string }).mediaType;
  const answer = await fetch(`${registry.url}/v2/${repository}/manifests/${tag ?? sha256(text)}`, {
    method: 'PUT',
    headers: { 'content-type': mediaType },
    body: text,
  });
  if (!answer.ok) throw new Error(`${answer.status} ${await answer.text()}`);
  return { mediaType, digest: sha256(text), size: text.length };
}

export async function putBlob(
  registry: Registry,
  repository: string,
  bytes: Uint8Array,
  mediaType: string,
): Promise<{ mediaType: string; digest: string; size: number }> {
  const start = await fetch(`${registry.url}/v2/${repository}/blobs/uploads/`, { method: 'POST' });
  const url = new URL(start.headers.get('location')!, registry.url);
  url.searchParams.set('digest', sha256(bytes));
  const answer = await fetch(url, { method: 'PUT', body: new Uint8Array(bytes) });
  if (!answer.ok) throw new Error(`${answer.status} ${await answer.text()}`);
  return { mediaType, digest: sha256(bytes), size: bytes.length };
}

/** Whom a manifest asks for, with the content of the files that it names. */
export interface Demand {
  yaml: string;
  files: Readonly<Record<string, string>>;
}

export const byKey = (publicKey: string): Demand => ({
  yaml: 'signature: { key: trust/maker.pub }',
  files: { 'trust/maker.pub': publicKey },
});

export const byIdentity = (identity: string, issuer: string, trustedRoot: string): Demand => ({
  yaml: `signature: { identity: ${JSON.stringify(identity)}, issuer: ${JSON.stringify(issuer)}, trustedRoot: trust/root.json }`,
  files: { 'trust/root.json': trustedRoot },
});

export const manifestWith = (from: string, { yaml }: Demand): Manifest =>
  parseManifest(
    [
      'apiVersion: sealift.dev/v1',
      'kind: Bundle',
      'metadata: { name: demo, version: 1.0.0 }',
      `platform: linux/${process.arch === 'x64' ? 'amd64' : process.arch}`,
      'images:',
      `  engine: { from: "${from}", ${yaml} }`,
    ].join('\n'),
    'demo.yaml',
  );

/** Locks one image of the real registry under a demand. */
export async function lockSigned(from: string, demand: Demand): Promise<Lock['images'][number]> {
  const { context } = await bench();
  for (const [path, text] of Object.entries(demand.files)) {
    mkdirSync(join(context.baseDir, 'trust'), { recursive: true });
    writeFileSync(join(context.baseDir, path), text);
  }
  const lock = await resolveLock(manifestWith(from, demand), context, undefined, NOW);
  return lock.images[0]!;
}
