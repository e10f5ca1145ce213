-- Numbers without counting history: rollups of deltas, readiness, learned run times, retention.

create table queue.type_minutes (
  minute timestamptz not null, -- start of the minute
  job_type text not null, -- the type
  run_bucket smallint not null, -- histogram bucket of the run, as wait_bucket
  jobs bigint not null, -- how many attempts
  primary key (minute, job_type, run_bucket)
) with (fillfactor = 70);
comment on table queue.type_minutes is 'Run times per type over all tenants, kept for an hour: the 95th percentile '
  'is computed from them.';

create function queue.fold_deltas(p_limit integer) returns integer
language sql set search_path = '' as $$
  with old as materialized (
    delete from queue.stat_deltas
    where id = any (array(select id from queue.stat_deltas order by id limit p_limit for update skip locked))
    returning *, date_trunc('minute', at) as minute),
  per_tenant as (
    insert into queue.stat_minutes as m
      (minute, job_type, workspace_id, outcome, wait_bucket, run_bucket, jobs, cost_usd)
    select minute, job_type, workspace_id, outcome, wait_bucket, run_bucket, sum(jobs), sum(cost_usd)
    from old group by 1, 2, 3, 4, 5, 6 order by 1, 2, 3, 4, 5, 6
    on conflict (minute, job_type, workspace_id, outcome, wait_bucket, run_bucket) do update set
      jobs = m.jobs + excluded.jobs, cost_usd = m.cost_usd + excluded.cost_usd),
  per_hour as (
    insert into queue.stat_hours as h (workspace_id, hour, job_type, outcome, wait_bucket, run_bucket, jobs)
    select workspace_id, date_trunc('hour', at, 'UTC'), job_type, outcome, wait_bucket, run_bucket, sum(jobs)
    from old group by 1, 2, 3, 4, 5, 6 order by 1, 2, 3, 4, 5, 6
    on conflict (workspace_id, hour, job_type, outcome, wait_bucket, run_bucket) do update set
      jobs = h.jobs + excluded.jobs),
  per_type as (
    insert into queue.type_minutes as m (minute, job_type, run_bucket, jobs)
    select minute, job_type, run_bucket, sum(jobs) from old
    where outcome in ('completed', 'retry', 'failed') group by 1, 2, 3 order by 1, 2, 3
    on conflict (minute, job_type, run_bucket) do update set jobs = m.jobs + excluded.jobs)
  select count(*)::integer from old
$$;
comment on function queue.fold_deltas is 'Add the oldest counts of stat_deltas to stat_minutes, at most p_limit; returns how many.';

create function queue.roll_up(p_now timestamptz) returns integer
language plpgsql set search_path = '' as $$
declare
  v_most constant integer := 20000;
  v_folded integer := queue.fold_deltas(v_most);
begin
  update queue.job_types as t set run_p95_ms = p.p95
  from (
    select job_type, min(upper) filter (where running >= 0.95 * total) as p95
    from (
      select job_type, power(1.25, run_bucket + 1) - 1 as upper,
        sum(jobs) over (partition by job_type order by run_bucket) as running,
          sum(jobs) over (partition by job_type) as total
      from (select job_type, run_bucket, sum(jobs) as jobs from queue.type_minutes group by 1, 2) as b) as c
    group by job_type having max(total) >= 20) as p
  where t.job_type = p.job_type and t.run_p95_ms is distinct from p.p95;
  return case when v_folded = v_most then v_folded else 0 end;
end;
$$;
comment on function queue.roll_up is E'Add counts to stat_minutes, compute the 95th percentile of run time per type '
  '(from 20 runs).\n\nNot 0 when more counts are left.';

