// SPDX-License-Identifier: Apache-2.0
/** Attacks on the signatures of images, by someone who may push to the registry, or who holds some key. */
import { createPublicKey, generateKeyPairSync, sign } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { bundleToJSON } from '@sigstore/bundle';
import { DSSEBundleBuilder, FulcioSigner, RekorWitness } from '@sigstore/sign';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { BUNDLE_TYPE, IN_TOTO, preAuthEncoding } from '../../src/build/upstream/envelope.ts';
import { hintsOf } from '../../src/build/upstream/keys.ts';
import {
  byIdentity,
  byKey,
  getManifest,
  lockSigned,
  pushImage,
  putBlob,
  putManifest,
  sha256,
  type Pushed,
} from '../build/upstream/rig.ts';
import { failure } from '../build/fakes.ts';
import {
  cosignKey,
  signImage,
  signKeyless,
  startKeylessFront,
  type CosignKey,
  type KeylessFront,
} from '../support/cosign.ts';
import { startRegistry, type Registry } from '../support/registry.ts';
import { startSigstore, type SigstoreInstance } from '../support/sigstore.ts';
import { tempDir } from '../support/workspace.ts';

let registry: Registry;
let sigstore: SigstoreInstance;
let front: KeylessFront;
let maker: CosignKey;
let makerPem: string;
let good: Pushed;
let evil: Pushed;

beforeAll(async () => {
  registry = await startRegistry({ dir: tempDir('registry') });
  sigstore = await startSigstore();
  front = await startKeylessFront(sigstore);
  maker = await cosignKey();
  makerPem = readFileSync(maker.publicKey, 'utf8');
});
afterAll(async () => {
  await front.close();
  await sigstore.close();
  await registry.stop();
});

/** The maker signed one image; the attacker pushed another, and may write beside it. */
beforeEach(async () => {
  good = await pushImage(registry);
  evil = await pushImage(registry);
});

interface Layer {
  mediaType: string;
  digest: string;
  size: number;
  annotations?: Record<string, string>;
}
interface Manifest {
  mediaType: string;
  layers: Layer[];
  config: Layer;
  subject?: { mediaType: string; digest: string; size: number };
  [more: string]: unknown;
}

const hexOf = (digest: string): string => digest.slice('sha256:'.length);
const sigTag = ({ digest }: Pushed): string => `sha256-${hexOf(digest)}.sig`;
const blobOf = async ({ repository }: Pushed, digest: string): Promise<Buffer> =>
  Buffer.from(await (await fetch(`${registry.url}/v2/${repository}/blobs/${digest}`)).arrayBuffer());

async function signatureManifest(image: Pushed): Promise<Manifest> {
  return JSON.parse((await getManifest(registry, image.repository, sigTag(image))).toString()) as Manifest;
}

/** The one referrer that cosign 3 left beside an image. */
async function referrerOf(image: Pushed): Promise<Manifest> {
  const tag = `sha256-${hexOf(image.digest)}`;
  const index = JSON.parse((await getManifest(registry, image.repository, tag)).toString()) as {
    manifests: Layer[];
  };
  return JSON.parse(
    (await getManifest(registry, image.repository, index.manifests[0]!.digest)).toString(),
  ) as Manifest;
}

/** Copies layers and config of a manifest into another repository. */
async function copyBlobs(manifest: Manifest, from: Pushed, to: Pushed): Promise<void> {
  for (const { digest, mediaType } of [...manifest.layers, manifest.config])
    await putBlob(registry, to.repository, await blobOf(from, digest), mediaType);
}

/** Hangs a manifest on an image as registries without the referrers API have it. */
async function attach(image: Pushed, ...manifests: object[]): Promise<void> {
  const entries = [];
  for (const manifest of manifests) entries.push(await putManifest(registry, image.repository, manifest));
  const mediaType = 'application/vnd.oci.image.index.v1+json';
  const index = { schemaVersion: 2, mediaType, manifests: entries };
  await putManifest(registry, image.repository, index, `sha256-${hexOf(image.digest)}`);
}

