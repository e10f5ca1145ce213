-- This file enqueues one job. 05_enqueue_many.sql enqueues many jobs. These are the steps of an
-- enqueue, by function.
--
--   public.enqueue_job
--     queue.enqueue_simple     enqueues a simple job in one statement. For all other jobs,
--                              enqueue_job calls the following functions.
--     queue.may_read           rejects a caller without access to the workspace.
--     queue.admit              takes tokens of the caller's rate limit (06_limits.sql).
--     queue.require_type       returns the job type, even if no worker has published it.
--     queue.add                adds the job with the next three functions.
--       queue.new_job          checks payload and options (queue.read_options) and builds the row.
--       queue.claim            stores the idempotency key and the unique key of the job.
--       queue.place            inserts the job into queue.unpublished, deferred, gated or ready.
--         queue.note_turn      adds a note if leases would not find the job.
--     queue.publish            adds a row to queue.feed and notifies browsers (12_feed.sql).
--     queue.wake_worker        decides whether the caller should start a worker.
--
-- The commit of the new row of queue.feed notifies workers.
--
-- The functions at the end of this file start workers, and lock live jobs that a call is about to
-- change.

-- Return the job type of a new job. If no worker has published the job type, the result has lane 0
-- and schema version 0. queue.require_type rejects the new job if jobs of 20 other unpublished
-- types already wait in the workspace, or jobs of 1,000 unpublished types in all workspaces.
-- p_within: Prefix of field names in error messages.
create function queue.require_type(
  p_job_type text,
  p_within text default '',
  p_workspace_id uuid default null
)
returns queue.job_types
language plpgsql stable
set search_path = ''
as $$
declare
  v_type queue.job_types;
  v_own integer;
  v_all integer;
begin
  select * into v_type
  from queue.job_types as t
  where t.job_type = p_job_type and t.schema_version > 0;
  if found then
    return v_type;
  end if;
  if p_job_type is null then
    perform queue.refuse(
      400,
      'invalid_argument',
      'job_type is required',
      p_within || 'job_type'
    );
  elsif char_length(p_job_type) not between 1 and 100
    or p_job_type ~ '[[:cntrl:]]'
  then
    perform queue.refuse(
      422,
      'unknown_job_type',
      'job_type must have 1 to 100 characters and no control characters',
      p_within || 'job_type'
    );
  elsif not exists (
    select from queue.unpublished as u
    where u.job_type = p_job_type and u.workspace_id = p_workspace_id
  ) then
    with recursive waiting as ( -- one index lookup per type
      select min(u.job_type) as job_type
      from queue.unpublished as u
      union all
      select (
        select min(u.job_type)
        from queue.unpublished as u
        where u.job_type > w.job_type
      )
      from waiting as w
      where w.job_type is not null
    )
    select
      count(*) filter (where w.job_type <> p_job_type),
      count(*) filter (
        where exists (
          select from queue.unpublished as u
          where u.job_type = w.job_type and u.workspace_id = p_workspace_id
        )
      )
    into v_all, v_own
    from waiting as w
    where w.job_type is not null;
    if p_workspace_id is not null and (v_own >= 20 or v_all >= 1000) then
      perform queue.refuse(
        422,
        'unknown_job_type',
        format(
          'no worker serves the job type %s, and jobs of %s other unserved types already wait',
          p_job_type,
          greatest(v_own, v_all)
        ),
        p_within || 'job_type'
      );
    end if;
  end if;
  return jsonb_populate_record(
    null::queue.job_types,
    jsonb_build_object(
      'job_type', p_job_type,
      'queue', 'default',
      'lane', 0,
      'max_attempts', 5,
      'schema_version', 0,
      'is_minimal', false,
      'internal', false,
      'rate_per_key', false,
      'in_order', false
    )
  );
end;
$$;

-- Return the lane (row of queue.lanes) of a job type in a queue, and create the lane if it is
-- missing. A lease reads the lanes of all its job types and queues, so only a deployment may name a
-- new queue. Other callers must name a queue that a job type or a worker already names.
-- p_within: Prefix of field names in error messages.
-- p_declares: True if the caller is a deployment.
create function queue.lane_of(
  p_job_type text,
  p_queue text,
  p_within text default '',
  p_declares boolean default false
)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_lane integer := (
    select min(l.lane)
    from queue.lanes as l
    where l.job_type = p_job_type
      and l.queue = p_queue
      -- skip a lane that maintenance will soon delete
      and (
        l.unused_since is null
        or l.unused_since > queue.clock() - interval '23 hours'
      )
  );
begin
  if v_lane is null then
    if not p_declares
      and p_queue <> 'default'
      and not exists (select from queue.job_types as t where t.queue = p_queue)
      and not exists (
        select from queue.workers as w
        where p_queue = any (w.queues)
          and w.seen_at > queue.clock() - interval '1 day'
      )
    then
      perform queue.refuse(
        422,
        'unknown_queue',
        format(
          'no job type and no worker names the queue '
            '%s; declare the queue in a job type, or serve it with a worker',
          left(p_queue, 100)
        ),
        p_within || 'queue'
      );
    end if;
    insert into queue.lanes as l (job_type, queue, served_at)
    values (
      p_job_type,
      p_queue,
      (
        select max(w.seen_at)
        from queue.workers as w
        where w.seen_at > queue.clock() - interval '3 minutes'
          and (w.job_types is null or p_job_type = any (w.job_types))
          and (w.queues is null or p_queue = any (w.queues))
      )
    )
    returning l.lane into v_lane;
  end if;
  return v_lane;
end;
$$;

-- Return the ord of a job, which is the number by which a tenant's jobs are sorted. The job with
-- the smallest ord comes first. The upper bits of ord are the priority. The lower 52 bits of ord
-- are the time p_at in microseconds since 2020.
create function queue.ord_of(p_priority integer, p_at timestamptz)
returns bigint
language plpgsql immutable
set search_path = ''
as $$
begin
  return (p_priority::bigint << 52) + least(
    4503599627370495,
    greatest(0, date_part('epoch', p_at) * 1000000 - 1577836800000000)
  )::bigint;
end;
$$;

