-- Lease: hand ready jobs to one worker at a time, exact in limits, fair between tenants.
-- Leases are served one after another (an advisory lock), so counts of running jobs are exact
-- without counters that could leak; a lease takes milliseconds.

create function queue.upkeep_due(p_name text, p_every interval, p_now timestamptz) returns boolean
language plpgsql
set search_path = ''
as $$
begin
  update queue.upkeep set done_at = p_now
  where name = (select name from queue.upkeep where name = p_name and done_at <= p_now - p_every for update skip locked);
  return found;
end;
$$;
comment on function queue.upkeep_due is 'Whether a chore is due; if so, it counts as done.';

create function queue.reclaim(p_limit integer, p_now timestamptz) returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_ids uuid[] := array(select job_id from queue.leases where expires_at <= p_now limit p_limit);
  v_again uuid[];
  v_max_lost integer := (queue.setting('lost_attempts_max'))::integer;
begin
  if cardinality(v_ids) = 0 then
    return 0;
  end if;
  v_ids := array(select id from public.jobs where id = any (v_ids) order by id for update skip locked);
  with lapsed as materialized (
    delete from queue.leases where job_id = any (v_ids) and expires_at <= p_now returning *),
  fates as materialized (
    select l.*, j.lost_attempts + 1 as lost, case
      when l.cancel_requested then 'cancelled'
      when j.attempts >= j.max_attempts or j.lost_attempts + 1 >= v_max_lost or j.deadline_at <= p_now then 'failed'
      else 'pending' end as fate,
      case when j.deadline_at <= p_now then 'deadline_passed' else 'worker_lost' end as reason
    from lapsed as l join public.jobs as j on j.id = l.job_id),
  moved as (
    update public.jobs as j set status = f.fate, lost_attempts = f.lost, updated_at = p_now,
      completed_at = case when f.fate <> 'pending' then p_now end,
      outcome = case when f.fate <> 'pending' then f.fate end,
      next_retry_at = null,
      error_message = case when f.fate = 'cancelled' then j.error_message else format(
        'the lease of attempt %s lapsed %s after worker %s was last heard of (%s time%s so far)',
        f.attempt, date_trunc('second', p_now - f.expires_at + make_interval(secs => f.lease_seconds)), f.worker_id, f.lost,
        case when f.lost = 1 then '' else 's' end) end,
      error_data = case when f.fate = 'cancelled' then j.error_data
        else jsonb_build_object('type', 'WorkerLost', 'reason', f.reason, 'worker_id', f.worker_id, 'tick_id', f.tick_id) end,
      error_fingerprint = case when f.fate = 'failed' then queue.fingerprint('WorkerLost', '') else j.error_fingerprint end,
      last_seq = j.last_seq + case when f.fate = 'pending' then 1 else 2 end
    from fates as f where j.id = f.job_id and j.id = any (v_ids)
    returning j.id, j.workspace_id, j.session_id, j.job_type, j.last_seq, j.attempts, j.error_message, j.error_data, j.created_at,
      f.fate, f.fence, f.attempt, f.worker_id, f.leased_at, f.lane_id, f.ready_at),
  back as (
    -- it keeps its place: whoever waited for it has waited long enough
    insert into queue.ready (lane_id, ready_at, job_id, workspace_id, job_created_at)
    select lane_id, ready_at, id, workspace_id, created_at from moved where fate = 'pending'),
  rewound as (
    insert into queue.rewinds (lane_id) select distinct lane_id from moved where fate = 'pending'),
  history as (
    insert into queue.attempts (job_id, fence, workspace_id, attempt, worker_id, leased_at, ended_at, outcome, error_message, error_data)
    select id, fence, workspace_id, attempt, worker_id, leased_at, p_now, 'lost', error_message, error_data from moved),
  told as (
    insert into public.job_events (job_id, seq, workspace_id, session_id, type, data, created_at)
    select id, case when fate = 'pending' then last_seq else last_seq - 1 end, workspace_id, session_id, 'job.reclaimed',
      jsonb_build_object('status', case when fate = 'pending' then 'pending' else 'processing' end,
        'attempts', attempts, 'worker_id', worker_id), p_now from moved
    union all
    select id, last_seq, workspace_id, session_id, 'job.' || fate,
      jsonb_strip_nulls(jsonb_build_object('status', fate, 'attempts', attempts,
        'error_message', case when fate = 'failed' then error_message end)), p_now from moved where fate <> 'pending'),
  counted as (
    insert into queue.stat_deltas (at, job_type, workspace_id, outcome, jobs)
    select p_now, job_type, workspace_id, case when fate = 'pending' then 'lost' else fate end, count(*) from moved group by 2, 3, 4)
  select array_agg(id) filter (where fate = 'pending'), array_agg(id) filter (where fate <> 'pending')
  into v_again, v_ids from moved;
  if v_ids is not null then
    perform queue.after_end(v_ids);
  end if;
  return coalesce(cardinality(v_again), 0) + coalesce(cardinality(v_ids), 0);
