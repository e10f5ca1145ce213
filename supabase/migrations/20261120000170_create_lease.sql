-- Lease: hand each ready job to one worker, exact in limits, fair between tenants, without a global lock.
-- Nothing waits here: what two workers may not do at once is a narrow row of its own, taken with skip locked.
--
-- The life of a lease, in the order of the calls; each line is the function of its name:
--   public.lease_jobs        a worker asks; settle_jobs asks in the same call with which it settles
--     queue.lease            sets the planner for all that follows, and answers a repeated call as the first time
--       queue.read_lease     JSON becomes a queue.lease_request, or is refused
--       queue.lease_ready
--         queue.open_openings      partitions that got their first job since; enqueues only leave a line
--         queue.look_again         what was set aside for a while
--         queue.lock_first         one job where neither a limit nor anything rare is met, else:
--         queue.choose_jobs        up to five rounds, each looks wider or deeper
--           queue.startable_types    types that may start a job at all
--           queue.next_turns         the tenants whose turn it is
--           queue.paused_turns       which are set aside
--           queue.find_candidates    their partitions, with the first job of each
--           queue.lock_head          one job, or one partition alone, and no limit: its head
--           queue.divide_slots       anything else
--             queue.hold_caps          lock the limited scopes that are free
--             queue.count_free         what each may still start
--             queue.share_slots        how many jobs fall to each partition
--             queue.lock_jobs          lock that many
--             queue.put_full_aside     what is at its limit is not looked at for a second
--         queue.start_jobs         ready becomes a lease, attempt and fence rise by one; its event and those given
--         queue.move_marks         the next lease looks from there on
--         queue.pass_turns         the tenant goes back in the order
--         queue.spend_tokens       of rate limits
--         queue.close_partitions   those that are empty now
--       queue.next_due_in_ms when to ask again
--       queue.came_meanwhile a last look, if nothing was found
-- Maintenance brings jobs back: queue.reclaim (lost leases), queue.promote (their time has come), queue.expire.

create type queue.lease_request as (
  worker_id text, tick_id uuid, call integer, most integer, job_types text[], queues text[], lease_seconds integer,
  budget_ms double precision, free_slots integer, counts_due boolean, version text
);
comment on type queue.lease_request is 'What lease_jobs is asked for. most: its limit.';

create type queue.candidate as (
  partition_id uuid, workspace_id uuid, job_type text,
  queue text, -- of its turn; empty for any
  concurrency_key text, tag double precision, weight double precision,
  priority double precision, -- smaller by what its head has gained with age
  oldest timestamptz, -- its first job
  rewinds bigint,
  is_bound boolean, -- it belongs to a limited scope; then, once they are counted, how many more each may start:
  type_free integer, workspace_free integer, type_workspace_free integer, key_free integer,
  missed boolean -- another transaction holds one of its scopes: nothing of it is free for now
);
comment on type queue.candidate is 'A partition with ready jobs whose turn it is.';

create type queue.scope as (
  scope text, job_type text, workspace_id uuid, concurrency_key text,
  cap_id bigint, -- its row of queue.caps, null where there is none yet
  held boolean -- this transaction has locked that row
);
comment on type queue.scope is 'A limited scope that partitions belong to.';

create type queue.share as (partition_id uuid, oldest timestamptz, jobs integer);
comment on type queue.share is 'How many jobs fall to a partition, from its oldest on.';

create type queue.locked_job as (job_id uuid, place tid, job_place tid);
comment on type queue.locked_job is 'A ready job that this transaction has locked. place: where its row of queue.ready lies, job_place: that of public.jobs; nothing can be put there while the transaction that saw them lasts.';

create type queue.choice as (
  candidates queue.candidate[], jobs queue.locked_job[],
  late uuid[], -- jobs to fail, since their deadline has passed
  virtual_time double precision, due bigint,
  busy boolean, -- another transaction held jobs that could have been leased
  cut boolean, -- others of these turns were not looked at
  missed uuid[], -- partitions of which another transaction holds all
  aside integer, -- how many were at a limit, and have been set aside
  empty uuid[], -- partitions met without a job
  -- by queue.lock_first alone:
  is_counted boolean, -- empty has the partition that this lease empties, too
  is_marked boolean, -- the tenant's only partition of the type, and noted a moment ago
  is_alone boolean -- there is one tenant with jobs of one type
);
comment on type queue.choice is 'Jobs that are to be leased, and what was seen while they were chosen.';

create type queue.event as (
  job_id uuid, seq bigint, workspace_id uuid, session_id text, type text, data jsonb, created_at timestamptz
);
comment on type queue.event is 'An event that is yet to be stored.';

create type queue.started as (partition_id uuid, jobs integer);
comment on type queue.started is 'How many jobs of a partition were leased.';

create function queue.try_lock(p_name text) returns boolean
language sql set search_path = ''
as $$ select pg_try_advisory_xact_lock(hashtextextended('minutehand ' || p_name, 0)) $$;
comment on function queue.try_lock is E'Take the named lock until the transaction ends; false at once when another has it.\n\nNames: partitions (opening and closing them), maintenance, live_counts and a workspace, a quota and a workspace, a person''s calls and their turn.';

create function queue.reclaim(p_ids uuid[], p_now timestamptz) returns integer
language plpgsql set search_path = '' as $$
declare
  v_ids uuid[];
  v_again uuid[];
  v_back queue.ready_job[];
  v_max_lost integer := (queue.setting('lost_attempts_max'))::integer;
begin
  update queue.leases set look_at = expires_at where ctid = any (array(
    select ctid from queue.leases where job_id = any (p_ids) and expires_at > p_now for update skip locked));
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
      -- until its worker last answered
      run_ms = j.run_ms + greatest(0, date_part('epoch', f.expires_at - f.leased_at) - f.lease_seconds) * 1000,
      held_ms = j.held_ms + date_part('epoch', p_now - f.leased_at) * 1000,
      outcome = case when f.fate <> 'pending' then f.fate end,
      next_retry_at = null,
      error_message = case when f.fate = 'cancelled' then j.error_message else format(
        'attempt %s was lost: worker %s stopped answering %s earlier', f.attempt, f.worker_id,
        date_trunc('second', p_now - f.expires_at + make_interval(secs => f.lease_seconds))) end,
      error_data = case when f.fate = 'cancelled' then j.error_data
        else jsonb_build_object('type', 'WorkerLost', 'reason', f.reason, 'worker_id', f.worker_id,
          'tick_id', f.tick_id) end,
      error_fingerprint = case when f.fate = 'failed' then queue.fingerprint('WorkerLost', '')
        else j.error_fingerprint end,
      last_seq = j.last_seq + case when f.fate = 'pending' then 1 else 2 end
    from fates as f where j.id = f.job_id and j.id = any (v_ids)
    returning j.id, j.workspace_id, j.session_id, j.job_type, j.last_seq, j.attempts, j.error_message, j.error_data,
      j.created_at, f.fate, f.fence, f.attempt, f.worker_id, f.leased_at, f.partition_id, f.ready_at),
  history as (
    insert into queue.attempts (job_id, fence, attempt, worker_id, leased_at, ended_at, outcome,
      error_message, error_data)
    select id, fence, attempt, worker_id, leased_at, p_now, 'lost', error_message, error_data from moved),
  appended as (
    insert into queue.job_events (job_id, seq, workspace_id, session_id, type, data, created_at)
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
    -- each of them lost a worker, also the one that ends its job
    select p_now, m.job_type, m.workspace_id, o.outcome, count(*)
    from moved as m cross join unnest(array['lost', nullif(m.fate, 'pending')]) as o (outcome)
    where o.outcome is not null group by 2, 3, 4)
  select array_agg(id) filter (where fate = 'pending'), array_agg(id) filter (where fate <> 'pending'),
    array_agg(row(id, workspace_id, created_at, partition_id, ready_at)::queue.ready_job)
      filter (where fate = 'pending')
  into v_again, v_ids, v_back from moved;
  perform queue.put_back(v_back) where v_back is not null;
  perform queue.after_end(v_ids) where v_ids is not null;
  perform queue.bring_back_of(v_again || v_ids);
  return coalesce(cardinality(v_again), 0) + coalesce(cardinality(v_ids), 0);
end;
$$;
comment on function queue.reclaim is E'Reclaim expired leases: their jobs are pending again, failed when the limit of attempts or of lost workers is reached, or cancelled when that was requested.\n\nThe time of expiry was stored with the lease; nothing is recomputed here. Leases that were renewed are looked at again when they expire now.';

create function queue.promote(p_ids uuid[], p_now timestamptz) returns integer
language plpgsql set search_path = '' as $$
declare
  v_ids uuid[] := array(
    select id from public.jobs where id = any (p_ids) and status = 'pending' order by id for update skip locked);
  v_moved integer;
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
  known as materialized (select id from queue.open_partitions(array(select partition_id from kinds))),
  opened as (
    insert into queue.openings (partition_id, workspace_id, queue, job_type, concurrency_key, priority)
    select partition_id, workspace_id, queue, job_type, concurrency_key, priority
    from kinds where partition_id not in (select id from known))
  select count(*) into v_moved from due;
  return v_moved;
end;
$$;
comment on function queue.promote is E'Move due jobs from deferred to ready.\n\nThe caller drew its transaction id before it read p_now: see the marks of queue.partitions.';

create function queue.expire(p_ids uuid[], p_now timestamptz) returns integer
language plpgsql set search_path = '' as $$
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

