-- What an operator sees of all workspaces at once: jobs, counts, failures, workers, workspaces.
-- Without payloads and results: to read those, an operator opens the workspace, which is written down.

create function queue.note_listing(p_detail jsonb) returns void
language sql
set search_path = ''
as $$
  -- a page that reads every few seconds is one entry and not hundreds
  insert into queue.actions (user_id, as_operator, action, jobs, detail)
  select auth.uid(), true, 'list', 0, p_detail
  where auth.uid() is not null and not exists (
    select 1 from (select a.action, a.at, a.detail from queue.actions as a
      where a.user_id = auth.uid() and a.as_operator order by a.id desc limit 20) as a
    where a.action = 'list' and a.detail = p_detail and a.at > queue.clock() - interval '10 minutes')
$$;
comment on function queue.note_listing is 'Write to the audit log that an operator looked at a list; once in ten '
  'minutes for the same list.';

create function public.operator_jobs(p_filter jsonb default '{}', p_cursor uuid default null,
  p_limit integer default 50) returns json
language plpgsql
security definer -- callers hold no rights on the engine's tables
set search_path = ''
set enable_seqscan = off -- in order and no further than needed
set enable_bitmapscan = off
set enable_sort = off
set jit = off
as $$
declare
  v_filter jsonb := queue.list_filter(p_filter, array['workspace_id', 'status', 'state', 'job_type', 'queue',
    'search',
    'created_after', 'internal']);
  v_limit integer := least(200, greatest(1, coalesce(p_limit, 50)));
  v_slice constant integer := 20000;
  v_status text[];
  v_from text;
  v_ids uuid[];
  v_last uuid;
begin
  perform queue.needs_operator();
  perform queue.note_listing(v_filter);
  v_status := array(select jsonb_array_elements_text(coalesce(v_filter -> 'state', v_filter -> 'status')));
  v_from := case
    when v_status = array['failed']
      then 'queue.ended as w join public.jobs as j on j.id = any (array[w.job_id]) where w.outcome = ''failed'''
    when v_status in (array['processing'], array['running'])
      then 'queue.leases as w join public.jobs as j on j.id = any (array[w.job_id]) where true'
    when v_status in (array['waiting'], array['suspended'])
      then 'queue.waits as w join public.jobs as j on j.id = any (array[w.job_id]) where true'
    else 'public.jobs as j where true' end;
  v_from := v_from || case when v_from like 'queue.%' then ' and ($2 is null or w.job_id < $2) order by w.job_id desc'
    else ' and ($2 is null or j.id < $2) order by j.id desc' end;
  execute format($query$
    with slice as (select j.* from %s limit %s),
    matching as (
      select s.id from slice as s
      where ($1 ->> 'workspace_id' is null or s.workspace_id = ($1 ->> 'workspace_id')::uuid)
        and ($1 ->> 'status' is null or s.status = any ($4))
        and ($1 ->> 'state' is null
          or queue.state_of(s.status, s.attempts, s.next_retry_at, s.scheduled_for, queue.clock()) = any ($4))
        and ($1 ->> 'job_type' is null or s.job_type = $1 ->> 'job_type')
        and ($1 ->> 'queue' is null or s.queue = $1 ->> 'queue')
        and ($1 ->> 'created_after' is null or s.created_at >= ($1 ->> 'created_after')::timestamptz)
        and ($1 ->> 'search' is null or strpos(lower(concat_ws(' ', s.job_type, s.error_message, s.id::text)),
          lower($1 ->> 'search')) > 0)
        and (coalesce(($1 ->> 'internal')::boolean, false) or $1 ->> 'job_type' is not null
          or not exists (select 1 from queue.job_types as t where t.job_type = s.job_type and t.internal))
      limit $3 + 1)
    select array(select id from matching), case when (select count(*) from slice) = %s then (select id
      from slice order by id limit 1) end$query$,
    v_from, v_slice, v_slice)
  into v_ids, v_last using v_filter, p_cursor, v_limit, v_status;
  return json_build_object('jobs', (
      select coalesce(json_agg(to_jsonb(j) - array['payload', 'result',
        'error_data'] || jsonb_build_object('workspace_name', t.name) order by f.n), '[]')
      from unnest(v_ids[1:v_limit]) with ordinality as f (id, n) join public.jobs as j on j.id = any (array[f.id])
      left join queue.tenants as t on t.id = j.workspace_id),
    'next', case when cardinality(v_ids) > v_limit then v_ids[v_limit] else v_last end);
