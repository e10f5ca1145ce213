// The element of one job, over nodes that only hold what they are given.

import assert from "node:assert/strict";
import { test } from "node:test";
import { namedIn, textOf } from "./nodes.mjs";

const { JobElement } = await import("../../../infra/console/lib/element.js");
const turn = () => new Promise(setImmediate);

/** A client whose calls wait for the test's answers: `asked` has the name, what was given, and `answer`. */
function clientOf() {
  const asked = [];
  let schema;
  const ask = (name, ...given) => ({
    abortSignal: () =>
      new Promise((resolve) => {
        const answer = (data, error = null) => (resolve({ data, error, status: 400 }), turn());
        asked.push({ name, schema, given, answer });
      }),
  });
  const lines = { select: () => lines, eq: (_, id) => ((lines.of = id), lines) };
  lines.gt = (_, after) => ((lines.after = after), lines);
  lines.order = () => lines;
  lines.limit = (most) => ask("lines", lines.of, lines.after, most);
  const realtime = { setAuth: () => new Promise(() => {}) };
  const within = (name) => ((schema = name), { rpc: ask, from: () => lines });
  return { asked, client: { realtime, schema: within } };
}

/** An element that follows a job, its parts, and what it does when it shows a state. */
function showing(attributes = {}) {
  const { asked, client } = clientOf();
  const element = Object.assign(new JobElement(), {
    attributes: { "job-id": "j1", ...attributes },
  });
  const parts = namedIn(element);
  const show = (job, more) => {
    const state = { jobs: job ? [{ id: "j1", ...job }] : [], freshness: "live", problem: null };
    element.watch = { state: { ...state, ...more }, refresh: async () => (element.isRead = true) };
    element.used = client;
    element.draw();
  };
  return { element, parts, asked, show };
}

const asking = (name, options) => ({
  state: "suspended",
  waiting_for: { kind: "ask", name, question: `Which ${name}?`, options },
});

test("an answer is sent once, to the question that is shown, and read; a refusal is said", async () => {
  const { element, parts, asked, show } = showing({ schema: "work" });
  show(asking("colour", ["red", 7]));
  assert.deepEqual([parts.question.hidden, textOf(parts.asked)], [false, "Which colour?"]);
  const [red, seven] = parts.options.children;
  assert.deepEqual([textOf(red), textOf(seven)], ["red", "7"]);

  seven.onclick();
  red.onclick();
  const [{ name, schema, given, answer }] = asked;
  const values = { p_job_id: "j1", p_answer: { answer: 7, name: "colour" } };
  assert.deepEqual([name, schema, given, asked.length], ["answer_job", "work", [values], 1]);
  await answer(null, { message: "too late" });
  assert.deepEqual([parts.refused.hidden, textOf(parts.refused)], [false, "too late"]);
  assert.equal(element.isRead, undefined);

  red.onclick();
  assert.equal(parts.refused.hidden, true);
  await asked[1].answer({});
  assert.equal(element.isRead, true);
  show({ state: "running" });
  assert.equal(parts.question.hidden, true);
  show({ state: "suspended", waiting_for: { kind: "event", name: "paid", question: "?" } });
  assert.equal(parts.question.hidden, true, "an event is no question");
});

test("a question without options takes a text, and none that is empty", () => {
  const { element, parts, asked, show } = showing();
  show(asking("name"));
  const input = parts.question.querySelector("input");
  let prevented = 0;
  const submit = { type: "submit", preventDefault: () => (prevented += 1) };

  for (const value of ["  ", " Ada "]) {
    input.value = value;
    parts.question.dispatchEvent(submit);
  }
  assert.deepEqual(
    asked.map(({ given }) => given[0].p_answer.answer),
    ["Ada"],
  );
  assert.equal(prevented, 2, "the page stays");
  element.draw();
  assert.equal(parts.question.querySelector("input"), input, "what is being typed stays");
});

