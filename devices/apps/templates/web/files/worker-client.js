// The page's side of the worker: calls that return promises, and a worker that is there only while it is wanted.
import { Cancelled, Failure } from './failure.js';

export class WorkerClient {
  /** `threads` is how many the engines may have; null: half of the processors, at most 4. */
  constructor(threads = null) {
    this.worker = null;
    this.calls = new Map();
    this.next = 1;
    this.cancels = 0;
    this.threads = threads;
  }

  get busy() {
    return this.calls.size > 0;
  }

  /** Starts the worker if there is none, and opens the bundle in it; returns what the bundle is. */
  open() {
    if (this.worker === null) {
      this.worker = new Worker('worker.js', { type: 'module', name: 'engine' });
      this.worker.onmessage = ({ data }) => this.receive(data);
      this.worker.onerror = (event) => {
        event.preventDefault();
        this.terminate(new Failure(`the worker can't start: ${event.message || 'a file of the page is missing'}`));
      };
      this.opened = this.send('open', { threads: this.threads });
    }
    return this.opened;
  }

  /** Runs a verb of worker.js; `onEvent` gets what it tells meanwhile. Throws Failure or Cancelled. */
  async call(verb, values, onEvent = () => {}) {
    const { cancels } = this;
    await this.open();
    if (cancels !== this.cancels) throw new Cancelled();
    return this.send(verb, values, onEvent);
  }

  send(verb, values, onEvent = () => {}) {
    const id = this.next;
    this.next += 1;
    return new Promise((resolve, reject) => {
      this.calls.set(id, { resolve, reject, onEvent });
      this.worker.postMessage({ id, verb, values });
    });
  }

  receive({ id, event, result, error }) {
    const call = this.calls.get(id);
    if (call === undefined) return;
    if (event !== undefined) {
      call.onEvent(event);
      return;
    }
    this.calls.delete(id);
    if (error === undefined) call.resolve(result);
    else call.reject(error.name === 'Cancelled' ? new Cancelled() : new Failure(error.message));
  }

  /** Ends the verb under way after the token, or the piece of the prompt, that is being computed. */
  cancel() {
    this.cancels += 1;
    this.worker?.postMessage({ verb: 'cancel' });
  }

  /** Ends the worker, and with it all memory that the model takes. */
  terminate(reason = new Cancelled()) {
    this.worker?.terminate();
    this.worker = null;
    const calls = [...this.calls.values()];
    this.calls.clear();
    calls.forEach((call) => call.reject(reason));
  }
}
