-- Lease: hand each ready job to one worker, exact in limits, fair between tenants, without a global lock.
-- Nothing waits here: what two workers may not do at once is a narrow row of its own, taken with skip locked.

create function queue.try_lock(p_name text) returns boolean
language sql
set search_path = ''
as $$ select pg_try_advisory_xact_lock(hashtextextended('minutehand ' || p_name, 0)) $$;
comment on function queue.try_lock is E'Take the named lock until the transaction ends; false when another has it, at once.\n\nNames: partitions (opening and closing them), maintenance, deliveries.';

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
  with expired as materialized (
    delete from queue.leases where job_id = any (v_ids) and expires_at <= p_now returning *),
  fates as materialized (
    select l.*, j.lost_attempts + 1 as lost, case
      when l.cancel_requested then 'cancelled'
      when j.attempts >= j.max_attempts or j.lost_attempts + 1 >= v_max_lost or j.deadline_at <= p_now then 'failed'
      else 'pending' end as fate,
      case when j.deadline_at <= p_now then 'deadline_passed' else 'worker_lost' end as reason
    from expired as l join public.jobs as j on j.id = l.job_id),
  moved as (
    update public.jobs as j set status = f.fate, lost_attempts = f.lost, updated_at = p_now,
      finished_at = case when f.fate <> 'pending' then p_now end,
      -- until its worker was last heard of
      run_ms = j.run_ms + greatest(0, date_part('epoch', f.expires_at - f.leased_at) - f.lease_seconds) * 1000,
      outcome = case when f.fate <> 'pending' then f.fate end,
      next_retry_at = null,
      error_message = case when f.fate = 'cancelled' then j.error_message else format(
        'the lease of attempt %s expired %s after worker %s was last heard of (%s time%s so far)',
        f.attempt, date_trunc('second', p_now - f.expires_at + make_interval(secs => f.lease_seconds)), f.worker_id, f.lost,
        case when f.lost = 1 then '' else 's' end) end,
      error_data = case when f.fate = 'cancelled' then j.error_data
        else jsonb_build_object('type', 'WorkerLost', 'reason', f.reason, 'worker_id', f.worker_id, 'tick_id', f.tick_id) end,
      error_fingerprint = case when f.fate = 'failed' then queue.fingerprint('WorkerLost', '') else j.error_fingerprint end,
      last_seq = j.last_seq + case when f.fate = 'pending' then 1 else 2 end
    from fates as f where j.id = f.job_id and j.id = any (v_ids)
    returning j.id, j.workspace_id, j.session_id, j.job_type, j.last_seq, j.attempts, j.error_message, j.error_data, j.created_at,
      j.queue, coalesce(j.concurrency_key, '') as concurrency_key, j.priority, f.fate, f.fence, f.attempt, f.worker_id, f.leased_at, f.partition_id, f.ready_at),
  back as (
    -- it keeps its place: whoever waited for it has waited long enough
    insert into queue.ready (partition_id, ready_at, job_id, workspace_id, job_created_at)
    select partition_id, ready_at, id, workspace_id, created_at from moved where fate = 'pending'),
  rewound as (
    insert into queue.openings (partition_id, workspace_id, queue, job_type, concurrency_key, priority, rewind)
    select distinct partition_id, workspace_id, queue, job_type, concurrency_key, priority, true
    from moved where fate = 'pending'),
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
  perform queue.bring_back_of(v_again || v_ids);
  return coalesce(cardinality(v_again), 0) + coalesce(cardinality(v_ids), 0);
end;
$$;
comment on function queue.reclaim is E'Take back expired leases: pending again, or failed when attempts or lost workers are spent, or cancelled when that was asked.\n\nThe lease''s end was stored at lease; nothing is recomputed here.';

create function queue.promote(p_limit integer, p_now timestamptz) returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_ids uuid[] := array(select job_id from queue.deferred where run_at <= p_now order by run_at limit p_limit);
begin
  if cardinality(v_ids) = 0 then
    return 0;
  end if;
  v_ids := array(
    select id from public.jobs where id = any (v_ids) and status = 'pending' order by id for update skip locked);
  with due as (
    delete from queue.deferred where job_id = any (v_ids) and run_at <= p_now returning *),
  moved as (
    insert into queue.ready (partition_id, ready_at, job_id, workspace_id, job_created_at)
    select partition_id, p_now, job_id, workspace_id, job_created_at from due),
  kinds as materialized (
    select distinct on (d.partition_id) d.partition_id, j.workspace_id, j.queue, j.job_type,
      coalesce(j.concurrency_key, '') as concurrency_key, j.priority
    from due as d join public.jobs as j on j.id = d.job_id),
  known as materialized (select id from queue.open_partitions(array(select partition_id from kinds)))
  insert into queue.openings (partition_id, workspace_id, queue, job_type, concurrency_key, priority)
  select partition_id, workspace_id, queue, job_type, concurrency_key, priority
  from kinds where partition_id not in (select id from known);
  return cardinality(v_ids);
end;
$$;
comment on function queue.promote is E'Move due jobs from deferred to ready.\n\nThe caller drew its transaction id before it read p_now: see the marks of queue.partitions.';

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
set enable_seqscan = off -- a session's plan may be older than the rows
as $$
declare
  v_after uuid := (select cursor::uuid from queue.maintenance_tasks where name = 'sweep');
  v_looked uuid[];
