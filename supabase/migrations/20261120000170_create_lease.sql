-- Lease: hand each ready job to one worker, exact in limits, fair between tenants, without a global lock.
-- Nothing waits here: what two workers may not do at once is a narrow row of its own, taken with skip locked.

create function queue.try_lock(p_name text) returns boolean
language sql
set search_path = ''
as $$ select pg_try_advisory_xact_lock(hashtextextended('minutehand ' || p_name, 0)) $$;
comment on function queue.try_lock is E'Take the named lock until the transaction ends; false at once when another has it.\n\nNames: partitions (opening and closing them), maintenance, live_counts and a workspace, a quota and a workspace, a person''s calls and their turn.';

create function queue.reclaim(p_ids uuid[], p_now timestamptz) returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_ids uuid[];
  v_again uuid[];
  v_max_lost integer := (queue.setting('lost_attempts_max'))::integer;
begin
  v_ids := array(select id from public.jobs where id = any (p_ids) order by id for update skip locked);
  with expired as materialized (
    delete from queue.leases where job_id = any (v_ids) and expires_at <= p_now returning *),
  fates as materialized (
    select l.*, j.lost_attempts + 1 as lost, case
      when l.cancel_requested then 'cancelled'
      when j.attempts >= j.max_attempts or j.lost_attempts + 1 >= v_max_lost or j.deadline_at <= p_now then 'failed'
      else 'pending' end as fate,
      case when j.deadline_at <= p_now then 'deadline_passed' else 'worker_lost' end as reason
    from expired as l join public.jobs as j on j.id = any (array[l.job_id])),
  moved as (
    update public.jobs as j set status = f.fate, lost_attempts = f.lost, updated_at = p_now,
      finished_at = case when f.fate <> 'pending' then p_now end,
      -- until its worker was last heard of
      run_ms = j.run_ms + greatest(0, date_part('epoch', f.expires_at - f.leased_at) - f.lease_seconds) * 1000,
      outcome = case when f.fate <> 'pending' then f.fate end,
      next_retry_at = null,
      error_message = case when f.fate = 'cancelled' then j.error_message else format(
        'the lease of attempt %s expired %s after worker %s was last heard of (%s time%s so far)',
        f.attempt, date_trunc('second', p_now - f.expires_at + make_interval(secs => f.lease_seconds)), f.worker_id,
        f.lost,
        case when f.lost = 1 then '' else 's' end) end,
      error_data = case when f.fate = 'cancelled' then j.error_data
        else jsonb_build_object('type', 'WorkerLost', 'reason', f.reason, 'worker_id', f.worker_id,
          'tick_id', f.tick_id) end,
      error_fingerprint = case when f.fate = 'failed' then queue.fingerprint('WorkerLost', '')
        else j.error_fingerprint end,
      last_seq = j.last_seq + case when f.fate = 'pending' then 1 else 2 end
    from fates as f where j.id = f.job_id and j.id = any (v_ids)
    returning j.id, j.workspace_id, j.session_id, j.job_type, j.last_seq, j.attempts, j.error_message, j.error_data,
      j.created_at, j.queue, coalesce(j.concurrency_key, '') as concurrency_key, j.priority, f.fate, f.fence,
      f.attempt, f.worker_id, f.leased_at, f.partition_id, f.ready_at),
  back as (
    -- it keeps its place: it has waited its turn once
    insert into queue.ready (partition_id, ready_at, job_id, workspace_id, job_created_at)
    select partition_id, ready_at, id, workspace_id, created_at from moved where fate = 'pending'),
  rewound as (
    insert into queue.openings (partition_id, workspace_id, queue, job_type, concurrency_key, priority, rewind)
    select distinct partition_id, workspace_id, queue, job_type, concurrency_key, priority, true
    from moved where fate = 'pending'),
  history as (
    insert into queue.attempts (job_id, fence, attempt, worker_id, leased_at, ended_at, outcome,
      error_message, error_data)
    select id, fence, attempt, worker_id, leased_at, p_now, 'lost', error_message, error_data from moved),
  appended as (
    insert into public.job_events (job_id, seq, workspace_id, session_id, type, data, created_at)
    select id, case when fate = 'pending' then last_seq else last_seq - 1 end, workspace_id, session_id,
      'job.reclaimed',
      jsonb_build_object('status', case when fate = 'pending' then 'pending' else 'processing' end,
        'attempts', attempts, 'worker_id', worker_id), p_now from moved
    union all
    select id, last_seq, workspace_id, session_id, 'job.' || fate,
      jsonb_strip_nulls(jsonb_build_object('status', fate, 'attempts', attempts,
        'error_message', case when fate = 'failed' then error_message end)), p_now from moved where fate <> 'pending'),
  counted as (
    insert into queue.stat_deltas (at, job_type, workspace_id, outcome, jobs)
    select p_now, job_type, workspace_id, case when fate = 'pending' then 'lost' else fate end, count(*)
    from moved group by 2, 3, 4)
  select array_agg(id) filter (where fate = 'pending'), array_agg(id) filter (where fate <> 'pending')
  into v_again, v_ids from moved;
  if v_ids is not null then
    perform queue.after_end(v_ids);
  end if;
  perform queue.bring_back_of(v_again || v_ids);
  return coalesce(cardinality(v_again), 0) + coalesce(cardinality(v_ids), 0);
end;
$$;
comment on function queue.reclaim is E'Reclaim expired leases: their jobs are pending again, failed when the limit of attempts or of lost workers is reached, or cancelled when that was requested.\n\nThe time of expiry was stored with the lease; nothing is recomputed here.';

create function queue.promote(p_ids uuid[], p_now timestamptz) returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_ids uuid[] := array(
    select id from public.jobs where id = any (p_ids) and status = 'pending' order by id for update skip locked);
begin
  with due as (
    delete from queue.deferred where job_id = any (v_ids) and run_at <= p_now returning *),
  moved as (
    insert into queue.ready (partition_id, ready_at, job_id, workspace_id, job_created_at)
    select partition_id, p_now, job_id, workspace_id, job_created_at from due),
  kinds as materialized (
    select distinct on (d.partition_id) d.partition_id, j.workspace_id, j.queue, j.job_type,
      coalesce(j.concurrency_key, '') as concurrency_key, j.priority
    from due as d join public.jobs as j on j.id = any (array[d.job_id])),
  known as materialized (select id from queue.open_partitions(array(select partition_id from kinds)))
  insert into queue.openings (partition_id, workspace_id, queue, job_type, concurrency_key, priority)
  select partition_id, workspace_id, queue, job_type, concurrency_key, priority
  from kinds where partition_id not in (select id from known);
  return cardinality(v_ids);
end;
$$;
comment on function queue.promote is E'Move due jobs from deferred to ready.\n\nThe caller drew its transaction id before it read p_now: see the marks of queue.partitions.';

create function queue.expire(p_ids uuid[], p_now timestamptz) returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_ids uuid[] := array(
    select id from public.jobs
    where id = any (p_ids) and status in ('pending', 'waiting') and deadline_at <= p_now
    order by id for update skip locked);
begin
  return queue.finish(v_ids, 'failed', 'its deadline passed before it could run',
    '{"type": "DeadlinePassed", "reason": "deadline_passed"}', p_now);
end;
$$;
comment on function queue.expire is 'Fail jobs whose deadline passed before they ran.';

create function queue.sweep(p_now timestamptz) returns void
language plpgsql
set search_path = ''
set enable_seqscan = off -- a session's plan may be older than the rows
set enable_sort = off -- partitions are found by their whole name
set jit = off
as $$
declare
  v_after uuid := (select cursor::uuid from queue.maintenance_tasks where name = 'sweep');
  v_looked uuid[];
begin
  -- the safety net of openings and marks: some partitions that have jobs, in the order of their ids
  v_looked := array(
    with recursive filled as (
      (select r.partition_id, 1 as n from queue.ready as r
        where v_after is null or r.partition_id > v_after order by r.partition_id limit 1)
      union all
      select (select r.partition_id from queue.ready as r
        where r.partition_id > filled.partition_id order by r.partition_id limit 1), n + 1
      from filled where filled.partition_id is not null and n < 1000)
    select partition_id from filled where partition_id is not null);
  insert into queue.openings (partition_id, workspace_id, queue, job_type, concurrency_key, priority, rewind)
  select l.id, j.workspace_id, j.queue, j.job_type, coalesce(j.concurrency_key, ''), j.priority, true
  from unnest(v_looked) as l (id)
  cross join lateral (select r.job_id from queue.ready as r where r.partition_id = l.id limit 1) as r
  join public.jobs as j on j.id = any (array[r.job_id])
  where not exists (select 1 from queue.partitions as p where p.id = l.id and p.claim_from = '-infinity'
    and exists (select 1 from queue.turns as t
      where t.workspace_id = p.workspace_id and t.job_type = p.job_type and t.queue = p.queue offset 0) offset 0);
  update queue.maintenance_tasks set cursor = case when cardinality(v_looked) = 1000 then v_looked[1000]::text end
  where name = 'sweep';
  delete from queue.shares as s where ctid = any (array(
    select old.ctid from queue.shares as old
    where old.workspace_id <> '00000000-0000-0000-0000-000000000000'
      and old.finish_tag <= (
        select finish_tag from queue.shares where workspace_id = '00000000-0000-0000-0000-000000000000')
    limit 1000 for update skip locked));
  delete from queue.caps where id = any (array(
    select c.id from queue.caps as c
    where c.scope = 'key' and c.opened_at < p_now - interval '10 minutes' and not exists (
      select 1 from queue.partitions as p where p.workspace_id = c.workspace_id and p.job_type = c.job_type
        and p.concurrency_key = c.concurrency_key order by p.queue, p.priority offset 0)
    order by c.opened_at limit 1000 for update skip locked));
