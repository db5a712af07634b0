// SPDX-License-Identifier: Apache-2.0
/** From a verified bundle and a host to a plan: preflight, then the list of steps and which of them are needed. */
import { mkdir } from 'node:fs/promises';
import type { VerifiedBundle } from '../bundle/open.ts';
import { silent } from '../events.ts';
import type { Digest } from '../store/digest.ts';
import { Store } from '../store/store.ts';
import { apiKeysFile } from './api-keys.ts';
import type { Borrowed } from './base.ts';
import { expectedId } from './engine-client.ts';
import { releaseName } from './home.ts';
import type { HostKey } from './host-key.ts';
import type { Compose } from './host.ts';
import { readJournal, type JournalState } from './journal.ts';
import { preflight, type Host, type PlanInput, type Stack } from './look.ts';
import { overridesOf, type AgreedOverride } from './override.ts';
import { Findings } from './preflight.ts';
import { readReceipt, readReceipts } from './receipt.ts';
import { releasesIn } from './running.ts';
import { gatewayUrl } from './site.ts';
import type { Step, StepState, World } from './step.ts';
import { configStep } from './steps/config.ts';
import { FilesStep } from './steps/files.ts';
import { CurrentStep, SmokeStep, type Changes } from './steps/finish.ts';
import { ImageStep } from './steps/image.ts';
import { modelPath, modelStep } from './steps/model.ts';
import { ReturnStep, ServiceStep } from './steps/service.ts';
import { projectName } from './targets/compose.ts';
import { readTrustState } from './trust-state.ts';
import { makeReceipt, type Outcomes } from './outcome.ts';

export interface PlannedStep {
  id: string;
  describe: string;
  state: StepState;
  /** Bytes that the step would move. */
  bytes: number;
}

/** What an install would do. `applyPlan` does it; every step is checked again then. */
export interface Plan {
  bundle: VerifiedBundle;
  release: string;
  /** The release that runs now and would be replaced. */
  replaces: string | undefined;
  /** A release whose install another bundle left unfinished; it would be taken back first. */
  takesBack: string | undefined;
  override: AgreedOverride | undefined;
  /** Whether the host has adopted no policy yet, so that this install adopts the one of `bundle`. */
  adoptsPolicy: boolean;
  gatewayUrl: string | undefined;
  /** Path of the file with the clients' keys. */
  apiKeysFile: string | undefined;
  steps: PlannedStep[];
  totalBytes: number;
  /** For `applyPlan`. */
  work: Work;
}

/** The live parts of a plan. */
export interface Work {
  world: World;
  steps: readonly Step[];
  changes: Changes;
  outcomes: Outcomes;
  now: () => Date;
  /** The bundle whose unfinished install would be taken back first. */
  unfinished: Digest | undefined;
  /** Makes the plan again from what the host is now. For the holder of the home's lock. */
  remake: () => Promise<Plan>;
}

/**
 * Judges the host and lists what an install would do. Changes nothing but makes the home's empty folders.
 * @throws {SealiftError} SITE_MISSING, SITE_INVALID; ENGINE_NOT_RUNNING, ENGINE_UNSUPPORTED, COMPOSE_UNSUPPORTED,
 *   SERVICE_UNSUPPORTED, TLS_INVALID, KEY_INVALID, PORT_TAKEN, DISK_TOO_SMALL, TAG_CONFLICT, RELEASE_CONFLICT
 */
export async function planInstall(bundle: VerifiedBundle, input: PlanInput): Promise<Plan> {
  const emit = input.emit ?? silent;
  emit({ type: 'stage', name: 'looking at this host' });
  await mkdir(input.home.root, { recursive: true, mode: 0o755 });
  const store = await Store.open(input.home.root);
  const findings = new Findings(emit);
  const host = await preflight(bundle, input, store, findings);
  findings.demandNone();
  return makePlan(bundle, input, host!);
}

async function makePlan(bundle: VerifiedBundle, input: PlanInput, host: Host): Promise<Plan> {
  const { home } = input;
  const { world, stack } = host;
  const { inventory } = bundle;
  const release = releaseName(inventory);
  const changes: Changes = { changed: false };
  const outcomes: Outcomes = { list: [], brought: new Set(), startedAt: input.now() };
  const unfinished = await readJournal(home);
  const foreign = unfinished?.bundle === bundle.digest ? undefined : unfinished;
  const replaces = stack && (await replacedRelease(world, projectName(inventory.name), unfinished));
  const steps = await listSteps({ bundle, input, ...host, changes, outcomes, replaces });
  const planned: PlannedStep[] = [];
  for (const step of steps.filter((s) => !s.passive)) {
    const state = await stateNow(step);
    if (state === 'needed') changes.changed = true;
    planned.push({
      id: step.id,
      describe: step.describe(),
      state,
      bytes: state === 'needed' ? step.bytes : 0,
    });
  }
  return {
    bundle,
    release,
    replaces: replaces === release ? undefined : replaces,
    takesBack: foreign?.release,
    override: input.override,
    adoptsPolicy: (await readTrustState(home)) === undefined,
    gatewayUrl: stack && gatewayUrl(stack.site),
    apiKeysFile: stack && apiKeysFile(stack.site, home),
    steps: planned,
    totalBytes: planned.reduce((sum, step) => sum + step.bytes, 0),
    work: {
      world,
      steps,
      changes,
      outcomes,
      now: input.now,
      unfinished: foreign?.bundle,
      remake: () => makePlan(bundle, input, host),
    },
  };
}

