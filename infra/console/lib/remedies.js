// What to do about a job that does not run or that failed: one sentence, and where to do it. Pure.

const at = (/** @type {string | null} */ place) => (place ? ` at ${place}` : "");

/** @typedef {{href: string, label: string}} Link */

/**
 * @param {{job: any, explained: {reason?: string} | null, place: string | null,
 *   failedChild: {id: string, place: string | null} | null, isManager: boolean}} known
 *   `explained` as `explain_job` gives it; `place` is file:line of the failed attempt, where it is known.
 * @returns {{text: string, links: Array<{href: string, label: string}>}|null}
 */
export function remedyOf({ job, explained, place, failedChild, isManager }) {
  if (job.status === "completed" || job.status === "cancelled") return null;
  const type = `/types/${encodeURIComponent(job.job_type)}`;
  const typeLink = { href: type, label: "The type" };
  const errorType = job.error_data?.type ?? "";
  const isEnded = job.status === "failed";
  const stopped = stoppedBy(explained?.reason, { job, isManager, typeLink });
  if (stopped && !isEnded) return stopped;
  if (!job.error_message || job.status === "processing" || job.status === "waiting") return null;
  if (failedChild) {
    return {
      text: `A child job failed${at(failedChild.place)}. Correct that first; then retry the child, and this job, whose finished steps are kept.`,
      links: [{ href: `/jobs/${failedChild.id}`, label: "The failed child" }],
    };
  }
  if (errorType === "AttemptTimeout") {
    return {
      text: "Give the type a longer timeout, or split the work into steps: a retry continues after the last finished one.",
      links: [typeLink],
    };
  }
  if (
    errorType === "WorkerLost" ||
    job.error_data?.reason === "lease_expired" ||
    (job.lost_attempts > 0 && isEnded && !errorType)
  ) {
    return {
      text: "Its worker stopped answering: out of memory, killed by a deploy, or its loop was blocked for longer than the lease. Look at that worker's log at the end of the attempt; blocking calls belong in a thread.",
      links: [typeLink],
    };
  }
  if (errorType === "PayloadRejected") {
    return {
      text: "The payload does not fit what the processor takes. Duplicate the job with a corrected one, and correct the code that enqueued it.",
      links: [typeLink],
    };
  }
  if (isForeign(errorType)) {
    return isEnded
      ? {
          text: `A service that it calls${at(place)} did not answer. When it is back, retry: finished steps are kept.`,
          links: [],
        }
      : {
          text: `A service that it calls${at(place)} did not answer. It is retried automatically; "Run now" retries at once.`,
          links: [],
        };
  }
  if (errorType === "DeadlineReached")
    return { text: "Split the work into steps, or give the worker more time.", links: [typeLink] };
  return isEnded
    ? {
        text: place
          ? `Correct ${place}, deploy, then retry: finished steps are kept.`
          : "Correct the cause, deploy, then retry: finished steps are kept.",
        links: [],
      }
    : {
        text: place
          ? `It is retried automatically; a correction of ${place} deployed before then applies.`
          : "It is retried automatically.",
        links: [],
      };
}

const FOREIGN =
  /(^|\.)(Connect(Error|Timeout|ion\w*Error)|ReadTimeout|ReadError|PoolTimeout|RemoteProtocolError|HTTPStatusError|TimeoutException|ServiceUnavailable|Unavailable|gaierror)$/;

const isForeign = (/** @type {string} */ errorType) => FOREIGN.test(errorType);

/** What keeps a job that is due, or that runs, from getting on. */
function stoppedBy(
  /** @type {string | undefined} */ reason,
  /** @type {{job: any, isManager: boolean, typeLink: Link}} */ { job, isManager, typeLink },
) {
  const operations = { href: "/operations", label: "Operations" };
  const limits = { href: "/limits", label: "Limits" };
  switch (reason) {
    case "workspace_paused":
      return {
        text: isManager
          ? "Resume the workspace once the reason no longer applies."
          : "A manager resumes the workspace.",
        links: [operations],
      };
    case "workspace_type_paused":
      return {
        text: "The type is paused in this workspace: correct what made it fail, then resume it.",
        links: [
          typeLink,
          {
            href: `/jobs?state=failed&job_type=${encodeURIComponent(job.job_type)}`,
            label: "Its failures",
          },
        ],
      };
    case "type_paused":
    case "job_type_paused":
    case "queue_paused":
      return { text: "It is paused for everyone: an operator resumes it.", links: [typeLink] };
    case "no_worker":
      return {
        text: "Start a worker, or find out why none runs: the schedule that starts it, its log, its keys. `minutehand doctor` checks each.",
        links: [typeLink],
      };
    case "no_processor":
      return {
        text: "Deploy a worker that has this type's processor, and check that the name is spelled the same.",
        links: [typeLink],
      };
    case "rate_limited":
      return {
        text: "It starts as soon as the limit allows. Raise the type's rate limit if the service behind it takes more.",
        links: [typeLink],
      };
    case "key_limit":
    case "workspace_type_limit":
    case "type_limit":
      return {
        text: "It starts when one of those running ends. Raise the type's concurrency if it may run more at once.",
        links: [typeLink],
      };
    case "workspace_limit":
      return {
        text: "It starts when another job of the workspace ends. Raise the workspace's own limit if it is too small.",
        links: [limits],
      };
    case "lease_expired":
    case "lease_lapsed":
      return {
        text: "The next check for expired leases, within seconds, gives it to another worker.",
        links: [],
      };
    default:
      return null;
  }
}

/** The fields that a refusal names, in any of its forms. */
function fieldsIn(/** @type {any} */ detail) {
  if (typeof detail === "string") return detail;
  const found = [detail]
    .flat()
    .flatMap(
      (one) =>
        one?.field ??
        one?.fields ??
        one?.problems?.map((/** @type {any} */ problem) => problem.field) ??
        [],
    );
  return found
    .flat()
    .map((one) => one?.field ?? one)
    .filter((one) => typeof one === "string")
    .join(", ");
}

/** What to do about a refusal at enqueue, by its code; null where the message says it all. */
export function remedyOfRefusal(/** @type {any} */ error) {
  switch (error?.code) {
    case "quota_exceeded":
      return {
        text: "Let jobs end or cancel some, or ask the operator for a higher quota.",
        links: [{ href: "/limits", label: "Limits" }],
      };
    case "unknown_job_type":
      return {
        text: "Choose one of the types that workers have registered.",
        links: [{ href: "/types", label: "Types" }],
      };
    case "payload_invalid":
    case "validation_failed":
      return {
        text: fieldsIn(error.detail)
          ? `Correct ${fieldsIn(error.detail)}.`
          : "Correct the payload; the type's page shows its schema.",
        links: [],
      };
    default:
      return null;
  }
}
