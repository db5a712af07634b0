// SPDX-License-Identifier: Apache-2.0
/** Documents to start from, printed by `sealift help site`, `help trust` and `help signer`. Tests read each with its parser. */

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
  # - name: ci                 # signs without a key of its own: a certificate of Fulcio for this very subject
  #   identity:
  #     subject: https://ci.example.org/group/project/build.yml@refs/heads/main
  #     issuer: https://issuer.example.org
# sigstore:                    # needed for identities: the text of trusted_root.json, indented
#   trustedRoot: |
#     { "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1", ... }
# channel: stable              # only bundles of this channel are taken
# names: [qwen3-coder]         # only bundles of these names are taken
# revoked:
#   keys: [sha256:<fingerprint of a key>]
#   bundles: [sha256:<digest of a bundle>]
# bundles:
#   qwen3-coder: { minVersion: 1.4.0 }
`;

export const SIGNER_TEMPLATE = `# signer.yaml: who signs when it is not a key file, for --signer of \`sealift sign\` and \`sealift build\`.
apiVersion: sealift.dev/v1
kind: Signer

# Either a command that returns an ECDSA P-256 signature, DER or its base64. There is no shell. {input} and
# {output} stand for files; without them the input comes on stdin and the signature is read from stdout. The
# command has the terminal and the whole environment, so that it can ask for a PIN or take it from a variable;
# do not write a PIN here. What it returns is verified with publicKey before it is used.
exec:
  command: [pkcs11-tool, --module, /usr/lib/YOUR-HSM-PKCS11.so, --token-label, release, --login, --pin, "env:PIN",
    --sign, --mechanism, ECDSA, --signature-format, openssl, --label, release, -i, "{input}", -o, "{output}"]
  publicKey: release.pub       # relative to this file, as is a command with a / in it
  input: digest                # the command gets the 32 bytes of the SHA-256, or with \`message\` what is signed
  # a YubiKey: the same with --module /usr/lib/x86_64-linux-gnu/libykcs11.so, and --id, "02" instead of the labels
  # AWS KMS:    command: [aws, kms, sign, --key-id, alias/release, --message, "fileb://{input}", --message-type, DIGEST,
  #               --signing-algorithm, ECDSA_SHA_256, --output, text, --query, Signature]

# Or a machine that has an identity and no key, such as a CI job: a Sigstore instance certifies and logs it. The
# enclave verifies the result offline, with the trusted root in its policy.
# keyless:
#   fulcio: https://fulcio.example.org
#   rekor: https://rekor.example.org
#   tsa: https://tsa.example.org
#   tokenFile: /run/secrets/oidc-token   # of the audience that Fulcio wants; read when it is time to sign
#   trustedRoot: trusted_root.json       # optional: verify here what will be verified inside
#   identity: { subject: "https://ci.example.org/release@refs/heads/main", issuer: "https://ci.example.org" }  # optional
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
# monitoring:
#   allow: [10.0.0.0/8]        # networks that may open Grafana under /grafana/, if the bundle carries it
# limits:                      # more is answered with 429, or with 413; these are the defaults
#   perKey: { requestsPerMinute: 600, burst: 100, concurrent: 64 }
#   perAddress: { requestsPerMinute: 600, burst: 100, concurrent: 256 }
#   bodyMiB: 64
# gpus:                        # which GPUs a service gets, by number or UUID; otherwise the lowest that are left
#   chat: [0, 1]
# sharedGpus: [1]              # which of them may stand at two services; each engine's options say its part of the memory
`;
