// Shows what blocks waiting jobs, and the steps that resolve a problem, with their shell commands.

import { atLeast, capitalize, number, pluralize } from "../lib/format.js";
import { html } from "../lib/ui.js";
import { Command } from "./copy.js";
import { breakable, column, heading, table } from "./table.js";
import { Sentence, When } from "./when.js";

/** Return the text of a link to a page of the console. */
const linkTo = (path) => {
  const [, name, rest, query] = path.match(/^\/(\w+)\/?([^?]*)(\?.*)?$/);
  if (rest)
    return name === "jobs" ? `See job ${rest.slice(-8)}` : `See type ${decodeURIComponent(rest)}`;
  return query ? "See these jobs" : `See ${capitalize(name)}`;
};

/** Return the steps of an advice. A sentence that begins with "Then" is a step of its own. */
const splitAdvice = ({ command, path, ...advice }) =>
  advice.words
    .split(/(?<=\.) (?=Then )/)
    .map((words, index, { length }) => ({
      ...advice,
      words: capitalize(words.replace(/^Then /, "")),
      command: index === 0 && command,
      path: index === length - 1 && path,
    }));

/** Part of a step that its button does too. */
const CANCEL = /, and cancel what has the wrong name/;

/**
 * Steps that the database's explanation of a problem recommends, with links to pages of the
 * console. No step gets a link to `here`, the address of the current page, or to a job that its text
 * names, because `Sentence` has already linked the job. No step gets a
 * command for the job of the current page, because the page shows the job and has buttons, unless
 * the text ends with a colon. `buttonOf(words, index, steps)` returns the button of a step.
 */
export function Steps({ next, here, buttonOf }) {
  const steps = next?.filter(({ kind }) => kind !== "none").flatMap(splitAdvice) ?? [];
  const id = here?.replace("/jobs/", "");
  const isShown = ({ words, command }) =>
    command && (words.endsWith(":") || !(id && command.includes(id)));
  const items = steps.map((step, index) => {
    const { words, command, path } = step;
    const button = buttonOf?.(words, index, steps);
    const isRepeated = steps.slice(0, index).some((other) => other.path === path);
    const isLinked =
      path && !isRepeated && path !== here && !words.includes(path.replace("/jobs/", ""));
    return html`
      <${Sentence} text=${button ? words.replace(CANCEL, "") : words} /> ${button}
      ${isLinked && html` <a href=${path}>${linkTo(path)}</a>`}
      ${isShown(step) && html`${isLinked && " ·"} <${Command} text=${command} />`}
    `;
  });
  if (items.length === 0) return null;
  return html`<div class="remedy">
    ${steps.some(({ kind }) => kind === "act") && html`<span class="strong">What to do: </span>`}
    ${items.length > 1 ? html`<ol>${items.map((item) => html`<li>${item}</li>`)}</ol>` : items}
  </div>`;
}

/** Return a sentence about a group of `attention` whose jobs failed. */
export const failureOf = ({ kind, job_type: type, jobs, more, error, last_jobs: last }) =>
  `${pluralize(jobs, "job", more)} of ${type} ` +
  (kind === "failed" ? "failed in the last hour" : `${jobs === 1 ? "is" : "are"} retrying`) +
  `${error ? `: ${error}` : ""}.` +
  (last > 0
    ? ` ${last < jobs || more ? `${number(last)} of them have` : "Each has"} one attempt left. If it fails, so does the job.`
    : "");

/**
 * Return the steps of advice, without the guess that the name of a type without a worker is a
 * misspelt name of another type if that type has no worker either. If its jobs fail, say so.
 */
export function warned(next, attention = []) {
  const isGuess = ({ guess }, isMeant) =>
    guess && attention.some((group) => group.job_type === guess && isMeant(group));
  const isUnserved = (step) => isGuess(step, ({ kind }) => kind === "no_worker");
  const isDropped = next?.some(isUnserved);
  return next
    ?.filter((step) => !isUnserved(step))
    .map(({ words, ...step }) => {
      const kept = isDropped ? words.replace(/^Otherwise, w/, "W") : words;
      const note = isGuess(step, ({ error }) => error) ? ` But jobs of ${step.guess} fail.` : "";
      return { ...step, words: kept + note };
    });
}

const HOLDER_COLUMNS = [
  heading(
    "Type",
    "wrap",
    ({ job_types: types, job_id: id }) =>
      html`<a href=${`/jobs/${id}`}>${breakable(types.join(", "))}</a>`,
  ),
  column("Jobs", "num strong", ({ jobs, more }) => atLeast(jobs, more)),
  column("Since", "nowrap", ({ since }) => html`<${When} at=${since} />`),
  column(
    "Reason",
    "wrap wide",
    ({ sentence, cause, next }) => html`
      <p><${Sentence} text=${sentence} /> ${cause && html`<span class="muted">Cause: ${cause}</span>`}</p>
      <${Steps} next=${next} here=${location.pathname} />
    `,
  ),
];

/**
 * Card that lists the holders, which are the jobs, limits, pauses and missing workers that block
 * other jobs. The holder that blocks most jobs comes first. If there are no holders, there is no
 * card.
 */
export function Holders({ holders, attention = [] }) {
  if (!holders?.length) return null;
  const rows = holders.map((holder) => ({ ...holder, next: warned(holder.next, attention) }));
  const key = ({ job_id: id, reason }) => `${reason} ${id}`;
  return html`<section class="card" aria-labelledby="h-held">
    <h2 id="h-held">Why jobs wait</h2>
    ${table({ label: "Why jobs wait", rows, key, cards: true }, HOLDER_COLUMNS)}
  </section>`;
}
