// Verifies receipts by public keys, as `minutehand beacon verify` does: no one is asked.

/** The one text of a JSON value (RFC 8785). */
function canonical(value) {
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  const members = Object.keys(value)
    .sort()
    .map((name) => `${JSON.stringify(name)}:${canonical(value[name])}`);
  return `{${members.join(",")}}`;
}

const bytesOf = (value) => new TextEncoder().encode(canonical(value));
const hash = async (bytes) => new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
const hex = (bytes) => [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
const digestOf = async (value) => `sha256:${hex(await hash(bytesOf(value)))}`;

const decode = (text) =>
  Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (sign) =>
    sign.charCodeAt(0),
  );
const encode = (bytes) =>
  btoa(String.fromCharCode(...bytes))
    .replaceAll("+", "-")
    .replaceAll("/", "_")
    .replace(/=+$/, "");

/** A key set's Ed25519 keys by their ids; one that is not what its id says is left out. */
async function readKeys({ keys }) {
  const found = new Map();
  for (const { crv, kty, x, kid } of keys) {
    if (crv !== "Ed25519" || encode(await hash(bytesOf({ crv, kty, x }))) !== kid) continue;
    found.set(kid, await crypto.subtle.importKey("raw", decode(x), crv, false, ["verify"]));
  }
  return found;
}

async function problemOf(document, keys, bundle) {
  const { signature, ...signed } = document;
  const key = keys.get(document.key_id);
  if (!key) return "its key is not among this server's";
  const isSigned = await crypto.subtle
    .verify("Ed25519", key, decode(String(signature)), bytesOf(signed))
    .catch(() => false);
  if (!isSigned) return "it is not what was signed";
  if ((await digestOf(bundle.jobspec)) !== document.hashes.jobspec)
    return "the questions are not those that were signed for";
  if (document.output && (await digestOf(document.output)) !== document.hashes.output)
    return "the answers are not those that were signed for";
  return null;
}

/**
 * What is wrong with each receipt of a bundle, by its id, and with the whole; null: nothing. Throws
 * where the browser knows no Ed25519.
 */
export async function verify(bundle, keySet) {
  const keys = await readKeys(keySet);
  const problems = new Map();
  for (const receipt of bundle.receipts)
    problems.set(receipt.id, await problemOf(receipt, keys, bundle));
  return { problems, whole: await wholeOf(bundle, keys) };
}

async function wholeOf(bundle, keys) {
  const { closing, receipts } = bundle;
  if (!closing) return "The job has not ended: others may follow.";
  const problem = await problemOf(closing, keys, bundle);
  if (problem) return `The closing receipt: ${problem}.`;
  if (receipts.some((one) => one.job_id !== closing.job_id)) return "A receipt is of another job.";
  const count = new Set(receipts.map((one) => one.execution_id)).size;
  return count === closing.receipts
    ? null
    : `The job has ${closing.receipts} receipts, and ${count} are here.`;
}