end;
$$;
comment on function queue.reclaim is E'Take back lapsed leases: pending again, or failed when attempts or lost workers are spent, or cancelled when that was asked.\n\nThe lease''s end was stored at lease; nothing is recomputed here.';

create function queue.reopen_lanes(p_lane_ids bigint[]) returns void
language plpgsql
set search_path = ''
as $$
begin
  insert into queue.lanes (id, workspace_id, queue, job_type, concurrency_key, priority)
  select missing.id, j.workspace_id, j.queue, j.job_type, coalesce(j.concurrency_key, ''), j.priority
  from (select distinct x as id from unnest(p_lane_ids) as x
    where not exists (select 1 from queue.lanes as l where l.id = x)) as missing
  cross join lateral (select r.job_id from queue.ready as r where r.lane_id = missing.id limit 1) as r
  join public.jobs as j on j.id = r.job_id;
end;
$$;
comment on function queue.reopen_lanes is 'Open those of the lanes that were closed while empty and have ready jobs again.';

create function queue.promote(p_limit integer, p_now timestamptz) returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_ids uuid[] := array(select job_id from queue.deferred where run_at <= p_now order by run_at limit p_limit);
  v_lanes bigint[];
begin
  if cardinality(v_ids) = 0 then
    return 0;
  end if;
  v_ids := array(select id from public.jobs where id = any (v_ids) and status = 'pending' order by id for update skip locked);
  with due as (
    delete from queue.deferred where job_id = any (v_ids) and run_at <= p_now returning *),
  moved as (
    insert into queue.ready (lane_id, ready_at, job_id, workspace_id, job_created_at)
    select lane_id, p_now, job_id, workspace_id, job_created_at from due returning lane_id)
  select array_agg(distinct lane_id) into v_lanes from moved;
  perform queue.reopen_lanes(v_lanes);
  return cardinality(v_ids);
end;
$$;
comment on function queue.promote is 'Move due jobs from deferred to ready.';

create function queue.expire(p_limit integer, p_now timestamptz) returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_ids uuid[] := array(
    select d.job_id from queue.deadlines as d
    where d.deadline_at <= p_now and not exists (select 1 from queue.leases as l where l.job_id = d.job_id) -- those end by their worker
    order by d.deadline_at limit p_limit);
begin
  if cardinality(v_ids) = 0 then
    return 0;
  end if;
  v_ids := array(select id from public.jobs where id = any (v_ids) and status in ('pending', 'waiting') order by id for update skip locked);
  return queue.finish(v_ids, 'failed', 'its deadline passed before it could run', '{"type": "DeadlinePassed", "reason": "deadline_passed"}', p_now);
end;
$$;
comment on function queue.expire is 'Fail jobs whose deadline passed before they ran.';

create function queue.sweep(p_now timestamptz) returns void
language plpgsql
set search_path = ''
as $$
begin
  -- watermarks go back to the start, so that a job committed late below one is found
  update queue.lanes set claim_from = '-infinity', mark_xid = null, mark_from = null where claim_from > '-infinity';
  delete from queue.lanes as l
  where greatest(l.last_leased_at, l.opened_at) < p_now - interval '1 minute'
    and not exists (select 1 from queue.ready where lane_id = l.id)
    or exists (select 1 from queue.lanes as same where same.id = l.id and same.number < l.number);
  -- an enqueue may commit just after its lane was closed
  perform queue.reopen_lanes(array(
    with recursive filled as (
      (select r.lane_id from queue.ready as r order by r.lane_id limit 1)
      union all
      select (select r.lane_id from queue.ready as r where r.lane_id > filled.lane_id order by r.lane_id limit 1)
      from filled where filled.lane_id is not null)
    select lane_id from filled where lane_id is not null));
  delete from queue.shares as s
  where s.workspace_id <> '00000000-0000-0000-0000-000000000000'
    and s.finish_tag <= (select finish_tag from queue.shares where workspace_id = '00000000-0000-0000-0000-000000000000');
