// Modules that a watch needs only after its first read, and therefore loads on demand.

export { Outage } from "./outage.js";
export { applyEvent, needsRow, normalizeEvent, Sequence } from "./sequence.js";
export { Socket } from "./socket.js";
