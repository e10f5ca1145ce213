// Components that show relative times with the exact UTC time as a tooltip, and durations that
// count up.

import {
  duration,
  INSTANT,
  instantOf,
  local,
  relative,
  serverNow,
  shortId,
  utc,
} from "../lib/format.js";
import { html, useEffect, useState } from "../lib/ui.js";

const watchers = new Set();
let timer = null;
let shown = 0;

function notifyClocks() {
  if (document.visibilityState !== "visible") return;
  shown = serverNow();
  for (const watcher of [...watchers]) watcher(shown);
}

/**
 * Return the server's time, at most a second old. It is the same for the whole page, so that all
 * ages of one event are equal.
 */
export function useNow(active = true) {
  const [, setNow] = useState(0);
  useEffect(() => {
    if (!active) return undefined;
    watchers.add(setNow);
    timer ??= setInterval(notifyClocks, 1000);
    return () => {
      watchers.delete(setNow);
      if (watchers.size > 0) return;
      clearInterval(timer);
      timer = null;
    };
  }, [active]);
  if (Math.abs(serverNow() - shown) > 1000) shown = serverNow();
  return shown;
}

/** Shows a time as `3 min ago`, with a tooltip such as `2026-11-20 08:36:55.585 UTC`. */
export function When({ at }) {
  const now = useNow(Boolean(at));
  if (!at) return html`<span class="none">–</span>`;
  return html`<time datetime=${at} title=${utc(at)}>${relative(at, now)}</time>`;
}

/**
 * Shows the duration from the time `from` until now. `before` is a duration in milliseconds that is
 * added to the shown duration.
 */
export function Elapsed({ from, before = 0 }) {
  const now = useNow(Boolean(from));
  if (!from) return html`<span class="none">–</span>`;
  return html`<span class="num">
    ${duration(before + Math.max(0, now - Date.parse(from)))}
  </span>`;
}

/**
 * Shows a time within a sentence, in the reader's time zone, and how far ahead it is. If the date is
 * today, only the time of day is shown. A screen reader does not announce each change.
 */
function Timestamp({ at }) {
  const now = useNow();
  const [day, time] = local(at).split(" ");
  const [today] = local(now).split(" ");
  return html`<time datetime=${at} title=${`${utc(at)}, ${relative(at, now)}`} aria-live="off">
    ${day === today ? "" : `${day} `}
    ${time.slice(0, 8)}${Date.parse(at) > now && ` (${relative(at, now)})`}
  </time>`;
}

/** Shows a time in the words that `format` returns. A screen reader does not announce each change. */
export function Age({ at, format = inFull }) {
  return html`<time datetime=${at} title=${utc(at)} aria-live="off">${format(at, useNow())}</time>`;
}

const inFull = (at, now) => duration(now - Date.parse(at)).replace(/\.\d /, " ");

/** Regular expression for a time, code between backticks, a line of code, or the id of a job. */
const MARKED = new RegExp(
  `${INSTANT.source}|\`([^\`]+)\`|\\b([\\w./-]+\\.py:\\d+)\\b|(?<=\\bjob )([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\\b`,
);

/** Regular expression for the space between a number and its unit, where no line must break. */
const UNIT = /(?<=\d) (?=(?:ms|s|min|h|d|MB|%)(?!\w))/g;

/** Return the name of the file in a line of code, with its number. */
export const fileOf = (place) => place.slice(place.lastIndexOf("/") + 1);

const MARKS = [
  null,
  (part) => html`<${Timestamp} at=${instantOf(part)} />`,
  (part) => html`<code>${part}</code>`,
  (part, isShort) => html`<code title=${part}>${isShort ? fileOf(part) : part}</code>`,
  (part) => html`<a class="mono" href=${`/jobs/${part}`}>${shortId(part)}</a>`,
];

const AGED = /(since|reported at|started at) $/;

/**
 * Shows a sentence with code, short times and links to jobs. The tooltip of each short time is the
 * full time. `since` and a time become `for` and a duration, and `reported at` or `started at` and a
 * time become `reported` or `started` and an age, except in the reason at an earlier time. If
 * `isShort` is true, lines of code have no folders.
 */
export const Sentence = ({ text, isShort = false }) =>
  String(text ?? "")
    .split(MARKED)
    .map((part, index, parts) => {
      const kind = index % MARKS.length;
      const isPast = / at that time: /.test(text);
      if (kind === 0 && parts[index + 1] && !isPast)
        part = part.replace(AGED, (_, words) =>
          words === "since" ? "for " : words.replace("at", ""),
        );
      const [, aged] = (kind === 1 && part && !isPast && parts[index - 1].match(AGED)) || [];
      if (aged)
        return html`<${Age} at=${instantOf(part)} format=${aged === "since" ? inFull : relative} />`;
      return (part && MARKS[kind]?.(part, isShort)) ?? part?.replace(UNIT, "\u00a0");
    });