end;
$$;
comment on function queue.sweep is 'Once a minute: watermarks back to the start, empty and doubled lanes closed, missing ones opened.';

create function queue.tokens(p_tokens double precision, p_at timestamptz, p_limit integer, p_seconds double precision, p_now timestamptz)
returns double precision
language sql immutable
set search_path = ''
as $$
  select least(p_limit, coalesce(p_tokens + greatest(0, extract(epoch from p_now - p_at)) * p_limit / p_seconds, p_limit))
$$;
comment on function queue.tokens is 'What a token bucket holds by now; a missing one is full.';

create function queue.pick(
  p_job_types text[], p_queues text[], p_limit integer, p_budget_ms double precision, p_count_due boolean, p_now timestamptz,
  out ids uuid[], out places tid[], out virtual_time double precision, out due bigint
)
language plpgsql
set search_path = ''
set plan_cache_mode = 'force_generic_plan' -- its plan does not depend on the values, and costs a millisecond
as $$
declare
  v_nil constant uuid := '00000000-0000-0000-0000-000000000000';
  v_most constant integer := 2147483647;
  v_virtual double precision := coalesce((select finish_tag from queue.shares where workspace_id = v_nil), 0);
  v_max_budget double precision := (queue.setting('max_budget_ms'))::double precision;
  v_lanes_each integer := 10;
  v_cut boolean;
