// Tables that work on screens, on phones, and with screen readers.

import concepts from "../../../shared/minutehand/pages/concepts.md";
import { html, quietButton } from "../lib/ui.js";
import { stale, Placeholder } from "./states-of-view.js";
import { shortId } from "../lib/format.js";

/**
 * Definitions of terms, from the documentation page of concepts. Labels of the console show these
 * definitions as tooltips.
 */
const DEFINITIONS = Object.fromEntries(
  Array.from(concepts.matchAll(/^- (An? ([\w ]+?) (?:is|gives) .*)$/gm), ([, sentence, term]) => [
    term,
    sentence.replaceAll("`", ""),
  ]),
);
const definitionOf = (label) => DEFINITIONS[label.toLowerCase()];

/**
 * Define a column of a table. The optional second argument contains CSS classes of the column. If
 * the CSS classes include `num` or `phone-less`, the column's header cell gets this class too.
 */
export function column(name, ...rest) {
  return { name, className: rest.length === 2 ? rest[0] : "", cell: rest.at(-1), isHeading: false };
}

/** Define a column whose cells are the headings of the table's rows. */
export const heading = (name, ...rest) => ({ ...column(name, ...rest), isHeading: true });

const headClasses = (className) => className.match(/\b(num|phone-less)\b/g)?.join(" ");

/** Table that scrolls horizontally if the table is wider than the page. */
export const table = ({ label, rows, key, cards = false, attributes }, columns) =>
  html`<div class="scroll-x" tabindex="0" role="group" aria-label=${label}>
    <table class=${cards ? "table cards" : "table"}>
      <thead>
        <tr>
          ${columns.map(
            ({ name, className: of }) => html`<th
              scope="col"
              key=${name}
              class=${headClasses(of)}
              title=${definitionOf(name)}>
              <span class=${name === "Actions" && "hidden"}>${name}</span>
            </th>`,
          )}
        </tr>
      </thead>
      <tbody>
        ${rows.map(
          (row) => html`<tr key=${key(row)} ...${attributes?.(row)}>
            ${columns.map(
              ({ name, cell, className: of, isHeading }) => html`<${isHeading ? "th" : "td"}
                key=${name}
                class=${of}
                scope=${isHeading ? "row" : undefined}
                data-label=${cards && name !== "Actions" ? name : undefined}>
                ${cell(row)}
              <//>`,
            )}
          </tr>`,
        )}
      </tbody>
    </table>
  </div>`;

/** Card that shows one number with its name. */
export const figure = (name, value, note, isBad = false) =>
  html`<div class="card">
    <p class="muted">${name}</p>
    <p class=${isBad ? "figure-value num problem" : "figure-value num"}>${value}</p>
    <p class="muted small">${note || "\u00a0"}</p>
  </div>`;

/** Return a name or address in which the browser may break the line between words. */
export const breakable = (name) =>
  name.split(/(?<=[._:/-])/).flatMap((word, at) => (at > 0 ? [html`<wbr />`, word] : [word]));

/** Link to the page of a job type. */
export const typeLink = (name) =>
  html`<a href=${`/types/${encodeURIComponent(name)}`}>${breakable(name)}</a>`;

/** Row in a list of facts. If the value of the fact is missing, return false. */
export const fact = (name, value) =>
  value !== null &&
  value !== undefined &&
  value !== false &&
  html`<div><dt title=${definitionOf(name)}>${name}</dt><dd>${value}</dd></div>`;

/**
 * Link to a job, with the end of the job's id as its text. If the job's id is missing, show a dash
 * instead of a link.
 */
export const jobLink = (id, onClick) =>
  id ? html`<a class="mono" href=${`/jobs/${id}`} onClick=${onClick}>${shortId(id)}</a>` : "–";

/**
 * Table with the rows that a read has returned. Before the read has returned rows, show a notice
 * instead of the table.
 */
export const dataTable = ({ of, rows = [], empty, ...options }, columns) =>
  !of.value
    ? html`<${Placeholder} of=${of} what=${`the ${options.label.toLowerCase()}`} />`
    : rows.length === 0
      ? empty
      : table({ rows, ...options }, columns);

/** Card with the rows that a read has returned, and a button that reads older rows. */
export const liveList = ({ of, what, ...options }, columns) =>
  html`<section class="card list" aria-label=${options.label}>
    ${stale(of)}
    ${dataTable({ of, cards: true, ...options }, columns)}
    ${
      of.more &&
      html`<div class="actions start">
        ${quietButton(`Older ${what}`, of.more)}
      </div>`
    }
  </section>`;
