// Remedies of jobs are the database's; pages for them, and what to do about refusals, are derived here.

import assert from "node:assert/strict";
import { test } from "node:test";
import { linksOf, remedyOfRefusal } from "../../../infra/console/lib/remedies.js";

test("a remedy leads to the page where it is done", () => {
  const href = (reason, child) => linksOf({ job_type: "a/b" }, { reason, child_id: child })[0].href;

  assert.equal(href("workspace_paused"), "/operations");
  assert.equal(href("no_processor"), "/types/a%2Fb");
  assert.equal(href("failed", "c"), "/jobs/c");
  const paused = linksOf({ job_type: "a/b" }, { reason: "workspace_type_paused" });
  assert.deepEqual(
    paused.map((link) => link.href),
    ["/types/a%2Fb", "/jobs?state=failed&job_type=a%2Fb"],
  );
});

test("refusals have remedies of their own", () => {
  assert.match(remedyOfRefusal({ code: "quota_exceeded" }).text, /higher quota/);
  assert.equal(remedyOfRefusal({ code: "unknown_job_type" }).links[0].href, "/types");
  for (const error of [{ code: "unreachable" }, null]) assert.equal(remedyOfRefusal(error), null);
});

for (const [detail, text] of [
  ["payload.n", "Correct payload.n."],
  [{ field: "a" }, "Correct a."],
  [[{ field: "a" }, { field: "b" }], "Correct a, b."],
  [{ fields: ["a", { field: "b" }] }, "Correct a, b."],
  [{ problems: [{ field: "a" }, { field: 1 }] }, "Correct a."],
  [null, "Correct the payload; the type's page shows its schema."],
])
  test(`a refused payload names its fields: ${JSON.stringify(detail)}`, () => {
    for (const code of ["payload_invalid", "validation_failed"])
      assert.equal(remedyOfRefusal({ code, detail }).text, text);
  });

test("what a remedy says and where it leads is whole", () => {
  const links = (reason) => linksOf({ job_type: "mail" }, { reason });
  assert.deepEqual(links("workspace_type_paused"), [
    { href: "/types/mail", label: "The type" },
    { href: "/jobs?state=failed&job_type=mail", label: "Show failures" },
  ]);
  assert.deepEqual(remedyOfRefusal({ code: "quota_exceeded" }).links, []);
  assert.deepEqual(remedyOfRefusal({ code: "unknown_job_type" }), {
    text: "Choose one of the types that workers have registered.",
    links: [{ href: "/types", label: "Types" }],
  });
  for (const detail of [undefined, [null], [{}], { fields: [null] }])
    assert.deepEqual(remedyOfRefusal({ code: "payload_invalid", detail }), {
      text: "Correct the payload; the type's page shows its schema.",
      links: [],
    });
});