begin
  -- first a look at the heads of a few lanes per tenant; only when that leaves slots empty, a deeper one
  for v_round in 1..2 loop
    with recursive tenants as ( -- one probe per tenant, however many lanes and jobs it has
      (select l.workspace_id from queue.lanes as l order by l.workspace_id limit 1)
      union all
      select (select l.workspace_id from queue.lanes as l where l.workspace_id > t.workspace_id order by l.workspace_id limit 1)
      from tenants as t where t.workspace_id is not null),
    open_tenants as materialized (
      select t.workspace_id, coalesce(tl.weight, 1) as weight, greatest(coalesce(s.finish_tag, 0), v_virtual) as tag,
        case when coalesce(tl.max_running, tl.own_max_running) is null then v_most else least(tl.max_running, tl.own_max_running)
          - (select count(*) from queue.leases as r where r.workspace_id = t.workspace_id) end as workspace_free
      from tenants as t
      left join queue.tenant_limits as tl on tl.workspace_id = t.workspace_id
      left join queue.shares as s on s.workspace_id = t.workspace_id
      where t.workspace_id is not null and not exists (
        select 1 from queue.pauses as p where p.kind = 'workspace' and p.workspace_id = t.workspace_id)),
    types as materialized (
      select t.*, least(
          case when t.max_concurrency is null then v_most else t.max_concurrency
            - (select count(*) from queue.leases as r where r.job_type = t.job_type) end,
          case when t.rate_limit is null or t.rate_per_key then v_most
            else floor(queue.tokens(b.tokens, b.refilled_at, t.rate_limit, t.rate_per_seconds, p_now)) end) as type_free
      from queue.job_types as t
      left join queue.buckets as b on b.job_type = t.job_type and b.workspace_id = v_nil and b.concurrency_key = ''
      where t.paused_at is null and (p_job_types is null or t.job_type = any (p_job_types))
        and (p_budget_ms is null or t.run_p95_ms is null or t.run_p95_ms <= p_budget_ms or t.run_p95_ms > v_max_budget)),
    lanes as materialized (
      select distinct on (lane_id) *
      from (
        select w.workspace_id, w.weight, w.tag, w.workspace_free, c.*
        from (select * from open_tenants where workspace_free > 0 order by tag, workspace_id) as w
        cross join lateral (
          select l.id as lane_id, l.job_type, l.concurrency_key, l.claim_from, l.last_leased_at, t.type_free,
            least(f.type_workspace_free, t.type_free) as type_workspace_free, f.key_free,
            l.priority - case when t.ageing_seconds is null then 0
              else floor(extract(epoch from p_now - head.ready_at) / t.ageing_seconds) end as priority
          from (select * from queue.lanes as o where o.workspace_id = w.workspace_id order by o.priority, o.last_leased_at) as l
          cross join lateral (select * from types where types.job_type = l.job_type and types.type_free > 0 limit 1) as t
          cross join lateral (
            select r.ready_at from queue.ready as r
            where r.lane_id = l.id and r.ready_at >= l.claim_from order by r.ready_at limit 1) as head
          cross join lateral (
            select case when t.workspace_concurrency is null then v_most else t.workspace_concurrency
                - (select count(*) from queue.leases as r where r.job_type = l.job_type and r.workspace_id = l.workspace_id) end as type_workspace_free,
              least(
                case when t.key_concurrency is null or l.concurrency_key = '' then v_most else t.key_concurrency
                  - (select count(*) from queue.leases as r where r.job_type = l.job_type and r.workspace_id = l.workspace_id
                    and r.concurrency_key = l.concurrency_key) end,
                case when t.rate_limit is null or not t.rate_per_key then v_most else floor(coalesce(
                  (select queue.tokens(b.tokens, b.refilled_at, t.rate_limit, t.rate_per_seconds, p_now) from queue.buckets as b
                    where b.job_type = l.job_type and b.workspace_id = l.workspace_id and b.concurrency_key = l.concurrency_key),
                  t.rate_limit)) end) as key_free
            offset 0) as f
          where f.type_workspace_free > 0 and f.key_free > 0 and (p_queues is null or l.queue = any (p_queues))
            and not exists (select 1 from queue.pauses as p where p.kind = 'queue' and p.name = l.queue
              or p.kind = 'workspace_type' and p.workspace_id = l.workspace_id and p.job_type = l.job_type)
          limit v_lanes_each) as c
        limit greatest(200, 4 * p_limit)) as opened
      order by lane_id),
    sized as materialized (
      select lanes.*, least(type_free, workspace_free, type_workspace_free, key_free, p_limit)::integer as most,
        case when v_round = 1 then ceil(4.0 * p_limit / count(*) over ())::integer + 4 else p_limit end as few,
        count(*) over (partition by workspace_id) as lanes_of_tenant
      from lanes),
    found as materialized (
      select c.*, r.job_id, r.ready_at, r.place
      from sized as c
      cross join lateral (
        select r.job_id, r.ready_at, r.ctid as place from queue.ready as r
        where r.lane_id = c.lane_id and r.ready_at >= c.claim_from
        order by r.ready_at, r.job_id limit least(c.most, c.few)) as r),
    binding as materialized ( -- a limit that leaves room for all of p_limit needs no ranking
      select bool_or(key_free < p_limit) as keys, bool_or(type_workspace_free < p_limit) as types_of_workspace,
        bool_or(type_free < p_limit) as types from sized),
    by_key as (
      select *, 1 as nth_of_key from found where not (select keys from binding)
      union all
      select *, row_number() over (partition by workspace_id, job_type, concurrency_key order by priority, ready_at, job_id)
      from found where (select keys from binding)),
    by_type_workspace as (
      select *, 1 as nth_of_type_workspace from by_key where nth_of_key <= key_free and not (select types_of_workspace from binding)
      union all
      select *, row_number() over (partition by workspace_id, job_type order by priority, ready_at, job_id)
      from by_key where nth_of_key <= key_free and (select types_of_workspace from binding)),
    by_workspace as (
      select b.*, row_number() over (partition by workspace_id order by priority, ready_at, job_id) as nth_of_workspace
      from by_type_workspace as b where nth_of_type_workspace <= type_workspace_free),
    tagged as (
      select b.*, tag + (nth_of_workspace - 1) / weight as start_tag
      from by_workspace as b where nth_of_workspace <= workspace_free),
    by_type as (
      select *, 1 as nth_of_type from tagged where not (select types from binding)
      union all
      select *, row_number() over (partition by job_type order by start_tag, ready_at, job_id) from tagged where (select types from binding)),
    picked as (
      select * from by_type where nth_of_type <= type_free
      order by start_tag, ready_at, job_id limit p_limit)
    select coalesce(array_agg(p.job_id), '{}'), coalesce(array_agg(p.place), '{}'), max(p.start_tag), v_round = 1 and count(*) < p_limit and exists (select 1 from sized as s
        where s.lanes_of_tenant >= v_lanes_each
          or s.few < s.most and (select count(*) from found as f where f.lane_id = s.lane_id) >= s.few),
      case when p_count_due then (select count(*) from (
          select 1 from sized as s cross join lateral (
            select 1 from queue.ready as r where r.lane_id = s.lane_id
            limit least(1001 + p_limit, s.type_free, s.workspace_free, s.type_workspace_free, s.key_free)) as r
          limit 1000 + p_limit) as counted) end
    into ids, places, virtual_time, v_cut, due from picked as p;
    exit when not v_cut;
    v_lanes_each := greatest(200, 4 * p_limit);
  end loop;