begin
  -- the net below openings and marks: some partitions that have jobs, in the order of their ids
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
  join public.jobs as j on j.id = r.job_id
  where not exists (select 1 from queue.partitions as p where p.id = l.id and p.claim_from = '-infinity'
    and exists (select 1 from queue.turns as t where t.workspace_id = p.workspace_id and t.job_type = p.job_type and t.queue = p.queue));
  update queue.maintenance_tasks set cursor = case when cardinality(v_looked) = 1000 then v_looked[1000]::text end where name = 'sweep';
  delete from queue.shares as s where ctid = any (array(
    select old.ctid from queue.shares as old
    where old.workspace_id <> '00000000-0000-0000-0000-000000000000'
      and old.finish_tag <= (select finish_tag from queue.shares where workspace_id = '00000000-0000-0000-0000-000000000000')
    limit 1000 for update skip locked));
  delete from queue.caps where id = any (array(
    select c.id from queue.caps as c
    where c.scope = 'key' and c.opened_at < p_now - interval '10 minutes' and not exists (
      select 1 from queue.partitions as p where p.workspace_id = c.workspace_id and p.job_type = c.job_type
        and p.concurrency_key = c.concurrency_key)
    order by c.opened_at limit 1000 for update skip locked));
end;
$$;
comment on function queue.sweep is 'Once a minute, a thousand partitions at a time: watermarks back to the start, missing partitions opened, shares and caps that nobody needs removed.';

create function queue.tokens(p_tokens double precision, p_at timestamptz, p_limit integer, p_seconds double precision, p_now timestamptz)
returns double precision
language sql immutable
set search_path = ''
as $$
  select least(p_limit, coalesce(p_tokens + greatest(0, extract(epoch from p_now - p_at)) * p_limit / p_seconds, p_limit))
$$;
comment on function queue.tokens is 'What a token bucket holds by now; a missing one is full.';

create function queue.open_openings(p_limit integer, p_now timestamptz) returns void
language plpgsql
set search_path = ''
set enable_seqscan = off -- a session's plan may be older than the rows, and each is found by its key
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  v_nil constant uuid := '00000000-0000-0000-0000-000000000000';
  v_start constant uuid := gen_random_uuid(); -- no tenant is always the first
  v_virtual double precision := coalesce((select finish_tag from queue.shares where workspace_id = v_nil), 0);
  v_ids bigint[];
  v_held uuid[];
begin
  v_ids := array(
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
      union all select workspace_id from around where workspace_id is not null)
    select o.id from (select workspace_id, ceil(p_limit::float / count(*) over ())::integer as most from tenants) as t
    cross join lateral (
      select o.id from queue.openings as o where o.workspace_id = t.workspace_id order by o.id limit t.most) as o);
  if cardinality(v_ids) = 0 then
    return;
  end if;
  insert into queue.turns (workspace_id, job_type, queue, tag)
  select distinct o.workspace_id, o.job_type, o.queue, greatest(s.finish_tag, v_virtual)
  from queue.openings as o left join queue.shares as s on s.workspace_id = o.workspace_id
  where o.id = any (v_ids) on conflict do nothing;
  insert into queue.shares (workspace_id, finish_tag)
  select distinct o.workspace_id, v_virtual from queue.openings as o where o.id = any (v_ids) on conflict do nothing;
  insert into queue.partitions (id, workspace_id, queue, job_type, concurrency_key, priority)
  select distinct o.partition_id, o.workspace_id, o.queue, o.job_type, o.concurrency_key, o.priority
  from queue.openings as o where o.id = any (v_ids) on conflict do nothing;
  v_held := array(
    select p.id from queue.partitions as p
    where p.id = any (array(select o.partition_id from queue.openings as o where o.id = any (v_ids) and o.rewind))
    for no key update skip locked);
  update queue.partitions set claim_from = '-infinity', mark_xid = null, mark_from = null, rewinds = rewinds + 1
  where id = any (v_held);
  -- one whose partition another lease holds is left to the next call
  delete from queue.openings where id = any (v_ids) and (not rewind or partition_id = any (v_held));
end;
$$;
comment on function queue.open_openings is E'Open partitions that got jobs, at most p_limit lines, an equal share of each of up to 500 tenants.\n\nThe caller holds the lock of the partitions, so that none is closed meanwhile.';

create function queue.close_partitions(p_ids uuid[]) returns void
language plpgsql
set search_path = ''
set enable_seqscan = off -- a session's plan may be older than the rows, and each is found by its key
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  -- one that an open transaction has put a job into is locked by it
  v_ids uuid[] := array(select id from queue.partitions where id = any (p_ids) order by id for update skip locked);
begin
  -- a statement of its own: it sees what was committed before the locks were taken
  with closed as (
    delete from queue.partitions as p where p.id = any (v_ids)
      and not exists (select 1 from queue.ready as r where r.partition_id = p.id and r.ready_at >= p.claim_from)
    returning p.id, p.workspace_id, p.job_type, p.queue)
  delete from queue.turns as t using (select distinct workspace_id, job_type, queue from closed) as c
  where t.workspace_id = c.workspace_id and t.job_type = c.job_type and t.queue = c.queue
    and not exists (select 1 from queue.partitions as p
      where p.workspace_id = c.workspace_id and p.job_type = c.job_type and p.queue = c.queue
        and p.id not in (select id from closed));
end;
$$;
comment on function queue.close_partitions is E'Remove those of the partitions that have no ready job, and turns that have no partition.\n\nThe caller holds the lock of the partitions.';

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
comment on function queue.look_again is E'Bring back what was set aside long enough.\n\nWhoever lifts a limit brings it back at once; this is the net for one set aside in that very moment.';

