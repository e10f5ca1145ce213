// Verifying a bundle in the browser: signatures by WebCrypto, digests and links by hand. No page.

const utf8 = new TextEncoder();
const AHEAD_SECONDS = 3600; // how far ahead of this clock a receipt may say it was signed

/** Canonical JSON (RFC 8785): ECMAScript's own way to write numbers and texts, keys sorted. */
export function canonical(value) {
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  return `{${Object.keys(value).sort().map((key) => `${JSON.stringify(key)}:${canonical(value[key])}`).join(",")}}`;
}

function bytesOf(base64url) {
  const text = atob(base64url.replaceAll("-", "+").replaceAll("_", "/"));
  return Uint8Array.from(text, (sign) => sign.charCodeAt(0));
}

const base64url = (bytes) => btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");

async function sha256(text) {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", utf8.encode(text)));
}

/** `sha256:<hex>` of a text. */
export const digest = async (text) => `sha256:${[...(await sha256(text))].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;

/** A receipt's payload; nothing is verified. */
export const payloadOf = (jws) => JSON.parse(new TextDecoder().decode(bytesOf(jws.split(".")[1])));

async function keysById(jwks) {
  const found = new Map();
  for (const { kty, crv, x, kid, nbf, exp } of jwks.keys) {
    if (kty !== "OKP" || crv !== "Ed25519") continue;
    const thumbprint = base64url(await sha256(canonical({ crv, kty, x })));
    if (thumbprint !== kid) throw new Error(`the key ${kid} is not the one its id says`);
    if (found.has(kid)) throw new Error(`the key ${kid} stands twice in the set`);
    const key = await crypto.subtle.importKey("jwk", { kty, crv, x }, { name: "Ed25519" }, false, ["verify"]);
    found.set(kid, { key, nbf, exp });
  }
  return found;
}

/** Whether this browser can: it needs a secure context, and Ed25519. */
export async function isAble() {
  try {
    await crypto.subtle.generateKey({ name: "Ed25519" }, false, ["sign", "verify"]);
    return true;
  } catch {
    return false; // older, or a page over plain http
  }
}

async function checkReceipt({ jws, samples }, spec, keys) {
  const parts = jws.split(".");
  const header = JSON.parse(new TextDecoder().decode(bytesOf(parts[0])));
  const payload = payloadOf(jws);
  const subject = `receipt ${payload.number}`;
  const checks = [];
  const skip = (check, detail) => checks.push({ subject, check, state: "not_made", detail });
  const note = (check, holds, detail, problem) => checks.push({ subject, check, state: holds ? "passed" : "failed", detail: holds ? detail : problem });
  const spelt = parts.length === 3 && parts.every((part) => base64url(bytesOf(part)) === part) && canonical(payload) === new TextDecoder().decode(bytesOf(parts[1]));
  note("form", spelt && header.alg === "EdDSA", "compact JWS, EdDSA, canonical JSON", "it is no receipt's text");
  const known = keys.get(header.kid);
  const signed = known && (await crypto.subtle.verify({ name: "Ed25519" }, known.key, bytesOf(parts[2]), utf8.encode(`${parts[0]}.${parts[1]}`)));
  note("signature", Boolean(signed), `by key ${header.kid}`, known ? "the signature does not verify" : "the key is not among the published ones");
  if (known) {
    const at = Date.parse(payload.issued_at) / 1000;
    const problem = at > Date.now() / 1000 + AHEAD_SECONDS ? "the receipt says it was signed in the future, by the clock here"
      : at < (known.nbf ?? 0) ? "the key was not yet valid when the receipt says it was signed"
        : at <= (known.exp ?? at) ? null : "the key was no longer valid when the receipt says it was signed";
    note("key", problem === null, "valid when it was signed", problem);
  }
  if (!spec) skip("spec", "the spec is not in the bundle");
  else note("spec", (await digest(canonical(spec))) === payload.spec_digest, "", "the spec is not the one signed for");
  if (payload.samples && !samples) skip("samples", "the samples are not in the bundle");
  else if (payload.samples) note("samples", (await digest(canonical(samples))) === payload.samples.digest, `${payload.samples.count} samples`, "the samples are not the ones signed for");
  return { subject, payload, digest: await digest(jws), checks };
}

/**
 * Verify a bundle by a key set: `{verdict, checks: [{subject, check, state, detail}]}`, as the API
 * and the command line tell it. What is malformed throws.
 */
export async function verify(bundle, jwks) {
  const keys = await keysById(jwks);
  const read = [];
  for (const receipt of bundle.receipts) read.push(await checkReceipt(receipt, bundle.spec, keys));
  const checks = read.flatMap((one) => one.checks);
  const byNumber = new Map(read.map((one) => [one.payload.number, one]));
  for (const { subject, payload } of read) {
    const before = byNumber.get(payload.number - 1);
    if (payload.number === 1) checks.push({ subject, check: "chain", state: payload.previous === null ? "passed" : "failed", detail: "the chain begins here" });
    else if (!before) checks.push({ subject, check: "chain", state: "not_made", detail: `receipt ${payload.number - 1} is not in the bundle` });
    else checks.push({ subject, check: "chain", state: before.digest === payload.previous ? "passed" : "failed", detail: `after receipt ${payload.number - 1}` });
    if (payload.type !== "beacon.run/1") continue;
    const named = new Map(payload.regions.filter((region) => region.receipt).map((region) => [region.receipt, region.region]));
    const here = read.filter((one) => one.payload.region_requested && one.payload.run_id === payload.run_id);
    const fits = here.every((one) => named.get(one.digest) === one.payload.region_requested);
    const missing = named.size - here.length;
    if (fits && missing > 0) checks.push({ subject, check: "run", state: "not_made", detail: `${missing} receipts it names are not in the bundle` });
    else checks.push({ subject, check: "run", state: fits ? "passed" : "failed", detail: fits ? "names the receipts of its regions" : "a receipt here is not the one it names" });
  }
  const told = new Set(read.filter(({ payload }) => payload.type === "beacon.run/1").map(({ payload }) => payload.run_id));
  for (const run of new Set(read.map(({ payload }) => payload.run_id)))
    if (!told.has(run)) checks.push({ subject: `run ${run}`, check: "run", state: "not_made", detail: "the run's own receipt is not in the bundle" });
  // the receipt before the bundle's first one is another run's
  const whole = checks.every(({ state, check }) => state !== "not_made" || check === "chain");
  return { verdict: checks.some(({ state }) => state === "failed") ? "failed" : whole ? "passed" : "not_made", checks };
}