create function queue.due_removals(p_limit integer, p_now timestamptz) returns uuid[]
language sql stable set search_path = '' as $$
  with piles as materialized (
    select t.job_type, o.outcome, p_now - make_interval(days => coalesce(
      (t.retention_days ->> o.outcome)::integer, (queue.setting('retention_days') ->> o.outcome)::integer)) as before
    from queue.job_types as t cross join unnest(array['completed', 'cancelled', 'failed']) as o (outcome)),
  due as materialized ( -- one probe each
    select p.*, ceil(p_limit::numeric / count(*) over ())::integer as share from piles as p
    where exists (
      select 1 from queue.ended as e where e.job_type = p.job_type and e.outcome collate "C" = p.outcome
        and e.ended_at < p.before))
  select array(
    select e.job_id from due as d cross join lateral (
      select e.job_id, e.ended_at from queue.ended as e
      where e.job_type = d.job_type and e.outcome collate "C" = d.outcome and e.ended_at < d.before
        and not exists ( -- its parent is about to gather it
          select 1 from public.jobs as j join queue.waits as w on w.job_id = any (array[j.parent_id])
          where j.id = any (array[e.job_id]) and w.kind = 'children')
      order by e.ended_at limit d.share) as e
    order by e.ended_at)
$$;
comment on function queue.due_removals is E'Ended jobs past their retention, about p_limit of them: the oldest of '
  'each type and outcome, over all tenants, an equal share of each. Children stay while their parent waits for '
  'children.\n\nDays per status are in the setting retention_days; a type may have days of its own.';

create function queue.strip_job(p_id uuid, p_limit integer) returns integer
language plpgsql set search_path = '' as $$
declare
  v_logs integer;
  v_events integer;
begin
  delete from public.job_logs where ctid = any (array(
    select l.ctid from public.job_logs as l where l.job_id = p_id limit p_limit));
  get diagnostics v_logs = row_count;
  delete from queue.job_events where ctid = any (array(
    select e.ctid from queue.job_events as e where e.job_id = p_id order by e.seq limit p_limit - v_logs));
  get diagnostics v_events = row_count;
  return v_logs + v_events;
end;
$$;
comment on function queue.strip_job is 'Delete up to p_limit log lines and events of an ended job that is about to '
  'be removed; returns how many.';

create function queue.remove_jobs(p_ids uuid[], p_now timestamptz) returns integer
language plpgsql set search_path = '' as $$
declare
  v_rows_max constant integer := 50000; -- about a second's work, however much the jobs wrote
  v_ids uuid[];
begin
  v_ids := array( -- ended still: one may have been retried since it was chosen
    select j.id from public.jobs as j
    where j.id = any (p_ids) and j.finished_at is not null order by j.id for update skip locked);
  v_ids := array( -- by events first, so that log lines are counted for few
    select c.id from (
      select j.id, d.nth, sum(j.last_seq) over (order by d.nth) - j.last_seq as rows_before
      from unnest(p_ids) with ordinality as d (id, nth)
      join public.jobs as j on j.id = any (array[d.id])
      where exists (select 1 from unnest(v_ids) as h where h = d.id)) as c
    where c.rows_before < v_rows_max order by c.nth);
  v_ids := array(
    select c.id from (
      select d.id, d.nth, sum(j.last_seq + l.lines) over (order by d.nth) as rows
      from unnest(v_ids) with ordinality as d (id, nth)
      join public.jobs as j on j.id = any (array[d.id])
      cross join lateral (
        select count(*) as lines from (
          select 1 from public.job_logs as g where g.job_id = d.id limit v_rows_max) as g) as l) as c
    where c.rows <= v_rows_max or c.nth = 1
    order by c.nth);
  if cardinality(v_ids) = 1 and queue.strip_job(v_ids[1], v_rows_max) >= v_rows_max then
    return 1; -- row by row: the next call continues
  end if;
  perform set_config('minutehand.retention', 'on', true);
  delete from public.jobs where id = any (v_ids);
  perform set_config('minutehand.retention', '', true);
  return cardinality(v_ids);
end;
$$;
comment on function queue.remove_jobs is E'Delete ended jobs in the order given, until about 50,000 of their rows '
  'are deleted; returns how many.\n\nA job with more rows than that is deleted '
  'in several calls. Locked jobs are left to the next call.';

