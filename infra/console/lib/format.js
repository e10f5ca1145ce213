// Functions that format numbers, times and texts. The results depend only on the arguments, the
// reader's language and time zone, and the clock.

const SAME_MS = 2000; // a smaller clock difference may come from the duration of the request
let offset = 0;

/**
 * Return the server's time in milliseconds. The console does not use the browser's clock, which may
 * be hours wrong.
 */
export const serverNow = () => Date.now() + offset;

/**
 * Set the difference between the server's clock and the browser's clock, from the time `at` in a
 * server's response.
 */
export function setClock(at) {
  const difference = Date.parse(at) - Date.now();
  if (Number.isFinite(difference)) offset = Math.abs(difference) > SAME_MS ? difference : 0;
}

const NUMBER = new Intl.NumberFormat("en");
const NONE = "–";

/** Format a number as `12,345`, or as a dash if the number is unknown. */
export const number = (value) => (Number.isFinite(value) ? NUMBER.format(value) : NONE);

const MAX_COUNTED = 10_000;

/** Format a count of jobs as `10,000+` if the database stopped counting at 10,000. */
export const atLeast = (value, isMore = value >= MAX_COUNTED) =>
  `${number(value)}${isMore ? "+" : ""}`;

/** Format a count with its noun, as `1 job`, `12 jobs` or, if there are more, `12+ jobs`. */
export const pluralize = (count, one, isMore = false) =>
  `${atLeast(count, isMore)} ${one}${count === 1 && !isMore ? "" : "s"}`;

export const capitalize = (text) => text[0].toUpperCase() + text.slice(1);

/** Format a share between 0 and 1 as `98.3%`. */
export const percent = (share) =>
  Number.isFinite(share) ? `${(share * 100).toFixed(share === 1 || share === 0 ? 0 : 1)}%` : NONE;

/** Return a job's progress as an integer from 0 to 100. */
export function percentage(progress) {
  const value = Number(progress?.percentage);
  return Number.isFinite(value) ? Math.floor(Math.min(100, Math.max(0, value))) : 0;
}

/** Format a duration in ms as `340 ms`, `1.2 s`, `4 min 05 s`, `3 h` or `2 d 04 h`. */
export function duration(ms) {
  if (!Number.isFinite(ms)) return NONE;
  const value = Math.max(0, ms);
  if (value < 1000) return `${Math.round(value)} ms`;
  if (value < 60_000) return `${(value / 1000).toFixed(1)} s`;
  const at = UNITS.findIndex(([size]) => size <= Math.round(value / 1000));
  const [[size, unit], [partSize, partUnit]] = UNITS.slice(at);
  const parts = Math.round(value / 1000 / partSize);
  const rest = parts % (size / partSize);
  const whole = `${(parts - rest) / (size / partSize)} ${unit}`;
  return rest === 0 ? whole : `${whole} ${String(rest).padStart(2, "0")} ${partUnit}`;
}

/** Format a duration as `40 s`, `3 min`, `1 h 58 min` or `12 h`. */
export const roughly = (ms) => duration(ms).replace(/\.\d| \d+ s$|(?<=^\d\d+ \w+) .*/g, "");

/** Seconds per unit of time. The unit of minutes is `min`, because `m` could mean months. */
const UNITS = [
  [86_400, "d"],
  [3600, "h"],
  [60, "min"],
  [1, "s"],
];

/** Format a time relative to now, as `in 40 s`, `3 min ago` or `now`. */
export function relative(iso, now = serverNow()) {
  const ms = Math.round((Date.parse(iso ?? "") - now) / 1000) * 1000;
  if (!Number.isFinite(ms)) return NONE;
  if (Math.abs(ms) < 2000) return "now";
  const text = roughly(Math.abs(ms));
  return ms > 0 ? `in ${text}` : `${text} ago`;
}

/**
 * Format the deployed version of a worker: the short commit hash, or the version if the worker
 * reports no commit.
 */