create function queue.sweep(p_now timestamptz) returns integer
language plpgsql set search_path = '' as $$
declare
  v_after uuid := (select cursor::uuid from queue.maintenance_tasks where name = 'sweep');
  v_looked uuid[];
  v_gone integer;
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
    and (select count(*) from queue.turns as t
      where t.workspace_id = p.workspace_id and t.job_type = p.job_type and t.queue in ('', p.queue)) = 2 offset 0);
  update queue.maintenance_tasks set cursor = case when cardinality(v_looked) = 1000 then v_looked[1000]::text end
  where name = 'sweep';
  delete from queue.shares as s where ctid = any (array(
    select old.ctid from queue.shares as old
    where old.finish_tag < (
      select finish_tag from queue.shares where workspace_id = '00000000-0000-0000-0000-000000000000')
    limit 1000 for update skip locked));
  get diagnostics v_gone = row_count;
  return case when v_gone >= 1000 then v_gone else 0 end;
end;
$$;
comment on function queue.sweep is 'Once a minute, for a thousand partitions at a time: reset their watermarks and open missing ones; remove shares that are no longer needed. Not 0 when there may be more of these.';

create function queue.tokens(
  p_tokens double precision, p_at timestamptz, p_limit integer, p_seconds double precision, p_now timestamptz
) returns double precision
language plpgsql immutable set search_path = '' as $$
begin
  return least(p_limit, coalesce(
    p_tokens + greatest(0, extract(epoch from p_now - p_at)) * p_limit / p_seconds, p_limit));
end;
$$;
comment on function queue.tokens is 'How many tokens a bucket holds at p_now; a missing one is full.';

create function queue.open_openings(p_limit integer, p_now timestamptz) returns void
language plpgsql set search_path = '' as $$
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
    from onward as t where t.workspace_id is not null and n < p_limit),
  around as (
    (select o.workspace_id, 1 as n from queue.openings as o where o.workspace_id < v_start order by 1 limit 1)
    union all
    select (select o.workspace_id from queue.openings as o
      where o.workspace_id > t.workspace_id and o.workspace_id < v_start order by 1 limit 1), n + 1
    from around as t where t.workspace_id is not null and n < p_limit),
  tenants as (
    select workspace_id from onward where workspace_id is not null
    union all select workspace_id from around where workspace_id is not null limit p_limit),
  lines as materialized (
    select o.* from (
      select workspace_id, ceil(p_limit::float / count(*) over ())::integer as most from tenants) as t
    cross join lateral (
      -- as a range and in the order: an index by id alone, read past those of all others, cannot serve it
      select * from queue.openings as o where o.workspace_id between t.workspace_id and t.workspace_id
      order by o.workspace_id, o.id limit t.most) as o),
  turned as (
    insert into queue.turns (workspace_id, job_type, queue, tag)
    select k.workspace_id, k.job_type, q.name, greatest(v_virtual,
      (select s.finish_tag from queue.shares as s where s.workspace_id = k.workspace_id))
    from (select distinct workspace_id, job_type, queue from lines) as k
    cross join unnest(array['', k.queue]) as q (name) on conflict do nothing),
  woken as ( -- all its other partitions may be at limits or paused
    update queue.turns set set_aside = false, look_at = null where ctid = any (array(
      select t.place from (select distinct workspace_id, job_type from lines) as k
      cross join lateral (
        select t.ctid as place from queue.turns as t
        where t.workspace_id = k.workspace_id and t.job_type = k.job_type and t.queue = '' and t.set_aside
        limit 1 for no key update skip locked) as t))),
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
comment on function queue.open_openings is E'Open partitions that got jobs, about p_limit lines, an equal share of each of at most p_limit tenants, from a random one on.\n\nThe caller holds the lock of the partitions, so that none is closed meanwhile.';

create function queue.close_partitions(p_ids uuid[]) returns integer
language plpgsql set search_path = '' as $$
declare
  v_held record;
  v_closed integer;
begin
  -- Locked are those that no open transaction has put a job into, with their turns and the limit of their key, which go
  -- with the last of them. One whose turns or limit another lease holds is left to a later call.
  select array_agg(h.place) as places, array_agg(distinct h.turn) || array_agg(distinct h.turn_in_queue) as turns,
    array_agg(distinct h.cap) as caps into v_held
  from (
    select p.place, p.has_cap, t.place as turn, q.place as turn_in_queue, case when p.has_cap then (
      select c.ctid from queue.caps as c
      where c.workspace_id = p.workspace_id and c.job_type = p.job_type and c.concurrency_key = p.concurrency_key
        and c.scope = 'key' limit 1 for update skip locked) end as cap
    from (select distinct id from unnest(p_ids) as i (id)) as i
    cross join lateral (
      select p.ctid as place, p.*, p.concurrency_key <> '' and exists (
        select 1 from queue.caps as c
        where c.workspace_id = p.workspace_id and c.job_type = p.job_type and c.concurrency_key = p.concurrency_key
          and c.scope = 'key' offset 0) as has_cap
      from queue.partitions as p where p.id = i.id limit 1 for update of p skip locked) as p
    cross join lateral (
      select t.ctid as place from queue.turns as t
      where t.workspace_id = p.workspace_id and t.job_type = p.job_type and t.queue = ''
      limit 1 for update skip locked) as t
    cross join lateral (
      select t.ctid as place from queue.turns as t
      where t.workspace_id = p.workspace_id and t.job_type = p.job_type and t.queue = p.queue
      limit 1 for update skip locked) as q) as h
  where h.cap is not null or not h.has_cap;
  -- a statement of its own: it sees what was committed before the locks were taken. Each look-up has an offset, so
  -- that it stays one for each: joined by the wrong statistics it would read every partition.
  delete from queue.partitions as p where p.ctid = any (v_held.places)
    and not exists (select 1 from queue.ready as r where r.partition_id = p.id and r.ready_at >= p.claim_from
      order by r.ready_at limit 1 offset 0);
  get diagnostics v_closed = row_count;
  if v_closed > 0 then
    delete from queue.turns as t where t.ctid = any (v_held.turns) and case t.queue
      when '' then not exists (select 1 from queue.partitions as p
        where p.workspace_id = t.workspace_id and p.job_type collate "C" = t.job_type
        order by p.set_aside, p.priority, p.last_leased_at limit 1 offset 0)
      else not exists (select 1 from queue.partitions as p
        where p.workspace_id = t.workspace_id and p.job_type = t.job_type and p.queue = t.queue
        order by p.set_aside, p.priority, p.last_leased_at limit 1 offset 0) end;
    delete from queue.caps as c where c.ctid = any (v_held.caps)
      and not exists (select 1 from queue.partitions as p where p.workspace_id = c.workspace_id
        and p.job_type = c.job_type and p.concurrency_key = c.concurrency_key limit 1 offset 0);
  end if;
  return v_closed;
end;
$$;
comment on function queue.close_partitions is E'Remove those of the partitions that have no ready job, and the turns and keys'' limits that have no partition; return how many partitions.\n\nThe caller holds the lock of the partitions. Waits for no one.';

create function queue.look_again(p_limit integer, p_now timestamptz) returns void
language sql set search_path = '' as $$
  update queue.turns set set_aside = false, look_at = null where ctid = any (array(
    select ctid from queue.turns where set_aside and look_at <= p_now
    order by look_at limit p_limit for update skip locked));
  update queue.partitions set set_aside = false, look_at = null where ctid = any (array(
    select ctid from queue.partitions where set_aside and look_at <= p_now
    order by look_at limit p_limit for no key update skip locked));
$$;
comment on function queue.look_again is E'Bring back turns and partitions that were set aside long enough.\n\nLifting a limit brings them back at once; this is the safety net for those set aside at that very moment.';

create function queue.scopes(p_candidates queue.candidate[]) returns setof queue.scope
language plpgsql stable set search_path = '' as $$
begin
  return query
  with parts as materialized (
    select p.workspace_id, p.job_type, p.concurrency_key, t.max_concurrency, t.workspace_concurrency, t.key_concurrency,
      t.rate_limit, t.rate_per_key, exists (
        select 1 from queue.tenant_limits as tl
        where tl.workspace_id = p.workspace_id and tl.running_max is not null) as is_bound
    from unnest(p_candidates) as p
    cross join lateral (select * from queue.job_types as o where o.job_type = p.job_type limit 1) as t),
  needed as (
    select distinct 'type' as scope, p.job_type, '00000000-0000-0000-0000-000000000000'::uuid as workspace_id, '' as key
    from parts as p where p.max_concurrency is not null or p.rate_limit is not null and not p.rate_per_key
    union all
    select distinct 'workspace', '', p.workspace_id, '' from parts as p where p.is_bound
    union all
    select distinct 'workspace_type', p.job_type, p.workspace_id, ''
    from parts as p where p.workspace_concurrency is not null
    union all
    select distinct 'key', p.job_type, p.workspace_id, p.concurrency_key from parts as p
    where p.key_concurrency is not null and p.concurrency_key <> '' or p.rate_limit is not null and p.rate_per_key)
  select n.scope, n.job_type, n.workspace_id, n.key, (
    select c.id from queue.caps as c
    where c.workspace_id = n.workspace_id and c.job_type = n.job_type and c.concurrency_key = n.key
      and c.scope = n.scope), false
  from needed as n;
end;
$$;
comment on function queue.scopes is 'The limited scopes that partitions belong to, with the row to lock for each; null where there is none yet.';

