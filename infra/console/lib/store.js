// A value that views share and subscribe to.

import { useEffect, useLayoutEffect, useRef, useState } from "./ui.js";

/** A holder of one value. */
export function createStore(value) {
  const listeners = new Set();
  return {
    get: () => value,
    set(next) {
      const made = next instanceof Function ? next(value) : next;
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

const INITIAL_STATE = { value: undefined, error: null, isLoading: true };

/** Whether repeating may help: no server answered, it failed, or asks to wait. */
export const isTransient = ({ status }) => status === 0 || status === 429 || status >= 500;

/**
 * What an asynchronous read gives, in the states every view has: loading, failed, loaded, and
 * stale (`isStale`: an older value is shown because reading the newer one failed).
 *
 * A server that was unavailable is asked again by itself.
 */
export function useFetch(read, inputs) {
  const [state, setState] = useState(INITIAL_STATE);
  const [turn, setTurn] = useState(0);
  useLayoutEffect(() => setState(INITIAL_STATE), inputs);
  useEffect(() => {
    const controller = new AbortController();
    let again = 0;
    setState((before) => ({ ...before, isLoading: true }));
    read(controller.signal).then(
      (value) => !controller.signal.aborted && setState({ value, error: null, isLoading: false }),
      (error) => {
        if (controller.signal.aborted) return;
        setState((before) => ({ ...before, error, isLoading: false }));
        if (isTransient(error)) again = setTimeout(() => setTurn((value) => value + 1), RETRY_MS);
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

/** Read again every so often while the page is visible, never during a read; null: not. */
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
