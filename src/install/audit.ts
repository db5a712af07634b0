// SPDX-License-Identifier: Apache-2.0
/**
 * Is the host still what was signed and proved? Every placed file is hashed, every image and container held against the
 * receipt, every rendered file rendered again; and what nobody placed is named. Changes nothing.
 */
import { lstat, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { asSealiftError } from '../errors.ts';
import { silent, type Emit } from '../events.ts';
import type { Digest } from '../store/digest.ts';
import type { TrustPolicy } from '../trust/policy.ts';
import { auditFiles } from './audit-files.ts';
import { EngineClient, type EngineContainer } from './engine-client.ts';
import { isLoaded } from './gateway-control.ts';
import type { Home } from './home.ts';
import { readJournal } from './journal.ts';
import { demandAccepted, readInstalled, type Installed } from './kept-bundle.ts';
import { receiptSignature } from './receipt.ts';
import { filesUnder, strangers } from './release-folder.ts';
import type { RenderedFile } from './release.ts';
import { rerender, type Rerendered } from './rerender.ts';
import { signatureDrift } from './status.ts';
import { releasesOf } from './running.ts';
import { stateOf } from './steps/service.ts';
import { containersOf, FILES_LABEL } from './targets/compose.ts';
import { containerDrift, definitionsOf, type Compared, type Definition } from './targets/compose-drift.ts';

/** One thing that is not as it was signed, proved or rendered. */
export interface Finding {
  what: 'bundle' | 'receipt' | 'file' | 'image' | 'container' | 'configuration' | 'secret' | 'install';
  /** Path, reference or name. */
  subject: string;
  problem: string;
}

export interface AuditReport {
  schema: 'sealift/audit/v1';
  home: string;
  releases: { release: string; bundle: Digest }[];
  files: number;
  /** Bytes that were hashed. */
  bytes: number;
  images: number;
  containers: number;
  /** Empty means that the host is what was signed. */
  findings: Finding[];
}

export interface AuditInput {
  home: Home;
  /** Path of the engine's unix socket. */
  socket: string;
  /** By which the signatures are judged once more, and at what time. */
  policy: TrustPolicy;
  now: Date;
  /** Only this release; by default all that are installed. */
  release?: string;
  emit?: Emit;
  signal?: AbortSignal;
}

/** @throws {SealiftError} NOT_INSTALLED, ENGINE_NOT_RUNNING; IO_ERROR when what was kept of a bundle is damaged */
export async function audit(input: AuditInput): Promise<AuditReport> {
  const { home, emit = silent } = input;
  const names = input.release === undefined ? await home.releases() : [input.release];
  if (names.length === 0) await readInstalled(home); // says that nothing is
  const engine = await EngineClient.connect(input.socket);
  const findings = await unfinished(home);
  const releases: Installed[] = [];
  for (const name of names) {
    const read = await readInstalled(home, name).catch((error: unknown) => asSealiftError(error, name));
    if (!(read instanceof Error)) releases.push(read);
    else if (read.code === 'NOT_INSTALLED') throw read;
    else findings.push({ what: 'bundle', subject: name, problem: read.message });
  }
  findings.push(...(await papers(input, releases)));
  emit({ type: 'stage', name: 'looking at images and containers' });
  findings.push(...(await images(engine, releases)));
  let running = 0;
  for (const installed of releases) {
    const found = await runningOf(engine, installed);
    running += found.length;
    findings.push(...(await rendered(input, engine, installed, found)));
  }
  const placed = await auditFiles(home, releases, emit, input.signal);
  return {
    schema: 'sealift/audit/v1',
    home: home.root,
    releases: releases.map(({ receipt }) => ({ release: receipt.release, bundle: receipt.bundle.digest })),
    files: placed.files,
    bytes: placed.bytes,
    images: new Set(releases.flatMap(({ receipt }) => receipt.images.map(({ ref }) => ref))).size,
    containers: running,
    findings: [...findings, ...placed.findings],
  };
}

async function unfinished(home: Home): Promise<Finding[]> {
  const journal = await readJournal(home);
  if (journal === undefined) return [];
  return [
    { what: 'install', subject: journal.release, problem: 'its install is neither finished nor taken back' },
  ];
}

/** Receipts and signatures: by the policy of today, which may have revoked somebody since. */
async function papers({ home, policy, now }: AuditInput, releases: readonly Installed[]): Promise<Finding[]> {
  const findings: Finding[] = [];
  for (const installed of releases) {
    const { receipt } = installed;
    for (const problem of signatureDrift(await receiptSignature(home, receipt)))
      findings.push({ what: 'receipt', subject: receipt.release, problem });
    try {
      demandAccepted(installed, policy, now);
    } catch (error) {
      const problem = `would not be accepted today: ${asSealiftError(error, 'judging').message}`;
      findings.push({ what: 'bundle', subject: receipt.release, problem });
    }
  }
  return findings;
}

async function images(engine: EngineClient, releases: readonly Installed[]): Promise<Finding[]> {
  const all = new Map(
    releases.flatMap(({ receipt }) => receipt.images.map((image) => [`${image.ref} ${image.id}`, image])),
  );
  const findings: Finding[] = [];
  for (const { ref, id, manifest, layers } of all.values()) {
    const is = (problem: string): unknown => findings.push({ what: 'image', subject: ref, problem });
    const tagged = await engine.image(ref);
    const found = await engine.image(id);
    if (tagged === undefined) is('is gone from the engine, or has lost its tag');
    else if (
      tagged.id !== id &&
      ![...all.values()].some((other) => other.ref === ref && other.id === tagged.id)
    )
      is(`now stands on ${tagged.id}, not on the proved ${id}`);
    if (found === undefined) is(`the proved image ${id} is gone`);
    else if (layers !== undefined && layers.join() !== found.layers.join())
      is('has other layers than were proved');
    else if (engine.facts.store === 'containerd' && !(await engine.hasContent(manifest)))
      is('its content is not complete');
  }
  return findings;
}

/** The containers of the release's project, when it is the one that runs there. */
async function runningOf(engine: EngineClient, { receipt }: Installed): Promise<EngineContainer[]> {
  if (receipt.gateway === undefined) return [];
  const all = await engine.containers(receipt.gateway.project, 'health');
  return releasesOf(all).has(receipt.release) ? all : [];
}

/** The release's files against what they are rendered from, and its containers against the files. */
async function rendered(
  { home, now }: AuditInput,
  engine: EngineClient,
  installed: Installed,
  running: readonly EngineContainer[],
): Promise<Finding[]> {
  const { receipt } = installed;
  if (receipt.gateway === undefined) return [];
  const isCurrent = (await home.current()) === receipt.release;
  if (running.length === 0 && !isCurrent) return []; // stands by; it is rendered anew when it is started
  const folder = home.releaseFolder(receipt.release);
  const again = await rerender(home, installed, { engine: engine.facts, now }).catch((error: unknown) =>
    asSealiftError(error, 'rendering'),
  );
  if (again instanceof Error)
    return [{ what: 'configuration', subject: receipt.release, problem: again.message }];
  const findings = await fileDrift(folder, receipt.release, again.files);
  if (running.length > 0 && !(await isLoaded(folder)))
    findings.push({
      what: 'configuration',
      subject: receipt.release,
      problem: 'the gateway has not read its files: sealift reload',
    });
  if (running.length > 0 && (await engine.isInternal(`${receipt.gateway.project}_engines`)) !== true)
    findings.push({
      what: 'container',
      subject: `network ${receipt.gateway.project}_engines`,
      problem: 'leads out, and must not',
    });
  const definitions = definitionsOf(again.files.get('compose.yaml')!.bytes.toString());
  return [...findings, ...(await containers(engine, receipt.gateway.project, definitions, again, running))];
}

async function fileDrift(
  folder: string,
  release: string,
  wanted: ReadonlyMap<string, RenderedFile>,
): Promise<Finding[]> {
  const subject = (name: string): string => join('releases', release, name);
  const findings: Finding[] = [];
  for (const [name, { bytes }] of wanted) {
    const found = await readFile(join(folder, name)).catch(() => undefined);
    const problem =
      found === undefined ? 'is gone, or is no file' : found.equals(bytes) ? undefined : DIFFERS;
    if (problem !== undefined) findings.push({ what: 'configuration', subject: subject(name), problem });
  }
  for (const name of await strangers(folder, wanted))
    findings.push({ what: 'configuration', subject: subject(name), problem: 'was not rendered by sealift' });
  for (const name of await filesUnder(folder, 'secrets'))
    if (((await lstat(join(folder, name))).mode & 0o077) !== 0)
      findings.push({
        what: 'secret',
        subject: subject(name),
        problem: 'can be read by others than its owner',
      });
  return findings;
}

const DIFFERS =
  'is not what bundle, site.yaml, certificate and keys ask for: edited by hand, or to be read by sealift reload';

async function containers(
  engine: EngineClient,
  project: string,
  definitions: ReadonlyMap<string, Definition>,
  { services, engineKeys }: Rerendered,
  running: readonly EngineContainer[],
): Promise<Finding[]> {
  const findings: Finding[] = [];
  const is = (subject: string, problem: string): unknown =>
    findings.push({ what: 'container', subject, problem });
  for (const [name, definition] of definitions) {
    const found = running.filter((c) => c.service === name);
    if (found.length === 0) is(name, 'has no container');
    if (found.length > 1) is(name, `has ${found.length} containers: ${found.map((c) => c.name).join(', ')}`);
    const service = services.find((s) => containersOf(s).includes(name));
    const secret = service && { variable: service.keyVariable, value: engineKeys.get(service.name)! };
    for (const container of found)
      for (const problem of await problemsOf(engine, { project, definition, secret }, container))
        is(container.name, problem);
  }
  for (const { service, name } of running)
    if (!definitions.has(service)) is(name, 'belongs to the project, and the release does not know it');
  return findings;
}

async function problemsOf(
  engine: EngineClient,
  asked: Pick<Compared, 'project' | 'definition' | 'secret'>,
  container: EngineContainer,
): Promise<string[]> {
  const { image: id, labels } = asked.definition;
  const { state, detail } = stateOf(container.service, id as Digest, [container]);
  const anatomy = await engine.anatomy(container.id);
  const image = await engine.image(container.image);
  return [
    ...(state === 'healthy' ? [] : [detail]),
    ...(container.labels[FILES_LABEL] === labels[FILES_LABEL]
      ? []
      : ['was not started from what the release says']),
    ...(anatomy === undefined
      ? ['was gone when it was looked into']
      : containerDrift({ ...asked, container: anatomy, image })),
  ];
}
