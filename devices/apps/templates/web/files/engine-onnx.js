// The ONNX artifact by onnxruntime-web: one fused graph in WebAssembly, its KV cache fed back from step to step.
import { Failure, checkCancelled, lineOf, nextTurn } from './failure.js';
import { MOST_GAP, checkAnswer, differs, share } from './golden.js';
import { StopTexts, StreamDecoder } from './tokenizer.js';

const MOST_CHUNK = 128; // tokens of a prompt between two looks for a cancellation
const OUTPUT_FLOATS = 1 << 23; // the graph computes every position's logits

export class OnnxEngine {
  static label = 'onnxruntime-web';

  /** Loads the artifact; `settings` are {threads, contextLength, tokenizer, vendored, progress}. */
  static async open(bundle, artifact, { threads, contextLength, tokenizer, vendored, progress }) {
    const ort = await vendored('onnxruntime-web', 'ort.wasm.min.mjs');
    const { folder, version } = vendored.packages['onnxruntime-web'];
    ort.env.wasm.wasmPaths = new URL(`vendor/${folder}/`, self.location.href).href;
    ort.env.wasm.numThreads = threads;
    ort.env.logLevel = 'error';
    const start = `artifacts/${artifact.name}/`;
    const files = bundle.modelFiles(artifact).map((entry) => entry.path);
    const graph = await bundle.file(start + artifact.entry, progress);
    const externalData = [];
    for (const path of files.filter((one) => one !== start + artifact.entry)) {
      externalData.push({ path: path.slice(start.length), data: await bundle.file(path, progress) });
    }
    let session;
    try {
      session = await ort.InferenceSession.create(graph, {
        executionProviders: ['wasm'],
        externalData,
        graphOptimizationLevel: 'all',
      });
    } catch (error) {
      throw new Failure(`${artifact.name}: onnxruntime-web refuses the model (${lineOf(error)})`);
    }
    return new OnnxEngine(ort, session, { artifact, threads, contextLength, tokenizer, version });
  }

  constructor(ort, session, { artifact, threads, contextLength, tokenizer, version }) {
    this.ort = ort;
    this.session = session;
    this.artifact = artifact;
    this.threads = threads;
    this.contextLength = contextLength;
    this.tokenizer = tokenizer;
    this.version = version;
    this.ends = tokenizer.ends;
    this.past = session.inputMetadata.filter((one) => one.name.startsWith('past_key_values.'));
    const logits = session.outputMetadata.find((one) => one.name === 'logits');
    if (this.past.length === 0 || logits === undefined) {
      throw new Failure(`${artifact.name}: not a decoder with a KV cache; export it with edgestill export`);
    }
    this.vocabulary = Number(logits.shape[2]);
    this.chunk = Math.max(1, Math.min(MOST_CHUNK, Math.floor(OUTPUT_FLOATS / this.vocabulary)));
    this.reset();
  }

  /** What the engine says of itself, for the bench. */
  describe() {
    return { version: this.version, settings: { execution_provider: 'wasm', kv_precision: this.past[0].type } };
  }

  reset() {
    this.position = 0;
    this.cache = {};
    for (const { name, type, shape } of this.past) {
      const empty = type === 'float16' ? new Uint16Array(0) : new Float32Array(0);
      this.cache[name] = new this.ort.Tensor(type, empty, [1, shape[1], 0, shape[3]]);
    }
  }

  /** Computes tokens after those in the cache; returns the logits after the last one, [vocabulary], float32. */
  async append(ids) {
    const { Tensor } = this.ort;
    const total = this.position + ids.length;
    const feeds = {
      ...this.cache,
      input_ids: new Tensor('int64', BigInt64Array.from(ids, BigInt), [1, ids.length]),
      attention_mask: new Tensor('int64', new BigInt64Array(total).fill(1n), [1, total]),
    };
    if (this.session.inputNames.includes('position_ids')) {
      const positions = BigInt64Array.from(ids, (_, at) => BigInt(this.position + at));
      feeds.position_ids = new Tensor('int64', positions, [1, ids.length]);
    }
    const outputs = await this.session.run(feeds);
    for (const { name } of this.past) this.cache[name] = outputs[name.replace('past_key_values.', 'present.')];
    this.position = total;
    const last = outputs.logits.data.subarray(-this.vocabulary);
    return last instanceof Uint16Array ? Float32Array.from(last, halfToFloat) : last;
  }

