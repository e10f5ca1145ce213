-- This file has statistics, health checks and the list of job types. Maintenance computes the
-- statistics from the events of queue.feed some seconds later, so that no job has to update a
-- counter. A row of queue.stats covers five minutes. Clients can read the row for eight days, and
-- maintenance deletes it after nine days. For a longer history, let Prometheus scrape /metrics.

create table queue.stats (
  workspace_id uuid not null, -- the nil UUID for all workspaces together
  at timestamptz not null, -- start of the five minutes
  job_type text not null,
  -- Object with the keys enqueued, completed, failed, cancelled, retried, lost and redriven. The
  -- key `lost` has the number of attempts that count as lost because their worker died.
  counts jsonb not null,
  -- Histograms of the queue times and durations of ended jobs, as objects with the number of jobs
  -- in each bucket. Bucket n of a histogram begins at 1.25^n - 1 milliseconds.
  queue_times jsonb,
  run_times jsonb,
  primary key (workspace_id, at, job_type)
) with (
  fillfactor = 70,
  autovacuum_vacuum_scale_factor = 0.05,
  autovacuum_vacuum_threshold = 1000
);
create index stats_by_time on queue.stats (at);

-- Add the numbers that have the same key in the JSON objects p_all. Return null if p_all contains
-- no numbers.
create function queue.sum_jsonb(p_all jsonb[])
returns jsonb
language sql immutable
set search_path = ''
as $$
select jsonb_object_agg(b.key, b.jobs)
from (
  select e.key, sum(e.value::bigint) as jobs
  from unnest(p_all) as h
  cross join lateral jsonb_each_text(h) as e
  group by 1
) as b
$$;

-- Run the maintenance task `statistics`. The task `statistics` reads committed rows of queue.feed,
-- and counts the jobs of these rows in queue.stats. Each statement of the task `statistics` counts
-- about 20,000 jobs.
create function queue.do_statistics(p_now timestamptz, p_until timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_last constant bigint := queue.feed_end();
  v_number bigint; -- number of the last feed row that was read
  v_id bigint;
  v_end record;
  v_done integer := 0;
begin
  select t.read_to, t.read_id into v_number, v_id
  from queue.tasks as t
  where name = 'statistics';
  loop
    select f.number, f.id into v_end
    from ( -- one transaction may have written any number of feed rows
      select
        l.number,
        l.id,
        row_number() over w as n,
        sum(pg_column_size(l.job_ids) / 16) over w as jobs
      from queue.feed as l
      where (l.number, l.id) > (v_number, v_id) and l.number < v_last
      window w as (order by l.number, l.id)
      order by l.number, l.id
      limit 20000
    ) as f
    where f.jobs <= 20000 or f.n = 1
    order by f.n desc
    limit 1;
    exit when not found;
    with ended as materialized (
      select
        date_bin('5 minutes', l.at, '2000-01-01 00:00:00+00') as at,
        l.workspace_id,
        j.job_type,
        k.count,
        e.wait,
        e.run,
        count(*) as jobs
      from queue.feed as l
      join (
        values
          ('job.created', 'enqueued'),
          ('job.completed', 'completed'),
          ('job.failed', 'failed'),
          ('job.cancelled', 'cancelled'),
          ('job.retried', 'retried'),
          ('job.snoozed', 'snoozed'),
          ('job.reclaimed', 'lost'),
          ('job.redriven', 'redriven')
      ) as k (type, count)
        on k.type = l.type and l.data ->> 'reason' is distinct from 'process_died'
      cross join lateral unnest(l.job_ids) as i (id)
      join public.jobs as j on j.id = any (array[i.id])
      left join lateral (
        values (
          least(120, floor(ln(greatest(0, j.queue_ms) + 1) / ln(1.25)))::text,
          least(120, floor(ln(greatest(0, j.run_ms) + 1) / ln(1.25)))::text
        )
      ) as e (wait, run) on k.count in ('completed', 'failed')
      where (l.number, l.id) > (v_number, v_id)
        and (l.number, l.id) <= (v_end.number, v_end.id)
      group by 1, 2, 3, 4, 5, 6
    ),
    cells as (
      select
        w.id,
        s.at,
        s.job_type,
        n.kind,
        n.name,
        sum(s.jobs)::bigint as jobs
      from ended as s
      cross join lateral (
        values
          (s.workspace_id),
          ('00000000-0000-0000-0000-000000000000')
      ) as w (id)
      cross join lateral (
        values ('count', s.count), ('wait', s.wait), ('run', s.run)
      ) as n (kind, name)
      where n.name is not null
      group by 1, 2, 3, 4, 5
    ),
    stored as (
      insert into queue.stats as s (
        workspace_id, at, job_type, counts, queue_times, run_times
      )
      select
        c.id,
        c.at,
        c.job_type,
        '{"enqueued": 0, "completed": 0, "failed": 0, "cancelled": 0, "retried": 0, "lost": 0,
          "redriven": 0}'
          || jsonb_object_agg(c.name, c.jobs) filter (where c.kind = 'count'),
        jsonb_object_agg(c.name, c.jobs) filter (where c.kind = 'wait'),
        jsonb_object_agg(c.name, c.jobs) filter (where c.kind = 'run')
      from cells as c
      group by 1, 2, 3
      order by 1, 2, 3
      on conflict (workspace_id, at, job_type) do update set
        counts = queue.sum_jsonb(array[s.counts, excluded.counts]),
        queue_times = queue.sum_jsonb(
          array[s.queue_times, excluded.queue_times]
        ),
        run_times = queue.sum_jsonb(array[s.run_times, excluded.run_times])
    )
    select v_done + coalesce(sum(e.jobs), 0) into v_done
    from ended as e;
    v_number := v_end.number;
    v_id := v_end.id;
    exit when clock_timestamp() > p_until;
  end loop;
  update queue.tasks
  set
    read_to = coalesce(v_end.number, v_last),
    read_id = coalesce(v_end.id, 0)
  where name = 'statistics';
  return v_done;
end;
$$;

-- Return the time of the oldest event of queue.feed that is not yet counted in queue.stats. Return
-- null if no uncounted event is older than a minute.
create function queue.statistics_stale_since(p_now timestamptz)
returns timestamptz
language sql stable
set search_path = ''
as $$
select l.at
from (
  select f.at
  from queue.tasks as t
  join queue.feed as f on f.number >= t.read_to and (f.number, f.id) > (t.read_to, t.read_id)
  where t.name = 'statistics'
  order by f.number, f.id
  limit 1
) as l
where l.at < p_now - interval '1 minute'
$$;

-- Compute the percentiles p50_ms, p95_ms and p99_ms from a histogram of queue.stats. A computed
-- percentile differs from the exact percentile by at most 12 %.
create function queue.percentiles(p_buckets jsonb)
returns jsonb
language sql immutable
set search_path = ''
as $$
select jsonb_object_agg(q.name, q.ms)
from (
  select
    format('p%s_ms', p.percent) as name,
    round(min(b.ms)::numeric, 1) as ms
  from unnest('{50, 95, 99}'::integer[]) as p (percent)
  left join (
    select
      power(1.25, e.key::integer + 0.5) - 1 as ms,
      sum(e.value::numeric) over () as total,
      sum(e.value::numeric) over (order by e.key::integer) as jobs
    from jsonb_each_text(p_buckets) as e
  ) as b on 100 * b.jobs >= p.percent * b.total
  group by p.percent
) as q
$$;

-- Return the counts and percentiles of queue.stats for each job type in each period of the length
-- p_step since p_since.
create function queue.type_numbers(
  p_workspace_id uuid,
  p_since timestamptz,
  p_step interval
)
returns table (at timestamptz, job_type text, line jsonb)
language sql stable
set search_path = ''
as $$
select
  date_bin(p_step, s.at, p_since),
  s.job_type,
  queue.sum_jsonb(array_agg(s.counts)) || jsonb_build_object(
    'run', queue.percentiles(queue.sum_jsonb(array_agg(s.run_times))),
    'queue', queue.percentiles(queue.sum_jsonb(array_agg(s.queue_times)))
  )
from queue.stats as s
where s.workspace_id
= coalesce(p_workspace_id, '00000000-0000-0000-0000-000000000000')
  and s.at >= p_since
group by 1, 2
$$;

-- Return how many jobs of a type ran and completed or failed in the last day, and the duration in
-- milliseconds that 99 % of them did not exceed. The duration is the end of its range in the
-- histogram, rounded up as queue.length_in_words shows it. median_ms is their median.
create function queue.run_times(p_workspace_id uuid, p_job_type text, p_now timestamptz)
returns table (jobs bigint, most_ms double precision, median_ms double precision)
language sql stable
set search_path = ''
as $$
select h.jobs, r.ms, (h.percentiles ->> 'p50_ms')::double precision
from (
  select queue.sum_jsonb(array_agg(s.run_times)) as times
  from queue.stats as s
  where s.workspace_id = p_workspace_id
    and s.at > p_now - interval '1 day'
    and s.job_type = p_job_type
) as o
cross join lateral (
  select
    sum(t.value::bigint) as jobs,
    queue.percentiles(o.times) as percentiles
  from jsonb_each_text(o.times) as t
) as h
cross join lateral (
  values (((h.percentiles ->> 'p99_ms')::double precision + 1) * sqrt(1.25) - 1)
) as e (ms)
cross join lateral (
  select ceil(e.ms / u.size) * u.size as ms
  from (
    values (
      case
        when e.ms < 1000 then 1
        when e.ms < 10000 then 100
        when e.ms < 7200000 then 1000
        else 60000
      end
    )
  ) as u (size)
) as r
$$;

-- Describe the run times of a type in the last day. Fields without a value are null.
-- of_jobs: Number of jobs that completed or failed, as text.
-- sample: The same, of at least 100 jobs 99 %.
-- most: Duration that the sample did not exceed.
-- typical, typical_ms: The same, if at least 20 jobs ended.
-- longest: Duration that none of fewer than 20 jobs exceeded.
-- longest_ms: The same, if at least 5 jobs ended. Fewer jobs do not show how long a job may run.
create function queue.run_times_in_words(
  p_workspace_id uuid,
  p_job_type text,
  p_now timestamptz
)
returns jsonb
language sql stable
set search_path = ''
as $$
select jsonb_build_object(
    'of_jobs', w.jobs,
    'sample', case
      when t.jobs >= 100 then '99 % of '
      when t.jobs > 1 then 'all '
      else ''
    end || w.jobs,
    'most', w.most
  ) || case
    when t.jobs < 20 then jsonb_build_object(
      'longest', w.most,
      'longest_ms', case when t.jobs >= 5 then t.most_ms end
    )
    else jsonb_build_object(
      'typical', w.most,
      'typical_ms', t.most_ms
    )
  end
