// Modules that a page loads when they are first needed.

import { h, useEffect, useState } from "../lib/ui.js";
import { withTimeout } from "../lib/jobs/client.js";
import { notifyFailure } from "./toasts.js";

/**
 * A module, null until it is there, and why it is not. A browser asks once for a module: the page
 * is to be read again.
 */
export function useModule(source) {
  const [, draw] = useState({});
  const [failed, setFailed] = useState(null);
  useEffect(() => {
    // another part may have loaded it between this one's first drawing and now
    if (source.module) return draw({});
    withTimeout(source.load, AbortSignal.timeout(LOAD_MS)).then(
      (module) => {
        source.module = module;
        draw({});
      },
      () => setFailed(source),
    );
  }, [source]);
  const isFailed = !source.module && failed === source;
  return { module: source.module ?? null, error: isFailed ? UNREACHABLE : null };
}

const LOAD_MS = 15_000;
const UNREACHABLE = new Error("The server cannot be reached.");

/** A component whose module comes when it is first drawn. */
export function lazy(load, name) {
  const source = { load };
  return function Lazy(props) {
    const { module, error } = useModule(source);
    useEffect(() => void (error && notifyFailure("Reload the page to open it", error)), [error]);
    return module && h(module[name], props);
  };
}

export const EnqueueDialog = lazy(() => import("./enqueue.js"), "EnqueueDialog");
export const ReplayDialog = lazy(() => import("./replay.js"), "ReplayDialog");
