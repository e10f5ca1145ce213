// Media types: parsing of Accept headers, and response formats.

const VENDOR = /^vnd\.pgrst\.(plan|object|array)(?:\+(json|text))?$/;
const KNOWN = {
  "application/json": "json",
  "text/csv": "csv",
  "application/geo+json": "geojson",
  "application/openapi+json": "openapi",
  "application/x-www-form-urlencoded": "form",
  "text/plain": "text",
  "text/xml": "xml",
  "application/octet-stream": "bytes",
  "*/*": "any",
};
const NAMES = Object.fromEntries(Object.entries(KNOWN).map(([name, kind]) => [kind, name]));
const WITHOUT_CHARSET = ["bytes", "other"];

// Parse an Accept header, ordered by preference and then by specificity.
export function acceptedOf(header) {
  const asked = (header ?? "*/*").split(",").map((text) => {
    const [type, ...rest] = text.replaceAll(" ", "").split(";q=");
    const quality = rest.length > 0 ? Number.parseFloat(rest.join(";q=")) : 1;
    const exact = (type.match(/;/g) ?? []).length - (type.match(/\*/g) ?? []).length;
    return { type, quality: Number.isNaN(quality) ? 1 : quality, exact };
  });
  asked.sort((one, other) => other.quality - one.quality || other.exact - one.exact);
  return asked.map(({ type }) => mediaOf(type));
}

export function mediaOf(text) {
  const [, main, sub, rest] = /^([\p{L}\d.*]+)\/([\p{L}\d.*+-]+)(.*)$/su.exec(text) ?? [];
  const type = `${main}/${sub}`.toLowerCase();
  const vendor = main?.toLowerCase() === "application" && VENDOR.exec(sub.toLowerCase());
  if (vendor) return vendorOf(vendor, parametersOf(rest), text);
  return Object.hasOwn(KNOWN, type) ? { kind: KNOWN[type] } : { kind: "other", text };
}

function vendorOf([, kind, form], parameters, text) {
  const strips = parameters.get("nulls") === "stripped";
  if (kind === "plan") return { kind };
  if (form === "text") return { kind: "other", text };
  if (kind === "object") return { kind, strips };
  return strips ? { kind: "array", strips } : { kind: "json" };
}

function parametersOf(rest) {
  const pairs = rest.matchAll(/\s*;\s*([\w-]+)\s*=\s*(?:"([^"]*)"|([\w|-]+))/gy);
  return new Map(
    [...pairs].map(([, name, quoted, plain]) => [name.toLowerCase(), quoted ?? plain]),
  );
}

export function nameOf(media) {
  const { kind } = media;
  if (kind === "other") return media.text;
  const stripped = media.strips ? ";nulls=stripped" : "";
  return NAMES[kind] ?? `application/vnd.pgrst.${kind}+json${stripped}`;
}

export const contentTypeOf = (media) =>
  nameOf(media) + (WITHOUT_CHARSET.includes(media.kind) ? "" : "; charset=utf-8");