test("it follows its job, and each change is drawn and told", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const { asked, client } = clientOf();
  const element = Object.assign(new JobElement(), { attributes: { "job-id": "j1" } });
  const told = [];
  element.addEventListener("jobchange", ({ detail }) => told.push(detail.job.state));
  element.watch = element.follow(client, "work");
  const [{ name, schema, given, answer }] = asked;
  assert.deepEqual([name, schema, given], ["get_job", "work", [{ p_job_id: "j1" }]]);

  await answer({ id: "j1", state: "running", last_seq: 1 });
  t.mock.timers.tick(300);

  assert.deepEqual([told, textOf(namedIn(element).state)], [["running"], "Running"]);
  element.watch.close();
});

test("an end is told once, and again when the job has run again", () => {
  const { element, show } = showing();
  const ends = [];
  element.addEventListener("jobend", ({ detail, bubbles, composed }) =>
    ends.push([detail.job.result, bubbles && composed]),
  );
  show({ state: "running", fence: 1 });
  const ended = { state: "completed", finished_at: "2026-11-20T08:00:00Z", result: 1 };
  for (let time = 0; time < 2; time += 1) show({ ...ended, fence: 1 });
  show({ state: "running", fence: 2 });
  show({ ...ended, fence: 2, result: 2 });

  assert.deepEqual(ends, [
    [1, true],
    [2, true],
  ]);
});

test("the lines of a log are added as they come, each once, and none of the job before", async () => {
  const { parts, asked, show } = showing({ schema: "work" });
  const line = (id, log_level = "info") => ({ id, log_level, message: `m${id}`, created_at: 0 });
  const shown = () => parts.lines.children.map(({ children }) => textOf(children[1]));
  show({ last_seq: 1 });
  assert.deepEqual([asked, parts.log.hidden], [[], false]);
  parts.log.open = true;
  parts.log.dispatchEvent({ type: "toggle" });
  assert.equal(asked.length, 1, "once it is open");
  show({ last_seq: 1 });
  show({ last_seq: 2 });
  assert.deepEqual(
    asked.map(({ schema, given }) => [schema, ...given]),
    Array(2).fill(["work", "j1", 0, 300]),
  );

  await asked[1].answer([line(2, "error"), line(1)]);
  await asked[0].answer([line(1)]);
  assert.deepEqual(shown(), [" m1", " m2"]);
  assert.match(textOf(parts.lines.children[1]), / error m2$/);
  parts.lines.scrollHeight = 500;
  show({ last_seq: 3 });
  assert.equal(asked[2].given[1], 2);
  await asked[2].answer(Array.from({ length: 300 }, (_, at) => line(302 - at)));
  assert.deepEqual([shown().length, shown()[0]], [300, " m3"]);
  assert.equal(parts.lines.scrollTop, 0, "who reads what was before is not moved");
  parts.lines.scrollTop = 490;
  show({ last_seq: 4 });
  await asked[3].answer([]);
  assert.equal(parts.lines.scrollTop, 500);

  show({ last_seq: 5 });
  show({ id: "j2", last_seq: 1 });
  await asked[4].answer([line(900)]);
  assert.deepEqual([shown(), asked[5].given], [[], ["j2", 0, 300]]);
  await asked[5].answer(null, { message: "away" });
  show({ id: "j2", last_seq: 1 });
  await asked[6].answer([line(1)]);
  assert.deepEqual(shown(), [" m1"], "it is read again");
});

for (const [progress, more, shown] of [
  [{ percentage: 40.9, message: "half" }, {}, [false, 40.9, "40%", "40.9%", "half"]],
  [{ percentage: 120 }, {}, [false, 100, "100%", "100%", ""]],
  [{ percentage: -3, stage: "begin" }, {}, [false, 0, "0%", "0%", "begin"]],
  [null, { status: "processing" }, [false, null, "", "", ""]],
  [null, { status: "pending" }, [true, null, "", "", ""]],
  [{ percentage: 40 }, { finished_at: "2026-11-20T08:00:00Z" }, [true, 40, "", "40%", ""]],
])
  test(`progress is shown while a job runs: ${JSON.stringify([progress, more])}`, () => {
    const { parts, show } = showing();
    show({ progress, ...more });

    const { track, percentage, bar, message } = parts;
    const size = bar.style.inlineSize;
    const found = [track.hidden, track.ariaValueNow, textOf(percentage), size, textOf(message)];
    assert.deepEqual(found, shown);
    assert.equal(bar.className, track.ariaValueNow === null ? "going" : "");
  });

