// Shows a live list of a workspace's jobs with tabs, filters, search, selection and actions.

import { problems } from "../api.js";
import { atLeast, duration, percentage, pluralize, serverNow, shortId } from "../lib/format.js";
import { navigate } from "../lib/router.js";
import { useJobList } from "./job-list.js";
import { isTyping, useKey } from "../lib/keys.js";
import { NAMES, nextRunOf, STATES } from "../lib/states.js";
import { useStore } from "../lib/store.js";
import {
  classes,
  html,
  isPhone,
  useEffect,
  useLayoutEffect,
  useMemo,
  useRef,
  useState,
} from "../lib/ui.js";
import { useVirtual } from "../lib/virtual.js";
import { Freshness, JobProgress, StateBadge, useJobState } from "./badge.js";
import { Remedy, Selection } from "./bulk-actions.js";
import { Choices, Chips, FIELDS, IN_TROUBLE, queryOf } from "./job-filters.js";
import { EmptyState } from "./no-jobs.js";
import {
  briefOf,
  causeOf,
  countJobs,
  keyOf,
  limited,
  ProblemLine,
  sizeOf,
  useCauses,
  useGroups,
  worstTone,
} from "./problem-lines.js";
import { questionOf } from "./question.js";
import { SearchBox } from "./search.js";
import { Loading, Stale } from "./states-of-view.js";
import { Elapsed, useNow, When } from "./when.js";

/** Return the height of a row, as `.job-row` in jobs.css sets it. */
const rowHeight = () => (isPhone() ? 70 : 36);

/** Names of the columns, with their CSS classes. */
const HEADS = {
  Job: "",
  State: "c-state",
  Created: "c-time",
  Duration: "c-duration num",
  Id: "c-id",
};

/** Return a filter that removes these fields from the address. */
const emptied = (names) => Object.fromEntries(names.map((name) => [name, ""]));

/**
 * Shows a list of jobs. The caller stores the filters of the list in the address of the page. A
 * filter with an empty value is removed from the address.
 */
