// SPDX-License-Identifier: Apache-2.0
/** Against a Sigstore instance on the loopback, which can be told to lie. */
import { createHash, generateKeyPairSync, verify, X509Certificate } from 'node:crypto';
import { bundleFromJSON } from '@sigstore/bundle';
import { TrustedRoot } from '@sigstore/protobuf-specs';
import { toSignedEntity, toTrustMaterial, Verifier } from '@sigstore/verify';
import { afterEach, beforeAll, afterAll, describe, expect, it } from 'vitest';
import { keylessSigner, type KeylessSigner } from '../../../src/build/signers/keyless.ts';
import type { Connection } from '../../../src/build/signers/services.ts';
import type { SealiftError } from '../../../src/errors.ts';
import type { Signer } from '../../../src/trust/sign.ts';
import { SIGSTORE_PATHS, startSigstore, type SigstoreInstance } from '../../support/sigstore.ts';
import { SUMS } from '../../trust/helpers.ts';

const SUBJECT = 'https://ci.example.org/release/build@refs/heads/main';
const ISSUER = 'https://ci.example.org';
const ONCE: Connection = { stallMs: 1000, attempts: 1 };

let sigstore: SigstoreInstance;
beforeAll(async () => {
  sigstore = await startSigstore();
});
afterEach(() => {
  sigstore.lies = {};
});
afterAll(() => sigstore.close());

function signer(change: Partial<KeylessSigner> = {}, connection = ONCE): Signer {
  const { url, trustedRoot } = sigstore;
  const spec: KeylessSigner = {
    fulcio: url,
    rekor: url,
    tsa: url,
    tokenFile: 'token',
    readToken: async () => `${sigstore.token(SUBJECT, ISSUER)}\n`,
    trustedRoot: { text: trustedRoot, file: 'trusted_root.json' },
    ...change,
  };
  return keylessSigner(spec, connection);
}

const failure = (change: Partial<KeylessSigner> = {}, connection = ONCE): Promise<SealiftError> =>
  signer(change, connection)
    .sign(SUMS)
    .then(
      () => Promise.reject(new Error('it signed')),
      (error: SealiftError) => error,
    );

function verified(
  json: string,
  message: Buffer,
  trustedRoot = sigstore.trustedRoot,
): ReturnType<Verifier['verify']> {
  const trust = toTrustMaterial(TrustedRoot.fromJSON(JSON.parse(trustedRoot)));
  const verifier = new Verifier(trust, { tlogThreshold: 1, ctlogThreshold: 1, timestampThreshold: 2 });
  return verifier.verify(toSignedEntity(bundleFromJSON(JSON.parse(json)), message));
}

