// SPDX-License-Identifier: Apache-2.0
//
// Debian's docker-registry (distribution 2.8) on the loopback, bare or with basic authentication; and in
// front of it, on request, what public registries put there: bearer tokens, redirects of blobs to another
// host, rate limits and accidents.
import { createReadStream, existsSync, statSync, writeFileSync } from 'node:fs';
import { randomUUID } from 'node:crypto';
import { request as httpRequest } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { join, resolve } from 'node:path';
import { bodyOf, faultFor, listen, refused, serveBytes, servedFor, takes } from './serve.ts';
import type { Fault, Faults, Served } from './serve.ts';
import { makeDir, removeTree, startServer, waitFor } from './workspace.ts';
import type { Server } from './workspace.ts';

/** Who may use a fixture registry that asks. */
export const registryUser = { username: 'carrier', password: 'open-sesame' };
// bcrypt is the only form the registry takes, and nothing installed by default makes it. Cost 5: tests.
const passwordFile = `${registryUser.username}:$2b$05$sealiftsealiftsealift./cG87W7MAjRRtfomUZo0FAWOQIerlyi\n`;

export type Registry = {
  /** `http://127.0.0.1:port` */
  url: string;
  /** `127.0.0.1:port`, as in an image reference. */
  host: string;
  /** Lines of the access log so far. */
  readonly log: string[];
  stop(): Promise<void>;
};

export type RegistryOptions = { dir: string; auth?: 'none' | 'basic' };

