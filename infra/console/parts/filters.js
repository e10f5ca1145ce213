// Suggestions for typed filters, and their values.

import { RANGES } from "../lib/format.js";

const uniqueSorted = (values) => [...new Set(values)].sort();

/** Suggest filter names, or the values of the typed filter. */
export function choicesOf(text, names, known, rows) {
  const [word] = text.split(":");
  const values = {
    type: () => known.map((type) => type.job_type),
    queue: () => uniqueSorted(known.map((type) => type.queue)),
    tag: () => uniqueSorted(rows.flatMap((row) => row.tags ?? [])),
    since: () => Object.keys(RANGES),
  };
  if (!text.includes(":")) return Object.keys(names).map((name) => `${name}:`);
  return values[word]?.().map((value) => `${word}:${value}`) ?? [];
}

/** Parse a typed filter to its field and value. Throws a message for the person. */
export function parseFilter(text, names, rangeStart) {
  const [word, ...rest] = text.split(":");
  const value = rest.join(":").trim();
  if (!names[word] || !value)
    throw new Error("A filter must be a name and a value, e.g. type:invoices.send");
  if (word === "payload" && JSON.parse(value)?.constructor !== Object)
    throw new Error("payload must be a JSON object of fields and values");
  if (word === "since" && Number.isNaN(Date.parse(rangeStart(value))))
    throw new Error("since must be 15m, 1h, 6h, 24h, 7d, 30d or a time");
  return { [names[word]]: value };
}
