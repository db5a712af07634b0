// SPDX-License-Identifier: Apache-2.0
import { parseTrustPolicy } from '../../src/trust/policy.ts';
import { judgeRotation, type Rotation } from '../../src/trust/rotate.ts';
import { NOW, signedBy, type Terms } from './helpers.ts';

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