-- Convert the options of a job to a row of public.jobs. queue.read_options validates the options
-- with a JSON schema.
-- p_within: Prefix of field names in error messages.
create function queue.read_options(
  p_options jsonb,
  p_within text,
  p_now timestamptz
)
returns public.jobs
language plpgsql stable
set search_path = ''
as $$
declare
  c_schema constant jsonb := '{"$defs": {
      "plain": {"type": "string", "minLength": 1, "maxLength": 100, "pattern": "^[^[:cntrl:]]*$"},
      "text": {"type": "string", "minLength": 1, "maxLength": 255},
      "seconds": {"type": "number", "minimum": 0, "maximum": 315360000}}, "properties": {
    "queue": {"$ref": "#/$defs/plain"}, "traceparent": {"$ref": "#/$defs/text"},
    "priority": {"type": "integer", "minimum": 0, "maximum": 1000},
    "scheduled_for": {"type": "string"}, "deadline_at": {"type": "string"},
    "delay_seconds": {"$ref": "#/$defs/seconds"},
    "start_by_seconds": {"type": "integer", "minimum": 1, "maximum": 315360000},
    "max_attempts": {"type": "integer", "minimum": 1, "maximum": 50},
    "timeout_seconds": {"type": "number", "minimum": 1, "maximum": 43200},
    "idempotency_key": {"$ref": "#/$defs/text"},
    "unique": {"type": "object", "required": ["key"], "additionalProperties": false, "properties": {
      "key": {"$ref": "#/$defs/text"}, "until": {"enum": ["leased", "finished"]},
      "on_conflict": {"enum": ["skip", "replace", "raise"]}}},
    "debounce_seconds": {"type": "number", "minimum": 0.1, "maximum": 86400},
    "concurrency_key": {"type": "string", "minLength": 1, "maxLength": 255,
      "pattern": "^[^[:cntrl:]]*$"}, "session_id": {"$ref": "#/$defs/text"},
    "parent_id": {"type": "string", "format": "uuid"},
    "user_id": {"type": "string", "format": "uuid"},
    "schema_version": {"type": "integer", "minimum": 1, "maximum": 2147483647},
    "tags": {"type": "array", "maxItems": 20, "items": {"$ref": "#/$defs/plain"}}}}';
  v_options constant jsonb := jsonb_strip_nulls(p_options);
  v_error text := case
    when jsonb_typeof(p_options) <> 'object' then 'p_options must be an object'
    when v_options ?& '{scheduled_for,delay_seconds}'
      then 'delay_seconds must not be given with scheduled_for'
    when v_options ? 'debounce_seconds' and not v_options ? 'unique'
      then 'debounce_seconds needs unique.key'
  end;
  v_given record;
  v_field text;
  v_job public.jobs;
begin
  for v_given in
    select *
    from jsonb_each(case when v_error is null then v_options end)
  loop
    v_error := case
      when not c_schema -> 'properties' ? v_given.key
        then left(v_given.key, 80) || ' is not a known option'
      else queue.schema_error(
        c_schema -> 'properties' -> v_given.key,
        v_given.value,
        v_given.key,
        c_schema
      )
    end;
    exit when v_error is not null;
  end loop;
  if v_error is null then
    v_job := jsonb_populate_record(
      null::public.jobs,
      v_options - '{timeout_seconds,scheduled_for,deadline_at}'::text[]
    );
    v_field := 'scheduled_for';
    v_job.scheduled_for := v_options ->> v_field;
    v_field := 'deadline_at';
    v_job.deadline_at := v_options ->> v_field;
    v_error := case
      when v_job.scheduled_for
          not between '1970-01-01 00:00:00+00' and '9999-01-01 00:00:00+00'
        then 'scheduled_for must lie between the years 1970 and 9999'
      when v_job.deadline_at
          not between '1970-01-01 00:00:00+00' and '9999-01-01 00:00:00+00'
        then 'deadline_at must lie between the years 1970 and 9999'
    end;
  end if;
  if v_error is not null then
    perform queue.refuse(
      400,
      'invalid_argument',
      p_within || v_error,
      p_within || split_part(v_error, ' ', 1)
    );
  end if;
  v_job.timeout_seconds := (v_options ->> 'timeout_seconds')::double precision;
  v_job.unique_key := v_options #>> '{unique,key}';
  v_job.scheduled_for := coalesce(
    p_now + make_interval(
      secs => coalesce(
        v_options -> 'debounce_seconds',
        v_options -> 'delay_seconds'
      )::double precision
    ),
    v_job.scheduled_for
  );
  return v_job;
exception when data_exception then
  v_field := p_within || v_field;
  perform queue.refuse(400, 'invalid_argument', concat_ws(': ', v_field, sqlerrm), v_field);
end;
$$;

-- Return the W3C traceparent from the headers of the request, or null if the traceparent is missing
-- or invalid.
create function queue.request_traceparent()
returns text
language plpgsql stable
set search_path = ''
as $$
begin
  return substring(
    nullif(current_setting('request.headers', true), '')::json ->> 'x-minutehand-trace'
    from '^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$'
  );
end;
$$;

-- Check a new job, and build its row from its type, payload and options.
create function queue.new_job(
  p_workspace_id uuid,
  p_user_id uuid,
  p_type queue.job_types,
  p_payload jsonb,
  p_options jsonb,
  p_now timestamptz,
  p_within text default '',
  p_id uuid default null
)
returns public.jobs
language plpgsql
set search_path = ''
as $$
declare
  v_job public.jobs;
