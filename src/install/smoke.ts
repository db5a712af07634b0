// SPDX-License-Identifier: Apache-2.0
/**
 * The smoke test: one real request for each service, over https and through nginx. curl sends it inside
 * the gateway's container, because sealift itself opens nothing but unix sockets. The key goes to curl's stdin, never
 * into its arguments, which every process of the host can read.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import * as z from 'zod';
import { SealiftError } from '../errors.ts';
import { parseJson } from '../json.ts';
import type { Service } from '../engines/index.ts';
import type { ApiKey } from './api-keys.ts';
import type { EngineClient } from './engine-client.ts';
import { GATEWAY_PORT } from './gateway.ts';
import { gatewayContainer } from './gateway-control.ts';
import type { Site } from './site.ts';
import { plainLine, withoutSecrets } from './text.ts';
import type { TlsFiles } from './tls.ts';

/** The first request may compile kernels. */
const REQUEST_SECONDS = 300;
const MAX_ANSWER_BYTES = 1024 * 1024;
/** A few words show that it works; a large model on a small machine may take a second for each. */
const MAX_TOKENS = 16;
const MAX_AGAIN = 6;
const AGAIN_MS = 5000;

type Ran = Awaited<ReturnType<EngineClient['exec']>>;

export interface SmokeAnswer {
  service: string;
  model: string;
  /** The beginning of what the model said; empty when it was still thinking after the few tokens it was given. */
  answer: string;
}

const Choice = z.object({
  message: z.object({ content: z.string().nullish(), reasoning_content: z.string().nullish() }),
  finish_reason: z.string().nullish(),
});
const Answer = z.object({
  model: z.string(),
  choices: z.array(Choice).min(1),
});
const Vectors = z.object({
  model: z.string(),
  data: z.array(z.object({ embedding: z.array(z.number()).min(1) })).min(1),
});

export interface SmokeInput {
  engine: EngineClient;
  project: string;
  services: readonly Service[];
  site: Site;
  tls: Pick<TlsFiles, 'publicKeyPin'>;
  apiKey: ApiKey;
  /** Milliseconds until a request that was put off is made again. */
  againMs?: number;
}

/** @throws {SealiftError} SMOKE_TEST_FAILED */
export async function smokeTest(input: SmokeInput): Promise<SmokeAnswer[]> {
  const gateway = await gatewayContainer(input.engine, input.project, input.services);
  const answers: SmokeAnswer[] = [];
  for (const [i, service] of input.services.entries()) {
    const prefix = i === 0 ? '' : `/${service.name}`;
    const ran = await ask(input, gateway.id, curlConfig(input, service, prefix));
    answers.push(judge(service, ran, [input.apiKey.key]));
  }
  return answers;
}

/**
 * Others may be using up what the key is allowed (429), and a gateway that was told to read its files anew may look for its
 * engines in vain for a moment (502 to 504): the answer is to come again.
 */
async function ask(
  { engine, againMs = AGAIN_MS }: SmokeInput,
  gateway: string,
  config: string,
): Promise<Ran> {
  for (let again = 0; ; again++) {
    const ran = await engine.exec(
      gateway,
      ['curl', '-q', '--config', '-'],
      config,
      (REQUEST_SECONDS + 10) * 1000,
    );
    if (!/\n(429|50[234])$/.test(ran.stdout) || again === MAX_AGAIN) return ran;
    await sleep(againMs);
  }
}

/**
 * `insecure` switches off the check of names and of the issuer, which may be unknown in here, and `pinnedpubkey`
 * demands more instead: the very key of the certificate that site.yaml names (curl checks it in either case).
 */
export function curlConfig(input: SmokeInput, service: Service, prefix: string): string {
  const { path, body } = question(service);
  return [
    `url = ${quoted(`https://${input.site.hostName}:${GATEWAY_PORT}${prefix}${path}`)}`,
    `connect-to = ${quoted(`::127.0.0.1:${GATEWAY_PORT}`)}`,
    'insecure',
    `pinnedpubkey = ${quoted(`sha256//${input.tls.publicKeyPin}`)}`,
    `header = ${quoted(`Authorization: Bearer ${input.apiKey.key}`)}`,
    `header = ${quoted('Content-Type: application/json')}`,
    `data = ${quoted(JSON.stringify(body))}`,
    'noproxy = "*"',
    'silent',
    'show-error',
    `max-time = ${REQUEST_SECONDS}`,
    'write-out = "\\n%{http_code}"',
    '',
  ].join('\n');
}

function question({ servedModel: model, purpose }: Service): { path: string; body: object } {
  if (purpose === 'embeddings') return { path: '/v1/embeddings', body: { model, input: 'ready' } };
  const messages = [{ role: 'user', content: 'Reply with the one word: ready' }];
  return { path: '/v1/chat/completions', body: { model, messages, max_tokens: MAX_TOKENS, temperature: 0 } };
}

const quoted = (text: string): string => `"${text.replace(/["\\]/g, '\\$&')}"`;

function judge(
  service: Service,
  ran: { code: number; stdout: string; stderr: string },
  secrets: readonly string[],
): SmokeAnswer {
  const cut = ran.stdout.lastIndexOf('\n');
  const status = ran.stdout.slice(cut + 1);
  const body = ran.stdout.slice(0, Math.max(cut, 0));
  const said = withoutSecrets(plainLine(ran.code === 0 ? body : ran.stderr), secrets);
  if (ran.code !== 0) throw failed(service, `curl ended with status ${ran.code}`, said);
  if (status !== '200') throw failed(service, `the gateway answered ${plainLine(status, 16)}`, said);
  const json = parseJson(
    Buffer.from(body),
    'the answer to the smoke test',
    'SMOKE_TEST_FAILED',
    MAX_ANSWER_BYTES,
  );
  const { model, answer } = service.purpose === 'chat' ? spoken(json) : embedded(json);
  if (answer === undefined) throw failed(service, 'the answer holds no text', said);
  if (model !== service.servedModel)
    throw failed(service, `the answer is from model ${plainLine(model, 100)}`, said);
  return { service: service.name, model, answer };
}

/** @returns no answer when it is none */
function spoken(json: unknown): { model: string; answer?: string } {
  const parsed = Answer.safeParse(json).data;
  const choice = parsed?.choices[0];
  if (!parsed || !hasSpoken(choice!)) return { model: '' };
  return { model: parsed.model, answer: plainLine(choice!.message.content?.trim() ?? '', 200) };
}

function embedded(json: unknown): { model: string; answer?: string } {
  const parsed = Vectors.safeParse(json).data;
  if (!parsed) return { model: '' };
  return { model: parsed.model, answer: `a vector of ${parsed.data[0]!.embedding.length} numbers` };
}

/** A model that thinks before it speaks may use up its few tokens on that. */
const hasSpoken = ({ message, finish_reason }: z.infer<typeof Choice>): boolean =>
  [message.content, message.reasoning_content].some((text) => (text ?? '').trim() !== '') ||
  finish_reason === 'length';

const failed = (service: Service, why: string, said: string): SealiftError =>
  new SealiftError('SMOKE_TEST_FAILED', `a request to ${service.name} through the gateway failed: ${why}`, {
    details: said === '' ? [] : [['answer', said]],
  });
