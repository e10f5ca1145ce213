-- Lease: which jobs a worker gets. queue.lease knows a repeat by its tick and number;
-- queue.lease_ready opens turns, shares the free slots among them, takes jobs and tidies the turns.
-- Its planner settings are at the entry points: a session's plans may be older than the rows, each
-- row is found by its key and each head in the order of its index.

-- As a worker sends it, and the number that stands for its name.
create type queue.lease_request as (
  worker_id text, worker integer, tick_id uuid, call integer, "limit" integer, job_types text[],
  queues text[], lease_seconds integer, free_slots integer, count_due boolean, version text
);
-- A tenant's turn in a lane, and how many jobs it gets: 0 where it has none left. Then what bounds
-- it, null for nothing: what its type, its tenant in the type, and its tenant may still start.
create type queue.turn as (
  lane integer, workspace_id uuid, place bigint, had double precision, from_ord bigint,
  jobs integer,
  job_type text, weight double precision, is_paused boolean, type_free integer, own_free integer,
  tenant_free integer
);
-- What of its round a tenant has had after a lease, and whether it goes to the end of the order.
create type queue.move as (workspace_id uuid, had double precision, ends boolean);

-- Bring turns, whose rows the caller holds, back into the order: behind others where their tenant
-- was served meanwhile in other lanes.
create function queue.bring_back(p_turns tid[]) returns void language plpgsql as $$
begin
  update queue.turns as t set aside = false, look_at = null, (place, had) = (
    select o.place, o.had from queue.turns as o
    where o.workspace_id = t.workspace_id order by o.place desc limit 1)
  where t.ctid = any (p_turns);
end $$;

-- The oldest note of a gate of each of some tenants, beginning anywhere among them.
create function queue.notes_by_tenant(p_most integer, p_now timestamptz) returns bigint[]
language plpgsql as $$
declare
  v_start constant uuid := gen_random_uuid();
  v_after uuid := v_start;
  v_is_again boolean := false; -- from the first tenant on, up to where it began
  v_note record;
  v_found bigint[] := '{}';
begin
  for v_nth in 0..p_most loop
    select n.id, n.workspace_id, n.look_at into v_note from queue.notes as n
    where n.key is not null and n.workspace_id > v_after
    order by n.workspace_id, n.look_at, n.id limit 1;
    if not found and not v_is_again then
      v_is_again := true;
      v_after := '00000000-0000-0000-0000-000000000000';
      continue;
    end if;
    exit when not found or v_is_again and v_note.workspace_id > v_start;
    v_after := v_note.workspace_id;
    if v_note.look_at <= p_now then
      v_found := v_found || v_note.id;
    end if;
  end loop;
  return v_found;
end $$;

-- Open the gates of keys that are noted, and act on all notes of each: the oldest, and of many also
-- some of each tenant's, so that none waits behind the keys of another.
create function queue.open_gates(p_most integer, p_now timestamptz) returns void
language plpgsql as $$
declare
  v_notes bigint[] := array(
    select n.id from queue.notes as n where n.key is not null and n.look_at <= p_now
    order by n.look_at, n.id limit 4 * p_most);
  v_gate record;
begin
  if cardinality(v_notes) = 4 * p_most then
    v_notes := queue.notes_by_tenant(p_most / 2, p_now) || v_notes;
  end if;
  for v_gate in
    with noted as materialized (
      select l.job_type, n.workspace_id, n.key from unnest(v_notes) with ordinality as o (id, nth)
      join queue.notes as n on n.id = o.id join queue.lanes as l on l.lane = n.lane
      group by 1, 2, 3 order by min(o.nth) limit p_most),
    gone as ( -- before its jobs are counted: what comes later keeps its note
      delete from queue.notes as n using noted as o, queue.lanes as l
      where l.job_type = o.job_type and n.workspace_id = o.workspace_id and n.lane = l.lane
        and n.key = o.key and n.look_at <= p_now
      returning n.id, n.lane, n.workspace_id, l.job_type, n.key)
    select g.workspace_id, g.job_type, g.key, min(g.lane) as lane from gone as g group by 1, 2, 3
      order by min(g.id)
  loop
    perform queue.open_gate(v_gate.lane, v_gate.workspace_id, v_gate.job_type, v_gate.key, p_now);
  end loop;
end $$;

-- Open the turns that are noted, at the end of the order, or where their tenant is in other lanes;
-- and bring back those that were at a limit.
create function queue.open_turns(p_most integer, p_now timestamptz) returns void
language plpgsql as $$
begin
  with noted as materialized (
    select n.lane, n.workspace_id
    from (select * from queue.notes where key is null order by id limit 10 * p_most) as n
    group by 1, 2 order by min(n.id) limit p_most),
  gone as (
    delete from queue.notes as n using noted as o
    where n.workspace_id = o.workspace_id and n.lane = o.lane and n.key is null
    returning n.id, n.lane, n.workspace_id, n.ord),
  opened as (
    select g.lane, g.workspace_id, min(g.ord) as ord from gone as g group by 1, 2
      order by min(g.id))
  insert into queue.turns as t (lane, workspace_id, place, had, from_ord, changed_at)
  select o.lane, o.workspace_id, coalesce(l.place, nextval('queue.places')), coalesce(l.had, 0),
    o.ord, p_now
  from opened as o
  left join lateral (
    select u.place, u.had from queue.turns as u
    where u.workspace_id = o.workspace_id order by u.place desc limit 1) as l on true
  on conflict (workspace_id, lane) do update set aside = false, look_at = null, changed_at = p_now,
    place = case when t.aside then excluded.place else t.place end,
    had = case when t.aside then excluded.had else t.had end,
    -- one that was closed has no job but those it was noted for
    from_ord = case when t.aside and t.look_at is null then excluded.from_ord
      else least(t.from_ord, excluded.from_ord) end;
  perform queue.bring_back(array(
    select ctid from queue.turns where aside and look_at <= p_now
    order by look_at limit 2 * p_most for update skip locked));