begin
  if p_options <> '{}' then
    v_job := queue.read_options(p_options, p_within, p_now);
    if v_job.parent_id is not null
      and not exists (
        select from public.jobs
        where id = v_job.parent_id and workspace_id = p_workspace_id
      )
    then
      perform queue.refuse(
        404,
        'job_not_found',
        'the parent job does not exist',
        v_job.parent_id::text
      );
    elsif v_job.queue <> p_type.queue and p_type.schema_version > 0 then
      v_job.lane := queue.lane_of(p_type.job_type, v_job.queue, p_within);
    end if;
  end if;
  if p_type.schema_version = 0 then
    v_job.chosen := array_remove(
      array[
        case when v_job.queue is not null then 'queue' end,
        case when v_job.max_attempts is not null then 'max_attempts' end
      ],
      null
    );
  end if;
  if p_type.internal and p_user_id is not null then
    perform queue.refuse(
      403,
      'forbidden',
      format(
        'only the service may enqueue jobs of the internal '
          'type %s',
        p_type.job_type
      ),
      p_within || 'job_type'
    );
  end if;
  -- A small payload of a type without a schema needs no check. Both the jsonb and the text of the
  -- payload must be short, because the number 1e400 is short as jsonb and long as text.
  if p_type.payload_schema is not null
    or v_job.schema_version is not null
    or jsonb_typeof(p_payload) <> 'object'
    or pg_column_size(p_payload) > 200
    or octet_length(p_payload::text) > 309
  then
    perform queue.check_payload(p_type, p_payload, v_job.schema_version, p_within);
  end if;
  v_job.id := coalesce(p_id, queue.new_id());
  v_job.workspace_id := p_workspace_id;
  v_job.user_id := coalesce(p_user_id, v_job.user_id);
  v_job.lane := coalesce(v_job.lane, p_type.lane);
  v_job.queue := coalesce(v_job.queue, p_type.queue);
  v_job.job_type := p_type.job_type;
  v_job.status := 'pending';
  v_job.payload := p_payload;
  v_job.schema_version := coalesce(v_job.schema_version, p_type.schema_version);
  v_job.priority := coalesce(v_job.priority, 100);
  v_job.max_attempts := coalesce(v_job.max_attempts, p_type.max_attempts);
  v_job.attempts := 0;
  v_job.fence := 0;
  v_job.generation := 1;
  v_job.lost_attempts := 0;
  v_job.last_seq := (not p_type.is_minimal)::integer;
  v_job.is_minimal := nullif(p_type.is_minimal, false);
  v_job.created_at := p_now;
  v_job.updated_at := p_now;
  v_job.start_by_at := greatest(p_now, v_job.scheduled_for)
    + make_interval(secs => v_job.start_by_seconds);
  v_job.ord := queue.ord_of(v_job.priority, coalesce(v_job.scheduled_for, p_now));
  if v_job.traceparent is null and current_setting('request.headers', true) <> '' then
    v_job.traceparent := queue.request_traceparent();
  end if;
  return v_job;
end;
$$;

-- Take the turn lock of a tenant and lane in shared mode, until this transaction ends. Several
-- enqueues can have the turn lock in shared mode at the same time. A lease takes the turn lock in
-- exclusive mode before it closes the turn or increases its from_ord (queue.tidy_turns). While a
-- transaction has the turn lock, no lease can skip a job that the transaction adds. The setting
-- minutehand.locks stores the lock that queue.hold_turn took last, so that consecutive jobs of one
-- tenant, job type and queue count as one lock (queue.reserve_locks). Return false in three cases.
-- - A lease has the lock in exclusive mode.
-- - The transaction has already reserved 130 advisory locks.
-- - The isolation level is not read committed. With another isolation level, statements after the
--   lock would not see the latest version of the turn.
create function queue.hold_turn(p_lane integer, p_workspace_id uuid)
returns boolean
language plpgsql
set search_path = ''
as $$
declare
  v_turn constant text := p_lane || '/' || p_workspace_id;
  v_latest text[] := string_to_array(current_setting('minutehand.locks', true), ' ');
  v_count constant integer := coalesce(nullif(v_latest[1], '')::integer, 0);
  v_ignored text;
begin
  if v_turn is distinct from v_latest[2] then
    if v_count >= 130 then
      return false;
    end if;
    v_ignored := set_config('minutehand.locks', v_count + 1 || ' ' || v_turn, true);
  end if;
  return current_setting('transaction_isolation') = 'read committed'
    and pg_try_advisory_xact_lock_shared(p_lane, uuid_hash(p_workspace_id));
end;
$$;

-- Make sure that a lease will find a new ready job. Insert a note for the job's turn, unless this
-- transaction has the turn lock and one of two conditions applies.
-- - The turn exists and is not closed, and its from_ord is at most p_ord. While this transaction
--   has the turn lock, no lease can close the turn.
-- - The turn already has a note whose ord is at most p_ord. A note lets a lease open the turn, and
--   read ready jobs from the note's ord on.
--
-- queue.note_turn always returns true, so that queue.place can return the result of
-- queue.note_turn.
create function queue.note_turn(p_lane integer, p_workspace_id uuid, p_ord bigint)
returns boolean
language plpgsql
set search_path = ''
as $$
declare
  v_is_held constant boolean := queue.hold_turn(p_lane, p_workspace_id);
begin
  -- read the turn in a statement after the lock, so that this statement sees the changes that
  -- leases committed before this transaction got the lock
  insert into queue.notes (lane, workspace_id, ord)
  select p_lane, p_workspace_id, p_ord
  where not (
    v_is_held
    and (
      exists (
        select from queue.turns as t
        where t.lane = p_lane
          and t.workspace_id = p_workspace_id
          and t.from_ord <= p_ord
          and not (t.blocked and t.look_at is null)
      )
      or exists (
        select from queue.turn_notes as n
        where n.workspace_id = p_workspace_id and n.lane = p_lane and n.ord <= p_ord
      )
    )
  );
  return true;
end;
$$;

-- Assign a lane (row of queue.lanes) to a job that was enqueued before its type was published, or
-- whose queue no longer exists. If the job was enqueued before its type was published,
-- public.jobs.chosen names the options that the caller of the enqueue set. The job gets queue and
-- max_attempts from its type, unless the caller of the enqueue set these options.
create function queue.assign_lane(p_job public.jobs, p_type queue.job_types)
returns public.jobs
language plpgsql
set search_path = ''
as $$
begin
  p_job.queue := case
    when p_job.chosen is null then coalesce(nullif(p_job.queue, 'default'), p_type.queue)
    when 'queue' = any (p_job.chosen) then p_job.queue
    else p_type.queue
  end;
  begin
    p_job.lane := queue.lane_of(p_job.job_type, p_job.queue);
  -- no job type and no worker uses the job's queue, so move the job to the queue of its type
  exception when sqlstate 'PT422' then
    p_job.queue := p_type.queue;
    p_job.lane := p_type.lane;
  end;
  update public.jobs
  set
    queue = p_job.queue,
    lane = p_job.lane,
    max_attempts = case
      when chosen is null or 'max_attempts' = any (chosen) then max_attempts
      else p_type.max_attempts
    end,
    schema_version = coalesce(nullif(schema_version, 0), p_type.schema_version),
    chosen = null
  where id = p_job.id
  returning * into p_job;
  return p_job;
end;
$$;

-- Insert a row for a pending job, which the caller has locked, into queue.unpublished,
-- queue.deferred, queue.gated or queue.ready. If the job has a deadline or a latest time for its
-- start, also insert these times into queue.deferred. Return true if a lease can get the job now.
create function queue.place(
  p_job public.jobs,
  p_now timestamptz,
  p_type queue.job_types default null
)
returns boolean
language plpgsql
set search_path = ''
as $$
declare
  v_run_at constant timestamptz := coalesce(
    p_job.next_retry_at,
    p_job.scheduled_for
  );
  v_key text;
