// The GGUF artifact by wllama: llama.cpp's server code in WebAssembly, in a worker of its own.
//
// wllama takes a prompt as text and gives text. Therefore special tokens are written out in the prompt (llama.cpp is
// told to add none), and the self-test holds llama.cpp to the golden answer by a grammar of its token ids, and reads
// from the log-probabilities whether each was the likeliest.
import { Cancelled, Failure, lineOf } from './failure.js';
import { MOST_GAP, checkAnswer, differs, share } from './golden.js';

const BATCH = 128; // tokens of a prompt between two looks for a cancellation
const GREEDY = { top_k: 0, top_p: 1, min_p: 0 };

export class GgufEngine {
  static label = 'wllama';

  /** Loads the artifact; `settings` are {threads, contextLength, tokenizer, vendored, progress}. */
  static async open(bundle, artifact, { threads, contextLength, tokenizer, vendored, progress }) {
    const { Wllama } = await vendored('@wllama/wllama', 'index.min.js');
    const { folder, version } = vendored.packages['@wllama/wllama'];
    const bytes = await bundle.file(`artifacts/${artifact.name}/${artifact.entry}`, progress);
    const log = { last: '' };
    const note = (...said) => {
      log.last = lineOf(said.find((one) => typeof one === 'string') ?? said[0]);
    };
    const logger = { debug() {}, log() {}, warn() {}, error: note };
    const wasm = new URL(`vendor/${folder}/wllama.wasm`, self.location.href).href;
    const wllama = new Wllama({ default: wasm }, { logger });
    wllama.setCompat(null); // its other build comes from another host
    try {
      await wllama.loadModel([new Blob([bytes])], {
        n_ctx: contextLength,
        n_batch: BATCH,
        n_ubatch: BATCH,
        n_threads: threads,
        n_parallel: 1,
        n_gpu_layers: 0, // the golden answers are a processor's
        flash_attn: false,
        warmup: false,
        // The empty key ends llama.cpp's list, which wllama leaves open.
        kv_overrides: { 'tokenizer.ggml.add_bos_token': 'bool:false', '': 'int:0' },
      });
    } catch (error) {
      await wllama.exit().catch(() => {});
      throw new Failure(`${artifact.name}: llama.cpp refuses the model (${log.last || lineOf(error)})`);
    }
    const build = Wllama.getLibllamaVersion();
    return new GgufEngine(wllama, log, { artifact, threads, contextLength, tokenizer, version, build });
  }

  constructor(wllama, log, { artifact, threads, contextLength, tokenizer, version, build }) {
    this.wllama = wllama;
    this.log = log;
    this.artifact = artifact;
    this.threads = wllama.isMultithread() ? threads : 1;
    this.tokenizer = tokenizer;
    this.version = version;
    this.build = build;
    const info = wllama.getLoadedContextInfo();
    this.vocabulary = info.n_vocab;
    this.contextLength = Math.min(contextLength, info.n_ctx);
    this.own = new Set(info.list_tokens_eog); // where llama.cpp ends an answer by itself
    this.ends = new Set([...this.own, ...tokenizer.ends]);
    this.broken = false;
    // Whether an answer's text loses the blank before its first word, as the tokenizer's decoder has it.
    this.strips = !tokenizer.decode(tokenizer.encode('a a', false).slice(-1)).startsWith(' ');
  }

  /** What the engine says of itself, for the bench. */
  describe() {
    return { version: this.version, build: `llama.cpp ${this.build}`, settings: { n_gpu_layers: '0' } };
  }

  // One request; onData(chunk) gets what it streams. Throws Cancelled, or Failure in llama.cpp's words.
  async complete(options, signal, onData) {
    this.log.last = '';
    const stream = onData !== undefined;
    try {
      return await this.wllama.createCompletion({
        ...GREEDY,
        temperature: 0,
        ...options,
        stream,
        ...(stream && { onData, return_progress: true, timings_per_token: true }),
        abortSignal: signal,
      });
    } catch (error) {
      if (error?.name === 'AbortError') throw new Cancelled();
      // An error of WebAssembly leaves nothing that could go on, and its cause in the log; a refusal is told itself.
      this.broken = error?.name === 'RuntimeError';
      throw new Failure(`llama.cpp stopped: ${(this.broken && this.log.last) || lineOf(error)}`);
    }
  }

