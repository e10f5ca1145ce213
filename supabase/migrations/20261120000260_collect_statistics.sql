-- Numbers over time, the queue's health, and job types as people ask for them. Statistics are a reader of the feed,
-- seconds later: nothing is counted while jobs run. A line a minute is kept for a day, a line an hour for a month.

create table queue.stats (
  workspace_id uuid not null,
  minutes smallint not null, -- what the line covers: 1 or 60
  at timestamptz not null, -- its beginning
  job_type text not null,
  outcome text not null, -- enqueued, completed, failed, cancelled, retry, lost or redriven
  jobs bigint not null,
  waits jsonb, -- of jobs that ended: {bucket: jobs}, bucket n from 1.25^n - 1 milliseconds of queue time
  runs jsonb, -- the same of run time
  primary key (workspace_id, minutes, at, job_type, outcome)
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000);
create index stats_by_time on queue.stats (minutes, at, job_type);

insert into queue.tasks (name, place, every) values ('statistics', 60, '5 seconds');

-- The sum of histograms {bucket: jobs}; null of none.
create function queue.sum_histograms(p_all jsonb[]) returns jsonb
language sql immutable as $$
  select jsonb_object_agg(b.key, b.jobs)
  from (select e.key, sum(e.value::bigint) as jobs
    from unnest(p_all) as h cross join lateral jsonb_each_text(h) as e group by 1) as b
$$;

-- Percentiles of a histogram, each within about 12 %.
create function queue.percentiles(p_buckets jsonb) returns jsonb
language sql immutable as $$
  select jsonb_build_object(
    'p50_ms', round((power(1.25, min(b.bucket) filter (where b.running >= 0.50 * b.total) + 0.5) - 1)::numeric, 1),
    'p95_ms', round((power(1.25, min(b.bucket) filter (where b.running >= 0.95 * b.total) + 0.5) - 1)::numeric, 1),
    'p99_ms', round((power(1.25, min(b.bucket) filter (where b.running >= 0.99 * b.total) + 0.5) - 1)::numeric, 1))
  from (
    select key::integer as bucket, sum(value::numeric) over (order by key::integer) as running,
      sum(value::numeric) over () as total
    from jsonb_each_text(p_buckets)) as b
$$;

-- Maintenance: read the feed up to where every line is committed, some 2,000 lines at a time; drop what is old.
create function queue.do_statistics(p_now timestamptz, p_until timestamptz) returns integer
language plpgsql as $$
declare
  v_last constant xid8 := pg_snapshot_xmin(pg_current_snapshot());
  -- a line that is not committed yet is no older than the oldest transaction that writes
  v_oldest constant timestamptz := (select min(a.xact_start) from pg_catalog.pg_stat_activity as a
    where a.backend_xid is not null and a.datname = current_database());
  v_task queue.tasks;
  v_end xid8;
  v_done integer := 0;
