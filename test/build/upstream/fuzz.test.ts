// SPDX-License-Identifier: Apache-2.0
/** Anything at all in place of a signature: a finding or a typed error, in bounded time. */
import { generateKeyPairSync, sign } from 'node:crypto';
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { readAuthorities } from '../../../src/build/upstream/certificates.ts';
import { judgeBundle, judgeSimpleSigning, type ImageAnchor } from '../../../src/build/upstream/cosign.ts';
import { BUNDLE_TYPE, IN_TOTO, preAuthEncoding } from '../../../src/build/upstream/envelope.ts';
import { readTrustedRoot } from '../../../src/build/upstream/identity.ts';
import { hintsOf, readUpstreamKey } from '../../../src/build/upstream/keys.ts';
import { omsFile, signOms, verifyOms, type ModelAnchor } from '../../../src/build/upstream/oms.ts';
import { SealiftError } from '../../../src/errors.ts';
import { digestOf, hexOf } from '../../../src/store/digest.ts';
import { startSigstore } from '../../support/sigstore.ts';

const NOW = new Date('2026-11-23T10:00:00Z');
const RUNS = { numRuns: 5000 };
/** Milliseconds for one input; real ones take less than one. */
const PATIENCE = 2000;

const keys = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const key = readUpstreamKey(Buffer.from(keys.publicKey.export({ type: 'spki', format: 'pem' })), 'k.pub');
const image = digestOf('image');
const sigstore = await startSigstore();
const trust = readTrustedRoot(Buffer.from(sigstore.trustedRoot), 'root.json');
await sigstore.close();

const anchor = digestOf('anchor');
const anchors: ImageAnchor[] = [
  { anchor, key },
  { anchor, identity: { subject: 'a@b.example', issuer: 'https://issuer.example', trust } },
];

const statement = Buffer.from(
  JSON.stringify({
    _type: 'https://in-toto.io/Statement/v1',
    subject: [{ digest: { sha256: hexOf(image) } }],
    predicateType: 'https://sigstore.dev/cosign/sign/v1',
    predicate: {},
  }),
);

const goodBundle = (): object => ({
  mediaType: BUNDLE_TYPE,
  verificationMaterial: { publicKey: { hint: hintsOf(keys.publicKey)[0] }, tlogEntries: [] },
  dsseEnvelope: {
    payload: statement.toString('base64'),
    payloadType: IN_TOTO,
    signatures: [
      { sig: sign('sha256', preAuthEncoding(IN_TOTO, statement), keys.privateKey).toString('base64') },
    ],
  },
});

const files = [{ path: 'a', digest: digestOf('a') }];
const goodOms = JSON.parse(omsFile('m', files, signOms('m', files, keys.privateKey)).toString()) as object;

/** Some JSON with one member replaced, removed or added anywhere. */
const mutated = (good: object): fc.Arbitrary<string> =>
  fc.tuple(fc.nat(), fc.jsonValue(), fc.constantFrom('replace', 'remove', 'add')).map(([at, value, how]) => {
    const copy = structuredClone(good) as Record<string, unknown>;
    const places: [Record<string, unknown>, string][] = [];
    const walk = (node: unknown): void => {
      if (node === null || typeof node !== 'object') return;
      for (const [name, inner] of Object.entries(node)) {
        places.push([node as Record<string, unknown>, name]);
        walk(inner);
      }
    };
    walk(copy);
    const [node, name] = places[at % places.length]!;
    if (how === 'remove') delete node[name];
    else node[how === 'add' ? `${name}x` : name] = value;
    return JSON.stringify(copy);
  });

/** Some text with bytes changed. */
const flipped = (good: object): fc.Arbitrary<Buffer> =>
  fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 4 }).map((flips) => {
    const bytes = Buffer.from(JSON.stringify(good));
    for (const [at, value] of flips) bytes[at % bytes.length] = value;
    return bytes;
  });

const inputs = (good: object): fc.Arbitrary<Uint8Array> =>
  fc.oneof(
    fc.uint8Array({ maxLength: 300 }),
    fc.json().map((text) => Buffer.from(text)),
    mutated(good).map((text) => Buffer.from(text)),
    flipped(good),
  );

function inTime<T>(work: () => T): T {
  const start = performance.now();
  const result = work();
  expect(performance.now() - start).toBeLessThan(PATIENCE);
  return result;
}