from queue.run_times(p_workspace_id, p_job_type, p_now) as t
cross join lateral (
  values (
    t.jobs || case t.jobs when 1 then ' job' else ' jobs' end,
    queue.length_in_words(t.most_ms)
  )
) as w (jobs, most)
$$;

-- Return the number of due jobs for each reason why due jobs have not started. The reasons are
-- paused, unserved (no worker serves the job type), suspect (the job's process died), at_limit,
-- blocked (by a concurrency key) and ready. Only unserved jobs cause the verdict `warn`. The key
-- `attention` has the jobs that wait for a worker, as public.explain_queue returns them.
-- p_user_id: Id of the member who calls, or null to count the jobs of all callers. Among jobs of
--   unpublished types, only the member's own jobs are counted, because a member who is no manager
--   cannot change the jobs of other people.
create function queue.backlog(
  p_workspace_id uuid,
  p_now timestamptz,
  p_user_id uuid default null
)
returns jsonb
language sql stable
set search_path = ''
as $$
with lanes as materialized (
  select
    l.lane,
    l.job_type,
    l.queue,
    s.unserved,
    case when s.in_other_queues then l.queue end as not_served,
    greatest(10, 10000 / count(*) over ()) as most,
    coalesce(queue.free_of_type(l.job_type, p_now) <= 0, false) as is_full
  from (
    select array_agg(o.job_type) as types, array_agg(o.queue) as queues
    from (select distinct job_type, queue from queue.lanes) as o
  ) as a
  cross join lateral queue.is_unserved(a.types, a.queues, queue.live_workers(p_now), p_now) as s
  join queue.lanes as l on l.job_type = s.job_type and l.queue = s.queue
),
unpublished as materialized (
  select o.workspace_id, o.job_type, o.job_id
  from queue.unpublished as o
  where (p_workspace_id is null or o.workspace_id = p_workspace_id)
    and (
      p_user_id is null
      or exists (
        select from public.jobs as j
        where j.id = o.job_id and j.user_id = p_user_id
      )
    )
  limit 10000
),
due as (
  select
    l.job_type,
    l.not_served,
    r.ready_at,
    r.jobs,
    r.workspace_id,
    r.job_ids,
    sum(r.jobs) over (partition by l.lane) >= l.most as is_more,
    case
      when exists (
        select from queue.pauses as p
        where (p.kind, p.name) in (
          ('job_type', l.job_type),
          ('queue', l.queue),
          ('workspace', r.workspace_id::text),
          ('workspace_type', r.workspace_id || '/' || l.job_type)
        )
      ) then 'paused'
      when l.unserved then 'unserved'
      when r.is_suspect then 'suspect'
      when l.is_full
          or exists (
            select from queue.turns as t
            where t.lane = l.lane
              and t.workspace_id = r.workspace_id
              and t.blocked
              and t.look_at is not null
          )
        then 'at_limit'
      else 'ready'
    end as cause
  from lanes as l
  cross join lateral (
    select
      o.workspace_id,
      exists (select from queue.suspects) -- evaluated once, and usually finds no row
        and exists (select from queue.suspects as s where s.job_id = o.job_id) as is_suspect,
      min(o.ready_at) as ready_at,
      count(*) as jobs,
      (array_agg(o.job_id))[:200] as job_ids
    from (
      select *
      from queue.ready as q
      where q.lane = l.lane
        and (p_workspace_id is null or q.workspace_id = p_workspace_id)
      limit l.most
    ) as o
    group by 1, 2
  ) as r
  union all
  select
    g.job_type,
    null,
    null,
    count(*),
    null,
    null,
    sum(count(*)) over () >= 10000,
    'blocked'
  from (
    select o.job_type
    from queue.gated as o
    where (p_workspace_id is null or o.workspace_id = p_workspace_id)
      and not o.admitted
    limit 10000
  ) as g
  group by 1
  union all
  select
    u.job_type,
    null,
    coalesce(j.next_retry_at, j.scheduled_for, j.created_at),
    u.jobs,
    u.workspace_id,
    u.job_ids,
    sum(u.jobs) over () >= 10000,
    'unserved'
  from (
    select
      i.job_type,
      i.workspace_id,
      count(*) as jobs,
      (array_agg(i.job_id order by i.job_id))[:200] as job_ids
    from unpublished as i
    group by 1, 2
  ) as u
  join public.jobs as j on j.id = any (array[u.job_ids[1]])
),
causes as (
  select
    k.*,
    coalesce(sum(d.jobs), 0)::integer as jobs,
    min(d.ready_at) as oldest_at,
    coalesce(bool_or(d.is_more), false) as is_more,
    min(d.job_type) as job_type,
    case when min(d.job_type) = max(d.job_type) then min(d.job_type) end as only_type,
    string_agg(distinct d.not_served, ' --queue ' order by d.not_served) as not_served,
    (array_agg(distinct d.job_type) filter (where d.not_served is null))[:100] as job_types,
    concat(
      array_to_string((array_agg(distinct d.job_type || n.queue))[:3], ', '),
      ' and ' || nullif(greatest(count(distinct d.job_type || n.queue) - 3, 0), 0) || ' more'
    ) as types
  from (
    values
      (1, 'unserved', 'waiting: no worker serves'),
      (2, 'paused', 'paused:'),
      (3, 'suspect', 'to run alone, because the worker was lost:'),
      (4, 'at_limit', 'waiting for a limit:'),
      (5, 'blocked', 'waiting for a job of the same key:'),
      (6, 'ready', 'ready to start:')
  ) as k (n, cause, words)
  left join due as d on d.cause = k.cause
  cross join lateral (
    values (case
      when d.cause = 'unserved' then coalesce(' in the queue ' || d.not_served, '')
      else ''
    end)
  ) as n (queue)
  group by 1, 2, 3
)
select jsonb_object_agg(
  c.cause,
  jsonb_build_object(
    'jobs', c.jobs,
    'more', c.is_more,
    'types', c.types,
    'job_type', c.job_type,
    'only_type', c.only_type, -- other types may need other steps
    'job_types', c.job_types,
    'not_served', c.not_served,
    'oldest_at', c.oldest_at
  )
)
  || jsonb_build_object(
    'jobs', sum(c.jobs),
    'oldest_at', min(c.oldest_at),
    'verdict', case
      when bool_or(c.jobs > 0 and c.cause = 'unserved') then 'warn'
      else 'pass'
    end,
    'detail', coalesce(
      string_agg(
        format(
          '%s%s %s %s',
          c.jobs,
          case when c.is_more then '+' end,
          c.words,
          c.types
        ),
        '; '
        order by c.n
      ) filter (where c.jobs > 0),
      'nothing is due'
    ),
    'oldest_due_seconds', extract(
      epoch from p_now
      - min(c.oldest_at) filter (where c.cause not in ('paused', 'unserved'))
    ),
    'attention', (
      select coalesce(
        jsonb_agg(
          to_jsonb(a) || jsonb_build_object(
            'nearest', case
              when not exists (select from queue.job_types as t where t.job_type = a.job_type)
                then queue.nearest_type(a.job_type)
            end
          )
        ),
        '[]'
      )
      from (
        select
          d.workspace_id,
          'no_worker' as kind,
          case d.cause when 'unserved' then 'no_processor' else 'no_worker' end as reason,
          d.job_type,
          sum(d.jobs) as jobs,
          (
            string_to_array(string_agg(array_to_string(d.job_ids, ','), ','), ',')::uuid[]
          )[:200] as job_ids,
          min(d.ready_at) as since
        from due as d -- the jobs of a type may be in several queues
        where case
          when d.cause = 'unserved' then true
          when d.cause <> 'paused' and d.job_ids is not null
            -- no worker has called, as in the finding no_worker
            then coalesce((select queue.last_call() < p_now - interval '90 seconds'), true)
        end
        group by 1, 3, 4
        order by jobs desc
        limit 50 -- limits the response
      ) as a
    )
  )
from causes as c
$$;

-- A problem that public.explain_queue reports.
create type queue.finding as (
  verdict text,
  reason text,
  since timestamptz,
  cause text,
  data jsonb
);

-- Return the database sessions that have locked the table of jobs, so that no job can be changed,
-- or another table of the engine, so that it cannot be read.
create function queue.table_locks()
returns table (pid integer, mode text, locked text, effect text)
language sql stable
set search_path = ''
as $$
select
  l.pid,
  l.mode,
  c.oid::regclass::text,
  case c.relnamespace
    when 'queue'::regnamespace then 'calls that use it wait'
    else 'no job can be added or changed'
  end
from pg_catalog.pg_locks as l
join pg_catalog.pg_class as c on c.oid = l.relation
join pg_catalog.pg_database as d on d.oid = l.database
where l.granted
  and l.locktype = 'relation' -- a session that waits for a row has a lock of a tuple
  and d.datname = current_database()
  and (
    l.mode = 'AccessExclusiveLock' and c.relnamespace = 'queue'::regnamespace and c.relkind = 'r'
    or c.oid = 'public.jobs'::regclass
    and l.mode in (
      'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock'
    )
  )
$$;

-- Return a finding for each database session for whose lock other sessions wait, or that has locked
-- a table of the engine. The session's transaction, or the first wait, must have lasted for ten
-- seconds. The finding begins with the transaction, because a call that waits is repeated. Members
-- of a workspace do not see sessions.
create function queue.findings_of_locks(p_workspace_id uuid, p_now timestamptz)
returns setof queue.finding
language sql stable
set search_path = ''
as $$
with waits as materialized (
  (
    select
      a.query_start as since,
      queue.last_blocker(a.pid) as pid,
      null as locked,
      null as effect
    from pg_catalog.pg_stat_activity as a
    where a.datname = current_database()
      and a.wait_event_type = 'Lock'
      and a.query_start <= p_now - interval '1 second'
    limit 20
  )
  union all
  -- calls of people wait for at most two seconds, so no waiting session may show this lock
  select a.xact_start, a.pid, l.locked, l.effect
  from queue.table_locks() as l
  join pg_catalog.pg_stat_activity as a on a.pid = l.pid
)
select
  'warn',
  case when p_workspace_id is null then 'blocking_session' else 'service_locked' end,
  coalesce(h.xact_start, min(w.since)),
  case
    when p_workspace_id is null then format(
      '%s (pid %s) is %s',
      coalesce(nullif(h.application_name, ''), h.usename, h.backend_type),
      h.pid,
      coalesce(h.state, 'active')
    )
  end,
  jsonb_build_object(
    'pid', h.pid,
    'waiting', count(*),
    'locked', (min(array[w.locked, w.effect]))[1],
    'effect', (min(array[w.locked, w.effect]))[2],
    'began_at', h.xact_start
  ) || coalesce((array_agg(k.data))[1], '{}')
from waits as w
join pg_catalog.pg_stat_activity as h
  on h.pid = w.pid and h.wait_event_type is distinct from 'Lock'
left join queue.session_work(array(select distinct o.pid from waits as o)) as k on k.pid = h.pid
group by h.pid, h.application_name, h.usename, h.backend_type, h.state, h.xact_start
having coalesce(h.xact_start, min(w.since)) <= p_now - interval '10 seconds'
  and (p_workspace_id is null or max(w.locked) is not null)
$$;

-- Return findings about workers, due jobs, the database and maintenance. A transaction that has
-- written rows is a finding after a minute, or after 30 seconds if its session is idle, because
-- readers of queue.feed wait for the end of the transaction. A read-only transaction is a finding
-- after five minutes, because Postgres cannot remove dead rows until the transaction ends.
create function queue.findings_of_queue(
  p_workspace_id uuid,
  p_now timestamptz,
  p_backlog jsonb,
  p_seen_at timestamptz
)
returns setof queue.finding
language plpgsql stable
set search_path = ''
as $$
declare
  v_alive constant queue.workers[] := queue.live_workers(p_now);
  -- functions that workers have no right to call
  v_is_open constant boolean := p_workspace_id is null
    or queue.is_operator()
    or queue.is_service();
  v_denied constant regproc[] := array(
    select f.function
    from unnest(
      '{public.lease_jobs, public.report_jobs, public.settle_jobs,
        public.run_maintenance}'::regproc[]
    ) as f (function)
    where queue.lacked_right(f.function) is not null
  );
