-- This file chooses the jobs for a worker, and leases them. These are the steps of a lease, by
-- function.
--
--   queue.lease               handles one request for jobs of a worker run.
--     queue.admit_run         rejects a new worker run if too many runs are active.
--     queue.record_worker     updates the worker's row once a minute and after changes.
--     queue.lease_ready       leases jobs for each pool (job types that share worker slots).
--       queue.open_gates        admits waiting jobs of the concurrency keys in queue.notes.
--       queue.noted_shares      selects jobs of tenants in queue.notes if every job gets a slot.
--       queue.open_turns        opens the turns that queue.notes names, and due limited turns.
--       queue.fill_pool         leases jobs for the free slots of one pool.
--         queue.share_slots       divides the free slots among tenants.
--           queue.lock_types        locks types with a limit and counts their running jobs.
--           queue.next_turns        finds the tenants that are served next.
--           queue.limit_turns       locks tenants with a limit and counts their running jobs.
--           queue.divide_slots      gives each tenant as many slots per round as its weight.
--           queue.advance_ring      stores the tenant after which the next lease begins.
--         queue.take              leases the jobs, but no job whose update a trigger rejects.
--           queue.take_jobs         moves jobs from queue.ready to queue.leases.
--           queue.tidy_turns        closes turns without ready jobs.
--             queue.begin_epoch       lets leases skip dead index entries of queue.turns.
--       queue.record_starts     stores events of leases and frees unique keys.
--       queue.publish           adds the events to queue.feed and notifies browsers.
--     queue.next_due_in_ms    computes when the worker should request jobs again.
--     public.tick_finished    ends the worker run if the request found no more jobs.
--
-- queue.next_turns calls queue.ring_turns or queue.lane_turns. A worker repeats a request if the
-- response was lost, and then gets the same leases again.

-- A worker's request for jobs.
-- worker: Number of the worker's row in queue.workers, set by queue.lease.
-- free_slots: Number of free slots of the worker. By default, the limit less the leased jobs. If
--   free_slots is 1 or more, enqueues of the next two seconds start no worker, because this worker
--   calls again. If free_slots is -1, the next enqueue starts a worker again.
-- most: Maximum number of concurrent worker runs. The response has run: {free}, which is null if
--   this run is rejected.
-- ends: The run ends if no job was leased and no work is due within stay_ms. The response then has
--   run: {ended, refused}. If refused is true, another run was rejected since this run began, so
--   the worker must call lease_jobs again.
-- pools: Array of {job_types, limit}, which gives the number of free slots for each group of job
--   types. Null if all job types of the worker share its slots. If the request has pools, the sum
--   of their limits replaces the request's limit. The field due of the response counts the jobs of
--   all pools.
-- suspects: True if this process runs only suspects, which are jobs that may have ended a process.
--   False if another process on the same host runs only suspects. Null if queue.lease_mode decides
--   at each request whether the worker leases suspects.
-- job_ids: Ids of the suspects to lease, set by queue.lease_suspects. Null to lease jobs that are
--   not suspects.
-- slots: All slots of the worker, [{job_types, limit}]. explain_job compares the slots with the
--   leases. Only the first call of a run needs slots.
-- abandoned: Stopped jobs whose processors still run, [{job_id, place, in_thread?}]. By default,
--   the list of the previous call.
-- A request may also have listens, which is true if the worker follows the topic wake_topic of the
-- response. Messages of this topic announce new jobs.
create type queue.lease_request as (
  worker_id text,
  worker integer,
  tick_id uuid,
  call integer,
  "limit" integer,
  job_types text[],
  queues text[],
  lease_seconds integer,
  free_slots integer,
  count_due boolean,
  version text,
  most integer,
  run_seconds double precision,
  ends jsonb,
  pools jsonb,
  suspects boolean,
  job_ids uuid[],
  slots jsonb,
  abandoned jsonb
);
-- An open turn as a lease reads it, with the limits that apply to its jobs.
-- round: Number of the round in which the tenant gets its next jobs.
-- taken: Number of jobs that the tenant has already got in the current round.
-- type_free: Number of further jobs of the job type that may start now, or null if the job type has
--   no limit.
-- own_free: Number of further jobs of the job type that this tenant may start now, or null if the
--   job type has no limit per tenant.
-- tenant_free: Number of further jobs of all job types that this tenant may start now, or null if
--   the tenant has no limit.
create type queue.turn as (
  lane integer,
  workspace_id uuid,
  round bigint,
  rank bigint,
  taken integer,
  from_ord bigint,
  weight integer,
  job_type text,
  is_paused boolean,
  type_free integer,
  own_free integer,
  tenant_free integer
);
-- The first ready jobs of a tenant, in the order in which they must start.
-- turns: For each ready job, the position of its turn in the argument p_turns of
--   queue.divide_slots.
create type queue.tenant_jobs as (
  turns integer[],
  weight integer,
  taken integer,
  tenant_free integer,
  round bigint,
  rank bigint,
  workspace_id uuid
);
-- The number of jobs of one tenant, job type and queue that a lease takes, beginning at the
-- position ord. The number is 0 if the tenant has no ready job of this job type and queue. In the
-- arguments of queue.tidy_turns, the field jobs is the number of leased jobs, and the field ord is
-- the position of the last leased job.
create type queue.share as (
  lane integer,
  workspace_id uuid,
  ord bigint,
  jobs integer
);
-- The tenant that a lease served last, which queue.advance_ring stores. A lease creates one
-- queue.last_served for each job type that reached its limit, because such a type continues at
-- another tenant, and one with a null job type for all other job types.
-- job_type: Job type that reached its limit, or null for all job types that have not reached a
--   limit.
-- taken: Number of jobs that the tenant has got in the current round, or 0 if the tenant has got as
--   many jobs as its weight.
create type queue.last_served as (
  job_type text,
  taken integer,
  round bigint,
  rank bigint,
  workspace_id uuid
);

-- A leased job as the worker receives it.
-- steps: Results of the job's steps that earlier attempts finished. The object is null if the
--   results are long, in which case the worker reads the results with public.read_steps.
create type queue.leased_job as (
  id uuid,
  workspace_id uuid,
  user_id uuid,
  session_id text,
  queue text,
  job_type text,
  payload jsonb,
  schema_version integer,
  priority integer,
  attempts integer,
  max_attempts integer,
  created_at timestamptz,
  parent_id uuid,
  traceparent text,
  progress jsonb,
  timeout_seconds integer,
  deadline_at timestamptz
);
create type queue.leased as (
  fence integer,
  lease_seconds integer,
  steps jsonb,
  job queue.leased_job
);
-- The result of queue.take, which leases jobs.
-- ids: Ids of the leased jobs.
-- leases: JSON of the leases, as the worker receives them.
-- changes: Events of the leased jobs, which the caller of queue.take must publish.
-- rest: Ids of the leased jobs for which queue.record_starts must store an event or a start time,
--   or free a unique key.
create type queue.taken as (
  ids uuid[],
  leases json[],
  changes queue.change[],
  rest uuid[]
);

create function queue.read_lease_request(p_request jsonb)
returns queue.lease_request
language plpgsql
set search_path = ''
as $$
declare
  v_asked queue.lease_request := jsonb_populate_record(
    null::queue.lease_request,
    p_request
  );
begin
  v_asked.job_ids := null;
  v_asked.call := coalesce(v_asked.call, 1);
  v_asked."limit" := coalesce(v_asked."limit", 10);
  if v_asked.pools is not null then
    v_asked."limit" := (
      select coalesce(sum(p."limit"), 0)
      from jsonb_to_recordset(v_asked.pools) as p ("limit" integer)
    );
  end if;
  if v_asked.worker_id is null
    or v_asked.tick_id is null
    or v_asked."limit" not between 0 and 1000
    or v_asked.lease_seconds not between 1 and 43200
  then
    perform queue.refuse(
      400,
      'invalid_argument',
      'worker_id and tick_id are required; limit (or the sum of the limits of all pools) must be '
        '0 to 1000; lease_seconds must be 1 to 43200',
      'p_request'
    );
  elsif current_setting('transaction_isolation') <> 'read committed' then
    perform queue.refuse(
      400,
      'invalid_argument',
      'a lease requires the isolation level read committed'
    );
  end if;
  return v_asked;
end;
$$;

-- End each worker run whose leases have all expired, because the process of the run has probably
-- ended. If the process is still alive, the run continues, but no longer counts against the maximum
-- number of active runs.
create function queue.end_dead_runs(p_now timestamptz)
returns void
language sql
set search_path = ''
as $$
update queue.ticks as t
set expires_at = null
where t.expires_at > p_now
  and t.tick_id = any (array(
    select l.tick_id
    from queue.leases as l
    group by l.tick_id
    having max(l.expires_at) <= p_now
  ))
$$;

-- Admit a worker run, unless the maximum number of worker runs is active. Return how many further
-- worker runs may start, or null if this run is rejected. A worker run is active until it ends, and
-- at most for its maximum duration. If the process of a worker run was killed, the run counts as
-- active until all its leases have expired.
create function queue.admit_run(p_request queue.lease_request, p_now timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_free integer;
begin
  -- only one transaction at a time admits runs
  perform queue.try_lock('admission', p_waits => true);
  for v_try in 1 .. 2 loop
    v_free := p_request.most
      - 1
      - (
        select count(*)
        from queue.ticks as t
        where t.expires_at > p_now and t.tick_id <> p_request.tick_id
      );
    exit when v_free >= 0;
    perform queue.end_dead_runs(p_now);
    -- Set has_refused in all active worker runs, so that each active run requests jobs once more
    -- before it ends. If a run is ending now, this update waits for the transaction that ends the
    -- run, so that the next pass of the loop does not count the run.
    update queue.ticks
    set has_refused = true
    where expires_at > p_now and tick_id <> p_request.tick_id;
  end loop;
  if v_free < 0 then
    return null;
  end if;
  insert into queue.ticks as t (tick_id, seen_at, expires_at)
  values (
    p_request.tick_id,
    p_now,
    p_now + least(interval '1 day', make_interval(secs => p_request.run_seconds))
  )
  on conflict (tick_id) do update set
    expires_at = excluded.expires_at,
    has_refused = false;
  return v_free;
end;
$$;

-- Update a worker's row of queue.workers, and the column served_at of the lanes (job types in
-- queues) that the worker serves. Return the worker's number in queue.workers. When a job type in a
-- queue gets its first worker or loses its last worker, insert notes for the concurrency keys of
-- the job type, so that a lease checks which waiting jobs of these keys can be admitted. Before the
-- insert, the function takes the advisory lock "turns", because queue.lease_ready takes this lock
-- to admit jobs of concurrency keys.
-- p_is_changed: True if the job types, queues, version, slots or abandoned jobs of the worker have
--   changed.
-- has_noted: True if this call has inserted notes for concurrency keys.
create function queue.record_worker(
  p_request queue.lease_request,
  p_is_changed boolean,
  p_now timestamptz,
  out worker integer,
  out has_noted boolean
)
language plpgsql
set search_path = ''
as $$
declare
  v_known queue.workers; -- the worker's row before the update
  v_lanes record;
  v_gates integer[];
  v_is_alone boolean;
