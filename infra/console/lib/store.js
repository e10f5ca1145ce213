// A value that views share and are told about.

import { useEffect, useLayoutEffect, useRef, useState } from "./ui.js";

/** A holder of one value. */
export function createStore(value) {
  const listeners = new Set();
  return {
    get: () => value,
    set(next) {
      const made = typeof next === "function" ? next(value) : next;
      if (Object.is(made, value)) return;
      value = made;
      for (const listener of [...listeners]) listener(value);
    },
    subscribe(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
}

/** The present value of a store; the component is drawn again when it changes. */
export function useStore(store) {
  const [, draw] = useState(null);
  const shown = useRef(null);
  shown.current = store.get();
  // before painting: what changes between drawing and a later effect would be seen late
  useLayoutEffect(() => {
    const redraw = () => !Object.is(store.get(), shown.current) && draw({});
    redraw();
    return store.subscribe(redraw);
  }, [store]);
  return shown.current;
}

const RETRY_MS = 5000;

/** Whether repeating may help: the server was away, or failed; a refusal stays one. */
export const isPassing = (error) => error?.status === 0 || error?.status >= 500;

/**
 * What an asynchronous read gives, in the states every view has: loading, failed, loaded, and
 * stale (`isStale`: an older value is shown because reading the newer one failed or goes on).
 *
 * A server that was away is asked again by itself.
 *
 * @param {(signal: AbortSignal) => Promise<any>} read
 * @param {any[]} inputs Read again when one of them changes.
 */
export function useRead(read, inputs) {
  const [state, setState] = useState({ value: undefined, error: null, isLoading: true });
  const [turn, setTurn] = useState(0);
  useLayoutEffect(() => setState({ value: undefined, error: null, isLoading: true }), inputs);
  useEffect(() => {
    const controller = new AbortController();
    let again = null;
    setState((before) => ({ ...before, isLoading: true }));
    read(controller.signal).then(
      (value) => !controller.signal.aborted && setState({ value, error: null, isLoading: false }),
      (error) => {
        if (controller.signal.aborted) return;
        setState((before) => ({ ...before, error, isLoading: false }));
        if (isPassing(error)) again = setTimeout(() => setTurn((value) => value + 1), RETRY_MS);
      },
    );
    return () => {
      controller.abort();
      clearTimeout(again);
    };
  }, [...inputs, turn]);
  return {
    ...state,
    isStale: state.value !== undefined && state.error !== null,
    refresh: () => setTurn((value) => value + 1),
  };
}

/** Read again every so often while the page is visible, never while a read goes on; null: not. */
export function usePolling(read, everyMs) {
  const latest = useRef(read);
  latest.current = read;
  useEffect(() => {
    if (everyMs === null) return undefined;
    const timer = setInterval(
      () =>
        document.visibilityState === "visible" &&
        !latest.current.isLoading &&
        latest.current.refresh(),
      everyMs,
    );
    return () => clearInterval(timer);
  }, [everyMs]);
}