  /** Answers a prompt; `onText(piece)` gets the text as it comes. `tokenIds` asks for the answer's ids as well. */
  async generate(prompt, { maxNewTokens, temperature, stop, ignoreEnds, tokenIds, fresh, signal, onText, onProgress }) {
    const { length } = this.tokenizer.promptIds(prompt);
    if (length > this.contextLength) {
      throw new Failure(`the prompt has ${length} tokens and the context ${this.contextLength}; shorten it`);
    }
    // Ids are asked for where the bundle knows an end that llama.cpp doesn't: they cost time.
    const foreign = [...this.ends].some((id) => !this.own.has(id));
    const wantsIds = tokenIds || (foreign && !ignoreEnds);
    const enough = new AbortController();
    const giveUp = () => enough.abort();
    signal.addEventListener('abort', giveUp);
    const ended = (stop ?? []).length > 0 ? 'end' : 'eos';
    const text = [];
    const ids = [];
    const moments = [];
    let last = {};
    let finish = null;
    const started = performance.now();
    const request = {
      prompt: this.tokenizer.promptText(prompt),
      max_tokens: maxNewTokens,
      temperature,
      stop,
      ignore_eos: ignoreEnds === true,
      cache_prompt: fresh !== true,
      ...(wantsIds && { logprobs: 1 }),
    };
    const sent = performance.now();
    try {
      await this.complete(request, enough.signal, (chunk) => {
        const choice = chunk.choices[0];
        last = { ...last, ...chunk };
        if (chunk.prompt_progress !== undefined) {
          onProgress(chunk.prompt_progress.processed, chunk.prompt_progress.total);
          return;
        }
        const now = choice.logprobs?.content?.map((one) => one.id) ?? [];
        if (finish !== null) return;
        ids.push(...now);
        if (choice.finish_reason !== null) {
          // llama.cpp says the same of an eos and of a stop text.
          finish = choice.finish_reason === 'stop' ? ended : choice.finish_reason;
        } else {
          moments.push(performance.now());
        }
        if (!ignoreEnds && now.some((id) => this.ends.has(id))) {
          finish = 'eos';
          if (!now.every((id) => this.own.has(id))) enough.abort();
          return;
        }
        const piece = this.strips && text.length === 0 ? choice.text.replace(/^ /, '') : choice.text;
        if (choice.text !== '') text.push(piece);
        if (piece !== '') onText(piece);
      });
    } catch (error) {
      if (!(error instanceof Cancelled) || signal.aborted || finish === null) throw error;
    } finally {
      signal.removeEventListener('abort', giveUp);
    }
    return {
      text: text.join(''),
      ids: wantsIds ? ids : null,
      finish,
      promptTokens: last.usage?.prompt_tokens ?? null,
      newTokens: last.usage?.completion_tokens ?? moments.length,
      prefillMs: last.timings?.prompt_ms ?? null,
      ttftMs: moments.length === 0 ? null : moments[0] - sent,
      gapsMs: moments.slice(1).map((moment, at) => moment - moments[at]),
      totalMs: performance.now() - started,
    };
  }

  /** Goes along a golden answer, whatever this browser would have said, and looks at each of its tokens. */
  async replay({ where, prompt, promptIds, answer, maxNewTokens }, signal) {
    if (this.tokenizer.promptIds(prompt).join() !== promptIds.join()) {
      throw new Failure(`${where} is tokenised differently from when it was packed`);
    }
    checkAnswer(this, where, promptIds, answer, maxNewTokens);
    const request = { prompt: this.tokenizer.promptText(prompt), max_tokens: answer.length, cache_prompt: false };
    // A token that is a part of a character can't be asked for by wllama (its JSON is UTF-8): then texts are compared.
    const whole = answer.every((id) => !this.tokenizer.decode([id], false).includes('\ufffd'));
    if (!whole) return this.compareText(where, request, promptIds, answer, signal);
    const ended = this.own.has(answer.at(-1));
    const forced = ended ? answer.slice(0, -1) : answer;
    const grammar = forced.length === 0 ? undefined : `root ::= ${forced.map((id) => `<[${id}]>`).join(' ')}`;
    let found;
    try {
      found = await this.complete({ ...request, grammar, logprobs: 1 }, signal);
    } catch (error) {
      // A grammar can't ask for a token without a text.
      if (!(error instanceof Failure) || !/grammar/.test(error.message)) throw error;
      return this.compareText(where, request, promptIds, answer, signal);
    }
    this.checkCount(where, found, promptIds);
    const tokens = found.choices[0].logprobs.content;
    let close = 0;
    let largest = 0;
    answer.forEach((id, at) => {
      if (tokens[at]?.id !== id) throw differs(where, at, `${tokens[at]?.id ?? 'nothing'} not ${id}`);
      const [best] = tokens[at].top_logprobs;
      const gap = gapOf(tokens[at].logprob, best.logprob, this.vocabulary);
      if (!(gap <= MOST_GAP)) {
        throw differs(where, at, `${best.id} not ${id}, by ${share(gap)} of its logit's height`);
      }
      close += gap > 0 ? 1 : 0;
      largest = Math.max(largest, gap);
    });
    return { tokens: answer.length, close, largest };
  }

  async compareText(where, request, promptIds, answer, signal) {
    const found = await this.complete(request, signal);
    this.checkCount(where, found, promptIds);
    // The last character may have been cut by the answer's length.
    const expected = this.tokenizer.decode(answer).replace(/\ufffd+$/, '');
    const text = found.choices[0].text.replace(/\ufffd+$/, '');
    const count = found.usage.completion_tokens;
    if (text.trim() !== expected.trim() || count !== answer.length) {
      throw new Failure(`${where}: the answer's text differs (${count} tokens here, ${answer.length} there)`);
    }
    return { tokens: answer.length, close: 0, largest: 0 };
  }

  // llama.cpp's own tokenizer, of whose ids wllama tells the number.
  checkCount(where, found, promptIds) {
    const count = found.usage.prompt_tokens;
    if (count !== promptIds.length) {
      throw new Failure(`${where}: llama.cpp makes ${count} tokens of it, ${promptIds.length} when it was packed`);
    }
  }

  async close() {
    await this.wllama.exit();
  }
}

// As in engine-onnx.js. The mean of all logits isn't known here, but by Jensen's inequality that of log-probabilities
// is at most -ln(vocabulary): the height is at least this, and the gap at most what is returned.
function gapOf(logprob, best, vocabulary) {
  if (best === logprob) return 0;
  const height = best + Math.log(vocabulary);
  const gap = (best - logprob) / height;
  return height > 0 && Number.isFinite(gap) ? gap : Infinity;
}
