// SPDX-License-Identifier: Apache-2.0
/**
 * The services: started by Compose from the release's file, then watched until every one is healthy. Two
 * steps: `ReturnStep` stands before the files and does nothing but remember what ran, so that, in the reverse
 * order of an undo, it starts the release of before after its files are back.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { SealiftError } from '../../errors.ts';
import { exists } from '../../store/files.ts';
import type { Digest } from '../../store/digest.ts';
import type { Inventory } from '../../bundle/inventory.ts';
import type { Service } from '../../engines/index.ts';
import type { EngineContainer } from '../engine-client.ts';
import { gatewayContainer, isLoaded, loadGateway } from '../gateway-control.ts';
import { readReceipt } from '../receipt.ts';
import { readEngineKeys } from '../release.ts';
import type { Progress, Step, StepState, UndoRecord, World } from '../step.ts';
import { BUNDLE_LABEL, FILES_LABEL, gatewayService, imagesOf, monitorsOf } from '../targets/compose.ts';
import { definitionsOf, wantedNetworks, type Definition } from '../targets/compose-drift.ts';
import { plainLine, withoutSecrets } from '../text.ts';

const POLL_MS = 500;
const LOG_LINES = 20;
/** How long a release that is returned to may take to load its models again. */
const RETURN_MS = 600_000;
/** A container that ended this often while it was to become healthy will not become so. */
const MAX_RESTARTS = 3;

export interface ServiceStepInput {
  project: string;
  release: string;
  bundle: Digest;
  services: readonly Service[];
  /** Proved image IDs by the names that the inventory gives the images. */
  imageIds: ReadonlyMap<string, Digest>;
  gatewayImage: string;
  monitoring: Inventory['monitoring'];
  /** The release that ran in this project until now. */
  replaces: string | undefined;
  /** Overrides the rows' limits, in seconds. */
  readyTimeoutSeconds?: number | undefined;
}

/** Remembers the release that ran before; there is nothing to apply. */
export class ReturnStep implements Step {
  readonly kind = 'service';
  readonly passive = true;
  readonly bytes = 0;
  readonly id: string;
  readonly record: UndoRecord;
  readonly #release: string | undefined;

  constructor(project: string, release: string | undefined) {
    this.id = `return:${project}`;
    this.#release = release;
    this.record = { kind: 'return', project, ...(release === undefined ? {} : { release }) };
  }

  describe(): string {
    return this.#release === undefined
      ? 'nothing runs in its place'
      : `note ${this.#release} as the release to return to`;
  }

  // oxlint-disable-next-line require-await
  async check(): Promise<StepState> {
    return 'done';
  }

  async apply(): Promise<void> {}
}

export class ServiceStep implements Step {
  readonly kind = 'service';
  readonly bytes = 0;
  readonly id: string;
  readonly record: UndoRecord;
  readonly #world: World;
  readonly #input: ServiceStepInput;

  constructor(world: World, input: ServiceStepInput) {
    this.#world = world;
    this.#input = input;
    this.id = `service:${input.release}`;
    const { project, release, replaces } = input;
    this.record = { kind: 'service', project, release, replaces: replaces !== undefined };
  }

