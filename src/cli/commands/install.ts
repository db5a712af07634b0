// SPDX-License-Identifier: Apache-2.0
import { openBundle, type VerifiedBundle } from '../../bundle/open.ts';
import type { Emit } from '../../events.ts';
import { applyPlan } from '../../install/apply.ts';
import { overrideOf, type AgreedOverride } from '../../install/override.ts';
import { planInstall, type Plan } from '../../install/plan.ts';
import type { Receipt } from '../../install/receipt.ts';
import { acceptedText } from '../../trust/refusal.ts';
import { policyId } from '../../trust/state.ts';
import { command, type Given, type Result } from '../command.ts';
import { demandConsent, demandSomebody } from '../consent.ts';
import type { Io } from '../context.ts';
import { adoptedPolicy, findBundle } from '../files.ts';
import { count } from '../format.ts';
import { formatBytes } from '../../text.ts';
import {
  HOST_OPTIONS,
  hostFlags,
  hostPaths,
  YES_OPTION,
  type HostFlags,
  type HostPaths,
} from '../host-options.ts';
import { styled, table, type Line } from '../output.ts';
import { reasonOf } from '../reason.ts';
import { mediaOf, VOLUMES_OPTION, withVolumes } from '../volumes.ts';

interface InstallOptions {
  bundle: string;
  host: HostFlags;
  yes: boolean;
  dryRun: boolean;
  /** Why an older version, or other content under the same one, may come in. */
  downgradeReason: string | undefined;
  volumes: readonly string[];
}

export const install = command<InstallOptions>({
  name: 'install',
  summary: 'Verify a bundle, load its images, place its models and start its services',
  about: [
    'Checks signatures and policy, looks at this host, shows what would be done, and asks. Then every byte is hashed in the pass in which it is copied or loaded; nothing is started before all of it matched; services are started, waited for, and asked a real question through the gateway. When a step fails, what this install placed is taken back. An install that was stopped goes on where it was when it is run again.',
    "The trust policy is the home's trust.yaml; there is no way to name another one here, and none to skip a check.",
    'An older version than the one that was installed is refused, and so is other content under the same version. --allow-downgrade leaves out that one check and wants a reason, which is written into the receipt; revocations and the lowest version of the policy hold even then. From then on the older version is what later ones are compared with.',
  ],
  positional: { name: 'BUNDLE', about: 'the bundle, or the folder that holds it', required: true },
  options: [
    YES_OPTION,
    { flags: '--dry-run', about: 'show what would be done, and do nothing' },
    { flags: '--allow-downgrade <WHY>', about: 'install an older version; why goes into the receipt' },
    VOLUMES_OPTION,
    ...HOST_OPTIONS,
  ],
  examples: [
    ['sealift install /media/usb', 'shows the plan and asks'],
    ['sealift install demo.sealift.tar --dry-run --json', 'the plan for another program'],
    [
      'sealift install old.sealift.tar --allow-downgrade "1.4.0 answers wrongly, ticket 311"',
      'back to an older one',
    ],
  ],
  exits: [10, 11, 12, 13, 14, 20, 21, 22],
  parse: (given) => ({
    bundle: given.positional!,
    host: hostFlags(given),
    yes: given.is('yes'),
    dryRun: given.is('dryRun'),
    downgradeReason: whyDowngrade(given),
    volumes: given.list('volumes'),
  }),
  run: runInstall,
});

function whyDowngrade(given: Given): string | undefined {
  const text = given.text('allowDowngrade');
  return text === undefined ? undefined : reasonOf(text, '--allow-downgrade');
}

async function runInstall(options: InstallOptions, io: Io): Promise<Result> {
  if (!options.dryRun) demandSomebody(options.yes, io, 'install');
  const paths = hostPaths(options.host, io.env);
  const { policy, time } = await adoptedPolicy(paths.home, io);
  const path = await findBundle(options.bundle);
  const installed = await paths.home.installed();
  const { emit } = io;
  const { downgradeReason } = options;
  let bundle: VerifiedBundle | undefined;
  try {
    bundle = await openBundle(path, {
      policy,
      now: time.judged,
      ...(downgradeReason === undefined && { installed: (name) => installed.get(name) }),
      emit,
      media: mediaOf(options.volumes, io),
    });
    const before = installed.get(bundle.inventory.name);
    const override = downgradeReason === undefined ? undefined : overrideOf(bundle, before, downgradeReason);
    if (downgradeReason !== undefined) sayOverride(override, emit);
    return await installBundle(bundle, paths, options, io, override);
  } catch (error) {
    throw await withVolumes(error, path, options.volumes, io);
  } finally {
    await bundle?.close();
  }
}

