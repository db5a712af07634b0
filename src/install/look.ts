// SPDX-License-Identifier: Apache-2.0
/**
 * Everything that can be said of a host before anything is changed: for an install, which it must not stand in the way
 * of, and for the doctor, who only wants to know. Each check is made, whatever the others find.
 */
import type { VerifiedBundle } from '../bundle/open.ts';
import { servicesOf, type Service } from '../engines/index.ts';
import { SealiftError } from '../errors.ts';
import { silent, type Emit } from '../events.ts';
import { Store } from '../store/store.ts';
import { formatBytes } from '../text.ts';
import { apiKeysFile, readApiKeys } from './api-keys.ts';
import { askedOf } from './asked.ts';
import { borrowedBytes, demandBase, type Borrowed } from './base.ts';
import { diagnose, type AskedService } from './doctor.ts';
import { EngineClient } from './engine-client.ts';
import { describeEngine } from './engine-facts.ts';
import type { Home } from './home.ts';
import { readHostFacts } from './host-facts.ts';
import { readHostKey, type HostKey } from './host-key.ts';
import { composeFinder, type Compose } from './host.ts';
import { readJournal } from './journal.ts';
import type { AgreedOverride } from './override.ts';
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
import { probe, type ProbeTarget } from './probe.ts';
import { readSite, type Site } from './site.ts';
import type { World } from './step.ts';
import { projectName } from './targets/compose.ts';
import { readTls, type TlsFiles } from './tls.ts';

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

/** The host's side of a bundle with services. */
export interface Stack {
  site: Site;
  tls: TlsFiles;
  services: Service[];
}

/** What preflight found. */
export interface Host {
  world: World;
  stack: Stack | undefined;
  compose: Compose | undefined;
  /** With which the receipt is signed. */
  hostKey: HostKey | undefined;
  /** Layers that a delta leaves out, by image. */
  borrowed: ReadonlyMap<string, readonly Borrowed[]>;
}

/** @returns undefined when a check failed without which there is no plan */
export async function preflight(
  bundle: VerifiedBundle,
  input: PlanInput,
  store: Store,
  findings: Findings,
): Promise<Host | undefined> {
  const { home, now, emit = silent } = input;
  const { inventory } = bundle;
  const serves = inventory.services.length > 0;
  const unfinished = await readJournal(home);
  const say = async (detail: Promise<string> | string): Promise<{ detail: string; value: undefined }> => ({
    detail: await detail,
    value: undefined,
  });
  const site = serves
    ? await findings.check('site', async () => ({ value: await readSite(home), detail: home.siteFile }))
    : undefined;
  const engine = await findings.check('engine', () => engineFinding(input.socket));
  if (engine)
    await findings.check('platform', () =>
      say(Promise.resolve().then(() => checkPlatform(engine, inventory.platform))),
    );
  const findCompose = composeFinder(input);
  const compose = serves ? await findings.check('compose', () => composeFinding(findCompose)) : undefined;
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
  await examine(bundle, { input, engine, site, services }, findings);
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
  if (engine === undefined || findings.failures.length > 0) return undefined;
  const warning = await engineDiskWarning(engine, bundle);
  if (warning !== undefined) findings.warn('engine disk', warning);
  const world = { home, store, engine, compose: findCompose, emit };
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

interface Examined {
  input: PlanInput;
  engine: EngineClient | undefined;
  site: Site | undefined;
  services: readonly Service[] | undefined;
}

/** What the doctor says of the host, for this bundle. */
async function examine(
  bundle: VerifiedBundle,
  { input, engine, site, services }: Examined,
  findings: Findings,
): Promise<void> {
  const facts = await readHostFacts({ path: input.path, engine });
  const asked =
    site && services && services.length > 0
      ? await findings.check('needs', async () => {
          const value = await askedOf(bundle, services, site);
          return { value, detail: value.services.map(needsOf).join('; ') };
        })
      : undefined;
  for (const diagnosis of diagnose(facts, asked ?? { services: [] })) findings.add(diagnosis);
}

const needsOf = ({ service: { name, gpus, replicas }, weights }: AskedService): string =>
  `${name}: ${replicas === 1 ? '' : `${replicas} x `}${gpus === 0 ? 'no GPU' : `${gpus} GPUs`}, weights ${formatBytes(weights)}`;

/**
 * Looks at the host as an install would, for a bundle or without one. Changes nothing.
 * @param targets what must not be reachable from here: each is tried
 * @returns what is wrong; every check is emitted
 */
export async function examineHost(
  bundle: VerifiedBundle | undefined,
  input: PlanInput,
  { targets, signal }: { targets: readonly ProbeTarget[]; signal?: AbortSignal | undefined },
): Promise<readonly SealiftError[]> {
  const findings = new Findings(input.emit ?? silent, true);
  if (bundle === undefined) await examineAlone(input, findings);
  else await preflight(bundle, input, await Store.open(input.home.root), findings);
  for (const target of targets)
    for (const diagnosis of await probe(target, input.path, signal)) findings.add(diagnosis);
  return findings.failures;
}

async function examineAlone(input: PlanInput, findings: Findings): Promise<void> {
  const { home, now } = input;
  const site = await findings.check('site', async () => ({
    value: await readSite(home),
    detail: home.siteFile,
  }));
  const engine = await findings.check('engine', () => engineFinding(input.socket));
  await findings.check('compose', () => composeFinding(composeFinder(input)));
  if (site) {
    await findings.check('certificate', async () => tlsFinding(await readTls(site, home, now()), findings));
    await findings.check('keys', async () => ({ value: undefined, detail: await keysFinding(site, home) }));
  }
  if (site && engine)
    await findings.check('port', async () => ({
      value: undefined,
      detail: await checkPort(engine, site, undefined),
    }));
  for (const diagnosis of diagnose(await readHostFacts({ path: input.path, engine }), { services: [] }))
    findings.add(diagnosis);
}

async function engineFinding(socket: string): Promise<{ value: EngineClient; detail: string }> {
  const value = await EngineClient.connect(socket);
  return { value, detail: `${describeEngine(value.facts)}, on ${socket}` };
}

async function composeFinding(find: () => Promise<Compose>): Promise<{ value: Compose; detail: string }> {
  const value = await find();
  return { value, detail: `version ${value.version}` };
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
