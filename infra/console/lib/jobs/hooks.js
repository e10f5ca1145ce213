// Hooks over one client, made of a framework's own: `minutehand/react` makes them of React's.

import { answer, cancel, enqueue, retry } from "./changes.js";
import { watchJobs } from "./watch.js";
import { stateOf, watchJob } from "./watch-job.js";

const NO_JOBS = { jobs: [], isLoading: true, freshness: "catching-up", problem: null };

/** Make the hooks of `React`, `preact/hooks`, or what keeps their contract. */
export function createHooks({ useState, useEffect, useRef }, client, defaults = {}) {
  const { schema } = defaults;
  const clientNow = () => (typeof client === "function" ? client() : client);

  /** What `start` watches of `subject`: read from the watch at each render, and kept nowhere else. */
  function useWatch(subject, start, nothing) {
    const [held, hold] = useState(null);
    const [, draw] = useState(0);
    useEffect(() => {
      if (!subject) return undefined;
      const watch = start(() => draw((count) => count + 1));
      hold({ subject, watch });
      return () => watch.close();
    }, [subject]);
    const watch = held?.subject === subject && !held.watch.closed ? held.watch : null;
    return { ...(watch?.state ?? nothing), refresh: () => watch?.refresh() };
  }

  /** Nothing is followed without an id. */
  function useJob(jobId, { session_id, pollingInterval, history, onEvent, onEnd } = {}) {
    const latest = useRef(null);
    latest.current = { onEvent, onEnd };
    const start = (onChange) =>
      watchJob(clientNow(), jobId, {
        schema,
        session_id,
        pollingInterval,
        history,
        onChange,
        onEvent: (event) => latest.current.onEvent?.(event),
        onEnd: (job) => latest.current.onEnd?.(job),
      });
    const subject = jobId ? JSON.stringify([jobId, session_id, pollingInterval, history]) : null;
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

  function useJobs(filter = {}, { limit, onEnd } = {}) {
    const latest = useRef(null);
    latest.current = onEnd;
    const wanted = { workspace_id: defaults.workspace_id, ...filter };
    const start = (onChange) =>
      watchJobs(clientNow(), wanted, {
        schema,
        limit,
        onChange,
        onEnd: onEnd && ((job) => latest.current?.(job)),
      });
    const isWhole = wanted.workspace_id || wanted.session_id;
    const subject = isWhole ? JSON.stringify([wanted, limit, Boolean(onEnd)]) : null;
    return useWatch(subject, start, NO_JOBS);
  }

  /** `useJob` by a name that guides of other stacks have. */
  const useJobStatus = ({ jobId, ...options }) => useJob(jobId, options);

  return { useJob, useJobStatus, useJobs, useEnqueue };
}
