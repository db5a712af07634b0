// SPDX-License-Identifier: Apache-2.0
/** `sign` beyond one key and one bundle: documents, policies, signatures made elsewhere. Real tools: e2e/signers. */
import { sign as ecdsa } from 'node:crypto';
import { copyFile, mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { attachSignature, readSignable } from '../../src/bundle/slots-file.ts';
import { ALL } from '../../src/cli/all.ts';
import { fingerprint, keyHint } from '../../src/trust/keys.ts';
import { keySigner } from '../../src/trust/sign.ts';
import { policyOf, sampleBundle, verifyAll, type Person, type Sample } from '../support/sample.ts';
import { startSigstore, type SigstoreInstance } from '../support/sigstore.ts';
import { tempDir } from '../support/workspace.ts';
import { person, policyText } from '../trust/helpers.ts';
import { documentOf, run, type Ran } from './harness.ts';

const dir = tempDir('sign');
const at = (name: string): string => join(dir, name);
const alice = person('alice');
const bob = person('bob');
const signer = (who: typeof alice): Person => ({ name: who.name, key: who.privateKey, publicPem: who.pem });

let sample: Sample;
let bundle = '';
let count = 0;

beforeAll(async () => {
  sample = await sampleBundle();
  await writeFile(at('SHA256SUMS'), sample.plan.sums);
  await writeFile(at('trust.yaml'), policyText([alice]));
  for (const who of [alice, bob]) {
    await writeFile(at(`${who.name}.key`), who.privateKey.export({ type: 'pkcs8', format: 'pem' }));
    await writeFile(at(`${who.name}.pub`), who.pem);
    await writeFile(at(`${who.name}.sig`), ecdsa('sha256', sample.plan.sums, who.privateKey));
  }
  const command = ['openssl', 'pkeyutl', '-sign', '-inkey', at('alice.key')];
  const exec = { command, publicKey: 'alice.pub', input: 'digest' };
  await writeFile(at('exec.yaml'), JSON.stringify({ apiVersion: 'sealift.dev/v1', kind: 'Signer', exec }));
});
beforeEach(async () => {
  bundle = at(`${count++}.sealift.tar`);
  await copyFile(await sample.write([]), bundle);
});

const cli = (...argv: string[]): Promise<Ran> => run(ALL, argv);

async function ok(...argv: string[]): Promise<Record<string, unknown>> {
  const ran = await cli(...argv, '--json');
  if (ran.exit !== 0) throw new Error(ran.stderr);
  return documentOf(ran);
}

async function fails(code: string, exit: number, ...argv: string[]): Promise<string> {
  const before = await readFile(bundle);
  const ran = await cli(...argv);
  expect(ran.stderr).toContain(`code: ${code} `);
  expect(ran.exit).toBe(exit);
  expect((await readFile(bundle)).equals(before)).toBe(true);
  return ran.stderr;
}

const accepted = async (...people: (typeof alice)[]): Promise<string[]> =>
  (await verifyAll(bundle, policyOf(people.map(signer)))).verdict.accepted.map((a) => a.signer);

describe('sign --signer', () => {
  it('signs with a command, and says what it is going to sign before it asks', async () => {
    const ran = await cli('sign', bundle, '--signer', at('exec.yaml'));
    expect(ran.exit).toBe(0);
    expect(ran.stderr).toBe(
      `sealift: signing sample 1.2.3, ${sample.plan.digest}\nsealift: asking openssl to sign\n`,
    );
    expect(ran.stdout).toContain(`signer     ${fingerprint(alice.publicKey)}\n`);
    expect(await accepted(alice)).toEqual(['alice']);
  });

  it('does not ask for what would be refused afterwards', async () => {
    await ok('sign', bundle, '--key', at('alice.key'));
    const text = await fails('ALREADY_SIGNED', 2, 'sign', bundle, '--signer', at('exec.yaml'));
    expect(text).not.toContain('asking');
    for (let i = 0; i < 7; i++)
      await attachSignature(bundle, await keySigner(person('x').privateKey).sign(sample.plan.sums));
    expect(await fails('SLOTS_FULL', 2, 'sign', bundle, '--signer', at('exec.yaml'))).not.toContain('asking');
  });

  it('names what is wrong with the document', async () => {
    await writeFile(at('bad.yaml'), 'apiVersion: sealift.dev/v1\nkind: Signer\nexec: { comand: [x] }\n');
    expect(await fails('SIGNER_INVALID', 2, 'sign', bundle, '--signer', at('bad.yaml'))).toContain(
      "did you mean 'command'?",
    );
    await fails('FILE_MISSING', 2, 'sign', bundle, '--signer', at('none.yaml'));
    await writeFile(
      at('nokey.yaml'),
      (await readFile(at('exec.yaml'), 'utf8')).replace('alice.pub', 'nobody.pub'),
    );
    expect(await fails('FILE_MISSING', 2, 'sign', bundle, '--signer', at('nokey.yaml'))).toContain(
      'nobody.pub',
    );
    await fails('USAGE', 2, 'sign', bundle, '--signer', at('exec.yaml'), '--key', at('alice.key'));
  });

  it('finds a command with a folder in its name beside the document', async () => {
    await writeFile(at('tool.sh'), `#!/bin/sh\nexec openssl pkeyutl -sign -inkey ${at('alice.key')}\n`, {
      mode: 0o755,
    });
    const document = (await readFile(at('exec.yaml'), 'utf8')).replace(
      /"command":\[[^\]]*\]/,
      '"command":["./tool.sh"]',
    );
    await writeFile(at('beside.yaml'), document);
    await ok('sign', bundle, '--signer', at('beside.yaml'));
    expect(await accepted(alice)).toEqual(['alice']);
  });
});

