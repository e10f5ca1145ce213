// Which rows of a long list are on screen. Rows have one height, so that this is arithmetic.

import { useCallback, useEffect, useRef, useState } from "./ui.js";

const OVERSCAN = 8;

/**
 * @param {{count: number, rowHeight: number}} list
 * @returns {{ref: object, first: number, last: number, before: number, after: number,
 *   atTop: boolean, scrollTo: (index: number) => void}} Rows `first` to `last` (exclusive) are
 *   drawn between spacers of `before` and `after` pixels; `ref` goes on the scrolling element.
 */
export function useVirtual({ count, rowHeight }) {
  const ref = useRef(null);
  const [view, setView] = useState({ top: 0, height: 800 });
  useEffect(() => {
    const element = ref.current;
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
  }, []);
  const scrollTo = useCallback((index) => {
    const element = ref.current;
    if (!element) return;
    const top = index * rowHeight;
    if (top < element.scrollTop) element.scrollTop = top;
    else if (top + rowHeight > element.scrollTop + element.clientHeight) element.scrollTop = top + rowHeight - element.clientHeight;
  }, [rowHeight]);
  const first = Math.max(0, Math.min(count, Math.floor(view.top / rowHeight) - OVERSCAN));
  const last = Math.max(first, Math.min(count, Math.ceil((view.top + view.height) / rowHeight) + OVERSCAN));
  return { ref, first, last, before: first * rowHeight, after: (count - last) * rowHeight, atTop: view.top < rowHeight, scrollTo };
}