create function queue.scopes(p_ids uuid[])
returns table (scope text, job_type text, workspace_id uuid, concurrency_key text, cap_id bigint)
language sql stable
set search_path = ''
as $$
  with parts as materialized (
    select p.workspace_id, p.job_type, p.concurrency_key, t.max_concurrency, t.workspace_concurrency, t.key_concurrency,
      t.rate_limit, t.rate_per_key, exists (
        select 1 from queue.tenant_limits as tl
        where tl.workspace_id = p.workspace_id and coalesce(tl.max_running, tl.own_max_running) is not null) as is_bound
    from queue.partitions as p
    join queue.job_types as t on t.job_type = p.job_type
    where p.id = any (p_ids)),
  needed as (
    select distinct 'type' as scope, p.job_type, '00000000-0000-0000-0000-000000000000'::uuid as workspace_id, '' as key
    from parts as p where p.max_concurrency is not null or p.rate_limit is not null and not p.rate_per_key
    union all
    select distinct 'workspace', '', p.workspace_id, '' from parts as p where p.is_bound
    union all
    select distinct 'workspace_type', p.job_type, p.workspace_id, '' from parts as p where p.workspace_concurrency is not null
    union all
    select distinct 'key', p.job_type, p.workspace_id, p.concurrency_key from parts as p
    where p.key_concurrency is not null and p.concurrency_key <> '' or p.rate_limit is not null and p.rate_per_key)
  select n.scope, n.job_type, n.workspace_id, n.key, (
    select c.id from queue.caps as c
    where c.workspace_id = n.workspace_id and c.job_type = n.job_type and c.concurrency_key = n.key and c.scope = n.scope)
  from needed as n
$$;
comment on function queue.scopes is 'The limited scopes that partitions belong to, with the row to lock for each; null where there is none yet.';

create function queue.free_slots(
  p_scope text, p_job_type text, p_workspace_id uuid, p_key text, p_limit integer, p_now timestamptz
) returns integer
language plpgsql stable
set search_path = ''
set enable_seqscan = off -- a session's plan may be older than the rows
as $$
declare
  v_most constant integer := 2147483647;
  v_type queue.job_types;
  v_max integer;
  v_running integer := 0;
  v_tokens double precision;
begin
  if p_scope = 'workspace' then
    select least(max_running, own_max_running) into v_max from queue.tenant_limits where workspace_id = p_workspace_id;
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
      select 1 from queue.leases where job_type = p_job_type and workspace_id = p_workspace_id and concurrency_key = p_key
      limit v_max) as l where v_max is not null;
  end if;
  if v_type.rate_limit is not null and (p_scope = 'type' and not v_type.rate_per_key or p_scope = 'key' and v_type.rate_per_key) then
    select queue.tokens(b.tokens, b.refilled_at, v_type.rate_limit, v_type.rate_per_seconds, p_now) into v_tokens
    from queue.buckets as b
    where b.job_type = p_job_type and b.workspace_id = p_workspace_id and b.concurrency_key = p_key;
    return least(coalesce(v_max - v_running, v_most), floor(coalesce(v_tokens, v_type.rate_limit)));
  end if;
  return coalesce(v_max - v_running, v_most);
end;
$$;
comment on function queue.free_slots is E'How many more jobs a limited scope may start now.\n\nMost integers when it has no limit any more. The caller holds the scope''s row of queue.caps.';

create function queue.find_candidates(
  p_job_types text[], p_queues text[], p_budget_ms double precision, p_turns integer, p_depth integer,
  p_limit integer, p_now timestamptz,
  out ids uuid[], out tags double precision[], out priorities double precision[], out empty uuid[], out paused tid[],
  out cut boolean
)
language plpgsql
set search_path = ''
set plan_cache_mode = 'force_generic_plan' -- its plan does not depend on the values, and costs a millisecond
set enable_seqscan = off -- a session's plan may be older than the rows, and each is found by its key
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  v_nil constant uuid := '00000000-0000-0000-0000-000000000000';
  v_virtual double precision := coalesce((select s.finish_tag from queue.shares as s where s.workspace_id = v_nil), 0);
  v_max_budget double precision := (queue.setting('max_budget_ms'))::double precision;
begin
  with types as materialized (
    select t.job_type, t.ageing_seconds
    from queue.job_types as t
    left join queue.buckets as b on b.job_type = t.job_type and b.workspace_id = v_nil and b.concurrency_key = ''
    where t.paused_at is null and (p_job_types is null or t.job_type = any (p_job_types))
      and (p_budget_ms is null or t.run_p95_ms is null or t.run_p95_ms <= p_budget_ms or t.run_p95_ms > v_max_budget)
      -- a look before any lock is taken; what it lets through is counted again under the lock
      and (t.max_concurrency is null or t.max_concurrency > (select count(*) from (
        select 1 from queue.leases as l where l.job_type = t.job_type limit t.max_concurrency) as l))
      and (t.rate_limit is null or t.rate_per_key
        or queue.tokens(b.tokens, b.refilled_at, t.rate_limit, t.rate_per_seconds, p_now) >= 1)),
  heads as materialized (
    select u.*, t.ageing_seconds
    from types as t
    cross join lateral (
      select u.ctid as place, u.workspace_id, u.job_type, u.queue, u.tag from queue.turns as u
      where u.job_type = t.job_type and not u.set_aside order by u.tag, u.workspace_id limit p_turns) as u
    where p_queues is null
    union all
    select u.*, t.ageing_seconds
    from types as t
    cross join unnest(p_queues) as q (name)
    cross join lateral (
      select u.ctid as place, u.workspace_id, u.job_type, u.queue, u.tag from queue.turns as u
      where u.queue = q.name and u.job_type = t.job_type and not u.set_aside
      order by u.tag, u.workspace_id limit p_turns) as u),
  front as materialized (
    -- a look-up for each and no join: a generic plan would read every tenant
    select h.*, greatest(h.tag, v_virtual,
        (select s.finish_tag from queue.shares as s where s.workspace_id = h.workspace_id)) as tag_now,
      exists (select 1 from queue.pauses as p where p.kind = 'workspace' and p.name = h.workspace_id::text)
      or exists (select 1 from queue.pauses as p where p.kind = 'queue' and p.name = h.queue)
      or exists (select 1 from queue.pauses as p
        where p.kind = 'workspace_type' and p.name = h.workspace_id || '/' || h.job_type) as is_paused
    from heads as h
    order by tag_now, h.workspace_id, h.job_type, h.queue limit p_turns),
  fresh as ( -- a tag that is behind its tenant's would stand in front again and again
    update queue.turns as u set tag = (select f.tag_now from front as f where f.place = u.ctid)
    where u.ctid = any (array(
      select k.ctid from queue.turns as k
      where k.ctid = any (array(select f.place from front as f where f.tag < f.tag_now))
        and (select count(*) from heads) >= p_turns for no key update skip locked))),
  width as (
    select p_depth * (ceil(1.5 * p_limit / greatest(1, count(*)))::integer + 1) as parts from front where not is_paused),
  chosen as materialized (
    select p.id, f.tag_now, p.last_leased_at, head.ready_at, p.nth,
      p.priority - case when f.ageing_seconds is null or head.ready_at is null then 0
        else floor(extract(epoch from p_now - head.ready_at) / f.ageing_seconds) end as priority
    from front as f
    cross join width as w
    cross join lateral (
      select o.*, row_number() over () as nth from (
        select * from queue.partitions as o
        where o.workspace_id = f.workspace_id and o.job_type = f.job_type and o.queue = f.queue and not o.set_aside
        order by o.priority, o.last_leased_at limit w.parts) as o) as p
    left join lateral (
      select r.ready_at from queue.ready as r
      where r.partition_id = p.id and r.ready_at >= p.claim_from order by r.ready_at limit 1) as head on true
    where not f.is_paused)
  select coalesce(array_agg(c.id order by c.tag_now, c.priority, c.last_leased_at) filter (where c.ready_at is not null), '{}'),
    coalesce(array_agg(c.tag_now order by c.tag_now, c.priority, c.last_leased_at) filter (where c.ready_at is not null), '{}'),
    coalesce(array_agg(c.priority order by c.tag_now, c.priority, c.last_leased_at) filter (where c.ready_at is not null), '{}'),
    coalesce(array_agg(c.id) filter (where c.ready_at is null), '{}'),
    array(select f.place from front as f where f.is_paused),
    (select count(*) from heads) >= p_turns or coalesce(max(c.nth) >= (select parts from width), false)
  into ids, tags, priorities, empty, paused, cut
  from chosen as c;
