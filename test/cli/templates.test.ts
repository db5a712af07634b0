// SPDX-License-Identifier: Apache-2.0
import { expect, it } from 'vitest';
import { SITE_TEMPLATE, TRUST_TEMPLATE } from '../../src/cli/templates.ts';
import { parseSite } from '../../src/install/site.ts';
import { generateKeyPair } from '../../src/trust/keys.ts';
import { parseTrustPolicy } from '../../src/trust/policy.ts';

/** The comments that hold alternatives, switched on. */
const uncommented = (text: string): string => text.replace(/^( *)# (?=( *)[a-zA-Z0-9]+:( |$))/gm, '$1');

it('the site template is a site', () => {
  expect(parseSite(SITE_TEMPLATE, 'site.yaml').hostName).toBe('llm.example.org');
  const full = parseSite(uncommented(SITE_TEMPLATE).replace('#   allow', '  allow'), 'site.yaml');
  expect(full).toMatchObject({ apiKeys: 'api-keys', metrics: { allow: ['10.0.0.0/8'] } });
});

it('the trust template is a policy as soon as the public key is pasted', () => {
  const { publicKeyPem, fingerprint } = generateKeyPair('secret');
  const indented = publicKeyPem.trim().replace(/^/gm, '      ').trimStart();
  const text = TRUST_TEMPLATE.replace(/-----BEGIN[\s\S]*?KEY-----\n[\s\S]*?END PUBLIC KEY-----/, indented);
  expect(parseTrustPolicy(text, 'trust.yaml')).toMatchObject({
    threshold: 1,
    signers: [{ name: 'release-team', fingerprint }],
  });
  expect(() => parseTrustPolicy(TRUST_TEMPLATE, 'trust.yaml')).toThrow('trust.yaml');
});
