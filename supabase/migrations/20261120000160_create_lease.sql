-- Lease: which jobs a worker gets. queue.lease knows a repeat by its tick and number; queue.lease_ready opens turns,
-- shares the free slots among them, takes jobs and tidies the turns. Its planner settings are at the entry points: a
-- session's plans may be older than the rows, each row is found by its key and each head in the order of its index.

-- As a worker sends it, and the number that stands for its name.
create type queue.lease_request as (
  worker_id text, worker integer, tick_id uuid, call integer, "limit" integer, job_types text[], queues text[],
  lease_seconds integer, free_slots integer, count_due boolean, version text
);
-- A tenant's turn in a lane, and how many jobs it gets: 0 where it has none left and is to be closed.
create type queue.turn as (lane integer, workspace_id uuid, served_at timestamptz, from_ord bigint, jobs integer);

-- Act on notes: of the first two hundred, on fifty gates and twenty turns at most, and then on all notes of each. Who
-- opens is alone, and no one waits; the rest is for the next leases.
create function queue.open_turns(p_now timestamptz) returns void
language plpgsql as $$
declare
  v_gate record;
begin
  if not queue.try_lock('turns') then
    return;
  end if;
  for v_gate in
    with noted as materialized (
      select l.job_type, n.workspace_id, n.key
      from (select * from queue.notes where look_at <= p_now order by look_at, id limit 200) as n
      join queue.lanes as l on l.lane = n.lane
      where n.key is not null group by 1, 2, 3 order by min(n.id) limit 50),
    gone as ( -- before its jobs are counted: what comes later keeps its note
      delete from queue.notes as n using noted as o, queue.lanes as l
      where l.job_type = o.job_type and n.workspace_id = o.workspace_id and n.lane = l.lane and n.key = o.key
        and n.look_at <= p_now
      returning n.id, n.lane, n.workspace_id, l.job_type, n.key)
    select g.workspace_id, g.job_type, g.key, min(g.lane) as lane from gone as g group by 1, 2, 3 order by min(g.id)
  loop
    perform queue.open_gate(v_gate.lane, v_gate.workspace_id, v_gate.job_type, v_gate.key, p_now);
  end loop;
  with noted as materialized ( -- a statement later: the gates have left notes too
    select n.lane, n.workspace_id
    from (select * from queue.notes where look_at <= p_now order by look_at, id limit 200) as n
    where n.key is null group by 1, 2 order by min(n.id) limit 20),
  gone as (
    delete from queue.notes as n using noted as o
    where n.workspace_id = o.workspace_id and n.lane = o.lane and n.key is null)
  insert into queue.turns (lane, workspace_id, served_at)
  select o.lane, o.workspace_id, coalesce((
    select t.served_at from queue.turns as t where t.lane = o.lane and not t.aside order by t.served_at limit 1), p_now)
  from noted as o
  on conflict (lane, workspace_id) do update set aside = false, look_at = null, from_ord = 0;
  update queue.turns set aside = false, look_at = null where ctid = any (array( -- that were at a limit
    select ctid from queue.turns where aside and look_at <= p_now order by look_at limit 40 for update skip locked));
end;
$$;

-- Divide slots: rounds by weight in the order of service, never more than a scope has free, which is counted by a
-- statement that begins after its lock was taken. p_busy: scopes whose lock another holds; they have none. A turn whose
-- tenant is at a limit is set aside, for a second or until a settlement, a paused one until the pause ends; that of a
-- full type stays.
create function queue.divide_slots(p_turns queue.turn[], p_busy text[], p_most integer, p_now timestamptz)
returns queue.turn[]
language plpgsql as $$
declare
  v_depth constant integer := ceil(4.0 * p_most / cardinality(p_turns))::integer + 4; -- read of each turn
  v_shares queue.turn[];
