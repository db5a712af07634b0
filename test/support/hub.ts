// SPDX-License-Identifier: Apache-2.0
//
// A model hub on the loopback that speaks Hugging Face's protocol as far as @huggingface/hub and Python's
// huggingface_hub need it: model info, the file tree in pages, paths-info, and resolve with one relative
// hop for small files and a redirect to a second server, the "CDN", for large ones (classic LFS, no xet).
import { createHash } from 'node:crypto';
import type { IncomingMessage, OutgoingHttpHeaders, ServerResponse } from 'node:http';
import { slices, sizeOf } from '../../fixtures/model.ts';
import type { ByteSource, ModelFiles } from '../../fixtures/model.ts';
import { bodyOf, faultFor, listen, refused, serveBytes, servedFor } from './serve.ts';
import type { Faults, Served } from './serve.ts';

export type HubModel = {
  /** `organisation/name`. A model without one is found under its bare name. */
  name: string;
  files: ModelFiles;
  /** Only for those who accepted the terms: 401 without a token, 403 with one that is not the fixture's. */
  gated?: boolean;
};

export type HubRequest = {
  server: 'hub' | 'cdn';
  method: string;
  path: string;
  status: number;
  range: string | undefined;
  /** Whether an Authorization header came along. The CDN refuses a request that brings one. */
  authorized: boolean;
};

export type HubFixture = {
  /** To be given as the hub's URL: `http://127.0.0.1:port`. */
  url: string;
  /** Where large files are redirected to; another host. */
  cdn: string;
  /** A token that may read gated models. */
  token: string;
  /**
   * Faults by path of a file (where its bytes come from), `resolve:PATH` (at the hub, before a redirect),
   * or `api` (model info, tree, paths-info).
   */
  faults: Faults;
  /** What was sent, by path of the file. */
  served: Map<string, Served>;
  log: HubRequest[];
  /** Makes a new commit of a model and moves `main` to it. Gives the commit. */
  commit(name: string, files: ModelFiles): Promise<string>;
  /** The commit that `main` of a model is at. */
  head(name: string): string;
  /** Takes a commit away, as after a history rewrite: its revision is then unknown. */
  forget(name: string, commit: string): void;
  stop(): Promise<void>;
};

export type HubOptions = {
  models: HubModel[];
  /** Entries of the tree in one answer; small, so that clients must follow the pages. */
  pageSize?: number;
};

/** Starts the hub and its CDN. */
export async function startHub({ models, pageSize = 3 }: HubOptions): Promise<HubFixture> {
  const repos = new Map<string, Repo>();
  const fixture: HubFixture = {
    url: '',
    cdn: '',
    token: 'hf_fixture',
    faults: {},
    served: new Map(),
    log: [],
    commit: async (name, files) => addCommit(repos, name, await commitOf(files)),
    head: (name) => repos.get(name)?.main ?? '',
    forget: (name, commit) => void repos.get(name)?.commits.delete(commit),
    stop: async () => void (await Promise.all([hub.close(), cdn.close()])),
  };
  for (const { name, files, gated = false } of models) {
    repos.set(name, { name, gated, main: '', commits: new Map() });
    await fixture.commit(name, files);
  }
  const state: State = { fixture, repos, pageSize };
  // Another address, not only another port: what a client must not send there depends on the host.
  const cdn = await listen('127.0.0.2', (request, response) => answerCdn(state, request, response));
  const hub = await listen('127.0.0.1', (request, response) => answerHub(state, request, response));
  fixture.cdn = `http://127.0.0.2:${cdn.port}`;
  fixture.url = `http://127.0.0.1:${hub.port}`;
  return fixture;
}

type HubFile = { path: string; bytes: ByteSource; size: number; oid: string; lfs: string | undefined };
type Commit = { id: string; files: Map<string, HubFile> };
type Repo = { name: string; gated: boolean; main: string; commits: Map<string, Commit> };
type State = { fixture: HubFixture; repos: Map<string, Repo>; pageSize: number };

// --- content -------------------------------------------------------------------------------------------

