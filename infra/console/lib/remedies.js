// Where to do what a remedy says, and what to do about a refusal. Pure; remedies of jobs come from explain_job.

/** @typedef {{href: string, label: string}} Link */

/**
 * Pages that belong to a remedy.
 *
 * @param {{job_type: string}} job
 * @param {{reason: string, child_id?: string | null}} explained As explain_job gives it.
 * @returns {Link[]}
 */
export function linksOf(job, { reason, child_id: childId }) {
  if (childId) return [{ href: `/jobs/${childId}`, label: "The failed child" }];
  if (reason === "workspace_paused") return [{ href: "/operations", label: "Overview" }];
  const name = encodeURIComponent(job.job_type);
  const type = { href: `/types/${name}`, label: "The type" };
  return reason === "workspace_type_paused"
    ? [type, { href: `/jobs?state=failed&job_type=${name}`, label: "Show failures" }]
    : [type];
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
        links: [],
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
