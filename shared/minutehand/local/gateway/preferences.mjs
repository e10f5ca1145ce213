// The Prefer header, and what of it is said to be applied.

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
  return: ["insert", "update", "put", "delete"],
  count: null,
  handling: null,
};

// The first known value of each preference.
export function preferencesOf(header) {
  const prefers = {};
  for (const given of (header ?? "").split(",")) {
    const [, name, value] = /^\s*([\w-]+)=(.*?)\s*$/.exec(given) ?? [];
    if (KNOWN[name]?.includes(value)) prefers[name] ??= value;
    if (name === "max-affected" && /^\d+$/.test(value)) prefers.most ??= value;
  }
  return prefers;
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