end;
$$;
comment on function queue.pick is E'Choose jobs to lease: {ids, places, virtual_time, due}; places is where their rows of queue.ready lie. The caller holds the lease lock.\n\nInside a tenant by priority, then age; between tenants by weighted start-time fair queueing; never beyond a limit of type, workspace, key or rate. Looks at few lanes per tenant and few jobs per lane, deeper only when slots would stay empty.';

create type queue.leased_job as (
  id uuid, workspace_id uuid, user_id uuid, session_id text, queue text, job_type text, payload jsonb, schema_version integer,
  priority integer, attempts integer, max_attempts integer, created_at timestamptz, parent_id uuid, traceparent text,
  progress jsonb, timeout_seconds integer, deadline_at timestamptz
);
comment on type queue.leased_job is 'What a worker is told of a job it leases.';

create type queue.lease_answer as (fence bigint, lease_seconds integer, lease_expires_at timestamptz, steps jsonb, job queue.leased_job);
comment on type queue.lease_answer is E'A lease as workers get it.\n\nrow_to_json of it costs half of what json_build_object does, which looks up the type of each value anew.';

create function queue.steps_of(p_job_id uuid) returns jsonb
language sql stable
set search_path = ''
as $$
  select coalesce(jsonb_object_agg(st.name, st.result -> 'value'), '{}') from queue.steps as st where st.job_id = p_job_id
$$;
comment on function queue.steps_of is 'The results of a job''s finished steps by name.';

create function queue.take(
  p_ids uuid[], p_places tid[], p_missed tid[], p_worker_id text, p_tick_id uuid, p_call integer, p_lease_seconds integer, p_now timestamptz, p_horizon xid8,
  out leases json, out leased integer
)
language plpgsql
set search_path = ''
set plan_cache_mode = 'force_generic_plan' -- its plan does not depend on the values, and costs a millisecond
as $$
declare
  v_nil constant uuid := '00000000-0000-0000-0000-000000000000';
  v_first constant jsonb := jsonb_build_object('status', 'processing', 'attempts', 1, 'worker_id', p_worker_id);