describe('sign --detached', () => {
  it('signs a SHA256SUMS, with a command too', async () => {
    const out = at(`${count}.sigstore.json`);
    const said = await ok('sign', '--detached', at('SHA256SUMS'), '--signer', at('exec.yaml'), '-o', out);
    expect(said).toMatchObject({
      kind: 'SHA256SUMS',
      digest: sample.plan.digest,
      signer: fingerprint(alice.publicKey),
    });
    await ok('sign', bundle, '--attach', out);
    expect(await accepted(alice)).toEqual(['alice']);
  });

  it('signs a trust policy, and says so', async () => {
    const out = at('policy.sigstore.json');
    const ran = await cli('sign', '--detached', at('trust.yaml'), '--key', at('alice.key'), '-o', out);
    expect(ran.stdout).toMatch(/^kind +TrustPolicy$/m);
    expect(ran.stdout).toMatch(/^version +3$/m);
    expect(ran.stderr).toMatch(/^sealift: signing trust policy version 3, sha256:/);
    // It is no signature of any bundle.
    await fails('BAD_SIGNATURE', 11, 'sign', bundle, '--attach', out);
  });

  it('signs nothing else', async () => {
    const key = ['--key', at('alice.key'), '-o', at('never.json')];
    await writeFile(at('letter.txt'), 'I owe you a million\n');
    expect(await fails('USAGE', 2, 'sign', '--detached', at('letter.txt'), ...key)).toContain(
      'is neither a SHA256SUMS nor a trust policy',
    );
    await writeFile(at('broken.yaml'), policyText([alice]).replace('threshold: 1', 'threshold: 2'));
    expect(await fails('POLICY_INVALID', 2, 'sign', '--detached', at('broken.yaml'), ...key)).toContain(
      'broken.yaml:4:',
    );
    // A host would refuse it: signing shall not be where that is passed over.
    const latin1 = Buffer.concat([Buffer.from(policyText([alice])), Buffer.from('# caf\xe9\n', 'latin1')]);
    await writeFile(at('latin1.yaml'), latin1);
    await fails('POLICY_INVALID', 2, 'sign', '--detached', at('latin1.yaml'), ...key);
    await writeFile(at('more'), `${sample.plan.sums.toString()}${'a'.repeat(64)}  /etc/passwd\n`);
    await fails('BUNDLE_MALFORMED', 12, 'sign', '--detached', at('more'), ...key);
  });
});

