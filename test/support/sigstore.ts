// SPDX-License-Identifier: Apache-2.0
//
// A private Sigstore instance on the loopback: certificate authority (Fulcio), transparency log (Rekor, API v1)
// and timestamp authority, with the trusted root by which their signatures are verified. Its parts come from
// @sigstore/mock; what it answers is accepted by @sigstore/verify and by cosign.
import { createHash, generateKeyPairSync, type KeyObject } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import {
  fulcioHandler,
  initializeCA,
  initializeCTLog,
  initializeTLog,
  initializeTSA,
  rekorHandler,
  tsaHandler,
  type HandlerFn,
} from '@sigstore/mock';

/** Where each service answers, relative to `url`. */
export const SIGSTORE_PATHS = {
  fulcio: '/api/v2/signingCert',
  rekor: '/api/v1/log/entries',
  tsa: '/api/v1/timestamp',
} as const;

type Service = keyof typeof SIGSTORE_PATHS;

export interface Answer {
  status: number;
  body: string | Uint8Array;
  type?: string;
  /** Where it redirects to. */
  location?: string;
}

export interface SigstoreInstance {
  /** Base URL of all three services, `http://127.0.0.1:PORT`. */
  url: string;
  /** JSON text of trusted_root.json. */
  trustedRoot: string;
  /** An OIDC token for that subject by that issuer; its own signature is junk, which this Fulcio does not mind. */
  token(subject: string, issuer: string, claims?: object): string;
  /** Requests so far: `POST /api/v2/signingCert`. */
  hits: string[];
  /** What a service answers instead, given its honest answer; a promise that never settles hangs it. */
  lies: Partial<Record<Service, (honest: Answer, request: string) => Answer | Promise<Answer>>>;
  close(): Promise<void>;
}

export async function startSigstore(): Promise<SigstoreInstance> {
  const server = createServer();
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const { handlers, trustedRoot } = await services(url);
  const hits: string[] = [];
  const close = (): Promise<void> => closeNow(server);
  const instance = { url, trustedRoot: JSON.stringify(trustedRoot), token, hits, lies: {}, close };
  server.on('request', (request, response) => {
    hits.push(`${request.method} ${request.url}`);
    void answer(request, response, handlers, instance.lies);
  });
  return instance;
}

function closeNow(server: ReturnType<typeof createServer>): Promise<void> {
  server.closeAllConnections();
  return new Promise((done) => server.close(() => done()));
}

async function answer(
  request: IncomingMessage,
  response: ServerResponse,
  handlers: Record<Service, HandlerFn>,
  lies: SigstoreInstance['lies'],
): Promise<void> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  if (request.url === OLD_FULCIO_PATH) return answerOldFulcio(request, response, chunks, handlers.fulcio);
  const service = (Object.keys(SIGSTORE_PATHS) as Service[]).find((s) => SIGSTORE_PATHS[s] === request.url);
  if (service === undefined) return void response.writeHead(404).end();
  const body = withToken(Buffer.concat(chunks).toString(), request);
  const honest = await handlers[service](body);
  const truth: Answer = {
    status: service === 'fulcio' && honest.statusCode === 201 ? 200 : honest.statusCode, // cosign 3 wants 200
    body: typeof honest.response === 'string' ? honest.response : bytesOf(honest.response),
    type: honest.contentType ?? 'text/plain',
  };
  const { status, body: content, type, location } = (await lies[service]?.(truth, body)) ?? truth;
  // sigstore-go looks for the entry of this name in the answer.
  const etag = service === 'rekor' ? /[0-9a-f]{64}/.exec(String(content))?.[0] : undefined;
  response
    .writeHead(status, {
      'content-type': type ?? 'application/json',
      ...(etag && { etag }),
      ...(location && { location }),
    })
    .end(content);
}

const tokenOf = (request: IncomingMessage): string | undefined =>
  /^Bearer (.*)$/.exec(request.headers.authorization ?? '')?.[1];

/** cosign 3 sends the token in a header; the mock looks for it in the body, where @sigstore/sign has it. */
function withToken(body: string, request: IncomingMessage): string {
  const oidcIdentityToken = tokenOf(request);
  if (oidcIdentityToken === undefined) return body;
  return JSON.stringify({ ...(JSON.parse(body) as object), credentials: { oidcIdentityToken } });
}