test("an error is shown where it counts, the next run where it is late, and a refusal hides the job", () => {
  const { parts, show } = showing({ label: "Mine" });
  const shown = (name) => (parts[name].hidden ? null : textOf(parts[name]));
  const next_run_at = "2026-11-20T08:00:00Z";
  for (const [job, error, isLate] of [
    [{ state: "failed", status: "failed" }, "no", false],
    [{ state: "retrying", status: "pending" }, "no", true],
    [{ state: "scheduled", status: "pending" }, null, true],
    [{ state: "running", status: "processing" }, null, false],
  ]) {
    show({ ...job, error_message: "no", next_run_at });
    const next = isLate ? `Next run: ${new Date(next_run_at).toLocaleString("en")}` : null;
    assert.deepEqual([shown("error"), shown("next")], [error, next], job.state);
  }
  assert.deepEqual([shown("label"), shown("state")], ["Mine", "Running"]);

  show({ ...asking("colour"), progress: { percentage: 4 } }, { problem: { status: 403 } });
  const all = ["state", "problem", "percentage", "message"].map(shown);
  assert.deepEqual(all, [null, "You may not see this.", null, null]);
  assert.deepEqual(
    [parts.log.hidden, parts.question.hidden, parts.track.hidden],
    [true, true, true],
  );
});

test("a row that a list gives is shown as it is, and followed while it asks", () => {
  const { element, parts, asked } = showing({ compact: "" });
  element.job = { id: "j1", state: "running" };
  element.draw();
  assert.deepEqual([element.subject, textOf(parts.state)], [null, "Running"]);
  assert.equal(parts.announcement.hidden, true, "a list of them would talk without an end");
  element.job = { id: "j1", ...asking("colour") };
  element.draw();
  assert.deepEqual([element.subject, parts.question.hidden, asked], [["j1"], true, []]);
  delete element.attributes["job-id"];
  element.draw();
  assert.deepEqual(
    [element.subject, parts.question.hidden],
    [null, false],
    "there is no other row",
  );
  assert.equal(textOf(parts.announcement), "Suspended: Which colour?", "a question is for someone");
});

test("its parts are what they are to a keyboard and to who listens, and may be styled by name", () => {
  const { parts } = showing();
  const tags = {
    p: "label percentage message asked announcement",
    small: "freshness next until",
    em: "problem error refused",
    div: "track bar options lines",
    section: "section",
    header: "header",
    strong: "state",
    form: "question",
    details: "log",
    summary: "summary",
  };
  for (const [tag, names] of Object.entries(tags))
    for (const name of names.split(" ")) assert.equal(parts[name].tag, tag, name);
  const roles = {
    section: { tabindex: "-1" },
    track: { role: "progressbar" },
    asked: { id: "asked" },
    options: { role: "group", "aria-labelledby": "asked" },
    refused: { role: "alert" },
    lines: { role: "log", "aria-live": "off", tabindex: "0" },
    announcement: { role: "status" },
    error: {},
  };
  for (const [part, attributes] of Object.entries(roles))
    assert.deepEqual(parts[part].attributes, { part, ...attributes });
  const { observedAttributes } = JobElement;
  assert.ok(["url", "compact", "job-id"].every((name) => observedAttributes.includes(name)));
});

