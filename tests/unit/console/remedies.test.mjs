// Remedies of jobs are the database's; pages for them, and what to do about refusals, are derived here.

import assert from "node:assert/strict";
import { test } from "node:test";
import { linksOf, remedyOfRefusal } from "../../../infra/console/lib/remedies.js";

test("a remedy leads to the page where it is done", () => {
  const href = (reason, child) => linksOf({ job_type: "a/b" }, { reason, child_id: child })[0].href;

  assert.equal(href("workspace_paused"), "/operations");
  assert.equal(href("workspace_limit"), "/limits");
  assert.equal(href("no_processor"), "/types/a%2Fb");
  assert.equal(href("failed", "c"), "/jobs/c");
});

test("refusals have remedies of their own", () => {
  assert.match(remedyOfRefusal({ code: "quota_exceeded" }).text, /higher quota/);
  assert.equal(remedyOfRefusal({ code: "unreachable" }), null);
});
