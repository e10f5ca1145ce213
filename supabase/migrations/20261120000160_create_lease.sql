-- Lease: which jobs a worker gets. The life of a call, each step the name of its function:
--   public.lease_jobs        or settle_jobs, whose second half it is
--     queue.lease            knows a repeat by its tick and number; queue.lease_ready does the rest
--     queue.open_turns       notes that enqueues left: gates first, since they make jobs ready, then turns
--     queue.share_slots      reads the turns in their order, tries the locks of limited scopes, divides the slots
--     queue.take_jobs        ready -> leased, in one statement that skips what is locked
--     queue.tidy_turns       those without a job are closed; the marks of others move
-- Its planner settings are at the entry points: a session's plans may be older than the rows, each row is found by its
-- key and each head in the order of its index.

create type queue.lease_request as (
  worker_id text, worker integer, tick_id uuid, call integer, most integer, job_types text[], queues text[],
  lease_seconds integer, free_slots integer, counts_due boolean, version text
);
create type queue.turn as (lane integer, workspace_id uuid, served_at timestamptz, from_ord bigint);
create type queue.share as (lane integer, workspace_id uuid, from_ord bigint, jobs integer);

create function queue.read_lease(p_request jsonb) returns queue.lease_request
language plpgsql stable as $$
declare
  v_read queue.lease_request;
begin
  begin
    v_read := row(p_request ->> 'worker_id', null, (p_request ->> 'tick_id')::uuid,
      coalesce((p_request ->> 'call')::integer, 1), coalesce((p_request ->> 'limit')::integer, 10), null, null,
      (p_request ->> 'lease_seconds')::integer, (p_request ->> 'free_slots')::integer,
      coalesce((p_request ->> 'count_due')::boolean, false), p_request ->> 'version')::queue.lease_request;
  exception when data_exception then
    perform queue.refuse(400, 'invalid_argument', sqlerrm, 'p_request');
  end;
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
end;
$$;

-- Act on notes: of the first two hundred, on fifty gates and twenty turns at most, and then on all notes of each. Who
-- opens is alone, and no one waits; the rest is for the next leases.
create function queue.open_turns(p_now timestamptz) returns void
language plpgsql as $$
declare
  v_note record;
  v_ids bigint[];
begin
  if not queue.try_lock('turns') then
    return;
  end if;
  for v_note in
    select l.job_type, n.workspace_id, n.key, min(n.id) as first
    from (select * from queue.notes where look_at <= p_now order by look_at, id limit 200) as n
    join queue.lanes as l on l.lane = n.lane
    where n.key is not null group by 1, 2, 3 order by min(n.id) limit 50
  loop
    v_ids := array( -- before its jobs are counted: what comes later keeps its note
      select n.id from queue.lanes as l
      join queue.notes as n on n.workspace_id = v_note.workspace_id and n.lane = l.lane and n.key = v_note.key
      where l.job_type = v_note.job_type and n.look_at <= p_now);
    if queue.open_gate(v_note.job_type, v_note.workspace_id, v_note.key, p_now) then
      delete from queue.notes where id = any (v_ids);
    end if;
  end loop;
  for v_note in -- a statement later: the gates have left notes too
    select n.lane, n.workspace_id
    from (select * from queue.notes where look_at <= p_now order by look_at, id limit 200) as n
    where n.key is null group by 1, 2 order by min(n.id) limit 20
  loop
    v_ids := array(
      select n.id from queue.notes as n
      where n.workspace_id = v_note.workspace_id and n.lane = v_note.lane and n.key is null);
    insert into queue.turns (lane, workspace_id, served_at)
    values (v_note.lane, v_note.workspace_id, coalesce((
      select o.served_at from queue.turns as o where o.lane = v_note.lane and not o.aside
      order by o.served_at limit 1), p_now))
    on conflict (lane, workspace_id) do update set aside = false, look_at = null, from_ord = 0;
    delete from queue.notes where id = any (v_ids);
  end loop;
end;
$$;

-- Bring turns back that were aside, at a limit or paused: of a tenant, a type, or all for null. By notes, since a lease
-- may hold a turn just now, and waits for no user's open transaction.
create function queue.bring_back(p_workspace_id uuid, p_job_type text) returns void
language plpgsql as $$
begin
  insert into queue.notes (lane, workspace_id)
  select t.lane, t.workspace_id from queue.turns as t
  where t.aside and t.look_at is not null and (p_workspace_id is null or t.workspace_id = p_workspace_id)
    and (p_job_type is null or t.lane in (select l.lane from queue.lanes as l where l.job_type = p_job_type));