export function JobMonitor({ workspaceId, filter, onFilter }) {
  const key = JSON.stringify(filter);
  const query = useMemo(() => queryOf(filter), [key]);
  const countFilter = useMemo(() => queryOf({ ...filter, state: "" }), [key]);
  const { attention } = useStore(problems);
  const causes = useCauses();
  const groups = useGroups();
  const isGrouped = filter.state === "attention";
  const [opened, setOpened] = useState(new Set()); // keys of the groups whose jobs are shown
  const [chosen, setChosen] = useState(new Set());
  const distinct = causes.filter(
    ({ job_type: type }) => !filter.job_type || type === filter.job_type,
  );
  // groups are of one type, but other filters match a part of their jobs
  const isPart = FIELDS.some((name) => !["state", "job_type"].includes(name) && filter[name]);
  const isClosed = (group) => !isPart && (isOne(group) || !opened.has(keyOf(group)));
  const isAlone = distinct.length === 1;
  if (isAlone) opened.add(keyOf(distinct[0])); // it stays open when another group appears
  // of a closed group, only the chosen jobs are read
  const read = distinct.flatMap((group) =>
    group.job_ids.filter((id) => !isClosed(group) || chosen.has(id)),
  );
  const listed = attention ? [...new Set(read)] : null;
  const { list, state } = useJobList(
    workspaceId,
    query,
    countFilter,
    isGrouped ? listed : undefined,
  );
  // the list keeps rows of jobs that no longer need attention
  const rows = state.rows.filter(({ id }) => !isGrouped || groups.has(id));
  const heads = isPart ? distinct.flatMap((group) => limited(group, rows)) : distinct;
  const lines = isGrouped ? groupRows(rows, heads, isClosed) : rows.map((row) => ({ row }));
  const view = useVirtual({ count: lines.length, rowHeight: rowHeight(), isWhole: isGrouped });
  const picked = rows.filter((row) => chosen.has(row.id));
  const ids = useRef([]);
  const inView = isGrouped ? lines : lines.slice(view.start, view.end);
  const visible = inView.flatMap(({ row }) => row ?? []);
  ids.current = [...new Set([...visible, ...picked].map((row) => row.id))];
  useLayoutEffect(() => list.current?.watchVisible(() => ids.current), [list.current]);
  useEffect(() => list.current?.readVisible(), [view.start, view.end]);
  useEffect(() => {
    const ahead = view.start > 0 ? 30 : 0; // a refresh reads only the rows in view
    if (!state.error && view.end + ahead > lines.length) list.current?.more();
  }, [view.start, view.end, state]);
  useLayoutEffect(() => setChosen(new Set()), [workspaceId, key]);
  const lastPicked = useRef([]);
  // with the Shift key, also choose the rows between the last chosen row or group and this one
  const pick = (some, { shiftKey }) => {
    const inOrder = lines.flatMap((line) => line.row?.id ?? (isClosed(line.group) ? line.ids : []));
    const ends = [...(shiftKey ? lastPicked.current : []), ...some]
      .map((id) => inOrder.indexOf(id))
      .filter((at) => at >= 0);
    setChosen(toggled(inOrder.slice(Math.min(...ends), Math.max(...ends) + 1)));
    lastPicked.current = some;
  };
  const isShown = lines.length > 0;
  const all = lines.flatMap((line) => line.ids ?? (isGrouped ? [] : line.row.id));
  const isAllChosen = all.every((id) => chosen.has(id));
  const retry = () => list.current.refresh();
  useKey(isMoveKey, moveByKey);
  useKey(
    isSpaceOnRow,
    ({ target, repeat }) => repeat || target.closest("tr").querySelector("input").click(),
  );
  const spacer = (height, name) =>
    height > 0 &&
    html`<tbody aria-hidden="true" key=${name}>
      <tr class="spacer-row"><td style=${{ height: `${height}px` }}></td></tr>
    </tbody>`;
  const done = () => {
    setChosen(new Set());
    retry();
  };
  const drawn = lines.slice(view.first, view.last).map((line, n) => [line, view.first + n]);
  const bodies = [...Map.groupBy(drawn, ([{ group }]) => group)];
  const draw = ([{ row, group, ids: ofGroup, jobs }, index]) =>
    row
      ? html`<${Row}
          key=${row.id}
          row=${row}
          known=${group}
          trouble=${groups.get(row.id)}
          index=${index}
          isChosen=${chosen.has(row.id)}
          pick=${pick} />`
      : html`<${GroupHead}
          key="head"
          group=${group}
          jobs=${jobs}
          index=${index}
          isClosed=${isClosed(group)}
          flip=${!(isPart || isAlone || isOne(group)) && (() => setOpened(toggled([keyOf(group)])))}
          isChosen=${ofGroup[0] && ofGroup.every((id) => chosen.has(id))}
          isPartChosen=${ofGroup.some((id) => chosen.has(id))}
          pick=${(event) => pick(ofGroup, event)}
          here=${listOf(filter)}
          buttons=${group.parts.map(
            (part) => html`<${Remedy}
            key=${part.kind}
            group=${part}
            rows=${rows.filter(({ id }) => part.job_ids.includes(id))}
            workspaceId=${workspaceId}
            done=${done} />`,
          )} />`;
  const tabs = html`<${Tabs}
    key="tabs"
    counts=${state.counts}
    filter=${filter} />`;
  return html`<div class="monitor">
    ${!isPhone() && tabs}
    <div class="bar">
      <${SearchBox}
        value=${filter.search ?? ""}
        onChange=${(search) => onFilter({ search })} />
      ${isPhone() && tabs}
      <${Choices}
        workspaceId=${workspaceId}
        rows=${rows}
        filter=${filter}
        onFilter=${onFilter} />
      <${Chips} filter=${filter} onFilter=${onFilter} />
      ${filter.state === "failed" && html`<a href="/jobs?grouped=1">Group by error</a>`}
      <span class="spacer"></span>
      <${Freshness} value=${state.freshness} />
    </div>
    ${state.error && lines.length > 0 && html`<${Stale} error=${state.error} retry=${retry} />`}
    ${
      !isShown &&
      (state.isLoading && !state.error
        ? html`<${Loading} what="Reading jobs" />`
        : html`<${EmptyState}
        state=${state}
        filter=${filter}
        none=${emptied(FIELDS)}
        onFilter=${onFilter}
        retry=${retry} />`)
    }
    <div
      class="table-scroll"
      ref=${view.ref}
      tabindex="0"
      role="region"
      aria-label="Jobs"
      hidden=${!isShown}>
      <table class="table jobs-table" aria-rowcount=${state.isAll ? lines.length + 1 : -1}>
        <thead>
          <tr>
            <th scope="col" class="c-check">
              <label class="tick">
                <input
                  type="checkbox"
                  checked=${isAllChosen}
                  indeterminate=${!isAllChosen && all.some((id) => chosen.has(id))}
                  onChange=${() => setChosen(toggled(all))} />
                <span class="hidden">Select all loaded jobs</span>
              </label>
            </th>
            ${Object.entries(HEADS).map(([name, of]) => html`<th scope="col" key=${name} class=${of}>${name}</th>`)}
          </tr>
        </thead>
        ${spacer(view.before, "before")}
        ${bodies.map(([group, body]) => html`<tbody key=${group && keyOf(group)}>${body.map(draw)}</tbody>`)}
        ${spacer(view.after + (state.isAll ? 0 : rowHeight()), "after")}
      </table>
    </div>
    ${
      isShown &&
      (picked.length > 0 || (!isGrouped && !state.isAll && Object.values(filter).some(Boolean))) &&
      html`<${Selection}
        picked=${picked}
        state=${filter.state}
        query=${query}
        workspaceId=${workspaceId}
        done=${done} />`
    }
    ${
      isShown &&
      html`<p class="muted small foot num">
        ${
          isGrouped && !isPart
            ? `${sizeOf(distinct, "job")} in ${pluralize(distinct.length, "group")}`
            : `${pluralize(rows.length, "job")}${state.isAll ? "" : " loaded, more below"}`
        }
      </p>`
    }
  </div>`;
}