end $$;

-- The lanes that a worker serves now, and the first turns of each, depth of them. tenants: of how
-- many a lease then reads, some more than it has slots, since a turn may be empty.
create function queue.read_lanes(
  p_request queue.lease_request, out lanes integer[], out turns queue.turn[], out depth integer,
  out tenants integer
) language plpgsql as $$
begin
  tenants := p_request."limit" + p_request."limit" / 4 + 5;
  with paused as materialized (
    select p.kind, p.name from queue.pauses as p where p.kind = any ('{type,queue}')),
  served as materialized (
    select l.lane, l.job_type from queue.lanes as l
    where (p_request.job_types is null or l.job_type = any (p_request.job_types))
      and (p_request.queues is null or l.queue = any (p_request.queues))
      and not exists (select from paused as p
        where p.name = case p.kind when 'type' then l.job_type else l.queue end)),
  -- more of each than lie among the first of all, if their turns are alike
  bound as materialized (
    select case when p_request."limit" > 0
      then least(tenants, 2 + 3 * tenants / greatest(1, 2 * count(*))) else 0 end::integer as depth
    from served)
  select array_agg(distinct s.lane), max(b.depth),
    array_agg(row(s.lane, t.workspace_id, t.place, t.had, t.from_ord, p_request."limit", s.job_type,
      null, null,
      null, null, null)::queue.turn order by t.place, t.workspace_id)
        filter (where t.place is not null)
  into lanes, depth, turns
  from served as s cross join bound as b
  left join lateral (
    select o.workspace_id, o.place, o.had, o.from_ord from queue.turns as o
    where o.lane = s.lane and not o.aside order by o.place, o.workspace_id
      limit b.depth) as t on true;
end $$;

-- The first p_most tenants in the order, of lanes whose first turns, p_depth of each, are given. Of
-- the others no more is read than may lie before the last of these.
create function queue.first_tenants(p_turns queue.turn[], p_depth integer,
  p_most integer) returns uuid[]
language plpgsql as $$
begin
  return (
    with known as materialized (
      select t.lane, t.workspace_id, t.place from unnest(p_turns) as t),
    bound as materialized (
      select k.place from known as k order by k.place offset p_most limit 1),
    deep as materialized ( -- lanes that may have more before it
      select k.lane, max(k.place) as place from known as k group by 1
      having count(*) = p_depth and p_depth < p_most
        and coalesce(max(k.place) <= (select b.place from bound as b), true)),
    found as (
      select k.workspace_id, k.place from known as k
      union all
      select o.workspace_id, o.place from deep as d cross join lateral (
        select t.workspace_id, t.place from queue.turns as t
        where t.lane = d.lane and not t.aside and t.place >= d.place
          and t.place <= coalesce((select b.place from bound as b), 9223372036854775807)
        order by t.place, t.workspace_id limit p_most) as o)
    select array(
      select f.workspace_id from found as f group by 1 order by min(f.place), 1 limit p_most));
end $$;

-- All turns of these tenants in these lanes, each at the first place of its tenant.
create function queue.turns_of(p_tenants uuid[], p_lanes integer[]) returns queue.turn[]
language plpgsql as $$
begin
  return (
    select array_agg(row(t.lane, t.workspace_id, first_place, first_had, t.from_ord, 0, null,
      coalesce(w.weight, 1), false, null, null, null)::queue.turn)
    from (
      select o.lane, o.workspace_id, o.from_ord,
        min(o.place) over (partition by o.workspace_id) as first_place,
        first_value(o.had) over (partition by o.workspace_id order by o.place) as first_had
      from unnest(p_tenants) as w (id)
      cross join lateral (select * from queue.turns as n
        where n.workspace_id = w.id and not n.aside offset 0) as o
      where o.lane = any (p_lanes)) as t
    left join queue.tenant_limits as w on w.workspace_id = t.workspace_id);
end $$;

-- How many jobs of a type may start now beside those that run: null for any number. Counted by a
-- statement that begins after the lock of the type was taken.
create function queue.free_of_type(p_job_type text, p_now timestamptz) returns integer
language plpgsql as $$
begin
  return (
    select least(
      y.max_concurrency - case when y.max_concurrency is not null then (
        select count(*) from queue.lanes as o join queue.leases as r on r.lane = o.lane
        where o.job_type = y.job_type) end,
      case when y.rate_limit is not null and not y.rate_per_key then floor(
        queue.tokens_of('r:' || y.job_type, y.rate_limit, y.rate_per_seconds, p_now)) end)::integer
    from queue.job_types as y where y.job_type = p_job_type);
end $$;

-- The limited scopes of these turns whose lock another lease holds; the others are held from now
-- on.
create function queue.busy_scopes(p_turns queue.turn[]) returns text[] language plpgsql as $$
declare
  v_scopes constant text[] := array(
    select distinct s.name from unnest(p_turns) as t
    join queue.lanes as l on l.lane = t.lane
    join queue.job_types as y on y.job_type = l.job_type
    left join queue.tenant_limits as w on w.workspace_id = t.workspace_id
    cross join lateral (values
      ('both ' || t.workspace_id || y.job_type, y.workspace_concurrency is not null),
      ('workspace ' || t.workspace_id, w.running_max is not null)) as s (name, is_limited)
    where s.is_limited order by 1);
begin
  return array(select n from unnest(v_scopes) as n where not queue.try_lock(n))
    -- those who may put a turn aside for a pause: its end brings it back after them
    || case when not queue.try_lock('pauses', p_is_shared => true)
      then array['pauses'] else '{}' end;
