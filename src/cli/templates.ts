// SPDX-License-Identifier: Apache-2.0
/** Documents to start from, printed by `sealift help site` and `help trust`. Tests read each with its parser. */

export const TRUST_TEMPLATE = `# trust.yaml: who may sign what this host installs. It must reach the host out of band, never with a bundle.
apiVersion: sealift.dev/v1
kind: TrustPolicy
version: 1                     # one higher with every change: see sealift trust update --help
threshold: 1                   # how many different signers must have signed
signers:
  - name: release-team
    publicKey: |               # the whole of release.pub, as \`sealift keygen\` wrote it
      -----BEGIN PUBLIC KEY-----
      PASTE THE LINES OF release.pub HERE
      -----END PUBLIC KEY-----
    # notBefore: 2027-01-01T00:00:00Z
    # notAfter: 2028-01-01T00:00:00Z
# revoked:
#   keys: [sha256:<fingerprint of a key>]
#   bundles: [sha256:<digest of a bundle>]
# bundles:
#   qwen3-coder: { minVersion: 1.4.0 }
`;

export const SITE_TEMPLATE = `# site.yaml: what only this host knows. It stands in the home, /var/lib/sealift/site.yaml by default.
apiVersion: sealift.dev/v1
kind: Site
hostName: llm.example.org      # the name under which clients reach this host
listen:
  address: 0.0.0.0
  port: 443
tls:                           # PEM, absolute or relative to the home; the certificate with its chain
  certificate: tls/fullchain.pem
  key: tls/privkey.pem
# apiKeys: api-keys            # a line "name key" for each client; by default one key is made
# metrics:
#   allow: [10.0.0.0/8]        # networks that may read /metrics without a key; nobody by default
`;