create function queue.free_slots(
  p_scope text, p_job_type text, p_workspace_id uuid, p_key text, p_limit integer, p_now timestamptz
) returns integer
language plpgsql stable set search_path = '' as $$
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
      select 1 from queue.leases where job_type collate "C" = p_job_type and workspace_id = p_workspace_id
      limit v_max) as l;
  elsif p_key <> '' then
    v_max := v_type.key_concurrency;
    select count(*) into v_running from (
      select 1 from queue.leases
      where job_type collate "C" = p_job_type and workspace_id = p_workspace_id and concurrency_key = p_key
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
language plpgsql stable set search_path = '' as $$
declare
  v_nil constant uuid := '00000000-0000-0000-0000-000000000000';
begin
  return array(
    select t.job_type from queue.job_types as t
    where t.paused_at is null and (p_job_types is null or t.job_type = any (p_job_types))
      and (p_budget_ms is null or t.run_p95_ms is null or t.run_p95_ms <= p_budget_ms)
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
language plpgsql set search_path = '' as $$
begin
  return array(
    select u.turn from unnest(p_job_types) as t (job_type)
    cross join unnest(coalesce(p_queues, '{""}')) as q (name)
    cross join lateral (
      select u as turn from queue.turns as u
      where u.queue = q.name and u.job_type = t.job_type and not u.set_aside
      order by u.tag, u.workspace_id limit p_turns) as u);
end;
$$;
comment on function queue.next_turns is 'The first p_turns turns of each type in any queue, or in each that p_queues names.';

create function queue.paused_turns(p_turns queue.turns[]) returns queue.turns[]
language sql stable set search_path = '' as $$
  select array(
    select u from unnest(p_turns) as u
    where exists (select 1 from queue.pauses as p where p.kind = 'workspace' and p.name = u.workspace_id::text)
      or exists (select 1 from queue.pauses as p where p.kind = 'queue' and p.name = u.queue)
      or exists (select 1 from queue.pauses as p where p.kind = 'workspace_type'
        and p.name = u.workspace_id || '/' || u.job_type)
      or u.queue = '' and not exists (
        select 1 from queue.turns as t
        where t.workspace_id = u.workspace_id and t.job_type = u.job_type and t.queue <> ''
          and not exists (select 1 from queue.pauses as p where p.kind = 'queue' and p.name = t.queue)))
$$;
comment on function queue.paused_turns is 'Those of the turns whose workspace, queue, or type in the workspace is paused; a turn in any queue when each of its queues is.';

create function queue.find_candidates(
  p_turns queue.turns[], p_most integer, p_parts integer, p_without uuid[], p_paused text[], p_now timestamptz,
  out candidates queue.candidate[], out empty uuid[], out paused uuid[], out idle queue.turns[], out behind boolean,
  out hides boolean, out cut boolean
)
language plpgsql set search_path = '' as $$
declare
  v_nil constant uuid := '00000000-0000-0000-0000-000000000000';
  v_virtual double precision := coalesce((select s.finish_tag from queue.shares as s where s.workspace_id = v_nil), 0);
begin
  with front as materialized (
    -- a look-up for each and no join: a generic plan would read every tenant
    select u as turn, u.workspace_id, u.job_type, u.queue, u.tag, greatest(u.tag, v_virtual,
      (select s.finish_tag from queue.shares as s where s.workspace_id = u.workspace_id)) as tag_now
    from unnest(p_turns) as u
    order by tag_now, u.workspace_id, u.job_type, u.queue limit p_most),
  chosen as materialized (
    select p.id, p.rewinds, p.concurrency_key, p.is_paused, f.turn, f.workspace_id, f.job_type, f.queue, f.tag,
      f.tag_now, head.ready_at, p.nth,
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
    left join lateral (
      select o.*, o.queue = any (p_paused) as is_paused, row_number() over () as nth from (
        (select * from queue.partitions as o
          where f.queue = '' and o.workspace_id = f.workspace_id and o.job_type collate "C" = f.job_type
            and not o.set_aside
          order by o.priority, o.last_leased_at limit p_parts + cardinality(p_without))
        union all
        (select * from queue.partitions as o
          where f.queue <> '' and o.workspace_id = f.workspace_id and o.job_type = f.job_type and o.queue = f.queue
            and not o.set_aside
          order by o.priority, o.last_leased_at limit p_parts + cardinality(p_without))) as o
      where o.id <> all (p_without)) as p on true
    left join lateral (
      select r.ready_at from queue.ready as r
      where r.partition_id = p.id and r.ready_at >= p.claim_from order by r.ready_at limit 1) as head
      on not p.is_paused)
  select coalesce(array_agg(row(c.id, c.workspace_id, c.job_type, c.queue, c.concurrency_key, c.tag_now, c.weight,
      c.priority, c.ready_at, c.rewinds, c.is_bound, null, null, null, null, false)::queue.candidate)
      filter (where c.ready_at is not null), '{}'),
    coalesce(array_agg(c.id) filter (where c.ready_at is null and not c.is_paused), '{}'),
    coalesce(array_agg(c.id) filter (where c.is_paused), '{}'),
    coalesce(array_agg(c.turn) filter (where c.id is null and p_without = '{}'), '{}'),
    coalesce(bool_or(c.tag < c.tag_now), false),
    coalesce(min(c.tag_now) filter (where c.ready_at is not null) > greatest(v_virtual, max(c.tag)), false),
    coalesce(bool_or(c.nth >= p_parts), false)
  into candidates, empty, paused, idle, behind, hides, cut
  from (select * from chosen order by tag_now, workspace_id, priority, ready_at) as c;
end;
$$;
comment on function queue.find_candidates is E'The partitions whose turn it is, in the order of their tenants'' tags, at most p_parts of each of the p_most first turns and none of p_without or of the queues p_paused.\n\nempty: partitions met without a job; paused: those of p_paused; idle: turns of which all partitions are set aside; behind: a turn''s tag was older than its tenant''s; hides: so old that others may come first; cut: a turn may have more.';

create function queue.freshen_turns(p_turns queue.turns[]) returns void
language plpgsql set search_path = '' as $$
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

create function queue.lock_jobs(
  p_shares queue.share[], p_now timestamptz, out jobs queue.locked_job[], out late uuid[], out givers uuid[]
)
language plpgsql set search_path = '' as $$
begin
  -- As many as fall to each, of those that are free: others lease from the same head at this moment. The place in the
  -- queue is locked first: if it is gone since the snapshot, the look ends there. Otherwise the job, which is running
  -- now, would be locked until this call ends, and its settlement would wait.
  with held as materialized (
    select s.partition_id, h.* from unnest(p_shares) as s
    cross join lateral (
      select r.job_id, r.ctid as place, j.ctid as job_place, coalesce(j.deadline_at <= p_now, false) as is_late
      from queue.ready as r join public.jobs as j on j.id = any (array[r.job_id])
      where r.partition_id = s.partition_id and r.ready_at >= s.oldest and j.status = 'pending'
      order by r.ready_at, r.job_id limit s.jobs for update of r, j skip locked) as h)
  select coalesce(array_agg(row(h.job_id, h.place, h.job_place)::queue.locked_job) filter (where not h.is_late), '{}'),
    coalesce(array_agg(h.job_id) filter (where h.is_late), '{}'),
    coalesce(array_agg(distinct h.partition_id), '{}')
  into jobs, late, givers from held as h;
end;
$$;
comment on function queue.lock_jobs is E'Lock as many ready jobs of each partition as fall to it, and their places in the queue.\n\nlate: jobs whose deadline has passed. givers: the partitions that gave any. Never waits: a job that another transaction holds is skipped.';

create function queue.lock_head(p_candidates queue.candidate[], p_most integer, p_now timestamptz) returns queue.choice
language plpgsql set search_path = '' as $$
declare
  v_head queue.candidate;
  v_locked record;
  v_choice queue.choice;
begin
  foreach v_head in array p_candidates loop
    exit when v_head.is_bound;
    v_locked := queue.lock_jobs(array[row(v_head.partition_id, v_head.oldest, p_most)::queue.share], p_now);
    if cardinality(v_locked.jobs) > 0 then
      v_choice.jobs := v_locked.jobs;
      v_choice.late := v_locked.late;
      v_choice.virtual_time := v_head.tag + (cardinality(v_locked.jobs) - 1) / v_head.weight;
      v_choice.busy := cardinality(v_locked.jobs) < p_most
        and cardinality(v_locked.jobs) + cardinality(v_locked.late) < (select count(*) from (
          select 1 from queue.ready as r where r.partition_id = v_head.partition_id and r.ready_at >= v_head.oldest
          limit p_most) as r);
      exit;
    end if;
  end loop;
  return v_choice;
end;
$$;
comment on function queue.lock_head is E'Lock up to p_most jobs of the first partition that has free ones, without dividing slots; jobs is null when there is none.\n\nStops at the first partition that belongs to a limited scope: those are divided by queue.divide_slots.';

create function queue.lock_first(p_request queue.lease_request, p_now timestamptz) returns queue.choice
language plpgsql set search_path = '' as $$
declare
  v_nil constant uuid := '00000000-0000-0000-0000-000000000000';
  v_first record;
  v_choice queue.choice;
begin
  select c.partition_id, c.workspace_id, c.job_type, c.queue, c.concurrency_key, c.tag, c.oldest, c.rewinds,
    h.job_id, h.place, h.job_place, h.is_late,
    not exists (select from queue.ready as r
      where r.partition_id = c.partition_id and r.ready_at >= h.ready_at and r.job_id <> h.job_id) as is_drained,
    -- beside the head each sixteenth lease is enough, or one a second: so many dead rows cost as much as the note
    c.last_leased_at > p_now - interval '1 second' and get_byte(uuid_send(h.job_id), 10) % 16 > 0 and (
      select count(*) from (select from queue.partitions as o
        where o.workspace_id = c.workspace_id and o.job_type collate "C" = c.job_type limit 2) as o) = 1 as is_marked,
    (select count(*) from (select from queue.turns limit 3) as t) = 2 as is_alone
  into v_first
  from (
    select p.id as partition_id, p.concurrency_key, p.last_leased_at, p.rewinds, u.*, head.ready_at as oldest
    from (
      -- the first turn of each type, the first of these, and with it those of its tenant that are as old
      select u.*, t.ageing_seconds, t.key_concurrency,
        num_nonnulls(t.max_concurrency, t.workspace_concurrency, t.rate_limit) > 0 as is_bound
      from queue.job_types as t cross join unnest(coalesce(p_request.queues, '{""}')) as q (name)
      cross join lateral (
        select u.workspace_id, u.job_type, u.queue, u.tag from queue.turns as u
        where u.queue = q.name and u.job_type = t.job_type and not u.set_aside
        order by u.tag, u.workspace_id limit 1) as u
      where t.paused_at is null and (p_request.job_types is null or t.job_type = any (p_request.job_types))
        and (p_request.budget_ms is null or t.run_p95_ms is null or t.run_p95_ms <= p_request.budget_ms)
      order by u.tag, u.workspace_id fetch first 1 row with ties) as u
    left join lateral (
      (select * from queue.partitions as o
        where u.queue = '' and o.workspace_id = u.workspace_id and o.job_type collate "C" = u.job_type
          and not o.set_aside
        order by o.priority, o.last_leased_at limit 3)
      union all
      (select * from queue.partitions as o
        where u.queue <> '' and o.workspace_id = u.workspace_id and o.job_type = u.job_type and o.queue = u.queue
          and not o.set_aside
        order by o.priority, o.last_leased_at limit 3)) as p on true
    left join lateral (
      select r.ready_at from queue.ready as r
      where r.partition_id = p.id and r.ready_at >= p.claim_from order by r.ready_at limit 1) as head on true
    -- first one without a job: it is to be closed, or its turn set aside, by who looks further
    order by head.ready_at is not null,
      p.priority - case when u.ageing_seconds is null then 0
        else floor(extract(epoch from p_now - head.ready_at) / u.ageing_seconds) end, head.ready_at limit 1) as c
  left join lateral (
    select r.job_id, r.ready_at, r.ctid as place, j.ctid as job_place,
      coalesce(j.deadline_at <= p_now, false) as is_late
    from queue.ready as r join public.jobs as j on j.id = any (array[r.job_id])
    where r.partition_id = c.partition_id and r.ready_at >= c.oldest and j.status = 'pending'
      and not c.is_bound and (c.key_concurrency is null or c.concurrency_key = '')
      and not exists (select from queue.shares as s
        where s.workspace_id = any (array[c.workspace_id, v_nil]) and s.finish_tag > c.tag)
      and not exists (select from queue.tenant_limits as l where l.workspace_id = c.workspace_id)
      and not exists (select from queue.pauses)
    order by r.ready_at, r.job_id limit 1 for update of r, j skip locked) as h on true;
  if v_first.is_late is false then
    v_choice.candidates := array[row(v_first.partition_id, v_first.workspace_id, v_first.job_type, v_first.queue,
      v_first.concurrency_key, v_first.tag, 1, null, v_first.oldest, v_first.rewinds, false, null, null, null, null,
      false)::queue.candidate];
    v_choice.jobs := array[row(v_first.job_id, v_first.place, v_first.job_place)::queue.locked_job];
    v_choice.virtual_time := v_first.tag;
    v_choice.busy := false;
    v_choice.cut := false;
    v_choice.empty := case when v_first.is_drained then array[v_first.partition_id] else '{}' end;
    v_choice.is_counted := true;
    v_choice.is_marked := v_first.is_marked;
    v_choice.is_alone := v_first.is_alone;
  end if;
  return v_choice;
end;
$$;
comment on function queue.lock_first is E'Lock the job that a lease of one gets, in one statement; jobs is null when something rare is met, and queue.choose_jobs decides: limits, weights, pauses, a turn that is behind, an empty partition, a passed deadline, nothing free.\n\nThe same job: the oldest turn is the first one in order when it is not behind its tenant''s tag.';

create function queue.make_caps(p_scopes queue.scope[], p_candidates queue.candidate[]) returns void
language plpgsql set search_path = ''
set lock_timeout = '5ms' -- another lease is making the same: that scope is busy, and two never deadlock
as $$
declare
  v_ids uuid[];
begin
  -- None of a key that another lease is closing, and none closes before the commit: it goes with its last partition.
  -- Skipping does not help where the other has changed a row and then locked it: that is waited for, and abandoned.
  v_ids := array(
    select p.id from queue.partitions as p
    where p.id = any (array(select c.partition_id from unnest(p_candidates) as c)) order by p.id
    for key share skip locked);
  insert into queue.caps (scope, job_type, workspace_id, concurrency_key)
  select s.scope, s.job_type, s.workspace_id, s.concurrency_key from unnest(p_scopes) as s
  where s.cap_id is null and (s.scope <> 'key' or exists (
    select 1 from unnest(p_candidates) as c
    where c.partition_id = any (v_ids) and c.workspace_id = s.workspace_id and c.job_type = s.job_type
      and c.concurrency_key = s.concurrency_key))
  order by s.workspace_id, s.job_type, s.concurrency_key, s.scope on conflict do nothing;
exception when lock_not_available or deadlock_detected then
  null; -- what has no row counts as held by another
end;
$$;
comment on function queue.make_caps is 'Create the missing rows to lock for the limited scopes of partitions, unless another transaction is creating one of them.';

create function queue.hold_caps(p_candidates queue.candidate[]) returns queue.scope[]
language plpgsql set search_path = '' as $$
declare
  v_scopes constant queue.scope[] := array(select s from queue.scopes(p_candidates) as s);
begin
  if exists (select 1 from unnest(v_scopes) as s where s.cap_id is null) then
    perform queue.make_caps(v_scopes, p_candidates);
  end if;
  -- a statement of its own, so that the next one counts what the last holder committed
  return array(
    select row(s.scope, s.job_type, s.workspace_id, s.concurrency_key, c.id, c.id is not null)::queue.scope
    from unnest(v_scopes) as s
    left join lateral (
      select c.id from queue.caps as c
      where c.workspace_id = s.workspace_id and c.job_type = s.job_type and c.concurrency_key = s.concurrency_key
        and c.scope = s.scope limit 1 for update skip locked) as c on true);
end;
$$;
comment on function queue.hold_caps is E'Lock the limited scopes of partitions, those that are free; return all of them.\n\nA lease below a limit holds its row until the commit, and counts the leases once it holds it: two never count at once.';

create function queue.count_free(
  p_candidates queue.candidate[], p_scopes queue.scope[], p_most integer, p_now timestamptz
) returns queue.candidate[]
language plpgsql set search_path = '' as $$
declare
  v_most constant integer := 2147483647;
begin
  return (
    with frees as materialized ( -- counted under the lock of each; nothing is free where another holds it
      select s.scope, s.job_type, s.workspace_id, s.concurrency_key, s.held, case when s.held
        then queue.free_slots(s.scope, s.job_type, s.workspace_id, s.concurrency_key, p_most, p_now) else 0 end as free
      from unnest(p_scopes) as s)
    select array_agg(row(c.partition_id, c.workspace_id, c.job_type, c.queue, c.concurrency_key, c.tag, c.weight,
      c.priority, c.oldest, c.rewinds, c.is_bound, coalesce(ft.free, v_most), coalesce(fw.free, v_most),
      coalesce(fx.free, v_most), coalesce(fk.free, v_most),
      not (coalesce(ft.held, true) and coalesce(fw.held, true) and coalesce(fx.held, true) and coalesce(fk.held, true))
      )::queue.candidate order by c.ordinality)
    from unnest(p_candidates) with ordinality as c
    left join frees as ft on ft.scope = 'type' and ft.job_type = c.job_type
    left join frees as fw on fw.scope = 'workspace' and fw.workspace_id = c.workspace_id
    left join frees as fx on fx.scope = 'workspace_type' and fx.workspace_id = c.workspace_id
      and fx.job_type = c.job_type
    left join frees as fk on fk.scope = 'key' and fk.workspace_id = c.workspace_id and fk.job_type = c.job_type
      and fk.concurrency_key = c.concurrency_key);
end;
$$;
comment on function queue.count_free is E'The candidates, with how many more jobs each of their scopes may start; the largest integer where there is no limit.\n\np_scopes: see queue.hold_caps.';

create function queue.share_slots(
  p_candidates queue.candidate[], p_most integer, p_deep boolean,
  out shares queue.share[], out virtual_time double precision, out cut boolean
)
language plpgsql set search_path = '' as $$
declare
  v_counted constant integer := 1000; -- no further: a share above that makes no difference
  v_slots bigint;
begin
  if exists (select 1 from unnest(p_candidates) as c where c.workspace_id <> (p_candidates[1]).workspace_id) then
    v_slots := p_most + (select count(*) from (select 1 from queue.leases limit v_counted) as l);
  end if;
  with tenants as materialized (
    select c.workspace_id, array_agg(c) as members, max(c.weight) as weight from unnest(p_candidates) as c group by 1),
  -- how many more a tenant may start before it holds more than its share: half of the slots, or more by its weight
  spared as materialized (
    select t.members, case when p_deep then p_most
        else ceil(4.0 * p_most * t.weight / sum(t.weight) over () / cardinality(t.members))::integer + 4 end as depth,
      case when v_slots is null then v_counted
      else ceil(v_slots * greatest(0.5, t.weight / sum(t.weight) over ())) - (
        select count(*) from (
          select 1 from queue.leases as l where l.workspace_id = t.workspace_id limit v_counted) as mine) end as spare
    from tenants as t),
  heads as materialized (
    select c.*, s.spare, s.depth, r.ready_at, r.job_id,
      least(p_most, c.type_free, c.workspace_free, c.type_workspace_free, c.key_free) > s.depth as is_deep
    from spared as s cross join lateral unnest(s.members) as c
    cross join lateral (
      select q.ready_at, q.job_id from queue.ready as q
      where q.partition_id = c.partition_id and q.ready_at >= c.oldest order by q.ready_at, q.job_id
      limit least(p_most, s.depth, c.type_free, c.workspace_free, c.type_workspace_free, c.key_free)) as r),
  by_key as (
    select *, row_number() over (partition by workspace_id, job_type, concurrency_key
      order by priority, ready_at, job_id) as nth_of_key from heads),
  by_type_workspace as (
    select *, row_number() over (partition by workspace_id, job_type
      order by priority, ready_at, job_id) as nth_of_type_workspace
    from by_key where nth_of_key <= coalesce(key_free, nth_of_key)),
  by_workspace as (
    select *, row_number() over (partition by workspace_id order by priority, ready_at, job_id) as nth
    -- a full type takes no slot of its tenant
    from by_type_workspace where nth_of_type_workspace <= coalesce(least(type_free, type_workspace_free), p_most)),
  tagged as (
    select *, tag + (nth - 1) / weight as start_tag, nth > spare as is_beyond
    from by_workspace where nth <= coalesce(workspace_free, nth)),
  by_type as (
    select *, row_number() over (partition by job_type
      order by is_beyond, start_tag, ready_at, job_id) as nth_of_type from tagged),
  picked as (
    select partition_id, oldest, start_tag from by_type where nth_of_type <= coalesce(type_free, nth_of_type)
    order by is_beyond, start_tag, ready_at, job_id limit p_most),
  counted as (
    select p.partition_id, p.oldest, count(*)::integer as jobs, max(p.start_tag) as start_tag
    from picked as p group by 1, 2)
  select coalesce(array_agg(row(s.partition_id, s.oldest, s.jobs)::queue.share), '{}'), max(s.start_tag),
    exists (select 1 from heads as h where h.is_deep group by h.partition_id, h.depth having count(*) >= h.depth)
  into shares, virtual_time, cut from counted as s;
end;
$$;
comment on function queue.share_slots is E'Divide p_most slots among partitions, looking at p_most jobs of each if p_deep, otherwise at four times a tenant''s share and some: inside a tenant by priority, then age; between tenants by weighted start-time fair queueing; never beyond what the scopes may start.\n\nOne tenant''s jobs beyond half of the slots, or its weight''s part, come last: a tenant may hold them while no other needs them. cut: a partition may have more than were looked at.';

create function queue.store_events(p_events queue.event[]) returns void
language plpgsql set search_path = '' as $$
begin
  insert into queue.job_events (job_id, seq, workspace_id, session_id, type, data, created_at)
  select e.job_id, e.seq, e.workspace_id, e.session_id, e.type, e.data, e.created_at from unnest(p_events) as e;
end;
$$;
comment on function queue.store_events is 'Store events, and publish them.';

create function queue.start_jobs(
  p_jobs queue.locked_job[], p_request queue.lease_request, p_events queue.event[], p_now timestamptz,
  out leases json, out leased integer, out started queue.started[], out is_rated boolean
)
language plpgsql set search_path = '' as $$
declare
  v_worker constant text := p_request.worker_id;
  v_tick constant uuid := p_request.tick_id;
  v_call constant integer := p_request.call;
  v_seconds constant integer := p_request.lease_seconds;
  v_first constant jsonb := jsonb_build_object('status', 'processing', 'attempts', 1, 'worker_id', v_worker);
begin
  if exists (select 1 from queue.unique_jobs) then
    delete from queue.unique_jobs
    where job_id = any (array(select j.job_id from unnest(p_jobs) as j)) and until = 'leased';
  end if;
  with gone as materialized ( -- by where they lie: looking each up again would be a tenth of the lease
    delete from queue.ready as r using unnest(p_jobs) as h where r.ctid = h.place
    returning r.partition_id, r.ready_at, h.job_place),
  begun as materialized (
    update public.jobs as j set status = 'processing', attempts = j.attempts + 1, fence = j.fence + 1,
      started_at = coalesce(j.started_at, greatest(p_now, j.created_at)), -- committed after the clock was read
      queue_ms = coalesce(j.queue_ms, date_part('epoch', p_now - g.ready_at) * 1000), updated_at = p_now,
      next_retry_at = null, last_seq = j.last_seq + case when t.events = 'full' then 1 else 0 end
    from gone as g, queue.job_types as t
    -- one that was put off between the choice and its lock is pending, but no longer ready
    where j.ctid = g.job_place and t.job_type = j.job_type
    returning j.id, j.fence, j.workspace_id, j.user_id, j.session_id, j.job_type, j.queue, j.payload, j.schema_version,
      j.concurrency_key, j.attempts, j.max_attempts, j.last_seq, j.priority, j.created_at, j.parent_id, j.traceparent,
      j.progress, j.deadline_at, coalesce(j.timeout_seconds, t.timeout_seconds) as timeout_seconds,
      g.partition_id, g.ready_at, j.replay_from, t.events, t.rate_limit,
      coalesce(v_seconds, t.lease_seconds) as lease_seconds,
      p_now + make_interval(secs => coalesce(v_seconds, t.lease_seconds)) as lease_expires_at),
  held as (
    insert into queue.leases (job_id, fence, workspace_id, job_type, concurrency_key, partition_id, ready_at, attempt,
      worker_id, tick_id, tick_call, leased_at, lease_seconds, expires_at, look_at, job_created_at)
    select s.id, s.fence, s.workspace_id, s.job_type, coalesce(s.concurrency_key, ''), s.partition_id, s.ready_at,
      s.attempts, v_worker, v_tick, v_call, p_now, s.lease_seconds, s.lease_expires_at, s.lease_expires_at, s.created_at
    from begun as s),
  appended as (
    insert into queue.job_events (job_id, seq, workspace_id, session_id, type, data, created_at)
    select e.job_id, e.seq, e.workspace_id, e.session_id, e.type, e.data, e.created_at from unnest(p_events) as e
    union all
    select s.id, s.last_seq, s.workspace_id, s.session_id, 'job.leased',
      case s.attempts when 1 then v_first
        else jsonb_build_object('status', 'processing', 'attempts', s.attempts, 'worker_id', v_worker) end, p_now
    from begun as s where s.events = 'full'),
  counted as (
    select s.partition_id, count(*)::integer as jobs from begun as s group by s.partition_id)
  -- the answer is text from here on: as jsonb it would cost more than the rest of the lease. By names, never by a
  -- type's places: a column more would stop every session whose plan is older.
  select coalesce(json_agg(answer order by s.priority, s.created_at, s.id), '[]'), count(*),
    (select array_agg(row(c.partition_id, c.jobs)::queue.started) from counted as c), bool_or(s.rate_limit is not null)
  into leases, leased, started, is_rated
  from begun as s
  cross join lateral (
    select s.id, s.workspace_id, s.user_id, s.session_id, s.queue, s.job_type, s.payload, s.schema_version, s.priority,
      s.attempts, s.max_attempts, s.created_at, s.parent_id, s.traceparent, s.progress, s.timeout_seconds,
      s.deadline_at) as job
  cross join lateral (
    select s.fence, s.lease_seconds, s.lease_expires_at, s.ready_at,
      case when s.fence = 1 and s.replay_from is null then '{}' else queue.steps_of(s.id) end as steps, job) as answer;
end;
$$;
comment on function queue.start_jobs is E'Lease jobs that queue.lock_jobs has locked: ready → lease, attempt and fence up by one. Gives the leases as workers get them, how many, and how many of each partition.\n\np_events: those to store in the same statement; is_rated: any is of a type with a rate limit.';

create function queue.move_marks(
  p_started queue.started[], p_candidates queue.candidate[], p_now timestamptz, p_horizon xid8
) returns void
language plpgsql set search_path = '' as $$
begin
  -- What was seen of a partition is its head, the oldest that anyone can see. What cannot be seen yet is
  -- older only if its transaction began before ours, for later ones read their clock after our start.
  -- Once all before ours have ended, nothing older than that start or than the head can turn up: dead
  -- rows before are never looked at again, not even while a held snapshot keeps them. A job that came back
  -- meanwhile has raised rewinds. Another that leases from it now writes the same: no one waits for that.
  with heads as materialized (
    select c.oldest, p.place from unnest(p_started) as s
    join unnest(p_candidates) as c on c.partition_id = s.partition_id
    cross join lateral (
      select p.ctid as place from queue.partitions as p where p.id = c.partition_id and p.rewinds = c.rewinds
      limit 1 for no key update skip locked) as p)
  update queue.partitions as p set last_leased_at = p_now,
    claim_from = greatest(p.claim_from, head.oldest - interval '5 seconds',
      case when p.mark_xid <= p_horizon then least(p.mark_from, head.oldest) end),
    mark_from = case when p.mark_xid > p_horizon then p.mark_from
      else least(head.oldest, p_now - (clock_timestamp() - now())) end,
    mark_xid = case when p.mark_xid > p_horizon then p.mark_xid else pg_current_xact_id() end
  from heads as head where p.ctid = head.place;
end;
$$;
comment on function queue.move_marks is E'Note the lease on its partitions, and move their watermarks.\n\np_horizon: every transaction below it had ended before the candidates were seen.';

create function queue.pass_turns(
  p_started queue.started[], p_candidates queue.candidate[], p_virtual_time double precision
) returns void
language plpgsql set search_path = '' as $$
declare
  v_nil constant uuid := '00000000-0000-0000-0000-000000000000';
  v_now double precision;
  v_place tid;
begin
  if (select count(*) from (select 1 from queue.turns limit 3) as t) = 2 then
    return; -- alone it passes its turn to itself: the virtual time would rise as its own does
  end if;
  select s.finish_tag, s.ctid into v_now, v_place from queue.shares as s where s.workspace_id = v_nil;
  with kinds as materialized ( -- that in any queue as well; those in its queues are brought up to date when read
    select c.workspace_id, c.job_type, max(c.weight) as weight, sum(u.jobs) as jobs,
      array_append(array_agg(distinct c.queue) filter (where c.queue <> ''), '') as queues
    from unnest(p_started) as u join unnest(p_candidates) as c on c.partition_id = u.partition_id group by 1, 2),
  shares as materialized (
    select k.workspace_id, s.place, greatest(coalesce(v_now, 0), s.finish_tag) + k.jobs / k.weight as tag
    from (select workspace_id, max(weight) as weight, sum(jobs) as jobs from kinds group by 1) as k
    cross join lateral (
      select s.ctid as place, s.finish_tag from queue.shares as s where s.workspace_id = k.workspace_id
      limit 1 for no key update skip locked) as s),
  turns as materialized (
    select s.tag, t.place from shares as s join kinds as k on k.workspace_id = s.workspace_id
    cross join unnest(k.queues) as q (name)
    cross join lateral (
      select t.ctid as place from queue.turns as t
      where t.workspace_id = k.workspace_id and t.job_type = k.job_type and t.queue = q.name
      limit 1 for no key update skip locked) as t),
  shared as (
    update queue.shares as s set finish_tag = k.tag from shares as k where s.ctid = k.place)
  update queue.turns as u set tag = k.tag from turns as k where u.ctid = k.place;
  if v_now < p_virtual_time then
    update queue.shares set finish_tag = p_virtual_time where ctid = any (array(
      select s.ctid from queue.shares as s where s.ctid = v_place and s.finish_tag < p_virtual_time
      for no key update skip locked));
  end if;
end;
$$;
comment on function queue.pass_turns is E'Move the tenants of leased jobs back in the order, by the tags of start-time fair queueing.\n\nWaits for no one: of two leases of one tenant at this very moment one is counted.';

create function queue.spend_tokens(p_started queue.started[], p_now timestamptz) returns void
language plpgsql set search_path = '' as $$
declare
  v_nil constant uuid := '00000000-0000-0000-0000-000000000000';
begin
  insert into queue.buckets as b (job_type, workspace_id, concurrency_key, tokens, refilled_at)
  select t.job_type, case when t.rate_per_key then p.workspace_id else v_nil end,
    case when t.rate_per_key then p.concurrency_key else '' end, max(t.rate_limit) - sum(u.jobs), p_now
  from unnest(p_started) as u
  cross join lateral (select * from queue.partitions as o where o.id = u.partition_id limit 1) as p
  join queue.job_types as t on t.job_type = p.job_type and t.rate_limit is not null
  group by 1, 2, 3
  on conflict (job_type, workspace_id, concurrency_key) do update set
    tokens = (select queue.tokens(b.tokens, b.refilled_at, t.rate_limit, t.rate_per_seconds, p_now)
        - (t.rate_limit - excluded.tokens)
      from queue.job_types as t where t.job_type = b.job_type),
    refilled_at = excluded.refilled_at;
end;
$$;
comment on function queue.spend_tokens is 'Take a token for each leased job of a rate-limited type. The caller holds the scopes'' rows.';

create function queue.leases_of_call(p_tick_id uuid, p_call integer) returns json
language plpgsql stable set search_path = '' as $$
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
      select l.fence, l.lease_seconds, l.expires_at as lease_expires_at, l.ready_at,
        queue.steps_of(j.id) as steps, job) as answer
    where l.tick_id = p_tick_id and l.tick_call = p_call);
