// Verifying a bundle in the browser: signatures by WebCrypto, digests and links by hand. No page.

const utf8 = new TextEncoder();
const AHEAD_SECONDS = 3600; // how far ahead of this clock a receipt may say it was signed

/** Canonical JSON (RFC 8785): ECMAScript's own way to write numbers and texts, keys sorted. */
export function canonical(value) {
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  return `{${Object.keys(value)
    .sort()
    .map((key) => `${JSON.stringify(key)}:${canonical(value[key])}`)
    .join(",")}}`;
}

function bytesOf(base64url) {
  const text = atob(base64url.replaceAll("-", "+").replaceAll("_", "/"));
  return Uint8Array.from(text, (sign) => sign.charCodeAt(0));
}

const base64url = (bytes) =>
  btoa(String.fromCharCode(...bytes))
    .replaceAll("+", "-")
    .replaceAll("/", "_")
    .replaceAll("=", "");

async function sha256(text) {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", utf8.encode(text)));
}

/** `sha256:<hex>` of a text. */
export const digest = async (text) =>
  `sha256:${[...(await sha256(text))].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;

async function keysById(jwks) {
  const found = new Map();
  for (const { kty, crv, x, kid, nbf, exp } of jwks.keys) {
    if (kty !== "OKP" || crv !== "Ed25519") continue;
    const thumbprint = base64url(await sha256(canonical({ crv, kty, x })));
    if (thumbprint !== kid) throw new Error(`the key ${kid} is not the one its id says`);
    if (found.has(kid)) throw new Error(`the key ${kid} occurs twice in the set`);
    const key = await crypto.subtle.importKey("jwk", { kty, crv, x }, { name: "Ed25519" }, false, [
      "verify",
    ]);
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

async function checkReceipt(receipt, jobspec, keys) {
  const { signature, ...signed } = receipt;
  const subject = `receipt ${receipt.number}`;
  const checks = [];
  const skip = (check, detail) => checks.push({ subject, check, state: "not_made", detail });
  const note = (check, holds, detail, problem) =>
    checks.push({
      subject,
      check,
      state: holds ? "passed" : "failed",
      detail: holds ? detail : problem,
    });
  note(
    "form",
    receipt.format === "minutehand-beacon-receipt/1",
    receipt.format,
    "it is not a receipt",
  );
  const known = keys.get(receipt.key_id);
  const verified =
    known &&
    (await crypto.subtle.verify(
      { name: "Ed25519" },
      known.key,
      bytesOf(signature),
      utf8.encode(canonical(signed)),
    ));
  note(
    "signature",
    Boolean(verified),
    `by key ${receipt.key_id}`,
    known ? "the signature does not verify" : "the key is not among the published ones",
  );
  if (verified) {
    const at = Date.parse(receipt.issued_at) / 1000;
    const problem =
      at > Date.now() / 1000 + AHEAD_SECONDS
        ? "the receipt says it was signed in the future, by the clock here"
        : at < (known.nbf ?? 0)
          ? "the key was not yet valid when the receipt says it was signed"
          : at <= (known.exp ?? at)
            ? null
            : "the key was no longer valid when the receipt says it was signed";
    note("key", problem === null, "valid when it was signed", problem);
  }
  note(
    "output",
    (await digest(canonical(receipt.output))) === receipt.hashes.output,
    `${receipt.output.data.responses.length} answers`,
    "the output is not the one signed for",
  );
  if (!jobspec) skip("jobspec", "the job spec is not in the bundle");
  else
    note(
      "jobspec",
      (await digest(canonical(jobspec))) === receipt.hashes.jobspec,
      "",
      "the job spec is not the one signed for",
    );
  return { subject, receipt, digest: await digest(canonical(receipt)), checks };
}

/**
 * Verify a bundle by a key set: `{verdict, checks: [{subject, check, state, detail}]}`, as the API
 * and the command line report it. What is malformed throws.
 */
export async function verify(bundle, jwks) {
  const keys = await keysById(jwks);
  const read = [];
  for (const receipt of bundle.receipts)
    read.push(await checkReceipt(receipt, bundle.jobspec, keys));
  const checks = read.flatMap((one) => one.checks);
  const byNumber = new Map(read.map((one) => [one.receipt.number, one]));
  for (const { subject, receipt } of read) {
    const before = byNumber.get(receipt.number - 1);
    const { previous } = receipt.hashes;
    if (receipt.number === 1)
      checks.push({
        subject,
        check: "chain",
        state: previous === null ? "passed" : "failed",
        detail: "the chain begins here",
      });
    else if (!before)
      checks.push({
        subject,
        check: "chain",
        state: "not_made",
        detail: `receipt ${receipt.number - 1} is not in the bundle`,
      });
    else
      checks.push({
        subject,
        check: "chain",
        state: before.digest === previous ? "passed" : "failed",
        detail: `after receipt ${receipt.number - 1}`,
      });
  }
  // the receipt before the bundle's first one is another job's
  const whole = checks.every(({ state, check }) => state !== "not_made" || check === "chain");
  return {
    verdict: checks.some(({ state }) => state === "failed")
      ? "failed"
      : whole
        ? "passed"
        : "not_made",
    checks,
  };
}