describe('a keyless signer', () => {
  it('writes a bundle v0.3 with the leaf alone, one log entry and one timestamp', async () => {
    const json = await signer().sign(SUMS);
    expect(json).not.toContain('\n');
    const bundle = bundleFromJSON(JSON.parse(json));
    expect(bundle.mediaType).toBe('application/vnd.dev.sigstore.bundle.v0.3+json');
    const { content, tlogEntries, timestampVerificationData } = bundle.verificationMaterial;
    expect(content.$case).toBe('certificate');
    expect(tlogEntries).toHaveLength(1);
    expect(tlogEntries[0]).toMatchObject({ kindVersion: { kind: 'hashedrekord', version: '0.0.1' } });
    expect(tlogEntries[0]?.inclusionProof).toBeDefined();
    expect(tlogEntries[0]?.inclusionPromise).toBeDefined();
    expect(timestampVerificationData?.rfc3161Timestamps).toHaveLength(1);
  });

  it('is accepted by @sigstore/verify, over these bytes and under this root alone', async () => {
    const json = await signer().sign(SUMS);
    const { identity } = verified(json, SUMS);
    expect(identity).toMatchObject({ subjectAlternativeName: SUBJECT, extensions: { issuer: ISSUER } });
    expect(() => verified(json, Buffer.from('other'))).toThrow();
    const stranger = await startSigstore();
    await stranger.close();
    expect(() => verified(json, SUMS, stranger.trustedRoot)).toThrow();
  });

  it('is named by the token file first, and then by what was certified', async () => {
    const ci = signer();
    expect(ci.name).toBe('the identity in token');
    await ci.sign(SUMS);
    expect(ci.name).toBe(`${SUBJECT} (${ISSUER})`);
    expect(signer({ identity: { subject: 's', issuer: 'i' } }).name).toBe('s (i)');
  });

  it('asks each service once, and with a new key each time', async () => {
    sigstore.hits.length = 0;
    const ci = signer();
    const keys = [await ci.sign(SUMS), await ci.sign(SUMS)].map((json) => {
      const { content } = bundleFromJSON(JSON.parse(json)).verificationMaterial;
      if (content.$case !== 'certificate') throw new Error('no certificate');
      return new X509Certificate(content.certificate.rawBytes).publicKey;
    });
    expect(keys[0]!.equals(keys[1]!)).toBe(false);
    const once = ['POST /api/v2/signingCert', 'POST /api/v1/log/entries', 'POST /api/v1/timestamp'];
    expect(sigstore.hits).toEqual([...once, ...once]);
  });

  it('signs without a trusted root, too', async () => {
    const { trustedRoot: _, ...rest } = { trustedRoot: undefined };
    const json = await keylessSigner(
      {
        ...rest,
        fulcio: sigstore.url,
        rekor: sigstore.url,
        tsa: sigstore.url,
        tokenFile: 't',
        readToken: async () => sigstore.token(SUBJECT, ISSUER),
      },
      ONCE,
    ).sign(SUMS);
    expect(verified(json, SUMS).identity).toBeDefined();
  });

  it('demands the identity that the document asks for, exactly', async () => {
    const wanted = { subject: SUBJECT, issuer: ISSUER };
    await signer({ identity: wanted }).sign(SUMS);
    const others = [
      { ...wanted, subject: SUBJECT.slice(0, -1) },
      { ...wanted, subject: `${SUBJECT}2` },
      { ...wanted, subject: '.*' },
      { ...wanted, issuer: `${ISSUER}/` },
    ];
    for (const identity of others) {
      const error = await failure({ identity });
      expect(error).toMatchObject({ code: 'SIGNER_FAILED' });
      expect(error.details).toContainEqual(['got', `${SUBJECT} (${ISSUER})`]);
    }
  });

  it.each([
    ['nothing', '', /does not hold an OIDC token/],
    ['text', 'hello', /does not hold an OIDC token/],
    ['two parts', 'a.b', /does not hold an OIDC token/],
    ['a payload that is no JSON', 'a.b.c', /does not hold an OIDC token/],
  ])('says so when the token file holds %s', async (_, token, message) => {
    sigstore.hits.length = 0;
    expect((await failure({ readToken: async () => token })).message).toMatch(message);
    expect(sigstore.hits).toEqual([]);
  });

  it('says when the token has expired', async () => {
    const readToken = async (): Promise<string> => sigstore.token(SUBJECT, ISSUER, { exp: 1_000_000_000 });
    expect((await failure({ readToken })).message).toBe(
      'the token in token has expired (2001-09-09T01:46:40.000Z)',
    );
    const odd = async (): Promise<string> => sigstore.token(SUBJECT, ISSUER, { exp: -1e300 });
    expect((await failure({ readToken: odd })).message).toContain('has expired');
  });

  it('proves its key over the mail address of a person, and only over one that was verified', async () => {
    const person = { email: 'alice@example.org', email_verified: true };
    const token = sigstore.token(SUBJECT, ISSUER, person);
    const proofs: string[] = [];
    sigstore.lies = { fulcio: (honest, request) => (proofs.push(request), honest) };
    await signer({ readToken: async () => token }).sign(SUMS);
    const { publicKey, proofOfPossession } = (
      JSON.parse(proofs[0]!) as {
        publicKeyRequest: { publicKey: { content: string }; proofOfPossession: string };
      }
    ).publicKeyRequest;
    const proof = Buffer.from(proofOfPossession, 'base64');
    expect(verify('sha256', Buffer.from('alice@example.org'), publicKey.content, proof)).toBe(true);
    expect(verify('sha256', Buffer.from(SUBJECT), publicKey.content, proof)).toBe(false);
    for (const claims of [{ ...person, email_verified: false }, { sub: '' }, { sub: 7 }]) {
      const other = sigstore.token(SUBJECT, ISSUER, claims);
      const error = await failure({ readToken: async () => other });
      expect(error.message).toBe('the token in token names nobody that Fulcio could certify');
    }
    expect(proofs).toHaveLength(1);
  });

  it('takes a timestamp authority by its whole address, too', async () => {
    const json = await signer({ tsa: `${sigstore.url}/api/v1/timestamp` }).sign(SUMS);
    expect(verified(json, SUMS).identity).toBeDefined();
  });

  it('speaks plain http where the document says so for log and timestamps, and to no other host', async () => {
    const proxied = { ...ONCE, proxyEnv: { HTTP_PROXY: sigstore.url } };
    sigstore.hits.length = 0;
    // The proxy passes nothing on; that it was asked is the point.
    await failure({ rekor: 'http://rekor.example.org' }, proxied);
    expect(sigstore.hits).toContain('POST http://rekor.example.org/api/v1/log/entries');
    const error = await failure({ fulcio: 'http://fulcio.example.org' }, proxied);
    expect(error.message).toContain('is not https');
    expect(sigstore.hits.join()).not.toContain('fulcio.example.org');
  });

  it('does not go around a proxy that it cannot use', () => {
    expect(() => signer({}, { ...ONCE, proxyEnv: { HTTPS_PROXY: 'socks5://x' } })).toThrow(/HTTPS_PROXY/);
  });

  it('says whose trusted root is none', () => {
    for (const text of [
      '',
      '[]',
      '{"tlogs": 3}',
      '{"mediaType": 7, "tlogs": [{"publicKey": {"rawBytes": "AAAA"}}]}',
    ])
      expect(() => signer({ trustedRoot: { text, file: 'root.json' } })).toThrow(
        /root\.json is not a trusted root/,
      );
  });
});