create table queue.kept_rows (
  relation text primary key, -- the table
  since text not null, -- the instant from which the time runs; an index begins with it
  keep interval, -- how long; null where a setting says it
  days_setting text, -- the setting that says for how many days
  condition text not null default 'true', -- rows (as o) for which it does not hold stay
  constraint kept_rows_end check (num_nonnulls(keep, days_setting) = 1)
);
comment on table queue.kept_rows is 'Tables of the engine whose rows are kept for a time, and how long.';

insert into queue.kept_rows (relation, since, keep) values
  ('job_keys', 'expires_at', '0'), ('ticks', 'started_at', '1 day'),
  ('schedule_slots', 'fired_at', '30 days'),
  ('last_deliveries', 'made_at', '7 days'),
  ('caller_buckets', 'refilled_at', '1 hour'), ('workers', 'seen_at', '30 days'), ('type_minutes', 'minute', '1 hour'),
  ('stat_minutes', 'minute', '8 days'), ('stat_hours', 'hour', '31 days'),
  ('message_minutes', 'minute', '31 days'), ('guest_sessions', 'expires_at', '1 day');
insert into queue.kept_rows (relation, since, keep, condition) values
  -- a step that received it has no copy
  ('named_events', 'emitted_at', '30 days',
    'not exists (select 1 from queue.steps as s where s.workspace_id = o.workspace_id and s.event_name = o.name)');

create function queue.prune(p_limit integer, p_now timestamptz) returns integer
language plpgsql set search_path = '' as $$
declare
  v_kept queue.kept_rows;
  v_gone integer;
  v_left integer := 0;
begin
  for v_kept in select * from queue.kept_rows order by relation loop
    -- some are missing where tenants are an application's own
    continue when to_regclass(format('queue.%I', v_kept.relation)) is null;
    execute format('delete from queue.%1$I where ctid = any (array(select o.ctid from queue.%1$I as o '
      'where o.%2$I < $1 and %3$s order by o.%2$I limit $2 for update skip locked))',
      v_kept.relation, v_kept.since, v_kept.condition)
    using p_now - coalesce(v_kept.keep, make_interval(days => (queue.setting(v_kept.days_setting))::integer)), p_limit;
    get diagnostics v_gone = row_count;
    v_left := v_left + case when v_gone >= p_limit then v_gone else 0 end;
  end loop;
  return v_left + queue.forget_entities(p_limit, p_now);
end;
$$;
comment on function queue.prune is 'Delete rows whose time is over, at most p_limit of each table; not 0 when there may be more.';

create function queue.prune_buckets(p_limit integer, p_now timestamptz) returns integer
language plpgsql set search_path = '' as $$
declare
  v_gone integer;
begin
  delete from queue.buckets where ctid = any (array(
    select b.ctid from queue.buckets as b left join queue.job_types as t on t.job_type = b.job_type
    where b.refilled_at < p_now - make_interval(secs => 2 * coalesce(t.rate_per_seconds, 0)) - interval '1 hour'
    limit p_limit for update of b skip locked));
  get diagnostics v_gone = row_count;
  return case when v_gone >= p_limit then v_gone else 0 end;
end;
$$;
comment on function queue.prune_buckets is E'Delete token buckets that have been full for long; not 0 when there may '
  'be more.\n\nA lease that needs one of them waits until this commits, so it is the last task of a call.';

create function queue.forget_orphans() returns void
language plpgsql set search_path = '' as $$
declare
  v_ids uuid[] := array(
    select workspace_id from queue.forgotten where forgotten_at < queue.clock() - interval '20 minutes');