end;
$$;
comment on function queue.find_candidates is E'The partitions whose turn it is, in the order of their tenants'' tags: {ids, tags, priorities}, at most p_turns tenants and p_depth times as many partitions of each as the limit asks for.\n\nAlso empty: partitions met without a job; paused: where turns lie that are paused; cut: there may be more.';

create function queue.hold_caps(p_ids uuid[], p_now timestamptz) returns bigint[]
language plpgsql
set search_path = ''
set plan_cache_mode = 'force_generic_plan' -- its plan does not depend on the values, and costs a millisecond
set enable_seqscan = off -- a session's plan may be older than the rows, and each is found by its key
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  v_ids bigint[] := array(select s.cap_id from queue.scopes(p_ids) as s);
begin
  if cardinality(v_ids) = 0 then
    return null;
  end if;
  if array_position(v_ids, null) is not null then
    insert into queue.caps (scope, job_type, workspace_id, concurrency_key, opened_at)
    select s.scope, s.job_type, s.workspace_id, s.concurrency_key, p_now
    from queue.scopes(p_ids) as s where s.cap_id is null
    order by s.workspace_id, s.job_type, s.concurrency_key, s.scope on conflict do nothing;
    v_ids := array(select s.cap_id from queue.scopes(p_ids) as s);
  end if;
  -- in one order; and a statement of its own, so that the next one counts what the last holder committed
  return array(select c.id from queue.caps as c where c.id = any (v_ids) order by c.id for update skip locked);
end;
$$;
comment on function queue.hold_caps is E'Lock the limited scopes of partitions: the ids of those that were free to be had; null when there is no limit.\n\nWhoever leases below a limit holds its row until the commit, and counts the leases after that: two never count at once.';

create function queue.allot(
  p_ids uuid[], p_tags double precision[], p_priorities double precision[], p_caps bigint[], p_limit integer, p_each integer,
  p_count_due boolean, p_now timestamptz,
  out ids uuid[], out places tid[], out virtual_time double precision, out due bigint, out busy boolean, out cut boolean,
  out full_partitions uuid[], out full_turns uuid[], out heads jsonb
)
language plpgsql
set search_path = ''
set plan_cache_mode = 'force_generic_plan' -- its plan does not depend on the values, and costs a millisecond
set enable_seqscan = off -- a session's plan may be older than the rows
as $$
declare
  v_nil constant uuid := '00000000-0000-0000-0000-000000000000';
  v_most constant integer := 2147483647;
