// SPDX-License-Identifier: Apache-2.0
import { openBundle, type VerifiedBundle } from '../../bundle/open.ts';
import { asSealiftError, type SealiftError } from '../../errors.ts';
import type { SealiftEvent } from '../../events.ts';
import { examineHost } from '../../install/look.ts';
import { parseProbeTarget, type ProbeTarget } from '../../install/probe.ts';
import { command, type Result } from '../command.ts';
import type { Io } from '../context.ts';
import { checkLine, type Check } from '../evidence.ts';
import { adoptedPolicy, findBundle } from '../files.ts';
import { count } from '../format.ts';
import { HOST_OPTIONS, hostFlags, hostPaths, type HostFlags, type HostPaths } from '../host-options.ts';
import { styled, type Line } from '../output.ts';
import { mediaOf, VOLUMES_OPTION } from '../volumes.ts';

interface DoctorOptions {
  bundle: string | undefined;
  host: HostFlags;
  volumes: readonly string[];
  probes: readonly ProbeTarget[];
}

/** Exit status of a host that is not ready, see EXIT_CODES. */
const PREFLIGHT = 20;

export const doctor = command<DoctorOptions>({
  name: 'doctor',
  summary: 'Say what of this host would get in the way of an install, and what to do about it',
  about: [
    'Looks at the container engine and Compose, GPUs with their driver and runtime, memory, ports, certificate, keys, SELinux and AppArmor, control groups, rights, and at what the host is set up to reach. Nothing is changed, and no packet is sent unless --probe asks for it.',
    'Routes and name servers say what the host is set up to reach, and --probe what it does reach: the name is looked up, and a connection is opened to port 443 or the one that you name, over which nothing is sent. Name something of the outside; whoever watches there, or on the way, sees the attempt.',
    'With a bundle, which is verified first, also whether its images fit the driver, its models the memory of the GPUs (weights, KV cache and an allowance, with the arithmetic), and everything the disks, to the byte. An install begins with the same checks.',
  ],
  positional: {
    name: 'BUNDLE',
    about: 'the bundle that is to be installed, or the folder that holds it',
    required: false,
  },
  options: [
    {
      flags: '--probe <HOST>',
      about: 'try whether this HOST or HOST:PORT is reached',
      repeat: true,
    },
    VOLUMES_OPTION,
    ...HOST_OPTIONS,
  ],
  examples: [
    ['sealift doctor', 'before any bundle has come'],
    ['sealift doctor /media/usb', 'for the one bundle of a medium'],
    [
      'sealift doctor --probe example.org --probe 192.0.2.1:53',
      'is this an island? With packets that try it',
    ],
  ],
  exits: [10, 11, 12, 13, 14, 20],
  parse: (given) => ({
    bundle: given.positional,
    host: hostFlags(given),
    volumes: given.list('volumes'),
    probes: given.list('probe').map(parseProbeTarget),
  }),
  run: async (options, io) => {
    const paths = hostPaths(options.host, io.env);
    if (options.bundle === undefined) return examined(undefined, options.probes, paths, io);
    const { policy, time } = await adoptedPolicy(paths.home, io);
    const path = await findBundle(options.bundle);
    const bundle = await openBundle(path, {
      policy,
      now: time.judged,
      emit: io.emit,
      media: mediaOf(options.volumes, io),
    });
    try {
      return await examined(bundle, options.probes, paths, io);
    } finally {
      await bundle.close();
    }
  },
});

async function examined(
  bundle: VerifiedBundle | undefined,
  probes: readonly ProbeTarget[],
  paths: HostPaths,
  io: Io,
): Promise<Result> {
  const checks: Check[] = [];
  const emit = (event: SealiftEvent): void => {
    if (event.type === 'check') checks.push(event);
    else io.emit(event);
  };
  const untrusted = bundle === undefined ? await checkTrust(paths, io, emit) : undefined;
  const [unfit] = await examineHost(
    bundle,
    { ...paths, now: io.now, emit },
    {
      targets: probes,
      signal: io.signal,
    },
  );
  const problem = untrusted ?? unfit;
  return {
    schema: 'sealift/doctor/v1',
    data: { checks: checks.map(({ type: _, ...check }) => check) },
    text: [...checks.flatMap(lines), '', verdict(checks)],
    ...(problem === undefined ? {} : { exit: PREFLIGHT }),
  };
}

/** Whom the host trusts, which an install would ask first. */
async function checkTrust(
  { home }: HostPaths,
  io: Io,
  emit: (event: SealiftEvent) => void,
): Promise<SealiftError | undefined> {
  const check = { type: 'check', name: 'trust' } as const;
  try {
    const { policy } = await adoptedPolicy(home, io);
    emit({
      ...check,
      outcome: 'ok',
      detail: `policy version ${policy.version}, ${count(policy.signers.length, 'signer')}`,
    });
    return undefined;
  } catch (thrown) {
    const error = asSealiftError(thrown, 'reading the trust policy');
    emit({
      ...check,
      outcome: 'failed',
      detail: error.message,
      ...(error.hint === undefined ? {} : { advice: error.hint }),
    });
    return error;
  }
}

const lines = ({ outcome, name, detail, advice }: Check): Line[] => [
  checkLine(outcome, name, detail),
  ...(advice === undefined ? [] : [[styled('dim', `         ${''.padEnd(12)} do: ${advice}`)]]),
];

function verdict(checks: readonly Check[]): Line {
  const number = (outcome: Check['outcome']): number =>
    checks.filter((check) => check.outcome === outcome).length;
  const [bad, doubtful] = [number('failed'), number('warning')];
  if (bad > 0)
    return [styled('red', 'NOT READY'), `  ${count(bad, 'fault')} to mend, ${count(doubtful, 'warning')}`];
  return [styled('green', 'READY'), doubtful === 0 ? '' : `  ${count(doubtful, 'warning')} to look at`];
}
