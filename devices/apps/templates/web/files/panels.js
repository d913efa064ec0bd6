// What the panels show; every text reaches the page as text.
const DIGITS = new Intl.NumberFormat('en', { maximumSignificantDigits: 3 });

/** Shows a size or a time as a person reads it. */
export function shown(value, unit) {
  if (value === null) return '—';
  if (unit === 'seconds') return value < 1 ? `${DIGITS.format(value * 1000)} ms` : `${DIGITS.format(value)} s`;
  if (unit !== 'bytes') return `${DIGITS.format(value)} ${unit}`;
  const [name, divisor] = [['GB', 1e9], ['MB', 1e6], ['kB', 1e3]].find(([, one]) => value >= one) ?? ['bytes', 1];
  return `${DIGITS.format(value / divisor)} ${name}`;
}

function row(cells, kind = '') {
  const line = document.createElement('tr');
  cells.forEach((text, at) => {
    const cell = document.createElement(at === 0 ? 'th' : 'td');
    if (at === 0) cell.scope = 'row';
    cell.textContent = text;
    if (at === cells.length - 1 && kind !== '') cell.className = kind;
    line.append(cell);
  });
  return line;
}

/** What a result of the self-test says in one line. */
export function resultLine(result) {
  if (result === undefined) return 'not run yet';
  if (result.error !== undefined) return `failed: ${result.error}`;
  const close = result.close_tokens === 0 ? 'all of them the likeliest' : `${result.close_tokens} of them close`;
  return `passed: ${result.tokens} tokens of ${result.prompts} answers, ${close}`;
}

/** Fills the table of the self-test; `results` are by engine. */
export function showSelftest(rows, summary, engines, results) {
  rows.replaceChildren(
    ...engines.map((engine) => {
      const result = results[engine.name];
      const kind = result === undefined ? '' : result.error === undefined ? 'passed' : 'failed';
      return row([`${engine.artifact} by ${engine.label} ${engine.version}`, resultLine(result)], kind);
    }),
  );
  const known = engines.map((engine) => results[engine.name]);
  const failed = known.some((result) => result?.error !== undefined);
  const passed = known.every((result) => result !== undefined && result.error === undefined);
  summary.textContent = failed ? '— failed' : passed ? '— passed' : '';
  summary.className = failed ? 'failed' : 'passed';
}

function interval(ends, unit) {
  if (ends === null) return '';
  const [low, high] = ends.map((end) => shown(end, unit));
  const [number, ...words] = low.split(' ');
  return high.endsWith(words.join(' ')) ? `${number} to ${high}` : `${low} to ${high}`;
}

/** Fills the table of the bench with the figures of a document's only result. */
export function showBench(table, rows, { results: [record] }) {
  const figures = {
    'Load': record.load_seconds,
    'First token (TTFT)': record.ttft_seconds,
    'Prefill': record.prefill_tokens_per_second,
    'Decode': record.decode_tokens_per_second,
    'Between tokens, p50': record.inter_token_seconds.p50,
    'Between tokens, p90': record.inter_token_seconds.p90,
    'Whole answer': record.answer_seconds,
    'Peak memory': record.peak_pss_bytes,
  };
  rows.replaceChildren(
    ...Object.entries(figures).map(([name, { value, unit, ci95, source }]) => {
      return row([name, shown(value, unit), value === null ? source : interval(ci95, unit)]);
    }),
  );
  table.hidden = false;
}