end;
$$;

-- How many more jobs each turn may have, under the limits of its type, of its tenant, and of both; each is counted only
-- where its lock is held, by a statement that began after it was taken. own_free, of both, is -1 where it is paused.
create function queue.free_slots(p_turns queue.turn[], p_held text[], p_most integer, p_now timestamptz)
returns table (
  lane integer, workspace_id uuid, served_at timestamptz, from_ord bigint, job_type text, weight double precision,
  type_free integer, own_free integer, tenant_free integer
)
language sql stable as $$
  with types as materialized (
    select y.job_type, y.workspace_concurrency, case
      when y.max_concurrency is null and (y.rate_limit is null or y.rate_per_key) then p_most
      when 'type ' || y.job_type <> all (p_held) then 0
      else least(
        case when y.max_concurrency is null then p_most else y.max_concurrency - (
          select count(*) from queue.lanes as o join queue.leases as r on r.lane = o.lane
          where o.job_type = y.job_type) end,
        case when y.rate_limit is null or y.rate_per_key then p_most else floor(queue.tokens_of(
          'r:' || y.job_type, y.rate_limit, y.rate_per_seconds, p_now))::integer end) end::integer as type_free
    from (select distinct k.job_type from unnest(p_turns) as t join queue.lanes as k on k.lane = t.lane) as d
    join queue.job_types as y on y.job_type = d.job_type)
  select t.lane, t.workspace_id, t.served_at, t.from_ord, y.job_type, coalesce(w.weight, 1), y.type_free,
    case
      when exists (select from queue.pauses as p where p.kind = 'workspace' and p.name = t.workspace_id::text)
        or exists (select from queue.pauses as p
          where p.kind = 'workspace_type' and p.name = t.workspace_id || '/' || y.job_type) then -1
      when y.workspace_concurrency is null then p_most
      when 'both ' || t.workspace_id || y.job_type <> all (p_held) then 0
      else greatest(0, y.workspace_concurrency - (
        select count(*) from queue.lanes as o
        join queue.leases as r on r.lane = o.lane and r.workspace_id = t.workspace_id
        where o.job_type = y.job_type)) end::integer,
    case
      when w.running_max is null then p_most
      when 'workspace ' || t.workspace_id <> all (p_held) then 0
      else greatest(0, w.running_max - (
        select count(*) from queue.lanes as o
        join queue.leases as r on r.lane = o.lane and r.workspace_id = t.workspace_id)) end::integer
  from unnest(p_turns) as t
  join queue.lanes as k on k.lane = t.lane
  join types as y on y.job_type = k.job_type
  left join queue.tenant_limits as w on w.workspace_id = t.workspace_id
$$;

-- Divide slots: rounds by weight in the order of service, never more than a scope has free. A turn whose tenant is at a
-- limit is set aside, for a second or until a settlement, a paused one until the pause ends; that of a full type stays.
create function queue.divide_slots(
  p_turns queue.turn[], p_held text[], p_busy boolean, p_bounded boolean, p_most integer, p_now timestamptz
) returns queue.share[]
language plpgsql as $$
declare
  v_depth constant integer := ceil(4.0 * p_most / cardinality(p_turns))::integer + 4; -- read of each turn
  v_shares queue.share[];
