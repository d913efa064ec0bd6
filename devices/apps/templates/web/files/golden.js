// What both engines hold a golden answer to.
import { Failure } from './failure.js';

/** How far a token may lie below the likeliest, of the largest logit's height: as in edgestill's own self-test. */
export const MOST_GAP = 0.05;

export const share = (gap) => (Number.isFinite(gap) ? gap.toFixed(3) : 'far more than 1');

export function differs(where, at, how) {
  return new Failure(`${where}: the answer differs at token ${at}: ${how}`);
}

/** What must hold of a golden answer before anything is computed: known tokens, and ends where this engine ends. */
export function checkAnswer(engine, where, promptIds, answer, maxNewTokens) {
  const known = (id) => Number.isInteger(id) && id >= 0 && id < engine.vocabulary;
  if (promptIds.length === 0 || ![...promptIds, ...answer].every(known)) {
    throw new Failure(`${where} has tokens that the model hasn't`);
  }
  const limit = Math.min(maxNewTokens, engine.contextLength - promptIds.length + 1);
  if (answer.length > limit) throw differs(where, limit, 'here it ends by its length');
  answer.forEach((id, at) => {
    const last = at === answer.length - 1;
    if (engine.ends.has(id) && !last) throw differs(where, at, `${id} ends an answer here`);
    if (!engine.ends.has(id) && last && answer.length < limit) {
      throw differs(where, at, `${id} doesn't end an answer here`);
    }
  });
}

/** Replays golden answers one after the other, `told(done, all)` meanwhile; returns the self-test's document. */
export async function replayAll(engine, artifact, goldens, signal, told = () => {}) {
  const found = { schema: 'edgestill.selftest/1', artifact: artifact.name, prompts: 0, tokens: 0, close_tokens: 0 };
  found.largest_gap = 0;
  for (const golden of goldens) {
    const { tokens, close, largest } = await engine.replay(golden, signal);
    found.prompts += 1;
    found.tokens += tokens;
    found.close_tokens += close;
    found.largest_gap = Math.max(found.largest_gap, largest);
    told(found.prompts, goldens.length);
  }
  return found;
}