  describe(): string {
    const { services, monitoring } = this.#input;
    const names = [...services.map((s) => s.name), gatewayService(services), ...monitorsOf(monitoring)].join(
      ', ',
    );
    return `start ${names}${this.#input.replaces === undefined ? '' : ` in place of ${this.#input.replaces}`}`;
  }

  async check(): Promise<StepState> {
    const { project, bundle } = this.#input;
    const definitions = await definitionsIn(this.#file());
    const containers = await this.#world.engine.containers(project, 'health');
    const right = this.#expected().every(([service, image]) => {
      const found = containers.filter((c) => c.service === service);
      const definition = definitions.get(service);
      return (
        found.length === 1 &&
        definition !== undefined &&
        found.every((c) => isRight(c, image, definition, bundle) && isConnected(c, definition, project))
      );
    });
    if (!right || containers.length !== this.#expected().length) return 'needed';
    return (await isLoaded(this.#folder())) ? 'done' : 'needed';
  }

  async apply(_progress: Progress, signal?: AbortSignal): Promise<void> {
    await startProject(this.#world, this.#file(), this.#input.project);
    await this.#untilHealthy(signal);
    const { engine } = this.#world;
    const { id } = await gatewayContainer(engine, this.#input.project, this.#input.services);
    await loadGateway(engine, { project: this.#input.project, gateway: id }, this.#folder());
  }

  #folder(): string {
    return this.#world.home.releaseFolder(this.#input.release);
  }

  #file(): string {
    return join(this.#folder(), 'compose.yaml');
  }

  /** Services of the project, as Compose calls them, with the image each must run. */
  #expected(): [string, Digest][] {
    const { services, imageIds, gatewayImage, monitoring } = this.#input;
    return imagesOf(services, gatewayImage, monitoring).map(([name, image]) => [name, imageIds.get(image)!]);
  }

  async #untilHealthy(signal: AbortSignal | undefined): Promise<void> {
    const limits = this.#input.services.map((s) => s.readyTimeoutSeconds);
    const seconds = this.#input.readyTimeoutSeconds ?? Math.max(60, ...limits);
    const end = performance.now() + seconds * 1000;
    for (;;) {
      const containers = await this.#world.engine.containers(this.#input.project, 'health');
      const waiting = this.#expected().map(([service, image]) => stateOf(service, image, containers));
      const failed = waiting.find((w) => w.state === 'failed');
      if (failed !== undefined) throw await this.#unhealthy(failed);
      const late = waiting.find((w) => w.state === 'waiting');
      if (late === undefined) return;
      if (performance.now() > end)
        throw await this.#unhealthy({ ...late, detail: `not healthy after ${seconds} s (${late.detail})` });
      await sleep(POLL_MS, undefined, signal === undefined ? {} : { signal });
    }
  }

  async #unhealthy({ service, detail, container }: Waiting): Promise<SealiftError> {
    const { home, engine } = this.#world;
    const secrets = await readEngineKeys(home.releaseFolder(this.#input.release), this.#input.services);
    const lines =
      container === undefined ? [] : await engine.logTail(container.id, LOG_LINES).catch(() => []);
    return new SealiftError('SERVICE_UNHEALTHY', `service ${service} did not start: ${detail}`, {
      details: lines.map((line) => ['log', withoutSecrets(line, [...secrets.values()])] as const),
      hint: 'its last words are above; the usual causes are an option that this version does not know, or too little memory',
    });
  }
}

interface Waiting {
  service: string;
  state: 'healthy' | 'waiting' | 'failed';
  detail: string;
  container: EngineContainer | undefined;
}

/** Where one service is on its way. The image is compared as well: Compose is told an ID, and this is what it started. */
export function stateOf(service: string, image: Digest, containers: readonly EngineContainer[]): Waiting {
  const container = containers.find((c) => c.service === service);
  const is = (state: Waiting['state'], detail: string): Waiting => ({ service, state, detail, container });
  if (container === undefined) return is('failed', 'Compose made no container for it');
  if (container.image !== image)
    return is('failed', `it runs image ${plainLine(container.image)}, not the proved ${image}`);
  if (container.restarts >= MAX_RESTARTS)
    return is('failed', `it ended ${container.restarts} times, with status ${container.exitCode}`);
  if (container.state === 'dead' || container.state === 'exited')
    return is('failed', `it ended with status ${container.exitCode}`);
  if (container.health === 'unhealthy') return is('failed', 'its health check fails');
  if (container.state === 'running' && container.health === 'healthy') return is('healthy', 'healthy');
  return is('waiting', container.state === 'running' ? container.health : container.state);
}

const isRight = (c: EngineContainer, image: Digest, definition: Definition, bundle: Digest): boolean =>
  c.image === image &&
  c.state === 'running' &&
  c.health === 'healthy' &&
  c.labels[BUNDLE_LABEL] === bundle &&
  c.labels[FILES_LABEL] === definition.labels[FILES_LABEL];

const isConnected = (c: EngineContainer, definition: Definition, project: string): boolean =>
  wantedNetworks(definition, project).every((network) => c.networks.includes(network));

/** What a compose file asks for; nothing when there is no such file, or not one of ours. */
async function definitionsIn(file: string): Promise<Map<string, Definition>> {
  try {
    return definitionsOf(await readFile(file, 'utf8'));
  } catch {
    return new Map();
  }
}

/**
 * Compose makes a container on one network and then connects it to the others (with engines before API 1.44). Broken off
 * in between it leaves one that looks right to the next Compose, which compares the definition alone: such a
 * container is made anew.
 */
async function startProject(world: World, file: string, project: string): Promise<void> {
  const compose = await world.compose();
  await compose.up(file, project);
  const cut = await cutOff(world, file, project);
  if (cut.length === 0) return;
  for (const { id } of cut) await world.engine.removeContainer(id);
  await compose.up(file, project);
  const [still] = await cutOff(world, file, project);
  if (still === undefined) return;
  throw new SealiftError('SERVICE_UNHEALTHY', `${still.name} is not connected to all of its networks`, {
    hint: 'the log of the container engine says why; then run the same again',
  });
}

/** Containers of services that lack a network. */
async function cutOff({ engine }: World, file: string, project: string): Promise<EngineContainer[]> {
  const definitions = await definitionsIn(file);
  return (await engine.containers(project)).filter((c) => {
    const definition = definitions.get(c.service);
    const oneOff = c.labels['com.docker.compose.oneoff'] === 'True'; // `docker compose run`, by hand
    return definition !== undefined && !oneOff && !isConnected(c, definition, project);
  });
}

/** Stops what was started, unless a release was replaced: that one is started over it, see `undoReturn`. */
export async function undoService(
  record: Extract<UndoRecord, { kind: 'service' }>,
  world: World,
): Promise<void> {
  if (record.replaces) return;
  const file = join(world.home.releaseFolder(record.release), 'compose.yaml');
  if ((await exists(file)) || (await world.engine.containers(record.project)).length > 0)
    await (await world.compose()).down((await exists(file)) ? file : undefined, record.project);
}

/** Starts the release of before again. Its files are back by now, and its images were never taken away. */
export async function undoReturn(
  record: Extract<UndoRecord, { kind: 'return' }>,
  world: World,
): Promise<void> {
  if (record.release === undefined) return;
  await startProject(world, join(world.home.releaseFolder(record.release), 'compose.yaml'), record.project);
  await untilAnswering(world, record.project, record.release);
  await readAgain(world, record.project, record.release);
}

/** Files that were brought back under a gateway that ran all the while are not what it goes by. */
async function readAgain(world: World, project: string, release: string): Promise<void> {
  const { gateway } = (await readReceipt(world.home, release)) ?? {};
  const container = (await world.engine.containers(project)).find((c) => c.service === gateway?.service);
  if (container !== undefined)
    await loadGateway(world.engine, { project, gateway: container.id }, world.home.releaseFolder(release));
}

/**
 * The release of before is back only when it answers again. It has loaded once on this host, with these very
 * weights, so ten minutes are ample.
 */
async function untilAnswering(world: World, project: string, release: string): Promise<void> {
  const end = performance.now() + RETURN_MS;
  for (;;) {
    const containers = await world.engine.containers(project, 'health');
    const late = containers.filter((c) => c.state !== 'running' || c.health !== 'healthy');
    if (containers.length > 0 && late.length === 0) return;
    if (performance.now() > end) {
      const names = late.map((c) => c.service).join(', ');
      throw new SealiftError(
        'SERVICE_UNHEALTHY',
        `${release} was started again, but does not become healthy: ${names}`,
      );
    }
    await sleep(POLL_MS);
  }
}
