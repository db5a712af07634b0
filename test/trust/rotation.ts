// SPDX-License-Identifier: Apache-2.0
import { parseTrustPolicy } from '../../src/trust/policy.ts';
import { judgeRotation, type Rotation } from '../../src/trust/rotate.ts';
import { NOW, person, policyText, signedBy, type Terms } from './helpers.ts';

export const alice = person('alice');
export const bob = person('bob');
export const carol = person('carol');
export const dave = person('dave');

/** The policy of a host: two of alice, bob and carol. */
export const OLD = policyText([alice, bob, carol], 2, '', 1);

/** The text of one that may follow: by default two of these people. */
export const text = (people: readonly Terms[], version = 2, threshold = 2, rest = ''): string =>
  policyText(people, threshold, rest, version);

/** One that may: dave for carol. */
export const OTHERS = text([alice, bob, dave]);

export interface Attempt {
  /** Texts of the two policies. */
  old: string;
  next: string;
  by: readonly Terms[];
  /** What they sign, when it is not the new policy. */
  over?: string;
  now?: Date;
}

/** Judges `new.yaml`, with a signature file for each of these people. */
export async function rotate({ old, next, by, over = next, now = NOW }: Attempt): Promise<Rotation> {
  const signatures = await Promise.all(
    by.map(async (who) => ({ name: `${who.name}.json`, json: await signedBy(who, Buffer.from(over)) })),
  );
  return judgeRotation({
    old: parseTrustPolicy(old, 'trust.yaml'),
    bytes: Buffer.from(next),
    file: 'new.yaml',
    signatures,
    now,
  });
}
