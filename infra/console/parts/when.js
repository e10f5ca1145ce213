// Times: relative to now, with the exact instant in UTC behind them; and running durations.

import { duration, INSTANT, instantOf, local, relative, serverNow, utc } from "../lib/format.js";
import { html, useEffect, useState } from "../lib/ui.js";

const watchers = new Set();
let timer = null;

function notifyClocks() {
  if (document.visibilityState === "visible")
    for (const watcher of [...watchers]) watcher(serverNow());
}

/** The server's present, once a second; one timer for the whole page. */
export function useNow(active = true) {
  const [now, setNow] = useState(serverNow);
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
  return active ? Math.max(now, serverNow() - 1000) : serverNow();
}

/** `3 min ago`, with `2026-11-20 08:36:55.585 UTC` in its title. */
export function When({ at }) {
  const now = useNow(Boolean(at));
  if (!at) return html`<span class="none">–</span>`;
  return html`<time datetime=${at} title=${utc(at)}>${relative(at, now)}</time>`;
}

/** How long something has been taking until now; `before` are milliseconds that came earlier. */
export function Elapsed({ from, before = 0 }) {
  const now = useNow(Boolean(from));
  if (!from) return html`<span class="none">–</span>`;
  return html`<span class="num">
    ${duration(before + Math.max(0, now - Date.parse(from)))}
  </span>`;
}

/** An instant in the middle of a sentence, by the reader's clock: with the day when it is another. */
function Timestamp({ at }) {
  const now = useNow();
  const [day, time] = local(at).split(" ");
  const [today] = local(now).split(" ");
  return html`<time datetime=${at} title=${`${utc(at)}, ${relative(at, now)}`}>
    ${day === today ? "" : `${day} `}
    ${time.slice(0, 8)}
  </time>`;
}

/** A sentence whose instants are short, with the whole of each in its title. */
export const Sentence = ({ text }) =>
  String(text ?? "")
    .split(INSTANT)
    .map((part, index) =>
      index % 2 === 1 ? html`<${Timestamp} key=${index} at=${instantOf(part)} />` : part,
    );
