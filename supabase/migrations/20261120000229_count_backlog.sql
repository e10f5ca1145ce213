-- Jobs that are due, by what keeps each of them from starting. One count, which readiness, statistics,
-- the console, doctor and the command read.

create function queue.recent_runs(p_now timestamptz) returns setof queue.ticks
language sql stable set search_path = '' as $$
  select * from (select * from queue.ticks order by started_at desc limit 100) as t
  where t.seen_at > p_now - queue.served_for()
$$;
comment on function queue.recent_runs is 'The runs of workers, of the latest 100, whose types count as served.';

create function queue.due_heads(p_workspace_id uuid, p_now timestamptz)
returns table (partition_id uuid, job_type text, cause text, ready_at timestamptz, jobs bigint)
language sql stable set search_path = '' as $$
  with runs as materialized (select r.job_types, r.queues from queue.recent_runs(p_now) as r),
  held as materialized ( -- an expired lease holds no slot for long
    select l.job_type, l.workspace_id, coalesce(l.concurrency_key, '') as key, count(*) as jobs
    from (select * from queue.leases where expires_at > p_now limit 10000) as l group by 1, 2, 3),
  known as materialized (
    select h.id, h.job_type, case
      when t.paused_at is not null or exists (
        select from queue.pauses as p where p.kind = 'workspace' and p.workspace_id = h.workspace_id
          or p.kind = 'queue' and p.name = h.queue
          or p.kind = 'workspace_type' and p.workspace_id = h.workspace_id and p.job_type = h.job_type) then 'paused'
      when exists (select from runs) and not exists (
        select from runs as r where (r.job_types is null or h.job_type = any (r.job_types))
          and (r.queues is null or h.queue = any (r.queues))) then 'unserved'
      when t.key_concurrency is not null and h.concurrency_key <> '' and t.key_concurrency <= (
        select sum(d.jobs) from held as d where d.job_type = h.job_type and d.workspace_id = h.workspace_id
          and d.key = h.concurrency_key) then 'blocked'
      when t.workspace_concurrency <= (select sum(d.jobs) from held as d
          where d.job_type = h.job_type and d.workspace_id = h.workspace_id)
        or t.max_concurrency <= (select sum(d.jobs) from held as d where d.job_type = h.job_type)
        or l.running_max <= (select coalesce(sum(d.jobs), 0) from held as d where d.workspace_id = h.workspace_id)
        or t.rate_limit is not null and (
          select queue.tokens(b.tokens, b.refilled_at, t.rate_limit, t.rate_per_seconds, p_now) from queue.buckets as b
          where b.job_type = h.job_type
            and b.workspace_id = case when t.rate_per_key then h.workspace_id
              else '00000000-0000-0000-0000-000000000000' end
            and b.concurrency_key = case when t.rate_per_key then h.concurrency_key else '' end) < 1 then 'at_limit'
      else 'ready' end as cause
    from (select * from queue.known_partitions
      where p_workspace_id is null or workspace_id = p_workspace_id limit 10000) as h
    left join queue.job_types as t on t.job_type = h.job_type
    left join queue.tenant_limits as l on l.workspace_id = h.workspace_id),
  due as materialized ( -- what may need a person is counted first, since the count has an end
    select k.*, r.ready_at
    from (select * from known order by cause <> 'unserved', cause <> 'ready') as k
    cross join lateral (
      select r.ready_at from queue.ready as r where r.partition_id = k.id order by r.ready_at limit 10000) as r
    limit 10000)
  select d.id, d.job_type, d.cause, min(d.ready_at), count(*) from due as d group by 1, 2, 3
  union all -- beyond it the heads of some more
  select k.id, k.job_type, k.cause, r.ready_at, 0
  from (select * from known where (select count(*) from due) >= 10000 and id not in (select d.id from due as d)
    limit 1000) as k
  cross join lateral (
    select r.ready_at from queue.ready as r where r.partition_id = k.id order by r.ready_at limit 1) as r
$$;
comment on function queue.due_heads is E'The oldest due job of each partition, of a workspace or (null) of all, with what keeps it from starting and how many wait there: those of 10,000 jobs, and of 1,000 partitions beyond, whose jobs are not counted.\n\ncause: paused; unserved (workers run, but none of them serves its type in its queue); blocked (jobs of its concurrency key run); at_limit (of its type, its workspace, or a rate); ready.';

create function queue.named(p_names text[]) returns text
language sql immutable set search_path = '' as $$
  select array_to_string(p_names[1:3], ', ')
    || case when cardinality(p_names) > 3 then format(' and %s more', cardinality(p_names) - 3) else '' end
$$;
comment on function queue.named is 'Up to three names and how many more there are, for a sentence.';