begin
  select * into v_known
  from queue.workers as w
  where w.worker_id = p_request.worker_id;
  if v_known.version = p_request.version
    and v_known.job_types @> p_request.job_types
  then
    -- A request omits job types for which the worker has no free slot. The worker still serves the
    -- omitted job types, so keep the stored list of job types.
    p_request.job_types := v_known.job_types;
  end if;
  select
    array_agg(l.lane) filter (
      where o.serves
        and (
          l.served_at is null
          or l.served_at not between p_now - interval '1 minute' and p_now
        )
    ) as served,
    array_agg(l.lane) filter (where o.serves and l.served_at is null) as added,
    array_agg(l.lane) filter (
      where not o.serves
        and (
          l.served_at <= p_now - interval '3 minutes'
          or p_is_changed
            and l.served_at is not null
            and not exists (
              select from queue.workers as w
              where w.worker_id <> p_request.worker_id
                and w.seen_at > p_now - interval '3 minutes'
                and (w.job_types is null or l.job_type = any (w.job_types))
                and (w.queues is null or l.queue = any (w.queues))
            )
        )
    ) as gone
  into v_lanes
  from queue.lanes as l
  cross join lateral (
    select coalesce(l.job_type = any (p_request.job_types), true)
      and coalesce(l.queue = any (p_request.queues), true) as serves
  ) as o;
  v_gates := v_lanes.added || v_lanes.gone;
  v_is_alone := v_gates is null or queue.try_lock('turns');
  if v_is_alone then
    update queue.lanes
    set served_at = case when lane = any (v_lanes.served) then p_now end
    where ctid = any (array(
      select l.ctid
      from queue.lanes as l
      where l.lane = any (v_lanes.served || v_lanes.gone)
      for no key update skip locked
    ));
    perform queue.note_gates(v_gates) where v_gates is not null;
  end if;
  insert into queue.workers as w (
    worker_id, started_at, seen_at, version, job_types, queues, slots, abandoned, summary
  )
  values (
    p_request.worker_id,
    p_now,
    -- If another transaction had the advisory lock "turns", set seen_at back by 59 seconds, so that
    -- the worker's next request, one second later, updates the row again.
    p_now - interval '59 seconds' * (not v_is_alone)::integer,
    p_request.version,
    p_request.job_types,
    p_request.queues,
    coalesce(p_request.slots, v_known.slots),
    coalesce(p_request.abandoned, v_known.abandoned),
    jsonb_build_object(
      'key_expires_at', to_timestamp(
        least((auth.jwt() ->> 'exp')::double precision, 253402300799) -- at most the year 9999
      ),
      -- the year 9999 for a session without a worker key, because no revocation concerns it
      'key_issued_at', to_timestamp(case auth.jwt() ->> 'role'
        when 'job_worker' then coalesce((auth.jwt() ->> 'iat')::double precision, 0)
        else 253402300799
      end)
    )
  )
  on conflict (worker_id) do update set
    seen_at = excluded.seen_at,
    ended_at = null,
    version = excluded.version,
    job_types = excluded.job_types,
    queues = excluded.queues,
    slots = excluded.slots,
    abandoned = excluded.abandoned,
    summary = coalesce(w.summary, '{}') || excluded.summary,
    started_at = case
      when w.ended_at is null and w.seen_at > p_now - interval '3 minutes'
        then w.started_at
      else p_now
    end
  returning w.worker into record_worker.worker;
  has_noted := v_is_alone and v_gates is not null;
end;
$$;

-- Admit waiting jobs of the concurrency keys that queue.notes names, beginning with the oldest
-- note. Delete notes for job types that are paused or that no worker serves. When a paused job type
-- is resumed, or when a worker serves a job type again, queue.note_gates inserts new notes for the
-- keys of the job type. If very many notes exist, take two further steps.
-- - Admit jobs of the oldest key of up to p_most / 4 tenants from the smallest workspace id on, and
--   of up to p_most / 4 tenants from a random workspace id on. Admitting jobs of many tenants keeps
--   a tenant with few keys from waiting for a tenant with many keys.
-- - Delete old notes for concurrency keys without jobs in queue.gated.
-- p_most: Maximum number of concurrency keys of which the function admits jobs.
create function queue.open_gates(p_most integer, p_now timestamptz)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_open constant text[] := array(
    select l.job_type
    from queue.open_lanes(null) as o
    join queue.lanes as l on l.lane = any (o.lanes)
    where l.served_at is not null
  );
  v_notes queue.notes[];
  v_locks integer;
  v_gate record;
begin
  for v_try in 1 .. 5 loop
    v_notes := array(
      select n
      from queue.notes as n
      where n.key is not null and n.look_at <= p_now
      order by n.look_at, n.id
      limit 4 * p_most
    );
    delete from queue.notes
    where id = any (array(
      select n.id
      from unnest(v_notes) as n
      join queue.lanes as l on l.lane = n.lane
      where l.job_type <> all (v_open)
    ));
    exit when not found;
  end loop;
  if cardinality(v_notes) = 4 * p_most then
    v_notes := array(
      with recursive tenants as (
        select s.id as workspace_id, null::queue.notes as note, 0 as nth
        from (
          values
            (gen_random_uuid()),
            ('00000000-0000-0000-0000-000000000000')
        ) as s (id)
        union all
        select n.workspace_id, n.note, t.nth + 1
        from tenants as t
        cross join lateral (
          select o.workspace_id, o as note
          from queue.notes as o
          where o.key is not null and o.workspace_id > t.workspace_id
          order by o.workspace_id, o.look_at, o.id
          limit 1
        ) as n
        where t.nth < p_most / 4
      )
      select t.note
      from tenants as t
      where (t.note).look_at <= p_now
    ) || v_notes;
    delete from queue.notes
    where id = any (array(
      select n.id
      from (
        select *
        from queue.notes as o
        where o.key is not null and o.look_at <= p_now
        order by o.look_at, o.id
        limit 20 * p_most
      ) as n
      join queue.lanes as l on l.lane = n.lane
      where not exists (
        select from queue.gated as g
        where g.workspace_id = n.workspace_id
          and g.job_type = l.job_type
          and g.key = n.key
      )
    ));
  end if;
  v_locks := queue.reserve_locks(least(p_most, cardinality(v_notes)), 120);
  for v_gate in
    with noted as materialized (
      select l.job_type, n.workspace_id, n.key
      from unnest(v_notes) with ordinality as n
      join queue.lanes as l on l.lane = n.lane
      group by 1, 2, 3
      order by min(n.ordinality)
      limit v_locks
    ),
    -- delete the notes before counting jobs, so that a note that is inserted during the count
    -- remains
    gone as (
      delete from queue.notes as n
      using noted as o, queue.lanes as l
      where l.job_type = o.job_type
        and n.workspace_id = o.workspace_id
        and n.lane = l.lane
        and n.key = o.key
        and n.look_at <= p_now
      returning n.id, n.lane, n.workspace_id, l.job_type, n.key
    )
    select g.workspace_id, g.job_type, g.key, min(g.lane) as lane
    from gone as g
    group by 1, 2, 3
    order by min(g.id)
  loop
    perform queue.open_gate(
      v_gate.lane,
      v_gate.workspace_id,
      v_gate.job_type,
      v_gate.key,
      p_now,
      p_is_reserved => true
    );
  end loop;
end;
$$;

-- Open those turns (tenants with ready jobs) that queue.notes names, so that leases serve these
-- tenants. A tenant has the same rank in all its turns. A new tenant gets a rank that is one less
-- than the lowest last_rank in the rings for the tenant's jobs. In the ring with this last_rank,
-- the new tenant comes last in the round. In other rings, it comes before the tenant that was
-- served last. Also open limited turns whose time look_at has passed. If another transaction has
-- locked a turn, keep the notes that name this turn, so that the next lease opens the turn.
-- p_most: Maximum number of turns to open because queue.notes names them.
-- p_done: Turns whose turn locks the caller has taken, because it has leased their ready jobs. If a
--   turn in p_done has no other ready job, the function does not open the turn, and only deletes
--   the notes that name this turn.
create function queue.open_turns(
  p_most integer,
  p_now timestamptz,
  p_done queue.share[] default null
)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_epoch constant bigint := (
    select coalesce(max(e.epoch), 0)
    from queue.turn_epochs as e
  );
  v_ignored text;
begin
  -- The sequence queue.notes_gone is the lower bound of queue.turn_notes.xid. Set queue.notes_gone
  -- to the transaction id of the oldest note, or of the oldest running transaction, which may still
  -- insert notes. Do not set the sequence if an earlier lease of this transaction has deleted rows
  -- of queue.turn_notes, because a rollback would restore these rows, but not the old value of the
  -- sequence.
  if (current_setting('minutehand.noted', true) = 'yes') is not true then
    v_ignored := setval('queue.notes_gone', least(n.oldest, n.running)::text::bigint)
    from (
      select min(o.xid) as oldest, pg_snapshot_xmin(pg_current_snapshot()) as running
      from queue.turn_notes as o
    ) as n;
    v_ignored := set_config('minutehand.noted', 'yes', true);
  end if;
  with noted as materialized (
    select g.lane, g.workspace_id
    from (
      select n.lane, n.workspace_id
      from (
        select *
        from queue.turn_notes
        order by xid, id
        limit 10 * p_most
      ) as n
      group by 1, 2
      order by min(n.id)
    ) as g
    where not exists (
        select from queue.turns as t
        where t.workspace_id = g.workspace_id and t.lane = g.lane
        offset 0 -- without this line, Postgres reads all rows
      )
      or exists (
        select from (
          select from queue.turns as t
          where t.workspace_id = g.workspace_id and t.lane = g.lane
          for update skip locked
        ) as free
      )
    limit p_most
  ),
  gone as (
    delete from queue.turn_notes as n
    using noted as o
    where n.workspace_id = o.workspace_id and n.lane = o.lane
    returning n.id, n.lane, n.workspace_id, n.ord
  ),
  opened as (
    select *
    from (
      select g.lane, g.workspace_id, min(g.ord) as ord, min(g.id) as id
      from gone as g
      group by 1, 2
    ) as o
    where (o.lane, o.workspace_id) not in (select d.lane, d.workspace_id from unnest(p_done) as d)
      or exists (
        select from queue.ready as r
        where r.lane = o.lane and r.workspace_id = o.workspace_id and r.ord >= o.ord
      )
    order by o.id
  )
  insert into queue.turns as t (lane, workspace_id, rank, from_ord, changed_at, epoch)
  select
    o.lane,
    o.workspace_id,
    coalesce(
      (
        select u.rank
        from queue.turns as u
        where u.workspace_id = o.workspace_id
        limit 1
      ),
      min(r.last_rank) over (partition by o.workspace_id) - 1
    ),
    o.ord,
    p_now,
    v_epoch
  from opened as o
  join queue.lanes as l on l.lane = o.lane
  join queue.rings as r on r.ring = l.ring
  on conflict (workspace_id, lane) do update set
    blocked = false,
    look_at = null,
    changed_at = p_now,
    epoch = v_epoch,
    -- each ready job of a closed turn has a note whose ord is at most the job's ord, so from_ord is
    -- the smallest ord of these notes
    from_ord = case
      when t.blocked and t.look_at is null then excluded.from_ord
      else least(t.from_ord, excluded.from_ord)
    end;
  update queue.turns as t
  set blocked = false, look_at = null, epoch = v_epoch
  where t.ctid = any (array(
    select ctid
    from queue.turns
    where blocked and look_at <= p_now
    order by look_at
    limit 2 * p_most
    for update skip locked
  ));
end;
$$;