begin
  select * into v_task from queue.tasks where name = 'statistics';
  loop
    select case when count(*) = 2000 and min(f.place) < max(f.place) then max(f.place) else v_last end into v_end
    from (select l.place from queue.feed as l
      where l.at >= v_task.since and l.place >= v_task.read_to and l.place < v_last order by l.place limit 2000) as f;
    with ended as materialized (
      select l.at, l.workspace_id, j.job_type, k.outcome,
        case when k.outcome in ('completed', 'failed')
          then least(120, floor(ln(greatest(0, j.queue_ms) + 1) / ln(1.25))) end as wait,
        case when k.outcome in ('completed', 'failed')
          then least(120, floor(ln(greatest(0, j.run_ms) + 1) / ln(1.25))) end as run
      from queue.feed as l
      join (values ('job.created', 'enqueued'), ('job.completed', 'completed'), ('job.failed', 'failed'),
        ('job.cancelled', 'cancelled'), ('job.retried', 'retry'), ('job.reclaimed', 'lost'),
        ('job.redriven', 'redriven'))
        as k (type, outcome) on k.type = l.type
      cross join lateral unnest(l.job_ids) as i (id)
      join public.jobs as j on j.id = any (array[i.id])
      where l.at >= v_task.since and l.place >= v_task.read_to and l.place < v_end),
    cells as (
      select s.workspace_id, m.minutes, date_bin(make_interval(mins => m.minutes), s.at,
          '2000-01-01 00:00:00+00') as at, s.job_type, s.outcome, s.wait, s.run, count(*) as jobs
      from ended as s cross join (values (1), (60)) as m (minutes) group by 1, 2, 3, 4, 5, 6, 7),
    sums as (
      select c.workspace_id, c.minutes, c.at, c.job_type, c.outcome, sum(c.jobs) as jobs,
        queue.sum_histograms(array_agg(jsonb_build_object(c.wait, c.jobs)) filter (where c.wait is not null)) as waits,
        queue.sum_histograms(array_agg(jsonb_build_object(c.run, c.jobs)) filter (where c.run is not null)) as runs
      from cells as c group by 1, 2, 3, 4, 5 order by 1, 2, 3, 4, 5),
    stored as (
      insert into queue.stats as s (workspace_id, minutes, at, job_type, outcome, jobs, waits, runs)
      select * from sums
      on conflict (workspace_id, minutes, at, job_type, outcome) do update set jobs = s.jobs + excluded.jobs,
        waits = queue.sum_histograms(array[s.waits, excluded.waits]),
        runs = queue.sum_histograms(array[s.runs, excluded.runs]))
    select v_done + count(*) into v_done from ended;
    v_task.read_to := v_end;
    exit when v_end = v_last or clock_timestamp() > p_until;
  end loop;
  if v_end = v_last then
    v_task.since := least(p_now, v_oldest) - interval '1 minute';
  end if;
  update queue.tasks set read_to = v_task.read_to, since = v_task.since where name = 'statistics';
  delete from queue.stats where ctid = any (array(
    (select s.ctid from queue.stats as s where s.minutes = 1 and s.at < p_now - interval '25 hours' limit 2000)
    union all
    (select s.ctid from queue.stats as s where s.minutes = 60 and s.at < p_now - interval '31 days' limit 2000)));
  return v_done;
end;
$$;

-- Lines of a workspace or (null) of all since an instant: of minutes for the last day, else of hours.
create function queue.stat_lines(p_workspace_id uuid, p_since timestamptz, p_now timestamptz) returns setof queue.stats
language plpgsql stable as $$
declare
  v_minutes constant smallint := case when p_since >= p_now - interval '24 hours 1 minute' then 1 else 60 end;
begin
  if p_workspace_id is null then
    return query select * from queue.stats as s where s.minutes = v_minutes and s.at >= p_since;
  else
    return query select * from queue.stats as s
    where s.workspace_id = p_workspace_id and s.minutes = v_minutes and s.at >= p_since;
  end if;
end;
$$;

create function queue.outcome_counts(p_lines queue.stats[]) returns jsonb
language sql immutable as $$
  select jsonb_object_agg(k.name, coalesce(n.jobs, 0))
  from (values ('enqueued', 'enqueued'), ('completed', 'completed'), ('failed', 'failed'), ('cancelled', 'cancelled'),
    ('retried', 'retry'), ('lost', 'lost'), ('redriven', 'redriven')) as k (name, outcome)
  left join (select l.outcome, sum(l.jobs) as jobs from unnest(p_lines) as l group by 1) as n on n.outcome = k.outcome
$$;

-- Numbers of each type: counts, success_rate 0 to 1, percentiles of run and queue time.
create function queue.type_numbers(p_workspace_id uuid, p_since timestamptz, p_now timestamptz)
returns table (job_type text, line jsonb)
language sql stable as $$
  select n.job_type, n.counts || jsonb_build_object(
    'success_rate', round((n.counts ->> 'completed')::numeric
      / nullif((n.counts ->> 'completed')::numeric + (n.counts ->> 'failed')::numeric, 0), 4),
    'run', queue.percentiles(n.runs), 'queue', queue.percentiles(n.waits))
  from (
    select s.job_type, queue.outcome_counts(array_agg(s)) as counts, queue.sum_histograms(array_agg(s.runs)) as runs,
      queue.sum_histograms(array_agg(s.waits)) as waits
    from queue.stat_lines(p_workspace_id, p_since, p_now) as s group by 1) as n