/** Return whether a group has one job. */
const isOne = ({ jobs, more }) => jobs === 1 && !more;

/** Return a function that adds values to a set, or removes them if the set has all of them. */
const toggled = (values) => (now) => {
  const isAdded = values.some((value) => !now.has(value));
  return new Set([...now, ...values].filter((value) => isAdded || !values.includes(value)));
};

/**
 * Return the lines of a list of groups: a heading for each group, with the ids of its jobs, and the
 * jobs of each open group. A job of two groups is in the first.
 */
function groupRows(rows, heads, isClosed) {
  const listed = new Set();
  return heads.flatMap((group) => {
    const ids = group.job_ids.filter((id) => !listed.has(id));
    for (const id of ids) listed.add(id);
    const jobs = rows.filter(({ id }) => ids.includes(id));
    const shown = isClosed(group) ? [] : jobs;
    return [{ group, ids, jobs }, ...shown.map((row) => ({ group, row }))];
  });
}

/**
 * Links to the jobs that need attention and to the lists of jobs in each state, with the number of
 * jobs. A phone shows a select, because it has no room for all links.
 */
function Tabs({ counts, filter }) {
  const { attention = [] } = useStore(problems);
  const groups = useGroups();
  const { state: chosen = "", job_type: type } = filter;
  const { rows, isPart, at_least: most } = counts;
  const listed = attention.filter(({ job_type: of }) => !type || of === type);
  // the ids of a group may be incomplete
  const isCounted =
    !rows || !(isPart || listed.some(({ jobs, job_ids: ids }) => jobs > ids.length));
  const inTrouble = (isMatch) =>
    rows
      ? rows.filter(({ id, state }) => IN_TROUBLE.includes(state) && isMatch(groups.get(id) ?? {}))
          .length
      : countJobs(listed.filter(isMatch));
  const entry = (name, word, tone, count = counts.states[name] ?? 0) => {
    const isMore = most.includes(name);
    const jobs = name === "running" ? inTrouble(({ kind }) => kind === "silent") : 0;
    return {
      ...{ name, word, tone: count > 0 || !isCounted ? tone : undefined },
      href: listOf({ ...filter, state: name || "all" }),
      isCurrent: chosen === name,
      shown: (count > 0 || isMore) && atLeast(count, isMore),
      isEmpty: STATES[name] && count === 0 && !isMore && !isPart,
      note: jobs > 0 && `${isCounted && jobs !== count ? `${jobs} ` : ""}silent`,
    };
  };
  const total = isCounted ? inTrouble(({ kind }) => kind) : 0;
  const tabs = [
    ...(total > 0 || (!isCounted && listed.length > 0) || chosen === "attention"
      ? [
          entry(
            "attention",
            "Needs attention",
            worstTone(rows?.flatMap(({ id }) => groups.get(id) ?? []) ?? listed),
            total,
          ),
        ]
      : []),
    entry("", "All"),
    ...NAMES.map((name) => {
      const { word, tone } = STATES[name];
      return entry(name, word, /^(retrying|failed)$/.test(name) ? tone : undefined);
    }),
  ];
  if (isPhone())
    return html`<select aria-label="State" onChange=${(event) => navigate(event.target.value)}>
      ${tabs.map(
        ({ href, word, shown, note, isCurrent }) =>
          html`<option key=${href} value=${href} selected=${isCurrent}>
            ${[word, shown, note && `· ${note}`].filter(Boolean).join(" ")}
          </option>`,
      )}
    </select>`;
  return html`<nav class="groups" aria-label="Jobs by state">
    ${tabs.map(
      ({ name, href, word, tone, shown, note, isCurrent, isEmpty }) => html`<a
        key=${name}
        class=${classes("group", isEmpty && !isCurrent && "small")}
        data-tone=${tone}
        data-group=${name || "all"}
        aria-current=${isCurrent ? "true" : undefined}
        href=${href}>
        ${word}${shown && html` <span class="group-count num">${shown}</span>`}
        ${note && html` · <span data-tone="waiting">${note}</span>`}
      </a>`,
    )}
  </nav>`;
}

