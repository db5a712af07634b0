// SPDX-License-Identifier: Apache-2.0
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { stringify } from 'yaml';
import { parseSigner, type SignerDocument } from '../../../src/build/signers/document.ts';
import { SIGNER_TEMPLATE } from '../../../src/cli/templates.ts';
import { SealiftError } from '../../../src/errors.ts';
import { codeOf, refusalOf } from '../../trust/helpers.ts';

const head = { apiVersion: 'sealift.dev/v1', kind: 'Signer' };
const exec = { command: ['sign'], publicKey: 'release.pub', input: 'digest' };
const keyless = {
  fulcio: 'https://fulcio.example.org',
  rekor: 'https://rekor.example.org',
  tsa: 'https://tsa.example.org',
  tokenFile: '/run/token',
};
const parse = (document: object): SignerDocument =>
  parseSigner(stringify({ ...head, ...document }), 'signer.yaml');

describe('a signer document', () => {
  it('names a command or a Sigstore instance', () => {
    expect(parse({ exec })).toEqual({ ...head, exec });
    expect(parse({ keyless })).toEqual({ ...head, keyless });
    const whole = { ...keyless, trustedRoot: 'root.json', identity: { subject: 's', issuer: 'i' } };
    expect(parse({ keyless: whole })).toEqual({ ...head, keyless: whole });
  });

  it('is the template, with either half', () => {
    expect(parseSigner(SIGNER_TEMPLATE, 'signer.yaml').exec?.input).toBe('digest');
    const other = SIGNER_TEMPLATE.replace(/^exec:\n(  .*\n)+/m, '').replaceAll(
      /^# (?=keyless:|  [a-z])/gim,
      '',
    );
    expect(parseSigner(other, 'signer.yaml').keyless).toMatchObject({ rekor: 'https://rekor.example.org' });
  });

  it('names exactly one', () => {
    for (const document of [{}, { exec, keyless }])
      expect(refusalOf(() => parse(document)).message).toContain('expected one of exec and keyless');
  });

  it('is refused with line and column, and the nearest key', () => {
    const error = refusalOf(() => parse({ exec: { ...exec, pubicKey: 'x' } }));
    expect(error).toMatchObject({ code: 'SIGNER_INVALID', hint: "did you mean 'publicKey'?" });
    expect(error.message).toMatch(/^signer\.yaml:\d+:\d+: unknown key 'pubicKey'/);
    const wrong = [
      { command: [] },
      { command: 'sign --key x' },
      { command: [''] },
      { input: 'hash' },
      { publicKey: 7 },
      { command: ['sign', 'a\0b'] },
      { publicKey: 'a\0b' },
    ];
    for (const change of wrong)
      expect(codeOf(() => parse({ exec: { ...exec, ...change } }))).toBe('SIGNER_INVALID');
  });

  it('drops the slashes at the end of a URL', () => {
    expect(parse({ keyless: { ...keyless, rekor: 'https://x.example/log//' } }).keyless?.rekor).toBe(
      'https://x.example/log',
    );
  });

  it.each(['rekor.example.org', 'ftp://x', 'https://a:b@x', 'https://x?y', 'https://x#y', 'file:///x', ''])(
    'does not take %s for a service',
    (rekor) => expect(codeOf(() => parse({ keyless: { ...keyless, rekor } }))).toBe('SIGNER_INVALID'),
  );

  it('sends the token over https, or nowhere but here', () => {
    for (const fulcio of ['http://127.0.0.1:5555', 'http://localhost', 'http://[::1]:80'])
      expect(parse({ keyless: { ...keyless, fulcio } }).keyless?.fulcio).toBe(fulcio);
    for (const fulcio of [
      'http://fulcio.example.org',
      'http://127.example.org',
      'http://10.0.0.1',
      'http://localhost.x',
    ]) {
      expect(refusalOf(() => parse({ keyless: { ...keyless, fulcio } })).message).toContain(
        'expected an https URL',
      );
    }
    expect(parse({ keyless: { ...keyless, tsa: 'http://tsa.example.org' } })).toBeDefined();
  });

  it('whatever it holds, throws nothing but SIGNER_INVALID', () => {
    const near = fc.record(
      {
        apiVersion: fc.constantFrom('sealift.dev/v1', 'v2'),
        kind: fc.constant('Signer'),
        exec: fc.oneof(
          fc.record({ command: fc.anything(), publicKey: fc.anything(), input: fc.anything() }),
          fc.anything(),
        ),
        keyless: fc.oneof(
          fc.record({
            fulcio: fc.webUrl(),
            rekor: fc.string(),
            tsa: fc.webUrl({ withFragments: true }),
            tokenFile: fc.string(),
          }),
          fc.anything(),
        ),
      },
      { requiredKeys: [] },
    );
    const text = fc.oneof(
      near.map((value) => safeYaml(value)),
      fc.string(),
      fc.json(),
    );
    fc.assert(
      fc.property(text, (yaml) => {
        try {
          return parseSigner(yaml, 'signer.yaml').kind === 'Signer';
        } catch (thrown) {
          return thrown instanceof SealiftError && thrown.code === 'SIGNER_INVALID';
        }
      }),
      { numRuns: 2000 },
    );
  }, 60_000);
});

function safeYaml(value: unknown): string {
  try {
    return stringify(value);
  } catch {
    return ''; // not everything of JavaScript can be written as YAML
  }
}