$$;

-- Due jobs of a workspace or (null) of all by what keeps them: paused; unserved (workers run, none serves the lane);
-- at_limit; blocked (behind the gate of their key); ready; stalled: ready, and for two minutes nothing was leased or
-- ran. Unserved types warn and never fail: the rest is well, and restarting it would not help.
create function queue.backlog(p_workspace_id uuid, p_now timestamptz) returns jsonb
language sql stable as $$
  with lanes as materialized (
    select l.lane, l.job_type, l.queue, queue.unserved(l.job_type, p_now, l.queue) as is_unserved,
      greatest(100, 10000 / count(*) over ()) as most,
      t.max_concurrency <= (select count(*) from queue.lanes as n join queue.leases as h on h.lane = n.lane
        where n.job_type = t.job_type)
        or exists (select from queue.buckets as b where b.name = 'r:' || t.job_type
          and b.tokens + extract(epoch from p_now - b.refilled_at) * t.rate_limit / t.rate_per_seconds < 1) as is_full
    from queue.lanes as l join queue.job_types as t on t.job_type = l.job_type),
  due as (
    select l.lane, r.workspace_id, min(r.ready_at) as ready_at, count(*) as jobs, count(*) < l.most as is_whole
    from lanes as l
    cross join lateral (select o.workspace_id, o.ready_at from queue.ready as o
      where o.lane = l.lane and (p_workspace_id is null or o.workspace_id = p_workspace_id) limit l.most) as r
    group by 1, 2, l.most),
  gated as (
    select g.lane, g.workspace_id, count(*) as jobs from (
      select o.lane, o.workspace_id from queue.gated as o
      where (p_workspace_id is null or o.workspace_id = p_workspace_id) and not o.admitted limit 10000) as g
    group by 1, 2),
  causes_of as (
    select l.job_type, case
        when exists (select from queue.pauses_of(l.job_type, l.queue, d.workspace_id)) then 'paused'
        when l.is_unserved then 'unserved'
        when l.is_full or exists (select from queue.turns as t where t.lane = d.lane and t.workspace_id = d.workspace_id
          and t.aside and t.look_at is not null) then 'at_limit'
        else 'ready' end as cause, d.ready_at, d.jobs, d.is_whole
    from due as d join lanes as l on l.lane = d.lane
    union all
    select l.job_type, 'blocked', null, g.jobs, g.jobs < 10000 from gated as g join lanes as l on l.lane = g.lane),
  life as materialized (
    select exists (select from queue.leases where expires_at > p_now) as is_running,
      (select max(t.leased_at) from (select leased_at from queue.ticks order by started_at desc limit 100) as t) as at),
  held as materialized (
    select d.*, case when d.cause = 'ready' and not l.is_running
        and greatest(d.ready_at, l.at) < p_now - interval '2 minutes' then 'stalled' else d.cause end as why,
      case when d.cause = 'ready' and not l.is_running then greatest(d.ready_at, l.at) end as idle_since
    from causes_of as d cross join life as l),
  causes as materialized (
    select k.why, coalesce(sum(d.jobs), 0)::bigint as jobs, extract(epoch from p_now - min(d.ready_at)) as oldest,
      array(select f.job_type from held as f where f.why = k.why group by 1 order by min(f.ready_at), 1) as types
    from unnest(array['ready', 'stalled', 'unserved', 'paused', 'at_limit', 'blocked']) as k (why)
    left join held as d on d.why = k.why group by 1),
  worst as (
    select c.*, w.words, w.fix, w.n from causes as c join (values
      (1, 'unserved', 'wait: no worker serves', 'deploy the processor; `minutehand types` shows who serves what'),
      (2, 'stalled', 'are due, and nothing starts:', 'minutehand doctor --only schedule'),
      (3, 'paused', 'are paused:', 'minutehand resume'), (4, 'at_limit', 'wait for a limit:', null),
      (5, 'blocked', 'wait for a job of their key:', null), (6, 'ready', 'start next:', null)) as w (n, why, words, fix)
      on w.why = c.why
    where c.jobs > 0)
  select (select jsonb_object_agg(c.why, jsonb_build_object('jobs', c.jobs, 'oldest_seconds', c.oldest,
        'job_types', to_jsonb(c.types[:20]), 'types', cardinality(c.types))) from causes as c)
    || jsonb_build_object('jobs', (select coalesce(sum(d.jobs), 0) from held as d),
      'at_least', (select coalesce(bool_or(not d.is_whole), false) from held as d),
      'oldest_at', (select min(d.ready_at) from held as d),
      'oldest_due_seconds', (select extract(epoch from p_now - min(d.ready_at)) from held as d
        where d.why not in ('paused', 'unserved')),
      'stalled_seconds', (select extract(epoch from p_now - min(d.idle_since)) from held as d),
      'verdict', (select case when bool_or(c.why = 'stalled' and c.oldest > 900) then 'fail'
        when bool_or(c.jobs > 0 and c.why in ('unserved', 'stalled') or c.why = 'ready' and c.jobs >= 10000) then 'warn'
        else 'pass' end from causes as c),
      'detail', coalesce((select string_agg(format('%s %s %s', w.jobs, w.words, array_to_string(w.types[:3], ', ')),
        '; ' order by w.n) from worst as w), 'nothing is due'),
      'fix', (select w.fix from worst as w where w.fix is not null order by w.n limit 1))