/** Return the address of the list of jobs with a filter. */
function listOf(filter) {
  const query = new URLSearchParams(Object.entries(filter).filter(([, value]) => value));
  return ["/jobs", query].filter(String).join("?");
}

/** Return the first line of an error as groups of `attention` have it. */
const firstLine = (error) =>
  /\S[^\n]*/
    .exec(error)?.[0]
    .slice(0, 200)
    .replace(/[ .:]+$/, "") ?? error;

/**
 * Return the error of a job, the line at which a silent job hangs, or null. The head of the group
 * `known` shows the same error, or the same line, for which the result is an empty text. The error
 * of a running job is that of an earlier attempt.
 */
function troubleOf({ status, error, error_message: message, attempts }, known, trouble) {
  if (status === "processing" && trouble?.seen)
    return known ? "" : trouble.seen.replace("its ", "").replace(/\S*\/(?=\S+:\d+$)/, "");
  const hasFailed = /failed|pending/.test(status) || (status === "processing" && attempts > 1);
  return message && hasFailed && firstLine(error) !== known?.error ? error : null;
}

/**
 * Row above the jobs of a group of `attention`, with the cause, a button, and what to do. The row of
 * a group of one job is a link to the job.
 */
function GroupHead({
  group,
  jobs,
  index,
  isClosed,
  flip,
  isChosen,
  isPartChosen,
  pick,
  here,
  buttons,
}) {
  const { kind, error, parts, line } = group;
  const { subject, count, cause, time } = briefOf({ ...group, reason: null, groups: parts });
  // its tab counts only the jobs that wait for their next run
  const isWhole = kind === "retrying" && jobs.length >= group.jobs;
  const due = isWhole && jobs.filter(({ state }) => /queued|running/.test(state)).length;
  const name = `${subject} ${count}${due ? `, ${due} of them due or running` : ""}`;
  return html`<tr
    class="group-row"
    aria-rowindex=${index + 2}
    data-tone=${worstTone(parts)}>
    <td class="c-check">
      <label class="tick">
        <input
          type="checkbox"
          checked=${isChosen}
          indeterminate=${!isChosen && isPartChosen}
          onClick=${pick} />
        <span class="hidden">Select ${name}</span>
      </label>
    </td>
    <th scope="rowgroup">
      <${ProblemLine}
        line=${line}
        name=${
          flip
            ? html`<button type="button" class="plain" aria-expanded=${!isClosed} onClick=${flip}>
                ${isClosed ? "▸" : "▾"} ${name}
              </button>`
            : isClosed
              ? html`<a class="plain" href=${`/jobs/${group.job_ids[0]}`}>${name}</a>`
              : name
        }
        cause=${cause}
        error=${error}
        time=${time}
        here=${here}
        buttons=${buttons} />
    </th>
  </tr>`;
}

function Row({ row, known, trouble, index, isChosen, pick }) {
  const error = troubleOf(row, known, trouble);
  const isEarlier = row.status === "processing" && error === row.error;
  const { message, stage } = (row.status !== "completed" && row.progress) || {};
  const texts = [row.glimpse, error ?? (questionOf(row.waiting_for) || message || stage)].filter(
    Boolean,
  );
  return html`<tr
    aria-rowindex=${index + 2}
    class=${classes("job-row", isChosen && "chosen")}
    data-job=${row.id}
    data-status=${row.status}>
    <td class="c-check">
      <label class="tick">
        <input type="checkbox" checked=${isChosen} onClick=${(event) => pick([row.id], event)} />
        <span class="hidden">Select ${row.job_type} ${shortId(row.id)}</span>
      </label>
    </td>
    <td>
      <a class="row-link" href=${`/jobs/${row.id}`} title=${texts.join("\n")}>
        <span class="job-type">${row.job_type}</span>
        ${texts.map((text) => {
          const isBad = text === error;
          const note = classes("job-note", isBad && "bad", isBad && isEarlier && "muted");
          return html`<span key=${text} class=${note} data-whole=${isBad && text.length > 40 ? text : null}>
            ${isBad && isEarlier && "earlier: "}${isBad ? causeOf(text) : text}
          </span>`;
        })}
      </a>
    </td>
    <td class="c-state">
      <${StateBadge} job=${row} cancelling=${Boolean(row.cancel_requested_at)} compact />
      <${StateNote} row=${row} />
    </td>
    <td class="c-time"><${When} at=${row.created_at} /></td>
    <td class="c-duration num"><${RunTime} row=${row} /></td>
    <td class="c-id mono small muted">${shortId(row.id)}</td>
  </tr>`;
}

