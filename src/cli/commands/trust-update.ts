// SPDX-License-Identifier: Apache-2.0
import { MAX_DOCUMENT_BYTES } from '../../document.ts';
import { asSealiftError, SealiftError } from '../../errors.ts';
import { Home } from '../../install/home.ts';
import { replacePolicy, settlePolicy } from '../../install/trust-update.ts';
import type { TrustPolicy } from '../../trust/policy.ts';
import {
  judgeRotation,
  MAX_POLICY_SIGNATURES,
  type PolicySignature,
  type Rotation,
} from '../../trust/rotate.ts';
import { SLOT_BYTES } from '../../trust/slots.ts';
import { command, type Result } from '../command.ts';
import { demandConsent, demandSomebody } from '../consent.ts';
import { homeFolder, type Io } from '../context.ts';
import { adoptedPolicy, readBytes } from '../files.ts';
import { HOME_OPTION, YES_OPTION } from '../host-options.ts';
import { styled, table, type Line } from '../output.ts';
import { differenceOf, type Change } from '../policy-facts.ts';

interface UpdateOptions {
  file: string;
  signatures: readonly string[];
  home: string | undefined;
  yes: boolean;
  dryRun: boolean;
}

export const trustUpdate = command<UpdateOptions>({
  name: 'trust update',
  summary: 'Replace the trust policy by one that the old and the new signers have signed',
  about: [
    "A new policy is adopted only when its number is exactly one higher, as many signers have signed it as the old policy asks for, and as many as it asks for itself. Signatures of keys that have expired or are revoked do not count, each list by its own policy. That is TUF's rule for root keys.",
    'Shows what would change, and asks. The old policy and the signatures are kept in the folder trust of the home. A kill at any moment leaves the old policy or the new one; run the same command again.',
    'When too few of the old keys are left: sealift help POLICY_CHANGED.',
  ],
  positional: { name: 'NEW.yaml', about: 'the new trust policy', required: true },
  options: [
    {
      flags: '--signature <FILE>',
      about: 'a signature over it, of `sealift sign --detached`',
      repeat: true,
    },
    YES_OPTION,
    { flags: '--dry-run', about: 'show what would change, and change nothing' },
    HOME_OPTION,
  ],
  examples: [
    [
      'sealift trust update trust-2.yaml --signature alice.sigstore.json --signature bob.sigstore.json',
      'shows the difference and asks',
    ],
    [
      'sealift sign --detached trust-2.yaml --key alice.key -o alice.sigstore.json',
      'what each signer does before',
    ],
  ],
  exits: [11, 14],
  parse: (given) => {
    const signatures = given.list('signature');
    if (signatures.length === 0)
      throw new SealiftError('USAGE', 'no signature was named', {
        hint: 'each signer makes one with `sealift sign --detached NEW.yaml --key FILE -o FILE`; add --signature FILE for each',
      });
    if (signatures.length > MAX_POLICY_SIGNATURES)
      throw new SealiftError('USAGE', `more than ${MAX_POLICY_SIGNATURES} signatures were named`);
    return {
      file: given.positional!,
      signatures,
      home: given.text('home'),
      yes: given.is('yes'),
      dryRun: given.is('dryRun'),
    };
  },
  run: runUpdate,
});

async function runUpdate(options: UpdateOptions, io: Io): Promise<Result> {
  if (!options.dryRun) demandSomebody(options.yes, io, 'trust update');
  const home = new Home(homeFolder(options.home, io.env));
  const { policy: old, state, time } = await adoptedPolicy(home, io);
  const newBytes = await readBytes(options.file, 'the new trust policy', MAX_DOCUMENT_BYTES);
  if ((await readPolicyBytes(home)).equals(newBytes)) {
    if (state !== undefined && !options.dryRun) await settlePolicy(home, old);
    return alreadyThere(old, state !== undefined);
  }
  const signatures = await readSignatures(options.signatures);
  const rotation = judgeRotation({ old, bytes: newBytes, file: options.file, signatures, now: time.judged });
  await warnOfRevoked(home, rotation.policy, io);
  if (options.dryRun) return updated(old, rotation, false);
  for (const line of differenceLines(old, rotation)) io.out.note(line);
  await demandConsent(options.yes, io, `adopt policy ${rotation.policy.version} in ${home.root}?`);
  try {
    await replacePolicy(home, { old, rotation, newBytes, signatures, clock: io.now() });
  } catch (thrown) {
    throw asSealiftError(thrown, `replacing the trust policy in ${home.root}`);
  }
  return updated(old, rotation, true);
}

const readPolicyBytes = (home: Home): Promise<Buffer> =>
  readBytes(home.trustFile, 'the trust policy', MAX_DOCUMENT_BYTES, 'POLICY_MISSING');

async function readSignatures(files: readonly string[]): Promise<PolicySignature[]> {
  const read = async (name: string): Promise<PolicySignature> => ({
    name,
    json: (await readBytes(name, 'the signature', SLOT_BYTES + 1)).toString(),
  });
  return Promise.all(files.map(read));
}

/** A policy that revokes what runs here stops nothing by itself, and whoever adopts it may think that it does. */
async function warnOfRevoked(home: Home, policy: TrustPolicy, io: Io): Promise<void> {
  for (const [name, { version, digest }] of await home.installed()) {
    if (!policy.revokedBundles.has(digest)) continue;
    io.emit({
      type: 'warning',
      code: 'REVOKED_HERE',
      message: `the new policy revokes ${name} ${version}, which was installed here; where it runs it goes on running until it is replaced or uninstalled`,
    });
  }
}

function alreadyThere({ version, fingerprint: digest }: TrustPolicy, adopted: boolean): Result {
  return {
    schema: 'sealift/trust-update/v1',
    data: { adopted, changed: false, from: version, to: version, digest, changes: [] },
    text: [
      `policy ${version} stands in this home already  ${digest}`,
      ...(adopted ? [] : ['the next install adopts it']),
    ],
  };
}

function updated(old: TrustPolicy, rotation: Rotation, adopted: boolean): Result {
  const { policy, byOld, byNew } = rotation;
  const names = (verdict: Rotation['byOld']): string[] => verdict.accepted.map(({ signer }) => signer);
  return {
    schema: 'sealift/trust-update/v1',
    data: {
      adopted,
      changed: adopted,
      from: old.version,
      to: policy.version,
      digest: policy.fingerprint,
      changes: differenceOf(old, policy),
      signedByOld: names(byOld),
      signedByNew: names(byNew),
    },
    text: adopted
      ? [[styled('green', 'adopted'), `  policy ${policy.version}  ${policy.fingerprint}`]]
      : differenceLines(old, rotation),
  };
}

function differenceLines(old: TrustPolicy, { policy, byOld, byNew }: Rotation): Line[] {
  const counted = ({ accepted, threshold }: Rotation['byOld']): string =>
    `${accepted.map(({ signer }) => signer).join(', ')}  (${accepted.length} of ${threshold} needed)`;
  const sign = ({ change }: Change): string => (change === 'added' ? '+' : '-');
  const changes = differenceOf(old, policy).map((c) => [`${sign(c)} ${c.what}`, c.value]);
  return [
    [styled('bold', `policy ${old.version} to ${policy.version}`), `  ${policy.fingerprint}`],
    ...table(changes.length === 0 ? [['nothing but its number and its text changes']] : changes, '  '),
    ...table(
      [
        ['signed by, old policy', counted(byOld)],
        ['signed by, new policy', counted(byNew)],
      ],
      '  ',
    ),
  ];
}
