// SPDX-License-Identifier: Apache-2.0
/**
 * Models of a Hugging Face hub: `hf:org/name[@revision]`, or `hf+https://hub.example/org/name[@revision]`.
 * @huggingface/hub for what there is; our own ranged transport for the bytes, because the package does not resume,
 * retry, check or encode names (facts/hub-and-engines.md §1.2).
 */
import { listFiles, modelInfo, type ListFileEntry } from '@huggingface/hub';
import { isSafePath, Line } from '../../bundle/inventory.ts';
import { SealiftError } from '../../errors.ts';
import { fromHex } from '../../store/digest.ts';
import type { BlobSource } from '../../store/store.ts';
import type { HttpClient, HttpHead } from './http.ts';
import { withoutUserinfo } from './address.ts';
import { printable } from '../../text.ts';
import { rangedSource } from './ranged.ts';
import type {
  ChooseFiles,
  LockedRevision,
  ModelSource,
  ResolvedModel,
  SourceContext,
  SourceFile,
} from './source.ts';

/** Largest page of metadata, in bytes. */
const MAX_PAGE_BYTES = 32 * 1024 * 1024;
/** Files of one model. */
const MAX_FILES = 100_000;
const REPO = /^[A-Za-z0-9][A-Za-z0-9._-]{0,95}(\/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?$/;
const COMMIT = /^[0-9a-f]{40}$/;

export interface HubLocation {
  /** Base URL without a slash at its end. */
  hub: string;
  repo: string;
  revision: string;
}

/**
 * Parses the part of `from` that names a repository on a hub.
 * @param defaultHub base URL for `hf:`
 * @throws {SealiftError} MANIFEST_INVALID
 */
export function parseHubLocation(from: string, defaultHub: string): HubLocation {
  const scheme = /^hf(\+https?)?:/.exec(from);
  const rest = from.slice(scheme?.[0].length ?? 0);
  const at = rest.indexOf('@', rest.startsWith('//') ? rest.indexOf('/', 2) : 0);
  const address = at === -1 ? rest : rest.slice(0, at);
  const revision = at === -1 ? 'main' : rest.slice(at + 1);
  const place =
    scheme?.[1] === undefined
      ? { hub: defaultHub, repo: address }
      : splitAddress(scheme[1].slice(1), address);
  const isRevision = /^[A-Za-z0-9][A-Za-z0-9._/+-]{0,254}$/.test(revision) && !revision.includes('..');
  if (place === undefined || !REPO.test(place.repo) || place.repo.includes('..') || !isRevision) {
    throw new SealiftError('MANIFEST_INVALID', `'${withoutUserinfo(from)}' does not name a model`, {
      hint: 'write it as hf:organisation/name@revision, or hf+https://hub.example/organisation/name@revision',
    });
  }
  return { hub: place.hub.replace(/\/+$/, ''), repo: place.repo, revision };
}

/** The last two parts of the path are the repository; a hub may live under a path of its own. */
function splitAddress(protocol: string, address: string): { hub: string; repo: string } | undefined {
  const url = URL.parse(`${protocol}:${address}`);
  if (url === null || url.username + url.password !== '' || url.search !== '' || url.hash !== '')
    return undefined;
  const parts = url.pathname.split('/').filter((part) => part !== '');
  const repo = parts.slice(-2).join('/');
  const prefix = parts.slice(0, -2).map((part) => `/${part}`);
  return { hub: `${url.origin}${prefix.join('')}`, repo };
}

export function hubModel(
  from: string,
  context: SourceContext,
  http: HttpClient,
  locked?: LockedRevision,
): ModelSource {
  const named = parseHubLocation(from, context.hubUrl);
  const location = locked
    ? { ...named, hub: lockedHub(named, context, locked), revision: locked.revision }
    : named;
  const repository = new HubRepository(location, context, http);
  return { resolve: (_, choose) => repository.resolve(choose) };
}

const sameAddress = (a: string, b: string): boolean => URL.parse(a)?.href === URL.parse(b)?.href;

/**
 * The hub that was locked, which is asked whatever the default is today. One that a person names beside it is a
 * contradiction: the wrong hub would be asked, and would get the token of the other.
 * @throws {SealiftError} USAGE, LOCK_INVALID
 */
function lockedHub(
  { hub }: HubLocation,
  { hubGiven, hubUrl }: SourceContext,
  { hub: locked }: LockedRevision,
): string {
  if (locked === undefined) return hub;
  const url = URL.parse(locked);
  if (
    url === null ||
    !/^https?:$/.test(url.protocol) ||
    url.username + url.password + url.search + url.hash !== ''
  ) {
    throw new SealiftError(
      'LOCK_INVALID',
      `the lock names the hub '${withoutUserinfo(locked)}', which is no address`,
      {
        hint: 'run `sealift lock` again',
      },
    );
  }
  const base = locked.replace(/\/+$/, '');
  if (hubGiven === true && hub === hubUrl.replace(/\/+$/, '') && !sameAddress(hub, base)) {
    throw new SealiftError('USAGE', `--hub is ${hub}, but the model was locked from ${base}`, {
      hint: `build with --hub ${base}, or lock again with --hub ${hub}`,
    });
  }
  return base;
}

class HubRepository {
  readonly #location: HubLocation;
  readonly #context: SourceContext;
  readonly #http: HttpClient;
  readonly #fetch: typeof fetch;
  readonly #what: string;

  constructor(location: HubLocation, context: SourceContext, http: HttpClient) {
    this.#location = location;
    this.#context = context;
    this.#http = http;
    this.#what = `${location.repo}@${location.revision}`;
    this.#fetch = http.asFetch({
      headers: (url) => this.#authorization(url),
      check: (answer) => this.#check(answer, this.#what),
      maxBytes: MAX_PAGE_BYTES,
      signal: context.signal,
      what: this.#what,
    });
  }

  async resolve(choose: ChooseFiles = (listed) => [...listed]): Promise<ResolvedModel> {
    const { hub } = this.#location;
    const { sha, name: repo, license } = await this.#info();
    const files = await this.#files(repo, sha);
    const sizes = new Map(files.map(({ path, size }) => [path, size]));
    return {
      hub,
      repo,
      revision: sha,
      ...(license === undefined ? {} : { license }),
      files: choose(files),
      file: (path) => this.#file(repo, sha, path, sizes.get(path)),
    };
  }

  async #info(): Promise<{ sha: string; name: string; license: string | undefined }> {
    const { hub, repo, revision } = this.#location;
    const info = await this.#guard(() =>
      modelInfo({
        name: repo,
        revision,
        hubUrl: hub,
        fetch: this.#fetch,
        additionalFields: ['sha', 'cardData'],
      }),
    );
    const { sha, name }: { sha?: unknown; name?: unknown } = info;
    if (typeof sha !== 'string' || !COMMIT.test(sha) || typeof name !== 'string' || !REPO.test(name)) {
      throw new SealiftError('SOURCE_INVALID', `${this.#what}: the hub answered without a commit or a name`);
    }
    if (COMMIT.test(revision) && sha !== revision) {
      throw new SealiftError('SOURCE_CHANGED', `${this.#what}: the hub answered with commit ${sha}`);
    }
    if (name !== repo) {
      const message = `${repo} is called ${name} on the hub now`;
      this.#context.emit({ type: 'warning', code: 'MODEL_RENAMED', message });
    }
    return { sha, name, license: licenseOf(info.cardData) };
  }

  async #files(repo: string, sha: string): Promise<SourceFile[]> {
    const { hub: hubUrl } = this.#location;
    const files = new Map<string, SourceFile>();
    await this.#guard(async () => {
      for await (const entry of listFiles({
        repo,
        revision: sha,
        recursive: true,
        hubUrl,
        fetch: this.#fetch,
      })) {
        if (entry.type === 'directory') continue;
        const file = describeEntry(entry, this.#what);
        if (files.has(file.path) || files.size === MAX_FILES) {
          throw new SealiftError(
            'SOURCE_INVALID',
            `${this.#what}: the hub lists '${file.path}' twice, or too many files`,
          );
        }
        files.set(file.path, file);
      }
    });
    return [...files.values()].toSorted((a, b) => (a.path < b.path ? -1 : 1));
  }

  /** What the package throws when an answer has another shape than it expects. Node's own errors have a code. */
  async #guard<T>(ask: () => Promise<T>): Promise<T> {
    try {
      return await ask();
    } catch (cause) {
      const own = cause instanceof TypeError || cause instanceof SyntaxError;
      if (!own || 'code' in cause) throw cause;
      throw new SealiftError('SOURCE_INVALID', `${this.#what}: the hub's answer makes no sense`, { cause });
    }
  }

  #file(repo: string, sha: string, path: string, size: number | undefined): BlobSource {
    const what = `${repo}: ${path}`;
    if (size === undefined) throw new SealiftError('SOURCE_CHANGED', `${what} is not in commit ${sha}`);
    const encoded = path.split('/').map(encodeURIComponent).join('/');
    const url = new URL(`${this.#location.hub}/${repo}/resolve/${sha}/${encoded}`);
    return rangedSource({
      size,
      what,
      segmentBytes: this.#context.network?.segmentBytes,
      get: async (headers, signal = this.#context.signal) => {
        const request = { headers: { ...headers, ...this.#authorization(url) }, signal, what };
        const response = await this.#http.open(url, request);
        if (response.status >= 400 && response.status !== 416) {
          response.discard();
          this.#check(response, what);
        }
        return response;
      },
    });
  }

  /** Why the address got no token, or what is wrong with the one it got, and what to do about it. */
  #tokenHint(url: URL): string {
    const { hubToken, hubUrl } = this.#context;
    const { hub } = this.#location;
    if (hubToken === undefined) return 'give a token that may read this model with --hub-token-file';
    if (URL.parse(hub)?.origin !== URL.parse(hubUrl)?.origin)
      return `the token is for ${hubUrl} and was not sent; if it is one of ${hub}, say so with --hub ${hub}`;
    if (url.origin !== URL.parse(hub)?.origin)
      return `${hub} sends us to ${url.host}, which never gets the token; run again, then ask who runs the hub`;
    return 'the token is wrong, expired, or may not read this model';
  }

  /** The token belongs to the configured hub; pages and files elsewhere are asked for without it. */
  #authorization(url: URL): Record<string, string> {
    const { hubToken, hubUrl } = this.#context;
    const own = hubToken !== undefined && url.origin === URL.parse(hubUrl)?.origin;
    return own ? { authorization: `Bearer ${hubToken}` } : {};
  }

  /** The hub's own error codes first: it answers 401 for what it merely does not want to admit exists. */
  #check({ status, headers, url }: HttpHead, what: string): void {
    if (status < 400) return;
    const { hub, repo, revision } = this.#location;
    const who = url.origin === URL.parse(hub)?.origin ? hub : url.host;
    const code = String(headers['x-error-code'] ?? '');
    const said = printable(String(headers['x-error-message'] ?? ''), 200);
    const details = said === '' ? {} : { details: [['the hub says', said]] as const };
    if (code === 'GatedRepo') {
      const hint = `accept its conditions at ${hub}/${repo} with the account of the token; ${this.#tokenHint(url)}`;
      throw new SealiftError('MODEL_GATED', `${repo} is gated`, { hint, ...details });
    }
    if (code === 'RevisionNotFound') {
      throw new SealiftError('REVISION_NOT_FOUND', `${repo} has no revision '${revision}' (any more)`, {
        hint: 'let the manifest name a revision that exists, and run `sealift lock`',
        ...details,
      });
    }
    if (code === 'EntryNotFound') {
      const hint = 'run `sealift lock`, and review what it prints';
      throw new SealiftError('SOURCE_CHANGED', `${what} is gone from the hub`, { hint, ...details });
    }
    if (code === 'RepoNotFound' || (status === 404 && code === '' && who === hub)) {
      const hint = `check the name; a private model needs a token: ${this.#tokenHint(url)}`;
      throw new SealiftError('MODEL_NOT_FOUND', `${hub} has no model ${repo}`, { hint, ...details });
    }
    if (status === 401 || status === 403) {
      const hint = this.#tokenHint(url);
      throw new SealiftError('UNAUTHORIZED', `${what}: ${who} answered ${status}`, { hint, ...details });
    }
    throw new SealiftError('SOURCE_INVALID', `${what}: ${who} answered ${status}`, details);
  }
}

