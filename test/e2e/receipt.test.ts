// SPDX-License-Identifier: Apache-2.0
/** An auditor outside, with nothing but host.pub, a signed receipt and SHA256SUMS: as the README prints it. */
import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import { makeHostKey } from '../../src/install/host-key.ts';
import { bundle, home, me, useEngine } from '../install/image-rig.ts';
import { repoRoot, run, runOk, tempDir, type RunResult } from '../support/workspace.ts';

useEngine();

const readme = readFileSync(join(repoRoot, 'README.md'), 'utf8');
const OPENSSL = /<!-- audit of a receipt -->\s*```sh\n([\s\S]*?)```/.exec(readme)![1]!;
const COSIGN = /^cosign verify-blob-attestation [\s\S]*?SHA256SUMS$/m.exec(readme)![0];
const EMPTY_ROOT = /`(\{"mediaType":"application\/vnd\.dev\.sigstore\.trustedroot[^`]*\})`/.exec(readme)![1]!;

/** What reached the auditor; all that they have. */
let dir = '';
const at = (name: string): string => join(dir, name);

beforeEach(async () => {
  await makeHostKey(home);
  await me.install(bundle);
  dir = tempDir('auditor');
  cpSync(home.hostPublicFile, at('host.pub'));
  cpSync(home.receiptSignatureFile('demo-1.0.0'), at('receipt.sigstore.json'));
  writeFileSync(at('empty.json'), EMPTY_ROOT);
  await runOk('tar', ['-xf', bundle.path, '-C', dir, 'SHA256SUMS']);
});

/** Runs commands of the README where there is no network at all. */
function audit(script: string, bin = ''): Promise<RunResult> {
  const env = { ...process.env, HOST: 'host.pub', RECEIPT: 'receipt.sigstore.json', HOME: dir };
  const PATH = [bin, process.env['PATH']].filter(Boolean).join(':');
  return run('unshare', ['-n', 'sh', '-euc', script], { cwd: dir, env: { ...env, PATH } });
}

const cosignOf = (suite: string): string => join(repoRoot, '.cache/cosign', suite, 'usr/bin');
const WAYS = [
  ['openssl', () => audit(OPENSSL)],
  ['cosign 3', () => audit(COSIGN, cosignOf('sid'))],
  [
    'cosign 2.5',
    () =>
      audit(
        COSIGN.replace(' --key', ' --new-bundle-format --trusted-root empty.json --key'),
        cosignOf('trixie'),
      ),
  ],
] as const;

describe.each(WAYS)('%s', (_, check) => {
  it('accepts the receipt', async () => {
    const result = await check();
    expect(result, result.stderr).toMatchObject({ code: 0 });
    expect(result.stdout + result.stderr).toContain('Verified OK');
  });

  it('refuses it when a bit of what it says is changed', async () => {
    const json = JSON.parse(readFileSync(at('receipt.sigstore.json'), 'utf8')) as {
      dsseEnvelope: { payload: string };
    };
    const receipt = Buffer.from(json.dsseEnvelope.payload, 'base64').toString();
    json.dsseEnvelope.payload = Buffer.from(receipt.replace('"threshold": 1', '"threshold": 2')).toString(
      'base64',
    );
    writeFileSync(at('receipt.sigstore.json'), `${JSON.stringify(json)}\n`);
    expect((await check()).code).not.toBe(0);
  });

  it('refuses it under the key of another host', async () => {
    await runOk('openssl', ['ecparam', '-name', 'prime256v1', '-genkey', '-noout', '-out', at('other.key')]);
    await runOk('openssl', ['pkey', '-in', at('other.key'), '-pubout', '-out', at('host.pub')]);
    expect((await check()).code).not.toBe(0);
  });

  it('refuses it for another bundle', async () => {
    writeFileSync(at('SHA256SUMS'), `${readFileSync(at('SHA256SUMS'), 'utf8')}\n`);
    expect((await check()).code).not.toBe(0);
  });
});

it('openssl prints the receipt as the host has it, byte for byte', async () => {
  const { stdout } = await audit(OPENSSL);
  expect(stdout).toBe(`Verified OK\n${readFileSync(home.receiptFile('demo-1.0.0'), 'utf8')}`);
});
