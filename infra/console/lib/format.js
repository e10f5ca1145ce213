// Numbers, times and texts as people read them. Pure, but for the reader's language and the clock.

const SAME_MS = 2000; // what an answer takes is no difference between clocks
let offset = 0;

/** Milliseconds now, by the server: a browser's own clock may be hours off. */
export const serverNow = () => Date.now() + offset;

/** Take the instant at which a server answered. */
export function setClock(at) {
  const found = Date.parse(at) - Date.now();
  if (Number.isFinite(found)) offset = Math.abs(found) > SAME_MS ? found : 0;
}

const NUMBER = new Intl.NumberFormat("en");
const NONE = "–";

/** 12,345; a dash for what is not known. */
export const number = (value) => (Number.isFinite(value) ? NUMBER.format(value) : NONE);

const MAX_COUNTED = 10_000;

/** What the engine counts up to 10,000: from there on `10,000+`. */
export const atLeast = (value, isMore = value >= MAX_COUNTED) =>
  `${number(value)}${isMore ? "+" : ""}`;

/** `1 job`, `12 jobs`. */
export const pluralize = (count, one, many = `${one}s`) =>
  `${number(count)} ${count === 1 ? one : many}`;

/** 98.3 %, from a share between 0 and 1. */
export const percent = (share) =>
  Number.isFinite(share) ? `${(share * 100).toFixed(share === 1 || share === 0 ? 0 : 1)} %` : NONE;

/** The whole part of a job's progress, 0 to 100. */
export function percentage(progress) {
  const value = Number(progress?.percentage);
  return Number.isFinite(value) ? Math.floor(Math.min(100, Math.max(0, value))) : 0;
}

/** 340 ms, 1.2 s, 4 min 05 s, 3 h 12 min, 2 d 4 h. */
export function duration(ms) {
  if (!Number.isFinite(ms)) return NONE;
  const value = Math.max(0, ms);
  if (value < 1000) return `${Math.round(value)} ms`;
  if (value < 60_000) return `${(value / 1000).toFixed(1)} s`;
  const seconds = Math.round(value / 1000);
  if (seconds < 3600)
    return `${Math.floor(seconds / 60)} min ${String(seconds % 60).padStart(2, "0")} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 1440)
    return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
  const hours = Math.round(minutes / 60);
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** Seconds in a unit, written as in `duration`: `m` alone could be a month. */
const UNITS = [
  [86_400, "d"],
  [3600, "h"],
  [60, "min"],
  [1, "s"],
];

/** `in 40 s`, `3 min ago`, `now`. */
export function relative(iso, now = serverNow()) {
  const seconds = Math.round((Date.parse(iso ?? "") - now) / 1000);
  if (!Number.isFinite(seconds)) return NONE;
  const size = Math.abs(seconds);
  if (size < 2) return "now";
  const [one, unit] = UNITS.find(([least]) => size >= least);
  const words = `${Math.trunc(size / one)} ${unit}`;
  return seconds > 0 ? `in ${words}` : `${words} ago`;
}

/** A deploy's commit in short, else its version. */
export const codeOf = ({ commit, version }) =>
  commit ? commit.slice(0, 9) + (commit.endsWith("-dirty") ? "-dirty" : "") : (version ?? NONE);

function stamp(iso, minutesOf) {
  const time = new Date(iso ?? Number.NaN);
  if (Number.isNaN(time.getTime())) return NONE;
  const shifted = new Date(time.getTime() - minutesOf(time) * 60_000);
  return shifted.toISOString().replace("T", " ").slice(0, 23);
}

/** `2026-11-20 08:36:55.585 UTC`. */
export function utc(iso) {
  const found = stamp(iso, () => 0);
  return found === NONE ? NONE : `${found} UTC`;
}

/** `2026-11-20 09:36:55.585`, by the reader's own clock. */
export const local = (iso) => stamp(iso, (time) => time.getTimezoneOffset());

/** `09:36:55.585`, by the reader's own clock. */
export const clock = (iso) => local(iso).slice(11) || NONE;

const DAY_MS = 86_400_000;

/** An instant in a sentence: the engine's, or a time of the day as workers write it. */
export const INSTANT =
  /(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\+00|\d\d:\d\d(?::\d\d)? UTC(?: on \d+ [A-Z][a-z]+)?)/;

/** The instant that `INSTANT` has found, in ISO; without a date the nearest of its time. */
export function instantOf(said, now = serverNow()) {
  if (said.endsWith("+00")) return `${said.slice(0, -3).replace(" ", "T")}Z`;
  const [time, day] = said.split(/ UTC(?: on )?/);
  const today = new Date(now).toISOString().slice(0, 10);
  const at = day
    ? Date.parse(`${day} ${today.slice(0, 4)} ${time} UTC`)
    : Date.parse(`${today}T${time}Z`);
  const days = day ? 0 : Math.round((now - at) / DAY_MS);
  return new Date(at + days * DAY_MS).toISOString();
}

/** The last characters of an id: time-ordered ids begin alike. */
export const shortId = (id) => String(id ?? "").slice(-8);

/** $0.000012; a dash when nothing was measured. */
export const money = (value) => (Number(value) ? `$${Number(value).toFixed(6)}` : NONE);

/** 12.3 kB. */
export function bytes(count) {
  if (!Number.isFinite(count)) return NONE;
  const power = count < 1000 ? 0 : Math.min(3, Math.floor(Math.log10(count) / 3));
  return power === 0
    ? `${count} B`
    : `${(count / 1000 ** power).toFixed(1)} ${["", "kB", "MB", "GB"][power]}`;
}

/** An address fit for a link: http and https only, else null. */
export function safeUrl(text) {
  try {
    const url = new URL(text ?? "");
    return url.protocol === "https:" || url.protocol === "http:" ? url.href : null;
  } catch {
    return null; // no address at all
  }
}

/** JSON for reading; whatever cannot be written as JSON is named instead. */
export function pretty(value) {
  const text = JSON.stringify(value, null, 2);
  return text === undefined ? String(value) : text;
}

/** A payload that a person wrote. */
export function payloadIn(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`The payload is not JSON: ${error.message}`);
  }
}

/** The ranges that can be chosen: minutes by the word in the address. */
export const RANGES = {
  "15m": [15, "15 minutes"],
  "1h": [60, "hour"],
  "6h": [360, "6 hours"],
  "24h": [1440, "24 hours"],
  "7d": [10_080, "7 days"],
  "30d": [43_200, "30 days"],
};
