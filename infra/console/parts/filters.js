// What is typed to narrow a list: words that may follow, and what they mean.

import { RANGES } from "../lib/format.js";

const uniqueSorted = (values) => [...new Set(values)].sort();

/** What may follow what is typed: names of filters, then the values of one. */
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

/** A filter as it was typed, by the name that the list has for it; throws what must be. */
export function parseFilter(given, names, rangeStart) {
  const [word, ...rest] = given.split(":");
  const value = rest.join(":").trim();
  if (!names[word] || !value) throw new Error("Write what and its value, as type:invoices.send");
  if (word === "payload" && JSON.parse(value)?.constructor !== Object)
    throw new Error("payload takes a JSON object of fields and values");
  if (word === "since" && Number.isNaN(Date.parse(rangeStart(value))))
    throw new Error("since takes 15m, 1h, 6h, 24h, 7d, 30d or a time");
  return { [names[word]]: value };
}
