// Parses messages of Realtime topics.

/**
 * Return the events in a message of a Realtime topic. A message is one event, a list of events, or
 * a list of groups. The events of a group differ only in the job and `seq`.
 */
export function eventsOf(payload) {
  if (Array.isArray(payload?.groups)) return payload.groups.flatMap(eventsOfGroup);
  return Array.isArray(payload?.events) ? payload.events : [payload];
}

/**
 * Return the events of a group, one event for each job. `seqs` is a list with a number for each
 * job, or one number for all jobs.
 */
function eventsOfGroup(group) {
  const { job_ids: jobs, seqs, ...rest } = group ?? {};
  if (!Array.isArray(jobs) || !Array.isArray(seqs)) return [{}];
  if (seqs.length !== 1 && seqs.length !== jobs.length) return [{}];
  return jobs.map((job_id, n) => ({ job_id, seq: seqs[n] ?? seqs[0], ...rest }));
}