begin
  -- insert the deadline and the latest start time even if the job was placed before, because
  -- maintenance may have deleted the job's rows of queue.deferred in the meantime
  if num_nonnulls(p_job.deadline_at, p_job.start_by_at) > 0 then
    insert into queue.deferred (run_at, job_id, workspace_id, is_place)
    select t, p_job.id, p_job.workspace_id, false
    from unnest(array[
      p_job.deadline_at,
      case when p_job.started_at is null then p_job.start_by_at end
    ]) as t
    where t is not null
    on conflict do nothing;
  end if;
  if p_job.lane is distinct from p_type.lane then
    perform from queue.lanes as l
    where l.lane = p_job.lane
      and (
        l.unused_since is null
        or l.unused_since > queue.clock() - interval '23 hours'
      );
    -- the job's row of queue.lanes is missing or will soon be deleted, so assign another lane
    if not found then
      p_job.lane := 0;
    end if;
  end if;
  if p_job.lane = 0 then
    select * into p_type
    from queue.job_types as t
    where t.job_type = p_job.job_type
      and t.schema_version > 0
      -- if a person enqueued a job of an internal type, leave the job in queue.unpublished until
      -- queue.promote ends the job as failed
      and not (t.internal and p_job.user_id is not null);
    if found then
      p_job := queue.assign_lane(p_job, p_type);
    end if;
  end if;
  if p_job.lane = 0 then
    insert into queue.unpublished (job_type, workspace_id, job_id)
    values (p_job.job_type, p_job.workspace_id, p_job.id);
    update public.jobs
    -- queue.leave_places finds the job in queue.unpublished only if its lane is 0
    set lane = 0
    where id = p_job.id and lane <> 0;
    return false;
  elsif p_job.deadline_at <= p_now then
    return false; -- maintenance ends the job, whose deadline has passed
  elsif v_run_at > p_now then
    insert into queue.deferred (run_at, job_id, workspace_id, is_place)
    values (v_run_at, p_job.id, p_job.workspace_id, true)
    on conflict do nothing;
    return false;
  end if;
  if p_type.job_type is null then
    select * into p_type
    from queue.job_types as t
    where t.job_type = p_job.job_type;
  end if;
  if p_type.rate_per_key or p_type.key_concurrency is not null then
    v_key := case
      when p_type.rate_per_key then coalesce(p_job.concurrency_key, '')
      else p_job.concurrency_key
    end;
    if p_type.in_order
      and exists (
        select from queue.gated as g
        where g.workspace_id = p_job.workspace_id
          and g.job_type = p_job.job_type
          and g.key = v_key
          and g.admitted
          and not g.ended
          and g.job_id = p_job.id
      )
    then
      -- the delayed job still counts against the limit of its concurrency key, so the job need not
      -- wait for this limit again
      v_key := null;
    end if;
  end if;
  if v_key is null then
    insert into queue.ready (lane, workspace_id, ord, ready_at, job_id)
    values (
      p_job.lane,
      p_job.workspace_id,
      p_job.ord,
      -- earliest start of the job, which is never before the time at which the job was released or
      -- at which its wait ended
      coalesce(greatest(v_run_at, p_job.updated_at), p_now),
      p_job.id
    );
    return queue.note_turn(p_job.lane, p_job.workspace_id, p_job.ord);
  end if;
  insert into queue.gated (lane, workspace_id, job_type, key, ord, job_id)
  values (
    p_job.lane, p_job.workspace_id, p_job.job_type, v_key, p_job.ord, p_job.id
  );
  insert into queue.notes (lane, workspace_id, key)
  values (p_job.lane, p_job.workspace_id, v_key);
  return true;
end;
$$;

-- Store an idempotency key for the job p_id. If the idempotency key already belongs to another job,
-- return the id of the other job. Otherwise return p_id.
-- p_made: Ids of the jobs that this call will insert after it has stored their keys.
create function queue.claim_key(
  p_workspace_id uuid,
  p_job_type text,
  p_key text,
  p_payload jsonb,
  p_id uuid,
  p_made uuid[]
)
returns uuid
language plpgsql
set search_path = ''
as $$
declare
  v_hash constant text := md5(p_payload::text);
  v_taken queue.job_keys;
begin
  perform queue.hold_key(p_workspace_id, p_job_type, p_key);
  insert into queue.job_keys as k (
    workspace_id, job_type, key, is_unique, job_id, request_hash
  )
  values (p_workspace_id, p_job_type, p_key, false, p_id, v_hash)
  -- this update only locks the key's row
  on conflict (workspace_id, job_type, key, is_unique) do update set key = k.key
  returning * into v_taken;
  -- The insert of the key may have waited for another transaction, which then committed a job with
  -- this key. Look for the job with this key in a separate statement, because the insert does not
  -- see a job that another transaction committed while the insert waited.
  if v_taken.job_id <> all (p_made)
    and not exists (select from public.jobs as j where j.id = v_taken.job_id)
  then
    update queue.job_keys as k
    set request_hash = v_hash, job_id = p_id
    where (workspace_id, job_type, key, is_unique)
      = (p_workspace_id, p_job_type, p_key, false);
    return p_id;
  elsif v_taken.request_hash <> v_hash then
    perform queue.refuse(
      409,
      'idempotency_conflict',
      'this idempotency key was used with another payload',
      v_taken.job_id::text
    );
  end if;
  return v_taken.job_id;
end;
$$;

-- Store the idempotency key and the unique key of a new job, and return the id of the new job. If
-- another job already has one of the keys, return the id of that other job. With on_conflict
-- 'replace', a pending job that has the unique key gets the payload of the new job. With
-- on_conflict 'replace', the pending job also gets each of the options tags, priority,
-- scheduled_for and start_by_seconds that the call sets. If the unique key already belongs to
-- another job, store the idempotency key of the call for that other job, with freed_when 'other'.
create function queue.claim(p_job public.jobs, p_options jsonb, p_now timestamptz)
returns uuid
language plpgsql
set search_path = ''
as $$
declare
  -- with debounce_seconds, the call replaces the pending job that has the unique key
  v_unique constant jsonb := case
    when p_options ->> 'debounce_seconds' is not null
      then '{"until": "leased", "on_conflict": "replace"}'
    else p_options -> 'unique'
  end;
  v_priority constant integer := (p_options ->> 'priority')::integer;
  v_id uuid := p_job.id;
  v_replaced public.jobs;
