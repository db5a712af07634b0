// SPDX-License-Identifier: Apache-2.0
/** Attacks on signatures by an identity: whoever gets a certificate of some name, or holds the media. THREATS.md T2, T3, T28. */
import { generateKeyPairSync } from 'node:crypto';
import { afterAll, describe, expect, it } from 'vitest';
import { SLOT_BYTES } from '../../src/trust/slots.ts';
import type { TrustPolicy } from '../../src/trust/policy.ts';
import { parseTrustPolicy } from '../../src/trust/policy.ts';
import type { RejectionReason, Verdict } from '../../src/trust/verify.ts';
import { judgeSignatures } from '../../src/trust/verify.ts';
import { signedAs, withOddCertificates, type Claim } from '../support/certified.ts';
import { startSigstore } from '../support/sigstore.ts';
import { NOW, person, policyText, signedBy, slotsOf, SUMS } from '../trust/helpers.ts';

const sigstore = await startSigstore();
const elsewhere = await startSigstore();
afterAll(() => Promise.all([sigstore.close(), elsewhere.close()]));

const SUBJECT = 'https://ci.example/group/build.yml@refs/heads/main';
const ISSUER = 'https://issuer.example';
const alice = person('alice');

interface Trust extends Partial<Claim> {
  /** More YAML for the signer `ci`. */
  more?: string;
  threshold?: number;
  rest?: string;
}

function policyOf({
  subject = SUBJECT,
  issuer = ISSUER,
  more = '',
  threshold = 1,
  rest = '',
}: Trust = {}): TrustPolicy {
  const ci = `  - name: ci\n    identity: { subject: '${subject}', issuer: '${issuer}' }\n${more}`;
  const root = `sigstore:\n  trustedRoot: |\n    ${sigstore.trustedRoot}\n`;
  return parseTrustPolicy(policyText([alice], threshold, `${ci}${root}${rest}`), 'trust.yaml');
}

const judge = (policy: TrustPolicy, ...slots: string[]): Verdict =>
  judgeSignatures(SUMS, slotsOf(...slots), policy, NOW);

const by = (claim: Partial<Claim> = {}, bytes: Uint8Array = SUMS): Promise<string> =>
  signedAs(sigstore, bytes, { subject: SUBJECT, issuer: ISSUER, ...claim });

/** The one finding for a signature that must not count; its text must hold `words`. */
function findingFor(json: string, trust: Trust = {}, words = ''): RejectionReason | undefined {
  const { accepted, rejected } = judge(policyOf(trust), json);
  expect(accepted).toEqual([]);
  expect(rejected[0]?.detail).toContain(words);
  return rejected[0]?.reason;
}

interface Material {
  certificate: { rawBytes: string };
  tlogEntries: { inclusionPromise?: object; integratedTime?: string; inclusionProof?: object }[];
  timestampVerificationData: { rfc3161Timestamps: object[] };
}
interface Parts {
  verificationMaterial: Material;
  messageSignature: { messageDigest: { digest: string }; signature: string };
}

function changed(json: string, change: (material: Material, bundle: Parts) => void): string {
  const bundle = JSON.parse(json) as Parts;
  change(bundle.verificationMaterial, bundle);
  return JSON.stringify(bundle);
}

const good = await by();

it('counts a good one, and says who, by whose word, and when', () => {
  const [accepted] = judge(policyOf(), good).accepted;
  expect(accepted).toMatchObject({ slot: 0, signer: 'ci', identity: { subject: SUBJECT, issuer: ISSUER } });
  expect(Math.abs(accepted!.signedAt!.getTime() - Date.now())).toBeLessThan(120_000);
});

it('counts one together with a key, and an address as well as a URI', async () => {
  expect(judge(policyOf({ threshold: 2 }), good, await signedBy(alice)).accepted).toHaveLength(2);
});