begin
  with types as materialized (
    select y.job_type, y.workspace_concurrency, case when 'type ' || y.job_type = any (p_busy) then 0 else least(p_most,
      case when y.max_concurrency is not null then y.max_concurrency - (
        select count(*) from queue.lanes as o join queue.leases as r on r.lane = o.lane
        where o.job_type = y.job_type) end,
      case when y.rate_limit is not null and not y.rate_per_key then floor(queue.tokens_of(
        'r:' || y.job_type, y.rate_limit, y.rate_per_seconds, p_now)) end) end::integer as free
    from (select distinct k.job_type from unnest(p_turns) as t join queue.lanes as k on k.lane = t.lane) as d
    join queue.job_types as y on y.job_type = d.job_type),
  turns as materialized (
    select t.lane, t.workspace_id, t.served_at, t.from_ord, y.job_type, coalesce(w.weight, 1) as weight,
      y.free as type_free, exists (
        select from queue.pauses as p where p.kind = any ('{workspace,workspace_type}')
          and p.name = any (array[t.workspace_id::text, t.workspace_id || '/' || y.job_type])) as is_paused,
      case when 'both ' || t.workspace_id || y.job_type = any (p_busy) then 0 else least(p_most,
        case when y.workspace_concurrency is not null then y.workspace_concurrency - (
          select count(*) from queue.lanes as o
          join queue.leases as r on r.lane = o.lane and r.workspace_id = t.workspace_id
          where o.job_type = y.job_type) end) end::integer as own_free,
      case when 'workspace ' || t.workspace_id = any (p_busy) then 0 else least(p_most,
        case when w.running_max is not null then w.running_max - (
          select count(*) from queue.lanes as o
          join queue.leases as r on r.lane = o.lane and r.workspace_id = t.workspace_id) end) end::integer
        as tenant_free
    from unnest(p_turns) as t
    join queue.lanes as k on k.lane = t.lane
    join types as y on y.job_type = k.job_type
    left join queue.tenant_limits as w on w.workspace_id = t.workspace_id),
  heads as (
    select t.*, r.ord, row_number() over (partition by t.workspace_id, t.job_type order by r.ord) as nth_of_type
    from turns as t left join lateral (
      select r.ord from queue.ready as r
      where r.lane = t.lane and r.workspace_id = t.workspace_id and r.ord >= t.from_ord
      order by r.ord limit least(v_depth, t.type_free, t.own_free, t.tenant_free)) as r on true
    where least(t.type_free, t.own_free, t.tenant_free) > 0 and not t.is_paused),
  owned as (
    select h.*, row_number() over (partition by h.workspace_id order by h.ord) as nth,
      min(h.served_at) over (partition by h.workspace_id) as turn
    from heads as h where h.ord is not null and h.nth_of_type <= h.own_free),
  typed as (
    select o.*, row_number() over (partition by o.job_type order by (o.nth - 1) / o.weight, o.turn, o.ord) as nth_in_all
    from owned as o where o.nth <= o.tenant_free),
  picked as (
    select p.lane, p.workspace_id, p.served_at, p.from_ord, p.ord from typed as p where p.nth_in_all <= p.type_free
    order by (p.nth - 1) / p.weight, p.turn, p.ord limit p_most),
  full_ones as (
    update queue.turns as u
    set aside = true, look_at = case when f.is_paused then 'infinity' else p_now + interval '1 second' end
    from (
      select o.ctid as place, t.is_paused
      from turns as t join queue.turns as o on o.lane = t.lane and o.workspace_id = t.workspace_id
      where p_busy = '{}' and (t.is_paused or least(t.own_free, t.tenant_free) <= 0)
      for update of o skip locked) as f
    where u.ctid = f.place)
  select array_agg(row(s.lane, s.workspace_id, s.served_at, s.from_ord, s.jobs)::queue.turn) into v_shares from (
    select p.lane, p.workspace_id, p.served_at, p.from_ord, count(p.ord)::integer as jobs from (
      select * from picked
      union all
      select h.lane, h.workspace_id, h.served_at, h.from_ord, h.ord from heads as h where h.ord is null) as p
    group by 1, 2, 3, 4) as s;
  return v_shares;