/** What cosign 2 asks: a PEM chain for a PEM key. */
const OLD_FULCIO_PATH = '/api/v1/signingCert';

async function answerOldFulcio(
  request: IncomingMessage,
  response: ServerResponse,
  chunks: Buffer[],
  fulcio: HandlerFn,
): Promise<void> {
  const { publicKey } = JSON.parse(Buffer.concat(chunks).toString()) as { publicKey: { content: string } };
  const content = Buffer.from(publicKey.content, 'base64').toString();
  const asked = {
    credentials: { oidcIdentityToken: tokenOf(request) },
    publicKeyRequest: { publicKey: { content } },
  };
  const answered = JSON.parse((await fulcio(JSON.stringify(asked))).response as string) as {
    signedCertificateEmbeddedSct: { chain: { certificates: string[] } };
  };
  const pem = answered.signedCertificateEmbeddedSct.chain.certificates.join('\n');
  response.writeHead(201, { 'content-type': 'application/pem-certificate-chain' }).end(pem);
}

interface KeyPair {
  publicKey: KeyObject;
  privateKey: KeyObject;
}
const newKeys = (): KeyPair => generateKeyPairSync('ec', { namedCurve: 'P-256' });

async function services(url: string): Promise<{ handlers: Record<Service, HandlerFn>; trustedRoot: object }> {
  // Whole seconds: the mock writes fractions of them in a form of GeneralizedTime that @sigstore/core does not
  // read. Not before the roots, which begin to be valid at the moment they are made.
  const clock = new Date(Math.ceil(Date.now() / 1000 + 1) * 1000);
  const keys = { ca: newKeys(), ctlog: newKeys(), tlog: newKeys(), tsa: newKeys() };
  const ca = await initializeCA(keys.ca, await initializeCTLog(keys.ctlog, clock), clock);
  const tlog = await initializeTLog(url, keys.tlog, clock);
  const tsa = await initializeTSA(keys.tsa, clock);
  const handlers = {
    fulcio: fulcioHandler(ca, { strict: true }).fn,
    rekor: rekorHandler(tlog, { strict: true }).fn,
    tsa: tsaHandler(tsa, { strict: true }).fn,
  };
  const authority = (...chain: ArrayBufferView<ArrayBuffer>[]): object => ({
    subject: { organization: 'sigstore.mock', commonName: 'sigstore' },
    uri: url,
    certChain: { certificates: chain.map((der) => ({ rawBytes: bytesOf(der).toString('base64') })) },
    validFor: { start: START },
  });
  const trustedRoot = {
    mediaType: 'application/vnd.dev.sigstore.trustedroot+json;version=0.1',
    tlogs: [logOf(url, keys.tlog)],
    certificateAuthorities: [authority(ca.rootCertificate)],
    ctlogs: [logOf(url, keys.ctlog)],
    timestampAuthorities: [authority(tsa.intCertificate, tsa.rootCertificate)],
  };
  return { handlers, trustedRoot };
}

const START = new Date(Date.now() - 3_600_000).toISOString();

function logOf(baseUrl: string, { publicKey }: KeyPair): object {
  const spki = publicKey.export({ type: 'spki', format: 'der' });
  return {
    baseUrl,
    hashAlgorithm: 'SHA2_256',
    publicKey: {
      rawBytes: spki.toString('base64'),
      keyDetails: 'PKIX_ECDSA_P256_SHA_256',
      validFor: { start: START },
    },
    logId: { keyId: createHash('sha256').update(spki).digest('base64') },
  };
}

const bytesOf = (view: ArrayBufferView<ArrayBuffer>): Buffer =>
  Buffer.from(view.buffer, view.byteOffset, view.byteLength);

function token(sub: string, iss: string, claims: object = {}): string {
  const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString('base64url');
  const now = Math.floor(Date.now() / 1000);
  const payload = { iss, sub, aud: 'sigstore', iat: now, exp: now + 600, ...claims };
  return `${part({ alg: 'RS256', typ: 'JWT' })}.${part(payload)}.${Buffer.from('sig').toString('base64url')}`;
}