const EMPTY = Buffer.from('{}');

/** A referrer with this bundle, hung on the image; it may name another as its subject. */
async function attachBundle(image: Pushed, bundle: string, subject = image.digest): Promise<void> {
  const config = await putBlob(registry, image.repository, EMPTY, 'application/vnd.oci.empty.v1+json');
  const layer = await putBlob(registry, image.repository, Buffer.from(bundle), BUNDLE_TYPE);
  const mediaType = 'application/vnd.oci.image.manifest.v1+json';
  await attach(image, {
    schemaVersion: 2,
    mediaType,
    artifactType: BUNDLE_TYPE,
    config,
    layers: [layer],
    subject: { mediaType, digest: subject, size: 1 },
  });
}

const mine = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const minePem = mine.publicKey.export({ type: 'spki', format: 'pem' });

/** A bundle by `mine` over any statement. */
function bundleOf(statement: object, hint = hintsOf(mine.publicKey)[0]!): string {
  const payload = Buffer.from(JSON.stringify(statement));
  const signature = sign('sha256', preAuthEncoding(IN_TOTO, payload), mine.privateKey);
  return JSON.stringify({
    mediaType: BUNDLE_TYPE,
    verificationMaterial: { publicKey: { hint } },
    dsseEnvelope: {
      payload: payload.toString('base64'),
      payloadType: IN_TOTO,
      signatures: [{ sig: signature.toString('base64') }],
    },
  });
}

const statementOver = (digest: string, change: object = {}): object => ({
  _type: 'https://in-toto.io/Statement/v1',
  subject: [{ digest: { sha256: hexOf(digest) } }],
  predicateType: 'https://sigstore.dev/cosign/sign/v1',
  predicate: {},
  ...change,
});

/** How the lock of an image ends under a demand: code, and what it says of the signatures that it saw. */
async function refusal(image: Pushed, demand = byKey(makerPem)): Promise<[string, string]> {
  const { code, details } = await failure(lockSigned(image.reference, demand));
  return [
    code,
    details
      .slice(1)
      .map((pair) => pair.join(': '))
      .join('; '),
  ];
}

describe('a signature of another image, moved over', () => {
  it('as .sig tag', async () => {
    await signImage(good.pinned, maker, 'legacy');
    const manifest = await signatureManifest(good);
    await copyBlobs(manifest, good, evil);
    await putManifest(registry, evil.repository, manifest, sigTag(evil));
    expect(await refusal(evil)).toEqual([
      'UPSTREAM_BAD_SIGNATURE',
      `does not fit: it is over ${good.digest}`,
    ]);
  });

  it('as referrer that tells the truth about its subject', async () => {
    await signImage(good.pinned, maker, 'bundle');
    const manifest = await referrerOf(good);
    await copyBlobs(manifest, good, evil);
    await attach(evil, manifest);
    const [code, text] = await refusal(evil);
    expect([code, text]).toEqual([
      'UPSTREAM_BAD_SIGNATURE',
      expect.stringContaining('another image by its own word'),
    ]);
  });

  it('as referrer that lies about its subject', async () => {
    await signImage(good.pinned, maker, 'bundle');
    const manifest = await referrerOf(good);
    await copyBlobs(manifest, good, evil);
    await attach(evil, { ...manifest, subject: { ...manifest.subject!, digest: evil.digest } });
    expect(await refusal(evil)).toEqual([
      'UPSTREAM_BAD_SIGNATURE',
      `does not fit: it is over ${good.digest}`,
    ]);
  });

  it('of an identity', async () => {
    const who = { identity: 'https://ci.example/maker', issuer: 'https://issuer.example' };
    await signKeyless(good.pinned, sigstore, front, who, 'legacy');
    const manifest = await signatureManifest(good);
    await copyBlobs(manifest, good, evil);
    await putManifest(registry, evil.repository, manifest, sigTag(evil));
    const demand = byIdentity(who.identity, who.issuer, sigstore.trustedRoot);
    expect(await refusal(evil, demand)).toEqual([
      'UPSTREAM_BAD_SIGNATURE',
      `does not fit: it is over ${good.digest}`,
    ]);
  });
});

