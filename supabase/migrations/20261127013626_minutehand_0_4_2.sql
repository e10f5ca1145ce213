-- 0.4.2 after the release before it; written by `python -m infra.release` from schemas.
-- Do not edit it, and do not read it: read the schemas.

-- The release whose text this is, as minutehand.version says. Doctor compares with its record.
create or replace function queue.version()
returns text
language sql immutable
set search_path = ''
as $$
select '0.4.2'
$$;

revoke execute on function queue.version from public;

-- Enqueue a simple job, which is ready at once: the service's, without options, of a published type
-- without a schema or gate, its payload too small to need a check. Record, place and note are one
-- statement. Gives the call's answer; null for any other job, which queue.add makes.
create or replace function queue.enqueue_simple(
  p_workspace_id uuid,
  p_job_type text,
  p_payload jsonb,
  p_now timestamptz
)
returns json
language plpgsql
set search_path = ''
as $$
declare
  v_claims constant jsonb := nullif(current_setting('request.jwt.claims', true), '');
  v_ord constant bigint := queue.ord_of(100, p_now);
  v_type record;
  v_is_held boolean;
  v_made record;
  v_is_sent boolean;
begin
  if jsonb_typeof(p_payload) <> 'object'
    or pg_column_size(p_payload) > 200
    or octet_length(p_payload::text) > 309
    or v_claims is not null
      and (
        v_claims ->> 'sub' is not null
        or v_claims ->> 'role' in ('service_role', 'job_worker') is not true
      )
  then
    return null;
  end if;
  select t.lane, t.queue, t.max_attempts, t.schema_version, t.is_minimal
  into v_type
  from queue.job_types as t
  where t.job_type = p_job_type
    and t.schema_version > 0
    and t.payload_schema is null
    and not t.rate_per_key
    and exists (select from queue.tenants as w where w.id = p_workspace_id);
  if not found then
    return null;
  end if;
  v_is_held := queue.hold_turn(v_type.lane, p_workspace_id);
  with made as (
    insert into public.jobs as j (
      id, workspace_id, lane, max_attempts, last_seq, is_minimal, schema_version, queue,
      job_type, payload, traceparent, ord, created_at, updated_at
    )
    values (
      queue.new_id(),
      p_workspace_id,
      v_type.lane,
      v_type.max_attempts,
      (not v_type.is_minimal)::integer,
      nullif(v_type.is_minimal, false),
      v_type.schema_version,
      v_type.queue,
      p_job_type,
      p_payload,
      substring( -- as in queue.new_job
        nullif(current_setting('request.headers', true), '')::json ->> 'x-minutehand-trace'
        from '^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$'
      ),
      v_ord,
      p_now,
      p_now
    )
    returning
      j.id,
      j.lane,
      j.workspace_id,
      j.ord,
      json_build_object( -- as queue.row_json, which would read the row again
        'id', j.id, 'workspace_id', j.workspace_id, 'user_id', j.user_id,
        'session_id', j.session_id, 'queue', j.queue, 'job_type', j.job_type,
        'status', j.status, 'priority', j.priority, 'payload', j.payload, 'result', j.result,
        'error_message', j.error_message, 'error_data', j.error_data, 'attempts', j.attempts,
        'max_attempts', j.max_attempts, 'fence', j.fence, 'generation', j.generation,
        'lost_attempts', j.lost_attempts, 'last_seq', j.last_seq,
        'schema_version', j.schema_version, 'timeout_seconds', j.timeout_seconds,
        'cost_usd', j.cost_usd, 'created_at', j.created_at, 'updated_at', j.updated_at,
        'started_at', j.started_at, 'finished_at', j.finished_at,
        'completed_at', j.completed_at, 'next_retry_at', j.next_retry_at,
        'scheduled_for', j.scheduled_for, 'deadline_at', j.deadline_at,
        'start_by_seconds', j.start_by_seconds, 'start_by_at', j.start_by_at,
        'cancel_requested_at', j.cancel_requested_at, 'concurrency_key', j.concurrency_key,
        'idempotency_key', j.idempotency_key, 'unique_key', j.unique_key,
        'parent_id', j.parent_id, 'replay_of', j.replay_of, 'replay_from', j.replay_from,
        'traceparent', j.traceparent,
        'tags', coalesce(j.tags, '{}'),
        'progress', '{"percentage": 0, "stage": null, "message": null}'::json,
        'state', 'queued', 'next_run_at', j.created_at, 'error', null, 'waiting_for', null,
        'running_since', null, 'worker_id', null,
        'times', '{"queue_ms": 0, "run_ms": 0, "runs": 0}'::json
      ) as answer
  ),
  placed as (
    insert into queue.ready (lane, workspace_id, ord, ready_at, job_id)
    select m.lane, m.workspace_id, m.ord, p_now, m.id
    from made as m
  ),
  noted as ( -- as queue.note_turn
    insert into queue.notes (lane, workspace_id, ord)
    select v_type.lane, p_workspace_id, v_ord
    where not v_is_held
      or not exists (
        select from queue.turns as t
        where t.lane = v_type.lane
          and t.workspace_id = p_workspace_id
          and t.from_ord <= v_ord
          and not (t.blocked and t.look_at is null)
        union all
        select from queue.notes as n
        where n.workspace_id = p_workspace_id
          and n.lane = v_type.lane
          and n.key is null
          and n.ord <= v_ord
      )
  )
  select m.id, m.answer into v_made
  from made as m;
  v_is_sent := queue.publish(
    array[
      row(
        p_workspace_id,
        null,
        'job.created',
        jsonb_build_object(
          'status', 'pending',
          'attempts', 0,
          'job_type', p_job_type
        ),
        array[v_made.id],
        case when not v_type.is_minimal then '{1}'::integer[] end
      )::queue.change
    ],
    p_now
  );
  return json_build_object(
    'job', v_made.answer,
    'created', true,
    'wake', queue.wake_worker(p_now)
  );
end;
$$;

revoke execute on function queue.enqueue_simple from public;

create or replace function public.enqueue_job(
  p_workspace_id uuid,
  p_job_type text,
  p_payload jsonb default '{}',
  p_options jsonb default '{}'
)
returns json -- not jsonb, which sorts the names of each object
language plpgsql
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_payload constant jsonb := coalesce(p_payload, '{}');
  v_options constant jsonb := coalesce(p_options, '{}');
  v_answer json;
  v_user uuid;
  v_made record;
  v_job public.jobs;
  v_is_ready boolean;