describe('signatures of images', () => {
  test('the untouched ones are accepted, so that the others are near to something', () => {
    const finding = judgeBundle(Buffer.from(JSON.stringify(goodBundle())), image, anchors[0]!);
    expect(finding?.outcome).toBe('accepted');
  });

  test('bundles: what is accepted says what was signed', () => {
    fc.assert(
      fc.property(inputs(goodBundle()), fc.constantFrom(...anchors), (bytes, who) => {
        const finding = inTime(() => judgeBundle(bytes, image, who));
        // Members that nobody reads may change; what the signature covers may not.
        if (finding?.outcome === 'accepted') expect(finding.signature.over).toBe(image);
        if ('identity' in who) expect(finding?.outcome).not.toBe('accepted');
        expect(judgeBundle(bytes, digestOf('other'), who)?.outcome).not.toBe('accepted');
      }),
      RUNS,
    );
  });

  test('simple signing: payloads and annotations', () => {
    const payload = {
      critical: {
        identity: {},
        image: { 'docker-manifest-digest': image },
        type: 'cosign container image signature',
      },
    };
    const notes = fc.dictionary(
      fc.constantFrom(
        'dev.cosignproject.cosign/signature',
        'dev.sigstore.cosign/certificate',
        'dev.sigstore.cosign/bundle',
        'dev.sigstore.cosign/rfc3161timestamp',
        '__proto__',
      ),
      fc.oneof(fc.string(), fc.base64String(), fc.json()),
    );
    fc.assert(
      fc.property(inputs(payload), notes, fc.constantFrom(...anchors), (bytes, annotations, who) => {
        expect(inTime(() => judgeSimpleSigning(bytes, annotations, image, who)).outcome).not.toBe('accepted');
      }),
      RUNS,
    );
  });
});

describe('signatures of models', () => {
  const modelAnchors: ModelAnchor[] = [{ anchor, key }];

  test('bundles: what is accepted names what was signed', () => {
    fc.assert(
      fc.property(inputs(goodOms), fc.constantFrom(...modelAnchors), (bytes, who) => {
        const found = inTime(() => verifyOms(bytes, who, NOW));
        if (!('outcome' in found)) expect([...found.files]).toEqual([['a', digestOf('a')]]);
      }),
      RUNS,
    );
  });

  test('statements that the right key signed: safe paths, each once', () => {
    const resource = fc.record({
      name: fc.oneof(
        fc.constantFrom('a', 'a/b', '../x', '/etc/passwd', 'a//b', '__proto__', 'a\u202Eb'),
        fc.string(),
      ),
      digest: fc.oneof(fc.constant('0'.repeat(64)), fc.string()),
      algorithm: fc.constantFrom('sha256', 'blake2b'),
    });
    const predicate = fc.record({
      serialization: fc.record({
        method: fc.constantFrom('files', 'shards'),
        hash_type: fc.constantFrom('sha256', 'blake3'),
      }),
      resources: fc.array(resource, { maxLength: 4 }),
    });
    fc.assert(
      fc.property(predicate, fc.string(), (body, root) => {
        const payload = Buffer.from(
          JSON.stringify({
            _type: 'https://in-toto.io/Statement/v1',
            subject: [{ name: 'm', digest: { sha256: root } }],
            predicateType: 'https://model_signing/signature/v1.0',
            predicate: body,
          }),
        );
        const signature = sign('sha256', preAuthEncoding(IN_TOTO, payload), keys.privateKey).toString(
          'base64',
        );
        const bundle = {
          ...goodOms,
          dsseEnvelope: {
            payload: payload.toString('base64'),
            payloadType: IN_TOTO,
            signatures: [{ sig: signature }],
          },
        };
        // Nobody hits the root digest by chance, so all of these are refused, whatever else is wrong with them.
        const found = inTime(() => verifyOms(Buffer.from(JSON.stringify(bundle)), { anchor, key }, NOW));
        expect('outcome' in found && found.outcome).toBe('does-not-fit');
      }),
      { numRuns: 1000 },
    );
  });
});

test('files that say whom to trust: typed errors only', () => {
  const pem = fc.oneof(
    fc.string(),
    fc.base64String().map((text) => `-----BEGIN PUBLIC KEY-----\n${text}\n-----END PUBLIC KEY-----\n`),
    fc.base64String().map((text) => `-----BEGIN CERTIFICATE-----\n${text}\n-----END CERTIFICATE-----\n`),
    mutated(JSON.parse(sigstore.trustedRoot) as object),
  );
  fc.assert(
    fc.property(pem, (text) => {
      for (const read of [readUpstreamKey, readAuthorities, readTrustedRoot]) {
        try {
          inTime(() => read(Buffer.from(text), 'file'));
        } catch (error) {
          expect(error).toBeInstanceOf(SealiftError);
        }
      }
    }),
    { numRuns: 2000 },
  );
});