begin
  with turns as materialized (
    select f.* from queue.free_slots(p_turns, p_held, p_most, p_now) as f where p_bounded
    union all
    select t.lane, t.workspace_id, t.served_at, t.from_ord, k.job_type, 1, p_most, p_most, p_most
    from unnest(p_turns) as t join queue.lanes as k on k.lane = t.lane where not p_bounded),
  heads as (
    select t.*, r.ord, row_number() over (partition by t.workspace_id, t.job_type order by r.ord) as nth_of_type
    from turns as t cross join lateral (
      select r.ord from queue.ready as r
      where r.lane = t.lane and r.workspace_id = t.workspace_id and r.ord >= t.from_ord
      order by r.ord
      limit greatest(0, least(p_most, v_depth, t.type_free, t.own_free, t.tenant_free))) as r),
  owned as (
    select h.*, row_number() over (partition by h.workspace_id order by h.ord) as nth,
      min(h.served_at) over (partition by h.workspace_id) as turn
    from heads as h where h.nth_of_type <= h.own_free),
  typed as (
    select o.*, row_number() over (partition by o.job_type order by (o.nth - 1) / o.weight, o.turn, o.ord) as nth_in_all
    from owned as o where o.nth <= o.tenant_free),
  picked as (
    select p.lane, p.workspace_id, p.from_ord from typed as p where p.nth_in_all <= p.type_free
    order by (p.nth - 1) / p.weight, p.turn, p.ord limit p_most),
  shares as (select p.lane, p.workspace_id, p.from_ord, count(*)::integer as jobs from picked as p group by 1, 2, 3),
  full_ones as (
    update queue.turns as u
    set aside = true, look_at = case when t.own_free < 0 then 'infinity' else p_now + interval '1 second' end
    from turns as t
    where p_bounded and u.lane = t.lane and u.workspace_id = t.workspace_id
      and case when t.own_free < 0 then 'pauses' = any (p_held)
        else least(t.own_free, t.tenant_free) = 0 and not p_busy end
      and u.ctid = any (array(
        select o.ctid from queue.turns as o join turns as t on o.lane = t.lane and o.workspace_id = t.workspace_id
        for update of o skip locked)))
  select array_agg(row(s.lane, s.workspace_id, s.from_ord, s.jobs)::queue.share) into v_shares from shares as s;
  return v_shares;
end;
$$;

-- Which tenants get how many of p_most slots. bounded: some limit may count what is leased; busy: another lease holds a
-- scope at this moment; is_alone: of one turn, whose place in the order does not matter; found: there were turns.
create function queue.share_slots(
  p_lanes integer[], p_most integer, p_now timestamptz,
  out shares queue.share[], out bounded boolean, out busy boolean, out is_alone boolean, out found boolean
)
language plpgsql as $$
declare
  v_turns record;
  v_names text[];
  v_held text[];
begin
  select array_agg(row(t.lane, t.workspace_id, t.served_at, t.from_ord)::queue.turn) as turns, bool_or(
      num_nonnulls(y.max_concurrency, y.workspace_concurrency) > 0 or y.rate_limit is not null and not y.rate_per_key
      or exists (select from queue.tenant_limits as w where w.workspace_id = t.workspace_id)
      or exists (select from queue.pauses as p where p.workspace_id = t.workspace_id)) as bounded
  into v_turns
  from unnest(p_lanes) as l (lane)
  cross join lateral (
    select * from queue.turns as t where t.lane = l.lane and not t.aside
    order by t.served_at, t.workspace_id limit least(p_most, 200) + 1) as t
  join queue.lanes as k on k.lane = t.lane
  join queue.job_types as y on y.job_type = k.job_type;
  found := v_turns.turns is not null;
  bounded := v_turns.bounded;
  busy := false;
  is_alone := cardinality(v_turns.turns) = 1;
  if not found then
    return;
  elsif is_alone and not bounded then
    shares := array[row(v_turns.turns[1].lane, v_turns.turns[1].workspace_id, v_turns.turns[1].from_ord,
      p_most)::queue.share];
    return;
  elsif bounded then
    v_names := array( -- the lock of each limited scope is tried
      select distinct s.name from unnest(v_turns.turns) as t
      join queue.lanes as k on k.lane = t.lane
      join queue.job_types as y on y.job_type = k.job_type
      cross join lateral (values
        ('type ' || y.job_type,
          y.max_concurrency is not null or y.rate_limit is not null and not y.rate_per_key),
        ('both ' || t.workspace_id || y.job_type, y.workspace_concurrency is not null),
        ('workspace ' || t.workspace_id, exists (
          select from queue.tenant_limits as w where w.workspace_id = t.workspace_id and w.running_max is not null))
        ) as s (name, is_wanted)
      where s.is_wanted order by 1);
    v_held := array(select n from unnest(v_names) as n where queue.try_lock(n));
    busy := cardinality(v_held) < cardinality(v_names);
    -- a resume waits for those who may put a turn aside for its pause, and then brings it back
    v_held := case when pg_try_advisory_xact_lock_shared(hashtextextended('minutehand pauses', 0))
      then v_held || 'pauses'::text else v_held end;
  end if;
  shares := queue.divide_slots(v_turns.turns, v_held, busy, bounded, p_most, p_now);
