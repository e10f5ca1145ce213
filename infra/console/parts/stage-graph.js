// A graph of stages, left to right: each in the column behind what it comes after, with its state.

import { placed } from "../lib/graph.js";
import { html } from "../lib/ui.js";

/** @import { Graph, Placed } from "../lib/graph.js" */

const WIDTH = 176; // of a column and of a row, in pixels, with the gap behind it
const HEIGHT = 52;
const BOX = { width: 132, height: 40 };
const MOST_LETTERS = 17;

/** @param {{graph: Graph, done: Set<string>, status: string}} props `done`: names of finished steps. */
export function StageGraph({ graph, done, status }) {
  const stages = placed(graph, done, status);
  const byName = new Map(stages.map((stage) => [stage.name, stage]));
  const width = WIDTH * (1 + Math.max(...stages.map((stage) => stage.column)));
  const height = HEIGHT * (1 + Math.max(...stages.map((stage) => stage.row)));
  return html`<div class="stage-graph" tabindex="0" role="group" aria-label="Stages">
    <svg width=${width} height=${height} role="list" aria-label="Stages">
      ${stages.flatMap((stage) => stage.after.map((name) => edge(/** @type {Placed} */ (byName.get(name)), stage)))}
      ${stages.map(box)}
    </svg>
  </div>`;
}

function edge(/** @type {Placed} */ from, /** @type {Placed} */ to) {
  const [x1, y1] = [from.column * WIDTH + BOX.width, from.row * HEIGHT + BOX.height / 2];
  const [x2, y2] = [to.column * WIDTH, to.row * HEIGHT + BOX.height / 2];
  const bend = (WIDTH - BOX.width) / 2;
  return html`<path
    aria-hidden="true"
    d=${`M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`} />`;
}

function box(/** @type {Placed} */ { name, after, column, row, word, tone }) {
  const label = `${name}: ${word}${after.length ? `, after ${after.join(", ")}` : ""}`;
  const short = name.length > MOST_LETTERS ? `${name.slice(0, MOST_LETTERS - 1)}…` : name;
  return html`<g
    key=${name}
    role="listitem"
    aria-label=${label}
    data-tone=${tone}
    transform=${`translate(${column * WIDTH} ${row * HEIGHT})`}>
    <title>${label}</title>
    <rect x="1" y="1" rx="6" width=${BOX.width - 2} height=${BOX.height - 2} />
    <text x="8" y="17">${short}</text>
    <text x="8" y="32" class="stage-word">${word}</text>
  </g>`;
}
