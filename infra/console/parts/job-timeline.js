// JobTimeline: a job's life as a picture: waits as lines, attempts as bars, events as marks.

import { between, counted, duration, relative, utc } from "../lib/format.js";
import { ENDED } from "../lib/jobs.js";
import { ATTEMPT_OUTCOMES } from "../lib/states.js";
import { html, useLayoutEffect, useRef, useState } from "../lib/ui.js";
import { When } from "./when.js";

const ROW = 30;
const LEFT = 12;
const AXIS = 22;
const MOST_ROWS = 12;
const MOST_LINES = 200;

function useWidth(ref) {
  const [width, setWidth] = useState(640);
  useLayoutEffect(() => {
    const observer = new ResizeObserver(([entry]) => setWidth(Math.max(200, Math.floor(entry.contentRect.width))));
    observer.observe(ref.current);
    return () => observer.disconnect();
  }, []);
  return width;
}

/** The parts of the picture, in time: waits, attempts, marks; of many attempts the latest. Pure. */
export function layout({ job, attempts: all, events, now }) {
  const skipped = Math.max(0, all.length - MOST_ROWS);
  const attempts = all.slice(skipped);
  const before = all[skipped - 1];
  const begin = Date.parse(before ? (before.ended_at ?? before.leased_at) : job.created_at);
  const end = Math.max(begin + 1000, job.completed_at ? Date.parse(job.completed_at) : now);
  const bars = attempts.map((attempt, row) => {
    const from = Date.parse(attempt.leased_at);
    const to = attempt.ended_at ? Date.parse(attempt.ended_at) : now;
    const earlier = attempts[row - 1];
    const ready = earlier ? Date.parse(earlier.ended_at ?? attempt.leased_at) : begin;
    const marks = events
      .filter((event) => Date.parse(event.at) >= from - 1 && Date.parse(event.at) <= to + 1 && event.type === "job.progress")
      .map((event) => ({ at: Date.parse(event.at), kind: "progress", seq: event.seq }));
    return { row, attempt, from, to, ready, marks: thin(marks) };
  });
  const cancels = events.filter((event) => event.type === "job.cancel_requested").map((event) => ({ at: Date.parse(event.at), kind: "cancel", seq: event.seq }));
  return { begin, end, bars, cancels, skipped };
}

const thin = (marks) => (marks.length <= 120 ? marks : marks.filter((_, index) => index % Math.ceil(marks.length / 120) === 0));

/** Three to six round ticks for a span. */
export function ticks(span, width) {
  const wanted = Math.max(2, Math.min(6, Math.floor(width / 110)));
  const steps = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 1.5e4, 3e4, 6e4, 12e4, 3e5, 6e5, 18e5, 36e5, 72e5, 216e5, 432e5, 864e5, 6048e5];
  const step = steps.find((one) => span / one <= wanted) ?? span / wanted;
  return Array.from({ length: Math.floor(span / step) + 1 }, (_, index) => index * step);
}

