// SPDX-License-Identifier: Apache-2.0
/** The host's key, the receipt as a verification summary, and the signature on it; test/e2e/receipt has cosign. */
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { sign } from 'node:crypto';
import { beforeEach, describe, expect, it } from 'vitest';
import { attest, isAttestedBy } from '../../src/install/attest.ts';
import { Home } from '../../src/install/home.ts';
import { makeHostKey, readHostKey, readHostPublicKey, type HostKey } from '../../src/install/host-key.ts';
import { readReceipt, receiptSignature, removeReceipt, writeReceipt } from '../../src/install/receipt.ts';
import { undoCurrent } from '../../src/install/steps/finish.ts';
import { summaryOf, type FullReceipt } from '../../src/install/vsa.ts';
import { canonicalJson } from '../../src/json.ts';
import type { Digest } from '../../src/store/digest.ts';
import { tempDir } from '../support/workspace.ts';

let home: Home;
let key: HostKey;
let receipt: FullReceipt;
const digest = (char: string): Digest => `sha256:${char.repeat(64)}`;

beforeEach(async () => {
  home = new Home(tempDir('attest'));
  await makeHostKey(home);
  key = (await readHostKey(home))!;
  receipt = receiptOf(key.fingerprint);
  mkdirSync(home.releaseFolder(receipt.release), { recursive: true });
});

function receiptOf(host: string): FullReceipt {
  return {
    schema: 'sealift/receipt/v1',
    bundle: { name: 'demo', version: '1.0.0', digest: digest('a'), created: '2026-11-23T10:00:00Z' },
    release: 'demo-1.0.0',
    signatures: {
      threshold: 1,
      policyVersion: 3,
      signers: [
        { slot: 0, signer: 'alice', fingerprint: digest('b') },
        {
          slot: 1,
          signer: 'ci',
          identity: { subject: 'https://ci.example/x', issuer: 'https://issuer.example' },
          signedAt: '2026-11-23T10:00:00.000Z',
        },
      ],
    },
    policy: { version: 3, digest: digest('c') },
    time: { clock: '2020-01-01T00:00:00.000Z', judged: '2026-11-24T10:00:00.000Z' },
    overrides: [{ check: 'version', refused: 'demo 1.0.0 is older than 1.1.0', reason: 'ticket 311' }],
    provenance: { digest: digest('d'), describesBuild: true },
    host: { key: host },
    engine: { version: '28', apiVersion: '1.41', platform: 'linux/amd64', store: 'classic' },
    images: [],
    models: [],
    services: [],
    smoke: [],
    startedAt: '2026-11-24T10:00:00.000Z',
    finishedAt: '2026-11-24T10:01:00.000Z',
    steps: [],
  };
}

describe("the host's key", () => {
  it('is for its owner alone, its public half for everybody, and both are kept', async () => {
    const files = [home.hostKeyFile, home.hostPublicFile];
    expect(files.map((file) => statSync(file).mode & 0o777)).toEqual([0o600, 0o644]);
    expect(statSync(home.path('secrets')).mode & 0o777).toBe(0o700);
    const before = files.map((file) => readFileSync(file, 'utf8'));
    expect(before[0]).toMatch(/^-----BEGIN PRIVATE KEY-----/);
    expect(await makeHostKey(home)).toEqual({ fingerprint: key.fingerprint, made: false });
    expect(files.map((file) => readFileSync(file, 'utf8'))).toEqual(before);
  });

  it('gets its public half back when that was lost, and keeps the one of another key', async () => {
    rmSync(home.hostPublicFile);
    expect(await makeHostKey(home)).toMatchObject({ made: false });
    expect(await readHostPublicKey(home)).toBeDefined();
    renameSync(home.hostKeyFile, `${home.hostKeyFile}.old`);
    const before = readFileSync(home.hostPublicFile, 'utf8');
    await expect(makeHostKey(home)).rejects.toMatchObject({ code: 'FILE_EXISTS' });
    expect([existsSync(home.hostKeyFile), readFileSync(home.hostPublicFile, 'utf8')]).toEqual([
      false,
      before,
    ]);
  });

  it('is refused when others may read it, or when it is none', async () => {
    chmodSync(home.hostKeyFile, 0o640);
    await expect(readHostKey(home)).rejects.toMatchObject({
      code: 'KEY_INVALID',
      message: expect.stringContaining('by others') as string,
    });
    chmodSync(home.hostKeyFile, 0o600);
    for (const text of ['', 'rubbish', readFileSync(home.hostPublicFile, 'utf8')]) {
      writeFileSync(home.hostKeyFile, text);
      await expect(readHostKey(home)).rejects.toMatchObject({ code: 'KEY_INVALID' });
      await expect(makeHostKey(home)).rejects.toMatchObject({ code: 'KEY_INVALID' });
      expect(readFileSync(home.hostKeyFile, 'utf8')).toBe(text);
    }
  });
});