begin
  if v_options = '{}' then
    v_answer := queue.enqueue_simple(p_workspace_id, p_job_type, v_payload, v_now);
    if v_answer is not null then
      return v_answer;
    end if;
  end if;
  v_user := queue.may_read(p_workspace_id);
  v_made := queue.add(
    p_workspace_id,
    v_user,
    queue.type_or_refuse(p_job_type, '', p_workspace_id),
    v_payload,
    v_options,
    v_now
  );
  v_job := v_made.job;
  if not v_made.created then
    return json_build_object(
      'job', queue.job_json(v_job),
      'created', false,
      'wake', false
    );
  end if;
  v_is_ready := queue.publish(
    array[
      row(
        p_workspace_id,
        v_job.session_id,
        'job.created',
        jsonb_build_object(
          'status', 'pending',
          'attempts', 0,
          'job_type', p_job_type
        ),
        array[v_job.id],
        case when v_job.is_minimal is null then '{1}'::integer[] end
      )::queue.change
    ],
    v_now,
    coalesce(v_job.scheduled_for, v_now) < v_now + interval '1 minute'
  ) and v_made.is_ready;
  if v_user is not null then
    perform queue.admit(
      'jobs',
      p_workspace_id,
      v_user,
      p_bytes => octet_length(v_job.payload::text)
    );
  end if;
  return json_build_object(
    'job', queue.row_json(v_job, v_now),
    'created', true,
    'wake', v_is_ready and queue.wake_worker(v_now)
  );
end;
$$;

comment on function public.enqueue_job is
  E'Enqueue one job: {job, created, wake}.\n\nIt exists if and only if the transaction commits. '
  'Options: queue, priority, scheduled_for or delay_seconds, max_attempts, timeout_seconds, '
  'idempotency_key, concurrency_key, unique, debounce_seconds, session_id, parent_id, tags, '
  'deadline_at, start_by_seconds, schema_version, traceparent.';

select queue.allow('authenticated, service_role', 'public.enqueue_job');

-- Whether the caller should start a worker. Not where in the last two seconds one with free slots
-- has asked for jobs, or a caller was asked to start one, unless pg_cron calls, once a minute
-- (p_is_due). Where connect_worker has named a worker, pg_net calls that: without AWS this is the
-- schedule, on AWS a hint beside the API and the schedule of each minute.
create or replace function queue.wake_worker(
  p_now timestamptz default queue.clock(),
  p_is_due boolean default false
)
returns boolean
language plpgsql
set search_path = ''
as $$
declare
  v_ms bigint := (date_part('epoch', p_now) * 1000)::bigint;
  v_since constant bigint := v_ms - greatest(
    pg_sequence_last_value('queue.wanted_ms'),
    pg_sequence_last_value('queue.slots_ms'),
    0
  );
  v_url text;
begin
  if v_since between 0 and 1999 and not p_is_due then
    return false;
  end if;
  -- an assignment is cheaper than a query
  v_ms := setval('queue.wanted_ms', greatest(0, v_ms));
  v_url := queue.setting('worker_url') #>> '{}';
  if v_url is null then
    return true;
  end if;
  begin
    execute $do$select net.http_post(url := $1, body := '{}'::jsonb, params := '{}'::jsonb,
        headers := jsonb_build_object('Authorization', 'Bearer ' || s.decrypted_secret,
          'Content-Type', 'application/json'), timeout_milliseconds := 2000)
      from vault.decrypted_secrets as s where s.name = 'minutehand_worker_token'$do$ using v_url;
  exception when others then -- a hint that fails must not fail the enqueue
    raise warning 'the worker could not be called: % (%)', sqlerrm, sqlstate;
  end;
  return true;
end;
$$;

revoke execute on function queue.wake_worker from public;

-- The lanes of these types and queues (null for all) that are not paused, and which of the types
-- have a limit that a lease counts.
create or replace function queue.open_lanes(
  p_job_types text[],
  p_queues text[] default null,
  out lanes integer[],
  out limited text[]
)
language plpgsql stable
set search_path = ''
as $$
begin
  select
    coalesce(array_agg(l.lane), '{}'),
    array(
      select t.job_type
      from queue.job_types as t
      where (
        t.max_concurrency is not null
        or t.workspace_concurrency is not null
        or t.rate_limit is not null and not t.rate_per_key
      )
        and (p_job_types is null or t.job_type = any (p_job_types))
    )
  into lanes, limited
  from queue.lanes as l
  where (p_job_types is null or l.job_type = any (p_job_types))
    and (p_queues is null or l.queue = any (p_queues))
    and l.job_type <> all (array(
      select p.name
      from queue.pauses as p
      where p.kind = 'job_type'
    ))
    and l.queue <> all (array(
      select p.name
      from queue.pauses as p
      where p.kind = 'queue'
    ));
end;
$$;

revoke execute on function queue.open_lanes from public;

-- Charge a person's bucket, or refuse with 429. While another call of theirs charges it, until its
-- transaction ends, a small one is noted in one of twenty places beside it, which the next charge
-- empties: none waits for another, and none is free. A pool of ten connections fills half of them
-- while the other half is emptied.
create or replace function queue.charge(
  p_bucket text,
  p_most integer,
  p_seconds double precision,
  p_cost double precision,
  p_limit text
)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_places constant text[] := array(
    select p_bucket || '+' || n
    from generate_series(1, 20) as n
  );
  v_noted double precision;
  v_place text;
begin
  if queue.charges_alone(p_bucket, p_cost) then
    with emptied as (
      delete from queue.buckets as b
      where b.name = any (v_places) and queue.try_lock('bucket ' || b.name)
      returning b.tokens
    )
    select sum(e.tokens) into v_noted
    from emptied as e;
    perform queue.spend(
      p_bucket,
      p_most,
      p_seconds,
      p_cost + least(coalesce(v_noted, 0), p_most - p_cost), -- so a full bucket pays it all
      v_now,
      p_limit
    );
    return;
  end if;
  v_noted := queue.tokens_of(p_bucket, p_most, p_seconds, v_now) - p_cost - coalesce(
    (
      select sum(b.tokens)
      from queue.buckets as b
      where b.name = any (v_places)
    ),
    0
  );
  if v_noted < 0 then
    perform queue.refuse_rate(p_limit, p_most, p_seconds, v_noted);
  end if;
  select p.name into v_place
  from unnest(v_places) as p (name)
  where queue.try_lock('bucket ' || p.name)
  limit 1;
  if v_place is null then
    perform queue.charges_alone(p_bucket, 'infinity');
  end if;
  insert into queue.buckets as b (name, tokens, refilled_at)
  values (v_place, p_cost, v_now)
  on conflict (name) do update set
    tokens = b.tokens + excluded.tokens,
    refilled_at = excluded.refilled_at;
