// What is wrong with the whole, in a line each, at the top of every page.

import { schedules, supabase, whole } from "../api.js";
import { watchWorkspace } from "../lib/jobs/watch.js";
import { usePolling, useRead } from "../lib/store.js";
import { html, useEffect, useState } from "../lib/ui.js";

const EVERY_MS = 15_000;
const LATE_MS = 3 * 60_000; // a schedule's minute, and the next
const CHECKS = {
  database: "Database",
  backlog: "Due jobs",
  last_tick: "Worker",
};

/** What is to be said: `[text, address, words of the link]`. */
async function read(workspace, signal) {
  const found = [];
  const [health, stats, known] = await Promise.allSettled([
    whole.health(signal),
    whole.stats(workspace.id, 15, signal),
    schedules.list(workspace.id, signal),
  ]);
  if (health.status === "rejected") return [["The API does not answer.", "/overview", "Overview"]];
  for (const [name, label] of Object.entries(CHECKS)) {
    const check = health.value.checks?.[name];
    if (check?.verdict === "fail")
      found.push([`${label}: ${check.detail}`, "/overview", "Overview"]);
  }
  for (const { kind, name, job_type: type, reason } of stats.value?.pauses ?? []) {
    const what = kind === "workspace" ? workspace.name : (type ?? name);
    const to = type ? `/types/${encodeURIComponent(type)}` : "/overview";
    found.push([`${what} is paused${reason ? `: ${reason}` : ""}.`, to, "Where to resume it"]);
  }
  for (const { name, enabled, problem, next_at: next } of known.value ?? []) {
    const isLate = enabled && next && Date.parse(next) < Date.now() - LATE_MS;
    if (problem || isLate)
      found.push([`Schedule ${name}: ${problem ?? "late"}.`, "/schedules", "Schedules"]);
  }
  return found;
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
  const lines = [
    ...(freshness === "polling"
      ? [
          [
            "Realtime is unavailable: pages read every few seconds instead.",
            "/overview",
            "Overview",
          ],
        ]
      : []),
    ...(found.value ?? []),
  ];
  if (lines.length === 0) return null;
  return html`<section class="incidents" aria-label="Needs attention" aria-live="polite">
    ${lines.map(([text, href, words]) => html`<p key=${text}>${text} <a href=${href}>${words}</a></p>`)}
  </section>`;
}
