// Gantt chart of a plan's tasks, in which a person changes the days and the order of the tasks.

import { DialogForm, field, html, pluralize, useState } from "../../app.js";

/**
 * Chart with a bar for each task. A click on a task opens its form.
 *
 * tasks: Rows [id, title, days] of the work breakdown.
 * order: Rows [id, ids of the tasks before it, first day, last day] of the schedule.
 */
export function Gantt({ tasks, order, edit }) {
  const [edited, setEdited] = useState(null);
  const byId = new Map(tasks.map(([id, title, days]) => [id, { title, days }]));
  const end = Math.max(...order.map(([, , , to]) => Number(to)), 1);
  const percent = (days) => `${(100 * days) / end}%`;
  return html`<ol class="waterfall-rows" aria-label="Gantt chart">
      ${order.map(([id, after, from, to]) => {
        const { title, days } = byId.get(id);
        const place = { left: percent(from), width: percent(days) };
        return html`<li key=${id}>
          <button
            type="button"
            class="waterfall-row"
            data-tone="processing"
            title=${`Edit: ${title}, day ${from} to ${to}`}
            onClick=${() => setEdited({ id, title, days, after })}>
            <span class="waterfall-name" style=${{ "--level": 0 }}>
              <span class="name" dir="auto">${id} · ${title}</span>
            </span>
            <span class="waterfall-track">
              <span class="waterfall-bar" style=${place}></span>
            </span>
            <span class="waterfall-time num">${pluralize(Number(days), "day")}</span>
          </button>
        </li>`;
      })}
    </ol>
    ${
      edited && html`<${TaskForm} task=${edited} edit=${edit} onClose=${() => setEdited(null)} />`
    }`;
}

function TaskForm({ task, edit, onClose }) {
  const [days, setDays] = useState(task.days);
  const [after, setAfter] = useState(task.after);
  const run = () => {
    const ids = after.split(",").map((id) => id.trim());
    return edit({ task: task.id, days: Number(days), after: ids.filter(Boolean) }).then(() =>
      onClose(),
    );
  };
  return html`<${DialogForm} title=${task.title} action="Save" run=${run} onClose=${onClose}>
    ${field("Days", days, setDays, { type: "number", min: 0, max: 10000, step: "any", required: true })}
    ${field("After these tasks, by id", after, setAfter, { placeholder: "A, B" })}
  <//>`;
}
