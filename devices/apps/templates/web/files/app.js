// The page: prompt, answer and panels. `window.edgestill` is the same for scripts.
import { Cancelled, lineOf } from './failure.js';
import { resultLine, showBench, showSelftest, shown } from './panels.js';
import { WorkerClient } from './worker-client.js';

const HIDDEN_MS = 60_000; // how long a page that isn't seen keeps the model in memory
const CONTROL_MS = 5_000; // how long the start waits for the service worker
const TESTED = 'edgestill self-test';

const element = (id) => document.getElementById(id);
const asked = Number(new URLSearchParams(location.search).get('threads'));
const client = new WorkerClient(Number.isInteger(asked) && asked > 0 ? asked : null);
const results = {};
let about = null;
let measured = null; // of the last bench

// --- one line each: what goes on, and what went wrong

function status(text, share = null) {
  element('status').textContent = text;
  element('progress').hidden = share === null;
  if (share !== null) element('progress').value = share;
}

function problem(error) {
  const quiet = error === null || error instanceof Cancelled;
  element('error').hidden = quiet;
  element('error').textContent = quiet ? '' : lineOf(error);
}

function busy(is) {
  const ready = about !== null && !is;
  for (const id of ['generate', 'selftest-run', 'bench-run']) element(id).disabled = !ready;
  element('stop').disabled = !is;
  element('answer').ariaBusy = String(is);
}

const WORDS = {
  load: ({ bytes, all }) => [`Loading the model: ${shown(bytes, 'bytes')} of ${shown(all, 'bytes')}`, bytes / all],
  prompt: ({ done, all }) => [`Reading the prompt: ${done} of ${all} tokens`, done / all],
  selftest: ({ done, all }) => [`Self-test: ${done} of ${all} golden answers`, done / all],
  bench: ({ done, all }) => [`Bench: ${done} of ${all} repetitions`, done / all],
};

// Runs a verb in the worker, with what it tells in the status line; `then` says what it came to.
async function work(verb, values, then, onText = () => {}) {
  problem(null);
  busy(true);
  try {
    const result = await client.call(verb, values, (event) => {
      if (event.kind === 'text') onText(event.text);
      else status(...WORDS[event.kind](event));
    });
    status(then(result));
    return result;
  } catch (error) {
    status(error instanceof Cancelled ? 'Stopped.' : 'Stopped by an error.');
    problem(error);
    throw error;
  } finally {
    busy(false);
  }
}

// --- what the page does

/** Answers a text (as a user's message where the bundle has a chat template), or messages. */
async function generate(engine, prompt, options = {}) {
  const { raw = false, ...rest } = options;
  const chat = about.chat && !raw && typeof prompt === 'string';
  const messages = [{ role: 'user', content: prompt }];
  const answer = element('answer');
  answer.textContent = '';
  const values = { engine, prompt: chat ? messages : prompt, options: rest };
  try {
    return await work('generate', values, said, (text) => answer.append(text));
  } catch (error) {
    if (!(error instanceof Cancelled)) throw error;
    return { text: answer.textContent, ids: null, finish: 'cancelled' };
  }
}

const ENDS = {
  eos: 'the model ended its answer',
  stop: 'a stop text came',
  end: 'the model ended its answer, or a stop text came',
  length: 'as many tokens as there may be',
};

function said(result) {
  if (result.finish === 'cancelled') return 'Stopped.';
  const seconds = result.gapsMs.reduce((sum, gap) => sum + gap, 0) / 1000;
  const rate = seconds > 0 ? `, ${shown((result.newTokens - 1) / seconds, 'tokens/s')}` : '';
  const first = result.ttftMs === null ? '' : `, the first after ${shown(result.ttftMs / 1000, 'seconds')}`;
  return `${result.newTokens} tokens${first}${rate}; ${ENDS[result.finish] ?? result.finish}.`;
}

/** Runs the self-test of an engine, shows and remembers its result; throws Failure when it fails. */
async function selftest(engine) {
  try {
    results[engine] = await work('selftest', { engine }, (result) => `Self-test ${resultLine(result)}.`);
    remember(engine, results[engine]);
    return results[engine];
  } catch (error) {
    if (!(error instanceof Cancelled)) results[engine] = { error: lineOf(error) };
    throw error;
  } finally {
    showSelftest(element('selftest-rows'), element('selftest-summary'), about.engines, results);
  }
}

/** Measures an engine in a fresh worker; returns the document (schema edgestill.bench/1). */
async function bench(engine, options = {}) {
  client.terminate(); // nothing of what ran before is in the figures
  measured = await work('bench', { engine, options }, () => 'Measured.');
  showBench(element('bench-table'), element('bench-rows'), measured);
  for (const id of ['bench-download', 'bench-copy']) element(id).disabled = false;
  return measured;
}

// --- the self-test's results of earlier visits: of this bundle, these versions and this kind of page