end;
$$;

revoke execute on function queue.charge from public;

-- Refuse with 429 what a person has made beyond their limits; called last. p_kind: jobs; changes,
-- for all other writes; streams. Jobs and changes count as p_count enqueues, and one more for each
-- 16 kB that they store, since bytes are what fills a disk. Payloads of less than 2 kB are bounded
-- by the number of live jobs.
create or replace function queue.admit(
  p_kind text,
  p_workspace_id uuid,
  p_user_id uuid,
  p_count double precision default 1,
  p_bytes bigint default 0
)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_limit constant text := case p_kind
    when 'streams' then 'stream_opens'
    else 'enqueues'
  end;
  v_bucket constant text := format('u:%s/%s', p_user_id, v_limit);
  v_burst integer;
begin
  if p_user_id is null then
    return;
  end if;
  if p_kind = 'jobs' then
    perform queue.check_live_jobs(p_workspace_id, p_is_exact => true);
    if p_bytes > 2048 * p_count then
      perform queue.check_live_bytes(p_workspace_id);
    end if;
  end if;
  v_burst := queue.setting('user_' || v_limit || '_burst');
  perform queue.charge(
    v_bucket,
    v_burst,
    v_burst / queue.setting('user_' || v_limit || '_per_second')::double precision,
    p_count + coalesce(p_bytes, 0) / 16384,
    v_limit
  );
end;
$$;

revoke execute on function queue.admit from public;

drop function queue.first_turns(p_lanes integer[], p_most integer, OUT turns queue.turn[], OUT known integer, OUT is_all boolean, OUT is_limited boolean);

