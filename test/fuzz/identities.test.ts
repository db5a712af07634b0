// SPDX-License-Identifier: Apache-2.0
/** Damaged certificates, log entries and timestamps before the judge, and a policy with a trusted root in it. */
import { SLOT_BYTES } from '../../src/trust/slots.ts';
import { parseTrustPolicy } from '../../src/trust/policy.ts';
import { verifySignatures } from '../../src/trust/verify.ts';
import { parseTrustState, trustStateBytes } from '../../src/trust/state.ts';
import { signedAs } from '../support/certified.ts';
import type { Random } from '../support/random.ts';
import { slotOf } from '../support/signature.ts';
import { startSigstore } from '../support/sigstore.ts';
import { campaign } from './campaign.ts';
import { damageBytes, damageJson, damageYaml } from './mutate.ts';

const SUMS = Buffer.from(`${'0'.repeat(64)}  bundle.json\n`);
const NOW = new Date('2026-11-23T12:00:00Z');
const SUBJECT = 'https://ci.example/build.yml@refs/heads/main';
const ISSUER = 'https://issuer.example';

const sigstore = await startSigstore();
const by = (subject: string, bytes: Uint8Array): Promise<string> =>
  signedAs(sigstore, bytes, { subject, issuer: ISSUER });
const good = await by(SUBJECT, SUMS);
const others = [await by(`${SUBJECT}2`, SUMS), await by(SUBJECT, Buffer.from('other'))];
await sigstore.close();

const POLICY = `apiVersion: sealift.dev/v1
kind: TrustPolicy
version: 1
threshold: 1
signers:
  - name: ci
    identity: { subject: '${SUBJECT}', issuer: '${ISSUER}' }
sigstore:
  trustedRoot: |
    ${sigstore.trustedRoot}
`;
const policy = parseTrustPolicy(POLICY, 'trust.yaml');

/** What is accepted must be by this identity, whatever was done to the rest of its evidence. */
function read(slot: Buffer): void {
  const empty = Buffer.alloc(SLOT_BYTES, 0x20);
  const { accepted } = verifySignatures(SUMS, [slot, ...Array<Buffer>(7).fill(empty)], policy, NOW);
  const { identity, signedAt } = accepted[0]!;
  if (accepted.length !== 1 || identity?.subject !== SUBJECT || identity.issuer !== ISSUER)
    throw new Error('accepted, and it is somebody else');
  if (!(Math.abs(signedAt!.getTime() - Date.now()) < 86_400_000))
    throw new Error('accepted, at a time that nobody vouches for');
}

/** Chains, logs and timestamps take milliseconds where a bare key takes none. */
const SHARE = 0.2;

const codes = ['NOT_SIGNED', 'BAD_SIGNATURE', 'UNTRUSTED_SIGNER'] as const;

/** Everything in base64: certificate, timestamp, log entry, promise, digest, signature. */
const BASE64 = /"([A-Za-z0-9+/]{24,}={0,2})"/g;

/** The JSON with the bytes behind one of its base64 texts damaged. */
function damageInside(random: Random, json: string): string {
  const texts = [...json.matchAll(BASE64)];
  const target = random.pick(texts);
  const bytes = Buffer.from(target[1]!, 'base64');
  const pool = texts.map(([, text]) => Buffer.from(text!, 'base64'));
  const damaged = damageBytes(random, bytes, pool).toString('base64');
  return `${json.slice(0, target.index + 1)}${damaged}${json.slice(target.index + 1 + target[1]!.length)}`;
}

const fits = (text: string): Buffer =>
  slotOf(text.length > SLOT_BYTES ? text.slice(0, SLOT_BYTES - 1) + '}' : text);

campaign('slot, inside its certificate, log entry or timestamp', {
  share: SHARE,
  make: (random) => fits(damageInside(random, random.chance(0.8) ? good : random.pick(others))),
  read,
  codes,
});

campaign('slot, its JSON with a certificate', {
  share: SHARE,
  make: (random) =>
    fits(
      damageJson(random, JSON.parse(random.chance(0.8) ? good : random.pick(others)))
        .toString()
        .trim(),
    ),
  read,
  codes,
});

campaign('trust policy, its trusted root', {
  make(random) {
    const json = JSON.stringify(JSON.parse(damageRoot(random)));
    return random.chance(0.2)
      ? damageYaml(random, POLICY)
      : Buffer.from(POLICY.replace(sigstore.trustedRoot, () => json));
  },
  read: (bytes) => parseTrustPolicy(bytes.toString(), 'trust.yaml'),
  codes: ['POLICY_INVALID'],
});

/** As JSON in any case, so that the reader behind the YAML is met. */
function damageRoot(random: Random): string {
  const damaged = random.chance(0.5)
    ? damageInside(random, sigstore.trustedRoot)
    : damageJson(random, JSON.parse(sigstore.trustedRoot)).toString();
  try {
    JSON.parse(damaged);
    return damaged;
  } catch {
    return sigstore.trustedRoot;
  }
}

const state = trustStateBytes({
  policy: { version: 3, digest: `sha256:${'a'.repeat(64)}` },
  next: { version: 4, digest: `sha256:${'b'.repeat(64)}` },
  latestTime: NOW,
});

campaign('trust state', {
  make: (random) =>
    random.chance(0.8)
      ? damageJson(random, JSON.parse(state.toString()))
      : damageBytes(random, state, [state]),
  read: (bytes) => parseTrustState(bytes, 'trust-state.json'),
  codes: ['IO_ERROR'],
});
