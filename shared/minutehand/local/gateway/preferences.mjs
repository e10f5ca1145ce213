// The Prefer header, and what of it is said to be applied.

import { Refusal } from "./errors.mjs";

const KNOWN = {
  resolution: ["merge-duplicates", "ignore-duplicates"],
  missing: ["default", "null"],
  return: ["representation", "minimal", "headers-only"],
  count: ["exact", "planned", "estimated"],
  handling: ["strict", "lenient"],
};
// in PostgREST's order; which answers say that they applied it
const SAID = {
  resolution: ["insert"],
  missing: ["insert", "update"],
  return: ["insert", "update", "delete"],
  count: null,
  handling: null,
  timezone: null,
};

// The first known value of each preference; whether Postgres knows a time zone is said later.
export function preferencesOf(header) {
  const prefers = { unknown: [] };
  for (const given of (header ?? "").split(",").map((one) => one.trim())) {
    const [, name, value] = /^([\w-]+)=(.*)$/.exec(given) ?? [];
    if (KNOWN[name]?.includes(value) || name === "timezone") prefers[name] ??= value;
    else if (name === "max-affected") prefers.most ??= /^\d+$/.test(value) ? value : undefined;
    else if (given) prefers.unknown.push(given);
  }
  return prefers;
}

// Refuse what is not known where that is asked for, and forget it elsewhere.
export function checkPreferences(prefers, timezones) {
  if (prefers.timezone && !timezones.includes(prefers.timezone)) {
    prefers.unknown.push(`timezone=${prefers.timezone}`);
    delete prefers.timezone;
  }
  if (prefers.handling !== "strict" || prefers.unknown.length === 0) return;
  throw new Refusal(400, {
    code: "PGRST122",
    message: "Invalid preferences given with handling=strict",
    details: `Invalid preferences: ${prefers.unknown.join(", ")}`,
  });
}

export function appliedPreferences(prefers, kind) {
  const said = Object.entries(SAID)
    .filter(([name, kinds]) => prefers[name] && (kinds?.includes(kind) ?? true))
    .map(([name]) => `${name}=${prefers[name]}`);
  const limits = prefers.most && prefers.handling === "strict";
  if (limits && ["update", "delete", "call"].includes(kind))
    said.push(`max-affected=${prefers.most}`);
  return said.join(", ");
}
