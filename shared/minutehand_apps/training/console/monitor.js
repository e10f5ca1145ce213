// Page that lists the jobs of all trainings. The filters are stored in the URL of the page.

import {
  atLeast,
  choice,
  Empty,
  Freshness,
  html,
  liveList,
  objectHead,
  quietButton,
  setQuery,
  stateOf,
  useLivePages,
  useQuery,
  useRef,
} from "../../app.js";
import { isLiveJob, JOB_TYPES, MAKES, MAX_COUNTED, monitored } from "./data.js";
import { attributesOf, columnsOf } from "./job-monitor.js";

export const title = () => "Jobs of trainings";

const STATUSES = ["pending", "processing", "failed", "completed", "cancelled"];

export default function Monitor({ workspace }) {
  const query = useQuery();
  const [status, type] = [query.get("status") ?? "", query.get("type") ?? ""];
  const found = useLivePages(
    workspace.id,
    (id, after, signal) => monitored(id, { status, type, after }, signal),
    {
      search: `${status} ${type}`,
      liveOf: (pages) => [
        ...new Set(
          pages.flatMap(({ jobs }) =>
            jobs.filter(isLiveJob).map((job) => `training:${job.training_id}`),
          ),
        ),
      ],
    },
  );
  const rows = found.value?.flatMap((page) => page.jobs) ?? [];
  const last = useRef({}); // last counts, shown while the jobs for another filter load
  if (found.value) last.current = found.value[0].counts;
  const counts = last.current;
  const tab = (name, word, tone) => {
    const chosen = Object.entries({ status: name, type }).filter(([, value]) => value);
    return html`<a
      key=${word}
      class="group"
      data-tone=${counts[name] > 0 ? tone : undefined}
      aria-current=${status === name ? "true" : undefined}
      href=${`/trainings/monitor?${new URLSearchParams(chosen)}`}>
      ${`${word} `}
      ${
        counts[name] > 0 &&
        html`<span class="group-count num">
          ${atLeast(counts[name], counts[name] >= MAX_COUNTED)}
        </span>`
      }
    </a>`;
  };
  return html`<div class="page">
    ${objectHead(html`<a href="/trainings">Training</a>`, "Jobs", null, html`<${Freshness} value=${found.freshness} />`)}
    <div class="bar">
      <nav class="groups" aria-label="Jobs by state">
        ${tab("", "All")}
        ${STATUSES.map((name) => tab(name, stateOf(name).word, stateOf(name).tone))}
      </nav>
      <span class="spacer"></span>
      ${choice(
        "Job",
        type,
        (value) => setQuery({ type: value }),
        [["", "All jobs"], ...JOB_TYPES.map((name) => [name, MAKES[name]])],
        "field-inline",
        "hidden",
      )}
    </div>
    ${liveList(
      {
        of: found,
        what: "jobs",
        label: "Jobs",
        rows,
        key: (job) => job.id,
        attributes: attributesOf,
        empty:
          status || type
            ? html`<${Empty} title="No such job">
                ${quietButton("Show all jobs", () => setQuery({ status: "", type: "" }))}
              <//>`
            : html`<${Empty} title="No jobs yet">
                <p>Upload a video in <a href="/trainings">Training</a>, and its jobs are listed here.</p>
              <//>`,
      },
      columnsOf(found.refresh),
    )}
  </div>`;
}