end;
$$;
comment on function queue.leases_of_call is 'The leases of an earlier answer to the same call, which may have been lost, as far as they are still held.';

create function queue.put_turns_aside(p_turns queue.turns[], p_until timestamptz) returns void
language plpgsql set search_path = '' as $$
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
language plpgsql set search_path = '' as $$
begin
  update queue.partitions set set_aside = true, look_at = p_until where id = any (array(
    select id from queue.partitions where id = any (p_ids) order by id for no key update skip locked));
end;
$$;
comment on function queue.put_partitions_aside is 'The same as queue.put_turns_aside for partitions whose key is at its limit.';

create function queue.put_hiding_aside(p_idle queue.turns[], p_paused uuid[], p_now timestamptz) returns integer
language plpgsql set search_path = '' as $$
begin
  if cardinality(p_idle) > 0 then
    perform queue.put_turns_aside(p_idle, p_now + interval '1 second');
  end if;
  if cardinality(p_paused) > 0 then
    perform queue.put_partitions_aside(p_paused, p_now + interval '5 seconds');
  end if;
  return cardinality(p_idle) + cardinality(p_paused);
end;
$$;
comment on function queue.put_hiding_aside is 'Set aside turns without a partition to lease from, and partitions of paused queues, where they fill what a lease looks at; return how many.';

