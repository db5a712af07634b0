// SPDX-License-Identifier: Apache-2.0
/**
 * Back to a release that is still here, without its medium: what runs is replaced as by an install, with health checks,
 * a smoke test, and a return when they fail. The policy of today must still accept what the older release was
 * made of; only the check against the newer version is left out, and why goes into the receipt.
 */
import { SealiftError } from '../errors.ts';
import { silent } from '../events.ts';
import { Store } from '../store/store.ts';
import type { TrustPolicy } from '../trust/policy.ts';
import { carryOut, type ApplyOptions } from './carry-out.ts';
import { EngineClient } from './engine-client.ts';
import type { Home } from './home.ts';
import { readHostKey } from './host-key.ts';
import { composeFinder } from './host.ts';
import { Journal, readJournal, unfinishedInstall, type JournalState } from './journal.ts';
import { demandAccepted, readInstalled, type Installed } from './kept-bundle.ts';
import type { PlanInput } from './look.ts';
import type { Override } from './override.ts';
import { checkPort } from './preflight.ts';
import { readReceipt, readReceipts, type Receipt } from './receipt.ts';
import { dropCopy } from './release-folder.ts';
import { specOf } from './rerender.ts';
import { releasesIn } from './running.ts';
import { readSite } from './site.ts';
import type { Step, World } from './step.ts';
import { FilesStep } from './steps/files.ts';
import { BackStep, SmokeStep, type Changes } from './steps/finish.ts';
import { isPlaced } from './steps/folder.ts';
import { configsPath } from './steps/config.ts';
import { ReturnStep, ServiceStep } from './steps/service.ts';
import { readTls } from './tls.ts';
import { demandStanding } from './trust-state.ts';

export interface RollbackInput extends PlanInput {
  policy: TrustPolicy;
  /** The host's time, by which signatures are judged: never before one that was seen. */
  judged: Date;
  /** The release to go back to; by default the one that was installed last before the current one. */
  release?: string;
  /** Why, for the receipt. */
  reason: string;
}

export interface RollbackPlan {
  release: string;
  /** What runs now. */
  replaces: string | undefined;
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
  const left = await readJournal(home);
  const current = await demandCurrent(home);
  const installed = await readInstalled(home, left?.release ?? (await targetOf(input, current)));
  demandNoOther(left, installed.receipt);
  demandAccepted(installed, input.policy, input.judged);
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
    steps: work.steps.filter((step) => !step.passive).map((step) => step.describe()),
    apply: (options) => apply(installed, { ...work, input, world, current }, options),
  };
}

async function demandCurrent(home: Home): Promise<Receipt> {
  const release = await home.current();
  const receipt = release === undefined ? undefined : await readReceipt(home, release);
  if (receipt !== undefined) return receipt;
  throw new SealiftError('NOT_INSTALLED', `nothing is current in ${home.root}`, { hint: 'sealift status' });
}

/** A rollback that was broken off goes on; what is unfinished otherwise comes first. */
function demandNoOther(left: JournalState | undefined, { release, bundle }: Receipt): void {
  if (left === undefined || (left.release === release && left.bundle === bundle.digest)) return;
  throw unfinishedInstall(left);
}

async function targetOf({ home, release }: RollbackInput, current: Receipt): Promise<string> {
  const others = (await readReceipts(home)).filter(
    (r) => r.bundle.name === current.bundle.name && r.finishedAt < current.finishedAt,
  );
  const last = others.toSorted((a, b) => (a.finishedAt < b.finishedAt ? 1 : -1))[0];
  const wanted = release ?? last?.release;
  if (wanted !== undefined && wanted !== current.release) return wanted;
  throw new SealiftError(
    'NOT_INSTALLED',
    wanted === undefined
      ? `no release of ${current.bundle.name} from before ${current.release} is here`
      : `${wanted} is current already`,
    { hint: 'an older one can be installed from its medium: sealift install BUNDLE --allow-downgrade WHY' },
  );
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

/** What runs now; a rollback that was broken off noted it before it touched the containers. */
async function replacedBy({ home, engine }: World, project: string): Promise<string | undefined> {
  for (const { record } of (await readJournal(home))?.entries ?? [])
    if (record.kind === 'return' && record.project === project) return record.release;
  const running = await releasesIn(engine, project);
  return (await readReceipts(home)).find(({ release }) => running.has(release))?.release;
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
  const spec = specOf(home, installed, { site, tls, engine: engine.facts });
  const replaces = await replacedBy(world, project);
  const services = new ServiceStep(world, {
    project,
    release: receipt.release,
    bundle: receipt.bundle.digest,
    services: spec.services,
    imageIds: spec.imageIds,
    gatewayImage: receipt.gateway.image,
    monitoring: installed.inventory.monitoring,
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
    await demandStanding(home, input.policy);
    const left = await readJournal(home);
    demandNoOther(left, receipt);
    if ((await demandCurrent(home)).release !== current.release)
      throw new SealiftError('HOST_CHANGED', 'another release became current since the plan was made', {
        hint: 'run the same command again, and look at the new plan',
      });
    await home.prepare();
    if (left === undefined) await dropCopy(home, receipt.release); // of a kill right after a success
    const journal =
      left === undefined
        ? Journal.fresh(home, receipt.bundle.digest, receipt.release, input.now())
        : new Journal(home, left);
    const outcomes = { list: [], brought: new Set<string>(), startedAt: input.now() };
    const { release } = receipt;
    return await carryOut(
      { what: 'going back to', release, world, steps, changes, outcomes, totalBytes: 0, atHand: true },
      journal,
      options,
    );
  } finally {
    await unlock();
  }
}