end;
$$;

-- Lease the jobs at the head of each share. leases: the answer; changes: what is to be published; noted: those that
-- hold a unique key or the rate of a key; again: those with more events than follow from the row.
create function queue.take_jobs(
  p_shares queue.share[], p_request queue.lease_request, p_now timestamptz,
  out leases json, out leased integer, out changes queue.change[], out noted uuid[], out again uuid[]
)
language plpgsql as $$
begin
  with picked as materialized (
    select h.* from unnest(p_shares) as s
    cross join lateral (
      select r.ctid as place, j.id, r.ord, r.ready_at
      from queue.ready as r
      join public.jobs as j on j.id = any (array[r.job_id]) -- by its key, whatever statistics say of an empty table
      where r.lane = s.lane and r.workspace_id = s.workspace_id and r.ord >= s.from_ord and j.status = 'pending'
        and (j.deadline_at is null or j.deadline_at > p_now)
      order by r.ord limit s.jobs for update of r, j skip locked) as h),
  begun as materialized (
    update public.jobs as j set status = 'processing', attempts = j.attempts + 1, fence = j.fence + 1,
      worker = coalesce(nullif(j.worker, 0), p_request.worker), updated_at = p_now, next_retry_at = null,
      started_at = coalesce(j.started_at, greatest(p_now, j.created_at)), -- committed after the clock was read
      queue_ms = coalesce(j.queue_ms, date_part('epoch', p_now - p.ready_at) * 1000),
      last_seq = j.last_seq + (j.is_minimal is null)::integer
    from picked as p, queue.job_types as t
    where j.id = any (array[p.id]) and t.job_type = j.job_type
    returning j.id, j.workspace_id, j.user_id, j.session_id, j.queue, j.job_type, j.payload, j.schema_version,
      j.priority, j.attempts, j.max_attempts, j.created_at, j.parent_id, j.traceparent, j.progress, j.deadline_at,
      j.fence, j.lane, j.last_seq, j.unique_key, j.replay_from, j.is_minimal is null as is_full, p.place,
      p.ord as place_ord, p.ready_at, t.rate_per_key,
      coalesce(p_request.lease_seconds, t.lease_seconds) as lease_seconds,
      coalesce(j.timeout_seconds, t.timeout_seconds) as timeout_seconds,
      case when t.rate_per_key or t.key_concurrency is not null then queue.gate_of(t, j.concurrency_key) end as key),
  gone as (delete from queue.ready as r using begun as b where r.ctid = b.place),
  held as (
    insert into queue.leases (job_id, fence, lane, workspace_id, ord, ready_at, leased_at, expires_at,
      lease_seconds, attempt, worker, tick_id, tick_call, key)
    select b.id, b.fence, b.lane, b.workspace_id, b.place_ord, b.ready_at, p_now,
      p_now + make_interval(secs => b.lease_seconds), b.lease_seconds, b.attempts, p_request.worker, p_request.tick_id,
      p_request.call, b.key
    from begun as b),
  kinds as (
    select b.workspace_id, b.session_id, b.attempts, array_agg(b.id) as ids, array_agg(b.last_seq) as seqs
    from begun as b where b.is_full group by 1, 2, 3)
  select coalesce(json_agg(answer order by b.priority, b.created_at, b.id), '[]'), count(*), (
      select array_agg(row(k.workspace_id, k.session_id, 'job.leased', jsonb_build_object('status', 'processing',
        'attempts', k.attempts, 'worker_id', p_request.worker_id), k.ids, k.seqs)::queue.change) from kinds as k),
    array_agg(b.id) filter (where b.unique_key is not null or b.rate_per_key),
    array_agg(b.id) filter (where b.is_full and b.last_seq <> 2)
  into leases, leased, changes, noted, again
  from begun as b
  cross join lateral (
    select b.id, b.workspace_id, b.user_id, b.session_id, b.queue, b.job_type, b.payload, b.schema_version, b.priority,
      b.attempts, b.max_attempts, b.created_at, b.parent_id, b.traceparent, b.progress, b.timeout_seconds,
      b.deadline_at) as job
  cross join lateral (
    select b.fence, b.lease_seconds, p_now + make_interval(secs => b.lease_seconds) as lease_expires_at, b.ready_at,
      case when b.fence = 1 and b.replay_from is null then '{}' else queue.steps_of(b.id) end as steps, job) as answer;