create function queue.put_full_aside(p_candidates queue.candidate[], p_until timestamptz) returns integer
language plpgsql set search_path = '' as $$
declare
  v_full record;
begin
  select array_agg(c.partition_id) filter (where c.key_free <= 0) as keys,
    array_agg(distinct row(c.workspace_id, c.job_type, c.queue, c.tag, true, p_until)::queue.turns)
      filter (where least(c.workspace_free, c.type_workspace_free) <= 0) as tenants into v_full
  from unnest(p_candidates) as c where not c.missed;
  if v_full.tenants is not null then
    perform queue.put_turns_aside(v_full.tenants, p_until);
  end if;
  if v_full.keys is not null then
    perform queue.put_partitions_aside(v_full.keys, p_until);
  end if;
  return coalesce(cardinality(v_full.keys), 0) + coalesce(cardinality(v_full.tenants), 0);
end;
$$;
comment on function queue.put_full_aside is 'Set aside the partitions whose key is at its limit, and the tenants that are at one; return how many.';

create function queue.divide_slots(
  p_candidates queue.candidate[], p_most integer, p_deep boolean, p_count_due boolean, p_now timestamptz
) returns queue.choice
language plpgsql set search_path = '' as $$
declare
  v_candidates queue.candidate[] := p_candidates;
  v_bound constant boolean := exists (select 1 from unnest(p_candidates) as c where c.is_bound);
  v_scopes queue.scope[];
  v_shared record;
  v_locked record;
  v_choice queue.choice;