begin
  if exists (select 1 from queue.unique_jobs) then
    delete from queue.unique_jobs where job_id = any (p_ids) and until = 'leased';
  end if;
  with gone as materialized (
    delete from queue.ready where ctid = any (p_places) returning job_id, lane_id, ready_at),
  started as (
    update public.jobs as j set status = 'processing', attempts = j.attempts + 1, fence = j.fence + 1,
      started_at = p_now, updated_at = p_now, next_retry_at = null,
      last_seq = j.last_seq + case when t.events = 'full' then 1 else 0 end
    from gone as g, queue.job_types as t
    -- one that was put off between the choice and its lock is pending, but no longer ready
    where j.id = g.job_id and t.job_type = j.job_type
    -- the answer is text from here on: as jsonb it would cost more than the rest of the lease
    returning j.id, j.fence, j.workspace_id, j.session_id, j.job_type, j.concurrency_key, j.attempts, j.last_seq, j.priority, j.created_at,
      g.lane_id, g.ready_at, t.events, coalesce(p_lease_seconds, t.lease_seconds) as lease_seconds, t.rate_limit, t.rate_per_key,
      row_to_json(row(j.fence, coalesce(p_lease_seconds, t.lease_seconds),
        p_now + make_interval(secs => coalesce(p_lease_seconds, t.lease_seconds)),
        case when j.fence = 1 then '{}' else queue.steps_of(j.id) end,
        row(j.id, j.workspace_id, j.user_id, j.session_id, j.queue, j.job_type, j.payload, j.schema_version,
          j.priority, j.attempts, j.max_attempts, j.created_at, j.parent_id, j.traceparent,
          j.progress, coalesce(j.timeout_seconds, t.timeout_seconds), j.deadline_at)::queue.leased_job)::queue.lease_answer) as lease),
  leased as (
    insert into queue.leases (job_id, fence, workspace_id, job_type, concurrency_key, lane_id, ready_at, attempt, worker_id,
      tick_id, tick_call, leased_at, lease_seconds, expires_at, job_created_at)
    select s.id, s.fence, s.workspace_id, s.job_type, coalesce(s.concurrency_key, ''), s.lane_id, s.ready_at, s.attempts,
      p_worker_id, p_tick_id, p_call, p_now, s.lease_seconds, p_now + make_interval(secs => s.lease_seconds), s.created_at
    from started as s),
  told as (
    insert into public.job_events (job_id, seq, workspace_id, session_id, type, data, created_at)
    select id, last_seq, workspace_id, session_id, 'job.leased',
      case attempts when 1 then v_first
        else jsonb_build_object('status', 'processing', 'attempts', attempts, 'worker_id', p_worker_id) end, p_now
    from started where events = 'full'),
  touched as (
    -- What was chosen of a lane is its head, the oldest that anybody can see. What cannot be seen yet is
    -- older only if its transaction began before ours, for later ones read their clock after our start.
    -- Once all before ours have ended, nothing older than that start or than the head can turn up: dead
    -- rows before are never looked at again, not even while a held snapshot keeps them.
    update queue.lanes as l set last_leased_at = p_now,
      claim_from = greatest(l.claim_from, head.oldest - interval '5 seconds',
        case when l.mark_xid <= p_horizon then least(l.mark_from, head.oldest) end),
      mark_from = case when l.mark_xid > p_horizon then l.mark_from
        else least(head.oldest, p_now - (clock_timestamp() - now())) end,
      mark_xid = case when l.mark_xid > p_horizon then l.mark_xid else pg_current_xact_id() end
    from (
      select lane_id, min(ready_at) as oldest, bool_or(taken) as taken
      from (
        select lane_id, ready_at, true as taken from gone
        union all
        select lane_id, ready_at, false from queue.ready where ctid = any (p_missed)) as chosen
      group by 1) as head
    where l.id = head.lane_id and head.taken),
  shared as (
    insert into queue.shares as s (workspace_id, finish_tag)
    select t.workspace_id, greatest(coalesce(v.finish_tag, 0), coalesce(old.finish_tag, 0)) + t.jobs / coalesce(tl.weight, 1)
    from (select workspace_id, count(*) as jobs from started group by 1) as t
    left join queue.shares as v on v.workspace_id = v_nil
    left join queue.shares as old on old.workspace_id = t.workspace_id
    left join queue.tenant_limits as tl on tl.workspace_id = t.workspace_id
    on conflict (workspace_id) do update set finish_tag = excluded.finish_tag),
  spent as (
    insert into queue.buckets as b (job_type, workspace_id, concurrency_key, tokens, refilled_at)
    select job_type, case when rate_per_key then workspace_id else v_nil end,
      case when rate_per_key then coalesce(concurrency_key, '') else '' end, max(rate_limit) - count(*), p_now
    from started where rate_limit is not null group by 1, 2, 3
    on conflict (job_type, workspace_id, concurrency_key) do update set
      tokens = (select queue.tokens(b.tokens, b.refilled_at, t.rate_limit, t.rate_per_seconds, p_now) - (t.rate_limit - excluded.tokens)
        from queue.job_types as t where t.job_type = b.job_type),
      refilled_at = excluded.refilled_at)
  select coalesce(json_agg(s.lease order by s.priority, s.created_at, s.id), '[]'), count(*) into leases, leased from started as s;
end;
$$;
comment on function queue.take is E'Lease jobs whose rows the caller holds: ready → lease, attempt and fence up by one. Gives the leases as workers get them, and how many.\n\np_places: where their rows of queue.ready lie; nothing can be put there while the transaction that saw them lasts. p_missed: where those of jobs lie that were chosen too, but are locked by somebody. p_horizon: every transaction below it had ended before these jobs were chosen.';

