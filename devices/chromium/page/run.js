// The page of one job: window.edgestillRun(job) runs it in a worker that ends with the page. Meanwhile the driver's
// edgestillTell gets what the job says.

/** Resolves to {document}, {answer} or {error}. */
window.edgestillRun = (job) =>
  new Promise((resolve) => {
    const worker = new Worker('run-worker.js', { type: 'module', name: `edgestill ${job.command}` });
    worker.onmessage = ({ data }) => {
      if (data.text !== undefined) window.edgestillTell(data.text);
      else resolve(data);
    };
    worker.onerror = (event) => {
      event.preventDefault();
      resolve({ error: `the worker can't start: ${event.message || 'a file of the page is missing'}` });
    };
    worker.postMessage(job);
  });