begin
  if cardinality(p_candidates) = 0 then
    return row(null, '{}', '{}', null, 0, false, false, '{}', 0, null, false, false, false)::queue.choice;
  elsif v_bound then
    v_scopes := queue.hold_caps(p_candidates);
    v_candidates := queue.count_free(p_candidates, v_scopes, p_most, p_now);
  end if;
  v_shared := queue.share_slots(v_candidates, p_most, p_deep);
  v_locked := queue.lock_jobs(v_shared.shares, p_now);
  v_choice.jobs := v_locked.jobs;
  v_choice.late := v_locked.late;
  v_choice.virtual_time := v_shared.virtual_time;
  v_choice.cut := v_shared.cut;
  v_choice.missed := array(
    (select s.partition_id from unnest(v_shared.shares) as s except select g.id from unnest(v_locked.givers) as g (id))
    union all select c.partition_id from unnest(v_candidates) as c where c.missed);
  v_choice.busy := exists (select 1 from unnest(v_candidates) as c where c.missed)
    or cardinality(v_locked.jobs) + cardinality(v_locked.late)
      < (select sum(s.jobs) from unnest(v_shared.shares) as s);
  v_choice.due := case when p_count_due then (
    select count(*) from (
      select 1 from unnest(v_candidates) as c
      cross join lateral (
        select 1 from queue.ready as r where r.partition_id = c.partition_id
        limit least(1001 + p_most, c.type_free, c.workspace_free, c.type_workspace_free, c.key_free)) as r
      limit 1000 + p_most) as counted) end;
  v_choice.aside := case when v_bound then queue.put_full_aside(v_candidates, p_now + interval '1 second') else 0 end;
  return v_choice;
end;
$$;
comment on function queue.divide_slots is 'Divide p_most slots among the candidates, lock the jobs that fall to each, and set aside what is at a limit.';

create function queue.choose_jobs(p_request queue.lease_request, p_now timestamptz) returns queue.choice
language plpgsql set search_path = '' as $$
declare
  v_limit constant integer := p_request.most;
  v_counts constant boolean := p_request.counts_due;
  v_types text[] := queue.startable_types(p_request.job_types, p_request.budget_ms, p_now);
  v_most integer := v_limit + 1;
  v_depth integer := 1;
  v_aside_most constant integer := 40; -- then the call is long enough, and the next one continues
  v_aside integer := 0;
  v_put integer; -- of them in this round, before slots were divided
  v_held uuid[] := '{}'; -- partitions that other workers lease from at this moment
  v_empty uuid[] := '{}';
  v_turns queue.turns[];
  v_paused queue.turns[];
  v_paused_queues text[] := '{}';
  v_heads integer; -- partitions that a turn is asked for first
  v_cut boolean;
  v_found record;
  v_choice queue.choice;
