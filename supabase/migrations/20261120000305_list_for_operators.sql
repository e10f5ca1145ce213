-- What an operator sees of all workspaces at once: jobs, counts, failures, workers, workspaces.
-- Without payloads and results: to read those, an operator opens the workspace, which is written down.

create function queue.note_listing(p_detail jsonb) returns void
language sql set search_path = '' as $$
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
  p_limit numeric default 50) returns json
language plpgsql
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
declare
  v_filter jsonb := queue.list_filter(p_filter, array['workspace_id', 'status', 'state', 'job_type', 'queue',
    'search',
    'created_after', 'internal']);
  v_limit integer := least(200, greatest(1, coalesce(queue.whole(p_limit, 'p_limit'), 50)));
  v_slice constant integer := 20000;
  v_words text[];
  v_read queue.list_read;
begin
  perform queue.take_turn();
  perform queue.needs_operator();
  perform queue.note_listing(v_filter);
  v_words := array(select jsonb_array_elements_text(coalesce(v_filter -> 'state', v_filter -> 'status')));
  v_read := queue.in_order(null::queue.list_read, format($query$
    with slice as (select j.* from %s limit %s),
    matching as (select p.created_at, p.id from slice as p where coalesce((true %s), false) limit %s + 1)
    select array(select (created_at, id)::queue.list_place from matching),
      case when (select count(*) from slice) = %2$s then (
        select (created_at, id)::queue.list_place from slice order by id limit 1) end, false$query$,
    coalesce((
      select format('queue.%s as w join public.jobs as j on j.id = any (array[w.job_id]) where %s%s
        order by w.job_id desc', s.held, s.fits, ' and w.job_id < ' || quote_literal(p_cursor))
      from (values ('failed', 'ended', 'w.outcome = ''failed'''), ('processing', 'leases', 'true'),
        ('running', 'leases', 'true'), ('waiting', 'waits', 'true'), ('suspended', 'waits', 'true'))
        as s (word, held, fits)
      where v_words = array[s.word]),
      concat('public.jobs as j where true', ' and j.id < ' || quote_literal(p_cursor), ' order by j.id desc')),
    v_slice, concat(
      -- without the payload, which a search of lists looks at
      queue.list_where('{"internal": false}' || v_filter - 'search'),
      ' and p.workspace_id = ' || quote_literal(v_filter ->> 'workspace_id'),
      ' and p.created_at >= ' || quote_literal(v_filter ->> 'created_after'),
      ' and strpos(lower(concat_ws('' '', p.job_type, p.error_message, p.id::text)), '
        || quote_literal(lower(v_filter ->> 'search')) || ') > 0'), v_limit));
  return json_build_object('jobs', (
      select coalesce(json_agg(to_jsonb(j) - array['payload', 'result',
        'error_data'] || jsonb_build_object('workspace_name', t.name,
        'error', left(queue.error_line(j.error_message, j.error_data), 500),
        'error_message', left(j.error_message, 500)) order by f.n), '[]')
      from unnest(v_read.found[:v_limit]) with ordinality as f (created_at, id, n)
      join public.jobs as j on j.id = any (array[f.id])
      left join queue.tenants as t on t.id = j.workspace_id),
    'next', case when cardinality(v_read.found) > v_limit then (v_read.found[v_limit]).id else (v_read.place).id end);
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
set search_path = '' as $$
declare
  v_most constant integer := 10000;
begin
  perform queue.take_turn();
  perform queue.needs_operator();
  return (
    select jsonb_build_object('states', jsonb_object_agg(c.state, c.jobs),
      'at_least', coalesce(jsonb_agg(distinct case c.state when 'running' then 'processing'
        when 'suspended' then 'waiting' when 'failed' then 'failed' else 'pending' end)
        filter (where c.jobs >= v_most), '[]'))
    from (
      select l.key as state, l.value::bigint as jobs from jsonb_each_text(queue.live_states(null)) as l
      union all
      select 'failed', count(*) from (select 1 from queue.ended where outcome = 'failed' limit v_most) as s) as c);
end;
$$;
comment on function public.operator_counts is 'Live and failed jobs of all workspaces: {states: {state: n}, '
  'at_least: [status]}; the numbers of the states of those statuses are lower bounds. Jobs of internal types are '
  'counted, which operator_jobs leaves out.';

create function public.operator_failures() returns jsonb
language plpgsql
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
declare
  v_most constant integer := 10000;
begin
  perform queue.take_turn();
  perform queue.needs_operator();
  perform queue.note_listing('{"failures": true}');
  return (
    with letters as materialized (
      select j.id, j.workspace_id, j.job_type, j.error_fingerprint, j.finished_at,
        queue.error_line(j.error_message, j.error_data) as error_message
      from (select e.job_id from queue.ended as e where e.outcome = 'failed' order by e.job_id desc limit v_most) as e
      join public.jobs as j on j.id = any (array[e.job_id])),
    alike as (
      select job_type, error_fingerprint, count(*) as jobs, count(distinct workspace_id) as workspaces,
        min(finished_at) as first_at, max(finished_at) as last_at,
        (array_agg(id order by finished_at desc, id))[1] as latest_id,
        (array_agg(distinct workspace_id))[1:50] as workspace_ids,
        queue.failures_by_deploy(job_type, array_agg(finished_at)) as deploy
      from letters group by 1, 2)
    select jsonb_build_object('groups', coalesce(jsonb_agg(to_jsonb(a) || jsonb_build_object('error_message',
      l.error_message)
        order by a.jobs desc, a.last_at desc), '[]'), 'more', (select count(*) from letters) = v_most)
    from alike as a join letters as l on l.id = a.latest_id);
end;
$$;
comment on function public.operator_failures is E'Failed jobs of all workspaces by what went wrong: {groups: '
  '[{job_type, error_fingerprint, jobs, workspaces, workspace_ids, first_at, last_at, latest_id, error_message, '
  'deploy}], more}, deploy as in dead_letters.\n\nThe latest 10,000; workspace_ids names at most 50.';

create function public.operator_workers(p_minutes numeric default 60) returns jsonb
language plpgsql stable
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
declare
  v_now timestamptz := queue.clock();
  v_since timestamptz := v_now - make_interval(
    mins => least(1440, greatest(1, coalesce(queue.whole(p_minutes, 'p_minutes'), 60))));
begin
  perform queue.take_turn();
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
        'commit', (select k.origin ->> 'commit' from queue.workers as k where k.worker_id = w.worker_id),
        'queues', w.queues, 'first_seen_at', (select min(r.started_at) from runs as r where r.worker_id = w.worker_id),
        'seen_at', w.seen_at, 'ended_at', w.ended_at,
        -- between its runs and when a run ends every slot that no job holds is free
        'free_slots', greatest(0, (select max(r.free_slots) from runs as r where r.worker_id = w.worker_id)
          - coalesce(h.jobs, 0)),
        'runs', (select count(*) from runs as r where r.worker_id = w.worker_id),
        'leased', (select sum(r.leased) from runs as r where r.worker_id = w.worker_id),
        'busy_slots', coalesce(h.jobs, 0), 'running', coalesce((select jsonb_agg(f.one) from (
          select e.value as one from jsonb_array_elements(h.running) as e limit 50) as f), '[]'),
        'state', queue.worker_state(coalesce(w.worker_id, h.worker_id), coalesce(w.seen_at, '-infinity'), v_now))
      order by coalesce(h.jobs, 0) desc, w.seen_at desc nulls first), '[]'))
    from latest as w full join held as h on h.worker_id = w.worker_id);
end;
$$;
comment on function public.operator_workers is E'Workers seen in the last p_minutes (at most a day), and all that '
  'hold a job: {now, workers: [{worker_id, version, commit, state, seen_at, free_slots, busy_slots, running, …}]}.\n\nstate '
  'is alive, stale or gone, see queue.worker_state; free_slots the most it had free in a run, without those that jobs '
  'hold.';

create function public.operator_workspaces(p_search text default null, p_limit numeric default 200) returns jsonb
language plpgsql stable
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
begin
  perform queue.take_turn();
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
      order by t.name, t.id limit least(500, greatest(1, coalesce(queue.whole(p_limit, 'p_limit'), 200)))) as t);
end;
$$;
comment on function public.operator_workspaces is 'Workspaces by name with their live and failed jobs, each counted '
  'up to 1,000: {workspaces: [{id, name, running, pending, failed, paused}]}.';

select queue.allow('authenticated, service_role', 'public.operator_jobs', 'public.operator_counts',
  'public.operator_failures', 'public.operator_workers', 'public.operator_workspaces');
