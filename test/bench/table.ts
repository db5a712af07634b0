// SPDX-License-Identifier: Apache-2.0
/** The table that the bench prints: each job beside what people use instead, with the ratio and the bar. */
import type { Cost } from './measure.ts';

export interface Row {
  job: string;
  /** What sealift cost, and what it is held against. */
  ours: Cost;
  beside: string;
  other?: Cost;
  /** The number that the bar is about. */
  ratio: number;
  /** `<= 1.15` or `>= 0.75`; without one the ratio is only told. */
  bar?: `${'<=' | '>='} ${number}`;
}

export function meets({ ratio, bar }: Row): boolean | undefined {
  if (bar === undefined) return undefined;
  const [sign, limit] = bar.split(' ');
  return sign === '<=' ? ratio <= Number(limit) : ratio >= Number(limit);
}

const gib = (bytes: number): string => (bytes / 1024 ** 3).toFixed(2);
const costs = (cost: Cost | undefined): string[] =>
  cost === undefined
    ? ['', '', '', '', '']
    : [
        cost.seconds.toFixed(2),
        cost.cpu.toFixed(2),
        cost.mib.toFixed(0),
        gib(cost.written),
        gib(Math.max(0, cost.disk)),
      ];

const HEAD = ['what', 'wall s', 'CPU s', 'peak MiB', 'written GiB', 'disk peak GiB', 'ratio', 'bar', 'met'];

/** Two lines a job: sealift, and what stands beside it. */
export function printTable(rows: readonly Row[], print: (line: string) => void): void {
  const line = (cells: readonly string[]): void => print(`| ${cells.join(' | ')} |`);
  line(HEAD);
  line(HEAD.map(() => '---'));
  for (const row of rows) {
    const met = meets(row);
    const verdict = met === undefined ? '' : met ? 'yes' : 'NO';
    line([`**${row.job}**`, ...costs(row.ours), row.ratio.toFixed(3), row.bar ?? '', verdict]);
    line([row.beside, ...costs(row.other), '', '', '']);
  }
}
