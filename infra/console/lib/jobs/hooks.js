// The hooks of `minutehand/react`.

import { enqueue } from "./enqueue.js";
import { makeUseJobStatus } from "./use-job-status.js";
import { watchJobs } from "./watch-jobs.js";

/** @import { Client, Hooks, JobHooks } from "./types.js" */
/** @import { JobsState } from "./watch-jobs.js" */

/** @type {JobsState} */
const NONE = { jobs: [], isLoading: true, freshness: "catching-up", problem: null };

/**
 * Make `useJob`, `useJobs` and `useEnqueue`; `minutehand/react` does it with React's own.
 *
 * @param {Hooks} hooks
 * @param {Client | (() => Client)} client
 * @param {{workspace_id?: string, schema?: string}} [defaults]
 * @returns {JobHooks}
 */
export function hooksOf(hooks, client, defaults = {}) {
  const { useState, useEffect } = hooks;
  const { schema } = defaults;
  const clientNow = () => (typeof client === "function" ? client() : client);
  const useJobStatus = makeUseJobStatus(hooks, client, { schema });
  return {
    useJob: (jobId, options) => useJobStatus({ ...options, jobId }),

    useJobs(tag, { workspace_id = defaults.workspace_id, limit, ...more } = {}) {
      const [state, setState] = useState(NONE);
      const filter = { ...more, ...(tag && { tag }) };
      useEffect(() => {
        setState(NONE);
        if (!workspace_id) return undefined;
        const options = { schema, filter, limit, onChange: setState };
        const watch = watchJobs(clientNow(), workspace_id, options);
        return () => watch.close();
      }, [workspace_id, limit, JSON.stringify(filter)]);
      return state;
    },

    useEnqueue(jobType, options) {
      /** @typedef {{jobId?: string, isEnqueuing?: boolean, problem?: Error}} Made */
      const [made, setMade] = useState(/** @type {Made} */ ({}));
      const followed = /** @type {any} */ (useJobStatus({ jobId: made.jobId }));
      return {
        ...followed,
        problem: made.problem ?? followed.problem,
        isEnqueuing: made.isEnqueuing ?? false,
        async enqueue(payload, more) {
          setMade({ isEnqueuing: true });
          try {
            const place = { workspace_id: "", ...defaults, ...options, ...more };
            const { job } = await enqueue(clientNow(), jobType, payload, place);
            setMade({ jobId: job.id });
            return job;
          } catch (error) {
            setMade({ problem: /** @type {Error} */ (error) });
            return null;
          }
        },
      };
    },
  };
}
