// Computes which rows of a long list are visible, so that only these rows are drawn. All rows of
// such a list must have the same height.

import { useCallback, useLayoutEffect, useRef, useState } from "./ui.js";

/**
 * Number of rows that are drawn above and below the visible rows, so that scrolling shows no gap.
 */
const OVERSCAN = 8;

/**
 * Return the `ref` of the element that scrolls, the element (`box`), the range of rows that fit
 * into the view, from `start` to `end` (exclusive), the range of rows to draw, from `first` to
 * `last` (exclusive), and the heights in pixels of the empty spaces above and below the drawn rows.
 * With `isWhole`, all rows are drawn, and may be higher.
 */
export function useVirtual({ count, rowHeight, isWhole = false }) {
  const box = useRef(null);
  const [element, setElement] = useState(null);
  const ref = useCallback((found) => {
    box.current = found;
    setElement(found);
  }, []);
  const [view, setView] = useState({ top: 0, height: 800 });
  useLayoutEffect(() => {
    if (!element) return undefined;
    let frame = 0;
    const measure = () => {
      frame = 0;
      const { scrollTop: top, clientHeight } = element;
      const height = clientHeight - (element.querySelector("thead")?.offsetHeight ?? 0);
      setView((now) => (now.top === top && now.height === height ? now : { top, height }));
    };
    const soon = () => (frame ||= requestAnimationFrame(measure));
    const sizes = new ResizeObserver(soon);
    sizes.observe(element);
    element.addEventListener("scroll", soon, { passive: true });
    measure();
    return () => {
      cancelAnimationFrame(frame);
      sizes.disconnect();
      element.removeEventListener("scroll", soon);
    };
  }, [element]);
  const start = Math.floor(view.top / rowHeight);
  const end = Math.ceil((view.top + view.height) / rowHeight);
  const first = isWhole ? 0 : Math.max(0, Math.min(count, start - OVERSCAN));
  const last = isWhole ? count : Math.min(count, end + OVERSCAN);
  const heights = { before: first * rowHeight, after: (count - last) * rowHeight };
  return { ref, box, start, end, first, last, ...heights };
}