begin
  perform queue.forget_rows(i) from unnest(v_ids) as i
  where not exists (select 1 from queue.tenants as w where w.id = i); -- it may be there again
  delete from queue.forgotten where workspace_id = any (v_ids);
  perform queue.forget_workspace(gone.workspace_id)
  from (
    with recursive mentioned as ( -- one probe per tenant, however many jobs it has
      (select workspace_id from (
        (select workspace_id from queue.ready order by workspace_id limit 1) union all
        (select workspace_id from queue.deferred order by workspace_id limit 1) union all
        (select workspace_id from queue.waits order by workspace_id limit 1) union all
        (select workspace_id from queue.ended order by workspace_id limit 1)) as first order by workspace_id limit 1)
      union all
      select (select workspace_id from (
        (select workspace_id from queue.ready as r where r.workspace_id > m.workspace_id order by workspace_id
          limit 1) union all
        (select workspace_id from queue.deferred as d where d.workspace_id > m.workspace_id order by workspace_id
          limit 1) union all
        (select workspace_id from queue.waits as t where t.workspace_id > m.workspace_id order by workspace_id
          limit 1) union all
        (select workspace_id from queue.ended as e where e.workspace_id > m.workspace_id order by workspace_id
          limit 1)) as next order by workspace_id limit 1)
      from mentioned as m where m.workspace_id is not null)
    select m.workspace_id from mentioned as m
    where m.workspace_id is not null and m.workspace_id <> queue.system_workspace()
      and not exists (select 1 from queue.tenants as w where w.id = m.workspace_id)) as gone;
end;
$$;
comment on function queue.forget_orphans is 'Delete what was written of workspaces at the moment they were deleted, and their jobs.';

create function public.queue_health() returns jsonb
language plpgsql
security definer -- probes hold no rights on the engine's tables
set search_path = '' as $$
declare
  v_now timestamptz := queue.clock();
  v_backlog jsonb := queue.backlog(null, v_now);
  v_tick record;
  v_ready integer := v_backlog -> 'jobs';
  v_deferred integer := (select count(*) from (select 1 from queue.deferred limit 10000) as counted);
  -- due, but not promoted yet: workers do that, so that nothing would count as due while none can work
  v_overdue timestamptz := (select min(run_at) from queue.deferred where run_at <= v_now - interval '10 seconds');
begin
  select started_at, seen_at into v_tick from queue.ticks order by started_at desc limit 1;
  return jsonb_build_object('now', v_now,
    'due', v_ready + (select count(*) from (select 1 from queue.deferred
      where run_at <= v_now - interval '10 seconds' limit 10000) as counted),
    'backlog', v_backlog,
    'oldest_due_seconds', greatest((v_backlog ->> 'oldest_due_seconds')::numeric,
      extract(epoch from v_now - v_overdue)),
    'stalled_seconds', v_backlog -> 'stalled_seconds',
    'deferred', v_deferred,
    'pending', v_ready + v_deferred,
    'processing', (select count(*) from (select 1 from queue.leases limit 10000) as counted),
    'failed', (select count(*) from (select 1 from queue.ended where outcome = 'failed' limit 10000) as f),
    'waiting', (select count(*) from (select 1 from queue.waits limit 10000) as counted),
    'last_tick_at', v_tick.seen_at,
    'last_tick_seconds', extract(epoch from v_now - v_tick.seen_at),
    'workers', (select coalesce(jsonb_agg(jsonb_build_object('worker_id', t.worker_id, 'version', t.version,
      'started_at', t.started_at,
        'seen_at', t.seen_at, 'ended_at', t.ended_at, 'free_slots', t.free_slots) order by t.started_at desc), '[]')
      from (select * from queue.ticks where started_at > v_now - interval '1 hour' order by started_at desc
        limit 20) as t),
    'failing_maintenance', (select coalesce(jsonb_agg(jsonb_build_object('name', u.name, 'failed_at', u.failed_at,
      'failure', u.failure, 'failures', u.failures)), '[]')
      from queue.maintenance_tasks as u where u.failures > 0 or u.failed_at > v_now - interval '1 hour'),
    'parked_items', (select coalesce(jsonb_agg(jsonb_build_object('task', p.task, 'item', p.item, 'failed_at',
      p.failed_at,
        'failure', p.failure, 'failures', p.failures, 'retry_at', p.retry_at) order by p.failed_at desc), '[]')
      from (select * from queue.parked order by retry_at desc limit 20) as p),
    'paused_types', (select coalesce(jsonb_agg(jsonb_build_object('job_type', t.job_type, 'paused_by', t.paused_by,
      'reason', t.pause_reason)), '[]')
      from queue.job_types as t where t.paused_at is not null),
    'xmin_age', (select max(age(a.backend_xmin)) from pg_catalog.pg_stat_activity as a
      where a.backend_xmin is not null and a.datname = current_database() and a.pid <> pg_backend_pid()),
    'oldest_transaction_seconds',
      (select extract(epoch from max(v_now - a.xact_start)) from pg_catalog.pg_stat_activity as a
      where a.backend_xmin is not null and a.datname = current_database() and a.pid <> pg_backend_pid()),
    'holding_session', (select jsonb_build_object('pid', a.pid, 'application_name', a.application_name, 'state',
      a.state,
        'since', a.xact_start) from pg_catalog.pg_stat_activity as a
      where a.backend_xmin is not null and a.datname = current_database() and a.pid <> pg_backend_pid()
        and a.xact_start < v_now - interval '1 minute' order by a.xact_start limit 1),
    'messages', queue.message_numbers(),
    'storage', jsonb_build_object('read_only', current_setting('default_transaction_read_only')::boolean),
    'realtime_policies', (select count(*) from pg_catalog.pg_policies where schemaname = 'realtime'
      and tablename = 'messages'));