/**
 * One line of the hub's file list.
 * @throws {SealiftError} UNSAFE_NAME, SOURCE_INVALID
 */
function describeEntry({ type, path, size, oid, lfs }: ListFileEntry, what: string): SourceFile {
  if (!isSafePath(path)) {
    throw new SealiftError('UNSAFE_NAME', `${what} has a file called '${printable(path, 200)}'`, {
      hint: 'do not use this model: no honest repository has such a name',
    });
  }
  const total = lfs?.size ?? size;
  const isWhole = type === 'file' && Number.isSafeInteger(total) && total >= 0;
  if (isWhole && lfs !== undefined && /^[0-9a-f]{64}$/.test(lfs.oid))
    return { path, size: total, digest: fromHex(lfs.oid) };
  if (isWhole && lfs === undefined && COMMIT.test(oid ?? '')) return { path, size: total, gitOid: oid! };
  throw new SealiftError(
    'SOURCE_INVALID',
    `${what}: the hub describes '${path}' in a way that cannot be checked`,
  );
}

/** The licence as the model card states it: an identifier, or the name of a licence of its own. */
function licenseOf(card: unknown): string | undefined {
  const { license, license_name: name } = (card ?? {}) as Record<string, unknown>;
  const text =
    license === 'other' && typeof name === 'string'
      ? name
      : Array.isArray(license)
        ? license.join(', ')
        : license;
  return typeof text === 'string' && text !== '' && Line.safeParse(text).success ? text : undefined;
}