-- The turns in these lanes of the tenants that come next, at most p_most tenants. known: how many
-- tenants; is_all: there are no more; is_limited: one has a limit of its own, a weight or a pause;
-- is_empty: there is one turn in all, without a job. They are read along the ring that these lanes
-- share. Where the lanes are in several rings, or too few turns of theirs were found along it,
-- since most there are of other lanes, some of each lane are read instead. From the first place on
-- where a reading was cut, none count: one that was not read could come before them.
create or replace function queue.first_turns(
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
  v_is_along boolean;
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
  from (select * from queue.turns where not blocked limit 2) as o;
  if turns[2] is null then -- no more than one, as where one tenant's jobs are of one type
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
  foreach v_is_along in array case
    when v_rings[2] is null then array[true, false]
    else array[false]
  end loop
    with read as materialized (
      select a.*
      from queue.along_the_ring(v_rings[1], 2 * p_most + 20) as a
      where v_is_along
      union all
      select e.*
      from queue.lane_by_lane(
        p_lanes,
        least(p_most, 2 + 20 * p_most / greatest(1, cardinality(p_lanes)))
      ) as e
      where not v_is_along
    ),
    cut as materialized ( -- from here on some turns may not have been read
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

revoke execute on function queue.first_turns from public;

drop function queue.share_slots(p_request queue.lease_request, p_now timestamp with time zone, OUT lanes integer[], OUT shares queue.share[], OUT empty queue.share[], OUT is_only boolean, OUT is_limited boolean, OUT more boolean);

-- Which turns get how many of the slots, and which are empty; is_only: there is one turn, which may
-- be empty too. more: ask again at once, since another lease holds a lock or there are more turns
-- than were read; null where no turn was found. The ring moves on, unless all turns were read and
-- either one tenant has them all or, without limits, slots are left: no one was then passed over.
create or replace function queue.share_slots(
  p_request queue.lease_request,
  p_now timestamptz,
  out lanes integer[],
  out limited text[],
  out shares queue.share[],
  out empty queue.share[],
  out is_only boolean,
  out is_limited boolean,
  out more boolean
)
language plpgsql
set search_path = ''
as $$
declare
  v_most constant integer := p_request."limit";
  v_asked constant record := queue.open_lanes(p_request.job_types, p_request.queues);
  v_types record;
  v_reads integer;
  v_first record;
  v_turns queue.turn[];
  v_one queue.turn;
  v_slots bigint;
  v_limited record;
  v_divided record;
  v_last queue.last_served;
  v_full text[]; -- types that have no more slots
begin
  lanes := v_asked.lanes;
  limited := v_asked.limited;
  more := case when v_most = 0 then false end;
  if v_most = 0 then
    return;
  end if;
  v_types := queue.lock_types(lanes, limited, p_now);
  -- some turns may be empty: where all are, more are read
  foreach v_reads in array array[
    v_most + v_most / 25 + 5,
    greatest(150, 2 * v_most)
  ] loop
    v_first := queue.first_turns(v_types.open, v_reads);
    v_turns := v_first.turns;
    v_one := v_turns[1];
    more := case
      when v_types.open <> lanes or v_one.lane is not null then v_types.is_busy
    end;
    if v_one.lane is null then
      return;
    end if;
    is_limited := v_types.is_limited or v_first.is_limited;
    if v_first.is_empty then
      empty := array[row(v_one.lane, v_one.workspace_id, null, 0)::queue.share];
      return;
    end if;
    is_only := v_turns[2] is null and v_first.is_all and not is_limited;
    if is_only then -- nothing to divide
      shares := array[
        row(v_one.lane, v_one.workspace_id, v_one.from_ord, v_most)::queue.share
      ];
      return;
    end if;
    if is_limited then
      v_limited := queue.limit_turns(v_turns, p_now);
      v_turns := v_limited.turns;
      more := more or v_limited.is_busy;
    end if;
    v_divided := queue.divide_slots(
      v_turns,
      case when v_first.is_all then least(v_most, 4 + 4 * v_most / v_first.known) end,
      v_most
    );
    exit when v_first.is_all or v_divided.shares is not null;
  end loop;
  shares := v_divided.shares;
  empty := v_divided.empty;
  v_slots := coalesce((select sum(s.jobs) from unnest(shares) as s), 0);
  more := more or (not v_first.is_all or v_divided.is_cut) and v_slots < v_most;
  -- where no one follows, the order may stay
  if v_first.is_all
    and (v_first.known = 1 or not is_limited and v_slots < v_most)
  then
    return;
  end if;
  if v_slots < v_most and not v_first.is_all then -- all that were read have had their round
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
  v_full := array(
    select t.job_type
    from unnest(v_divided.lasts) as t
    where t.job_type is not null
  );
  foreach v_last in array coalesce(v_divided.lasts, '{}') loop
    perform queue.move_on(
      case
        when v_last.job_type is null then array(
          select l.lane
          from queue.lanes as l
          where l.lane = any (v_types.open) and l.job_type <> all (v_full)
        )
        else array(
          select l.lane
          from queue.lanes as l
          where l.job_type = v_last.job_type and l.lane = any (v_types.open)
        )
      end,
      v_last
    );
  end loop;
end;
$$;

revoke execute on function queue.share_slots from public;

drop function queue.fill_pool(p_request queue.lease_request, p_now timestamp with time zone, OUT ids uuid[], OUT lanes integer[], OUT more boolean, OUT leased_at timestamp with time zone);

-- Fill the slots of one pool, of these job types: which turns get them, and their first jobs. more:
-- also where no turn was found, but one has opened since.
create or replace function queue.fill_pool(
  p_request queue.lease_request,
  p_now timestamptz,
  out ids uuid[],
  out lanes integer[],
  out limited text[],
  out more boolean,
  out leased_at timestamptz
)
language plpgsql
set search_path = ''
as $$
declare
  v_shared record := queue.share_slots(p_request, p_now);
  v_leased integer := 0;
  v_one queue.share;
begin
  lanes := v_shared.lanes;
  limited := v_shared.limited;
  more := v_shared.more;
  leased_at := p_now;
  if v_shared.shares is not null then
    -- a job that was enqueued since then starts after it
    leased_at := greatest(p_now, queue.clock());
    ids := queue.take(v_shared.shares, p_request, leased_at);
    v_leased := coalesce(cardinality(ids), 0);
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
    -- where another lease holds some, more may come behind them
    if v_leased < p_request."limit" and v_shared.shares is not null then
      more := more
        or v_leased < case
          when v_shared.shares[2] is null then 1
          else (select sum(s.jobs) from unnest(v_shared.shares) as s)
        end
          and queue.refused('lease', leased_at) = '{}';
    end if;
  end if;
  if more is null then
    more := exists (
      select from unnest(lanes) as l (lane)
      join queue.turns as t on t.lane = l.lane and not t.blocked
    );
  end if;
  if v_leased > 0 and v_shared.is_limited then
    perform queue.spend(
      'r:' || y.job_type,
      y.rate_limit,
      y.rate_per_seconds,
      n.jobs,
      leased_at
    )
    from (
      select j.job_type, count(*) as jobs
      from public.jobs as j
      where j.id = any (ids)
      group by 1
    ) as n
    join queue.job_types as y on y.job_type = n.job_type
    where y.rate_limit is not null and not y.rate_per_key;
  end if;
  -- an empty turn is closed late, since its next job then needs no note: see DECISIONS 21
  if cardinality(v_shared.empty) > 4
    or v_leased >= 20 and v_leased < p_request."limit"
    or p_request.call % 16 = 0
  then
    perform queue.tidy_turns(
      array(
        select row(j.lane, j.workspace_id, max(j.ord), count(*))::queue.share
        from public.jobs as j
        where j.id = any (ids)
        group by j.lane, j.workspace_id
      ) || v_shared.empty,
      leased_at
    );
  end if;
end;
$$;

revoke execute on function queue.fill_pool from public;

drop function queue.lease_ready(p_request queue.lease_request, p_changes queue.change[], p_has_notes boolean, p_now timestamp with time zone, OUT leases json, OUT leased integer, OUT lanes integer[], OUT more boolean, OUT is_short boolean, OUT is_full boolean);

-- Fill every pool. p_has_notes: turns or gates are to be opened before. is_short, is_full: one was
-- not, and one was; lanes: of those asked for; limited: their types that have a limit.
create or replace function queue.lease_ready(
  p_request queue.lease_request,
  p_changes queue.change[],
  p_has_notes boolean,
  p_now timestamptz,
  out leases json,
  out leased integer,
  out lanes integer[],
  out limited text[],
  out more boolean,
  out is_short boolean,
  out is_full boolean
)
language plpgsql
set search_path = ''
as $$
declare
  v_at_once constant integer := greatest(20, least(200, p_request."limit"));
  v_now timestamptz := p_now;
  v_pools queue.lease_request[];
  v_pool queue.lease_request;
  v_filled record;
  v_count integer;
  v_ids uuid[] := '{}';
  v_read record;
  v_is_published boolean;
begin
  -- one lease at a time opens turns; others skip this
  if p_has_notes and queue.try_lock('turns') then
    perform queue.open_gates(greatest(50, v_at_once), p_now)
    -- a pause that ends has them opened after
    where queue.try_lock('pauses', p_is_shared => true);
    perform queue.open_turns(v_at_once, p_now);
  end if;
  lanes := '{}';
  limited := '{}';
  more := false;
  is_short := p_request."limit" = 0;
  is_full := false;
  if p_request.pools is null then
    v_pools := array[p_request];
  else
    v_pools := array(
      select jsonb_populate_record(p_request, to_jsonb(p))
      from jsonb_to_recordset(p_request.pools) as p (job_types text[], "limit" integer)
    );
  end if;
  foreach v_pool in array v_pools loop
    v_filled := queue.fill_pool(v_pool, v_now);
    v_ids := v_ids || v_filled.ids;
    lanes := lanes || v_filled.lanes;
    limited := limited || v_filled.limited;
    more := more or v_filled.more;
    v_now := v_filled.leased_at;
    v_count := coalesce(cardinality(v_filled.ids), 0);
    is_short := is_short or v_count < v_pool."limit";
    is_full := is_full or v_count > 0 and v_count >= v_pool."limit";
  end loop;
  leases := '[]';
  leased := cardinality(v_ids);
  if leased > 0 then
    v_read := queue.read_leases(v_ids, p_request, v_now);
    leases := v_read.leases;
    p_changes := p_changes || v_read.changes;
  end if;
  v_is_published := queue.publish(p_changes, v_now);
end;
$$;

revoke execute on function queue.lease_ready from public;

drop function queue.next_due_in_ms(p_lanes integer[], p_more boolean, p_now timestamp with time zone);

-- In how many milliseconds a worker with free slots should ask again; null: not before it is woken.
create or replace function queue.next_due_in_ms(
  p_lanes integer[],
  p_limited text[],
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
      when exists (select from queue.notes where key is null) then p_now
    end,
    (
      select min(look_at)
      from queue.notes
      where key is not null
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
      ) -- held: now and then
      from queue.signals as s
    )
  );
  if p_limited <> '{}' then
    -- when the first type that has used up its rate and has waiting jobs may start one again
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
            join queue.turns as t on t.lane = l.lane and not t.blocked
            where l.job_type = y.job_type and l.lane = any (p_lanes)
          )
      )
    );
  end if;
  -- greatest() ignores nulls; Postgres before 17 cannot subtract from -infinity
  return case
    when v_next is not null
      then ceil(extract(epoch from greatest(v_next, p_now) - p_now) * 1000)
  end;