exception
  when invalid_text_representation or invalid_datetime_format or datetime_field_overflow
    or invalid_parameter_value then
    perform queue.refuse_value('the filter', 'filter', sqlerrm);
end;
$$;
comment on function public.operator_jobs is E'Jobs of all workspaces, newest first, for an operator: {jobs: [… '
  'workspace_name], next: id | null}; pass next as p_cursor to continue.\n\nFilter: workspace_id, state […], status '
  '[…], job_type, queue, search, created_after, internal. Without payloads and results. A page looks at no more than '
  '20,000 jobs and may hold fewer than asked for, even none.';

create function public.operator_counts() returns jsonb
language plpgsql stable
security definer -- callers hold no rights on the engine's tables
set search_path = ''
set enable_seqscan = off -- no further than counted
set jit = off
as $$
declare
  v_most constant integer := 10000;
begin
  perform queue.needs_operator();
  return (
    select jsonb_build_object('states', jsonb_object_agg(c.state, c.jobs),
      'at_least', coalesce(jsonb_agg(c.status) filter (where c.jobs >= v_most), '[]'))
    from (values
      ('queued', 'pending', (select count(*) from (select 1 from queue.ready limit v_most) as s)),
      ('running', 'processing', (select count(*) from (select 1 from queue.leases limit v_most) as s)),
      ('suspended', 'waiting', (select count(*) from (select 1 from queue.waits limit v_most) as s)),
      ('failed', 'failed', (select count(*) from (select 1 from queue.ended
        where outcome = 'failed' limit v_most) as s)))
      as c (state, status, jobs));
end;
$$;
comment on function public.operator_counts is 'Live and failed jobs of all workspaces: {states: {state: n}, '
  'at_least: [status]}; the numbers of the states of those statuses are lower bounds. Jobs of internal types are '
  'counted, which operator_jobs leaves out.';

create function public.operator_failures() returns jsonb
language plpgsql
security definer -- callers hold no rights on the engine's tables
set search_path = ''
set enable_seqscan = off -- no further than read
set jit = off
as $$
declare
  v_most constant integer := 10000;
begin
  perform queue.needs_operator();
  perform queue.note_listing('{"failures": true}');
  return (
    with letters as materialized (
      select j.id, j.workspace_id, j.job_type, j.error_fingerprint, j.error_message, j.finished_at
      from (select e.job_id from queue.ended as e where e.outcome = 'failed' order by e.job_id desc limit v_most) as e
      join public.jobs as j on j.id = any (array[e.job_id])),
    alike as (
      select job_type, error_fingerprint, count(*) as jobs, count(distinct workspace_id) as workspaces,
        min(finished_at) as first_at, max(finished_at) as last_at,
        (array_agg(id order by finished_at desc, id))[1] as latest_id,
        (array_agg(distinct workspace_id))[1:50] as workspace_ids
      from letters group by 1, 2)
    select jsonb_build_object('groups', coalesce(jsonb_agg(to_jsonb(a) || jsonb_build_object('error_message',
      l.error_message)
        order by a.jobs desc, a.last_at desc), '[]'), 'more', (select count(*) from letters) = v_most)
    from alike as a join letters as l on l.id = a.latest_id);
end;
$$;
comment on function public.operator_failures is E'Failed jobs of all workspaces by what went wrong: {groups: '
  '[{job_type, error_fingerprint, jobs, workspaces, workspace_ids, first_at, last_at, latest_id, error_message}], '
  'more}.\n\nThe latest 10,000; workspace_ids names at most 50.';

create function public.operator_workers(p_minutes integer default 60) returns jsonb
language plpgsql stable
security definer -- callers hold no rights on the engine's tables
set search_path = ''
as $$
declare
  v_now timestamptz := queue.clock();
  v_since timestamptz := v_now - make_interval(mins => least(1440, greatest(1, coalesce(p_minutes, 60))));
