// Log lines over all jobs of a workspace, newest first.

import { rpc } from "../api.js";
import { clock, pretty, shortId, utc } from "../lib/format.js";
import { setQuery, useQuery } from "../lib/router.js";
import { useRead } from "../lib/store.js";
import { html, useEffect, useState } from "../lib/ui.js";
import { beginOf, SINCE } from "../parts/filters.js";
import { choice } from "../parts/field.js";
import { hasMore, LEVELS } from "../parts/job-log.js";
import { SearchBox } from "../parts/job-monitor.js";
import { Empty } from "../parts/states-of-view.js";
import { Unread } from "../parts/unread.js";
import { pageHead, pager } from "../parts/page-head.js";

/** @import { Workspace } from "../api.js" */
/** @import { FoundLine } from "../lib/routes.js" */

export const title = () => "Logs";

/** @type {[value: string, words: string][]} */
const RANGES = [
  ["", "any time"],
  ...Object.entries(SINCE).map(
    ([word, long]) => /** @type {[string, string]} */ ([word, `the last ${long}`]),
  ),
];

/** @param {{workspace: Workspace}} props */
export default function Logs({ workspace }) {
  const query = useQuery();
  const wanted = {
    search: query.get("search") ?? "",
    level: query.get("level") ?? "",
    job_type: query.get("job_type") ?? "",
    since: query.get("since") ?? "",
  };
  const filter = Object.fromEntries(
    Object.entries({
      ...wanted,
      since: wanted.since && beginOf(wanted.since),
      level: wanted.level === "debug" ? "" : wanted.level,
    }).filter(([, value]) => value),
  );
  const key = JSON.stringify([workspace.id, wanted]);
  const [pages, setPages] = useState(/** @type {Array<number | null>} */ ([null]));
  useEffect(() => setPages([null]), [key]);
  const read = useRead(
    (signal) =>
      rpc(
        "search_logs",
        {
          p_workspace_id: workspace.id,
          p_filter: filter,
          p_before: pages.at(-1),
          p_limit: 200,
        },
        signal,
      ),
    [key, pages.length],
  );
  return html`<div class="page">
    ${pageHead("Logs", `of all jobs of ${workspace.name}`)}
    <div class="bar">
      <${SearchBox}
        value=${wanted.search}
        onChange=${(/** @type {string} */ text) => setQuery({ search: text })}
        placeholder="Search log lines" />
      ${choice("Level", wanted.level || "debug", (level) => setQuery({ level: level === "debug" ? "" : level }), LEVELS, "field-inline")}
      ${choice("Within", wanted.since, (since) => setQuery({ since }), RANGES, "field-inline")}
      ${
        wanted.job_type &&
        html`<button type="button" class="chip" onClick=${() => setQuery({ job_type: "" })}>
          type: ${wanted.job_type} ×
        </button>`
      }
    </div>
    <section class="card" aria-label="Log lines">
      ${
        !read.value
          ? html`<${Unread} of=${read} what="the log lines" />`
          : read.value.lines.length === 0
            ? html`<${Empty}
              title=${read.value.next ? "None in the lines searched so far" : Object.keys(filter).length > 0 ? "No log line matches" : "No log lines yet"} />`
            : html`<${Lines} lines=${read.value.lines} />`
      }
      ${pager({
        "Later lines": pages.length > 1 && (() => setPages(pages.slice(0, -1))),
        "Earlier lines": read.value?.next && (() => setPages([...pages, read.value.next])),
      })}
    </section>
  </div>`;
}

/** @param {{lines: FoundLine[]}} props */
function Lines({ lines }) {
  return html`<ul class="found-lines">
    ${lines.map(
      (line) => html`<li key=${line.id} class="found-line" data-level=${line.log_level}>
        <time datetime=${line.created_at} title=${utc(line.created_at)}>
          ${utc(line.created_at).slice(5, 11)}
          ${clock(line.created_at).slice(0, 12)}
        </time>
        <span class="log-level">${line.log_level}</span>
        <a href=${`/jobs/${line.job_id}`} title=${`attempt ${line.attempt}`}>
          ${line.job_type} <span class="mono small">${shortId(line.job_id)}</span>
        </a>
        <span class="log-text">
          ${line.message}
          ${
            hasMore(line) &&
            html` <details class="more inline"><summary>more</summary><pre>${pretty(line.metadata)}</pre></details>
            `
          }
        </span>
      </li>`,
    )}
  </ul>`;
}