export const codeOf = ({ commit, version }) =>
  commit ? commit.slice(0, 9) + (commit.endsWith("-dirty") ? "-dirty" : "") : (version ?? NONE);

function stamp(iso, minutesOf, zone = "") {
  const time = new Date(iso ?? Number.NaN);
  if (Number.isNaN(time.getTime())) return NONE;
  const shifted = new Date(time.getTime() - minutesOf(time) * 60_000);
  return shifted.toISOString().replace("T", " ").slice(0, 23) + zone;
}

/** Format a time as `2026-11-20 08:36:55.585 UTC`. */
export const utc = (iso) => stamp(iso, () => 0, " UTC");

/** Format a time as `2026-11-20 09:36:55.585` in the reader's time zone. */
export const local = (iso) => stamp(iso, (time) => time.getTimezoneOffset());

/** Format a time as `09:36:55.585` in the reader's time zone. */
export const clock = (iso) => local(iso).slice(11) || NONE;

/** Return the time of day without milliseconds. */
export const timeOfDay = (at) => clock(at).slice(0, 8);

const DAY_MS = 86_400_000;

/**
 * Regular expression for a time within a sentence. The expression matches the format in which the
 * database writes times, and the time of day that a worker writes.
 */
export const INSTANT =
  /(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\+00|\d\d:\d\d(?::\d\d)? UTC(?: on \d+ [A-Z][a-z]+)?)/;

/**
 * Convert a text that matches `INSTANT` to an ISO time. If the text has no date, choose the day for
 * which the time is nearest to now.
 */
export function instantOf(text, now = serverNow()) {
  if (text.endsWith("+00")) return `${text.slice(0, -3).replace(" ", "T")}Z`;
  const [time, day] = text.split(/ UTC(?: on )?/);
  const today = new Date(now).toISOString().slice(0, 10);
  const at = day
    ? Date.parse(`${day} ${today.slice(0, 4)} ${time} UTC`)
    : Date.parse(`${today}T${time}Z`);
  const days = day ? 0 : Math.round((now - at) / DAY_MS);
  return new Date(at + days * DAY_MS).toISOString();
}

/**
 * Return the last characters of an id. The first characters of an id contain its creation time, so
 * ids from the same time have the same first characters.
 */
export const shortId = (id) => String(id ?? "").slice(-8);

/** Format US dollars as `$0.000012`, or as a dash if no cost was measured. */
export const money = (value) => (Number(value) ? `$${Number(value).toFixed(6)}` : NONE);

/** Format a number of bytes as `12.3 kB`. */
export function bytes(count) {
  if (!Number.isFinite(count)) return NONE;
  const power = count < 1000 ? 0 : Math.min(3, Math.floor(Math.log10(count) / 3));
  return power === 0
    ? `${count} B`
    : `${(count / 1000 ** power).toFixed(1)} ${["", "kB", "MB", "GB"][power]}`;
}

/**
 * Return the URL if the text is an http or https URL, so that a page can link to it. Return null
 * for any other text.
 */
export function safeUrl(text) {
  try {
    const url = new URL(text ?? "");
    return url.protocol === "https:" || url.protocol === "http:" ? url.href : null;
  } catch {
    return null; // the text is not a URL
  }
}

/** Format a value as indented JSON. If JSON cannot represent the value, format it as a string. */
export function pretty(value) {
  const text = JSON.stringify(value, null, 2);
  return text === undefined ? String(value) : text;
}

/** Parse the JSON of a job's payload that a person typed. */
export function parsePayload(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`The payload is not JSON: ${error.message}`, { cause: error });
  }
}

/**
 * Length in minutes and label of each time range that a person can choose, by the range's name in
 * the page's address.
 */
export const RANGES = {
  "15m": [15, "15 minutes"],
  "1h": [60, "hour"],
  "6h": [360, "6 hours"],
  "24h": [1440, "24 hours"],
  "7d": [10_080, "7 days"],
  "30d": [43_200, "30 days"],
};