/** The id follows from the content: the same files are the same commit on every machine. */
async function commitOf(files: ModelFiles): Promise<Commit> {
  const entries = new Map<string, HubFile>();
  for (const [path, { bytes, lfs }] of [...files].toSorted(([a], [b]) => (a < b ? -1 : 1))) {
    entries.set(path, describe(path, bytes, lfs));
  }
  const tree = [...entries.values()].map(({ oid, path }) => `${oid} ${path}\n`).join('');
  return { id: createHash('sha1').update(`commit\0${tree}`).digest('hex'), files: entries };
}

function describe(path: string, bytes: ByteSource, large: boolean): HubFile {
  const size = sizeOf(bytes);
  if (!large) return { path, bytes, size, oid: gitBlob(bytes), lfs: undefined };
  const hash = createHash('sha256');
  for (const piece of slices(bytes)) hash.update(piece);
  const lfs = hash.digest('hex');
  return { path, bytes, size, oid: gitBlob(pointer(lfs, size)), lfs };
}

const pointer = (lfs: string, size: number): Buffer =>
  Buffer.from(`version https://git-lfs.github.com/spec/v1\noid sha256:${lfs}\nsize ${size}\n`);

function gitBlob(bytes: ByteSource): string {
  const hash = createHash('sha1').update(`blob ${sizeOf(bytes)}\0`);
  for (const piece of slices(bytes)) hash.update(piece);
  return hash.digest('hex');
}

function addCommit(repos: Map<string, Repo>, name: string, commit: Commit): string {
  const repo = repos.get(name);
  if (!repo) throw new Error(`the fixture has no model ${name}`);
  repo.commits.set(commit.id, commit);
  repo.main = commit.id;
  return commit.id;
}

// --- the hub -------------------------------------------------------------------------------------------

type Call = { state: State; request: IncomingMessage; response: ServerResponse; url: URL };
type Found = Call & { repo: Repo; commit: Commit };

async function answerHub(state: State, request: IncomingMessage, response: ServerResponse): Promise<unknown> {
  record(state, 'hub', request, response);
  const call: Call = { state, request, response, url: new URL(request.url ?? '/', state.fixture.url) };
  // Matched as sent and decoded piece by piece: a name may have %2F or %23 in it.
  const path = call.url.pathname;
  for (const [pattern, handler] of routes) {
    const match = pattern.exec(path);
    if (!match) continue;
    const [, name = '', revision = 'main', rest = ''] = match;
    const found = find(call, name, decodeURIComponent(revision));
    return found && handler(found, decodeURIComponent(rest));
  }
  return sendError(response, 404, 'RepoNotFound', 'Repository not found');
}

const repoName = '((?:[^/]+/)?[^/]+?)';
const routes: [RegExp, (found: Found, rest: string) => unknown][] = [
  [new RegExp(`^/api/models/${repoName}(?:/revision/([^/]+))?$`), sendInfo],
  [new RegExp(`^/api/models/${repoName}/tree/([^/]+)(?:/(.+))?$`), sendTree],
  [new RegExp(`^/api/models/${repoName}/paths-info/([^/]+)$`), sendPathsInfo],
  [
    new RegExp(`^/api/resolve-cache/models/${repoName}/([^/]+)/(.+)$`),
    (found, path) => sendFile(found, path, false),
  ],
  [new RegExp(`^/${repoName}/(?:resolve|raw)/([^/]+)/(.+)$`), (found, path) => sendFile(found, path, true)],
];

function record(
  state: State,
  server: 'hub' | 'cdn',
  request: IncomingMessage,
  response: ServerResponse,
): void {
  const { method = 'GET', url: path = '/' } = request;
  const authorized = request.headers.authorization !== undefined;
  response.once('close', () =>
    state.fixture.log.push({
      server,
      method,
      path,
      status: response.statusCode,
      range: request.headers.range,
      authorized,
    }),
  );
}

function sendError(response: ServerResponse, status: number, code: string, message: string): void {
  const headers = { 'content-type': 'application/json', 'x-error-code': code, 'x-error-message': message };
  response.writeHead(status, headers).end(JSON.stringify({ error: message }));
}

