// SPDX-License-Identifier: Apache-2.0
/**
 * Back to a release that is still here, without its medium: what runs is replaced as by an install, with health checks,
 * a smoke test, and a return when they fail. The policy of today must still accept what the older release was
 * made of; only the check against the newer version is left out, and why goes into the receipt.
 */
import { subjectOf } from '../bundle/judge.ts';
import { SealiftError } from '../errors.ts';
import { silent } from '../events.ts';
import type { Digest } from '../store/digest.ts';
import { Store } from '../store/store.ts';
import type { TrustPolicy } from '../trust/policy.ts';
import { checkPolicy } from '../trust/rules.ts';
import { demandThreshold, judgeSignatures } from '../trust/verify.ts';
import { carryOut, type ApplyOptions } from './carry-out.ts';
import { EngineClient } from './engine-client.ts';
import type { Home } from './home.ts';
import { readHostKey } from './host-key.ts';
import { composeFinder } from './host.ts';
import { Journal, readJournal } from './journal.ts';
import { readInstalled, type Installed } from './kept-bundle.ts';
import type { PlanInput } from './look.ts';
import type { Override } from './override.ts';
import { checkPort } from './preflight.ts';
import { readReceipts, type Receipt } from './receipt.ts';
import { specOf } from './rerender.ts';
import { readSite } from './site.ts';
import type { Step, World } from './step.ts';
import { FilesStep } from './steps/files.ts';
import { BackStep, SmokeStep, type Changes } from './steps/finish.ts';
import { isPlaced } from './steps/folder.ts';
import { configsPath } from './steps/config.ts';
import { ReturnStep, ServiceStep } from './steps/service.ts';
import { RELEASE_LABEL } from './targets/compose.ts';
import { readTls } from './tls.ts';

export interface RollbackInput extends PlanInput {
  policy: TrustPolicy;
  /** The release to go back to; by default the one that was installed last before the current one. */
  release?: string;
  /** Why, for the receipt. */
  reason: string;
}

export interface RollbackPlan {
  release: string;
  /** What runs now. */
  replaces: string | undefined;
  override: Override;
  steps: string[];
  apply(options: ApplyOptions): Promise<Receipt>;
}

/**
 * @throws {SealiftError} NOT_INSTALLED; RELEASE_GONE when something of the older release is not here any more;
 *   UNTRUSTED_SIGNER, SIGNER_REVOKED, BUNDLE_REVOKED, VERSION_REFUSED and the like by the policy of today;
 *   SITE_INVALID, TLS_INVALID, PORT_TAKEN, ENGINE_NOT_RUNNING, COMPOSE_UNSUPPORTED
 */
export async function planRollback(input: RollbackInput): Promise<RollbackPlan> {
  const { home, emit = silent } = input;
  const engine = await EngineClient.connect(input.socket);
  const current = await demandCurrent(home);
  const installed = await readInstalled(home, await targetOf(input, current));
  judge(installed, input);
  const store = await Store.open(home.root);
  const compose = composeFinder(input);
  if (installed.receipt.gateway !== undefined) await compose();
  const world: World = { home, store, engine, compose, emit };
  await demandWhole(installed, world);
  const { release, bundle } = installed.receipt;
  const override: Override = {
    check: 'version',
    refused: `${current.release} is current, and ${bundle.version} is gone back to`,
    reason: input.reason,
  };
  const work = await listSteps(installed, { input, world, current, override });
  return {
    release,
    replaces: current.release,
    override,
    steps: work.steps.filter((step) => !step.passive).map((step) => step.describe()),
    apply: (options) => apply(installed, { ...work, input, world, current }, options),
  };
}

async function demandCurrent(home: Home): Promise<Receipt> {
  const unfinished = await readJournal(home);
  if (unfinished !== undefined)
    throw new SealiftError('HOST_CHANGED', `an install of ${unfinished.release} is unfinished`, {
      hint: 'sealift uninstall takes it back; what ran before it goes on running',
    });
  return (await readInstalled(home)).receipt;
}

async function targetOf({ home, release }: RollbackInput, current: Receipt): Promise<string> {
  const others = (await readReceipts(home)).filter(
    (r) => r.bundle.name === current.bundle.name && r.release !== current.release,
  );
  const last = others.toSorted((a, b) => (a.finishedAt < b.finishedAt ? 1 : -1))[0];
  const wanted = release ?? last?.release;
  if (wanted !== undefined && wanted !== current.release) return wanted;
  throw new SealiftError(
    'NOT_INSTALLED',
    wanted === undefined
      ? `there is no other release of ${current.bundle.name} here`
      : `${wanted} is current already`,
    { hint: 'an older one can be installed from its medium: sealift install BUNDLE --allow-downgrade WHY' },
  );
}

