// The hook that follows one job, for Preact and React: made of a framework's `useState` and `useEffect`.

import { watchJob } from "./watch.js";

/** @import { Client, Hooks, JobState, JobStatusOptions, JobType, UseJobStatus } from "./types.js" */

/** @type {JobState<any>} */
const NOTHING = {
  job: null,
  status: null,
  progress: null,
  isCompleted: false,
  isFailed: false,
  isEnded: false,
  error: null,
  freshness: "catching-up",
  missing: false,
  events: [],
  problem: null,
};

/**
 * Make the hook for a framework and a client.
 *
 * @param {Hooks} hooks `preact/hooks`, `React`, or anything that keeps their contract.
 * @param {Client | (() => Client)} client A supabase-js client, or what returns it.
 * @param {{schema?: string}} [options] Where the jobs are, if `setSchema` was not told.
 * @returns {UseJobStatus}
 *
 * @example
 * import * as hooks from "preact/hooks";
 * const useJobStatus = makeUseJobStatus(hooks, supabase);
 * const { status, progress, freshness, cancel } = useJobStatus({ jobId, pollingInterval: 2000 });
 */
export function makeUseJobStatus({ useState, useEffect, useRef }, client, { schema } = {}) {
  /**
   * @template {JobType} T
   * @param {JobStatusOptions} options
   */
  return function useJobStatus({ jobId, pollingInterval, history, onEvent, cancel }) {
    const [state, setState] = useState(/** @type {JobState<T>} */ (NOTHING));
    const watch = useRef(/** @type {ReturnType<typeof watchJob<T>> | null} */ (null));
    const latest = useRef({ onEvent, cancel });
    latest.current = { onEvent, cancel };
    useEffect(() => {
      setState(NOTHING);
      if (!jobId) return undefined;
      const started = watchJob(typeof client === "function" ? client() : client, jobId, {
        schema,
        pollingInterval,
        history,
        cancel: cancel && ((id) => (latest.current.cancel ?? cancel)(id)),
        onChange: setState,
        onEvent: (event) => latest.current.onEvent?.(event),
      });
      watch.current = started;
      return () => {
        watch.current = null;
        started.close();
      };
    }, [jobId, pollingInterval, history]);
    return {
      ...state,
      refresh: () => watch.current?.refresh(),
      cancel: () => watch.current?.cancel(),
    };
  };
}
