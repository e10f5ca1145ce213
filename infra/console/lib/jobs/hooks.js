// React's hooks over one client, made of a framework's own: `minutehand/react` makes them of React's.

import { watchJob, watchJobs } from "./watch.js";

const NO_JOB = {
  ...{ job: null, status: null, progress: null, error: null, problem: null, events: [] },
  ...{ isCompleted: false, isFailed: false, isEnded: false, missing: false },
  freshness: "catching-up",
};
const NO_JOBS = { jobs: [], isLoading: true, freshness: "catching-up", problem: null };

/** Make `useJob` and `useJobs` of `React`, `preact/hooks`, or what keeps their contract. */
export function hooksOf({ useState, useEffect, useRef }, client, defaults = {}) {
  const { schema } = defaults;
  const clientNow = () => (typeof client === "function" ? client() : client);
  return {
    /** Nothing is followed without an id. */
    useJob(jobId, { pollingInterval, history, onEvent } = {}) {
      const [state, setState] = useState(NO_JOB);
      const watch = useRef(null);
      const latest = useRef(onEvent);
      latest.current = onEvent;
      useEffect(() => {
        setState(NO_JOB);
        if (!jobId) return undefined;
        const options = { schema, pollingInterval, history, onChange: setState };
        const started = watchJob(clientNow(), jobId, {
          ...options,
          onEvent: (event) => latest.current?.(event),
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
    },

    useJobs(filter = {}, { limit } = {}) {
      const [state, setState] = useState(NO_JOBS);
      const wanted = { workspace_id: defaults.workspace_id, ...filter };
      useEffect(() => {
        setState(NO_JOBS);
        if (!wanted.workspace_id && !wanted.session_id) return undefined;
        const watch = watchJobs(clientNow(), wanted, { schema, limit, onChange: setState });
        return () => watch.close();
      }, [limit, JSON.stringify(wanted)]);
      return state;
    },
  };
}
