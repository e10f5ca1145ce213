// Dead letters by what went wrong: one line per fingerprint, each with its redrive.

import { jobs as api, operations } from "../api.js";
import { counted, number } from "../lib/format.js";
import { useRead } from "../lib/store.js";
import { html } from "../lib/ui.js";
import { ActionButton, confirm } from "./dialog.js";
import { Empty, Failed, Loading } from "./states-of-view.js";
import { tell, tellFailure } from "./toasts.js";
import { When } from "./when.js";

const MOST = 1000;

/** Jobs that failed alike, the largest group first. Pure. */
export function grouped(rows) {
  const groups = new Map();
  for (const row of rows) {
    const key = `${row.job_type} ${row.error_fingerprint}`;
    const group = groups.get(key) ?? { key, job_type: row.job_type, fingerprint: row.error_fingerprint, message: row.error_message, count: 0, first: row.completed_at, last: row.completed_at, sample: row.id };
    group.count += 1;
    if (row.completed_at < group.first) group.first = row.completed_at;
    if (row.completed_at > group.last) Object.assign(group, { last: row.completed_at, message: row.error_message, sample: row.id });
    groups.set(key, group);
  }
  return [...groups.values()].sort((a, b) => b.count - a.count || (a.last < b.last ? 1 : -1));
}

/** @param {{workspaceId: string}} props */
export function DeadLetters({ workspaceId }) {
  const letters = useRead(() => operations.deadLetters(workspaceId, MOST), [workspaceId]);
  if (!letters.value) return letters.error ? html`<${Failed} error=${letters.error} retry=${letters.refresh} what="The dead letters could not be read" />` : html`<${Loading} what="Reading dead letters" />`;
  const groups = grouped(letters.value);
  if (groups.length === 0) return html`<${Empty} title="No dead letters">Jobs that run out of attempts, or that cannot succeed, are kept here for you to read and revive.<//>`;
  const redrive = async (group) => {
    if (!(await confirm({ title: `Redrive ${counted(group.count, "job")}?`, text: `Every failed ${group.job_type} job with this error starts again with fresh attempts.`, action: `Redrive ${counted(group.count, "job")}` }))) return;
    try {
      let count = 0;
      for (let more = true; more; ) {
        const result = await api.redriveMany(workspaceId, { job_type: group.job_type, ...(group.fingerprint && { error_fingerprint: group.fingerprint }) });
        count += result.count;
        more = result.more && result.count > 0;
      }
      tell(`Redriven ${counted(count, "job")}`);
    } catch (error) {
      tellFailure("Not redriven", error);
    }
    letters.refresh();
  };
  return html`${letters.value.length === MOST && html`<p class="muted small">Of the latest ${number(MOST)}.</p>`}
    <div class="scroll-x" tabindex="0" role="group" aria-label="Dead letters"><table class="table"><thead><tr><th scope="col" class="num">Jobs</th><th scope="col">Type</th><th scope="col">Error</th><th scope="col">Latest</th><th scope="col">Fingerprint</th><th scope="col"><span class="hidden">Actions</span></th></tr></thead>
    <tbody>${groups.map((group) => html`<tr key=${group.key}><td class="num strong">${number(group.count)}</td><td class="wrap">${group.job_type}</td>
      <td class="wrap wide"><a class="clamp" href=${`/jobs/${group.sample}`} title=${group.message}>${group.message ?? "no message"}</a></td><td><${When} at=${group.last} /></td><td class="mono small muted">${group.fingerprint ?? "–"}</td>
      <td class="num"><${ActionButton} run=${() => redrive(group)}>Redrive ${number(group.count)}<//></td></tr>`)}</tbody></table></div>`;
}
