// Each cause has a remedy, and what needs none gets none.

import assert from "node:assert/strict";
import { test } from "node:test";
import { remedyOf, remedyOfRefusal } from "../../../infra/console/lib/remedies.js";

const job = (more = {}) => ({
  id: "j",
  status: "failed",
  job_type: "a/b",
  error_message: "no",
  error_data: { type: "ValueError" },
  lost_attempts: 0,
  ...more,
});
const known = (more = {}) => ({
  job: job(),
  explained: null,
  place: null,
  failedChild: null,
  isManager: true,
  ...more,
});

test("an exception names the place to correct, and says that steps are kept", () => {
  assert.match(
    remedyOf(known({ place: "jobs.py:12" })).text,
    /Correct jobs\.py:12, deploy, then retry: finished steps are kept/,
  );
  assert.match(
    remedyOf(known({ job: job({ status: "pending" }), place: "jobs.py:12" })).text,
    /retried automatically/,
  );
});

test("every reason for waiting has a remedy and a place to go where there is one", () => {
  for (const reason of [
    "workspace_paused",
    "workspace_type_paused",
    "type_paused",
    "queue_paused",
    "no_worker",
    "no_processor",
    "rate_limited",
    "key_limit",
    "type_limit",
    "workspace_type_limit",
    "workspace_limit",
  ]) {
    const remedy = remedyOf(
      known({ job: job({ status: "pending", error_message: null }), explained: { reason } }),
    );
    assert.ok(remedy.text.length > 20, reason);
    assert.ok(remedy.links.length > 0, reason);
  }
  assert.equal(
    remedyOf(
      known({
        job: job({ status: "pending", error_message: null }),
        explained: { reason: "next_in_line" },
      }),
    ),
    null,
  );
});

test("timeouts, lost workers, payloads, children and services are told apart", () => {
  const of = (type, more) => remedyOf(known({ job: job({ error_data: { type } }), ...more })).text;

  assert.match(of("AttemptTimeout"), /longer timeout/);
  assert.match(of("WorkerLost"), /stopped answering/);
  assert.match(of("PayloadRejected"), /Duplicate the job/);
  assert.match(of("httpx.ConnectError"), /did not answer/);
  assert.match(
    of("minutehand.worker.context.ChildrenFailed", { failedChild: { id: "c", place: "x.py:3" } }),
    /A child job failed at x\.py:3/,
  );
});

test("what has ended well needs none; refusals have their own", () => {
  assert.equal(remedyOf(known({ job: job({ status: "completed" }) })), null);
  assert.match(remedyOfRefusal({ code: "quota_exceeded" }).text, /higher quota/);
  assert.equal(remedyOfRefusal({ code: "unreachable" }), null);
});
