// SPDX-License-Identifier: Apache-2.0
/** Made with `cosign sign-blob --key … --signing-config <no services>` of cosign 3.1.1, and a key that is gone. */
export const cosignVector = {
  publicKey:
    '-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEir3wNDn36JDyoQ/XSpD5XU+wJv/2\nO1UET0G8Fp0cbzWNF8uNB8rHDU/RPrOSj0p4sKXhwH8eV/R70p1JGyyCZw==\n-----END PUBLIC KEY-----\n',
  sums: '2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881  bundle.json\n',
  bundle:
    '{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"publicKey":{"hint":"jq4BXc/huM8LzKYT9CdbUYX91+c756PkPgPH1USQ6Ow="}},"messageSignature":{"messageDigest":{"algorithm":"SHA2_256","digest":"QkZvdMpffcnObR7pqeTKvTheYTbI9+86EYdqL6J1O80="},"signature":"MEQCICdtDOfTQdj/VkspgtT5XIa7mfjegFKhmqHUXg43Z6+UAiAl7UYdMU8EYU/RTdHZ52+3AcGt7gjMPYb4PBULX3FF3w=="}}',
};

/** Made with `cosign generate-key-pair` of 3.1.1 and 2.5.0, and used nowhere else. */
export const cosignKeys = {
  passphrase: 'pw',
  '3.1.1': {
    privateKey:
      '-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\neyJrZGYiOnsibmFtZSI6InNjcnlwdCIsInBhcmFtcyI6eyJOIjo2NTUzNiwiciI6\nOCwicCI6MX0sInNhbHQiOiJJL2tDT0NoL09RVmh3UUZIaVJkczBCNjROdXc2WTNQ\neGRkbUJwRzhtTG1RPSJ9LCJjaXBoZXIiOnsibmFtZSI6Im5hY2wvc2VjcmV0Ym94\nIiwibm9uY2UiOiJuL2pyQ21XRHBnL3kxUmtheUNvRlNoczhLL0E4SE5lTiJ9LCJj\naXBoZXJ0ZXh0IjoiU2NmWTZpaEljSXdYV2F4dUtCZFJuU1lHUHJVcVl2cXNlaUh6\naWlkbVNuVDZTUmJKcFloUS9WdnVOUlVHTGE4YytrcmRGQXdaNlQ3SkVGcnhJNFYy\nY0pmSXNYMVNZY2dlWnU0cWxsTXdGS3ZMN1dUcm96YVlhSlVKbXV2OWp1NzgwbjJn\nWkJoeEVZNGM3NG5NVURYeEQ3Z1cwZ2lFeWlOWEZZcGl1M3cwcmFRaGtJNWtaZUVT\nRUwrUkh3Uk9wZGkyVVJoQTVITFY0c1NOSUE9PSJ9\n-----END ENCRYPTED SIGSTORE PRIVATE KEY-----\n',
    publicKey:
      '-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEy/7O6KjZ+DEqaZpafTPADMYcdE6o\nGMpliJsdNGs5ntkIHHsXfrOk1PrHhCJWnsYRM3Kzou+prZCXTpC37/sZhw==\n-----END PUBLIC KEY-----\n',
  },
  '2.5.0': {
    privateKey:
      '-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\neyJrZGYiOnsibmFtZSI6InNjcnlwdCIsInBhcmFtcyI6eyJOIjo2NTUzNiwiciI6\nOCwicCI6MX0sInNhbHQiOiJxQTE0WUVvMjhXQW5KY28yWVh3cGV4VU9KcFdBUGxL\nb09WbGhaQ2tCckVvPSJ9LCJjaXBoZXIiOnsibmFtZSI6Im5hY2wvc2VjcmV0Ym94\nIiwibm9uY2UiOiJZVmpvVHhoN3c4c21LRUpIUDJpaGZkNUh5Um5ZVHVOMCJ9LCJj\naXBoZXJ0ZXh0IjoiekhNVk0xMWo0NHVMV2pZN2txK2FEUnk4dEk0R0Q1RVo2bk1M\nVmJkc1dKS1FJaGxhWkVTZHpLS1Y3TUsxZUMxK3c0b3o2M3BuS2VlTkZ3T3lUTlNW\nOGpVL0cxcjFTSVRUeEw0dzhaamk3aTZMSXY5ZUFzYnJPeVpWYmtNL1dVTGdKOTBU\nNkxxQjljS1owRVI3OXZ0N2lMYXVnWkwra28ySHhZTmVZcVZWVHlrV3FWYmkrV0hm\naGIvekhpcW5jODVjbjl6MFdvQTRqQzNXYnc9PSJ9\n-----END ENCRYPTED SIGSTORE PRIVATE KEY-----\n',
    publicKey:
      '-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEOIGHpXTiES8TolADqDTCd7q8S3CC\nxR4Z/Da2vA6p8dGq67anRbji3kjWN5m1C5pOBeo1mNs6WBu3eMf8Y89b7A==\n-----END PUBLIC KEY-----\n',
  },
};
