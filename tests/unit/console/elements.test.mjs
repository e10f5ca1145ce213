// The list of jobs as an element, over nodes that only hold what they are given.

import assert from "node:assert/strict";
import { test } from "node:test";
import { namedIn } from "./nodes.mjs";

const { JobElement } = await import("../../../infra/console/lib/element.js");
const { JobsElement } = await import("../../../infra/console/lib/elements.js");

const job = (id) => ({ id, job_type: `type of ${id}` });

/** An element, and what it shows of a state: freshness, note, and each line's job. */
function showing(attributes) {
  const element = Object.assign(new JobsElement(), { attributes });
  const [freshness, note, list] = element.children;
  const show = (state) => {
    element.watch = {
      state: { jobs: [], isLoading: false, freshness: "live", problem: null, ...state },
    };
    element.draw();
    const lines = list.children.map(({ children: [row] }) => row);
    return { freshness, note, lines, ids: lines.map((row) => row.job.id) };
  };
  return { element, show };
}

test("a list has a line for each job, in order, and keeps the lines that stay", () => {
  const { element, show } = showing({ "workspace-id": "acme", schema: "work" });
  element.used = "client";
  const { lines: before, note } = show({ jobs: ["a", "b", "c"].map(job) });
  assert.equal(note.hidden, true);
  const { attributes, client, job: shown } = before[0];
  assert.deepEqual([attributes.label, attributes.schema, client], ["type of a", "work", "client"]);
  assert.deepEqual([attributes["job-id"], shown, "compact" in attributes], ["a", job("a"), true]);

  element.labelOf = ({ id }) => (id === "d" ? "mine" : null);
  const { lines, ids } = show({ jobs: ["d", "c", "a"].map(job) });

  assert.deepEqual(ids, ["d", "c", "a"]);
  assert.deepEqual([lines[1] === before[2], lines[2] === before[0]], [true, true]);
  assert.deepEqual([lines[0].attributes.label, lines[1].attributes.label], ["mine", "type of c"]);
});

test("a list and its lines may be styled by name, and it is drawn again for each attribute", () => {
  const { element, show } = showing({ "workspace-id": "acme" });
  const [line] = show({ jobs: [job("a")] }).lines;
  assert.deepEqual(
    element.children.map(({ tag, attributes }) => [tag, attributes]),
    [
      ["small", { part: "freshness" }],
      ["p", { part: "problem", role: "status" }],
      ["ul", { part: "list" }],
    ],
  );
  assert.deepEqual([line.tag, line.parentNode.tag], ["minutehand-job", "li"]);
  assert.equal("schema" in line.attributes, false);
  const parts = line.attributes.exportparts.split(",");
  const others = ["announcement", "undefined"];
  for (const name of Object.keys(namedIn(new JobElement())))
    assert.ok(others.includes(name) || parts.includes(name), name);
  for (const name of ["option", "input", "send", "line", "time"]) assert.ok(parts.includes(name));
  const observed = JobsElement.observedAttributes;
  const shared = ["url", "key", "schema", "label", "compact", "text-empty"];
  for (const name of [...shared, "workspace-id", "tag", "type", "limit"])
    assert.ok(observed.includes(name), name);
  assert.equal(line.texts.empty, "No jobs yet");
});

test("a list says that it is loading or empty, and shows nothing to who may not see it", () => {
  const { show } = showing({ "workspace-id": "acme" });
  assert.equal(show({ isLoading: true }).note.textContent, "Loading");
  const { note, freshness } = show({});
  assert.deepEqual([note.textContent, freshness.textContent], ["No jobs yet", "Live"]);

  const jobs = [job("a")];
  const failing = show({ jobs, problem: { status: 500, message: "away" } });
  assert.deepEqual([failing.ids, failing.note.textContent], [["a"], "away"]);
  const forbidden = show({ jobs, problem: { status: 403 } });
  assert.deepEqual([forbidden.ids, forbidden.note.textContent], [[], "You may not see this."]);
});

test("a list is drawn when what it follows changes", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const { element } = showing({ "workspace-id": "acme" });
  let draws = 0;
  element.draw = () => (draws += 1);
  const rpc = () => ({ abortSignal: async () => ({ data: { jobs: [job("a")] } }) });
  const realtime = { setAuth: () => new Promise(() => {}) };
  const watch = element.follow({ schema: () => ({ rpc }), realtime });
  await watch.refresh();
  t.mock.timers.tick(300);
  watch.close();

  assert.equal(draws, 1);
});

test("a list follows what its attributes choose of a workspace", async () => {
  assert.equal(showing({ tag: "a" }).element.subject, null);
  const filters = { tag: "a", type: "mail", limit: "5" };
  for (const [more, filter, limit] of [
    [{}, {}, 20],
    [filters, { tag: "a", job_type: "mail" }, 5],
  ]) {
    const { element } = showing({ "workspace-id": "acme", ...more });
    const asked = [];
    const answer = { abortSignal: async () => ({ data: { jobs: [] } }) };
    const rpc = (name, values) => (asked.push([name, values]), answer);
    const realtime = { setAuth: () => new Promise(() => {}) };
    const schema = (name) => (asked.push(name), { rpc });
    element.follow({ schema, realtime }, "work").close();

    const values = { p_filter: { ...filter, workspace_id: "acme" }, p_limit: limit };
    assert.deepEqual(asked, ["work", ["list_jobs", values]]);
  }
});
