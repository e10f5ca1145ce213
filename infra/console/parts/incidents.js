// Shows problems of the whole system at the top of every page. Of several problems, only the first
// is shown in full.

import { session, outage, supabase, engine } from "../api.js";
import { clock } from "../lib/format.js";
import { watchWorkspace } from "../lib/jobs/watch.js";
import { usePolling, useFetch, useStore } from "../lib/store.js";
import { html, useEffect, useState } from "../lib/ui.js";
import { Sentence } from "./when.js";

const POLL_MS = 15_000;

/**
 * Return the full stop to add to a sentence, or nothing if the sentence ends with a punctuation
 * mark.
 */
const periodFor = (cause) => (/[?!]$/.test(cause) ? "" : ".");

/** Read the queue's problems, each as an array `[text, address, link text]`. */
async function readFindings(workspace, isOperator, signal) {
  const { findings } = await engine.explain(isOperator ? null : workspace.id, signal);
  return findings.map(({ sentence, cause, next: [{ words, path } = {}] }) => {
    const text = cause
      ? `${sentence.slice(0, -1)}: ${cause.replace(/\.?$/, periodFor(cause))}`
      : sentence;
    return [text, path, words];
  });
}

const outageLine = (since) =>
  `The Data API has not responded since ${clock(new Date(since).toISOString()).slice(0, 8)}. This page may be out of date.`;

const linkTo = (to, words) => html`<a href=${to}><${Sentence} text=${words} /></a>`;

/**
 * Section that lists the current problems. To users who may see only an app's pages, the section
 * shows only whether there is an outage.
 */
export function Incidents({ workspace, isApp }) {
  const { user } = useStore(session);
  const findings = useFetch(
    async (signal) => (isApp ? [] : readFindings(workspace, user?.isOperator, signal)),
    [workspace.id, isApp],
  );
  const [freshness, setFreshness] = useState("live");
  usePolling(findings, isApp ? null : POLL_MS);
  useEffect(() => {
    if (isApp) return setFreshness("live");
    const onChange = (state) => setFreshness(state.freshness);
    const watch = watchWorkspace(supabase(), workspace.id, { onChange });
    return () => watch.close();
  }, [workspace.id, isApp]);
  const since = useStore(outage);
  const lines = [...(findings.value ?? [])];
  if (since) lines.unshift([outageLine(since)]);
  else if (freshness === "polling")
    lines.unshift([
      "Realtime is unavailable. Pages read every few seconds instead. Check its service at your host.",
    ]);
  if (lines.length === 0) return null;
  const [first, ...rest] = lines.map(
    ([text, to, words]) =>
      html`<p key=${text}><${Sentence} text=${text} /> ${words && linkTo(to, words)}</p>`,
  );
  return html`<section class="incidents" aria-label="Needs attention" aria-live="polite">
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
