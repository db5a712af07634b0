// SPDX-License-Identifier: Apache-2.0
/** Help is golden: a change of it is seen in review. `vitest run test/cli/help.test.ts -u` writes it anew. */
import { describe, expect, it } from 'vitest';
import { ALL } from '../../src/cli/all.ts';
import { INSIDE } from '../../src/cli/inside.ts';
import { ENVIRONMENT } from '../../src/cli/context.ts';
import { ERRORS, EXIT_CODES } from '../../src/errors.ts';
import { documentOf, run } from './harness.ts';

const help = async (...argv: string[]): Promise<string> => {
  const ran = await run(ALL, argv);
  expect([ran.exit, ran.stderr]).toEqual([0, '']);
  return ran.stdout;
};

describe('golden', () => {
  it('sealift --help', async () => expect(await help('--help')).toMatchSnapshot());
  it('sealift --help, in the enclave', async () => {
    expect((await run(INSIDE, ['--help'])).stdout).toMatchSnapshot();
  });
  for (const { name } of ALL) {
    it(`sealift ${name} --help`, async () =>
      expect(await help(...name.split(' '), '--help')).toMatchSnapshot());
    it(`sealift ${name} -h`, async () => expect(await help(...name.split(' '), '-h')).toMatchSnapshot());
  }
  for (const topic of ['exit-codes', 'environment', 'signer', 'site', 'trust', 'UNTRUSTED_SIGNER']) {
    it(`sealift help ${topic}`, async () => expect(await help('help', topic)).toMatchSnapshot());
  }
});

describe('help', () => {
  it.each(Object.keys(ERRORS))('explains %s', async (code) => {
    expect(await help('help', code)).toContain(`${code} (exit status `);
    expect(await help('help', code.toLowerCase())).toContain(code);
  });

  it('names every variable and every exit status', async () => {
    const environment = await help('help', 'environment');
    for (const { name } of ENVIRONMENT) expect(environment).toContain(name);
    const exits = await help('help', 'exit-codes');
    for (const [code, about] of EXIT_CODES) expect(exits).toContain(`${code}  ${about}`);
    for (const code of Object.keys(ERRORS)) expect(exits).toContain(code);
  });

  it('is the same by `help COMMAND` and `COMMAND --help`, and stays within 100 columns', async () => {
    for (const { name } of ALL) {
      const text = await help(...name.split(' '), '--help');
      expect(await help('help', ...name.split(' '))).toBe(text);
      expect(text.split('\n').filter((line) => line.length > 100)).toEqual([]);
    }
  });

  it('of the first of two words lists the second ones, and asking without one is wrong usage', async () => {
    expect(await help('trust', '--help')).toContain('trust host-key');
    const ran = await run(ALL, ['trust']);
    expect([ran.exit, ran.stderr]).toEqual([2, expect.stringContaining('sealift trust update')]);
    const misspelt = await run(ALL, ['trust', 'shw', '--json']);
    expect(documentOf(misspelt)).toMatchObject({
      problem: { hint: expect.stringContaining('show') as string },
    });
  });

  it('has examples that the command line accepts', async () => {
    for (const { examples } of ALL) {
      for (const [line] of examples) expect(line).toMatch(/^sealift /);
    }
  });

  it('guesses what was meant', async () => {
    const ran = await run(ALL, ['help', 'VERSION_REFUSD']);
    expect(ran.exit).toBe(2);
    expect(ran.stderr).toContain("did you mean 'VERSION_REFUSED'?");
  });

  it('is a document with --json', async () => {
    expect(documentOf(await run(ALL, ['help', 'trust', '--json']))).toMatchObject({
      schema: 'sealift/help/v1',
    });
  });

  it('no exit status of an error is missing from the table', () => {
    for (const { exit } of Object.values(ERRORS)) expect(EXIT_CODES.has(exit)).toBe(true);
  });
});
