// One job, then this worker ends: {command, path, shown, artifact, threads, context, options}.
// It posts {text} while it answers, and at the end {document}, {answer} or {error}.
import { measure } from './bench-document.js';
import { GgufEngine } from './engine-gguf.js';
import { OnnxEngine } from './engine-onnx.js';
import { Failure, lineOf } from './failure.js';
import { replayAll } from './golden.js';
import { openStoredBundle } from './stored-bundle.js';
import { openTokenizer } from './tokenizer.js';

const ENGINES = { gguf: GgufEngine, onnx: OnnxEngine };
const MOST_CONTEXT = 4096;

async function openVendored() {
  const packages = await (await fetch('vendor/vendored.json')).json();
  const load = (name, file) => import(`./vendor/${packages[name].folder}/${file}`);
  return Object.assign(load, { packages });
}

// As in the web app: half of the processors is a guess at the big cores.
function threadsOf(wanted) {
  const threads = wanted ?? Math.max(1, Math.min(4, Math.floor(navigator.hardwareConcurrency / 2)));
  return self.crossOriginIsolated ? threads : 1;
}

async function run({ command, path, shown, artifact: name, threads, context, options }) {
  const bundle = await openStoredBundle(path, shown);
  const artifact = bundle.artifact(name);
  const goldens = command === 'selftest' ? await bundle.golden(artifact) : [];
  const created = new Date();
  const started = performance.now();
  const vendored = await openVendored();
  const tokenizer = await openTokenizer(bundle, artifact, vendored);
  const engine = await ENGINES[artifact.format].open(bundle, artifact, {
    threads: threadsOf(threads),
    contextLength: Math.min(context ?? MOST_CONTEXT, bundle.manifest.context_length),
    tokenizer,
    vendored,
    progress: () => {},
  });
  const loadSeconds = (performance.now() - started) / 1000;
  const { signal } = new AbortController(); // a job is stopped by ending this worker
  if (command === 'selftest') return { document: await replayAll(engine, artifact, goldens, signal) };
  if (command === 'bench') {
    const { label } = ENGINES[artifact.format];
    const event = () => {};
    return {
      document: await measure({ engine, label, bundle, vendored, created, loadSeconds, options, signal, event }),
    };
  }
  const { generation } = bundle.manifest;
  const answer = await engine.generate(options.messages ?? options.prompt, {
    maxNewTokens: options.maxNewTokens ?? generation.max_new_tokens,
    temperature: options.temperature ?? generation.temperature,
    stop: options.stop ?? generation.stop,
    ignoreEnds: options.ignoreEnds,
    tokenIds: options.tokenIds,
    signal,
    onText: (text) => options.tokenIds || self.postMessage({ text }),
    onProgress: () => {},
  });
  return { answer };
}

self.onmessage = async ({ data }) => {
  try {
    self.postMessage(await run(data));
  } catch (error) {
    self.postMessage({ error: error instanceof Failure ? error.message : `the engine stopped: ${lineOf(error)}` });
  }
};
