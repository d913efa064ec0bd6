// The bench: repetitions of one answer after a warm-up, as a document of edgestill's schema edgestill.bench/1.
import { Failure } from './failure.js';
import { hex } from './model-files.js';

// What edgestill bench cuts its prompt from, so that all measure the same tokens.
const PROMPT_TEXT =
  'The lighthouse keeper climbed the stairs every evening before dark. He carried a small lamp, a book ' +
  'about the weather and a cup of tea that was always too hot. From the top he could see the harbour, ' +
  'the market and the road that led over the hills to the next town. When the fog came in he counted ' +
  'the seconds between two sounds of the horn, wrote the number down and waited for the ships to answer. ';
const RESAMPLES = 1000;
const DEFAULTS = { promptTokens: 64, newTokens: 32, repetitions: 5 };

/** Measures a freshly loaded engine; returns the document. */
export async function measure({ engine, label, bundle, vendored, created, loadSeconds, options, signal, event }) {
  const { promptTokens, newTokens, repetitions } = { ...DEFAULTS, ...options };
  if (!(promptTokens >= 1 && newTokens >= 2 && repetitions >= 1)) {
    throw new Failure('the bench wants at least 1 prompt token, 2 new tokens and 1 repetition');
  }
  if (promptTokens + newTokens > engine.contextLength + 1) {
    throw new Failure(`${promptTokens} + ${newTokens} tokens don't fit the context of ${engine.contextLength}`);
  }
  const ids = promptIds(engine.tokenizer, promptTokens);
  // wllama takes texts only; llama.cpp tokenises the cut text perhaps otherwise, and says into how many tokens.
  const byIds = label === 'onnxruntime-web';
  const prompt = byIds ? ids : engine.tokenizer.decode(ids);
  const runs = [];
  const quiet = () => {};
  const request = { maxNewTokens: newTokens, temperature: 0, ignoreEnds: true, fresh: true, signal };
  for (let run = -1; run < repetitions; run += 1) {
    const found = await engine.generate(prompt, { ...request, onText: quiet, onProgress: quiet });
    if (found.gapsMs.length === 0) throw new Failure('the engine gave its answer in one piece; nothing to measure');
    if (run >= 0) runs.push(found);
    event({ kind: 'bench', done: run + 1, all: repetitions });
  }
  const { artifact } = engine;
  const files = bundle.modelFiles(artifact).reduce((sum, entry) => sum + entry.size_bytes, 0);
  const settings = engine.describe();
  return {
    schema: 'edgestill.bench/1',
    environment: await environment(label, vendored),
    results: [
      {
        model: `${bundle.manifest.name}#${artifact.name}`,
        engine: label,
        threads: engine.threads,
        prompt_tokens: runs[0].promptTokens,
        new_tokens: newTokens,
        repetitions,
        ...figures(runs, loadSeconds),
        ...memory(files),
        size_bytes: artifact.size_bytes,
        warnings: warnings(),
        prompt_sha256: byIds ? await sha256(JSON.stringify(ids)) : null,
        model_sha256: artifact.sha256,
        engine_build: {
          version: settings.version,
          build: settings.build ?? null,
          settings: { context_length: String(engine.contextLength), ...settings.settings },
        },
      },
    ],
    created: created.toISOString().replace(/\.\d+Z$/, 'Z'),
  };
}

function figures(runs, loadSeconds) {
  const seconds = (values) => values.map((value) => value / 1000);
  const raw = {
    load_seconds: [loadSeconds],
    ttft_seconds: seconds(runs.map((run) => run.ttftMs)),
    prefill_seconds: seconds(runs.map((run) => run.prefillMs)),
    answer_seconds: seconds(runs.map((run) => run.totalMs)),
    inter_token_seconds: seconds(runs.flatMap((run) => run.gapsMs)),
    prefill_tokens_per_second: runs.map((run) => (run.promptTokens / run.prefillMs) * 1000),
    decode_tokens_per_second: runs.map((run) => ((run.newTokens - 1) / sum(run.gapsMs)) * 1000),
  };
  const each = `median of ${runs.length} repetitions in one worker after 1 warm-up; bootstrap interval`;
  const pooled = `gaps between tokens pooled over ${runs.length} repetitions; bootstrap interval, as if independent`;
  const load = 'reading, checking, compiling and loading in a worker; the files perhaps in the browser\'s storage';
  const gaps = raw.inter_token_seconds;
  return {
    load_seconds: { value: loadSeconds, unit: 'seconds', n: 1, ci95: null, basis: 'measured', source: load },
    ttft_seconds: quantile(raw.ttft_seconds, 0.5, 'seconds', each),
    prefill_tokens_per_second: quantile(raw.prefill_tokens_per_second, 0.5, 'tokens/s', each),
    decode_tokens_per_second: quantile(raw.decode_tokens_per_second, 0.5, 'tokens/s', `${each}; after the first token`),
    inter_token_seconds: {
      p50: quantile(gaps, 0.5, 'seconds', pooled),
      // Fewer samples leave no room for an interval around so high a quantile.
      p90: gaps.length < 36 ? tooFew(gaps) : quantile(gaps, 0.9, 'seconds', pooled),
      p99: gaps.length < 368 ? tooFew(gaps) : quantile(gaps, 0.99, 'seconds', pooled),
    },
    answer_seconds: quantile(raw.answer_seconds, 0.5, 'seconds', each),
    raw,
  };
}