describe('receipt.json', () => {
  it('is a verification summary that says what was verified, and no more', async () => {
    await writeReceipt(home, receipt, key);
    const text = readFileSync(home.receiptFile('demo-1.0.0'), 'utf8');
    const statement = JSON.parse(text) as { predicate: Record<string, unknown> };
    expect(statement).toMatchObject({
      _type: 'https://in-toto.io/Statement/v1',
      subject: [{ name: 'SHA256SUMS', digest: { sha256: 'a'.repeat(64) } }],
      predicateType: 'https://slsa.dev/verification_summary/v1',
    });
    const { sealift_receipt: inner, ...summary } = statement.predicate;
    expect(summary).toEqual({
      verifier: { id: 'https://sealift.dev/verifier/v1', version: { sealift: expect.any(String) as string } },
      timeVerified: '2026-11-24T10:00:00.000Z',
      resourceUri: `pkg:generic/demo@1.0.0?checksum=sha256:${'a'.repeat(64)}`,
      policy: { uri: 'file:trust.yaml', digest: { sha256: 'c'.repeat(64) } },
      inputAttestations: [{ uri: 'file:provenance.json', digest: { sha256: 'd'.repeat(64) } }],
      verificationResult: 'PASSED',
      verifiedLevels: ['SLSA_BUILD_LEVEL_1'],
      slsaVersion: '1.0',
    });
    expect(inner).toEqual(receipt);
    expect(await readReceipt(home, 'demo-1.0.0')).toEqual(receipt);
    expect(text.endsWith('}\n')).toBe(true);
  });

  it('claims no level for a provenance that describes no build', () => {
    const bare = { ...receipt, provenance: { ...receipt.provenance, describesBuild: false } };
    expect(summaryOf(bare).toString()).toContain('SLSA_BUILD_LEVEL_0');
  });

  it('of before summaries is read as it is', async () => {
    const { policy: _, time: __, overrides: ___, provenance: ____, host: _____, ...old } = receipt;
    writeFileSync(home.receiptFile('demo-1.0.0'), canonicalJson(old));
    const read = await readReceipt(home, 'demo-1.0.0');
    expect(read).toEqual(old);
    rmSync(home.hostPublicFile);
    expect(await receiptSignature(home, read!)).toEqual({ state: 'none' });
  });

  it.each([
    [
      'speaks of two bundles',
      (text: string) => text.replace('"a', '"b').replace(/"sha256": "a/, '"sha256": "b'),
    ],
    ['is of another kind', (text: string) => text.replace('verification_summary/v1', 'provenance/v1')],
    ['says that verification failed', (text: string) => text.replace('PASSED', 'FAILED')],
    ['has no receipt in it', (text: string) => text.replace('sealift_receipt', 'other')],
    ['is cut off', (text: string) => text.slice(0, -20)],
  ])('that %s is refused as damaged', async (_, damage) => {
    writeFileSync(home.receiptFile('demo-1.0.0'), damage(summaryOf(receipt).toString()));
    await expect(readReceipt(home, 'demo-1.0.0')).rejects.toMatchObject({ code: 'IO_ERROR' });
  });
});

describe('the signature on a receipt', () => {
  const stateOf = async (): Promise<string> => (await receiptSignature(home, receipt)).state;
  const signature = (): string => home.receiptSignatureFile('demo-1.0.0');
  const change = (file: string, from: string, to: string): void =>
    writeFileSync(file, readFileSync(file, 'utf8').replace(from, to));

  it('fits, and does not after a change of either file', async () => {
    await writeReceipt(home, receipt, key);
    expect(await receiptSignature(home, receipt)).toEqual({ state: 'signed', key: key.fingerprint });
    const good = readFileSync(home.receiptFile('demo-1.0.0'), 'utf8');
    change(home.receiptFile('demo-1.0.0'), 'ticket 311', 'ticket 312');
    expect(await stateOf()).toBe('wrong');
    writeFileSync(home.receiptFile('demo-1.0.0'), good);
    expect(await stateOf()).toBe('signed');
    for (const [from, to] of [
      ['"sig":"M', '"sig":"N'],
      ['in-toto+json', 'in-toto+jsen'],
      ['"signatures":[', '"signatures":[{"sig":"AAAA","keyid":""},'],
      ['v0.3', 'v0.2'],
      ['{', ''],
    ] as const) {
      const text = readFileSync(signature(), 'utf8');
      change(signature(), from, to);
      expect([from, await stateOf()]).toEqual([from, 'wrong']);
      writeFileSync(signature(), text);
    }
    rmSync(signature());
    expect(await stateOf()).toBe('missing');
  });

  it('by another key is not this one, and without host.pub nothing is claimed', async () => {
    await writeReceipt(home, receipt, key);
    const other = new Home(tempDir('other'));
    await makeHostKey(other);
    const text = attest(readFileSync(home.receiptFile('demo-1.0.0')), (await readHostKey(other))!);
    writeFileSync(signature(), text);
    expect(await stateOf()).toBe('wrong');
    rmSync(home.hostPublicFile);
    expect(await stateOf()).toBe('unchecked');
  });

  it('cannot be made unnecessary by taking the key out of the receipt, or by naming another', async () => {
    const { host: _, ...unnamed } = receipt;
    await writeReceipt(home, unnamed, undefined);
    expect(await receiptSignature(home, unnamed)).toEqual({ state: 'foreign' });
    const other = new Home(tempDir('other'));
    await makeHostKey(other);
    const forger = (await readHostKey(other))!;
    const forged = { ...receipt, host: { key: forger.fingerprint } };
    await writeReceipt(home, forged, forger);
    expect(await receiptSignature(home, forged)).toEqual({ state: 'foreign', key: forger.fingerprint });
  });

  it('is what DSSE asks for: over type and payload, not over the payload alone', () => {
    const statement = summaryOf(receipt);
    const bundle = JSON.parse(attest(statement, key)) as {
      dsseEnvelope: { signatures: { sig: string; keyid?: string }[] };
    };
    expect(bundle.dsseEnvelope.signatures[0]!.keyid ?? '').toBe('');
    bundle.dsseEnvelope.signatures[0]!.sig = sign('sha256', statement, key.privateKey).toString('base64');
    expect(isAttestedBy(key.publicKey, statement, Buffer.from(JSON.stringify(bundle)))).toBe(false);
  });

  it('of an earlier receipt does not stay beside one that is not signed', async () => {
    await writeReceipt(home, receipt, key);
    const { host: _, ...unsigned } = receipt;
    await writeReceipt(home, unsigned, undefined);
    expect(existsSync(signature())).toBe(false);
  });

  it('goes with its receipt, and one that does not fit goes at an undo', async () => {
    const undo = { kind: 'current', name: 'demo', made: 'demo-1.0.0', hadReceipt: true } as const;
    await writeReceipt(home, receipt, key);
    await undoCurrent(undo, home);
    expect(await stateOf()).toBe('signed');
    writeFileSync(home.receiptFile('demo-1.0.0'), summaryOf({ ...receipt, startedAt: receipt.finishedAt }));
    await undoCurrent(undo, home); // killed between the two files of a second install
    expect([existsSync(signature()), await stateOf()]).toEqual([false, 'missing']);
    await writeReceipt(home, receipt, key);
    await undoCurrent({ ...undo, hadReceipt: false }, home);
    expect(existsSync(home.releaseFolder('demo-1.0.0'))).toBe(false);
    await removeReceipt(home, 'demo-1.0.0'); // and again
  });
});
