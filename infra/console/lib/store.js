// Stores that share a value between components, and a hook that reads data and reports loading and
// errors.

import { useEffect, useLayoutEffect, useRef, useState } from "./ui.js";

/** Create a store for one value. */
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

/**
 * Number that changes when the data of the page may be old, because jobs of the workspace have
 * changed or some time has passed.
 */
export const changes = createStore(0);

/**
 * Return the current value of a store. When the value changes, Preact renders the calling component
 * again.
 */
export function useStore(store) {
  const [, draw] = useState(null);
  const shown = useRef(null);
  shown.current = store.get();
  // subscribe to the store before painting, because a change between painting and a later effect
  // would appear late
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
 * Return whether a request may succeed if it is repeated: the server is unreachable, has failed, or
 * has asked the client to wait.
 */
export const isTransient = ({ status }) => status === 0 || status === 429 || status >= 500;

/**
 * Run an asynchronous read and return its state (loading, failed, loaded or stale). `isStale` is
 * true if the last read failed and the value is from an earlier read.
 *
 * If a read fails for a transient reason, `useFetch` repeats the read.
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
 * Repeat a read every `everyMs` milliseconds while the page is visible, unless a read is in flight.
 * If `everyMs` is null, do not repeat the read.
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