end $$;

-- What each turn may still start, counted like that. p_busy: scopes whose lock another holds; they
-- have none.
create function queue.bound_turns(p_turns queue.turn[], p_busy text[],
  p_now timestamptz) returns queue.turn[]
language plpgsql as $$
begin
  return (
    with types as materialized (
      select y.job_type, y.workspace_concurrency, queue.free_of_type(y.job_type, p_now) as free
      from (select distinct l.job_type from unnest(p_turns) as t
        join queue.lanes as l on l.lane = t.lane) as d
      join queue.job_types as y on y.job_type = d.job_type)
    select array_agg(row(t.lane, t.workspace_id, t.place, t.had, t.from_ord, t.jobs, y.job_type,
      t.weight, exists (
        select from queue.pauses as p where p.kind = any ('{workspace,workspace_type}')
          and p.name = any (array[t.workspace_id::text, t.workspace_id || '/' || y.job_type])),
            y.free,
      case when 'both ' || t.workspace_id || y.job_type = any (p_busy) then 0
        when y.workspace_concurrency is not null then y.workspace_concurrency - (
          select count(*) from queue.lanes as o
          join queue.leases as r on r.lane = o.lane and r.workspace_id = t.workspace_id
          where o.job_type = y.job_type) end,
      case when 'workspace ' || t.workspace_id = any (p_busy) then 0
        when w.running_max is not null then w.running_max - (
          select count(*) from queue.lanes as o
          join queue.leases as r on r.lane = o.lane
            and r.workspace_id = t.workspace_id) end)::queue.turn)
    from unnest(p_turns) as t
    join queue.lanes as l on l.lane = t.lane
    join types as y on y.job_type = l.job_type
    left join queue.tenant_limits as w on w.workspace_id = t.workspace_id);
end $$;

-- Set turns aside whose tenant is at a limit, for a second or until a settlement, and those that
-- are paused until the pause ends.
create function queue.set_aside(p_turns queue.turn[], p_now timestamptz) returns void
language plpgsql as $$
begin
  update queue.turns as u set aside = true, changed_at = p_now,
    look_at = case when f.is_paused then 'infinity' else p_now + interval '1 second' end
  from (
    select o.found, t.is_paused from unnest(p_turns) as t
    cross join lateral (
      select n.ctid as found from queue.turns as n
      where n.workspace_id = t.workspace_id and n.lane = t.lane for update skip locked) as o
    where t.is_paused or least(t.own_free, t.tenant_free) <= 0) as f
  where u.ctid = f.found;
end $$;

-- Divide slots: in each round every tenant gets as many jobs as its weight, one below 1 a job each
-- 1 / weight rounds, in the order of their places; inside a tenant jobs go by ord. p_is_whole: no
-- tenant lies behind these; else only the round that is under way is shared. moves: who has had its
-- round, and goes to the end of the order, and who a part of it. is_cut: a turn has more jobs than
-- were read.
create function queue.divide_slots(
  p_turns queue.turn[], p_is_whole boolean, p_most integer, out turns queue.turn[],
  out moves queue.move[], out is_cut boolean
) language plpgsql as $$
declare
  v_depth constant integer := 4 + ceil(4.0 * p_most
    -- read of each turn
    / (select count(distinct t.workspace_id) from unnest(p_turns) as t))::integer;
begin
  with heads as materialized (
    select t.*, r.ord, row_number() over (partition by t.workspace_id, t.job_type
      order by r.ord) as nth_of_type
    from unnest(p_turns) as t
    left join lateral (
      select o.ord from queue.ready as o
      where o.lane = t.lane and o.workspace_id = t.workspace_id and o.ord >= t.from_ord
      order by o.ord limit least(case when p_is_whole then v_depth else ceil(t.weight)::integer end,
        t.type_free, t.own_free, t.tenant_free)) as r on true
    where not t.is_paused and coalesce(least(t.type_free, t.own_free, t.tenant_free), 1) > 0),
  owned as (
    select h.*, row_number() over (partition by h.workspace_id order by h.ord, h.lane) as nth
    from heads as h where h.ord is not null and h.nth_of_type <= coalesce(h.own_free, p_most)),
  typed as (
    select o.*, r.round,
      row_number() over (partition by o.job_type
        order by r.round, o.place, o.workspace_id, o.nth) as nth_in_all
    from owned as o
    cross join lateral (select floor(o.had + (o.nth - 1) / o.weight + 1e-9) as round) as r
    where o.nth <= coalesce(o.tenant_free, p_most) and (p_is_whole or r.round = 0)),
  picked as materialized (
    select p.* from typed as p where p.nth_in_all <= coalesce(p.type_free, p_most)
    order by p.round, p.place, p.workspace_id, p.nth limit p_most),
  last as materialized (
    select p.round, p.place from picked as p order by p.round desc, p.place desc limit 1),
  shares as (
    select p.lane, p.workspace_id, p.from_ord, p.job_type, count(p.ord)::integer as jobs
    from (
      select k.lane, k.workspace_id, k.from_ord, k.job_type, k.ord from picked as k
      union all
      select h.lane, h.workspace_id, h.from_ord, h.job_type, h.ord from heads as h
        where h.ord is null) as p
    group by 1, 2, 3, 4),
  had as (
    select g.workspace_id, g.place, g.before, g.before + g.jobs / g.weight as had,
      coalesce(l.round, 0) as round,
      g.jobs > 0 or g.place <= coalesce(l.place, g.place) as is_passed
    from ( -- no join: the planner may not hash one here
      select a.workspace_id, max(a.place) as place, max(a.had) as before, max(a.weight) as weight,
        sum(a.jobs) as jobs
      from (
        select t.workspace_id, t.place, t.had, t.weight, 0 as jobs from unnest(p_turns) as t
        union all
        select p.workspace_id, null, null, null, 1 from picked as p) as a
      group by 1) as g
    left join last as l on true),
  moved as (
    select h.workspace_id, h.place, h.before, e.ends,
      greatest(0, h.had - h.round - e.ends::integer) as had
    from had as h
    cross join lateral (select h.is_passed and h.had + 1e-9 >= h.round + 1 as ends) as e)
  select (
      select array_agg(row(s.lane, s.workspace_id, null, null, s.from_ord, s.jobs, s.job_type, null,
        null, null,
        null, null)::queue.turn) from shares as s),
    array_agg(row(m.workspace_id, m.had, m.ends)::queue.move order by m.place, m.workspace_id)
      filter (where m.ends or abs(m.had - m.before) > 1e-6),
    p_is_whole and exists (select from heads as h group by h.lane, h.workspace_id
      having count(h.ord) = v_depth)
  into turns, moves, is_cut from moved as m;
