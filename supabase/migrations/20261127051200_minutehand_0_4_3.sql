-- 0.4.3 after the release before it; written by `python -m infra.release` from schemas and steps/0.4.3.sql.
-- Do not edit it, and do not read it: read the schemas.

-- All of these tables or none, as a worker's calls take them in more than one order: who held some
-- and waited for others would deadlock with them. 0.3 seconds are less than Postgres waits before
-- it looks for deadlocks.
do $$
declare
  c_timeout constant text := current_setting('lock_timeout');
begin
  for v_try in 1 .. 300 loop
    begin
      perform set_config('lock_timeout', '300ms', true);
      lock table public.jobs in access exclusive mode;
      perform set_config('lock_timeout', c_timeout, true);
      return;
    exception when lock_not_available or deadlock_detected then
      perform pg_sleep(0.1);
    end;
  end loop;
  raise lock_not_available
    using message = 'other transactions have used tables of Minutehand for two minutes',
      hint = 'Nothing was changed. End long transactions, then apply the migration again.';
end;
$$;

-- The condition is shorter, and the function compares the rest.
create or replace trigger jobs_cancel_by_update
  before update of status, priority, ord, queue, job_type, workspace_id,
    next_retry_at, scheduled_for, deadline_at, start_by_at, concurrency_key on public.jobs
  for each row
  when (new.fence = old.fence and new.last_seq = old.last_seq)
  execute function queue.cancel_by_update();

-- The release whose text this is, as minutehand.version says. Doctor compares with its record.
create or replace function queue.version()
returns text
language sql immutable
set search_path = ''
as $$
select '0.4.3'
$$;

revoke execute on function queue.version from public;

-- Hold a turn until this transaction ends, by its lock, which enqueues share: no lease can close it
-- or move its start meanwhile, since it would need the lock alone (queue.tidy_turns). False where a
-- lease has it so; from the 201st on, since the server's locks are few; and outside read committed,
-- where a later statement does not see what leases commit. The transaction's setting has the count
-- and the latest turn, so that jobs of one turn in a row count once.
create or replace function queue.hold_turn(p_lane integer, p_workspace_id uuid)
returns boolean
language plpgsql
set search_path = ''
as $$
declare
  v_turn constant text := p_lane || '/' || p_workspace_id;
  v_latest text[] := string_to_array(current_setting('minutehand.turns', true), ' ');
  v_count integer := coalesce(nullif(v_latest[1], '')::integer, 0);
  v_ignored text;
begin
  if v_turn is distinct from v_latest[2] then
    v_count := v_count + 1;
    v_ignored := set_config('minutehand.turns', v_count || ' ' || v_turn, true);
  end if;
  return v_count <= 200
    and current_setting('transaction_isolation') = 'read committed'
    and pg_try_advisory_xact_lock_shared(p_lane, uuid_hash(p_workspace_id));
end;
$$;

revoke execute on function queue.hold_turn from public;

drop function queue.claim_key(p_workspace_id uuid, p_job_type text, p_key text, p_payload jsonb, p_id uuid, p_own uuid[]);