end;
$$;

-- Which tenants get how many of the slots. lanes: those that the worker serves now; bounded: some limit or pause may
-- hold; is_alone: of one turn, whose place in the order does not matter; more: another lease holds a scope at this
-- moment, or turns lie behind those that are closed; null where no turn was found.
create function queue.share_slots(
  p_request queue.lease_request, p_now timestamptz,
  out lanes integer[], out turns queue.turn[], out bounded boolean, out is_alone boolean, out more boolean
)
language plpgsql as $$
declare
  v_most constant integer := p_request."limit";
  v_read integer;
  v_busy text[] := '{pauses}'; -- not held: a pause that began since puts no turn aside
begin
  select array_agg(distinct l.lane),
    array_agg(row(t.lane, t.workspace_id, t.served_at, t.from_ord, v_most)::queue.turn)
      filter (where t.lane is not null),
    bool_or(t.lane is not null and (
      num_nonnulls(y.max_concurrency, y.workspace_concurrency) > 0 or y.rate_limit is not null and not y.rate_per_key
      or exists (select from queue.tenant_limits as w where w.workspace_id = t.workspace_id)
      or exists (select from queue.pauses as p where p.workspace_id = t.workspace_id)))
  into lanes, turns, bounded
  from queue.lanes as l
  join queue.job_types as y on y.job_type = l.job_type
  left join lateral (
    select * from queue.turns as t where t.lane = l.lane and not t.aside
    order by t.served_at, t.workspace_id limit case when v_most > 0 then least(v_most, 200) + 1 else 0 end) as t on true
  where (p_request.job_types is null or l.job_type = any (p_request.job_types))
    and (p_request.queues is null or l.queue = any (p_request.queues))
    and not exists (
      select from queue.pauses as p
      where p.kind = any ('{type,queue}') and p.name = case p.kind when 'type' then l.job_type else l.queue end);
  v_read := cardinality(turns);
  is_alone := v_read = 1;
  more := case when v_read > 0 or v_most = 0 then false end;
  if v_read is null or is_alone and not bounded then
    return;
  elsif bounded then
    v_busy := array( -- the lock of each limited scope is tried
      select distinct s.name from unnest(turns) as t
      join queue.lanes as k on k.lane = t.lane
      join queue.job_types as y on y.job_type = k.job_type
      left join queue.tenant_limits as w on w.workspace_id = t.workspace_id
      cross join lateral (values
        ('type ' || y.job_type, y.max_concurrency is not null or y.rate_limit is not null and not y.rate_per_key),
        ('both ' || t.workspace_id || y.job_type, y.workspace_concurrency is not null),
        ('workspace ' || t.workspace_id, w.running_max is not null)) as s (name, is_wanted)
      where s.is_wanted order by 1);
    v_busy := array(select n from unnest(v_busy) as n where not queue.try_lock(n));
    -- those who may put a turn aside for a pause: its end brings it back after them
    if not pg_try_advisory_xact_lock_shared(queue.lock_kind('pauses'), 0) then
      v_busy := v_busy || 'pauses'::text;
    end if;
  end if;
  turns := queue.divide_slots(turns, v_busy, v_most, p_now);
  more := bounded and v_busy <> '{}' or v_read > v_most and exists (select from unnest(turns) as t where t.jobs = 0);
end;
$$;

