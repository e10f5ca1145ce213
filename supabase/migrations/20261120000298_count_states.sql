-- How many pending jobs are queued, scheduled and retrying: what tabs show, counted no further than they can.

create function queue.pending_states(p_workspace_id uuid, p_filter jsonb, p_now timestamptz) returns jsonb
language sql stable set search_path = '' as $$
  select jsonb_build_object('queued', count(*) filter (where p.state = 'queued'),
    'scheduled', count(*) filter (where p.state = 'scheduled'),
    'retrying', count(*) filter (where p.state = 'retrying'))
  from (
    select queue.state_of(j.status, j.attempts, j.next_retry_at, j.scheduled_for, p_now) as state
    from public.jobs as j
    where j.id = any (array( -- one scan by key, even where statistics say that there are no jobs
      (select r.job_id from queue.ready as r where r.workspace_id = p_workspace_id limit 10000)
      union all
      (select d.job_id from queue.deferred as d where d.workspace_id = p_workspace_id limit 10000)))
      and j.status = 'pending' and (p_filter ->> 'queue' is null or j.queue = p_filter ->> 'queue')
      and (p_filter ->> 'parent_id' is null or j.parent_id = (p_filter ->> 'parent_id')::uuid)
      and case when p_filter ? 'job_type' then j.job_type = p_filter ->> 'job_type'
        else not exists (select 1 from queue.job_types as t where t.job_type = j.job_type and t.internal) end) as p
$$;
comment on function queue.pending_states is 'Pending jobs of a workspace by state: {queued, scheduled, retrying}, '
  'of at most 10,000 that are due and 10,000 that are not; internal types only when named.';

create function queue.internal_jobs(p_workspace_id uuid, p_status text) returns bigint
language sql stable set search_path = '' as $$
  select count(*) from (
    (select e.job_type from queue.ended as e
      where e.workspace_id = p_workspace_id and e.outcome = p_status limit 10000)
    union all
    select j.job_type from public.jobs as j where j.id = any (array(
      select w.job_id from queue.waits as w
      where p_status = 'waiting' and w.workspace_id = p_workspace_id limit 10000))) as s
  join queue.job_types as t on t.job_type = s.job_type and t.internal
$$;
comment on function queue.internal_jobs is 'How many of the first 10,000 jobs that wait, or ended so, are of internal '
  'types. p_status: waiting or an outcome.';

create function queue.count_states(p_workspace_id uuid, p_filter jsonb, p_counts jsonb, p_shown jsonb) returns jsonb
language sql stable set search_path = '' as $$
  select jsonb_build_object('running', case when p_filter <> '{}' then (p_shown ->> 'processing')::bigint else (
        select count(*) from queue.leases as l where l.workspace_id = p_workspace_id
          and not exists (select 1 from queue.job_types as t where t.job_type = l.job_type and t.internal)) end)
    || case when p_counts -> 'pending' = '0' then '{"queued": 0, "scheduled": 0, "retrying": 0}'
      else queue.pending_states(p_workspace_id, p_filter, queue.clock()) end
    || (select jsonb_object_agg(s.state, case when p_filter <> '{}' then (p_shown ->> s.status)::bigint
        else (p_counts ->> s.status)::bigint - queue.internal_jobs(p_workspace_id, s.status) end)
      from (values ('suspended', 'waiting'), ('completed', 'completed'), ('failed', 'failed'),
        ('cancelled', 'cancelled')) as s (state, status))
$$;
comment on function queue.count_states is 'Counts by state from counts by status, without internal types unless a '
  'filter names one. p_shown: those counts without them, where there is a filter.';
