// SPDX-License-Identifier: Apache-2.0
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { asSealiftError, ERRORS, EXIT_CODES, SealiftError } from '../src/errors.ts';
import { repoRoot } from './support/workspace.ts';

describe('exit statuses', () => {
  it('are the same in README', () => {
    const section = /^## Exit status\n(.*?)^## /ms.exec(
      readFileSync(join(repoRoot, 'README.md'), 'utf8'),
    )![1]!;
    const rows = [...section.matchAll(/^\| (\d+) +\| (.*?) +\|$/gm)];
    expect(rows.map(([, code, meaning]) => [Number(code), meaning])).toEqual([...EXIT_CODES]);
  });

  it('of every error code are in the table, and mean failure', () => {
    for (const [code, { exit, about }] of Object.entries(ERRORS)) {
      expect(exit, code).toBeGreaterThan(0);
      expect(EXIT_CODES.has(exit), code).toBe(true);
      expect(about, code).toMatch(/[.]$/);
    }
  });
});

describe('asSealiftError', () => {
  const errno = (code: string): Error => Object.assign(new Error(`${code}: as the system says`), { code });

  it.each([
    [errno('ENOSPC'), 'DISK_FULL'],
    [errno('EDQUOT'), 'DISK_FULL'],
    [errno('ENOENT'), 'FILE_MISSING'],
    [errno('EACCES'), 'IO_ERROR'],
    [Object.assign(new Error('stopped'), { name: 'AbortError' }), 'INTERRUPTED'],
    [new TypeError('x is not a function'), 'UNEXPECTED'],
    ['thrown text', 'UNEXPECTED'],
  ])('%s is %s', (thrown, code) => {
    const error = asSealiftError(thrown, 'writing x');
    expect(error.code).toBe(code);
    expect(error.message).toMatch(/^writing x: /);
  });

  it('leaves its own kind alone', () => {
    const own = new SealiftError('LOCKED', 'busy');
    expect(asSealiftError(own, 'writing x')).toBe(own);
  });
});