end $$;

-- The limited types of these turns that may start nothing now, and of those the ones whose lock
-- another lease holds; the locks of the others are held from now on. bounded: a limit of a type,
-- also one in each workspace, may hold.
create function queue.full_types(
  p_turns queue.turn[], p_now timestamptz,
  out full_ones text[], out busy text[], out bounded boolean
) language plpgsql as $$
declare
  v_limited text[];
begin
  select coalesce(array_agg(y.job_type order by y.job_type) filter (
      where y.max_concurrency is not null
        or y.rate_limit is not null and not y.rate_per_key), '{}'),
    bool_or(y.workspace_concurrency is not null) is true
  into v_limited, bounded
  from queue.job_types as y
  where (y.max_concurrency is not null or y.workspace_concurrency is not null
      or y.rate_limit is not null)
    and array_position(array(select t.job_type from unnest(p_turns) as t), y.job_type) > 0;
  bounded := bounded or v_limited <> '{}';
  busy := array(select n from unnest(v_limited) as n where not queue.try_lock('type ' || n));
  full_ones := array( -- counted a statement after the lock was taken
    select n from unnest(v_limited) as n
    where n = any (busy) or queue.free_of_type(n, p_now) <= 0);
end $$;

-- Which tenants get how many of the slots. lanes: those that the worker serves now; bounded: some
-- limit or pause may hold; more: ask again at once, since another lease holds a scope at this
-- moment or more lies behind what was read; null where no turn was found. What a full type has in
-- front hides no other type.
create function queue.share_slots(
  p_request queue.lease_request, p_now timestamptz,
  out lanes integer[], out turns queue.turn[], out moves queue.move[], out bounded boolean,
  out more boolean
) language plpgsql as $$
declare
  v_most constant integer := p_request."limit";
  v_read record;
  v_full record;
  v_busy text[];
  v_tenants uuid[];
  v_is_whole boolean;
  v_is_cut boolean := false;
  v_divided record;
begin
  v_read := queue.read_lanes(p_request);
  lanes := v_read.lanes;
  turns := v_read.turns;
  more := case when turns is not null or v_most = 0 then false end;
  if turns is null then return; end if;
  v_full := queue.full_types(turns, p_now);
  bounded := v_full.bounded;
  v_busy := v_full.busy;
  if v_full.full_ones <> '{}' then
    turns := array(select t from unnest(turns) as t where t.job_type <> all (v_full.full_ones));
  end if;
  v_tenants := case when cardinality(turns) = 1 then array[turns[1].workspace_id]
    else queue.first_tenants(turns, v_read.depth, v_read.tenants) end;
  v_is_whole := cardinality(v_tenants) < v_read.tenants;
  bounded := bounded or exists (
      select from queue.tenant_limits as w
        where w.workspace_id = any (v_tenants) and w.running_max is not null)
    or exists (select from queue.pauses as p where p.workspace_id = any (v_tenants));
  if cardinality(v_read.turns) = 1 and not bounded then
    return; -- alone
  end if;
  turns := queue.turns_of(v_tenants, array(select distinct t.lane from unnest(turns) as t));
  if bounded and turns is not null then
    v_busy := v_busy || queue.busy_scopes(turns);
    turns := queue.bound_turns(turns, v_busy, p_now);
    if v_busy = '{}' then perform queue.set_aside(turns, p_now); end if;
  end if;
  if turns is not null then
    v_divided := queue.divide_slots(turns, v_is_whole, v_most);
    turns := v_divided.turns;
    moves := v_divided.moves;
    v_is_cut := v_divided.is_cut;
  end if;
  more := v_busy <> '{}' or (not v_is_whole or v_is_cut)
    and coalesce((select sum(t.jobs) from unnest(turns) as t), 0) < v_most;
end $$;