-- Take an idempotency key; gives the job that has it. p_made: jobs of this call, not yet written.
create or replace function queue.claim_key(
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
  on conflict (workspace_id, job_type, key, is_unique) do update set key = k.key -- locked
  returning * into v_taken;
  -- a statement of its own sees a job that was committed while the one above waited for the key
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

revoke execute on function queue.claim_key from public;

-- Take the keys of a new job. Gives the id of the job that has them: its own, or another's where a
-- key was taken. With on_conflict 'replace' that other, if it is pending, gets the payload of the
-- new one, and its tags, priority, time and start_by_seconds where the call gives them. Where the
-- unique key was the one taken, the idempotency key of this call belongs to the other job from now
-- on (freed_when 'other').
create or replace function queue.claim(p_job public.jobs, p_options jsonb, p_now timestamptz)
returns uuid
language plpgsql
set search_path = ''
as $$
declare
  -- debounce replaces the job that waits
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
    continue when not found; -- freed between the two statements
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
    continue when not exists ( -- the key was freed meanwhile
      select from queue.job_keys as u
      where u.job_id = v_id
        and (u.workspace_id, u.job_type, u.key, u.is_unique)
        = (p_job.workspace_id, p_job.job_type, p_job.unique_key, true)
    );
    exit when not exists (
      select from public.jobs
      where id = v_id and status = 'pending'
    );
    perform queue.take_place(array[v_id]);
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
    perform queue.admit(
      'jobs',
      p_job.workspace_id,
      queue.caller(),
      p_bytes => octet_length(p_job.payload::text)
    );
    perform queue.append_event(
      array[v_id],
      'job.replaced',
      jsonb_strip_nulls(jsonb_build_object('scheduled_for', v_replaced.scheduled_for)),
      p_now,
      p_is_counted => true
    );
    exit;
  end loop;
  update queue.job_keys as k
  set job_id = v_id, freed_when = 'other'
  where (k.workspace_id, k.job_type, k.key, k.is_unique)
    = (p_job.workspace_id, p_job.job_type, p_job.idempotency_key, false);
  return v_id;
end;
$$;

revoke execute on function queue.claim from public;

drop function queue.enqueue_simple(p_workspace_id uuid, p_job_type text, p_payload jsonb, p_now timestamp with time zone);

-- Enqueue a simple job, which is ready at once: its type has neither a schema nor a rate per key,
-- and without a key it meets no other gate. Record, place, note and line of the feed are one
-- statement. Gives what queue.row_json gives of it.
create or replace function queue.enqueue_simple(
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
  v_seen constant record := queue.message_budget();
  v_data constant jsonb := jsonb_build_object(
    'status', 'pending', 'attempts', 0, 'job_type', p_type.job_type
  );
  v_seqs constant integer[] := case when not p_type.is_minimal then '{1}' end;
  v_trace constant text := substring( -- as in queue.new_job
    nullif(current_setting('request.headers', true), '')::json ->> 'x-minutehand-trace'
    from '^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$'
  );
  v_topic constant text := 'workspace:' || p_workspace_id;
  v_watchers bigint := 0;
  v_unsent boolean; -- true, or null
  -- what all such jobs have alike
  c_answer constant text := '{"status": "pending", "priority": 100, "attempts": 0, "fence": 0,
    "generation": 1, "lost_attempts": 0, "state": "queued", "tags": [],
    "progress": {"percentage": 0, "stage": null, "message": null},
    "times": {"queue_ms": 0, "run_ms": 0, "runs": 0},
    "user_id": null, "session_id": null, "result": null, "error": null, "error_message": null,
    "error_data": null, "timeout_seconds": null, "cost_usd": null, "started_at": null,
    "finished_at": null, "completed_at": null, "next_retry_at": null, "scheduled_for": null,
    "deadline_at": null, "start_by_seconds": null, "start_by_at": null,
    "cancel_requested_at": null, "concurrency_key": null, "idempotency_key": null,
    "unique_key": null, "parent_id": null, "replay_of": null, "replay_from": null,
    "waiting_for": null, "running_since": null, "worker_id": null, ';
begin
  -- as queue.publish
  if not p_type.is_minimal and to_regclass('realtime.messages') is not null then
    if v_seen.is_followed then
      v_watchers := (select count(*) from queue.followers as f where f.topic = v_topic);
    end if;
    v_unsent := true;
    if clock_timestamp() - now() <= interval '1 second'
      and queue.may_send(
        v_seen,
        1 + greatest(1, v_watchers),
        5 + sign(v_watchers)::integer,
        p_workspace_id,
        p_now
      )
      and queue.write_messages(
        array[v_topic],
        array['job.created'],
        array[
          jsonb_build_object(
            'job_id', v_id, 'seq', 1, 'type', 'job.created', 'data', v_data, 'at', p_now
          )
        ]
      )
    then
      v_unsent := null;
    end if;
  end if;
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
  noted as ( -- as queue.note_turn
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
        select from queue.notes as n
        where n.workspace_id = p_workspace_id
          and n.lane = p_type.lane
          and n.key is null
          and n.ord <= v_ord
      )
  )
  insert into queue.feed ( -- as queue.publish
    number, at, workspace_id, type, data, job_ids, seqs, wakes, unsent
  )
  values (
    queue.feed_number(greatest(pg_current_xact_id(), pg_snapshot_xmax(pg_current_snapshot()))),
    p_now,
    p_workspace_id,
    'job.created',
    v_data,
    array[v_id],
    v_seqs,
    true,
    v_unsent
  );
  if v_seen.is_streamed then
    perform pg_notify('minutehand_events', v_topic)
    from queue.streamed_topics as s
    where s.topic = v_topic and s.expires_at > clock_timestamp();
  end if;
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
  v_claims constant jsonb := nullif(current_setting('request.jwt.claims', true), '');
  v_type record;
  v_user uuid;
  v_made record;
  v_job public.jobs;
  v_is_ready boolean;
begin
  if v_options = '{}'
    and jsonb_typeof(v_payload) = 'object' -- as in queue.new_job
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

-- noqa: PRS

-- Notify workers, once in 20 ms: a transaction that notifies commits under a lock of the server.
create or replace function queue.notify_workers()
returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
  -- constant: to assign it later would prepare a cast
  v_at constant bigint := (date_part('epoch', clock_timestamp()) * 50)::bigint;
  v_ignored text;
begin
  if v_at is distinct from pg_sequence_last_value('queue.notified_at') then
    v_ignored := setval('queue.notified_at', v_at); -- an assignment is cheaper than a query
    v_ignored := pg_notify('minutehand_wakeup', '')::text;
  end if;
  return null;
end;
$$;

revoke execute on function queue.notify_workers from public;

-- Place and publish the jobs of a plain insert, all of the statement at once. A trigger of the
-- project's own may have changed or deleted some since they were written, or placed them itself: by
-- a call which starts a scheduled one now, and which counts an event.
create or replace function queue.place_inserted()
returns trigger
language plpgsql
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
set enable_seqscan = off
set jit = off
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_ids constant uuid[] := array(select a.id from added as a where a.worker = 0 order by a.id);
  v_is_ready boolean;
  v_rest uuid[];
  v_changed uuid[];
begin
  if v_ids = '{}' then -- the engine's own
    return null;
  end if;
  perform queue.may_read(w.workspace_id)
  from (select distinct a.workspace_id from added as a where a.worker = 0) as w;
  if v_ids[1] < queue.id_at(v_now - interval '1 day')
    or v_ids[cardinality(v_ids)] > queue.id_at(v_now + interval '1 day')
  then -- retention reads ages from ids
    perform queue.refuse(
      400,
      'invalid_argument',
      'an id must be a version 7 UUID of today',
      'id'
    );
  end if;
  with jobs as materialized (
    select
      j.id,
      j.lane,
      j.workspace_id,
      j.ord,
      j.created_at,
      -- it has more events than its creation: a trigger's call has changed it
      j.last_seq > (j.is_minimal is null)::integer as is_changed,
      j.lane = t.lane
        and j.last_seq = (j.is_minimal is null)::integer
        and num_nonnulls(j.scheduled_for, j.deadline_at, j.start_by_seconds) = 0
        and not t.rate_per_key
        and (t.key_concurrency is null or j.concurrency_key is null) as is_simple
    from unnest(v_ids) as i (id)
    join public.jobs as j on j.id = any (array[i.id]) and j.status = 'pending'
    left join queue.job_types as t on t.job_type = j.job_type
  ),
  placed as ( -- as queue.place of jobs that are ready at once
    insert into queue.ready (lane, workspace_id, ord, ready_at, job_id)
    select j.lane, j.workspace_id, j.ord, j.created_at, j.id
    from jobs as j
    where j.is_simple
  ),
  noted as materialized (
    select queue.note_turn(k.lane, k.workspace_id, k.ord) as is_ready
    from (
      select j.lane, j.workspace_id, min(j.ord) as ord
      from jobs as j
      where j.is_simple
      group by 1, 2
    ) as k
  )
  select
    coalesce((select bool_or(n.is_ready) from noted as n), false), -- reads all of it
    (select array_agg(j.id) from jobs as j where j.is_simple is not true),
    (select array_agg(j.id) from jobs as j where j.is_changed)
  into v_is_ready, v_rest, v_changed;
  if v_rest is not null then
    perform queue.take_place(v_changed) where v_changed is not null;
    v_is_ready := coalesce(
      (
        select bool_or(queue.place(j, j.created_at))
        from unnest(v_rest) as i (id)
        join public.jobs as j on j.id = i.id
      ),
      false
    ) or v_is_ready;
  end if;
  -- a line of the feed holds at most a thousand jobs, as those of bulks do
  for v_slice in 0 .. (cardinality(v_ids) - 1) / 1000 loop
    perform queue.publish_created(v_ids[1000 * v_slice + 1:1000 * v_slice + 1000], v_now);
  end loop;
  if queue.caller() is not null then
    perform queue.admit(
      'jobs',
      a.workspace_id,
      queue.caller(),
      count(*),
      sum(octet_length(a.payload::text))
    )
    from added as a
    where a.worker = 0
    group by a.workspace_id;
  end if;
  if v_is_ready then
    perform queue.wake_worker(v_now);
  end if;
  return null;
end;
$$;

revoke execute on function queue.place_inserted from public;

-- Delete what belongs to deleted jobs.
create or replace function queue.after_delete()
returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_ids constant uuid[] := array(select id from removed order by id);
begin
  delete from queue.ready as r
  using removed as j
  where r.lane = j.lane
    and r.workspace_id = j.workspace_id
    and r.ord = j.ord
    and r.job_id = j.id;
  delete from queue.deferred as d
  using removed as j
  where j.finished_at is null
    and d.job_id = j.id
    and d.run_at in (j.next_retry_at, j.scheduled_for, j.deadline_at, j.start_by_at);
  with theirs as (
    select
      g.ctid as tid,
      g.lane,
      g.workspace_id,
      g.job_type,
      g.key,
      g.started_at < 'infinity' is true as is_unpaid
    from queue.gated as g
    join removed as j
      on j.finished_at is null
      and g.job_id = j.id
      and g.workspace_id = j.workspace_id
      and g.job_type = j.job_type
      and g.key = coalesce(j.concurrency_key, '')
    for update of g
  ),
  ended as (
    update queue.gated
    set ended = true -- its start is yet to be charged
    where ctid = any (array(select t.tid from theirs as t where t.is_unpaid))
  ),
  gone as (
    delete from queue.gated
    where ctid = any (array(select t.tid from theirs as t where not t.is_unpaid))
  )
  insert into queue.notes (lane, workspace_id, key)
  select distinct t.lane, t.workspace_id, t.key
  from theirs as t
  where exists ( -- others of the key
    select from queue.gated as g
    where g.workspace_id = t.workspace_id
      and g.job_type = t.job_type
      and g.key = t.key
      -- an unpaid row stays, for the gate to charge
      and (t.is_unpaid or g.job_id <> all (v_ids))
  );
  delete from queue.unpublished as u
  using removed as j
  where j.lane = 0
    and u.job_type = j.job_type
    and u.workspace_id = j.workspace_id
    and u.job_id = j.id;
  -- one that an enqueue uses just now stays: that finds its job deleted, and takes the key
  delete from queue.job_keys
  where ctid = any (array(
    select o.ctid
    from removed as j
    cross join lateral (
      values (j.idempotency_key, false), (j.unique_key, true)
    ) as k (key, is_unique)
    join queue.job_keys as o
      on o.workspace_id = j.workspace_id
      and o.job_type = j.job_type
      and o.key = k.key
      and o.is_unique = k.is_unique
      and o.job_id = j.id
    for update of o skip locked
  ));
  delete from queue.job_keys
  where ctid = any (array(
    select o.ctid
    from removed as j
    join queue.job_keys as o on o.job_id = j.id and o.freed_when = 'other'
    for update of o skip locked
  ));
  -- one that a report or settlement holds stays, which waits for the record: it is swept later
  delete from queue.leases
  where ctid = any (array(
    select l.ctid
    from queue.leases as l
    where l.job_id = any (v_ids)
    for update skip locked
  ));
  delete from queue.waits where job_id = any (v_ids);
  delete from queue.dead as d
  using removed as j
  where d.workspace_id = j.workspace_id and d.job_id = j.id;
  delete from queue.steps where job_id = any (v_ids);
  delete from queue.pieces where job_id = any (v_ids);
  delete from queue.outputs where job_id = any (v_ids);
  delete from queue.attempts where job_id = any (v_ids);
  delete from public.job_logs where job_id = any (v_ids);
  delete from queue.job_events where job_id = any (v_ids);
  -- not of those past their retention, whose lines are gone
  perform queue.forget_in_feed(
    v_ids,
    array_agg(distinct j.workspace_id),
    min(j.created_at)
  )
  from removed as j
  where j.updated_at > queue.clock()
    - make_interval(hours => queue.setting('feed_hours')::integer)
  having count(*) > 0;
  insert into queue.signals (kind, workspace_id, job_id)
  select 'check', j.workspace_id, j.parent_id
  from removed as j
  where j.parent_id is not null
  union
  select 'cancel', c.workspace_id, c.parent_id
  from public.jobs as c
  where c.parent_id = any (v_ids) and c.finished_at is null;
  return null;
end;
$$;

revoke execute on function queue.after_delete from public;

-- How many more jobs of a key may be admitted, at most 1,000: by its concurrency, from which those
-- that are admitted already are taken; and by its rate. An admitted job reserves a token
-- until it starts. Those that have started since are charged here, as of their start, and those
-- that have ended and owe nothing are deleted. tokens: what then is left of the rate, at that time.
create or replace function queue.free_of_key(
  p_type queue.job_types,
  p_workspace_id uuid,
  p_key text,
  out free integer,
  out tokens double precision,
  out at timestamptz
)
language plpgsql
set search_path = ''
as $$
declare
  v_bucket constant text := format(
    'k:%s/%s/%s',
    p_workspace_id,
    p_type.job_type,
    p_key
  );
  v_begun tid[];
  v_unpaid integer;
begin
  free := 1000;
  if p_type.rate_per_key then
    v_begun := array( -- skip those being settled: two settlements would wait for each other
      select g.ctid
      from queue.gated as g
      where g.workspace_id = p_workspace_id
        and g.job_type = p_type.job_type
        and g.key = p_key
        and g.admitted
        and g.started_at < 'infinity'
      for update skip locked
    );
    perform queue.spend(
      v_bucket,
      p_type.rate_limit,
      p_type.rate_per_seconds,
      1,
      g.started_at
    )
    from (
      select started_at
      from queue.gated
      where ctid = any (v_begun)
      order by started_at
    ) as g;
    update queue.gated as g
    set started_at = 'infinity'
    where g.ctid = any (v_begun);
    v_unpaid := (
      select count(*)
      from queue.gated as g
      where g.workspace_id = p_workspace_id
        and g.job_type = p_type.job_type
        and g.key = p_key
        and g.admitted
        and (g.started_at < 'infinity' or g.started_at is null and not g.ended)
    );
    -- after the count: a job that starts in between still reserves its token
    at := queue.clock();
    tokens := queue.tokens_of(
      v_bucket,
      p_type.rate_limit,
      p_type.rate_per_seconds,
      at
    ) - v_unpaid;
    free := greatest(0, floor(tokens + 1e-9))::integer;
  end if;
  delete from queue.gated as g
  where g.workspace_id = p_workspace_id
    and g.job_type = p_type.job_type
    and g.key = p_key
    and g.admitted
    and g.ended
    -- but one that has ended since then and is yet to be charged; those that never started go
    and (p_type.rate_per_key and g.started_at < 'infinity') is not true;
  if p_type.key_concurrency is not null and p_key <> '' then
    free := greatest(
      0,
      least(
        free,
        p_type.key_concurrency - (
          select count(*)
          from queue.gated as g
          where g.workspace_id = p_workspace_id
            and g.job_type = p_type.job_type
            and g.key = p_key
            and g.admitted
        )
      )
    );
  end if;
end;
$$;

revoke execute on function queue.free_of_key from public;

-- Let as many of a key's jobs through its gate as may run, of lanes that are served and not paused.
-- Where another transaction does so now, leave a note. p_lane: any lane of the type.
create or replace function queue.open_gate(
  p_lane integer,
  p_workspace_id uuid,
  p_job_type text,
  p_key text,
  p_now timestamptz
)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_type queue.job_types;
  v_open integer[];
  v_closed uuid[];
  v_count record;
  v_admitted record;
  v_look_at timestamptz;
begin
  if not queue.try_lock(format(
    'gate %s/%s/%s',
    p_workspace_id,
    p_job_type,
    p_key
  )) then
    insert into queue.notes (lane, workspace_id, key)
    values (p_lane, p_workspace_id, p_key);
    return;
  end if;
  select * into v_type
  from queue.job_types as t
  where t.job_type = p_job_type;
  v_open := array(
    select l.lane
    from queue.open_lanes(array[p_job_type]) as o
    join queue.lanes as l on l.lane = any (o.lanes)
    where l.served_at is not null
  );
  -- admitted jobs of other lanes go back: they must hold no slot of the key
  v_closed := array(
    select j.id
    from queue.gated as g
    join queue.ready as r
      on r.lane = g.lane
      and r.workspace_id = g.workspace_id
      and r.ord = g.ord
      and r.job_id = g.job_id
    join public.jobs as j on j.id = g.job_id
    where g.workspace_id = p_workspace_id
      and g.job_type = p_job_type
      and g.key = p_key
      and g.admitted
      and not g.ended
      and g.lane <> all (v_open)
    for no key update of r, j skip locked
  );
  perform queue.take_place(v_closed) where v_closed <> '{}';
  perform queue.place(j, p_now, v_type)
  from public.jobs as j
  where j.id = any (v_closed);
  v_count := queue.free_of_key(v_type, p_workspace_id, p_key);
  if v_count.free = 0 and not v_type.rate_per_key then
    return;
  end if;
  with admitted as (
    update queue.gated
    set admitted = true
    where ctid = any (array(
      select g.ctid
      from queue.gated as g
      where g.workspace_id = p_workspace_id
        and g.job_type = p_job_type
        and g.key = p_key
        and not g.admitted
        and g.lane = any (v_open)
        -- not one whose earlier row has ended since the deletion above: the next time
        and not exists (
          select from queue.gated as e
          where e.workspace_id = p_workspace_id
            and e.job_type = p_job_type
            and e.key = p_key
            and e.admitted
            and e.ord = g.ord
            and e.job_id = g.job_id
        )
      order by g.ord
      limit v_count.free
      for update of g skip locked
    ))
    returning lane, ord, job_id
  ),
  placed as (
    insert into queue.ready (lane, workspace_id, ord, ready_at, job_id)
    select l.lane, p_workspace_id, l.ord, p_now, l.job_id
    from admitted as l
  )
  select count(*) as jobs, array_agg(distinct l.lane) as lanes, min(l.ord) as ord
  into v_admitted
  from admitted as l;
  perform queue.note_turn(l, p_workspace_id, v_admitted.ord)
  from unnest(v_admitted.lanes) as l;
  v_look_at := case
    when v_admitted.jobs = 1000 then p_now -- there are more
    -- other transactions hold the rest, and may leave it behind the gate
    when v_admitted.jobs < v_count.free then p_now + interval '1 second'
    -- when the rate allows the next; without one tokens is null, and no time helps
    when v_admitted.jobs + 1
        > v_count.tokens then v_count.at + make_interval(secs => greatest(
      0.001,
      (1 + v_admitted.jobs - v_count.tokens)
        * v_type.rate_per_seconds
        / v_type.rate_limit
    ))
  end;
  if v_look_at is not null then -- else the key is full, and the end of a job opens the gate
    insert into queue.notes (look_at, lane, workspace_id, key)
    select v_look_at, g.lane, p_workspace_id, p_key
    from queue.gated as g
    where g.workspace_id = p_workspace_id
      and g.job_type = p_job_type
      and g.key = p_key
      and not g.admitted
      and g.lane = any (v_open)
    limit 1;
  end if;
end;
$$;

revoke execute on function queue.open_gate from public;

-- Put the jobs of a type behind the gates of their keys, or past them, after its limits of keys
-- have changed. For those that another transaction holds or has yet to commit the old limit holds.
create or replace function queue.regate(p_job_type text)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_type queue.job_types;
  v_lanes constant integer[] := array(
    select l.lane
    from queue.lanes as l
    where l.job_type = p_job_type
  );
  v_jobs uuid[];
begin
  select * into v_type
  from queue.job_types as t
  where t.job_type = p_job_type;
  v_jobs := array(
    select j.id
    from public.jobs as j
    where j.status = 'pending'
      and j.id = any (array(
        select r.job_id
        from queue.ready as r
        where r.lane = any (v_lanes)
        union all
        select g.job_id
        from queue.gated as g
        where g.lane = any (v_lanes) and not g.admitted
      ))
    for no key update skip locked
  );
  perform queue.take_place(v_jobs);
  -- rows of jobs that ended while the type had no limit, so that no settlement marked them
  delete from queue.gated as g
  where g.lane = any (v_lanes)
    and g.admitted
    and not g.ended
    and not exists (
      select from public.jobs as j
      where j.id = g.job_id and j.finished_at is null
    );
  -- running jobs count towards their key; the update waits for those that are being settled
  with leased as (
    update queue.leases as r
    set key = coalesce(
      case
        when v_type.rate_per_key then coalesce(j.concurrency_key, '')
        when v_type.key_concurrency is not null then j.concurrency_key
      end,
      r.key
    )
    from public.jobs as j
    where r.lane = any (v_lanes) and j.id = r.job_id
    returning r.*
  )
  insert into queue.gated (lane, workspace_id, job_type, key, ord, job_id, admitted)
  select r.lane, r.workspace_id, p_job_type, r.key, r.ord, r.job_id, true
  from leased as r
  where r.key is not null
  on conflict do nothing; -- the gate admitted it
  perform queue.note_gates(v_lanes);
  perform queue.place(j, queue.clock(), v_type)
  from public.jobs as j
  where j.id = any (v_jobs) and j.status = 'pending';
end;
$$;

revoke execute on function queue.regate from public;

-- Admit a run for its time, unless as many as it says are under way: how many more may begin, null
-- where it is refused. One that was killed counts until its time is over.
create or replace function queue.admit_run(p_request queue.lease_request, p_now timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_free integer;
begin
  perform queue.try_lock('admission', p_waits => true); -- one at a time
  for v_try in 1 .. 2 loop
    v_free := p_request.most
      - 1
      - (
        select count(*)
        from queue.ticks as t
        where t.expires_at > p_now and t.tick_id <> p_request.tick_id
      );
    exit when v_free >= 0;
    -- they are to lease once more before they end. The update waits for a run that ends just now,
    -- which the second count then leaves out
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

revoke execute on function queue.admit_run from public;

-- The number of a worker. Its row and its lanes' served_at are written once a minute, or when it
-- serves something else: such lanes leave notes for their gates, under the lock that opens gates.
-- p_known: the row; has_noted: gates are to be looked at.
create or replace function queue.note_worker(
  p_request queue.lease_request,
  p_known queue.workers,
  p_now timestamptz,
  out worker integer,
  out has_noted boolean
)
language plpgsql
set search_path = ''
as $$
declare
  v_changed boolean;
  v_lanes record;
  v_gates integer[];
  v_is_alone boolean;
begin
  worker := p_known.worker;
  has_noted := false;
  if p_known.version = p_request.version
    and p_known.job_types @> p_request.job_types
  then
    -- it serves the others too, without a slot now
    p_request.job_types := p_known.job_types;
  end if;
  v_changed := (p_known.job_types, p_known.queues, p_known.version)
    is distinct from (p_request.job_types, p_request.queues, p_request.version);
  if p_known.seen_at > p_now - interval '1 minute'
    and p_known.seen_at <= p_now
    and not v_changed
  then
    if p_known.ended_at is not null then
      update queue.workers
      set ended_at = null, started_at = p_now
      where workers.worker = p_known.worker;
    end if;
    return;
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
          or v_changed
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
    worker_id, started_at, seen_at, version, job_types, queues
  )
  values (
    p_request.worker_id,
    p_now,
    -- where gates could not be noted it is written again in a second
    p_now - interval '59 seconds' * (not v_is_alone)::integer,
    p_request.version,
    p_request.job_types,
    p_request.queues
  )
  on conflict (worker_id) do update set
    seen_at = excluded.seen_at,
    ended_at = null,
    version = excluded.version,
    job_types = excluded.job_types,
    queues = excluded.queues,
    started_at = case
      when w.ended_at is null and w.seen_at > p_now - interval '3 minutes'
        then w.started_at
      else p_now
    end
  returning w.worker into note_worker.worker;
  has_noted := v_is_alone and v_gates is not null;
end;
$$;

revoke execute on function queue.note_worker from public;

drop function queue.lock_types(p_lanes integer[], p_limited text[], p_now timestamp with time zone, OUT open integer[], OUT is_busy boolean, OUT is_limited boolean);

-- Lock those of the limited types that have turns in these lanes. open: lanes of unlimited types,
-- and of those locked that are not at their limit. A limited type whose first turn opens after this
-- look is left for the next lease, since it was not counted. is_busy: another lease has the lock of
-- one. at_limit: those that may start no job now.
create or replace function queue.lock_types(
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
  v_busy text[];
begin
  open := p_lanes;
  is_busy := false;
  is_limited := false;
  at_limit := '{}';
  if p_limited = '{}' then
    return;
  end if;
  v_types := array( -- in one order, so that of two leases one gets them all
    select n
    from unnest(p_limited) as n
    where exists (
      select from queue.lanes as l
      join queue.turns as o on o.lane = l.lane and not o.blocked
      where l.job_type = n and l.lane = any (p_lanes)
    )
    order by 1
  );
  is_limited := v_types <> '{}';
  v_busy := array(
    select n
    from ( -- an order of its own, which the condition is evaluated in
      select t.job_type as n
      from queue.job_types as t
      where t.job_type = any (v_types)
        and (t.max_concurrency is not null or t.rate_limit is not null and not t.rate_per_key)
      order by 1
    ) as o
    where not queue.try_lock('type ' || n)
  );
  at_limit := array(
    select n
    from unnest(v_types) as n
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

revoke execute on function queue.lock_types from public;

-- As queue.along_the_ring, but p_rows of each of these lanes, from where its ring has come to. A
-- lane lags at most one round behind the others: one that was not served for long would otherwise
-- be served alone until it caught up.
create or replace function queue.lane_by_lane(p_lanes integer[], p_rows integer)
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
      case when r.last_taken = 0 then 2147483647 else 0 end as last_lane -- as along the ring
    from unnest(p_lanes) as n (lane)
    join queue.lanes as l on l.lane = n.lane
    join queue.rings as r on r.ring = l.ring
  ) as p
  cross join lateral (
    select t.*, row_number() over () as nth
    from (
      (
        select o.*, p.round
        from queue.turns as o
        where o.lane = p.lane
          and not o.blocked
          and (o.rank, o.workspace_id, o.lane)
          > (p.last_rank, p.last_workspace_id, p.last_lane)
        order by o.rank, o.workspace_id
        limit p_rows
      )
      union all
      (
        select o.*, p.round + 1
        from queue.turns as o
        where o.lane = p.lane
          and not o.blocked
          and (o.rank, o.workspace_id, o.lane)
          <= (p.last_rank, p.last_workspace_id, p.last_lane)
        order by o.rank, o.workspace_id
        limit p_rows
      )
    ) as t
    limit p_rows
  ) as u;
end;
$$;

revoke execute on function queue.lane_by_lane from public;

-- What each turn may still start, counted once the locks of limited tenants were tried. is_busy:
-- another lease has one, or a pause ends now. Turns at a limit or paused are blocked.
create or replace function queue.limit_turns(
  p_turns queue.turn[],
  p_now timestamptz,
  out turns queue.turn[],
  out is_busy boolean
)
language plpgsql
set search_path = ''
as $$
declare
  v_scopes constant text[] := array(
    select distinct s.name
    from unnest(p_turns) as t
    join queue.lanes as l on l.lane = t.lane
    join queue.job_types as y on y.job_type = l.job_type
    left join queue.tenant_limits as w on w.workspace_id = t.workspace_id
    cross join lateral (
      values
        (
          'both ' || t.workspace_id || y.job_type,
          y.workspace_concurrency is not null
        ),
        ('workspace ' || t.workspace_id, w.running_max is not null)
    ) as s (name, is_limited)
    where s.is_limited
    order by 1
  );
  v_busy constant text[] := array(
    select n
    from unnest(v_scopes) as n
    where not queue.try_lock(n)
  );
begin
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
            -- by its lanes, with which the index of leases begins
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

revoke execute on function queue.limit_turns from public;

-- Divide slots in rounds: each tenant in turn gets as many of its first ready jobs as its weight,
-- then each again. In the order, rounds_had is how many rounds a tenant has had before a job, and
-- comes first, so that no one has a second before all have had one; round is where the ring has the
-- tenant. p_depth: how many jobs of a turn are read (is_cut: one may have more); null: only those
-- of the first round, since more tenants follow, each of which comes before a second.
-- taken_after: what the ring notes of the tenant, should the job be the last. empty: turns without
-- a ready job, which come first in the order; lasts: what queue.move_on is to know.
create or replace function queue.divide_slots(
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
  v_job record;
  v_last queue.last_served;
  v_slots integer := 0;
  v_of_turn integer[] := '{}'; -- slots that each turn gets
  v_types text[] := '{}'; -- limited ones, and slots that each gets
  v_of_type integer[] := '{}';
  v_type integer;
begin
  is_cut := false;
  for v_job in
    with heads as (
      select
        t.*,
        r.ord,
        r.nth_of_turn,
        row_number() over (
          partition by t.workspace_id, t.job_type
          order by r.ord
        ) as nth_of_type
      from unnest(p_turns) with ordinality as t
      left join lateral (
        select o.ord, row_number() over (order by o.ord) as nth_of_turn
        from queue.ready as o
        where o.lane = t.lane
          and o.workspace_id = t.workspace_id
          and o.ord >= t.from_ord
        order by o.ord
        limit least( -- which ignores nulls: no limit
          coalesce(p_depth, t.weight),
          t.type_free,
          t.own_free,
          t.tenant_free
        )
      ) as r on true
      where not t.is_paused
        and coalesce(least(t.type_free, t.own_free, t.tenant_free), 1) > 0
    ),
    owned as (
      select
        h.*,
        min(h.round) filter (where h.ord is not null) over tenant as tenant_round,
        max(h.taken) over tenant as tenant_taken,
        row_number() over (partition by h.workspace_id order by h.ord, h.lane) as nth
      from heads as h
      where h.nth_of_type <= coalesce(h.own_free, p_most)
      window tenant as (partition by h.workspace_id)
    )
    select
      o.lane,
      o.workspace_id,
      o.job_type,
      o.type_free,
      o.ord,
      o.nth_of_turn,
      o.ordinality as turn,
      o.tenant_round as round,
      o.rank,
      (o.tenant_taken + o.nth - 1) / o.weight as rounds_had,
      (o.tenant_taken + o.nth) % o.weight as taken_after
    from owned as o
    where o.ord is null or o.nth <= coalesce(o.tenant_free, p_most)
    order by
      o.ord is not null,
      rounds_had,
      o.tenant_round,
      o.rank,
      o.workspace_id,
      o.nth
  loop
    if v_job.ord is null then
      empty := empty || row(v_job.lane, v_job.workspace_id, null, 0)::queue.share;
      continue;
    end if;
    exit when v_slots = p_most or p_depth is null and v_job.rounds_had > 0;
    is_cut := is_cut or (v_job.nth_of_turn = p_depth) is true;
    if v_job.type_free is not null then
      v_type := coalesce(
        array_position(v_types, v_job.job_type),
        cardinality(v_types) + 1
      );
      v_types[v_type] := v_job.job_type;
      continue when v_of_type[v_type] = v_job.type_free;
      v_of_type[v_type] := coalesce(v_of_type[v_type], 0) + 1;
    end if;
    v_slots := v_slots + 1;
    v_of_turn[v_job.turn] := coalesce(v_of_turn[v_job.turn], 0) + 1;
    v_last := row(null, v_job.taken_after, v_job.round, v_job.rank, v_job.workspace_id);
    if v_job.type_free is not null and v_of_type[v_type] = v_job.type_free then
      v_last.job_type := v_job.job_type;
      lasts := lasts || v_last;
      v_last.job_type := null;
    end if;
  end loop;
  if v_slots > 0 then
    lasts := lasts || v_last;
  end if;
  select
    array_agg(
      row(t.lane, t.workspace_id, t.from_ord, v_of_turn[t.ordinality])::queue.share
      order by t.from_ord -- by age: about as their records lie
    )
  into shares
  from unnest(p_turns) with ordinality as t
  where v_of_turn[t.ordinality] > 0;
end;
$$;

revoke execute on function queue.divide_slots from public;

-- These lanes have come to the tenant that was served last, unless another lease has moved them
-- further meanwhile, and share a ring from then on: one in which no other lane is. Whether both
-- still hold is looked at again where the ring is locked.
create or replace function queue.move_on(p_lanes integer[], p_last queue.last_served)
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
  if v_ring is null then -- one that was left
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

revoke execute on function queue.move_on from public;

drop function queue.share_slots(p_request queue.lease_request, p_now timestamp with time zone, OUT lanes integer[], OUT limited text[], OUT shares queue.share[], OUT empty queue.share[], OUT is_only boolean, OUT is_limited boolean, OUT more boolean);

-- Which turns get how many of the slots, and which are empty; is_only: there is one turn, which may
-- be empty too. more: ask again at once, since another lease holds a lock or there are more turns
-- than were read. at_limit: types of which no job may start. The ring moves on, unless all turns
-- were read and either one tenant has them all or, without limits, slots are left: no one was then
-- passed over.
create or replace function queue.share_slots(
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
  v_reads integer;
  v_first record;
  v_turns queue.turn[];
  v_one queue.turn;
  v_slots bigint;
  v_limited record;
  v_divided record;
  v_last queue.last_served;
  v_stopped text[]; -- types whose slots ran out
begin
  lanes := v_asked.lanes;
  limited := v_asked.limited;
  more := false;
  if v_most = 0 then
    return;
  end if;
  v_types := queue.lock_types(lanes, limited, p_now);
  at_limit := v_types.at_limit;
  more := v_types.is_busy;
  -- some turns may be empty: where all are, more are read
  foreach v_reads in array array[
    v_most + v_most / 25 + 5,
    greatest(150, 2 * v_most)
  ] loop
    v_first := queue.first_turns(v_types.open, v_reads);
    v_turns := v_first.turns;
    v_one := v_turns[1];
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
  -- a limited type stops at the tenant where its slots ran out, since those behind it were passed
  -- over; the other lanes go on to the last
  v_stopped := array(
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
          where l.lane = any (v_types.open) and l.job_type <> all (v_stopped)
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

drop function queue.take(p_shares queue.share[], p_request queue.lease_request, p_now timestamp with time zone);

-- Take the jobs of turns. One that a project's trigger refuses is found by halves and noted
-- (has_refused), so that the next lease passes over it.
create or replace function queue.take(
  p_shares queue.share[],
  p_request queue.lease_request,
  p_now timestamptz,
  out ids uuid[],
  out has_refused boolean
)
language plpgsql
set search_path = ''
as $$
declare
  v_half constant integer := cardinality(p_shares) / 2;
  v_one queue.share := p_shares[1];
  v_failure text;
  v_first record;
  v_rest record;
begin
  has_refused := false;
  begin
    ids := queue.take_jobs(p_shares, p_request, p_now);
    return;
  exception
    when connection_exception
      or transaction_rollback
      or insufficient_resources
      or object_not_in_prerequisite_state
      or operator_intervention
      or system_error
      or internal_error then
      raise; -- as in queue.do_in_parts
    when others then
      v_failure := format('%s (%s)', sqlerrm, sqlstate);
  end;
  if v_half > 0 then
    v_first := queue.take(p_shares[:v_half], p_request, p_now);
    v_rest := queue.take(p_shares[v_half + 1:], p_request, p_now);
  elsif v_one.jobs > 1 then
    p_shares[1].jobs := v_one.jobs / 2;
    v_first := queue.take(p_shares, p_request, p_now);
    p_shares[1].jobs := v_one.jobs - v_one.jobs / 2; -- of those that are still ready
    v_rest := queue.take(p_shares, p_request, p_now);
  else
    perform queue.note_refusal('lease', r.job_id, v_failure, p_now)
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
        and o.job_id <> all (queue.refused('lease', p_now))
      order by o.ord
      limit 1
      for no key update of o, j skip locked
    ) as r;
    has_refused := found;
    return;
  end if;
  ids := v_first.ids || v_rest.ids;
  has_refused := v_first.has_refused or v_rest.has_refused;
end;
$$;

revoke execute on function queue.take from public;

drop function queue.fill_pool(p_request queue.lease_request, p_now timestamp with time zone, OUT ids uuid[], OUT lanes integer[], OUT limited text[], OUT more boolean, OUT leased_at timestamp with time zone);

-- Fill the slots of one pool, of these job types: which turns get them, and their first jobs.
-- unfilled: the lanes whose jobs may start, where there was none.
create or replace function queue.fill_pool(
  p_request queue.lease_request,
  p_now timestamptz,
  out ids uuid[],
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
  v_one queue.share;
begin
  lanes := v_shared.lanes;
  limited := v_shared.limited;
  more := v_shared.more;
  leased_at := p_now;
  if v_shared.shares is not null then
    -- a job that was enqueued since then starts after it
    leased_at := greatest(p_now, queue.clock());
    v_taken := queue.take(v_shared.shares, p_request, leased_at);
    ids := v_taken.ids;
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
    -- where another lease holds some, more may come behind them. A lone turn was given all slots,
    -- however few jobs it has
    if v_leased < p_request."limit" and v_shared.shares is not null then
      more := more
        or v_taken.has_refused
        or v_leased < case
          when v_shared.shares[2] is null then 1
          else (select sum(s.jobs) from unnest(v_shared.shares) as s)
        end
          and queue.refused('lease', leased_at) = '{}';
    end if;
  end if;
  if v_shared.shares is null and p_request."limit" > 0 then
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
  -- An empty turn is closed late, since its next job then needs no note (DECISIONS 21): once several
  -- are, since each lease reads them; after a lease that has passed over many jobs, since the next
  -- begins behind them; and now and then.
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

drop function queue.lease_ready(p_request queue.lease_request, p_changes queue.change[], p_has_notes boolean, p_now timestamp with time zone, OUT leases json, OUT leased integer, OUT lanes integer[], OUT limited text[], OUT more boolean, OUT is_short boolean, OUT is_full boolean);

-- Fill every pool. p_has_notes: turns or gates are to be opened before. is_short, is_full: one was
-- not, and one was; lanes: of those asked for; limited: their types that have a limit; unfilled:
-- lanes of pools for which there was no job.
create or replace function queue.lease_ready(
  p_request queue.lease_request,
  p_changes queue.change[],
  p_has_notes boolean,
  p_now timestamptz,
  out leases json,
  out leased integer,
  out lanes integer[],
  out limited text[],
  out unfilled integer[],
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
    unfilled := unfilled || v_filled.unfilled;
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

drop function queue.next_due_in_ms(p_lanes integer[], p_limited text[], p_more boolean, p_now timestamp with time zone);

-- In how many milliseconds a worker with free slots should ask again; null: not before it is woken.
-- A note, and the turn that another lease opens for it, are looked for at one moment: a lease that
-- read the turns before and the notes after it was opened would find neither. p_unfilled: lanes for
-- which it found no job; where it found some, its worker asks again by itself.
create or replace function queue.next_due_in_ms(
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
      when exists (select from queue.notes where key is null)
        or exists (
          select from queue.turns as t
          where t.lane = any (p_unfilled)
            and not t.blocked
            and exists (
              select from queue.ready as r
              where r.lane = t.lane
                and r.workspace_id = t.workspace_id
                and r.ord >= t.from_ord
            )
        )
        then p_now
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
  v_ignored bigint;
  v_next_ms bigint;
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
  if pg_sequence_last_value('queue.wanted_ms') > 0 then -- the worker that was wanted is here
    v_ignored := setval('queue.wanted_ms', 0);
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
    if v_ms - pg_sequence_last_value('queue.slots_ms') between 0 and 499 is not true then
      v_ignored := setval('queue.slots_ms', v_ms);
    end if;
  end if;
  v_maintenance := false;
  if v_given.is_short then
    v_next_ms := queue.next_due_in_ms(
      v_given.lanes,
      v_given.limited,
      v_given.unfilled,
      v_given.more,
      v_now
    );
    v_maintenance := queue.maintenance_is_due(
      v_now,
      -- it leased lately
      v_given.leased > 0 or v_tick.last_call > 1 and v_tick.is_active,
      v_next_ms <= 1000 is true
    );
  end if;
  v_ends := v_asked.ends is not null
    and v_given.leased = 0
    and (not v_maintenance or v_asked.ends ? 'maintained')
    and (v_next_ms <= (v_asked.ends -> 'stay_ms')::double precision) is not true;
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
          'next_due_in_ms', v_next_ms,
          'next_in_ms', v_next_ms,
          'next_reason', case when v_next_ms is null then 'notified' else 'due' end
        )
      )
    );
  end if;
  return json_build_object(
    'leases', v_given.leases,
    'maintenance', v_maintenance,
    'run', v_run,
    'due', coalesce(v_due, v_given.is_full::integer),
    'next_due_in_ms', v_next_ms
  );
end;
$$;

revoke execute on function queue.lease from public;

-- End attempts as decided, in one statement, since another would cost every job. p_transitions:
-- what queue.decide made of each item; null where all are plain completions. own: jobs whose event
-- must be stored; rest: those, and jobs that continue or have keys, parents or deadlines. results:
-- the answer, where every item was a plain completion and no fence was stale; else null, since it
-- is then read from what is stored. has_blocked: turns are at a limit.
create or replace function queue.end_attempts(
  p_items queue.worker_item[],
  p_transitions queue.transition[],
  p_now timestamptz,
  out changes queue.change[],
  out rest uuid[],
  out own uuid[],
  out results json,
  out has_blocked boolean
)
language plpgsql
set lock_timeout = '100ms'
set search_path = ''
as $$
begin
  -- a report may be renewing the lease: this waits for it, and deletes the renewed row
  with held as (
    delete from queue.leases as l
    using unnest(p_items, p_transitions) as i
    where l.job_id = any (array[i.job_id]) and l.fence = i.fence
    returning
      i.job_id,
      l.leased_at,
      l.key,
      i.outcome,
      i.result,
      i.duration_ms,
      i.cost_usd,
      i.attempts,
      i.run_at,
      i.message,
      i.problem,
      i.data,
      coalesce(i.status, 'completed') as status,
      case when i.status is null then 'job.completed' else i.event end as event
  ),
  moved as materialized (
    update public.jobs as j
    set
      status = g.status,
      updated_at = p_now,
      next_retry_at = g.run_at,
      finished_at = case
        when g.status in ('completed', 'failed', 'cancelled') then p_now
      end,
      completed_at = case g.status when 'completed' then p_now end,
      result = case g.status when 'completed' then g.result end,
      progress = case g.status
        when 'completed' then jsonb_set(j.progress, '{percentage}', '100')
        else j.progress
      end,
      error_message = case
        when g.status <> 'completed' then coalesce(g.message, j.error_message)
      end,
      error_data = case
        when g.message is not null then g.problem
        when g.status <> 'completed' then j.error_data
      end,
      attempts = coalesce(g.attempts, j.attempts),
      lost_attempts = j.lost_attempts
        + (g.outcome is not distinct from 'lost')::integer,
      run_ms = coalesce(j.run_ms, 0)
        + coalesce(g.duration_ms, date_part('epoch', p_now - g.leased_at) * 1000),
      cost_usd = coalesce(j.cost_usd + g.cost_usd, g.cost_usd, j.cost_usd),
      last_seq = j.last_seq + (g.event is not null)::integer
    from held as g
    where j.id = any (array[g.job_id])
    returning
      j.id,
      j.workspace_id,
      j.session_id,
      j.status,
      j.attempts,
      j.last_seq,
      j.fence,
      g.event,
      g.data,
      j.fence = 1
        and j.status = 'completed'
        and j.last_seq = case when j.is_minimal then 1 else 3 end as is_derived,
      num_nonnulls(
        g.key,
        j.concurrency_key,
        j.parent_id,
        j.unique_key,
        j.deadline_at,
        j.start_by_at
      ) > 0 as is_tied
  ),
  kinds as (
    select
      m.workspace_id,
      m.session_id,
      m.event,
      m.status,
      m.attempts,
      m.data,
      array_agg(m.id) as ids,
      array_agg(m.last_seq) as seqs
    from moved as m
    where m.event is not null
    group by 1, 2, 3, 4, 5, 6
  )
  select
    (
      select array_agg(
        row(
          k.workspace_id,
          k.session_id,
          k.event,
          jsonb_build_object('status', k.status, 'attempts', k.attempts)
            || coalesce(k.data, '{}'),
          k.ids,
          k.seqs
        )::queue.change
      )
      from kinds as k
    ),
    array_agg(m.id) filter (where m.is_tied or not m.is_derived),
    array_agg(m.id) filter (where not m.is_derived),
    case
      when count(*) filter (where m.data is null) = cardinality(p_items)
        then json_agg(json_build_object(
          'job_id', m.id,
          'fence', m.fence,
          'outcome', 'applied',
          'status', 'completed'
        ))
    end,
    exists (select from queue.turns as t where t.blocked and t.look_at < 'infinity')
  into changes, rest, own, results, has_blocked
  from moved as m;
end;
$$;

revoke execute on function queue.end_attempts from public;

-- A plain update may cancel a job and change nothing else. The row is locked already: this cancels
-- the job and skips the update. Whenever the engine changes what is compared here, it also raises
-- fence, last_seq, generation or lost_attempts, or changes the lane (queue.adopt). A truncate is
-- refused, since it fires no trigger of a row.
create or replace function queue.cancel_by_update()
returns trigger
language plpgsql
security definer
set search_path = ''
set enable_seqscan = off
set jit = off
as $$
begin
  if tg_op = 'TRUNCATE' then
    perform queue.refuse(
      409,
      'invalid_state',
      'delete from public.jobs; a truncate would leave what belongs to them'
    );
  elsif (new.generation, new.lost_attempts, new.lane)
      is distinct from (old.generation, old.lost_attempts, old.lane)
    or (
      new.status, new.priority, new.ord, new.queue, new.job_type, new.workspace_id,
      new.next_retry_at, new.scheduled_for, new.deadline_at, new.start_by_at,
      new.concurrency_key
    ) is not distinct from (
      old.status, old.priority, old.ord, old.queue, old.job_type, old.workspace_id,
      old.next_retry_at, old.scheduled_for, old.deadline_at, old.start_by_at,
      old.concurrency_key
    )
  then
    return new;
  elsif new.status <> 'cancelled'
    or old.status in ('completed', 'failed', 'cancelled')
  then
    perform queue.refuse(
      409,
      'invalid_state',
      case
        when new.status = old.status
          then 'the times, keys and place of a job are changed by no update; '
            'retry_job runs it now, enqueue_job with a unique key replaces it'
        else format(
          'a %s job cannot become %s by update; cancel_job, retry_job and settle_jobs '
            'change the status',
          old.status,
          left(new.status, 40)
        )
      end,
      old.status
    );
  elsif not (
    queue.is_service() or queue.is_manager(old.workspace_id) or queue.is_operator()
  ) then
    -- as in queue.change_jobs
    if current_setting('minutehand.has_cancelled', true) = 'yes' then
      perform queue.refuse(
        403,
        'forbidden',
        'only managers of the workspace may cancel many jobs at once',
        old.workspace_id::text
      );
    end if;
    perform set_config('minutehand.has_cancelled', 'yes', true);
  else
    perform queue.take_call_slot(old.workspace_id); -- it may change many
  end if;
  perform queue.cancel(array[old.id], queue.clock(), p_is_locked => true);
  perform queue.admit('changes', old.workspace_id, queue.caller());
  return null;
end;
$$;

revoke execute on function queue.cancel_by_update from public;

drop trigger jobs_cancel_by_update on public.jobs;

-- A lease and a settlement do not fire it. The condition is short, since Postgres parses it again
-- for each statement that updates jobs: with all that the function compares it was a twelfth of a
-- call that settles one job and leases the next.
create trigger jobs_cancel_by_update
  before update of status, priority, ord, queue, job_type, workspace_id,
    next_retry_at, scheduled_for, deadline_at, start_by_at, concurrency_key on public.jobs
  for each row
  when (new.fence = old.fence and new.last_seq = old.last_seq)
  execute function queue.cancel_by_update();

-- What the tables of today's messages are like, by the transactions that last changed them; null
-- where they have triggers. While it is as when a message was sent, none can fail.
create or replace function queue.message_form()
returns bigint
language plpgsql
set search_path = ''
as $$
declare
  v_table constant oid := to_regclass('realtime.messages');
  v_today constant oid := to_regclass('realtime.messages_' || to_char(now(), 'YYYY_MM_DD'));
begin
  return (
    select
      hash_array_extended(
        array[t.xmin, d.xmin]
        || array(
          select a.xmin
          from pg_catalog.pg_attribute as a
          where a.attrelid = v_table
        ),
        0
      ) & 9223372036854775807
    from pg_catalog.pg_class as t
    left join pg_catalog.pg_class as d on d.oid = v_today
    where t.oid = v_table
      and not t.relhastriggers
      and case t.relkind when 'p' then not d.relhastriggers else d.oid is null end
  );
end;
$$;

revoke execute on function queue.message_form from public;

-- The message for changes: the only event, else groups of those that differ in job and seq alone.
create or replace function queue.message_of(
  p_changes queue.change[],
  p_now timestamptz,
  out event text,
  out payload jsonb
)
language plpgsql
set search_path = ''
as $$
declare
  v_one constant queue.change := p_changes[1];
  v_each queue.change;
  v_groups jsonb[];
begin
  event := 'job.events';
  if p_changes[2] is null and v_one.job_ids[2] is null then
    event := v_one.type;
    payload := jsonb_build_object(
      'job_id', v_one.job_ids[1],
      'seq', v_one.seqs[1],
      'type', v_one.type,
      'data', v_one.data,
      'at', p_now
    );
    return;
  end if;
  foreach v_each in array p_changes loop
    v_groups := v_groups || jsonb_build_object(
      'type', v_each.type,
      'data', v_each.data,
      'at', p_now,
      'job_ids', v_each.job_ids,
      'seqs', case
        when v_each.seqs[1] = all (v_each.seqs) then v_each.seqs[1:1]
        else v_each.seqs
      end
    );
  end loop;
  payload := jsonb_build_object('groups', v_groups);
end;
$$;

revoke execute on function queue.message_of from public;

-- Take messages from the second's budget, of which p_eighths may be used; false where that does not
-- reach. Nor is more than 3/8 of it for a tenant that has sent an eighth in the last second while
-- another is followed. p_workspace_id: null where the changes are of several.
create or replace function queue.may_send(
  p_seen record,
  p_cost bigint,
  p_eighths integer,
  p_workspace_id uuid,
  p_now timestamptz
)
returns boolean
language plpgsql
set search_path = ''
as $$
declare
  v_ignored bigint;
begin
  if p_seen.used + p_cost > p_seen.budget * p_eighths / 8 then
    return false;
  end if;
  -- apart: a query costs more than this
  if p_seen.used + p_cost > p_seen.budget * 3 / 8 and p_workspace_id is not null then
    if exists (
        select from queue.followers as f
        where f.topic like 'workspace:%'
          and f.topic <> 'workspace:' || p_workspace_id
      )
      and p_seen.budget / 8 < p_cost * (
        select count(*)
        from (
          select o.at
          from queue.feed as o
          where o.workspace_id = p_workspace_id
          order by o.number desc, o.id desc
          limit 50
        ) as f
        where f.at > p_now - interval '1 second'
      )
    then
      return false;
    end if;
  end if;
  for v_each in 1 .. p_cost loop
    v_ignored := nextval('queue.messages_counted'); -- an assignment is cheaper than a query
  end loop;
  return true;
end;
$$;

revoke execute on function queue.may_send from public;

-- Write messages; false where Realtime fails. A block that may fail costs a transaction id: it is
-- there only where the table's form is not the one that took the last message (queue.message_form).
create or replace function queue.write_messages(
  p_topics text[],
  p_events text[],
  p_payloads jsonb[]
)
returns boolean
language plpgsql
set search_path = ''
as $$
declare
  v_form bigint := queue.message_form();
begin
  if v_form = pg_sequence_last_value('queue.messages_fitted') then
    insert into realtime.messages (id, topic, extension, event, payload, private)
    select queue.new_id(), m.topic, 'broadcast', m.event, m.payload, true
    from unnest(p_topics, p_events, p_payloads) as m (topic, event, payload);
    return true;
  end if;
  begin
    insert into realtime.messages (id, topic, extension, event, payload, private)
    select queue.new_id(), m.topic, 'broadcast', m.event, m.payload, true
    from unnest(p_topics, p_events, p_payloads) as m (topic, event, payload);
  exception when others then -- no enqueue or settlement fails because of a message
    raise warning 'messages were not sent: % (%)', sqlerrm, sqlstate;
    -- while no one is connected, Realtime makes no partition for the day, and there is no one to ask
    return sqlstate = '23514';
  end;
  if v_form is not null then
    v_form := setval('queue.messages_fitted', v_form);
  end if;
  return true;
end;
$$;

revoke execute on function queue.write_messages from public;

drop function queue.send(p_changes queue.change[], p_is_minor boolean, p_fits_one boolean, p_seen record, p_now timestamp with time zone);

-- Send the messages of changes; false where they are to be held back, since the budget does not
-- reach or Realtime fails. Progress and logs (p_is_minor) may use 4/8 of the budget, changes of
-- state that no one follows 5/8, those that someone follows 6/8, announcements all of it.
-- p_workspace_id: null where they are of several. p_fits_one: one message to the workspace has all,
-- unless someone follows a topic.
create or replace function queue.send(
  p_changes queue.change[],
  p_workspace_id uuid,
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
  elsif not queue.may_send(p_seen, v_cost, v_eighths, p_workspace_id, p_now) then
    return false;
  end if;
  if v_topics is null then -- made once it may be sent
    v_message := queue.message_of(p_changes, p_now);
    v_topics := array['workspace:' || p_workspace_id];
    v_events := array[v_message.event];
    v_payloads := array[v_message.payload];
  end if;
  return queue.write_messages(v_topics, v_events, v_payloads);
end;
$$;

revoke execute on function queue.send from public;

drop function queue.publish(p_changes queue.change[], p_now timestamp with time zone, p_wakes boolean);

-- Publish changes that a statement has made to rows that the caller holds: messages, notifications
-- to servers that stream, and a line of the feed each. Changes without seqs are lines of the feed
-- alone; progress and logs come in calls of their own. p_is_soon: new jobs are due within a minute,
-- so that workers are notified. Nothing happens where there are no changes. Always true, so that
-- callers assign it: a query would cost more.
create or replace function queue.publish(
  p_changes queue.change[],
  p_now timestamptz,
  p_is_soon boolean default true
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
  v_workspace_id uuid := p_changes[1].workspace_id; -- null where they are of several
  v_fits_one boolean := not v_is_minor and p_changes[11] is null; -- one message
  v_unsent boolean; -- true, or null
begin
  foreach v_change in array p_changes loop
    if v_change.workspace_id <> v_workspace_id then
      v_workspace_id := null;
    end if;
    v_fits_one := v_fits_one and v_change.seqs is not null;
    v_jobs := v_jobs + coalesce(cardinality(v_change.seqs), 0);
  end loop;
  -- a message holds 256 kB
  if v_jobs > 0 and to_regclass('realtime.messages') is not null then
    v_fits_one := v_fits_one and v_workspace_id is not null and v_jobs <= 1000;
    v_unsent := nullif(
      not queue.send(p_changes, v_workspace_id, v_is_minor, v_fits_one, v_seen, p_now),
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
    p_is_soon and c.type in ('job.created', 'job.redriven', 'job.resumed'),
    case when c.seqs is not null then v_unsent end
  from unnest(p_changes) as c
  where v_unsent
    or not v_is_minor
    or c.type = 'job.progress' and c.session_id is not null;
  return true;
end;
$$;

revoke execute on function queue.publish from public;

-- Who holds jobs of a workspace or (null) of all, of one type or (null) of all, by how many: for
-- each what explain_job says of the first, with the jobs of its groups together.
create or replace function queue.holders(p_workspace_id uuid, p_job_type text, p_now timestamptz)
returns jsonb
language sql stable
set search_path = ''
set timezone = 'UTC'
as $$
with said as materialized (
  select
    g.jobs,
    g.oldest_at,
    j,
    e.said,
    jsonb_build_array(
      e.said #> '{held_by,kind}',
      coalesce(
        e.said #> '{held_by,holder,job_id}',
        e.said #> '{held_by,holder,worker_id}',
        e.said #> '{held_by,holder,pid}',
        jsonb_build_array(e.said -> 'reason', j.job_type, j.queue, j.concurrency_key)
      )
    ) as holder
  from (select array(select w from queue.alive_workers(p_now) as w) as workers) as a
  cross join queue.groups_of_held(p_workspace_id, p_job_type, p_now) as g
  join public.jobs as j on j.id = any (array[g.job_id])
  left join lateral (
    select to_jsonb(k) as lock
    from queue.locks_on(array[j.id], p_now) as k
    where j.status = 'processing' or coalesce(j.next_retry_at, j.scheduled_for) <= p_now
  ) as k on true
  cross join lateral queue.explain(j, k.lock, a.workers, p_now) as e (said)
  where e.said ? 'held_by'
    and jsonb_typeof(e.said -> 'held_by') = 'object'
)
select coalesce(
  jsonb_agg(to_jsonb(h) order by h.jobs desc, h.since),
  '[]'
)
from (
  select
    sum(s.jobs) as jobs,
    bool_or(s.jobs >= 1000) as more,
    min(coalesce(s.oldest_at, (s.said #>> '{held_by,since}')::timestamptz)) as since,
    (array_agg(s.said -> 'held_by' -> 'kind'))[1] as kind,
    (array_agg(s.said -> 'reason'))[1] as reason,
    (array_agg(s.said -> 'sentence'))[1] as sentence,
    (array_agg(s.said -> 'cause'))[1] as cause,
    (array_agg(s.said -> 'next'))[1] as next,
    (array_agg(s.said #> '{held_by,holder}'))[1] as holder,
    (array_agg(s.said -> 'job_id'))[1] as job_id,
    array_agg(distinct (s.j).job_type) as job_types,
    array_agg(distinct (s.j).concurrency_key)
      filter (where s.said #>> '{held_by,kind}' = 'key') as keys
  from said as s
  group by s.holder
  order by 1 desc
  limit 20
) as h
$$;

revoke execute on function queue.holders from public;
