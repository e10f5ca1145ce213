// Hooks over one client, made of a framework's own: `minutehand/react` makes them of React's.

import { answer, cancel, enqueue, retry } from "./client.js";
import { stateOf, watchJob, watchJobs } from "./watch.js";

const NO_JOBS = { jobs: [], isLoading: true, freshness: "catching-up", problem: null };

/** Make the hooks of `React`, `preact/hooks`, or what keeps their contract. */
export function hooksOf({ useState, useEffect, useRef }, client, defaults = {}) {
  const { schema } = defaults;
  const clientNow = () => (typeof client === "function" ? client() : client);

  /** What `start` watches, of `subject` alone: no render has the state of another one. */
  function useWatch(subject, start, nothing) {
    const [shown, setShown] = useState(null);
    const watch = useRef(null);
    useEffect(() => {
      if (!subject) return undefined;
      const started = start((state) => setShown({ subject, state }));
      watch.current = started;
      return () => {
        watch.current = null;
        started.close();
        setShown(null);
      };
    }, [subject]);
    const state = shown?.subject === subject ? shown.state : nothing;
    return { ...state, refresh: () => watch.current?.refresh() };
  }

  /** Nothing is followed without an id. */
  function useJob(jobId, { pollingInterval, history, onEvent, onEnd } = {}) {
    const latest = useRef(null);
    latest.current = { onEvent, onEnd };
    const start = (onChange) =>
      watchJob(clientNow(), jobId, {
        schema,
        pollingInterval,
        history,
        onChange,
        onEvent: (event) => latest.current.onEvent?.(event),
        onEnd: (job) => latest.current.onEnd?.(job),
      });
    const subject = jobId ? JSON.stringify([jobId, pollingInterval, history]) : null;
    const watched = useWatch(subject, start, stateOf(null, { isLoading: Boolean(jobId) }));
    const done = async (changed) => {
      const job = await changed;
      await watched.refresh();
      return job;
    };
    return {
      ...watched,
      cancel: () => done(cancel(clientNow(), jobId, { schema })),
      retry: (payload) => done(retry(clientNow(), jobId, { payload, schema })),
      answer: (value) => done(answer(clientNow(), jobId, value, { schema })),
    };
  }

  /** `enqueue(payload)` adds a job of this type, which is followed from then on. */
  function useEnqueue(jobType, options) {
    const [asked, setAsked] = useState({ id: null, isLoading: false, problem: null });
    const watched = useJob(asked.id, options);
    return {
      ...watched,
      isLoading: asked.isLoading || watched.isLoading,
      problem: asked.problem ?? watched.problem,
      async enqueue(payload, more) {
        setAsked({ id: null, isLoading: true, problem: null });
        try {
          const { job } = await enqueue(clientNow(), jobType, payload, { ...defaults, ...more });
          setAsked({ id: job.id, isLoading: false, problem: null });
          return job;
        } catch (problem) {
          setAsked({ id: null, isLoading: false, problem });
          return null;
        }
      },
    };
  }

  function useJobs(filter = {}, { limit } = {}) {
    const wanted = { workspace_id: defaults.workspace_id, ...filter };
    const start = (onChange) => watchJobs(clientNow(), wanted, { schema, limit, onChange });
    const isWhole = wanted.workspace_id || wanted.session_id;
    return useWatch(isWhole ? JSON.stringify([wanted, limit]) : null, start, NO_JOBS);
  }

  /** `useJob` by a name that guides of other stacks have. */
  const useJobStatus = ({ jobId, ...options }) => useJob(jobId, options);

  return { useJob, useJobStatus, useJobs, useEnqueue };
}