end;
$$;
comment on function public.queue_health is E'Readiness in one call: depth, age of the oldest due job, age of the '
  'last tick, sessions that hold an old snapshot.\n\nbacklog is that of queue.backlog over all workspaces. '
  'stalled_seconds is how long no job was leased or running although jobs were due '
  'that nothing holds back; null while jobs are leased. Counts stop at 10,000; the oldest is of those, and of 1,000 partitions beyond.';

create function queue.percentiles(p_buckets jsonb) returns jsonb
language sql immutable set search_path = '' as $$
  with b as (
    select key::integer as bucket, value::numeric as jobs, sum(value::numeric) over (order by key::integer) as running,
      sum(value::numeric) over () as total
    from jsonb_each_text(p_buckets))
  select jsonb_build_object(
    'p50_ms', round((power(1.25, min(bucket) filter (where running >= 0.50 * total) + 0.5) - 1)::numeric, 1),
    'p95_ms', round((power(1.25, min(bucket) filter (where running >= 0.95 * total) + 0.5) - 1)::numeric, 1),
    'p99_ms', round((power(1.25, min(bucket) filter (where running >= 0.99 * total) + 0.5) - 1)::numeric, 1))
  from b
$$;
comment on function queue.percentiles is 'Percentiles of a histogram {bucket: count}, each within about 12 %.';

create function public.queue_stats(p_workspace_id uuid default null, p_minutes numeric default 60) returns jsonb
language plpgsql
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
declare
  v_now timestamptz := queue.clock();
  v_since timestamptz := v_now - make_interval(
    mins => least(11520, greatest(1, coalesce(queue.whole(p_minutes, 'p_minutes'), 60))));
  v_backlog jsonb;
