// Verifying a bundle in the browser: signatures by WebCrypto, digests and links in plain code. No page.

/** @import { Json } from "../../lib/jobs/types.js" */
/** @import { Bundle, CheckMade, KeySet, Receipt, Submission, Verification } from "./routes.js" */
/** @typedef {{key: CryptoKey, nbf?: number, exp?: number}} Key `nbf` and `exp`, if any, in seconds. */
/** @typedef {{subject: string, receipt: Receipt, digest: string, checks: CheckMade[]}} ReadReceipt */

const utf8 = new TextEncoder();
const AHEAD_SECONDS = 3600; // how far ahead of this clock a receipt may say it was signed

/**
 * Canonical JSON (RFC 8785): ECMAScript's own way to write numbers and texts, keys sorted.
 *
 * @param {Json | undefined} value
 * @returns {string}
 */
export function canonical(value) {
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  return `{${Object.keys(value)
    .sort()
    .map((key) => `${JSON.stringify(key)}:${canonical(value[key])}`)
    .join(",")}}`;
}

const base64url = (/** @type {Uint8Array} */ bytes) =>
  btoa(String.fromCharCode(...bytes))
    .replaceAll("+", "-")
    .replaceAll("/", "_")
    .replaceAll("=", "");

/** The bytes of `base64url`, and of no other text: one signature has one spelling. */
function bytesOf(/** @type {string} */ text) {
  const raw = atob(String(text).replaceAll("-", "+").replaceAll("_", "/"));
  const bytes = Uint8Array.from(raw, (sign) => sign.charCodeAt(0));
  return base64url(bytes) === text ? bytes : new Uint8Array();
}

async function sha256(/** @type {string} */ text) {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", utf8.encode(text)));
}

/** `sha256:<hex>` of a text. */
export const digest = async (/** @type {string} */ text) =>
  `sha256:${[...(await sha256(text))].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;

async function keysById(/** @type {KeySet} */ jwks) {
  /** @type {Map<string, Key>} */
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

/**
 * What does not fit between a receipt and the job spec whose hash it holds; null when all does.
 *
 * @param {Receipt} receipt
 * @param {Submission} jobspec
 */
function specProblem(receipt, jobspec) {
  if (
    !jobspec.constraints.regions.includes(receipt.region) ||
    jobspec.jobspec_id !== receipt.jobspec_id ||
    String(jobspec.version) !== receipt.jobspec_version
  )
    return "the region or the id is not the job spec's";
  const asked = jobspec.questions.map((one, place) =>
    typeof one === "string"
      ? [`q${place + 1}`, one, null]
      : [one.id, one.question, one.category ?? null],
  );
  const given = receipt.output.data.responses.map((one) => [
    one.question_id,
    one.question,
    one.category ?? null,
  ]);
  return canonical(asked) === canonical(given)
    ? null
    : "there must be one answer per question, in order";
}

/**
 * @param {Receipt} receipt
 * @param {Bundle["jobspec"]} jobspec
 * @param {Map<string, Key>} keys
 * @returns {Promise<ReadReceipt>}
 */
async function checkReceipt(receipt, jobspec, keys) {
  const { signature, ...signed } = receipt;
  const subject = `receipt ${receipt.number}`;
  /** @type {CheckMade[]} */
  const checks = [];
  const skip = (/** @type {string} */ check, /** @type {string} */ detail) =>
    checks.push({ subject, check, state: "not_made", detail });
  /**
   * @param {string} check
   * @param {boolean} holds
   * @param {string} detail
   * @param {string | null} problem Null only where it holds.
   */
  const note = (check, holds, detail, problem) =>
    checks.push({
      subject,
      check,
      state: holds ? "passed" : "failed",
      detail: holds ? detail : /** @type {string} */ (problem),
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
  else {
    const problem =
      (await digest(canonical(jobspec))) === receipt.hashes.jobspec
        ? specProblem(receipt, /** @type {Submission} */ (jobspec))
        : "the job spec is not the one signed for";
    note("jobspec", problem === null, "", problem);
  }
  return { subject, receipt, digest: await digest(canonical(receipt)), checks };
}

/**
 * Whether a bundle is of one job, and has one receipt of each execution.
 *
 * @param {ReadReceipt[]} read
 * @returns {CheckMade[]}
 */
function checkJob(read) {
  const [first] = read;
  const executions = new Set();
  return read.map(({ subject, receipt }) => {
    let problem = null;
    if (receipt.job_id !== first.receipt.job_id)
      problem = "the receipt is of another job than the first";
    else if (receipt.workspace_id !== first.receipt.workspace_id)
      problem = "the receipt is of another workspace than the first";
    else if (executions.has(receipt.execution_id)) problem = "two receipts are of this execution";
    executions.add(receipt.execution_id);
    const state = problem ? "failed" : "passed";
    return { subject, check: "job", state, detail: problem ?? `of job ${receipt.job_id}` };
  });
}

/**
 * Each receipt's link to the one before it in its workspace, where that one is in the bundle.
 *
 * @param {ReadReceipt[]} read
 */
function checkChain(read) {
  const placeOf = (/** @type {Receipt} */ { workspace_id: workspace, number }) =>
    `${workspace} ${number}`;
  /** @type {Map<string, ReadReceipt>} */
  const byPlace = new Map();
  /** @type {CheckMade[]} */
  const checks = [];
  for (const one of read) {
    const { subject, receipt } = one;
    const add = (/** @type {CheckMade["state"]} */ state, /** @type {string} */ detail) =>
      checks.push({ subject, check: "chain", state, detail });
    const place = placeOf(receipt);
    if (byPlace.has(place)) add("failed", "two receipts have this number");
    byPlace.set(place, one);
  }
  for (const { subject, receipt } of byPlace.values()) {
    const add = (/** @type {CheckMade["state"]} */ state, /** @type {string} */ detail) =>
      checks.push({ subject, check: "chain", state, detail });
    const { previous } = receipt.hashes;
    const before = byPlace.get(placeOf({ ...receipt, number: receipt.number - 1 }));
    if (receipt.number === 1 || previous === null)
      if (receipt.number === 1 && previous === null) add("passed", "the chain begins here");
      else add("failed", "only the first receipt has none before it");
    else if (!before) add("not_made", `receipt ${receipt.number - 1} is not in the bundle`);
    else if (before.digest === previous) add("passed", `after receipt ${receipt.number - 1}`);
    else add("failed", "the link does not fit");
  }
  return checks;
}

/**
 * Verify a bundle by a key set: `{verdict, checks: [{subject, check, state, detail}]}`, as the API
 * and the command line report it. What is malformed throws.
 *
 * @param {Bundle} bundle
 * @param {KeySet} jwks
 * @returns {Promise<Omit<Verification, "partial">>}
 */
export async function verify(bundle, jwks) {
  const keys = await keysById(jwks);
  /** @type {ReadReceipt[]} */
  const read = [];
  for (const receipt of /** @type {Receipt[]} */ (bundle.receipts))
    read.push(await checkReceipt(receipt, bundle.jobspec, keys));
  if (read.length === 0) throw new Error("the bundle holds no receipt");
  const checks = read.flatMap((one) => one.checks);
  if (bundle.jobspec) checks.push(...checkJob(read));
  checks.push(...checkChain(read));
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
