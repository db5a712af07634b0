// SPDX-License-Identifier: Apache-2.0
import { createPublicKey, generateKeyPairSync, sign } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { BUNDLE_TYPE, IN_TOTO, preAuthEncoding } from '../../src/build/upstream/envelope.ts';
import { cosign } from '../support/cosign.ts';
import { tempDir, type RunResult } from '../support/workspace.ts';
import { composeInventory } from '../../src/build/build.ts';
import { resolveLock, type Lock } from '../../src/build/lock.ts';
import { manifestDigest } from '../../src/build/manifest.ts';
import { provenanceOf } from '../../src/build/provenance.ts';
import { checkProvenance } from '../../src/bundle/provenance.ts';
import { canonicalJson } from '../../src/json.ts';
import { digestOf, hexOf, type Digest } from '../../src/store/digest.ts';
import { VERSION } from '../../src/version.ts';
import { bench, COMMIT, fakeWorld, manifestOf, NOW } from './fakes.ts';

interface Statement {
  subject: unknown;
  predicate: {
    buildDefinition: {
      buildType: string;
      internalParameters: unknown;
      externalParameters: Record<string, unknown>;
      resolvedDependencies: {
        name: string;
        uri?: string;
        digest?: unknown;
        annotations?: unknown;
        mediaType?: string;
      }[];
    };
    runDetails: unknown;
  };
}

const WITH_FILTERS = (text: string): string =>
  text.replace('@main }', '@main, include: ["*"], exclude: ["*.bin"] }');

async function locked(
  change: (lock: Lock) => void = () => {},
): Promise<{ bytes: Buffer; statement: Statement; lock: Lock }> {
  const manifest = manifestOf(WITH_FILTERS);
  const lock = await resolveLock(manifest, (await bench()).context, undefined, NOW, fakeWorld().sources);
  change(lock);
  const bytes = provenanceOf(composeInventory(manifest, lock), manifest, lock);
  expect(lock.manifest).toBe(manifestDigest(manifest));
  return { bytes, statement: JSON.parse(bytes.toString()) as Statement, lock };
}

const dependency = ({ statement }: { statement: Statement }, name: string): unknown =>
  statement.predicate.buildDefinition.resolvedDependencies.find((resource) => resource.name === name);

test('the statement speaks of bundle.json, and the reader accepts it for that one only', async () => {
  const { bytes, statement, lock } = await locked();
  const manifest = manifestOf(WITH_FILTERS);
  const inventory = canonicalJson(composeInventory(manifest, lock));
  expect(statement.subject).toEqual([
    { name: 'bundle.json', digest: { sha256: hexOf(digestOf(inventory)) } },
  ]);
  checkProvenance(bytes, inventory);
  expect(() => checkProvenance(bytes, Buffer.from('{}'))).toThrow('another bundle.json');
});

test('builder, build type and parameters', async () => {
  const { statement, lock } = await locked();
  const { buildDefinition, runDetails } = statement.predicate;
  expect(statement).toMatchObject({
    _type: 'https://in-toto.io/Statement/v1',
    predicateType: 'https://slsa.dev/provenance/v1',
  });
  expect(buildDefinition.buildType).toBe('https://sealift.dev/build/v1');
  expect(buildDefinition.externalParameters).toEqual({
    manifest: { digest: { sha256: hexOf(lock.manifest) } },
    lock: { digest: { sha256: hexOf(digestOf(canonicalJson(lock))) } },
    platform: 'linux/amd64',
    filters: { tiny: { include: ['*'], exclude: ['*.bin'] } },
  });
  expect(buildDefinition.internalParameters).toEqual({
    format: 'sealift.dev/v1',
    created: '2026-11-23T10:00:00Z',
  });
  expect(runDetails).toEqual({
    builder: { id: 'https://sealift.dev/builder/v1', version: { sealift: VERSION } },
    metadata: { invocationId: digestOf(canonicalJson(lock)) },
    byproducts: [],
  });
});

test('manifest and lock are among what went in', async () => {
  const result = await locked();
  expect(dependency(result, 'manifest')).toMatchObject({ digest: { sha256: hexOf(result.lock.manifest) } });
  expect(dependency(result, 'lock')).toEqual({
    name: 'lock',
    digest: { sha256: hexOf(digestOf(canonicalJson(result.lock))) },
  });
});

test('verified signatures of makers stand beside what they vouch for, our own among what came out', async () => {
  const digest = (letter: string): Digest => `sha256:${letter.repeat(64)}`;
  const result = await locked((lock) => {
    const by = { identity: 'https://ci.example/build', issuer: 'https://issuer.example' };
    lock.images[0]!.signature = { kind: 'sigstore-bundle', over: digest('1'), by, anchor: digest('2') };
    lock.models[0]!.signature = { kind: 'oms', over: digest('3'), by: digest('4'), anchor: digest('5') };
    lock.models[0]!.oms = { key: 'AAAA', signature: 'BBBB' };
    lock.models[0]!.files.push({ path: 'model.sig', digest: digest('6'), size: 9 });
  });
  expect(dependency(result, 'images/engine')).toMatchObject({
    annotations: {
      signedBy: 'https://ci.example/build (https://issuer.example)',
      signatureKind: 'sigstore-bundle',
      signatureOver: digest('1'),
      signatureAnchor: digest('2'),
    },
  });
  expect(dependency(result, 'models/tiny')).toMatchObject({
    annotations: { signedBy: `key ${digest('4')}`, signatureKind: 'oms', license: 'apache-2.0' },
  });
  expect(result.statement.predicate.runDetails).toMatchObject({
    byproducts: [
      {
        name: 'models/tiny/model.sig',
        digest: { sha256: '6'.repeat(64) },
        annotations: { key: digestOf(Buffer.from('AAAA', 'base64')) },
      },
    ],
  });
});