end;
$$;
comment on function queue.sweep is 'Once a minute, for a thousand partitions at a time: reset their watermarks and open missing ones; remove shares and caps that are no longer needed.';

create function queue.tokens(
  p_tokens double precision, p_at timestamptz, p_limit integer, p_seconds double precision, p_now timestamptz
) returns double precision
language sql immutable
set search_path = ''
as $$
  select least(p_limit, coalesce(
    p_tokens + greatest(0, extract(epoch from p_now - p_at)) * p_limit / p_seconds, p_limit))
$$;
comment on function queue.tokens is 'How many tokens a bucket holds at p_now; a missing one is full.';

create function queue.open_openings(p_limit integer, p_now timestamptz) returns void
language plpgsql
set search_path = ''
as $$
declare
  v_nil constant uuid := '00000000-0000-0000-0000-000000000000';
  v_start constant uuid := gen_random_uuid(); -- no tenant is always the first
  v_virtual double precision := coalesce((select finish_tag from queue.shares where workspace_id = v_nil), 0);
  v_rewound bigint[];
  v_held uuid[];
begin
  with recursive onward as (
    (select o.workspace_id, 1 as n from queue.openings as o where o.workspace_id >= v_start order by 1 limit 1)
    union all
    select (select o.workspace_id from queue.openings as o
      where o.workspace_id > t.workspace_id order by 1 limit 1), n + 1
    from onward as t where t.workspace_id is not null and n < 250),
  around as (
    (select o.workspace_id, 1 as n from queue.openings as o where o.workspace_id < v_start order by 1 limit 1)
    union all
    select (select o.workspace_id from queue.openings as o
      where o.workspace_id > t.workspace_id and o.workspace_id < v_start order by 1 limit 1), n + 1
    from around as t where t.workspace_id is not null and n < 250),
  tenants as (
    select workspace_id from onward where workspace_id is not null
    union all select workspace_id from around where workspace_id is not null),
  lines as materialized (
    select o.* from (
      select workspace_id, ceil(p_limit::float / count(*) over ())::integer as most from tenants) as t
    cross join lateral (
      -- as a range and in the order: an index by id alone, read past those of all others, cannot serve it
      select * from queue.openings as o where o.workspace_id between t.workspace_id and t.workspace_id
      order by o.workspace_id, o.id limit t.most) as o),
  turned as (
    insert into queue.turns (workspace_id, job_type, queue, tag)
    select k.workspace_id, k.job_type, k.queue, greatest(v_virtual,
      (select s.finish_tag from queue.shares as s where s.workspace_id = k.workspace_id))
    from (select distinct workspace_id, job_type, queue from lines) as k on conflict do nothing),
  shared as (
    insert into queue.shares (workspace_id, finish_tag)
    select distinct workspace_id, v_virtual from lines on conflict do nothing),
  opened as (
    insert into queue.partitions (id, workspace_id, queue, job_type, concurrency_key, priority)
    select distinct partition_id, workspace_id, queue, job_type, concurrency_key, priority from lines
    on conflict do nothing),
  gone as (
    delete from queue.openings where id = any (array(select id from lines where not rewind)))
  select array_agg(id) into v_rewound from lines where rewind;
  if v_rewound is null then
    return;
  end if;
  v_held := array(
    select p.id from queue.partitions as p
    where p.id = any (array(select o.partition_id from queue.openings as o where o.id = any (v_rewound)))
    for no key update skip locked);
  update queue.partitions set claim_from = '-infinity', mark_xid = null, mark_from = null, rewinds = rewinds + 1
  where id = any (v_held);
  -- one whose partition another lease holds is left to the next call
  delete from queue.openings where id = any (v_rewound) and partition_id = any (v_held);
end;
$$;
comment on function queue.open_openings is E'Open partitions that got jobs, at most p_limit lines, an equal share of each of up to 500 tenants.\n\nThe caller holds the lock of the partitions, so that none is closed meanwhile.';

create function queue.close_partitions(p_ids uuid[]) returns integer
language plpgsql
set search_path = ''
as $$
declare
  -- one that an open transaction has put a job into is locked by it
  v_ids uuid[] := array(select id from queue.partitions where id = any (p_ids) order by id for update skip locked);
  -- where another lease is passing a turn on right now, its partitions are left to a later call
  v_turns tid[] := array(
    select t.place from (
      select distinct p.workspace_id, p.job_type, p.queue from unnest(v_ids) as i (id)
      cross join lateral (select * from queue.partitions as p where p.id = i.id limit 1) as p) as p
    cross join lateral (
      select t.ctid as place from queue.turns as t
      where t.workspace_id = p.workspace_id and t.job_type = p.job_type and t.queue = p.queue
      limit 1 for update skip locked) as t);
  v_closed integer;
begin
  -- a statement of its own: it sees what was committed before the locks were taken. Each look-up has an offset, so
  -- that it stays one for each: joined by the wrong statistics it would read every partition.
  delete from queue.partitions as p where p.id = any (v_ids)
    and (select t.ctid from queue.turns as t
      where t.workspace_id = p.workspace_id and t.job_type = p.job_type and t.queue = p.queue) = any (v_turns)
    and not exists (select 1 from queue.ready as r where r.partition_id = p.id and r.ready_at >= p.claim_from
      order by r.ready_at limit 1 offset 0);
  get diagnostics v_closed = row_count;
  if v_closed > 0 then
    delete from queue.turns as t where t.ctid = any (v_turns)
      and not exists (select 1 from queue.partitions as p
        where p.workspace_id = t.workspace_id and p.job_type = t.job_type and p.queue = t.queue
        order by p.set_aside, p.priority, p.last_leased_at limit 1 offset 0);
  end if;
  return v_closed;
end;
$$;
comment on function queue.close_partitions is E'Remove those of the partitions that have no ready job, and turns that have no partition; return how many partitions.\n\nThe caller holds the lock of the partitions. Waits for no one.';

create function queue.look_again(p_limit integer, p_now timestamptz) returns void
language sql
set search_path = ''
as $$
  update queue.turns set set_aside = false, look_at = null where ctid = any (array(
    select ctid from queue.turns where set_aside and look_at <= p_now
    order by look_at limit p_limit for update skip locked));
  update queue.partitions set set_aside = false, look_at = null where ctid = any (array(
    select ctid from queue.partitions where set_aside and look_at <= p_now
    order by look_at limit p_limit for no key update skip locked));
$$;
comment on function queue.look_again is E'Bring back turns and partitions that were set aside long enough.\n\nLifting a limit brings them back at once; this is the safety net for those set aside at that very moment.';

create function queue.scopes(p_ids uuid[])
returns table (scope text, job_type text, workspace_id uuid, concurrency_key text, cap_id bigint)
language plpgsql stable
set search_path = ''
as $$
begin
  return query
  with parts as materialized (
    select p.workspace_id, p.job_type, p.concurrency_key, t.max_concurrency, t.workspace_concurrency, t.key_concurrency,
      t.rate_limit, t.rate_per_key, exists (
        select 1 from queue.tenant_limits as tl
        where tl.workspace_id = p.workspace_id and tl.running_max is not null) as is_bound
    from unnest(p_ids) as u (id)
    cross join lateral (select * from queue.partitions as o where o.id = u.id limit 1) as p
    cross join lateral (select * from queue.job_types as o where o.job_type = p.job_type limit 1) as t),
  needed as (
    select distinct 'type' as scope, p.job_type, '00000000-0000-0000-0000-000000000000'::uuid as workspace_id, '' as key
    from parts as p where p.max_concurrency is not null or p.rate_limit is not null and not p.rate_per_key
    union all
    select distinct 'workspace', '', p.workspace_id, '' from parts as p where p.is_bound
    union all
    select distinct 'workspace_type', p.job_type, p.workspace_id, '' from parts as p
      where p.workspace_concurrency is not null
    union all
    select distinct 'key', p.job_type, p.workspace_id, p.concurrency_key from parts as p
    where p.key_concurrency is not null and p.concurrency_key <> '' or p.rate_limit is not null and p.rate_per_key)
  select n.scope, n.job_type, n.workspace_id, n.key, (
    select c.id from queue.caps as c
    where c.workspace_id = n.workspace_id and c.job_type = n.job_type and c.concurrency_key = n.key
      and c.scope = n.scope)
  from needed as n;
end;
$$;
comment on function queue.scopes is 'The limited scopes that partitions belong to, with the row to lock for each; null where there is none yet.';

create function queue.free_slots(
  p_scope text, p_job_type text, p_workspace_id uuid, p_key text, p_limit integer, p_now timestamptz
) returns integer
language plpgsql stable
set search_path = ''
as $$
declare
  v_most constant integer := 2147483647;
  v_type queue.job_types;
  v_max integer;
  v_running integer := 0;
  v_tokens double precision;