-- Return the number of ready jobs for each of the first p_most turns in queue.notes. The lease
-- takes the returned jobs without opening turns, because the order of the tenants does not matter
-- if every job gets a slot. queue.noted_shares skips tenants and job types with a limit, a weight
-- or a pause, because queue.share_slots must check a limit, weight or pause first. Return null in
-- the following cases, so that the lease opens the turns.
-- - The worker has fewer free slots than these turns have ready jobs.
-- - An open turn has a ready job for the worker, so that the order of the tenants matters.
-- - At most four turns would be open. So few open turns do not slow down leases (queue.fill_pool).
-- p_most: Maximum number of turns to read from queue.notes.
create function queue.noted_shares(p_request queue.lease_request, p_most integer)
returns queue.share[]
language plpgsql
set search_path = ''
as $$
declare
  v_asked constant record := queue.open_lanes(p_request.job_types, p_request.queues);
  v_open record;
begin
  select
    count(*) as turns,
    bool_or(
      exists (
        select from queue.ready as r
        where r.lane = t.lane and r.workspace_id = t.workspace_id and r.ord >= t.from_ord
      )
    ) as has_jobs
  into v_open
  from (
    select *
    from queue.unblocked_turns
    where lane = any (v_asked.lanes)
    limit 20
  ) as t;
  if v_open.has_jobs or v_open.turns = 20 then
    return null;
  end if;
  return (
    select array_agg(row(n.lane, n.workspace_id, n.ord, o.jobs)::queue.share order by n.ord)
    from (
      select n.lane, n.workspace_id, min(n.ord) as ord
      from (
        select *
        from queue.turn_notes
        order by xid, id
        limit 10 * p_most
      ) as n
      group by 1, 2
      order by min(n.id)
      limit p_most
    ) as n
    join queue.lanes as l on l.lane = n.lane
    cross join lateral (
      select count(*) as jobs
      from (
        select from queue.ready as r
        where r.lane = n.lane and r.workspace_id = n.workspace_id and r.ord >= n.ord
        limit p_request."limit" + 1
      ) as r
    ) as o
    where n.lane = any (v_asked.lanes)
      and l.job_type <> all (v_asked.limited)
      and n.workspace_id not in (select w.workspace_id from queue.limited_tenants as w)
      and not exists (
        select from queue.turns as t
        where t.workspace_id = n.workspace_id
          and t.lane = n.lane
          and not (t.blocked and t.look_at is null)
      )
    having sum(o.jobs) <= p_request."limit" and count(*) + v_open.turns > 4
  );
end;
$$;