$$;

-- Messages to Realtime as a plan counts them, since the server last started after a crash.
create function queue.message_numbers() returns jsonb
language sql stable as $$
  select jsonb_build_object('budget_per_second', queue.message_budget(),
    'setting', queue.setting('realtime_messages_per_second'),
    'counted', coalesce(pg_sequence_last_value('queue.messages_counted'), 0),
    'held', coalesce(pg_sequence_last_value('queue.messages_held'), 0),
    'followers', (select count(*) from queue.followers))
$$;

create function public.queue_health() returns jsonb
language plpgsql security definer set search_path = ''
set enable_seqscan = off set jit = off as $$
declare
  v_now constant timestamptz := queue.clock();
  v_backlog constant jsonb := queue.backlog(null, v_now);
  v_states constant jsonb := queue.count_states(null, '{}');
  v_tick queue.ticks;
  -- due, but not promoted yet: workers do that, so that nothing would count as due while none can work
  v_overdue constant timestamptz
    := (select min(run_at) from queue.deferred where run_at <= v_now - interval '10 seconds');
begin
  select * into v_tick from queue.ticks order by started_at desc limit 1;
  return jsonb_build_object('now', v_now, 'backlog', v_backlog,
    -- of the database: a call may be read-only by itself
    'read_only', current_setting('default_transaction_read_only')::boolean,
    'due', (v_backlog ->> 'jobs')::integer + (select count(*) from (select from queue.deferred
      where run_at <= v_now - interval '10 seconds' limit 10000) as d),
    'oldest_due_seconds', greatest((v_backlog ->> 'oldest_due_seconds')::numeric,
      extract(epoch from v_now - v_overdue)),
    'stalled_seconds', v_backlog -> 'stalled_seconds',
    'deferred', (v_states ->> 'scheduled')::bigint + (v_states ->> 'retrying')::bigint,
    'pending', (v_states ->> 'queued')::bigint + (v_states ->> 'scheduled')::bigint + (v_states ->> 'retrying')::bigint,
    'processing', v_states -> 'running', 'waiting', v_states -> 'suspended', 'failed', v_states -> 'failed',
    'last_tick_at', v_tick.seen_at, 'last_tick_seconds', extract(epoch from v_now - v_tick.seen_at),
    'workers', (select coalesce(jsonb_agg(jsonb_build_object('worker_id', w.worker_id, 'version', t.version,
        'started_at', t.started_at, 'seen_at', t.seen_at, 'ended_at', t.ended_at, 'free_slots', t.free_slots)
        order by t.started_at desc), '[]')
      from (select * from queue.ticks where started_at > v_now - interval '1 hour' order by started_at desc limit 20)
        as t join queue.workers as w on w.worker = t.worker),
    'failing_maintenance', (select coalesce(jsonb_agg(jsonb_build_object('name', u.name, 'failed_at', u.failed_at,
        'failure', u.failure, 'failures', u.failures)), '[]')
      from queue.tasks as u where u.failures > 0 or u.failed_at > v_now - interval '1 hour'),
    'refused_types', (select coalesce(jsonb_agg(jsonb_build_object('job_type', t.job_type, 'refusal', t.refusal)), '[]')
      from queue.job_types as t where t.refusal is not null),
    'messages', queue.message_numbers());