begin
  if p_scope = 'workspace' then
    select running_max into v_max from queue.tenant_limits where workspace_id = p_workspace_id;
    select count(*) into v_running from (
      select 1 from queue.leases where workspace_id = p_workspace_id limit v_max) as l;
    return coalesce(v_max - v_running, v_most);
  end if;
  select * into v_type from queue.job_types where job_type = p_job_type;
  if p_scope = 'type' then
    v_max := v_type.max_concurrency;
    select count(*) into v_running from (
      select 1 from queue.leases where job_type = p_job_type limit v_max) as l where v_max is not null;
  elsif p_scope = 'workspace_type' then
    v_max := v_type.workspace_concurrency;
    select count(*) into v_running from (
      select 1 from queue.leases where job_type = p_job_type and workspace_id = p_workspace_id limit v_max) as l;
  elsif p_key <> '' then
    v_max := v_type.key_concurrency;
    select count(*) into v_running from (
      select 1 from queue.leases
      where job_type = p_job_type and workspace_id = p_workspace_id and concurrency_key = p_key
      limit v_max) as l where v_max is not null;
  end if;
  if v_type.rate_limit is not null
      and (p_scope = 'type' and not v_type.rate_per_key or p_scope = 'key' and v_type.rate_per_key) then
    select queue.tokens(b.tokens, b.refilled_at, v_type.rate_limit, v_type.rate_per_seconds, p_now) into v_tokens
    from queue.buckets as b
    where b.job_type = p_job_type and b.workspace_id = p_workspace_id and b.concurrency_key = p_key;
    return least(coalesce(v_max - v_running, v_most), floor(coalesce(v_tokens, v_type.rate_limit)));
  end if;
  return coalesce(v_max - v_running, v_most);
end;
$$;
comment on function queue.free_slots is E'How many more jobs a limited scope may start now.\n\nThe largest integer when it has no limit any more. The caller holds the scope''s row of queue.caps.';

create function queue.startable_types(
  p_job_types text[], p_budget_ms double precision, p_now timestamptz
) returns text[]
language plpgsql stable
set search_path = ''
as $$
declare
  v_nil constant uuid := '00000000-0000-0000-0000-000000000000';
  v_max_budget double precision := case when p_budget_ms is not null
    then (queue.setting('max_budget_ms'))::double precision end;
begin
  return array(
    select t.job_type from queue.job_types as t
    where t.paused_at is null and (p_job_types is null or t.job_type = any (p_job_types))
      and (p_budget_ms is null or t.run_p95_ms is null or t.run_p95_ms <= p_budget_ms or t.run_p95_ms > v_max_budget)
      -- a look before any lock is taken; what it lets through is counted again under the lock
      and (t.max_concurrency is null or t.max_concurrency > (select count(*) from (
        select 1 from queue.leases as l where l.job_type = t.job_type limit t.max_concurrency) as l))
      and (t.rate_limit is null or t.rate_per_key or coalesce((
        select queue.tokens(b.tokens, b.refilled_at, t.rate_limit, t.rate_per_seconds, p_now) from queue.buckets as b
        where b.job_type = t.job_type and b.workspace_id = v_nil and b.concurrency_key = ''), t.rate_limit) >= 1));
end;
$$;
comment on function queue.startable_types is 'The types of which a job may start now, as far as a look without locks can tell: not paused, below the limits of the whole type, and short enough for p_budget_ms.';

create function queue.next_turns(p_job_types text[], p_queues text[], p_turns integer) returns queue.turns[]
language plpgsql
set search_path = ''
as $$
begin
  if p_queues is null then
    return array(
      select u.turn from unnest(p_job_types) as t (job_type)
      cross join lateral (
        select u as turn from queue.turns as u
        where u.job_type = t.job_type and not u.set_aside order by u.tag, u.workspace_id limit p_turns) as u);
  end if;
  return array(
    select u.turn from unnest(p_job_types) as t (job_type)
    cross join unnest(p_queues) as q (name)
    cross join lateral (
      select u as turn from queue.turns as u
      where u.queue = q.name and u.job_type = t.job_type and not u.set_aside
      order by u.tag, u.workspace_id limit p_turns) as u);
end;
$$;
comment on function queue.next_turns is 'The first p_turns turns of each type, and of each queue where p_queues names some.';

create function queue.paused_turns(p_turns queue.turns[]) returns queue.turns[]
language sql stable
set search_path = ''
as $$
  select array(
    select u from unnest(p_turns) as u
    where exists (select 1 from queue.pauses as p where p.kind = 'workspace' and p.name = u.workspace_id::text)
      or exists (select 1 from queue.pauses as p where p.kind = 'queue' and p.name = u.queue)
      or exists (select 1 from queue.pauses as p where p.kind = 'workspace_type'
        and p.name = u.workspace_id || '/' || u.job_type))
$$;
comment on function queue.paused_turns is 'Those of the turns whose workspace, queue, or type in the workspace is paused.';

create function queue.find_candidates(
  p_turns queue.turns[], p_most integer, p_parts integer, p_without uuid[], p_now timestamptz,
  out ids uuid[], out tags double precision[], out weights double precision[], out priorities double precision[],
  out oldest timestamptz[], out rewinds bigint[], out types text[], out is_bound boolean[], out empty uuid[],
  out behind boolean, out cut boolean
)
language plpgsql
set search_path = ''
as $$
declare
  v_nil constant uuid := '00000000-0000-0000-0000-000000000000';
  v_virtual double precision := coalesce((select s.finish_tag from queue.shares as s where s.workspace_id = v_nil), 0);
begin
  with front as materialized (
    -- a look-up for each and no join: a generic plan would read every tenant
    select u.workspace_id, u.job_type, u.queue, u.tag, greatest(u.tag, v_virtual,
      (select s.finish_tag from queue.shares as s where s.workspace_id = u.workspace_id)) as tag_now
    from unnest(p_turns) as u
    order by tag_now, u.workspace_id, u.job_type, u.queue limit p_most),
  chosen as materialized (
    select p.id, p.rewinds, f.workspace_id, f.job_type, f.tag, f.tag_now, head.ready_at, p.nth,
      coalesce(l.weight, 1) as weight,
      p.priority - case when t.ageing_seconds is null or head.ready_at is null then 0
        else floor(extract(epoch from p_now - head.ready_at) / t.ageing_seconds) end as priority,
      t.max_concurrency is not null or t.workspace_concurrency is not null or t.rate_limit is not null
        or t.key_concurrency is not null and p.concurrency_key <> ''
        or l.running_max is not null as is_bound
    from front as f
    cross join lateral (select * from queue.job_types as t where t.job_type = f.job_type limit 1) as t
    left join lateral (
      select * from queue.tenant_limits as l where l.workspace_id = f.workspace_id limit 1) as l on true
    cross join lateral (
      select o.*, row_number() over () as nth from (
        select * from queue.partitions as o
        where o.workspace_id = f.workspace_id and o.job_type = f.job_type and o.queue = f.queue and not o.set_aside
        order by o.priority, o.last_leased_at limit p_parts + cardinality(p_without)) as o
      where o.id <> all (p_without)) as p
    left join lateral (
      select r.ready_at from queue.ready as r
      where r.partition_id = p.id and r.ready_at >= p.claim_from order by r.ready_at limit 1) as head on true)
  select coalesce(array_agg(c.id) filter (where c.ready_at is not null), '{}'),
    array_agg(c.tag_now) filter (where c.ready_at is not null),
    array_agg(c.weight) filter (where c.ready_at is not null),
    array_agg(c.priority) filter (where c.ready_at is not null),
    array_agg(c.ready_at) filter (where c.ready_at is not null),
    array_agg(c.rewinds) filter (where c.ready_at is not null),
    array_agg(distinct c.job_type) filter (where c.ready_at is not null),
    array_agg(c.is_bound) filter (where c.ready_at is not null),
    coalesce(array_agg(c.id) filter (where c.ready_at is null), '{}'),
    coalesce(bool_or(c.tag < c.tag_now), false), coalesce(bool_or(c.nth >= p_parts), false)
  into ids, tags, weights, priorities, oldest, rewinds, types, is_bound, empty, behind, cut
  from (select * from chosen order by tag_now, workspace_id, priority, ready_at) as c;
end;
$$;
comment on function queue.find_candidates is E'The partitions whose turn it is, in the order of their tenants'' tags, at most p_parts of each of the p_most first turns and none of p_without: {ids, tags, weights, priorities, oldest, rewinds, is_bound}.\n\noldest: the first job seen in each. types: those of all. is_bound: it belongs to a limited scope. Also empty: partitions met without a job; behind: a turn''s tag was older than its tenant''s; cut: a turn may have more.';

create function queue.freshen_turns(p_turns queue.turns[]) returns void
language plpgsql
set search_path = ''
as $$
declare
  v_nil constant uuid := '00000000-0000-0000-0000-000000000000';
  v_virtual double precision := coalesce((select s.finish_tag from queue.shares as s where s.workspace_id = v_nil), 0);
begin
  update queue.turns as u set tag = greatest(u.tag, v_virtual,
    (select s.finish_tag from queue.shares as s where s.workspace_id = u.workspace_id))
  where u.ctid = any (array(
    select k.ctid from unnest(p_turns) as p
    cross join lateral (
      select k.ctid from queue.turns as k
      where k.workspace_id = p.workspace_id and k.job_type = p.job_type and k.queue = p.queue
        and k.tag < greatest(v_virtual, (select s.finish_tag from queue.shares as s
          where s.workspace_id = k.workspace_id))
      limit 1 for no key update skip locked) as k));
end;
$$;
comment on function queue.freshen_turns is E'Bring the turns'' tags up to their tenants''.\n\nOne that is behind would come first again and again, and hide those after it.';

