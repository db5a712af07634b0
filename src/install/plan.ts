// SPDX-License-Identifier: Apache-2.0
/** From a verified bundle and a host to a plan: preflight, then the list of steps and which of them are needed. */
import { mkdir } from 'node:fs/promises';
import type { VerifiedBundle } from '../bundle/open.ts';
import { SealiftError } from '../errors.ts';
import { silent, type Emit } from '../events.ts';
import type { Digest, Expected } from '../store/digest.ts';
import { Store } from '../store/store.ts';
import { EngineClient } from './engine-client.ts';
import { servicesOf, type Service } from './engines.ts';
import { releaseName, type Home } from './home.ts';
import { Compose } from './host.ts';
import { readJournal } from './journal.ts';
import {
  checkDisk,
  checkPlatform,
  checkPort,
  checkTags,
  engineDiskWarning,
  Findings,
  spoolBytes,
} from './preflight.ts';
import { readReceipt } from './receipt.ts';
import { apiKeysFile, readApiKeys, readSite, type Site } from './site.ts';
import type { Step, StepState, World } from './step.ts';
import { configStep } from './steps/config.ts';
import { FilesStep } from './steps/files.ts';
import { CurrentStep, SmokeStep, type Changes } from './steps/finish.ts';
import { expectedId, ImageStep } from './steps/image.ts';
import { modelPath, modelStep } from './steps/model.ts';
import { ReturnStep, ServiceStep } from './steps/service.ts';
import { projectName } from './targets/compose.ts';
import { readTls, type TlsFiles } from './tls.ts';
import { makeReceipt, type Outcomes } from './outcome.ts';

export interface PlanInput {
  home: Home;
  /** Path of the engine's unix socket. */
  socket: string;
  /** PATH for finding docker and Compose. */
  path: string;
  /** Path of a Compose v2 executable, instead of looking for one. */
  compose?: string;
  now: () => Date;
  emit?: Emit;
  /** Limit for services to become healthy, in seconds, instead of the one of the engine's row. */
  readyTimeoutSeconds?: number;
}

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
}

/** The host's side of a bundle with services. */
interface Stack {
  site: Site;
  tls: TlsFiles;
  services: Service[];
}

/**
 * Judges the host and lists what an install would do. Changes nothing but makes the home's empty folders.
 * @throws {SealiftError} SITE_MISSING, SITE_INVALID; ENGINE_NOT_RUNNING, ENGINE_UNSUPPORTED, COMPOSE_UNSUPPORTED,
 *   SERVICE_UNSUPPORTED, TLS_INVALID, PORT_TAKEN, DISK_TOO_SMALL, TAG_CONFLICT
 */
export async function planInstall(bundle: VerifiedBundle, input: PlanInput): Promise<Plan> {
  const emit = input.emit ?? silent;
  emit({ type: 'stage', name: 'looking at this host' });
  await mkdir(input.home.root, { recursive: true, mode: 0o755 });
  const store = await Store.open(input.home.root);
  const { world, stack } = await preflight(bundle, input, store, emit);
  return makePlan(bundle, input, world, stack);
}

async function preflight(
  bundle: VerifiedBundle,
  input: PlanInput,
  store: Store,
  emit: Emit,
): Promise<{ world: World; stack: Stack | undefined }> {
  const { home, now } = input;
  const { inventory } = bundle;
  const site = inventory.services.length > 0 ? await readSite(home) : undefined;
  const unfinished = await readJournal(home);
  const findings = new Findings(emit);
  const say = async (detail: Promise<string> | string): Promise<{ detail: string; value: undefined }> => ({
    detail: await detail,
    value: undefined,
  });
  const engine = await findings.check('engine', async () => {
    const value = await EngineClient.connect(input.socket);
    return { value, detail: `${value.facts.version}, ${value.facts.store} store, on ${input.socket}` };
  });
  if (engine)
    await findings.check('platform', () =>
      say(Promise.resolve().then(() => checkPlatform(engine, inventory.platform))),
    );
  const compose = await findings.check('compose', async () => {
    const value = await Compose.find({ ...input, configFolder: home.path('docker-config') });
    return { value, detail: `version ${value.version}` };
  });
  const services = await findings.check('services', async () => ({
    value: servicesOf(inventory),
    detail: inventory.services.map((s) => s.engine).join(', ') || 'none',
  }));
  const tls =
    site &&
    (await findings.check('certificate', async () => tlsFinding(await readTls(site, home, now()), findings)));
  if (site) await findings.check('keys', () => say(keysFinding(site, home)));
  if (site && engine)
    await findings.check('port', () => say(checkPort(engine, site, projectName(inventory.name))));
  const blobs: Expected[] = [...inventory.models.flatMap((m) => m.files), ...inventory.configs];
  await findings.check('disk', () =>
    say(checkDisk(home, store, blobs, engine ? spoolBytes(bundle, engine) : 0)),
  );
  if (engine)
    await findings.check('tags', () =>
      say(checkTags(engine, bundle, unfinished?.bundle === bundle.digest ? undefined : unfinished)),
    );
  findings.demandNone();
  const warning = await engineDiskWarning(engine!, bundle);
  if (warning !== undefined) findings.warn('engine disk', warning);
  const world = { home, store, engine: engine!, compose: compose!, emit };
  return { world, stack: site && { site, tls: tls!, services: services! } };
}

