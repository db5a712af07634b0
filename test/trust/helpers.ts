// SPDX-License-Identifier: Apache-2.0
import { execFileSync } from 'node:child_process';
import { createHash, generateKeyPairSync, type KeyObject } from 'node:crypto';
import { SealiftError, type ErrorCode } from '../../src/errors.ts';
import { parseTrustPolicy, type TrustPolicy } from '../../src/trust/policy.ts';
import { keySigner } from '../../src/trust/sign.ts';
import { encodeSlot, SLOT_COUNT } from '../../src/trust/slots.ts';
import { verifySignatures, type Verdict } from '../../src/trust/verify.ts';

export const SUMS = Buffer.from(`${createHash('sha256').update('inventory').digest('hex')}  bundle.json\n`);
export const NOW = new Date('2026-11-23T12:00:00Z');

export interface Person {
  name: string;
  privateKey: KeyObject;
  publicKey: KeyObject;
  pem: string;
}

export function person(name: string): Person {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  return { name, privateKey, publicKey, pem: publicKey.export({ type: 'spki', format: 'pem' }) };
}

export type Terms = Person & { notBefore?: string; notAfter?: string };

/** The text of a trust.yaml. */
export function policyText(signers: readonly Terms[], threshold = 1, rest = '', version = 3): string {
  const entries = signers.map(({ name, pem, notBefore, notAfter }) =>
    [
      `  - name: ${name}`,
      `    publicKey: |\n${pem.trim().replace(/^/gm, '      ')}`,
      ...(notBefore === undefined ? [] : [`    notBefore: ${notBefore}`]),
      ...(notAfter === undefined ? [] : [`    notAfter: ${notAfter}`]),
    ].join('\n'),
  );
  const head = `apiVersion: sealift.dev/v1\nkind: TrustPolicy\nversion: ${version}\nthreshold: ${threshold}\n`;
  return `${head}signers:\n${entries.join('\n')}\n${rest}`;
}

export const policyOf = (signers: readonly Terms[], threshold = 1, rest = ''): TrustPolicy =>
  parseTrustPolicy(policyText(signers, threshold, rest), 'trust.yaml');

export const signedBy = (who: Person, sums: Uint8Array = SUMS): Promise<string> =>
  keySigner(who.privateKey).sign(sums);

/** All eight slots: what is given, then empty ones. A string is put into a slot as it is. */
export function slotsOf(...contents: readonly (string | Uint8Array | undefined)[]): Uint8Array[] {
  return Array.from({ length: SLOT_COUNT }, (_, i) => {
    const content = contents[i];
    return content instanceof Uint8Array ? content : encodeSlot(content);
  });
}

/** A slot with any text in it, padded, without the checks of encodeSlot. */
export const rawSlot = (text: string): Buffer => Buffer.from(text.padEnd(16_384, ' '));

/** The code, message and details of the SealiftError that `run` throws; anything else fails the test. */
export function refusalOf(run: () => unknown): SealiftError {
  try {
    run();
  } catch (thrown) {
    if (thrown instanceof SealiftError) return thrown;
    throw thrown;
  }
  throw new Error('nothing was refused');
}

export const codeOf = (run: () => unknown): ErrorCode => refusalOf(run).code;

export const judge = (slots: Uint8Array[], policy: TrustPolicy, now = NOW): Verdict =>
  verifySignatures(SUMS, slots, policy, now);

export const openssl = (args: string[], input?: string | Buffer): Buffer =>
  execFileSync('openssl', args, { input: input ?? '', stdio: ['pipe', 'pipe', 'pipe'] });
