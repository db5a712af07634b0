// SPDX-License-Identifier: Apache-2.0
/** Damaged documents that a person writes: trust policy, manifest, site. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseManifest } from '../../src/build/manifest.ts';
import { SITE_TEMPLATE } from '../../src/cli/templates.ts';
import { parseSite } from '../../src/install/site.ts';
import { parseTrustPolicy } from '../../src/trust/policy.ts';
import { person } from '../support/sample.ts';
import { repoRoot } from '../support/workspace.ts';
import { campaign } from './campaign.ts';
import { damageYaml } from './mutate.ts';

const demand = (holds: boolean, what: string): void => {
  if (!holds) throw new Error(`accepted, and ${what}`);
};
const UNSAFE = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/u;

const signers = ['alice', 'bob', 'carol'].map(person);
const POLICY = `apiVersion: sealift.dev/v1
kind: TrustPolicy
version: 3
threshold: 2
signers:
${signers
  .map(
    ({ name, publicPem }) =>
      `  - name: ${name}\n    publicKey: |\n${publicPem.trim().replace(/^/gm, '      ')}\n`,
  )
  .join('')}    notBefore: 2026-01-01T00:00:00Z
    notAfter: 2027-01-01T00:00:00+02:00
revoked:
  keys: [sha256:${'1'.repeat(64)}]
  bundles:
    - sha256:${'2'.repeat(64)}
bundles:
  qwen3-coder: { minVersion: 1.4.0 }
`;

campaign('trust policy', {
  make: (random) => damageYaml(random, POLICY, [SITE_TEMPLATE]),
  read(bytes) {
    const policy = parseTrustPolicy(bytes.toString(), 'trust.yaml');
    const prints = new Set(policy.signers.map((signer) => signer.fingerprint));
    demand(prints.size === policy.signers.length, 'one key counts twice');
    demand(policy.threshold >= 1 && policy.threshold <= prints.size, 'its threshold is no threshold');
    demand(Number.isSafeInteger(policy.version) && policy.version >= 1, 'its version is no number');
    demand(!policy.signers.some(({ name }) => UNSAFE.test(name)), 'a name has unsafe text');
  },
  codes: ['POLICY_INVALID'],
});

const MANIFESTS = ['demo', 'qwen3-coder'].map((name) =>
  readFileSync(join(repoRoot, 'manifests', `${name}.yaml`), 'utf8'),
);
campaign('manifest', {
  make: (random) => damageYaml(random, random.pick(MANIFESTS), [...MANIFESTS, SITE_TEMPLATE]),
  read(bytes) {
    const { services, images, models } = parseManifest(bytes.toString(), 'x.yaml');
    for (const { image, model } of Object.values(services))
      demand(Object.hasOwn(images, image) && Object.hasOwn(models, model), 'a service stands on nothing');
  },
  codes: ['MANIFEST_INVALID'],
});

campaign('site', {
  make: (random) => damageYaml(random, SITE_TEMPLATE.replaceAll('\n# ', '\n'), MANIFESTS),
  read(bytes) {
    const site = parseSite(bytes.toString(), 'site.yaml');
    demand(/^[a-z0-9.-]+$/i.test(site.hostName), 'the host name is none');
    demand(
      ![site.tls.certificate, site.tls.key].some((path) => /\p{Cc}/u.test(path)),
      'a path has control characters',
    );
  },
  codes: ['SITE_INVALID'],
});