create function queue.backlog(p_workspace_id uuid, p_now timestamptz) returns jsonb
language sql stable set search_path = '' as $$
  with heads as materialized (
    select h.*, case when h.cause = 'ready' and not l.running and l.since < p_now - interval '2 minutes'
        then 'stalled' else h.cause end as why, l.running, l.since
    from queue.due_heads(p_workspace_id, p_now) as h
    cross join (select max(t.leased_at) as at
      from (select leased_at from queue.ticks order by started_at desc limit 100) as t) as last
    cross join lateral (select greatest(h.ready_at, last.at) as since,
      exists (select from queue.leases where expires_at > p_now) as running) as l),
  causes as (
    select k.why, coalesce(sum(h.jobs), 0)::bigint as jobs, extract(epoch from p_now - min(h.ready_at)) as oldest,
      array(select t.job_type from (select f.job_type, min(f.ready_at) as at from heads as f where f.why = k.why
        group by 1 order by 2, 1) as t) as types
    from unnest(array['ready', 'stalled', 'unserved', 'paused', 'at_limit', 'blocked']) with ordinality as k (why, n)
    left join heads as h on h.why = k.why group by k.why, k.n),
  words as (
    select string_agg(format(w.words,
        to_char(c.jobs, 'FM999,999') || case when n.jobs >= 10000 then '+' else '' end,
        queue.named(c.types)), '; ' order by w.n) as said,
      (array_agg(w.fix order by w.n) filter (where w.fix is not null))[1] as fix
    from (values
      (1, 'unserved', '%s wait: no worker serves %s', 'deploy the processor; `minutehand types` shows who serves what'),
      (2, 'stalled', '%s are due, and nothing starts: %s', 'minutehand doctor --only schedule'),
      (3, 'paused', '%s are paused: %s', 'minutehand resume'), (4, 'at_limit', '%s wait for a limit: %s', null),
      (5, 'blocked', '%s wait for a job of their key: %s', null), (6, 'ready', '%s start next: %s', null))
      as w (n, why, words, fix)
    join causes as c on c.why = w.why cross join (select sum(jobs) as jobs from causes) as n
    where c.jobs > 0)
  select (select jsonb_object_agg(c.why, jsonb_build_object('jobs', c.jobs, 'oldest_seconds', c.oldest,
        'job_types', to_jsonb(c.types[:20]), 'types', cardinality(c.types))) from causes as c)
    || jsonb_build_object('jobs', (select sum(c.jobs) from causes as c),
      'at_least', (select sum(c.jobs) >= 10000 from causes as c),
      'oldest_at', (select min(h.ready_at) from heads as h),
      'oldest_due_seconds', (select extract(epoch from p_now - min(h.ready_at)) from heads as h
        where h.why not in ('paused', 'unserved')),
      'stalled_seconds', (select extract(epoch from p_now - min(h.since)) from heads as h
        where h.cause = 'ready' and not h.running),
      'verdict', (select case when bool_or(c.why = 'stalled' and c.oldest > 900) then 'fail'
          when bool_or(c.jobs > 0 and c.why in ('unserved', 'stalled') or c.why = 'ready' and c.jobs >= 10000)
          then 'warn' else 'pass' end from causes as c),
      'detail', coalesce((select w.said from words as w), 'nothing is due'), 'fix', (select w.fix from words as w))
$$;
comment on function queue.backlog is E'Due jobs of a workspace or (null) of all by what keeps them: {ready, stalled, unserved, paused, at_limit, blocked: {jobs, oldest_seconds, job_types, types}, jobs, at_least, oldest_at, oldest_due_seconds, stalled_seconds, verdict, detail, fix}.\n\nstalled: ready, and for two minutes nothing was leased or ran. job_types names the 20 that wait longest, types says how many there are. Counts end at 10,000 together, and then at_least is true and each a lower bound. oldest_due_seconds leaves out what is paused or unserved. Unserved types warn and never fail: the rest is well, and restarting it would not help.';

create function queue.live_states(p_workspace_id uuid) returns jsonb
language sql stable set search_path = ''
set enable_seqscan = off -- no further than counted, whatever the statistics say
set jit = off as $$
  with bounds as ( -- a plan made without the values serves one and all, by the index of either
    select coalesce(p_workspace_id, '00000000-0000-0000-0000-000000000000') as low,
      coalesce(p_workspace_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff') as high),
  deferred as (
    select queue.state_of(j.status, j.attempts, j.next_retry_at, j.scheduled_for, queue.clock()) as state
    from public.jobs as j where j.id = any (array(
      select d.job_id from bounds as b cross join queue.deferred as d
      where d.workspace_id between b.low and b.high limit 10000)))
  select jsonb_build_object(
    'queued', (select count(*) from (select 1 from queue.ready as r
      where r.workspace_id between b.low and b.high limit 10000) as s) + n.queued,
    'scheduled', n.scheduled, 'retrying', n.retrying,
    'running', (select count(*) from (select 1 from queue.leases as l
      where l.workspace_id between b.low and b.high limit 10000) as s),
    'suspended', (select count(*) from (select 1 from queue.waits as w
      where w.workspace_id between b.low and b.high limit 10000) as s))
  from (select count(*) filter (where state = 'queued') as queued,
    count(*) filter (where state = 'scheduled') as scheduled,
    count(*) filter (where state = 'retrying') as retrying from deferred) as n
  cross join bounds as b
$$;
comment on function queue.live_states is 'Jobs that have not ended, of a workspace or (null) of all: {queued, scheduled, retrying, running, suspended}, each table counted up to 10,000, internal types too.';