create function queue.hold(
  p_ids uuid[], p_oldest timestamptz[], p_jobs integer[], p_now timestamptz,
  out ids uuid[], out places tid[], out job_places tid[], out late uuid[], out givers uuid[]
)
language plpgsql
set search_path = ''
set enable_sort = off -- heads are read in the order of their index, no further than they are wanted
set jit = off
as $$
begin
  -- As many as fall to each, of those that are free: others lease from the same head at this moment. The place in the
  -- queue is locked first: if it is gone since the snapshot, the look ends there. Otherwise the job, which is running
  -- now, would be locked until this call ends, and its settlement would wait.
  with held as materialized (
    select s.id, h.job_id, h.place, h.job_place, h.is_late
    from unnest(p_ids, p_oldest, p_jobs) as s (id, oldest, jobs)
    cross join lateral (
      select r.job_id, r.ctid as place, j.ctid as job_place, coalesce(j.deadline_at <= p_now, false) as is_late
      from queue.ready as r join public.jobs as j on j.id = any (array[r.job_id])
      where r.partition_id = s.id and r.ready_at >= s.oldest and j.status = 'pending'
      order by r.ready_at, r.job_id limit s.jobs for update of r, j skip locked) as h)
  select coalesce(array_agg(h.job_id) filter (where not h.is_late), '{}'),
    coalesce(array_agg(h.place) filter (where not h.is_late), '{}'),
    coalesce(array_agg(h.job_place) filter (where not h.is_late), '{}'),
    coalesce(array_agg(h.job_id) filter (where h.is_late), '{}'), coalesce(array_agg(distinct h.id), '{}')
  into ids, places, job_places, late, givers from held as h;
end;
$$;
comment on function queue.hold is E'Lock up to p_jobs ready jobs, and their places in the queue, of each partition, from p_oldest on: {ids, places, job_places, late, givers}.\n\nplaces: where their rows of queue.ready lie, job_places: those of public.jobs. late: jobs whose deadline has passed. givers: the partitions that gave any. Never waits: a job that another transaction holds is skipped.';

create function queue.hold_head(
  p_ids uuid[], p_tags double precision[], p_weights double precision[], p_oldest timestamptz[], p_is_bound boolean[],
  p_limit integer, p_now timestamptz,
  out ids uuid[], out places tid[], out job_places tid[], out late uuid[], out virtual_time double precision,
  out busy boolean
)
language plpgsql
set search_path = ''
as $$
begin
  for v_number in 1..cardinality(p_ids) loop
    exit when p_is_bound[v_number];
    select * into ids, places, job_places, late
    from queue.hold(p_ids[v_number:v_number], p_oldest[v_number:v_number], array[p_limit], p_now);
    if cardinality(ids) > 0 then
      virtual_time := p_tags[v_number] + (cardinality(ids) - 1) / p_weights[v_number];
      busy := cardinality(ids) < p_limit and cardinality(ids) + cardinality(late) < (select count(*) from (
        select 1 from queue.ready as r where r.partition_id = p_ids[v_number] and r.ready_at >= p_oldest[v_number]
        limit p_limit) as r);
      return;
    end if;
  end loop;
end;
$$;
comment on function queue.hold_head is E'Lock up to p_limit jobs of the first partition that has free ones, without dividing slots: {ids, places, job_places, late, virtual_time, busy}; ids is empty or null when there is none.\n\nStops at the first partition that belongs to a limited scope: those are divided by queue.allot.';

create function queue.make_caps(p_ids uuid[], p_now timestamptz) returns void
language plpgsql
set search_path = ''
set lock_timeout = '5ms' -- another lease is making the same: that scope is busy, and two never deadlock
as $$
begin
  insert into queue.caps (scope, job_type, workspace_id, concurrency_key, opened_at)
  select s.scope, s.job_type, s.workspace_id, s.concurrency_key, p_now
  from queue.scopes(p_ids) as s where s.cap_id is null
  order by s.workspace_id, s.job_type, s.concurrency_key, s.scope on conflict do nothing;
exception when lock_not_available or deadlock_detected then
  null; -- what has no row counts as held by another
end;
$$;
comment on function queue.make_caps is 'Create the missing rows to lock for the limited scopes of partitions, unless another transaction is creating one of them.';

create function queue.hold_caps(p_ids uuid[], p_now timestamptz) returns bigint[]
language plpgsql
set search_path = ''
as $$
declare
  v_ids bigint[] := array(select s.cap_id from queue.scopes(p_ids) as s);
begin
  if cardinality(v_ids) = 0 then
    return null;
  end if;
  if array_position(v_ids, null) is not null then
    perform queue.make_caps(p_ids, p_now);
    v_ids := array(select s.cap_id from queue.scopes(p_ids) as s);
  end if;
  -- in one order; and a statement of its own, so that the next one counts what the last holder committed
  return array(select c.id from queue.caps as c where c.id = any (v_ids) order by c.id for update skip locked);
end;
$$;
comment on function queue.hold_caps is E'Lock the limited scopes of partitions; return the ids of those that were free, null when there is no limit.\n\nA lease below a limit holds its row until the commit, and counts the leases once it holds it: two never count at once.';

create function queue.count_free(
  p_ids uuid[], p_caps bigint[], p_limit integer, p_now timestamptz,
  out type_free integer[], out workspace_free integer[], out type_workspace_free integer[], out key_free integer[],
  out missed boolean[]
)
language plpgsql
set search_path = ''
as $$
declare
  v_most constant integer := 2147483647;
begin
  with frees as materialized ( -- counted under the lock of each; nothing is free where another holds it
    select s.scope, s.job_type, s.workspace_id, s.concurrency_key, coalesce(s.cap_id = any (p_caps), false) as held,
      case when s.cap_id = any (p_caps)
        then queue.free_slots(s.scope, s.job_type, s.workspace_id, s.concurrency_key, p_limit, p_now) else 0 end as free
    from queue.scopes(p_ids) as s)
  select array_agg(coalesce(ft.free, v_most) order by c.n), array_agg(coalesce(fw.free, v_most) order by c.n),
    array_agg(coalesce(fx.free, v_most) order by c.n), array_agg(coalesce(fk.free, v_most) order by c.n),
    array_agg(not (coalesce(ft.held, true) and coalesce(fw.held, true) and coalesce(fx.held, true)
      and coalesce(fk.held, true)) order by c.n)
  into type_free, workspace_free, type_workspace_free, key_free, missed
  from unnest(p_ids) with ordinality as c (id, n)
  -- it may be closed by now
  left join lateral (select * from queue.partitions as o where o.id = c.id limit 1) as p on true
  left join frees as ft on ft.scope = 'type' and ft.job_type = p.job_type
  left join frees as fw on fw.scope = 'workspace' and fw.workspace_id = p.workspace_id
  left join frees as fx on fx.scope = 'workspace_type' and fx.workspace_id = p.workspace_id and fx.job_type = p.job_type
  left join frees as fk on fk.scope = 'key' and fk.workspace_id = p.workspace_id and fk.job_type = p.job_type
    and fk.concurrency_key = p.concurrency_key;
end;
$$;
comment on function queue.count_free is E'How many more jobs each scope of each partition may start, in the order of p_ids; the largest integer where there is no limit.\n\np_caps: the rows that the caller holds. missed: another transaction holds a scope of the partition, so nothing of it is free for now.';

create function queue.heads_of(
  p_ids uuid[], p_tags double precision[], p_priorities double precision[], p_oldest timestamptz[], p_most integer[],
  p_limit integer
)
returns table (
  n integer, workspace_id uuid, job_type text, concurrency_key text, tag double precision, weight double precision,
  spare bigint, priority double precision, ready_at timestamptz, job_id uuid
)
language plpgsql
set search_path = ''
set enable_hashjoin = on -- of tenants with their spare slots, once each
as $$
begin
  return query
  with parts as materialized (
    select c.n, p.workspace_id, p.job_type, p.concurrency_key, c.tag, c.priority, c.id, c.oldest, c.most,
      coalesce((select tl.weight from queue.tenant_limits as tl where tl.workspace_id = p.workspace_id), 1) as weight
    from unnest(p_ids, p_tags, p_priorities, p_oldest, p_most) with ordinality
      as c (id, tag, priority, oldest, most, n)
    cross join lateral (select * from queue.partitions as o where o.id = c.id limit 1) as p) -- it may be closed by now
  select c.n::integer, c.workspace_id, c.job_type, c.concurrency_key, c.tag, c.weight, s.spare, c.priority,
    r.ready_at, r.job_id
  from parts as c
  join queue.spare_slots(array(select distinct z.workspace_id from parts as z), p_limit) as s
    on s.workspace_id = c.workspace_id
  cross join lateral (
    select q.ready_at, q.job_id from queue.ready as q
    where q.partition_id = c.id and q.ready_at >= c.oldest order by q.ready_at, q.job_id limit c.most) as r;
end;
$$;
comment on function queue.heads_of is E'The first p_most ready jobs of each partition, from p_oldest on, with what their turn depends on; n is the partition''s number in p_ids.\n\nspare: how many more its tenant may start before it holds more than its share, see spare_slots.';

create function queue.allot_bound(
  p_ids uuid[], p_tags double precision[], p_priorities double precision[], p_oldest timestamptz[],
  p_type_free integer[], p_workspace_free integer[], p_type_workspace_free integer[], p_key_free integer[],
  p_limit integer, p_each integer,
  out numbers integer[], out jobs integer[], out virtual_time double precision, out cut boolean
)
language plpgsql
set search_path = ''
as $$
declare
  v_most integer[] := array(
    select least(f.a, f.b, f.c, f.d, p_limit)
    from unnest(p_type_free, p_workspace_free, p_type_workspace_free, p_key_free) with ordinality as f (a, b, c, d, n)
    order by f.n);