end;
$$;

revoke execute on function queue.next_due_in_ms from public;

-- See public.lease_jobs. p_changes: of what was settled in the same call. A repeat waits for the
-- first; for a lock and no row, so that what finds nothing writes nothing.
create or replace function queue.lease(p_request jsonb, p_changes queue.change[] default null)
returns json
language plpgsql
set search_path = ''
as $$
declare
  v_asked queue.lease_request := queue.read_lease_request(p_request);
  v_now timestamptz;
  v_ms bigint;
  v_since bigint;
  v_tick record; -- what is known of this run and its worker, and whether notes wait
  v_noted record;
  v_run jsonb; -- where this call begins or ends it
  v_given record;
  v_due bigint;
  v_maintenance boolean;
  v_ends boolean;
begin
  if not queue.try_lock('tick ' || v_asked.tick_id) then -- a trial is an expression, no query
    perform queue.try_lock('tick ' || v_asked.tick_id, p_waits => true);
  end if;
  v_now := queue.clock();
  select
    t.last_call,
    t.seen_at > v_now - interval '10 seconds' as is_active,
    t.expires_at,
    w as worker,
    exists (
      select from queue.notes
      where key is null
      union all
      select from queue.notes
      where key is not null and look_at <= v_now
      union all
      select from queue.turns
      where blocked and look_at <= v_now
    ) as has_notes
  into v_tick
  from (select) as o
  left join queue.ticks as t on t.tick_id = v_asked.tick_id
  left join queue.workers as w on w.worker_id = v_asked.worker_id;
  if v_asked.call <= v_tick.last_call then -- its answer may have been lost
    perform queue.publish(p_changes, v_now);
    v_given := queue.read_leases(
      array(
        select l.job_id
        from queue.leases as l
        where l.tick_id = v_asked.tick_id and l.tick_call = v_asked.call
      ),
      v_asked
    );
    return json_build_object('leases', v_given.leases, 'next_due_in_ms', 0);
  elsif v_asked.most is not null and (v_tick.expires_at > v_now) is not true then
    v_run := jsonb_build_object('free', queue.admit_run(v_asked, v_now));
    if v_run ->> 'free' is null then
      perform queue.publish(p_changes, v_now);
      return json_build_object('leases', '[]'::json, 'run', v_run);
    end if;
  end if;
  v_noted := queue.note_worker(v_asked, v_tick.worker, v_now);
  v_asked.worker := v_noted.worker;
  v_ms := pg_sequence_last_value('queue.wanted_ms'); -- the worker that was wanted is here
  if v_ms > 0 then
    v_ms := setval('queue.wanted_ms', 0);
  end if;
  v_given := queue.lease_ready(
    v_asked,
    p_changes,
    v_tick.has_notes or v_noted.has_noted,
    v_now
  );
  if v_tick.last_call is null or v_given.leased > 0 then -- a repeat is known by it
    insert into queue.ticks as t (tick_id, seen_at, worker, last_call)
    values (v_asked.tick_id, v_now, v_asked.worker, v_asked.call)
    on conflict (tick_id) do update set (seen_at, worker, last_call) = row(
      excluded.seen_at,
      excluded.worker,
      excluded.last_call
    );
  end if;
  if coalesce(v_asked.free_slots, v_asked."limit" - v_given.leased) > 0 then
    v_ms := (date_part('epoch', v_now) * 1000)::bigint;
    v_since := v_ms - pg_sequence_last_value('queue.slots_ms');
    if v_since between 0 and 499 is not true then
      v_ms := setval('queue.slots_ms', v_ms);
    end if;
  end if;
  v_ms := null;
  v_maintenance := false;
  if v_given.is_short then
    v_ms := queue.next_due_in_ms(v_given.lanes, v_given.limited, v_given.more, v_now);
    v_maintenance := queue.maintenance_is_due(
      v_now,
      -- it leased lately
      v_given.leased > 0 or v_tick.last_call > 1 and v_tick.is_active,
      v_ms <= 1000 is true
    );
  end if;
  v_ends := v_asked.ends is not null
    and v_given.leased = 0
    and (not v_maintenance or v_asked.ends ? 'maintained')
    and (v_ms <= (v_asked.ends -> 'stay_ms')::double precision) is not true;
  if v_asked.count_due or v_asked.call = 1 or v_ends then
    if v_asked.pools is not null then -- of all that the worker serves
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
      || jsonb_build_object('tick_id', v_asked.tick_id)
      || jsonb_build_object(
        'summary',
        v_asked.ends -> 'summary'
        || jsonb_build_object(
          'due_left', v_due,
          'next_due_in_ms', v_ms,
          'next_in_ms', v_ms,
          'next_reason', case when v_ms is null then 'notified' else 'due' end
        )
      )
    );
  end if;
  return json_build_object(
    'leases', v_given.leases,
    'maintenance', v_maintenance,
    'run', v_run,
    'due', coalesce(v_due, v_given.is_full::integer),
    'next_due_in_ms', v_ms
  );
end;
$$;

revoke execute on function queue.lease from public;

create or replace function public.settle_jobs(p_request jsonb)
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
  v_read record;
  v_settled record;
  v_results json := '[]';
  v_changes queue.change[];
begin
  if p_request -> 'items' is distinct from '[]' then
    v_read := queue.read_items(p_request -> 'items');
    v_settled := queue.settle(v_read.items, v_read.is_plain);
    v_results := v_settled.results;
    v_changes := v_settled.changes;
  end if;
  if jsonb_typeof(p_request -> 'lease') = 'object' then
    return json_build_object(
      'results', v_results,
      'lease', queue.lease(p_request -> 'lease', v_changes)
    );
  end if;
  perform queue.publish(v_changes, queue.clock());
  return json_build_object('results', v_results);
