// Exports the modules that a watch loads on demand, because it needs them only after its first
// read.

export { Outage } from "./outage.js";
export { applyEvent, needsRow, normalizeEvent, Sequence } from "./sequence.js";
export { Socket } from "./socket.js";