begin
  with heads as materialized (
    select * from queue.heads_of(p_ids, p_tags, p_priorities, p_oldest,
      array(select least(m.most, p_each) from unnest(v_most) with ordinality as m (most, n) order by m.n), p_limit)),
  by_key as (
    select *, row_number() over (partition by workspace_id, job_type, concurrency_key
      order by priority, ready_at, job_id) as nth_of_key from heads),
  by_type_workspace as (
    select *, row_number() over (partition by workspace_id, job_type
      order by priority, ready_at, job_id) as nth_of_type_workspace from by_key where nth_of_key <= p_key_free[n]),
  by_workspace as (
    select *, row_number() over (partition by workspace_id order by priority, ready_at, job_id) as nth
    -- a full type takes no slot of its tenant
    from by_type_workspace where nth_of_type_workspace <= least(p_type_free[n], p_type_workspace_free[n])),
  tagged as (
    select *, tag + (nth - 1) / weight as start_tag, nth > spare as is_beyond
    from by_workspace where nth <= p_workspace_free[n]),
  by_type as (
    select *, row_number() over (partition by job_type
      order by is_beyond, start_tag, ready_at, job_id) as nth_of_type from tagged),
  picked as (
    select n, start_tag from by_type where nth_of_type <= p_type_free[n]
    order by is_beyond, start_tag, ready_at, job_id limit p_limit),
  shares as (select p.n, count(*)::integer as jobs, max(p.start_tag) as start_tag from picked as p group by p.n)
  select coalesce(array_agg(s.n), '{}'), coalesce(array_agg(s.jobs), '{}'), max(s.start_tag),
    exists (select 1 from heads as h group by h.n having count(*) >= p_each and v_most[h.n] > p_each)
  into numbers, jobs, virtual_time, cut from shares as s;
end;
$$;
comment on function queue.allot_bound is E'Divide p_limit slots among partitions of which some belong to a limited scope: {numbers, jobs}, how many fall to which of p_ids.\n\np_…_free: what each of their scopes may start, in the order of p_ids. cut: one of which p_each were looked at may have more.';

create function queue.allot_unbound(
  p_ids uuid[], p_tags double precision[], p_priorities double precision[], p_oldest timestamptz[], p_limit integer,
  p_each integer,
  out numbers integer[], out jobs integer[], out virtual_time double precision, out cut boolean
)
language plpgsql
set search_path = ''
as $$
begin
  with heads as materialized (
    select h.* from queue.heads_of(p_ids, p_tags, p_priorities, p_oldest,
      array_fill(least(p_limit, p_each), array[cardinality(p_ids)]), p_limit) as h),
  turns as (
    select h.*, row_number() over (partition by h.workspace_id order by h.priority, h.ready_at, h.job_id) as nth
    from heads as h),
  picked as (
    select t.n, t.tag + (t.nth - 1) / t.weight as start_tag from turns as t
    order by t.nth > t.spare, start_tag, t.ready_at, t.job_id limit p_limit),
  shares as (select p.n, count(*)::integer as jobs, max(p.start_tag) as start_tag from picked as p group by p.n)
  select coalesce(array_agg(s.n), '{}'), coalesce(array_agg(s.jobs), '{}'), max(s.start_tag),
    p_limit > p_each and exists (select 1 from heads as h group by h.n having count(*) >= p_each)
  into numbers, jobs, virtual_time, cut from shares as s;
end;
$$;
comment on function queue.allot_unbound is 'queue.allot_bound where none of the partitions belongs to a limited scope.';

create function queue.take(
  p_ids uuid[], p_places tid[], p_job_places tid[], p_types text[], p_worker_id text, p_tick_id uuid, p_call integer,
  p_lease_seconds integer, p_now timestamptz,
  out leases json, out leased integer, out partitions uuid[], out jobs integer[], out is_rated boolean
)
language plpgsql
set search_path = ''
as $$
declare
  v_first constant jsonb := jsonb_build_object('status', 'processing', 'attempts', 1, 'worker_id', p_worker_id);
begin
  if exists (select 1 from queue.unique_jobs) then
    delete from queue.unique_jobs where job_id = any (p_ids) and until = 'leased';
  end if;
  with gone as materialized ( -- by where they lie: looking each up again would be a tenth of the lease
    delete from queue.ready as r using unnest(p_places, p_job_places) as h (place, job_place) where r.ctid = h.place
    returning r.partition_id, r.ready_at, h.job_place),
  types as materialized (
    select t.job_type, t.events, t.timeout_seconds, t.rate_limit,
      coalesce(p_lease_seconds, t.lease_seconds) as lease_seconds from queue.job_types as t
    where t.job_type = any (p_types)),
  started as materialized (
    update public.jobs as j set status = 'processing', attempts = j.attempts + 1, fence = j.fence + 1,
      started_at = coalesce(j.started_at, greatest(p_now, j.created_at)), -- committed after the clock was read
      queue_ms = coalesce(j.queue_ms, date_part('epoch', p_now - g.ready_at) * 1000), updated_at = p_now,
      next_retry_at = null, last_seq = j.last_seq + case when t.events = 'full' then 1 else 0 end
    from gone as g, types as t
    -- one that was put off between the choice and its lock is pending, but no longer ready
    where j.ctid = g.job_place and t.job_type = j.job_type
    returning j.id, j.fence, j.workspace_id, j.user_id, j.session_id, j.job_type, j.queue, j.payload, j.schema_version,
      j.concurrency_key, j.attempts, j.max_attempts, j.last_seq, j.priority, j.created_at, j.parent_id, j.traceparent,
      j.progress, j.deadline_at, coalesce(j.timeout_seconds, t.timeout_seconds) as timeout_seconds,
      g.partition_id, g.ready_at, t.events, t.lease_seconds, t.rate_limit),
  leased as (
    insert into queue.leases (job_id, fence, workspace_id, job_type, concurrency_key, partition_id, ready_at,
      attempt, worker_id, tick_id, tick_call, leased_at, lease_seconds, expires_at, job_created_at)
    select s.id, s.fence, s.workspace_id, s.job_type, coalesce(s.concurrency_key, ''), s.partition_id, s.ready_at,
      s.attempts, p_worker_id, p_tick_id, p_call, p_now, s.lease_seconds,
      p_now + make_interval(secs => s.lease_seconds), s.created_at
    from started as s),
  appended as (
    insert into public.job_events (job_id, seq, workspace_id, session_id, type, data, created_at)
    select s.id, s.last_seq, s.workspace_id, s.session_id, 'job.leased',
      case s.attempts when 1 then v_first
        else jsonb_build_object('status', 'processing', 'attempts', s.attempts, 'worker_id', p_worker_id) end, p_now
    from started as s where s.events = 'full'),
  shares as (
    select s.partition_id, count(*)::integer as jobs, bool_or(s.rate_limit is not null) as is_rated
    from started as s group by s.partition_id)
  -- the answer is text from here on: as jsonb it would cost more than the rest of the lease. By names, never by a
  -- type's places: a column more would stop every session whose plan is older.
  select coalesce(json_agg(answer order by s.priority, s.created_at, s.id), '[]'), count(*),
    (select array_agg(h.partition_id) from shares as h), (select array_agg(h.jobs) from shares as h),
    (select bool_or(h.is_rated) from shares as h)
  into leases, leased, partitions, jobs, is_rated
  from started as s
  cross join lateral (
    select s.id, s.workspace_id, s.user_id, s.session_id, s.queue, s.job_type, s.payload, s.schema_version, s.priority,
      s.attempts, s.max_attempts, s.created_at, s.parent_id, s.traceparent, s.progress, s.timeout_seconds,
      s.deadline_at) as job
  cross join lateral (
    select s.fence, s.lease_seconds, p_now + make_interval(secs => s.lease_seconds) as lease_expires_at,
      case when s.fence = 1 then '{}' else queue.steps_of(s.id) end as steps, job) as answer;
end;
$$;
comment on function queue.take is E'Lease jobs that queue.hold has locked: ready → lease, attempt and fence up by one. Gives the leases as workers get them, how many, and how many of each partition.\n\np_places, p_job_places: where the rows of queue.ready and of public.jobs lie; nothing can be put there while the transaction that saw them lasts. p_types: the types that they may have. is_rated: some are of a type with a rate limit.';

create function queue.move_marks(
  p_partitions uuid[], p_ids uuid[], p_oldest timestamptz[], p_rewinds bigint[], p_now timestamptz, p_horizon xid8
) returns void
language plpgsql
set search_path = ''
as $$
begin
  -- What was seen of a partition is its head, the oldest that anyone can see. What cannot be seen yet is
  -- older only if its transaction began before ours, for later ones read their clock after our start.
  -- Once all before ours have ended, nothing older than that start or than the head can turn up: dead
  -- rows before are never looked at again, not even while a held snapshot keeps them. A job that came back
  -- meanwhile has raised rewinds. Another that leases from it now writes the same: no one waits for that.
  update queue.partitions as p set last_leased_at = p_now,
    claim_from = greatest(p.claim_from, head.oldest - interval '5 seconds',
      case when p.mark_xid <= p_horizon then least(p.mark_from, head.oldest) end),
    mark_from = case when p.mark_xid > p_horizon then p.mark_from
      else least(head.oldest, p_now - (clock_timestamp() - now())) end,
    mark_xid = case when p.mark_xid > p_horizon then p.mark_xid else pg_current_xact_id() end
  from unnest(p_ids, p_oldest, p_rewinds) as head (id, oldest, rewinds)
  where p.id = any (array(
      select k.id from queue.partitions as k where k.id = any (p_partitions) for no key update skip locked))
    and p.id = head.id and p.rewinds = head.rewinds;
end;
$$;
comment on function queue.move_marks is E'Note the lease on its partitions, and move their watermarks.\n\np_oldest: the oldest job seen in each of p_ids. p_horizon: every transaction below it had ended before these were seen.';

create function queue.pass_turns(
  p_partitions uuid[], p_jobs integer[], p_virtual_time double precision
) returns void
language plpgsql
set search_path = ''
as $$
declare
  v_nil constant uuid := '00000000-0000-0000-0000-000000000000';
  v_now double precision := coalesce((select s.finish_tag from queue.shares as s where s.workspace_id = v_nil), 0);