end;
$$;

comment on function public.settle_jobs is
  E'Settle attempts, and lease the next jobs in the same call: {results, lease?}.\n\nItems: '
  '{job_id, fence, outcome: completed|retry|failed|snoozed|released|waiting|cancelled, result?, '
  'error?, retry_after_seconds?, until?, delay_seconds?, wait?, progress?, logs?, steps?, '
  'output?, duration_ms?}. A repeat is answered as the first; a stale fence changes nothing, and '
  'what is busy is to be settled again.';

select queue.allow('job_worker, service_role', 'public.settle_jobs');

drop function queue.message_budget();

-- The budget of messages a second, 80 % of the plan's rate (Realtime averages five seconds, which
-- may touch six of ours), and how many this second has used. is_followed: someone follows a topic;
-- is_streamed: a server streams one.
create or replace function queue.message_budget(
  out budget bigint,
  out used bigint,
  out is_followed boolean,
  out is_streamed boolean
)
language plpgsql
set search_path = ''
as $$
declare
  v_second bigint := date_part('epoch', clock_timestamp())::bigint;
  -- read before a new second is noted: what others have counted in it by then is not left out
  v_counted constant bigint := coalesce(
    pg_sequence_last_value('queue.messages_counted'),
    0
  );
  v_before bigint := pg_sequence_last_value('queue.messages_before');
begin
  select
    case s.value
      when '"free"' then 80
      when '"pro"' then 400
      else s.value::bigint
    end,
    exists (select from queue.followers),
    exists (select from queue.streamed_topics)
  into budget, is_followed, is_streamed
  from queue.settings as s
  where s.name = 'realtime_messages_per_second';
  if v_second is distinct from pg_sequence_last_value('queue.messages_second') then
    v_before := setval('queue.messages_before', v_counted);
    v_second := setval('queue.messages_second', v_second);
  end if;
  used := v_counted - v_before;
end;
$$;

revoke execute on function queue.message_budget from public;

-- What the tables of today's messages are like, by the transactions that last changed them; null
-- where they have triggers. While it is as when a message was sent, none can fail.
create or replace function queue.message_form()
returns bigint
language plpgsql
set search_path = ''
as $$
declare
  v_tables constant oid[] := array[
    to_regclass('realtime.messages'),
    to_regclass('realtime.messages_' || to_char(now(), 'YYYY_MM_DD'))
  ];
begin
  return (
    select
      case
        when not bool_or(c.relhastriggers or c.relkind = 'p' and v_tables[2] is null)
          then abs(
            1000003 * hash_array(array_agg(c.xmin))::bigint + (
              select hash_array(array_agg(a.xmin))
              from pg_catalog.pg_attribute as a
              where a.attrelid = v_tables[1]
            )
          )
      end
    from pg_catalog.pg_class as c
    where c.oid = any (v_tables)
  );
end;
$$;

revoke execute on function queue.message_form from public;

drop function queue.send(p_changes queue.change[], p_is_minor boolean, p_fits_one boolean, p_seen queue.audience, p_now timestamp with time zone);

-- Send the messages of changes; false where they are to be held back, since the budget does not
-- reach or Realtime fails. Progress and logs (p_is_minor) may use 4/8 of the budget, changes of
-- state that no one follows 5/8, those that someone follows 6/8, announcements all of it.
-- p_fits_one: one message to the workspace has all, unless someone follows a topic.
-- A block that may fail costs a transaction id: it is there only where the table's form is not the
-- one that took the last message (queue.message_form).
create or replace function queue.send(
  p_changes queue.change[],
  p_is_minor boolean,
  p_fits_one boolean,
  p_seen record,
  p_now timestamptz
)
returns boolean
language plpgsql
set search_path = ''
as $$
declare
  v_message record;
  v_topics text[];
  v_events text[];
  v_payloads jsonb[];
  v_watchers bigint; -- how many follow the topics
  v_cost bigint := 2; -- the message and one watcher
  v_eighths integer := 5;
  v_form bigint;
  v_count bigint;
begin
  -- what a long transaction sends would arrive at its end, all at once
  if clock_timestamp() - now() > interval '1 second' then
    return false;
  end if;
  if not p_fits_one or p_seen.is_followed then
    -- of so many tenants that the budget does not reach, followed or not
    if not p_is_minor
      and p_seen.used + 2 * (
        select count(distinct c.workspace_id)
        from unnest(p_changes) as c
        where c.seqs is not null
      ) > p_seen.budget * 6 / 8
    then
      return false;
    end if;
    select
      array_agg(m.topic),
      array_agg(m.event),
      array_agg(m.payload),
      sum(m.watchers),
      coalesce(sum(1 + greatest(1, m.watchers)), 0)
    into v_topics, v_events, v_payloads, v_watchers, v_cost
    from (
      select
        t.topic,
        o.event,
        o.payload,
        (
          select count(*)
          from queue.followers as f
          where f.topic = t.topic
        ) as watchers
      from queue.changes_by_topic(p_changes) as t
      cross join lateral queue.message_of(t.changes, p_now) as o
    ) as m;
    v_eighths := case
      when p_is_minor then 4
      when v_watchers > 0 then 6
      else 5
    end;
  end if;
  if v_cost = 0 then -- no topic gets any of them
    return true;
  end if;
  if p_seen.used + v_cost > p_seen.budget * v_eighths / 8 then
    return false;
  end if;
  -- or 3/8, where a tenant has sent an eighth in the last second and another is followed
  -- apart: a query costs more than this
  if p_seen.used + v_cost > p_seen.budget * 3 / 8 then
    if p_changes[1].workspace_id = all (
      select c.workspace_id
      from unnest(p_changes) as c
    )
      and exists (
        select from queue.followers as f
        where f.topic like 'workspace:%'
          and f.topic <> 'workspace:' || p_changes[1].workspace_id
      )
      and p_seen.budget / 8 < v_cost * (
        select count(*)
        from (
          select o.at
          from queue.feed as o
          where o.workspace_id = p_changes[1].workspace_id
          order by o.number desc, o.id desc
          limit 50
        ) as f
        where f.at > p_now - interval '1 second'
      )
    then
      return false;
    end if;
  end if;
  for v_each in 1 .. v_cost loop
    v_count := nextval('queue.messages_counted'); -- an assignment is cheaper than a query
  end loop;
  if v_topics is null then -- made once it may be sent
    v_message := queue.message_of(p_changes, p_now);
    v_topics := array['workspace:' || p_changes[1].workspace_id];
    v_events := array[v_message.event];
    v_payloads := array[v_message.payload];
  end if;
  v_form := queue.message_form();
  if v_form = pg_sequence_last_value('queue.messages_fitted') then
    insert into realtime.messages (id, topic, extension, event, payload, private)
    select queue.new_id(), m.topic, 'broadcast', m.event, m.payload, true
    from unnest(v_topics, v_events, v_payloads) as m (topic, event, payload);
    return true;
  end if;
  begin
    insert into realtime.messages (id, topic, extension, event, payload, private)
    select queue.new_id(), m.topic, 'broadcast', m.event, m.payload, true
    from unnest(v_topics, v_events, v_payloads) as m (topic, event, payload);
  exception when others then -- no enqueue or settlement fails because of a message
    raise warning 'messages were not sent: % (%)', sqlerrm, sqlstate;
    -- while no one is connected, Realtime makes no partition for the day, and there is no one to ask
    return sqlstate = '23514';
  end;
  if v_form is not null then
    v_count := setval('queue.messages_fitted', v_form);
  end if;
  return true;