/** @param {{job: object, attempts: object[], events: object[], now: number}} props */
export function JobTimeline({ job, attempts, events, now }) {
  const box = useRef(null);
  const width = useWidth(box);
  const { begin, end, bars, cancels, skipped } = layout({ job, attempts, events, now });
  const rows = Math.max(1, bars.length);
  const height = rows * ROW + AXIS;
  const scale = (width - LEFT * 2) / (end - begin);
  const x = (at) => LEFT + (Math.min(end, Math.max(begin, at)) - begin) * scale;
  const isLive = !ENDED.has(job.status);
  const summary = bars.length === 0 ? "Not started yet." : bars.map(({ attempt }) => `Attempt ${attempt.attempt}: ${wordOf(attempt)}, ${duration(between(attempt.leased_at, attempt.ended_at ?? new Date(now).toISOString()))}.`).join(" ");
  return html`<div class="timeline" ref=${box}>
    <svg width=${width} height=${height} viewBox=${`0 0 ${width} ${height}`} role="img" aria-label=${`Timeline. ${summary}`}>
      <defs><pattern id="timeline-hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><line class="timeline-hatch" x1="0" x2="0" y1="0" y2="6" /></pattern></defs>
      ${ticks(end - begin, width).map((offset) => {
        const at = x(begin + offset);
        return html`<g class="timeline-tick"><line x1=${at} x2=${at} y1="0" y2=${height - AXIS + 4} />
          <text x=${at} y=${height - 4} text-anchor=${at < 30 ? "start" : at > width - 40 ? "end" : "middle"}>${offset === 0 && skipped === 0 ? "0" : roundly(offset + begin - Date.parse(job.created_at))}</text></g>`;
      })}
      ${bars.length === 0 && html`<line class="timeline-wait" x1=${x(begin)} x2=${x(end)} y1=${ROW / 2} y2=${ROW / 2} />`}
      ${isLive && job.status !== "processing" && bars.length > 0 && html`<line class="timeline-wait" x1=${afterLabel(bars.at(-1), x, width)} x2=${x(now)} y1=${(rows - 0.5) * ROW} y2=${(rows - 0.5) * ROW} />`}
      ${bars.map(({ row, attempt, from, to, ready, marks }) => {
        const y = row * ROW + ROW / 2;
        const barWidth = Math.max(4, x(to) - x(from));
        const label = labelOf(attempt, to - from, roomFor(barWidth, x(from), width));
        return html`<g key=${attempt.fence} data-tone=${toneOf(attempt)}>
          <line class="timeline-wait" x1=${x(ready)} x2=${x(from)} y1=${y} y2=${y} />
          <rect class=${attempt.ended_at ? "timeline-bar" : "timeline-bar running"} x=${x(from)} y=${y - 9} width=${barWidth} height="18" rx=${Math.min(4, barWidth / 2)}>
            <title>${`Attempt ${attempt.attempt}: ${wordOf(attempt)}, ${duration(to - from)}, from ${utc(attempt.leased_at)}`}</title>
          </rect>
          ${attempt.outcome === "lost" && html`<rect class="timeline-lost" x=${x(from)} y=${y - 9} width=${barWidth} height="18" rx=${Math.min(4, barWidth / 2)} fill="url(#timeline-hatch)" />`}
          ${marks.map((mark) => html`<line class="timeline-mark" x1=${x(mark.at)} x2=${x(mark.at)} y1=${y + 5.5} y2=${y + 9} key=${mark.seq} />`)}
          <text class="timeline-label" x=${barWidth > INSIDE ? x(from) + 8 : Math.min(x(from) + barWidth + 6, width - 76)} y=${y + 4} data-inside=${barWidth > INSIDE}>
            ${label}
          </text>
        </g>`;
      })}
      ${cancels.map((mark) => html`<line class="timeline-cancel" key=${mark.seq} x1=${x(mark.at)} x2=${x(mark.at)} y1="0" y2=${height - AXIS}><title>Cancel asked for</title></line>`)}
      ${isLive && job.next_retry_at && Date.parse(job.next_retry_at) > now && html`<text class="timeline-next" x=${width - LEFT} y=${ROW * (rows - 0.5) - 8} text-anchor="end">next attempt ${relative(job.next_retry_at, now)}</text>`}
    </svg>
    ${skipped > 0 && html`<p class="muted small num">The latest ${bars.length} attempts; ${counted(skipped, "earlier one")} left out.</p>`}
  </div>`;
}

const SIGN = 6.6; // pixels of a label's average sign
const INSIDE = 64;

/** The attempt and how long it took; and how it ended, where there is room. */
function labelOf(attempt, ms, room) {
  const short = `${attempt.attempt} · ${duration(ms)}`;
  const long = `${attempt.attempt} · ${wordOf(attempt)} · ${duration(ms)}`;
  return long.length * SIGN + 16 < room ? long : short;
}

/** Where a wait's line may begin without crossing the label beside a short bar. */
function afterLabel({ attempt, from, to }, x, whole) {
  const width = Math.max(4, x(to) - x(from));
  return width > INSIDE ? x(to) : x(from) + width + 10 + labelOf(attempt, to - from, roomFor(width, x(from), whole)).length * SIGN;
}

/** A label stands in its bar, or beside one that is too short for any. */
const roomFor = (barWidth, from, whole) => (barWidth > INSIDE ? barWidth : whole - from - barWidth - 6);

/** A round duration: 5 s, 2 min, 1 h. */
const roundly = (ms) => duration(ms).replace(/\.0 s$/, " s").replace(/ 00 (s|min)$/, "").replace(/ 0 h$/, "");

const toneOf = (attempt) => ATTEMPT_OUTCOMES[attempt.outcome]?.tone ?? "processing";
const wordOf = (attempt) => ATTEMPT_OUTCOMES[attempt.outcome]?.word ?? "Running";

/** The same as a table, with errors and workers. */
export function AttemptsTable({ attempts }) {
  const shown = attempts.slice(-MOST_LINES);
  return html`${shown.length < attempts.length && html`<p class="muted small num">The latest ${MOST_LINES} of ${counted(attempts.length, "attempt")}.</p>`}<div class="scroll-x" tabindex="0" role="group" aria-label="Attempts"><table class="table">
    <thead><tr><th scope="col" class="num">Attempt</th><th scope="col">Outcome</th><th scope="col">Started</th><th scope="col" class="num">Took</th><th scope="col">Worker</th><th scope="col">Error</th></tr></thead>
    <tbody>${shown.map(
      (attempt) => html`<tr key=${attempt.fence}>
        <td class="num">${attempt.attempt}</td>
        <td><span class="badge" data-tone=${toneOf(attempt)}>${wordOf(attempt)}</span></td>
        <td><${When} at=${attempt.leased_at} /></td>
        <td class="num">${attempt.ended_at ? duration(between(attempt.leased_at, attempt.ended_at)) : "running"}</td>
        <td class="mono small">${attempt.worker_id}</td>
        <td class="wrap">${attempt.error_message ?? ""}</td>
      </tr>`,
    )}</tbody>
  </table></div>`;
}
