-- How many pending jobs are queued, scheduled and retrying: what tabs show, counted no further than they can.

create function queue.pending_states(p_workspace_id uuid, p_filter jsonb, p_now timestamptz) returns jsonb
language sql stable
set search_path = ''
set enable_seqscan = off -- no further than counted
as $$
  select jsonb_build_object('queued', count(*) filter (where p.state = 'queued'),
    'scheduled', count(*) filter (where p.state = 'scheduled'), 'retrying',
      count(*) filter (where p.state = 'retrying'))
  from (
    select queue.state_of(j.status, j.attempts, j.next_retry_at, j.scheduled_for, p_now) as state
    from (
      (select r.job_id from queue.ready as r where r.workspace_id = p_workspace_id limit 10000)
      union all
      (select d.job_id from queue.deferred as d where d.workspace_id = p_workspace_id limit 10000)) as k
    join public.jobs as j on j.id = k.job_id
    where j.status = 'pending' and (p_filter ->> 'job_type' is null or j.job_type = p_filter ->> 'job_type')
      and (p_filter ->> 'queue' is null or j.queue = p_filter ->> 'queue')
      and (p_filter ->> 'parent_id' is null or j.parent_id = (p_filter ->> 'parent_id')::uuid)) as p
$$;
comment on function queue.pending_states is 'Pending jobs of a workspace by what they wait for: {queued, scheduled, retrying}, of '
  'at most 10,000 that are due and 10,000 that are not.';

create function queue.count_states(p_workspace_id uuid, p_filter jsonb, p_counts jsonb) returns jsonb
language sql stable
set search_path = ''
as $$
  select jsonb_build_object('running', p_counts -> 'processing', 'suspended', p_counts -> 'waiting',
    'completed', p_counts -> 'completed', 'failed', p_counts -> 'failed', 'cancelled', p_counts -> 'cancelled')
    || case when p_counts -> 'pending' = '0' then '{"queued": 0, "scheduled": 0, "retrying": 0}'
      else queue.pending_states(p_workspace_id, p_filter, queue.clock()) end
$$;
comment on function queue.count_states is 'Counts by status as counts by the states that people look for.';

revoke execute on function queue.pending_states, queue.count_states from public, anon, authenticated, service_role;