begin
  -- first the heads of a few turns, then of others beside those that are held or at a limit; deeper ones only when that
  -- leaves slots empty
  for v_round in 1..5 loop
    v_turns := queue.next_turns(v_types, p_request.queues, v_most);
    v_cut := cardinality(v_turns) >= v_most;
    if exists (select 1 from queue.pauses) then
      v_paused := queue.paused_turns(v_turns);
      perform queue.put_turns_aside(v_paused, p_now + interval '5 seconds') where cardinality(v_paused) > 0;
      v_turns := array(select u from unnest(v_turns) as u where u <> all (v_paused));
      v_paused_queues := array(select name from queue.pauses where kind = 'queue');
    end if;
    v_heads := ceil(1.5 * v_limit / greatest(1, least(v_most, cardinality(v_turns))))::integer + 1;
    v_found := queue.find_candidates(v_turns, v_most,
      case v_depth when 1 then v_heads when 2 then 12 * v_heads
        else 12 * v_heads + 200 / greatest(1, least(v_most, cardinality(v_turns))) end, v_held, v_paused_queues, p_now);
    if v_cut and v_found.behind then
      perform queue.freshen_turns(v_turns);
      if v_found.hides and v_round <= 3 then
        v_most := 4 * v_most;
        continue;
      end if;
    end if;
    v_put := queue.put_hiding_aside(case when v_cut then v_found.idle else '{}' end,
      case when v_found.cut then v_found.paused else '{}' end, p_now);
    v_empty := v_empty || v_found.empty;
    if not v_counts and cardinality(v_found.candidates) > 0
        and (v_limit = 1 or cardinality(v_found.candidates) = 1 and not (v_cut or v_found.cut)) then
      v_choice := queue.lock_head(v_found.candidates, v_limit, p_now);
      exit when cardinality(v_choice.jobs) > 0;
    end if;
    v_choice := queue.divide_slots(v_found.candidates, v_limit, v_depth > 1, v_counts, p_now);
    exit when cardinality(v_choice.jobs) >= v_limit or not (v_cut or v_found.cut or v_choice.cut);
    v_held := v_held || v_choice.missed;
    v_choice.aside := v_choice.aside + v_put;
    v_aside := v_aside + v_choice.aside;
    exit when v_aside >= v_aside_most;
    if v_round <= 2 and (cardinality(v_choice.missed) > 0 or v_choice.aside > 0) then
      v_most := v_most + cardinality(v_choice.missed);
    else
      exit when v_depth = 3;
      v_depth := v_depth + 1;
      v_most := case v_aside when 0 then 8 * v_most + 32 else v_most + 64 end;
    end if;
  end loop;
  v_choice.busy := cardinality(v_choice.jobs) < v_limit
    and (v_choice.busy or v_held <> '{}' or v_aside >= v_aside_most);
  if v_counts and (v_cut or v_found.cut) then
    v_choice.due := greatest(v_choice.due, (
      select count(*) from (select 1 from queue.ready limit 1000 + v_limit) as r));
  end if;
  v_choice.candidates := v_found.candidates;
  v_choice.cut := v_found.cut;
  v_choice.empty := v_empty;
  return v_choice;
end;
$$;
comment on function queue.choose_jobs is E'Choose the jobs that a request gets, and lock them.\n\nbusy: slots stayed empty because another worker held at that moment jobs that could have been leased, or because many that are at a limit had to be set aside first.';

create function queue.bring_back(p_workspace_ids uuid[], p_job_types text[], p_keys text[]) returns void
language plpgsql set search_path = '' as $$
begin
  update queue.turns set set_aside = false, look_at = null where ctid = any (array(
    select t.ctid from queue.turns as t
    where t.workspace_id = any (p_workspace_ids) and t.set_aside for update skip locked));
  update queue.partitions set set_aside = false, look_at = null where ctid = any (array(
    select p.ctid from (select distinct w, t, k from unnest(p_workspace_ids, p_job_types, p_keys) as u (w, t, k)) as u
    cross join lateral (
      select o.ctid from queue.partitions as o
      where o.workspace_id = u.w and o.job_type = u.t and o.concurrency_key = u.k and o.set_aside offset 0) as h
    join queue.partitions as p on p.ctid = h.ctid and p.set_aside
    for no key update of p skip locked));
end;
$$;
comment on function queue.bring_back is 'Bring back what was set aside of these tenants and keys, since slots have become free. Never waits.';

create function queue.bring_back_of(p_ids uuid[]) returns void
language plpgsql set search_path = '' as $$
begin
  if exists (select 1 from queue.turns where set_aside) or exists (select 1 from queue.partitions where set_aside) then
    perform queue.bring_back(array_agg(workspace_id), array_agg(job_type), array_agg(coalesce(concurrency_key, '')))
    from public.jobs where id = any (p_ids);
  end if;
end;
$$;
comment on function queue.bring_back_of is 'The same as queue.bring_back for the tenants and keys of jobs whose leases have ended.';

create function queue.bring_all_back(p_job_type text, p_workspace_id uuid) returns void
language sql set search_path = '' as $$
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
language plpgsql set search_path = '' as $$
declare
  v_turns queue.turns[];
  v_paused queue.turns[];
begin
  if not exists (select 1 from queue.turns where queue = any (coalesce(p_queues, '{""}')) and not set_aside) then
    return false; -- nothing waits at all
  end if;
  v_turns := queue.next_turns(queue.startable_types(p_job_types, p_budget_ms, p_now), p_queues, 10);
  v_paused := queue.paused_turns(v_turns);
  return cardinality((queue.find_candidates(array(select u from unnest(v_turns) as u where u <> all (v_paused)),
    cardinality(v_turns), 10, '{}', array(select name from queue.pauses where kind = 'queue'), p_now)).candidates) > 0;
end;
$$;
comment on function queue.came_meanwhile is E'Whether a job is there that a choice which found none could have taken, had it been made now.\n\nIt became ready since, and the transaction that made it so, or opened its partition, may not be one that leases it.';

create function queue.next_token_at(p_now timestamptz) returns timestamptz
language plpgsql set search_path = '' as $$
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
      and exists (select 1 from queue.turns as u where u.queue = '' and u.job_type = t.job_type and not u.set_aside));
end;
$$;
comment on function queue.next_token_at is E'When the first type whose rate is used up, and of which jobs wait, may start one again; null for no such type.\n\nThe choice does not look at such a type at all, so nothing of it is set aside.';

create function queue.next_due_in_ms(p_more boolean, p_now timestamptz) returns bigint
language plpgsql set search_path = '' as $$
declare
  v_soon constant timestamptz := p_now + interval '1 second';
  v_next timestamptz := least(
    (select min(run_at) from queue.deferred), (select min(timeout_at) from queue.waits),
    (select p_now from queue.signals limit 1), (select p_now from queue.openings limit 1),
    case when p_more then p_now end,
    -- a settlement may have missed what was set aside in that moment: an idle worker then looks once a second
    case when exists (
      select 1 from (select p.queue from queue.partitions as p where p.set_aside order by p.look_at limit 20) as p
      where not exists (select 1 from queue.pauses as u where u.kind = 'queue' and u.name = p.queue)) then v_soon end);
  v_aside queue.turns[];
  v_waits boolean := false;
begin
  if v_next is null or v_next > v_soon then
    -- not for what is paused: resuming it wakes a worker, and until then a run would wait for nothing
    v_aside := array(select t from queue.turns as t where t.set_aside order by t.look_at limit 20);
    if v_aside <> '{}' then
      v_waits := cardinality(v_aside) > cardinality(queue.paused_turns(v_aside));
    end if;
    if v_waits then
      v_next := v_soon;
    elsif exists (select from queue.job_types where rate_limit is not null) then
      v_next := least(v_next, queue.next_token_at(p_now));
    end if;
  end if;
  -- greatest() leaves nulls out: without the case a worker with nothing to do would ask again at once
  return case when v_next is not null then greatest(0, ceil(extract(epoch from v_next - p_now) * 1000)) end;
end;
$$;
comment on function queue.next_due_in_ms is E'When a worker with free slots should ask again; null for not before it is woken.\n\np_more: another worker held jobs that could have been leased.';

create function queue.drained(p_started queue.started[], p_candidates queue.candidate[]) returns uuid[]
language plpgsql set search_path = '' as $$
begin
  return array(
    select s.partition_id from unnest(p_started) as s
    join unnest(p_candidates) as c on c.partition_id = s.partition_id
    where not exists (
      select 1 from queue.ready as r where r.partition_id = s.partition_id and r.ready_at >= c.oldest
      order by r.ready_at limit 1 offset 0)); -- an offset, so that it stays a look-up for each
end;
$$;
comment on function queue.drained is 'The partitions of leased jobs that have no other job left.';

create function queue.lease_ready(
  p_request queue.lease_request, p_events queue.event[], p_now timestamptz,
  out leases json, out leased integer, out due bigint, out more boolean
)
language plpgsql set search_path = '' as $$
declare
  v_opens boolean := false; -- one at a time opens and closes partitions; no one waits
  v_unopened boolean := false; -- another lease is opening some at this moment
  v_seen record; -- what is rare
  v_horizon xid8;
  v_choice queue.choice;
  v_done record;
  v_now timestamptz;
