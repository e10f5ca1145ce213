/**
 * `<minutehand-job>` shows one job live: its state, progress, output, question and error.
 *
 * Importing this module defines the custom element, except in Node, where the import has no effect.
 * Text from the job is set as `textContent`, so the browser never interprets the text as markup.
 * The element's style is a constructed style sheet, because a page's content security policy never
 * blocks constructed style sheets.
 *
 * @example
 * import "minutehand/element";
 *
 * document.querySelector("minutehand-job").client = supabase;
 */

import { answer } from "./jobs/changes.js";
import { outputText } from "./jobs/output.js";
import { setText } from "./jobs/page.js";
import { watchJob } from "./jobs/watch-job.js";

const TEXTS = {
  loading: "Loading",
  missing: "Job not found, or not yours.",
  "signed-out": "Sign in to see this.",
  forbidden: "You may not see this.",
  next: "Next run: {at}",
  answer: "Your answer",
  send: "Answer",
};
const REFUSALS = { 401: "signed-out", 403: "forbidden" };
const STYLE = `
minutehand-job{display:grid;gap:.5em;overflow-wrap:anywhere}
minutehand-job [hidden]{display:none}
minutehand-job progress{inline-size:100%}
minutehand-job form{display:flex;flex-wrap:wrap;gap:.5em}
minutehand-job .output{margin:0;white-space:pre-wrap}
minutehand-job .error{color:color-mix(in oklab,#c81e1e 70%,currentColor);white-space:pre-wrap}`;
const Base = globalThis.HTMLElement ?? Object;
let sheet;

function put(node, text) {
  const next = text ? String(text) : "";
  setText(node, next);
  node.hidden = !next;
}

class JobElement extends Base {
  static observedAttributes = ["job-id", "session-id", "schema", "label"];

  #parts = {};
  #client;
  #texts = {};
  #watch;
  #subject = [];
  #shownQuestion = "";
  #isBusy = false;

  get client() {
    return this.#client;
  }

  set client(client) {
    this.#client = client ?? undefined;
    this.#update();
  }

  /**
   * Texts that replace the element's English texts, by the text's name. The text for a job state
   * has the state's name, for example `running`.
   */
  get texts() {
    return this.#texts;
  }

  set texts(texts) {
    this.#texts = texts ?? {};
    this.#draw();
  }

  get jobId() {
    return this.getAttribute("job-id");
  }

  set jobId(id) {
    this.setAttribute("job-id", id ?? "");
  }

  get job() {
    return this.#watch?.state.job ?? null;
  }

  /** Read the job from the database now. */
  async refresh() {
    await this.#watch?.refresh();
  }