begin
  if p_job.idempotency_key is not null then
    v_id := queue.claim_key(
      p_job.workspace_id,
      p_job.job_type,
      p_job.idempotency_key,
      p_job.payload,
      p_job.id,
      array[p_job.id]
    );
  end if;
  if v_id <> p_job.id or p_job.unique_key is null then
    return v_id;
  end if;
  perform queue.hold_key(p_job.workspace_id, p_job.job_type, p_job.unique_key);
  loop
    insert into queue.job_keys (
      workspace_id, job_type, key, is_unique, job_id, freed_when
    )
    values (
      p_job.workspace_id,
      p_job.job_type,
      p_job.unique_key,
      true,
      p_job.id,
      coalesce(v_unique ->> 'until', 'finished')
    )
    on conflict do nothing;
    if found then
      return p_job.id;
    end if;
    select u.job_id into v_id
    from queue.job_keys as u
    where (u.workspace_id, u.job_type, u.key, u.is_unique)
      = (p_job.workspace_id, p_job.job_type, p_job.unique_key, true);
    -- the unique key was freed between the insert and this query
    continue when not found;
    if not exists (select from public.jobs where id = v_id) then
      -- The row of the key still exists, but its job was deleted while another transaction had
      -- locked the key.
      delete from queue.job_keys as u
      where u.job_id = v_id
        and (u.workspace_id, u.job_type, u.key, u.is_unique)
        = (p_job.workspace_id, p_job.job_type, p_job.unique_key, true);
      continue;
    end if;
    if v_unique ->> 'until' = 'leased' then
      -- a retried job keeps its key until it ends, but not from a call that frees keys at a lease
      delete from queue.job_keys as u
      using public.jobs as j
      where j.id = v_id
        and j.status <> 'pending'
        and u.job_id = v_id
        and (u.workspace_id, u.job_type, u.key, u.is_unique)
        = (p_job.workspace_id, p_job.job_type, p_job.unique_key, true)
        and u.freed_when = 'retried';
      continue when found;
    end if;
    if v_unique ->> 'on_conflict' = 'raise' then
      perform queue.refuse(
        409,
        'duplicate_job',
        'this unique key already belongs to a job',
        v_id::text
      );
    end if;
    exit when v_unique ->> 'on_conflict' is distinct from 'replace';
    perform queue.hold_jobs(array[v_id]);
    -- another transaction freed the unique key before this transaction locked the job
    continue when not exists (
      select from queue.job_keys as u
      where u.job_id = v_id
        and (u.workspace_id, u.job_type, u.key, u.is_unique)
        = (p_job.workspace_id, p_job.job_type, p_job.unique_key, true)
    );
    exit when not exists (
      select from public.jobs
      where id = v_id and status = 'pending'
    );
    perform queue.admit(
      'rows',
      p_job.workspace_id,
      p_bytes => octet_length(p_job.payload::text)
    );
    perform queue.check_live_bytes(p_job.workspace_id);
    perform queue.leave_places(array[v_id]);
    update public.jobs as j
    set
      payload = p_job.payload,
      tags = coalesce(p_job.tags, j.tags),
      schema_version = p_job.schema_version,
      last_seq = j.last_seq + 1,
      priority = coalesce(v_priority, j.priority),
      scheduled_for = coalesce(p_job.scheduled_for, j.scheduled_for),
      next_retry_at = case
        when p_job.scheduled_for is null then j.next_retry_at
      end,
      start_by_seconds = coalesce(p_job.start_by_seconds, j.start_by_seconds),
      start_by_at = greatest(p_now, coalesce(p_job.scheduled_for, j.scheduled_for))
        + make_interval(secs => coalesce(p_job.start_by_seconds, j.start_by_seconds)),
      ord = queue.ord_of(
        coalesce(v_priority, j.priority),
        coalesce(p_job.scheduled_for, j.scheduled_for, j.created_at)
      )
    where j.id = v_id
    returning * into v_replaced;
    perform queue.place(v_replaced, p_now);
    perform queue.append_event(
      array[v_id],
      'job.replaced',
      jsonb_strip_nulls(jsonb_build_object('scheduled_for', v_replaced.scheduled_for)),
      p_now,
      p_is_counted => true
    );
    exit;
  end loop;
  -- store the idempotency key of this call for the job that already has the unique key
  update queue.job_keys as k
  set job_id = v_id, freed_when = 'other'
  where (k.workspace_id, k.job_type, k.key, k.is_unique)
    = (p_job.workspace_id, p_job.job_type, p_job.idempotency_key, false);
  return v_id;
end;
$$;

-- Check a new job, insert its row into public.jobs, and insert the job into queue.ready or another
-- table of waiting jobs (queue.place). The caller must publish the event of the job's creation.
-- p_id: Id of the new job, for which the caller may already have stored an idempotency key.
-- job: The new job, or the existing job to which one of the keys already belongs.
-- created: False if one of the keys already belongs to another job.
-- is_ready: True if a lease can get the job now.
create function queue.add(
  p_workspace_id uuid,
  p_user_id uuid,
  p_type queue.job_types,
  p_payload jsonb,
  p_options jsonb,
  p_now timestamptz,
  p_within text default '',
  p_id uuid default null,
  out job public.jobs,
  out created boolean,
  out is_ready boolean
)
language plpgsql
set search_path = ''
as $$
declare
  v_id uuid;
  v_holder public.jobs;
begin
  job := queue.new_job(
    p_workspace_id, p_user_id, p_type, p_payload, p_options, p_now, p_within, p_id
  );
  if job.idempotency_key is not null or job.unique_key is not null then
    loop
      v_id := queue.claim(job, p_options, p_now);
      exit when v_id = job.id;
      select * into v_holder
      from public.jobs
      where id = v_id;
      if found then
        job := v_holder;
        created := false;
        is_ready := false;
        return;
      -- the job that had one of the keys was deleted in the meantime, so its keys are free
      end if;
    end loop;
  end if;
  insert into public.jobs select job.*;
  is_ready := queue.place(job, p_now, p_type);
  created := true;
end;
$$;