type Entry = Record<string, unknown>;

describe('what the services do wrong', () => {
  const json = (body: object, status = 201): { status: number; body: string; type: string } => ({
    status,
    body: JSON.stringify(body),
    type: 'application/json',
  });

  it('Fulcio refuses the token', async () => {
    for (const status of [400, 401, 403]) {
      sigstore.lies = {
        fulcio: () => json({ code: 3, message: 'there was an error processing the identity token' }, status),
      };
      const error = await failure();
      expect(error.code).toBe('UNAUTHORIZED');
      expect(error.message).toBe(
        `Fulcio at ${sigstore.url} refused: (${status}) there was an error processing the identity token`,
      );
      expect(error.hint).toContain('audience');
    }
  });

  it('a service is down', async () => {
    const closed = 'http://127.0.0.1:9';
    const names = { fulcio: 'Fulcio', rekor: 'Rekor', tsa: 'the timestamp authority' } as const;
    for (const service of ['fulcio', 'rekor', 'tsa'] as const) {
      const error = await failure({ [service]: closed });
      expect(error.code).toBe('NETWORK_ERROR');
      expect(error.message).toContain(`${names[service]} at ${closed} gave no usable answer`);
      expect(error.hint).toContain('HTTPS_PROXY');
    }
  });

  it('a service answers 500, junk, or not at all', async () => {
    for (const service of ['fulcio', 'rekor', 'tsa'] as const) {
      sigstore.lies = { [service]: () => ({ status: 500, body: 'oops' }) };
      expect(await failure()).toMatchObject({ code: 'NETWORK_ERROR' });
      sigstore.lies = { [service]: () => ({ status: 404, body: 'oops' }) };
      const refused = await failure();
      expect(refused.code).toBe('SIGNER_FAILED');
      expect(refused.message).toMatch(/ refused: \(404\)$/);
      sigstore.lies = { [service]: () => ({ status: 201, body: '{"a":"junk"}' }) };
      expect(['NETWORK_ERROR', 'BAD_SIGNATURE']).toContain((await failure()).code);
      sigstore.lies = { [service]: () => new Promise(() => {}) };
      expect(await failure()).toMatchObject({ code: 'NETWORK_ERROR' });
    }
  });

  it('a service fails once, and is asked again', async () => {
    for (const service of ['fulcio', 'rekor', 'tsa'] as const) {
      sigstore.lies = { [service]: () => ((sigstore.lies = {}), { status: 503, body: '' }) };
      const signed = await signer({}, { stallMs: 1000, backoffMs: 1 }).sign(SUMS);
      expect(verified(signed, SUMS).identity).toBeDefined();
    }
  });

  it('a service redirects: the token goes nowhere else', async () => {
    const thief = await startSigstore();
    try {
      for (const service of ['fulcio', 'rekor', 'tsa'] as const) {
        for (const status of [301, 302, 303, 307, 308]) {
          const location = `${thief.url}${SIGSTORE_PATHS[service]}`;
          sigstore.lies = { [service]: () => ({ status, body: '', location }) };
          const error = await failure();
          expect(error.code).toBe('SIGNER_FAILED');
          expect(error.message).toContain('redirects in a way that is not followed');
        }
      }
      expect(thief.hits).toEqual([]);
    } finally {
      await thief.close();
    }
  });

  it('a service answers without end', async () => {
    for (const service of ['fulcio', 'rekor', 'tsa'] as const) {
      sigstore.lies = { [service]: () => ({ status: 201, body: ' '.repeat(64 * 1024 + 1) }) };
      const error = await failure();
      expect(error.code).toBe('SIGNER_FAILED');
      expect(error.message).toContain('more than 65536 bytes');
    }
  });

  it('a service hangs, and the person has enough', async () => {
    const stop = new AbortController();
    sigstore.lies = { rekor: () => (stop.abort(), new Promise(() => {})) };
    const error = await failure({}, { stallMs: 60_000, attempts: 1, signal: stop.signal });
    expect(error.code).toBe('INTERRUPTED');
  });

  it.each([
    ['no entry', () => ({})],
    ['two entries', (entry: object) => ({ a: entry, b: entry })],
    ['no proof', ({ verification: _, ...entry }: Entry) => ({ a: entry })],
    ['a negative index', (entry: object) => ({ a: { ...entry, logIndex: -1 } })],
    ['an entry of no kind', (entry: object) => ({ a: { ...entry, body: 'e30=' } })],
    ['an entry that is no base64', (entry: object) => ({ a: { ...entry, body: '!' } })],
  ] as [string, (entry: Entry) => object][])('Rekor answers with %s', async (_, change) => {
    sigstore.lies = {
      rekor: ({ body }) => {
        const [entry] = Object.values(JSON.parse(String(body)) as Record<string, Entry>);
        return json(change(entry!));
      },
    };
    const error = await failure();
    expect(error.code).toBe('NETWORK_ERROR');
    expect(error.message).toContain('it is not in the form of that service');
    expect(error.hint).toContain('is that its address');
  });

  it('the token is in no message, whatever a service repeats, and in no cause', async () => {
    const token = sigstore.token(SUBJECT, ISSUER);
    const echo = (_: unknown, request: string): ReturnType<typeof json> =>
      json({ message: `bad request: ${request} ${token}` }, 400);
    for (const service of ['fulcio', 'rekor', 'tsa'] as const) {
      sigstore.lies = { [service]: echo };
      const error = await failure({ readToken: async () => token });
      const whole = [
        error.message,
        error.hint,
        JSON.stringify(error.details),
        error.stack,
        String(error.cause),
      ].join();
      expect(whole).not.toContain(token);
      expect(whole).not.toContain(token.split('.')[1]);
    }
  });

  it('Fulcio certifies another key', async () => {
    const other = generateKeyPairSync('ec', { namedCurve: 'P-256' }).publicKey.export({
      type: 'spki',
      format: 'pem',
    });
    sigstore.lies = {
      fulcio: async (_, request) => {
        const body = JSON.parse(request) as { publicKeyRequest: { publicKey: { content: string } } };
        body.publicKeyRequest.publicKey.content = other;
        sigstore.lies = {};
        const answer = await fetch(`${sigstore.url}/api/v2/signingCert`, {
          method: 'POST',
          body: JSON.stringify(body),
        });
        return { status: 201, body: await answer.text() };
      },
    };
    const error = await failure();
    expect(error.code).toBe('BAD_SIGNATURE');
    expect(error.message).toContain('the certificate is for another key');
  });

  it('Rekor logs something else, or in a log of its own', async () => {
    const stranger = await startSigstore();
    try {
      const error = await failure({ rekor: stranger.url });
      expect(error).toMatchObject({ code: 'BAD_SIGNATURE' });
      expect(error.message).toContain('does not verify against trusted_root.json');
      expect(await failure({ tsa: stranger.url })).toMatchObject({ code: 'BAD_SIGNATURE' });
      expect(await failure({ fulcio: stranger.url })).toMatchObject({ code: 'BAD_SIGNATURE' });
    } finally {
      await stranger.close();
    }
    sigstore.lies = {
      rekor: async (_, request) => {
        const entry = JSON.parse(request) as { spec: { data: { hash: { value: string } } } };
        entry.spec.data.hash.value = createHash('sha256').update('other').digest('hex');
        sigstore.lies = {};
        const answer = await fetch(`${sigstore.url}/api/v1/log/entries`, {
          method: 'POST',
          body: JSON.stringify(entry),
        });
        return { status: 201, body: await answer.text() };
      },
    };
    expect(await failure()).toMatchObject({ code: 'BAD_SIGNATURE' });
  });

  it('the proofs do not fit into a slot', async () => {
    sigstore.lies = {
      rekor: (honest) => {
        const answer = JSON.parse(String(honest.body)) as Record<
          string,
          { verification: { inclusionProof: { hashes: string[] } } }
        >;
        Object.values(answer)[0]!.verification.inclusionProof.hashes = Array.from({ length: 300 }, () =>
          'ab'.repeat(32),
        );
        return { ...honest, body: JSON.stringify(answer) };
      },
    };
    const error = await failure();
    expect(error.code).toBe('SIGNER_FAILED');
    expect(error.message).toMatch(/are \d{5} bytes; a slot holds 16384$/);
  });
});
