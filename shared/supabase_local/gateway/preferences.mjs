// The Prefer header, and the list of preferences that a response reports as applied.

import { leftOut } from "./errors.mjs";

const KNOWN = {
  resolution: ["merge-duplicates", "ignore-duplicates"],
  return: ["representation", "minimal"],
  missing: ["null"],
  count: ["exact"],
  handling: ["lenient"],
};
const LEFT_OUT = [
  "count=planned",
  "count=estimated",
  "handling=strict",
  "missing=default",
  "return=headers-only",
];
// Preferences in PostgREST's order, each with the kinds of requests whose responses report the
// preference. The preference `tx` never applies, because hosted projects do not let a caller roll
// back (`db-tx-end`).
const REPORTED = {
  resolution: ["insert"],
  missing: ["insert", "update"],
  return: ["insert", "update", "delete"],
  count: null,
  handling: null,
};

// Return the first value of each known preference. Others are ignored.
export function preferencesOf(header) {
  const prefers = {};
  for (const one of (header ?? "").split(",").map((each) => each.trim())) {
    if (LEFT_OUT.includes(one) || one.startsWith("timezone=")) throw leftOut(`Prefer: ${one}`);
    const [name, value] = one.split(/=(.*)/s);
    if (Object.hasOwn(KNOWN, name) && KNOWN[name].includes(value)) prefers[name] ??= value;
  }
  return prefers;
}

export function appliedPreferences(prefers, kind, hasKey) {
  return Object.entries(REPORTED)
    .filter(([name, kinds]) => prefers[name] && (kinds?.includes(kind) ?? true))
    .filter(([name]) => name !== "resolution" || hasKey)
    .map(([name]) => `${name}=${prefers[name]}`)
    .join(", ");
}
