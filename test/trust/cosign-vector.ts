// SPDX-License-Identifier: Apache-2.0
/** Made with `cosign sign-blob --key … --signing-config <no services>` of cosign 3.1.1, and a key that is gone. */
export const cosignVector = {
  publicKey:
    '-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEir3wNDn36JDyoQ/XSpD5XU+wJv/2\nO1UET0G8Fp0cbzWNF8uNB8rHDU/RPrOSj0p4sKXhwH8eV/R70p1JGyyCZw==\n-----END PUBLIC KEY-----\n',
  sums: '2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881  bundle.json\n',
  bundle:
    '{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"publicKey":{"hint":"jq4BXc/huM8LzKYT9CdbUYX91+c756PkPgPH1USQ6Ow="}},"messageSignature":{"messageDigest":{"algorithm":"SHA2_256","digest":"QkZvdMpffcnObR7pqeTKvTheYTbI9+86EYdqL6J1O80="},"signature":"MEQCICdtDOfTQdj/VkspgtT5XIa7mfjegFKhmqHUXg43Z6+UAiAl7UYdMU8EYU/RTdHZ52+3AcGt7gjMPYb4PBULX3FF3w=="}}',
};
