// The hook for Preact and React: whoever has `useState` and `useEffect` gets `useJobStatus`.

import { watchJob } from "../jobs.js";

const NOTHING = {
  job: null, status: null, progress: null, isCompleted: false, isFailed: false, isEnded: false,
  error: null, freshness: "catching-up", missing: false, events: [], problem: null,
};

/**
 * Make the hook for a framework and a client.
 *
 * @param {{useState: Function, useEffect: Function, useRef: Function}} hooks
 *   `preact/hooks`, `React`, or anything that keeps their contract.
 * @param {object | (() => object)} client A supabase-js client, or what returns it.
 * @returns {(options: {jobId: string, pollingInterval?: number, history?: boolean,
 *   onEvent?: Function}) => object} `{status, progress, isCompleted, isFailed, isEnded, error,
 *   freshness, job, events, missing, problem, refresh, cancel}`.
 *
 * @example
 * import * as hooks from "preact/hooks";
 * const useJobStatus = makeUseJobStatus(hooks, supabase);
 * const { status, progress, freshness, cancel } = useJobStatus({ jobId, pollingInterval: 2000 });
 */
export function makeUseJobStatus({ useState, useEffect, useRef }, client) {
  return function useJobStatus({ jobId, pollingInterval, history, onEvent, cancel }) {
    const [state, setState] = useState(NOTHING);
    const watch = useRef(null);
    const latest = useRef(null);
    latest.current = { onEvent, cancel };
    useEffect(() => {
      setState(NOTHING);
      if (!jobId) return undefined;
      watch.current = watchJob(typeof client === "function" ? client() : client, jobId, {
        pollingInterval,
        history,
        cancel: cancel && ((id) => latest.current.cancel(id)),
        onChange: setState,
        onEvent: (event) => latest.current.onEvent?.(event),
      });
      return () => watch.current.close();
    }, [jobId, pollingInterval, history]);
    return {
      ...state,
      refresh: () => watch.current?.refresh(),
      cancel: () => watch.current?.cancel(),
    };
  };
}