end;
$$;
comment on function public.queue_health is
  'Readiness in one call: depth, age of the oldest due job and of the last tick, failing maintenance, refused types.';

create function public.queue_stats(p_workspace_id uuid default null, p_minutes integer default 60) returns jsonb
language plpgsql stable security definer set search_path = ''
set enable_seqscan = off set jit = off as $$
declare
  v_now constant timestamptz := queue.clock();
  v_since constant timestamptz := date_trunc('minute', v_now)
    - make_interval(mins => least(11520, greatest(1, coalesce(p_minutes, 60))));
  v_backlog jsonb;
begin
  perform queue.take_turn();
  perform queue.may_read_all(p_workspace_id);
  v_backlog := queue.backlog(p_workspace_id, v_now);
  return jsonb_build_object('now', v_now, 'since', v_since, 'backlog', v_backlog,
    'oldest_due_at', v_backlog -> 'oldest_at',
    'live', (select jsonb_object_agg(s.key, s.value) from jsonb_each(queue.count_states(p_workspace_id, '{}')) as s
      where s.key in ('queued', 'scheduled', 'retrying', 'running', 'suspended')),
    'types', (select coalesce(jsonb_object_agg(n.job_type, n.line), '{}')
      from queue.type_numbers(p_workspace_id, v_since, v_now) as n),
    'throughput', (select coalesce(jsonb_agg(jsonb_build_object('minute', t.at,
        'completed', t.counts -> 'completed', 'failed', t.counts -> 'failed', 'enqueued', t.counts -> 'enqueued')
        order by t.at), '[]')
      from (select s.at, queue.outcome_counts(array_agg(s)) as counts
        from queue.stat_lines(p_workspace_id, v_since, v_now) as s group by 1) as t),
    'pauses', (select coalesce(jsonb_agg(to_jsonb(p)), '[]') from queue.pauses as p
      where p_workspace_id is null or p.workspace_id = p_workspace_id or p.kind in ('queue', 'type')))
    || case when p_workspace_id is not null then '{"workers": null, "limits": null, "messages": null}' else (
      select jsonb_build_object('messages', queue.message_numbers(),
        'workers', (select coalesce(jsonb_agg(to_jsonb(t) - '{last_call,worker}'::text[]
            || jsonb_build_object('worker_id', w.worker_id) order by t.started_at desc), '[]')
          from (select * from queue.ticks order by started_at desc limit 20) as t
          join queue.workers as w on w.worker = t.worker),
        'limits', (select coalesce(jsonb_agg(jsonb_build_object('job_type', t.job_type,
            'max_concurrency', t.max_concurrency, 'workspace_concurrency', t.workspace_concurrency,
            'key_concurrency', t.key_concurrency, 'rate_limit', t.rate_limit, 'rate_per_seconds', t.rate_per_seconds,
            'running', (select count(*) from queue.leases as l join queue.lanes as n on n.lane = l.lane
              where n.job_type = t.job_type), 'paused_at', p.paused_at, 'paused_by', p.paused_by,
            'pause_reason', p.reason) order by t.job_type), '[]')
          from queue.job_types as t left join queue.pauses as p on p.kind = 'type' and p.name = t.job_type))) end;