/** Words for an update in the last minute. Its time is known up to 15 seconds late. */
const LATELY = { output: "streaming", log: "logging" };

/**
 * Shows the progress of a running job or its last update, or the time of a delayed job's next run,
 * and the attempts of a job that has failed. A phone shows the duration or the time of creation
 * instead of the last update, because it has no columns for them.
 */
function StateNote({ row }) {
  const next = useJobState(row) !== "queued" && nextRunOf(row);
  const isRunning = row.status === "processing";
  // a job that waits has ended its last attempt
  const attempt = row.attempts + Number(row.status === "pending");
  const hasFailed = row.status === "failed" || (attempt > 1 && row.status !== "waiting");
  const more = isRunning ? html`<${RunTime} row=${row} />` : html`<${When} at=${row.created_at} />`;
  const done = isRunning && percentage(row.progress);
  const update = done === 0 && row.times?.last_update;
  const age = useNow(Boolean(update)) - Date.parse(update?.at);
  return html`<span class="state-note small muted">
    ${isRunning && html`<${JobProgress} job=${row} compact />`}
    ${
      update &&
      html`<span class="phone-less">
        ${
          age < 60_000
            ? (LATELY[update.kind] ?? "active")
            : html`last ${update.kind} <${When} at=${update.at} />`
        }
      </span>`
    }
    ${!next && html`<span class="phone">${more}</span>`}
    ${
      hasFailed &&
      html`${!next && html`<span class=${update || done ? undefined : "phone"}> · </span>`}
        <span class="num">
          <span class="phone-less">attempt </span>${attempt} of ${row.max_attempts}
        </span>`
    }
    ${next && html` <${When} at=${next} />`}
  </span>`;
}

/** Return the total duration of all runs of a job in milliseconds, or NaN before its first run. */
const runMsOf = ({ status, running_since: since, started_at: start, times }) =>
  status === "processing" && since
    ? serverNow() - Date.parse(since) + (times?.earlier_ms ?? 0)
    : Number((start && times?.run_ms) ?? Number.NaN);

/** Shows the total duration of all runs of a job, which counts up while the job runs. */
export function RunTime({ row }) {
  if (row.status === "processing" && row.running_since)
    return html`<${Elapsed} from=${row.running_since} before=${row.times?.earlier_ms} />`;
  const runMs = runMsOf(row);
  return Number.isFinite(runMs) ? duration(runMs) : html`<span class="none">–</span>`;
}

/** Return whether the space key is pressed on a row, to click its checkbox. */
const isSpaceOnRow = ({ key, target }) =>
  key === " " && target.matches(".row-link, .group-head .plain");

/** Number of rows by which a key moves the keyboard focus. */
const STEPS = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1 };

/**
 * Return whether a key moves the keyboard focus between rows. The keys j and k always move the
 * focus, but arrow keys only if a row has the focus, because they otherwise scroll the page.
 */
const isMoveKey = (event) =>
  event.key in STEPS &&
  !isTyping(event) &&
  !(event.ctrlKey || event.metaKey || event.altKey) &&
  (event.key.length === 1 || event.target.closest(".job-row, .group-row"));

/**
 * Move the keyboard focus to the checkbox, link or button of the next or previous row. If no row has
 * the focus, move the focus to the first row.
 */
function moveByKey({ key, target }) {
  const rows = [...document.querySelectorAll(".job-row, .group-row")];
  const at = rows.indexOf(target.closest("tr"));
  const next = rows[at + (at < 0 ? 1 : STEPS[key])];
  const link = !target.matches("input") && next?.querySelector("a, button");
  (link || next?.querySelector("input"))?.focus();
}
