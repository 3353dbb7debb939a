'use strict';
// Loaded before the application by `--require`. It must fail in no process, so nothing here is newer than Node.js 8,
// the first that knows NODE_OPTIONS, and an agent that can't start leaves the application as it is.
const SIGNAL = 'SIGTERM';
const LONGEST_FLUSH_MS = 1000;

const version = process.versions.node.split('.').map(Number);
const major = version[0];
const minor = version[1];
// `engines` of @opentelemetry/auto-instrumentations-node
if (major > 20 || (major === 20 && minor >= 6) || (major === 18 && minor >= 19)) {
  const before = process.listeners(SIGNAL);
  try {
    require('@opentelemetry/auto-instrumentations-node/register');
  } catch (error) {
    // The reason is in OpenTelemetry's own log, with OTEL_LOG_LEVEL=debug.
  }
  letTheSignalEnd(process.listeners(SIGNAL).filter(listener => !before.includes(listener)));
}

// The agent listens to SIGTERM to send what it has left. A process with a listener is no longer ended by the signal, so
// an application without one of its own would run on until it is killed.
function letTheSignalEnd(listeners) {
  if (!listeners.length) return;
  listeners.forEach(listener => process.removeListener(SIGNAL, listener));
  process.once(SIGNAL, () => {
    const isHandled = process.listenerCount(SIGNAL) > 0;
    const end = () => process.kill(process.pid, SIGNAL);
    const sent = Promise.all(listeners.map(listener => listener(SIGNAL))).catch(() => {});
    if (isHandled) return;
    setTimeout(end, LONGEST_FLUSH_MS);
    sent.then(end);
  });
}