function memory(files) {
  const unseen = missing('bytes', 'a browser tells a page nothing of its process\'s memory');
  const source = 'size of the model\'s files';
  return {
    peak_pss_bytes: unseen,
    peak_rss_bytes: unseen,
    weights_bytes: { value: files, unit: 'bytes', n: 1, ci95: null, basis: 'derived', source },
  };
}

function warnings() {
  const found = [];
  if (!self.crossOriginIsolated) {
    found.push('the page is not cross-origin isolated: one thread, and clocks of 0.1 ms');
  }
  return found;
}

async function environment(label, vendored) {
  const known = navigator.userAgentData;
  const values = await known?.getHighEntropyValues(['architecture', 'bitness', 'platformVersion']).catch(() => null);
  const cpu = values?.architecture ? `${values.architecture}, ${values.bitness} bits` : 'unknown';
  const versions = Object.fromEntries(Object.entries(vendored.packages).map(([name, one]) => [name, one.version]));
  return {
    cpu: `${cpu} (a browser doesn't name the processor)`,
    cores: navigator.hardwareConcurrency || 1,
    // Rounded by the browser, at most 8 GiB or so; where it doesn't tell, nothing is known.
    memory_bytes: navigator.deviceMemory === undefined ? null : navigator.deviceMemory * 2 ** 30,
    system: known?.platform || navigator.platform || 'unknown',
    python: null,
    versions: { ...versions, 'user agent': navigator.userAgent },
    load_average: null,
  };
}

function promptIds(tokenizer, count) {
  let text = PROMPT_TEXT;
  for (let longest = 0; ; text += text) {
    const ids = tokenizer.encode(text);
    if (ids.length > count) return ids.slice(0, count);
    if (ids.length <= longest) throw new Failure("the tokenizer cuts texts; a longer prompt can't be made");
    longest = ids.length;
  }
}

const sum = (values) => values.reduce((total, value) => total + value, 0);
const sha256 = async (text) => hex(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(text)));
const missing = (unit, source) => ({ value: null, unit, n: 0, ci95: null, basis: 'measured', source });
const tooFew = (samples) => missing('seconds', `${samples.length} gaps are too few to tell it`);

// A quantile with its 95% percentile bootstrap interval (Efron, 1979); the same samples give the same interval.
function quantile(samples, share, unit, source) {
  if (samples.length === 0) return missing(unit, source);
  const random = generator(0x9e3779b9);
  const found = [];
  for (let resample = 0; resample < RESAMPLES && samples.length > 1; resample += 1) {
    found.push(at(Array.from(samples, () => samples[Math.floor(random() * samples.length)]), share));
  }
  const ci95 = found.length === 0 ? null : [at(found, 0.025), at(found, 0.975)];
  return { value: at(samples, share), unit, n: samples.length, ci95, basis: 'measured', source };
}

// Interpolated between order statistics (Hyndman and Fan, 1996, type 7).
function at(samples, share) {
  const ordered = Float64Array.from(samples).sort();
  const place = (ordered.length - 1) * share;
  const below = Math.floor(place);
  const above = Math.min(below + 1, ordered.length - 1);
  return ordered[below] + (ordered[above] - ordered[below]) * (place - below);
}

// Marsaglia's xorshift32 (2003): Math.random can't be given a seed.
function generator(seed) {
  let state = seed;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}
