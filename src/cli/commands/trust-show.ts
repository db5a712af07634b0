// SPDX-License-Identifier: Apache-2.0
import { Home } from '../../install/home.ts';
import { readHostPublicKey } from '../../install/host-key.ts';
import { fingerprint } from '../../trust/keys.ts';
import { signerText } from '../../trust/refusal.ts';
import { clockWarning, hostTime, isoSeconds, standingOf, type Standing } from '../../trust/state.ts';
import { command, type Result } from '../command.ts';
import { homeFolder } from '../context.ts';
import { readHomePolicy, readPolicy, type HomePolicy } from '../files.ts';
import { HOME_OPTION } from '../host-options.ts';
import { styled, table, type Span } from '../output.ts';
import { rulesOf, signerState, windowOf } from '../policy-facts.ts';

interface ShowOptions {
  home: string | undefined;
  policy: string | undefined;
}

export const trustShow = command<ShowOptions>({
  name: 'trust show',
  summary: 'Show whom this host trusts, by what policy and at what time',
  about: [
    'Prints the trust policy of the home, whether it is the one that this host has adopted, and whether each signer counts now. The first install adopts the trust.yaml that stands in the home; from then on `sealift trust update` replaces it.',
    'Now is the later of the clock and the latest time that the host has seen: on its clock at an install, in a bundle that it verified, in a timestamp. So a clock that is set back makes no expired key valid. When the latest time seen is wrong, because the clock was ahead at an install, set the clock right, check trust.yaml by another way, and remove trust-state.json as root: the next install adopts that policy and begins to remember anew.',
    'Changes nothing.',
  ],
  options: [HOME_OPTION, { flags: '--policy <FILE>', about: 'show this file, which no host has adopted' }],
  examples: [
    ['sealift trust show', 'the policy of this host'],
    ['sealift trust show --policy new.yaml --json', 'a policy on its way here, for another program'],
  ],
  exits: [],
  parse: (given) => ({ home: given.text('home'), policy: given.text('policy') }),
  run: async ({ home: folder, policy: file }, io) => {
    if (file !== undefined) {
      const policy = await readPolicy(file);
      return shown({ policy, state: undefined, time: hostTime(io.now(), undefined) }, file, 'named');
    }
    const home = new Home(homeFolder(folder, io.env));
    const found = await readHomePolicy(home, io.now());
    return shown(found, home.trustFile, standingOf(found.policy, found.state), await hostKeyOf(home));
  },
});

/** Fingerprint of the host's key, from its public half: `show` needs no right to read the key. */
async function hostKeyOf(home: Home): Promise<string> {
  const key = await readHostPublicKey(home);
  return key === undefined ? 'none: receipts are not signed (sealift trust host-key)' : fingerprint(key);
}

const STANDINGS: Readonly<Record<Standing | 'named', readonly Span[]>> = {
  adopted: [styled('green', 'adopted'), ' by this host'],
  updating: [
    styled('yellow', 'adopted'),
    ', the last write of its update is missing: run that command again',
  ],
  'first-use': [styled('yellow', 'not adopted yet'), ': the next install adopts it'],
  changed: [styled('red', 'NOT THE ADOPTED ONE'), ': bundles are refused (sealift help POLICY_CHANGED)'],
  named: ['named on the command line; no host has adopted it'],
};

function shown(
  { policy, state, time }: HomePolicy,
  file: string,
  standing: Standing | 'named',
  hostKey?: string,
): Result {
  const signers = policy.signers.map((signer) => ({
    name: signer.name,
    fingerprint: signer.fingerprint,
    identity: signer.identity,
    notBefore: signer.notBefore?.toISOString(),
    notAfter: signer.notAfter?.toISOString(),
    state: signerState(signer, policy, time.judged),
  }));
  const latest = state === undefined ? undefined : isoSeconds(state.latestTime);
  const warning = clockWarning(time);
  return {
    schema: 'sealift/trust/v1',
    data: {
      file,
      standing,
      policy: {
        version: policy.version,
        digest: policy.fingerprint,
        threshold: policy.threshold,
        signers,
        trustedRoot: policy.sigstore?.digest,
        channel: policy.channel,
        names: policy.names && [...policy.names],
        revokedKeys: [...policy.revokedKeys],
        revokedBundles: [...policy.revokedBundles],
        minVersions: Object.fromEntries(policy.minVersions),
      },
      adopted: state?.policy,
      latestTime: latest,
      clock: time.clock.toISOString(),
      time: time.judged.toISOString(),
      hostKey,
    },
    text: [
      [styled('bold', `policy ${policy.version}`), `  ${policy.fingerprint}`],
      [`${file}: `, ...STANDINGS[standing]],
      ...(standing === 'changed'
        ? [`adopted is version ${state!.policy.version}  ${state!.policy.digest}`]
        : []),
      '',
      ...table([
        ...policy.signers.map((s, i) => ['signer', signerText(s), signers[i]!.state, windowOf(s)]),
        ['threshold', `${policy.threshold} of ${policy.signers.length}`],
        ...rulesOf(policy),
      ]),
      '',
      ...table([
        ['now', isoSeconds(time.judged)],
        ['latest seen', latest ?? 'nothing yet'],
        ...(hostKey === undefined ? [] : [['host key', hostKey]]),
      ]),
      ...(warning === undefined ? [] : [[styled('yellow', 'warning: '), warning]]),
    ],
  };
}