end;
$$;

revoke execute on function queue.send from public;

-- Publish changes that a statement has made to rows that the caller holds: messages, notifications
-- to servers that stream, and a line of the feed each. Changes without seqs are lines of the feed
-- alone; progress and logs come in calls of their own. p_wakes: are jobs due within a minute.
-- Always true, so that callers assign it: a query would cost more.
create or replace function queue.publish(
  p_changes queue.change[],
  p_now timestamptz,
  p_wakes boolean default true
)
returns boolean
language plpgsql strict
set search_path = ''
as $$
declare
  v_is_minor constant boolean := p_changes[1].type
    in ('job.progress', 'job.log', 'job.output');
  v_number constant bigint := queue.feed_number(
    greatest(pg_current_xact_id(), pg_snapshot_xmax(pg_current_snapshot()))
  );
  v_seen constant record := queue.message_budget();
  v_change queue.change;
  v_jobs integer := 0; -- that have events
  v_fits_one boolean := not v_is_minor and p_changes[11] is null; -- one message
  v_unsent boolean; -- true, or null
begin
  foreach v_change in array p_changes loop
    v_fits_one := v_fits_one
      and v_change.seqs is not null
      and v_change.workspace_id = p_changes[1].workspace_id;
    v_jobs := v_jobs + coalesce(cardinality(v_change.seqs), 0);
  end loop;
  -- a message holds 256 kB
  if v_jobs > 0 and to_regclass('realtime.messages') is not null then
    v_fits_one := v_fits_one and v_jobs <= 1000;
    v_unsent := nullif(
      not queue.send(p_changes, v_is_minor, v_fits_one, v_seen, p_now),
      false
    );
  end if;
  -- only where someone streams: who notifies commits under a lock of the whole server
  if v_seen.is_streamed then
    perform pg_notify('minutehand_events', s.topic)
    from queue.streamed_topics as s
    where s.expires_at > clock_timestamp()
      and exists (
        select from unnest(p_changes) as c
        where s.topic = 'workspace:' || c.workspace_id
          and c.type not in ('job.progress', 'job.log', 'job.output')
          or s.topic = 'session:' || c.session_id and c.type <> 'job.log'
          or s.topic = any (array(select 'job:' || i from unnest(c.job_ids) as i))
      );
  end if;
  insert into queue.feed (
    number, at, workspace_id, session_id, type, data, job_ids, seqs, wakes, unsent
  )
  select
    v_number,
    p_now,
    c.workspace_id,
    c.session_id,
    c.type,
    case c.type when 'job.output' then '{}' else c.data end,
    c.job_ids,
    c.seqs,
    p_wakes and c.type in ('job.created', 'job.redriven', 'job.resumed'),
    case when c.seqs is not null then v_unsent end
  from unnest(p_changes) as c
  where v_unsent
    or not v_is_minor
    or c.type = 'job.progress' and c.session_id is not null;
  return true;
end;
$$;

revoke execute on function queue.publish from public;