  async prefill(ids, signal, onProgress = () => {}) {
    this.reset();
    if (ids.length === 0) throw new Failure('the prompt is empty; at least one token is expected');
    if (ids.length > this.contextLength) {
      throw new Failure(`the prompt has ${ids.length} tokens and the context ${this.contextLength}; shorten it`);
    }
    let logits;
    for (let at = 0; at < ids.length; at += this.chunk) {
      logits = await this.append(ids.slice(at, at + this.chunk));
      onProgress(Math.min(at + this.chunk, ids.length), ids.length);
      await nextTurn();
      checkCancelled(signal);
    }
    return logits;
  }

  /** Answers a prompt; `onText(piece)` gets the text as it comes. */
  async generate(prompt, { maxNewTokens, temperature, stop, ignoreEnds, signal, onText, onProgress }) {
    const started = performance.now();
    const ids = Array.isArray(prompt) && Number.isInteger(prompt[0]) ? prompt : this.tokenizer.promptIds(prompt);
    const encoded = performance.now();
    let logits = await this.prefill(ids, signal, onProgress);
    const prefilled = performance.now();
    const decoder = new StreamDecoder(this.tokenizer);
    const stops = new StopTexts(stop ?? []);
    const limit = Math.min(maxNewTokens, this.contextLength - ids.length + 1);
    const found = [];
    const moments = [];
    let text = '';
    let finish = 'length';
    const show = (piece) => {
      text += piece;
      if (piece !== '') onText(piece);
    };
    for (;;) {
      const token = pick(logits, temperature);
      moments.push(performance.now());
      found.push(token);
      if (this.ends.has(token) && !ignoreEnds) {
        finish = 'eos';
        break;
      }
      show(stops.push(decoder.push(token)));
      if (stops.found) finish = 'stop';
      if (stops.found || found.length >= limit) break;
      await nextTurn();
      checkCancelled(signal);
      logits = await this.append([token]);
    }
    show(stops.push(decoder.finish()) + stops.finish());
    return {
      text,
      ids: found,
      finish,
      promptTokens: ids.length,
      newTokens: found.length,
      prefillMs: prefilled - encoded,
      // From token ids on, as edgestill bench counts it: the tokenizer's time isn't the model's.
      ttftMs: moments[0] - encoded,
      gapsMs: moments.slice(1).map((moment, at) => moment - moments[at]),
      totalMs: performance.now() - started,
    };
  }

  /** Goes along a golden answer, whatever this browser would have said, and looks at each of its tokens. */
  async replay({ where, prompt, promptIds, answer, maxNewTokens }, signal) {
    const ids = this.tokenizer.promptIds(prompt);
    if (ids.join() !== promptIds.join()) {
      throw new Failure(`${where} is tokenised differently from when it was packed`);
    }
    checkAnswer(this, where, promptIds, answer, maxNewTokens);
    let close = 0;
    let largest = 0;
    let logits = await this.prefill(promptIds, signal);
    for (let at = 0; at < answer.length; at += 1) {
      if (at !== 0) logits = await this.append([answer[at - 1]]);
      const { gap, best } = gapOf(logits, answer[at]);
      if (!(gap <= MOST_GAP)) {
        throw differs(where, at, `${best} not ${answer[at]}, by ${share(gap)} of its logit's height`);
      }
      close += gap > 0 ? 1 : 0;
      largest = Math.max(largest, gap);
      await nextTurn();
      checkCancelled(signal);
    }
    this.reset();
    return { tokens: answer.length, close, largest };
  }

  async close() {
    this.cache = {};
    await this.session.release();
  }
}

// How far a token's logit lies below the largest one, as a share of the largest's height over the mean: what rounding
// of another kernel does to two tokens that are nearly as likely is small on that scale.
function gapOf(logits, token) {
  let best = 0;
  let sum = 0;
  for (let id = 0; id < logits.length; id += 1) {
    if (logits[id] > logits[best]) best = id;
    sum += logits[id];
  }
  if (best === token) return { gap: Number.isFinite(logits[best]) ? 0 : Infinity, best };
  const height = logits[best] - sum / logits.length;
  const gap = (logits[best] - logits[token]) / height;
  return { gap: height > 0 && Number.isFinite(gap) ? gap : Infinity, best };
}

function pick(logits, temperature) {
  let best = 0;
  for (let id = 1; id < logits.length; id += 1) if (logits[id] > logits[best]) best = id;
  if (!(temperature > 0)) return best;
  const weights = Float64Array.from(logits, (logit) => Math.exp((logit - logits[best]) / temperature));
  let left = Math.random() * weights.reduce((sum, weight) => sum + weight, 0);
  for (let id = 0; id < weights.length; id += 1) {
    left -= weights[id];
    if (left < 0) return id;
  }
  return best;
}

// IEEE 754 binary16, of which a browser without Float16Array gives the bits.
function halfToFloat(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction === 0 ? sign * Infinity : NaN;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}