begin
  with kinds as materialized (
    select k.workspace_id, k.job_type, k.queue,
      greatest(v_now, (select s.finish_tag from queue.shares as s where s.workspace_id = k.workspace_id))
      + k.jobs / coalesce(
        (select tl.weight from queue.tenant_limits as tl where tl.workspace_id = k.workspace_id), 1) as tag
    from (
      select p.workspace_id, p.job_type, p.queue, sum(sum(u.jobs)) over (partition by p.workspace_id) as jobs
      from unnest(p_partitions, p_jobs) as u (id, jobs)
      cross join lateral (select * from queue.partitions as o where o.id = u.id limit 1) as p
      group by 1, 2, 3) as k),
  turns as materialized (
    select k.tag, h.place from kinds as k
    cross join lateral (
      select h.ctid as place from queue.turns as h
      where h.workspace_id = k.workspace_id and h.job_type = k.job_type and h.queue = k.queue
      limit 1 for no key update skip locked) as h),
  shares as materialized (
    select k.tag, h.place from (select distinct k.workspace_id, k.tag from kinds as k) as k
    cross join lateral (
      select h.ctid as place from queue.shares as h where h.workspace_id = k.workspace_id
      limit 1 for no key update skip locked) as h),
  shared as (
    update queue.shares as s set finish_tag = k.tag from shares as k where s.ctid = k.place)
  update queue.turns as u set tag = k.tag from turns as k where u.ctid = k.place;
  if v_now < p_virtual_time then
    update queue.shares set finish_tag = p_virtual_time where finish_tag < p_virtual_time
      and ctid = any (array(select s.ctid from queue.shares as s where s.workspace_id = v_nil
        for no key update skip locked));
  end if;
end;
$$;
comment on function queue.pass_turns is E'Move the tenants of leased jobs back in the order, by the tags of start-time fair queueing. p_jobs: how many were leased from each of p_partitions.\n\nWaits for no one: of two leases of one tenant at this very moment one is counted.';

create function queue.spend_tokens(p_partitions uuid[], p_jobs integer[], p_now timestamptz) returns void
language plpgsql
set search_path = ''
as $$
declare
  v_nil constant uuid := '00000000-0000-0000-0000-000000000000';
begin
  insert into queue.buckets as b (job_type, workspace_id, concurrency_key, tokens, refilled_at)
  select t.job_type, case when t.rate_per_key then p.workspace_id else v_nil end,
    case when t.rate_per_key then p.concurrency_key else '' end, max(t.rate_limit) - sum(u.jobs), p_now
  from unnest(p_partitions, p_jobs) as u (id, jobs)
  cross join lateral (select * from queue.partitions as o where o.id = u.id limit 1) as p
  join queue.job_types as t on t.job_type = p.job_type and t.rate_limit is not null
  group by 1, 2, 3
  on conflict (job_type, workspace_id, concurrency_key) do update set
    tokens = (select queue.tokens(b.tokens, b.refilled_at, t.rate_limit, t.rate_per_seconds, p_now)
        - (t.rate_limit - excluded.tokens)
      from queue.job_types as t where t.job_type = b.job_type),
    refilled_at = excluded.refilled_at;
end;
$$;
comment on function queue.spend_tokens is 'Take a token for each leased job of a rate-limited type; p_jobs: how many were leased from each of p_partitions. The caller holds the scopes'' rows.';

create function queue.leases_of_call(p_tick_id uuid, p_call integer) returns json
language plpgsql stable
set search_path = ''
as $$
begin
  return (
    select coalesce(json_agg(answer), '[]')
    from queue.leases as l
    join public.jobs as j on j.id = any (array[l.job_id])
    join queue.job_types as t on t.job_type = j.job_type
    cross join lateral (
      select j.id, j.workspace_id, j.user_id, j.session_id, j.queue, j.job_type, j.payload, j.schema_version,
        j.priority, j.attempts, j.max_attempts, j.created_at, j.parent_id, j.traceparent, j.progress,
        coalesce(j.timeout_seconds, t.timeout_seconds) as timeout_seconds, j.deadline_at) as job
    cross join lateral (
      select l.fence, l.lease_seconds, l.expires_at as lease_expires_at, queue.steps_of(j.id) as steps, job) as answer
    where l.tick_id = p_tick_id and l.tick_call = p_call);
end;
$$;
comment on function queue.leases_of_call is 'The leases of an earlier answer to the same call, which may have been lost, as far as they are still held.';

create function queue.put_turns_aside(p_turns queue.turns[], p_until timestamptz) returns void
language plpgsql
set search_path = ''
as $$
begin
  update queue.turns set set_aside = true, look_at = p_until where ctid = any (array(
    select t.place from unnest(p_turns) as u
    cross join lateral (
      select t.ctid as place from queue.turns as t
      where t.workspace_id = u.workspace_id and t.job_type = u.job_type and t.queue = u.queue
      limit 1 for update skip locked) as t));
end;
$$;
comment on function queue.put_turns_aside is E'Set tenants aside that are paused or at a limit, so that the next leases do not read them.\n\nA settlement, or lifting the limit or the pause, brings them back; queue.look_again does when that was missed.';

create function queue.put_partitions_aside(p_ids uuid[], p_until timestamptz) returns void
language plpgsql
set search_path = ''
as $$
begin
  update queue.partitions set set_aside = true, look_at = p_until where id = any (array(
    select id from queue.partitions where id = any (p_ids) order by id for no key update skip locked));
end;
$$;
comment on function queue.put_partitions_aside is 'The same as queue.put_turns_aside for partitions whose key is at its limit.';

create function queue.put_full_aside(
  p_ids uuid[], p_workspace_free integer[], p_type_workspace_free integer[], p_key_free integer[], p_missed boolean[],
  p_until timestamptz
) returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_full record;
begin
  select array_agg(s.id) filter (where s.key_free <= 0) as keys,
    array_agg(s.id) filter (where least(s.workspace_free, s.type_workspace_free) <= 0) as tenants into v_full
  from unnest(p_ids, p_workspace_free, p_type_workspace_free, p_key_free, p_missed)
    as s (id, workspace_free, type_workspace_free, key_free, missed) where not s.missed;
  if v_full.tenants is not null then
    perform queue.put_turns_aside(array(
      select t.turn from (select distinct p.workspace_id, p.job_type, p.queue from queue.partitions as p
        where p.id = any (v_full.tenants)) as f
      cross join lateral (
        select t as turn from queue.turns as t
        where t.workspace_id = f.workspace_id and t.job_type = f.job_type and t.queue = f.queue
        limit 1) as t), p_until);
  end if;
  if v_full.keys is not null then
    perform queue.put_partitions_aside(v_full.keys, p_until);
  end if;
  return coalesce(cardinality(v_full.keys), 0) + coalesce(cardinality(v_full.tenants), 0);
end;
$$;
comment on function queue.put_full_aside is 'Set aside the partitions whose key is at its limit, and the tenants that are at one; return how many.';

create function queue.allot(
  p_ids uuid[], p_tags double precision[], p_priorities double precision[], p_oldest timestamptz[],
  p_is_bound boolean[], p_limit integer, p_each integer, p_count_due boolean, p_now timestamptz,
  out ids uuid[], out places tid[], out job_places tid[], out late uuid[], out virtual_time double precision,
  out due bigint, out busy boolean, out cut boolean, out missed uuid[], out aside integer
)
language plpgsql
set search_path = ''
as $$
declare
  v_asked uuid[];
  v_givers uuid[];
  v_free record; -- nulls where nothing is limited
  v_shares record;
begin
  if cardinality(p_ids) = 0 then
    ids := '{}';
    late := '{}';
    due := 0;
    busy := false;
    cut := false;
    missed := '{}';
    aside := 0;
    return;
  elsif true = any (p_is_bound) then
    select * into v_free from queue.count_free(p_ids, queue.hold_caps(p_ids, p_now), p_limit, p_now);
    select * into v_shares from queue.allot_bound(p_ids, p_tags, p_priorities, p_oldest, v_free.type_free,
      v_free.workspace_free, v_free.type_workspace_free, v_free.key_free, p_limit, p_each);
  else
    select null::integer[] as type_free, null::integer[] as workspace_free, null::integer[] as type_workspace_free,
      null::integer[] as key_free, null::boolean[] as missed into v_free;
    select * into v_shares from queue.allot_unbound(p_ids, p_tags, p_priorities, p_oldest, p_limit, p_each);
  end if;
  virtual_time := v_shares.virtual_time;
  cut := v_shares.cut;
  v_asked := array(select p_ids[s.n] from unnest(v_shares.numbers) as s (n));
  select h.ids, h.places, h.job_places, h.late, h.givers into ids, places, job_places, late, v_givers
  from queue.hold(v_asked, array(select p_oldest[s.n] from unnest(v_shares.numbers) as s (n)), v_shares.jobs,
    p_now) as h;
  busy := coalesce(true = any (v_free.missed), false)
    or cardinality(ids) + cardinality(late) < (select sum(s.jobs) from unnest(v_shares.jobs) as s (jobs));
  missed := array(
    (select u.id from unnest(v_asked) as u (id) except select u.id from unnest(v_givers) as u (id))
    union all select u.id from unnest(p_ids, v_free.missed) as u (id, missed) where u.missed);
  if p_count_due then
    due := (select count(*) from (
      select 1 from unnest(p_ids, v_free.type_free, v_free.workspace_free, v_free.type_workspace_free,
        v_free.key_free) as s (id, type_free, workspace_free, type_workspace_free, key_free)
      cross join lateral (
        select 1 from queue.ready as r where r.partition_id = s.id
        limit least(1001 + p_limit, s.type_free, s.workspace_free, s.type_workspace_free, s.key_free)) as r
      limit 1000 + p_limit) as counted);
  end if;
  aside := case when v_free.missed is null then 0 else queue.put_full_aside(p_ids, v_free.workspace_free,
    v_free.type_workspace_free, v_free.key_free, v_free.missed, p_now + interval '1 second') end;
