// Which rows of a long list are on screen. Rows have one height, so that this is arithmetic.

import { useCallback, useLayoutEffect, useRef, useState } from "./ui.js";

const OVERSCAN = 8;

/**
 * @param {{count: number, rowHeight: number}} list
 * @returns {{ref: Function, box: {current: Element|null}, first: number, last: number,
 *   before: number, after: number}} Rows `first` to `last` (exclusive) are drawn between spacers of
 *   `before` and `after` pixels; `ref` goes on the scrolling element, which may come and go.
 */
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
  const first = Math.max(0, Math.min(count, Math.floor(view.top / rowHeight) - OVERSCAN));
  const last = Math.max(
    first,
    Math.min(count, Math.ceil((view.top + view.height) / rowHeight) + OVERSCAN),
  );
  return { ref, box, first, last, before: first * rowHeight, after: (count - last) * rowHeight };
}