end;
$$;
comment on function public.queue_stats is
  'Counts, throughput and percentiles per type of the last p_minutes, 1 to 11,520; without a workspace, for '
  'operators, of all.';

create function public.queue_series(p_workspace_id uuid default null, p_minutes integer default 60) returns jsonb
language plpgsql stable security definer set search_path = ''
set enable_seqscan = off set jit = off as $$
declare
  v_now constant timestamptz := queue.clock();
  v_minutes constant integer := least(43200, greatest(15, coalesce(p_minutes, 60)));
  v_step constant interval := make_interval(mins => case when v_minutes <= 90 then 1 when v_minutes <= 360 then 5
    when v_minutes <= 1440 then 15 when v_minutes <= 10080 then 120 else 360 end);
  v_since constant timestamptz
    := date_bin(v_step, v_now - make_interval(mins => v_minutes), '2000-01-01 00:00:00+00');
begin
  perform queue.take_turn();
  perform queue.may_read_all(p_workspace_id);
  return jsonb_build_object('now', v_now, 'since', v_since, 'step_seconds', extract(epoch from v_step),
    'live', (select sum(s.value::bigint) from jsonb_each(queue.count_states(p_workspace_id, '{}')) as s
      where s.key in ('queued', 'scheduled', 'retrying', 'running', 'suspended')),
    'points', (
      select coalesce(jsonb_agg(jsonb_build_object('at', p.at, 'job_type', p.job_type,
          'queue_p95_ms', p.waits -> 'p95_ms', 'run_p95_ms', p.runs -> 'p95_ms') || p.counts
          order by p.at, p.job_type), '[]')
      from (
        select date_bin(v_step, s.at, v_since) as at, s.job_type, queue.outcome_counts(array_agg(s)) as counts,
          queue.percentiles(queue.sum_histograms(array_agg(s.waits))) as waits,
          queue.percentiles(queue.sum_histograms(array_agg(s.runs))) as runs
        from queue.stat_lines(p_workspace_id, v_since, v_now) as s
        group by 1, 2) as p));
end;
$$;
comment on function public.queue_series is
  'Counts and times per type over p_minutes, 15 to 43,200, in about a hundred points: {now, since, step_seconds, '
  'live, points}.';

-- The latest run of each worker that serves a type, with its state: alive, stale (seen within ten minutes), or gone.
create function queue.serving(p_job_type text, p_now timestamptz)
returns table (worker_id text, version text, started_at timestamptz, seen_at timestamptz, queues text[], state text)
language sql stable as $$
  select w.worker_id, t.version, t.started_at, t.seen_at, t.queues,
    case when exists (select from queue.alive_runs(p_now) as r where r.worker = t.worker) then 'alive'
      when t.seen_at > p_now - interval '10 minutes' then 'stale' else 'gone' end
  from (
    select distinct on (k.worker) k.* from (select * from queue.ticks order by started_at desc limit 1000) as k
    where k.job_types is null or p_job_type = any (k.job_types) order by k.worker, k.started_at desc) as t
  join queue.workers as w on w.worker = t.worker
$$;

create function queue.type_line(p_type queue.job_types, p_workspace_id uuid, p_numbers jsonb, p_now timestamptz)
returns jsonb
language sql stable as $$
  select jsonb_build_object('job_type', p_type.job_type, 'queue', p_type.queue, 'description', p_type.description,
    'source', p_type.source, 'version', p_type.schema_version, 'internal', p_type.internal, 'refusal', p_type.refusal,
    'paused_at', p.paused_at, 'pause_reason', p.reason, 'registered_at', p_type.registered_at,
    'served', not queue.unserved(p_type.job_type, p_now), 'last_seen_at', s.seen_at, 'workers', s.workers,
    'code_versions', s.versions, 'day', coalesce(p_numbers, '{}'),
    'schedule_count', (select count(*) from queue.schedules as c where c.job_type = p_type.job_type
      and (p_workspace_id is null or c.workspace_id in (p_workspace_id, queue.system_workspace()))))
  from (select max(w.seen_at) as seen_at, count(*) filter (where w.state = 'alive') as workers,
      coalesce(jsonb_agg(distinct w.version) filter (where w.state <> 'gone' and w.version is not null), '[]')
        as versions
    from queue.serving(p_type.job_type, p_now) as w) as s
  left join lateral (select * from queue.pauses as o
    where (o.kind, o.name) in (('type', p_type.job_type), ('workspace_type', p_workspace_id || '/' || p_type.job_type))
    order by o.kind limit 1) as p on true