end;
$$;
comment on function queue.allot is E'Divide p_limit slots among the partitions and lock the jobs that fall to each: {ids, places, job_places, late} of queue.hold.\n\nInside a tenant by priority, then age; between tenants by weighted start-time fair queueing, those beyond their share of the slots last (spare_slots); never beyond a limit. busy: another transaction held jobs that could have been leased; missed: the partitions of which it held all; aside: how many were at a limit, and have been set aside.';

create function queue.pick(
  p_job_types text[], p_queues text[], p_limit integer, p_budget_ms double precision, p_count_due boolean,
  p_now timestamptz,
  out ids uuid[], out places tid[], out job_places tid[], out late uuid[], out virtual_time double precision,
  out due bigint, out more boolean, out cut boolean, out empty uuid[], out types text[], out heads uuid[],
  out oldest timestamptz[], out rewinds bigint[]
)
language plpgsql
set search_path = ''
as $$
declare
  v_types text[] := queue.startable_types(p_job_types, p_budget_ms, p_now);
  v_most integer := p_limit + 1;
  v_depth integer := 1;
  v_aside_most constant integer := 40; -- then the call is long enough, and the next one continues
  v_aside integer := 0;
  v_held uuid[] := '{}'; -- partitions that other workers lease from at this moment
  v_turns queue.turns[];
  v_paused queue.turns[];
  v_heads integer; -- partitions that a turn is asked for first
  v_cut boolean;
  v_found record;
  v_allotted record;
begin
  empty := '{}';
  -- first the heads of a few turns, then of others beside those that are held or at a limit; deeper ones only when that
  -- leaves slots empty
  for v_round in 1..5 loop
    v_turns := queue.next_turns(v_types, p_queues, v_most);
    v_cut := cardinality(v_turns) >= v_most;
    if exists (select 1 from queue.pauses) then
      v_paused := queue.paused_turns(v_turns);
      perform queue.put_turns_aside(v_paused, p_now + interval '5 seconds') where cardinality(v_paused) > 0;
      v_turns := array(select u from unnest(v_turns) as u where u <> all (v_paused));
    end if;
    v_heads := ceil(1.5 * p_limit / greatest(1, least(v_most, cardinality(v_turns))))::integer + 1;
    select * into v_found from queue.find_candidates(v_turns, v_most,
      case v_depth when 1 then v_heads when 2 then 12 * v_heads
        else 12 * v_heads + 200 / greatest(1, least(v_most, cardinality(v_turns))) end, v_held, p_now);
    if v_cut and v_found.behind then
      perform queue.freshen_turns(v_turns);
    end if;
    empty := empty || v_found.empty;
    select v_found.cut, v_found.types, v_found.ids, v_found.oldest, v_found.rewinds
    into cut, types, heads, oldest, rewinds;
    if not p_count_due and (p_limit = 1 or cardinality(v_found.ids) = 1 and not (v_cut or v_found.cut)) then
      select h.ids, h.places, h.job_places, h.late, h.virtual_time, h.busy
      into ids, places, job_places, late, virtual_time, more
      from queue.hold_head(v_found.ids, v_found.tags, v_found.weights, v_found.oldest, v_found.is_bound, p_limit,
        p_now) as h;
      if cardinality(ids) > 0 then
        return;
      end if;
    end if;
    select * into v_allotted from queue.allot(v_found.ids, v_found.tags, v_found.priorities, v_found.oldest,
      v_found.is_bound, p_limit,
      case v_depth when 1 then ceil(4.0 * p_limit / greatest(1, cardinality(v_found.ids)))::integer + 4
        else p_limit end,
      p_count_due, p_now);
    exit when cardinality(v_allotted.ids) >= p_limit or not (v_cut or v_found.cut or v_allotted.cut);
    v_held := v_held || v_allotted.missed;
    v_aside := v_aside + v_allotted.aside;
    exit when v_aside >= v_aside_most;
    if v_round <= 2 and (cardinality(v_allotted.missed) > 0 or v_allotted.aside > 0) then
      v_most := v_most + cardinality(v_allotted.missed);
    else
      exit when v_depth = 3;
      v_depth := v_depth + 1;
      v_most := case v_aside when 0 then 8 * v_most + 32 else v_most + 64 end;
    end if;
  end loop;
  select v_allotted.ids, v_allotted.places, v_allotted.job_places, v_allotted.late, v_allotted.virtual_time,
    v_allotted.due into ids, places, job_places, late, virtual_time, due;
  more := (v_allotted.busy or v_held <> '{}' or v_aside >= v_aside_most) and cardinality(ids) < p_limit;
  if p_count_due and (v_cut or v_found.cut) then
    due := greatest(due, (select count(*) from (select 1 from queue.ready limit 1000 + p_limit) as r));
  end if;
end;
$$;
comment on function queue.pick is E'Choose jobs to lease and lock them: {ids, places, job_places, late, virtual_time, due, more, cut, empty, types, heads, oldest, rewinds}.\n\nmore: slots stayed empty because another worker held at that moment jobs that could have been leased, or because many that are at a limit had to be set aside first. empty: partitions met without a job. cut: others of their turns were not looked at. types: those of the heads. oldest: the first job seen in each of heads. late: jobs to fail, since their deadline has passed.';

create function queue.bring_back(p_workspace_ids uuid[], p_job_types text[], p_keys text[]) returns void
language plpgsql
set search_path = ''
set enable_seqscan = off -- a session's plan may be older than the rows, and each is found by its key
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
begin
  update queue.turns set set_aside = false, look_at = null where ctid = any (array(
    select t.ctid from queue.turns as t
    where t.workspace_id = any (p_workspace_ids) and t.set_aside for update skip locked));
  update queue.partitions set set_aside = false, look_at = null where ctid = any (array(
    select p.ctid from (select distinct w, t, k from unnest(p_workspace_ids, p_job_types, p_keys) as u (w, t, k)) as u
    join queue.partitions as p on p.workspace_id = u.w and p.job_type = u.t and p.concurrency_key = u.k and p.set_aside
    for no key update of p skip locked));
end;
$$;
comment on function queue.bring_back is 'Bring back what was set aside of these tenants and keys, since slots have become free. Never waits.';

create function queue.bring_back_of(p_ids uuid[]) returns void
language plpgsql
set search_path = ''
as $$
begin
  if exists (select 1 from queue.turns where set_aside) or exists (select 1 from queue.partitions where set_aside) then
    perform queue.bring_back(array_agg(workspace_id), array_agg(job_type), array_agg(coalesce(concurrency_key, '')))
    from public.jobs where id = any (p_ids);
  end if;
end;
$$;
comment on function queue.bring_back_of is 'The same as queue.bring_back for the tenants and keys of jobs whose leases have ended.';

create function queue.bring_all_back(p_job_type text, p_workspace_id uuid) returns void
language sql
set search_path = ''
as $$
  update queue.turns set set_aside = false, look_at = null where ctid = any (array(
    select ctid from queue.turns where set_aside and (p_job_type is null or job_type = p_job_type)
      and (p_workspace_id is null or workspace_id = p_workspace_id) for update skip locked));
  update queue.partitions set set_aside = false, look_at = null where ctid = any (array(
    select ctid from queue.partitions where set_aside and (p_job_type is null or job_type = p_job_type)
      and (p_workspace_id is null or workspace_id = p_workspace_id) for no key update skip locked));
$$;
comment on function queue.bring_all_back is 'The same as queue.bring_back for all of a type or a tenant, since a limit or a pause was lifted; null for every one.';

create function queue.came_meanwhile(
  p_job_types text[], p_queues text[], p_budget_ms double precision, p_now timestamptz
) returns boolean
language plpgsql
set search_path = ''
as $$
declare
  v_turns queue.turns[];
  v_paused queue.turns[];
begin
  if not exists (select 1 from queue.turns where not set_aside) then
    return false; -- nothing waits at all
  end if;
  v_turns := queue.next_turns(queue.startable_types(p_job_types, p_budget_ms, p_now), p_queues, 10);
  v_paused := queue.paused_turns(v_turns);
  return exists (
    select 1 from unnest(v_turns) as u
    cross join lateral (
      select * from queue.partitions as p
      where p.workspace_id = u.workspace_id and p.job_type = u.job_type and p.queue = u.queue and not p.set_aside
      order by p.priority, p.last_leased_at limit 10) as p
    cross join lateral (
      select 1 from queue.ready as r where r.partition_id = p.id and r.ready_at >= p.claim_from
      order by r.ready_at limit 1) as r
    where u <> all (v_paused));
end;
$$;
comment on function queue.came_meanwhile is E'Whether a job is there that a choice which found none could have taken, had it been made now.\n\nIt became ready since, and the transaction that made it so, or opened its partition, may not be one that leases it.';

create function queue.lease(p_request jsonb) returns json
language plpgsql
set search_path = ''
-- for all that a lease calls; each setting costs what a look-up costs. A session's plans may be older than the rows,
-- and each row is found by its key: joined by the wrong statistics a look-up would read every tenant.
set plan_cache_mode = 'force_generic_plan'
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
set jit = off
as $$
declare
  v_now timestamptz;
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
  v_given record;
  v_next bigint;