begin
  leases := '[]';
  leased := 0;
  select exists (select from queue.openings) as openings,
    exists (select from queue.turns where set_aside and look_at <= p_now)
      or exists (select from queue.partitions where set_aside and look_at <= p_now) as waited,
    exists (select from unnest(coalesce(p_request.queues, '{""}')) as q (name) cross join lateral (
      select from queue.turns as u where u.queue = q.name and not u.set_aside
      order by u.job_type, u.tag limit 1) as u) as turns
  into v_seen;
  if v_seen.openings then
    v_opens := queue.try_lock('partitions');
    v_unopened := not v_opens;
    if v_opens then
      perform queue.open_openings(greatest(20, p_request.most), p_now); -- the rest by the next leases
    end if;
  end if;
  if v_seen.waited then
    perform queue.look_again(least(20, p_request.most + 3), p_now);
  end if;
  v_horizon := pg_snapshot_xmin(pg_current_snapshot()); -- of a snapshot before that of the choice
  if not (v_seen.turns or v_seen.openings or v_seen.waited) then
    v_choice.due := 0; -- nothing waits at all
    v_choice.jobs := '{}';
  elsif p_request.most = 1 and not p_request.counts_due then
    v_choice := queue.lock_first(p_request, p_now);
  end if;
  if v_choice.jobs is null then
    v_choice := queue.choose_jobs(p_request, p_now);
  end if;
  due := v_choice.due;
  -- those that another lease has opened since the choice were not among what was chosen from
  more := coalesce(v_choice.busy, false) or v_unopened;
  if not more and coalesce(cardinality(v_choice.jobs), 0) < p_request.most then
    more := exists (select 1 from queue.openings);
  end if;
  if cardinality(v_choice.late) > 0 then
    perform queue.finish(v_choice.late, 'failed', 'its deadline passed before it could run',
      '{"type": "DeadlinePassed", "reason": "deadline_passed"}', p_now);
  end if;
  if cardinality(v_choice.jobs) > 0 then
    v_now := greatest(p_now, queue.clock()); -- one that was enqueued since p_now begins after that
    v_done := queue.start_jobs(v_choice.jobs, p_request, p_events, v_now);
    leases := v_done.leases;
    leased := v_done.leased;
    more := more or leased < cardinality(v_choice.jobs); -- one was put off at that moment
    if leased > 0 and v_choice.is_marked is not true then
      perform queue.move_marks(v_done.started, v_choice.candidates, v_now, v_horizon);
    end if;
    if leased > 0 and v_choice.is_alone is not true then
      perform queue.pass_turns(v_done.started, v_choice.candidates, v_choice.virtual_time);
    end if;
    if v_done.is_rated then
      perform queue.spend_tokens(v_done.started, v_now);
    end if;
    if leased > 0 and v_choice.is_counted is not true then
      v_choice.empty := v_choice.empty || queue.drained(v_done.started, v_choice.candidates);
    end if;
  elsif p_events <> '{}' then
    perform queue.store_events(p_events);
  end if;
  if cardinality(v_choice.empty) > 0 and (v_opens or queue.try_lock('partitions')) then
    -- jobs may lie behind those that are gone now
    more := queue.close_partitions(v_choice.empty) > 0 and v_choice.cut and leased < p_request.most or more;
  end if;
end;
$$;
comment on function queue.lease_ready is 'Open the partitions of new jobs, choose jobs and lease them, and close empty partitions.';

create function queue.read_lease(p_request jsonb) returns queue.lease_request
language plpgsql stable set search_path = '' as $$
declare
  v_read queue.lease_request;
begin
  v_read := row(p_request ->> 'worker_id', (p_request ->> 'tick_id')::uuid,
    coalesce((p_request ->> 'call')::numeric, 1)::integer, coalesce((p_request ->> 'limit')::numeric, 10)::integer,
    null, null, (p_request ->> 'lease_seconds')::numeric::integer, (p_request ->> 'budget_ms')::double precision,
    (p_request ->> 'free_slots')::numeric::integer, coalesce((p_request ->> 'count_due')::boolean, false),
    p_request ->> 'version')::queue.lease_request;
  v_read.counts_due := v_read.counts_due or v_read.call = 1;
  if jsonb_typeof(p_request -> 'job_types') = 'array' then
    v_read.job_types := array(select jsonb_array_elements_text(p_request -> 'job_types'));
  end if;
  if jsonb_typeof(p_request -> 'queues') = 'array' then
    v_read.queues := array(select jsonb_array_elements_text(p_request -> 'queues'));
  end if;
  if v_read.worker_id is null or v_read.tick_id is null or char_length(v_read.worker_id) > 200 then
    perform queue.refuse(400, 'invalid_argument', 'worker_id and tick_id are required', 'worker_id');
  elsif v_read.most not between 0 and 1000 then
    perform queue.refuse(400, 'invalid_argument', 'limit must be between 0 and 1000', 'limit');
  elsif v_read.lease_seconds not between 1 and 43200 then
    perform queue.refuse(400, 'invalid_argument', 'lease_seconds must be between 1 and 43200', 'lease_seconds');
  end if;
  return v_read;
exception
  when invalid_text_representation or numeric_value_out_of_range then
    perform queue.refuse_value('the request', 'p_request', sqlerrm);
end;
$$;
comment on function queue.read_lease is E'Read a request to lease; refuse wrong types and values.\n\nHere and not around the lease, since a block that catches errors takes a transaction id of its own once it writes.';

create function queue.lease(p_request jsonb, p_events queue.event[] default null) returns json
language plpgsql set search_path = ''
-- for all that a lease calls; each setting costs what a look-up costs. A session's plans may be older than the rows,
-- and each row is found by its key, each head in the order of its index: joined by the wrong statistics a look-up would
-- read every tenant.
set plan_cache_mode = 'force_generic_plan'
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
set enable_sort = off
set jit = off as $$
declare
  v_request constant queue.lease_request := queue.read_lease(p_request);
  v_tick queue.ticks;
  v_now timestamptz;
  v_given record;
  v_free integer;
  v_next bigint;
begin
  -- a repeat that comes while the first is at work waits for it; no row, so that what finds nothing writes nothing
  perform pg_advisory_xact_lock(hashtextextended('minutehand tick ' || v_request.tick_id, 0));
  v_now := queue.clock();
  select * into v_tick from queue.ticks where tick_id = v_request.tick_id;
  if v_request.call <= v_tick.last_call then
    perform queue.store_events(p_events) where p_events <> '{}';
    return json_build_object('leases', queue.leases_of_call(v_request.tick_id, v_request.call),
      'maintenance', queue.maintenance_is_due(v_now), 'due', 0,
      'next_due_in_ms', 0, 'repeated', true); -- what has come since, or is to come, another call must find
  end if;
  if v_request.call = 1 then
    perform queue.see_worker(p_request, v_request.job_types, v_request.queues, v_now);
  end if;
  if exists (select 1 from queue.wakeups where requested_at is not null) then
    update queue.wakeups set requested_at = null
    where id in (select id from queue.wakeups where requested_at is not null for update skip locked);
  end if;
  v_given := queue.lease_ready(v_request, p_events, v_now);
  v_free := coalesce(v_request.free_slots, v_request.most - v_given.leased);
  if v_tick.tick_id is null then
    insert into queue.ticks (tick_id, worker_id, version, job_types, queues, started_at, seen_at, last_call, leased,
      leased_at, free_slots)
    values (v_request.tick_id, v_request.worker_id, v_request.version, v_request.job_types, v_request.queues, v_now,
      v_now, v_request.call, v_given.leased, case when v_given.leased > 0 then v_now end, v_free)
    on conflict (tick_id) do nothing;
  elsif v_given.leased > 0 or v_tick.free_slots <> v_free or v_tick.seen_at <= v_now - interval '1 second' then
    -- of calls that found nothing one a second
    update queue.ticks set last_call = v_request.call, seen_at = v_now, leased = leased + v_given.leased,
      leased_at = case when v_given.leased > 0 then v_now else leased_at end, free_slots = v_free
    where tick_id = v_request.tick_id;
  end if;
  if v_given.leased < v_request.most or v_request.most = 0 then
    v_next := queue.next_due_in_ms(v_given.more, v_now);
    -- last: what was not to come any more when that was read is there by now
    if v_given.leased = 0 and v_request.most > 0 and v_next is distinct from 0
        and queue.came_meanwhile(v_request.job_types, v_request.queues, v_request.budget_ms, v_now) then
      v_next := 0;
    end if;
  end if;
  return json_build_object('leases', v_given.leases,
    'maintenance', v_given.leased < v_request.most and queue.maintenance_is_due(v_now),
    'due', case
      when v_given.due is not null then least(1000, greatest(0, v_given.due - v_given.leased))
      when v_request.most > 0 and v_given.leased >= v_request.most then 1 else 0 end,
    'next_due_in_ms', v_next);
end;
$$;
comment on function queue.lease is 'See public.lease_jobs. p_events: of what was settled in the same call, to be stored.';

create function public.lease_jobs(p_request jsonb) returns json
language plpgsql
security definer -- the worker holds no rights on the engine's tables
set search_path = ''
set lock_timeout = '8s' as $$
begin
  return queue.lease(p_request);
end;
$$;
comment on function public.lease_jobs is E'Lease up to limit jobs: {leases, maintenance, due, next_due_in_ms}.\n\nRequest: {worker_id, tick_id, call, limit 0..1000, job_types, queues, lease_seconds, budget_ms, version, free_slots}. A repeated (tick_id, call) gets the same leases. Each lease counts as an attempt. maintenance says that a call of run_maintenance would find something to do; with nothing to do this is the one query of an idle tick.';

select queue.allow('job_worker, service_role', 'public.lease_jobs');