function sayOverride(override: AgreedOverride | undefined, emit: Emit): void {
  if (override === undefined) {
    emit({ type: 'check', name: 'version', outcome: 'ok', detail: '--allow-downgrade was not needed' });
    return;
  }
  const detail = `left out: ${override.refused} (${override.reason})`;
  emit({ type: 'check', name: 'version', outcome: 'skipped', detail });
}

async function installBundle(
  bundle: VerifiedBundle,
  paths: HostPaths,
  options: InstallOptions,
  io: Io,
  override: AgreedOverride | undefined,
): Promise<Result> {
  const plan = await planInstall(bundle, {
    ...paths,
    now: io.now,
    emit: io.emit,
    ...(override && { override }),
  });
  if (options.dryRun) return { schema: 'sealift/plan/v1', data: planData(plan), text: planLines(plan) };
  for (const line of planLines(plan)) io.out.note(line);
  // Where nothing is left to do there is nothing to consent to.
  const idle = plan.takesBack === undefined && plan.steps.every((step) => step.state === 'done');
  const despite = override === undefined ? '' : `, although ${override.refused}`;
  await demandConsent(options.yes || idle, io, `install ${plan.release}${despite}?`);
  const receipt = await applyPlan(plan, { emit: io.emit, signal: io.signal });
  const { gatewayUrl, apiKeysFile } = plan;
  return {
    schema: 'sealift/install/v1',
    data: { bundle: bundleData(plan), changed: !idle, gatewayUrl, apiKeysFile, receipt },
    text: installedLines(plan, receipt, idle),
  };
}

function bundleData({ bundle }: Plan): object {
  const { inventory, digest, size, path } = bundle;
  return { path, name: inventory.name, version: inventory.version, digest, size };
}

function planData(plan: Plan): object {
  const { release, replaces, takesBack, override, gatewayUrl, apiKeysFile, steps, totalBytes, bundle } = plan;
  const { policy, verdict } = bundle;
  return {
    bundle: bundleData(plan),
    signers: verdict.accepted,
    policy: { ...policyId(policy), adopted: !plan.adoptsPolicy },
    release,
    replaces,
    takesBack,
    override,
    gatewayUrl,
    apiKeysFile,
    steps,
    totalBytes,
  };
}

function planLines(plan: Plan): Line[] {
  const { bundle, release, replaces, takesBack, override, gatewayUrl, steps, totalBytes } = plan;
  const needed = steps.filter((step) => step.state === 'needed').length;
  return [
    [styled('bold', `plan for ${release}`), `  ${bundle.digest}`],
    ...table(
      [
        ...bundle.verdict.accepted.map((signature) => ['signed by', acceptedText(signature)]),
        ['policy', policyLine(plan)],
        ...(takesBack === undefined ? [] : [['takes back', `the unfinished install of ${takesBack}`]]),
        ...(override === undefined
          ? []
          : [
              ['override', override.refused],
              ['reason', override.reason],
            ]),
        ['replaces', replaces ?? 'nothing'],
        ...(gatewayUrl === undefined ? [] : [['gateway', gatewayUrl]]),
      ],
      '  ',
    ),
    ...table(
      steps.map((step) => [
        step.state === 'needed' ? 'to do' : 'there',
        step.describe,
        step.bytes > 0 ? formatBytes(step.bytes) : '',
      ]),
      '  ',
    ),
    `  ${count(needed, 'step')} to do, ${formatBytes(totalBytes)} to move`,
  ];
}

/** The first install adopts whatever stands in the home, and this is where a person can see that it is the right one. */
function policyLine({ bundle: { policy }, adoptsPolicy }: Plan): string {
  const first = adoptsPolicy ? '  (this install adopts it: compare the digest by another way)' : '';
  return `version ${policy.version}  ${policy.fingerprint}${first}`;
}

function installedLines({ release, gatewayUrl, apiKeysFile }: Plan, receipt: Receipt, idle: boolean): Line[] {
  const rows = [
    ...(gatewayUrl === undefined ? [] : [['gateway', gatewayUrl]]),
    ...(apiKeysFile === undefined ? [] : [['API keys', apiKeysFile]]),
    ...receipt.smoke.map(({ service, answer }) => [
      'answer',
      `${service}: ${answer || '(still thinking after a few tokens)'}`,
    ]),
  ];
  return [
    [styled('green', idle ? 'already installed' : 'installed'), `  ${release}  ${receipt.bundle.digest}`],
    ...table(rows),
  ];
}