-- Lease the jobs at the head of each turn. leases: the answer; changes: what is to be published; noted: those that
-- hold a unique key or the rate of a key; again: those whose lease is an event that does not follow from the row.
create function queue.take_jobs(
  p_turns queue.turn[], p_request queue.lease_request, p_now timestamptz, p_refused uuid[],
  out leases json, out leased integer, out changes queue.change[], out noted uuid[], out again uuid[]
)
language plpgsql as $$
begin
  with picked as materialized (
    select h.* from unnest(p_turns) as s
    cross join lateral (
      select r.ctid as place, j.id, r.ord, r.ready_at
      from queue.ready as r
      join public.jobs as j on j.id = any (array[r.job_id]) -- by its key, whatever statistics say of an empty table
      where r.lane = s.lane and r.workspace_id = s.workspace_id and r.ord >= s.from_ord and j.status = 'pending'
        and (j.deadline_at is null or j.deadline_at > p_now) and r.job_id <> all (p_refused)
      order by r.ord limit s.jobs for no key update of r, j skip locked) as h
    order by h.ord, h.id), -- as they are answered
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
  gone as (delete from queue.ready where ctid = any (array(select b.place from begun as b))),
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
  select coalesce(json_agg(answer), '[]'), count(*), (
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

-- The same one by one, after a trigger of the project's own refused one of them: that one is noted,
-- as maintenance does, and passed over.
create function queue.take_each(
  p_turns queue.turn[], p_request queue.lease_request, p_now timestamptz, p_refused uuid[],
  out leases json, out leased integer, out changes queue.change[], out noted uuid[], out again uuid[]
)
language plpgsql as $$
declare
  v_turn queue.turn;
  v_one record;
  v_leases json[] := '{}';
  v_left integer;
  v_id uuid;
begin
  foreach v_turn in array p_turns loop
    v_left := v_turn.jobs;
    v_turn.jobs := 1;
    while v_left > 0 loop
      begin
        v_one := queue.take_jobs(array[v_turn], p_request, p_now, p_refused);
        exit when v_one.leased = 0;
        v_left := v_left - 1;
        v_leases := v_leases || array(select json_array_elements(v_one.leases));
        changes := changes || v_one.changes;
        noted := noted || v_one.noted;
        again := again || v_one.again;
      exception when others then
        if not queue.is_refusal(sqlstate) then
          raise;
        end if;
        select r.job_id into v_id from queue.ready as r join public.jobs as j on j.id = r.job_id
        where r.lane = v_turn.lane and r.workspace_id = v_turn.workspace_id
          and r.ord >= v_turn.from_ord and j.status = 'pending'
          and (j.deadline_at is null or j.deadline_at > p_now) and r.job_id <> all (p_refused)
        order by r.ord limit 1 for no key update of r, j skip locked;
        perform queue.note_refusal('lease', v_id, format('%s (%s)', sqlerrm, sqlstate), p_now);
        p_refused := p_refused || v_id;
      end;
    end loop;
  end loop;
  leases := array_to_json(v_leases);
  leased := cardinality(v_leases);
end;
$$;

-- Take the jobs of turns, but for those that a project's own trigger refuses.
create function queue.take(
  p_turns queue.turn[], p_request queue.lease_request, p_now timestamptz
) returns record
language plpgsql as $$
declare
  v_refused record;
  v_taken record;
begin
  select coalesce(array_agg(s.job_id) filter (where s.look_at > p_now), '{}') as ids,
    array_agg(s.job_id) as known
  into v_refused from queue.signals as s where s.kind = 'refused' and s.name = 'lease';
  begin
    v_taken := queue.take_jobs(p_turns, p_request, p_now, v_refused.ids);
  exception when others then
    if not queue.is_refusal(sqlstate) then
      raise;
    end if;
    v_taken := queue.take_each(p_turns, p_request, p_now, v_refused.ids);
  end;
  if v_refused.known is not null then -- those that were taken are refused no more
    delete from queue.signals as s
    where s.kind = 'refused' and s.name = 'lease' and s.job_id = any (v_refused.known)
      and exists (select from queue.leases as l where l.job_id = s.job_id);
  end if;
  return v_taken;
end;
$$;

-- When a worker with free slots should ask again, in milliseconds; null for not before it is woken. p_more: see
-- queue.share_slots; a lease that opened turns meanwhile has committed them and the end of their notes together.
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
    case when exists (select from queue.signals) or p_more is null and exists (
        select from unnest(p_lanes) as l (lane) join queue.turns as t on t.lane = l.lane and not t.aside)
      then p_now end,
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

-- Put turns that were served back into the order, by one round, or its part by weight. p_tidies: also close those
-- without a ready job, and move the marks of others to their head: those that no open transaction has put a job into, a
-- statement after their lock was taken, which sees what was committed before.
create function queue.tidy_turns(p_turns queue.turn[], p_tidies boolean, p_is_alone boolean, p_now timestamptz)
returns void
language plpgsql as $$
declare
  v_free constant bigint[] := array(
    select s.nth from unnest(p_turns) with ordinality as s (lane, workspace_id, served_at, from_ord, jobs, nth)
    where p_tidies and pg_try_advisory_xact_lock(s.lane, uuid_hash(s.workspace_id)));
begin
  update queue.turns as u
  set served_at = u.served_at + case when p_is_alone then interval '0' else (p_now - u.served_at) / coalesce(
      (select w.weight from queue.tenant_limits as w where w.workspace_id = u.workspace_id), 1) end,
    aside = u.aside or o.is_free and h.ord is null,
    look_at = case when not o.is_free or h.ord is not null then u.look_at end,
    from_ord = coalesce(h.ord, u.from_ord)
  from unnest(p_turns) with ordinality as s (lane, workspace_id, served_at, from_ord, jobs, nth)
  cross join lateral (
    select o.ctid as place, o.from_ord, s.nth = any (v_free) as is_free from queue.turns as o
    where o.lane = s.lane and o.workspace_id = s.workspace_id for no key update skip locked) as o
  left join lateral (
    select r.ord from queue.ready as r
    where o.is_free and r.lane = s.lane and r.workspace_id = s.workspace_id and r.ord >= o.from_ord
    order by r.ord limit 1) as h on true
  where u.ctid = o.place;
end;
$$;

-- Open turns, share the slots and lease. lanes, more: see queue.share_slots.
create function queue.lease_ready(
  p_request queue.lease_request, p_changes queue.change[], p_now timestamptz,
  out leases json, out leased integer, out lanes integer[], out more boolean
)
language plpgsql as $$
declare
  v_shared record;
  v_taken record;
  v_now timestamptz := p_now;
  v_tidies boolean;
begin
  leases := '[]';
  leased := 0;
  perform from queue.notes where look_at <= p_now
  union all
  select from queue.turns where aside and look_at <= p_now
  limit 1;
  if found then
    perform queue.open_turns(p_now);
  end if;
  v_shared := queue.share_slots(p_request, p_now);
  lanes := v_shared.lanes;
  more := v_shared.more;
  if v_shared.turns is not null then
    v_now := greatest(p_now, queue.clock()); -- one that was enqueued since p_now begins after that
    v_taken := queue.take(v_shared.turns, p_request, v_now);
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
    if v_shared.bounded and leased > 0 then
      perform queue.spend('r:' || y.job_type, y.rate_limit, y.rate_per_seconds, n.jobs, v_now)
      from (select l -> 'job' ->> 'job_type' as job_type, count(*) as jobs
        from json_array_elements(leases) as l group by 1) as n
      join queue.job_types as y on y.job_type = n.job_type where y.rate_limit is not null and not y.rate_per_key;
    end if;
    perform from queue.ready as r -- a look at one turn tells most; the marks of busy ones move each 16th call
    where r.lane = v_shared.turns[1].lane and r.workspace_id = v_shared.turns[1].workspace_id
      and r.ord >= v_shared.turns[1].from_ord
    limit 1;
    v_tidies := not found or leased < p_request."limit" or p_request.call % 16 = 0;
    if v_tidies or not v_shared.is_alone then
      perform queue.tidy_turns(v_shared.turns, v_tidies, v_shared.is_alone, v_now);
    end if;
  end if;
  perform queue.publish(p_changes, v_now);
end;
$$;

-- See public.lease_jobs. p_changes: of what was settled in the same call, published with what is leased.
create function queue.lease(p_request jsonb, p_changes queue.change[] default null) returns json
language plpgsql as $$
declare
  v_request queue.lease_request := jsonb_populate_record(null::queue.lease_request, p_request);
  v_tick queue.ticks;
  v_now timestamptz;
  v_given record;
  v_free integer;
  v_due bigint;
  v_is_short boolean;
begin
  v_request.call := coalesce(v_request.call, 1);
  v_request."limit" := coalesce(v_request."limit", 10);
  if v_request.worker_id is null or v_request.tick_id is null or v_request."limit" not between 0 and 1000
      or v_request.lease_seconds not between 1 and 43200 then
    perform queue.refuse(400, 'invalid_argument',
      'worker_id and tick_id are required; limit is 0 to 1000, lease_seconds 1 to 43200', 'p_request');
  elsif current_setting('transaction_isolation') <> 'read committed' then
    perform queue.refuse(400, 'invalid_argument', 'leases need read committed: limits count what others committed');
  end if;
  -- a repeat that comes while the first is at work waits for it; no row, so that what finds nothing writes nothing
  perform queue.wait_lock('tick ' || v_request.tick_id);
  v_now := queue.clock();
  select * into v_tick from queue.ticks where tick_id = v_request.tick_id;
  if v_request.call <= v_tick.last_call then -- its answer may have been lost: what of it is still held
    perform queue.publish(p_changes, v_now);
    return json_build_object('maintenance', queue.maintenance_is_due(v_now, true), 'due', 0, 'next_due_in_ms', 0,
      'repeated', true, 'leases', (
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
        where l.tick_id = v_request.tick_id and l.tick_call = v_request.call));
  elsif v_tick.tick_id is null then
    update queue.workers set seen_at = v_now
    where worker_id = v_request.worker_id and seen_at < v_now - interval '1 minute';
    select worker into v_tick.worker from queue.workers where worker_id = v_request.worker_id;
    if not found then
      insert into queue.workers as w (worker_id, seen_at) values (v_request.worker_id, v_now)
      on conflict (worker_id) do update set seen_at = excluded.seen_at returning w.worker into v_tick.worker;
    end if;
    insert into queue.ticks (tick_id, worker, version, job_types, queues, started_at, seen_at, last_call, free_slots)
    values (v_request.tick_id, v_tick.worker, v_request.version, v_request.job_types, v_request.queues, v_now, v_now,
      v_request.call, coalesce(v_request.free_slots, v_request."limit"))
    returning * into v_tick;
  end if;
  if pg_sequence_last_value('queue.wanted_ms') > 0 then -- a worker is here: the next enqueue may ask again
    perform setval('queue.wanted_ms', 0);
  end if;
  v_request.worker := v_tick.worker;
  v_given := queue.lease_ready(v_request, p_changes, v_now);
  -- the worker's run: when it has changed, as by each call that got jobs, whose repeat is known by it; else each second
  v_free := coalesce(v_request.free_slots, v_request."limit" - v_given.leased);
  if v_given.leased > 0 or v_tick.free_slots <> v_free or v_tick.seen_at <= v_now - interval '1 second' then
    update queue.ticks set last_call = v_request.call, seen_at = v_now, free_slots = v_free,
      leased = leased + v_given.leased, leased_at = case when v_given.leased > 0 then v_now else leased_at end
    where tick_id = v_request.tick_id;
  end if;
  v_is_short := v_given.leased < v_request."limit" or v_request."limit" = 0;
  if v_request.count_due or v_request.call = 1 then
    v_due := (select count(*) from (
      select from unnest(v_given.lanes) as l (lane) join queue.ready as r on r.lane = l.lane limit 1000) as r);
  else
    v_due := (not v_is_short)::integer;
  end if;
  return json_build_object('leases', v_given.leases,
    'maintenance', v_is_short and queue.maintenance_is_due(v_now, v_tick.leased + v_given.leased > 0),
    'due', v_due, 'next_due_in_ms',
    case when v_is_short then queue.next_due_in_ms(v_given.lanes, v_given.more, v_now) end);
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