-- Enqueue a simple job, which is ready immediately. queue.enqueue_simple does the same as
-- queue.add, queue.publish and queue.job_json, but faster, in one statement.
-- tests/sql/test_inserts.py compares queue.enqueue_simple with the slower functions.
create function queue.enqueue_simple(
  p_workspace_id uuid,
  p_type record,
  p_payload jsonb,
  p_now timestamptz
)
returns json
language plpgsql
set search_path = ''
as $$
declare
  v_id constant uuid := queue.new_id();
  v_ord constant bigint := queue.ord_of(100, p_now);
  v_is_held constant boolean := queue.hold_turn(p_type.lane, p_workspace_id);
  v_data constant jsonb := jsonb_build_object(
    'status', 'pending', 'attempts', 0, 'job_type', p_type.job_type
  );
  v_seqs constant integer[] := case when not p_type.is_minimal then '{1}' end;
  v_trace constant text := case
    when current_setting('request.headers', true) <> '' then queue.request_traceparent()
  end;
  v_unsent constant boolean := nullif( -- true or null, as in queue.feed
    not queue.send(array[
      row(p_workspace_id, null, 'job.created', v_data, array[v_id], v_seqs, p_now)::queue.change
    ]),
    false
  );
  -- fields of the response that are the same for every job that this function enqueues
  c_answer constant text := '{"status": "pending", "priority": 100, "attempts": 0, "fence": 0,
    "generation": 1, "lost_attempts": 0, "deaths": 0, "state": "queued", "tags": [],
    "progress": {"percentage": 0, "stage": null, "message": null},
    "times": {"queue_ms": 0, "run_ms": 0, "earlier_ms": 0, "runs": 0},
    "user_id": null, "session_id": null, "result": null, "error": null, "error_message": null,
    "error_data": null, "timeout_seconds": null, "cost_usd": null, "started_at": null,
    "finished_at": null, "completed_at": null, "next_retry_at": null, "scheduled_for": null,
    "deadline_at": null, "start_by_seconds": null, "start_by_at": null,
    "cancel_requested_at": null, "concurrency_key": null, "idempotency_key": null,
    "unique_key": null, "parent_id": null, "replay_of": null, "replay_from": null,
    "waiting_for": null, "running_since": null, "worker_id": null, ';
begin
  with made as (
    insert into public.jobs (
      id, workspace_id, lane, max_attempts, last_seq, is_minimal, schema_version, queue,
      job_type, payload, traceparent, ord, created_at, updated_at
    )
    values (
      v_id,
      p_workspace_id,
      p_type.lane,
      p_type.max_attempts,
      coalesce(cardinality(v_seqs), 0),
      nullif(p_type.is_minimal, false),
      p_type.schema_version,
      p_type.queue,
      p_type.job_type,
      p_payload,
      v_trace,
      v_ord,
      p_now,
      p_now
    )
  ),
  placed as (
    insert into queue.ready (lane, workspace_id, ord, ready_at, job_id)
    values (p_type.lane, p_workspace_id, v_ord, p_now, v_id)
  ),
  noted as ( -- the same insert as in queue.note_turn
    insert into queue.notes (lane, workspace_id, ord)
    select p_type.lane, p_workspace_id, v_ord
    where not v_is_held
      or not exists (
        select from queue.turns as t
        where t.lane = p_type.lane
          and t.workspace_id = p_workspace_id
          and t.from_ord <= v_ord
          and not (t.blocked and t.look_at is null)
        union all
        select from queue.turn_notes as n
        where n.workspace_id = p_workspace_id and n.lane = p_type.lane and n.ord <= v_ord
      )
  )
  insert into queue.feed ( -- the same insert as in queue.publish
    number, at, workspace_id, type, data, job_ids, seqs, wakes, unsent
  )
  values (
    queue.feed_number(),
    p_now,
    p_workspace_id,
    'job.created',
    v_data,
    array[v_id],
    v_seqs,
    true,
    case when v_seqs is not null then v_unsent end
  );
  return (
    c_answer || substr(
      json_build_object(
        'id', v_id, 'workspace_id', p_workspace_id, 'queue', p_type.queue,
        'job_type', p_type.job_type, 'payload', p_payload,
        'max_attempts', p_type.max_attempts, 'last_seq', coalesce(cardinality(v_seqs), 0),
        'schema_version', p_type.schema_version, 'created_at', p_now, 'updated_at', p_now,
        'traceparent', v_trace, 'next_run_at', p_now
      )::text,
      2
    )
  )::json;
end;
$$;

create function public.enqueue_job(
  p_workspace_id uuid,
  p_job_type text,
  p_payload jsonb default '{}',
  p_options jsonb default '{}'
)
returns json -- json, because jsonb sorts the keys of each object
language plpgsql
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_payload constant jsonb := coalesce(p_payload, '{}');
  v_options constant jsonb := coalesce(p_options, '{}');
  v_claims constant jsonb := nullif(current_setting('request.jwt.claims', true), '');
  v_type record;
  v_user uuid;
  v_made record;
  v_job public.jobs;
  v_is_published boolean;
begin
  -- the service enqueues a simple job
  if v_options = '{}'
    and jsonb_typeof(v_payload) = 'object' -- the same test of the payload as in queue.new_job
    and pg_column_size(v_payload) <= 200
    and octet_length(v_payload::text) <= 309
    and (
      v_claims is null
      or v_claims ->> 'sub' is null
        and v_claims ->> 'role' in ('service_role', 'job_worker')
    )
  then
    select t.job_type, t.lane, t.queue, t.max_attempts, t.schema_version, t.is_minimal
    into v_type
    from queue.job_types as t
    where t.job_type = p_job_type
      and t.schema_version > 0
      and t.payload_schema is null
      and not t.rate_per_key
      and exists (select from queue.tenants as w where w.id = p_workspace_id);
    if found then
      return json_build_object(
        'job', queue.enqueue_simple(p_workspace_id, v_type, v_payload, v_now),
        'created', true,
        'wake', queue.wake_worker(v_now)
      );
    end if;
  end if;
  v_user := queue.may_read(p_workspace_id);
  -- a repeated call with an idempotency key creates no job, so it takes no token of the rate limit
  if v_user is not null
    and not exists (
      select from queue.job_keys as k
      where k.workspace_id = p_workspace_id
        and k.job_type = p_job_type
        and (
          k.key = v_options ->> 'idempotency_key' and not k.is_unique
          or k.key = v_options #>> '{unique,key}' and k.is_unique
        )
    )
  then
    perform queue.admit(
      'jobs',
      p_workspace_id,
      p_bytes => octet_length(v_payload::text)
    );
  end if;
  v_made := queue.add(
    p_workspace_id,
    v_user,
    queue.require_type(p_job_type, '', p_workspace_id),
    v_payload,
    v_options,
    v_now
  );
  v_job := v_made.job;
  if v_made.created then
    v_is_published := queue.publish(
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
          case when v_job.is_minimal is null then '{1}'::integer[] end,
          v_now
        )::queue.change
      ],
      v_now,
      p_is_soon => coalesce(v_job.scheduled_for, v_now) < v_now + interval '1 minute'
    );
  end if;
  return json_build_object(
    'job', queue.job_json(v_job),
    'created', v_made.created,
    'wake', v_made.created and v_made.is_ready and queue.wake_worker()
  );
