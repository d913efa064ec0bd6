// The bundle's tokenizer and chat template: a prompt to token ids, token ids to text as they come.
import { Failure, lineOf } from './failure.js';

const REPLACEMENT = '\ufffd';

/** Opens the tokenizer beside an artifact, else the bundle's own. `vendored(name, file)` imports from vendor/. */
export async function openTokenizer(bundle, artifact, vendored) {
  const own = `artifacts/${artifact.name}`;
  const folder = [own, 'tokenizer'].find((one) => bundle.has(`${one}/tokenizer.json`));
  if (folder === undefined) throw new Failure('the bundle has no tokenizer/tokenizer.json, which this app needs');
  const optional = (name) => (bundle.has(`${folder}/${name}`) ? bundle.json(`${folder}/${name}`) : {});
  const config = await optional('tokenizer_config.json');
  const { Tokenizer } = await vendored('@huggingface/tokenizers', 'tokenizers.min.mjs');
  let tokenizer;
  try {
    tokenizer = new Tokenizer(await bundle.json(`${folder}/tokenizer.json`), config);
  } catch (error) {
    throw new Failure(`${folder}/tokenizer.json: not a readable tokenizer (${lineOf(error)})`);
  }
  const named = { ...(await optional('special_tokens_map.json')), ...config };
  const ends = new Set(bundle.manifest.generation.eos_token_ids);
  for (const name of ['generation_config.json', 'config.json']) {
    const listed = [(await optional(name)).eos_token_id].flat().filter(Number.isInteger);
    listed.forEach((id) => ends.add(id));
    if (listed.length > 0) break;
  }
  const file = `${folder}/chat_template.jinja`;
  const template = bundle.manifest.chat_template ?? (bundle.has(file) ? await bundle.text(file) : config.chat_template);
  const { Template } = await vendored('@huggingface/jinja', 'index.js');
  return new PromptTokenizer(tokenizer, Template, {
    template: typeof template === 'string' ? template : null,
    bos: textOf(named.bos_token),
    eos: textOf(named.eos_token),
    ends,
  });
}

// A special token's text, also of one that is written out as an object.
function textOf(token) {
  const text = token?.content ?? token;
  return typeof text === 'string' ? text : null;
}

/** Encodes prompts and decodes answers; `ends` are the token ids that end an answer. */
export class PromptTokenizer {
  constructor(tokenizer, Template, { template, bos, eos, ends }) {
    this.tokenizer = tokenizer;
    this.template = template;
    this.names = { ...(bos !== null && { bos_token: bos }), ...(eos !== null && { eos_token: eos }) };
    this.ends = ends;
    const end = eos === null ? undefined : tokenizer.token_to_id(eos);
    if (end !== undefined) ends.add(end);
    this.compiled = template === null ? null : compile(Template, template);
  }

  encode(text, special = true) {
    return Array.from(this.tokenizer.encode(text, { add_special_tokens: special }).ids, Number);
  }

  decode(ids, skipSpecial = true) {
    return ids.length === 0 ? '' : this.tokenizer.decode(ids, { skip_special_tokens: skipSpecial });
  }

  /** The text of a prompt and whether special tokens (BOS) go around it: a chat template writes its own. */
  render(prompt) {
    if (typeof prompt === 'string') return { text: prompt, special: true };
    if (this.compiled === null) {
      return { text: prompt.map((message) => `${message.content}\n`).join(''), special: true };
    }
    const values = { ...this.names, tools: null, documents: null, messages: prompt, add_generation_prompt: true };
    try {
      return { text: this.compiled.render(values), special: false };
    } catch (error) {
      throw new Failure(`the chat template refuses these messages: ${lineOf(error)}`);
    }
  }

  /** The token ids of a prompt: a text, or messages for the chat template. */
  promptIds(prompt) {
    const { text, special } = this.render(prompt);
    return this.encode(text, special);
  }

  /** A prompt as a text in which its special tokens are written out, for an engine that adds none of its own. */
  promptText(prompt) {
    const { text, special } = this.render(prompt);
    if (!special) return text;
    const plain = this.encode(text, false);
    const whole = this.encode(text, true);
    return this.decode(whole.slice(0, whole.length - plain.length), false) + text;
  }
}

// jinja's `generation` block marks what the assistant wrote, for training; its content is rendered as it is.
function compile(Template, source) {
  const plain = source.replace(/(\{%[-+]?\s*)generation(\s*[-+]?%\})/g, '$1if true$2');
  try {
    return new Template(plain.replace(/(\{%[-+]?\s*)endgeneration(\s*[-+]?%\})/g, '$1endif$2'));
  } catch (error) {
    throw new Failure(`the chat template is not readable: ${lineOf(error)}`);
  }
}

/** Decodes token by token; a piece never ends inside a character: what isn't whole waits for the next token. */
export class StreamDecoder {
  constructor(tokenizer) {
    this.tokenizer = tokenizer;
    this.ids = [];
    this.settled = 0;
    this.shown = '';
  }

  push(id) {
    this.ids.push(id);
    const text = this.tokenizer.decode(this.ids);
    if (text.endsWith(REPLACEMENT) || text.length <= this.shown.length) return '';
    const piece = text.slice(this.shown.length);
    // The last settled tokens stay in the window: some decoders treat the first one differently.
    this.ids = this.ids.slice(this.settled);
    this.settled = this.ids.length;
    this.shown = this.tokenizer.decode(this.ids);
    return piece;
  }

  finish() {
    return this.tokenizer.decode(this.ids).slice(this.shown.length);
  }
}

/** Cuts an answer at the first of some texts; what may begin one is held back until it is known. */
export class StopTexts {
  constructor(texts) {
    this.texts = texts.filter((text) => text !== '');
    this.held = '';
    this.found = false;
  }

  push(piece) {
    if (this.found) return '';
    this.held += piece;
    const places = this.texts.map((text) => this.held.indexOf(text)).filter((at) => at >= 0);
    if (places.length > 0) {
      this.found = true;
      return this.held.slice(0, Math.min(...places));
    }
    const kept = Math.max(0, ...this.texts.map((text) => overlap(this.held, text)));
    const shown = this.held.slice(0, this.held.length - kept);
    this.held = this.held.slice(this.held.length - kept);
    return shown;
  }

  finish() {
    return this.found ? '' : this.held;
  }
}

// How many characters at the end of `text` are a beginning of `stop`.
function overlap(text, stop) {
  for (let count = Math.min(text.length, stop.length - 1); count > 0; count -= 1) {
    if (text.endsWith(stop.slice(0, count))) return count;
  }
  return 0;
}
