// Shows problems of the whole system at the top of every page. Of several problems, only the first
// is shown in full.

import { session, outage, supabase, engine } from "../api.js";
import { clock } from "../lib/format.js";
import { watchWorkspace } from "../lib/jobs/watch.js";
import { usePolling, useFetch, useStore } from "../lib/store.js";
import { html, useEffect, useState } from "../lib/ui.js";
import { Step } from "./holders.js";
import { Sentence } from "./when.js";

const POLL_MS = 15_000;
const LATE_MS = 15_000; // a slow machine or network may join a topic this late

const outageLine = (since) =>
  `The Data API has not responded since ${clock(new Date(since).toISOString()).slice(0, 8)}.`;

const NO_REALTIME =
  "Realtime is unavailable. Pages read every few seconds instead. Check its service at your host.";

const NOT_READ = "Problems could not be read. `minutehand doctor` shows why.";

/**
 * Section that lists the current problems. To users who may see only an app's pages, the section
 * shows only whether there is an outage.
 */
export function Incidents({ workspace, isApp }) {
  const { user } = useStore(session);
  const findings = useFetch(
    async () =>
      isApp ? [] : (await engine.explain(user?.isOperator ? null : workspace.id)).findings,
    [workspace.id, isApp],
  );
  const [freshness, setFreshness] = useState("live");
  usePolling(findings, isApp ? null : POLL_MS);
  useEffect(() => {
    if (isApp) return setFreshness("live");
    const onChange = (state) => setFreshness(state.freshness);
    const watch = watchWorkspace(supabase(), workspace.id, { onChange, isPausable: true });
    return () => watch.close();
  }, [workspace.id, isApp]);
  const [isWithoutRealtime, setIsWithoutRealtime] = useState(false);
  useEffect(() => {
    setIsWithoutRealtime(false);
    const timer = freshness === "polling" && setTimeout(setIsWithoutRealtime, LATE_MS, true);
    return () => clearTimeout(timer);
  }, [freshness]);
  const since = useStore(outage);
  const lines = [...(findings.value ?? [])];
  if (since) lines.unshift({ verdict: "fail", sentence: outageLine(since) });
  else if (isWithoutRealtime) lines.unshift({ sentence: NO_REALTIME });
  if (findings.error?.reachable)
    lines.unshift({ verdict: "fail", sentence: NOT_READ, cause: findings.error.message });
  if (lines.length === 0) return null;
  const [first, ...rest] = lines.map(
    ({ sentence, cause, next: [step] = [] }) => html`<p key=${sentence}>
      <${Sentence} text=${sentence} />
      ${cause && html` <span class="muted">Cause: ${cause.replace(/\.?$/, ".")}</span>`}
      ${step && html` <${Step} ...${step} />`}
    </p>`,
  );
  return html`<section
    class="incidents"
    data-tone=${lines.some(({ verdict }) => verdict === "fail") ? "failed" : "waiting"}
    aria-label="Needs attention"
    aria-live="polite">
    ${first}
    ${
      rest.length > 0 &&
      html`<details>
        <summary>${rest.length} more</summary>
        ${rest}
      </details>`
    }
  </section>`;
}
