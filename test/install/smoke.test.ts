// SPDX-License-Identifier: Apache-2.0
/** What counts as an answer of a model to the smoke test. */
import { describe, expect, it } from 'vitest';
import type { EngineClient } from '../../src/install/engine-client.ts';
import type { Service } from '../../src/engines/index.ts';
import { parseSite } from '../../src/install/site.ts';
import { smokeTest, type SmokeAnswer } from '../../src/install/smoke.ts';
import { siteText } from './rig.ts';

const services = [{ name: 'chat', servedModel: 'tiny', purpose: 'chat' } as Service];

/** An engine whose gateway gets this answer; `asked` collects what curl was told. */
function answering(choice: object, asked: string[] = []): Promise<SmokeAnswer[]> {
  return asking(services, { model: 'tiny', choices: [choice] }, asked);
}

function asking(of: readonly Service[], answer: object, asked: string[]): Promise<SmokeAnswer[]> {
  const body = JSON.stringify(answer);
  const engine = {
    containers: () => Promise.resolve([{ id: 'g', service: 'gateway', state: 'running' }]),
    exec: (_id: string, _argv: string[], input: string) => {
      asked.push(input);
      return Promise.resolve({ code: 0, stdout: `${body}\n200`, stderr: '' });
    },
  } as unknown as EngineClient;
  const apiKey = { name: 'default', key: 'sk-0123456789012345678901234567' };
  const site = parseSite(siteText(8443), 'site.yaml');
  return smokeTest({
    engine,
    project: 'sealift-demo',
    services: of,
    site,
    tls: { publicKeyPin: 'x' },
    apiKey,
  });
}

describe('the smoke test', () => {
  it.each([
    ['words', { message: { content: ' ready ' }, finish_reason: 'stop' }, 'ready'],
    [
      'thoughts',
      { message: { content: null, reasoning_content: 'The user wants' }, finish_reason: 'stop' },
      '',
    ],
    ['the end of its few tokens', { message: { content: '' }, finish_reason: 'length' }, ''],
  ])('takes %s for an answer', async (_, choice, answer) => {
    expect(await answering(choice)).toEqual([{ service: 'chat', model: 'tiny', answer }]);
  });

  it('does not take nothing at all for one', async () => {
    const nothing = { message: { content: '' }, finish_reason: 'stop' };
    await expect(answering(nothing)).rejects.toMatchObject({ code: 'SMOKE_TEST_FAILED' });
  });

  it('asks again when it was put off, and not for ever', async () => {
    const good = JSON.stringify({ model: 'tiny', choices: [{ message: { content: 'ready' } }] });
    const asks = (statuses: string[]): { asked: () => number; answers: Promise<SmokeAnswer[]> } => {
      let asked = 0;
      const exec = (): Promise<object> => {
        const status = statuses[Math.min(asked++, statuses.length - 1)]!;
        return Promise.resolve({
          code: 0,
          stdout: `${status === '200' ? good : '{}'}\n${status}`,
          stderr: '',
        });
      };
      const engine = {
        containers: () => Promise.resolve([{ id: 'g', service: 'gateway', state: 'running' }]),
        exec,
      } as unknown as EngineClient;
      const apiKey = { name: 'default', key: 'sk-0123456789012345678901234567' };
      const site = parseSite(siteText(8443), 'site.yaml');
      const input = { engine, project: 'sealift-demo', services, site, tls: { publicKeyPin: 'x' }, apiKey };
      return { answers: smokeTest({ ...input, againMs: 1 }), asked: () => asked };
    };
    const later = asks(['502', '429', '200']);
    expect(await later.answers).toMatchObject([{ answer: 'ready' }]);
    expect(later.asked()).toBe(3);
    const never = asks(['503']);
    await expect(never.answers).rejects.toMatchObject({ code: 'SMOKE_TEST_FAILED' });
    expect(never.asked()).toBe(7);
    const refused = asks(['401']);
    await expect(refused.answers).rejects.toMatchObject({ code: 'SMOKE_TEST_FAILED' });
    expect(refused.asked()).toBe(1);
  });

  it('asks for a few tokens only', async () => {
    const asked: string[] = [];
    await answering({ message: { content: 'ready' } }, asked);
    expect(asked[0]).toContain(String.raw`\"max_tokens\":16`);
  });

  it('asks a service that embeds for a vector', async () => {
    const embed = [{ ...services[0]!, purpose: 'embeddings' as const }];
    const asked: string[] = [];
    const answer = { model: 'tiny', data: [{ embedding: [0.5, 0.25] }] };
    expect(await asking(embed, answer, asked)).toEqual([
      { service: 'chat', model: 'tiny', answer: 'a vector of 2 numbers' },
    ]);
    expect(asked[0]).toContain('/v1/embeddings');
    await expect(asking(embed, { model: 'tiny', data: [] }, asked)).rejects.toMatchObject({
      code: 'SMOKE_TEST_FAILED',
    });
  });
});
