// SPDX-License-Identifier: Apache-2.0
/** The audit that README.md prints, run as it is printed there. */
import { X509Certificate } from 'node:crypto';
import { readFileSync, renameSync, symlinkSync, writeFileSync } from 'node:fs';
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

  // Each of these left every other command content: tar takes the last member of a name, sha256sum follows links.
  it('fails when a second SHA256SUMS or a second slot lies behind the first', async () => {
    for (const name of ['SHA256SUMS', 'signatures/0.sigstore.json']) {
      const dir = tempDir('twice');
      await run('tar', ['-xf', await sample.write([alice])], { cwd: dir });
      writeFileSync(join(dir, 'b.tar'), good);
      await run('tar', ['--append', '-f', 'b.tar', name], { cwd: dir });
      expect((await audit(readFileSync(join(dir, 'b.tar')))).code, name).not.toBe(0);
    }
  });

  it('fails when a member is a link to the same content elsewhere', async () => {
    const dir = tempDir('link');
    await run('tar', ['-xf', await sample.write([alice])], { cwd: dir });
    const members = (await run('tar', ['-tf', await sample.write([alice])])).stdout.trim().split('\n');
    renameSync(join(dir, 'bundle.json'), join(dir, 'elsewhere'));
    symlinkSync(join(dir, 'elsewhere'), join(dir, 'bundle.json'));
    await run('tar', ['--format=ustar', '-cf', 'b.tar', ...members], { cwd: dir });
    expect((await audit(readFileSync(join(dir, 'b.tar')))).code).not.toBe(0);
  });

  it('passes on a signature that is laid out with tabs, as sealift takes it', async () => {
    const bytes = Buffer.from(good);
    const at = bytes.indexOf('{"mediaType"');
    const json = bytes
      .subarray(at, at + 16_384)
      .toString()
      .trimEnd();
    const laidOut = JSON.stringify(JSON.parse(json), null, '\t').replaceAll('": "', '"\t:\t"');
    bytes.fill(' ', at, at + 16_384).write(laidOut, at);
    expect(await audit(bytes)).toMatchObject({ code: 0, stderr: '' });
  });
});

/** cosign's own half of this is in signers.test.ts. */
describe('a signature by an identity, with the commands of the README', async () => {
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
  const CA = join(tempDir('root'), 'ca.pem');
  const root = JSON.parse(sigstore.trustedRoot) as TrustedRootText;
  const der = Buffer.from(root.certificateAuthorities[0]!.certChain.certificates[0]!.rawBytes, 'base64');
  writeFileSync(CA, new X509Certificate(der).toString());

  it('is accepted by openssl, and refused after a change', async () => {
    const verify = async (bytes: Buffer): Promise<RunResult> => {
      const cwd = tempDir('openssl');
      writeFileSync(join(cwd, 'b.tar'), bytes);
      await run('tar', ['-xf', 'b.tar'], { cwd });
      const env = { ...process.env, CA };
      return run('unshare', ['-rn', 'sh', '-euc', printed('openssl identity')], { cwd, env });
    };
    const { code, stdout } = await verify(bundle);
    expect([code, stdout]).toEqual([0, expect.stringMatching(/^Verified OK$/m)]);
    expect(stdout).toContain(`URI:${SUBJECT}`);
    expect((await verify(changed)).code).not.toBe(0);
  });
});

interface TrustedRootText {
  certificateAuthorities: { certChain: { certificates: { rawBytes: string }[] } }[];
}
