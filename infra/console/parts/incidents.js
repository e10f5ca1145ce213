// What is wrong with the whole, in a line each, at the top of every page.

import { rpc, silence, supabase, whole } from "../api.js";
import { clock, duration, serverNow } from "../lib/format.js";
import { watchWorkspace } from "../lib/jobs/watch.js";
import { usePolling, useRead, useStore } from "../lib/store.js";
import { html, useEffect, useState } from "../lib/ui.js";

const EVERY_MS = 10_000;
const LATE_MS = 3 * 60_000; // a schedule's minute, and the next

/** What is to be said: `[text, address, words of the link]`, or `[text, command]`. */
async function read(workspace, signal) {
  const [health, stats, known] = await Promise.allSettled([
    whole.health(signal),
    whole.stats(workspace.id, 15, signal),
    rpc("list_schedules", { p_workspace_id: workspace.id }, signal),
  ]);
  const { database, last_tick: tick } = health.value?.checks ?? {};
  const found = [];
  if (database?.verdict === "fail")
    found.push([`Database: ${database.detail.split(";")[0]}.`, "/overview", "What to do"]);
  // unknown, and so without a value, while the database is unavailable
  if (tick?.verdict === "fail" && tick.value !== null)
    found.push([
      `No worker has run for ${duration(tick.value * 1000)}: nothing starts.`,
      "minutehand doctor --only schedule",
    ]);
  for (const name of ["maintenance", "transactions"]) {
    const { verdict, detail } = health.value?.checks?.[name] ?? {};
    if (verdict === "warn") found.push([`${detail}.`, `minutehand doctor --only ${name}`]);
  }
  const { backlog, pauses = [] } = stats.value ?? {};
  if (backlog && backlog.verdict !== "pass")
    found.push([`Due jobs: ${backlog.detail}.`, "/jobs?state=queued", "Which"]);
  for (const { kind, name, job_type: type, reason } of pauses) {
    const what = kind === "workspace" ? workspace.name : (type ?? `The queue ${name}`);
    const text = `${what} is paused${reason ? `: ${reason}` : ""}.`;
    if (kind === "workspace") found.push([text, "/overview", "Resume it"]);
    else if (kind === "workspace_type")
      found.push([text, `/types/${encodeURIComponent(type)}`, "Resume it"]);
    else found.push([text, `minutehand resume --${kind} ${name}`]); // an operator's
  }
  for (const { name, enabled, problem, next_at: next } of known.value?.schedules ?? []) {
    const isLate = enabled && next && Date.parse(next) < serverNow() - LATE_MS;
    if (problem || isLate)
      found.push([`Schedule ${name}: ${problem ?? "late"}.`, "/schedules", "Schedules"]);
  }
  return found;
}

const SERVERS = { data: "The Data API", api: "The API" };

/** Which server does not answer, and since when. */
function useSilence() {
  const since = useStore(silence);
  const from = (server) => clock(new Date(since[server]).toISOString()).slice(0, 8);
  return Object.keys(SERVERS)
    .filter((server) => since[server])
    .map((server) => [
      `${SERVERS[server]} has not answered since ${from(server)} UTC: what is shown may be old.`,
    ]);
}

export function Incidents({ workspace }) {
  const found = useRead((signal) => read(workspace, signal), [workspace.id]);
  const [freshness, setFreshness] = useState("live");
  usePolling(found, EVERY_MS);
  useEffect(() => {
    const onChange = (state) => setFreshness(state.freshness);
    const watch = watchWorkspace(supabase(), workspace.id, { onChange });
    return () => watch.close();
  }, [workspace.id]);
  const lines = [...useSilence(), ...(found.value ?? [])];
  if (freshness === "polling" && lines.length === 0)
    lines.push(["Realtime is unavailable: pages read every few seconds instead."]);
  if (lines.length === 0) return null;
  return html`<section class="incidents" aria-label="Needs attention" aria-live="polite">
    ${lines.map(
      ([text, to, words]) => html`<p key=${text}>
        ${text} ${words ? html`<a href=${to}>${words}</a>` : to && html`<code>${to}</code>`}
      </p>`,
    )}
  </section>`;
}
