// SPDX-License-Identifier: Apache-2.0
/** Signatures of the real cosign, 2.5 and 3.1, in a real registry. */
import { generateKeyPairSync } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Attached } from '../../../src/build/sources/attached.ts';
import type { ResolvedImage } from '../../../src/build/sources/source.ts';
import { verifyImageSignature } from '../../../src/build/upstream/image-signature.ts';
import { SealiftError } from '../../../src/errors.ts';
import { digestOf, hexOf } from '../../../src/store/digest.ts';
import { fingerprintOf, readUpstreamKey } from '../../../src/build/upstream/keys.ts';
import {
  cosign,
  cosignKey,
  cosignOk,
  signImage,
  signKeyless,
  startKeylessFront,
  type CosignKey,
  type KeylessFront,
  type SignatureForm,
} from '../../support/cosign.ts';
import { startRegistry, type Registry } from '../../support/registry.ts';
import { startSigstore, type SigstoreInstance } from '../../support/sigstore.ts';
import { tempDir } from '../../support/workspace.ts';
import { failure } from '../fakes.ts';
import { byIdentity, byKey, lockSigned, pushImage } from './rig.ts';

const FORMS: SignatureForm[] = ['bundle', 'legacy'];
const KIND = { bundle: 'sigstore-bundle', legacy: 'simple-signing' } as const;
const IDENTITY = 'https://ci.example/maker/build@refs/heads/main';
const ISSUER = 'https://issuer.example';

let registry: Registry;
let sigstore: SigstoreInstance;
let front: KeylessFront;
let key: CosignKey;
let publicKey: string;

beforeAll(async () => {
  registry = await startRegistry({ dir: tempDir('registry') });
  sigstore = await startSigstore();
  front = await startKeylessFront(sigstore);
  key = await cosignKey();
  publicKey = readFileSync(key.publicKey, 'utf8');
});
afterAll(async () => {
  await front.close();
  await sigstore.close();
  await registry.stop();
});

const fingerprint = (): string => readUpstreamKey(Buffer.from(publicKey), 'maker.pub').fingerprint;

describe.each(FORMS)('a cosign signature by key, form %s', (form) => {
  test('over the image is found, and recorded with key, digest and the file that named the key', async () => {
    const image = await pushImage(registry);
    await signImage(image.pinned, key, form);
    expect((await lockSigned(image.reference, byKey(publicKey))).signature).toEqual({
      kind: KIND[form],
      over: image.digest,
      by: fingerprint(),
      anchor: digestOf(publicKey),
    });
  });

  test('over the index that the tag names is enough for the platform', async () => {
    const image = await pushImage(registry, 'index');
    await signImage(image.pinned, key, form);
    const locked = await lockSigned(image.reference, byKey(publicKey));
    expect(locked.index).toBe(image.digest);
    expect(locked.signature?.over).toBe(image.digest);
  });

  test("over the platform's manifest alone will do too", async () => {
    const image = await pushImage(registry, 'index');
    await signImage(`${registry.host}/${image.repository}@${image.manifest}`, key, form);
    const locked = await lockSigned(image.reference, byKey(publicKey));
    expect(locked.signature?.over).toBe(image.manifest);
    expect(locked.signature?.over).not.toBe(locked.index);
  });

  test('is found among those of others, and with annotations', async () => {
    const image = await pushImage(registry);
    await signImage(image.pinned, await cosignKey(), form);
    await signImage(image.pinned, key, form, ['-a', 'build=7']);
    expect((await lockSigned(image.reference, byKey(publicKey))).signature?.by).toBe(fingerprint());
  });

  test('of another key is not the one that was asked for', async () => {
    const image = await pushImage(registry);
    await signImage(image.pinned, await cosignKey(), form);
    const error = await failure(lockSigned(image.reference, byKey(publicKey)));
    expect(error.code).toBe('UPSTREAM_UNTRUSTED');
    expect(error.details[0]).toEqual(['asked for', `key ${fingerprint()}`]);
  });
});

test('an image that nobody signed says where was looked', async () => {
  const image = await pushImage(registry, 'index');
  const error = await failure(lockSigned(image.reference, byKey(publicKey)));
  expect(error.code).toBe('UPSTREAM_NOT_SIGNED');
  expect(error.details.flat().join()).toContain(`${image.digest} and ${image.manifest}`);
});

test('a list of signatures that cannot be read does not hide those of the platform', async () => {
  const index = digestOf('index');
  const manifest = { mediaType: 'application/x', digest: digestOf('manifest'), size: 1 };
  const asked: string[] = [];
  const attached: Attached = {
    referrers: () => Promise.resolve([]),
    tagged: (tag) => {
      asked.push(tag);
      if (tag.includes(hexOf(index))) throw new SealiftError('SOURCE_INVALID', 'it is too large');
      return Promise.resolve(undefined);
    },
    manifest: () => Promise.reject(new Error('nothing is listed')),
    blob: () => Promise.reject(new Error('nothing is listed')),
  };
  const image = { manifest, manifestBytes: Buffer.alloc(0), index, attached } as unknown as ResolvedImage;
  const anchor = { anchor: index, key: readUpstreamKey(Buffer.from(publicKey), 'maker.pub') };
  const error = await failure(verifyImageSignature('engine', image, anchor));
  expect(error.code).toBe('UPSTREAM_BAD_SIGNATURE');
  expect(error.details).toContainEqual(['does not fit', 'it is too large']);
  expect(asked).toEqual([index, manifest.digest].map((digest) => `sha256-${hexOf(digest)}.sig`));
});

