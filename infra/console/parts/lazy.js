// Components whose modules are loaded when they are first drawn.

import { h, useEffect, useState } from "../lib/ui.js";
import { withTimeout } from "../lib/jobs/client.js";
import { notifyFailure } from "./toasts.js";

/**
 * Load a module. Returns the module, or null with an error. A browser requests a failed module only
 * once, so the person must reload the page.
 */
export function useModule(source) {
  const [, draw] = useState({});
  const [failed, setFailed] = useState(null);
  useEffect(() => {
    // another component may have loaded the module since the first drawing
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

/** Create a component whose module is loaded when it is first drawn. */
export function lazy(load, name) {
  const source = { load };
  return function Lazy(props) {
    const { module, error } = useModule(source);
    useEffect(() => void (error && notifyFailure("Reload the page to open this", error)), [error]);
    return module && h(module[name], props);
  };
}

export const EnqueueDialog = lazy(() => import("./enqueue.js"), "EnqueueDialog");
export const ReplayDialog = lazy(() => import("./replay.js"), "ReplayDialog");
