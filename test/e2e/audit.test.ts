// SPDX-License-Identifier: Apache-2.0
/** The audit that README.md prints, run as it is printed there. */
import { X509Certificate } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { writeBundle } from '../../src/bundle/write.ts';
import { signedAs } from '../support/certified.ts';
import { person, sampleBundle } from '../support/sample.ts';
import { startSigstore } from '../support/sigstore.ts';
import { repoRoot, run, tempDir, type RunResult } from '../support/workspace.ts';

const readme = readFileSync(join(repoRoot, 'README.md'), 'utf8');
/** The commands that stand in the README under a mark of this name. */
const printed = (mark: string): string =>
  new RegExp(`<!-- ${mark} -->\\s*\`\`\`sh\\n([\\s\\S]*?)\`\`\``).exec(readme)![1]!;
const alice = person('alice');
const sample = await sampleBundle();
const good = readFileSync(await sample.write([alice]));

function audit(bundle: Buffer, publicPem = alice.publicPem): Promise<RunResult> {
  const cwd = tempDir('audit');
  writeFileSync(join(cwd, 'b.tar'), bundle);
  writeFileSync(join(cwd, 'k.pub'), publicPem);
  const env = { ...process.env, BUNDLE: join(cwd, 'b.tar'), KEY: join(cwd, 'k.pub') };
  return run('sh', ['-euc', printed('audit')], { cwd, env });
}

/** The bundle with one bit changed at the start of the last occurrence of `text`. */
function flipped(text: string): Buffer {
  const bytes = Buffer.from(good);
  bytes[good.lastIndexOf(text)]! ^= 1;
  return bytes;
}

describe('the audit of the README', () => {
  it('passes on a good bundle', async () => {
    const result = await audit(good);
    expect(result.stderr).toBe('');
    expect(result.code).toBe(0);
    expect(result.stdout).toMatch(/^Verified OK\n/);
    expect(result.stdout.match(/: OK$/gm)?.length).toBe(sample.plan.blobs.length + 5);
  });

  it('fails under another key', async () => {
    expect((await audit(good, person('mallory').publicPem)).code).not.toBe(0);
  });

  it.each([
    ['the sums', '  bundle.json\n'],
    ['the inventory', '"kind": "Inventory"'],
    ['the weights', 'wwwwwwww'],
    ['a document', '"imageLayoutVersion"'],
  ])('fails when a bit of %s is changed', async (_, text) => {
    expect((await audit(flipped(text))).code).not.toBe(0);
  });

  it('fails when the archive holds more than is listed', async () => {
    const path = join(tempDir('more'), 'b.tar');
    writeFileSync(path, good);
    writeFileSync(join(path, '../evil.sh'), 'x');
    await run('tar', ['--append', '-f', path, '-C', join(path, '..'), 'evil.sh']);
    expect((await audit(readFileSync(path))).code).not.toBe(0);
  });
});

const COSIGN = { 2: 'trixie', 3: 'sid' } as const;
const cosignFolder = (version: 2 | 3): string => join(repoRoot, '.cache/cosign', COSIGN[version], 'usr/bin');

/** Runs printed commands over the unpacked bundle, where there is no network, with this cosign first in PATH. */
async function offline(
  commands: string,
  bundle: Buffer,
  version: 2 | 3,
  env: Record<string, string>,
): Promise<RunResult> {
  const cwd = tempDir('cosign');
  writeFileSync(join(cwd, 'b.tar'), bundle);
  await run('tar', ['-xf', 'b.tar'], { cwd });
  const path = `${cosignFolder(version)}:${process.env['PATH']}`;
  return run('unshare', ['--net', 'sh', '-euc', commands], {
    cwd,
    env: { ...process.env, ...env, PATH: path, HOME: cwd },
  });
}

describe('cosign, with the commands of the README', () => {
  const keyFile = join(tempDir('key'), 'k.pub');
  writeFileSync(keyFile, alice.publicPem);

  it.each([3, 2] as const)('%d accepts a signature by a key, and none after a change', async (version) => {
    const accepted = await offline(printed(`cosign ${version}`), good, version, { KEY: keyFile });
    expect([accepted.code, accepted.stderr]).toEqual([0, expect.stringMatching(/^Verified OK$/m)]);
    const refused = await offline(printed(`cosign ${version}`), flipped('  bundle.json\n'), version, {
      KEY: keyFile,
    });
    expect([refused.code === 0, refused.stderr]).toEqual([false, expect.not.stringContaining('Verified OK')]);
  });
});

describe('a signature by an identity', async () => {
  const sigstore = await startSigstore();
  const SUBJECT = 'https://ci.example/build.yml@refs/heads/main';
  const ISSUER = 'https://issuer.example';
  const signature = await signedAs(sigstore, sample.plan.sums, { subject: SUBJECT, issuer: ISSUER });
  await sigstore.close();
  const path = join(tempDir('identity'), 'b.tar');
  await writeBundle(path, sample.plan, [signature], sample.store);
  const bundle = readFileSync(path);
  const changed = Buffer.from(bundle);
  changed[changed.indexOf('  bundle.json\n')]! ^= 1;
  const ROOT = join(tempDir('root'), 'trusted_root.json');
  writeFileSync(ROOT, sigstore.trustedRoot);
  const CA = join(tempDir('root'), 'ca.pem');
  const root = JSON.parse(sigstore.trustedRoot) as TrustedRootText;
  const der = Buffer.from(root.certificateAuthorities[0]!.certChain.certificates[0]!.rawBytes, 'base64');
  writeFileSync(CA, new X509Certificate(der).toString());

  it.each([3, 2] as const)(
    'is accepted by cosign %d, and refused for others and after a change',
    async (version) => {
      const verify = (bytes: Buffer, subject = SUBJECT): Promise<RunResult> =>
        offline(printed('cosign identity'), bytes, version, { ROOT, SUBJECT: subject, ISSUER });
      expect((await verify(bundle)).stderr).toMatch(/^Verified OK$/m);
      expect((await verify(changed)).code).not.toBe(0);
      expect((await verify(bundle, `${SUBJECT}2`)).code).not.toBe(0);
    },
  );

  it('is accepted by openssl, and refused after a change', async () => {
    const verify = (bytes: Buffer): Promise<RunResult> =>
      offline(printed('openssl identity'), bytes, 3, { CA });
    const { code, stdout } = await verify(bundle);
    expect([code, stdout]).toEqual([0, expect.stringMatching(/^Verified OK$/m)]);
    expect(stdout).toContain(`URI:${SUBJECT}`);
    expect((await verify(changed)).code).not.toBe(0);
  });
});

interface TrustedRootText {
  certificateAuthorities: { certChain: { certificates: { rawBytes: string }[] } }[];
}
