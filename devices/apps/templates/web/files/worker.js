// The engine's worker: everything that computes happens here, off the page's thread.
// The page sends {id, verb, values}; answers are {id, event}, then {id, result} or {id, error: {name, message}}.
import { measure } from './bench-document.js';
import { fetchJson, openBundle } from './bundle.js';
import { GgufEngine } from './engine-gguf.js';
import { OnnxEngine } from './engine-onnx.js';
import { Cancelled, Failure, checkCancelled, lineOf } from './failure.js';
import { replayAll } from './golden.js';
import { openTokenizer } from './tokenizer.js';

// The first that passes its self-test is what the page begins with: with weights of few bits llama.cpp
// answers several times as fast as onnxruntime-web does in WebAssembly.
const ENGINES = { gguf: GgufEngine, onnx: OnnxEngine };
const MOST_CONTEXT = 4096; // tokens: what a phone's memory holds the keys and values of
const MOST_THREADS = 4;

let bundle = null;
let vendored = null;
let loaded = null; // one engine at a time: {name, engine}
let threads = 1;
const controllers = new Set(); // of the verb under way and of those that wait

// Half of the processors is a guess at the big cores; without isolation there are no threads.
function allowedThreads(wanted) {
  if (!self.crossOriginIsolated) return 1;
  return Math.max(1, Math.min(MOST_THREADS, wanted ?? Math.floor((navigator.hardwareConcurrency || 1) / 2)));
}

async function openVendored() {
  let packages;
  try {
    packages = await fetchJson('vendor/vendored.json');
  } catch {
    throw new Failure('vendor/ is not there; run: npm install && npm run vendor');
  }
  const load = (name, file) => import(`./vendor/${packages[name].folder}/${file}`);
  return Object.assign(load, { packages });
}

async function unload() {
  const engine = loaded?.engine;
  loaded = null;
  await engine?.close().catch(() => {}); // it is given up either way
}

async function engineOf(name, event) {
  if (loaded?.name === name && !loaded.engine.broken) return loaded.engine;
  await unload();
  const artifact = bundle.artifact(name);
  const tokenizer = await openTokenizer(bundle, artifact, vendored);
  const engine = await ENGINES[name].open(bundle, artifact, {
    threads,
    contextLength: Math.min(bundle.manifest.context_length, MOST_CONTEXT),
    tokenizer,
    vendored,
    progress: (bytes, all) => event({ kind: 'load', bytes, all }),
  });
  loaded = { name, engine };
  return engine;
}

const verbs = {
  async open({ threads: wanted }) {
    threads = allowedThreads(wanted);
    vendored ??= await openVendored();
    bundle ??= await openBundle();
    const { manifest, app } = bundle;
    const engines = Object.keys(ENGINES).filter((name) => app.artifacts[name] !== null);
    return {
      name: manifest.name,
      task: manifest.task,
      contentSha256: manifest.content_sha256,
      contextLength: manifest.context_length,
      generation: manifest.generation,
      chat: manifest.chat_template !== null,
      prompts: app.prompts,
      threads,
      isolated: self.crossOriginIsolated,
      engines: engines.map((name) => {
        const { name: artifact, precision, size_bytes: size } = bundle.artifact(name);
        const version = vendored.packages[name === 'onnx' ? 'onnxruntime-web' : '@wllama/wllama'].version;
        return { name, label: ENGINES[name].label, version, artifact, precision, size };
      }),
    };
  },

  async generate({ engine: name, prompt, options }, signal, event) {
    const engine = await engineOf(name, event);
    const { generation } = bundle.manifest;
    let text = '';
    try {
      return await engine.generate(prompt, {
        maxNewTokens: generation.max_new_tokens,
        temperature: generation.temperature,
        stop: generation.stop,
        ...options,
        signal,
        onText: (piece) => {
          text += piece;
          event({ kind: 'text', text: piece });
        },
        onProgress: (done, all) => event({ kind: 'prompt', done, all }),
      });
    } catch (error) {
      if (error instanceof Cancelled) return { text, ids: null, finish: 'cancelled' };
      throw error;
    }
  },

  async selftest({ engine: name }, signal, event) {
    const artifact = bundle.artifact(name);
    const goldens = await bundle.golden(artifact);
    const engine = await engineOf(name, event);
    return replayAll(engine, artifact, goldens, signal, (done, all) => event({ kind: 'selftest', done, all }));
  },

  async bench({ engine: name, options }, signal, event) {
    await unload();
    const created = new Date();
    const started = performance.now();
    const engine = await engineOf(name, event);
    const loadSeconds = (performance.now() - started) / 1000;
    const { label } = ENGINES[name];
    return measure({ engine, label, bundle, vendored, created, loadSeconds, options, signal, event });
  },

  async prune() {
    await bundle.prune();
    return { stored: bundle.stored };
  },

  unload,
};

let queue = Promise.resolve(); // one verb after the other

async function answer(id, verb, values, controller) {
  try {
    checkCancelled(controller.signal);
    const result = await verbs[verb](values ?? {}, controller.signal, (event) => self.postMessage({ id, event }));
    self.postMessage({ id, result });
  } catch (error) {
    const name = error instanceof Cancelled ? 'Cancelled' : error instanceof Failure ? 'Failure' : 'Error';
    // What isn't told in words of ours comes from an engine whose state nobody knows.
    if (name === 'Error') await unload();
    self.postMessage({ id, error: { name, message: lineOf(error) } });
  }
  controllers.delete(controller);
}

self.onmessage = ({ data: { id, verb, values } }) => {
  if (verb === 'cancel') {
    controllers.forEach((controller) => controller.abort());
    return;
  }
  const controller = new AbortController();
  controllers.add(controller);
  queue = queue.then(() => answer(id, verb, values, controller));
};