-- Lease the jobs at the head of each turn. leases: the answer; changes: what is to be published;
-- noted: those that hold a unique key or the rate of a key; again: those whose lease is an event
-- that does not follow from the row; taken: the turns that they are of, with the last ord of each.
create function queue.take_jobs(
  p_turns queue.turn[], p_request queue.lease_request, p_now timestamptz, p_refused uuid[],
  out leases json, out leased integer, out changes queue.change[], out noted uuid[],
  out again uuid[], out taken queue.turn[]
) language plpgsql as $$
begin
  with picked as materialized (
    select h.* from unnest(p_turns) as s
    cross join lateral (
      select r.ctid as place, j.id, r.ord, r.ready_at from queue.ready as r
      -- by its key, whatever statistics say of an empty table
      join public.jobs as j on j.id = any (array[r.job_id])
      where r.lane = s.lane and r.workspace_id = s.workspace_id and r.ord >= s.from_ord
        and j.status = 'pending'
        and (j.deadline_at is null or j.deadline_at > p_now) and r.job_id <> all (p_refused)
      order by r.ord limit s.jobs for no key update of r, j skip locked) as h
    order by h.ord, h.id), -- as they are answered
  begun as materialized (
    update public.jobs as j set status = 'processing', attempts = j.attempts + 1,
      fence = j.fence + 1,
      worker = coalesce(nullif(j.worker, 0), p_request.worker), updated_at = p_now,
      next_retry_at = null,
      -- committed after the clock was read
      started_at = coalesce(j.started_at, greatest(p_now, j.created_at)),
      queue_ms = coalesce(j.queue_ms, date_part('epoch', p_now - p.ready_at) * 1000),
      last_seq = j.last_seq + (j.is_minimal is null)::integer
    from picked as p, queue.job_types as t
    where j.id = any (array[p.id]) and t.job_type = j.job_type
    returning j.id, j.workspace_id, j.user_id, j.session_id, j.queue, j.job_type, j.payload,
      j.schema_version,
      j.priority, j.attempts, j.max_attempts, j.created_at, j.parent_id, j.traceparent, j.progress,
      j.deadline_at,
      j.fence, j.lane, j.last_seq, j.unique_key, j.replay_from, j.is_minimal is null as is_full,
      p.place, p.ord as place_ord, p.ready_at, t.rate_per_key,
      coalesce(p_request.lease_seconds, t.lease_seconds) as lease_seconds,
      coalesce(j.timeout_seconds, t.timeout_seconds) as timeout_seconds,
      case when t.rate_per_key
        or t.key_concurrency is not null then queue.gate_of(t, j.concurrency_key) end as key),
  gone as (delete from queue.ready where ctid = any (array(select b.place from begun as b))),
  held as (
    insert into queue.leases (job_id, fence, lane, workspace_id, ord, ready_at, leased_at,
      expires_at,
      lease_seconds, attempt, worker, tick_id, tick_call, key)
    select b.id, b.fence, b.lane, b.workspace_id, b.place_ord, b.ready_at, p_now,
      p_now + make_interval(secs => b.lease_seconds), b.lease_seconds, b.attempts, p_request.worker,
      p_request.tick_id, p_request.call, b.key
    from begun as b),
  kinds as (
    select b.workspace_id, b.session_id, b.attempts, array_agg(b.id) as ids,
      array_agg(b.last_seq) as seqs
    from begun as b where b.is_full group by 1, 2, 3),
  turns as (select b.lane, b.workspace_id, max(b.place_ord) as ord, count(*) as jobs from begun as b
    group by 1, 2)
  select coalesce(json_agg(answer), '[]'), count(*), (
      select array_agg(row(k.workspace_id, k.session_id, 'job.leased',
        jsonb_build_object('status', 'processing',
        'attempts', k.attempts, 'worker_id', p_request.worker_id), k.ids, k.seqs)::queue.change)
          from kinds as k),
    array_agg(b.id) filter (where b.unique_key is not null or b.rate_per_key),
    array_agg(b.id) filter (where b.is_full and b.last_seq <> 2), (
      select array_agg(row(t.lane, t.workspace_id, null, null, t.ord, t.jobs, null, null, null,
        null, null,
        null)::queue.turn) from turns as t)
  into leases, leased, changes, noted, again, taken
  from begun as b
  cross join lateral (
    select b.id, b.workspace_id, b.user_id, b.session_id, b.queue, b.job_type, b.payload,
      b.schema_version, b.priority,
      b.attempts, b.max_attempts, b.created_at, b.parent_id, b.traceparent, b.progress,
      b.timeout_seconds,
      b.deadline_at) as job
  cross join lateral (
    select b.fence, b.lease_seconds,
      case when b.fence = 1
        and b.replay_from is null then '{}' else queue.steps_of(b.id) end as steps, job) as answer;
end $$;

-- The same one by one, after a trigger of the project's own refused one of them: that one is noted,
-- as maintenance does, and passed over.
create function queue.take_each(
  p_turns queue.turn[], p_request queue.lease_request, p_now timestamptz, p_refused uuid[],
  out leases json, out leased integer, out changes queue.change[], out noted uuid[],
  out again uuid[], out taken queue.turn[]
) language plpgsql as $$
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
        taken := taken || v_one.taken;
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
end $$;

-- Take the jobs of turns, but for those that a project's own trigger refuses.
create function queue.take(
  p_turns queue.turn[], p_request queue.lease_request, p_now timestamptz
) returns record language plpgsql as $$
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
end $$;

-- When a worker with free slots should ask again, in milliseconds; null for not before it is woken.
-- p_more: see queue.share_slots; a lease that opened turns meanwhile has committed them and the end
-- of their notes together.
create function queue.next_due_in_ms(p_lanes integer[], p_more boolean,
  p_now timestamptz) returns bigint
language plpgsql stable as $$
declare
  v_next timestamptz;