end;
$$;
comment on function public.enqueue_job is
  E'Enqueue one job: {job, created, wake}.\n\n'
  'The job exists if and only if the transaction commits. Options: queue, priority, scheduled_for '
  'or delay_seconds, max_attempts, timeout_seconds, idempotency_key, concurrency_key, unique, '
  'debounce_seconds, session_id, parent_id, tags, deadline_at, start_by_seconds, schema_version, '
  'traceparent, user_id.';
select queue.allow('authenticated, service_role', 'public.enqueue_job');

-- Times at which the engine last called a worker, and at which workers last called the engine. Each
-- time is the value of a sequence, because other transactions see a new sequence value before the
-- transaction that set it commits.
-- notified_at: Time of the last notification to workers, in fiftieths of a second since 1970.
-- wanted_ms: Time at which an enqueue last called a worker, in milliseconds since 1970, or 0 after
--   a worker has requested jobs.
-- wanted_by: Hash of the id of the person whose enqueue last called a worker, or 0 for the service.
-- slots_ms: Time in milliseconds at which a worker with free slots last requested jobs.
-- listened_ms: Time in milliseconds at which a worker that Realtime wakes last requested jobs.
create unlogged sequence queue.notified_at minvalue 0 start 0; -- noqa: PRS
create unlogged sequence queue.wanted_ms minvalue 0 start 0; -- noqa: PRS
create unlogged sequence queue.wanted_by minvalue 0 start 0; -- noqa: PRS
create unlogged sequence queue.slots_ms minvalue 0 start 0; -- noqa: PRS
create unlogged sequence queue.listened_ms minvalue 0 start 0; -- noqa: PRS

-- Notify the workers that use LISTEN. If a worker that follows a Realtime topic has requested jobs
-- in the last 150 seconds, also send one Realtime message per transaction, unless half of the
-- budget of Realtime messages is used up.
-- p_job_type: Job type of the ready jobs. Null if jobs of any type may be ready.
create function queue.send_wakeup(p_now timestamptz, p_job_type jsonb default null)
returns void
language plpgsql
set search_path = ''
as $$
begin
  perform pg_notify('minutehand_wakeup', '');
  if date_part('epoch', clock_timestamp()) * 1000 - pg_sequence_last_value('queue.listened_ms')
    <= 150000
    and coalesce(current_setting('minutehand.sent_wakeup', true), '') = ''
  then
    perform set_config('minutehand.sent_wakeup', 'true', true);
    perform queue.write_messages(
      array[
        row(
          queue.wake_topic(),
          null,
          p_now,
          false,
          'wake',
          jsonb_build_object('job_type', p_job_type),
          w.cost
        )::queue.message
      ],
      w.cost
    )
    from queue.message_budget('{}') as b
    cross join (
      select 1 + count(*) as cost -- each worker whose process has not ended may get the message
      from queue.workers as w
      where w.seen_at > p_now - interval '2 minutes'
        and w.evidence is null
        and (w.summary -> 'stopped') is null
    ) as w
    where 2 * (b.used + w.cost) <= b.budget;
  end if;
end;
$$;

-- Notify workers of an enqueue at most once in 20 ms, because each commit with a notification takes
-- a lock of the whole server. If a job causes no notification, it waits at most a second, because
-- idle workers poll every second. A worker that was notified and finds no job polls again after a
-- tenth of a second.
create function queue.notify_workers()
returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
  -- Assign v_at in the declare section, because Postgres would also plan a cast for an assignment
  -- in the body.
  v_at constant bigint := (date_part('epoch', clock_timestamp()) * 50)::bigint;
  v_by constant text := current_setting('minutehand.wakes', true);
  v_ignored text;
begin
  if v_by <> '' then
    v_ignored := setval('queue.wanted_by', v_by::bigint);
    v_ignored := setval(
      'queue.wanted_ms',
      greatest(0, (date_part('epoch', queue.clock()) * 1000)::bigint)
    );
  end if;
  if v_at is distinct from pg_sequence_last_value('queue.notified_at') then
    v_ignored := setval('queue.notified_at', v_at);
    perform queue.send_wakeup(new.at, new.data -> 'job_type');
  end if;
  return null;
end;
$$;
-- The trigger runs at the commit, because a worker that was notified earlier would poll before the
-- job is visible.
create constraint trigger feed_notify
  after insert on queue.feed
  deferrable initially deferred
  for each row
  when (new.wakes)
  execute function queue.notify_workers();

-- Record that a worker run with free slots is about to end. If queue.slots_ms (the time of the last
-- request for jobs) is later than two seconds ago, the function sets it to two seconds ago, so that
-- the next enqueue starts a worker (queue.wake_worker). The worker must then request jobs once
-- more, because enqueues of the last two seconds relied on this run.
create function queue.withdraw_run(p_now timestamptz)
returns bigint
language plpgsql
set search_path = ''
as $$
declare
  v_before constant bigint := (date_part('epoch', p_now) * 1000)::bigint - 2000;
begin
  return case
    when pg_sequence_last_value('queue.slots_ms') > v_before
      then setval('queue.slots_ms', v_before)
  end;
end;
$$;

-- Return true if the caller should start a worker. The result is false if a worker with free slots
-- requested jobs in the last two seconds, or if a worker was called in the last two seconds. If
-- public.connect_worker has stored the address of a worker, pg_net calls this address when the
-- transaction commits. With pg_net, a project without AWS needs no other service that calls its
-- worker. On AWS, the API and a schedule also call workers.
--
-- A call is recorded only if pg_net or the API makes it, because browsers and triggers ignore the
-- result. queue.notify_workers records the time at the commit. The API identifies itself by a
-- request header. Anyone can send this header, so a person's call suppresses further calls of the
-- same person only.
-- p_is_due: True for the call by pg_cron once a minute, which starts a worker even if a worker was
--   called in the last two seconds.
create function queue.wake_worker(
  p_now timestamptz default queue.clock(),
  p_is_due boolean default false
)
returns boolean
language plpgsql
set search_path = ''
as $$
declare
  v_caller bigint := case current_setting('role')
    when 'authenticated' then hashtext(queue.caller()::text) & 2147483647 | 1
    when 'anon' then null
    else 0
  end;
  v_since constant bigint := (date_part('epoch', p_now) * 1000)::bigint - greatest(
    case
      when coalesce(pg_sequence_last_value('queue.wanted_by'), 0) in (0, v_caller)
        then pg_sequence_last_value('queue.wanted_ms')
    end,
    pg_sequence_last_value('queue.slots_ms'),
    0
  );
  v_url text;
  v_ignored text;
