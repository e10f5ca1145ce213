-- States and times as a view, for SQL and the Data API: what queue.job_facts derives of each job the caller may see.

create function queue.facts_of(p_job_id uuid) returns jsonb
language sql stable
security definer -- leases and waits are the engine's own
set search_path = '' as $$
  select queue.job_facts(j, queue.clock()) from public.jobs as j
  where j.id = p_job_id
    and (j.workspace_id in (select queue.my_workspaces()) or auth.uid() is null and queue.is_service())
$$;
comment on function queue.facts_of is 'job_facts of one of the caller''s jobs, for the view job_states; null for any '
  'other.';

create view public.job_states with (security_invoker = on) as
select j.id, j.workspace_id, j.job_type, j.status, f.state, f.next_run_at, f.waiting_for, f.running_since, f.worker_id,
  (f.times ->> 'queue_ms')::double precision as queue_ms, (f.times ->> 'run_ms')::double precision as run_ms,
  (f.times ->> 'held_ms')::double precision as held_ms, (f.times ->> 'runs')::bigint as runs,
  (f.times ->> 'wait_ms')::double precision as wait_ms,
  (f.times ->> 'total_ms')::double precision as total_ms
from public.jobs as j
cross join lateral jsonb_to_record(queue.facts_of(j.id)) as f (
  state text, next_run_at timestamptz, waiting_for jsonb, running_since timestamptz, worker_id text, times jsonb);
comment on view public.job_states is E'Each job''s state in the words people look for, its next run, what it waits '
  'for, and where its time went.\n\nJoin it with jobs by id and filter to the jobs you need, since it is computed '
  'per job.';
comment on column public.job_states.id is 'The job.';
comment on column public.job_states.workspace_id is 'Its workspace.';
comment on column public.job_states.job_type is 'Its type.';
comment on column public.job_states.status is 'Its status.';
comment on column public.job_states.state is 'queued, scheduled, retrying, running, suspended, completed, failed or '
  'cancelled.';
comment on column public.job_states.next_run_at is 'When it runs next, UTC; in the past for one that is due, null '
  'where it is not known or never.';
comment on column public.job_states.waiting_for is 'What a suspended job waits for: {kind, name, until, …}.';
comment on column public.job_states.running_since is 'Start of the running attempt, UTC.';
comment on column public.job_states.worker_id is 'The worker that runs it.';
comment on column public.job_states.queue_ms is 'From being due to the first start, milliseconds.';
comment on column public.job_states.run_ms is 'Run time of all attempts, milliseconds; the running one until now.';
comment on column public.job_states.held_ms is 'From each lease to its end, milliseconds; the running one until now.';
comment on column public.job_states.runs is 'How often it was leased.';
comment on column public.job_states.wait_ms is 'The rest of total_ms, neither queued nor held: schedule, '
  'backoff, sleeps, questions, children.';
comment on column public.job_states.total_ms is 'From creation to the end, or until now, milliseconds.';

select queue.show_to_members('public.job_states');