-- Promote jobs whose type has been published since, and those whose time has come, the oldest of
-- them and shares of the workspaces. What someone holds stays due.
create or replace function queue.do_promotion(p_now timestamptz, p_until timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_types constant text[] := array( -- published since jobs of theirs came
    select t.job_type
    from queue.job_types as t
    where t.schema_version > 0
      and exists (
        select from queue.unpublished as u
        where u.job_type = t.job_type
      )
  );
  v_refused uuid[];
  v_lines tid[];
  v_adopted tid[];
  v_ids uuid[];
  v_done integer := 0;
begin
  loop
    v_refused := queue.refused('promotion', p_now);
    v_lines := queue.in_shares(
      'queue.deferred',
      'true',
      'o.run_at <= $1 and o.job_id <> all ($2)',
      'o.run_at',
      p_now,
      v_refused
    );
    delete from queue.deferred -- whose job is gone, or has other times by now
    where ctid = any (array(
      select d.ctid
      from queue.deferred as d
      where d.ctid = any (v_lines)
        and not exists (
          select from public.jobs as j
          where j.id = d.job_id
            and d.run_at in (
              j.next_retry_at, j.scheduled_for, j.deadline_at, j.start_by_at
            )
        )
      for update skip locked
    ));
    v_adopted := case
      when v_types <> '{}' then queue.in_shares(
        'queue.unpublished',
        'true',
        format('o.job_id <> all ($2) and o.job_type = any (%L)', v_types),
        'o.job_type',
        p_now,
        v_refused
      )
    end;
    v_ids := array( -- locked with their lines
      select h.id
      from (
        select j.id
        from queue.deferred as d
        join public.jobs as j on j.id = d.job_id
        where d.ctid = any (v_lines)
        for no key update of d, j skip locked
      ) as h
      union
      select h.id
      from (
        select j.id
        from queue.unpublished as u
        join public.jobs as j on j.id = u.job_id
        where u.ctid = any (v_adopted)
        for no key update of u, j skip locked
      ) as h
    );
    exit when v_ids = '{}' and not found; -- and no line was deleted
    v_done := v_done + queue.do_in_parts('promotion', v_ids, p_now);
    exit when clock_timestamp() > p_until;
  end loop;
  return v_done;
end;
$$;

revoke execute on function queue.do_promotion from public;

-- Rows that belong to no job, in slices by an index of each.
create or replace function queue.do_sweep(p_now timestamptz, p_until timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_rule record;
  v_rows integer;
  v_done integer := 0;
begin
  -- turns that are empty and that no lease has come by are closed as of then, and deleted below
  perform queue.tidy_turns(
    array(
      select row(t.lane, t.workspace_id, null, 0)::queue.share
      from queue.turns as t
      where not t.blocked
        and t.changed_at < p_now - interval '1 hour'
        and not exists (
          select from queue.ready as r
          where r.lane = t.lane
            and r.workspace_id = t.workspace_id
            and r.ord >= t.from_ord
        )
      limit 1000
    ),
    p_now - interval '2 hours'
  );
  update queue.lanes as l
  set unused_since = case when l.unused_since is null then p_now end
  where (l.unused_since is null) = (
    l.lane not in (
      select t.lane
      from queue.job_types as t
      where t.lane is not null
      union
      select t.lane
      from queue.turns as t
      union
      select g.lane
      from queue.gated as g
      union
      select r.lane
      from queue.leases as r
      union
      select n.lane
      from queue.notes as n
    )
    and l.queue <> all (array(
      select unnest(w.queues)
      from queue.workers as w
      where w.seen_at > p_now - interval '1 day'
      union
      select s.options ->> 'queue'
      from queue.schedules as s
      where s.options ->> 'queue' is not null
    ))
  );
  for v_rule in
    select *
    from (
      values
        ('lanes', 'unused_since < $1 - interval ''1 day'''),
        -- no one will wait for them
        ('named_events', 'emitted_at < $1 - interval ''30 days'''),
        ('stats', 'minutes = 1 and at < $1 - interval ''25 hours'''),
        ('stats', 'minutes = 60 and at < $1 - interval ''31 days'''),
        ('guest_sessions', 'expires_at < $1 - interval ''1 day'''),
        -- as follow_topic's
        ('followers', 'seen_at < clock_timestamp() - interval ''150 seconds'''),
        -- closed; a lease that opens it again finds none, and makes one
        (
          'turns',
          'blocked and look_at is null and changed_at < $1 - interval ''1 hour'''
        ),
        -- full by then, even of a rate that was overdrawn by as much
        (
          'buckets',
          'refilled_at < $1 - greatest(interval ''1 day'', case when name ~ ''^[rk]:''
        then (select make_interval(secs => 2 * max(rate_per_seconds)) from queue.job_types) end)'
        ),
        ('ticks', 'seen_at < $1 - interval ''1 day'''),
        ('withdrawn_schedules', 'withdrawn_at < $1 - interval ''1 day'''),
        -- jobs that are kept for longer name no worker any more
        ('workers', 'seen_at < $1 - interval ''100 days'''),
        -- of jobs that were deleted while a worker reported on them
        ('leases', 'expires_at <= $1 and not exists (
        select from public.jobs as j where j.id = o.job_id)'),
        (
          'refusals',
          'retry_at < $1 - interval ''1 day'' or task = ''lease''
        and (select j.status from public.jobs as j where j.id = o.job_id)
          is distinct from ''pending'''
        )
    ) as r (name, is_old)
  loop
    execute format(
      'delete from queue.%1$I where ctid = any (array('
        'select o.ctid from queue.%1$I as o where %2$s limit 20000 for update skip locked))',
      v_rule.name,
      v_rule.is_old
    )
    using p_now;
    get diagnostics v_rows = row_count;
    v_done := v_done + v_rows;
  end loop;
  return v_done;
end;
$$;

revoke execute on function queue.do_sweep from public;

drop function queue.maintenance_is_due(p_now timestamp with time zone, p_active boolean);

-- Whether run_maintenance, which asks for the same times, would find something to do; p_active:
-- jobs have run; p_is_soon: a job, wait or signal may be due, as queue.next_due_in_ms says. What is
-- held is due a second later; if idle, what found nothing an hour later.
create or replace function queue.maintenance_is_due(
  p_now timestamptz,
  p_active boolean,
  p_is_soon boolean default true
)
returns boolean
language plpgsql stable
set search_path = ''
as $$
begin
  if p_is_soon then -- apart: what is not run has its cost too
    if exists (
      select from queue.tasks as t
      cross join lateral (
        select case
          when t.was_idle
              and t.done_at > p_now - interval '1 second'
              and t.done_at <= p_now
            then t.done_at
          else '-infinity'
        end as rests_until
        offset 0 -- computed once
      ) as r
      where (
        t.done_at > p_now
        or t.done_at + t.every <= p_now and coalesce(t.retry_at, '-infinity') <= p_now
      )
        and case t.name
          when 'promotion' then exists (
            select from queue.deferred as d
            where d.run_at <= p_now
              and d.run_at > r.rests_until
              and d.job_id <> all ((
                select queue.refused('promotion', p_now)
              )::uuid[])
          )
          when 'waits' then exists (
            select from queue.signals as s
            where s.look_at <= p_now
              and (s.failures = 0 or r.rests_until = '-infinity')
          )
            or exists (
              select from queue.waits as w
              where w.timeout_at <= p_now and w.timeout_at > r.rests_until
            )
        end
    ) then
      return true;
    end if;
  end if;
  return exists (
    select from queue.tasks as t
    where (
      t.done_at > p_now
      or (t.done_at + t.every <= p_now or t.after_id is not null)
        and coalesce(t.retry_at, '-infinity') <= p_now
    )
      and (
        case t.name
          when 'promotion' then exists (
            select from queue.job_types as y
            where y.schema_version > 0
              and exists (
                select from queue.unpublished as u
                where u.job_type = y.job_type
              )
          )
          when 'retention' then t.after_id is not null -- a pass is under way
          when 'schedules' then exists (
            select from queue.schedules as s
            where s.enabled and s.next_at <= p_now
          )
          when 'announcements'
            then exists (select from queue.feed as f where f.unsent)
          -- one of them may have expired
          when 'reclaim' then exists (select from queue.leases)
          else t.reads_feed -- seconds later
            and exists (select from queue.feed as f where f.number >= t.read_to)
        end
        or t.every > interval '0'
          and (p_active or not t.was_idle or t.done_at <= p_now - interval '1 hour')
      )
  );
end;
$$;

revoke execute on function queue.maintenance_is_due from public;

drop function queue.add_simple(p_workspace_id uuid, p_type queue.job_types, p_payload jsonb, p_now timestamp with time zone);

drop function queue.simple_type(p_workspace_id uuid, p_job_type text, p_payload jsonb);

drop type queue.audience;
