// SPDX-License-Identifier: Apache-2.0
/**
 * Rules of output. stdout carries the result and nothing else; stderr carries progress, warnings, errors and
 * the text of prompts. Text reaches a stream only through this file (and progress-tty.ts, which uses
 * `printable` too), and every piece of it is escaped here, so nothing that came from a bundle, a registry or a
 * file name can move the cursor, colour a lie or reverse the reading order. Styles are data (`styled`), never
 * escape codes inside of text. Meaning never depends on colour.
 */
import type { Writable } from 'node:stream';
import { styleText } from 'node:util';
import { printable } from '../text.ts';

export type Sink = Writable & { isTTY?: boolean; columns?: number };
export type ColorMode = 'auto' | 'always' | 'never';
type Style = 'bold' | 'dim' | 'red' | 'green' | 'yellow';
type Styled = { style: Style; text: string };
export type Span = string | Styled;
/** One line of output: text from anywhere, with styles beside it. */
export type Line = Span | readonly Span[];

export const styled = (style: Style, text: string): Styled => ({ style, text });

/** What `printable` does, for JSON, without loss: the characters become JSON's own escapes. */
export function printableJson(value: unknown, indent?: number): string {
  return JSON.stringify(value, null, indent).replace(/[^\n\P{C}]|[\u2028\u2029\p{DI}]/gu, (char) =>
    char
      .split('')
      .map((unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`)
      .join(''),
  );
}

/** Turns one line into what a stream gets, without the line feed. */
export function renderLine(line: Line, stream: Sink, color: ColorMode): string {
  const spans: readonly Span[] = Array.isArray(line) ? (line as readonly Span[]) : [line as Span];
  return spans.map((span) => renderSpan(span, stream, color)).join('');
}

function renderSpan(span: Span, stream: Sink, color: ColorMode): string {
  if (typeof span === 'string') return printable(span);
  const text = printable(span.text);
  if (color === 'never') return text;
  return color === 'always'
    ? styleText(span.style, text, { validateStream: false })
    : styleText(span.style, text, { stream });
}

/** The two streams of a command. A reader that goes away (EPIPE) silences a stream and changes nothing else. */
export class Output {
  readonly stdout: Sink;
  readonly stderr: Sink;
  readonly color: ColorMode;
  /** With `--progress json`, stderr is a stream of JSON lines, and notes are events in it. */
  jsonNotes = false;
  /** Takes a progress display off the terminal before something is written under it. */
  beforeNote: (() => void) | undefined;
  readonly #closed = new Set<Sink>();

  constructor(stdout: Sink, stderr: Sink, color: ColorMode) {
    this.stdout = stdout;
    this.stderr = stderr;
    this.color = color;
    for (const stream of [stdout, stderr]) stream.on('error', () => this.#closed.add(stream));
  }

  /** Prints the result of the command for a person. */
  result(lines: readonly Line[]): void {
    this.beforeNote?.();
    for (const line of lines) this.#write(this.stdout, `${renderLine(line, this.stdout, this.color)}\n`);
  }

  /** Prints the one JSON document of `--json`. */
  json(document: object): void {
    this.beforeNote?.();
    this.#write(this.stdout, `${printableJson(document, 2)}\n`);
  }

  /** Prints a line that is not the result: a warning, an error, evidence, what happens next. */
  note(line: Line): void {
    if (this.jsonNotes) {
      this.event({ type: 'note', text: renderLine(line, this.stderr, 'never') });
      return;
    }
    this.beforeNote?.();
    this.#write(this.stderr, `${renderLine(line, this.stderr, this.color)}\n`);
  }

  /** One line of the event stream of `--progress json`. */
  event(event: object): void {
    this.#write(this.stderr, `${printableJson(event)}\n`);
  }

  /** Raw terminal sequences of the progress display; the caller has escaped its text. */
  draw(sequence: string): void {
    this.#write(this.stderr, sequence);
  }

  /** Resolves when the streams have taken everything. */
  async flush(): Promise<void> {
    await Promise.all([this.stdout, this.stderr].map((stream) => this.#drained(stream)));
  }

  #write(stream: Sink, text: string): void {
    if (!this.#closed.has(stream) && !stream.destroyed) stream.write(text);
  }

  #drained(stream: Sink): Promise<void> {
    if (this.#closed.has(stream) || stream.destroyed) return Promise.resolve();
    return new Promise((resolve) => {
      stream.write('', () => resolve());
    });
  }
}

/** Lays out rows in columns, two spaces apart, without trailing blanks. Widths are counted in code points. */
export function table(rows: readonly (readonly string[])[], indent = ''): string[] {
  const width = (text: string): number => [...printable(text)].length;
  const columns = Math.max(0, ...rows.map((row) => row.length));
  const widths = Array.from({ length: columns }, (_, i) =>
    Math.max(...rows.map((row) => width(row[i] ?? ''))),
  );
  return rows.map((row) =>
    (indent + row.map((cell, i) => cell + ' '.repeat(widths[i]! - width(cell) + 2)).join('')).trimEnd(),
  );
}