/** Starts Debian's registry with its storage in `dir`/data. */
export async function startRegistry({ dir, auth = 'none' }: RegistryOptions): Promise<Registry> {
  const folder = makeDir(resolve(dir));
  const logFile = join(folder, 'registry.log');
  const server = startServer('docker-registry', ['serve', writeConfig(folder, auth)], { logFile });
  // Port 0 and its own word for what it got: no one else can take the port in between.
  const port = await waitFor('docker-registry', () => listeningPort(server), { failed: () => ended(server) });
  const host = `127.0.0.1:${port}`;
  return {
    url: `http://${host}`,
    host,
    get log() {
      return server
        .output()
        .split('\n')
        .filter((line) => /"(GET|HEAD|PUT|POST|PATCH|DELETE) /.test(line));
    },
    stop: async () => {
      await server.stop();
      removeTree(join(folder, 'data'));
    },
  };
}

function writeConfig(folder: string, auth: 'none' | 'basic'): string {
  const users = join(folder, 'htpasswd');
  writeFileSync(users, passwordFile);
  const config = {
    version: '0.1',
    log: { level: 'info' },
    storage: { filesystem: { rootdirectory: makeDir(folder, 'data') }, delete: { enabled: true } },
    http: { addr: '127.0.0.1:0' },
    ...(auth === 'basic' ? { auth: { htpasswd: { realm: 'sealift tests', path: users } } } : {}),
  };
  const path = join(folder, 'config.yml');
  writeFileSync(path, JSON.stringify(config)); // JSON is YAML.
  return path;
}

const listeningPort = (server: Server): string | undefined =>
  /listening on 127\.0\.0\.1:(\d+)/.exec(server.output())?.[1];

function ended(server: Server): string | undefined {
  if (server.process.exitCode === null && server.process.signalCode === null) return undefined;
  return `ended at once: ${server.output().slice(-1000)}`;
}

// --- the registry behind tokens ------------------------------------------------------------------------

export type RegistryRequest = {
  method: string;
  path: string;
  status: number;
  /** First word of the Authorization header: `Bearer`, `Basic`, or `none`. */
  auth: string;
  range: string | undefined;
};

export type TokenRegistry = Registry & {
  /** Faults by `sha256:…` of a blob, by `REPO/manifests/REF`, or `token` for the token endpoint. */
  faults: Faults;
  /** What was sent, by the same keys. */
  served: Map<string, Served>;
  requests: RegistryRequest[];
  /** Requests at the host that blobs are redirected to. None may carry an Authorization header. */
  redirected: { path: string; authorization: string | undefined }[];
  /** Seconds that a new token is good for; change it to see expired ones. */
  tokenLifetime: number;
  /** Makes all tokens given so far worthless. */
  revokeTokens(): void;
};

export type TokenRegistryOptions = {
  dir: string;
  /** Give tokens for pulling to anyone, as Docker Hub does. */
  anonymousPull?: boolean;
  /** Redirect blobs to another host, as all large registries do. On unless switched off. */
  redirect?: boolean;
};

/** What a handler needs to know; the fixture's public fields live in `fixture`. */
type Front = {
  upstream: Registry;
  storage: string;
  anonymousPull: boolean;
  /** Where blobs are; undefined if this front serves them itself. */
  blobHost: string | undefined;
  tokens: Map<string, { access: Set<string>; expires: number }>;
  fixture: TokenRegistry;
};

/** Starts the registry with a front that wants bearer tokens, redirects blobs and fails when told to. */
export async function startTokenRegistry(options: TokenRegistryOptions): Promise<TokenRegistry> {
  const upstream = await startRegistry({ dir: options.dir });
  const tokens: Front['tokens'] = new Map();
  const fixture: TokenRegistry = {
    url: '',
    host: '',
    faults: {},
    served: new Map(),
    requests: [],
    redirected: [],
    tokenLifetime: 300,
    get log() {
      return upstream.log;
    },
    revokeTokens: () => tokens.clear(),
    stop: async () => {
      await Promise.all([front.close(), blobs.close()]);
      await upstream.stop();
    },
  };
  const storage = join(resolve(options.dir), 'data/docker/registry/v2/blobs/sha256');
  const state: Front = {
    upstream,
    storage,
    tokens,
    fixture,
    blobHost: undefined,
    anonymousPull: options.anonymousPull ?? false,
  };
  // Another address, not only another port: clients differ in what they take for the same host.
  const blobs = await listen('127.0.0.2', (request, response) => blobStore(state, request, response));
  if (options.redirect ?? true) state.blobHost = `127.0.0.2:${blobs.port}`;
  const front = await listen('127.0.0.1', (request, response) => frontDoor(state, request, response));
  fixture.host = `127.0.0.1:${front.port}`;
  fixture.url = `http://${fixture.host}`;
  return fixture;
}

async function frontDoor(front: Front, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const { fixture } = front;
  const path = request.url ?? '/';
  const { method = 'GET' } = request;
  const auth = request.headers.authorization?.split(' ')[0] ?? 'none';
  response.once('close', () =>
    fixture.requests.push({ method, path, status: response.statusCode, auth, range: request.headers.range }),
  );
  if (path.startsWith('/token')) return giveToken(front, request, response);
  const target = targetOf(path);
  if (!allowed(front, request, target)) return challenge(front, request, response, target);
  const fault = faultFor(fixture.faults, target.key);
  const reads = method === 'GET' || method === 'HEAD';
  if (target.kind !== 'other' && reads) servedFor(fixture.served, target.key).requests++;
  if (target.kind === 'blob' && method === 'GET') return sendBlob(front, request, response, target);
  if (reads && refused(response, fault)) return undefined;
  return forward(front, request, response, target, fault);
}

type Target = { kind: 'blob' | 'manifest' | 'other'; repo: string | undefined; key: string };

function targetOf(path: string): Target {
  const clean = path.split('?')[0] ?? '';
  const match = /^\/v2\/(.+?)\/(manifests|blobs|tags|referrers)\/(.+)$/.exec(clean);
  if (!match) return { kind: 'other', repo: undefined, key: clean };
  const [, repo, what, name = ''] = match;
  if (what === 'blobs' && name.startsWith('sha256:')) return { kind: 'blob', repo, key: name };
  if (what === 'manifests') return { kind: 'manifest', repo, key: `${repo}/manifests/${name}` };
  return { kind: 'other', repo, key: clean };
}

// Tokens, as in https://distribution.github.io/distribution/spec/auth/token/

function scopeOf(request: IncomingMessage, { repo }: Target): string[] {
  if (repo === undefined) return [];
  const reads = request.method === 'GET' || request.method === 'HEAD';
  return (reads ? ['pull'] : ['pull', 'push']).map((action) => `${repo}:${action}`);
}

function allowed(front: Front, request: IncomingMessage, target: Target): boolean {
  const given = /^Bearer (.+)$/.exec(request.headers.authorization ?? '')?.[1];
  const token = given === undefined ? undefined : front.tokens.get(given);
  return (
    token !== undefined &&
    token.expires > Date.now() &&
    scopeOf(request, target).every((one) => token.access.has(one))
  );
}

async function challenge(
  front: Front,
  request: IncomingMessage,
  response: ServerResponse,
  target: Target,
): Promise<void> {
  const wanted = scopeOf(request, target).map((one) => one.split(':')[1]);
  const scope = target.repo === undefined ? '' : `,scope="repository:${target.repo}:${wanted.join(',')}"`;
  const error = request.headers.authorization ? ',error="invalid_token"' : '';
  request.resume();
  const realm = `Bearer realm="${front.fixture.url}/token",service="sealift tests"${scope}${error}`;
  response.writeHead(401, { 'www-authenticate': realm, 'content-type': 'application/json' });
  response.end('{"errors":[{"code":"UNAUTHORIZED","message":"authentication required","detail":null}]}');
}

async function giveToken(front: Front, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const { fixture } = front;
  servedFor(fixture.served, 'token').requests++;
  if (refused(response, faultFor(fixture.faults, 'token'))) return;
  const asked = new URL(request.url ?? '/', fixture.url).searchParams;
  const form = new URLSearchParams((await bodyOf(request)).toString());
  const known = isKnown(request, form);
  const wrong = !known && (request.headers.authorization !== undefined || request.method === 'POST');
  if (wrong || (!known && !front.anonymousPull)) {
    response
      .writeHead(401, { 'content-type': 'application/json' })
      .end('{"details":"incorrect username or password"}');
    return;
  }
  const scopes = [...asked.getAll('scope'), ...form.getAll('scope')].flatMap((scope) => scope.split(' '));
  const token = randomUUID();
  front.tokens.set(token, {
    access: accessFor(scopes, known),
    expires: Date.now() + fixture.tokenLifetime * 1000,
  });
  // Registries name it one way or the other; clients must take both.
  const name = request.method === 'POST' ? 'access_token' : 'token';
  response.writeHead(200, { 'content-type': 'application/json' });
  response.end(
    JSON.stringify({ [name]: token, expires_in: fixture.tokenLifetime, issued_at: new Date().toISOString() }),
  );
}

/** Basic credentials, or the OAuth2 form that clients with an identity token post. */
function isKnown(request: IncomingMessage, form: URLSearchParams): boolean {
  const { username, password } = registryUser;
  const basic = `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}`;
  const granted =
    form.get('grant_type') === 'password' &&
    form.get('username') === username &&
    form.get('password') === password;
  return request.headers.authorization === basic || granted || form.get('refresh_token') === identityToken;
}

/** Stands for the password in a `docker login` that keeps an identity token. */
export const identityToken = 'identity-of-the-carrier';

function accessFor(scopes: string[], known: boolean): Set<string> {
  const access = new Set<string>();
  for (const scope of scopes) {
    const [, repo, actions = ''] = /^repository:(.+):([^:]*)$/.exec(scope) ?? [];
    for (const action of actions.split(',')) if (known || action === 'pull') access.add(`${repo}:${action}`);
  }
  return access;
}

// Blobs and manifests

async function sendBlob(
  front: Front,
  request: IncomingMessage,
  response: ServerResponse,
  target: Target,
): Promise<void> {
  const { blobHost } = front;
  if (!existsSync(blobPath(front, target.key))) return forward(front, request, response, target, {});
  if (blobHost === undefined) return serveBlob(front, request, response, target.key);
  const signed = `http://${blobHost}/store/${target.key}?signature=${randomUUID()}`;
  response.writeHead(307, { location: signed, 'content-length': 0 }).end();
  return undefined;
}

const blobPath = (front: Front, digest: string): string =>
  join(front.storage, digest.slice(7, 9), digest.slice(7), 'data');

/** The host behind the redirect: like a cloud's object store it refuses a request with two authentications. */
async function blobStore(front: Front, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const path = request.url ?? '/';
  const { authorization } = request.headers;
  front.fixture.redirected.push({ path, authorization });
  if (authorization !== undefined) {
    response.writeHead(400).end('only one way of authentication is allowed: signature or Authorization');
    return;
  }
  await serveBlob(front, request, response, /sha256:[0-9a-f]{64}/.exec(path)?.[0] ?? '');
}

async function serveBlob(
  front: Front,
  request: IncomingMessage,
  response: ServerResponse,
  digest: string,
): Promise<void> {
  const path = blobPath(front, digest);
  const fault = faultFor(front.fixture.faults, digest);
  if (!existsSync(path)) response.writeHead(404).end();
  if (response.headersSent || refused(response, fault)) return;
  const source = {
    size: statSync(path).size,
    read: (start: number, end: number) =>
      end > start ? createReadStream(path, { start, end: end - 1 }) : [],
  };
  const headers = { 'content-type': 'application/octet-stream', etag: `"${digest}"` };
  await serveBytes(request, response, {
    source,
    headers,
    fault,
    served: servedFor(front.fixture.served, digest),
  });
}

async function forward(
  front: Front,
  request: IncomingMessage,
  response: ServerResponse,
  target: Target,
  fault: Fault,
): Promise<void> {
  const { authorization: _, ...headers } = request.headers;
  const onward = httpRequest(front.upstream.url + request.url, { method: request.method, headers });
  request.pipe(onward);
  const answer = await new Promise<IncomingMessage>((done, fail) => {
    onward.once('response', done).once('error', fail);
  });
  await passBack(front, answer, response, target, fault);
}

async function passBack(
  front: Front,
  answer: IncomingMessage,
  response: ServerResponse,
  target: Target,
  fault: Fault,
): Promise<void> {
  response.writeHead(answer.statusCode ?? 502, answer.headers);
  const served = target.kind === 'manifest' ? servedFor(front.fixture.served, target.key) : undefined;
  const body = await bodyOf(answer);
  const flip = served && takes(fault.flip) ? fault.flip?.at : undefined;
  if (flip !== undefined && flip < body.length) body.writeUInt8(body.readUInt8(flip) ^ 1, flip);
  if (served) served.bytes += body.length;
  response.end(body);
}
