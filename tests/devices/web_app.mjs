// Drives the web app in a headless Chromium: node web_app.mjs PACKAGES CHROMIUM PROJECT SCENARIO [JSON]
// Prints what the scenario found as JSON; SCENARIO is a key of SCENARIOS below.
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { createInterface } from 'node:readline';

const [packages, executablePath, project, scenario, text = '{}'] = process.argv.slice(2);
const options = JSON.parse(text);
const { chromium } = createRequire(path.join(path.resolve(packages), 'x.cjs'))('playwright-core');
const PATIENCE = 90_000;

async function serve(folder, ...more) {
  const child = spawn('node', [path.join(folder, 'scripts', 'serve.mjs'), '--port', '0', ...more], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const lines = createInterface({ input: child.stdout });
  const url = await new Promise((resolve, reject) => {
    lines.once('line', resolve);
    child.once('exit', (code) => reject(new Error(`the server ended with ${code}`)));
  });
  const stop = () =>
    new Promise((resolve) => {
      child.once('exit', resolve);
      child.kill();
    });
  return { url, stop };
}

// Opens the page; `ready` is what window.edgestill.ready came to, or {error}.
async function open(context, url, told) {
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE);
  page.on('console', (message) => message.type() === 'error' && told.push(message.text()));
  page.on('pageerror', (error) => told.push(String(error)));
  page.on('dialog', (dialog) => {
    told.push(`dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  await page.goto(url);
  return page;
}

const readiness = (page) =>
  page.evaluate(() => window.edgestill.ready.then((found) => found, (error) => ({ error: error.message })));

const shown = (page) =>
  page.evaluate(() => ({
    error: document.getElementById('error').hidden ? null : document.getElementById('error').textContent,
    status: document.getElementById('status').textContent,
    selftest: [...document.getElementById('selftest-rows').rows].map((row) => row.lastChild.textContent),
    answer: document.getElementById('answer').textContent,
    engines: [...document.getElementById('engine').options].map((one) => [one.value, one.disabled]),
  }));

const answers = (page, engines, goldens) =>
  page.evaluate(
    async ([names, rows]) => {
      const found = {};
      for (const name of names) {
        found[name] = [];
        for (const { prompt, max_new_tokens: maxNewTokens } of rows) {
          const how = { maxNewTokens, temperature: 0, tokenIds: true, raw: true };
          found[name].push(await window.edgestill.generate(name, prompt, how));
        }
      }
      return found;
    },
    [engines, goldens],
  );

// Cancels while the prompt is read, and after a few tokens; the engine answers again afterwards.
const cancelled = (page, engine, prompt) =>
  page.evaluate(
    async ([name, asked]) => {
      const { edgestill } = window;
      const until = (id, pattern) =>
        new Promise((resolve) => {
          const shown = document.getElementById(id);
          const look = new MutationObserver(() => {
            if (!pattern.test(shown.textContent)) return;
            look.disconnect();
            resolve();
          });
          look.observe(shown, { childList: true, characterData: true, subtree: true });
        });
      const how = { maxNewTokens: 500, temperature: 0, raw: true, ignoreEnds: true };
      const long = asked.repeat(3);
      const reading = edgestill.generate(name, long, { ...how, fresh: true });
      await until('status', /Reading the prompt/);
      edgestill.cancel();
      const early = await reading;
      const answering = edgestill.generate(name, asked, how);
      await until('answer', /\S/);
      document.getElementById('stop').click();
      const later = await answering;
      const after = await edgestill.generate(name, asked, { ...how, maxNewTokens: 4 });
      return { early: [early.finish, early.text], later: later.finish, after: after.newTokens };
    },
    [engine, prompt],
  );

const SCENARIOS = {
  // Everything that works: self-test, golden answers, bench, cancellation, then offline.
  async whole(browser, told) {
    const context = await browser.newContext();
    const server = await serve(project, ...(options.isolated ? [] : ['--no-isolation']));
    const page = await open(context, server.url + (options.query ?? ''), told);
    const ready = await readiness(page);
    const found = { ready, first: await shown(page) };
    const engines = ready.engines.map((one) => one.name);
    found.answers = await answers(page, engines, options.goldens);
    found.benches = {};
    found.cancelled = {};
    for (const engine of options.measured ?? []) {
      found.benches[engine] = await page.evaluate(([name, how]) => window.edgestill.bench(name, how), [
        engine,
        options.bench,
      ]);
      found.cancelled[engine] = await cancelled(page, engine, options.long);
    }
    await server.stop();
    await page.reload();
    found.offline = { ready: await readiness(page) };
    found.offline.answers = await answers(page, engines, options.goldens.slice(0, 1));
    return found;
  },

  // What pages say at their start, each in a browser that has never seen them.
  async visit(browser, told) {
    const visits = [];
    for (const { project: folder = project } of options.visits) {
      const context = await browser.newContext();
      const server = await serve(folder);
      const page = await open(context, server.url, told);
      visits.push({ ready: await readiness(page), shown: await shown(page) });
      await server.stop();
      await context.close();
    }
    return { visits };
  },

  // What a person sees, wide and on a phone, with an answer there and the panels open.
  async look(browser, told) {
    const server = await serve(project);
    const found = {};
    const page = await open(await browser.newContext(), server.url, told);
    found.ready = await readiness(page);
    for (const [name, width, height, colorScheme] of options.views) {
      await page.setViewportSize({ width, height });
      await page.emulateMedia({ colorScheme });
      await page.click('#generate');
      await page.waitForSelector('#generate:enabled');
      await page.evaluate(() => document.querySelectorAll('details').forEach((one) => (one.open = true)));
      if (options.bench) {
        await page.click('#bench-run');
        await page.waitForSelector('#bench-table:not([hidden])');
      }
      found[name] = await page.evaluate(() => ({
        title: document.title,
        heading: document.querySelector('h1').textContent,
        tags: [...new Set([...document.querySelectorAll('body *')].map((one) => one.tagName))],
        overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
        unlabelled: [...document.querySelectorAll('input, select, textarea')].filter((one) => !one.labels.length)
          .length,
        ran: window.ran ?? null,
        answer: document.getElementById('answer').textContent,
      }));
      await page.evaluate(() => window.scrollTo(0, 0));
      await page.screenshot({ path: path.join(options.out, `${name}.png`), fullPage: options.full ?? false });
    }
    await server.stop();
    return found;
  },
};

const browser = await chromium.launch({
  executablePath,
  args: [
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
  ],
});
try {
  const told = [];
  const found = await SCENARIOS[scenario](browser, told);
  fs.writeSync(1, `${JSON.stringify({ ...found, told })}\n`);
} finally {
  await browser.close();
}
process.exit(0); // a server that is still there ends with its parent
