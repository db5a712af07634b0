// SPDX-License-Identifier: Apache-2.0
/** Text that steers a terminal or reads backwards, in everything that a command could repeat (THREATS.md T14). */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { ALL } from '../../src/cli/all.ts';
import { canonicalJson } from '../../src/json.ts';
import { run, type Ran } from '../cli/harness.ts';
import { policyYaml, sampleBundle as cliSample, type SampleBundle } from '../cli/sample.ts';
import { blob, digestName, resigned, withInventory } from '../support/forge.ts';
import { member, pack, split } from '../support/members.ts';
import { person, provenanceOf, sampleBundle } from '../support/sample.ts';
import { signatureParts, slotOf } from '../support/signature.ts';
import { tempDir } from '../support/workspace.ts';

/** A title, a colour, a cleared screen, C1, right-to-left, isolates, zero width, line separators, tags, a bell. */
const EVIL =
  '\u001b]0;owned\u0007\u001b[31m\u001b[2J\u009b2J\u202egnp.exe\u2066\u2069\u200b\u200f\ufeff\u2028\u2029\u{e0041}\r\b\u007f';
/** YAML and JSON can say it without holding it. */
const ESCAPED = EVIL.split('')
  .map((unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`)
  .join('');
const FILE = EVIL.replaceAll('/', '').replaceAll('\u0000', '');

const dir = tempDir('terminal');
const alice = person('alice');
let sample: SampleBundle;
let trust: string;

beforeAll(async () => {
  sample = await cliSample();
  trust = join(dir, 'trust.yaml');
  writeFileSync(trust, policyYaml(sample.publicPem));
});

/** Every command line is run as it is and with --json; what comes out is one line after the other of plain text. */
async function clean(...argv: string[]): Promise<Ran[]> {
  const ran = [await run(ALL, argv), await run(ALL, [...argv, '--json'])];
  for (const { stdout, stderr } of ran)
    for (const text of [stdout, stderr])
      expect(text.replaceAll('\n', ''), argv.join(' ')).not.toMatch(/[\p{C}\p{Zl}\p{Zp}]/u);
  return ran;
}

const refused = async (...argv: string[]): Promise<void> => {
  const ran = await clean(...argv);
  expect(ran.map(({ exit }) => exit)).not.toContain(0);
};

function forged(name: string, bytes: Buffer): string {
  const folder = tempDir('forged');
  const path = join(folder, name);
  writeFileSync(path, bytes);
  return path;
}

/** The sample with these documents, under a signature of alice. */
async function withDocuments(documents: Record<string, Buffer>): Promise<string> {
  const members = split(readFileSync(await (await sampleBundle()).write([alice])));
  const list = members.map((m) => (documents[m.name] ? member(m.name, documents[m.name]!) : m));
  return forged('x.sealift.tar', resigned(list, alice.key));
}

const policyFor = (publicPem: string): string => {
  const path = join(tempDir('policy'), 'trust.yaml');
  writeFileSync(path, policyYaml(publicPem));
  return path;
};

describe('in the name of a file', () => {
  it('that is not there, is no bundle, or is one', async () => {
    await refused('verify', join(dir, FILE), '--policy', trust);
    await refused('inspect', forged(FILE, Buffer.from('hello')));
    await refused('verify', forged(FILE, Buffer.from('hello')), '--policy', trust);
    const good = forged(`${FILE}.sealift.tar`, readFileSync(sample.bundle));
    for (const { exit } of await clean('verify', good, '--policy', trust)) expect(exit).toBe(0);
    for (const { exit } of await clean('inspect', good)) expect(exit).toBe(0);
  });

  it('of a policy, a key, a manifest, a lock, a home', async () => {
    const text = forged(FILE, Buffer.from(`key: "${ESCAPED}"`));
    await refused('verify', sample.bundle, '--policy', join(dir, FILE));
    await refused('verify', sample.bundle, '--policy', text);
    await refused('sign', sample.bundle, '--key', text);
    await refused('lock', text);
    await refused('build', text);
    await refused('install', sample.bundle, '--home', join(dir, FILE), '--dry-run');
    await refused('keygen', '-o', join(dir, FILE, 'x.key'), '--passphrase-file', text);
  });
});

describe('on the command line', () => {
  it('in a command, an option, a value', async () => {
    await refused(EVIL);
    await refused('verify', `--${EVIL}`);
    await refused('verify', sample.bundle, '--policy', trust, '--color', EVIL);
    await refused('help', EVIL);
  });
});

describe('in a slot', () => {
  it.each<[string, object]>([
    ['hint', { verificationMaterial: { publicKey: { hint: EVIL } } }],
    ['media type', { mediaType: EVIL }],
    ['unknown member', { [EVIL]: EVIL }],
    [
      'algorithm',
      { messageSignature: { messageDigest: { algorithm: EVIL, digest: EVIL }, signature: EVIL } },
    ],
  ])('as its %s', async (_, change) => {
    const members = split(readFileSync(sample.bundle));
    const slot = slotOf(JSON.stringify({ ...signatureParts(members[0]!.content, alice.key), ...change }));
    for (const other of [members[1]!.content, slotOf('')]) {
      const list = members.with(1, member(members[1]!.name, other)).with(2, member(members[2]!.name, slot));
      const path = forged('x.sealift.tar', pack(list));
      await clean('verify', path, '--policy', trust);
      await clean('inspect', path);
    }
  });
});

describe('in a document', () => {
  it('of a bundle, signed and not', async () => {
    const { inventory } = await sampleBundle();
    const policy = policyFor(alice.publicPem);
    const hostile = { ...inventory, [EVIL]: EVIL, name: EVIL };
    const bytes = canonicalJson(hostile);
    const documents: Record<string, Buffer>[] = [
      { 'bundle.json': bytes, 'provenance.json': provenanceOf(bytes) },
      { 'bundle.json': Buffer.from(`{"a": "${EVIL}`) },
      { 'bundle.json': canonicalJson({ ...inventory, apiVersion: EVIL }) },
      {
        'provenance.json': canonicalJson({
          ...JSON.parse(provenanceOf(canonicalJson(inventory)).toString()),
          predicate: {
            [EVIL]: EVIL,
            buildDefinition: { buildType: EVIL },
            runDetails: { builder: { id: EVIL }, metadata: { invocationId: EVIL } },
          },
        }),
      },
      { 'index.json': canonicalJson({ [EVIL]: EVIL }) },
    ];
    for (const one of documents) {
      const path = await withDocuments(one);
      await clean('inspect', path);
      await clean('verify', path, '--policy', policy);
      await clean('verify', path, '--policy', trust);
    }
  });

  it('of an image, that was signed', async () => {
    const good = await sampleBundle();
    const first = good.inventory.images[0]!;
    for (const change of [{ mediaType: EVIL }, { [EVIL]: EVIL }, { layers: EVIL }]) {
      const json = JSON.parse((await good.store.readBytes(first.manifest, 1e6)).toString()) as object;
      const bytes = canonicalJson({ ...json, ...change });
      const inventory = structuredClone(good.inventory);
      inventory.images[0]!.manifest = { ...first.manifest, ...(await good.store.addBytes(bytes)) };
      const members = split(readFileSync(await good.write([])));
      const list = withInventory(members, inventory).map((m) =>
        m.name === digestName(first.manifest.digest) ? blob(bytes) : m,
      );
      const path = forged('x.sealift.tar', resigned(list, alice.key));
      await clean('verify', path, '--policy', policyFor(alice.publicPem));
      await clean('inspect', path);
    }
  });

  it('of a person: policy, manifest, site, lock', async () => {
    const key = sample.publicPem.trim().replace(/^/gm, '      ');
    const policy = (name: string): string =>
      `apiVersion: sealift.dev/v1\nkind: TrustPolicy\nversion: 1\nthreshold: 1\nsigners:\n  - name: "${name}"\n    publicKey: |\n${key}\n`;
    for (const text of [
      policy(ESCAPED),
      `"${ESCAPED}": 1`,
      `a: &${EVIL} 1`,
      `kind: "${ESCAPED}"`,
      EVIL,
      policy('x').replace('MFkw', EVIL),
    ]) {
      const file = forged('x.yaml', Buffer.from(text));
      await clean('verify', sample.bundle, '--policy', file);
      await clean('lock', file);
      const home = tempDir('home');
      for (const name of ['site.yaml', 'trust.yaml']) writeFileSync(join(home, name), text);
      await clean('install', sample.bundle, '--home', home, '--dry-run');
      await clean('status', '--home', home);
    }
    const manifest = readFileSync(join(sample.dir, 'tiny.yaml'), 'utf8');
    const folder = tempDir('lock');
    mkdirSync(join(folder, 'weights'));
    writeFileSync(join(folder, 'tiny.yaml'), manifest);
    for (const lock of [`{"${ESCAPED}": 1}`, `{"kind": "${ESCAPED}"}`, EVIL]) {
      writeFileSync(join(folder, 'tiny.lock.json'), lock);
      await refused(
        'build',
        join(folder, 'tiny.yaml'),
        '--store',
        join(folder, 'store'),
        '-o',
        join(folder, 'x.tar'),
      );
      await clean('lock', join(folder, 'tiny.yaml'), '--store', join(folder, 'store'));
    }
  });

  it('of a home: receipt, journal, installed versions', async () => {
    const home = tempDir('home');
    mkdirSync(join(home, 'releases', 'x-1.0.0'), { recursive: true });
    writeFileSync(join(home, 'trust.yaml'), policyYaml(sample.publicPem));
    for (const text of [`{"${ESCAPED}": "${ESCAPED}"}`, EVIL])
      for (const name of ['journal.json', 'installed.json', 'releases/x-1.0.0/receipt.json']) {
        writeFileSync(join(home, name), text);
        await clean('status', '--home', home);
        await clean('uninstall', '--home', home, '--yes');
        await clean('install', sample.bundle, '--home', home, '--dry-run');
      }
  });
});

it('in the name of a file of a model that is to be locked', async () => {
  const folder = tempDir('weights');
  mkdirSync(join(folder, 'weights'));
  writeFileSync(join(folder, 'weights', FILE), 'x');
  const manifest = readFileSync(join(sample.dir, 'tiny.yaml'), 'utf8');
  writeFileSync(join(folder, 'tiny.yaml'), manifest);
  await refused('lock', join(folder, 'tiny.yaml'), '--store', join(folder, 'store'));
});