describe('an identity that only looks like the trusted one', () => {
  it.each<[string, Partial<Claim>]>([
    ['a superstring behind', { subject: `${SUBJECT}2` }],
    ['a superstring before', { subject: `https://evil.example/${SUBJECT}` }],
    ['a prefix', { subject: SUBJECT.slice(0, -1) }],
    ['another case', { subject: SUBJECT.replace('ci.', 'CI.') }],
    ['a dot that matches anything', { subject: SUBJECT.replace('ci.example', 'ciXexample') }],
    ['another issuer', { issuer: 'https://other.example' }],
    ['a superstring of the issuer', { issuer: `${ISSUER}.evil.example` }],
    ['a prefix of the issuer', { issuer: ISSUER.slice(0, -1) }],
    ['an issuer with a slash more', { issuer: `${ISSUER}/` }],
  ])('%s', async (_, claim) => {
    expect(findingFor(await by(claim))).toBe('unknown-identity');
  });

  it.each([
    'https://ci.example/.*',
    '.*',
    'https://ci.example/group/build.yml@refs/heads/(main|x)',
    '^',
    SUBJECT.replace('main', '[m]ain'),
  ])('a policy with the regular expression %s matches its own letters only', async (subject) => {
    expect(findingFor(good, { subject })).toBe('unknown-identity');
  });

  it('a subject with the characters of a regular expression is itself', async () => {
    const subject = 'https://ci.example/a+b(c)*[d]|e$^.yml@refs/heads/main';
    expect(judge(policyOf({ subject }), await by({ subject })).accepted).toHaveLength(1);
    expect(
      findingFor(await by({ subject: 'https://ci.example/aab(c)*[d]|e$^.yml@refs/heads/main' }), { subject }),
    ).toBe('unknown-identity');
  });

  it('a second name in the certificate, whichever comes first', async () => {
    const both = await withOddCertificates({ alsoNamed: 'https://evil.example/x' }, () => by());
    const reversed = await withOddCertificates({ alsoNamed: SUBJECT }, () =>
      by({ subject: 'https://evil.example/x' }),
    );
    const why = 'does not have exactly one name';
    expect([findingFor(both, {}, why), findingFor(reversed, {}, why)]).toEqual([
      'bad-signature',
      'bad-signature',
    ]);
  });
});

describe('a certificate that does not prove it', () => {
  it('of another authority', async () => {
    const stranger = await signedAs(elsewhere, SUMS, { subject: SUBJECT, issuer: ISSUER });
    expect(findingFor(stranger, {}, 'no authority')).toBe('unknown-identity');
    const damaged = changed(stranger, (_, b) => {
      b.messageSignature.signature = (JSON.parse(good) as Parts).messageSignature.signature;
    });
    expect(findingFor(damaged)).toBe('bad-signature');
  });

  it('of the same authority, but for servers', async () => {
    const server = await withOddCertificates({ usages: ['1.3.6.1.5.5.7.3.1'] }, () => by());
    expect(findingFor(server, {}, 'not for signing code')).toBe('bad-signature');
  });

  it('of the same authority, but for nothing that it names', async () => {
    const anything = await withOddCertificates({ usages: [] }, () => by());
    expect(findingFor(anything, {}, 'not for signing code')).toBe('bad-signature');
  });

  it('under a policy without a trusted root', async () => {
    const policy = parseTrustPolicy(policyText([alice]), 'trust.yaml');
    expect(judge(policy, good).rejected[0]?.reason).toBe('unknown-identity');
  });

  it('whose key did not make the signature', async () => {
    const other = JSON.parse(await by()) as Parts;
    expect(findingFor(changed(good, (m) => (m.certificate = other.verificationMaterial.certificate)))).toBe(
      'bad-signature',
    );
  });
});

describe('a signature that belongs to something else', () => {
  it('over other content, and with the digest of this', async () => {
    const other = await by({}, Buffer.from('other'));
    expect(findingFor(other)).toBe('bad-signature');
    const lying = changed(
      other,
      (_, b) =>
        (b.messageSignature.messageDigest = (JSON.parse(good) as Parts).messageSignature.messageDigest),
    );
    expect(findingFor(lying)).toBe('bad-signature');
  });

  it('with a digest that lies, while everything else is good', async () => {
    // The library takes the digest in the bundle for that of the log entry alone; the signature is over the bytes.
    const digest = Buffer.alloc(32, 7).toString('base64');
    const lying = changed(good, (_, b) => (b.messageSignature.messageDigest.digest = digest));
    expect(findingFor(lying)).toBe('bad-signature');
  });

  it('with the log entry of another signature', async () => {
    const other = JSON.parse(await by({}, Buffer.from('other'))) as Parts;
    expect(findingFor(changed(good, (m) => (m.tlogEntries = other.verificationMaterial.tlogEntries)))).toBe(
      'bad-signature',
    );
  });

  it('with the timestamp of another signature', async () => {
    const other = JSON.parse(await by({}, Buffer.from('other'))) as Parts;
    const { timestampVerificationData } = other.verificationMaterial;
    expect(findingFor(changed(good, (m) => (m.timestampVerificationData = timestampVerificationData)))).toBe(
      'bad-signature',
    );
  });
});