end;
$$;

-- Close turns without a ready job, and move the marks of others to their head: those that no open transaction has put a
-- job into, a statement after their lock was taken, which sees what was committed before.
create function queue.tidy_turns(p_shares queue.share[]) returns void
language plpgsql as $$
declare
  v_free constant queue.share[] := array(
    select s from unnest(p_shares) as s
    where pg_try_advisory_xact_lock(s.lane, hashtext(s.workspace_id::text)));
begin
  update queue.turns as u
  set aside = u.aside or h.ord is null, look_at = case when h.ord is not null then u.look_at end,
    from_ord = coalesce(h.ord, u.from_ord)
  from unnest(v_free) as s
  cross join lateral (
    select o.ctid as place, o.from_ord from queue.turns as o
    where o.lane = s.lane and o.workspace_id = s.workspace_id for no key update skip locked) as o
  left join lateral (
    select r.ord from queue.ready as r
    where r.lane = s.lane and r.workspace_id = s.workspace_id and r.ord >= o.from_ord order by r.ord limit 1) as h
    on true
  where u.ctid = o.place;
end;
$$;

-- The leases of an earlier answer to the same call, which may have been lost, as far as they are still held.
create function queue.leases_of_call(p_tick_id uuid, p_call integer) returns json
language plpgsql stable as $$
begin
  return (
    select coalesce(json_agg(answer), '[]')
    from queue.leases as l
    join public.jobs as j on j.id = l.job_id
    join queue.job_types as t on t.job_type = j.job_type
    cross join lateral (
      select j.id, j.workspace_id, j.user_id, j.session_id, j.queue, j.job_type, j.payload, j.schema_version,
        j.priority, j.attempts, j.max_attempts, j.created_at, j.parent_id, j.traceparent, j.progress,
        coalesce(j.timeout_seconds, t.timeout_seconds) as timeout_seconds, j.deadline_at) as job
    cross join lateral (
      select l.fence, l.lease_seconds, l.expires_at as lease_expires_at, l.ready_at, queue.steps_of(j.id) as steps,
        job) as answer
    where l.tick_id = p_tick_id and l.tick_call = p_call);
end;
$$;

-- When a worker with free slots should ask again, in milliseconds; null for not before it is woken.
create function queue.next_due_in_ms(p_lanes integer[], p_more boolean, p_now timestamptz) returns bigint
language plpgsql stable as $$
declare
  v_next timestamptz;
begin
  if p_more then
    return 0;
  end if;
  v_next := least((select min(run_at) from queue.deferred), (select min(timeout_at) from queue.waits),
    (select min(look_at) from queue.notes),
    (select nullif(min(t.look_at), 'infinity') from queue.turns as t where t.aside),
    case when exists (select from queue.signals) then p_now end,
    -- when the first type whose rate is used up, and of which jobs wait, may start one again
    case when exists (select from queue.job_types where rate_limit is not null) then (
      select min(p_now + make_interval(secs => greatest(0, (1 - b.tokens) * y.rate_per_seconds / y.rate_limit)))
      from unnest(p_lanes) as l (lane)
      join queue.lanes as k on k.lane = l.lane
      join queue.job_types as y on y.job_type = k.job_type
      cross join lateral (
        select queue.tokens_of('r:' || y.job_type, y.rate_limit, y.rate_per_seconds, p_now) as tokens) as b
      where y.rate_limit is not null and not y.rate_per_key and b.tokens < 1
        and exists (select from queue.turns as t where t.lane = l.lane and not t.aside)) end);
  -- greatest() leaves nulls out: without the case a worker with nothing to do would ask again at once;
  -- around v_next, which may be -infinity, since nothing is subtracted from that before version 17
  return case when v_next is not null then ceil(extract(epoch from greatest(v_next, p_now) - p_now) * 1000) end;
end;
$$;

-- Open turns, share the slots and lease. more: a job may be there that this call could not have.
create function queue.lease_ready(
  p_request queue.lease_request, p_lanes integer[], p_changes queue.change[], p_now timestamptz,
  out leases json, out leased integer, out more boolean
)
language plpgsql as $$
declare
  v_shares record;
  v_taken record;
  v_now timestamptz;