begin
  if p_more then return 0; end if;
  v_next := least((select min(run_at) from queue.deferred),
    (select min(timeout_at) from queue.waits),
    case when exists (select from queue.notes where key is null) then p_now end,
    (select min(look_at) from queue.notes where key is not null),
    (select nullif(min(t.look_at), 'infinity') from queue.turns as t where t.aside),
    case when exists (select from queue.signals) or p_more is null and exists (
        select from unnest(p_lanes) as l (lane)
          join queue.turns as t on t.lane = l.lane and not t.aside)
      then p_now end,
    -- when the first type whose rate is used up, and of which jobs wait, may start one again
    case when exists (select from queue.job_types where rate_limit is not null) then (
      select min(p_now + make_interval(secs => greatest(0,
        (1 - b.tokens) * y.rate_per_seconds / y.rate_limit)))
      from unnest(p_lanes) as l (lane)
      join queue.lanes as k on k.lane = l.lane
      join queue.job_types as y on y.job_type = k.job_type
      cross join lateral (
        select queue.tokens_of('r:' || y.job_type, y.rate_limit, y.rate_per_seconds,
          p_now) as tokens) as b
      where y.rate_limit is not null and not y.rate_per_key and b.tokens < 1
        and exists (select from queue.turns as t where t.lane = l.lane and not t.aside)) end);
  -- greatest() leaves nulls out: without the case a worker with nothing to do would ask again at
  -- once; around v_next, which may be -infinity, since nothing is subtracted from that before
  -- version 17
  return case when v_next is not null
    then ceil(extract(epoch from greatest(v_next, p_now) - p_now) * 1000) end;
end $$;

-- Move tenants that were served in the order, in all lanes that were looked at.
create function queue.move_turns(p_moves queue.move[], p_lanes integer[]) returns void
language plpgsql as $$
begin
  with moves as materialized ( -- each to its own place, behind those who were before it
    select m.workspace_id, m.had, case when m.ends then nextval('queue.places') end as place
    from unnest(p_moves) as m)
  update queue.turns as t set had = o.had, place = coalesce(o.place, t.place)
  from (
    select u.found, m.had, m.place from moves as m
    cross join lateral (
      select n.ctid as found, n.lane from queue.turns as n
      where n.workspace_id = m.workspace_id and not n.aside offset 0
        for no key update skip locked) as u
    where u.lane = any (p_lanes)) as o
  where t.ctid = o.found;
end $$;

-- Move where turns begin to their first job, or to the last that was leased (from_ord), and close
-- those that had none (jobs = 0): where no open transaction has put a job into one, and a statement
-- after its lock was taken, which sees what was committed before.
create function queue.tidy_turns(p_turns queue.turn[], p_now timestamptz) returns void
language plpgsql as $$
declare
  v_free constant queue.turn[] := array(
    select t from unnest(p_turns) as t
      where pg_try_advisory_xact_lock(t.lane, uuid_hash(t.workspace_id)));
begin
  update queue.turns as u
  set from_ord = coalesce(o.head, case when o.jobs > 0 then o.last_ord end, u.from_ord),
    aside = u.aside or o.head is null and o.jobs = 0,
    look_at = case when not (o.head is null and o.jobs = 0) then u.look_at end,
    changed_at = case when o.head is null and o.jobs = 0 then p_now else u.changed_at end
  from unnest(v_free) as s
  cross join lateral (
    select t.ctid as found, t.from_ord, s.jobs, s.from_ord as last_ord, (
      select r.ord from queue.ready as r
      where r.lane = t.lane and r.workspace_id = t.workspace_id and r.ord >= t.from_ord
      order by r.ord limit 1) as head
    from queue.turns as t
    where t.lane = s.lane and t.workspace_id = s.workspace_id for no key update skip locked) as o
  where u.ctid = o.found;
end $$;

-- Delete turns that have been empty for an hour, which no lease may come by; a job that comes later
-- makes one again.
create function queue.delete_turns(p_now timestamptz) returns void language plpgsql as $$
declare
  v_turns constant queue.turn[] := array(
    select row(t.lane, t.workspace_id, null, null, null, 0, null, null, null, null, null,
      null)::queue.turn
    from queue.turns as t
    where not t.aside and t.changed_at < p_now - interval '1 hour' and not exists (
      select from queue.ready as r
      where r.lane = t.lane and r.workspace_id = t.workspace_id and r.ord >= t.from_ord)
    limit 1000);
  v_free constant queue.turn[] := array( -- no open transaction has put a job into it
    select t from unnest(v_turns) as t
      where pg_try_advisory_xact_lock(t.lane, uuid_hash(t.workspace_id)));
begin
  delete from queue.turns where ctid = any (array(
    select o.found from unnest(v_free) as s
    cross join lateral (
      select t.ctid as found from queue.turns as t
      where t.lane = s.lane and t.workspace_id = s.workspace_id for update skip locked) as o
    where not exists (select from queue.ready as r
      where r.lane = s.lane and r.workspace_id = s.workspace_id)));
end $$;

-- What leases leave behind beside the row. p_again: those whose lease is an event that does not
-- follow from it; p_noted: those that hold a unique key, which may last until now, or whose start
-- the rate of their key charges.
create function queue.note_leases(
  p_again uuid[], p_noted uuid[], p_worker_id text, p_now timestamptz
) returns void language plpgsql as $$
begin
  if p_again is not null then
    insert into queue.job_events (job_id, seq, workspace_id, type, data, created_at)
    select j.id, j.last_seq, j.workspace_id, 'job.leased', jsonb_build_object(
      'status', 'processing', 'attempts', j.attempts, 'worker_id', p_worker_id), p_now
    from public.jobs as j where j.id = any (p_again);
  end if;
  if p_noted is not null then
    delete from queue.job_keys as u using public.jobs as j
    where j.id = any (p_noted) and u.workspace_id = j.workspace_id and u.job_type = j.job_type
      and u.key = j.unique_key and u.is_unique and u.job_id = j.id and u.until = 'leased';
    update queue.gated as g set started_at = p_now from public.jobs as j
    where j.id = any (p_noted) and g.workspace_id = j.workspace_id and g.job_type = j.job_type
      and g.key = coalesce(j.concurrency_key, '') and g.job_id = j.id
      and g.admitted and not g.ended;
  end if;
end $$;

