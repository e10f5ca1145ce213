// A verifier written from the README's pages "The receipt" and "The closing receipt" alone:
// it shares no line with the project, and says only whether a bundle passes.
import { createHash, createPublicKey, verify } from "node:crypto";
import { readFileSync } from "node:fs";

class Bad extends Error {}
const must = (truth, why) => {
  if (!truth) throw new Bad(why);
};

function canonical(value) {
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (value && typeof value === "object") {
    const names = Object.keys(value).sort();
    return `{${names.map((name) => `${JSON.stringify(name)}:${canonical(value[name])}`).join(",")}}`;
  }
  return JSON.stringify(value);
}
const hash = (text) => `sha256:${createHash("sha256").update(text).digest("hex")}`;
const digest = (value) => hash(canonical(value));
const same = (left, right) => canonical(left) === canonical(right);

function checkSigned(receipt, keys) {
  const { signature, ...signed } = receipt;
  const [key] = keys.filter((one) => one.kid === receipt.key_id);
  must(key, "unknown key");
  const { crv, kty, x } = key;
  const thumbprint = createHash("sha256").update(canonical({ crv, kty, x })).digest("base64url");
  must(thumbprint === key.kid, "the key is not its id");
  const given = Buffer.from(signature, "base64url");
  must(given.length === 64 && given.toString("base64url") === signature, "spelling");
  const publicKey = createPublicKey({ key: { crv, kty, x }, format: "jwk" });
  must(verify(null, Buffer.from(canonical(signed)), publicKey, given), "signature");
  const at = Date.parse(receipt.issued_at) / 1000;
  must(at >= key.nbf && at <= (key.exp ?? at) && at <= Date.now() / 1000 + 3600, "time of the key");
  if (key.revoked_at !== undefined) {
    const last = key.last?.[hash(receipt.workspace_id)] ?? 0;
    must(at <= key.revoked_at && receipt.number <= last, "revoked");
  }
}

function checkReceipt(receipt, spec) {
  must(receipt.format === "minutehand-beacon-receipt/1", "format");
  must(digest(receipt.output) === receipt.hashes.output, "output");
  must(spec.constraints.regions.includes(receipt.region), "region");
  const asked = spec.questions.map((one, at) =>
    typeof one === "string" ? [`q${at + 1}`, one, null] : [one.id, one.question, one.category],
  );
  const told = receipt.output.data.responses;
  must(
    same(
      asked,
      told.map((one) => [one.question_id, one.question, one.category ?? null]),
    ),
    "answers",
  );
}

function checkClosing(closing, receipts, spec) {
  must(closing.format === "minutehand-beacon-closing/1", "format of the closing");
  const { executions } = closing;
  const models = spec.models?.map((one) => one.id ?? one);
  const wanted = spec.constraints.regions.flatMap((region) =>
    (models ?? [null]).map((model) => canonical([region, model])),
  );
  const named = executions.map(({ region, model }) => canonical([region, models ? model : null]));
  must(same(wanted.sort(), named.sort()), "what was asked");
  must(
    executions.every((one) => (one.status === "completed") === (one.receipt !== null)),
    "completed",
  );
  const failed = executions.filter((one) => one.status !== "completed").map((one) => one.region);
  const reached = spec.constraints.regions.filter((region) => !failed.includes(region));
  must(same(reached.sort(), [...closing.reached].sort()), "reached");
  const digests = executions.flatMap((one) => one.receipt ?? []);
  must(same(digests.sort(), receipts.map(digest).sort()), "omitted");
  must(digests.length === closing.receipts, "count");
}

function check({ jobspec, receipts, closing, running }, { keys }) {
  if (!jobspec || (running && !closing)) return "not_made";
  must(closing, "no closing");
  const all = [...receipts, closing];
  for (const one of all) {
    checkSigned(one, keys);
    must(one.hashes.jobspec === digest(jobspec), "job spec");
    must(one.job_id === closing.job_id && one.workspace_id === closing.workspace_id, "job");
    must(
      one.jobspec_id === jobspec.jobspec_id && one.jobspec_version === `${jobspec.version}`,
      "id",
    );
    const before = all.find((other) => other.number === one.number - 1);
    if (before) must(one.hashes.previous === digest(before), "chain");
    must((one.number === 1) === (one.hashes.previous === null), "beginning");
  }
  for (const receipt of receipts) checkReceipt(receipt, jobspec);
  checkClosing(closing, receipts, jobspec);
  must(new Set(receipts.map((one) => one.execution_id)).size === receipts.length, "twice");
  must(new Set(all.map((one) => one.number)).size === all.length, "number");
  return "passed";
}

const verdicts = JSON.parse(readFileSync(0)).map(([bundle, keys]) => {
  try {
    return check(bundle, keys);
  } catch (error) {
    if (!(error instanceof Bad)) throw error;
    return "failed";
  }
});
console.log(JSON.stringify(verdicts));