create function queue.leases_of_call(p_tick_id uuid, p_call integer) returns json
language sql stable
set search_path = ''
as $$
  select coalesce(json_agg(row(l.fence, l.lease_seconds, l.expires_at, queue.steps_of(j.id),
    row(j.id, j.workspace_id, j.user_id, j.session_id, j.queue, j.job_type, j.payload, j.schema_version,
      j.priority, j.attempts, j.max_attempts, j.created_at, j.parent_id, j.traceparent,
      j.progress, coalesce(j.timeout_seconds, t.timeout_seconds), j.deadline_at)::queue.leased_job)::queue.lease_answer), '[]')
  from queue.leases as l
  join public.jobs as j on j.id = l.job_id
  join queue.job_types as t on t.job_type = j.job_type
  where l.tick_id = p_tick_id and l.tick_call = p_call
$$;
comment on function queue.leases_of_call is 'What an earlier, perhaps lost, answer to the same call held, as far as it is still leased.';

create function queue.lease(p_request jsonb) returns json
language plpgsql
set search_path = ''
as $$
declare
  v_now timestamptz := queue.clock();
  v_worker text := p_request ->> 'worker_id';
  v_tick uuid := queue.uuid_or_refuse(p_request ->> 'tick_id', 'tick_id');
  v_call integer := coalesce((p_request ->> 'call')::numeric::integer, 1);
  v_limit integer := coalesce((p_request ->> 'limit')::numeric::integer, 10);
  v_types text[] := case when jsonb_typeof(p_request -> 'job_types') = 'array'
    then array(select jsonb_array_elements_text(p_request -> 'job_types')) end;
  v_queues text[] := case when jsonb_typeof(p_request -> 'queues') = 'array'
    then array(select jsonb_array_elements_text(p_request -> 'queues')) end;
  v_seconds integer := (p_request ->> 'lease_seconds')::numeric::integer;
  v_answered integer;
  v_reclaimed integer := 0;
  v_promoted integer := 0;
  v_picked record;
  v_horizon xid8;
  v_ids uuid[];
  v_places tid[];
  v_lanes bigint[];
  v_expired uuid[];
  v_leases json := '[]';
  v_leased integer := 0;
  v_next timestamptz;
