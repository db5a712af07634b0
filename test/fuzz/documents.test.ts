// SPDX-License-Identifier: Apache-2.0
/** Damaged documents of a bundle, and of the lock, into their readers. */
import { parseLock, lockBytes } from '../../src/build/lockfile.ts';
import { parseInventory } from '../../src/bundle/inventory.ts';
import { parseImageConfig, parseImageManifest } from '../../src/bundle/oci.ts';
import { checkProvenance } from '../../src/bundle/provenance.ts';
import { formatSums, parseSums } from '../../src/bundle/sums.ts';
import { canonicalJson } from '../../src/json.ts';
import type { Random } from '../support/random.ts';
import { sampleBundle } from '../support/sample.ts';
import { sha256 } from '../support/signature.ts';
import { campaign } from './campaign.ts';
import { damageBytes, damageJson, WORDS } from './mutate.ts';

const samples = [await sampleBundle(), await sampleBundle({ models: [], services: [] })];
const sample = samples[0]!;
const demand = (holds: boolean, what: string): void => {
  if (!holds) throw new Error(`accepted, and ${what}`);
};

/** What no terminal may get and no name in a bundle may have. */
const UNSAFE = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/u;

/** Every string of a value but those behind the key `options`, whose texts may have line feeds. */
function stringsOf(value: unknown): string[] {
  if (typeof value === 'string') return [value];
  if (value === null || typeof value !== 'object') return [];
  return Object.entries(value).flatMap(([key, inner]) =>
    key === 'options' ? [] : [key, ...stringsOf(inner)],
  );
}

const sums = samples.map(({ plan }) => plan.sums);
/** Whole lines taken out, moved, or once more. */
function damageLines(random: Random, text: string): Buffer {
  const lines = text.split(/(?<=\n)/);
  for (let edits = random.few(3); edits > 0; edits--) {
    const taken = random.chance(0.5) ? lines.splice(random.int(lines.length), 1) : [random.pick(lines)];
    if (random.chance(0.8)) lines.splice(random.int(lines.length + 1), 0, ...taken);
  }
  return Buffer.from(lines.join(''));
}

const MARKS = ['\n', '\r\n', '  ', ' *', '\\', 'bundle.json', 'blobs/sha256/', '0'.repeat(64), ...WORDS];
campaign('SHA256SUMS', {
  make: (random) =>
    random.chance(0.3)
      ? damageLines(random, random.pick(sums).toString())
      : damageBytes(random, random.pick(sums), sums, MARKS),
  read(bytes) {
    const { documents, blobs } = parseSums(bytes);
    demand(formatSums(documents, blobs).equals(bytes), 'it is not in its one form');
    demand(new Set(blobs).size === blobs.length, 'it lists a blob twice');
  },
  codes: ['BUNDLE_MALFORMED'],
});

campaign('bundle.json', {
  make: (random) => damageJson(random, random.pick(samples).inventory),
  read(bytes) {
    const inventory = parseInventory(bytes);
    demand(canonicalJson(JSON.parse(bytes.toString())).equals(bytes), 'it is not canonical');
    demand(!stringsOf(inventory).some((text) => UNSAFE.test(text)), 'it has unsafe text');
    const paths = [
      ...inventory.models.flatMap((m) => m.files.map((f) => f.path)),
      ...inventory.configs.map((c) => c.name),
    ];
    demand(
      !paths.some((path) => path.startsWith('/') || path.split('/').includes('..')),
      'a path climbs out',
    );
  },
  codes: ['BUNDLE_MALFORMED', 'BUNDLE_UNSUPPORTED'],
});

const bundleJson = canonicalJson(sample.inventory);
const provenance: unknown = JSON.parse(sample.provenance.toString());
campaign('provenance.json', {
  make: (random) => damageJson(random, provenance),
  read(bytes) {
    checkProvenance(bytes, bundleJson);
    const { subject } = JSON.parse(bytes.toString()) as { subject: { digest: { sha256: string } }[] };
    demand(subject[0]!.digest.sha256 === sha256(bundleJson).toString('hex'), 'it speaks of something else');
  },
  codes: ['BUNDLE_MALFORMED'],
});

const { manifest } = sample.inventory.images[0]!;
const manifestJson: unknown = JSON.parse((await sample.store.readBytes(manifest, 1e6)).toString());
const configOf = parseImageManifest(canonicalJson(manifestJson), 'x', 'BUNDLE_MALFORMED').config;
const configJson: unknown = JSON.parse((await sample.store.readBytes(configOf, 1e6)).toString());

campaign('image manifest', {
  make: (random) => damageJson(random, manifestJson),
  read(bytes) {
    const { config, layers } = parseImageManifest(bytes, 'the manifest', 'BUNDLE_MALFORMED');
    for (const { digest, size } of [config, ...layers]) {
      demand(/^sha256:[0-9a-f]{64}$/.test(digest), 'a digest is none');
      demand(Number.isSafeInteger(size) && size >= 0, 'a size is none');
    }
    demand(!('manifests' in (JSON.parse(bytes.toString()) as object)), 'it is an index as well');
  },
  codes: ['BUNDLE_MALFORMED'],
});

campaign('image config', {
  make: (random) => damageJson(random, configJson),
  read(bytes) {
    const { diffIds } = parseImageConfig(bytes, 'the config', 'BUNDLE_MALFORMED');
    demand(
      diffIds.every((digest) => /^sha256:[0-9a-f]{64}$/.test(digest)),
      'a digest is none',
    );
  },
  codes: ['BUNDLE_MALFORMED'],
});

const { created, platform, images, models, configs } = sample.inventory;
const lock = {
  apiVersion: 'sealift.dev/v1',
  kind: 'Lock',
  created,
  platform,
  images,
  models,
  configs,
  manifest: `sha256:${'1'.repeat(64)}`,
};
campaign('lock', {
  make: (random) => damageJson(random, lock),
  read(bytes) {
    const read = parseLock(bytes, 'x.lock.json');
    demand(lockBytes(parseLock(lockBytes(read), 'x.lock.json')).equals(lockBytes(read)), 'it does not last');
    demand(!stringsOf(read).some((text) => UNSAFE.test(text)), 'it has unsafe text');
  },
  codes: ['LOCK_INVALID'],
});
