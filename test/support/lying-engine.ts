// SPDX-License-Identifier: Apache-2.0
//
// An engine that lies: a proxy on a unix socket of its own before a real engine. What it is not told to twist
// passes as it is, so that everything a lie does not reach is the behaviour of the real engine.
import { createServer, request, type IncomingMessage, type ServerResponse } from 'node:http';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { tempDir } from './workspace.ts';

/** The part of an image's description that an installer may look at. */
export type ImageReport = { Id: string; RootFS: { Layers: string[] } };

/** One request to load an archive, in the hands of the liar. */
export type LoadCall = {
  /** Counts from 1. */
  nth: number;
  /** What the client sends. */
  archive: Readable;
  /** Sends an archive to the real engine; gives its answer. */
  send(archive: Readable | Buffer, options?: { withoutPlatform?: boolean }): Promise<string>;
  /** Answers the client, with status 200. */
  answer(text: string): void;
  /** Cuts the client's connection. */
  breakOff(): void;
};

export type Lies = {
  /** Called before the real engine is asked for an image; `nth` counts from 1 for each reference. */
  asked?: (reference: string, nth: number) => void | Promise<void>;
  /** Twists what the real engine says about an image. */
  inspect?: (image: ImageReport, reference: string) => void;
  /** Stands in for loading. */
  load?: (call: LoadCall) => Promise<void>;
};

export type LyingEngine = {
  socket: string;
  /** What it lies about; to be set anew by each test. */
  lies: Lies;
  /** Archives that clients wanted to load since `forget`. */
  loads: number;
  /** Starts counting anew, and tells the truth. */
  forget(): void;
  stop(): Promise<void>;
};

/** Starts the proxy before the engine with this socket. */
export async function startLyingEngine(realSocket: string): Promise<LyingEngine> {
  const socket = join(tempDir('liar'), 'docker.sock');
  const asked = new Map<string, number>();
  const engine: LyingEngine = {
    socket,
    lies: {},
    loads: 0,
    forget: () => {
      engine.lies = {};
      engine.loads = 0;
      asked.clear();
    },
    stop: () => new Promise((done) => server.close(() => done())),
  };
  const server = createServer((call, answer) => {
    serve(engine, asked, realSocket, call, answer).catch(() => answer.destroy());
  });
  await new Promise<void>((done) => server.listen(socket, done));
  return engine;
}

async function serve(
  engine: LyingEngine,
  asked: Map<string, number>,
  realSocket: string,
  call: IncomingMessage,
  answer: ServerResponse,
): Promise<void> {
  const path = (call.url ?? '').replace(/^\/v[\d.]+/, '');
  const reference = /^\/images\/([^?]+)\/json/.exec(path)?.[1];
  if (call.method === 'GET' && reference !== undefined) {
    const name = decodeURIComponent(reference);
    asked.set(name, (asked.get(name) ?? 0) + 1);
    await engine.lies.asked?.(name, asked.get(name) ?? 0);
    return inspect(engine.lies, name, await ask(realSocket, call, call.url ?? '', call), answer);
  }
  if (call.method === 'POST' && path.startsWith('/images/load')) {
    engine.loads++;
    if (engine.lies.load) return engine.lies.load(loadCall(engine.loads, realSocket, call, answer));
  }
  const real = await ask(realSocket, call, call.url ?? '', call);
  answer.writeHead(real.statusCode ?? 500, real.headers);
  real.pipe(answer);
}

async function inspect(
  lies: Lies,
  reference: string,
  real: IncomingMessage,
  answer: ServerResponse,
): Promise<void> {
  let body = await text(real);
  if (real.statusCode === 200) {
    const image = JSON.parse(body) as ImageReport;
    lies.inspect?.(image, reference);
    body = JSON.stringify(image);
  }
  answer.writeHead(real.statusCode ?? 500, { 'Content-Type': 'application/json' }).end(body);
}

function loadCall(nth: number, realSocket: string, call: IncomingMessage, answer: ServerResponse): LoadCall {
  const url = call.url ?? '';
  return {
    nth,
    archive: call,
    send: async (archive, { withoutPlatform = false } = {}) => {
      const path = withoutPlatform ? url.replace(/[?&]platform=[^&]*/, '') : url;
      const body = Buffer.isBuffer(archive) ? Readable.from([archive], { objectMode: false }) : archive;
      return text(await ask(realSocket, call, path, body));
    },
    answer: (said) => answer.writeHead(200, { 'Content-Type': 'application/json' }).end(said),
    breakOff: () => call.socket.destroy(),
  };
}

/** The same request to the real engine, with this body. */
function ask(
  socketPath: string,
  call: IncomingMessage,
  path: string,
  body: Readable,
): Promise<IncomingMessage> {
  const { host: _, connection: __, 'content-length': length, ...headers } = call.headers;
  const kept = body === call && length !== undefined ? { ...headers, 'content-length': length } : headers;
  return new Promise((done, fail) => {
    const real = request({ socketPath, method: call.method, path, headers: kept }, done);
    real.once('error', fail);
    body.once('error', (error) => real.destroy(error));
    body.pipe(real);
  });
}

/** An archive whose members hold what `edit` gives, of the same length; without those for which it gives nothing. */
export function editArchive(
  archive: Buffer,
  edit: (name: string, content: Buffer) => Buffer | undefined,
): Buffer {
  const parts: Buffer[] = [];
  for (let at = 0; at + 512 <= archive.length && archive[at] !== 0;) {
    const header = archive.subarray(at, at + 512);
    const name = header.toString('latin1', 0, 100).replace(/\0.*$/s, '');
    const size = parseInt(header.toString('latin1', 124, 136), 8);
    const end = at + 512 + Math.ceil(size / 512) * 512;
    const content = edit(name, Buffer.from(archive.subarray(at + 512, at + 512 + size)));
    if (content !== undefined) parts.push(header, content, Buffer.alloc(-content.length & 511));
    at = end;
  }
  return Buffer.concat([...parts, Buffer.alloc(1024)]);
}
