// SPDX-License-Identifier: Apache-2.0
/** The commands of the staging side and the auditor, over real files. */
import { execFileSync, spawn } from 'node:child_process';
import { copyFile, mkdir, open, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { ALL } from '../../src/cli/all.ts';
import { parseManifest } from '../../src/build/manifest.ts';
import { CHECKS } from '../../src/bundle/judge.ts';
import { Given } from '../../src/cli/command.ts';
import { sourceFlags, type SourceFlags } from '../../src/cli/sources.ts';
import { documentOf, run, type Ran, type RunOptions } from './harness.ts';
import { tempDir } from '../support/workspace.ts';

const cli = (argv: readonly string[], options?: RunOptions): Promise<Ran> => run(ALL, argv, options);

/** Runs what must succeed. */
async function ok(...argv: string[]): Promise<Ran> {
  const ran = await cli(argv);
  if (ran.exit !== 0) throw new Error(`${argv.join(' ')}: exit ${ran.exit}\n${ran.stderr}`);
  return ran;
}

/** Runs what must fail with this code; checks that text and JSON agree. */
async function fails(code: string, exit: number, ...argv: string[]): Promise<Ran> {
  const ran = await cli(argv);
  expect(ran.stderr).toContain(`code: ${code} `);
  // A verdict that refuses is a result, with its evidence; every other failure has none.
  const verdict = /^(FAILED|REFUSED)/m.test(ran.stdout);
  expect([ran.exit, verdict || ran.stdout === '']).toEqual([exit, true]);
  expect(documentOf(await cli([...argv, '--json']))).toMatchObject({
    schema: verdict ? 'sealift/verify/v1' : 'sealift/error/v1',
    problem: { code },
    ...(verdict && { verified: false }),
  });
  return ran;
}

let dir = '';
const at = (name: string): string => join(dir, name);

const MANIFEST = `apiVersion: sealift.dev/v1
kind: Bundle
metadata: { name: tiny, version: 1.0.0 }
platform: linux/amd64
models:
  tiny: { from: "file:./weights" }
`;

async function policyOf(threshold: number, ...names: string[]): Promise<string> {
  const signers = await Promise.all(
    names.map(async (name) => {
      const pem = (await readFile(at(`${name}.pub`), 'utf8')).trim().replace(/^/gm, '      ');
      return `  - name: ${name}\n    publicKey: |\n${pem}\n`;
    }),
  );
  const file = at(`trust-${threshold}-${names.join('-')}.yaml`);
  await writeFile(
    file,
    `apiVersion: sealift.dev/v1\nkind: TrustPolicy\nversion: 1\nthreshold: ${threshold}\nsigners:\n${signers.join('')}`,
  );
  return file;
}

const build = (out: string, ...more: string[]): Promise<Ran> =>
  ok('build', at('tiny.yaml'), '--store', at('store'), '-o', out, '--passphrase-file', at('pass'), ...more);

beforeAll(async () => {
  dir = tempDir('cli');
  await mkdir(at('weights'));
  await writeFile(at('weights/config.json'), '{}\n');
  await writeFile(at('weights/model.safetensors'), Buffer.alloc(300_000, 'weights '));
  await writeFile(at('tiny.yaml'), MANIFEST);
  await writeFile(at('pass'), 'correct horse\n');
  for (const name of ['ann', 'bob', 'eve'])
    await ok('keygen', '-o', at(`${name}.key`), '--passphrase-file', at('pass'));
  await ok('lock', at('tiny.yaml'), '--store', at('store'));
  await build(at('good.sealift.tar'), '--key', at('ann.key'));
});

describe('init', () => {
  it('writes a manifest, and never over one', async () => {
    await ok('init', at('new.yaml'));
    expect(parseManifest(await readFile(at('new.yaml'), 'utf8'), 'new.yaml').services).toHaveProperty('chat');
    await fails('FILE_EXISTS', 2, 'init', at('new.yaml'));
  });
});

describe('keygen', () => {
  it('makes a key that openssl opens, private and never overwritten', async () => {
    expect((await stat(at('ann.key'))).mode & 0o777).toBe(0o600);
    const pub = execFileSync('openssl', [
      'pkey',
      '-in',
      at('ann.key'),
      '-passin',
      `file:${at('pass')}`,
      '-pubout',
    ]);
    expect(pub.toString()).toBe(await readFile(at('ann.pub'), 'utf8'));
    const before = await readFile(at('ann.key'));
    await fails('FILE_EXISTS', 2, 'keygen', '-o', at('ann.key'), '--passphrase-file', at('pass'));
    expect(await readFile(at('ann.key'))).toEqual(before);
  });

  it('leaves nothing when the .pub is in the way', async () => {
    await writeFile(at('half.pub'), 'mine');
    await fails('FILE_EXISTS', 2, 'keygen', '-o', at('half.key'), '--passphrase-file', at('pass'));
    expect(await readdir(dir)).not.toContain('half.key');
    expect(await readFile(at('half.pub'), 'utf8')).toBe('mine');
  });

  it('asks twice on a terminal, without echo', async () => {
    const ran = await cli(['keygen', '-o', at('typed.key')], { typed: 's3cret\rs3cret\r' });
    expect(ran.exit).toBe(0);
    expect(ran.stderr).not.toContain('s3cret');
    await writeFile(at('typed.pass'), 's3cret');
    execFileSync('openssl', [
      'pkey',
      '-in',
      at('typed.key'),
      '-passin',
      `file:${at('typed.pass')}`,
      '-noout',
    ]);
    const differ = await cli(['keygen', '-o', at('differ.key')], { typed: 'one\rtwo\r' });
    expect(differ.stderr).toContain('the two passphrases differ');
    expect(await readdir(dir)).not.toContain('differ.key');
  });

  it('takes the passphrase from a pipe, in pieces', async () => {
    execFileSync('mkfifo', [at('pipe')]);
    const script = 'exec > "$0"; printf "corr"; sleep 0.1; printf "ect horse\\n"';
    const writer = spawn('sh', ['-c', script, at('pipe')], { stdio: 'ignore' });
    try {
      await ok('keygen', '-o', at('piped.key'), '--passphrase-file', at('pipe'));
    } finally {
      writer.kill();
    }
    const pass = `file:${at('pass')}`;
    execFileSync('openssl', ['pkey', '-in', at('piped.key'), '-passin', pass, '-noout']);
  });

  it('without a terminal says how to give a passphrase', async () => {
    const ran = await fails('USAGE', 2, 'keygen', '-o', at('x.key'));
    expect(ran.stderr).toContain('--passphrase-file');
  });

  it('takes no empty passphrase and only one way to give it', async () => {
    await writeFile(at('empty'), '\n');
    await fails('USAGE', 2, 'keygen', '-o', at('x.key'), '--passphrase-file', at('empty'));
    await fails(
      'USAGE',
      2,
      'keygen',
      '-o',
      at('x.key'),
      '--passphrase-file',
      at('pass'),
      '--passphrase-fd',
      '3',
    );
    await fails('USAGE', 2, 'keygen', '-o', at('x.key'), '--passphrase-fd', 'three');
    expect(await readdir(dir)).not.toContain('x.key');
  });
});

describe('lock', () => {
  it('says what it wrote, then that nothing changed, then what did', async () => {
    const manifest = at('moving/tiny.yaml');
    await mkdir(at('moving/weights'), { recursive: true });
    await writeFile(manifest, MANIFEST);
    await writeFile(at('moving/weights/a.bin'), 'one');
    const lock = (...more: string[]): Promise<Ran> => ok('lock', manifest, '--store', at('store'), ...more);
    expect((await lock()).stdout).toContain(`wrote ${at('moving/tiny.lock.json')}`);
    const bytes = await readFile(at('moving/tiny.lock.json'));
    expect(documentOf(await lock('--frozen', '--json'))).toMatchObject({
      schema: 'sealift/lock/v1',
      written: false,
      changes: [],
    });
    await writeFile(at('moving/weights/a.bin'), 'three');
    const frozen = await fails('LOCK_STALE', 2, 'lock', manifest, '--store', at('store'), '--frozen');
    expect(frozen.stderr).toContain('tiny/a.bin');
    expect(await readFile(at('moving/tiny.lock.json'))).toEqual(bytes);
    expect((await lock()).stdout).toContain('file tiny/a.bin: content changed (3 → 5 bytes, +2)');
  });

  it('says how to mend a version of two numbers, and an empty manifest', async () => {
    const hintOn = async (text: string): Promise<string> => {
      await writeFile(at('beginner.yaml'), text);
      return (await fails('MANIFEST_INVALID', 2, 'lock', at('beginner.yaml'))).stderr;
    };
    expect(await hintOn(MANIFEST.replace('1.0.0', '1.0'))).toContain('with three numbers: "1.0.0"');
    expect(await hintOn(MANIFEST.replace('1.0.0', '2'))).toContain('with three numbers: "2.0.0"');
    expect(await hintOn(MANIFEST.replace('tiny, version', '7, version'))).toContain('put it in quotes: "7"');
    expect(await hintOn('# later\n')).toContain('hint: `sealift init');
  });

  it('names what is missing', async () => {
    const ran = await fails('FILE_MISSING', 2, 'lock', at('nowhere.yaml'));
    expect(ran.stderr).toContain('sealift init');
    await fails('LOCK_MISSING', 2, 'lock', at('new.yaml'), '--frozen');
    await fails('USAGE', 2, 'lock', at('tiny.yaml'), '--mirror', 'docker.io');
    for (const [flag, value] of [
      ['--hub', 'https://user:secret@hub.example'],
      ['--hub', 'https://:secret@hub.example'],
      ['--hub', 'https://user:sec/ret@hub.example'],
      ['--mirror', 'docker.io=https://user:secret@mirror.example'],
      ['--mirror', 'https://user:secret@mirror.example'],
      ['--plain-http', 'http://registry.example'],
      ['--plain-http', 'user:secret@registry.example'],
    ] as const) {
      const { stderr } = await fails('USAGE', 2, 'lock', at('tiny.yaml'), flag, value);
      expect(stderr).not.toMatch(/sec\/?ret/);
    }
  });

  it('knows a registry by one name', () => {
    const flags = (...mirror: string[]): SourceFlags =>
      sourceFlags(new Given(undefined, { mirror, plainHttp: ['Registry.Example:5000'] }));
    expect([...flags('Index.docker.io=https://m.example').mirrors.keys()]).toEqual(['docker.io']);
    expect([...flags().plainHttp]).toEqual(['registry.example:5000']);
    expect(() => flags('docker.io=https://a.example', 'index.docker.io=https://b.example')).toThrow(
      '--mirror names docker.io twice',
    );
  });

  it.each(['', '\n', 'hf_one\nhf_two\n', 'hf_ü'])(
    'a token file that holds %j holds no token',
    async (text) => {
      await writeFile(at('token'), text);
      const ran = await fails(
        'USAGE',
        2,
        'lock',
        at('tiny.yaml'),
        '--store',
        at('store'),
        '--hub-token-file',
        at('token'),
      );
      expect(ran.stderr).toContain(`${at('token')} holds no token`);
      expect(ran.stderr).not.toContain('hf_');
    },
  );

  it('says that a lock which cannot be read was replaced', async () => {
    await writeFile(at('broken.yaml'), MANIFEST);
    await writeFile(at('broken.lock.json'), '<<<<<<< ours\n');
    const ran = await ok('lock', at('broken.yaml'), '--store', at('store'));
    expect(ran.stderr).toContain('nothing could be compared');
    expect((await ok('lock', at('broken.yaml'), '--store', at('store'))).stderr).not.toContain('compared');
  });
});

describe('build', () => {
  it('wants a key or a word', async () => {
    const ran = await fails('KEY_MISSING', 2, 'build', at('tiny.yaml'), '--store', at('store'));
    expect(ran.stderr).toContain('--unsigned');
    await fails('USAGE', 2, 'build', at('tiny.yaml'), '--unsigned', '--key', at('ann.key'));
  });

  it('wants different keys, whatever their files are called', async () => {
    await copyFile(at('ann.key'), at('ann-again.key'));
    const keys = ['--key', at('ann.key'), '--key', at('ann-again.key'), '--passphrase-file', at('pass')];
    const argv = ['build', at('tiny.yaml'), '--store', at('store'), '-o', at('twice.tar'), ...keys];
    expect((await fails('USAGE', 2, ...argv)).stderr).toContain('the same signer is given twice');
    expect(await readdir(dir)).not.toContain('twice.tar');
  });

  it('refuses before the work: output there, wrong passphrase, public key, no lock, stale lock', async () => {
    const base = ['build', at('tiny.yaml'), '--store', at('store')];
    const key = ['--key', at('ann.key'), '--passphrase-file', at('pass')];
    await fails('FILE_EXISTS', 2, ...base, '-o', at('good.sealift.tar'), ...key);
    await writeFile(at('wrong'), 'guess');
    await fails(
      'WRONG_PASSPHRASE',
      2,
      ...base,
      '-o',
      at('no.tar'),
      '--key',
      at('ann.key'),
      '--passphrase-file',
      at('wrong'),
    );
    await fails('WRONG_PASSPHRASE', 2, ...base, '-o', at('no.tar'), '--key', at('ann.key'));
    await fails('KEY_INVALID', 2, ...base, '-o', at('no.tar'), '--key', at('ann.pub'));
    await fails('FILE_MISSING', 2, ...base, '-o', at('no.tar'), '--key', at('nobody.key'));
    await fails('LOCK_MISSING', 2, 'build', at('new.yaml'), '--unsigned', '-o', at('no.tar'));
    await writeFile(at('stale.yaml'), MANIFEST.replace('1.0.0', '1.0.1'));
    await copyFile(at('tiny.lock.json'), at('stale.lock.json'));
    await fails(
      'LOCK_STALE',
      2,
      'build',
      at('stale.yaml'),
      '--store',
      at('store'),
      '--unsigned',
      '-o',
      at('no.tar'),
    );
    expect(await readdir(dir)).not.toContain('no.tar');
  });

  it('--unsigned says so, and nobody accepts the result before it is signed', async () => {
    const file = at('unsigned.tar');
    expect((await build(file, '--unsigned')).stdout).toContain('NOT SIGNED');
    await fails('NOT_SIGNED', 10, 'verify', file, '--policy', await policyOf(1, 'ann'));
    await ok('sign', file, '--key', at('ann.key'), '--passphrase-file', at('pass'));
    await ok('verify', file, '--policy', await policyOf(1, 'ann'));
  });
});

describe('verify', () => {
  it('prints every check, who signed and what is in it', async () => {
    const { stdout } = await ok('verify', at('good.sealift.tar'), '--policy', await policyOf(1, 'ann'));
    expect(stdout).toMatch(/^ok +signatures +1 of 1/m);
    for (const check of CHECKS) expect(stdout).toMatch(new RegExp(`^ok +${check} `, 'm'));
    expect(stdout).toMatch(/^ok +slot 0 +ann +sha256:[0-9a-f]{64}/m);
    expect(stdout).toMatch(/^model +tiny /m);
    expect(stdout.trimEnd().split('\n').at(-1)).toMatch(/^OK {2}tiny 1\.0\.0 {2}sha256:[0-9a-f]{64}/);
  });

  it("takes the home's policy when none is named", async () => {
    await mkdir(at('home'), { recursive: true });
    await copyFile(await policyOf(1, 'ann'), at('home/trust.yaml'));
    await ok('verify', at('good.sealift.tar'), '--home', at('home'));
    const ran = await cli(['verify', at('good.sealift.tar')], { env: { SEALIFT_HOME: at('home') } });
    expect(ran.exit).toBe(0);
    await fails('POLICY_MISSING', 2, 'verify', at('good.sealift.tar'), '--home', at('nowhere'));
  });

  it('tells the failures apart, and shows what had held before', async () => {
    const policy = await policyOf(1, 'ann');
    const bundle = await readFile(at('good.sealift.tar'));
    const eve = await policyOf(1, 'eve');
    const { stdout } = await fails('UNTRUSTED_SIGNER', 11, 'verify', at('good.sealift.tar'), '--policy', eve);
    expect(stdout).toMatch(/^warning +slot 0 +not counted: unknown-key/m);
    expect(stdout.match(/^skipped /gm)).toHaveLength(CHECKS.length - 2);
    await fails(
      'THRESHOLD_NOT_MET',
      11,
      'verify',
      at('good.sealift.tar'),
      '--policy',
      await policyOf(2, 'ann', 'bob'),
    );
    await writeFile(at('cut.tar'), bundle.subarray(0, -200_000));
    await fails('BUNDLE_INCOMPLETE', 13, 'verify', at('cut.tar'), '--policy', policy);
    await writeFile(at('other.tar'), 'hello');
    await fails('NOT_A_BUNDLE', 12, 'verify', at('other.tar'), '--policy', policy);
    await copyFile(at('good.sealift.tar'), at('bad.tar'));
    const handle = await open(at('bad.tar'), 'r+');
    await handle.write(Buffer.from('X'), 0, 1, bundle.indexOf('weights weights') + 100_000);
    await handle.close();
    const ran = await fails('CONTENT_MISMATCH', 12, 'verify', at('bad.tar'), '--policy', policy);
    expect(ran.stdout).toMatch(/^ok +signatures /m);
    expect(ran.stdout).toMatch(/^FAILED +content /m);
    expect(ran.stderr).toContain('model.safetensors');
    await fails('FILE_MISSING', 2, 'verify', at('nowhere.tar'), '--policy', policy);
  });

  it('takes a folder that holds exactly one bundle', async () => {
    const policy = await policyOf(1, 'ann');
    await mkdir(at('media'), { recursive: true });
    await fails('FILE_MISSING', 2, 'verify', at('media'), '--policy', policy);
    await copyFile(at('good.sealift.tar'), at('media/one.sealift.tar'));
    await writeFile(at('media/other.tar'), 'not ours');
    await ok('verify', at('media'), '--policy', policy);
    await copyFile(at('good.sealift.tar'), at('media/two.sealift.tar'));
    const ran = await fails('USAGE', 2, 'verify', at('media'), '--policy', policy);
    expect(ran.stderr).toContain('two.sealift.tar');
  });
});

describe('sign', () => {
  it('countersigns in place, from a file made elsewhere too', async () => {
    const file = at('countersigned.tar');
    await copyFile(at('good.sealift.tar'), file);
    const second = await ok('sign', file, '--key', at('bob.key'), '--passphrase-file', at('pass'), '--json');
    expect(documentOf(second)).toMatchObject({ schema: 'sealift/sign/v1', slot: 1, name: 'tiny' });
    await ok('verify', file, '--policy', await policyOf(2, 'ann', 'bob'));

    execFileSync('tar', ['-xf', file, '-C', dir, 'SHA256SUMS']);
    const signature = at('eve.sigstore.json');
    await ok(
      'sign',
      '--detached',
      at('SHA256SUMS'),
      '--key',
      at('eve.key'),
      '--passphrase-file',
      at('pass'),
      '-o',
      signature,
    );
    await ok('sign', file, '--attach', signature);
    await ok('verify', file, '--policy', await policyOf(3, 'ann', 'bob', 'eve'));
    expect((await ok('inspect', file)).stdout).toMatch(/slot 2 +a signature, not checked/);
  });

  it('refuses a key that has signed already, and leaves the bundle alone', async () => {
    const file = at('good.sealift.tar');
    const before = await readFile(file);
    const argv = ['sign', file, '--key', at('ann.key'), '--passphrase-file', at('pass')];
    expect((await fails('ALREADY_SIGNED', 2, ...argv)).stderr).toContain('hint: a signer counts once');
    expect(await readFile(file)).toEqual(before);
  });

  it('attaches no signature over another bundle, and nothing that is none', async () => {
    const base = at('other-version.yaml');
    await writeFile(base, MANIFEST.replace('1.0.0', '2.0.0'));
    await ok('lock', base, '--store', at('store'));
    await ok('build', base, '--store', at('store'), '--unsigned', '-o', at('v2.tar'));
    execFileSync('tar', ['-xf', at('good.sealift.tar'), '-C', dir, 'SHA256SUMS']);
    const signature = at('v1.sigstore.json');
    await ok(
      'sign',
      '--detached',
      at('SHA256SUMS'),
      '--key',
      at('bob.key'),
      '--passphrase-file',
      at('pass'),
      '-o',
      signature,
    );
    const before = await readFile(at('v2.tar'));
    await fails('BAD_SIGNATURE', 11, 'sign', at('v2.tar'), '--attach', signature);
    await fails('BAD_SIGNATURE', 11, 'sign', at('v2.tar'), '--attach', at('pass'));
    expect(await readFile(at('v2.tar'))).toEqual(before);
  });

  it('refuses what does not go together', async () => {
    const file = at('good.sealift.tar');
    await fails('KEY_MISSING', 2, 'sign', file);
    await fails('USAGE', 2, 'sign', '--key', at('ann.key'));
    await fails('USAGE', 2, 'sign', file, '--key', at('ann.key'), '-o', at('x'));
    await fails('USAGE', 2, 'sign', file, '--key', at('ann.key'), '--attach', at('x'));
    await fails(
      'USAGE',
      2,
      'sign',
      file,
      '--detached',
      at('SHA256SUMS'),
      '--key',
      at('ann.key'),
      '-o',
      at('x'),
    );
    await fails(
      'NOT_A_BUNDLE',
      12,
      'sign',
      at('tiny.yaml'),
      '--key',
      at('ann.key'),
      '--passphrase-file',
      at('pass'),
    );
  });
});

describe('inspect', () => {
  it('never looks like a verdict', async () => {
    const { stdout } = await ok('inspect', at('good.sealift.tar'));
    const lines = stdout.trimEnd().split('\n');
    expect(lines.at(0)).toMatch(/^UNVERIFIED /);
    expect(lines.at(-1)).toMatch(/^UNVERIFIED /);
    expect(stdout).not.toMatch(/\bOK\b|^ok /m);
    expect(documentOf(await ok('inspect', at('good.sealift.tar'), '--json'))).toMatchObject({
      schema: 'sealift/inspect/v1',
      verified: false,
      inventory: { name: 'tiny' },
      provenance: { predicateType: 'https://slsa.dev/provenance/v1' },
    });
  });

  it('needs no policy and leaves the file alone', async () => {
    const before = await readFile(at('good.sealift.tar'));
    await ok('inspect', at('good.sealift.tar'));
    expect(await readFile(at('good.sealift.tar'))).toEqual(before);
    await rm(at('gone.tar'), { force: true });
    await fails('FILE_MISSING', 2, 'inspect', at('gone.tar'));
  });
});
