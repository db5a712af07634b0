// SPDX-License-Identifier: Apache-2.0
/** From a verified bundle and a host to a plan: preflight, then the list of steps and which of them are needed. */
import { mkdir } from 'node:fs/promises';
import type { VerifiedBundle } from '../bundle/open.ts';
import { SealiftError } from '../errors.ts';
import { silent, type Emit } from '../events.ts';
import type { Digest } from '../store/digest.ts';
import { Store } from '../store/store.ts';
import { apiKeysFile, readApiKeys } from './api-keys.ts';
import { borrowedBytes, demandBase, type Borrowed } from './base.ts';
import { expectedId, EngineClient } from './engine-client.ts';
import { servicesOf, type Service } from '../engines/index.ts';
import { releaseName, type Home } from './home.ts';
import { readHostKey, type HostKey } from './host-key.ts';
import { composeFinder, type Compose } from './host.ts';
import { readJournal, type JournalState } from './journal.ts';
import { overridesOf, type AgreedOverride } from './override.ts';
import {
  checkDisk,
  checkPlatform,
  checkPort,
  checkRelease,
  checkTags,
  engineDiskWarning,
  Findings,
  laterThanHere,
  spoolBytes,
  type DiskUse,
} from './preflight.ts';
import { readReceipt, readReceipts } from './receipt.ts';
import { readSite, type Site } from './site.ts';
import type { Step, StepState, World } from './step.ts';
import { configStep } from './steps/config.ts';
import { FilesStep } from './steps/files.ts';
import { CurrentStep, SmokeStep, type Changes } from './steps/finish.ts';
import { ImageStep } from './steps/image.ts';
import { modelPath, modelStep } from './steps/model.ts';
import { ReturnStep, ServiceStep } from './steps/service.ts';
import { projectName, RELEASE_LABEL } from './targets/compose.ts';
import { readTrustState } from './trust-state.ts';
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
  /** What a person has agreed to install in spite of a refusal. */
  override?: AgreedOverride;
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

/** The host's side of a bundle with services. */
interface Stack {
  site: Site;
  tls: TlsFiles;
  services: Service[];
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
  const host = await preflight(bundle, input, store, emit);
  return makePlan(bundle, input, host);
}

/** What preflight found. */
interface Host {
  world: World;
  stack: Stack | undefined;
  compose: Compose | undefined;
  /** With which the receipt is signed. */
  hostKey: HostKey | undefined;
  /** Layers that a delta leaves out, by image. */
  borrowed: ReadonlyMap<string, readonly Borrowed[]>;
}

async function preflight(bundle: VerifiedBundle, input: PlanInput, store: Store, emit: Emit): Promise<Host> {
  const { home, now } = input;
  const { inventory } = bundle;
  const serves = inventory.services.length > 0;
  const unfinished = await readJournal(home);
  const findings = new Findings(emit);
  const say = async (detail: Promise<string> | string): Promise<{ detail: string; value: undefined }> => ({
    detail: await detail,
    value: undefined,
  });
  const site = serves
    ? await findings.check('site', async () => ({ value: await readSite(home), detail: home.siteFile }))
    : undefined;
  const engine = await findings.check('engine', async () => {
    const value = await EngineClient.connect(input.socket);
    return { value, detail: `${value.facts.version}, ${value.facts.store} store, on ${input.socket}` };
  });
  if (engine)
    await findings.check('platform', () =>
      say(Promise.resolve().then(() => checkPlatform(engine, inventory.platform))),
    );
  const findCompose = composeFinder(input);
  const compose = serves
    ? await findings.check('compose', async () => {
        const value = await findCompose();
        return { value, detail: `version ${value.version}` };
      })
    : undefined;
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
  const borrowed = engine && (await checkBase(bundle, { home, store, engine, emit }, findings));
  const hostKey = await findings.check('host key', async () => {
    const value = await readHostKey(home);
    return { value, detail: value?.fingerprint ?? 'none, so the receipt is not signed' };
  });
  await findings.check('release', () => say(checkRelease(home, inventory)));
  await findings.check('disk', () => say(checkDisk(diskUse(bundle, home, store, engine, borrowed))));
  if (engine)
    await findings.check('tags', () =>
      say(checkTags(engine, bundle, unfinished?.bundle === bundle.digest ? undefined : unfinished)),
    );
  findings.demandNone();
  const warning = await engineDiskWarning(engine!, bundle);
  if (warning !== undefined) findings.warn('engine disk', warning);
  const world = { home, store, engine: engine!, compose: findCompose, emit };
  const later = laterThanHere(bundle);
  if (later !== undefined) findings.warn('time', later);
  return {
    world,
    compose,
    hostKey,
    borrowed: borrowed ?? new Map(),
    stack: site && { site, tls: tls!, services: services! },
  };
}

/** What a delta leaves out, looked for on this host; undefined when something of it is missing. */
async function checkBase(
  bundle: VerifiedBundle,
  world: Parameters<typeof demandBase>[1],
  findings: Findings,
): Promise<Map<string, Borrowed[]> | undefined> {
  const { base } = bundle.inventory;
  if (base === undefined) return new Map();
  return findings.check('base', async () => ({
    value: await demandBase(bundle, world),
    detail: `${base.name} ${base.version}: ${base.omits.length} blobs are here, intact`,
  }));
}

function diskUse(
  bundle: VerifiedBundle,
  home: Home,
  store: Store,
  engine: EngineClient | undefined,
  borrowed: ReadonlyMap<string, readonly Borrowed[]> = new Map(),
): DiskUse {
  const { models, configs } = bundle.inventory;
  const blobs = [...models.flatMap((model) => model.files), ...configs];
  const spool = Math.max(engine ? spoolBytes(bundle, engine) : 0, borrowedBytes(borrowed));
  return { home, store, blobs, spool, engine, images: bundle.images };
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
 * The release that runs in a Compose project and so would be replaced. Its containers say which one it is;
 * `current` does not, because it may name a release of another bundle. An unfinished install of this project has
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
  const running = new Set((await engine.containers(project)).map((c) => c.labels[RELEASE_LABEL]));
  const current = await home.current();
  return ours.find((release) => running.has(release)) ?? ours.find((release) => release === current);
}

export const gatewayUrl = ({ hostName, listen }: Site): string =>
  `https://${hostName}${listen.port === 443 ? '' : `:${listen.port}`}`;

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