function testKey(engine) {
  const { artifact, version } = about.engines.find((one) => one.name === engine);
  return [about.contentSha256, artifact, version, about.threads].join(' ');
}

function remembered() {
  try {
    return JSON.parse(localStorage.getItem(TESTED)) ?? {};
  } catch {
    return {};
  }
}

function remember(engine, result) {
  try {
    localStorage.setItem(TESTED, JSON.stringify({ ...remembered(), [testKey(engine)]: result }));
  } catch {
    // Without storage the self-test runs at every start.
  }
}

// Tests engines one after the other; one that fails keeps nobody from the others, but can't be chosen. Returns the
// names of those that failed.
async function testAll(engines) {
  let first = null;
  const failed = [];
  for (const engine of engines) {
    try {
      await selftest(engine.name);
    } catch (error) {
      first ??= error;
      if (!(error instanceof Cancelled)) failed.push(engine.name);
    }
    const option = [...element('engine').options].find((one) => one.value === engine.name);
    option.disabled = results[engine.name]?.error !== undefined;
  }
  const usable = [...element('engine').options].find((one) => !one.disabled);
  if (element('engine').selectedOptions[0]?.disabled && usable !== undefined) usable.selected = true;
  problem(first);
  return failed;
}

// --- the start

// Registers the service worker, and waits until what this page fetches goes through it: all is then kept once.
async function goOffline() {
  if (!('serviceWorker' in navigator)) return false;
  try {
    const registration = await navigator.serviceWorker.register('sw.js');
    // A forced reload passes an active service worker by.
    if (registration.active && navigator.serviceWorker.controller === null) return false;
    const controlled = new Promise((resolve) => {
      navigator.serviceWorker.addEventListener('controllerchange', () => resolve(true), { once: true });
      setTimeout(resolve, CONTROL_MS, false);
    });
    return navigator.serviceWorker.controller !== null || (await controlled);
  } catch {
    return false;
  }
}

async function start() {
  const controlled = await goOffline();
  about = await client.open();
  const select = element('engine');
  for (const { name, label, artifact, size } of about.engines) {
    select.append(new Option(`${artifact} (${shown(size, 'bytes')}) by ${label}`, name));
  }
  for (const prompt of about.prompts) {
    const button = document.createElement('button');
    button.type = 'button';
    button.textContent = prompt;
    button.title = prompt;
    button.addEventListener('click', () => {
      element('prompt').value = prompt;
      element('prompt').focus();
    });
    element('examples').append(button);
  }
  element('prompt').value ||= about.prompts[0] ?? '';
  const tested = remembered();
  for (const { name } of about.engines) results[name] = tested[testKey(name)];
  showSelftest(element('selftest-rows'), element('selftest-summary'), about.engines, results);
  const untested = about.engines.filter(({ name }) => results[name] === undefined);
  const failed = await testAll(untested);
  const { stored } = await client.call('prune');
  const kind = about.isolated ? `${about.threads} of ${navigator.hardwareConcurrency} threads` : 'one thread';
  status(`Ready: ${kind}; ${controlled && stored ? 'works offline' : 'needs the network at the next start'}.`);
  busy(false);
  return { ...about, offline: controlled && stored, tested: untested.map(({ name }) => name), failed };
}

// --- what a person does

const chosen = () => element('engine').value;
const count = (id) => Number(element(id).value);
const quietly = (promise) => promise.catch(() => {}); // the page has shown the error

element('ask').addEventListener('submit', (event) => {
  event.preventDefault();
  quietly(generate(chosen(), element('prompt').value, { maxNewTokens: Math.max(1, count('new-tokens')) }));
});
element('stop').addEventListener('click', () => client.cancel());
element('selftest-run').addEventListener('click', () => testAll(about.engines));
element('bench-run').addEventListener('click', () => {
  const [promptTokens, newTokens, repetitions] = ['bench-prompt', 'bench-new', 'bench-repetitions'].map(count);
  quietly(bench(chosen(), { promptTokens, newTokens, repetitions }));
});
element('bench-download').addEventListener('click', () => {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([JSON.stringify(measured, null, 2)], { type: 'application/json' }));
  link.download = 'bench.json';
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
});
element('bench-copy').addEventListener('click', async () => {
  try {
    await navigator.clipboard.writeText(JSON.stringify(measured, null, 2));
    status('Copied.');
  } catch (error) {
    problem(error);
  }
});

// A model is much memory: a page that nobody looks at gives it back, and loads it again when it is asked.
let hidden;
document.addEventListener('visibilitychange', () => {
  clearTimeout(hidden);
  if (document.hidden) hidden = setTimeout(() => client.busy || client.terminate(), HIDDEN_MS);
});
window.addEventListener('pagehide', () => client.terminate());

const ready = start();
ready.catch((error) => {
  status('Not ready.');
  problem(error);
  busy(false);
});

window.edgestill = {
  ready,
  generate,
  selftest,
  bench,
  cancel: () => client.cancel(),
  unload: () => client.terminate(),
};