begin
  if v_worker is null or v_tick is null or char_length(v_worker) > 200 then
    perform queue.refuse(400, 'invalid_argument', 'worker_id and tick_id are required', 'worker_id');
  elsif v_limit not between 0 and 1000 then
    perform queue.refuse(400, 'invalid_argument', 'limit must be between 0 and 1000', 'limit');
  elsif v_seconds not between 1 and 43200 then
    perform queue.refuse(400, 'invalid_argument', 'lease_seconds must be between 1 and 43200', 'lease_seconds');
  end if;
  perform pg_current_xact_id(); -- before the clock is read: see the marks of queue.partitions
  v_now := queue.clock();

  select last_call into v_answered from queue.ticks where tick_id = v_tick for update;
  if not found then
    insert into queue.ticks (tick_id, worker_id, version, job_types, queues, started_at, seen_at)
    values (v_tick, v_worker, p_request ->> 'version', v_types, v_queues, v_now, v_now)
    on conflict (tick_id) do nothing;
    select last_call into v_answered from queue.ticks where tick_id = v_tick for update;
  end if;
  if v_call <= v_answered then
    return json_build_object('leases', queue.leases_of_call(v_tick, v_call),
      'maintenance', queue.maintenance_is_due(v_now), 'due', 0,
      'next_due_in_ms', 0, 'repeated', true); -- what has come since, or is to come, another call must find
  end if;
  if v_call = 1 then
    perform queue.see_worker(p_request, v_types, v_queues, v_now);
  end if;

  if exists (select 1 from queue.wakeups where requested_at is not null) then
    update queue.wakeups set requested_at = null
    where id in (select id from queue.wakeups where requested_at is not null for update skip locked);
  end if;
  select * into v_given from queue.give(v_types, v_queues, v_limit, (p_request ->> 'budget_ms')::double precision,
    v_call = 1 or coalesce((p_request ->> 'count_due')::boolean, false), v_worker, v_tick, v_call, v_seconds, v_now);

  update queue.ticks set last_call = v_call, seen_at = v_now, leased = leased + v_given.leased,
    leased_at = case when v_given.leased > 0 then v_now else leased_at end,
    free_slots = coalesce((p_request ->> 'free_slots')::numeric::integer, v_limit - v_given.leased)
  where tick_id = v_tick;
  if v_given.leased < v_limit or v_limit = 0 then
    v_next := queue.next_due_in_ms(v_given.more, v_now);
    -- last: what was not to come any more when that was read is there by now
    if v_given.leased = 0 and v_limit > 0 and v_next is distinct from 0
        and queue.came_meanwhile(v_types, v_queues, (p_request ->> 'budget_ms')::double precision, v_now) then
      v_next := 0;
    end if;
  end if;
  return json_build_object('leases', v_given.leases,
    'maintenance', v_given.leased < v_limit and queue.maintenance_is_due(v_now),
    'due', coalesce(least(1000, greatest(0, v_given.due - v_given.leased)),
      case when v_limit > 0 and v_given.leased >= v_limit then 1 else 0 end),
    'next_due_in_ms', v_next);
end;
$$;
comment on function queue.lease is 'See public.lease_jobs.';

create function queue.next_token_at(p_now timestamptz) returns timestamptz
language plpgsql
set search_path = ''
as $$
begin
  return (
    select min(p_now + make_interval(secs => (1 - b.tokens) * t.rate_per_seconds / t.rate_limit))
    from queue.job_types as t
    cross join lateral (
      select queue.tokens(b.tokens, b.refilled_at, t.rate_limit, t.rate_per_seconds, p_now) as tokens
      from queue.buckets as b
      where b.job_type = t.job_type and b.workspace_id = '00000000-0000-0000-0000-000000000000'
        and b.concurrency_key = '' limit 1) as b
    where t.rate_limit is not null and not t.rate_per_key and t.paused_at is null and b.tokens < 1
      and exists (select 1 from queue.turns as u where u.job_type = t.job_type and not u.set_aside));
end;
$$;
comment on function queue.next_token_at is E'When the first type whose rate is used up, and of which jobs wait, may start one again; null for no such type.\n\nThe choice does not look at such a type at all, so nothing of it is set aside.';

create function queue.next_due_in_ms(p_more boolean, p_now timestamptz) returns bigint
language plpgsql
set search_path = ''
as $$
declare
  v_soon constant timestamptz := p_now + interval '1 second';
  v_next timestamptz := least(
    (select min(run_at) from queue.deferred), (select min(timeout_at) from queue.waits),
    (select p_now from queue.signals limit 1), (select p_now from queue.openings limit 1),
    case when p_more then p_now end,
    -- a settlement may have missed what was set aside in that moment: an idle worker then looks once a second
    case when exists (select 1 from queue.partitions where set_aside) then v_soon end);
  v_aside queue.turns[];
begin
  if v_next is null or v_next > v_soon then
    -- not for what is paused: resuming it wakes a worker, and until then a run would wait for nothing
    v_aside := array(select t from queue.turns as t where t.set_aside order by t.look_at limit 20);
    v_next := case when cardinality(v_aside) > cardinality(queue.paused_turns(v_aside)) then v_soon
      else least(v_next, queue.next_token_at(p_now)) end;
  end if;
  -- greatest() leaves nulls out: without the case a worker with nothing to do would ask again at once
  return case when v_next is not null then greatest(0, ceil(extract(epoch from v_next - p_now) * 1000)) end;
end;
$$;
comment on function queue.next_due_in_ms is E'When a worker with free slots should ask again; null for not before it is woken.\n\np_more: another worker held jobs that could have been leased.';

create function queue.give(
  p_job_types text[], p_queues text[], p_limit integer, p_budget_ms double precision, p_count_due boolean,
  p_worker_id text, p_tick_id uuid, p_call integer, p_lease_seconds integer, p_now timestamptz,
  out leases json, out leased integer, out due bigint, out more boolean
)
language plpgsql
set search_path = ''
as $$
declare
  v_opens boolean := false; -- one at a time opens and closes partitions; no one waits
  v_unopened boolean := false; -- another lease is opening some at this moment
  v_horizon xid8;
  v_picked record;
  v_ids uuid[];
  v_taken record;
  v_now timestamptz;
  v_from uuid[] := '{}';
begin
  leases := '[]';
  leased := 0;
  if exists (select 1 from queue.openings) then
    v_opens := queue.try_lock('partitions');
    v_unopened := not v_opens;
    if v_opens then
      -- a thousand at once took thirty milliseconds, which the next job of all tenants waited for
      perform queue.open_openings(greatest(20, p_limit), p_now);
    end if;
  end if;
  if exists (select 1 from queue.turns where set_aside and look_at <= p_now)
    or exists (select 1 from queue.partitions where set_aside and look_at <= p_now) then
    perform queue.look_again(least(20, p_limit + 3), p_now);
  end if;
  v_horizon := pg_snapshot_xmin(pg_current_snapshot()); -- of a snapshot before that of the choice
  select * into v_picked from queue.pick(p_job_types, p_queues, p_limit, p_budget_ms, p_count_due, p_now);
  due := v_picked.due;
  -- those that another lease has opened since the choice were not among what was chosen from
  more := v_picked.more or p_limit > 0 and (v_unopened or exists (select 1 from queue.openings));
  if cardinality(v_picked.late) > 0 then
    perform queue.finish(v_picked.late, 'failed', 'its deadline passed before it could run',
      '{"type": "DeadlinePassed", "reason": "deadline_passed"}', p_now);
  end if;
  if cardinality(v_picked.ids) > 0 then
    v_now := greatest(p_now, queue.clock()); -- one that was enqueued since p_now begins after that
    select * into v_taken from queue.take(v_picked.ids, v_picked.places, v_picked.job_places, v_picked.types,
      p_worker_id, p_tick_id, p_call, p_lease_seconds, v_now);
    leases := v_taken.leases;
    leased := v_taken.leased;
    if leased > 0 then
      v_from := v_taken.partitions;
      perform queue.move_marks(v_from, v_picked.heads, v_picked.oldest, v_picked.rewinds, v_now, v_horizon);
      perform queue.pass_turns(v_from, v_taken.jobs, v_picked.virtual_time);
      if v_taken.is_rated then
        perform queue.spend_tokens(v_from, v_taken.jobs, v_now);
      end if;
    end if;
  end if;
  v_ids := v_picked.empty || array(
    select f.id from unnest(v_from) as f (id)
    cross join lateral (select p.claim_from from queue.partitions as p where p.id = f.id limit 1) as p
    where not exists (select 1 from queue.ready as r where r.partition_id = f.id and r.ready_at >= p.claim_from
      order by r.ready_at limit 1 offset 0)); -- an offset, so that it stays a look-up for each
  if cardinality(v_ids) > 0 and (v_opens or queue.try_lock('partitions')) then
    -- jobs may lie behind those that are gone now
    more := queue.close_partitions(v_ids) > 0 and v_picked.cut and leased < p_limit or more;
  end if;
end;
$$;
comment on function queue.give is 'Open the partitions of new jobs, choose jobs and lease them, and close empty partitions: {leases, leased, due, more}.';

create function public.lease_jobs(p_request jsonb) returns json
language plpgsql
security definer -- the worker holds no rights on the engine's tables
set search_path = ''
set lock_timeout = '8s'
as $$
begin
  perform queue.refuse_revoked();
  return queue.lease(p_request);
exception
  when invalid_text_representation or numeric_value_out_of_range then
    perform queue.refuse_value('the request', 'p_request', sqlerrm);
end;
$$;
comment on function public.lease_jobs is E'Lease up to limit jobs: {leases, maintenance, due, next_due_in_ms}.\n\nRequest: {worker_id, tick_id, call, limit 0..1000, job_types, queues, lease_seconds, budget_ms, version, free_slots}. A repeated (tick_id, call) gets the same leases. Each lease counts as an attempt. maintenance says that a call of run_maintenance would find something to do; with nothing to do this is the one query of an idle tick.';

revoke execute on function public.lease_jobs from public, anon, authenticated, service_role;
grant execute on function public.lease_jobs to job_worker, service_role;