describe('a signature by another key', () => {
  it('that borrows the hint of the right one', async () => {
    const hint = hintsOf(createPublicKey(makerPem))[0]!;
    await attachBundle(evil, bundleOf(statementOver(evil.digest), hint));
    const [code, text] = await refusal(evil);
    expect([code, text]).toEqual([
      'UPSTREAM_BAD_SIGNATURE',
      expect.stringContaining('does not verify under it'),
    ]);
  });

  it('is told from none, and its words are not printed raw', async () => {
    await attachBundle(evil, bundleOf(statementOver(evil.digest), '\u001b[2J\u202Ereversed'));
    const [code, text] = await refusal(evil);
    expect(code).toBe('UPSTREAM_UNTRUSTED');
    expect(text).toContain(String.raw`\u{1b}[2J\u{202e}reversed`);
  });

  it('does not keep the right one from being found', async () => {
    await signImage(good.pinned, maker, 'legacy');
    await attachBundle(good, bundleOf(statementOver(good.digest)));
    expect((await lockSigned(good.reference, byKey(makerPem))).signature?.kind).toBe('simple-signing');
  });
});

describe('a signature that does not say what it seems to', () => {
  it('a payload with another digest, put under a good signature', async () => {
    await signImage(good.pinned, maker, 'legacy');
    const manifest = await signatureManifest(good);
    const text = (await blobOf(good, manifest.layers[0]!.digest)).toString();
    const layer = await putBlob(
      registry,
      evil.repository,
      Buffer.from(text.replace(good.digest, evil.digest)),
      manifest.layers[0]!.mediaType,
    );
    await copyBlobs(manifest, good, evil);
    const annotations = manifest.layers[0]!.annotations!;
    await putManifest(
      registry,
      evil.repository,
      { ...manifest, layers: [{ ...layer, annotations }] },
      sigTag(evil),
    );
    expect(await refusal(evil)).toEqual(['UPSTREAM_UNTRUSTED', 'signed by: another key']);
  });

  it.each([
    [
      'an attestation instead of a signature',
      { predicateType: 'https://slsa.dev/provenance/v1' },
      'UPSTREAM_NOT_SIGNED',
    ],
    ['no subject', { subject: [] }, 'UPSTREAM_BAD_SIGNATURE'],
    [
      'a subject by another hash only',
      { subject: [{ digest: { sha512: 'a'.repeat(128) } }] },
      'UPSTREAM_BAD_SIGNATURE',
    ],
    ['no statement', { _type: 'https://example.org/other' }, 'UPSTREAM_BAD_SIGNATURE'],
    ['no predicate type', { predicateType: undefined }, 'UPSTREAM_BAD_SIGNATURE'],
  ])('%s', async (_, change, code) => {
    await attachBundle(evil, bundleOf(statementOver(evil.digest, change)));
    expect((await refusal(evil, byKey(minePem)))[0]).toBe(code);
  });

  it('two subjects, one of them right', async () => {
    const subject = [evil, good].map(({ digest }) => ({ digest: { sha256: hexOf(digest) } }));
    await attachBundle(evil, bundleOf(statementOver(evil.digest, { subject })));
    expect((await refusal(evil, byKey(minePem)))[0]).toBe('UPSTREAM_BAD_SIGNATURE');
  });

  it('the same without the change is accepted', async () => {
    await attachBundle(evil, bundleOf(statementOver(evil.digest)));
    expect((await lockSigned(evil.reference, byKey(minePem))).signature?.over).toBe(evil.digest);
  });

  it.each([
    ['no signature', (b: Bundle) => b.dsseEnvelope.signatures.pop()],
    ['two signatures', (b: Bundle) => b.dsseEnvelope.signatures.push(b.dsseEnvelope.signatures[0]!)],
    ['an empty signature', (b: Bundle) => (b.dsseEnvelope.signatures[0]!.sig = '')],
    ['another payload type', (b: Bundle) => (b.dsseEnvelope.payloadType = 'text/plain')],
    ['url-safe base64 with dirt', (b: Bundle) => (b.dsseEnvelope.payload = `*${b.dsseEnvelope.payload}`)],
    ['another member beside the signature', (b: Bundle) => Object.assign(b, { messageSignature: {} })],
    ['another version', (b: Bundle) => (b.mediaType = BUNDLE_TYPE.replace('0.3', '0.9'))],
  ])('a bundle with %s', async (_, change) => {
    const bundle = JSON.parse(bundleOf(statementOver(evil.digest))) as Bundle;
    change(bundle);
    await attachBundle(evil, JSON.stringify(bundle));
    expect((await refusal(evil, byKey(minePem)))[0]).toBe('UPSTREAM_BAD_SIGNATURE');
  });
});

