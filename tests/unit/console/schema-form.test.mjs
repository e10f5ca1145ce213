// A form from a JSON Schema: its fields, what it begins with, and the payload of what was filled in.

import assert from "node:assert/strict";
import { test } from "node:test";
import { draftOf, fieldsOf, payloadOf, resolve } from "../../../infra/console/lib/schema-form.js";

const ROOT = {
  $ref: "#/$defs/Mail",
  $defs: {
    Mail: {
      required: ["to", "count", "empty"],
      properties: {
        to: { type: "string", description: "whom", format: "email", pattern: "@", minLength: 1 },
        body: { type: "string", maxLength: 201, default: "hello" },
        short: { type: ["null", "string"], maxLength: 200 },
        count: { type: "integer", minimum: 1 },
        share: { anyOf: [{ type: "number", maximum: 5 }, { type: "null" }] },
        urgent: { type: "boolean", default: false },
        kind: { $ref: "#/$defs/a~1b~0", description: "which" },
        version: { const: 2 },
        lines: { type: "array" },
        either: { oneOf: [{ type: "string" }, { type: "integer" }] },
        all: { allOf: [{ type: "string" }] },
        empty: { type: "string" },
        gone: { $ref: "#/$defs/gone" },
      },
    },
    "a/b~": { enum: [1, "two"], description: "replaced" },
  },
};

test("a schema's properties are fields, each of the kind that it can be filled in with", () => {
  const fields = fieldsOf(ROOT).map((field) => [field.name, field.kind, field.hint]);

  assert.deepEqual(fields, [
    ["to", "text", "whom · email · @"],
    ["body", "long", "at most 201 characters"],
    ["short", "text", "at most 200 characters"],
    ["count", "number", "1 to …"],
    ["share", "number", "… to 5"],
    ["urgent", "flag", ""],
    ["kind", "choice", "which"],
    ["version", "choice", ""],
    ["lines", "json", "a list"],
    ["either", "json", ""],
    ["all", "text", ""],
    ["empty", "text", ""],
    ["gone", "json", ""],
  ]);
  const of = Object.fromEntries(fieldsOf(ROOT).map((field) => [field.name, field]));
  assert.deepEqual([of.kind.choices, of.version.choices, of.to.choices], [[1, "two"], [2], []]);
  assert.deepEqual([of.to.isRequired, of.body.isRequired], [true, false]);
  assert.deepEqual([of.share.schema.isNullable, of.short.schema.type], [true, "string"]);
});

test("a schema without properties has no form, and one that refers to itself an end", () => {
  for (const schema of [{}, { properties: {} }, null, true]) assert.equal(fieldsOf(schema), null);
  const endless = { a: { $ref: "#/a" } };
  assert.deepEqual(resolve(endless.a, endless), {});
});

test("a form begins with what exists, else with the defaults, as text", () => {
  const draft = draftOf(fieldsOf(ROOT), { count: 3, lines: [1], urgent: null, share: 0 });

  const filled = Object.entries(draft).filter(([, text]) => text !== "");
  assert.deepEqual(Object.fromEntries(filled), {
    ...{ body: "hello", count: "3", share: "0", urgent: "false" },
    lines: "[\n  1\n]",
  });
  assert.deepEqual(draftOf(fieldsOf({ properties: { a: { type: "boolean" } } })), { a: "" });
});

for (const [draft, payload, problems] of [
  [{ to: "a@b", count: "1" }, { to: "a@b", count: 1, empty: "" }, {}],
  [{}, { empty: "" }, { to: "is required", count: "is required" }],
  [
    { to: "a", count: "1.5", share: "x" },
    { to: "a", empty: "" },
    { count: "must be a whole number", share: "must be a number" },
  ],
  [
    { to: "a", count: "2", share: "1.5", urgent: "true", kind: "1", version: "2", lines: "[1]" },
    { to: "a", count: 2, share: 1.5, urgent: true, kind: 1, version: 2, lines: [1], empty: "" },
    {},
  ],
  [
    { to: "a", count: "1", urgent: "false", kind: "3" },
    { to: "a", count: 1, urgent: false, kind: "3", empty: "" },
    {},
  ],
])
  test(`a draft becomes a payload: ${JSON.stringify(draft)}`, () => {
    assert.deepEqual(payloadOf(fieldsOf(ROOT), draft), { payload, problems });
  });

test("what is not JSON is a problem, not a payload", () => {
  const { payload, problems } = payloadOf(fieldsOf(ROOT), { to: "a", count: "1", lines: "[" });

  assert.equal("lines" in payload, false);
  assert.match(problems.lines, /^must be JSON: /);
});

test("an optional field keeps what is said beside its choices", () => {
  const said = { title: "To", description: "whom it is for", default: "ada" };
  const optional = { anyOf: [{ type: "string" }, { type: "null" }], ...said };
  const [[field], [plain]] = [optional, { type: "string", ...said }].map((to) =>
    fieldsOf({ properties: { to } }),
  );

  assert.match(field.hint, /whom it is for/);
  assert.equal(field.hint, plain.hint);
});
