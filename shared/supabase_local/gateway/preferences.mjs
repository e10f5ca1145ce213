// The Prefer header, and the preferences that a response reports as applied.

import { Refusal } from "./errors.mjs";

const KNOWN = {
  resolution: ["merge-duplicates", "ignore-duplicates"],
  return: ["representation", "minimal", "headers-only"],
  count: ["exact", "planned", "estimated"],
  tx: ["commit", "rollback"],
  missing: ["default", "null"],
  handling: ["strict", "lenient"],
};
const ACCEPTED = Object.entries(KNOWN).flatMap(([name, values]) =>
  values.map((value) => `${name}=${value}`),
);
// In PostgREST's order, with the responses that report each. `tx` never applies, because hosted
// projects do not let a caller roll back (`db-tx-end`).
const REPORTED = {
  resolution: ["insert"],
  missing: ["insert", "update"],
  return: ["insert", "upsert", "update", "delete"],
  count: null,
  handling: null,
  timezone: null,
};

// Return the first known value of each preference. Postgres rejects an unknown time zone.
export function preferencesOf(header) {
  const given = header ? header.split(",").map((one) => one.trim()) : [];
  const valueOf = (name) => given.find((one) => one.startsWith(`${name}=`))?.slice(name.length + 1);
  const prefers = {};
  for (const one of given.filter((each) => ACCEPTED.includes(each))) {
    const [name, value] = one.split("=");
    prefers[name] ??= value;
  }
  prefers.timezone = valueOf("timezone");
  const most = valueOf("max-affected");
  if (/^\s*-?\d+\s*$/.test(most ?? "")) prefers.most = Number(most);
  const isKnown = (one) =>
    ACCEPTED.includes(one) || one.startsWith("max-affected=") || one.startsWith("timezone=");
  return { ...prefers, unknown: given.filter((one) => !isKnown(one)) };
}

// Reject unknown preferences if `handling=strict`.
export function checkPreferences({ handling, unknown }) {
  if (handling !== "strict" || unknown.length === 0) return;
  throw new Refusal(400, {
    code: "PGRST122",
    message: "Invalid preferences given with handling=strict",
    details: `Invalid preferences: ${unknown.join(", ")}`,
  });
}

export const limitsAffected = ({ most, handling }) => most !== undefined && handling === "strict";

export function appliedPreferences(prefers, kind, hasKey) {
  const said = Object.entries(REPORTED)
    .filter(([name, kinds]) => prefers[name] && (kinds?.includes(kind) ?? true))
    .filter(([name]) => name !== "resolution" || hasKey)
    .map(([name]) => `${name}=${prefers[name]}`);
  if (limitsAffected(prefers) && ["update", "delete", "call"].includes(kind))
    said.push(`max-affected=${prefers.most}`);
  return said.join(", ");
}