/** A bundle by a certificate for this identity, over a statement of cosign's about the digest. */
async function bundleAs(identity: string, issuer: string, digest: string): Promise<string> {
  const identityProvider = { getToken: () => Promise.resolve(sigstore.token(identity, issuer)) };
  const builder = new DSSEBundleBuilder({
    signer: new FulcioSigner({ fulcioBaseURL: sigstore.url, identityProvider }),
    witnesses: [new RekorWitness({ rekorBaseURL: front.url, entryType: 'dsse' })],
  });
  const data = Buffer.from(JSON.stringify(statementOver(digest)));
  return JSON.stringify(bundleToJSON(await builder.create({ data, type: IN_TOTO })));
}

interface Bundle {
  mediaType: string;
  dsseEnvelope: { payload: string; payloadType: string; signatures: { sig: string }[] };
}

describe('an identity that is nearly the asked one', () => {
  const IDENTITY = 'https://ci.example/maker/build@refs/heads/main';
  const ISSUER = 'https://issuer.example';
  const lockAs = (asked: string, issuer = ISSUER): Promise<[string, string]> =>
    refusal(evil, byIdentity(asked, issuer, sigstore.trustedRoot));

  it.each(['bundle', 'legacy'] as const)(
    'prefix, superstring, pattern, case, other issuer: form %s',
    async (form) => {
      await signKeyless(evil.pinned, sigstore, front, { identity: IDENTITY, issuer: ISSUER }, form);
      const near = [
        IDENTITY.slice(0, -1),
        `${IDENTITY}2`,
        'https://ci.example',
        'ci.example',
        '.*',
        'https://ci.example/.*',
        IDENTITY.toUpperCase(),
        IDENTITY.replace('.', '-'),
        IDENTITY.replace('ci.example', 'ci?example'),
      ];
      for (const asked of near)
        expect(await lockAs(asked), asked).toEqual([
          'UPSTREAM_UNTRUSTED',
          `signed by: ${IDENTITY} (${ISSUER})`,
        ]);
      for (const issuer of [`${ISSUER}/`, 'https://issuer', `${ISSUER}.evil`])
        expect((await lockAs(IDENTITY, issuer))[0], issuer).toBe('UPSTREAM_UNTRUSTED');
      const { signature } = await lockSigned(
        evil.reference,
        byIdentity(IDENTITY, ISSUER, sigstore.trustedRoot),
      );
      expect(signature?.by).toEqual({ identity: IDENTITY, issuer: ISSUER });
    },
  );

  it.each(['bundle', 'legacy'] as const)(
    'the right name, vouched for by another Sigstore: form %s',
    async (form) => {
      const other = await startSigstore();
      const otherFront = await startKeylessFront(other);
      try {
        await signKeyless(evil.pinned, other, otherFront, { identity: IDENTITY, issuer: ISSUER }, form);
        expect((await lockAs(IDENTITY))[0]).toBe('UPSTREAM_UNTRUSTED');
      } finally {
        await otherFront.close();
        await other.close();
      }
    },
  );

  it('a name or issuer that is equal in seven of eight bits', async () => {
    // '°' is C2 B0 in UTF-8; without the eighth bits, which @sigstore/verify drops, it reads 'B0'. cosign makes no
    // such signature, but whoever holds the token of such an account can.
    await attachBundle(evil, await bundleAs('https://ci.example/team-°', ISSUER, evil.digest));
    expect((await lockAs('https://ci.example/team-B0'))[0]).toBe('UPSTREAM_BAD_SIGNATURE');
    await attachBundle(evil, await bundleAs(IDENTITY, `${ISSUER}/°`, evil.digest));
    expect((await lockAs(IDENTITY, `${ISSUER}/B0`))[0]).toBe('UPSTREAM_BAD_SIGNATURE');
    await attachBundle(evil, await bundleAs('https://ci.example/team-B0', ISSUER, evil.digest));
    const demand = byIdentity('https://ci.example/team-B0', ISSUER, sigstore.trustedRoot);
    expect((await lockSigned(evil.reference, demand)).signature?.kind).toBe('sigstore-bundle');
  });

  it('a certificate without its entry in the log, or with that of another', async () => {
    const who = { identity: IDENTITY, issuer: ISSUER };
    await signKeyless(evil.pinned, sigstore, front, who, 'legacy');
    await signKeyless(good.pinned, sigstore, front, who, 'legacy');
    const manifest = await signatureManifest(evil);
    const note = 'dev.sigstore.cosign/bundle';
    const replaced = async (value: string | undefined): Promise<[string, string]> => {
      const [layer] = structuredClone(manifest.layers);
      if (value === undefined) delete layer!.annotations![note];
      else layer!.annotations![note] = value;
      await putManifest(registry, evil.repository, { ...manifest, layers: [layer] }, sigTag(evil));
      return lockAs(IDENTITY);
    };
    const foreign = (await signatureManifest(good)).layers[0]!.annotations![note]!;
    for (const value of [undefined, '', '{}', foreign])
      expect((await replaced(value))[0], value).toBe('UPSTREAM_BAD_SIGNATURE');
    const late = JSON.parse(manifest.layers[0]!.annotations![note]!) as {
      Payload: { integratedTime: number };
    };
    late.Payload.integratedTime += 1;
    expect((await replaced(JSON.stringify(late)))[0]).toBe('UPSTREAM_BAD_SIGNATURE');
  });
});