$$;

create function public.list_job_types(p_workspace_id uuid default null, p_internal boolean default false) returns jsonb
language plpgsql stable security definer set search_path = '' as $$
declare
  v_now constant timestamptz := queue.clock();
begin
  perform queue.take_turn();
  perform queue.may_read_all(p_workspace_id);
  return (
    select jsonb_build_object('now', v_now, 'types', coalesce(jsonb_agg(
      queue.type_line(t, p_workspace_id, n.line, v_now) order by t.job_type), '[]'))
    from queue.job_types as t
    left join queue.type_numbers(p_workspace_id, v_now - interval '1 day', v_now) as n on n.job_type = t.job_type
    where not t.internal or coalesce(p_internal, false));
end;
$$;
comment on function public.list_job_types is
  'Job types by name, with who serves them, their last 24 hours and a refused registration: {now, types}.';

create function public.get_job_type(p_job_type text, p_workspace_id uuid default null) returns jsonb
language plpgsql stable security definer set search_path = '' as $$
declare
  v_now constant timestamptz := queue.clock();
  v_type queue.job_types;
begin
  perform queue.take_turn();
  perform queue.may_read_all(p_workspace_id);
  select * into v_type from queue.job_types where job_type = p_job_type;
  if not found then
    perform queue.refuse(404, 'unknown_job_type',
      format('no worker has registered the job type %s', left(p_job_type, 100)));
  end if;
  return queue.type_line(v_type, p_workspace_id, (select n.line
      from queue.type_numbers(p_workspace_id, v_now - interval '1 day', v_now) as n
      where n.job_type = p_job_type), v_now)
    || jsonb_build_object('now', v_now, 'payload_schema', v_type.payload_schema,
      'events', case when v_type.is_minimal then 'minimal' else 'full' end,
      'limits', jsonb_build_object('max_concurrency', v_type.max_concurrency,
        'workspace_concurrency', v_type.workspace_concurrency, 'key_concurrency', v_type.key_concurrency,
        'lease_seconds', v_type.lease_seconds, 'timeout_seconds', v_type.timeout_seconds,
        'max_attempts', v_type.max_attempts, 'rate_limit', v_type.rate_limit,
        'rate_per_seconds', v_type.rate_per_seconds, 'rate_per_key', v_type.rate_per_key,
        'backoff', jsonb_build_object('first_seconds', v_type.backoff_first_seconds,
          'cap_seconds', v_type.backoff_cap_seconds, 'factor', v_type.backoff_factor)),
      'serving', (select coalesce(jsonb_agg(to_jsonb(w) order by w.seen_at desc), '[]')
        from (select * from queue.serving(p_job_type, v_now) order by seen_at desc limit 20) as w),
      'schedules', (select coalesce(jsonb_agg(jsonb_build_object('name', s.name, 'cron', s.cron,
          'timezone', s.timezone, 'enabled', s.enabled, 'next_at', s.next_at, 'last_slot_at', s.last_slot_at,
          'problem', s.problem, 'source', s.source) order by s.name), '[]')
        from (select * from queue.schedules as k where k.job_type = p_job_type
          and (p_workspace_id is null or k.workspace_id in (p_workspace_id, queue.system_workspace()))
          order by k.name limit 100) as s));
end;
$$;
comment on function public.get_job_type is
  'One job type as in list_job_types, with its payload schema, limits, the 20 workers last seen and its schedules.';

select queue.allow('authenticated, service_role', 'public.queue_series', 'public.list_job_types',
  'public.get_job_type');
select queue.allow('job_worker, service_role', 'public.queue_health');
select queue.allow('authenticated, job_worker, service_role', 'public.queue_stats');
