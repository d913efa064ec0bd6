// Service worker: the page works offline after its first load.
// The page itself is asked for from the network first, so that a new version is seen at once; packages lie in folders
// named by their version, and are kept. The model's files are kept by bundle.js, which checks them.
const CACHE = `edgestill ${self.registration.scope} page`;
const PAGE = [
  './', 'style.css', 'app.js', 'panels.js', 'worker.js', 'worker-client.js', 'bench-document.js', 'bundle.js',
  'engine-gguf.js', 'engine-onnx.js', 'failure.js', 'golden.js', 'model-files.js', 'tokenizer.js', 'app.json',
  'icon.svg', 'manifest.webmanifest', 'bundle/manifest.json', 'vendor/vendored.json',
];

self.addEventListener('install', (event) => {
  // Not one file is worth more than none: a page that is only half there would fail offline in ways hard to explain.
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(PAGE)).then(() => self.skipWaiting()));
});

self.addEventListener('activate', (event) => event.waitUntil(self.clients.claim()));

self.addEventListener('fetch', (event) => {
  const url = new URL(event.request.url);
  const scope = self.registration.scope;
  if (event.request.method !== 'GET' || !url.href.startsWith(scope)) return;
  const path = url.href.slice(scope.length).replace(/[?#].*/, '');
  if (path.startsWith('bundle/') && path !== 'bundle/manifest.json') return;
  const answer = /^vendor\/[^/]+\//.test(path) ? keptFirst : networkFirst;
  event.respondWith(answer(event.request, scope + path));
});

async function keptFirst(request, key) {
  const cache = await caches.open(CACHE);
  return (await cache.match(key)) ?? keep(cache, request, key);
}

async function networkFirst(request, key) {
  const cache = await caches.open(CACHE);
  try {
    return await keep(cache, request, key);
  } catch (error) {
    const kept = await cache.match(key);
    if (kept === undefined) throw error;
    return kept;
  }
}

async function keep(cache, request, key) {
  const response = await fetch(request);
  // A disk that is full keeps nobody from the page.
  if (response.ok) await cache.put(key, response.clone()).catch(() => {});
  return response;
}