begin
  if v_worker is null or v_tick is null or char_length(v_worker) > 200 then
    perform queue.refuse(400, 'invalid_argument', 'worker_id and tick_id are required', 'worker_id');
  elsif v_limit not between 0 and 1000 then
    perform queue.refuse(400, 'invalid_argument', 'limit must be between 0 and 1000', 'limit');
  elsif v_seconds not between 1 and 43200 then
    perform queue.refuse(400, 'invalid_argument', 'lease_seconds must be between 1 and 43200', 'lease_seconds');
  end if;

  insert into queue.ticks (tick_id, worker_id, version, job_types, queues, started_at, seen_at)
  values (v_tick, v_worker, p_request ->> 'version', v_types, v_queues, v_now, v_now) on conflict (tick_id) do nothing;
  select last_call into v_answered from queue.ticks where tick_id = v_tick for update;
  if v_call <= v_answered then
    return json_build_object('leases', queue.leases_of_call(v_tick, v_call), 'reclaimed', 0, 'promoted', 0, 'due', 0,
      'next_due_in_ms', null, 'repeated', true);
  end if;

  if v_call = 1 or exists (select 1 from queue.upkeep where name = 'retention' and done_at <= v_now - interval '10 seconds') then
    perform queue.do_chores(v_now);
  end if;
  perform pg_advisory_xact_lock(7106381); -- a statement of its own: the next one sees what the last holder committed
  v_now := queue.clock();
  update queue.wakeups set requested_at = null
  where id in (select id from queue.wakeups where requested_at is not null for update skip locked);

  if v_call = 1 or queue.upkeep_due('reclaim', interval '1 second', v_now) then
    v_reclaimed := queue.reclaim(500, v_now);
  end if;
  if queue.upkeep_due('expire', interval '5 seconds', v_now) then
    perform queue.expire(500, v_now);
  end if;
  perform queue.lapse_waits(500, v_now);
  if queue.upkeep_due('schedules', interval '1 second', v_now) then
    perform queue.fire_schedules(100, v_now);
  end if;
  perform queue.drain_outbox(100, v_now); -- each costs a millisecond under the lock; the next lease goes on
  for v_round in 1..5 loop -- what ends may let others end or go on
    exit when queue.drain_signals(500, v_now) = 0;
  end loop;
  v_promoted := queue.promote(1000, v_now);
  if queue.upkeep_due('sweep', interval '1 minute', v_now) then
    perform queue.sweep(v_now);
  end if;
  v_lanes := array(select lane_id from queue.rewinds order by id limit 10000 for update skip locked);
  if cardinality(v_lanes) > 0 then
    delete from queue.rewinds where lane_id = any (v_lanes);
    update queue.lanes set claim_from = '-infinity', mark_xid = null, mark_from = null where id = any (v_lanes);
    perform queue.reopen_lanes(v_lanes);
  end if;

  v_horizon := pg_snapshot_xmin(pg_current_snapshot()); -- of a snapshot before that of the choice
  select * into v_picked from queue.pick(v_types, v_queues, v_limit, (p_request ->> 'budget_ms')::double precision,
    v_call = 1 or coalesce((p_request ->> 'count_due')::boolean, false), v_now);
  if cardinality(v_picked.ids) > 0 then
    select coalesce(array_agg(id) filter (where late is not true), '{}'), array_agg(id) filter (where late) into v_ids, v_expired
    from (
      select id, deadline_at <= v_now as late
      from public.jobs where id = any (v_picked.ids) and status = 'pending' order by id for update skip locked) as locked;
    if cardinality(v_expired) > 0 then
      perform queue.finish(v_expired, 'failed', 'its deadline passed before it could run', '{"type": "DeadlinePassed", "reason": "deadline_passed"}', v_now);
    end if;
    if cardinality(v_ids) > 0 then
      v_places := case when cardinality(v_ids) = cardinality(v_picked.ids) then v_picked.places else array(
        select p.place from unnest(v_picked.ids, v_picked.places) as p (id, place) join unnest(v_ids) as locked (id) on locked.id = p.id) end;
      select t.leases, t.leased into v_leases, v_leased from queue.take(v_ids, v_places,
        array(select p from unnest(v_picked.places) as p except select p from unnest(v_places) as p), v_worker, v_tick, v_call, v_seconds, v_now, v_horizon) as t;
      insert into queue.shares (workspace_id, finish_tag)
      values ('00000000-0000-0000-0000-000000000000', v_picked.virtual_time)
      on conflict (workspace_id) do update set finish_tag = excluded.finish_tag;
    end if;
  end if;

  update queue.ticks set last_call = v_call, seen_at = v_now, leased = leased + v_leased,
    free_slots = coalesce((p_request ->> 'free_slots')::numeric::integer, v_limit - v_leased)
  where tick_id = v_tick;
  if v_leased < v_limit or v_limit = 0 then
    select least((select min(run_at) from queue.deferred), (select min(timeout_at) from queue.waits),
      (select v_now from queue.signals limit 1)) into v_next;
  end if;
  return json_build_object('leases', v_leases, 'reclaimed', v_reclaimed, 'promoted', v_promoted,
    'due', coalesce(least(1000, greatest(0, v_picked.due - v_leased)),
      case when v_limit > 0 and v_leased >= v_limit then 1 else 0 end),
    'next_due_in_ms', case when v_next is not null then greatest(0, ceil(extract(epoch from v_next - v_now) * 1000)) end);
end;
$$;
comment on function queue.lease is 'See public.lease_jobs.';

create function public.lease_jobs(p_request jsonb) returns json
language plpgsql
security definer -- the worker holds no rights on the engine's tables: this is the door
set search_path = ''
set lock_timeout = '8s'
as $$
begin
  return queue.lease(p_request);
exception
  when invalid_text_representation or numeric_value_out_of_range then
    perform queue.refuse(400, 'invalid_argument', 'the request has a value of the wrong type: ' || sqlerrm, 'p_request');
end;
$$;
comment on function public.lease_jobs is E'Lease up to limit jobs: {leases, reclaimed, promoted, due, next_due_in_ms}.\n\nRequest: {worker_id, tick_id, call, limit 0..1000, job_types, queues, lease_seconds, budget_ms, version, free_slots}. A repeated (tick_id, call) gets the same leases. Each lease counts as an attempt. Lapsed leases are reclaimed and due jobs promoted first; with nothing to do this is the one query of an idle tick.';

revoke execute on function public.lease_jobs from public, anon, authenticated, service_role;
grant execute on function public.lease_jobs to job_worker, service_role;
