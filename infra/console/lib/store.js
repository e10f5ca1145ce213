// Stores of values that views share, and reads with their loading states.

import { useEffect, useLayoutEffect, useRef, useState } from "./ui.js";

/** Create a store of one value. */
export function createStore(value) {
  const listeners = new Set();
  return {
    get: () => value,
    set(next) {
      const changed = next instanceof Function ? next(value) : next;
      if (Object.is(changed, value)) return;
      value = changed;
      for (const listener of [...listeners]) listener(value);
    },
    subscribe(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
}

/** Return the current value of a store. The component is drawn again when it changes. */
export function useStore(store) {
  const [, draw] = useState(null);
  const shown = useRef(null);
  shown.current = store.get();
  // run before painting, because a change between drawing and a later effect would appear late
  useLayoutEffect(() => {
    const redraw = () => !Object.is(store.get(), shown.current) && draw({});
    redraw();
    return store.subscribe(redraw);
  }, [store]);
  return shown.current;
}

const RETRY_MS = 5000;

const INITIAL_STATE = { value: undefined, error: null, isLoading: true };

/**
 * Whether a repetition may succeed, because the server is unreachable, has failed, or asks clients
 * to wait.
 */
export const isTransient = ({ status }) => status === 0 || status === 429 || status >= 500;

/**
 * Run an asynchronous read and return its state (loading, failed, loaded or stale). `isStale` is
 * true if the value is old because the last read failed.
 *
 * A transient failure is retried.
 */
export function useFetch(read, inputs) {
  const [state, setState] = useState(INITIAL_STATE);
  const [reads, setReads] = useState(0);
  useLayoutEffect(() => setState(INITIAL_STATE), inputs);
  useEffect(() => {
    const controller = new AbortController();
    let retryTimer = 0;
    setState((before) => ({ ...before, isLoading: true }));
    read(controller.signal).then(
      (value) => !controller.signal.aborted && setState({ value, error: null, isLoading: false }),
      (error) => {
        if (controller.signal.aborted) return;
        setState((before) => ({ ...before, error, isLoading: false }));
        if (isTransient(error))
          retryTimer = setTimeout(() => setReads((value) => value + 1), RETRY_MS);
      },
    );
    return () => {
      controller.abort();
      clearTimeout(retryTimer);
    };
  }, [...inputs, reads]);
  return {
    ...state,
    isStale: state.value !== undefined && state.error !== null,
    refresh: () => setReads((value) => value + 1),
  };
}

/**
 * Read at intervals of `everyMs` while the page is visible, unless a read is in flight. Null stops
 * it.
 */
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
