// Hooks for one supabase-js client, made from the hooks of a framework. `minutehand/react` makes
// these hooks from React's hooks.

import { answer, cancel, enqueue, retry } from "./changes.js";
import { watchJobs } from "./watch.js";
import { stateOf, watchJob } from "./watch-job.js";

const NO_JOBS = { jobs: [], isLoading: true, freshness: "catching-up", problem: null };
const NO_REQUEST = { id: null, isLoading: false, problem: null };

/**
 * Create the hooks from `React`, from `preact/hooks`, or from a library with the same functions.
 */
export function createHooks({ useState, useEffect, useRef }, client, defaults = {}) {
  const { schema } = defaults;
  const getClient = () => (typeof client === "function" ? client() : client);

  /**
   * Return the current state of the watch that `start` creates for `subject`, and render again when
   * the state changes.
   */
  function useWatch(subject, start, initial) {
    const [current, setCurrent] = useState(null);
    const [, draw] = useState(0);
    useEffect(() => {
      if (!subject) return undefined;
      const watch = start(() => draw((count) => count + 1));
      setCurrent({ subject, watch });
      return () => watch.close();
    }, [subject]);
    const watch = current?.subject === subject && !current.watch.closed ? current.watch : null;
    return { ...(watch?.state ?? initial), refresh: () => watch?.refresh() };
  }

  /** Follow one job. Without a `jobId`, `useJob` follows no job. */
  function useJob(jobId, { onEvent, onEnd, ...options } = {}) {
    const latest = useRef(null);
    latest.current = { onEvent, onEnd };
    const start = (onChange) =>
      watchJob(getClient(), jobId, {
        ...options,
        schema,
        onChange,
        onEvent: (event) => latest.current.onEvent?.(event),
        onEnd: (job) => latest.current.onEnd?.(job),
      });
    const { session_id, pollingInterval, history } = options;
    const subject = jobId ? JSON.stringify([jobId, session_id, pollingInterval, history]) : null;
    const watched = useWatch(subject, start, stateOf(null, { isLoading: Boolean(jobId) }));
    const refreshAfter = async (change) => {
      const job = await change;
      await watched.refresh();
      return job;
    };
    return {
      ...watched,
      cancel: () => refreshAfter(cancel(getClient(), jobId, { schema })),
      retry: (payload) => refreshAfter(retry(getClient(), jobId, { payload, schema })),
      answer(value) {
        // without the name, a second click would answer the job's next question
        const name = watched.job?.waiting_for?.name;
        return refreshAfter(answer(getClient(), jobId, value, { name, schema }));
      },
    };
  }

  /**
   * Return `enqueue(payload)`, which adds a job of the type `jobType`, and the state of that job.
   */
  function useEnqueue(jobType, options) {
    const [request, setRequest] = useState(NO_REQUEST);
    const watched = useJob(request.id, options);
    return {
      ...watched,
      isLoading: request.isLoading || watched.isLoading,
      problem: request.problem ?? watched.problem,
      async enqueue(payload, more) {
        setRequest({ ...NO_REQUEST, isLoading: true });
        try {
          const { job } = await enqueue(getClient(), jobType, payload, { ...defaults, ...more });
          setRequest({ ...NO_REQUEST, id: job.id });
          return job;
        } catch (problem) {
          setRequest({ ...NO_REQUEST, problem });
          return null;
        }
      },
    };
  }

  function useJobs(filter = {}, { limit, onEnd } = {}) {
    const latest = useRef(null);
    latest.current = onEnd;
    const merged = { workspace_id: defaults.workspace_id, ...filter };
    const start = (onChange) =>
      watchJobs(getClient(), merged, {
        schema,
        limit,
        onChange,
        onEnd: onEnd && ((job) => latest.current?.(job)),
      });
    const isComplete = merged.workspace_id || merged.session_id;
    const subject = isComplete ? JSON.stringify([merged, limit, Boolean(onEnd)]) : null;
    return useWatch(subject, start, NO_JOBS);
  }

  /**
   * Follow one job, as `useJob` does, under the name `useJobStatus` that guides for other
   * frameworks use.
   */
  const useJobStatus = ({ jobId, ...options }) => useJob(jobId, options);

  return { useJob, useJobStatus, useJobs, useEnqueue };
}
