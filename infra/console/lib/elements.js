// `<minutehand-job>`, and `<minutehand-jobs>`: the newest jobs of a workspace, of a tag or a type, each a `<minutehand-job>`.

import "./element.js";
import { define, FollowingElement, make, put } from "./jobs/following-element.js";
import { TEXTS } from "./jobs/element-look.js";
import { watchJobs } from "./jobs/watch-jobs.js";

/** @import { TextName } from "./jobs/following-element.js" */
/** @import { Row } from "./jobs/watch-jobs.js" */

/** What a page may style of each row. */
const PARTS =
  "section header state label percentage freshness problem track bar message next error question asked options option input send refused until log summary lines line time";
const FILTER = ["workspace-id", "tag", "type", "limit"];

export class JobsElement extends FollowingElement {
  static observedAttributes = [...super.observedAttributes, ...FILTER];

  #freshness;
  #note;
  #list;
  /** @type {Map<string, any>} */
  #rows = new Map();

  constructor() {
    const freshness = make("small", { part: "freshness" });
    const note = make("p", { part: "problem", role: "status" });
    const list = make("ul", { part: "list" });
    super(freshness, note, list);
    this.#freshness = freshness;
    this.#note = note;
    this.#list = list;
  }

  get subject() {
    const chosen = FILTER.map((name) => this.getAttribute(name));
    return chosen[0] ? chosen : null;
  }

  /** @type {FollowingElement["follow"]} */
  follow(client, schema) {
    const [workspace, tag, type, limit] = /** @type {string[]} */ (this.subject);
    return watchJobs(client, workspace ?? "", {
      schema,
      filter: { ...(tag && { tag }), ...(type && { job_type: type }) },
      limit: Number(limit) || 20,
      onChange: () => this.draw(),
    });
  }

  draw() {
    const { jobs, isLoading, freshness } = this.state;
    const { words, isClosed } = this.refusal;
    const calm = isLoading ? "loading" : jobs.length === 0 ? "empty" : null;
    put(this.#freshness, freshness && this.text(freshness));
    put(this.#note, words ?? (calm && this.text(calm)));
    const names = /** @type {TextName[]} */ (Object.keys(TEXTS));
    const texts = Object.fromEntries(names.map((name) => [name, this.text(name)]));
    const shown = isClosed ? [] : jobs;
    const rows = new Map(
      shown.map((job) => [job.id, this.#rows.get(job.id) ?? this.#made(job.id)]),
    );
    for (const [id, row] of this.#rows) if (!rows.has(id)) row.parentNode.remove();
    this.#rows = rows;
    shown.forEach((job, place) => {
      const row = rows.get(job.id);
      row.setAttribute("label", this.given.labelOf?.(job) ?? job.job_type);
      Object.assign(row, { client: this.used, texts, job });
      const line = row.parentNode;
      const there = this.#list.children[place];
      if (there !== line) this.#list.insertBefore(line, there ?? null);
    });
  }

  /** @param {string} id */
  #made(id) {
    const row = make("minutehand-job", {
      compact: "",
      "job-id": id,
      exportparts: PARTS.replaceAll(" ", ","),
    });
    make("li", {}, row);
    if (this.schema) row.setAttribute("schema", this.schema);
    return row;
  }
}

define("minutehand-jobs", JobsElement, "client", "token", "texts", "labelOf");