begin
  with scopes as materialized (
    select s.*, s.cap_id = any (p_caps) as held
    from queue.scopes(case when p_caps is null then '{}' else p_ids end) as s),
  frees as materialized ( -- counted under the lock of each; nothing is free where another holds it
    select s.scope, s.job_type, s.workspace_id, s.concurrency_key, s.held,
      case when not coalesce(s.held, false) then 0 else queue.free_slots(s.scope, s.job_type, s.workspace_id, s.concurrency_key, p_limit, p_now) end as free
    from scopes as s),
  parts as materialized (
    select p.id, p.workspace_id, p.job_type, p.concurrency_key, p.claim_from, p.rewinds, c.tag, c.priority, c.n,
      coalesce((select tl.weight from queue.tenant_limits as tl where tl.workspace_id = p.workspace_id), 1) as weight,
      coalesce(ft.free, v_most) as type_free, coalesce(fw.free, v_most) as workspace_free,
      coalesce(fx.free, v_most) as type_workspace_free, coalesce(fk.free, v_most) as key_free,
      not (coalesce(ft.held, true) and coalesce(fw.held, true) and coalesce(fx.held, true) and coalesce(fk.held, true)) as missed
    from unnest(p_ids, p_tags, p_priorities) with ordinality as c (id, tag, priority, n)
    cross join lateral (select * from queue.partitions as o where o.id = c.id limit 1) as p
    left join frees as ft on ft.scope = 'type' and ft.job_type = p.job_type
    left join frees as fw on fw.scope = 'workspace' and fw.workspace_id = p.workspace_id
    left join frees as fx on fx.scope = 'workspace_type' and fx.workspace_id = p.workspace_id and fx.job_type = p.job_type
    left join frees as fk on fk.scope = 'key' and fk.workspace_id = p.workspace_id and fk.job_type = p.job_type
      and fk.concurrency_key = p.concurrency_key),
  spares as materialized (
    select s.workspace_id, s.spare from queue.spare_slots(
      array(select distinct p.workspace_id from parts as p), p_limit) as s),
  sized as materialized (
    select l.*, least(type_free, workspace_free, type_workspace_free, key_free, p_limit)::integer as most,
      least(type_free, type_workspace_free) as own_type_free, -- a full type takes no slot of its tenant
      (select s.spare from spares as s where s.workspace_id = l.workspace_id) as spare
    from parts as l),
  found as materialized (
    select c.id, c.workspace_id, c.job_type, c.concurrency_key, c.tag, c.weight, c.priority, c.type_free, c.workspace_free,
      c.own_type_free, c.key_free, c.spare, r.job_id, r.ready_at
    from sized as c
    cross join lateral (
      select r.job_id, r.ready_at from queue.ready as r
      where r.partition_id = c.id and r.ready_at >= c.claim_from
      order by r.ready_at, r.job_id limit least(c.most, p_each)) as r),
  by_key as (
    select *, row_number() over (partition by workspace_id, job_type, concurrency_key order by priority, ready_at, job_id) as nth
    from found),
  by_type_workspace as (
    select *, row_number() over (partition by workspace_id, job_type order by priority, ready_at, job_id) as nth_of_type_workspace
    from by_key where nth <= key_free),
  by_workspace as (
    select *, row_number() over (partition by workspace_id order by priority, ready_at, job_id) as nth_of_workspace
    from by_type_workspace where nth_of_type_workspace <= own_type_free),
  tagged as (
    select *, tag + (nth_of_workspace - 1) / weight as start_tag, nth_of_workspace > spare as beyond from by_workspace where nth_of_workspace <= workspace_free),
  by_type as (
    select *, row_number() over (partition by job_type order by beyond, start_tag, ready_at, job_id) as nth_of_type from tagged),
  picked as materialized (
    select id, start_tag from by_type where nth_of_type <= type_free order by beyond, start_tag, ready_at, job_id limit p_limit),
  shares as materialized (select p.id, count(*) as jobs from picked as p group by 1),
  -- as many as fall to each, whichever are free to be had: others lease from the same head at this moment
  held as materialized (
    select s.id, r.job_id, r.place
    from shares as s
    join sized as c on c.id = s.id
    cross join lateral (
      select r.job_id, r.ctid as place from queue.ready as r
      where r.partition_id = s.id and r.ready_at >= c.claim_from
      order by r.ready_at, r.job_id limit s.jobs for update skip locked) as r)
  select coalesce((select array_agg(h.job_id) from held as h), '{}'), coalesce((select array_agg(h.place) from held as h), '{}'),
    (select max(p.start_tag) from picked as p),
    case when p_count_due then (select count(*) from (
      select 1 from sized as s cross join lateral (
        select 1 from queue.ready as r where r.partition_id = s.id
        limit least(1001 + p_limit, s.type_free, s.workspace_free, s.type_workspace_free, s.key_free)) as r
      limit 1000 + p_limit) as counted) end,
    coalesce((select bool_or(s.missed) from sized as s), false)
      or (select count(*) from held) < (select count(*) from picked),
    exists (select 1 from sized as s where s.most > p_each and (select count(*) from found as f where f.id = s.id) >= p_each),
    array(select s.id from sized as s where s.key_free <= 0 and not s.missed),
    array(select s.id from sized as s where (s.workspace_free <= 0 or s.type_workspace_free <= 0) and not s.missed),
    (select jsonb_agg(jsonb_build_object('id', f.id, 'oldest', f.oldest, 'rewinds', f.rewinds)) from (
      select x.id, min(x.ready_at) as oldest, min(c.rewinds) as rewinds
      from found as x join sized as c on c.id = x.id group by 1) as f)
  into ids, places, virtual_time, due, busy, cut, full_partitions, full_turns, heads;
end;
$$;
comment on function queue.allot is E'Divide p_limit slots among the partitions and take the ready rows that fall to each: {ids, places}.\n\nInside a tenant by priority, then age; between tenants by weighted start-time fair queueing, those beyond their share of the slots last; never beyond a limit. busy: another held what could have been had. full_…: partitions whose key, or whose tenant, is at a limit. heads: the oldest job seen in each.';
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
  p_ids uuid[], p_places tid[], p_heads jsonb, p_worker_id text, p_tick_id uuid, p_call integer, p_lease_seconds integer,
  p_now timestamptz, p_horizon xid8,
  out leases json, out leased integer, out taken_from uuid[]
)
language plpgsql
set search_path = ''
set plan_cache_mode = 'force_generic_plan' -- its plan does not depend on the values, and costs a millisecond
set enable_seqscan = off -- a session's plan may be older than the rows, and each is found by its key
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  v_nil constant uuid := '00000000-0000-0000-0000-000000000000';
  v_first constant jsonb := jsonb_build_object('status', 'processing', 'attempts', 1, 'worker_id', p_worker_id);