begin
  perform queue.needs_operator();
  return (
    with runs as (
      select * from (select * from queue.ticks order by started_at desc limit 2000) as t where t.seen_at >= v_since),
    latest as (
      select distinct on (r.worker_id) r.* from runs as r order by r.worker_id, r.seen_at desc),
    held as (
      select l.worker_id, count(*) as jobs, jsonb_agg(jsonb_build_object('job_id', l.job_id, 'job_type', l.job_type,
        'attempt', l.attempt,
        'workspace_id', l.workspace_id, 'workspace_name', t.name, 'leased_at', l.leased_at,
        'expires_at', l.expires_at)
        order by l.leased_at) as running
      from queue.leases as l left join queue.tenants as t on t.id = l.workspace_id group by l.worker_id)
    select jsonb_build_object('now', v_now, 'workers', coalesce(jsonb_agg(jsonb_build_object(
        'worker_id', coalesce(w.worker_id, h.worker_id), 'version', w.version, 'job_types', w.job_types,
        'queues', w.queues, 'first_seen_at', (select min(r.started_at) from runs as r where r.worker_id = w.worker_id),
        'seen_at', w.seen_at, 'ended_at', w.ended_at, 'free_slots', case when w.ended_at is null
          then w.free_slots end,
        'runs', (select count(*) from runs as r where r.worker_id = w.worker_id),
        'leased', (select sum(r.leased) from runs as r where r.worker_id = w.worker_id),
        'busy_slots', coalesce(h.jobs, 0), 'running', coalesce((select jsonb_agg(f.one) from (
          select e.value as one from jsonb_array_elements(h.running) as e limit 50) as f), '[]'),
        'state', case when h.worker_id is not null and not exists (select 1 from queue.leases as l
          where l.worker_id = h.worker_id and l.expires_at > v_now) then 'lost'
          when h.jobs > 0 then 'busy' when w.ended_at is not null then 'ended'
          when w.seen_at < v_now - interval '3 minutes' then 'silent' else 'idle' end)
      order by coalesce(h.jobs, 0) desc, w.seen_at desc nulls first), '[]'))
    from latest as w full join held as h on h.worker_id = w.worker_id);
end;
$$;
comment on function public.operator_workers is E'Workers seen in the last p_minutes (at most a day), and all that '
  'hold a job: {now, workers: [{worker_id, version, state, seen_at, free_slots, busy_slots, running, …}]}.\n\nstate '
  'is busy, idle, ended (its run is over), silent (not seen for three minutes without an end) or lost (all its '
  'leases have expired).';

create function public.operator_workspaces(p_search text default null, p_limit integer default 200) returns jsonb
language plpgsql stable
security definer -- callers hold no rights on the engine's tables
set search_path = ''
as $$
begin
  perform queue.needs_operator();
  return (
    select jsonb_build_object('workspaces', coalesce(jsonb_agg(jsonb_build_object('id', t.id, 'name', t.name,
      'running', (select count(*) from (select 1 from queue.leases as l where l.workspace_id = t.id limit 1000) as s),
      'pending', (select count(*) from (select 1 from queue.ready as r where r.workspace_id = t.id limit 1000) as s)
        + (select count(*) from (select 1 from queue.deferred as d where d.workspace_id = t.id limit 1000) as s),
      'failed', (select count(*) from (select 1 from queue.ended as e where e.workspace_id = t.id
        and e.outcome = 'failed' limit 1000) as s),
      'paused', exists (select 1 from queue.pauses as p where p.kind = 'workspace'
        and p.workspace_id = t.id)) order by t.name, t.id), '[]'))
    from (select * from queue.tenants as t where p_search is null or strpos(lower(t.name), lower(p_search)) > 0
      or t.id::text like lower(p_search) || '%'
      order by t.name, t.id limit least(500, greatest(1, coalesce(p_limit, 200)))) as t);
end;
$$;
comment on function public.operator_workspaces is 'Workspaces by name with their live and failed jobs, each counted '
  'up to 1,000: {workspaces: [{id, name, running, pending, failed, paused}]}.';

revoke execute on function queue.note_listing from public, anon, authenticated, service_role;
revoke execute on function public.operator_jobs, public.operator_counts, public.operator_failures,
  public.operator_workers, public.operator_workspaces
  from public, anon, authenticated, service_role;
grant execute on function public.operator_jobs, public.operator_counts, public.operator_failures,
  public.operator_workers, public.operator_workspaces
  to authenticated, service_role;