describe('junk beside an image', () => {
  it('bundles that are no JSON, or bombs of it', async () => {
    await signImage(good.pinned, maker, 'legacy');
    for (const bundle of ['', 'junk', '['.repeat(100_000), `{"mediaType":"${'x'.repeat(500_000)}"}`]) {
      if (bundle !== '') await attachBundle(good, bundle);
      expect((await lockSigned(good.reference, byKey(makerPem))).signature?.kind).toBe('simple-signing');
    }
  });

  it('more signatures than anybody looks at', async () => {
    const layers = [];
    for (let i = 0; i < 70; i++) {
      const layer = await putBlob(
        registry,
        evil.repository,
        Buffer.from(`{"n":${i}}`),
        'application/vnd.dev.cosign.simplesigning.v1+json',
      );
      layers.push({ ...layer, annotations: { 'dev.cosignproject.cosign/signature': 'MEUCIQ==' } });
    }
    const config = await putBlob(
      registry,
      evil.repository,
      EMPTY,
      'application/vnd.oci.image.config.v1+json',
    );
    const mediaType = 'application/vnd.oci.image.manifest.v1+json';
    await putManifest(
      registry,
      evil.repository,
      { schemaVersion: 2, mediaType, config, layers },
      sigTag(evil),
    );
    const before = registry.log.length;
    const [code, text] = await refusal(evil);
    expect([code, text.includes('and: 56 more')]).toEqual(['UPSTREAM_UNTRUSTED', true]);
    expect(registry.log.slice(before).filter((line) => line.includes('/blobs/')).length).toBeLessThan(70);
  });
});

it('the digests of the rig are those of the registry', async () => {
  expect(sha256(await getManifest(registry, good.repository, 'v1'))).toBe(good.digest);
});
