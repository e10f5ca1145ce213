// Putting together what comes in pieces: a text that is being written, and pages of messages.

/** @import { Said } from "./data.js" */
/** @typedef {{from: number, text: string}} Written A text from a code point on. */

/**
 * A text that is being written, from the pieces in its job's progress: stage `text:<n>`, the
 * message from the n-th character (code point) on. Pieces overlap, so that some may be missed.
 *
 * @param {Written} known What was joined so far.
 * @param {{stage?: string | null, message?: string | null} | null} progress
 * @returns {Written}
 */
export function joined(known, progress) {
  const place = /^text:(\d+)$/.exec(progress?.stage ?? "")?.[1];
  // another stage is another attempt's: what the one before it wrote is lost
  if (place === undefined || !progress)
    return progress?.stage && !progress.stage.startsWith("text:") ? { from: 0, text: "" } : known;
  const from = Number(place);
  const points = [...known.text];
  const isBeyond = from < known.from || from > known.from + points.length;
  if (points.length === 0 || isBeyond) return { from, text: progress.message ?? "" };
  return {
    from: known.from,
    text: points.slice(0, from - known.from).join("") + (progress.message ?? ""),
  };
}

/** Messages of several reads, each once and in order. */
export function merged(/** @type {Said[][]} */ ...pages) {
  const bySeq = new Map(pages.flat().map((message) => [message.seq, message]));
  return [...bySeq.values()].sort((a, b) => a.seq - b.seq);
}