begin
  leases := '[]';
  leased := 0;
  perform from queue.notes where look_at <= p_now limit 1;
  if found then
    perform queue.open_turns(p_now);
  end if;
  perform from queue.turns where aside and look_at <= p_now limit 1;
  if found then
    update queue.turns set aside = false, look_at = null where ctid = any (array(
      select ctid from queue.turns where aside and look_at <= p_now order by look_at limit 40 for update skip locked));
  end if;
  v_shares := queue.share_slots(case when p_request.most > 0 then p_lanes end, p_request.most, p_now);
  more := v_shares.busy;
  if v_shares.shares is not null then
    v_now := greatest(p_now, queue.clock()); -- one that was enqueued since p_now begins after that
    v_taken := queue.take_jobs(v_shares.shares, p_request, v_now);
    leases := v_taken.leases;
    leased := v_taken.leased;
    p_changes := p_changes || v_taken.changes;
    if v_taken.again is not null then -- an event that does not follow from the row
      insert into queue.job_events (job_id, seq, workspace_id, type, data, created_at)
      select j.id, j.last_seq, j.workspace_id, 'job.leased', jsonb_build_object('status', 'processing', 'attempts',
        j.attempts, 'worker_id', p_request.worker_id), v_now
      from public.jobs as j where j.id = any (v_taken.again);
    end if;
    if v_taken.noted is not null then -- unique keys that last until now, and starts that the rate of a key charges
      delete from queue.unique_jobs as u using public.jobs as j
      where j.id = any (v_taken.noted) and u.workspace_id = j.workspace_id and u.job_type = j.job_type
        and u.key = j.unique_key and u.job_id = j.id and u.until = 'leased';
      update queue.gated as g set started_at = v_now from public.jobs as j
      where j.id = any (v_taken.noted) and g.workspace_id = j.workspace_id and g.job_type = j.job_type
        and g.key = coalesce(j.concurrency_key, '') and g.job_id = j.id and g.admitted and not g.ended;
    end if;
    if not v_shares.is_alone then -- back in the order: one round, or its part by weight
      update queue.turns as u set served_at = u.served_at + (v_now - u.served_at) / coalesce(
        (select w.weight from queue.tenant_limits as w where w.workspace_id = u.workspace_id), 1)
      where u.ctid = any (array(
        select o.ctid from unnest(v_shares.shares) as s cross join lateral (
          select o.ctid from queue.turns as o where o.lane = s.lane and o.workspace_id = s.workspace_id
          for no key update skip locked) as o));
    end if;
    if v_shares.bounded and leased > 0 then
      perform queue.keep_tokens('r:' || y.job_type,
        queue.tokens_of('r:' || y.job_type, y.rate_limit, y.rate_per_seconds, v_now) - n.jobs, v_now)
      from (select l -> 'job' ->> 'job_type' as job_type, count(*) as jobs
        from json_array_elements(leases) as l group by 1) as n
      join queue.job_types as y on y.job_type = n.job_type where y.rate_limit is not null and not y.rate_per_key;
    end if;
    perform from queue.ready as r -- a look at one share tells most; the marks of busy turns move each 16th call
    where r.lane = v_shares.shares[1].lane and r.workspace_id = v_shares.shares[1].workspace_id
      and r.ord >= v_shares.shares[1].from_ord
    limit 1;
    if not found or leased < p_request.most or p_request.call % 16 = 0 then
      perform queue.tidy_turns(v_shares.shares);
    end if;
  elsif not v_shares.found and p_request.most > 0 then
    more := exists (select from unnest(p_lanes) as l (lane) join queue.turns as t on t.lane = l.lane and not t.aside);
  end if;
  if p_changes is not null then
    perform queue.publish(p_changes, greatest(p_now, v_now));
  end if;
end;
$$;

