// Computes which rows of a long list are visible, so that only these rows are drawn. All rows of
// the list must have the same height.

import { useCallback, useLayoutEffect, useRef, useState } from "./ui.js";

/**
 * Number of rows that are drawn above and below the visible rows, so that scrolling shows no gap.
 */
const OVERSCAN = 8;

/**
 * Return the range of rows to draw, from `first` to `last` (exclusive), and the heights in pixels
 * of the empty spaces above and below these rows.
 */
function rowsInView({ count, rowHeight, top, height }) {
  const first = Math.max(0, Math.min(count, Math.floor(top / rowHeight) - OVERSCAN));
  const end = Math.min(count, Math.ceil((top + height) / rowHeight) + OVERSCAN);
  const last = Math.max(first, end);
  return { first, last, before: first * rowHeight, after: (count - last) * rowHeight };
}

export function useVirtual({ count, rowHeight }) {
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
      const { scrollTop: top, clientHeight: height } = element;
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
  return { ref, box, ...rowsInView({ count, rowHeight, ...view }) };
}