-- Open turns, share the slots and lease. lanes, more: see queue.share_slots.
create function queue.lease_ready(
  p_request queue.lease_request, p_changes queue.change[], p_now timestamptz,
  out leases json, out leased integer, out lanes integer[], out more boolean
) language plpgsql as $$
declare
  v_shared record;
  v_taken record;
  v_now timestamptz := p_now;
  v_most constant integer := greatest(20, least(200, p_request."limit"));
  v_empty queue.turn[];
begin
  leases := '[]';
  leased := 0;
  perform from queue.notes where key is null
  union all
  select from queue.notes where key is not null and look_at <= p_now
  union all
  select from queue.turns where aside and look_at <= p_now limit 1;
  -- one at a time, and no one waits; the rest is for the next leases
  if found and queue.try_lock('turns') then
    -- a pause that ends looks at gates after it
    if queue.try_lock('pauses', p_is_shared => true) then
      perform queue.open_gates(greatest(50, v_most), p_now);
    end if;
    perform queue.open_turns(v_most, p_now);
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
    perform queue.note_leases(v_taken.again, v_taken.noted, p_request.worker_id, v_now);
    if v_shared.bounded and leased > 0 then
      perform queue.spend('r:' || y.job_type, y.rate_limit, y.rate_per_seconds, n.jobs, v_now)
      from (select l -> 'job' ->> 'job_type' as job_type, count(*) as jobs
        from json_array_elements(leases) as l group by 1) as n
      join queue.job_types as y on y.job_type = n.job_type
      where y.rate_limit is not null and not y.rate_per_key;
    end if;
    -- a lease that was not filled leaves no one behind, and the order as it is
    if v_shared.moves is not null and (v_shared.bounded or leased = p_request."limit") then
      perform queue.move_turns(v_shared.moves, lanes);
    end if;
    -- a turn is closed when several are empty, or now and then: until it is, its next job needs no
    -- note
    v_empty := array(
      select row(t.lane, t.workspace_id, null, null, null, 0, null, null, null, null, null,
        null)::queue.turn
      from unnest(v_shared.turns) as t where t.jobs = 0 or leased = 0);
    if cardinality(v_empty) > 4 or leased >= 20 and leased < p_request."limit"
      or p_request.call % 16 = 0 then
      perform queue.tidy_turns(v_taken.taken || v_empty, v_now);
    end if;
  end if;
  perform queue.publish(p_changes, v_now);
end $$;

-- Note that a worker serves its lanes, once a minute; p_changed: it serves others than before.
-- Gates of those that no other served until now, and of those that no one serves any more, are
-- looked at again: under the lock of who opens gates, which has seen lanes as they were. False
-- where another has that lock.
create function queue.note_lanes(p_request queue.lease_request, p_changed boolean,
  p_now timestamptz) returns boolean
language plpgsql as $$
declare
  v_served integer[];
  v_new integer[];
  v_gone integer[];
begin
  select coalesce(array_agg(l.lane) filter (where o.serves
      and coalesce(l.served_at <= p_now - interval '1 minute' or l.served_at > p_now, true)), '{}'),
    coalesce(array_agg(l.lane) filter (where o.serves and l.served_at is null), '{}'),
    coalesce(array_agg(l.lane)
      filter (where not o.serves and (l.served_at <= p_now - interval '3 minutes'
      or p_changed and l.served_at is not null and not exists (
        select from queue.workers as w
        where w.worker_id <> p_request.worker_id and w.seen_at > p_now - interval '3 minutes'
          and (w.job_types is null or l.job_type = any (w.job_types))
          and (w.queues is null or l.queue = any (w.queues))))), '{}')
  into v_served, v_new, v_gone
  from queue.lanes as l
  cross join lateral (
    select coalesce(l.job_type = any (p_request.job_types), true)
      and coalesce(l.queue = any (p_request.queues), true) as serves) as o;
  if v_new || v_gone <> '{}' and not queue.try_lock('turns') then return false; end if;
  update queue.lanes set served_at = case when lane = any (v_served) then p_now end
    where ctid = any (array(
    select l.ctid from queue.lanes as l where l.lane = any (v_served || v_gone)
      for no key update skip locked));
  if v_new || v_gone <> '{}' then
    insert into queue.notes (lane, workspace_id, key)
    select distinct on (g.workspace_id, g.job_type, g.key) g.lane, g.workspace_id, g.key
      from queue.gated as g
    where g.lane = any (v_new) and not g.admitted or g.lane = any (v_gone) and g.admitted
      and not g.ended order by g.workspace_id, g.job_type, g.key;
  end if;
  return true;
end $$;

-- The number of a worker, whose row is written when it is new, begins a run or serves something
-- else, else once a minute.
create function queue.note_worker(p_request queue.lease_request, p_now timestamptz) returns integer
language plpgsql as $$
declare
  v_worker queue.workers;
  v_changed boolean;
  v_seen_at timestamptz;
begin
  select * into v_worker from queue.workers where worker_id = p_request.worker_id;
  v_changed := (v_worker.job_types, v_worker.queues) is distinct
    from (p_request.job_types, p_request.queues);
  if v_worker.seen_at > p_now - interval '1 minute' and v_worker.seen_at <= p_now
    and v_worker.ended_at is null
      and not v_changed and v_worker.version is not distinct from p_request.version then
    return v_worker.worker;
  end if;
  v_seen_at := p_now - case when queue.note_lanes(p_request, v_changed, p_now) then interval '0'
    else interval '59 seconds' end; -- again in a second
  insert into queue.workers as w (worker_id, started_at, seen_at, version, job_types, queues)
  values (p_request.worker_id, p_now, v_seen_at, p_request.version, p_request.job_types,
    p_request.queues)
  on conflict (worker_id) do update set seen_at = excluded.seen_at, ended_at = null,
  version = excluded.version, job_types = excluded.job_types, queues = excluded.queues,
    started_at = case when w.ended_at is null and w.seen_at > p_now - interval '3 minutes'
      then w.started_at else p_now end
  returning w.worker into v_worker.worker;
  return v_worker.worker;