begin
  return query
    select
      'fail',
      'read_only',
      null::timestamptz,
      null::text,
      coalesce(f.data || '{"is_full": ""}', jsonb_build_object(
        'reset', (
          select string_agg(
            format(
              'alter %s reset default_transaction_read_only',
              case s.setrole
                when 0 then format('database %I', current_database())
                else concat('role ', s.setrole::regrole, ' in database ' || quote_ident(d.datname))
              end
            ),
            '; '
          )
          from pg_catalog.pg_db_role_setting as s
          left join pg_catalog.pg_database as d on d.oid = s.setdatabase
          where (s.setdatabase = 0 or d.datname = current_database())
            and s.setrole in (0, to_regrole(quote_ident(session_user)))
            and s.setconfig::text ~* '[{,"]default_transaction_read_only=(on|t|y|1)'
        ),
        'source', p.source
      ))
    from pg_catalog.pg_settings as p
    left join queue.findings_of_disk() as f on f.reason = 'disk_nearly_full'
    where p.name = 'default_transaction_read_only' and p.setting = 'on'
    union all
    select
      'warn',
      'no_retention',
      null,
      null,
      jsonb_build_object(
        'states', string_agg(d.key, ', ' order by d.key) filter (where d.value = '0'),
        'longer', jsonb_object_agg(d.key, case
          when d.value <> '0' then d.value::integer
          when d.key = 'failed' then 90
          else 30
        end)::text
      )
    from jsonb_each_text(queue.setting('retention_days')) as d
    -- some projects keep no completed jobs, but without failed jobs no one sees why they failed
    having bool_or(d.key = 'failed' and d.value = '0')
    union all
    select
      case
        when p_now - p_seen_at > interval '200 seconds' then 'fail'
        else 'warn'
      end,
      'no_worker',
      p_seen_at,
      null,
      jsonb_build_object(
        'jobs', p_backlog -> 'jobs',
        'key_expired_at', queue.key_expired_at(),
        'revoked_at', queue.revoked_for()
      )
    where coalesce(p_now - p_seen_at > interval '90 seconds', true)
      -- rejected workers may be running
      and 'public.lease_jobs'::regproc <> all (v_denied)
    union all
    select
      case
        when p_seen_at is null and o.at < p_now - interval '15 minutes' then 'fail'
        else 'warn'
      end,
      'overdue',
      o.at,
      null,
      jsonb_build_object(
        'jobs', p_backlog #> '{ready,jobs}',
        'job_id', w.job_id,
        'used_by', w.used_by
      )
    from (values ((p_backlog #>> '{ready,oldest_at}')::timestamptz)) as o (at)
    left join lateral (
      select
        j.id as job_id,
        e.said ->> 'reason' as reason,
        e.said #> '{data,used_by}' as used_by
      from (
        select r.job_id
        from queue.lanes as l
        cross join lateral (
          select *
          from queue.ready as q
          where q.lane = l.lane
            and (p_workspace_id is null or q.workspace_id = p_workspace_id)
          limit 1
        ) as r -- the first job of each lane
        where r.ready_at >= o.at -- older jobs wait for a limit, or their type is paused
        order by r.ready_at
        limit 1
      ) as f
      join public.jobs as j on j.id = any (array[f.job_id])
      cross join lateral queue.explain_row(j, v_alive, p_now) as e (said)
    ) as w on true
    where o.at < p_now - interval '2 minutes'
      and 'public.lease_jobs'::regproc <> all (v_denied)
      -- the job only waits for its turn, or for a limit that was reached after the last lease
      and coalesce(w.reason !~ '^(behind_others|next_in_line|rate_limited|.*_limit)$', true)
    union all
    select
      'warn',
      'no_processor',
      u.oldest_at,
      null,
      jsonb_build_object(
        'jobs', u.jobs,
        'types', u.types,
        'unserved', u.job_types,
        'job_type', u.only_type,
        'only_type', u.only_type,
        'nearest', n.nearest,
        'is_near', left(n.nearest, 0),
        'not_served', (select u.not_served where u.only_type is not null),
        'revoked_at', queue.revoked_for(u.only_type),
        'key_expired_at', queue.key_expired_at(u.only_type),
        'once_served', case
          when exists (select from queue.workers as w where u.only_type = any (w.job_types))
            then u.only_type
        end
      )
    from jsonb_to_record(p_backlog -> 'unserved') as u (
      jobs integer,
      types text,
      only_type text,
      job_types text[],
      not_served text,
      oldest_at timestamptz
    )
    left join lateral queue.nearest_type(u.only_type) as n (nearest)
      on not exists (select from queue.job_types as t where t.job_type = u.only_type)
    where u.jobs > 0
    union all
    select
      'warn',
      'silent_worker',
      c.at,
      null,
      jsonb_build_object(
        'worker_id', w.worker_id,
        'jobs', h.jobs,
        'expires_at', h.expires_at,
        'is_read_only', (
          select '' where current_setting('default_transaction_read_only')::boolean
        ),
        'key_expired_at', queue.key_end(w, c.at),
        'key_revoked_at', queue.key_revoked_at(w, c.at)
      )
    from queue.lease_holders(p_workspace_id, p_now) as h
    join queue.workers as w on w.worker = h.worker
    cross join lateral (values (greatest(w.seen_at, h.renewed_at))) as c (at)
    where h.due_at <= p_now and w.seen_at <= h.due_at and w.evidence is null
    union all
    select
      'warn',
      'expired_key',
      c.at,
      null,
      jsonb_build_object('worker_id', w.worker_id, 'key_expired_at', k.expired_at)
    from queue.workers as w
    cross join lateral queue.called_at(w) as c (at)
    cross join lateral queue.key_end(w, c.at) as k (expired_at)
    where p_workspace_id is null
      and w.ended_at is null
      and (w.summary ->> 'key_expires_at')::timestamptz <= p_now -- before the read of leases
      and w.seen_at > p_now - interval '10 minutes' -- an older worker is listed as gone
      and k.expired_at is not null
      -- otherwise the jobs of a type, or all, have no worker, which is another finding
      and exists (
        select from unnest(v_alive) as a
        where a.worker <> w.worker
          and (a.job_types is null or a.job_types @> w.job_types)
          and (a.queues is null or a.queues @> w.queues)
      )
    union all
    (
      select distinct on (j.job_type)
        'warn',
        'recursive_type',
        null::timestamptz,
        null,
        r || jsonb_build_object('job_id', j.id)
      from (
        select l.job_id
        from queue.leases as l
        where p_workspace_id is null or l.workspace_id = p_workspace_id
        order by l.job_id desc
        limit 10 -- a sample, because each job reads up to 20 ancestors
      ) as l
      join public.jobs as j on j.id = any (array[l.job_id])
      cross join queue.recursion_of(j) as r
      where r is not null
    )
    union all
    select
      'warn',
      case when p_workspace_id is null then 'clock_skew' else 'wrong_clock' end,
      null,
      null,
      jsonb_build_object(
        'worker_id', w.worker_id,
        'behind', case when s.seconds < 0 then round(-s.seconds) end,
        'ahead', case when s.seconds > 0 then round(s.seconds) end
      )
    from unnest(v_alive) as w
    cross join lateral (
      values ((w.summary ->> 'clock_skew_seconds')::numeric)
    ) as s (seconds)
    where s.seconds is not null;
  return query
    select
      'fail',
      case when v_is_open then 'missing_right' else 'workers_lack_right' end,
      null::timestamptz,
      null::text,
      case
        when v_is_open
          then jsonb_build_object('right', r.lacked, 'function', min(f.function::text))
        else jsonb_build_object('is_idle', case
          when 'public.lease_jobs'::regproc = any (v_denied) then ''
        end)
      end
    from unnest(v_denied) as f (function)
    cross join lateral queue.lacked_right(f.function) as r (lacked)
    group by r.lacked
    limit case when not v_is_open then 1 end;
  if p_workspace_id is not null then
    -- only operators see the cause, for example a session with an open transaction
    return query
      select 'warn', 'late_events', s.at, null, '{}'::jsonb
      from queue.statistics_stale_since(p_now) as s (at)
      where s.at < p_now - interval '2 minutes' and p_now - p_seen_at < interval '90 seconds';
    return;
  end if;
  return query
    select
      'warn',
      'failing_maintenance',
      null::timestamptz,
      string_agg(m.words, '; '),
      '{}'::jsonb
    from (
      select format('the task %s fails: %s', t.name, left(t.failure, 300)) as words
      from queue.tasks as t
      where t.failures > 0
      union all
      (
        select format(
          '%s skips job %s: %s',
          r.task,
          r.job_id,
          left(r.failure, 300)
        )
        from queue.refusals as r
        join public.jobs as j on j.id = any (array[r.job_id])
        order by r.refused_at, r.job_id
        limit 20
      )
    ) as m
    having count(*) > 0
    union all
    (
      with longest as materialized (
        select a.*, s.seconds
        from pg_catalog.pg_stat_activity as a
        cross join lateral (
          values (extract(epoch from queue.clock() - a.xact_start)::integer)
        ) as s (seconds)
        where a.datname = current_database()
          and a.pid <> pg_backend_pid()
          and a.backend_type = 'client backend'
          and num_nonnulls(a.backend_xid, a.backend_xmin) > 0
          and a.wait_event_type is distinct from 'Lock' -- the session that it waits for is named
          and s.seconds >= case
            when a.backend_xid is null then 300
            when a.state = 'active' then 60
            else 30
          end -- 30 seconds if the transaction has written and is now idle
        order by s.seconds desc
        limit 20
      )
      select
        'warn',
        'open_transaction',
        o.xact_start,
        format(
          '%s (pid %s) has an open transaction for %s s; %s',
          coalesce(nullif(o.application_name, ''), o.usename, 'a session'),
          o.pid,
          o.seconds,
          case
            when o.backend_xid is null then 'Postgres keeps dead rows until it ends'
            else 'readers of events wait until it ends'
          end
        ),
        jsonb_build_object('pid', o.pid) || coalesce(w.data, '{}')
      from longest as o
      left join queue.session_work(array(select l.pid from longest as l)) as w on w.pid = o.pid
    );
end;
$$;

-- Return a finding if at least 80 % of the disk is used. An operator sets the size of the disk in
-- the setting disk_bytes. The used space is the size of all databases to which the owner of this
-- function may connect. The size of the write-ahead log is added if the owner of this function may
-- read the log.
create function queue.findings_of_disk()
returns setof queue.finding
language plpgsql stable
set search_path = ''
as $$
declare
  v_size constant bigint := (queue.setting('disk_bytes') #>> '{}')::bigint;
  v_used bigint;
begin
  if v_size is null then
    return;
  end if;
  v_used := (
    select sum(pg_database_size(d.oid))
    from pg_catalog.pg_database as d
    where has_database_privilege(d.oid, 'connect')
  );
  if has_function_privilege('pg_catalog.pg_ls_waldir()', 'execute') then
    v_used := v_used + (select sum(w.size) from pg_ls_waldir() as w);
  end if;
  return query
    select
      'warn',
      case
        when v_used > v_size then 'wrong_disk_size'
        when v_used >= 0.9 * v_size then 'disk_nearly_full'
        else 'disk_filling'
      end,
      null::timestamptz,
      format(
        '%s of %s are used',
        pg_size_pretty(v_used),
        pg_size_pretty(v_size)
      ),
      jsonb_build_object('percent', floor(100.0 * v_used / v_size))
    where v_used >= 0.8 * v_size;
end;
$$;

-- Return a finding if at least the share p_share of the unreserved connections is in use. The
-- finding names the application, role and address with the most sessions. Its statement ends
-- only idle sessions of this application. Sessions without a name, and those of Supabase, a pooler
-- or a worker, have no statement.
create function queue.findings_of_connections(p_share numeric default 0.9)
returns setof queue.finding
language sql stable
set search_path = ''
as $$
select
  'warn',
  'used_up_connections',
  null::timestamptz,
  null,
  jsonb_build_object(
    'used', g.used,
    'limit', m.most + m.reserved,
    'reserved', m.reserved,
    'sessions', g.sessions,
    'holder', format(
      'The application %s (%s)',
      coalesce(nullif(g.application_name, ''), 'without a name'),
      concat_ws(', ', 'role ' || g.usename, 'address ' || host(g.client_addr))
    ),
    'idle', case
      when g.usename !~ '^(authenticator|job_worker|pgbouncer|supabase_)'
        and g.application_name <> ''
        and g.application_name !~* '`|postgrest|supavisor|pgbouncer|minutehand'
        then format(
          'state = ''idle'' and application_name = %L and usename = %L and query !~* ''^listen''',
          g.application_name,
          g.usename
        )
    end
  )
from (
  select
    a.application_name,
    a.usename,
    a.client_addr,
    count(*) as sessions,
    sum(count(*)) over () as used
  from pg_catalog.pg_stat_activity as a
  where a.backend_type = 'client backend'
  group by 1, 2, 3
  order by 4 desc
  limit 1
) as g
cross join (
  select
    sum(s.setting::integer * case s.name when 'max_connections' then 1 else -1 end) as most,
    sum(s.setting::integer) filter (where s.name <> 'max_connections') as reserved
  from pg_catalog.pg_settings as s
  where s.name in ('max_connections', 'reserved_connections', 'superuser_reserved_connections')
) as m
where g.used >= p_share * m.most
$$;

-- Return the findings that apps and extensions add to public.explain_queue. For each maintenance
-- task, call the function queue.findings_of_<name of the task> if this function exists. The data of
-- each finding must contain an object `said` with the finding's sentence and advice, as
-- queue.render_guidance returns them.
create function queue.findings_of_apps(p_workspace_id uuid)
returns setof queue.finding
language plpgsql stable
set search_path = ''
as $$
declare
  v_function regprocedure;
begin
  for v_function in
    select f.function
    from queue.tasks as t
    cross join lateral to_regprocedure(
      format('queue.findings_of_%s(uuid)', t.name)
    ) as f (function)
    where f.function is not null
  loop
    return query execute format('select * from %s($1)', v_function::regproc)
    using p_workspace_id;
  end loop;
end;
$$;

-- Return advice if the last attempts of the first of p_ids with their error were on one worker that
-- still runs, and another worker has completed a job of the type since p_since. Fewer than three
-- attempts count only if the versions of both workers differ. The jobs p_ids are of one workspace,
-- type and error. Of the first 20 jobs, the newest few attempts are read.
-- p_alive: Live workers, from queue.live_workers, which a caller reads once for all groups.
create function queue.one_worker_advice(
  p_ids uuid[],
  p_since timestamptz,
  p_alive queue.workers[]
)
returns jsonb
language sql stable
set search_path = ''
as $$
select coalesce(
  (
    select queue.render_guidance('one_worker', to_jsonb(f) || to_jsonb(c)) -> 'next'
    from (
      select
        j.workspace_id,
        j.job_type,
        sum(a.attempts) as attempts,
        w.worker_id,
        w.version,
        case when count(*) < cardinality(p_ids) then count(*) end as of_jobs
      from public.jobs as j
      cross join lateral (
        select min(t.worker) as worker, count(*) as attempts
        from (
          select *
          from queue.attempts as o
          where o.job_id = j.id
            and (o.error_message, o.error_data) = (j.error_message, j.error_data)
          order by o.fence desc
          limit 3
        ) as t
        having min(t.worker) = max(t.worker)
      ) as a
      join unnest(p_alive) as w on w.worker = a.worker
      where j.id = any (p_ids[:20]) and w.ended_at is null
      group by 1, 2, w.worker, w.worker_id, w.version
      having count(*) = least(20, cardinality(p_ids))
    ) as f
    cross join lateral (
      select n.finished_at, o.worker_id as other, o.version as other_version
      from (
        select *
        from public.jobs as j
        -- with `=`, the planner would sort all jobs of the workspace
        where j.workspace_id between f.workspace_id and f.workspace_id
        order by j.workspace_id desc, j.id desc
        limit 100
      ) as n
      join queue.workers as o on o.worker = n.worker
      where n.job_type = f.job_type
        and n.status = 'completed'
        and n.fence = 1 -- of other jobs, the worker is the first
        and n.finished_at > p_since
        and o.worker_id <> f.worker_id
        and (f.attempts >= 3 or o.version <> f.version)
      limit 1
    ) as c
  ),
  '[]'
)
$$;

-- Return findings about job types, versions of the code, pauses, schedules, unanswered questions,
-- silent jobs, and jobs that retry after the same error. Such a job waits for its retry, is due or
-- runs again. Of the next 5,000 rows of queue.deferred, up to 1,000 delayed jobs are read, and of
-- each of up to 70 turns the first 20 ready jobs. The turns are those of such jobs, and of types
-- whose attempts failed in the last hour. A running job is silent if the time since its last update
-- exceeds both a minute and, if enough jobs of its type have ended, the duration of 99 % of these.
-- If an operator pauses a queue or a job type for all workspaces, the pause is a finding in each
-- workspace that has due jobs there.
-- p_failures: Groups of failed jobs, from queue.recent_failures. Fewer than three retrying jobs are
--   a finding only if these groups have their workspace, type and error.
create function queue.findings_of_workspace(
  p_workspace_id uuid,
  p_now timestamptz,
  p_failures jsonb
)
returns setof queue.finding
language sql stable
set search_path = ''
as $$
with alive as materialized (
  select *
  from unnest(queue.live_workers(p_now))
),
tried as materialized ( -- jobs that may wait for a retry, and jobs that run one
  select j.*, d.is_cut
  from (
    select u.job_id, count(*) over () >= 1000 as is_cut
    from (
      (
        select o.job_id
        from (
          -- each read has its own index; due jobs usually leave the table within seconds
          (
            select *
            from queue.deferred as q
            where p_workspace_id is null and q.run_at > p_now - interval '10 minutes'
            order by q.run_at
            limit 5000 -- many jobs may have a deadline
          )
          union all
          (
            select *
            from queue.deferred as q
            where q.workspace_id = p_workspace_id and q.run_at > p_now - interval '10 minutes'
            order by q.run_at
            limit 5000
          )
        ) as o
        where o.is_place
        limit 1000
      )
      union all
      (
        select l.job_id
        from queue.leases as l
        where l.attempt > 1 and (p_workspace_id is null or l.workspace_id = p_workspace_id)
        limit 1000
      )
    ) as u
  ) as d
  cross join lateral (
    select *
    from public.jobs as i
    where i.id = any (array[d.job_id])
    offset 0 -- without statistics, the planner would read all jobs first
  ) as j
  where j.attempts > 0 and j.error_message is not null
),
counted as materialized ( -- counts of a key are null if it was never counted
  select
    s.job_type,
    sum((s.counts ->> 'completed')::bigint) as completed,
    max(s.at) filter (where (s.counts ->> 'completed')::bigint > 0)
      + interval '5 minutes' as until,
    sum(
      (s.counts ->> 'retried')::bigint
      + (s.counts ->> 'failed')::bigint
      + coalesce((s.counts ->> 'snoozed')::bigint, 0)
    ) as failed
  from queue.stats as s
  where s.workspace_id = coalesce(p_workspace_id, '00000000-0000-0000-0000-000000000000')
    and s.at > p_now - interval '1 hour'
  group by 1
),
retrying as materialized (
  select
    j.workspace_id,
    'retrying' as kind,
    j.job_type,
    count(*) as jobs,
    bool_or(j.is_cut) or count(*) over () > 50 as more,
    -- in an order that no retry changes
    (array_agg(j.id order by j.id desc))[:200] as job_ids,
    count(*) filter (where j.attempts = j.max_attempts - 1) as last_jobs,
    min(j.started_at) as since,
    min(n.next_at) as next_at,
    max(n.next_at) as last_at,
    bool_or(j.status = 'pending' and n.next_at is null) as is_due,
    min(j.attempts) as fewest,
    max(j.attempts) as most,
    min(j.max_attempts) as least_allowed,
    max(j.max_attempts) as most_allowed,
    queue.fingerprint(j.error_message, j.error_data) as print,
    min(queue.short_error(j.error_message, j.error_data)) as error
  from (
    select *
    from tried
    union all
    select i.*, r.is_cut
    from (
      (
        select distinct t.workspace_id, t.lane
        from tried as t
        limit 20
      )
      union
      (
        select t.workspace_id, t.lane
        from counted as y
        join queue.lanes as l on l.job_type = y.job_type
        cross join lateral (
          select o.workspace_id, o.lane
          from queue.turns as o
          where p_workspace_id is null and o.lane = l.lane and not o.blocked
          union all
          select o.workspace_id, o.lane
          from queue.turns as o
          where o.workspace_id = p_workspace_id and o.lane = l.lane
        ) as t
        where y.failed > 0
        limit 50
      )
    ) as t
    cross join lateral (
      select o.job_id, count(*) over () = 20 as is_cut
      from (
        select *
        from queue.ready as q
        where q.lane = t.lane and q.workspace_id = t.workspace_id
        order by q.lane, q.workspace_id, q.ord, q.job_id
        limit 20 -- a due retry precedes the jobs that were enqueued after it
      ) as o
    ) as r
    cross join lateral (
      select *
      from public.jobs as o
      where o.id = any (array[r.job_id])
      offset 0
    ) as i
    where i.attempts > 0 and i.error_message is not null
  ) as j
  cross join lateral (
    values (case when j.next_retry_at > p_now then j.next_retry_at end)
  ) as n (next_at)
  where (j.status = 'processing' or j.next_retry_at is not null)
    and not queue.is_internal(j.job_type)
  group by j.workspace_id, j.job_type, print
  having count(*) >= 3
    or (j.workspace_id, j.job_type, queue.fingerprint(j.error_message, j.error_data)) in (
      select f.workspace_id, f.job_type, f.print
      from jsonb_to_recordset(p_failures) as f (workspace_id uuid, job_type text, print text)
    )
  -- the largest groups of each workspace first, so that a workspace with many errors hides no other
  order by row_number() over (partition by j.workspace_id order by count(*) desc), count(*) desc
  limit 50 -- limits the response and its cost, because each group has advice
)
select
  'warn',
  'retrying_jobs',
  min(r.since),
  null::text,
  jsonb_build_object(
    'job_type', r.job_type,
    'print', r.print,
    'jobs', sum(r.jobs),
    'error', min(r.error),
    'completed_until', case
      when queue.statistics_stale_since(p_now) is null
        then min(c.until) filter (where c.until < p_now - interval '10 minutes')
    end,
    'completed', nullif(min(c.completed), 0),
    'used', concat(
      concat_ws(' to ', min(r.fewest), nullif(max(r.most), min(r.fewest))),
      ' of ' || case -- one limit for all jobs
        when min(r.least_allowed) = max(r.most_allowed) then max(r.most_allowed)
      end
    ),
    'advice', queue.one_worker_advice(
      min(r.job_ids),
      min(r.since),
      (select array_agg(w::queue.workers) from alive as w)
    )
      || queue.error_advice(
        (array_agg(r.job_ids[1] order by r.next_at))[1],
        nullif(sum(r.jobs), 1)::bigint -- the next step is to run it
      ),
    'attention', jsonb_agg(
      to_jsonb(r) - '{next_at,last_at,is_due,fewest,most,least_allowed,most_allowed}'::text[]
    ),
    'at_least', case when bool_or(r.more) then 'At least ' end
  ) || case
    when sum(r.last_jobs) = 0 then '{}'
    when sum(r.last_jobs) < sum(r.jobs) or bool_or(r.more) then jsonb_build_object(
      'last_jobs', format(' of %s of them', sum(r.last_jobs)),
      'have', concat(
        sum(r.last_jobs),
        ' of them',
        case sum(r.last_jobs) when 1 then ' has' else ' have' end
      )
    )
    when sum(r.jobs) = 1 then '{"last_jobs": "", "have": "It has"}'
    else '{"last_jobs": " of each", "have": "Each has"}'
  end || case
    when bool_or(r.is_due) then '{}'
    else jsonb_build_object(
      'next_at', min(r.next_at),
      'last_at', nullif(
        date_trunc('second', max(r.last_at)),
        date_trunc('second', min(r.next_at))
      )
    )
  end
from retrying as r
left join counted as c on c.job_type = r.job_type
group by r.job_type, r.print
union all
select
  'warn',
  'refused_type',
  min(t.refused_at),
  t.refusal,
  jsonb_build_object(
    'job_type', min(t.job_type),
    'types', concat(
      array_to_string((array_agg(t.job_type order by t.job_type))[:3], ', '),
      ' and ' || nullif(greatest(count(*) - 3, 0), 0) || ' more'
    )
  )
from queue.job_types as t
where t.refusal is not null -- types belong to all workspaces
group by t.refusal
union all
select
  'warn',
  'two_codes',
  max(c.registered_at),
  format(
    'they serve %s',
    array_to_string((array_agg(c.job_type order by c.job_type))[:5], ', ')
  ),
  jsonb_build_object(
    'codes', array_to_string(c.codes, ' and '),
    -- a registered type is that of the newest deploy
    'newest', max(c.newest),
    'job_type', min(c.job_type)
  )
from ( -- code versions of each type that live workers run
  select
    j.job_type,
    j.registered_at,
    array_agg(distinct w.version) as codes,
    min(w.version) filter (
      where j.deployed_at is not null and w.version like '%+' || left(j.commit, 9)
    ) as newest
  from alive as w
  join queue.job_types as j on j.job_type = any (w.job_types)
    -- several projects may serve the internal types
    and not j.in_order
  group by 1, 2
) as c
where cardinality(c.codes) > 1
group by c.codes
union all
select
  'warn',
  p.kind || '_paused',
  p.paused_at,
  p.reason,
  jsonb_build_object(
    'job_type', p.job_type,
    'queue', p.name,
    'workspace_id', p.workspace_id,
    'paused_at', p.paused_at,
    'jobs', d.jobs
  )
from queue.pauses as p
cross join lateral queue.due_in(
  coalesce(p_workspace_id, p.workspace_id),
  array(
    select l.lane
    from queue.lanes as l
    where case p.kind
      when 'queue' then l.queue = p.name
      when 'workspace' then true
      else l.job_type = p.job_type
    end
  )
) as d (jobs)
where p_workspace_id is null
  or p.workspace_id = p_workspace_id
  or p.workspace_id is null and d.jobs > 0
union all
select
  'warn',
  'late_schedule',
  s.next_at,
  s.problem,
  jsonb_build_object(
    'schedule', s.name,
    'problem', case when s.problem is null then 'is late' else 'enqueued no job' end
  )
from queue.schedules as s
where s.enabled
  and (s.problem is not null or s.next_at < p_now - interval '3 minutes')
  and (p_workspace_id is null or s.workspace_id = p_workspace_id)
union all
select
  'warn',
  'no_success',
  null,
  null,
  jsonb_build_object(
    'job_type', t.job_type,
    'attempts', t.failed
  )
from counted as t
where t.completed = 0
  and t.failed >= 20
  and not queue.is_internal(t.job_type)
  -- the finding retrying_jobs names the error
  and t.job_type not in (select r.job_type from retrying as r)
union all
select
  'warn',
  'unserved_schedule',
  null,
  null,
  jsonb_build_object(
    'schedule', u.name,
    'job_type', u.job_type,
    'nearest', queue.nearest_type(u.job_type)
  )
from queue.unserved_schedules(p_workspace_id, p_now) as u
union all
select
  'warn',
  'waiting_schedule',
  w.since,
  null,
  jsonb_build_object('schedule', w.name, 'job_id', w.job_id)
from queue.waiting_schedules(p_workspace_id) as w
union all
select
  'warn',
  'silent_jobs',
  (s.jobs[1] ->> 'since')::timestamptz,
  null,
  s.jobs[1] || jsonb_build_object(
    'jobs', cardinality(n.jobs),
    'silent', (
      select jsonb_object_agg(j ->> 'job_id', j -> 'since')
      from unnest(n.jobs[:200]) as j -- limits the response
    ),
    'attention', (
      select jsonb_agg(to_jsonb(w))
      from (
        select
          j ->> 'workspace_id' as workspace_id,
          'silent' as kind,
          s.job_type,
          count(*) as jobs,
          (array_agg(j ->> 'job_id'))[:200] as job_ids,
          min(j ->> 'since') as since,
          h.shared as seen
        from unnest(n.jobs) as j
        group by 1
      ) as w
    ),
    'limit', queue.length_in_words(u.ms),
    'stuck', (
      select nullif(count(distinct a.job_id), 0)
      from alive as w
      cross join jsonb_to_recordset(w.abandoned) as a (job_id text)
      where a.job_id in (select j ->> 'job_id' from unnest(n.jobs) as j)
        and coalesce(w.evidence, w.summary -> 'stopped') is null
    ),
    'threads', (select nullif(count(j ->> 'in_thread'), 0) from unnest(n.jobs) as j),
    'is_sleep', (select '' where h.code ~ '\msleep\('),
    'shared', h.shared,
    'all_seen', (select h.shared where cardinality(n.jobs) > 1),
    'seen', (select s.jobs[1] ->> 'seen' where h.shared is null),
    'waiting', case cardinality(n.jobs) when 1 then 'It' else 'The first' end
      || ' waits for ' || (s.jobs[1] ->> 'program'),
    'is_server', (select '' where coalesce(s.jobs[1] ->> 'waits', 'data') = 'data'),
    'hanging', case
      when h.shared <> ''
        and h.code ~ '^[^`]{1,59}$' -- empty if the worker could not read the file
        and (queue.is_manager(p_workspace_id) or queue.is_operator() or queue.is_service())
        then format('`%s`', regexp_replace(h.code, ' +#[^''"]*$', '')) -- without a comment
      else 'the call ' || coalesce(h.shared, 'that hangs')
    end
  )
from (
  select l.job_type, array_agg(to_jsonb(l) order by l.since) as jobs
  from (
    select n.job_type, o.*
    from (
      select
        r.lane,
        r.workspace_id,
        r.job_id,
        queue.seen_in(r.step, r.pulse ->> 'place') as seen,
        r.pulse ->> 'code' as code, -- missing for workers before 0.5.6
        r.pulse ->> 'program' as program,
        r.pulse ->> 'waits' as waits,
        r.pulse ->> 'in_thread' as in_thread,
        queue.length_in_words((r.pulse ->> 'blocked_ms')::double precision) as blocked,
        (r.pulse ->> 'since')::timestamptz as since
      from queue.leases as r
      where r.ctid > '(0,0)' -- reads pages in order, because all running jobs are read
        and r.pulse ->> 'last' <> 'end'
        and r.pulse ->> 'batched' is distinct from '0' -- it waits for the next call of its batch
        and r.expires_at > p_now
        and r.worker in (select w.worker from alive as w) -- otherwise silent_worker names it
        and (p_workspace_id is null or r.workspace_id = p_workspace_id)
      offset 0 -- few jobs are silent, so find them before the join with queue.lanes
    ) as o
    join queue.lanes as n on n.lane = o.lane
    where o.since < p_now - interval '1 minute'
  ) as l
  group by 1
) as s
cross join lateral greatest(
  60000,
  (
    select t.most_ms
    from queue.run_times(
      coalesce(p_workspace_id, '00000000-0000-0000-0000-000000000000'),
      s.job_type,
      p_now
    ) as t
    where t.jobs >= 20
  )
) as u (ms)
cross join lateral (
  select array(
    select j
    from unnest(s.jobs) as j
    where (j ->> 'since')::timestamptz < p_now - u.ms * interval '1 ms'
  ) as jobs
) as n
cross join lateral ( -- the step and the line of code, if they are the same for all silent jobs
  select
    case count(distinct coalesce(j ->> 'seen', '')) when 1 then min(j ->> 'seen') end as shared,
    case count(distinct coalesce(j ->> 'code', '')) when 1 then min(j ->> 'code') end as code
  from unnest(n.jobs) as j
) as h
where n.jobs <> '{}'
union all
select
  'warn',
  'unanswered',
  min(a.created_at),
  (array_agg(left(a.data ->> 'question', 200) order by a.created_at))[1],
  jsonb_build_object(
    'asked', 'answers',
    'jobs', count(*),
    'job_id', (array_agg(a.job_id order by a.created_at))[1]
  )
from (
  select *
  from queue.waits as w
  where w.kind = 'ask'
    and w.created_at < p_now - interval '1 day'
    and (p_workspace_id is null or w.workspace_id = p_workspace_id)
  limit 1000
) as a
having count(*) > 0
$$;

-- Return a finding for each workspace that has reached its limit of live jobs or of payload bytes,
-- and one if people have used up their rate limit, because the engine then rejects enqueues by
-- people. Return another if p_workspace_id can have no more schedules. Counting takes time, so the
-- live jobs of a workspace are counted only if its limit is at most 2,000, if the last count was at
-- least 90 % of the limit, or if the limit rejected an enqueue, because a rejected call stores no
-- count.
create function queue.findings_of_limits(p_workspace_id uuid, p_now timestamptz)
returns setof queue.finding
language sql stable
set search_path = ''
as $$
with workspaces as (
  select p_workspace_id as id
  where p_workspace_id is not null
  union
  (
    select t.workspace_id
    from queue.tenant_limits as t
    where p_workspace_id is null and t.max_pending <= 2000
    limit 20
  )
  union
  (
    select t.workspace_id
    from queue.tenant_limits as t
    where p_workspace_id is null and t.max_pending > 2000
    limit 20
  )
  union
  (
    select substr(b.name, 3)::uuid
    from queue.buckets as b
    where p_workspace_id is null
      and b.name ~ '^[qb]:'
      and b.refilled_at > p_now - interval '1 hour'
    limit 20
  )
),
limits as (
  select
    w.id,
    coalesce(t.max_pending, queue.setting('user_pending_max')::integer) as jobs,
    (array['user_pending_max', 'max_pending'])[1 + num_nonnulls(t.max_pending)] as jobs_limit,
    queue.setting('user_pending_bytes_max')::bigint as bytes,
    q.tokens as last_jobs,
    b.tokens as last_bytes
  from workspaces as w
  left join queue.tenant_limits as t on t.workspace_id = w.id
  left join queue.buckets as q on q.name = 'q:' || w.id
  left join queue.buckets as b on b.name = 'b:' || w.id
)
select
  'warn',
  'full_workspace',
  null::timestamptz,
  null::text,
  jsonb_build_object(
    'limit', l.jobs,
    'more', 2 * greatest(c.jobs, 1),
    'workspace_id', l.id,
    'jobs', c.jobs
  )
from limits as l
cross join lateral queue.live_jobs(l.id, greatest(l.jobs + 1, 2000)) as c (jobs)
where c.jobs >= l.jobs
  and (
    l.jobs <= 2000
    or l.last_jobs >= 0.9 * l.jobs
    or (queue.last_full(l.id, l.jobs_limit)).rejected_at > p_now - interval '10 minutes'
  )
union all
select
  'warn',
  'full_of_bytes',
  null,
  null,
  jsonb_build_object(
    'live', pg_size_pretty(c.bytes),
    'limit', pg_size_pretty(l.bytes),
    'more', 2 * greatest(c.bytes, l.bytes),
    'workspace_id', l.id
  )
from limits as l
cross join lateral (
  select sum(pg_column_size(j.payload)) as bytes
  from queue.places(l.id, '{pending,processing,waiting}', 1000000) as p
  join public.jobs as j on j.id = p.job_id
) as c
where c.bytes >= l.bytes
  and (
    l.last_bytes >= 0.9 * l.bytes
    or (queue.last_full(l.id, 'user_pending_bytes_max')).rejected_at > p_now - interval '10 minutes'
  )
union all
select
  'warn',
  'full_of_schedules',
  null,
  null,
  jsonb_build_object('limit', count(*), 'more', 2 * count(*))
from queue.schedules as s
where s.workspace_id = p_workspace_id
having count(*) >= queue.setting('schedules_max')::bigint
union all
select
  'warn',
  'rate_used_up',
  max(b.refilled_at),
  null,
  jsonb_build_object('per_second', r.most, 'more', 2 * r.most, 'people', count(*))
from (values (queue.setting('user_enqueues_per_second')::numeric)) as r (most)
cross join (
  select b.name
  from queue.buckets as b
  where p_workspace_id is null and b.name ~ '^u:.*/enqueues$'
  union all
  select format('u:%s/enqueues', m.user_id)
  from queue.tenant_members as m
  where m.workspace_id = p_workspace_id
) as u
join queue.buckets as b on b.name = u.name
where b.tokens < 1 and b.refilled_at > p_now - interval '1 minute'
group by r.most
$$;

-- Return up to three kinds of findings about worker processes that ended. The finding ends_process
-- names a job type whose code is probably broken, because three jobs of the type have ended their
-- processes within ten minutes, and no job of the type has completed since. The engine itself never
-- pauses a job type whose jobs end their processes. The finding suspects_wait counts the jobs of
-- queue.suspects that have waited for a minute only because no worker is free to run them. The
-- finding stopped_jobs counts those of the jobs that workers released in the last hour for which
-- public.explain_job says that workers were stopped.
create function queue.findings_of_deaths(p_workspace_id uuid, p_now timestamptz)
returns setof queue.finding
language plpgsql stable
set search_path = ''
as $$
declare
  -- Job types that have lost at least three attempts in the last 15 minutes. If no job type has
  -- lost three attempts, the function does not read queue.feed, which has many rows.
  v_types constant text[] := array(
    select s.job_type
    from queue.stats as s
    where s.workspace_id = coalesce(p_workspace_id, '00000000-0000-0000-0000-000000000000')
      and s.at > p_now - interval '15 minutes'
    group by s.job_type
    having sum((s.counts ->> 'lost')::integer) >= 3
  );
  v_alive queue.workers[];
begin
  if v_types <> '{}' then
    return query
      with lines as materialized (
        select l.type, l.at, l.job_ids
        from (
          select *
          from queue.feed as f
          order by f.number desc
          limit 20000
        ) as l
        where l.at > p_now - interval '10 minutes'
          and (p_workspace_id is null or l.workspace_id = p_workspace_id)
          and (
            l.type = 'job.completed'
            or l.type = 'job.reclaimed' and l.data ->> 'reason' = 'worker_lost'
          )
      ),
      deaths as (
        select
          j.id,
          j.job_type,
          max(l.at) as at,
          max(j.error_data #>> '{evidence,commit}') as "commit"
        from lines as l
        cross join unnest(l.job_ids) as i (id)
        join public.jobs as j on j.id = any (array[i.id])
        where l.type = 'job.reclaimed' and j.job_type = any (v_types)
        group by 1, 2
      ),
      streaks as (
        select
          d.job_type,
          (array_agg(d.at order by d.at desc))[3] as since,
          count(*) as jobs,
          (array_agg(d."commit" order by d.at desc))[1] as "commit"
        from deaths as d
        group by 1
        having count(*) >= 3
      )
      select
        'warn',
        'ends_process',
        s.since,
        null::text,
        jsonb_build_object(
          'job_type', s.job_type,
          'ended', s.jobs,
          'commit', s."commit",
          'jobs', queue.due_in(
            p_workspace_id,
            array(select n.lane from queue.lanes as n where n.job_type = s.job_type)
          )
        )
      from streaks as s
      where not exists (
          select from (
            select i.id
            from lines as l
            cross join unnest(l.job_ids) as i (id)
            where l.type = 'job.completed' and l.at > s.since
            limit 2000
          ) as c
          join public.jobs as j on j.id = any (array[c.id])
          where j.job_type = s.job_type
        )
        and not exists (
          select from queue.pauses as p
          where (p.kind, p.name) in (
            ('job_type', s.job_type),
            ('workspace_type', p_workspace_id || '/' || s.job_type)
          )
        );
  end if;
  if exists (select from queue.suspects as s where s.since <= p_now - interval '1 minute') then
    v_alive := queue.live_workers(p_now);
    return query
      select
        'warn',
        'suspects_wait',
        min(w.since),
        null::text,
        jsonb_build_object('jobs', count(*), 'job_id', (array_agg(w.id order by w.since))[1])
      from (
        select j.id, (e.said #>> '{data,late_since}')::timestamptz as since
        from queue.ready_suspects(null) as s
        join public.jobs as j on j.id = any (array[s.job_id])
        cross join lateral queue.explain_row(j, v_alive, p_now) as e (said)
        where e.said #> '{data,late_since}' is not null
          and (p_workspace_id is null or j.workspace_id = p_workspace_id)
          and not exists ( -- no process runs a job of the same group
            select from queue.suspects as o
            join queue.leases as l on l.job_id = o.job_id
            where o.company = s.company
          )
        limit 100
      ) as w
      having count(*) > 0;
  end if;
  if (
    select count(*) > 2 -- the number of stops from which queue.stops_of returns a row
    from queue.workers as w
    where w.seen_at > p_now - interval '1 hour' and w.summary ? 'stopped'
  ) then
    return query
      select
        'warn',
        'stopped_jobs',
        min(s.first_at),
        null::text,
        jsonb_build_object('jobs', count(*), 'job_id', (array_agg(j.id order by s.first_at))[1])
      from (
        select i.id
        from (
          select *
          from queue.feed as f
          order by f.number desc
          limit 20000
        ) as l
        cross join unnest(l.job_ids) as i (id)
        where l.type = 'job.released'
          and l.at > p_now - interval '1 hour'
          and (p_workspace_id is null or l.workspace_id = p_workspace_id)
        group by 1
        order by count(*) desc
        limit 200
      ) as r
      join public.jobs as j on j.id = any (array[r.id])
      cross join lateral queue.stops_of(j) as s
      having count(*) > 0;
  end if;
end;
$$;

-- Return the jobs that failed for good in the last hour, grouped by workspace, type and error, as
-- the key `attention` of public.explain_queue has them. Only the newest 200 failed jobs of a
-- workspace are read. For all workspaces, 1,000 failed jobs of the 50 workspaces in which the last
-- jobs failed are read. Each group has the advice for the error of its newest job. `since` is the
-- time of the first attempt with the error, of the three jobs of the group that started first.
create function queue.recent_failures(p_workspace_id uuid, p_now timestamptz)
returns jsonb
language sql stable
set search_path = ''
as $$
with workspaces as (
  select p_workspace_id as workspace_id
  where p_workspace_id is not null
  union all
  (
    select s.workspace_id
    from (
      select *
      from queue.stats as o
      where p_workspace_id is null and o.at > p_now - interval '65 minutes'
      order by o.at desc
      limit 2000
    ) as s
    where (s.counts ->> 'failed')::bigint > 0
      and s.workspace_id <> '00000000-0000-0000-0000-000000000000'
    group by 1
    order by max(s.at) desc, 1
    limit 50
  )
),
alive as materialized (
  select queue.live_workers(p_now) as workers
)
select coalesce(
  jsonb_agg(
    to_jsonb(g) - 'first_ids' || jsonb_build_object(
      'since', f.since,
      'next', queue.one_worker_advice(g.job_ids, f.since, (select a.workers from alive as a))
        || queue.error_advice(g.job_ids[1], g.jobs)
    )
    order by g.last_at desc
  ),
  '[]'
)
from (
  select
    j.workspace_id,
    'failed' as kind,
    j.job_type,
    count(*) as jobs,
    bool_or(d.more) as more,
    (array_agg(j.id order by j.id desc))[:200] as job_ids,
    (array_agg(j.id order by j.started_at, j.id))[:3] as first_ids,
    min(j.finished_at) as since,
    max(j.finished_at) as last_at,
    queue.fingerprint(j.error_message, j.error_data) as print,
    min(queue.short_error(j.error_message, j.error_data)) as error
  from (
    select w.workspace_id, least(200, 1000 / count(*) over ()) as most
    from workspaces as w
  ) as w
  cross join lateral (
    select o.job_id, count(*) over () = w.most as more
    from (
      select *
      from queue.dead as l
      where l.workspace_id = w.workspace_id
      order by l.workspace_id desc, l.job_id desc
      limit w.most
    ) as o
  ) as d
  cross join lateral (
    select *
    from public.jobs as i
    where i.id = any (array[d.job_id])
    offset 0 -- without statistics, the planner would read all jobs first
  ) as j
  where j.finished_at > p_now - interval '1 hour'
    and not queue.is_internal(j.job_type)
  group by j.workspace_id, j.job_type, print
  order by last_at desc
  limit 50 -- limits the response
) as g
cross join lateral (
  select least(g.since, min(a.ended_at)) as since
  from unnest(g.first_ids) as i (id)
  cross join lateral ( -- stop at the first, because the hash of a long message is slow
    select o.ended_at
    from queue.attempts as o
    where o.job_id = i.id and queue.fingerprint(o.error_message, o.error_data) = g.print
    order by o.fence
    limit 1
  ) as a
) as f
$$;

create function public.explain_queue(p_workspace_id uuid default null)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
set timezone = 'UTC'
as $$ -- sentences show times in UTC
declare
  v_now constant timestamptz := queue.clock();
  v_seen_at timestamptz;
  v_backlog jsonb;
  v_failures jsonb;
  v_findings jsonb;
  v_attention jsonb;
begin
  perform queue.refuse_revoked();
  perform queue.may_read(p_workspace_id, p_reads_much => true);
  if exists (select from queue.table_locks() as l where l.mode = 'AccessExclusiveLock') then
    -- report only the session that must end, because all reads of the table would wait for it
    select jsonb_agg(
      to_jsonb(f) - 'data' || jsonb_build_object('key', f.reason) || queue.render_guidance(
        f.reason,
        f.data || jsonb_build_object('since', f.since)
      )
    )
    into v_findings
    from queue.findings_of_locks(p_workspace_id, v_now) as f;
    if v_findings is not null then
      return jsonb_build_object(
        'now', v_now,
        'verdict', 'warn',
        'findings', v_findings,
        'attention', '[]'::jsonb,
        'holders', '[]'::jsonb,
        'backlog', '{"jobs": null, "detail": "unknown: a table of the queue is locked"}'::jsonb,
        'last_tick_seconds', null
      );
    end if;
  end if;
  v_seen_at := queue.last_call();
  v_backlog := queue.backlog(
    p_workspace_id,
    v_now,
    case
      when not (queue.is_operator() or queue.is_manager(p_workspace_id)) then queue.caller()
    end
  );
  if p_workspace_id is null then
    -- also use the age of due jobs in queue.deferred, because maintenance makes these jobs ready
    -- only while workers run
    v_backlog := v_backlog || jsonb_build_object(
      'oldest_due_seconds', greatest(
        (v_backlog ->> 'oldest_due_seconds')::numeric,
        (
          select extract(epoch from v_now - min(d.run_at))
          from queue.deferred as d
          where d.run_at <= v_now - interval '10 seconds'
        )
      )
    );
  end if;
  v_failures := queue.recent_failures(p_workspace_id, v_now);
  select jsonb_agg(
    jsonb_build_object(
      'verdict', f.verdict,
      'reason', f.reason,
      'key', k.key,
      'since', f.since,
      'cause', f.cause
    ) || (
      select jsonb_object_agg(n.name, f.data -> n.name)
      from unnest(
        '{jobs,silent,unserved,next_at,completed,completed_until}'::text[]
      ) as n (name)
    ) || g.said
      || jsonb_build_object('next', coalesce(f.data -> 'advice', '[]') || (g.said -> 'next'))
    order by f.verdict <> 'fail', (f.data ->> 'jobs')::integer desc nulls last, f.reason
  ), jsonb_path_query_array(
    coalesce(jsonb_agg(f.data -> 'attention') filter (where f.data ? 'attention'), '[]'),
    '$[*][*]'
  )
  into v_findings, v_attention
  from (
    select *
    from queue.findings_of_queue(p_workspace_id, v_now, v_backlog, v_seen_at)
    union all
    select *
    from queue.findings_of_locks(p_workspace_id, v_now)
    union all
    -- members of a workspace do not see the size of the database
    select
      d.verdict,
      case when p_workspace_id is null then d.reason else 'service_full' end,
      d.since,
      case when p_workspace_id is null then d.cause end,
      d.data
    from queue.findings_of_disk() as d
    where p_workspace_id is null or d.reason = 'disk_nearly_full'
    union all
    select *
    from queue.findings_of_connections() as c
    where p_workspace_id is null
    union all
    select *
    from queue.findings_of_workspace(p_workspace_id, v_now, v_failures)
    union all
    select *
    from queue.findings_of_limits(p_workspace_id, v_now)
    union all
    select *
    from queue.findings_of_deaths(p_workspace_id, v_now)
    union all
    select *
    from queue.findings_of_apps(p_workspace_id)
  ) as f
  cross join concat_ws(
    ' ',
    f.reason,
    coalesce(
      f.data ->> 'queue',
      f.data ->> 'schedule',
      f.data ->> 'job_type',
      f.data ->> 'workspace_id',
      f.data ->> 'url',
      f.data ->> 'worker_id',
      f.data ->> 'function',
      f.data ->> 'asked'
    ),
    f.data ->> 'print'
  ) as k (key)
  cross join lateral coalesce(
    f.data -> 'said',
    queue.render_guidance(
      f.reason,
      case
        when f.data @> '{"jobs": 1}' then '{"count": "1 job", "wait": "has waited"}'
        else jsonb_build_object(
          'count', (f.data ->> 'jobs') || ' jobs',
          'wait', 'wait, the oldest',
          'many', f.data -> 'job_type',
          'are_many', ''
        )
      end || f.data || jsonb_build_object(
        'since', f.since,
        -- the sentences about one of all workspaces name the workspace
        'which', case when p_workspace_id is null then f.data -> 'workspace_id' end
      )
    )
  ) as g (said);
  return jsonb_build_object(
    'now', v_now,
    'verdict', coalesce(v_findings #>> '{0,verdict}', 'pass'),
    'findings', coalesce(v_findings, '[]'),
    'attention', v_backlog -> 'attention' || v_attention || v_failures,
    'holders', queue.holders(p_workspace_id, null, v_now),
    'backlog', v_backlog - 'attention',
    'last_tick_seconds', extract(epoch from v_now - v_seen_at)
  );
end;
$$;
comment on function public.explain_queue is
  'Findings, worst first, and holders for which jobs wait, most jobs first: {now, verdict, '
  'findings: [{verdict, reason, key, sentence, since, cause, jobs, silent, unserved, next_at, '
  'completed, completed_until, next: [{kind, words, command, path, guess}]}], attention: '
  '[{workspace_id, kind, job_type, jobs, more, job_ids, since, error, print, next, nearest, seen, '
  'reason}], holders: [{jobs, more, since, kind, reason, sentence, cause, next, holder, job_id, '
  'job_types, keys}], backlog, last_tick_seconds}. silent: time of the last update of each silent '
  'job. unserved: job types that no worker serves. completed: jobs of a type with retries that '
  'completed in the last hour. completed_until: time after which none was counted. attention: up '
  'to 200 ids of jobs that are silent, have no_worker, are retrying or failed in the last hour. '
  'print: identifies the error, and ends the key of a finding about it. Only operators may omit '
  'p_workspace_id.';
select queue.allow(
  'authenticated, job_worker, service_role',
  'public.explain_queue'
);

-- public.silence_finding does nothing, and exists only because the console of release 0.4.4 calls
-- it.
create function public.silence_finding(p_key text, p_until timestamptz)
returns jsonb
language sql immutable
set search_path = ''
as $$
select jsonb_build_object('key', p_key, 'until', null)
$$;
comment on function public.silence_finding is
  'Deprecated. Returns {key, until: null} and silences nothing. Silence the alert in Alertmanager.';
select queue.allow('authenticated, service_role', 'public.silence_finding');

create function public.queue_health()
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_found constant jsonb := public.explain_queue();
begin
  perform queue.refuse_revoked();
  if v_found #>> '{backlog,jobs}' is null then
    -- checks and metrics would read null as no due job
    perform queue.refuse(503, 'busy', v_found #>> '{findings,0,sentence}');
  end if;
  return v_found || jsonb_build_object(
    'oldest_due_seconds', v_found #> '{backlog,oldest_due_seconds}'
  );
end;
$$;
comment on function public.queue_health is
  'Health of the queue in one call: explain_queue of all workspaces, and the age of the oldest due '
  'job. An error with the status 503 if a table of the queue is locked.';
select queue.allow('job_worker, service_role', 'public.queue_health');

create function public.queue_stats(
  p_workspace_id uuid default null,
  p_minutes integer default 60
)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_since constant timestamptz := date_bin(
    '5 minutes',
    v_now - make_interval(mins => least(11520, greatest(1, coalesce(p_minutes, 60)))),
    '2000-01-01 00:00:00+00'
  );
begin
  perform queue.refuse_revoked();
  perform queue.may_read(p_workspace_id, p_reads_much => true);
  return jsonb_build_object(
    'now', v_now,
    'since', v_since,
    'late_since', queue.statistics_stale_since(v_now),
    'backlog', queue.backlog(p_workspace_id, v_now) - 'attention',
    'live', (
      public.count_jobs(
        p_workspace_id,
        -- in a workspace, count the same jobs as the default list
        case when p_workspace_id is null then '{}' else '{"internal": false}'::jsonb end
      ) -> 'states'
    ) - '{completed,failed,cancelled}'::text[],
    'types', (
      select coalesce(jsonb_object_agg(n.job_type, n.line), '{}')
      from queue.type_numbers(p_workspace_id, v_since, '9 days') as n
    ),
    'pauses', (
      select coalesce(jsonb_agg(to_jsonb(p)), '[]')
      from queue.pauses as p
      where coalesce(p.workspace_id = p_workspace_id, true)
    ),
    'tenants', case
      when p_workspace_id is null then (
        select coalesce(
          jsonb_agg(
            to_jsonb(t) || jsonb_build_object(
              'running', (
                select count(*)
                from queue.leases as l
                where l.workspace_id = t.workspace_id
              )
            )
            order by t.enqueued desc
          ),
          '[]'
        )
        from (
          select
            s.workspace_id,
            sum((s.counts ->> 'enqueued')::bigint) as enqueued,
            sum((s.counts ->> 'failed')::bigint) as failed
          from queue.stats as s
          where s.workspace_id <> '00000000-0000-0000-0000-000000000000'
            and s.at >= v_since
          group by 1
          order by 2 desc
          limit 20
        ) as t
      )
    end,
    'workers', case
      when p_workspace_id is null then (
        select coalesce(
          jsonb_agg(to_jsonb(w) - 'worker' order by w.seen_at desc),
          '[]'
        )
        from (
          select *
          from queue.workers
          order by seen_at desc
          limit 20
        ) as w
      )
    end
  );
end;
$$;
comment on function public.queue_stats is
  'Counts and percentiles of each job type in the last p_minutes, 1 to 11,520. late_since: Time of '
  'the first event that the statistics do not include yet. Only operators may omit p_workspace_id. '
  'The result then covers all workspaces, and lists the last 20 workers and the 20 workspaces that '
  'enqueued most jobs.';
select queue.allow('authenticated, job_worker, service_role', 'public.queue_stats');

create function public.queue_series(
  p_workspace_id uuid default null,
  p_minutes integer default 60
)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
set enable_seqscan = off
set jit = off
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_minutes constant integer := least(11520, greatest(15, coalesce(p_minutes, 60)));
  v_step constant interval := make_interval(
    mins => case
      when v_minutes <= 360 then 5
      when v_minutes <= 1440 then 15
      else 120
    end
  );
  v_since constant timestamptz := date_bin(
    v_step,
    v_now - make_interval(mins => v_minutes),
    '2000-01-01 00:00:00+00'
  );
begin
  perform queue.may_read(p_workspace_id, p_reads_much => true);
  return jsonb_build_object(
    'now', v_now,
    'since', v_since,
    'step_seconds', extract(epoch from v_step),
    'points', (
      select coalesce(
        jsonb_agg(
          n.line || jsonb_build_object('at', n.at, 'job_type', n.job_type)
          order by n.at, n.job_type
        ),
        '[]'
      )
      from queue.type_numbers(p_workspace_id, v_since, v_step) as n
      where not queue.is_internal(n.job_type)
    )
  );
end;
$$;
comment on function public.queue_series is
  'Counts and times per type over p_minutes, 15 to '
  '11,520, in about a hundred points: {now, since, step_seconds, points}. Jobs that the engine '
  'itself enqueues are not included.';
select queue.allow('authenticated, service_role', 'public.queue_series');

create function public.list_job_types(
  p_workspace_id uuid default null,
  p_internal boolean default false,
  p_job_type text default null
)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_alive constant queue.workers[] := queue.live_workers(v_now);
  v_types jsonb;
begin
  perform queue.may_read(p_workspace_id, p_reads_much => true);
  with types as materialized (
    select *
    from queue.job_types
    union all -- unpublished types of waiting jobs
    select u.*
    from (
      select distinct o.job_type
      from queue.unpublished as o
      where p_workspace_id is null or o.workspace_id = p_workspace_id
    ) as w
    cross join lateral queue.require_type(w.job_type) as u
    where not exists (
      select from queue.job_types as k
      where k.job_type = w.job_type
    )
  ),
  asked as materialized (
    select *
    from types as t
    where case
      when p_job_type is null then not t.internal or coalesce(p_internal, false)
      else t.job_type = p_job_type
    end
  ),
  seen as ( -- a worker is alive, stale (last call less than ten minutes ago) or gone
    select
      o.job_type,
      l.worker_id,
      l.version,
      l.started_at,
      greatest(l.seen_at, h.renewed_at) as seen_at,
      l.ended_at,
      queue.process_end(l.evidence) as process_end,
      case when a.worker is null then l.key_expired_at end as key_expired_at,
      l.queues,
      case
        when a.worker is not null and num_nulls(l.evidence, l.ended_at) > 0 then 'alive'
        when l.evidence is null and l.seen_at > v_now - interval '10 minutes' then 'stale'
        else 'gone'
      end as state,
      row_number() over (
        partition by o.job_type
        -- many short runs must not hide a worker that runs
        order by a.worker is not null and l.ended_at is null desc, l.seen_at desc
      ) as nth
    from (
      select w.*, queue.key_end(w, w.seen_at) as key_expired_at
      from queue.workers as w
      order by w.seen_at desc
      limit 200
    ) as l
    left join unnest(v_alive) as a on a.worker = l.worker
    left join queue.lease_holders(null, v_now) as h on h.worker = l.worker
    join asked as o on l.job_types is null or o.job_type = any (l.job_types)
  )
  select jsonb_agg(
    to_jsonb(t) - case when p_job_type is null then 'payload_schema' else '' end
    || jsonb_build_object(
      'waiting', queue.due_in(p_workspace_id, k.lanes, t.job_type),
      'running', ( -- up to 1,000
        select count(*)
        from (
          select l.job_id
          from queue.leases as l
          where l.lane = any (k.lanes)
            and (p_workspace_id is null or l.workspace_id = p_workspace_id)
          limit 1000
        ) as r
      ),
      'published', t.schema_version > 0,
      'nearest', case t.schema_version
        when 0 then queue.nearest_type(t.job_type)
      end,
      'paused_at', p.paused_at,
      'pause_reason', p.reason,
      'queue_paused_at', (
        select q.paused_at
        from queue.pauses as q
        where q.kind = 'queue' and q.name = t.queue
      ),
      'day', coalesce(n.line, '{}'),
      'served', t.schema_version > 0 and not s.unserved,
      'serving', (
        select coalesce(
          jsonb_agg(to_jsonb(w) - '{job_type,nth}'::text[] order by w.nth),
          '[]'
        )
        from seen as w
        where w.job_type = t.job_type and w.nth <= 20
      ),
      'schedules', (
        select coalesce(
          jsonb_agg(
            to_jsonb(c) - '{payload,options,created_by}'::text[]
            order by c.name
          ),
          '[]'
        )
        from queue.schedules as c
        where c.job_type = t.job_type
          and p_job_type is not null
          and (
            p_workspace_id is null
            or c.workspace_id in (p_workspace_id, queue.system_workspace())
          )
      )
    )
    order by t.job_type
  )
  into v_types
  from asked as t
  cross join lateral (
    select array_agg(l.lane) as lanes
    from queue.lanes as l
    where l.job_type = t.job_type
  ) as k
  left join queue.type_numbers(
    p_workspace_id,
    v_now - interval '1 day',
    '9 days'
  ) as n on n.job_type = t.job_type
  left join lateral (
    select *
    from queue.pauses as o
    where (o.kind, o.name) in (
      ('job_type', t.job_type),
      ('workspace_type', p_workspace_id || '/' || t.job_type)
    )
    order by o.kind
    limit 1
  ) as p on true
  left join queue.is_unserved(
    array(select o.job_type from asked as o),
    null,
    v_alive,
    v_now
  ) as s on s.job_type = t.job_type;
  if p_job_type is not null then
    if v_types is null then
      perform queue.refuse(
        404,
        'unknown_job_type',
        format('no worker serves the job type %s', left(p_job_type, 100))
      );
    end if;
    v_types := jsonb_set(
      v_types,
      '{0,holders}',
      queue.holders(p_workspace_id, p_job_type, v_now)
    );
  end if;
  return jsonb_build_object(
    'now', v_now,
    'late_since', queue.statistics_stale_since(v_now),
    'types', coalesce(v_types, '[]')
  );
end;
$$;
comment on function public.list_job_types is
  'Job types, sorted by name: {now, types}. Each type has its options, the 20 workers seen last, '
  'statistics of the last day, and a pause or a refusal if there is one. An unpublished type has '
  'the most similar published name. With p_job_type, the type also has its payload schema, its '
  'schedules and the holders of its jobs.';
select queue.allow('authenticated, service_role', 'public.list_job_types');