begin
  perform queue.take_turn();
  perform queue.may_read_all(p_workspace_id);
  if queue.is_worker() and p_workspace_id is not null then
    perform queue.refuse_workspace(p_workspace_id); -- a worker has no lease on a workspace
  end if;
  v_backlog := queue.backlog(p_workspace_id, v_now);
  return (
    with numbers as materialized (
      select date_trunc('minute', at) as minute, job_type, outcome, wait_bucket, run_bucket, jobs, cost_usd
        from queue.stat_deltas
      where at >= v_since and (p_workspace_id is null or workspace_id = p_workspace_id)
      union all
      select minute, job_type, outcome, wait_bucket, run_bucket, jobs, cost_usd from queue.stat_minutes
      where minute >= v_since and (p_workspace_id is null or workspace_id = p_workspace_id)),
    types as (
      select n.job_type, jsonb_build_object(
        'completed', coalesce(sum(n.jobs) filter (where n.outcome = 'completed'), 0), 'failed',
          coalesce(sum(n.jobs) filter (where n.outcome = 'failed'), 0),
        'cancelled', coalesce(sum(n.jobs) filter (where n.outcome = 'cancelled'), 0), 'retried',
          coalesce(sum(n.jobs) filter (where n.outcome = 'retry'), 0),
        'lost', coalesce(sum(n.jobs) filter (where n.outcome = 'lost'), 0), 'enqueued',
          coalesce(sum(n.jobs) filter (where n.outcome = 'enqueued'), 0),
        'cost_usd', sum(n.cost_usd),
        'queue', queue.percentiles((select jsonb_object_agg(w.wait_bucket, w.jobs)
          from (select x.wait_bucket, sum(x.jobs) as jobs
          from numbers as x where x.job_type = n.job_type and x.outcome in ('completed', 'failed', 'retry')
            group by 1) as w)),
        'run', queue.percentiles((select jsonb_object_agg(r.run_bucket, r.jobs)
          from (select x.run_bucket, sum(x.jobs) as jobs
          from numbers as x where x.job_type = n.job_type and x.outcome in ('completed', 'failed', 'retry')
            group by 1) as r))) as line
      from numbers as n group by n.job_type)
    select jsonb_build_object('now', v_now, 'since', v_since,
      'live', queue.live_states(p_workspace_id),
      'backlog', v_backlog, 'oldest_due_at', v_backlog -> 'oldest_at',
      'types', (select coalesce(jsonb_object_agg(job_type, line), '{}') from types),
      'throughput', (select coalesce(jsonb_agg(jsonb_build_object('minute', minute, 'completed', c, 'failed', f,
        'enqueued', e) order by minute), '[]')
        from (select minute, coalesce(sum(jobs) filter (where outcome = 'completed'), 0) as c,
          coalesce(sum(jobs) filter (where outcome = 'failed'), 0) as f,
          coalesce(sum(jobs) filter (where outcome = 'enqueued'), 0) as e from numbers group by minute) as t),
      'workers', case when p_workspace_id is null
        then (select coalesce(jsonb_agg(to_jsonb(t) - 'last_call' order by t.started_at desc), '[]')
        from (select * from queue.ticks order by started_at desc limit 20) as t) end,
      'limits', case when p_workspace_id is null
        then (select coalesce(jsonb_agg(jsonb_build_object('job_type', t.job_type, 'max_concurrency', t.max_concurrency,
          'workspace_concurrency', t.workspace_concurrency, 'key_concurrency', t.key_concurrency, 'running',
            (select count(*) from queue.leases as l where l.job_type = t.job_type),
          'rate_limit', t.rate_limit, 'rate_per_seconds', t.rate_per_seconds, 'paused_at', t.paused_at, 'paused_by',
            t.paused_by,
          'pause_reason', t.pause_reason, 'live', t.live, 'run_p95_ms', t.run_p95_ms) order by t.job_type), '[]')
            from queue.job_types as t) end,
      'messages', case when p_workspace_id is null then queue.message_numbers() end,
      'pauses', (select coalesce(jsonb_agg(to_jsonb(p)), '[]') from queue.pauses as p where p_workspace_id is null
        or p.workspace_id = p_workspace_id or p.kind = 'queue')));
end;
$$;
comment on function public.queue_stats is E'Counts, throughput, queue time and run time percentiles per type of the '
  'last p_minutes (1 to 11,520).\n\nA member names one of their workspaces; without one the numbers of all are the '
  'operator''s. live counts by state, up to 10,000 each; backlog is that of queue.backlog.';

select queue.allow('job_worker, service_role', 'public.queue_health');
select queue.allow('authenticated, job_worker, service_role', 'public.queue_stats');