describe('evidence taken away', () => {
  const noStamp = (m: Material): unknown => (m.timestampVerificationData = { rfc3161Timestamps: [] });

  it('the log entry', () => {
    expect(findingFor(changed(good, (m) => (m.tlogEntries = [])))).toBe('bad-signature');
  });

  it("every vouched time: the log's promise, and the timestamp", () => {
    const timeless = changed(good, (m) => {
      noStamp(m);
      delete m.tlogEntries[0]!.inclusionPromise;
    });
    expect(findingFor(timeless)).toBe('bad-signature');
  });

  it('the timestamp alone leaves the time of the log, which has promised it', () => {
    const [accepted] = judge(policyOf(), changed(good, noStamp)).accepted;
    expect(Math.abs(accepted!.signedAt!.getTime() - Date.now())).toBeLessThan(120_000);
  });

  it('the promise, and a time of the log written by hand: only the timestamp tells the time', () => {
    const forged = changed(good, (m) => {
      delete m.tlogEntries[0]!.inclusionPromise;
      m.tlogEntries[0]!.integratedTime = '4102444800'; // 2100
    });
    const [accepted] = judge(policyOf(), forged).accepted;
    expect(Math.abs(accepted!.signedAt!.getTime() - Date.now())).toBeLessThan(120_000);
  });

  it('a time of the log changed under its promise', () => {
    expect(findingFor(changed(good, (m) => (m.tlogEntries[0]!.integratedTime = '4102444800')))).toBe(
      'bad-signature',
    );
  });
});

describe('one signer counted twice', () => {
  it('the same key as key and as certificate', async () => {
    const certified = await by({ key: alice.privateKey });
    const verdict = judge(policyOf({ threshold: 2 }), await signedBy(alice), certified);
    expect(verdict.accepted.map((a) => a.signer)).toEqual(['alice']);
    expect(verdict.rejected[0]?.reason).toBe('duplicate-signer');
  });

  it('two certificates of one identity', async () => {
    const verdict = judge(policyOf({ threshold: 2 }), good, await by());
    expect(verdict.accepted).toHaveLength(1);
    expect(verdict.rejected[0]?.reason).toBe('duplicate-signer');
  });

  it('a signer that has a key and an identity, by each', async () => {
    const bob = person('bob');
    const key = `    publicKey: |\n${bob.pem.trim().replace(/^/gm, '      ')}\n`;
    const policy = policyOf({ more: key, threshold: 2 });
    const verdict = judge(policy, good, await signedBy(bob));
    expect(verdict.accepted.map((a) => a.signer)).toEqual(['ci']);
    expect(judge(policy, await signedBy(bob)).accepted.map((a) => a.signer)).toEqual(['ci']);
    expect(verdict.rejected[0]?.reason).toBe('duplicate-signer');
  });

  it('a policy that lists an identity twice is refused', () => {
    const again = `  - name: ci2\n    identity: { subject: '${SUBJECT}', issuer: '${ISSUER}' }\n`;
    expect(() => policyOf({ more: again })).toThrow('the same identity as that of');
  });
});

describe('an identity that is not trusted now', () => {
  it('expired, not yet valid', () => {
    expect(findingFor(good, { more: '    notAfter: 2026-11-23T11:59:59Z\n' })).toBe('expired');
    expect(findingFor(good, { more: '    notBefore: 2026-11-23T12:00:01Z\n' })).toBe('not-yet-valid');
  });

  it('by a key that is revoked', async () => {
    const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    const certified = await by({ key: privateKey });
    const print = judge(policyOf(), certified).accepted[0]!.fingerprint;
    expect(findingFor(certified, { rest: `revoked: { keys: ["${print}"] }\n` })).toBe('revoked');
  });
});

it('no bit of the JSON of a good one can be flipped so that somebody else counts', () => {
  const policy = policyOf();
  const slot = Buffer.alloc(SLOT_BYTES, ' ');
  // Steps of a prime, so that every place of a byte is met; all bits would take a minute.
  for (let bit = 0; bit < good.length * 8; bit += 83) {
    slot.write(good);
    slot[bit >> 3]! ^= 1 << (bit & 7);
    // Some of the evidence is not needed beside the rest, such as wrapping of the timestamp: those bits change nothing.
    for (const { signer, identity } of judgeSignatures(SUMS, [slot], policy, NOW).accepted)
      expect([bit, signer, identity?.subject]).toEqual([bit, 'ci', SUBJECT]);
  }
});