describe('sign --attach', () => {
  it('takes a bare signature with its public key', async () => {
    const said = await ok('sign', bundle, '--attach', at('alice.sig'), '--public-key', at('alice.pub'));
    expect(said).toMatchObject({ slot: 0, signer: fingerprint(alice.publicKey), checked: true });
    expect(await accepted(alice)).toEqual(['alice']);
  });

  it('takes no signature by somebody else, bare or not', async () => {
    const text = await fails(
      'BAD_SIGNATURE',
      11,
      'sign',
      bundle,
      '--attach',
      at('alice.sig'),
      '--public-key',
      at('bob.pub'),
    );
    expect(text).toContain(fingerprint(bob.publicKey));
    await writeFile(at('alice.json'), await keySigner(alice.privateKey).sign(sample.plan.sums));
    const named = await fails(
      'BAD_SIGNATURE',
      11,
      'sign',
      bundle,
      '--attach',
      at('alice.json'),
      '--public-key',
      at('bob.pub'),
    );
    expect(named).toContain(fingerprint(alice.publicKey));
    expect(
      await ok('sign', bundle, '--attach', at('alice.json'), '--public-key', at('alice.pub')),
    ).toMatchObject({ checked: true });
  });

  it('takes no signature that names another key than its own, when that key is at hand', async () => {
    const json = JSON.parse(await keySigner(alice.privateKey).sign(sample.plan.sums)) as {
      verificationMaterial: { publicKey: { hint: string } };
    };
    json.verificationMaterial.publicKey.hint = keyHint(bob.publicKey);
    await writeFile(at('misnamed.json'), JSON.stringify(json));
    for (const key of ['alice.pub', 'bob.pub'])
      await fails(
        'BAD_SIGNATURE',
        11,
        'sign',
        bundle,
        '--attach',
        at('misnamed.json'),
        '--public-key',
        at(key),
      );
  });

  it('takes no damaged signature when the key is at hand', async () => {
    const json = JSON.parse(await keySigner(alice.privateKey).sign(sample.plan.sums)) as {
      messageSignature: { signature: string };
    };
    json.messageSignature.signature = ecdsa('sha256', Buffer.from('x'), alice.privateKey).toString('base64');
    await writeFile(at('damaged.json'), JSON.stringify(json));
    await fails(
      'BAD_SIGNATURE',
      11,
      'sign',
      bundle,
      '--attach',
      at('damaged.json'),
      '--public-key',
      at('alice.pub'),
    );
    expect(await ok('sign', bundle, '--attach', at('damaged.json'))).toMatchObject({ checked: false });
  });

  it('says what a file is that is no signature', async () => {
    const attach = (file: string, ...more: string[]): string[] => [
      'sign',
      bundle,
      '--attach',
      at(file),
      ...more,
    ];
    expect(await fails('USAGE', 2, ...attach('alice.sig'))).toContain('add --public-key FILE');
    expect(await fails('BAD_SIGNATURE', 11, ...attach('alice.pub'))).toContain(
      'neither a DER ECDSA signature',
    );
    await writeFile(at('empty'), '');
    expect(await fails('BAD_SIGNATURE', 11, ...attach('empty'))).toContain('it holds nothing');
    await writeFile(at('old.json'), '{"base64Signature":"AAAA","cert":""}');
    expect(await fails('BAD_SIGNATURE', 11, ...attach('old.json'))).toContain('--new-bundle-format');
    await writeFile(at('big.json'), `{"a":"${'x'.repeat(17_000)}"}`);
    expect(await fails('BAD_SIGNATURE', 11, ...attach('big.json'))).toContain('larger than a slot');
    await writeFile(at('deep.json'), `{"a":${'['.repeat(5000)}`);
    await fails('BAD_SIGNATURE', 11, ...attach('deep.json'));
    await fails('USAGE', 2, 'sign', bundle, '--key', at('alice.key'), '--public-key', at('alice.pub'));
    await fails('USAGE', 2, ...attach('alice.sig', '--signer', at('exec.yaml')));
  });
});

describe('a bundle that changes while somebody looks for the token', () => {
  it('is not given the signature of another', async () => {
    const other = await sampleBundle({ version: '9.9.9' });
    const { digest, sums } = await readSignable(bundle);
    const json = await keySigner(alice.privateKey).sign(sums);
    await copyFile(await other.write([]), bundle);
    await expect(attachSignature(bundle, json, digest)).rejects.toMatchObject({ code: 'CONTENT_MISMATCH' });
  });
});