-- Return how many jobs of a job type may start now, or null if the job type has no limit. The
-- number is exact only if the caller has the advisory lock of the job type (queue.lock_types).
create function queue.free_of_type(p_job_type text, p_now timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
begin
  return (
    select least(
      y.max_concurrency - case
        when y.max_concurrency is not null then (
          select count(*)
          from queue.lanes as o
          join queue.leases as r on r.lane = o.lane
          where o.job_type = y.job_type
        )
      end,
      case
        when y.rate_limit is not null and not y.rate_per_key
          then floor(queue.tokens_of(
            'r:' || y.job_type,
            y.rate_limit,
            y.rate_per_seconds,
            p_now
          ))
      end
    )::integer
    from queue.job_types as y
    where y.job_type = p_job_type
  );
end;
$$;

-- Lock those job types that have a limit and ready jobs in the lanes p_lanes (job types in queues),
-- and count the running jobs of these job types. A type that had no open turn at the time of the
-- count is left to the next lease.
-- open: Lanes (job types in queues) that the lease may serve, because their job type has no limit,
--   or is below its limit and not locked by another lease.
-- is_busy: True if another lease has locked one of the job types, or if the transaction can take no
--   more advisory locks.
-- is_limited: True if a tenant has ready jobs of a job type with a limit in the lanes p_lanes.
-- at_limit: Job types that have reached their limit, so that none of their jobs may start now.
create function queue.lock_types(
  p_lanes integer[],
  p_limited text[],
  p_now timestamptz,
  out open integer[],
  out is_busy boolean,
  out is_limited boolean,
  out at_limit text[]
)
language plpgsql
set search_path = ''
as $$
declare
  v_types text[];
  v_locked text[];
  v_tried text[];
  v_busy text[];
begin
  v_types := array(
    select n
    from unnest(p_limited) as n
    where exists (
      select from queue.lanes as l
      join queue.unblocked_turns as o on o.lane = l.lane
      where l.job_type = n and l.lane = any (p_lanes)
    )
  );
  is_limited := v_types <> '{}';
  v_locked := array(
    select t.job_type
    from queue.job_types as t
    where t.job_type = any (v_types)
      and (t.max_concurrency is not null or t.rate_limit is not null and not t.rate_per_key)
  );
  -- a job type at its limit needs no lock, because none of its jobs may start now
  at_limit := array(
    select n
    from unnest(v_locked) as n
    where queue.free_of_type(n, p_now) <= 0
  );
  -- choose job types in random order, because a lease cannot lock very many job types
  v_tried := array(
    select n
    from unnest(v_locked) as n
    where n <> all (at_limit)
    order by random()
    limit queue.reserve_locks(cardinality(v_locked) - cardinality(at_limit), 145)
  );
  v_busy := array(
    select n
    from unnest(v_locked) as n
    where n <> all (v_tried || at_limit)
    union all
    select n
    from ( -- take the locks in sorted order, so that one of two concurrent leases gets all locks
      select t as n
      from unnest(v_tried) as t
      order by 1
    ) as o
    where not queue.try_lock('type ' || n)
  );
  at_limit := at_limit || array(
    select n
    from unnest(v_tried) as n
    where n <> all (v_busy) and queue.free_of_type(n, p_now) <= 0
  );
  open := array(
    select l.lane
    from queue.lanes as l
    where l.lane = any (p_lanes)
      and (
        l.job_type <> all (p_limited)
        or l.job_type = any (v_types) and l.job_type <> all (v_busy || at_limit)
      )
  );
  is_busy := v_busy <> '{}';
end;
$$;

-- Return the open turns (tenants with ready jobs) for all job types and queues, in the order of
-- (rank, workspace_id, lane). The result begins after the tenant that the ring p_ring stores. After
-- the highest rank, the result continues with the lowest rank. The query compares (rank,
-- workspace_id, lane) with the ring's tenant and lane_bound. With lane_bound 0 this tenant comes
-- first, because it may get more jobs in the current round. With the greatest integer it comes
-- last, because it has got all of them.
-- p_rows: Maximum number of rows to return.
-- is_cut: True in the last row of a result with p_rows rows, because more turns may be open.
create function queue.ring_turns(p_ring integer, p_rows integer)
returns table (
  lane integer,
  workspace_id uuid,
  round bigint,
  rank bigint,
  taken integer,
  from_ord bigint,
  is_cut boolean
)
language plpgsql
set search_path = ''
as $$
begin
  return query
  select
    u.lane,
    u.workspace_id,
    u.round,
    u.rank,
    case
      when (u.round, u.rank, u.workspace_id) = (p.round, p.last_rank, p.last_workspace_id)
        then p.last_taken
      else 0
    end,
    u.from_ord,
    u.nth = p_rows
  from (
    select r.*, case when r.last_taken = 0 then 2147483647 else 0 end as lane_bound
    from queue.rings as r
    where r.ring = p_ring
  ) as p
  cross join lateral (
    select t.*, row_number() over () as nth
    from (
      (
        select o.*, p.round
        from queue.unblocked_turns as o
        where (o.rank, o.workspace_id, o.lane)
          > (p.last_rank, p.last_workspace_id, p.lane_bound)
        order by o.rank, o.workspace_id, o.lane
        limit p_rows
      )
      union all
      (
        select o.*, p.round + 1
        from queue.unblocked_turns as o
        where (o.rank, o.workspace_id, o.lane)
          <= (p.last_rank, p.last_workspace_id, p.lane_bound)
        order by o.rank, o.workspace_id, o.lane
        limit p_rows
      )
    ) as t
    limit p_rows
  ) as u;
end;
$$;

-- For each lane (job type in a queue) in p_lanes, return up to p_rows open turns (tenants with
-- ready jobs). The rows of each lane begin after the tenant that the ring of the lane stores.
-- queue.ring_turns and queue.lane_turns are separate functions, because one query for all lanes and
-- for single lanes would not read an index in order.
--
-- If a lane had no ready jobs for some time, its round is far behind the other rounds.
-- queue.lane_turns sets such a lane to one round behind the others, because otherwise leases would
-- serve only this lane until it had caught up.
create function queue.lane_turns(p_lanes integer[], p_rows integer)
returns table (
  lane integer,
  workspace_id uuid,
  round bigint,
  rank bigint,
  taken integer,
  from_ord bigint,
  is_cut boolean
)
language plpgsql
set search_path = ''
as $$
begin
  return query
  select
    u.lane,
    u.workspace_id,
    u.round,
    u.rank,
    case
      when (u.round, u.rank, u.workspace_id) = (p.round, p.last_rank, p.last_workspace_id)
        then p.last_taken
      else 0
    end,
    u.from_ord,
    u.nth = p_rows
  from (
    select
      l.lane,
      greatest(r.round, max(r.round) over () - 1) as round,
      r.last_rank,
      r.last_workspace_id,
      r.last_taken,
      case when r.last_taken = 0 then 2147483647 else 0 end as lane_bound
    from unnest(p_lanes) as n (lane)
    join queue.lanes as l on l.lane = n.lane
    join queue.rings as r on r.ring = l.ring
  ) as p
  cross join lateral (
    select t.*, row_number() over () as nth
    from (
      (
        select o.*, p.round
        from queue.unblocked_turns as o
        where o.lane = p.lane
          and (o.rank, o.workspace_id, o.lane)
          > (p.last_rank, p.last_workspace_id, p.lane_bound)
        order by o.rank, o.workspace_id
        limit p_rows
      )
      union all
      (
        select o.*, p.round + 1
        from queue.unblocked_turns as o
        where o.lane = p.lane
          and (o.rank, o.workspace_id, o.lane)
          <= (p.last_rank, p.last_workspace_id, p.lane_bound)
        order by o.rank, o.workspace_id
        limit p_rows
      )
    ) as t
    limit p_rows
  ) as u;
end;
$$;

-- Tenants that have a limit or a weight, or that are paused.
create view queue.limited_tenants as
select w.workspace_id
from queue.tenant_limits as w
union all
select p.workspace_id
from queue.pauses as p
-- exclude pauses of a job type or queue, whose workspace_id is null, because `not in` is never true
-- with a null
where p.workspace_id is not null;

-- Return the open turns of those tenants that are served next in the lanes p_lanes (job types in
-- queues). If all these lanes refer to the same ring, queue.ring_turns first reads up to a maximum
-- number of turns of all lanes, also of lanes that are not in p_lanes. If queue.ring_turns found
-- too few tenants with requested job types, or if the lanes refer to several rings,
-- queue.lane_turns reads the rows of each lane separately. If a read returned its maximum number of
-- rows, drop the tenant of the last row and all later tenants, because rows of these tenants may be
-- missing.
-- p_most: Maximum number of tenants to return.
-- known: Number of different tenants in the result.
-- is_all: True if the result has all tenants with ready jobs in the lanes p_lanes.
-- is_limited: True if one of the returned tenants has a limit or a weight, or is paused.
-- is_empty: True if only one turn is open, and its tenant has no ready job.
create function queue.next_turns(
  p_lanes integer[],
  p_most integer,
  out turns queue.turn[],
  out known integer,
  out is_all boolean,
  out is_limited boolean,
  out is_empty boolean
)
language plpgsql
set search_path = ''
as $$
declare
  v_rings integer[];
  v_reads_all_lanes boolean;
begin
  select
    coalesce(
      array_agg(
        row(
          o.lane, o.workspace_id, 0, o.rank, 0, o.from_ord, 1, null, false, null, null,
          null
        )::queue.turn
      ),
      '{}'
    ),
    bool_or(
      exists (
        select from queue.limited_tenants as w
        where w.workspace_id = o.workspace_id
      )
    ),
    bool_and(
      not exists (
        select from queue.ready as r
        where r.lane = o.lane and r.workspace_id = o.workspace_id and r.ord >= o.from_ord
      )
    )
  into turns, is_limited, is_empty
  from (select * from queue.unblocked_turns limit 2) as o;
  -- at most one turn is open, for example if one tenant has all jobs
  if turns[2] is null then
    is_all := true;
    known := 1;
    if turns[1].lane <> all (p_lanes) then
      turns := '{}';
    end if;
    return;
  end if;
  is_empty := false;
  v_rings := array(
    select distinct l.ring
    from queue.lanes as l
    where l.lane = any (p_lanes)
  );
  foreach v_reads_all_lanes in array case
    when v_rings[2] is null then array[true, false]
    else array[false]
  end loop
    with read as materialized (
      select a.*
      from queue.ring_turns(v_rings[1], 2 * p_most + 20 + cardinality(p_lanes)) as a
      where v_reads_all_lanes
      union all
      select e.*
      from queue.lane_turns(
        p_lanes,
        least(p_most, 2 + 20 * p_most / greatest(1, cardinality(p_lanes)))
      ) as e
      where not v_reads_all_lanes
    ),
    cut as materialized ( -- first tenant that may have rows that were not read
      select r.round, r.rank, r.workspace_id
      from read as r
      where r.is_cut
      order by 1, 2, 3
      limit 1
    ),
    found as (
      select
        r.*,
        dense_rank() over (order by r.round, r.rank, r.workspace_id) as nth_tenant
      from read as r
      where r.lane = any (p_lanes)
        and not exists (
          select from cut as c
          where (r.round, r.rank, r.workspace_id) >= (c.round, c.rank, c.workspace_id)
        )
    )
    select
      array_agg(
        row(
          f.lane, f.workspace_id, f.round, f.rank, f.taken, f.from_ord, 1, null, false,
          null, null, null
        )::queue.turn
      ) filter (where f.nth_tenant <= p_most),
      least(coalesce(max(f.nth_tenant), 0), p_most),
      coalesce(max(f.nth_tenant), 0) <= p_most and not exists (select from cut)
    into turns, known, is_all
    from found as f;
    exit when is_all or known = p_most;
  end loop;
  is_limited := exists (
    select from queue.limited_tenants as w
    where w.workspace_id = any (array(select t.workspace_id from unnest(turns) as t))
  );
end;
$$;

-- Take an advisory lock for each limit of the tenants in p_turns. For each turn in p_turns, count
-- how many further jobs may start. If the tenant is at a limit or paused, set the turn to limited
-- or paused, so that the next leases skip it.
-- known: Number of tenants in the result, if the transaction could not take the advisory locks of
--   all tenants in p_turns. Null if the result has all tenants of p_turns.
-- is_busy: True if another lease has one of the advisory locks, or if another transaction is ending
--   a pause. If is_busy is true, the function changes no turn.
create function queue.limit_turns(
  p_turns queue.turn[],
  p_now timestamptz,
  out turns queue.turn[],
  out known integer,
  out is_busy boolean
)
language plpgsql
set search_path = ''
as $$
declare
  -- names of the advisory locks, and for each lock the position of the lock's tenant among the
  -- tenants of p_turns
  v_scopes text[];
  v_tenants integer[];
  v_locks integer;
  v_busy text[];
begin
  select array_agg(o.name order by o.nth, o.name), array_agg(o.nth order by o.nth, o.name)
  into v_scopes, v_tenants
  from (
    select s.name, min(t.nth) as nth
    from (
      select u.*, dense_rank() over (order by u.round, u.rank, u.workspace_id) as nth
      from unnest(p_turns) as u
    ) as t
    join queue.lanes as l on l.lane = t.lane
    join queue.job_types as y on y.job_type = l.job_type
    left join queue.tenant_limits as w on w.workspace_id = t.workspace_id
    cross join lateral (
      values
        ( -- limit of a job type per tenant
          'both ' || t.workspace_id || y.job_type,
          y.workspace_concurrency is not null
        ),
        ('workspace ' || t.workspace_id, w.running_max is not null)
    ) as s (name, is_limited)
    where s.is_limited
    group by s.name
  ) as o;
  v_locks := queue.reserve_locks(coalesce(cardinality(v_scopes), 0), 160);
  -- include the first tenant even if the transaction cannot take all locks of this tenant
  known := case when v_tenants[v_locks + 1] > 0 then greatest(1, v_tenants[v_locks + 1] - 1) end;
  if known is not null then
    p_turns := array(
      select t.turn
      from (
        select u as turn, dense_rank() over (order by u.round, u.rank, u.workspace_id) as nth
        from unnest(p_turns) as u
      ) as t
      where t.nth <= known
    );
  end if;
  v_busy := array(
    select o.name
    from ( -- take the locks in sorted order, so that one of two concurrent leases gets all locks
      select s.name
      from unnest(v_scopes, v_tenants) as s (name, nth)
      where coalesce(s.nth <= known, true)
      order by 1
    ) as o
    where not queue.try_lock(o.name)
  );
  is_busy := v_busy <> '{}' or not queue.try_lock('pauses', p_is_shared => true);
  with types as materialized (
    select
      y.job_type,
      y.workspace_concurrency,
      queue.free_of_type(y.job_type, p_now) as free
    from (
      select distinct l.job_type
      from unnest(p_turns) as t
      join queue.lanes as l on l.lane = t.lane
    ) as d
    join queue.job_types as y on y.job_type = d.job_type
  )
  select array_agg(
    row(
      t.lane,
      t.workspace_id,
      t.round,
      t.rank,
      t.taken,
      t.from_ord,
      coalesce(w.weight, 1),
      y.job_type,
      exists (
        select from queue.pauses as p
        where p.kind = any ('{workspace,workspace_type}')
          and p.name = any (array[
            t.workspace_id::text,
            t.workspace_id || '/' || y.job_type
          ])
      ),
      y.free,
      case
        when 'both ' || t.workspace_id || y.job_type = any (v_busy) then 0
        when y.workspace_concurrency is not null then y.workspace_concurrency
          - (
            select count(*)
            -- join queue.leases by lane, because the index leases_by_lane begins with the lane
            from queue.lanes as o
            join queue.leases as r
              on r.lane = o.lane and r.workspace_id = t.workspace_id
            where o.job_type = y.job_type
          )
      end,
      case
        when 'workspace ' || t.workspace_id = any (v_busy) then 0
        when w.running_max is not null then w.running_max - (
          select count(*)
          from queue.lanes as o
          join queue.leases as r
            on r.lane = o.lane and r.workspace_id = t.workspace_id
        )
      end
    )::queue.turn
  )
  into turns
  from unnest(p_turns) as t
  join queue.lanes as l on l.lane = t.lane
  join types as y on y.job_type = l.job_type
  left join queue.tenant_limits as w on w.workspace_id = t.workspace_id;
  if is_busy then
    return;
  end if;
  update queue.turns as u
  set
    blocked = true,
    changed_at = p_now,
    look_at = case
      when f.is_paused then 'infinity'
      else p_now + interval '1 second'
    end
  from (
    select o.found, t.is_paused
    from unnest(turns) as t
    cross join lateral (
      select n.ctid as found
      from queue.turns as n
      where n.workspace_id = t.workspace_id and n.lane = t.lane
      for update skip locked
    ) as o
    where t.is_paused or least(t.own_free, t.tenant_free) <= 0
  ) as f
  where u.ctid = f.found;
end;
$$;

-- Ready jobs that a normal lease skips. A lease skips suspects (jobs that may have ended a
-- process), because a suspect must not run in one process with other jobs. If a trigger of the
-- project has rejected the start of a job, leases skip the job until retry_at.
create view queue.withheld as
select r.job_id, false as is_suspect
from queue.refusals as r
where r.task = 'lease' and r.retry_at > queue.clock()
union all
select s.job_id, true
from queue.suspects as s;

-- Divide the free slots of a worker among tenants in rounds. In each round, every tenant gets slots
-- for as many of its first ready jobs as its weight. queue.divide_slots skips a job that would
-- exceed a limit, and does not count the skipped job against the weight.
-- p_depth: Number of ready jobs to read for each turn. If the tenant's weight is greater than
--   p_depth, the function reads as many jobs as the weight. Null if the lease has not read all
--   tenants with ready jobs. If p_depth is null, the function reads as many jobs as the weight, and
--   divides the slots for one round only.
-- p_most: Number of free slots.
-- is_cut: True if a tenant may have more ready jobs than this function has read.
-- empty: Open turns whose tenants have no ready job.
-- lasts: Tenants that were served last, for queue.advance_ring.
create function queue.divide_slots(
  p_turns queue.turn[],
  p_depth integer,
  p_most integer,
  out shares queue.share[],
  out empty queue.share[],
  out lasts queue.last_served[],
  out is_cut boolean
)
language plpgsql
set search_path = ''
as $$
declare
  -- a variable gives faster access to single array elements than the parameter p_turns
  v_turns queue.turn[] := p_turns;
  v_tenants queue.tenant_jobs[];
  v_tenant queue.tenant_jobs;
  v_next integer[]; -- index of the next job of each tenant
  v_given integer[]; -- number of jobs that each tenant gets
  v_of_turn integer[] := '{}'; -- number of jobs that each element of v_turns gets
  -- job types with a limit, and the number of jobs that each type gets
  v_types text[] := '{}';
  v_of_type integer[] := '{}';
  v_round integer := 0;
  v_slots integer := 0;
  v_had integer; -- number of jobs that the present tenant has got in the round
  v_turn integer;
  v_type integer;
  v_last queue.last_served;
  v_has_more boolean;
begin
  with heads as materialized (
    select
      t.*,
      r.ord,
      r.nth_of_turn = t.depth as is_cut,
      row_number() over (
        partition by t.workspace_id, t.job_type
        order by r.ord
      ) as nth_of_type
    from (
      select u.*, greatest(p_depth, u.weight) as depth -- greatest() ignores a null p_depth
      from unnest(p_turns) with ordinality as u
    ) as t
    left join lateral (
      select o.ord, row_number() over (order by o.ord) as nth_of_turn
      from queue.ready as o
      where o.lane = t.lane
        and o.workspace_id = t.workspace_id
        and o.ord >= t.from_ord
        -- exclude the jobs of queue.withheld, because the lease would skip them and leave their
        -- slots empty
        and o.job_id not in (select w.job_id from queue.withheld as w)
      order by o.ord
      -- least() ignores nulls, so a null limit has no effect
      limit least(t.depth, t.type_free, t.own_free, t.tenant_free)
    ) as r on true
    where not t.is_paused
      and coalesce(least(t.type_free, t.own_free, t.tenant_free), 1) > 0
  ),
  tenants as (
    select
      array_agg(h.ordinality order by h.ord, h.lane) filter (
        where h.ord is not null and h.nth_of_type <= coalesce(h.own_free, p_most)
      ) as turns,
      h.weight,
      max(h.taken) as taken,
      h.tenant_free,
      min(h.round) filter (where h.ord is not null) as round,
      h.rank,
      h.workspace_id
    from heads as h
    group by h.weight, h.tenant_free, h.rank, h.workspace_id
  )
  select
    coalesce(array_agg(t::queue.tenant_jobs order by t.round, t.rank, t.workspace_id), '{}'),
    (
      select array_agg(row(h.lane, h.workspace_id, null, 0)::queue.share)
      from heads as h
      where h.ord is null
    ),
    (select coalesce(bool_or(h.is_cut), false) from heads as h)
  into v_tenants, empty, is_cut
  from tenants as t
  where t.turns is not null;
  v_next := array_fill(1, array[cardinality(v_tenants)]);
  v_given := array_fill(0, array[cardinality(v_tenants)]);
  <<rounds>>
  loop
    v_has_more := false;
    for v_nth in 1 .. cardinality(v_tenants) loop
      v_tenant := v_tenants[v_nth];
      v_had := case v_round when 0 then v_tenant.taken else 0 end;
      while v_had < v_tenant.weight and v_next[v_nth] <= cardinality(v_tenant.turns) loop
        exit rounds when v_slots = p_most;
        v_turn := v_tenant.turns[v_next[v_nth]];
        v_next[v_nth] := v_next[v_nth] + 1;
        v_type := null;
        if v_turns[v_turn].type_free is not null then
          v_type := coalesce(
            array_position(v_types, v_turns[v_turn].job_type),
            cardinality(v_types) + 1
          );
          v_types[v_type] := v_turns[v_turn].job_type;
          continue when v_of_type[v_type] = v_turns[v_turn].type_free;
          v_of_type[v_type] := coalesce(v_of_type[v_type], 0) + 1;
        end if;
        v_had := v_had + 1;
        v_slots := v_slots + 1;
        v_given[v_nth] := v_given[v_nth] + 1;
        if v_given[v_nth] = v_tenant.tenant_free then
          v_next[v_nth] := cardinality(v_tenant.turns) + 1;
        end if;
        v_of_turn[v_turn] := coalesce(v_of_turn[v_turn], 0) + 1;
        v_last := row(
          null, v_had % v_tenant.weight, v_tenant.round, v_tenant.rank, v_tenant.workspace_id
        );
        if v_type is not null and v_of_type[v_type] = v_turns[v_turn].type_free then
          v_last.job_type := v_types[v_type];
          lasts := lasts || v_last;
          v_last.job_type := null;
        end if;
      end loop;
      v_has_more := v_has_more or v_next[v_nth] <= cardinality(v_tenant.turns);
    end loop;
    exit when p_depth is null or not v_has_more;
    v_round := v_round + 1;
  end loop;
  if v_slots > 0 then
    lasts := lasts || v_last;
  end if;
  select
    array_agg(
      row(t.lane, t.workspace_id, t.from_ord, v_of_turn[t.ordinality])::queue.share
      -- oldest jobs first, because rows of public.jobs are stored in about this order
      order by t.from_ord
    )
  into shares
  from unnest(p_turns) with ordinality as t
  where v_of_turn[t.ordinality] > 0;
end;
$$;

-- Let the lanes p_lanes (job types in queues) share a ring, and store in the ring the tenant that
-- was served last. Leave out lanes in which another lease has already served a later tenant.
-- queue.advance_ring uses the first of the following rings that exists.
-- - A ring to which one or more of these lanes refer, and no other lane.
-- - A ring to which no lane refers.
-- - A new ring.
--
-- The update of queue.rings checks again that no other lane refers to the ring, because another
-- lease may have changed a lane in the meantime.
create function queue.advance_ring(p_lanes integer[], p_last queue.last_served)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_lanes constant integer[] := array(
    select l.lane
    from queue.lanes as l
    join queue.rings as r on r.ring = l.ring
    where l.lane = any (p_lanes)
      and (p_last.round, p_last.rank, p_last.workspace_id)
      >= (r.round, r.last_rank, r.last_workspace_id)
  );
  v_ring integer := (
    select min(r.ring)
    from (
      select distinct l.ring
      from queue.lanes as l
      where l.lane = any (v_lanes)
    ) as r
    where not exists (
      select from queue.lanes as o
      where o.ring = r.ring and o.lane <> all (v_lanes)
    )
  );
begin
  if v_lanes = '{}' then
    return;
  end if;
  if v_ring is null then
    select r.ring into v_ring
    from queue.rings as r
    where not exists (select from queue.lanes as l where l.ring = r.ring)
    limit 1;
  end if;
  if v_ring is null then
    insert into queue.rings default values
    returning ring into v_ring;
  end if;
  update queue.rings as r
  set
    round = p_last.round,
    last_rank = p_last.rank,
    last_workspace_id = p_last.workspace_id,
    last_taken = p_last.taken
  where r.ctid = (
    select o.ctid
    from queue.rings as o
    where o.ring = v_ring
      and not exists (
        select from queue.lanes as l
        where l.ring = o.ring and l.lane <> all (v_lanes)
      )
      and (
        (p_last.round, p_last.rank, p_last.workspace_id)
        >= (o.round, o.last_rank, o.last_workspace_id)
        or not exists (select from queue.lanes as l where l.ring = o.ring)
      )
    for no key update skip locked
  );
  if found then
    update queue.lanes
    set ring = v_ring
    where ctid = any (array(
      select l.ctid
      from queue.lanes as l
      where l.lane = any (v_lanes) and l.ring <> v_ring
      for no key update skip locked
    ));
  end if;
end;
$$;

-- Determine how many jobs a lease takes for each turn, and which turns are open although their
-- tenants have no ready job.
-- lanes: Lanes (job types in queues) that the worker requests and that are not paused.
-- limited: Requested job types that have a limit.
-- shares: Number of jobs that the lease takes for each tenant, job type and queue.
-- empty: Open turns whose tenants have no ready job.
-- is_only: True if only one turn of the requested lanes is open, and no limit, weight or pause
--   applies to it. The tenant of the only open turn may have no ready job.
-- is_limited: True if a limit, a weight or a pause applies to one of the tenants or job types.
-- at_limit: Job types that have reached their limit, so that none of their jobs may start now.
-- more: True if the worker should request jobs again immediately, because another lease has locked
--   a limit, or because the function has not read all tenants with ready jobs.
create function queue.share_slots(
  p_request queue.lease_request,
  p_now timestamptz,
  out lanes integer[],
  out limited text[],
  out shares queue.share[],
  out empty queue.share[],
  out is_only boolean,
  out is_limited boolean,
  out at_limit text[],
  out more boolean
)
language plpgsql
set search_path = ''
as $$
declare
  v_most constant integer := p_request."limit";
  v_asked constant record := queue.open_lanes(p_request.job_types, p_request.queues);
  v_types record;
  v_open integer[];
  v_has_limits boolean := false; -- true if a tenant has ready jobs of a limited type
  v_reads integer;
  v_first record;
  v_turns queue.turn[];
  v_one queue.turn;
  v_slots bigint;
  v_limited record;
  v_lacks_locks boolean := false;
  v_divided record;
  v_last queue.last_served;
  v_stopped text[]; -- job types that reached their limit
begin
  lanes := v_asked.lanes;
  limited := v_asked.limited;
  more := false;
  if v_most = 0 then
    return;
  end if;
  v_open := lanes;
  if limited <> '{}' then
    v_types := queue.lock_types(lanes, limited, p_now);
    v_open := v_types.open;
    v_has_limits := v_types.is_limited;
    at_limit := v_types.at_limit;
    more := v_types.is_busy;
  end if;
  -- A turn may be open although its tenant has no ready job. If none of the tenants that were read
  -- has a ready job, read more tenants.
  foreach v_reads in array array[
    v_most + v_most / 25 + 5,
    greatest(150, 2 * v_most)
  ] loop
    v_first := queue.next_turns(v_open, v_reads);
    v_turns := v_first.turns;
    v_one := v_turns[1];
    if v_one.lane is null then
      return;
    end if;
    is_limited := v_has_limits or v_first.is_limited;
    if v_first.is_empty then
      empty := array[row(v_one.lane, v_one.workspace_id, null, 0)::queue.share];
      return;
    end if;
    is_only := v_turns[2] is null and v_first.is_all and not is_limited;
    if is_only then -- one tenant gets all slots
      shares := array[
        row(v_one.lane, v_one.workspace_id, v_one.from_ord, v_most)::queue.share
      ];
      return;
    end if;
    if is_limited then
      v_limited := queue.limit_turns(v_turns, p_now);
      v_turns := v_limited.turns;
      more := more or v_limited.is_busy;
      v_lacks_locks := v_limited.known is not null;
      if v_lacks_locks then
        v_first.known := v_limited.known;
        v_first.is_all := false;
      end if;
    end if;
    v_divided := queue.divide_slots(
      v_turns,
      case when v_first.is_all then least(v_most, 4 + 4 * v_most / v_first.known) end,
      v_most
    );
    exit when v_first.is_all or v_divided.shares is not null or v_lacks_locks;
  end loop;
  shares := v_divided.shares;
  empty := v_divided.empty;
  v_slots := coalesce((select sum(s.jobs) from unnest(shares) as s), 0);
  more := more or (not v_first.is_all or v_divided.is_cut) and v_slots < v_most;
  -- store the tenant that was served last only if the lease has skipped a tenant
  if v_first.is_all
    and (v_first.known = 1 or not is_limited and v_slots < v_most)
  then
    -- only one tenant has ready jobs, or the lease took all jobs
    return;
  elsif v_slots < v_most and not v_first.is_all then
    -- The lease has free slots left, so no tenant that it has read can get more jobs now. Store the
    -- last tenant that the lease has read, so that the next lease begins after this tenant.
    select null, 0, t.round, t.rank, t.workspace_id
    into v_last
    from unnest(v_turns) as t
    order by t.round desc, t.rank desc, t.workspace_id desc
    limit 1;
    v_divided.lasts := array_append(
      array(select t from unnest(v_divided.lasts) as t where t.job_type is not null),
      v_last
    );
  end if;
  -- If a job type reached its limit, store for this type the tenant at which the limit was reached,
  -- because later tenants got no job of the type. For all other job types, store the tenant that
  -- was served last.
  v_stopped := array(
    select t.job_type
    from unnest(v_divided.lasts) as t
    where t.job_type is not null
  );
  foreach v_last in array coalesce(v_divided.lasts, '{}') loop
    perform queue.advance_ring(
      case
        when v_last.job_type is null then array(
          select l.lane
          from queue.lanes as l
          where l.lane = any (v_open) and l.job_type <> all (v_stopped)
        )
        else array(
          select l.lane
          from queue.lanes as l
          where l.job_type = v_last.job_type and l.lane = any (v_open)
        )
      end,
      v_last
    );
  end loop;
end;
$$;

-- Return the results of the steps that earlier attempts of a job finished, or null if the results
-- have more than 16,000 bytes.
create function queue.steps_of_lease(p_job_id uuid)
returns jsonb
language plpgsql stable
set search_path = ''
as $$
begin
  if not exists (select from queue.steps as s where s.job_id = p_job_id) then
    return '{}';
  end if;
  return (
    select p.results
    from queue.step_page(p_job_id, null, 16000) as p
    where p.next is null and p.bytes <= 16000
  );
end;
$$;

create function queue.merge_taken(p_one queue.taken, p_other queue.taken)
returns queue.taken
language plpgsql immutable
set search_path = ''
as $$
begin
  return row(
    p_one.ids || p_other.ids,
    p_one.leases || p_other.leases,
    p_one.changes || p_other.changes,
    p_one.rest || p_other.rest
  )::queue.taken;
end;
$$;

-- For each job that a lease has started, take one token of the rate limit of its job type.
create function queue.spend_starts(p_ids uuid[], p_now timestamptz)
returns void
language sql
set search_path = ''
as $$
select queue.take_tokens(
  'r:' || y.job_type,
  y.rate_limit,
  y.rate_per_seconds,
  n.jobs,
  p_now
)
from (
  select j.job_type, count(*) as jobs
  from public.jobs as j
  where j.id = any (p_ids)
  group by 1
) as n
join queue.job_types as y on y.job_type = n.job_type
where y.rate_limit is not null and not y.rate_per_key
$$;

-- Lease the first ready jobs of each tenant, job type and queue in p_shares. The update of
-- public.jobs finds a job's row by its ctid, which cannot change while this statement has locked
-- the row. If another transaction changed the row between the start of this statement and the lock,
-- the update does not find the row, and the job stays ready.
create function queue.take_jobs(
  p_shares queue.share[],
  p_request queue.lease_request,
  p_now timestamptz
)
returns queue.taken
language plpgsql
set search_path = ''
as $$
declare
  v_taken queue.taken;
begin
  with picked as materialized (
    select
      h.*,
      coalesce(p_request.lease_seconds, t.lease_seconds) as lease_seconds,
      t.timeout_seconds,
      t.rate_per_key,
      t.key_concurrency
    from unnest(p_shares) as s
    join queue.lanes as l on l.lane = s.lane
    join queue.job_types as t on t.job_type = l.job_type
    cross join lateral (
      select r.ctid as ready_tid, j.ctid as job_tid, j.id, r.ord, r.ready_at
      from queue.ready as r
      join public.jobs as j on j.id = any (array[r.job_id])
      where r.lane = s.lane
        and r.workspace_id = s.workspace_id
        and r.ord >= s.ord
        and j.status = 'pending'
        and (j.deadline_at is null or j.deadline_at > p_now)
        and (j.start_by_at is null or j.started_at is not null or j.start_by_at > p_now)
        and coalesce(r.job_id = any (p_request.job_ids), true)
        and r.job_id not in (
          select w.job_id
          from queue.withheld as w
          where p_request.job_ids is null or not w.is_suspect
        )
      order by r.ord
      limit s.jobs
      for no key update of r, j skip locked
    ) as h
    order by h.ord, h.id
  ),
  begun as materialized (
    update public.jobs as j
    set
      status = 'processing',
      attempts = j.attempts + 1,
      fence = j.fence + 1,
      worker = coalesce(nullif(j.worker, 0), p_request.worker),
      updated_at = p_now,
      next_retry_at = null,
      -- a job must not start before its creation, and created_at may be later than p_now
      started_at = coalesce(j.started_at, greatest(p_now, j.created_at)),
      queue_ms = coalesce(j.queue_ms, date_part('epoch', p_now - p.ready_at) * 1000),
      last_seq = j.last_seq + (j.is_minimal is null)::integer
    from picked as p
    where j.ctid = p.job_tid
    returning
      j.id,
      j.workspace_id,
      j.session_id,
      j.attempts,
      j.fence,
      j.lane,
      j.last_seq,
      j.is_minimal is null as is_full,
      j.unique_key is not null or p.rate_per_key as is_noted,
      p.ready_tid,
      p.ord,
      p.ready_at,
      p.lease_seconds,
      case
        when p.rate_per_key then coalesce(j.concurrency_key, '')
        when p.key_concurrency is not null then j.concurrency_key
      end as key,
      row_to_json(
        row(
          j.fence,
          p.lease_seconds,
          case
            when j.fence = 1 and j.replay_from is null then '{}'
            else queue.steps_of_lease(j.id)
          end,
          row(
            j.id, j.workspace_id, j.user_id, j.session_id, j.queue, j.job_type, j.payload,
            j.schema_version, j.priority, j.attempts, j.max_attempts, j.created_at,
            j.parent_id, j.traceparent, j.progress,
            coalesce(j.timeout_seconds, p.timeout_seconds), j.deadline_at
          )::queue.leased_job
        )::queue.leased
      ) as answer
  ),
  gone as (
    delete from queue.ready
    where ctid = any (array(select b.ready_tid from begun as b))
  ),
  held as (
    insert into queue.leases (
      job_id, fence, lane, workspace_id, ord, ready_at, leased_at, expires_at,
      lease_seconds, attempt, worker, tick_id, tick_call, key
    )
    select
      b.id,
      b.fence,
      b.lane,
      b.workspace_id,
      b.ord,
      b.ready_at,
      p_now,
      p_now + make_interval(secs => b.lease_seconds),
      b.lease_seconds,
      b.attempts,
      p_request.worker,
      p_request.tick_id,
      p_request.call,
      b.key
    from begun as b
  ),
  kinds as (
    select
      b.workspace_id,
      b.session_id,
      b.attempts,
      array_agg(b.id) as ids,
      array_agg(b.last_seq) as seqs
    from begun as b
    where b.is_full
    group by 1, 2, 3
  )
  select
    array_agg(b.id),
    array_agg(b.answer),
    (
      select array_agg(
        row(
          k.workspace_id,
          k.session_id,
          'job.leased',
          jsonb_build_object(
            'status', 'processing', 'attempts', k.attempts, 'worker_id', p_request.worker_id
          ),
          k.ids,
          k.seqs,
          p_now
        )::queue.change
      )
      from kinds as k
    ),
    array_agg(b.id) filter (where b.is_noted or b.is_full and b.last_seq <> 2)
  into v_taken
  from begun as b;
  return v_taken;
end;
$$;

-- Lease the jobs that queue.share_slots has chosen. If a trigger of the project raises an error for
-- one of the jobs, lease each half of the jobs separately, and repeat the division until the
-- rejected job is alone. Then insert a row for the rejected job into queue.refusals, so that the
-- next lease skips this job.
-- has_refused: True if a trigger rejected a job.
create function queue.take(
  p_shares queue.share[],
  p_request queue.lease_request,
  p_now timestamptz,
  out taken queue.taken,
  out has_refused boolean
)
language plpgsql
set search_path = ''
as $$
declare
  v_half integer;
  v_one queue.share;
  v_failure text;
  v_first record;
  v_second record;
begin
  has_refused := false;
  begin
    taken := queue.take_jobs(p_shares, p_request, p_now);
    return;
  exception when others then
    if queue.is_temporary(sqlstate) then
      raise;
    end if;
    v_failure := format('%s (%s)', sqlerrm, sqlstate);
  end;
  v_half := cardinality(p_shares) / 2;
  v_one := p_shares[1];
  if v_half > 0 then
    v_first := queue.take(p_shares[:v_half], p_request, p_now);
    v_second := queue.take(p_shares[v_half + 1:], p_request, p_now);
  elsif v_one.jobs > 1 then
    p_shares[1].jobs := v_one.jobs / 2;
    v_first := queue.take(p_shares, p_request, p_now);
    -- The second half of the jobs also begins at the position v_one.ord, because the jobs of the
    -- first half are no longer ready.
    p_shares[1].jobs := v_one.jobs - v_one.jobs / 2;
    v_second := queue.take(p_shares, p_request, p_now);
  else
    perform queue.record_rejection('lease', r.job_id, v_failure, p_now)
    from (
      select o.job_id
      from queue.ready as o
      join public.jobs as j on j.id = o.job_id
      where o.lane = v_one.lane
        and o.workspace_id = v_one.workspace_id
        and o.ord >= v_one.ord
        and j.status = 'pending'
        and (j.deadline_at is null or j.deadline_at > p_now)
        and (j.start_by_at is null or j.started_at is not null or j.start_by_at > p_now)
        and coalesce(o.job_id = any (p_request.job_ids), true)
        and o.job_id not in (
          select w.job_id
          from queue.withheld as w
          where p_request.job_ids is null or not w.is_suspect
        )
      order by o.ord
      limit 1
      for no key update of o, j skip locked
    ) as r;
    has_refused := found;
    return;
  end if;
  taken := queue.merge_taken(v_first.taken, v_second.taken);
  has_refused := v_first.has_refused or v_second.has_refused;
end;
$$;

-- Set a new epoch in all open turns, so that leases skip the dead index entries of closed turns. Do
-- nothing if more turns are open than were closed in the last epoch, or if another transaction has
-- locked the row of an open turn. The caller has the advisory lock "turns", so that no other
-- transaction can open turns at this time.
create function queue.begin_epoch()
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_epoch constant bigint := (
    select coalesce(max(e.epoch), 0)
    from queue.turn_epochs as e
  );
  v_closed constant bigint := pg_sequence_last_value('queue.turns_closed');
  v_open constant tid[] := array(
    select t.ctid
    from queue.turns as t
    where not t.blocked and t.epoch = v_epoch
    limit v_closed + 1
  );
  v_locked tid[];
begin
  if cardinality(v_open) > v_closed then
    return;
  end if;
  v_locked := array(
    select t.ctid
    from queue.turns as t
    where t.ctid = any (v_open)
    for no key update skip locked
  );
  if cardinality(v_locked) = cardinality(v_open) then
    insert into queue.turn_epochs values (v_epoch + 1);
    update queue.turns
    set epoch = v_epoch + 1
    where ctid = any (v_locked);
    perform setval('queue.turns_closed', 0);
  end if;
end;
$$;

-- In each turn that p_turns names, set from_ord to the position of the tenant's first ready job, or
-- of the last leased job if no job is ready. Close a turn if its tenant has no ready job and the
-- lease took none. Skip a turn if another transaction has the turn lock, because that transaction
-- may be adding a job. Skip the remaining turns if this transaction can take no more advisory
-- locks.
-- p_turns: For each tenant, job type and queue, the number of leased jobs, and the position of the
--   last leased job.
create function queue.tidy_turns(p_turns queue.share[], p_now timestamptz)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_locks constant integer := queue.reserve_locks(cardinality(p_turns), 190);
  v_free constant queue.share[] := array(
    select t
    from unnest(p_turns[:v_locks]) as t
    where pg_try_advisory_xact_lock(t.lane, uuid_hash(t.workspace_id))
  );
  v_closed bigint;
begin
  with tidied as (
    update queue.turns as u
    set
      from_ord = coalesce(o.head, o.last_ord, u.from_ord),
      blocked = u.blocked or o.closes,
      look_at = case when not o.closes then u.look_at end,
      changed_at = case when o.closes then p_now else u.changed_at end
    from unnest(v_free) as s
    cross join lateral (
      select
        t.ctid as found,
        s.ord as last_ord,
        (
          select r.ord
          from queue.ready as r
          where r.lane = t.lane
            and r.workspace_id = t.workspace_id
            and r.ord >= t.from_ord
          order by r.ord
          limit 1
        ) as head
      from queue.turns as t
      where t.lane = s.lane and t.workspace_id = s.workspace_id
      for no key update skip locked
    ) as l
    cross join lateral (select l.*, l.head is null and s.jobs = 0 as closes) as o
    where u.ctid = o.found
    returning o.closes
  )
  select count(*) into v_closed
  from tidied as t
  where t.closes;
  perform setval(
    'queue.turns_closed',
    v_closed + coalesce(pg_sequence_last_value('queue.turns_closed'), 0)
  )
  where v_closed > 0;
end;
$$;

-- Lease jobs for the free slots of one pool (a group of job types that share worker slots).
-- queue.share_slots decides how many slots each tenant gets, and queue.take leases as many of the
-- tenant's first jobs.
-- p_request: The worker's request, reduced to the job types and the limit of this pool.
-- unfilled: If the pool got no job, the lanes (job types in queues) of the pool whose job types are
--   not at a limit. Null if the pool got jobs or has no free slot.
create function queue.fill_pool(
  p_request queue.lease_request,
  p_now timestamptz,
  out taken queue.taken,
  out lanes integer[],
  out limited text[],
  out unfilled integer[],
  out more boolean,
  out leased_at timestamptz
)
language plpgsql
set search_path = ''
as $$
declare
  v_shared record := queue.share_slots(p_request, p_now);
  v_taken record;
  v_leased integer := 0;
  -- Number of jobs that the lease selected. If the lease has leased fewer jobs than it selected,
  -- another lease has taken the missing jobs.
  v_expected bigint;
  v_one queue.share;
begin
  lanes := v_shared.lanes;
  limited := v_shared.limited;
  more := v_shared.more;
  leased_at := p_now;
  if v_shared.shares is not null then
    -- read the clock again, so that no job starts before its creation
    leased_at := greatest(p_now, queue.clock());
    v_taken := queue.take(v_shared.shares, p_request, leased_at);
    taken := v_taken.taken;
    v_leased := coalesce(cardinality(taken.ids), 0);
    if v_leased = 0 and v_shared.is_only then
      v_one := v_shared.shares[1];
      if not exists (
        select from queue.ready as r
        where r.lane = v_one.lane
          and r.workspace_id = v_one.workspace_id
          and r.ord >= v_one.ord
      ) then
        v_shared.empty := v_shared.empty
          || row(v_one.lane, v_one.workspace_id, null, 0)::queue.share;
        v_shared.shares := null;
      end if;
    end if;
    if v_leased < p_request."limit" and v_shared.shares is not null then
      v_expected := case
        -- if only one tenant has ready jobs, it may have fewer jobs than the slots assigned to it
        when v_shared.shares[2] is null then 1
        else (select sum(s.jobs) from unnest(v_shared.shares) as s)
      end;
      more := more
        or v_taken.has_refused
        or v_leased < v_expected and not exists (select from queue.withheld);
    end if;
  end if;
  if v_leased = 0 and p_request."limit" > 0 then
    unfilled := lanes;
    if v_shared.at_limit <> '{}' then
      unfilled := array(
        select l.lane
        from queue.lanes as l
        where l.lane = any (lanes) and l.job_type <> all (v_shared.at_limit)
      );
    end if;
  end if;
  if v_leased > 0 and v_shared.is_limited then
    perform queue.spend_starts(taken.ids, leased_at);
  end if;
  -- A turn stays open for a while after the tenant's last ready job, so that the tenant's next
  -- enqueue need not insert a note. In three cases, tidy the turns that this lease has read: close
  -- those without ready jobs, and set from_ord of the others to their first ready job.
  -- - More than four open turns have no ready jobs. More turns without ready jobs would make each
  --   lease slower.
  -- - The lease took 20 jobs or more, but fewer than its limit. With a new from_ord, the next lease
  --   need not read the dead rows of the leased jobs.
  -- - The number of this request within the worker run is a multiple of 16.
  if cardinality(v_shared.empty) > 4
    or v_leased >= 20 and v_leased < p_request."limit"
    or p_request.call % 16 = 0
  then
    perform queue.tidy_turns(
      array(
        select row(j.lane, j.workspace_id, max(j.ord), count(*))::queue.share
        from public.jobs as j
        where j.id = any (taken.ids)
        group by j.lane, j.workspace_id
      ) || v_shared.empty,
      leased_at
    );
    perform queue.begin_epoch()
    where pg_sequence_last_value('queue.turns_closed') >= 5 and queue.try_lock('turns');
  end if;
end;
$$;

-- Store those effects of a lease that queue.take_jobs has not stored. Store events, free unique
-- keys, and store the start times of jobs in queue.gated for the rate limits of concurrency keys.
create function queue.record_starts(p_ids uuid[], p_worker_id text, p_now timestamptz)
returns void
language plpgsql
set search_path = ''
as $$
begin
  insert into queue.job_events (job_id, seq, workspace_id, type, data, created_at)
  select
    j.id,
    j.last_seq,
    j.workspace_id,
    'job.leased',
    jsonb_build_object(
      'status', 'processing',
      'attempts', j.attempts,
      'worker_id', p_worker_id
    ),
    p_now
  from public.jobs as j
  where j.id = any (p_ids) and j.is_minimal is null and j.last_seq <> 2;
  delete from queue.job_keys as u
  using public.jobs as j
  where j.id = any (p_ids)
    and u.workspace_id = j.workspace_id
    and u.job_type = j.job_type
    and u.key = j.unique_key
    and u.is_unique
    and u.job_id = j.id
    and u.freed_when = 'leased';
  update queue.gated as g
  set started_at = p_now
  from public.jobs as j
  where j.id = any (p_ids)
    and g.workspace_id = j.workspace_id
    and g.job_type = j.job_type
    and g.key = coalesce(j.concurrency_key, '')
    and g.job_id = j.id
    and g.admitted
    and not g.ended;
end;
$$;

-- Lease jobs for every pool (a group of job types that share slots) of a worker's request.
-- p_changes: Events of the jobs that the same call of public.settle_jobs has settled.
-- p_has_notes: True if notes or limited turns are due, so that the lease must first open turns or
--   admit waiting jobs of concurrency keys.
-- lanes: Lanes (job types in queues) that the worker requests and that are not paused.
-- limited: Requested job types that have a limit.
-- unfilled: Lanes (job types in queues) of those pools that got no job, except lanes of job types
--   at a limit.
-- more: True if the worker should request jobs again immediately.
-- is_short: True if one of the worker's pools got fewer jobs than the pool has free slots.
-- is_full: True if one of the worker's pools got a job for each free slot.
create function queue.lease_ready(
  p_request queue.lease_request,
  p_changes queue.change[],
  p_has_notes boolean,
  p_mode text,
  p_now timestamptz,
  out leases json,
  out leased integer,
  out lanes integer[],
  out limited text[],
  out unfilled integer[],
  out more boolean,
  out is_short boolean,
  out is_full boolean,
  out is_alone boolean
)
language plpgsql
set search_path = ''
as $$
declare
  v_at_once integer; -- maximum number of turns to open
  v_now timestamptz := p_now;
  v_pools queue.lease_request[];
  v_pool queue.lease_request;
  v_filled record;
  v_count integer;
  v_locks integer;
  v_taken queue.taken;
  v_noted queue.share[];
  v_first record;
  v_is_published boolean;
begin
  lanes := '{}';
  limited := '{}';
  more := false;
  is_short := p_request."limit" = 0;
  is_full := false;
  -- only one lease at a time reads queue.notes, and concurrent leases skip this step
  if p_has_notes and queue.try_lock('turns') then
    v_at_once := greatest(20, least(200, p_request."limit"));
    perform queue.open_gates(greatest(50, v_at_once), p_now)
    -- While another transaction is ending a pause, admit no jobs of concurrency keys. The
    -- transaction that ends the pause inserts a note for each key, so that the next lease admits
    -- the jobs.
    where queue.try_lock('pauses', p_is_shared => true);
    if p_mode is null and p_request.pools is null and not is_short then
      v_noted := queue.noted_shares(p_request, v_at_once);
    end if;
    if v_noted is not null then
      v_now := greatest(p_now, queue.clock());
      v_first := queue.take(v_noted, p_request, v_now);
      v_taken := v_first.taken;
      more := v_first.has_refused;
      v_count := coalesce(cardinality(v_taken.ids), 0);
      is_full := v_count > 0 and v_count = p_request."limit";
      p_request."limit" := p_request."limit" - v_count;
      v_locks := queue.reserve_locks(cardinality(v_noted), 190);
      v_noted := array(
        select n
        from unnest(v_noted[:v_locks]) as n
        where pg_try_advisory_xact_lock(n.lane, uuid_hash(n.workspace_id))
      );
    end if;
    perform queue.open_turns(v_at_once, p_now, v_noted);
  end if;
  if p_mode = 'suspects' then
    v_taken := queue.lease_suspects(p_request, p_now);
    if v_taken.ids is null then
      p_mode := case when p_request.suspects then 'nothing' else 'others' end;
    end if;
  end if;
  is_alone := coalesce(p_mode in ('suspects', 'nothing'), false);
  if is_alone then
    v_pools := '{}';
    is_short := true;
  elsif p_request.pools is null then
    v_pools := array[p_request];
  else
    v_pools := array(
      select jsonb_populate_record(p_request, to_jsonb(p))
      from jsonb_to_recordset(p_request.pools) as p (job_types text[], "limit" integer)
    );
  end if;
  foreach v_pool in array v_pools loop
    v_filled := queue.fill_pool(v_pool, v_now);
    v_taken := case
      when v_taken is null then v_filled.taken
      else queue.merge_taken(v_taken, v_filled.taken)
    end;
    lanes := lanes || v_filled.lanes;
    limited := limited || v_filled.limited;
    unfilled := unfilled || v_filled.unfilled;
    more := more or v_filled.more;
    v_now := v_filled.leased_at;
    v_count := coalesce(cardinality((v_filled.taken).ids), 0);
    is_short := is_short or v_count < v_pool."limit";
    is_full := is_full or v_count > 0 and v_count >= v_pool."limit";
  end loop;
  leased := coalesce(cardinality(v_taken.ids), 0);
  leases := array_to_json(coalesce(v_taken.leases, '{}'));
  if v_taken.rest is not null then
    perform queue.record_starts(v_taken.rest, p_request.worker_id, v_now);
  end if;
  v_is_published := queue.publish(p_changes || v_taken.changes, v_now);
end;
$$;

-- Return the number of milliseconds after which a worker with free slots should request jobs again,
-- or null if the worker should wait for a notification. The function reads queue.notes and the open
-- turns in one statement. With two statements, another lease could delete a note and open the turn
-- between the statements, so that neither statement would find the ready job.
-- p_limited: Requested job types that have a limit.
-- p_unfilled: Lanes (job types in queues) of the worker's pools that got no job. For a pool that
--   got jobs, the worker requests jobs again anyway.
-- p_more: True to return 0, because the worker should request jobs again immediately.
create function queue.next_due_in_ms(
  p_lanes integer[],
  p_limited text[],
  p_unfilled integer[],
  p_more boolean,
  p_now timestamptz
)
returns bigint
language plpgsql stable
set search_path = ''
as $$
declare
  v_next timestamptz;
begin
  if p_more then
    return 0;
  end if;
  v_next := least(
    (select min(run_at) from queue.deferred),
    (select min(timeout_at) from queue.waits),
    case
      when exists (select from queue.turn_notes)
        or exists (
          select from queue.unblocked_turns as t
          where t.lane = any (p_unfilled)
            and exists (
              select from queue.ready as r
              where r.lane = t.lane
                and r.workspace_id = t.workspace_id
                and r.ord >= t.from_ord
                and r.job_id not in (select w.job_id from queue.withheld as w)
            )
        )
        then p_now
    end,
    (
      select look_at
      from queue.notes
      where key is not null
      order by look_at, id -- reads the index in which dead entries are adjacent
      limit 1
    ),
    (
      select nullif(min(t.look_at), 'infinity')
      from queue.turns as t
      where t.blocked
    ),
    (
      select min(
        case
          when s.failures = 0 then s.look_at
          else greatest(s.look_at, p_now + interval '1 second')
        end
      -- after a failed try, maintenance processes a signal again at most once per second
      )
      from queue.signals as s
    )
  );
  if p_limited <> '{}' then
    -- add the earliest time at which a job of a type that has used up its rate limit may start
    v_next := least(
      v_next,
      (
        select min(
          p_now + make_interval(secs => greatest(
            0,
            (1 - b.tokens) * y.rate_per_seconds / y.rate_limit
          ))
        )
        from queue.job_types as y
        cross join lateral (
          select queue.tokens_of(
            'r:' || y.job_type,
            y.rate_limit,
            y.rate_per_seconds,
            p_now
          ) as tokens
        ) as b
        where y.job_type = any (p_limited)
          and y.rate_limit is not null
          and not y.rate_per_key
          and b.tokens < 1
          and exists (
            select from queue.lanes as l
            join queue.unblocked_turns as t on t.lane = l.lane
            where l.job_type = y.job_type and l.lane = any (p_lanes)
          )
      )
    );
  end if;
  -- Test v_next for null first, because greatest() ignores nulls. Use greatest(), because v_next
  -- may be -infinity, and Postgres before 17 cannot subtract from -infinity.
  return case
    when v_next is not null
      then ceil(extract(epoch from greatest(v_next, p_now) - p_now) * 1000)
  end;
end;
$$;

-- Lease jobs for public.lease_jobs and public.settle_jobs. If a worker repeats a request, the
-- second request waits until the first request has finished. The second request waits for an
-- advisory lock, because a row lock would be a write, and a request that finds no jobs must write
-- nothing. The second request gets the leases of the first request. If the first request leased no
-- job and was not the first of its run, it stored nothing, and the second request leases jobs.
-- p_changes: Events of the jobs that the same call of public.settle_jobs has settled. queue.lease
--   must publish the events of the settled jobs.
create function queue.lease(p_request jsonb, p_changes queue.change[] default null)
returns json
language plpgsql
set search_path = ''
as $$
declare
  v_asked queue.lease_request := queue.read_lease_request(p_request);
  v_is_next constant boolean := queue.try_lock('tick ' || v_asked.tick_id, p_waits => true);
  v_now constant timestamptz := queue.clock();
  v_ms constant bigint := (date_part('epoch', v_now) * 1000)::bigint;
  v_ignored bigint;
  v_next_ms bigint;
  -- stored state of the worker run and its worker, and whether notes or limited turns are due
  v_tick record;
  v_noted record;
  v_run jsonb; -- field run of the response, if this call starts or ends the run
  v_given record;
  v_due bigint;
  v_maintenance boolean := false;
  v_ends boolean;
  v_is_alive boolean; -- false if public.tick_finished is recording the end of the worker's process
  v_listens constant boolean := p_request -> 'listens' = 'true'
    and to_regclass('realtime.messages') is not null;
begin
  -- If the worker's process ends during this lease, public.tick_finished waits for this advisory
  -- lock, and then also reclaims the jobs of this lease.
  v_is_alive := queue.try_lock('process ' || v_asked.worker_id, p_is_shared => true);
  select
    t.last_call,
    t.seen_at > v_now - interval '10 seconds' as is_active,
    t.expires_at,
    w.worker,
    w.evidence is not null as is_ended, -- the host has reported the end of the process
    w.seen_at > v_now - interval '1 minute'
      and w.seen_at <= v_now
      and w.ended_at is null as is_seen,
    (w.queues, w.version, w.slots, w.abandoned) is distinct from (
      v_asked.queues,
      v_asked.version,
      coalesce(v_asked.slots, w.slots),
      coalesce(v_asked.abandoned, w.abandoned)
    )
      or w.job_types is distinct from v_asked.job_types
      -- a request omits the job types for which its worker has no free slot
      and (w.version = v_asked.version and w.job_types @> v_asked.job_types) is not true
      as is_changed,
    exists (
      select from queue.turn_notes
      union all
      (
        select from queue.notes
        where key is not null and look_at <= v_now
        order by look_at, id -- reads the index in which dead entries are adjacent
        limit 1
      )
      union all
      select from queue.turns
      where blocked and look_at <= v_now
    ) as has_notes,
    exists (select from queue.suspects) as has_suspects
  into v_tick
  from (select) as o
  left join queue.ticks as t on t.tick_id = v_asked.tick_id
  left join queue.workers as w on w.worker_id = v_asked.worker_id;
  -- the worker repeats a request, whose response may have been lost, so return the same leases
  -- again
  if v_asked.call <= v_tick.last_call then
    perform queue.publish(p_changes, v_now);
    return json_build_object(
      -- The worker repeats a request, so return the active leases that the request created.
      -- tests/sql/test_leases.py compares their JSON with the result of queue.take_jobs.
      'leases', (
        select coalesce(
          json_agg(
            row(
              l.fence,
              l.lease_seconds,
              queue.steps_of_lease(j.id),
              jsonb_populate_record(
                null::queue.leased_job,
                to_jsonb(j) || jsonb_build_object(
                  'timeout_seconds', coalesce(j.timeout_seconds, t.timeout_seconds)
                )
              )
            )::queue.leased
            order by l.ord, l.job_id
          ),
          '[]'
        )
        from queue.leases as l
        join public.jobs as j on j.id = any (array[l.job_id])
        join queue.job_types as t on t.job_type = j.job_type
        where l.tick_id = v_asked.tick_id and l.tick_call = v_asked.call
      ),
      'next_due_in_ms', 0,
      'now', v_now
    );
  elsif not v_is_alive or v_tick.is_ended then
    perform queue.publish(p_changes, v_now);
    return json_build_object('leases', '[]'::json);
  elsif v_asked.most is not null and (v_tick.expires_at > v_now) is not true then
    v_run := jsonb_build_object('free', queue.admit_run(v_asked, v_now));
    if v_run ->> 'free' is null then
      perform queue.publish(p_changes, v_now);
      return json_build_object('leases', '[]'::json, 'run', v_run);
    end if;
  end if;
  v_asked.worker := v_tick.worker;
  -- update the worker's row once a minute and after changes
  if v_tick.is_changed or v_tick.is_seen is not true then
    v_noted := queue.record_worker(v_asked, v_tick.is_changed, v_now);
    v_asked.worker := v_noted.worker;
    v_tick.has_notes := v_tick.has_notes or v_noted.has_noted;
  end if;
  -- reset the time at which an enqueue last called a worker, because a worker has now requested
  -- jobs
  if pg_sequence_last_value('queue.wanted_ms') > 0 then
    v_ignored := setval('queue.wanted_ms', 0);
  end if;
  v_given := queue.lease_ready(
    v_asked,
    p_changes,
    v_tick.has_notes,
    case when v_tick.has_suspects then queue.lease_mode(v_asked, v_now) end,
    v_now
  );
  -- Store the number of this request, so that queue.lease recognizes a repeated request. A later
  -- request of the worker run must write nothing if it leased no jobs.
  if v_tick.last_call is null or v_given.leased > 0 then
    update queue.ticks
    set seen_at = v_now, worker = v_asked.worker, last_call = v_asked.call
    where tick_id = v_asked.tick_id;
    if not found then
      insert into queue.ticks (tick_id, seen_at, worker, last_call)
      values (v_asked.tick_id, v_now, v_asked.worker, v_asked.call);
    end if;
  end if;
  if v_listens
    and v_ms - pg_sequence_last_value('queue.listened_ms') between 0 and 30000 is not true
  then
    v_ignored := setval('queue.listened_ms', v_ms);
  end if;
  if v_asked.free_slots < 0 then
    v_ignored := queue.withdraw_run(v_now);
  elsif coalesce(v_asked.free_slots, v_asked."limit" - v_given.leased) > 0
    -- a process that runs only suspects has no slot for other jobs
    and not v_given.is_alone
    and v_ms - pg_sequence_last_value('queue.slots_ms') between 0 and 499 is not true
  then
    v_ignored := setval('queue.slots_ms', v_ms);
  end if;
  if v_given.is_short then
    v_next_ms := queue.next_due_in_ms(
      v_given.lanes,
      v_given.limited,
      v_given.unfilled,
      v_given.more,
      v_now
    );
    -- other workers lease the ordinary jobs, so this worker requests jobs only once per second
    if v_given.is_alone then
      v_next_ms := greatest(v_next_ms, 1000);
    end if;
    v_maintenance := queue.maintenance_is_due(
      v_now,
      -- true if the run has recently leased jobs
      v_given.leased > 0 or v_tick.last_call > 1 and v_tick.is_active,
      v_next_ms <= 1000 is true
    );
  end if;
  v_ends := v_asked.ends is not null
    and v_given.leased = 0
    and (not v_maintenance or v_asked.ends ? 'maintained')
    and (v_next_ms <= (v_asked.ends -> 'stay_ms')::double precision) is not true;
  if v_asked.count_due or v_asked.call = 1 or v_ends then
    -- count ready jobs of all job types and queues that the worker serves, but at most 1,000
    if v_asked.pools is not null or v_given.is_alone then
      v_given.lanes := (queue.open_lanes(v_asked.job_types, v_asked.queues)).lanes;
    end if;
    v_due := (
      select count(*)
      from (
        select from queue.ready as r
        where r.lane = any (v_given.lanes)
        limit 1000
      ) as r
    );
  end if;
  if v_ends then
    v_run := public.tick_finished(
      v_asked.ends
      || jsonb_build_object(
        'tick_id', v_asked.tick_id,
        'summary',
        v_asked.ends -> 'summary'
        || jsonb_build_object(
          'due_left', v_due,
          'next_due_in_ms', v_next_ms
        )
      )
    );
  end if;
  return json_build_object(
    'leases', v_given.leases,
    'maintenance', v_maintenance,
    'run', v_run,
    'due', coalesce(v_due, v_given.is_full::integer),
    'next_due_in_ms', v_next_ms,
    'alone', v_given.is_alone,
    'wake_topic', case when v_listens then queue.wake_topic() end,
    'suspects', case
      when v_tick.has_suspects then (
        -- groups of suspects that the worker may run
        select count(distinct s.company)
        from queue.ready_suspects(v_asked.job_types) as s
        where s.lane = any ((queue.open_lanes(v_asked.job_types, v_asked.queues)).lanes)
      )
    end,
    'now', v_now
  );
end;
$$;

create function public.lease_jobs(p_request jsonb)
returns json
language plpgsql
security definer
set search_path = ''
set lock_timeout = '8s'
set plan_cache_mode = 'force_generic_plan'
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
set enable_sort = off
set jit = off
as $$
declare
  v_is_revoked constant boolean := queue.refuse_revoked();
  v_result json;
  v_is_sent boolean;
begin
  v_result := queue.lease(p_request);
  v_is_sent := queue.send_unsent();
  return v_result;
end;
$$;
comment on function public.lease_jobs is
  E'Lease up to limit jobs: {leases, maintenance, due, next_due_in_ms, now, run?, alone?}.\n\n'
  'Request: {worker_id, tick_id, call, limit 0..1000, job_types, pools: [{job_types, limit}], '
  'queues, lease_seconds, version, free_slots, slots, abandoned, count_due, most, run_seconds, '
  'listens, ends: {stay_ms, maintained?, summary?}}. A lease counts as an '
  'attempt, unless its outcome gives it back. A repeated (tick_id, call) that got leases returns '
  'the same leases again.';
select queue.allow('job_worker, service_role', 'public.lease_jobs');
