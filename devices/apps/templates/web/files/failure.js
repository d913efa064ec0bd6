// What goes wrong in a way that a person can do something about: its message is one line, shown as it is.
export class Failure extends Error {
  constructor(message) {
    super(message);
    this.name = 'Failure';
  }
}

export class Cancelled extends Error {
  constructor() {
    super('cancelled');
    this.name = 'Cancelled';
  }
}

/** Throws Cancelled once the signal was given. */
export function checkCancelled(signal) {
  if (signal.aborted) throw new Cancelled();
}

/** One line that says what an error was. */
export function lineOf(error) {
  const text = String(error?.message || error || 'unknown error');
  return text.split('\n')[0].slice(0, 400);
}

const channel = new MessageChannel();
const waiting = [];
channel.port1.onmessage = () => waiting.shift()();

/** Lets messages of the page in (a cancellation); unlike a timer of 0 ms it isn't slowed down to 4 ms. */
export function nextTurn() {
  return new Promise((resolve) => {
    waiting.push(resolve);
    channel.port2.postMessage(null);
  });
}
