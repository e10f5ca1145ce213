/**
 * `<minutehand-job>`: one job, live: its state, progress, question, error and log.
 *
 * Importing this module defines it; in Node it does nothing.
 *
 * @example
 * import "minutehand/element";
 *
 * document.querySelector("minutehand-job").client = supabase;
 */

import { define, FollowingElement, make, put } from "./jobs/following-element.js";
import { call, readLines } from "./jobs/reads.js";
import { watchRow } from "./jobs/watch-jobs.js";

/** @import { Client, Json, Wait } from "./jobs/types.js" */
/** @import { Row } from "./jobs/watch-jobs.js" */

const MOST_LINES = 300;
const isAsking = (/** @type {Row} */ job) => job.waiting_for?.kind === "ask";

export class JobElement extends FollowingElement {
  static observedAttributes = [...super.observedAttributes, "job-id"];

  /** @type {Record<string, any>} */
  #parts;
  /** @type {Wait | null} */
  #wait = null;
  #asked = "";
  #linesOf = "";
  #lastLine = 0;
  #readTo = 0;
  #ended = "";
  #isBusy = false;

  constructor() {
    /** @type {Record<string, any>} */
    const parts = {};
    /** @type {(name: string, tag?: string, more?: Record<string, string>, ...children: Node[]) => Node} */
    const part = (name, tag = "p", more = {}, ...children) =>
      (parts[name] = make(tag, { part: name, ...more }, ...children));
    const section = part(
      "section",
      "section",
      { tabindex: "-1" },
      part(
        "header",
        "header",
        {},
        part("state", "strong"),
        part("label"),
        part("percentage"),
        part("freshness", "small"),
      ),
      part("problem", "em"),
      part("track", "div", { role: "progressbar" }, part("bar", "div")),
      part("message"),
      part("next", "small"),
      part("error", "em"),
      part(
        "question",
        "form",
        {},
        part("asked", "p", { id: "asked" }),
        part("options", "div", { role: "group", "aria-labelledby": "asked" }),
        part("refused", "em", { role: "alert" }),
        part("until", "small"),
      ),
      part(
        "log",
        "details",
        {},
        part("summary", "summary"),
        part("lines", "div", { role: "log", "aria-live": "off", tabindex: "0" }),
      ),
      make("slot"),
    );
    super(section, part("announcement", "p", { role: "status" }));
    this.#parts = parts;
    parts.question.addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      const value = parts.question.querySelector("input")?.value.trim();
      if (value) this.answer(value);
    });
    parts.log.addEventListener("toggle", () => this.draw());
  }

  get subject() {
    const { job } = this.given;
    // a row of a list does not have a question's options
    return this.jobId && (!job || isAsking(job)) ? [this.jobId] : null;
  }

  /** @type {FollowingElement["follow"]} */
  follow(client, schema) {
    const onChange = () => {
      this.draw();
      this.#tell("jobchange");
    };
    return watchRow(client, this.jobId ?? "", { schema, onChange });
  }

  get jobId() {
    return this.getAttribute("job-id");
  }

  set jobId(id) {
    this.setAttribute("job-id", id ?? "");
  }

  /** @type {Row | null} */
  get #job() {
    return this.state.jobs[0] ?? this.given.job ?? null;
  }

  get #client() {
    return this.used ?? this.given.client;
  }

  /**
   * Answer the question it waits with.
   *
   * @param {Json} answer One of the options, if there are any.
   */
  async answer(answer) {
    if (this.#isBusy || !this.#client) return;
    this.#isBusy = true;
    const { refused } = this.#parts;
    put(refused);
    try {
      const values = { p_job_id: this.#job?.id, p_answer: { answer, name: this.#wait?.name } };
      await call(this.#client, this.schema, "answer_job", values);
      await this.refresh();
    } catch (error) {
      put(refused, /** @type {Error} */ (error).message);
    }
    this.#isBusy = false;
  }

  /** @param {string} type */
  #tell(type) {
    const detail = { ...this.state, job: this.#job };
    this.dispatchEvent(new CustomEvent(type, { detail, bubbles: true, composed: true }));
  }

  draw() {
    const parts = this.#parts;
    const { words, isClosed } = this.refusal;
    const job = isClosed ? null : this.#job;
    const { state, status, error_message: error, fence, id, finished_at: end } = job ?? {};
    const word = state || !words ? this.text(state ?? "loading") : null;
    parts.section.className = state ?? "";
    put(parts.state, word);
    put(parts.label, this.getAttribute("label") ?? job?.job_type);
    const { freshness } = this.state;
    put(parts.freshness, freshness && this.text(freshness));
    put(parts.problem, words);
    this.#drawProgress(job);
    const isLate = state === "scheduled" || state === "retrying";
    put(parts.next, isLate && this.text("next", job?.next_run_at));
    put(parts.error, (status === "failed" || state === "retrying") && error);
    const isRead = job && (job !== this.given.job || !this.subject);
    this.#drawQuestion(isRead && isAsking(job) ? (job.waiting_for ?? null) : null);
    const isQuiet = this.hasAttribute("compact") && !this.#wait;
    put(
      parts.announcement,
      !isQuiet && [word, words, this.#wait?.question].filter(Boolean).join(": "),
    );
    parts.log.hidden = !job;
    put(parts.summary, this.text("log"));
    if (job && parts.log.open) this.#drawLines(job);
    const ending = `${id} ${fence}`;
    if (!end || this.#ended === ending) return;
    this.#ended = ending;
    this.#tell("jobend");
  }

  /** @param {Row | null} job */
  #drawProgress(job) {
    const { track, bar, percentage, message } = this.#parts;
    const { percentage: reported, stage, message: words } = job?.progress ?? {};
    const share = typeof reported === "number" ? Math.min(100, Math.max(0, reported)) : null;
    const isShown = job && !job.finished_at && (share !== null || job.status === "processing");
    const format = new Intl.NumberFormat(this.language, { style: "percent" });
    const text = share === null ? null : format.format(Math.floor(share) / 100);
    put(percentage, isShown && text);
    put(message, words || stage);
    track.hidden = !isShown;
    track.ariaLabel = this.text("progress");
    track.ariaValueNow = share;
    track.ariaValueText = text;
    bar.className = share === null ? "going" : "";
    bar.style.inlineSize = share === null ? "" : `${share}%`;
  }

  /** @param {Wait | null} wait */
  #drawQuestion(wait) {
    const { question, asked, options, refused, until, section } = this.#parts;
    this.#wait = wait;
    if (!wait && question.contains(this.shadowRoot?.activeElement)) section.focus();
    question.hidden = !wait;
    put(until, wait?.until && this.text("until", wait.until));
    const [label, send] = [this.text("answer"), this.text("send")];
    const now = JSON.stringify([wait?.name, wait?.question, wait?.options, label, send]);
    if (now === this.#asked) return;
    this.#asked = now;
    put(refused);
    const text = wait?.question;
    put(asked, typeof text === "string" ? text : JSON.stringify(text));
    options.replaceChildren(
      ...(wait?.options?.map((value) => {
        const choice = make("button", { part: "option", type: "button" }, String(value));
        choice.onclick = () => void this.answer(value);
        return choice;
      }) ?? [
        make("input", { part: "input", "aria-label": label, placeholder: label }),
        make("button", { part: "send" }, send),
      ]),
    );
  }

  /** @param {Row} job */
  async #drawLines({ id, last_seq: seq }) {
    const { lines } = this.#parts;
    if (this.#linesOf !== id) {
      this.#linesOf = id;
      this.#lastLine = this.#readTo = 0;
      lines.replaceChildren();
    }
    if (!this.#client || this.#readTo === seq) return;
    this.#readTo = seq;
    lines.ariaLabel = this.text("log");
    const reading = readLines(this.#client, this.schema, id, this.#lastLine, MOST_LINES);
    // what cannot be read is read with the next drawing; why is said by the watch
    const read = await reading.catch(() => ((this.#readTo = 0), []));
    const isAtEnd = lines.scrollHeight - lines.scrollTop - lines.clientHeight < 30;
    for (const { id: line, log_level: level, message, created_at: at } of read) {
      if (this.#linesOf !== id || line <= this.#lastLine) continue; // another job's, or read twice
      this.#lastLine = line;
      const time = new Date(at).toLocaleTimeString(this.language);
      const begin = make("small", { part: "time" }, level === "info" ? time : `${time} ${level}`);
      lines.append(make("p", { part: "line", class: level }, begin, ` ${message}`));
    }
    while (lines.childElementCount > MOST_LINES) lines.firstChild.remove();
    if (isAtEnd) lines.scrollTop = lines.scrollHeight;
  }
}

define("minutehand-job", JobElement, "client", "token", "texts", "job");
