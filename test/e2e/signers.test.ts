// SPDX-License-Identifier: Apache-2.0
/** Signing with and for the tools of others: cosign 2.5 and 3.1, openssl, SoftHSM2 through pkcs11-tool, a Sigstore instance. */
import { spawn } from 'node:child_process';
import {
  appendFileSync,
  copyFileSync,
  existsSync,
  readdirSync,
  readFileSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { fingerprint, loadPublicKey } from '../../src/trust/keys.ts';
import { person, policyOf, sampleBundle, verifyAll, type Sample } from '../support/sample.ts';
import { startSigstore, type SigstoreInstance } from '../support/sigstore.ts';
import { repoRoot, run, runOk, tempDir, type RunResult } from '../support/workspace.ts';

const COSIGN = {
  '2.5': join(repoRoot, '.cache/cosign/trixie/usr/bin/cosign'),
  '3.1': join(repoRoot, '.cache/cosign/sid/usr/bin/cosign'),
} as const;
type Version = keyof typeof COSIGN;
const VERSIONS: readonly Version[] = ['2.5', '3.1'];

const dir = tempDir('signers');
const at = (name: string): string => join(dir, name);
const env = {
  ...process.env,
  COSIGN_PASSWORD: 'open sesame',
  PIN: '123456',
  SOFTHSM2_CONF: at('softhsm2.conf'),
};
const sealift = (args: string[], more: NodeJS.ProcessEnv = {}): Promise<RunResult> =>
  run(process.execPath, [join(repoRoot, 'src/cli/main.ts'), ...args], { cwd: dir, env: { ...env, ...more } });

async function signed(args: string[]): Promise<Record<string, unknown>> {
  const ran = await sealift([...args, '--json']);
  expect(ran.stderr).not.toContain('error');
  expect(ran.code).toBe(0);
  return JSON.parse(ran.stdout) as Record<string, unknown>;
}

/** Runs sealift on a terminal of its own (script(1)), and types once the question has appeared. */
async function typed(
  args: string[],
  question: string,
  answer: string,
): Promise<{ code: number | null; screen: string }> {
  const command = [process.execPath, join(repoRoot, 'src/cli/main.ts'), ...args].join(' ');
  const child = spawn('script', ['-qec', command, '/dev/null'], { cwd: dir, env });
  let screen = '';
  child.stdout.on('data', (chunk: Buffer) => {
    const before = screen.includes(question);
    screen += chunk.toString();
    // The tool switches the echo off after it has asked, and throws away what was typed before.
    if (!before && screen.includes(question)) setTimeout(() => child.stdin.write(answer), 300);
  });
  const code = await new Promise<number | null>((done) => child.once('close', done));
  return { code, screen };
}

const alice = person('alice');
let sample: Sample;
let bundle = '';
let count = 0;

beforeAll(async () => {
  sample = await sampleBundle();
  writeFileSync(at('SHA256SUMS'), sample.plan.sums);
  writeFileSync(at('changed'), Buffer.concat([sample.plan.sums, Buffer.from('\n')]));
  writeFileSync(at('pass'), 'open sesame\n');
  writeFileSync(at('alice.key'), alice.key.export({ type: 'pkcs8', format: 'pem' }));
  writeFileSync(at('alice.pub'), alice.publicPem);
});

beforeEach(async () => {
  bundle = at(`${count++}.sealift.tar`);
  copyFileSync(await sample.write([]), bundle);
});

const readme = readFileSync(join(repoRoot, 'README.md'), 'utf8');
const printed = (what: string): string =>
  new RegExp(`<!-- ${what} -->\\s*\`\`\`sh\\n([\\s\\S]*?)\`\`\``).exec(readme)![1]!;

/** Unpacks a bundle as an auditor does, and runs what README.md prints for it with this cosign and no network. */
async function audit(
  version: Version,
  what: string,
  given: Record<string, string>,
  change = '',
): Promise<RunResult> {
  const cwd = tempDir('audit');
  await runOk('tar', ['-xf', bundle], { cwd });
  appendFileSync(join(cwd, 'SHA256SUMS'), change);
  if (existsSync(at('root.json'))) copyFileSync(at('root.json'), join(cwd, 'trusted_root.json'));
  const PATH = `${dirname(COSIGN[version])}:${process.env['PATH']}`;
  return run('unshare', ['-rn', 'sh', '-euc', printed(what)], {
    cwd,
    env: { ...process.env, ...given, PATH },
  });
}

async function expectVerdict(version: Version, what: string, given: Record<string, string>): Promise<void> {
  const good = await audit(version, what, given);
  expect(good.stderr).toMatch(/^Verified OK$/m);
  expect(good.code).toBe(0);
  const bad = await audit(version, what, given, '\n');
  expect(bad.stderr).toContain(
    'could not verify message: invalid signature when validating ASN.1 encoded signature',
  );
  expect(bad.code).toBe(1);
}

const byKey = (version: Version, publicFile: string): Promise<void> =>
  expectVerdict(version, 'cosign key', { KEY: at(publicFile) });

const policyFor = (publicFile: string): ReturnType<typeof policyOf> =>
  policyOf([{ name: 'signer', key: alice.key, publicPem: readFileSync(at(publicFile), 'utf8') }]);

const signersOf = async (publicFile: string): Promise<string[]> =>
  (await verifyAll(bundle, policyFor(publicFile))).verdict.accepted.map((a) => a.signer);

describe.each(VERSIONS)('cosign %s', (version) => {
  const name = `cosign-${version}`;
  beforeAll(() =>
    runOk(COSIGN[version], ['generate-key-pair', '--output-key-prefix', name], { cwd: dir, env }),
  );

  it('makes a key that sealift signs with, and verifies what it signed', async () => {
    expect(readFileSync(at(`${name}.key`), 'utf8')).toMatch(
      /^-----BEGIN ENCRYPTED (SIGSTORE|COSIGN) PRIVATE KEY-----/,
    );
    const said = await signed(['sign', bundle, '--key', `${name}.key`, '--passphrase-file', 'pass']);
    const key = fingerprint(loadPublicKey(readFileSync(at(`${name}.pub`), 'utf8'), name));
    expect(said).toMatchObject({ slot: 0, signer: key, key });
    await byKey(version, `${name}.pub`);
    expect(await signersOf(`${name}.pub`)).toEqual(['signer']);
  });

  it('makes a key that a wrong passphrase does not open', async () => {
    writeFileSync(at('wrong'), 'close sesame\n');
    const ran = await sealift(['sign', bundle, '--key', `${name}.key`, '--passphrase-file', 'wrong']);
    expect(ran.code).toBe(2);
    expect(ran.stderr).toContain(`the passphrase does not open ${name}.key`);
  });

  it('signs SHA256SUMS with its key, and the result is attached and counts', async () => {
    const flags = {
      '2.5': ['--new-bundle-format', '--tlog-upload=false'],
      '3.1': ['--signing-config', 'no-services.json'],
    }[version];
    writeFileSync(
      at('no-services.json'),
      '{"mediaType":"application/vnd.dev.sigstore.signingconfig.v0.2+json","rekorTlogConfig":{},"tsaConfig":{}}',
    );
    const out = `${name}.sigstore.json`;
    await runOk(
      COSIGN[version],
      ['sign-blob', '--yes', '--key', `${name}.key`, '--bundle', out, ...flags, 'SHA256SUMS'],
      { cwd: dir, env },
    );
    const said = await signed(['sign', bundle, '--attach', out, '--public-key', `${name}.pub`]);
    expect(said).toMatchObject({ slot: 0, checked: true });
    expect(await signersOf(`${name}.pub`)).toEqual(['signer']);
    expect((await sealift(['sign', bundle, '--attach', out])).stderr).toContain('ALREADY_SIGNED');
  });
});

describe('openssl', () => {
  it.each([
    ['DER', ['dgst', '-sha256', '-sign', 'alice.key', '-out', 'sig', 'SHA256SUMS']],
    ['base64', ['base64', '-in', 'sig', '-out', 'sig.b64']],
  ])('signs SHA256SUMS, and %s is attached and counts', async (form, args) => {
    await runOk('openssl', args, { cwd: dir });
    const file = form === 'DER' ? 'sig' : 'sig.b64';
    expect((await sealift(['sign', bundle, '--attach', file])).stderr).toContain('add --public-key FILE');
    await signed(['sign', bundle, '--attach', file, '--public-key', 'alice.pub']);
    expect(await signersOf('alice.pub')).toEqual(['signer']);
  });

  it('signs something else, and that is not attached', async () => {
    await runOk('openssl', ['dgst', '-sha256', '-sign', 'alice.key', '-out', 'other.sig', 'changed'], {
      cwd: dir,
    });
    const before = readFileSync(bundle);
    const ran = await sealift(['sign', bundle, '--attach', 'other.sig', '--public-key', 'alice.pub']);
    expect(ran.code).toBe(11);
    expect(ran.stderr).toContain('other.sig is not a signature over this bundle by alice.pub');
    expect(readFileSync(bundle).equals(before)).toBe(true);
  });
});

describe('a key on a token', () => {
  const MODULE = ['--module', '/usr/lib/softhsm/libsofthsm2.so'];
  const TOKEN = [...MODULE, '--token-label', 'release', '--login'];
  const pkcs11 = (args: string[]): Promise<string> => runOk('pkcs11-tool', args, { cwd: dir, env });
  const document = (pin: string[]): string =>
    JSON.stringify({
      apiVersion: 'sealift.dev/v1',
      kind: 'Signer',
      exec: {
        command: ['pkcs11-tool', ...TOKEN, ...pin].concat(
          '--sign --mechanism ECDSA --signature-format openssl --label release-key -i {input} -o {output}'.split(
            ' ',
          ),
        ),
        publicKey: 'token.pub',
        input: 'digest',
      },
    });

  beforeAll(async () => {
    writeFileSync(
      at('softhsm2.conf'),
      `directories.tokendir = ${tempDir('tokens')}\nobjectstore.backend = file\n`,
    );
    const init = ['--init-token', '--free', '--label', 'release', '--so-pin', '12345678', '--pin', '123456'];
    await runOk('softhsm2-util', init, { env });
    const make = [
      '--keypairgen',
      '--key-type',
      'EC:prime256v1',
      '--label',
      'release-key',
      '--usage-sign',
      '--sensitive',
    ];
    await pkcs11([...TOKEN, '--pin', 'env:PIN', ...make]);
    await pkcs11([
      ...MODULE,
      '--token-label',
      'release',
      '--read-object',
      '--type',
      'pubkey',
      '--label',
      'release-key',
      '-o',
      'token.der',
    ]);
    await runOk('openssl', ['pkey', '-pubin', '-inform', 'DER', '-in', 'token.der', '-out', 'token.pub'], {
      cwd: dir,
    });
    writeFileSync(at('token.yaml'), document(['--pin', 'env:PIN']));
    writeFileSync(at('ask.yaml'), document([]));
  });

  it('cannot be taken out', async () => {
    const objects = await pkcs11([...TOKEN, '--pin', 'env:PIN', '--list-objects', '--type', 'privkey']);
    expect(objects).toMatch(/Access: +sensitive, always sensitive, never extractable/);
  });

  it('signs in place, and counts; cosign and openssl agree', async () => {
    const said = await signed(['sign', bundle, '--signer', 'token.yaml']);
    expect(said).toMatchObject({
      slot: 0,
      signer: fingerprint(loadPublicKey(readFileSync(at('token.pub'), 'utf8'), 'p')),
    });
    expect(await signersOf('token.pub')).toEqual(['signer']);
    for (const version of VERSIONS) await byKey(version, 'token.pub');
    const given = { ...process.env, BUNDLE: bundle, KEY: at('token.pub') };
    const openssl = await run('sh', ['-euc', printed('audit')], { cwd: tempDir('openssl'), env: given });
    expect(openssl.stdout).toMatch(/^Verified OK\n/);
    expect(openssl.code).toBe(0);
    expect((await sealift(['sign', bundle, '--signer', 'token.yaml'])).stderr).toContain('ALREADY_SIGNED');
  });

  it('says what pkcs11-tool said when the PIN is wrong, or the form', async () => {
    const before = readFileSync(bundle);
    const wrong = await sealift(['sign', bundle, '--signer', 'token.yaml'], { PIN: '654321' });
    expect(wrong.code).toBe(1);
    expect(wrong.stderr).toContain('pkcs11-tool ended with exit status 1');
    expect(wrong.stderr).toContain('CKR_PIN_INCORRECT (0xa0)');
    writeFileSync(at('raw.yaml'), document(['--pin', 'env:PIN']).replace('"openssl"', '"rs"'));
    const raw = await sealift(['sign', bundle, '--signer', 'raw.yaml']);
    expect(raw.stderr).toContain('a raw signature (r and s, 64 bytes) instead of DER');
    expect(readFileSync(bundle).equals(before)).toBe(true);
  });

  it('asks for its PIN at the terminal', async () => {
    const { code, screen } = await typed(
      ['sign', bundle, '--signer', 'ask.yaml'],
      'Please enter User PIN:',
      '123456\n',
    );
    expect(screen).toContain('sealift: asking pkcs11-tool to sign (it may want a PIN or a touch)');
    expect(screen).not.toContain('123456');
    expect(code).toBe(0);
    expect(await signersOf('token.pub')).toEqual(['signer']);
  });
});

describe('keyless', () => {
  const SUBJECT = 'https://ci.example.org/release/build@refs/heads/main';
  const ISSUER = 'https://ci.example.org';
  const WHO = { IDENTITY: SUBJECT, ISSUER };
  let sigstore: SigstoreInstance;

  beforeAll(async () => {
    sigstore = await startSigstore();
    const { url } = sigstore;
    writeFileSync(at('root.json'), sigstore.trustedRoot);
    writeFileSync(at('token'), sigstore.token(SUBJECT, ISSUER));
    const keyless = { fulcio: url, rekor: url, tsa: url, tokenFile: 'token', trustedRoot: 'root.json' };
    writeFileSync(at('ci.yaml'), JSON.stringify({ apiVersion: 'sealift.dev/v1', kind: 'Signer', keyless }));
  });
  afterAll(() => sigstore.close());

  it('signs in place; both versions of cosign verify it offline, with the log and with the timestamp', async () => {
    const said = await signed(['sign', bundle, '--signer', 'ci.yaml']);
    expect(said).toMatchObject({ slot: 0, signer: `${SUBJECT} (${ISSUER})` });
    expect(said).not.toHaveProperty('key');
    for (const version of VERSIONS) {
      await expectVerdict(version, 'cosign keyless', WHO);
      const other = await audit(version, 'cosign keyless', { ...WHO, IDENTITY: SUBJECT.slice(0, -1) });
      expect(other.stderr).toContain('no matching CertificateIdentity found');
    }
  });

  it('signs once for one identity, though no two signatures have the same certificate', async () => {
    await signed(['sign', bundle, '--signer', 'ci.yaml']);
    const again = await sealift(['sign', bundle, '--signer', 'ci.yaml']);
    expect(again.code).toBe(2);
    expect(again.stderr).toContain('slot 0 of');
    expect(again.stderr).toContain(`signer  ${SUBJECT} (${ISSUER})`);
  });

  it('takes the token from an open descriptor', async () => {
    const document = readFileSync(at('ci.yaml'), 'utf8').replace('"token"', '"/dev/fd/3"');
    writeFileSync(at('fd.yaml'), document);
    const main = `${process.execPath} ${join(repoRoot, 'src/cli/main.ts')}`;
    await runOk('sh', ['-c', `${main} sign ${bundle} --signer fd.yaml 3<token`], { cwd: dir, env });
  });

  it('says which service is down, and never the token', async () => {
    const document = readFileSync(at('ci.yaml'), 'utf8').replace(
      `"rekor":"${sigstore.url}"`,
      '"rekor":"http://127.0.0.1:9"',
    );
    writeFileSync(at('down.yaml'), document);
    const ran = await sealift(['sign', bundle, '--signer', 'down.yaml', '--debug']);
    expect(ran.code).toBe(1);
    expect(ran.stderr).toContain(
      'Rekor at http://127.0.0.1:9 gave no usable answer: 127.0.0.1:9/api/v1/log/entries: connect ECONNREFUSED',
    );
    expect(ran.stderr + ran.stdout).not.toContain(readFileSync(at('token'), 'utf8'));
  });

  it.each(VERSIONS)('as cosign %s signs it is attached as it is', async (version) => {
    const { url } = sigstore;
    const service = [
      { url, majorApiVersion: 1, operator: 'test', validFor: { start: '2020-01-01T00:00:00Z' } },
    ];
    const mediaType = 'application/vnd.dev.sigstore.signingconfig.v0.2+json';
    const any = { selector: 'ANY' };
    const config = {
      mediaType,
      caUrls: service,
      oidcUrls: service,
      rekorTlogUrls: service,
      rekorTlogConfig: any,
      tsaConfig: {},
    };
    writeFileSync(at('config.json'), JSON.stringify(config));
    const flags = {
      '2.5': ['--fulcio-url', url, '--rekor-url', url, '--new-bundle-format', '--insecure-skip-verify'],
      '3.1': ['--signing-config', 'config.json', '--trusted-root', 'root.json'],
    }[version];
    const args = [
      'sign-blob',
      '--yes',
      '--identity-token',
      'token',
      '--bundle',
      'ci.sigstore.json',
      ...flags,
      'SHA256SUMS',
    ];
    await runOk(COSIGN[version], args, { cwd: dir, env });
    const said = await signed(['sign', bundle, '--attach', 'ci.sigstore.json']);
    expect(said).toMatchObject({ signer: `${SUBJECT} (${ISSUER})`, checked: true });
  });
});

describe('signing in place', () => {
  const GIB = 1024 ** 3;

  /** Bytes that system calls on the bundle moved; one trace a thread, so that no line is cut in two. */
  async function moved(): Promise<{ read: number; written: number }> {
    const traces = tempDir('trace');
    const calls = 'trace=read,pread64,readv,preadv,write,pwrite64,writev,pwritev';
    const strace = ['-ff', '-y', '-s', '0', '-e', calls, '-o', join(traces, 't'), process.execPath];
    const sign = [join(repoRoot, 'src/cli/main.ts'), 'sign', bundle, '--key', 'alice.key'];
    await runOk('strace', [...strace, ...sign], { cwd: dir, env });
    const total = { read: 0, written: 0 };
    for (const file of readdirSync(traces)) {
      for (const line of readFileSync(join(traces, file), 'latin1').split('\n')) {
        const call = /^p?(read|write)\w*\(\d+<([^>]*)>.* = (\d+)$/.exec(line);
        if (call?.[2] === bundle) total[call[1] === 'read' ? 'read' : 'written'] += Number(call[3]);
      }
    }
    return total;
  }

  it('writes 16 KiB and reads head and documents, of 9 GiB as of 100 kB', async () => {
    const small = await moved();
    expect(small.written).toBe(16_384);
    // Head and slots are read again before the write, since somebody may have taken minutes to sign.
    const documents = sample.plan.sums.length + 9 * 512 + 8 * 16_384;
    expect(small.read).toBeGreaterThan(documents);
    bundle = at('large.sealift.tar');
    copyFileSync(await sample.write([]), bundle);
    truncateSync(bundle, 9 * GIB);
    const large = await moved();
    expect(large).toEqual(small);
  });

  it('takes the first volume, also one that ends inside the documents', async () => {
    const whole = readFileSync(bundle);
    const head = whole.indexOf('bundle.json\0');
    for (const [size, named] of [
      [whole.length - 10_000, true],
      [head + 600, false],
      [head, false],
    ] as const) {
      const volume = `${bundle}.001`;
      writeFileSync(volume, whole.subarray(0, size));
      const said = await signed(['sign', volume, '--key', 'alice.key']);
      expect(said).toMatchObject({ slot: 0, digest: sample.plan.digest });
      expect('name' in said).toBe(named);
      // Joined, it is the signed bundle.
      writeFileSync(bundle, whole.subarray(size));
      const joined = Buffer.concat([readFileSync(volume), readFileSync(bundle)]);
      writeFileSync(bundle, joined);
      expect(await signersOf('alice.pub')).toEqual(['signer']);
    }
  });

  it('does not take a first volume that ends before the last slot, nor a whole bundle that was cut off', async () => {
    const whole = readFileSync(bundle);
    const head = whole.indexOf('bundle.json\0');
    writeFileSync(`${bundle}.001`, whole.subarray(0, head - 1));
    expect((await sealift(['sign', `${bundle}.001`, '--key', 'alice.key'])).code).toBe(13);
    truncateSync(bundle, head + 600);
    const ran = await sealift(['sign', bundle, '--key', 'alice.key']);
    expect(ran.code).toBe(13);
  });
});
