// Table columns of a schedule's times.

import { html } from "../lib/ui.js";
import { column } from "./table.js";
import { When } from "./when.js";

const DAY = "Mon ".length;

/** Format the next run in the schedule's time zone, and in the reader's if it differs. */
function describeTimes({ next_at: at, timezone }) {
  const parts = { weekday: "short", hour: "2-digit", minute: "2-digit" };
  const time = (timeZone) => new Date(at).toLocaleString("en-GB", { ...parts, timeZone });
  const [there, here] = [time(timezone), time(undefined)];
  if (there === here) return there;
  const isSameDay = there.slice(0, DAY) === here.slice(0, DAY);
  return `${there} there, ${isSameDay ? here.slice(DAY) : here} your time`;
}

export const SCHEDULE_COLUMNS = [
  column(
    "When",
    "mono small nowrap",
    (schedule) => html`${schedule.cron} <br /><span class="muted">${schedule.timezone}</span>`,
  ),
  column("Next run", (schedule) =>
    !schedule.enabled
      ? "–"
      : schedule.next_at
        ? html`<${When} at=${schedule.next_at} /> <br /><span class="muted small">${describeTimes(schedule)}</span>`
        : "never",
  ),
];
