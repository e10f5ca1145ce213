// The hook that follows a job, without a framework: its effect is run by hand.

import assert from "node:assert/strict";
import { test } from "node:test";
import { makeUseJobStatus } from "../../../infra/console/lib/jobs/use-job-status.js";

test("without a job there is none to cancel, also not the one before", async () => {
  const ref = { current: null };
  let effect;
  const hooks = {
    useState: (first) => [first, () => {}],
    useRef: (first) => (first === null ? ref : { current: first }),
    useEffect: (run) => (effect = run),
  };
  const never = new Promise(() => {});
  const query = new Proxy(() => query, {
    get: (_, name) => (name === "then" ? never.then.bind(never) : query),
    apply: () => query,
  });
  const cancelled = [];
  const cancel = async (id) => void cancelled.push(id);
  const useJobStatus = makeUseJobStatus(hooks, query);

  const first = useJobStatus({ jobId: "j1", cancel });
  const end = effect();
  first.cancel();
  end();
  const none = useJobStatus({ cancel });
  effect();
  none.cancel();
  await new Promise(setImmediate);

  assert.deepEqual(cancelled, ["j1"]);
});
