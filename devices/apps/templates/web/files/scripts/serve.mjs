// A static server for this folder: npm run serve [-- --port 8080 --host localhost --no-isolation]
// With isolation (the default) the page may use threads; --no-isolation is how it is on a host without such headers.
import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { pipeline } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const TYPES = {
  '.css': 'text/css; charset=utf-8',
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.json': 'application/json; charset=utf-8',
  '.jsonl': 'application/x-ndjson; charset=utf-8',
  '.mjs': 'text/javascript; charset=utf-8',
  '.svg': 'image/svg+xml; charset=utf-8',
  '.wasm': 'application/wasm',
  '.webmanifest': 'application/manifest+json; charset=utf-8',
};
const ISOLATION = {
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Embedder-Policy': 'require-corp',
  'Cross-Origin-Resource-Policy': 'same-origin',
};
const PRIVATE = ['node_modules', 'scripts'];

const root = fileURLToPath(new URL('..', import.meta.url));
const { values } = parseArgs({
  options: {
    port: { type: 'string', default: '8080' },
    host: { type: 'string', default: 'localhost' },
    'no-isolation': { type: 'boolean', default: false },
  },
});

// The file that a URL's path names; null for one outside the folder, hidden or not part of the page.
function fileOf(pathname) {
  let parts;
  try {
    parts = decodeURIComponent(pathname).split('/').filter(Boolean);
  } catch {
    return null;
  }
  if (PRIVATE.includes(parts[0]) || parts.some((part) => part.startsWith('.') || /[\\\0]/.test(part))) return null;
  const file = path.join(root, ...parts, pathname.endsWith('/') ? 'index.html' : '');
  const found = fs.statSync(file, { throwIfNoEntry: false });
  return found?.isFile() ? { file, size: found.size, etag: `"${found.size.toString(36)}-${found.mtimeMs}"` } : null;
}

const server = http.createServer((request, response) => {
  const { pathname } = new URL(request.url, 'http://localhost');
  const found = ['GET', 'HEAD'].includes(request.method) ? fileOf(pathname) : null;
  const headers = values['no-isolation'] ? {} : { ...ISOLATION };
  if (found === null) {
    response.writeHead(404, { ...headers, 'Content-Type': 'text/plain; charset=utf-8' }).end('not found\n');
    return;
  }
  // What lies in a folder named by its version never changes; all else is asked for again.
  const kept = /^\/vendor\/[^/]+\//.test(pathname);
  Object.assign(headers, {
    'Content-Type': TYPES[path.extname(found.file)] ?? 'application/octet-stream',
    'Cache-Control': kept ? 'public, max-age=31536000, immutable' : 'no-cache',
    'X-Content-Type-Options': 'nosniff',
    ETag: found.etag,
  });
  if (request.headers['if-none-match'] === found.etag) {
    response.writeHead(304, headers).end();
    return;
  }
  response.writeHead(200, { ...headers, 'Content-Length': found.size });
  if (request.method === 'HEAD') response.end();
  else pipeline(fs.createReadStream(found.file), response, () => {}); // a reader that went away is no error
});
server.on('error', (error) => {
  console.error(`error: ${values.host}:${values.port}: ${error.message}`);
  process.exitCode = 1;
});
server.listen(Number(values.port), values.host, () => {
  console.log(`http://${values.host}:${server.address().port}/`);
});