test("what is shown has words, for the eye and for who listens", () => {
  const { element, parts, show } = showing();
  const words = (...names) =>
    names.map((name) => (parts[name].hidden ? null : textOf(parts[name])));
  show(null);
  assert.deepEqual(words("state", "label", "freshness"), ["Loading", null, "Live"]);
  assert.equal(parts.section.className, "");
  show({ state: "running", job_type: "mail", progress: { percentage: 40 } });
  assert.deepEqual(words("state", "label", "announcement"), ["Running", "mail", "Running"]);
  assert.deepEqual([parts.section.className, parts.track.ariaLabel], ["running", "Progress"]);
  assert.deepEqual([parts.track.ariaValueText, words("summary")], ["40%", ["Log"]]);
  show(null, { problem: { message: "no" }, freshness: null });
  assert.deepEqual(words("state", "problem", "freshness"), [null, "no", null]);
  element.jobId = null;
  assert.deepEqual([element.jobId, element.subject], ["", null]);
});

test("a question says until when, and what was refused of another is forgotten", async () => {
  const { parts, asked, show } = showing();
  const until = "2026-11-20T08:00:00Z";
  const { state, waiting_for: wait } = asking("colour");
  show({ state, waiting_for: { ...wait, until } });
  assert.equal(textOf(parts.announcement), "Suspended: Which colour?");
  assert.equal(
    textOf(parts.until),
    `Without an answer it continues: ${new Date(until).toLocaleString("en")}`,
  );
  const [input, send] = parts.options.children;
  const label = { "aria-label": "Your answer", placeholder: "Your answer" };
  assert.deepEqual(input.attributes, { part: "input", ...label });
  assert.deepEqual([send.attributes, textOf(send)], [{ part: "send" }, "Answer"]);

  input.value = "red";
  parts.question.dispatchEvent({ type: "submit", preventDefault() {} });
  await asked[0].answer(null, { message: "no" });
  assert.equal(textOf(parts.refused), "no");
  show({ state, waiting_for: { ...wait, name: "again" } });
  assert.equal(parts.refused.hidden, true, "the same words may be another question");
  show({ state, waiting_for: { ...wait, name: "again", options: ["red"] } });
  assert.equal(textOf(parts.options), "red");
  show({ state, waiting_for: { kind: "ask", question: { size: 1 }, options: ["S"] } });
  assert.deepEqual([parts.refused.hidden, parts.until.hidden], [true, true]);
  assert.equal(textOf(parts.asked), '{"size":1}');
  assert.deepEqual(parts.options.children[0].attributes, { part: "option", type: "button" });
});

test("who was about to answer is not lost when the question goes", () => {
  const { parts, show } = showing();
  let focused = 0;
  parts.section.focus = () => (focused += 1);
  for (const [isInside, times] of [
    [false, 0],
    [true, 1],
  ]) {
    show(asking("colour"));
    parts.question.contains = () => isInside;
    show(asking("size"));
    assert.equal(focused, 0, "there is another");
    show({ state: "running" });
    assert.equal(focused, times);
  }
});

test("without a client nothing can be answered", async () => {
  const element = new JobElement();
  await element.answer("red");

  assert.equal(textOf(namedIn(element).refused), "", "nothing was said either");
});

test("a line of a log has its time and its level", async () => {
  const { parts, asked, show } = showing();
  parts.log.open = true;
  show({ last_seq: 1 });
  const created_at = "2026-11-20T08:00:00Z";
  const lines = ["info", "error"].map((log_level, at) => ({ id: 2 - at, log_level, created_at }));
  await asked[0].answer(lines);

  const time = new Date(created_at).toLocaleTimeString("en");
  assert.deepEqual(
    parts.lines.children.map(({ tag, attributes, children: [begin] }) => [
      ...[tag, attributes, begin.tag, begin.attributes, textOf(begin)],
    ]),
    [
      ["p", { part: "line", class: "error" }, "small", { part: "time" }, `${time} error`],
      ["p", { part: "line", class: "info" }, "small", { part: "time" }, time],
    ],
  );
  assert.equal(parts.lines.ariaLabel, "Log");
});