  /** Answer the question that the job asks. */
  async answer(value) {
    const [client, id, schema] = this.#subject;
    if (this.#isBusy || !client) return;
    this.#isBusy = true;
    put(this.#parts.refused);
    try {
      const name = this.job?.waiting_for?.name;
      await answer(client, id, value, { name, schema });
      await this.refresh();
    } catch (error) {
      put(this.#parts.refused, error.message);
    }
    this.#isBusy = false;
  }

  connectedCallback() {
    // the document of a test, for example in jsdom, may not support `adoptedStyleSheets`
    const adopted = globalThis.CSSStyleSheet && document.adoptedStyleSheets;
    if (adopted && !sheet) (sheet = new CSSStyleSheet()).replaceSync(STYLE);
    if (adopted && !adopted.includes(sheet)) adopted.push(sheet);
    if (!this.#parts.state) this.#build();
    for (const name of ["client", "texts", "jobId"]) {
      if (!Object.hasOwn(this, name)) continue;
      const value = this[name]; // a property set before the definition hides the accessor
      delete this[name];
      this[name] = value;
    }
    this.#update();
  }

  disconnectedCallback() {
    // Stop the watch only after a microtask, because the browser disconnects an element and
    // immediately connects it again if a script moves the element within the page.
    queueMicrotask(() => this.#update());
  }

  attributeChangedCallback() {
    this.#update();
  }

  #build() {
    const part = (name, tag, more = {}) => {
      const node = (this.#parts[name] = document.createElement(tag));
      for (const [key, value] of Object.entries({ class: name, ...more }))
        node.setAttribute(key, value);
      return node;
    };
    const form = part("question", "form");
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const value = form.querySelector("input")?.value.trim();
      if (value) void this.answer(value);
    });
    form.append(
      part("asked", "p"),
      part("options", "div"),
      part("refused", "p", { role: "alert" }),
    );
    this.append(part("label", "span"), part("state", "strong", { role: "status" }));
    this.append(part("problem", "p"), part("progress", "progress", { max: "100" }));
    this.append(part("message", "span"), part("output", "p", { "aria-live": "polite" }));
    this.append(part("next", "small"), part("error", "p"), form);
  }

  #update() {
    const isWhole = this.isConnected && this.#client && this.jobId;
    const access = ["schema", "session-id"].map((name) => this.getAttribute(name) ?? undefined);
    const subject = isWhole ? [this.#client, this.jobId, ...access] : [];
    if (
      String(subject.slice(1)) !== String(this.#subject.slice(1)) ||
      subject[0] !== this.#subject[0]
    )
      this.#watchSubject(subject);
    this.#draw();
  }

  #watchSubject(subject) {
    this.#watch?.close();
    this.#subject = subject;
    this.#watch = undefined;
    const [client, id, schema, session_id] = subject;
    if (!client) return;
    const onChange = () => {
      this.#draw();
      this.#announce("jobchange");
    };
    const onEnd = () => this.#announce("jobend");
    this.#watch = watchJob(client, id, { schema, session_id, onChange, onEnd });
  }

  #text(name) {
    return this.#texts[name] ?? TEXTS[name] ?? name.charAt(0).toUpperCase() + name.slice(1);
  }

  #announce(type) {
    this.dispatchEvent(new CustomEvent(type, { detail: { job: this.job }, bubbles: true }));
  }

  #draw() {
    const parts = this.#parts;
    if (!parts.state) return;
    const { freshness, problem, missing, output } = this.#watch?.state ?? {};
    const { status: code, reachable, message } = problem ?? {};
    const refusal = missing ? "missing" : REFUSALS[code];
    const job = refusal ? null : this.job;
    const { state, status, progress, finished_at: end } = job ?? {};
    put(parts.label, job && (this.getAttribute("label") ?? job.job_type));
    put(parts.state, !refusal && this.#text(state ?? status ?? "loading"));
    parts.state.dataset.freshness = freshness ?? "";
    put(parts.problem, refusal ? this.#text(refusal) : reachable !== false && message);
    parts.progress.hidden = !job || end || status !== "processing";
    if (typeof progress?.percentage === "number") parts.progress.value = progress.percentage;
    else parts.progress.removeAttribute("value");
    put(parts.message, progress?.message || progress?.stage);
    put(parts.output, job && Object.values(output).map(outputText).join("\n\n"));
    const isLate = job?.next_run_at && (state === "scheduled" || state === "retrying");
    put(
      parts.next,
      isLate && this.#text("next").replace("{at}", new Date(job.next_run_at ?? 0).toLocaleString()),
    );
    put(parts.error, (status === "failed" || state === "retrying") && job?.error_message);
    this.#drawQuestion(job?.waiting_for?.kind === "ask" ? job.waiting_for : null);
  }

  #drawQuestion(wait) {
    const { question, asked, options, refused } = this.#parts;
    question.hidden = !wait;
    const now = JSON.stringify([wait?.name, wait?.question, wait?.options]);
    if (now === this.#shownQuestion) return;
    this.#shownQuestion = now; // if the question is unchanged, keep the text that someone types
    put(refused);
    const text = wait?.question;
    put(asked, typeof text === "string" ? text : JSON.stringify(text));
    const make = (tag, more) => Object.assign(document.createElement(tag), more);
    options.replaceChildren(
      ...(wait?.options?.map((value) =>
        make("button", {
          type: "button",
          textContent: String(value),
          onclick: () => void this.answer(value),
        }),
      ) ?? [
        make("input", { ariaLabel: this.#text("answer"), placeholder: this.#text("answer") }),
        make("button", { textContent: this.#text("send") }),
      ]),
    );
  }
}

if (globalThis.customElements && !customElements.get("minutehand-job"))
  customElements.define("minutehand-job", JobElement);