describe('keyless', () => {
  let sigstore: SigstoreInstance;
  const claims = ['https://ci.example.org/a', 'https://ci.example.org'] as const;
  beforeAll(async () => {
    sigstore = await startSigstore();
    await writeFile(at('token'), sigstore.token(...claims));
    const { url } = sigstore;
    const keyless = { fulcio: url, rekor: `${url}/`, tsa: url, tokenFile: 'token' };
    await writeFile(at('ci.yaml'), JSON.stringify({ apiVersion: 'sealift.dev/v1', kind: 'Signer', keyless }));
  });
  afterAll(() => sigstore.close());

  it('is printed by identity, and signs once', async () => {
    expect(await ok('sign', bundle, '--signer', at('ci.yaml'))).toMatchObject({
      signer: `${claims[0]} (${claims[1]})`,
    });
    await fails('ALREADY_SIGNED', 2, 'sign', bundle, '--signer', at('ci.yaml'));
    await writeFile(at('token'), sigstore.token('https://ci.example.org/b', claims[1]));
    expect(await ok('sign', bundle, '--signer', at('ci.yaml'))).toMatchObject({ slot: 1 });
  });

  it('signs while building, beside a key and a command, and each signer once', async () => {
    await mkdir(at('weights'), { recursive: true });
    await writeFile(at('weights/config.json'), '{}\n');
    const head = 'apiVersion: sealift.dev/v1\nkind: Bundle\nmetadata: { name: tiny, version: 1.0.0 }\n';
    await writeFile(
      at('tiny.yaml'),
      `${head}platform: linux/amd64\nmodels:\n  tiny: { from: "file:./weights" }\n`,
    );
    const store = ['--store', at('store')];
    await ok('lock', at('tiny.yaml'), ...store);
    bundle = at('tiny.sealift.tar');
    const build = ['build', at('tiny.yaml'), ...store, '--signer', at('ci.yaml')];
    const said = await ok(...build, '-o', bundle, '--key', at('bob.key'), '--signer', at('exec.yaml'));
    const names = [bob.publicKey, alice.publicKey].map((key) => fingerprint(key) as string);
    const identity = `https://ci.example.org/b (${claims[1]})`;
    expect((said['signedBy'] as string[]).toSorted()).toEqual([...names, identity].toSorted());
    expect(await accepted(alice, bob)).toEqual(['bob', 'alice']);
    await copyFile(at('token'), at('token2'));
    await writeFile(at('ci2.yaml'), (await readFile(at('ci.yaml'), 'utf8')).replace('"token"', '"token2"'));
    const twice = await fails(
      'ALREADY_SIGNED',
      2,
      ...build,
      '--signer',
      at('ci2.yaml'),
      '-o',
      at('twice.tar'),
    );
    expect(twice).toContain(identity);
    await fails('USAGE', 2, ...build, '--unsigned');
  });

  it('does not attach a certificate that is for another key', async () => {
    const out = at('ci.sigstore.json');
    await ok('sign', '--detached', at('SHA256SUMS'), '--signer', at('ci.yaml'), '-o', out);
    const json = JSON.parse(await readFile(out, 'utf8')) as { messageSignature: { signature: string } };
    json.messageSignature.signature = ecdsa('sha256', sample.plan.sums, bob.privateKey).toString('base64');
    await writeFile(at('forged.json'), JSON.stringify(json));
    expect(await fails('BAD_SIGNATURE', 11, 'sign', bundle, '--attach', at('forged.json'))).toContain(
      'its certificate',
    );
    expect(await ok('sign', bundle, '--attach', out)).toMatchObject({ checked: true });
  });
});

it('a first volume is signed without its documents', async () => {
  const whole = await readFile(bundle);
  await writeFile(`${bundle}.001`, whole.subarray(0, whole.indexOf('bundle.json\0') + 512));
  const ran = await cli('sign', `${bundle}.001`, '--key', at('alice.key'));
  expect(ran.stderr).toBe(`sealift: signing ${sample.plan.digest}\n`);
  expect(ran.exit).toBe(0);
  // Under another name it is a copy that broke off.
  await writeFile(bundle, whole.subarray(0, whole.indexOf('bundle.json\0') + 512));
  await fails('BUNDLE_INCOMPLETE', 13, 'sign', bundle, '--key', at('alice.key'));
});
