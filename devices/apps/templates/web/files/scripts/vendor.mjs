// Copies what the page needs of its npm packages into vendor/: npm run vendor [-- --from NODE_MODULES]
// Each package lies in a folder named by its version, so that a browser may keep its files for good.
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const project = fileURLToPath(new URL('..', import.meta.url));
const { values } = parseArgs({ options: { from: { type: 'string', default: path.join(project, 'node_modules') } } });
const read = (file) => JSON.parse(fs.readFileSync(file, 'utf8'));
const FILES = read(path.join(project, 'scripts', 'vendored-files.json'));

function vendor(name, version, target) {
  const source = path.join(values.from, name);
  if (!fs.existsSync(source)) throw new Error(`${source}: not there; run npm install first`);
  const found = read(path.join(source, 'package.json'));
  if (found.version !== version) {
    throw new Error(`${source}: version ${found.version}, the page was made for ${version}; run npm install again`);
  }
  const folder = `${name.replace(/^@/, '').replace('/', '-')}-${version}`;
  const licenses = fs.readdirSync(source).filter((file) => /^licen[cs]e/i.test(file));
  fs.mkdirSync(path.join(target, folder), { recursive: true });
  for (const file of [...FILES[name], ...licenses]) {
    fs.copyFileSync(path.join(source, file), path.join(target, folder, path.basename(file)));
  }
  return { version, license: found.license, folder };
}

try {
  const target = path.join(project, 'vendor');
  fs.rmSync(target, { recursive: true, force: true });
  const pinned = Object.entries(read(path.join(project, 'package.json')).dependencies);
  const packages = Object.fromEntries(pinned.map(([name, version]) => [name, vendor(name, version, target)]));
  // Written last: without it the page says what to run.
  fs.writeFileSync(path.join(target, 'vendored.json'), `${JSON.stringify(packages, null, 2)}\n`);
  console.log(`vendor/: ${pinned.map(([name, version]) => `${name} ${version}`).join(', ')}`);
} catch (error) {
  console.error(`error: ${error.message}`);
  process.exitCode = 1;
}
