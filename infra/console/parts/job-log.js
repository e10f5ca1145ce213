// Shows the live log of a job, with filters and a download. Of a long log, only the visible lines
// are drawn.

import { clock, pluralize, pretty, timeOfDay, utc } from "../lib/format.js";
import { html, quietButton, useLayoutEffect, useMemo, useRef, useState } from "../lib/ui.js";
import { useVirtual } from "../lib/virtual.js";
import { download } from "./copy.js";
import { ActionButton } from "./dialog.js";
import { choice } from "./field.js";
import { Empty } from "./states-of-view.js";
import { act } from "./toasts.js";

const ROW = 24;
/** The minimum log levels from which a person can choose. */
const LEVELS = [
  ["debug", "all"],
  ["info", "info and up"],
  ["warning", "warning and up"],
  ["error", "error and up"],
];
const indexOf = (level) => LEVELS.findIndex(([name]) => name === level);

function asText(line) {
  const words = `${line.at} [${line.level}] attempt ${line.attempt ?? "?"}: ${line.message}`;
  return hasMore(line) ? `${words} ${JSON.stringify(line.metadata)}` : words;
}
const hasMore = ({ metadata }) => metadata && Object.keys(metadata).length > 0;

/**
 * Keep a box at its end when its content grows to another size, unless the reader has scrolled up.
 * Return a button that scrolls to the end, or false at the end, and a listener of the box.
 */
export function useFollow(box, size) {
  const [isAway, setIsAway] = useState(false);
  const jump = () => {
    if (box.current) box.current.scrollTop = box.current.scrollHeight;
  };
  useLayoutEffect(() => {
    if (!isAway) jump();
  }, [size]);
  const onScroll = () => {
    const { scrollHeight, scrollTop, clientHeight } = box.current;
    setIsAway(scrollHeight - scrollTop - clientHeight > ROW * 2);
  };
  return [isAway && quietButton("Jump to latest", jump), onScroll];
}

export function JobLog({ lines, name, live, earlier, all }) {
  const [minLevel, setMinLevel] = useState("debug");
  const [text, setText] = useState("");
  const [open, setOpen] = useState(null);
  const shown = useMemo(() => {
    const from = indexOf(minLevel);
    const query = text.trim().toLowerCase();
    return lines.filter(
      (line) =>
        indexOf(line.level) >= from &&
        (!query ||
          line.message.toLowerCase().includes(query) ||
          (hasMore(line) && JSON.stringify(line.metadata).toLowerCase().includes(query))),
    );
  }, [lines, minLevel, text]);
  const { ref, box, first, last, before, after } = useVirtual({
    count: shown.length,
    rowHeight: ROW,
  });
  const [jump, onScroll] = useFollow(box, shown.length);
  const save = () =>
    act("Could not download", async () =>
      download(`${name}.log`, `${(await all()).map(asText).join("\n")}\n`),
    );
  const part = shown.length < lines.length && `${shown.length} of `;
  const detail = useRef(null);
  useLayoutEffect(() => detail.current?.scrollIntoView({ block: "nearest" }), [open]);
  const chosen = open === null ? null : shown.find((line) => line.key === open);
  if (lines.length === 0)
    return html`<${Empty} title=${live ? "No log lines yet" : "This job wrote no log lines"} />`;
  return html`<div class="log">
    <div class="bar">
      ${choice("Level", minLevel, setMinLevel, LEVELS, "field-inline")}
      <label class="field-inline grow">
        <span class="hidden">Filter log lines</span>
        <input
          type="search"
          placeholder="Filter log lines"
          value=${text}
          onInput=${(event) => setText(event.target.value)} />
      </label>
      <span class="muted small num">
        ${earlier && "the latest "}${part}${pluralize(lines.length, "line")}
      </span>
      ${jump} ${earlier && html`<${ActionButton} className="quiet" run=${earlier}>Earlier lines<//>`}
      <${ActionButton} className="quiet" run=${save}>Download<//>
    </div>
    <div
      class="log-lines"
      ref=${ref}
      onScroll=${onScroll}
      tabindex="0"
      style=${{ height: `${Math.min(shown.length, 13) * ROW + 8}px` }}
      role="log"
      aria-live="off"
      aria-label="Log lines">
      <div style=${{ height: `${before}px` }}></div>
      ${shown.slice(first, last).map(
        (line) => html`<button
          type="button"
          class="log-line"
          key=${line.key}
          data-level=${line.level}
          aria-expanded=${open === line.key}
          onClick=${() => setOpen(open === line.key ? null : line.key)}>
          <time datetime=${line.at} title=${utc(line.at)}>
            ${timeOfDay(line.at)}
            <span class="log-ms">${clock(line.at).slice(8)}</span>
          </time>
          <span class="log-level" title=${line.level}>
            ${line.level[0]}
            <span class="log-word">${line.level.slice(1)}</span>
          </span>
          <span class="log-text">
            ${line.message}
            ${
              hasMore(line) &&
              html` <span class="log-more">
                ${JSON.stringify(line.metadata)}
              </span>`
            }
          </span>
        </button>`,
      )}
      <div style=${{ height: `${after}px` }}></div>
    </div>
    ${
      chosen &&
      html`<div class="log-open" ref=${detail}>
        <div class="bar">
          <span class="muted small">${utc(chosen.at)}, attempt ${chosen.attempt ?? "–"}</span>
          ${quietButton("Close", () => setOpen(null))}
        </div>
        <pre tabindex="0" aria-label="Log line">
          ${chosen.message}
          ${hasMore(chosen) ? `\n${pretty(chosen.metadata)}` : ""}
        </pre>
      </div>`
    }
  </div>`;
}