/** A tag that is in the way although preflight passed belongs to an unfinished install that is taken back first. */
async function stateNow(step: Step): Promise<StepState> {
  try {
    return await step.check();
  } catch (error) {
    if ((error as { code?: string }).code === 'TAG_CONFLICT') return 'needed';
    throw error;
  }
}

/**
 * The release that runs in a Compose project and so would be replaced. An unfinished install of this project has
 * noted it before it touched the containers.
 */
async function replacedRelease(
  { home, engine }: World,
  project: string,
  unfinished: JournalState | undefined,
): Promise<string | undefined> {
  for (const { record } of unfinished?.entries ?? [])
    if (record.kind === 'return' && record.project === project) return record.release;
  const ours = (await readReceipts(home))
    .filter((receipt) => receipt.gateway?.project === project)
    .map(({ release }) => release);
  const running = await releasesIn(engine, project);
  const current = await home.current();
  return ours.find((release) => running.has(release)) ?? ours.find((release) => release === current);
}

interface Parts {
  bundle: VerifiedBundle;
  input: PlanInput;
  borrowed: ReadonlyMap<string, readonly Borrowed[]>;
  world: World;
  stack: Stack | undefined;
  compose: Compose | undefined;
  hostKey: HostKey | undefined;
  changes: Changes;
  outcomes: Outcomes;
  replaces: string | undefined;
}

async function listSteps(parts: Parts): Promise<Step[]> {
  const { bundle, input, world, stack, changes, outcomes } = parts;
  const { inventory } = bundle;
  const modelPaths = new Map<string, string>();
  for (const model of inventory.models)
    modelPaths.set(model.name, await modelPath(world, model, bundle.digest));
  const models = await Promise.all(
    inventory.models.map((m) => modelStep(world, bundle, m, modelPaths.get(m.name)!)),
  );
  const configs = inventory.configs.length > 0 ? [await configStep(world, bundle, inventory.configs)] : [];
  const images = bundle.images.map(
    (image) => new ImageStep(world, bundle, image, parts.borrowed.get(image.name)),
  );
  const running = stack ? await stackSteps(parts, stack, modelPaths) : undefined;
  const overrides = await overridesOf(input.home, bundle, input.override);
  const current = new CurrentStep({
    home: input.home,
    bundle,
    before: {
      release: await input.home.current(),
      installed: (await input.home.installed()).get(inventory.name),
      hadReceipt: (await readReceipt(input.home, releaseName(inventory))) !== undefined,
    },
    changes,
    hostKey: parts.hostKey,
    receipt: () =>
      makeReceipt({
        bundle,
        world,
        compose: parts.compose?.version,
        outcomes,
        modelPaths,
        services: stack?.services ?? [],
        site: stack?.site,
        smoke: running?.smoke.answers ?? [],
        overrides,
        hostKey: parts.hostKey?.fingerprint,
        now: input.now(),
      }),
  });
  return [...models, ...configs, ...images, ...(running?.steps ?? []), current];
}

async function stackSteps(
  parts: Parts,
  stack: Stack,
  modelPaths: ReadonlyMap<string, string>,
): Promise<{ steps: Step[]; smoke: SmokeStep }> {
  const { bundle, input, world, changes, replaces } = parts;
  const { inventory } = bundle;
  const release = releaseName(inventory);
  const project = projectName(inventory.name);
  const imageIds = new Map<string, Digest>(
    bundle.images.map((image) => [image.name, expectedId(image, world.engine.facts.store)]),
  );
  const files = await FilesStep.create({
    home: input.home,
    inventory,
    bundle: bundle.digest,
    ...stack,
    imageIds,
    modelPaths,
    engine: world.engine.facts.kind,
  });
  const service = new ServiceStep(world, {
    project,
    release,
    bundle: bundle.digest,
    services: stack.services,
    imageIds,
    gatewayImage: inventory.gateway!.image,
    monitoring: inventory.monitoring,
    replaces,
    readyTimeoutSeconds: input.readyTimeoutSeconds,
  });
  const smoke = new SmokeStep(input.home, release, { engine: world.engine, project, ...stack }, changes);
  return { steps: [new ReturnStep(project, replaces), files, service, smoke], smoke };
}