begin
  if v_since between 0 and 1999 and not p_is_due then
    return false;
  end if;
  -- first check whether the Vault is installed, because this check costs less than reading a
  -- setting
  if to_regclass('vault.decrypted_secrets') is not null then
    v_url := queue.setting('worker_url') #>> '{}';
  end if;
  if v_url is not null then
    v_caller := 0;
  elsif nullif(current_setting('request.headers', true), '')::json ->> 'x-minutehand-wakes'
    is distinct from 'true'
  then
    v_caller := null;
  end if;
  v_ignored := set_config('minutehand.wakes', v_caller::text, true);
  if v_url is null then
    return true;
  end if;
  begin
    execute $do$select net.http_post(url := $1, body := '{}'::jsonb, params := '{}'::jsonb,
        headers := jsonb_build_object('Authorization', 'Bearer ' || s.decrypted_secret,
          'Content-Type', 'application/json'), timeout_milliseconds := 2000)
      from vault.decrypted_secrets as s where s.name = 'minutehand_worker_token'$do$ using v_url;
  -- if the worker cannot be called, the enqueue must still succeed
  exception when others then
    raise warning 'the worker could not be called: % (%)', sqlerrm, sqlstate;
  end;
  return true;
end;
$$;

-- Lock the rows of jobs in public.jobs, queue.ready, queue.deferred and queue.waits. If another
-- transaction has locked one of the rows, lock none and return false. queue.lock_jobs never waits
-- for a lock, because a deadlock could result. Settlements lock a job's row of queue.leases before
-- its row of public.jobs, and deletes lock these rows in the opposite order. A lock_timeout that
-- ends just when the lock is granted is reported as a cancel of the statement by the user, which a
-- person would see as an error. A worker repeats such a call, so settlements use a lock_timeout.
create function queue.lock_jobs(p_ids uuid[])
returns boolean
language plpgsql
set search_path = ''
as $$
begin
  perform from public.jobs as j
  where j.id = any (p_ids)
  order by j.id
  for no key update nowait;
  perform from queue.ready as r
  join public.jobs as j
    on r.lane = j.lane
    and r.workspace_id = j.workspace_id
    and r.ord = j.ord
    and r.job_id = j.id
  where j.id = any (p_ids) and j.status = 'pending'
  order by r.lane, r.workspace_id, r.ord, r.job_id
  for update of r nowait;
  perform from queue.deferred as d
  join public.jobs as j
    on d.run_at = coalesce(j.next_retry_at, j.scheduled_for) and d.job_id = j.id and d.is_place
  where j.id = any (p_ids) and j.status = 'pending'
  order by d.run_at, d.job_id
  for update of d nowait;
  perform from queue.waits as w
  where w.job_id = any (p_ids)
  order by w.job_id
  for update nowait;
  return true;
exception when lock_not_available then
  return false;
end;
$$;

-- Lock jobs that a call is about to change. If another transaction has locked one of the jobs,
-- reject a person's call immediately, because all people share the few connections of the Data API.
-- A call of the service uses other connections, and waits up to eight seconds for locked jobs. The
-- wait for locked jobs is limited, because two transactions may each wait for a job that the other
-- transaction has locked.
create function queue.hold_jobs(p_ids uuid[])
returns void
language plpgsql
set search_path = ''
as $$
begin
  while not queue.lock_jobs(p_ids) loop
    if not queue.is_service() then
      perform queue.refuse(
        429,
        'job_busy',
        'another transaction is changing the job; call again',
        '{"retry_after_seconds": 1}'
      );
    elsif clock_timestamp() > statement_timestamp() + interval '8 seconds' then
      raise lock_not_available
        using message = 'another transaction has locked the job; call again';
    end if;
    perform pg_sleep(0.005);
  end loop;
end;
$$;

-- Delete the rows of jobs from queue.gated, queue.ready, queue.deferred and queue.unpublished,
-- before the engine moves or ends the jobs. The caller must have locked the jobs.
-- queue.leave_places first deletes the rows of queue.gated. If another transaction is moving one of
-- the jobs from queue.gated to queue.ready, the delete from queue.gated waits for the other
-- transaction, so that the later delete from queue.ready finds the job.
create function queue.leave_places(p_ids uuid[])
returns void
language plpgsql
set search_path = ''
as $$
begin
  with gone as (
    delete from queue.gated as g
    using public.jobs as j
    where j.id = any (p_ids)
      and g.workspace_id = j.workspace_id
      and g.job_type = j.job_type
      and g.key = coalesce(j.concurrency_key, '')
      and g.job_id = j.id
      and not g.ended -- the row of an ended job remains until the rate limit counts its start
    returning g.lane, g.workspace_id, g.key, g.admitted
  )
  insert into queue.notes (lane, workspace_id, key)
  select distinct g.lane, g.workspace_id, g.key
  from gone as g
  where g.admitted;
  delete from queue.ready as r
  using public.jobs as j
  where j.id = any (p_ids)
    and r.lane = j.lane
    and r.workspace_id = j.workspace_id
    and r.ord = j.ord
    and r.job_id = j.id;
  delete from queue.deferred as d
  using public.jobs as j
  where j.id = any (p_ids)
    and d.run_at in (coalesce(j.next_retry_at, j.scheduled_for), j.start_by_at)
    and d.job_id = j.id
    and (d.is_place or d.run_at is distinct from j.deadline_at); -- the row for the deadline remains
  delete from queue.unpublished as u
  using public.jobs as j
  where j.id = any (p_ids)
    and j.lane = 0
    and u.job_type = j.job_type
    and u.workspace_id = j.workspace_id
    and u.job_id = j.id;
end;
$$;

-- Return the state of a job as people see it. A retrying job waits for its backoff. A suspended job
-- waits for an event that its processor requested, for example for a person's answer.
create function queue.state_of(
  p_status text,
  p_attempts integer,
  p_next_retry_at timestamptz,
  p_scheduled_for timestamptz,
  p_now timestamptz
)
returns text
language plpgsql immutable
set search_path = ''
as $$
begin
  return case p_status
    when 'pending' then case
      when coalesce(p_next_retry_at, p_scheduled_for, '-infinity') <= p_now
        then 'queued'
      when p_next_retry_at is not null and p_attempts > 0 then 'retrying'
      else 'scheduled'
    end
    when 'processing' then 'running'
    when 'waiting' then 'suspended'
    else p_status
  end;
end;
$$;
