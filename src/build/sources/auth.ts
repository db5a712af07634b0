// SPDX-License-Identifier: Apache-2.0
/** Registry authentication: the challenge of RFC 9110 §11.6.1 and the token service of distribution/spec/auth. */
import { SealiftError } from '../../errors.ts';
import type { Credential } from './credentials.ts';
import { describeUrl, isLoopback } from './address.ts';
import type { HttpClient } from './http.ts';

const MAX_TOKEN_BYTES = 1024 * 1024;

export interface Challenge {
  /** Lower case: `bearer`, `basic`. */
  scheme: string;
  /** Keys in lower case. */
  params: Record<string, string>;
}

/** Parses WWW-Authenticate, which may hold several challenges. What cannot be parsed is skipped. */
export function parseChallenges(header: string): Challenge[] {
  const challenges: Challenge[] = [];
  const token =
    /\s*,?\s*(?:([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))|([A-Za-z0-9_-]+)(?=\s|,|$))/y;
  for (let match = token.exec(header); match !== null; match = token.exec(header)) {
    const [, key, quoted, bare, scheme] = match;
    if (scheme !== undefined) challenges.push({ scheme: scheme.toLowerCase(), params: {} });
    else if (key !== undefined) {
      const params = challenges.at(-1)?.params;
      if (params) params[key.toLowerCase()] = quoted?.replace(/\\(.)/g, '$1') ?? bare ?? '';
    }
  }
  return challenges;
}

export interface AuthTarget {
  http: HttpClient;
  /** Base URL of the registry. */
  base: URL;
  /** For hints and messages: the host that `docker login` takes. */
  loginHost: string;
  repository: string;
  signal: AbortSignal | undefined;
}

/**
 * Answers a 401: the value for the Authorization header.
 * @throws {SealiftError} UNAUTHORIZED when there is nothing to answer with, SOURCE_INVALID for unsafe realms
 */
export async function authorize(
  header: string,
  credential: Credential | undefined,
  target: AuthTarget,
): Promise<string> {
  if (credential?.kind === 'registry-token') return `Bearer ${credential.token}`;
  const challenges = parseChallenges(header);
  const bearer = challenges.find(({ scheme }) => scheme === 'bearer');
  if (bearer) return `Bearer ${await fetchToken(bearer, credential, target)}`;
  const basic = challenges.some(({ scheme }) => scheme === 'basic');
  if (basic && credential?.kind === 'password') return basicHeader(credential);
  throw unauthorized(
    target,
    credential === undefined ? 'wants credentials' : 'does not accept the kind of credentials at hand',
  );
}

export function unauthorized(
  { loginHost, repository }: Pick<AuthTarget, 'loginHost' | 'repository'>,
  reason: string,
): SealiftError {
  return new SealiftError('UNAUTHORIZED', `${loginHost} ${reason} for ${repository}`, {
    hint: `run: docker login ${loginHost}`,
  });
}

function basicHeader({ username, password }: { username: string; password: string }): string {
  return `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}`;
}

async function fetchToken(
  { params }: Challenge,
  credential: Credential | undefined,
  target: AuthTarget,
): Promise<string> {
  const realm = checkRealm(params['realm'], target);
  const fields = {
    service: params['service'],
    scope: params['scope'] ?? `repository:${target.repository}:pull`,
  };
  const request =
    credential?.kind === 'identity-token'
      ? refresh(credential.token, fields)
      : plain(realm, credential, fields);
  const what = `token for ${target.repository}`;
  const answer = await target.http.bytes(realm, { ...request, signal: target.signal, what }, MAX_TOKEN_BYTES);
  if (answer.status >= 400) {
    throw unauthorized(
      target,
      `(token service ${describeUrl(realm)}, status ${answer.status}) refuses ${credential === undefined ? 'anonymous access' : 'the credentials'}`,
    );
  }
  return readToken(answer.bytes) ?? noToken(realm);
}

type TokenRequest = { method: 'GET' | 'POST'; headers: Record<string, string>; body?: string };
type TokenFields = { service: string | undefined; scope: string };

function plain(
  realm: URL,
  credential: Credential | undefined,
  { service, scope }: TokenFields,
): TokenRequest {
  if (service !== undefined) realm.searchParams.set('service', service);
  // Several scopes come in one value, separated by spaces, and are sent as several parameters.
  for (const one of scope.split(' ')) realm.searchParams.append('scope', one);
  const headers: Record<string, string> =
    credential?.kind === 'password' ? { authorization: basicHeader(credential) } : {};
  return { method: 'GET', headers };
}

function refresh(token: string, { service, scope }: TokenFields): TokenRequest {
  const form = new URLSearchParams({
    grant_type: 'refresh_token',
    client_id: 'sealift',
    refresh_token: token,
    scope,
  });
  if (service !== undefined) form.set('service', service);
  return {
    method: 'POST',
    headers: { 'content-type': 'application/x-www-form-urlencoded' },
    body: form.toString(),
  };
}

/**
 * The realm comes from the registry, and gets the user's password. So: TLS, unless the registry itself is on
 * loopback; and never a service of this host or its link (cloud metadata) on behalf of a registry elsewhere.
 */
function checkRealm(text: string | undefined, { base, http }: AuthTarget): URL {
  const realm = URL.parse(text ?? '');
  const refuse = (reason: string): never => {
    const shown = realm === null ? 'none' : describeUrl(realm);
    throw new SealiftError('SOURCE_INVALID', `${base.host} sends us for a token to ${shown}: ${reason}`);
  };
  if (realm === null) return refuse('that is not an address');
  const local = isLoopback(base.hostname);
  if (!local && /^(localhost$|127\.|169\.254\.|\[::1\]|\[fe80:|0\.0\.0\.0$)/.test(realm.hostname)) {
    return refuse('that is this host, not theirs');
  }
  if (realm.protocol === 'https:') return realm;
  if (realm.protocol === 'http:' && (base.protocol === 'http:' || local) && http.allowsPlain(realm))
    return realm;
  return refuse('that is not https');
}

function readToken(bytes: Buffer): string | undefined {
  try {
    const { token, access_token: accessToken } = JSON.parse(bytes.toString('utf8')) as Record<
      string,
      unknown
    >;
    const value = token ?? accessToken;
    return typeof value === 'string' && /^[\x21-\x7e]+$/.test(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

function noToken(realm: URL): never {
  throw new SealiftError('SOURCE_INVALID', `token service ${describeUrl(realm)} answered without a token`);
}