/** The model and commit that are asked for, or the error answer that the real hub gives. */
function find({ state, request, response, url }: Call, name: string, revision: string): Found | undefined {
  const repo = state.repos.get(name);
  const token = request.headers.authorization;
  const commit = repo?.commits.get(revision === 'main' || revision === 'HEAD' ? repo.main : revision);
  if (!repo) {
    // Whether a model does not exist or is private is not told apart.
    sendError(response, 401, 'RepoNotFound', 'Invalid username or password.');
  } else if (repo.gated && token !== `Bearer ${state.fixture.token}`) {
    const advice = token ? `Please visit ${url.origin}/${name} to ask for access.` : 'Please log in.';
    sendError(response, token ? 403 : 401, 'GatedRepo', `Access to model ${name} is restricted. ${advice}`);
  } else if (!commit) {
    sendError(response, 404, 'RevisionNotFound', `Invalid rev id: ${revision}`);
  } else {
    return { state, request, response, url, repo, commit };
  }
  return undefined;
}

function sendJson(response: ServerResponse, value: unknown, headers: OutgoingHttpHeaders = {}): void {
  response
    .writeHead(200, { 'content-type': 'application/json; charset=utf-8', ...headers })
    .end(JSON.stringify(value));
}

const apiRefused = ({ state, response }: Call): boolean =>
  refused(response, faultFor(state.fixture.faults, 'api'));

const commonInfo = {
  private: false,
  disabled: false,
  downloads: 0,
  likes: 0,
  lastModified: '2026-01-01T00:00:00.000Z',
  pipeline_tag: 'text-generation',
  library_name: 'transformers',
  tags: ['transformers', 'safetensors', 'license:apache-2.0'],
  cardData: { license: 'apache-2.0' },
};

function sendInfo(found: Found): void {
  if (apiRefused(found)) return;
  const { repo, commit, url } = found;
  const files = [...commit.files.values()];
  const siblings = files.map((file) =>
    Object.assign({ rfilename: file.path, size: file.size, blobId: file.oid }, infoLfs(file)),
  );
  const gated = repo.gated ? 'manual' : false;
  const info: Record<string, unknown> = { ...commonInfo, sha: commit.id, gated, siblings };
  // With `expand` the hub gives only what was named.
  const wanted = url.searchParams.getAll('expand');
  const kept = Object.entries(info).filter(([key]) => wanted.length === 0 || wanted.includes(key));
  sendJson(found.response, {
    _id: '6500000000000000000000aa',
    id: repo.name,
    modelId: repo.name,
    ...Object.fromEntries(kept),
  });
}

/** The same thing is called `sha256` in the model info and `oid` in the tree. */
const infoLfs = ({ lfs, size }: HubFile): object =>
  lfs ? { lfs: { sha256: lfs, size, pointerSize: pointer(lfs, size).length } } : {};

function treeEntry({ path, oid, size, lfs }: HubFile, commit: string, expand: boolean): object {
  const large = lfs ? { lfs: { oid: lfs, size, pointerSize: pointer(lfs, size).length } } : {};
  const scan = { status: 'safe', avScan: { status: 'safe', virusFound: false }, pickleImportScan: null };
  const lastCommit = { id: commit, title: 'Upload', date: '2026-01-01T00:00:00.000Z' };
  return {
    type: 'file',
    oid,
    size,
    path,
    ...large,
    ...(expand ? { lastCommit, securityFileStatus: scan } : {}),
  };
}

function sendTree(found: Found, folder: string): void {
  if (apiRefused(found)) return;
  const { commit, url, state } = found;
  const expand = url.searchParams.get('expand') === 'true';
  const all = listing(commit, folder, url.searchParams.get('recursive') === 'true', expand);
  if (folder && all.length === 0)
    return sendError(found.response, 404, 'EntryNotFound', `${folder} does not exist`);
  const start = Number(url.searchParams.get('cursor') ?? 0);
  const next = start + state.pageSize;
  const onward = new URL(url);
  onward.searchParams.set('cursor', String(next));
  const link = next < all.length ? { link: `<${onward.href}>; rel="next"` } : {};
  sendJson(found.response, all.slice(start, next), link);
}