function tlsFinding(tls: TlsFiles, findings: Findings): { value: TlsFiles; detail: string } {
  for (const warning of tls.warnings) findings.warn('certificate', warning);
  return { value: tls, detail: `fits its key, until ${tls.expires.toISOString().slice(0, 10)}` };
}

async function keysFinding(site: Site, home: Home): Promise<string> {
  const file = apiKeysFile(site, home);
  const keys = await readApiKeys(file);
  if (keys === undefined && site.apiKeys !== undefined) {
    throw new SealiftError(
      'SITE_INVALID',
      `apiKeys in ${home.siteFile} names ${file}, which does not exist`,
      {
        hint: 'make it, or take apiKeys out: then one is made with a key in it',
      },
    );
  }
  return keys === undefined ? `one will be made in ${file}` : `${keys.length} in ${file}`;
}

async function makePlan(
  bundle: VerifiedBundle,
  input: PlanInput,
  world: World,
  stack: Stack | undefined,
): Promise<Plan> {
  const { home } = input;
  const { inventory } = bundle;
  const release = releaseName(inventory);
  const changes: Changes = { changed: false };
  const outcomes: Outcomes = { list: [], brought: new Set(), startedAt: input.now() };
  const replaces = await replacedRelease(home, projectName(inventory.name));
  const steps = await listSteps({ bundle, input, world, stack, changes, outcomes, replaces });
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
    gatewayUrl: stack && gatewayUrl(stack.site),
    apiKeysFile: stack && apiKeysFile(stack.site, home),
    steps: planned,
    totalBytes: planned.reduce((sum, step) => sum + step.bytes, 0),
    work: { world, steps, changes, outcomes, now: input.now },
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

/** The current release, when it runs in the same Compose project and so would be replaced. */
async function replacedRelease(home: Home, project: string): Promise<string | undefined> {
  const current = await home.current();
  const receipt = current === undefined ? undefined : await readReceipt(home, current);
  return receipt?.gateway?.project === project ? current : undefined;
}

export const gatewayUrl = ({ hostName, listen }: Site): string =>
  `https://${hostName}${listen.port === 443 ? '' : `:${listen.port}`}`;

interface Parts {
  bundle: VerifiedBundle;
  input: PlanInput;
  world: World;
  stack: Stack | undefined;
  changes: Changes;
  outcomes: Outcomes;
  replaces: string | undefined;
}

async function listSteps(parts: Parts): Promise<Step[]> {
  const { bundle, input, world, stack, changes, outcomes } = parts;
  const { inventory } = bundle;
  const modelPaths = new Map<string, string>();
  for (const model of inventory.models) modelPaths.set(model.name, await modelPath(world, model));
  const models = await Promise.all(
    inventory.models.map((m) => modelStep(world, bundle, m, modelPaths.get(m.name)!)),
  );
  const configs = inventory.configs.length > 0 ? [await configStep(world, bundle, inventory.configs)] : [];
  const images = bundle.images.map((image) => new ImageStep(world, bundle, image));
  const running = stack ? await stackSteps(parts, stack, modelPaths) : undefined;
  const current = new CurrentStep({
    home: input.home,
    bundle: { name: inventory.name, version: inventory.version, digest: bundle.digest },
    before: {
      release: await input.home.current(),
      installed: (await input.home.installed()).get(inventory.name),
      hadReceipt: (await readReceipt(input.home, releaseName(inventory))) !== undefined,
    },
    changes,
    receipt: () =>
      makeReceipt({
        bundle,
        world,
        outcomes,
        modelPaths,
        services: stack?.services ?? [],
        site: stack?.site,
        smoke: running?.smoke.answers ?? [],
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
  });
  const service = new ServiceStep(world, {
    project,
    release,
    bundle: bundle.digest,
    services: stack.services,
    imageIds,
    gatewayImage: inventory.gateway!.image,
    replaces,
    readyTimeoutSeconds: input.readyTimeoutSeconds,
  });
  const smoke = new SmokeStep(input.home, release, { engine: world.engine, project, ...stack }, changes);
  return { steps: [new ReturnStep(project, replaces), files, service, smoke], smoke };
}