end $$;

create function queue.read_request(p_request jsonb) returns queue.lease_request
language plpgsql as $$
declare
  v_read queue.lease_request := jsonb_populate_record(null::queue.lease_request, p_request);
begin
  v_read.call := coalesce(v_read.call, 1);
  v_read."limit" := coalesce(v_read."limit", 10);
  if v_read.worker_id is null or v_read.tick_id is null
      or v_read."limit" not between 0 and 1000 or v_read.lease_seconds not between 1 and 43200 then
    perform queue.refuse(400, 'invalid_argument',
      'worker_id and tick_id are required; limit is 0 to 1000, lease_seconds 1 to 43200',
      'p_request');
  elsif current_setting('transaction_isolation') <> 'read committed' then
    perform queue.refuse(400, 'invalid_argument',
      'leases need read committed: limits count what others committed');
  end if;
  return v_read;
end $$;

-- What an earlier call of the same number leased, and its worker still holds.
create function queue.leases_of(p_request queue.lease_request) returns json language plpgsql as $$
begin
  return (
    select coalesce(json_agg(answer), '[]') from queue.leases as l
    join public.jobs as j on j.id = l.job_id
    join queue.job_types as t on t.job_type = j.job_type
    cross join lateral (
      select j.id, j.workspace_id, j.user_id, j.session_id, j.queue, j.job_type, j.payload,
        j.schema_version, j.priority, j.attempts, j.max_attempts, j.created_at, j.parent_id,
        j.traceparent, j.progress,
        coalesce(j.timeout_seconds, t.timeout_seconds) as timeout_seconds, j.deadline_at) as job
    cross join lateral (
      select l.fence, l.lease_seconds, queue.steps_of(j.id) as steps, job) as answer
    where l.tick_id = p_request.tick_id and l.tick_call = p_request.call);
end $$;

-- See public.lease_jobs. p_changes: of what was settled in the same call, published with what is
-- leased.
create function queue.lease(p_request jsonb, p_changes queue.change[] default null) returns json
language plpgsql as $$
declare
  v_request queue.lease_request := queue.read_request(p_request);
  v_ms bigint;
  v_now timestamptz;
  v_found tid;
  v_last_call integer;
  v_is_active boolean; -- it leased lately, if it has leased
  v_given record;
  v_due bigint;
  v_is_short boolean;
begin
  -- a repeat that comes while the first is at work waits for it; no row, so that what finds nothing
  -- writes nothing
  perform queue.try_lock('tick ' || v_request.tick_id, p_waits => true);
  v_now := queue.clock();
  select ctid, last_call, seen_at > v_now - interval '10 seconds'
  into v_found, v_last_call, v_is_active from queue.ticks where tick_id = v_request.tick_id;
  if v_request.call <= v_last_call then -- its answer may have been lost: what of it is still held
    perform queue.publish(p_changes, v_now);
    return json_build_object('maintenance', queue.maintenance_is_due(v_now, true), 'due', 0,
      'next_due_in_ms', 0, 'leases', queue.leases_of(v_request));
  end if;
  v_request.worker := queue.note_worker(v_request, v_now);
  -- a worker is here: the next enqueue may ask again
  if pg_sequence_last_value('queue.wanted_ms') > 0 then
    perform setval('queue.wanted_ms', 0);
  end if;
  v_given := queue.lease_ready(v_request, p_changes, v_now);
  if v_found is null then -- a repeat is known by it
    insert into queue.ticks (tick_id, seen_at, worker, last_call)
    values (v_request.tick_id, v_now, v_request.worker, v_request.call);
  elsif v_given.leased > 0 then
    update queue.ticks set seen_at = v_now, last_call = v_request.call where ctid = v_found;
  end if;
  if coalesce(v_request.free_slots, v_request."limit" - v_given.leased) > 0 then
    v_ms := (date_part('epoch', v_now) * 1000)::bigint;
    perform setval('queue.room_ms', v_ms)
    where v_ms - coalesce(pg_sequence_last_value('queue.room_ms'), 0) not between 0 and 499;
  end if;
  v_is_short := v_given.leased < v_request."limit" or v_request."limit" = 0;
  if v_request.count_due or v_request.call = 1 then
    v_due := (select count(*) from (
      select from unnest(v_given.lanes) as l (lane) join queue.ready as r on r.lane = l.lane
        limit 1000) as r);
  else
    v_due := (not v_is_short)::integer;
  end if;
  return json_build_object('leases', v_given.leases, 'maintenance', v_is_short
      and queue.maintenance_is_due(v_now, v_given.leased > 0 or v_last_call > 1 and v_is_active),
    'due', v_due, 'next_due_in_ms',
    case when v_is_short then queue.next_due_in_ms(v_given.lanes, v_given.more, v_now) end);
end $$;

create function public.lease_jobs(p_request jsonb) returns json
language plpgsql security definer set search_path = ''
set lock_timeout = '8s' set plan_cache_mode = 'force_generic_plan'
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
set enable_bitmapscan = off set enable_sort = off set jit = off as $$
begin return queue.lease(p_request); end $$;
comment on function public.lease_jobs is
  E'Lease up to limit jobs: {leases, maintenance, due, next_due_in_ms}.\n\nRequest: {worker_id, '
  'tick_id, call, '
  'limit 0..1000, job_types, queues, lease_seconds, version, free_slots, count_due}. A repeated '
  '(tick_id, call) that got leases gets them again. Each lease counts as an attempt.';

select queue.allow('job_worker, service_role', 'public.lease_jobs');