/** Files and folders below a folder: all of them, or only its own. */
function listing(commit: Commit, folder: string, recursive: boolean, expand: boolean): object[] {
  const prefix = folder ? `${folder}/` : '';
  const entries = new Map<string, object>();
  for (const file of commit.files.values()) {
    if (!file.path.startsWith(prefix)) continue;
    const parts = file.path.slice(prefix.length).split('/');
    const depths = parts.slice(0, -1).map((_, i) => prefix + parts.slice(0, i + 1).join('/'));
    for (const path of recursive ? depths : depths.slice(0, 1)) entries.set(path, folderEntry(path));
    if (recursive || parts.length === 1) entries.set(file.path, treeEntry(file, commit.id, expand));
  }
  return [...entries.values()];
}

const folderEntry = (path: string): object => ({
  type: 'directory',
  oid: createHash('sha1').update(path).digest('hex'),
  size: 0,
  path,
});

async function sendPathsInfo(found: Found): Promise<void> {
  if (apiRefused(found)) return;
  const { request, commit, response } = found;
  const body = (await bodyOf(request)).toString();
  const isJson = request.headers['content-type']?.startsWith('application/json') ?? false;
  const fields: { paths: string[] } = isJson
    ? JSON.parse(body)
    : { paths: new URLSearchParams(body).getAll('paths') };
  const paths = fields.paths;
  const files = paths.map((path) => commit.files.get(path)).filter((file) => file !== undefined);
  sendJson(
    response,
    files.map((file) => treeEntry(file, commit.id, true)),
  );
}

// --- files ---------------------------------------------------------------------------------------------

/** Large files: 302 to the CDN. Others: one relative hop, as the real hub makes it, then the bytes. */
async function sendFile(found: Found, path: string, hop: boolean): Promise<void> {
  const { state, repo, commit, response } = found;
  const file = commit.files.get(path);
  const origin = { 'x-repo-commit': commit.id, 'accept-ranges': 'bytes' };
  if (!file)
    return sendError(response.setHeader('x-repo-commit', commit.id), 404, 'EntryNotFound', 'Entry not found');
  if (hop && refused(response, faultFor(state.fixture.faults, `resolve:${path}`))) return undefined;
  const encoded = path.split('/').map(encodeURIComponent).join('/');
  if (file.lfs) {
    const location = `${state.fixture.cdn}/repos/${repo.name}/${commit.id}/${encoded}?Expires=1&Signature=fixture`;
    const linked = { 'x-linked-size': file.size, 'x-linked-etag': `"${file.lfs}"` };
    return void response.writeHead(302, { ...origin, ...linked, location, 'content-length': 0 }).end();
  }
  const headers = { ...origin, etag: `"${file.oid}"`, 'content-type': 'text/plain; charset=utf-8' };
  const location = `/api/resolve-cache/models/${repo.name}/${commit.id}/${encoded}`;
  if (hop) return void response.writeHead(307, { ...headers, location, 'content-length': 0 }).end();
  return sendBytes(found, file, headers);
}

async function answerCdn(state: State, request: IncomingMessage, response: ServerResponse): Promise<void> {
  record(state, 'cdn', request, response);
  const url = new URL(request.url ?? '/', state.fixture.cdn);
  const match = new RegExp(`^/repos/${repoName}/([0-9a-f]{40})/(.+)$`).exec(url.pathname);
  const [, name = '', commit = '', path = ''] = match ?? [];
  const file = state.repos.get(name)?.commits.get(commit)?.files.get(decodeURIComponent(path));
  if (request.headers.authorization !== undefined) {
    // As object stores do: the signature in the URL and a header are one authentication too many.
    response.writeHead(400).end('only one way of authentication is allowed');
  } else if (!file) {
    response.writeHead(403).end('<Error><Code>AccessDenied</Code></Error>');
  } else {
    // The ETag of a CDN is its own; it is not the sha256.
    const etag = `"${createHash('md5').update(file.oid).digest('hex')}"`;
    await sendBytes({ state, request, response }, file, { etag, 'content-type': 'binary/octet-stream' });
  }
}

async function sendBytes(
  call: Omit<Call, 'url'>,
  file: HubFile,
  headers: OutgoingHttpHeaders,
): Promise<void> {
  const { state, request, response } = call;
  const served = servedFor(state.fixture.served, file.path);
  const fault = faultFor(state.fixture.faults, file.path);
  served.requests++;
  if (refused(response, fault)) return;
  const source = { size: file.size, read: (start: number, end: number) => slices(file.bytes, start, end) };
  await serveBytes(request, response, { source, headers, fault, served });
}