test('cosign takes the statement for SLSA provenance v1, of bundle.json and of nothing else', async () => {
  const { bytes, lock } = await locked();
  const dir = tempDir('provenance');
  const subject = canonicalJson(composeInventory(manifestOf(WITH_FILTERS), lock));
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const pae = preAuthEncoding(IN_TOTO, bytes);
  const bundle = {
    mediaType: BUNDLE_TYPE,
    verificationMaterial: { publicKey: { hint: '' } },
    dsseEnvelope: {
      payload: bytes.toString('base64'),
      payloadType: IN_TOTO,
      signatures: [{ sig: sign('sha256', pae, privateKey).toString('base64'), keyid: '' }],
    },
  };
  writeFileSync(join(dir, 'bundle.json'), subject);
  writeFileSync(join(dir, 'other.json'), '{}');
  writeFileSync(join(dir, 'k.pub'), createPublicKey(privateKey).export({ type: 'spki', format: 'pem' }));
  writeFileSync(join(dir, 'signed.json'), JSON.stringify(bundle));
  const args = ['verify-blob-attestation', '--key', join(dir, 'k.pub'), '--bundle', join(dir, 'signed.json')];
  const verify = (type: string, file: string): Promise<RunResult> =>
    cosign('3.1', [...args, '--insecure-ignore-tlog', '--type', type, join(dir, file)]);
  expect(await verify('slsaprovenance1', 'bundle.json')).toMatchObject({
    code: 0,
    stderr: expect.stringContaining('Verified OK'),
  });
  expect((await verify('spdxjson', 'bundle.json')).code).not.toBe(0);
  expect((await verify('slsaprovenance1', 'other.json')).code).not.toBe(0);
});

test('an image is a pkg:oci purl with its registry, tag and index', async () => {
  const result = await locked();
  const { digest } = result.lock.images[0]!.manifest;
  expect(dependency(result, 'images/engine')).toEqual({
    name: 'images/engine',
    uri: `pkg:oci/vllm-openai@sha256%3A${hexOf(digest)}?arch=amd64&repository_url=docker.io/vllm/vllm-openai&tag=v0.27.1`,
    digest: { sha256: hexOf(digest) },
    mediaType: 'application/vnd.oci.image.manifest.v1+json',
    annotations: { from: 'docker.io/vllm/vllm-openai:v0.27.1', index: `sha256:${'1'.repeat(64)}` },
  });
});

test('an image that is not from a registry claims none', async () => {
  const result = await locked((lock) => void (lock.images[0]!.from = 'docker-daemon:local/engine:1'));
  const { digest } = result.lock.images[0]!.manifest;
  const uri = `pkg:oci/vllm-openai@sha256%3A${hexOf(digest)}?arch=amd64&tag=v0.27.1`;
  expect(dependency(result, 'images/engine')).toMatchObject({ uri });
});

test('a model is a pkg:huggingface purl at its commit; another hub is named', async () => {
  expect(dependency(await locked(), 'models/tiny')).toEqual({
    name: 'models/tiny',
    uri: `pkg:huggingface/sealift/tiny@${COMMIT}`,
    digest: { gitCommit: COMMIT },
    annotations: { from: 'hf:sealift/tiny@main', license: 'apache-2.0' },
  });
  const other = await locked((lock) => void (lock.models[0]!.hub = 'http://127.0.0.1:8080/base'));
  expect(dependency(other, 'models/tiny')).toMatchObject({
    uri: `pkg:huggingface/sealift/tiny@${COMMIT}?repository_url=http://127.0.0.1:8080/base`,
  });
});

test('local files and configs are named by digest alone', async () => {
  const local = await locked((lock) => {
    const { repo: _, hub: __, ...model } = lock.models[0]!;
    lock.models[0] = { ...model, from: 'file:./weights', revision: `sha256:${'b'.repeat(64)}` };
  });
  expect(dependency(local, 'models/tiny')).toEqual({
    name: 'models/tiny',
    digest: { sha256: 'b'.repeat(64) },
    annotations: { from: 'file:./weights', license: 'apache-2.0' },
  });
  expect(dependency(local, 'configs/prometheus.yml')).toEqual({
    name: 'configs/prometheus.yml',
    digest: { sha256: hexOf(digestOf('scrape: []\n')) },
  });
});

test('the same lock gives the same bytes, in canonical form', async () => {
  const [a, b] = [await locked(), await locked()];
  expect(a.bytes.equals(b.bytes)).toBe(true);
  expect(a.bytes.equals(canonicalJson(a.statement))).toBe(true);
});