-- See public.lease_jobs. p_changes: of what was settled in the same call, published with what is leased.
create function queue.lease(p_request jsonb, p_changes queue.change[] default null) returns json
language plpgsql as $$
declare
  v_request queue.lease_request := queue.read_lease(p_request);
  v_tick queue.ticks;
  v_now timestamptz;
  v_lanes integer[];
  v_given record;
  v_free integer;
  v_due bigint;
  v_is_short boolean;
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    perform queue.refuse(400, 'invalid_argument', 'leases need read committed: limits count what others committed');
  end if;
  -- a repeat that comes while the first is at work waits for it; no row, so that what finds nothing writes nothing
  perform pg_advisory_xact_lock(hashtextextended('minutehand tick ' || v_request.tick_id, 0));
  v_now := queue.clock();
  select * into v_tick from queue.ticks where tick_id = v_request.tick_id;
  if v_request.call <= v_tick.last_call then
    if p_changes is not null then
      perform queue.publish(p_changes, v_now);
    end if;
    return json_build_object('leases', queue.leases_of_call(v_request.tick_id, v_request.call),
      'maintenance', queue.maintenance_is_due(v_now, true), 'due', 0, 'next_due_in_ms', 0, 'repeated', true);
  end if;
  if pg_sequence_last_value('queue.wanted_ms') > 0 then -- a worker is here: the next enqueue may ask again
    perform setval('queue.wanted_ms', 0);
  end if;
  v_request.worker := coalesce(v_tick.worker, (
    select w.worker from queue.workers as w where w.worker_id = v_request.worker_id));
  if v_request.worker is null then -- a name that comes for the first time
    insert into queue.workers as w (worker_id, seen_at) values (v_request.worker_id, v_now)
    on conflict (worker_id) do update set seen_at = excluded.seen_at returning w.worker into v_request.worker;
  end if;
  v_lanes := array( -- that its worker serves now
    select l.lane from queue.lanes as l
    where (v_request.job_types is null or l.job_type = any (v_request.job_types))
      and (v_request.queues is null or l.queue = any (v_request.queues))
      and not exists (
        select from queue.pauses as p where p.kind = 'type' and p.name = l.job_type or p.kind = 'queue'
          and p.name = l.queue));
  v_given := queue.lease_ready(v_request, v_lanes, p_changes, v_now);
  -- the worker's run: when it has changed, as by each call that got jobs, whose repeat is known by it; else each second
  v_free := coalesce(v_request.free_slots, v_request.most - v_given.leased);
  if v_tick.tick_id is null then
    insert into queue.ticks (tick_id, worker, version, job_types, queues, started_at, seen_at, last_call, free_slots,
      leased, leased_at)
    values (v_request.tick_id, v_request.worker, v_request.version, v_request.job_types, v_request.queues, v_now, v_now,
      v_request.call, v_free, v_given.leased, case when v_given.leased > 0 then v_now end)
    on conflict do nothing;
    update queue.workers set seen_at = v_now where worker = v_request.worker and seen_at < v_now - interval '1 minute';
  elsif v_given.leased > 0 or v_tick.free_slots <> v_free or v_tick.seen_at <= v_now - interval '1 second' then
    update queue.ticks set last_call = v_request.call, seen_at = v_now, free_slots = v_free,
      leased = leased + v_given.leased, leased_at = case when v_given.leased > 0 then v_now else leased_at end
    where tick_id = v_request.tick_id;
  end if;
  v_is_short := v_given.leased < v_request.most or v_request.most = 0;
  if v_request.counts_due or v_request.call = 1 then
    v_due := (select count(*) from (
      select from unnest(v_lanes) as l (lane) join queue.ready as r on r.lane = l.lane limit 1000) as r);
  else
    v_due := (v_request.most > 0 and not v_is_short)::integer;
  end if;
  return json_build_object('leases', v_given.leases,
    'maintenance', v_is_short and queue.maintenance_is_due(v_now, v_tick.leased + v_given.leased > 0),
    'due', v_due, 'next_due_in_ms',
    case when v_is_short then queue.next_due_in_ms(v_lanes, v_given.more, v_now) end);
end;
$$;

create function public.lease_jobs(p_request jsonb) returns json
language plpgsql security definer set search_path = ''
set lock_timeout = '8s'
set plan_cache_mode = 'force_generic_plan'
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
set enable_bitmapscan = off set enable_sort = off set jit = off as $$
begin
  return queue.lease(p_request);
end;
$$;
comment on function public.lease_jobs is
  E'Lease up to limit jobs: {leases, maintenance, due, next_due_in_ms}.\n\nRequest: {worker_id, tick_id, call, '
  'limit 0..1000, job_types, queues, lease_seconds, version, free_slots, count_due}. A repeated '
  '(tick_id, call) gets the same leases. Each lease counts as an attempt.';

select queue.allow('job_worker, service_role', 'public.lease_jobs');