begin
  if exists (select 1 from queue.unique_jobs) then
    delete from queue.unique_jobs where job_id = any (p_ids) and until = 'leased';
  end if;
  with gone as materialized (
    delete from queue.ready where ctid = any (p_places) returning job_id, partition_id, ready_at),
  started as (
    update public.jobs as j set status = 'processing', attempts = j.attempts + 1, fence = j.fence + 1,
      started_at = coalesce(j.started_at, p_now),
      queue_ms = coalesce(j.queue_ms, date_part('epoch', p_now - g.ready_at) * 1000), updated_at = p_now, next_retry_at = null,
      last_seq = j.last_seq + case when t.events = 'full' then 1 else 0 end
    from gone as g, queue.job_types as t
    -- one that was put off between the choice and its lock is pending, but no longer ready
    where j.id = g.job_id and t.job_type = j.job_type
    -- the answer is text from here on: as jsonb it would cost more than the rest of the lease
    returning j.id, j.fence, j.workspace_id, j.session_id, j.job_type, j.queue, j.concurrency_key, j.attempts, j.last_seq, j.priority, j.created_at,
      g.partition_id, g.ready_at, t.events, coalesce(p_lease_seconds, t.lease_seconds) as lease_seconds, t.rate_limit, t.rate_per_key,
      row_to_json(row(j.fence, coalesce(p_lease_seconds, t.lease_seconds),
        p_now + make_interval(secs => coalesce(p_lease_seconds, t.lease_seconds)),
        case when j.fence = 1 then '{}' else queue.steps_of(j.id) end,
        row(j.id, j.workspace_id, j.user_id, j.session_id, j.queue, j.job_type, j.payload, j.schema_version,
          j.priority, j.attempts, j.max_attempts, j.created_at, j.parent_id, j.traceparent,
          j.progress, coalesce(j.timeout_seconds, t.timeout_seconds), j.deadline_at)::queue.leased_job)::queue.lease_answer) as lease),
  leased as (
    insert into queue.leases (job_id, fence, workspace_id, job_type, concurrency_key, partition_id, ready_at, attempt, worker_id,
      tick_id, tick_call, leased_at, lease_seconds, expires_at, job_created_at)
    select s.id, s.fence, s.workspace_id, s.job_type, coalesce(s.concurrency_key, ''), s.partition_id, s.ready_at, s.attempts,
      p_worker_id, p_tick_id, p_call, p_now, s.lease_seconds, p_now + make_interval(secs => s.lease_seconds), s.created_at
    from started as s),
  told as (
    insert into public.job_events (job_id, seq, workspace_id, session_id, type, data, created_at)
    select id, last_seq, workspace_id, session_id, 'job.leased',
      case attempts when 1 then v_first
        else jsonb_build_object('status', 'processing', 'attempts', attempts, 'worker_id', p_worker_id) end, p_now
    from started where events = 'full'),
  touched as (
    -- What was seen of a partition is its head, the oldest that anybody can see. What cannot be seen yet is
    -- older only if its transaction began before ours, for later ones read their clock after our start.
    -- Once all before ours have ended, nothing older than that start or than the head can turn up: dead
    -- rows before are never looked at again, not even while a held snapshot keeps them. A job that came back
    -- meanwhile has raised rewinds. Whoever else leases from it now writes the same: nobody waits for that.
    update queue.partitions as p set last_leased_at = p_now,
      claim_from = greatest(p.claim_from, head.oldest - interval '5 seconds',
        case when p.mark_xid <= p_horizon then least(p.mark_from, head.oldest) end),
      mark_from = case when p.mark_xid > p_horizon then p.mark_from
        else least(head.oldest, p_now - (clock_timestamp() - now())) end,
      mark_xid = case when p.mark_xid > p_horizon then p.mark_xid else pg_current_xact_id() end
    from jsonb_to_recordset(p_heads) as head (id uuid, oldest timestamptz, rewinds integer)
    where p.id = any (array(
        select k.id from queue.partitions as k
        where k.id = any (array(select distinct partition_id from gone)) for no key update skip locked))
      and p.id = head.id and p.rewinds = head.rewinds),
  kinds as materialized (
    select k.workspace_id, k.job_type, k.queue, greatest(0,
        (select s.finish_tag from queue.shares as s where s.workspace_id = v_nil),
        (select s.finish_tag from queue.shares as s where s.workspace_id = k.workspace_id))
      + k.jobs / coalesce((select tl.weight from queue.tenant_limits as tl where tl.workspace_id = k.workspace_id), 1) as tag
    from (
      select s.workspace_id, s.job_type, s.queue, sum(count(*)) over (partition by s.workspace_id) as jobs
      from started as s group by 1, 2, 3) as k),
  shared as (
    update queue.shares as s set finish_tag = t.tag
    from (select distinct k.workspace_id, k.tag from kinds as k) as t
    where s.workspace_id = t.workspace_id and s.ctid = any (array(
      select h.ctid from queue.shares as h
      where h.workspace_id = any (array(select k.workspace_id from kinds as k)) for no key update skip locked))),
  turned as (
    update queue.turns as u set tag = k.tag
    from kinds as k
    where u.workspace_id = k.workspace_id and u.job_type = k.job_type and u.queue = k.queue
      and u.ctid = any (array(
        select h.ctid from kinds as k join queue.turns as h
          on h.workspace_id = k.workspace_id and h.job_type = k.job_type and h.queue = k.queue
        for no key update of h skip locked))),
  spent as (
    insert into queue.buckets as b (job_type, workspace_id, concurrency_key, tokens, refilled_at)
    select job_type, case when rate_per_key then workspace_id else v_nil end,
      case when rate_per_key then coalesce(concurrency_key, '') else '' end, max(rate_limit) - count(*), p_now
    from started where rate_limit is not null group by 1, 2, 3
    on conflict (job_type, workspace_id, concurrency_key) do update set
      tokens = (select queue.tokens(b.tokens, b.refilled_at, t.rate_limit, t.rate_per_seconds, p_now) - (t.rate_limit - excluded.tokens)
        from queue.job_types as t where t.job_type = b.job_type),
      refilled_at = excluded.refilled_at)
  select coalesce(json_agg(s.lease order by s.priority, s.created_at, s.id), '[]'), count(*),
    coalesce(array_agg(distinct s.partition_id), '{}')
  into leases, leased, taken_from from started as s;
