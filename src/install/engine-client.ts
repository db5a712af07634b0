// SPDX-License-Identifier: Apache-2.0
/**
 * The container engine, through dockerode over its unix socket and nothing else. Quirks of engines and of
 * dockerode (facts: oci.md §1, §2) end here: an engine that reports an error inside a successful answer, one
 * that says "Loaded" over missing content, and two kinds of image store with two meanings of "image ID".
 */
import type { VerifiedImage } from '../bundle/open.ts';
import { addAbortSignal, PassThrough, Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import Docker from 'dockerode';
import { SealiftError, type ErrorCode } from '../errors.ts';
import { isImageRef } from '../bundle/inventory.ts';
import { isDigest, type Digest } from '../store/digest.ts';
import { anatomyOf, listOf, networksOf, podmanAnatomyOf, type Anatomy } from './anatomy.ts';
import {
  atLeast,
  factsOf,
  MANIFESTS_API,
  MIN_API,
  MIN_PODMAN,
  type EngineFacts,
  type EngineInfo,
  type StoreKind,
} from './engine-facts.ts';
import { makeHealthCheck, podmanDetails } from './podman-api.ts';
import { plainLine } from './text.ts';

export type { EngineFacts, StoreKind } from './engine-facts.ts';

/** Limit for requests that are answered from memory, in milliseconds. Loading and removing have none. */
const QUICK_MS = 60_000;
/** Milliseconds between two health checks of a container that are made here. */
const HEALTH_MS = 2000;
/** Label of containers that are made only to see whether an image's content is there. */
const PROBE_LABEL = 'dev.sealift.probe';

export interface EngineImage {
  id: string;
  layers: readonly string[];
  /** What the image itself says that a container of it has: variables `NAME=VALUE`, entry point, places for volumes. */
  env: readonly string[];
  entrypoint: readonly string[];
  volumes: readonly string[];
}

export interface EngineContainer {
  id: string;
  name: string;
  /** Compose's name of the service. */
  service: string;
  image: string;
  state: string;
  /** `none` when the container has no health check. */
  health: string;
  restarts: number;
  exitCode: number;
  /** Names of the networks that it is on, sorted. */
  networks: readonly string[];
  labels: Readonly<Record<string, string>>;
}

export interface PublishedPort {
  container: string;
  project: string | undefined;
  address: string;
  port: number;
}

interface ListedManifest {
  ID: string;
  Available: boolean;
}

/**
 * dockerode puts a reference into the path of a request as it is. The inventory has let nothing else through;
 * this is the second wall.
 */
function demandReference(reference: string): void {
  if (!isImageRef(reference) && !isDigest(reference)) throw new TypeError('not a reference of an image');
}

/** The image ID that an engine must report for a signed image. */
export const expectedId = (image: Pick<VerifiedImage, 'config' | 'manifest'>, store: StoreKind): Digest =>
  store === 'classic' ? image.config.digest : image.manifest.digest;

export class EngineClient {
  readonly facts: EngineFacts;
  readonly socket: string;
  readonly #quick: Docker;
  readonly #slow: Docker;
  /** When the health of a container was last checked here. */
  readonly #checked = new Map<string, number>();

  private constructor(socket: string, quick: Docker, facts: EngineFacts) {
    this.socket = socket;
    this.#quick = quick;
    this.#slow = dockerAt(socket, undefined);
    this.facts = facts;
  }

  /**
   * Connects and asks who is there.
   * @param socket path of the engine's unix socket
   * @throws {SealiftError} ENGINE_NOT_RUNNING, ENGINE_UNSUPPORTED
   */
  static async connect(socket: string): Promise<EngineClient> {
    const docker = dockerAt(socket, QUICK_MS);
    try {
      const [version, info] = await Promise.all([docker.version(), docker.info() as Promise<EngineInfo>]);
      const client = new EngineClient(socket, docker, factsOf(version, info));
      if (!isNewEnough(client.facts)) throw tooOld(client.facts);
      return client;
    } catch (error) {
      throw error instanceof SealiftError ? error : notRunning(socket, error);
    }
  }

  /** What the engine has under a reference or an ID, or undefined. */
  async image(reference: string): Promise<EngineImage | undefined> {
    demandReference(reference);
    const found = await this.#ask(`inspecting image ${reference}`, () =>
      this.#quick.getImage(reference).inspect(),
    );
    return (
      found && {
        id: found.Id,
        layers: found.RootFS?.Layers ?? [],
        env: found.Config.Env ?? [],
        entrypoint: listOf(found.Config.Entrypoint),
        volumes: Object.keys(found.Config.Volumes ?? {}),
      }
    );
  }

  /**
   * Sends an archive to the engine and reads every event of its answer.
   * @param archive when it throws, the engine sees a broken stream and the error is thrown from here
   * @throws {SealiftError} IMAGE_LOAD_FAILED, INTERRUPTED, and what `archive` throws
   */
  async load(archive: AsyncIterable<Uint8Array>, what: string, signal?: AbortSignal): Promise<void> {
    let failure: unknown;
    const watched = async function* (): AsyncGenerator<Uint8Array> {
      try {
        yield* archive;
      } catch (error) {
        failure = error;
        throw error;
      }
    };
    const body = Readable.from(watched(), { objectMode: false, highWaterMark: 1024 * 1024 });
    const [os, architecture] = this.facts.platform.split('/');
    try {
      // With the platform named, the containerd store reports missing content instead of "Loaded" (oci.md §1).
      const answer = await this.#slow.loadImage(body, {
        platform: { os, architecture },
        ...(signal === undefined ? {} : { abortSignal: signal }),
      });
      scanEvents(await text(answer as Readable), what);
    } catch (error) {
      if (failure !== undefined) throw failure;
      throw loadFailed(error, what, signal);
    } finally {
      body.destroy();
    }
    if (failure !== undefined) throw failure;
  }

  /**
   * An image as the engine exports it (`docker save`).
   * @throws {SealiftError} ENGINE_FAILED
   */
  async export(id: Digest, signal?: AbortSignal): Promise<AsyncIterable<Uint8Array>> {
    demandReference(id);
    const stream = await this.#ask(`exporting image ${id}`, () => this.#slow.getImage(id).get());
    if (stream === undefined)
      throw new SealiftError('ENGINE_FAILED', `the engine has no image ${id} any more`);
    return signal === undefined ? (stream as Readable) : addAbortSignal(signal, stream as Readable);
  }

  /**
   * Whether the containerd store really has the content of an image: it reports the right ID even when a layer
   * is missing or was replaced (oci.md §2). Engines that cannot say are made to create a container.
   */
  async hasContent(manifest: Digest): Promise<boolean> {
    if (!atLeast(this.facts.apiVersion, MANIFESTS_API)) return this.#canCreate(manifest);
    // Without a filter by reference: engines spell references shorter than they were loaded (docker.io/…).
    const images = await this.#ask('listing images', () => this.#quick.listImages({ manifests: true }));
    const manifests = (images ?? []).flatMap(
      (image) => (image as unknown as { Manifests?: ListedManifest[] }).Manifests ?? [],
    );
    return manifests.some((m) => m.ID === manifest && m.Available);
  }

  async #canCreate(id: Digest): Promise<boolean> {
    const probe = { Image: id, Cmd: ['true'], NetworkDisabled: true, Labels: { [PROBE_LABEL]: 'true' } };
    try {
      const container = await this.#slow.createContainer(probe);
      await container.remove({ force: true }).catch(() => undefined); // somebody swept it
      return true;
    } catch {
      return false;
    }
  }

  /** Removes the containers that a killed process made to see whether an image is whole; they hold the image. */
  async sweepProbes(): Promise<void> {
    const filters = { label: [`${PROBE_LABEL}=true`], status: ['created'] };
    const left = await this.#ask('listing containers', () =>
      this.#quick.listContainers({ all: true, filters }),
    );
    for (const { Id } of left ?? []) await this.removeContainer(Id);
  }

  /** Stops and removes a container. One that is not there is no error. */
  async removeContainer(id: string): Promise<void> {
    await this.#ask('removing a container', () => this.#slow.getContainer(id).remove({ force: true }));
  }

  /** Takes a tag away, and with its last tag the image. A tag that is not there is no error. */
  async removeImage(reference: string): Promise<void> {
    await this.#ask(`removing image ${reference}`, () => this.#slow.getImage(reference).remove());
  }

  /**
   * Containers of a Compose project, also stopped ones.
   * @param look `health` also has Podman make a health check in each, which nobody else may have made
   */
  async containers(project: string, look?: 'health'): Promise<EngineContainer[]> {
    const filters = { label: [`com.docker.compose.project=${project}`] };
    const listed = await this.#ask('listing containers', () =>
      this.#quick.listContainers({ all: true, filters }),
    );
    const found = await Promise.all((listed ?? []).map(({ Id }) => this.#container(Id, look)));
    return found.filter((c) => c !== undefined).sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  async #container(id: string, look: 'health' | undefined): Promise<EngineContainer | undefined> {
    let c = await this.#inspect(id);
    if (c !== undefined && look === 'health' && this.#checksHealth(id)) {
      await this.#ask(`checking the health of ${id}`, () => makeHealthCheck(this.#quick, c!));
      c = await this.#inspect(id);
    }
    if (c === undefined) return undefined;
    const labels = c.Config.Labels ?? {};
    return {
      id: c.Id,
      name: c.Name.replace(/^\//, ''),
      service: labels['com.docker.compose.service'] ?? '',
      image: c.Image,
      state: c.State.Status,
      health: c.State.Health?.Status || 'none', // Podman's word for none is an empty one
      restarts: c.RestartCount,
      exitCode: c.State.ExitCode,
      networks: networksOf(c),
      labels,
    };
  }

  #inspect(id: string): Promise<Docker.ContainerInspectInfo | undefined> {
    return this.#ask(`inspecting container ${id}`, () => this.#quick.getContainer(id).inspect());
  }

  /** Only Podman has to be told to, and not at every look of somebody who waits. */
  #checksHealth(id: string): boolean {
    const now = performance.now();
    if (this.facts.kind !== 'podman' || now - (this.#checked.get(id) ?? -Infinity) < HEALTH_MS) return false;
    this.#checked.set(id, now);
    return true;
  }

  /** How a container was made; undefined when it is gone. */
  async anatomy(id: string): Promise<Anatomy | undefined> {
    const c = await this.#inspect(id);
    if (c === undefined || this.facts.kind === 'docker') return c && anatomyOf(c);
    const details = await this.#ask(`inspecting container ${id}`, () => podmanDetails(this.#quick, id));
    if (details === undefined)
      throw new SealiftError(
        'ENGINE_FAILED',
        `Podman does not say in its own API what container ${id} may do`,
      );
    return podmanAnatomyOf(c, details);
  }

  /** Ports that running containers publish on this host, of any project. */
  async publishedPorts(): Promise<PublishedPort[]> {
    const listed = (await this.#ask('listing containers', () => this.#quick.listContainers())) ?? [];
    return listed.flatMap((c) =>
      (c.Ports ?? [])
        .filter((p) => p.PublicPort !== undefined && p.Type === 'tcp')
        .map((p) => ({
          container: c.Names[0]?.replace(/^\//, '') ?? c.Id,
          project: c.Labels?.['com.docker.compose.project'],
          address: p.IP ?? '0.0.0.0',
          port: p.PublicPort,
        })),
    );
  }

  /** Whether a network leads nowhere; undefined when there is no such network. */
  async isInternal(network: string): Promise<boolean | undefined> {
    const found = (await this.#ask('looking at a network', () =>
      this.#quick.getNetwork(network).inspect(),
    )) as { Internal?: boolean } | undefined;
    return found && found.Internal === true;
  }

  async signal(id: string, name: 'SIGHUP'): Promise<void> {
    await this.#ask('sending a signal', () => this.#quick.getContainer(id).kill({ signal: name }));
  }

  /** Command lines of the processes of a container by their numbers; none when the engine cannot tell. */
  async processes(id: string): Promise<Map<string, string>> {
    const top = await this.#quick
      .getContainer(id)
      // Podman has the columns that Docker shows only if the image holds a `ps`.
      .top(this.facts.kind === 'podman' ? { ps_args: 'pid,args' } : {})
      .catch(() => undefined);
    const titles = (top?.Titles ?? []) as string[];
    const [pid, command] = [['PID'], ['CMD', 'COMMAND']].map((names) =>
      titles.findIndex((title) => names.includes(title)),
    );
    if (top === undefined || pid === -1 || command === -1) return new Map();
    return new Map((top.Processes as string[][]).map((row) => [row[pid!]!, row[command!]!]));
  }

  /** The last lines that a container wrote, both streams. */
  async logTail(id: string, lines: number): Promise<string[]> {
    const raw = await this.#ask('reading a log', () =>
      this.#quick.getContainer(id).logs({ stdout: true, stderr: true, tail: lines, follow: false }),
    );
    return demultiplex(raw ?? Buffer.alloc(0))
      .split('\n')
      .map((line) => plainLine(line))
      .filter((line) => line !== '')
      .slice(-lines);
  }

  /**
   * Runs a program inside a container.
   * @param input goes to its stdin, so that secrets in it appear in no list of processes
   * @param timeoutMs milliseconds after which the connection is given up
   */
  async exec(
    container: string,
    argv: readonly string[],
    input: string,
    timeoutMs: number,
  ): Promise<{ code: number; stdout: string; stderr: string }> {
    const options = { Cmd: [...argv], AttachStdin: true, AttachStdout: true, AttachStderr: true };
    try {
      // Without the limit for requests, which also ends connections that are silent while a model thinks.
      const exec = await this.#slow.getContainer(container).exec(options);
      const socket = await exec.start({ hijack: true, stdin: true });
      const timer = setTimeout(
        () => socket.destroy(new Error(`no end after ${timeoutMs / 1000} s`)),
        timeoutMs,
      );
      try {
        socket.end(input);
        const [stdout, stderr] = await collect(socket, this.#quick);
        return { code: (await exec.inspect()).ExitCode ?? -1, stdout, stderr };
      } finally {
        clearTimeout(timer);
        socket.destroy();
      }
    } catch (error) {
      throw engineError('ENGINE_FAILED', `running ${argv[0]} in ${container}`, error);
    }
  }

  /** Asks the engine; undefined means 404, what it does not have. */
  async #ask<T>(doing: string, request: () => Promise<T>): Promise<T | undefined> {
    try {
      return await request();
    } catch (error) {
      if ((error as { statusCode?: number }).statusCode === 404) return undefined;
      throw engineError('ENGINE_FAILED', doing, error);
    }
  }
}

/**
 * `host` and the rest are named because docker-modem otherwise takes them from DOCKER_HOST of the environment,
 * and would open a TCP connection.
 */
function dockerAt(socketPath: string, timeout: number | undefined): Docker {
  return new Docker({
    socketPath,
    host: undefined,
    port: undefined,
    protocol: 'http',
    ...(timeout === undefined ? {} : { timeout }),
  });
}

/** Engines answer 200 and then put errors into the stream, and some only as text (oci.md §1, dockerode notes). */
function scanEvents(answer: string, what: string): void {
  for (const line of answer.split('\n').filter((l) => l.trim() !== '')) {
    const event = parseEvent(line);
    const problem = event.errorDetail?.message ?? event.error;
    const said = problem ?? (event.stream?.startsWith('Error unpacking') ? event.stream : undefined);
    if (said !== undefined)
      throw new SealiftError('IMAGE_LOAD_FAILED', `the engine could not load ${what}: ${plainLine(said)}`);
  }
}

interface LoadEvent {
  stream?: string;
  error?: string;
  errorDetail?: { message?: string };
}

function parseEvent(line: string): LoadEvent {
  try {
    const event: unknown = JSON.parse(line);
    return typeof event === 'object' && event !== null ? event : {};
  } catch {
    return { stream: line }; // Docker 20.10 answers in plain text when it is asked to be quiet.
  }
}

function loadFailed(error: unknown, what: string, signal: AbortSignal | undefined): SealiftError {
  if (error instanceof SealiftError) return error;
  if (signal?.aborted)
    return new SealiftError('INTERRUPTED', `loading ${what}: interrupted`, { cause: error });
  return engineError('IMAGE_LOAD_FAILED', `loading ${what}`, error);
}

function engineError(code: ErrorCode, doing: string, error: unknown): SealiftError {
  if (error instanceof SealiftError) return error;
  const said = error instanceof Error ? error.message : String(error);
  return new SealiftError(code, `${doing}: ${plainLine(said)}`, { cause: error });
}

function notRunning(socket: string, error: unknown): SealiftError {
  const errno = (error as NodeJS.ErrnoException).code;
  const reason = {
    ENOENT: 'there is no such socket',
    ECONNREFUSED: 'nothing listens on the socket',
    EACCES: 'this user may not open the socket',
  }[errno ?? ''];
  const hint =
    errno === 'EACCES'
      ? 'run as root, or as a member of the group that owns the socket'
      : 'start the engine (systemctl start docker, or podman.socket), or name its socket with --engine';
  const said = reason ?? plainLine(error instanceof Error ? error.message : String(error));
  return new SealiftError('ENGINE_NOT_RUNNING', `no container engine answers on ${socket}: ${said}`, {
    hint,
    cause: error,
  });
}

const isNewEnough = ({ kind, version, apiVersion }: EngineFacts): boolean =>
  kind === 'podman' ? atLeast(version, MIN_PODMAN) : atLeast(apiVersion, MIN_API);

function tooOld({ kind, version, apiVersion }: EngineFacts): SealiftError {
  const [is, needed] =
    kind === 'podman'
      ? [`Podman ${version}`, `Podman ${MIN_PODMAN.join('.')}`]
      : [`version ${version}, API ${apiVersion}`, `Docker 20.10 (API ${MIN_API.join('.')})`];
  return new SealiftError('ENGINE_UNSUPPORTED', `the engine is ${is}`, {
    hint: `${needed} or later is needed`,
  });
}

/** Joins the frames of a log (Docker API, "Stream format": type, three zeros, size as 32 bit big endian). */
function demultiplex(raw: Buffer): string {
  const parts: Buffer[] = [];
  for (let at = 0; at + 8 <= raw.length;) {
    const size = raw.readUInt32BE(at + 4);
    if (raw.readUIntBE(at + 1, 3) !== 0) return raw.toString(); // a container with a terminal has no frames
    parts.push(raw.subarray(at + 8, at + 8 + size));
    at += 8 + size;
  }
  return Buffer.concat(parts).toString();
}

async function collect(socket: NodeJS.ReadWriteStream, docker: Docker): Promise<[string, string]> {
  const out = new PassThrough();
  const err = new PassThrough();
  (docker.modem as { demuxStream(s: unknown, out: unknown, err: unknown): void }).demuxStream(
    socket,
    out,
    err,
  );
  const ended = new Promise<void>((done, fail) => {
    socket.once('end', done);
    socket.once('close', done);
    socket.once('error', fail);
  });
  const both = Promise.all([text(out), text(err)]);
  try {
    await ended;
  } finally {
    out.end();
    err.end();
  }
  return both;
}
