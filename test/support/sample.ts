// SPDX-License-Identifier: Apache-2.0
/** A small but complete bundle, made in memory, and the people who sign and trust it. */
import { generateKeyPairSync, type KeyObject } from 'node:crypto';
import { join } from 'node:path';
import { Inventory } from '../../src/bundle/inventory.ts';
import { openBundle, type OpenOptions, type VerifiedBundle } from '../../src/bundle/open.ts';
import { planBundle, writeBundle, type BundlePlan } from '../../src/bundle/write.ts';
import { canonicalJson } from '../../src/json.ts';
import { digestOf, hexOf, type Expected } from '../../src/store/digest.ts';
import { Store } from '../../src/store/store.ts';
import { parseTrustPolicy, type TrustPolicy } from '../../src/trust/policy.ts';
import { keySigner } from '../../src/trust/sign.ts';
import { tempDir } from './workspace.ts';

export interface Person {
  name: string;
  key: KeyObject;
  publicPem: string;
}

export function person(name: string): Person {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  return { name, key: privateKey, publicPem: publicKey.export({ type: 'spki', format: 'pem' }) };
}

/** A policy that trusts these people, `threshold` of them together; `more` is YAML appended to it. */
export const policyOf = (people: readonly Person[], threshold = 1, more = ''): TrustPolicy =>
  parseTrustPolicy(policyText(people, threshold, more), 'trust.yaml');

/** Its file. */
export function policyText(
  people: readonly Pick<Person, 'name' | 'publicPem'>[],
  threshold = 1,
  more = '',
  version = 1,
): string {
  const signers = people.map(
    (p) => `  - name: ${p.name}\n    publicKey: |\n${p.publicPem.trim().replace(/^/gm, '      ')}\n`,
  );
  const head = `apiVersion: sealift.dev/v1\nkind: TrustPolicy\nversion: ${version}\nthreshold: ${threshold}\nsigners:\n`;
  return `${head}${signers.join('')}${more}`;
}

export interface Sample {
  store: Store;
  inventory: Inventory;
  provenance: Buffer;
  plan: BundlePlan;
  /** Writes the bundle, signed by these people, into a folder of its own. */
  write(signers: readonly Person[]): Promise<string>;
}

/** Made-up layers, not compressed, so that the sample is the same bytes under every version of zlib. */
async function image(store: Store, name: string, ref: string): Promise<unknown> {
  const layers = [`base of everything`, `program ${name}`].map((text) => Buffer.from(text));
  const blobs = await Promise.all(layers.map((layer) => store.addBytes(layer)));
  const config = await store.addBytes(
    canonicalJson({
      architecture: 'amd64',
      os: 'linux',
      config: {},
      rootfs: { type: 'layers', diff_ids: layers.map((l) => digestOf(l)) },
    }),
  );
  const mediaType = 'application/vnd.oci.image.manifest.v1+json';
  const manifest = await store.addBytes(
    canonicalJson({
      schemaVersion: 2,
      mediaType,
      config: { mediaType: 'application/vnd.oci.image.config.v1+json', ...config },
      layers: blobs.map((blob) => ({ mediaType: 'application/vnd.oci.image.layer.v1.tar', ...blob })),
    }),
  );
  return { name, ref, from: ref, manifest: { mediaType, ...manifest } };
}

const FILES = {
  LICENSE: 'free',
  'config.json': '{"a":1}',
  'empty.txt': '',
  'model.safetensors': 'w'.repeat(70_000),
  'notes/naïve #1 (草稿).txt': 'ü',
};

async function modelFiles(store: Store): Promise<(Expected & { path: string })[]> {
  const files = await Promise.all(
    Object.entries(FILES).map(async ([path, text]) => ({
      path,
      ...(await store.addBytes(Buffer.from(text))),
    })),
  );
  return files.sort((a, b) => (a.path < b.path ? -1 : 1));
}

export async function sampleBundle(change: Partial<Inventory> = {}, inStore?: Store): Promise<Sample> {
  const store = inStore ?? (await Store.open(tempDir('sample-store')));
  const inventory = Inventory.parse({
    apiVersion: 'sealift.dev/v1',
    kind: 'Inventory',
    name: 'sample',
    version: '1.2.3',
    platform: 'linux/amd64',
    created: '2026-11-23T10:00:00Z',
    images: [
      await image(store, 'engine', 'docker.io/vllm/vllm-openai:v0.27.1'),
      await image(store, 'gateway', 'docker.io/library/nginx:1.29'),
    ],
    models: [
      {
        name: 'tiny',
        from: 'hf:sealift/tiny@main',
        revision: 'a'.repeat(40),
        files: await modelFiles(store),
      },
    ],
    configs: [{ name: 'prometheus.yml', ...(await store.addBytes(Buffer.from('scrape: []\n'))) }],
    services: [{ name: 'chat', engine: 'vllm', image: 'engine', model: 'tiny' }],
    gateway: { image: 'gateway' },
    ...change,
  });
  const provenance = provenanceOf(canonicalJson(inventory));
  const plan = await planBundle(inventory, provenance, store);
  const write = async (signers: readonly Person[]): Promise<string> => {
    const path = join(tempDir('sample'), 'sample.sealift.tar');
    const signatures = await Promise.all(signers.map((p) => keySigner(p.key).sign(plan.sums)));
    await writeBundle(path, plan, signatures, store);
    return path;
  };
  return { store, inventory, provenance, plan, write };
}

export function provenanceOf(inventory: Uint8Array): Buffer {
  return canonicalJson({
    _type: 'https://in-toto.io/Statement/v1',
    subject: [{ name: 'bundle.json', digest: { sha256: hexOf(digestOf(inventory)) } }],
    predicateType: 'https://slsa.dev/provenance/v1',
    predicate: {},
  });
}

/** Opens and hashes everything, as `verify` does. */
export async function verifyAll(
  path: string,
  policy: TrustPolicy,
  options: Partial<OpenOptions> = {},
): Promise<VerifiedBundle> {
  const bundle = await openBundle(path, { policy, now: new Date('2026-11-23T12:00:00Z'), ...options });
  try {
    await bundle.verifyContent();
  } finally {
    await bundle.close();
  }
  return bundle;
}