end;
$$;
comment on function queue.take is E'Lease jobs whose rows the caller holds: ready → lease, attempt and fence up by one. Gives the leases as workers get them, how many, and the partitions they came from.\n\np_places: where their rows of queue.ready lie, locked by the caller; nothing can be put there while the transaction that saw them lasts. p_heads: the oldest job seen in each partition [{id, oldest, rewinds}]. p_horizon: every transaction below it had ended before these jobs were chosen.';

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

create function queue.pick(
  p_job_types text[], p_queues text[], p_limit integer, p_budget_ms double precision, p_count_due boolean, p_now timestamptz,
  out ids uuid[], out places tid[], out virtual_time double precision, out due bigint, out more boolean, out heads jsonb,
  out empty uuid[]
)
language plpgsql
set search_path = ''
as $$
declare
  v_turns integer := p_limit + 1;
  v_found record;
  v_caps bigint[];
  v_allotted record;
begin
  empty := '{}';
  -- first a look at the heads of a few turns; only when that leaves slots empty, deeper ones
  for v_round in 1..3 loop
    select * into v_found from queue.find_candidates(p_job_types, p_queues, p_budget_ms, v_turns,
      case v_round when 1 then 1 when 2 then 12 else 80 end, p_limit, p_now);
    v_caps := queue.hold_caps(v_found.ids, p_now);
    select * into v_allotted from queue.allot(v_found.ids, v_found.tags, v_found.priorities, v_caps, p_limit,
      case v_round when 1 then ceil(4.0 * p_limit / greatest(1, cardinality(v_found.ids)))::integer + 4 else p_limit end,
      p_count_due, p_now);
    perform queue.put_aside(v_found.paused, v_allotted.full_turns, v_allotted.full_partitions, p_now);
    empty := empty || v_found.empty;
    exit when cardinality(v_allotted.ids) >= p_limit or not (v_found.cut or v_allotted.cut);
    v_turns := 8 * v_turns + 32;
  end loop;
  ids := v_allotted.ids;
  places := v_allotted.places;
  virtual_time := v_allotted.virtual_time;
  heads := v_allotted.heads;
  more := v_allotted.busy and cardinality(ids) < p_limit;
  due := case when p_count_due and v_found.cut
    then greatest(v_allotted.due, (select count(*) from (select 1 from queue.ready limit 1000 + p_limit) as r))
    else v_allotted.due end;
end;
$$;
comment on function queue.pick is E'Choose jobs to lease and hold their ready rows: {ids, places, virtual_time, due, more, heads, empty}.\n\nmore: slots stayed empty because another worker held at that moment what could have been had. empty: partitions met without a job.';

create function queue.put_aside(p_paused tid[], p_full_turns uuid[], p_full_partitions uuid[], p_now timestamptz) returns void
language plpgsql
set search_path = ''
set enable_seqscan = off -- a session's plan may be older than the rows, and each is found by its key
set enable_hashjoin = off
set enable_mergejoin = off
as $$
begin
  if cardinality(p_paused) > 0 then
    update queue.turns set set_aside = true, look_at = p_now + interval '5 seconds' where ctid = any (array(
      select ctid from queue.turns where ctid = any (p_paused) for update skip locked));
  end if;
  if cardinality(p_full_turns) > 0 then
    update queue.turns as t set set_aside = true, look_at = p_now + interval '1 second' where ctid = any (array(
      select t.ctid from queue.turns as t
      join (select distinct p.workspace_id, p.job_type, p.queue from queue.partitions as p where p.id = any (p_full_turns)) as f
        on f.workspace_id = t.workspace_id and f.job_type = t.job_type and f.queue = t.queue
      for update of t skip locked));
  end if;
  if cardinality(p_full_partitions) > 0 then
    update queue.partitions set set_aside = true, look_at = p_now + interval '1 second' where id = any (array(
      select id from queue.partitions where id = any (p_full_partitions) order by id for no key update skip locked));
  end if;
end;
$$;
comment on function queue.put_aside is E'Keep what is paused or at a limit out of the next leases'' way.\n\nA settlement, or whoever lifts a limit or a pause, brings it back; queue.look_again does when that was missed.';

create function queue.bring_back(p_workspace_ids uuid[], p_job_types text[], p_keys text[]) returns void
language plpgsql
set search_path = ''
set enable_seqscan = off -- a session's plan may be older than the rows, and each is found by its key
set enable_hashjoin = off
set enable_mergejoin = off
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
comment on function queue.bring_back is 'Let leases read again what was set aside of these tenants and keys, since slots have become free. Waits for nobody.';

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
comment on function queue.bring_back_of is 'The same for jobs whose leases have ended.';

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
comment on function queue.bring_all_back is 'The same for all of a type or a tenant, since a limit or a pause was lifted; null for every one.';