function judge({ receipt, inventory, sums, slots }: Installed, { policy, now }: RollbackInput): void {
  demandThreshold(judgeSignatures(sums, slots, policy, now()), policy);
  checkPolicy(subjectOf(inventory, receipt.bundle.digest), policy, undefined);
}

/** By names, sizes and inodes; `sealift audit` hashes. */
async function demandWhole({ receipt, inventory }: Installed, { home, store, engine }: World): Promise<void> {
  const gone: [string, string][] = [];
  for (const { ref, id } of receipt.images) {
    if ((await engine.image(id)) === undefined) gone.push(['image', `${ref} (${id})`]);
  }
  for (const { name, path } of receipt.models) {
    const { files } = inventory.models.find((model) => model.name === name)!;
    if (!(await isPlaced(home.path(path), files, store))) gone.push(['model', path]);
  }
  const { configs } = inventory;
  const files = configs.map((c) => ({ ...c, path: c.name }));
  if (configs.length > 0 && !(await isPlaced(home.path(configsPath(configs)), files, store)))
    gone.push(['configs', configsPath(configs)]);
  if (gone.length === 0) return;
  throw new SealiftError('RELEASE_GONE', `${receipt.release} is not whole any more`, {
    details: gone,
    hint: 'install it from its medium: sealift install BUNDLE --allow-downgrade WHY',
  });
}

interface Parts {
  input: RollbackInput;
  world: World;
  current: Receipt;
  override: Override;
}

async function listSteps(
  installed: Installed,
  { input, world, current, override }: Parts,
): Promise<{ steps: Step[]; changes: Changes }> {
  const { home, engine } = world;
  const { receipt } = installed;
  const { name } = receipt.bundle;
  const changes: Changes = { changed: false };
  const before = { release: current.release, installed: (await home.installed()).get(name) };
  const back = new BackStep({ home, receipt, before, override, hostKey: await readHostKey(home) });
  if (receipt.gateway === undefined) return { steps: [back], changes };
  const site = await readSite(home);
  const { project } = receipt.gateway;
  await checkPort(engine, site, project);
  const tls = await readTls(site, home, input.now());
  const spec = specOf(home, installed, site, tls);
  const running = new Set((await engine.containers(project)).map((c) => c.labels[RELEASE_LABEL]));
  const replaces = (await readReceipts(home)).find(({ release }) => running.has(release))?.release;
  const services = new ServiceStep(world, {
    project,
    release: receipt.release,
    bundle: receipt.bundle.digest,
    services: spec.services,
    imageIds: spec.imageIds as ReadonlyMap<string, Digest>,
    gatewayImage: receipt.gateway.image,
    replaces,
    readyTimeoutSeconds: input.readyTimeoutSeconds,
  });
  const smoke = new SmokeStep(
    home,
    receipt.release,
    { engine, project, site, tls, services: spec.services },
    changes,
  );
  const files = await FilesStep.create(spec);
  return { steps: [new ReturnStep(project, replaces), files, services, smoke, back], changes };
}

/** Under the lock, and only while what was shown is current is still current. */
async function apply(
  { receipt }: Installed,
  { input, world, current, steps, changes }: Omit<Parts, 'override'> & { steps: Step[]; changes: Changes },
  options: ApplyOptions,
): Promise<Receipt> {
  const { home } = world;
  const unlock = await home.lock('rollback');
  try {
    world.emit = options.emit;
    if ((await demandCurrent(home)).release !== current.release)
      throw new SealiftError('HOST_CHANGED', 'another release became current since the plan was made', {
        hint: 'run the same command again, and look at the new plan',
      });
    await home.prepare();
    const journal = Journal.fresh(home, receipt.bundle.digest, receipt.release, input.now());
    const outcomes = { list: [], brought: new Set<string>(), startedAt: input.now() };
    const { release } = receipt;
    return await carryOut(
      { what: 'going back to', release, world, steps, changes, outcomes, totalBytes: 0 },
      journal,
      options,
    );
  } finally {
    await unlock();
  }
}
