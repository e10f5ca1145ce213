-- Numbers over time for the pages of operations: from fifteen minutes to thirty days, in about a hundred points.

create function queue.live_total(p_workspace_id uuid) returns bigint
language sql stable set search_path = '' as $$
  select (select count(*) from (select 1 from queue.ready where p_workspace_id is null
    or workspace_id = p_workspace_id limit 100000) as s)
    + (select count(*) from (select 1 from queue.deferred where p_workspace_id is null
      or workspace_id = p_workspace_id limit 100000) as s)
    + (select count(*) from (select 1 from queue.leases where p_workspace_id is null
      or workspace_id = p_workspace_id limit 100000) as s)
    + (select count(*) from (select 1 from queue.waits where p_workspace_id is null
      or workspace_id = p_workspace_id limit 100000) as s)
$$;
comment on function queue.live_total is 'Jobs that have not ended, of a workspace or of all, each kind counted up '
  'to 100,000.';

create function public.queue_series(p_workspace_id uuid default null, p_minutes numeric default 60,
  p_internal boolean default false)
returns jsonb
language plpgsql stable
security definer -- callers hold no rights on the engine's tables
set search_path = ''
set plan_cache_mode = 'force_custom_plan' -- one workspace and all of them need different plans
as $$
declare
  v_now timestamptz := queue.clock();
  v_minutes integer := least(43200, greatest(15, coalesce(queue.whole(p_minutes, 'p_minutes'), 60)));
  v_step interval := make_interval(mins => case when v_minutes <= 90 then 1 when v_minutes <= 360 then 5
    when v_minutes <= 1440 then 15
    when v_minutes <= 10080 then 120 else 360 end);
  v_since timestamptz := date_bin(v_step, v_now - make_interval(mins => v_minutes), '2000-01-01 00:00:00+00');
  v_hourly boolean := v_minutes > 1440;
begin
  perform queue.take_turn();
  perform queue.may_read_all(p_workspace_id);
  return (
    with numbers as materialized (
      select date_bin(v_step, n.at, v_since) as at, n.job_type, n.outcome, n.wait_bucket, n.run_bucket,
        sum(n.jobs) as jobs
      from (
        select d.at, d.job_type, d.outcome, d.wait_bucket, d.run_bucket, d.jobs from queue.stat_deltas as d
        where d.at >= v_since and (p_workspace_id is null or d.workspace_id = p_workspace_id)
        union all
        select m.minute, m.job_type, m.outcome, m.wait_bucket, m.run_bucket, m.jobs from queue.stat_minutes as m
        where not v_hourly and m.minute >= v_since and (p_workspace_id is null or m.workspace_id = p_workspace_id)
        union all
        select h.hour, h.job_type, h.outcome, h.wait_bucket, h.run_bucket, h.jobs from queue.stat_hours as h
        where v_hourly and h.hour >= v_since and (p_workspace_id is null or h.workspace_id = p_workspace_id)) as n
      where p_internal or not exists (select 1 from queue.job_types as t where t.job_type = n.job_type and t.internal)
      group by 1, 2, 3, 4, 5),
    counts as (
      select n.at, n.job_type,
        coalesce(sum(n.jobs) filter (where n.outcome = 'enqueued'), 0) as enqueued,
        coalesce(sum(n.jobs) filter (where n.outcome = 'completed'), 0) as completed,
        coalesce(sum(n.jobs) filter (where n.outcome = 'failed'), 0) as failed,
        coalesce(sum(n.jobs) filter (where n.outcome = 'cancelled'), 0) as cancelled,
        coalesce(sum(n.jobs) filter (where n.outcome = 'retry'), 0) as retried,
        coalesce(sum(n.jobs) filter (where n.outcome = 'lost'), 0) as lost,
        coalesce(sum(n.jobs) filter (where n.outcome = 'redriven'), 0) as redriven
      from numbers as n group by 1, 2),
    waits as (
      select x.at, x.job_type, queue.percentiles(jsonb_object_agg(x.wait_bucket, x.jobs)) as wait
      from (select n.at, n.job_type, n.wait_bucket, sum(n.jobs) as jobs from numbers as n
        where n.outcome in ('completed', 'failed', 'retry') group by 1, 2, 3) as x group by 1, 2),
    runs as (
      select x.at, x.job_type, queue.percentiles(jsonb_object_agg(x.run_bucket, x.jobs)) as run
      from (select n.at, n.job_type, n.run_bucket, sum(n.jobs) as jobs from numbers as n
        where n.outcome in ('completed', 'failed', 'retry') group by 1, 2, 3) as x group by 1, 2)
    select jsonb_build_object('now', v_now, 'since', v_since, 'step_seconds', extract(epoch from v_step),
      'live', queue.live_total(p_workspace_id),
      'points', (select coalesce(jsonb_agg(to_jsonb(c) || jsonb_build_object('queue_p50_ms', w.wait -> 'p50_ms',
        'queue_p95_ms', w.wait -> 'p95_ms',
          'run_p50_ms', r.run -> 'p50_ms', 'run_p95_ms', r.run -> 'p95_ms') order by c.at, c.job_type), '[]')
        from counts as c left join waits as w on w.at = c.at and w.job_type = c.job_type
        left join runs as r on r.at = c.at and r.job_type = c.job_type)));
end;
$$;
comment on function public.queue_series is E'Counts and times per type over p_minutes (15 to 43,200): {now, since, '
  'step_seconds, live, points: [{at, job_type, enqueued, completed, failed, cancelled, retried, lost, redriven, '
  'queue_p95_ms, run_p95_ms, …}]}.\n\nOf a workspace, or for operators without one of all; internal types only with '
  'p_internal. live is the number of jobs that have not ended now; earlier numbers follow from it and the counts.';

select queue.allow('authenticated, service_role', 'public.queue_series');