create function queue.lease(p_request jsonb) returns json
language plpgsql
set search_path = ''
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

  insert into queue.ticks (tick_id, worker_id, version, job_types, queues, started_at, seen_at)
  values (v_tick, v_worker, p_request ->> 'version', v_types, v_queues, v_now, v_now) on conflict (tick_id) do nothing;
  select last_call into v_answered from queue.ticks where tick_id = v_tick for update;
  if v_call <= v_answered then
    return json_build_object('leases', queue.leases_of_call(v_tick, v_call),
      'maintenance', queue.maintenance_is_due(v_now), 'due', 0,
      'next_due_in_ms', null, 'repeated', true);
  end if;
  if v_call = 1 then
    perform queue.see_worker(p_request, v_types, v_queues, v_now);
  end if;

  update queue.wakeups set requested_at = null
  where id in (select id from queue.wakeups where requested_at is not null for update skip locked);
  select * into v_given from queue.give(v_types, v_queues, v_limit, (p_request ->> 'budget_ms')::double precision,
    v_call = 1 or coalesce((p_request ->> 'count_due')::boolean, false), v_worker, v_tick, v_call, v_seconds, v_now);

  update queue.ticks set last_call = v_call, seen_at = v_now, leased = leased + v_given.leased,
    leased_at = case when v_given.leased > 0 then v_now else leased_at end,
    free_slots = coalesce((p_request ->> 'free_slots')::numeric::integer, v_limit - v_given.leased)
  where tick_id = v_tick;
  return json_build_object('leases', v_given.leases,
    'maintenance', v_given.leased < v_limit and queue.maintenance_is_due(v_now), 'due', coalesce(least(1000, greatest(0, v_given.due - v_given.leased)),
      case when v_limit > 0 and v_given.leased >= v_limit then 1 else 0 end),
    'next_due_in_ms', case when v_given.leased < v_limit or v_limit = 0 then queue.next_due_in_ms(v_given.more, v_now) end);
end;
$$;
comment on function queue.lease is 'See public.lease_jobs.';

create function queue.next_due_in_ms(p_more boolean, p_now timestamptz) returns bigint
language sql
set search_path = ''
as $$
  select greatest(0, ceil(extract(epoch from next.at - p_now) * 1000))::bigint
  from (select least(
    (select min(run_at) from queue.deferred), (select min(timeout_at) from queue.waits),
    (select p_now from queue.signals limit 1), (select p_now from queue.openings limit 1),
    case when p_more then p_now end) as at) as next
  where next.at is not null
$$;
comment on function queue.next_due_in_ms is E'When a worker with free slots should ask again; null for not before it is woken.\n\np_more: another worker held what could have been had.';

create function queue.give(
  p_job_types text[], p_queues text[], p_limit integer, p_budget_ms double precision, p_count_due boolean,
  p_worker_id text, p_tick_id uuid, p_call integer, p_lease_seconds integer, p_now timestamptz,
  out leases json, out leased integer, out due bigint, out more boolean
)
language plpgsql
set search_path = ''
as $$
declare
  v_nil constant uuid := '00000000-0000-0000-0000-000000000000';
  v_opens boolean := queue.try_lock('partitions'); -- one at a time opens and closes them; nobody waits
  v_horizon xid8;
  v_picked record;
  v_ids uuid[];
  v_expired uuid[];
  v_taken record;
  v_from uuid[] := '{}';
begin
  leases := '[]';
  leased := 0;
  if v_opens and exists (select 1 from queue.openings) then
    perform queue.open_openings(greatest(1000, p_limit), p_now);
  end if;
  if exists (select 1 from queue.turns where set_aside and look_at <= p_now)
    or exists (select 1 from queue.partitions where set_aside and look_at <= p_now) then
    perform queue.look_again(least(20, p_limit + 3), p_now);
  end if;
  v_horizon := pg_snapshot_xmin(pg_current_snapshot()); -- of a snapshot before that of the choice
  select * into v_picked from queue.pick(p_job_types, p_queues, p_limit, p_budget_ms, p_count_due, p_now);
  due := v_picked.due;
  more := v_picked.more or not v_opens and p_limit > 0 and exists (select 1 from queue.openings);
  if cardinality(v_picked.ids) > 0 then
    select coalesce(array_agg(id) filter (where late is not true), '{}'), array_agg(id) filter (where late)
    into v_ids, v_expired
    from (
      select id, deadline_at <= p_now as late
      from public.jobs where id = any (v_picked.ids) and status = 'pending' order by id for update skip locked) as locked;
    if cardinality(v_expired) > 0 then
      perform queue.finish(v_expired, 'failed', 'its deadline passed before it could run',
        '{"type": "DeadlinePassed", "reason": "deadline_passed"}', p_now);
    end if;
  end if;
  if cardinality(v_ids) > 0 then
    select * into v_taken from queue.take(v_ids, array(
        select p.place from unnest(v_picked.ids, v_picked.places) as p (id, place) where p.id = any (v_ids)),
      v_picked.heads, p_worker_id, p_tick_id, p_call, p_lease_seconds, p_now, v_horizon);
    leases := v_taken.leases;
    leased := v_taken.leased;
    v_from := v_taken.taken_from;
    update queue.shares set finish_tag = v_picked.virtual_time
    where workspace_id = v_nil and finish_tag < v_picked.virtual_time
      and ctid = any (array(select ctid from queue.shares where workspace_id = v_nil for no key update skip locked));
  end if;
  if v_opens and (cardinality(v_picked.empty) > 0 or leased > 0) then
    perform queue.close_partitions(v_picked.empty || v_from);
  end if;
end;
$$;
comment on function queue.give is 'Open what was enqueued to, choose, lease, and close what is empty: {leases, leased, due, more}.';

create function public.lease_jobs(p_request jsonb) returns json
language plpgsql
security definer -- the worker holds no rights on the engine's tables: this is the function
set search_path = ''
set lock_timeout = '8s'
as $$
begin
  perform queue.refuse_revoked();
  return queue.lease(p_request);
exception
  when invalid_text_representation or numeric_value_out_of_range then
    perform queue.refuse(400, 'invalid_argument', 'the request has a value of the wrong type: ' || sqlerrm, 'p_request');
end;
$$;
comment on function public.lease_jobs is E'Lease up to limit jobs: {leases, maintenance, due, next_due_in_ms}.\n\nRequest: {worker_id, tick_id, call, limit 0..1000, job_types, queues, lease_seconds, budget_ms, version, free_slots}. A repeated (tick_id, call) gets the same leases. Each lease counts as an attempt. maintenance says that a call of run_maintenance would find something to do; with nothing to do this is the one query of an idle tick.';

revoke execute on function public.lease_jobs from public, anon, authenticated, service_role;
grant execute on function public.lease_jobs to job_worker, service_role;