test.each([
  ['P-384', FORMS, () => generateKeyPairSync('ec', { namedCurve: 'P-384' })],
  ['P-521', FORMS, () => generateKeyPairSync('ec', { namedCurve: 'P-521' })],
  ['RSA', FORMS, () => generateKeyPairSync('rsa', { modulusLength: 2048 })],
  // cosign 3.1 does not verify its own bundles by Ed25519, and so makes none.
  ['Ed25519', ['legacy'], () => generateKeyPairSync('ed25519')],
] as const)('cosign with a key of kind %s', async (_, forms, make) => {
  const { privateKey } = make();
  const other = await cosignKey(privateKey.export({ type: 'pkcs8', format: 'pem' }));
  const pem = readFileSync(other.publicKey, 'utf8');
  for (const form of forms) {
    const image = await pushImage(registry);
    await signImage(image.pinned, other, form);
    const { signature } = await lockSigned(image.reference, byKey(pem));
    expect(signature?.by).toBe(fingerprintOf(readUpstreamKey(Buffer.from(pem), 'k').key));
  }
});

test('an attestation is no signature, whoever made it', async () => {
  const image = await pushImage(registry);
  const root = { mediaType: 'application/vnd.dev.sigstore.trustedroot+json;version=0.1' };
  const dir = tempDir('attest');
  writeFileSync(`${dir}/predicate.json`, '{}');
  writeFileSync(`${dir}/root.json`, JSON.stringify(root));
  writeFileSync(
    `${dir}/config.json`,
    '{"mediaType":"application/vnd.dev.sigstore.signingconfig.v0.2+json","rekorTlogConfig":{},"tsaConfig":{}}',
  );
  const config = ['--signing-config', `${dir}/config.json`, '--trusted-root', `${dir}/root.json`];
  const args = [
    'attest',
    '--key',
    key.privateKey,
    '--allow-http-registry',
    '--yes',
    '--predicate',
    `${dir}/predicate.json`,
  ];
  await cosignOk('3.1', [...args, ...config, image.pinned]);
  expect((await failure(lockSigned(image.reference, byKey(publicKey)))).code).toBe('UPSTREAM_NOT_SIGNED');
});

describe.each(FORMS)('a cosign signature by identity, form %s', (form) => {
  test('is verified against the trusted root, and the name is compared as it stands', async () => {
    const image = await pushImage(registry);
    await signKeyless(image.pinned, sigstore, front, { identity: IDENTITY, issuer: ISSUER }, form);
    const { signature } = await lockSigned(
      image.reference,
      byIdentity(IDENTITY, ISSUER, sigstore.trustedRoot),
    );
    expect(signature).toEqual({
      kind: KIND[form],
      over: image.digest,
      by: { identity: IDENTITY, issuer: ISSUER },
      anchor: digestOf(sigstore.trustedRoot),
    });
  });

  test('does for a mail address too', async () => {
    const image = await pushImage(registry);
    await signKeyless(image.pinned, sigstore, front, { identity: 'maker@ci.example', issuer: ISSUER }, form);
    const demand = byIdentity('maker@ci.example', ISSUER, sigstore.trustedRoot);
    expect((await lockSigned(image.reference, demand)).signature?.by).toMatchObject({
      identity: 'maker@ci.example',
    });
  });

  test('does not answer for a key, nor a key for it', async () => {
    const image = await pushImage(registry);
    await signKeyless(image.pinned, sigstore, front, { identity: IDENTITY, issuer: ISSUER }, form);
    const asKey = await failure(lockSigned(image.reference, byKey(publicKey)));
    expect([asKey.code, asKey.details[1]]).toEqual(['UPSTREAM_UNTRUSTED', ['signed by', 'a certificate']]);
    const other = await pushImage(registry);
    await signImage(other.pinned, key, form);
    const asIdentity = await failure(
      lockSigned(other.reference, byIdentity(IDENTITY, ISSUER, sigstore.trustedRoot)),
    );
    expect(asIdentity.code).toBe('UPSTREAM_UNTRUSTED');
  });
});

test('cosign itself accepts what the lock accepts', async () => {
  const image = await pushImage(registry);
  await signImage(image.pinned, key, 'bundle');
  const flags = ['--key', key.publicKey, '--allow-http-registry', '--insecure-ignore-tlog'];
  const { code, stderr } = await cosign('3.1', ['verify', ...flags, image.pinned]);
  expect(stderr).toContain('The signatures were verified against the specified public key');
  expect(code).toBe(0);
});
