// SPDX-License-Identifier: Apache-2.0
/** What programs, logs and models said, made fit for a message. */

/** Longest line that is shown, in characters. */
const MAX_LINE = 400;

/** One line without colours and control characters; unlike `printable`, which shows them, because programs colour their logs. */
export function plainLine(text: string, max: number = MAX_LINE): string {
  const line = text
    .replace(/\u001b\[[0-9;?]*[ -/]*[@-~]/g, '')
    .replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]+/gu, ' ')
    .trim();
  return line.length > max ? `${line.slice(0, max - 1)}…` : line;
}

/** The same with secrets that the text may repeat taken out. */
export function withoutSecrets(text: string, secrets: readonly string[]): string {
  return secrets.reduce((shown, secret) => shown.replaceAll(secret, '<secret>'), text);
}
