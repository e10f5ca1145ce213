-- 0.4.4 after the release before it; written by `python -m infra.release` from schemas.
-- Do not edit it, and do not read it: read the schemas.

-- The release whose text this is, as minutehand.version says. Doctor compares with its record.
create or replace function queue.version()
returns text
language sql immutable
set search_path = ''
as $$
select '0.4.4'
$$;

revoke execute on function queue.version from public;

-- The W3C traceparent that the call's header has; null where there is none, or not a valid one.
create or replace function queue.trace_of_call()
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

revoke execute on function queue.trace_of_call from public;

-- Check a new job, and make its row of its type, payload and options.
create or replace function queue.new_job(
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
        'only the platform itself enqueues jobs of the '
          'type %s',
        p_type.job_type
      ),
      p_within || 'job_type'
    );
  end if;
  -- a small payload without a schema needs no check; 1e400 has few bytes but is long as text
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
    v_job.traceparent := queue.trace_of_call();
  end if;
  return v_job;
end;
$$;

revoke execute on function queue.new_job from public;

-- Give a locked pending job its place: unpublished, deferred, behind its key's gate, or ready.
-- Lines for its deadline, and for when it must have started, come beside that. False where it waits
-- for a time or its type, so that no lease can get it yet.
create or replace function queue.place(
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
  -- also of a job that had one before, which maintenance may have deleted
  if p_job.deadline_at is not null then
    insert into queue.deferred (run_at, job_id, workspace_id)
    values (p_job.deadline_at, p_job.id, p_job.workspace_id)
    on conflict do nothing;
  end if;
  if p_job.start_by_at is not null and p_job.started_at is null then
    insert into queue.deferred (run_at, job_id, workspace_id)
    values (p_job.start_by_at, p_job.id, p_job.workspace_id)
    on conflict do nothing;
  end if;
  if p_job.lane is distinct from p_type.lane then
    perform from queue.lanes as l
    where l.lane = p_job.lane
      and (
        l.unused_since is null
        or l.unused_since > queue.clock() - interval '23 hours'
      );
    if not found then -- its queue is gone, or soon: it goes to its type's
      p_job.lane := 0;
    end if;
  end if;
  if p_job.lane = 0 then
    select * into p_type
    from queue.job_types as t
    where t.job_type = p_job.job_type
      and t.schema_version > 0
      and not (t.internal and p_job.user_id is not null); -- queue.promote fails that
    if found then
      p_job := queue.adopt(p_job, p_type);
    end if;
  end if;
  if p_job.lane = 0 then
    insert into queue.unpublished (job_type, workspace_id, job_id)
    values (p_job.job_type, p_job.workspace_id, p_job.id);
    update public.jobs
    set lane = 0 -- by which queue.take_place knows of the line
    where id = p_job.id and lane <> 0;
    return false;
  elsif p_job.deadline_at <= p_now then
    return false; -- maintenance ends it
  elsif v_run_at > p_now then
    insert into queue.deferred (run_at, job_id, workspace_id)
    values (v_run_at, p_job.id, p_job.workspace_id)
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
      v_key := null; -- it was put off and kept its slot
    end if;
  end if;
  if v_key is null then
    insert into queue.ready (lane, workspace_id, ord, ready_at, job_id)
    values (
      p_job.lane,
      p_job.workspace_id,
      p_job.ord,
      -- since when it could start: not from before it was released or has waited
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

revoke execute on function queue.place from public;

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
    if not exists (select from public.jobs where id = v_id) then
      -- its record is gone, and the key stayed, since another transaction held it then
      delete from queue.job_keys as u
      where u.job_id = v_id
        and (u.workspace_id, u.job_type, u.key, u.is_unique)
        = (p_job.workspace_id, p_job.job_type, p_job.unique_key, true);
      continue;
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
  -- where it gave one
  update queue.job_keys as k
  set job_id = v_id, freed_when = 'other'
  where (k.workspace_id, k.job_type, k.key, k.is_unique)
    = (p_job.workspace_id, p_job.job_type, p_job.idempotency_key, false);
  return v_id;
end;
$$;

revoke execute on function queue.claim from public;

drop function queue.add(p_workspace_id uuid, p_user_id uuid, p_type queue.job_types, p_payload jsonb, p_options jsonb, p_now timestamp with time zone, p_within text, p_claimed uuid, OUT job public.jobs, OUT created boolean, OUT is_ready boolean);

-- Check, write and place a job, for a caller that publishes it. created: false where another job
-- has its keys, which is given. p_id: its id, for which its idempotency key may have been taken.
create or replace function queue.add(
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
      end if; -- deleted meanwhile: the keys are free
    end loop;
  end if;
  insert into public.jobs select job.*;
  is_ready := queue.place(job, p_now, p_type);
  created := true;
end;
$$;

revoke execute on function queue.add from public;

-- Enqueue a simple job, which is ready at once: its type has neither a schema nor a rate per key,
-- and without a key it meets no other gate. It does what queue.add and queue.publish do, which read
-- easier, with record, place, note and line of the feed in one statement, and gives what
-- queue.row_json gives; tests/sql/test_inserts.py holds them equal.
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
  v_budget constant record := queue.message_budget();
  v_data constant jsonb := jsonb_build_object(
    'status', 'pending', 'attempts', 0, 'job_type', p_type.job_type
  );
  v_seqs constant integer[] := case when not p_type.is_minimal then '{1}' end;
  v_trace constant text := queue.trace_of_call();
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
  -- as queue.publish and queue.send: one message, to the workspace, within 5/8 of the budget, or
  -- 6/8 where it is followed
  if not p_type.is_minimal and to_regclass('realtime.messages') is not null then
    if v_budget.is_followed then
      v_watchers := (select count(*) from queue.followers as f where f.topic = v_topic);
    end if;
    v_unsent := true;
    if clock_timestamp() - now() <= interval '1 second'
      and queue.may_send(
        v_budget,
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
  if v_budget.is_streamed then
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
  v_is_published boolean;
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
        case when v_job.is_minimal is null then '{1}'::integer[] end
      )::queue.change
    ],
    v_now,
    p_is_soon => coalesce(v_job.scheduled_for, v_now) < v_now + interval '1 minute'
  );
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
    'wake', v_made.is_ready and queue.wake_worker()
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

-- Notify workers, once in 20 ms: a transaction that notifies commits under a lock of the server. It
-- saves a second, no job depends on it: a worker that waits looks by itself each second, and one
-- that was notified and found nothing after a tenth of one.
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
    v_ignored := setval('queue.notified_at', v_at);
    v_ignored := pg_notify('minutehand_wakeup', '')::text;
  end if;
  return null;
end;
$$;

revoke execute on function queue.notify_workers from public;

-- A run that had free slots is about to end: enqueues from now on start a worker, since two seconds
-- ago is too long for queue.wake_worker. It asks once more, for those that counted on it before.
create or replace function queue.count_on_no_worker(p_now timestamptz)
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

revoke execute on function queue.count_on_no_worker from public;

drop function queue.wake_worker(p_now timestamp with time zone, p_is_due boolean);

-- Whether the caller should start a worker. Not where in the last two seconds one with free slots
-- has asked for jobs, or a caller was asked to start one, unless pg_cron calls, once a minute
-- (p_is_due). Where connect_worker has named a worker, pg_net calls that: without AWS this is the
-- schedule, on AWS a hint beside the API and the schedule of each minute. p_is_answered: the answer
-- reaches who can start a worker; else, without that address, no one is asked.
create or replace function queue.wake_worker(
  p_now timestamptz default queue.clock(),
  p_is_due boolean default false,
  p_is_answered boolean default true
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
  v_url := queue.setting('worker_url') #>> '{}';
  if v_url is null and not p_is_answered then
    return false;
  end if;
  v_ms := setval('queue.wanted_ms', greatest(0, v_ms));
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

-- Enqueue many: enqueue_jobs, children and schedules call queue.enqueue, which calls queue.add for
-- each job, or queue.add_plain for all. And the triggers of public.jobs for inserts and deletes.

-- Add jobs in one statement, at a tenth of the cost of queue.add; tests/sql/test_inserts.py holds
-- the two equal. False, with none added, unless all are plain: without options, of published types
-- that have no schema and no rate of a key.
create or replace function queue.add_plain(
  p_workspace_id uuid,
  p_user_id uuid,
  p_items jsonb,
  p_ids uuid[],
  p_now timestamptz
)
returns boolean
language plpgsql
set search_path = ''
as $$
declare
  v_bytes_max constant integer := queue.setting('payload_max_bytes')::integer;
  v_trace constant text := queue.trace_of_call();
  v_ord constant bigint := queue.ord_of(100, p_now);
  v_types queue.job_types[];
  v_lanes integer[];
begin
  if exists (
    select from jsonb_array_elements(p_items) as i
    where case
      when jsonb_typeof(i.value) <> 'object'
          or i.value - '{job_type,payload}'::text[] <> '{}'
          or jsonb_typeof(i.value -> 'payload') not in ('object', 'null')
        then true
      when octet_length(i.value::text) > 309 then -- as queue.check_json
      octet_length(i.value::text) > v_bytes_max
        or i.value @? 'strict $.**{102}'
        or i.value::text ~ '[0-9]{155}[0-9]{154}'
    end
  ) then
    return false;
  end if;
  v_types := array( -- read once: one may be changed or deleted meanwhile
    select t
    from (
      select distinct i.value ->> 'job_type' as job_type
      from jsonb_array_elements(p_items) as i
    ) as k
    left join queue.job_types as t on t.job_type = k.job_type
  );
  if exists (
    select from unnest(v_types) as t
    where (
      t.schema_version > 0
      and t.payload_schema is null
      and not t.rate_per_key
      and not (t.internal and p_user_id is not null)
    ) is not true
  ) then
    return false;
  end if;
  with items as materialized (
    select
      p_ids[i.n] as id,
      i.n,
      i.value ->> 'job_type' as job_type,
      coalesce(nullif(i.value -> 'payload', 'null'), '{}') as payload,
      p_now + make_interval(secs => i.n * 1e-6) as at
    from jsonb_array_elements(p_items) with ordinality as i (value, n)
  ),
  made as (
    insert into public.jobs (
      id, workspace_id, user_id, lane, max_attempts, last_seq, is_minimal,
      schema_version, queue, job_type, payload, traceparent, ord, created_at,
      updated_at
    )
    select
      i.id,
      p_workspace_id,
      p_user_id,
      t.lane,
      t.max_attempts,
      (not t.is_minimal)::integer,
      nullif(t.is_minimal, false),
      t.schema_version,
      t.queue,
      t.job_type,
      i.payload,
      v_trace,
      v_ord + i.n,
      i.at,
      i.at
    from items as i
    join unnest(v_types) as t on t.job_type = i.job_type
    order by i.n
    returning id, lane, ord, created_at
  ),
  placed as (
    insert into queue.ready (lane, workspace_id, ord, ready_at, job_id)
    select m.lane, p_workspace_id, m.ord, m.created_at, m.id
    from made as m
  )
  select array_agg(distinct m.lane) into v_lanes
  from made as m;
  perform queue.note_turn(l, p_workspace_id, v_ord)
  from unnest(v_lanes) as l;
  return true;
end;
$$;

revoke execute on function queue.add_plain from public;

-- Enqueue many, all at once if they are plain, else one by one; ids and created in the order of
-- p_items. p_user_id: who calls, null: the service.
create or replace function queue.enqueue(
  p_workspace_id uuid,
  p_user_id uuid,
  p_items jsonb,
  p_bulk boolean,
  out ids uuid[],
  out created boolean[],
  out wake boolean
)
language plpgsql
set search_path = ''
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_count constant integer := jsonb_array_length(p_items);
  v_caller constant uuid := queue.caller();
  v_is_plain boolean;
  v_keyed uuid[]; -- the job of each item that has an idempotency key
  v_new uuid[] := '{}';
  v_published integer := 0; -- how many of v_new
  v_item record;
  v_made record;
begin
  ids := queue.new_ids(v_count);
  created := array_fill(true, array[v_count]);
  perform queue.expect(
    p_workspace_id,
    v_caller,
    v_count,
    octet_length(p_items::text)
  )
  where v_caller is not null
    and v_count > 1
    and not p_items @? '$[*].idempotency_key'; -- a repeated call makes none
  v_is_plain := queue.add_plain(p_workspace_id, p_user_id, p_items, ids, v_now);
  wake := v_is_plain;
  if v_is_plain then
    v_new := ids;
  else
    v_keyed := queue.claim_keys(p_workspace_id, p_items, ids);
    perform queue.expect(p_workspace_id, v_caller, n.fresh, 0)
    from (
      select count(*)::integer as fresh
      from unnest(v_keyed, ids) as k (holder, id)
      where k.holder = k.id
    ) as n
    where v_caller is not null and v_count > 1 and n.fresh > 0;
  end if;
  -- unique keys in one order likewise; repeats last, when each key has its job
  for v_item in
    select
      i.value,
      i.n,
      case when p_bulk then format('jobs[%s].', i.n - 1) else '' end as within,
      v_keyed[i.n] <> ids[i.n] is true as is_repeat,
      i.value ->> 'job_type' as job_type,
      lag(i.value #> '{unique,key}') over (
        order by i.value ->> 'job_type', i.value #>> '{unique,key}', i.n
      ) = i.value #> '{unique,key}' as is_again
    from jsonb_array_elements(p_items) with ordinality as i (value, n)
    where not v_is_plain
    order by is_repeat, job_type, i.value #>> '{unique,key}', i.n
  loop
    if v_item.is_repeat then
      ids[v_item.n] := (
        select j.id
        from queue.job_keys as k
        join public.jobs as j on j.id = k.job_id
        where k.workspace_id = p_workspace_id
          and k.job_type = v_item.job_type
          and k.key = v_item.value ->> 'idempotency_key'
          and not k.is_unique
      );
      created[v_item.n] := false;
      continue;
    -- it may replace a job of this call, which is published before
    elsif v_item.is_again then
      perform queue.publish_created(v_new[v_published + 1:], v_now);
      v_published := cardinality(v_new);
    end if;
    v_made := queue.add(
      p_workspace_id,
      p_user_id,
      queue.type_or_refuse(v_item.job_type, v_item.within, p_workspace_id),
      coalesce(nullif(v_item.value -> 'payload', 'null'), '{}'),
      v_item.value - '{job_type,payload}'::text[],
      v_now + make_interval(secs => v_item.n * 1e-6),
      v_item.within,
      ids[v_item.n]
    );
    ids[v_item.n] := (v_made.job).id;
    created[v_item.n] := v_made.created;
    wake := wake or v_made.is_ready;
    if v_made.created then
      v_new := v_new || (v_made.job).id;
    end if;
  end loop;
  if array_position(ids, null) is not null then
    perform queue.refuse(
      503,
      'busy',
      'a job that has one of the keys is being deleted; call again'
    );
  elsif v_new <> '{}' then
    perform queue.publish_created(v_new[v_published + 1:], v_now);
    -- the person who calls, also where an app's function enqueues for them as the service
    perform queue.admit(
      'jobs',
      p_workspace_id,
      v_caller,
      cardinality(v_new),
      case when v_caller is not null then octet_length(p_items::text) end
    );
  end if;
  wake := wake and queue.wake_worker();
end;
$$;

revoke execute on function queue.enqueue from public;

-- Check each row of a plain insert into public.jobs before it is written, and fill it in. worker 0
-- marks it for queue.place_inserted, which checks the ids, and the workspaces of plain SQL. What a
-- person's transaction inserts beyond a hundred jobs takes a call slot, as a bulk does, and each
-- hundred must be theirs to spend, since what is refused at the end has cost as much as what is
-- admitted.
create or replace function queue.check_inserted()
returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_count integer := 1 + coalesce(
    nullif(current_setting('minutehand.plain_inserts', true), ''),
    '0'
  )::integer;
  v_options jsonb := '{}';
  v_holder uuid;
begin
  v_count := set_config('minutehand.plain_inserts', v_count::text, true);
  if v_count > 100 and v_count % 100 = 1 and queue.caller() is not null then
    perform queue.take_call_slot(new.workspace_id);
    perform queue.expect(new.workspace_id, queue.caller(), v_count, 0);
  end if;
  if new.status <> 'pending' then
    perform queue.refuse(
      400,
      'invalid_argument',
      'a new job must have status pending',
      'status'
    );
  end if;
  if new.priority <> 100
    or num_nonnulls(
      new.queue, new.scheduled_for, new.max_attempts, new.idempotency_key,
      new.concurrency_key, new.session_id, new.parent_id, new.deadline_at,
      new.start_by_seconds, new.timeout_seconds, new.traceparent, new.schema_version,
      new.user_id, new.tags
    ) > 0
  then
    v_options := jsonb_strip_nulls(jsonb_build_object(
      'queue', new.queue,
      'priority', nullif(new.priority, 100),
      'scheduled_for', new.scheduled_for,
      'max_attempts', new.max_attempts,
      'idempotency_key', new.idempotency_key,
      'concurrency_key', new.concurrency_key,
      'session_id', new.session_id,
      'parent_id', new.parent_id,
      'deadline_at', new.deadline_at,
      'start_by_seconds', new.start_by_seconds,
      'timeout_seconds', new.timeout_seconds,
      'traceparent', new.traceparent,
      'schema_version', new.schema_version,
      'user_id', new.user_id,
      'tags', new.tags
    ));
  end if;
  new := queue.new_job(
    new.workspace_id,
    case
      when current_setting('request.jwt.claims', true) <> ''
        then queue.may_read(new.workspace_id)
    end,
    queue.type_or_refuse(new.job_type, '', new.workspace_id),
    new.payload,
    v_options,
    v_now,
    p_id => new.id
  );
  new.worker := 0;
  if new.idempotency_key is not null then
    v_holder := queue.claim(new, v_options, v_now);
    if v_holder <> new.id then
      perform queue.refuse(
        409,
        'duplicate_job',
        'this idempotency key already belongs to a job',
        v_holder::text
      );
    end if;
  end if;
  return new;
end;
$$;

revoke execute on function queue.check_inserted from public;

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
    perform queue.wake_worker(p_is_answered => false);
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
  -- this waits for a gate which is admitting one, and the statements after it see its new row
  perform from queue.gated as g
  join removed as j
    on j.finished_at is null
    and g.job_id = j.id
    and g.workspace_id = j.workspace_id
    and g.job_type = j.job_type
    and g.key = coalesce(j.concurrency_key, '')
  for update of g;
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
      g.admitted,
      g.started_at < 'infinity' is true as is_unpaid
    from queue.gated as g
    join removed as j
      on j.finished_at is null
      and g.job_id = j.id
      and g.workspace_id = j.workspace_id
      and g.job_type = j.job_type
      and g.key = coalesce(j.concurrency_key, '')
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
  -- also where no other has the key now: one may come before this is committed, whose look at the
  -- gate finds the slot taken
  insert into queue.notes (lane, workspace_id, key)
  select distinct t.lane, t.workspace_id, t.key
  from theirs as t
  where t.admitted;
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

drop function queue.free_of_key(p_type queue.job_types, p_workspace_id uuid, p_key text, OUT free integer, OUT tokens double precision, OUT at timestamp with time zone);

-- How many more jobs of a key may be admitted, at most 1,000: by its concurrency, from which those
-- that are admitted already are taken; and by its rate. An admitted job reserves a token until it
-- starts. Those that have started since are charged here, as of their start, and those that have
-- ended and owe nothing are deleted. tokens: what is left of the rate, less what is reserved, at
-- that instant (at). is_held: an ended one counts still, since another transaction has its row, as
-- that of a person who deletes the job. The gate is then to be looked at again; where any other row
-- is taken away, a note is left.
create or replace function queue.free_of_key(
  p_type queue.job_types,
  p_workspace_id uuid,
  p_key text,
  out free integer,
  out tokens double precision,
  out at timestamptz,
  out is_held boolean
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
  v_admitted record;
begin
  free := 1000;
  is_held := false;
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
    free := least(1000, greatest(0, floor(tokens + 1e-9)))::integer;
  end if;
  delete from queue.gated
  where ctid = any (array(
    select g.ctid
    from queue.gated as g
    where g.workspace_id = p_workspace_id
      and g.job_type = p_type.job_type
      and g.key = p_key
      and g.admitted
      and g.ended
      -- but one that has ended since then and is yet to be charged; those that never started go
      and (p_type.rate_per_key and g.started_at < 'infinity') is not true
    for update skip locked
  ));
  if p_type.key_concurrency is not null and p_key <> '' then
    select count(*) as jobs, coalesce(bool_or(g.ended), false) as has_ended
    into v_admitted
    from queue.gated as g
    where g.workspace_id = p_workspace_id
      and g.job_type = p_type.job_type
      and g.key = p_key
      and g.admitted;
    free := greatest(0, least(free, p_type.key_concurrency - v_admitted.jobs));
    is_held := v_admitted.has_ended;
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
  if v_count.free = 0 and not v_type.rate_per_key and not v_count.is_held then
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
        -- not one whose row of an earlier attempt, which has the same key, has ended since the
        -- deletion above: the next time
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
    when v_admitted.jobs < v_count.free or v_count.is_held then p_now + interval '1 second'
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
      and not exists ( -- one look will do
        select from queue.notes as n
        where n.workspace_id = p_workspace_id
          and n.lane = any (v_open)
          and n.key = p_key
          and n.look_at between p_now and v_look_at
      )
    limit 1;
  end if;
end;
$$;

revoke execute on function queue.open_gate from public;

-- Charge a person's bucket, or refuse with 429. While another call of theirs charges it, until its
-- transaction ends, a small one is noted in one of twenty rows beside it, which the next charge
-- empties: none waits for another, and none is free.
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
  if v_place is null then -- refused, unless the bucket is free by now
    perform queue.charge(p_bucket, p_most, p_seconds, p_cost, p_limit)
    where queue.charges_alone(p_bucket, 'infinity');
    return;
  end if;
  insert into queue.buckets as b (name, tokens, refilled_at)
  values (v_place, p_cost, v_now)
  on conflict (name) do update set
    tokens = b.tokens + excluded.tokens,
    refilled_at = excluded.refilled_at;
end;
$$;

revoke execute on function queue.charge from public;

-- The first ready jobs of a tenant, in their order, each by the number of its turn.
create type queue.tenant_jobs as (
  turns integer[],
  weight integer,
  taken integer,
  tenant_free integer,
  round bigint,
  rank bigint,
  workspace_id uuid
);

-- A job as its worker gets it, and a lease of it. steps: results of those that earlier attempts
-- have done; null where they are long, which the worker then asks for (read_steps).
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

-- What a lease has taken: its jobs, their leases as the worker gets them, and the changes to
-- publish. rest: jobs of which more is to be noted (queue.note_begun).
create type queue.taken as (
  ids uuid[],
  leases json[],
  changes queue.change[],
  rest uuid[]
);

-- Open noted turns, at their tenant's rank, or for a newcomer near the end of the round: one rank
-- in all lanes, behind that of the ring that is furthest back. And turns whose time at a limit is
-- over. One that another transaction changes now keeps its note.
create or replace function queue.open_turns(p_most integer, p_now timestamptz)
returns void
language plpgsql
set search_path = ''
as $$
begin
  with noted as materialized (
    select n.lane, n.workspace_id
    from (
      select *
      from queue.notes
      where key is null
      order by id
      limit 10 * p_most
    ) as n
    where not exists (
        select from queue.turns as t
        where t.workspace_id = n.workspace_id and t.lane = n.lane
      )
      or exists (
        select from (
          select from queue.turns as t
          where t.workspace_id = n.workspace_id and t.lane = n.lane
          for update skip locked
        ) as free
      )
    group by 1, 2
    order by min(n.id)
    limit p_most
  ),
  gone as (
    delete from queue.notes as n
    using noted as o
    where n.workspace_id = o.workspace_id and n.lane = o.lane and n.key is null
    returning n.id, n.lane, n.workspace_id, n.ord
  ),
  opened as (
    select g.lane, g.workspace_id, min(g.ord) as ord
    from gone as g
    group by 1, 2
    order by min(g.id)
  )
  insert into queue.turns as t (lane, workspace_id, rank, from_ord, changed_at)
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
    p_now
  from opened as o
  join queue.lanes as l on l.lane = o.lane
  join queue.rings as r on r.ring = l.ring
  on conflict (workspace_id, lane) do update set
    blocked = false,
    look_at = null,
    changed_at = p_now,
    -- a closed turn has no jobs but those of the notes
    from_ord = case
      when t.blocked and t.look_at is null then excluded.from_ord
      else least(t.from_ord, excluded.from_ord)
    end;
  update queue.turns as t
  set blocked = false, look_at = null
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

revoke execute on function queue.open_turns from public;

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
    from ( -- sorted within, so that the locks are tried in that order
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

-- Turns along a ring, from the tenant that comes next on, and around it once; those of other lanes
-- too. is_cut: the last that was read, behind which there may be more. The ring's position is
-- compared by (rank, tenant, lane). While the round of the tenant that was served last is
-- unfinished, it comes first again: lane_bound is 0, before each of its lanes; else the greatest
-- integer, behind them.
create or replace function queue.along_the_ring(p_ring integer, p_rows integer)
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
        from queue.turns as o
        where not o.blocked
          and (o.rank, o.workspace_id, o.lane)
          > (p.last_rank, p.last_workspace_id, p.lane_bound)
        order by o.rank, o.workspace_id, o.lane
        limit p_rows
      )
      union all
      (
        select o.*, p.round + 1
        from queue.turns as o
        where not o.blocked
          and (o.rank, o.workspace_id, o.lane)
          <= (p.last_rank, p.last_workspace_id, p.lane_bound)
        order by o.rank, o.workspace_id, o.lane
        limit p_rows
      )
    ) as t
    limit p_rows
  ) as u;
end;
$$;

revoke execute on function queue.along_the_ring from public;

-- As queue.along_the_ring, but p_rows of each of these lanes, from where its ring has come to; by
-- an index that begins with the lane, which a plan for both would not read in order. A lane lags at
-- most one round behind the others: one that was not served for long would otherwise be served
-- alone until it caught up.
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
        from queue.turns as o
        where o.lane = p.lane
          and not o.blocked
          and (o.rank, o.workspace_id, o.lane)
          > (p.last_rank, p.last_workspace_id, p.lane_bound)
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
          <= (p.last_rank, p.last_workspace_id, p.lane_bound)
        order by o.rank, o.workspace_id
        limit p_rows
      )
    ) as t
    limit p_rows
  ) as u;
end;
$$;

revoke execute on function queue.lane_by_lane from public;

-- Divide slots in rounds: each tenant in the ring's order gets as many of its first ready jobs as
-- its weight, then each again, which the ring does not count as a round. Jobs that a limit stops
-- are passed over, and count as none. p_depth: how many jobs of a turn are read, at least those of
-- a round; null: more tenants follow, so that there is one round. is_cut: a turn may have more jobs
-- than were read. empty: turns without a ready job. lasts: what queue.move_on is to know.
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
  v_turns queue.turn[] := p_turns; -- of a variable each element is found at once
  v_tenants queue.tenant_jobs[];
  v_tenant queue.tenant_jobs;
  v_next integer[]; -- the next job of each tenant
  v_given integer[]; -- how many jobs each tenant gets
  v_of_turn integer[] := '{}'; -- how many each turn gets
  v_types text[] := '{}'; -- limited ones, and how many each gets
  v_of_type integer[] := '{}';
  v_round integer := 0;
  v_slots integer := 0;
  v_had integer; -- how many jobs a tenant has had of this round
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
      select u.*, greatest(p_depth, u.weight) as depth -- the weight, where p_depth is null
      from unnest(p_turns) with ordinality as u
    ) as t
    left join lateral (
      select o.ord, row_number() over (order by o.ord) as nth_of_turn
      from queue.ready as o
      where o.lane = t.lane
        and o.workspace_id = t.workspace_id
        and o.ord >= t.from_ord
      order by o.ord
      -- least ignores nulls: no limit
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
      order by t.from_ord -- by age: about as their records lie
    )
  into shares
  from unnest(p_turns) with ordinality as t
  where v_of_turn[t.ordinality] > 0;
end;
$$;

revoke execute on function queue.divide_slots from public;

-- Which turns get how many of the slots, and which are empty; is_only: there is one turn, which may
-- be empty too. more: ask again at once, since another lease holds a lock or there are more turns
-- than were read. at_limit: types of which no job may start.
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
  -- the ring moves to the tenant that was served last, unless
  if v_first.is_all
    and (v_first.known = 1 or not is_limited and v_slots < v_most)
  then -- no one was passed over: one tenant has all turns, or all jobs were taken
    return;
  elsif v_slots < v_most and not v_first.is_all then -- all that were read have had their round
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
  -- the lanes of a limited type stop at the tenant where its slots ran out, since those behind it
  -- were passed over; the other lanes go on to the last
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

-- Results of the steps that a job's earlier attempts have done; null where they are long.
create or replace function queue.steps_of_lease(p_job_id uuid)
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

revoke execute on function queue.steps_of_lease from public;

create or replace function queue.both_taken(p_one queue.taken, p_other queue.taken)
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

revoke execute on function queue.both_taken from public;

drop function queue.take_jobs(p_shares queue.share[], p_request queue.lease_request, p_now timestamp with time zone, OUT ids uuid[]);

-- Lease the first jobs of each turn. The update finds a record by its ctid, since no one else can
-- give it a new version while it is locked; one that got one since the statement began is not seen,
-- and stays ready.
create or replace function queue.take_jobs(
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
        and r.job_id <> all (array( -- as queue.refused
          select f.job_id
          from queue.refusals as f
          where f.task = 'lease' and f.retry_at > p_now
        ))
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
      -- a job may have been created after the clock was read
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
          k.seqs
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

revoke execute on function queue.take_jobs from public;

drop function queue.take(p_shares queue.share[], p_request queue.lease_request, p_now timestamp with time zone, OUT ids uuid[], OUT has_refused boolean);

-- Take the jobs of turns. One that a project's trigger refuses is found by halves and noted
-- (has_refused), so that the next lease passes over it.
create or replace function queue.take(
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
  v_half constant integer := cardinality(p_shares) / 2;
  v_one queue.share := p_shares[1];
  v_failure text;
  v_first record;
  v_second record;
begin
  has_refused := false;
  begin
    taken := queue.take_jobs(p_shares, p_request, p_now);
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
    v_second := queue.take(p_shares[v_half + 1:], p_request, p_now);
  elsif v_one.jobs > 1 then
    p_shares[1].jobs := v_one.jobs / 2;
    v_first := queue.take(p_shares, p_request, p_now);
    p_shares[1].jobs := v_one.jobs - v_one.jobs / 2; -- of those that are still ready
    v_second := queue.take(p_shares, p_request, p_now);
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
  taken := queue.both_taken(v_first.taken, v_second.taken);
  has_refused := v_first.has_refused or v_second.has_refused;
end;
$$;

revoke execute on function queue.take from public;

drop function queue.fill_pool(p_request queue.lease_request, p_now timestamp with time zone, OUT ids uuid[], OUT lanes integer[], OUT limited text[], OUT unfilled integer[], OUT more boolean, OUT leased_at timestamp with time zone);

-- Fill the slots of one pool, of these job types: which turns get them, and their first jobs.
-- unfilled: if the pool got nothing, its lanes whose type is not at a limit.
create or replace function queue.fill_pool(
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
  v_expected bigint; -- jobs that were seen: of fewer, another lease has the rest
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
        when v_shared.shares[2] is null then 1 -- a lone turn may be given more slots than jobs
        else (select sum(s.jobs) from unnest(v_shared.shares) as s)
      end;
      more := more
        or v_taken.has_refused
        or v_leased < v_expected and queue.refused('lease', leased_at) = '{}';
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
      where j.id = any (taken.ids)
      group by 1
    ) as n
    join queue.job_types as y on y.job_type = n.job_type
    where y.rate_limit is not null and not y.rate_per_key;
  end if;
  -- An empty turn is closed late, since its next job then needs no note: once several are empty,
  -- since each lease reads them; after a lease that has passed over many jobs, since the next
  -- begins behind them; and now and then.
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
  end if;
end;
$$;

revoke execute on function queue.fill_pool from public;

-- Note what else follows from the lease of these jobs: events that their records do not say, unique
-- keys that it frees, and starts that the rates of keys are charged for.
create or replace function queue.note_begun(p_ids uuid[], p_worker_id text, p_now timestamptz)
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

revoke execute on function queue.note_begun from public;

-- The leases that a call got and still holds, once more; tests/sql/test_leases.py holds them equal
-- to what queue.take_jobs gives.
create or replace function queue.repeat_leases(p_tick_id uuid, p_call integer)
returns json
language plpgsql stable
set search_path = ''
as $$
begin
  return (
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
    where l.tick_id = p_tick_id and l.tick_call = p_call
  );
end;
$$;

revoke execute on function queue.repeat_leases from public;

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
  v_taken queue.taken;
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
    v_taken := case
      when v_taken is null then v_filled.taken
      else queue.both_taken(v_taken, v_filled.taken)
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
    perform queue.note_begun(v_taken.rest, p_request.worker_id, v_now);
  end if;
  v_is_published := queue.publish(p_changes || v_taken.changes, v_now);
end;
$$;

revoke execute on function queue.lease_ready from public;

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
    return json_build_object(
      'leases', queue.repeat_leases(v_asked.tick_id, v_asked.call),
      'next_due_in_ms', 0
    );
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
  v_ms := (date_part('epoch', v_now) * 1000)::bigint;
  if v_asked.free_slots < 0 then
    v_ignored := queue.count_on_no_worker(v_now);
  elsif coalesce(v_asked.free_slots, v_asked."limit" - v_given.leased) > 0 then
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

create or replace function public.lease_jobs(p_request jsonb)
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
begin
  perform queue.refuse_revoked();
  return queue.lease(p_request);
end;
$$;

comment on function public.lease_jobs is
  E'Lease up to limit jobs: {leases, maintenance, due, next_due_in_ms, run?}.\n\nRequest: '
  '{worker_id, tick_id, call, limit 0..1000, job_types, pools: [{job_types, limit}], queues, '
  'lease_seconds, version, free_slots, count_due, most, run_seconds, ends: {stay_ms, maintained?, '
  'summary?}}. pools: limits of some of the job types each, in place of one of all; due counts '
  'those of all. free_slots: with one or more, enqueues of the next two seconds wake no one, since '
  'this worker asks again; -1 takes that back; limit, less what is leased, unless given. '
  'A lease counts as an attempt; a repeated (tick_id, call) that got leases gets '
  'them again. most: so many runs may be under way, answered by run: {free}, null if this one is '
  'refused. ends: it ends if '
  'nothing is leased, nor due within stay_ms: {ended, refused}; refused: another was meanwhile, '
  'so lease again.';

select queue.allow('job_worker, service_role', 'public.lease_jobs');

drop function queue.end_attempts(p_items queue.worker_item[], p_transitions queue.transition[], p_now timestamp with time zone, OUT changes queue.change[], OUT rest uuid[], OUT own uuid[], OUT results json, OUT has_blocked boolean);

-- End attempts as decided, in one statement, since another would cost every job. An item with a
-- stale fence has no lease, and so changes nothing. p_transitions: what queue.decide made of each
-- item; null where all are plain completions. with_event: jobs whose event must be stored; rest:
-- those, and jobs that continue or have keys, parents or deadlines. results: the answer, where
-- every item was a plain completion and no fence was stale; else null, since it is then read from
-- what is stored. has_blocked: turns are at a limit.
create or replace function queue.end_attempts(
  p_items queue.worker_item[],
  p_transitions queue.transition[],
  p_now timestamptz,
  out changes queue.change[],
  out rest uuid[],
  out with_event uuid[],
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
        then (
          '[' || string_agg( -- json_build_object costs six times as much
            '{"job_id": "' || m.id || '", "fence": ' || m.fence
              || ', "outcome": "applied", "status": "completed"}',
            ', '
          ) || ']'
        )::json
    end,
    exists (select from queue.turns as t where t.blocked and t.look_at < 'infinity')
  into changes, rest, with_event, results, has_blocked
  from moved as m;
end;
$$;

revoke execute on function queue.end_attempts from public;

-- Apply the outcomes that workers report; each item is applied, cancelled, stale, not_found or busy
-- (another transaction holds its row). Only a completion wins over a cancel that was requested.
-- p_is_plain: as queue.read_items says.
create or replace function queue.settle(
  p_items queue.worker_item[],
  p_is_plain boolean,
  out results json,
  out changes queue.change[]
)
language plpgsql
set search_path = ''
as $$
declare
  v_now timestamptz := queue.clock();
  v_items queue.worker_item[];
  v_busy uuid[] := '{}';
  v_ended record;
begin
  if p_is_plain then
    begin
      v_ended := queue.end_attempts(p_items, null, v_now);
    exception when lock_not_available then
      p_is_plain := false;
    end;
  end if;
  if not p_is_plain then -- jobs that other transactions hold are left out
    v_busy := queue.lock_held(array(select i.job_id from unnest(p_items) as i));
    v_now := queue.clock();
    v_items := array( -- each attempt once
      select distinct on (i.job_id, i.fence) i
      from unnest(p_items) as i
      where i.job_id <> all (v_busy)
    );
    perform queue.write_reports(v_items, v_now);
    v_ended := queue.end_attempts(
      v_items,
      array(select queue.decide(i, v_now) from unnest(v_items) as i),
      v_now
    );
  end if;
  changes := v_ended.changes;
  results := v_ended.results;
  -- read what is stored, so a repeat gets the same answer
  if results is null or v_busy <> '{}' then
    select json_agg(json_strip_nulls(json_build_object(
      'job_id', i.job_id,
      'fence', i.fence,
      'status', case when coalesce(a.fence, j.fence) = i.fence then j.status end,
      'outcome', case
        when j.id is null then 'not_found'
        when i.job_id = any (v_busy) then 'busy'
        when a.outcome = 'cancelled' then 'cancelled'
        when coalesce(a.outcome, case when j.fence = i.fence then j.status end)
            in (i.outcome, 'failed')
          then 'applied'
        else 'stale'
      end
    )))
    into results
    from unnest(p_items) as i
    left join public.jobs as j on j.id = i.job_id and i.fence between 1 and j.fence
    left join queue.attempts as a on a.job_id = i.job_id and a.fence = i.fence;
  end if;
  if v_ended.rest is not null then
    insert into queue.job_events (job_id, seq, workspace_id, type, data, created_at)
    select e.id, e.seq, c.workspace_id, c.type, c.data, v_now
    from unnest(changes) as c
    cross join lateral unnest(c.job_ids, c.seqs) as e (id, seq)
    where e.id = any (v_ended.with_event);
    perform queue.end_places(v_ended.rest, v_now);
  end if;
  -- their tenants' turns at a limit are looked at again
  if v_ended.has_blocked then
    update queue.turns
    set look_at = '-infinity'
    where ctid = any (array(
      select t.ctid
      from queue.turns as t
      where t.blocked
        and t.look_at < 'infinity'
        and t.workspace_id = any (array(
          select j.workspace_id
          from unnest(p_items) as i
          join public.jobs as j on j.id = i.job_id
        ))
      for update skip locked
    ));
  end if;
end;
$$;

revoke execute on function queue.settle from public;

create or replace function public.tick_finished(p_request jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_tick constant uuid := p_request ->> 'tick_id';
  v_worker integer;
  v_refused boolean;
  v_ignored bigint := queue.count_on_no_worker(queue.clock());
begin
  perform queue.refuse_revoked();
  update queue.ticks
  set expires_at = null
  where tick_id = v_tick and expires_at is not null
  returning has_refused into v_refused;
  if coalesce(p_request ->> 'summary', p_request ->> 'evidence') is not null then
    update queue.workers
    set
      ended_at = queue.clock(),
      seen_at = queue.clock(),
      summary = coalesce(p_request -> 'summary', summary),
      evidence = p_request -> 'evidence'
    where worker = coalesce(
      (
        select t.worker
        from queue.ticks as t
        where t.tick_id = v_tick
      ),
      (
        select w.worker
        from queue.workers as w
        where w.worker_id = p_request ->> 'worker_id'
      )
    )
    returning worker into v_worker;
  end if;
  if p_request ->> 'evidence' is not null then
    perform queue.end_leases_of(v_worker, queue.clock());
  end if;
  return jsonb_build_object('ended', true, 'refused', coalesce(v_refused, false));
end;
$$;

comment on function public.tick_finished is
  E'Note that a worker''s run has ended: {tick_id, summary?}, as a lease may do: {ended, refused}.'
  '\n\nOr that its process has, without a word: {worker_id, evidence}, which the jobs that it held '
  'keep; their leases are over at once.';

select queue.allow('job_worker, service_role', 'public.tick_finished');

-- Store what workers report of jobs whose leases and records the caller has locked, with an event
-- for progress and for each log line. logs begins with the attempt's line logs_from: lines that an
-- earlier report has stored are left out. Jobs of minimal events get none for lines.
create or replace function queue.write_reports(p_items queue.worker_item[], p_now timestamptz)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_item queue.worker_item;
  v_stored integer;
  v_items queue.worker_item[] := '{}';
  v_changes queue.change[];
begin
  foreach v_item in array p_items loop
    continue when num_nonnulls(
      v_item.progress,
      v_item.logs,
      v_item.steps,
      v_item.step,
      v_item.tags,
      v_item.output
    ) = 0;
    select l.log_lines into v_stored
    from queue.leases as l
    where l.job_id = v_item.job_id and l.fence = v_item.fence;
    continue when not found;
    v_item.logs := coalesce(
      jsonb_path_query_array(
        v_item.logs,
        '$[$stored to last]',
        jsonb_build_object('stored', greatest(0, v_stored - v_item.logs_from))
      ),
      '[]'
    );
    v_items := v_items || v_item;
  end loop;
  if v_items = '{}' then
    return;
  end if;
  -- before a step counts as finished: a stream that begins again drops what it wrote so far
  perform queue.write_output(v_items, p_now);
  perform queue.store_state(v_items, p_now);
  with lines as materialized (
    select
      j.id,
      j.workspace_id,
      j.session_id,
      j.attempts,
      j.is_minimal,
      j.last_seq
        - (i.progress is not null)::integer
        - jsonb_array_length(i.logs)
        + l.nth::integer as seq,
      case
        when l.value ->> 'level' in ('debug', 'warning', 'error')
          then l.value ->> 'level'
        else 'info'
      end as level,
      left(coalesce(l.value ->> 'message', ''), 10000) as message,
      coalesce(nullif(l.value -> 'metadata', 'null'), '{}') as metadata,
      coalesce((l.value ->> 'at')::timestamptz, p_now) as at
    from unnest(v_items) as i
    join public.jobs as j on j.id = any (array[i.job_id])
    cross join lateral jsonb_array_elements(i.logs) with ordinality as l (
      value,
      nth
    )
  ),
  kept as (
    insert into public.job_logs (
      job_id, workspace_id, attempt, log_level, message, metadata, created_at
    )
    select l.id, l.workspace_id, l.attempts, l.level, l.message, l.metadata, l.at
    from lines as l
    order by l.id, l.seq
  )
  select array_agg(e.change order by (e.change).job_ids[1], (e.change).seqs[1])
  into v_changes
  from (
    select row(
      l.workspace_id,
      l.session_id,
      'job.log',
      jsonb_build_object(
        'log', jsonb_build_object(
          'level', l.level,
          'message', left(l.message, 2000),
          'at', l.at,
          'attempt', l.attempts,
          'metadata', case
            when pg_column_size(l.metadata) <= 2048 then l.metadata
            else '{}'
          end
        )
      ),
      array[l.id],
      array[l.seq]
    )::queue.change as change
    from lines as l
    where l.is_minimal is null
    union all
    select row(
      j.workspace_id,
      j.session_id,
      'job.progress',
      jsonb_build_object('progress', j.progress, 'attempts', j.attempts),
      array[j.id],
      array[j.last_seq]
    )::queue.change
    from unnest(v_items) as i
    join public.jobs as j on j.id = any (array[i.job_id])
    where i.progress is not null
  ) as e;
  insert into queue.job_events (job_id, seq, workspace_id, type, data, created_at)
  select c.job_ids[1], c.seqs[1], c.workspace_id, c.type, c.data, p_now
  from unnest(v_changes) as c;
  perform queue.publish(v_changes, p_now); -- strict: of no change nothing
exception when data_exception or integrity_constraint_violation then
  if cardinality(p_items) > 1 then -- each alone: what one worker says stops no other job
    perform queue.write_reports(array[i], p_now) from unnest(p_items) as i;
  else
    raise warning 'a report of job % was dropped: % (%)',
      p_items[1].job_id,
      sqlerrm,
      sqlstate;
  end if;
end;
$$;

revoke execute on function queue.write_reports from public;

-- Begin the wait of a job that is settled as waiting; gives what is wrong with it, or null.
create or replace function queue.begin_wait(p_job public.jobs, p_wait jsonb, p_now timestamptz)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_kind constant text := p_wait ->> 'kind';
  v_until timestamptz;
begin
  v_until := coalesce(p_wait ->> 'timeout_at', p_wait ->> 'until');
  if v_kind = 'children'
    and exists (
      select from jsonb_array_elements_text(p_wait -> 'job_ids') as c (id)
      where not exists (
        select from public.jobs as o
        where o.id = c.id::uuid and o.parent_id = p_job.id
        offset 0
      )
    )
  then
    -- jobs that are not its children send no signal when they end: look again every ten seconds
    v_until := p_now + interval '10 seconds';
  -- a wait spends no attempt: none into the past
  elsif v_until < p_now + interval '1 second' then
    v_until := p_now + interval '1 second';
  end if;
  insert into queue.waits (
    job_id, workspace_id, kind, step, data, event_name, timeout_at, default_value,
    created_at
  )
  values (
    p_job.id,
    p_job.workspace_id,
    v_kind,
    left(coalesce(nullif(p_wait ->> 'name', ''), v_kind), 200),
    jsonb_strip_nulls(jsonb_build_object(
      'question', p_wait -> 'question',
      'options', p_wait -> 'options',
      'job_ids', p_wait -> 'job_ids'
    )),
    case v_kind when 'event' then left(p_wait ->> 'event', 255) end,
    v_until,
    p_wait -> 'default',
    p_now
  );
  -- its deadline, as in queue.place
  insert into queue.deferred (run_at, job_id, workspace_id)
  select p_job.deadline_at, p_job.id, p_job.workspace_id
  where p_job.deadline_at is not null
  on conflict do nothing;
  -- the event or ends may have come before
  insert into queue.signals (kind, workspace_id, job_id)
  select 'check', p_job.workspace_id, p_job.id
  where v_kind in ('event', 'children');
  return null;
exception when data_exception or integrity_constraint_violation then
  return jsonb_build_object(
    'type', 'InvalidWait',
    'reason', 'invalid_wait',
    'message', sqlerrm
  );
end;
$$;

revoke execute on function queue.begin_wait from public;

-- Handle signals, and end waits whose time has passed. A signal stays where its job is held by
-- another transaction, or more jobs wait for its event. Ends when a pass has done nothing. A pass
-- gives families a tenth of a second, in turns of the workspaces, and then looks at waits again.
create or replace function queue.do_waits(p_now timestamptz, p_until timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_signals bigint[];
  v_kept bigint[];
  v_refused uuid[];
  v_lines tid[];
  v_waiting uuid[];
  v_signal queue.signals;
  v_passed integer;
  v_moved integer; -- jobs and signals of this pass
  v_until timestamptz; -- when this pass gives families no more
  v_done integer := 0;
begin
  loop
    v_lines := queue.in_shares(
      'queue.signals',
      'true',
      'o.look_at <= $1',
      'o.id',
      p_now
    );
    v_signals := array(
      select s.id
      from queue.signals as s
      where s.ctid = any (v_lines) and s.look_at <= p_now
      order by s.id
      for update skip locked
    );
    v_refused := queue.refused('waits', p_now);
    v_lines := queue.in_shares(
      'queue.waits',
      'o.timeout_at is not null',
      'o.timeout_at <= $1 and o.job_id <> all ($2)',
      'o.timeout_at',
      p_now,
      v_refused
    );
    v_waiting := array( -- whose time has passed, or which signals name
      select w.job_id
      from queue.waits as w
      join public.jobs as j on j.id = w.job_id
      where w.job_id <> all (v_refused)
        and w.job_id = any (array(
          select o.job_id
          from queue.waits as o
          where o.ctid = any (v_lines)
          union
          select s.job_id
          from queue.signals as s
          where s.id = any (v_signals) and s.kind = 'check'
          union
          select o.job_id
          from (
            select e.*, count(*) over () as many
            from queue.signals as e
            where e.id = any (v_signals) and e.kind = 'event'
          ) as s
          cross join lateral (
            select w.job_id
            from queue.waits as w
            where w.workspace_id = s.workspace_id
              and w.event_name = s.name
              and w.job_id <> all (v_refused)
            limit ceil(500.0 / s.many)
          ) as o
        ))
      order by w.job_id
      for no key update of w, j skip locked
    );
    v_moved := case
      when v_waiting = '{}' then 0
      else queue.do_in_parts('waits', v_waiting, p_now)
    end;
    v_kept := array(
      select max(s.id)
      from queue.signals as s
      join queue.waits as w on w.job_id = s.job_id
      where s.id = any (v_signals)
        and s.kind = 'check'
        and s.job_id <> all (v_waiting)
      group by s.job_id
      union all
      select s.id
      from queue.signals as s
      where s.id = any (v_signals)
        and s.kind = 'event'
        and exists (
          select from queue.waits as w
          where w.workspace_id = s.workspace_id and w.event_name = s.name
        )
    );
    v_until := least(p_until, clock_timestamp() + interval '100 milliseconds');
    for v_signal in
      select *
      from queue.signals as s
      where s.id = any (v_signals) and s.kind in ('cancel', 'retry', 'resumed')
      order by row_number() over (partition by s.workspace_id order by s.id), s.id
    loop
      v_passed := case
        when clock_timestamp() < v_until then queue.handle_signal(v_signal, p_now)
      end;
      if v_passed is null then
        v_kept := v_kept || v_signal.id;
      end if;
      v_moved := v_moved + coalesce(v_passed, 0);
    end loop;
    delete from queue.signals as s
    where s.id = any (v_signals) and s.id <> all (v_kept);
    v_moved := v_moved + cardinality(v_signals) - cardinality(v_kept);
    v_done := v_done + v_moved;
    exit when v_moved = 0 or clock_timestamp() >= p_until;
  end loop;
  -- held by other transactions: queue.maintenance_is_due then passes over them
  if v_moved = 0 then
    update queue.signals
    set failures = failures + 1
    where id = any (v_kept);
  end if;
  return v_done;
end;
$$;

revoke execute on function queue.do_waits from public;

create or replace function public.answer_job(p_job_id uuid, p_answer jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
set enable_seqscan = off
set jit = off
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_wait queue.waits;
begin
  perform queue.visible_job(p_job_id);
  if jsonb_typeof(p_answer) is distinct from 'object'
    or not p_answer ? 'answer'
  then
    perform queue.refuse(
      400,
      'invalid_argument',
      'p_answer must be {"answer": …}',
      'answer'
    );
  end if;
  perform queue.check_json(p_answer, 'answer');
  perform queue.hold_jobs(array[p_job_id]);
  select * into v_wait
  from queue.waits
  where job_id = p_job_id and kind = 'ask';
  if not found then
    perform queue.refuse(
      409,
      'invalid_state',
      'the job is not asking anything',
      (
        select j.status
        from public.jobs as j
        where j.id = p_job_id
      )
    );
  elsif p_answer ? 'name' and p_answer ->> 'name' <> v_wait.step then
    perform queue.refuse(
      409,
      'invalid_state',
      'the job is asking something else now',
      v_wait.step
    );
  elsif jsonb_typeof(v_wait.data -> 'options') = 'array'
    and not (v_wait.data -> 'options') @> jsonb_build_array(p_answer -> 'answer')
  then
    perform queue.refuse(
      422,
      'payload_invalid',
      'the answer must be one of ' || (v_wait.data ->> 'options'),
      'answer'
    );
  end if;
  update queue.waits
  set data = data || jsonb_build_object(
    'given', jsonb_build_object(
      'answer', p_answer -> 'answer',
      'by', queue.caller()
    )
  )
  where job_id = p_job_id;
  perform queue.end_waits(array[p_job_id], v_now);
  perform queue.admit(
    'changes',
    v_wait.workspace_id,
    queue.caller(),
    p_bytes => octet_length(p_answer::text)
  );
  perform queue.wake_worker(v_now, p_is_answered => false);
  return queue.job_json(queue.visible_job(p_job_id));
end;
$$;

comment on function public.answer_job is
  'Answer the question that a waiting job asks, with {"answer": …, "name"?}; returns the job.';

select queue.allow('authenticated, service_role', 'public.answer_job');

create or replace function public.emit_event(
  p_workspace_id uuid,
  p_name text,
  p_payload jsonb default '{}'
)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_is_first boolean;
begin
  perform queue.may_read(p_workspace_id);
  if char_length(p_name) between 1 and 255 is not true then
    perform queue.refuse(
      400,
      'invalid_argument',
      'name must have 1 to 255 characters',
      'name'
    );
  end if;
  perform queue.check_json(p_payload, 'payload');
  insert into queue.named_events (workspace_id, name, payload, emitted_at, created_by)
  values (p_workspace_id, p_name, coalesce(p_payload, '{}'), v_now, queue.caller())
  on conflict do nothing;
  v_is_first := found;
  if v_is_first then
    insert into queue.signals (kind, workspace_id, name)
    values ('event', p_workspace_id, p_name);
    perform pg_notify('minutehand_wakeup', ''), queue.wake_worker(v_now, p_is_answered => false);
  end if;
  perform queue.admit(
    'changes',
    p_workspace_id,
    queue.caller(),
    p_bytes => octet_length(p_payload::text)
  );
  return jsonb_build_object('first', v_is_first);
end;
$$;

comment on function public.emit_event is
  E'Emit a named event that jobs may wait for: {first}.\n\nThe first of a name wins, before or '
  'after the wait.';

select queue.allow('authenticated, service_role', 'public.emit_event');

-- A spawn is a row of queue.steps with nth -1, which queue.step_page leaves out.
create or replace function public.spawn_jobs(p_request jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
set lock_timeout = '8s'
as $$
declare
  v_name constant text := p_request ->> 'name';
  v_children constant jsonb := p_request -> 'children';
  v_job public.jobs;
  v_made jsonb;
begin
  perform queue.refuse_revoked();
  if jsonb_typeof(v_children) is distinct from 'array'
    or jsonb_array_length(v_children) > 1000
    or char_length(v_name) between 1 and 200 is not true
  then
    perform queue.refuse(
      400,
      'invalid_argument',
      'name and children (an array of at most 1000) are required',
      'children'
    );
  end if;
  v_job := queue.held_job(p_request, null, 'its children were not created');
  select s.value into v_made
  from queue.steps as s
  where s.job_id = v_job.id and s.name = v_name and s.nth = -1;
  if not found then -- without a user: the service spawns
    v_made := jsonb_build_object(
      'job_ids', case v_children
        when '[]' then '{}'
        else (queue.enqueue(
          v_job.workspace_id,
          null,
          (
            select jsonb_agg(
              jsonb_build_object(
                'session_id', v_job.session_id,
                'traceparent', v_job.traceparent
              )
              || c.value
              || jsonb_build_object('parent_id', v_job.id, 'user_id', v_job.user_id)
              order by c.ordinality
            )
            from jsonb_array_elements(v_children) with ordinality as c
          ),
          true
        )).ids
      end
    );
    insert into queue.steps (job_id, name, nth, kind, value, created_at)
    values (v_job.id, v_name, -1, 'spawn', v_made, queue.clock());
  end if;
  return v_made;
end;
$$;

comment on function public.spawn_jobs is
  'Create child jobs of a running job, once per name: {job_ids} in the order of children.';

select queue.allow('job_worker, service_role', 'public.spawn_jobs');

create or replace function public.cancel_job(p_job_id uuid)
returns jsonb
language plpgsql
security definer
set search_path = ''
set enable_seqscan = off
set jit = off
as $$
declare
  v_job public.jobs := queue.visible_job(p_job_id);
begin
  perform queue.cancel(array[p_job_id], queue.clock());
  v_job := queue.visible_job(p_job_id);
  if v_job.status in ('completed', 'failed') then
    perform queue.refuse(
      409,
      'invalid_state',
      format('the job is already %s', v_job.status),
      v_job.status
    );
  end if;
  return queue.job_json(v_job);
end;
$$;

comment on function public.cancel_job is
  E'Cancel a job and its live children; returns it.\n\nOne that runs is asked to stop, and ends '
  'within five seconds. Beyond a hundred, children follow within seconds. 409 when it has '
  'completed or failed, 429 job_busy while another transaction changes it.';

select queue.allow('authenticated, service_role', 'public.cancel_job');

create or replace function public.retry_job(p_job_id uuid, p_payload jsonb default null)
returns jsonb
language plpgsql
security definer
set search_path = ''
set enable_seqscan = off
set jit = off
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_job public.jobs := queue.visible_job(p_job_id);
  v_family integer; -- it, and up to 5,000 children that maintenance retries with it
begin
  perform queue.take_call_slot(v_job.workspace_id); -- its children are retried, too
  perform queue.hold_jobs(array[p_job_id]);
  v_job := queue.visible_job(p_job_id);
  v_family := 1 + (
    select count(*)
    from (
      select from public.jobs as c
      where c.parent_id = p_job_id
        and c.status = 'cancelled'
        and c.error_data ->> 'reason' = 'parent_ended'
      limit 5000
    ) as c
  );
  if v_job.status in ('failed', 'cancelled') then
    if queue.retry(array[p_job_id], v_now) = 0 then
      perform queue.refuse(
        409,
        'duplicate_job',
        'another job now holds this one''s unique key',
        (
          select u.job_id::text
          from queue.job_keys as u
          where u.workspace_id = v_job.workspace_id
            and u.job_type = v_job.job_type
            and u.key = v_job.unique_key
            and u.is_unique
        )
      );
    end if;
  elsif v_job.status = 'pending'
    and coalesce(v_job.next_retry_at, v_job.scheduled_for) > v_now
  then
    perform queue.take_place(array[p_job_id]);
    update public.jobs
    set
      next_retry_at = null,
      scheduled_for = null,
      start_by_seconds = null,
      start_by_at = null,
      last_seq = last_seq + 1
    where id = p_job_id;
    perform queue.append_event(
      array[p_job_id],
      'job.redriven',
      '{}',
      v_now,
      p_is_counted => true
    );
    perform queue.place(j, v_now)
    from public.jobs as j
    where j.id = p_job_id;
  else
    perform queue.refuse(
      409,
      'invalid_state',
      format('a %s job cannot be retried', v_job.status),
      v_job.status
    );
  end if;
  if p_payload <> 'null' then -- checked as at an enqueue
    v_job := queue.new_job(
      v_job.workspace_id,
      queue.caller(),
      queue.type_or_refuse(v_job.job_type),
      p_payload,
      '{}',
      v_now
    );
    update public.jobs
    set payload = p_payload, schema_version = v_job.schema_version
    where id = p_job_id;
    perform queue.append_event(array[p_job_id], 'job.edited', '{}', v_now);
    perform queue.check_live_bytes(v_job.workspace_id)
    where queue.caller() is not null;
  end if;
  perform queue.admit(
    'changes',
    v_job.workspace_id,
    queue.caller(),
    v_family,
    octet_length(p_payload::text)
  );
  perform queue.wake_worker(v_now, p_is_answered => false);
  return queue.job_json(queue.visible_job(p_job_id));
end;
$$;

comment on function public.retry_job is
  E'Run a failed or cancelled job again, or a delayed one now, with another payload if one is '
  'given; returns it.\n\nFinished steps are kept. 409 in any other state, 429 job_busy while '
  'another transaction changes it.';

select queue.allow('authenticated, service_role', 'public.retry_job');

-- Cancel or retry up to p_limit jobs that match a filter of list_jobs, the newest first; the search
-- ends after two seconds. Without a state, live jobs are cancelled and failed ones retried.
create or replace function queue.change_jobs(
  p_workspace_id uuid,
  p_filter jsonb,
  p_limit integer,
  p_cursor uuid,
  p_is_retry boolean
)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_until constant timestamptz := clock_timestamp() + interval '2 seconds';
  v_states constant jsonb := coalesce(p_filter -> 'state', p_filter -> 'status');
  v_allowed constant jsonb := case
    when p_is_retry then '["failed", "cancelled"]'
    else '["pending", "processing", "waiting", "queued", "scheduled", "retrying", "running",
      "suspended"]'
  end;
  v_filter jsonb := jsonb_strip_nulls(p_filter);
  v_found record;
  v_ids uuid[] := '{}';
  v_count integer;
begin
  perform queue.may_manage(p_workspace_id);
  if p_filter ? 'workspace_id' then
    perform queue.refuse(
      400,
      'invalid_argument',
      'the filter must name no workspace',
      'filter'
    );
  elsif v_filter = '{}' and not p_is_retry then
    perform queue.refuse(
      422,
      'validation_failed',
      'filter: name at least one criterion',
      'filter'
    );
  elsif not v_allowed @> v_states then
    perform queue.refuse(
      400,
      'invalid_argument',
      'this does not apply to jobs that are ' || v_states::text,
      'state'
    );
  elsif p_limit between 1 and 1000 is not true then
    perform queue.refuse(
      400,
      'invalid_argument',
      'limit must be between 1 and 1000',
      'limit'
    );
  end if;
  if v_states is null then
    v_filter := v_filter || jsonb_build_object(
      'status', case
        when p_is_retry then '["failed"]'
        else '["pending", "processing", "waiting"]'
      end::jsonb
    );
  end if;
  loop
    v_found := queue.search_jobs(
      v_filter,
      array[p_workspace_id],
      p_cursor,
      p_limit
    );
    v_ids := v_ids || array(
      select j.id
      from unnest(v_found.ids) as f (id)
      join public.jobs as j on j.id = f.id
      where case
        when p_is_retry then not exists (
          select from queue.job_keys as u
          where u.workspace_id = j.workspace_id
            and u.job_type = j.job_type
            and u.key = j.unique_key
            and u.is_unique
        )
        else j.finished_at is null and j.cancel_requested_at is null
      end
      order by j.id desc
    );
    p_cursor := v_found.last_id;
    exit when p_cursor is null
      or cardinality(v_ids) >= p_limit
      or clock_timestamp() > v_until;
  end loop;
  if cardinality(v_ids) > p_limit then
    v_ids := v_ids[:p_limit];
    p_cursor := v_ids[p_limit];
  end if;
  if p_is_retry then
    perform queue.hold_jobs(v_ids);
    v_count := queue.retry(v_ids, v_now);
    perform queue.wake_worker(v_now, p_is_answered => false) where v_count > 0;
    perform queue.admit('changes', p_workspace_id, queue.caller(), v_count);
  else
    perform queue.cancel(v_ids, v_now);
    v_count := cardinality(v_ids);
  end if;
  return jsonb_build_object(
    'count', v_count,
    'more', p_cursor is not null,
    'cursor', p_cursor
  );
end;
$$;

revoke execute on function queue.change_jobs from public;

create or replace function public.pause_jobs(p_request jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_kind constant text := p_request ->> 'kind';
  v_paused constant boolean := coalesce((p_request ->> 'paused')::boolean, true);
  v_name text := p_request ->> 'name';
  v_type constant text := case
    when v_kind in ('job_type', 'workspace_type') then v_name
  end;
  v_workspace uuid;
  v_signal queue.signals;
begin
  if v_name is null
    or v_kind in ('job_type', 'queue', 'workspace', 'workspace_type') is not true
  then
    perform queue.refuse(
      400,
      'invalid_argument',
      'kind must be job_type, queue, workspace or workspace_type, and name is required',
      'kind'
    );
  elsif v_kind in ('workspace', 'workspace_type') then
    v_workspace := case v_kind
      when 'workspace' then v_name
      else p_request ->> 'workspace_id'
    end;
    v_name := concat_ws('/', v_workspace, v_type);
    perform queue.may_manage(v_workspace);
  elsif not (queue.is_operator() or queue.is_service()) then
    perform queue.refuse(
      403,
      'forbidden',
      'only operators pause a queue or a job type',
      v_kind
    );
  end if;
  perform from queue.job_types as t
  where t.job_type = v_type -- a pause outlives its type
  union all
  select from queue.pauses as p
  where (p.kind, p.name) = (v_kind, v_name);
  if v_type is not null and not found then
    perform queue.refuse(
      404,
      'unknown_job_type',
      'job type not found',
      left(v_type, 100)
    );
  end if;
  v_signal.kind := 'resumed';
  v_signal.workspace_id := coalesce(v_workspace, queue.system_workspace());
  if v_paused then
    insert into queue.pauses (
      kind, name, workspace_id, job_type, paused_at, paused_by, reason
    )
    values (
      v_kind,
      v_name,
      v_workspace,
      v_type,
      queue.clock(),
      coalesce(queue.caller()::text, p_request ->> 'by', 'service'),
      left(p_request ->> 'reason', 500)
    )
    on conflict (kind, name) do update set reason = coalesce(
      pauses.reason,
      excluded.reason
    );
  else
    delete from queue.pauses where kind = v_kind and name = v_name;
  end if;
  if (not v_paused or v_workspace is null)
    and queue.handle_signal(v_signal, queue.clock()) is null
  then
    insert into queue.signals (kind, workspace_id)
    values ('resumed', v_signal.workspace_id);
  end if;
  perform pg_notify('minutehand_wakeup', ''), queue.wake_worker(p_is_answered => false)
  where not v_paused;
  perform queue.admit('changes', v_workspace, queue.caller());
  -- what holds now, which may differ from the request: another pause may stop the same jobs
  return jsonb_build_object('kind', v_kind, 'name', v_name, 'paused', false)
    || coalesce(
      (
        select jsonb_build_object(
          'paused', true,
          'left', jsonb_agg(jsonb_build_object(
            'kind', p.kind,
            'reason', p.reason,
            'paused_by', p.paused_by,
            'next', queue.words_of(
              p.kind || '_paused',
              jsonb_build_object('job_type', p.job_type, 'queue', p.name)
            ) -> 'next'
          ))
        )
        from queue.pauses as p
        where (p.kind, p.name) = (v_kind, v_name)
          or p.job_type = v_type and coalesce(p.workspace_id = v_workspace, true)
          or p.kind = 'workspace' and p.workspace_id = v_workspace
        having count(*) > 0
      ),
      '{}'
    );
end;
$$;

comment on function public.pause_jobs is
  E'Pause or resume: {kind: job_type|queue|workspace|workspace_type, name, workspace_id (of '
  'workspace_type), paused = true, reason?}; gives {kind, name, paused, left: [{kind, reason, '
  'paused_by, next}]}, what still stops these jobs.\n\nRunning jobs continue. A type '
  'or a queue of all workspaces is paused by operators, the rest by managers.';

select queue.allow('authenticated, service_role', 'public.pause_jobs');

drop function queue.may_send(p_seen record, p_cost bigint, p_eighths integer, p_workspace_id uuid, p_now timestamp with time zone);

-- Take messages from the second's budget, of which p_eighths may be used; false where that does not
-- reach. Nor is more than 3/8 of it for a tenant that has sent an eighth in the last second while
-- another is followed. p_workspace_id: null where the changes are of several.
create or replace function queue.may_send(
  p_budget record,
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
  if p_budget.used + p_cost > p_budget.budget * p_eighths / 8 then
    return false;
  end if;
  -- apart: a query costs more than this
  if p_budget.used + p_cost > p_budget.budget * 3 / 8 and p_workspace_id is not null then
    if exists (
        select from queue.followers as f
        where f.topic like 'workspace:%'
          and f.topic <> 'workspace:' || p_workspace_id
      )
      and p_budget.budget / 8 < p_cost * (
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
    v_ignored := nextval('queue.messages_counted');
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
    -- while no one is connected, Realtime makes no partition for the day, and there is no one to
    -- ask
    return sqlstate = '23514';
  end;
  if v_form is not null then
    v_form := setval('queue.messages_fitted', v_form);
  end if;
  return true;
end;
$$;

revoke execute on function queue.write_messages from public;

drop function queue.send(p_changes queue.change[], p_workspace_id uuid, p_is_minor boolean, p_fits_one boolean, p_seen record, p_now timestamp with time zone);

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
  p_budget record,
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
  if not p_fits_one or p_budget.is_followed then
    -- of so many tenants that the budget does not reach, followed or not
    if not p_is_minor
      and p_budget.used + 2 * (
        select count(distinct c.workspace_id)
        from unnest(p_changes) as c
        where c.seqs is not null
      ) > p_budget.budget * 6 / 8
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
  elsif not queue.may_send(p_budget, v_cost, v_eighths, p_workspace_id, p_now) then
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

-- Publish changes that a statement has made to rows that the caller holds: messages, notifications
-- to servers that stream, and a line of the feed each. Changes without seqs are lines of the feed
-- alone; progress and logs come in calls of their own. p_is_soon: new jobs are due within a minute,
-- so that workers are notified. True; null and nothing done where there are no changes (strict).
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
  v_budget constant record := queue.message_budget();
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
      not queue.send(p_changes, v_workspace_id, v_is_minor, v_fits_one, v_budget, p_now),
      false
    );
  end if;
  -- only where someone streams: who notifies commits under a lock of the whole server
  if v_budget.is_streamed then
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

-- Take what deleted jobs of these workspaces said out of the feed, where none of a line's jobs is
-- left. p_since: when the first of them was created.
create or replace function queue.forget_in_feed(
  p_ids uuid[],
  p_workspaces uuid[],
  p_since timestamptz
)
returns void
language plpgsql
set search_path = ''
as $$
begin
  -- a line that another transaction has changed meanwhile is locked by the first, and found by the
  -- second
  for v_try in 1 .. 2 loop
    update queue.feed
    set data = '{}', session_id = null
    where ctid = any (array(
      select f.ctid
      from queue.feed as f
      where f.workspace_id = any (p_workspaces)
        and f.at >= p_since
        and (f.data <> '{}' or f.session_id is not null)
        and exists (
          select from unnest(f.job_ids) as i (id)
          where i.id in (select d.id from unnest(p_ids) as d (id))
        )
        and not exists (select from public.jobs as j where j.id = any (f.job_ids))
      order by f.number, f.id
      for update
    ));
  end loop;
end;
$$;

revoke execute on function queue.forget_in_feed from public;

-- The first run after an instant, or 400 for an expression or a zone that has none within nine
-- years: the rarest date, 29 February, comes within eight. A time on the wall may come twice or
-- never: fixed hours run once, at the first or right after the gap; hours as * each real hour.
create or replace function queue.first_run(p_cron text, p_timezone text, p_after timestamptz)
returns timestamptz
language plpgsql stable
set search_path = ''
as $$
declare
  v_fields constant text[] := regexp_split_to_array(
    btrim(
      coalesce(
        '{"@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *",
          "@weekly": "0 0 * * 0", "@monthly": "0 0 1 * *", "@yearly": "0 0 1 1 *",
          "@annually": "0 0 1 1 *"}'::jsonb ->> lower(btrim(p_cron)),
        left(p_cron, 501)
      )
    ),
    '\s+'
  );
  v_minutes constant integer[] := queue.cron_values(v_fields[1], 0, 59);
  v_hours constant integer[] := queue.cron_values(v_fields[2], 0, 23);
  v_days constant integer[] := queue.cron_values(v_fields[3], 1, 31);
  v_months constant integer[] := queue.cron_values(
    v_fields[4],
    1,
    12,
    '{jan,feb,mar,apr,may,jun,jul,aug,sep,oct,nov,dec}'
  );
  v_weekdays constant integer[] := queue.cron_values(
    v_fields[5],
    0,
    7,
    '{sun,mon,tue,wed,thu,fri,sat}'
  );
  -- days of month and week are alternatives when neither is *
  v_either constant boolean := v_fields[3] not like '*%'
    and v_fields[5] not like '*%';
  v_each constant boolean := v_fields[2] like '*%';
  v_day date;
  v_in_month boolean;
  v_in_week boolean;
  v_next timestamptz;
begin
  if cardinality(v_fields) is distinct from 5
    or length(p_cron) > 500
    or num_nulls(v_minutes, v_hours, v_days, v_months, v_weekdays) > 0
  then
    perform queue.refuse(
      400,
      'invalid_argument',
      format('not a cron expression of five fields: %s', left(p_cron, 100)),
      'cron'
    );
  elsif p_timezone !~* (
    '^([a-z_]+(-[a-z]+)*(/[a-z_]+(-[a-z_]+)*){0,2}|(EST5E|CST6C|MST7M|PST8P)DT|'
      '(Etc/)?GMT[+-]?0|Etc/GMT([+][1-9]|[+]1[0-2]|-[1-9]|-1[0-4]))$'
  ) then
    raise invalid_parameter_value; -- which Postgres would read as an offset: Mars/Base5
  end if;
  v_day := (p_after at time zone p_timezone)::date - 1; -- clocks go back over midnight
  for v_nth in 0..3296 loop
    v_in_month := extract(day from v_day)::integer = any (v_days);
    v_in_week := array[extract(dow from v_day), extract(isodow from v_day)]::integer[]
      && v_weekdays; -- Sunday is 0 or 7
    if extract(month from v_day)::integer = any (v_months)
      and (v_in_month and v_in_week or v_either and (v_in_month or v_in_week))
    then
      select min(i.at) into v_next
      from (
        select v_day + make_time(h, m, 0) as wall
        from unnest(v_hours) as h
        cross join unnest(v_minutes) as m
        where v_day + make_time(h, m, 0)
          > p_after at time zone p_timezone - interval '2 hours'
        order by 1
        limit 300
      ) as w -- before and after are more minutes than any clock is moved by
      -- as the clocks of that moment have it, and those of twelve hours before
      cross join lateral (
        select c.at
        from (
          values
            (w.wall at time zone p_timezone),
            (
              (w.wall - interval '12 hours') at time zone p_timezone
              + interval '12 hours'
            )
        ) as c (at)
        where not v_each or c.at at time zone p_timezone = w.wall
        order by c.at at time zone p_timezone <> w.wall, c.at
        limit case when v_each then 2 else 1 end
      ) as i
      where i.at > p_after;
      if v_next is not null then
        return v_next;
      end if;
    end if;
    v_day := v_day + 1;
  end loop;
  perform queue.refuse(
    400,
    'invalid_argument',
    format('%s never comes due: no such date exists', p_cron),
    'cron'
  );
exception when invalid_parameter_value then
  perform queue.refuse(
    400,
    'invalid_argument',
    'unknown time zone: ' || left(p_timezone, 80),
    'timezone'
  );
end;
$$;

revoke execute on function queue.first_run from public;

-- Enqueue the runs that are due: the first of each tenant, then the second of each, and so on. A
-- run more than five minutes late counts as missed where those are skipped. A schedule of code that
-- no worker serves gets no jobs, which would only pile up. A failure stops no other.
create or replace function queue.do_schedules(p_now timestamptz, p_until timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_ids constant uuid[] := array(
    select s.id
    from queue.schedules as s
    where s.enabled and s.next_at <= p_now
    order by
      row_number() over (partition by s.workspace_id order by s.next_at),
      s.next_at
    limit 500
  );
  v_id uuid;
  v_one queue.schedules;
  v_next timestamptz;
  v_job_id uuid;
  v_done integer := 0;
begin
  foreach v_id in array v_ids loop
    exit when clock_timestamp() > p_until; -- the rest stays due
    select * into v_one
    from queue.schedules as s
    where s.id = v_id and s.enabled and s.next_at <= p_now
    for update skip locked;
    continue when not found;
    v_next := p_now + interval '1 hour'; -- where the server no longer knows its time zone
    v_job_id := null;
    begin
      v_next := queue.first_run(v_one.cron, v_one.timezone, p_now);
      if v_one.source is not null
        and (
          select s.unserved
          from queue.served(
            array[v_one.job_type],
            null,
            queue.alive_workers(p_now),
            p_now
          ) as s
        )
      then
        raise exception 'no worker serves the job type % any more', v_one.job_type;
      elsif v_one.missed = 'once'
        or v_one.next_at >= p_now - interval '5 minutes'
      then
        v_job_id := (queue.enqueue(
          v_one.workspace_id,
          null,
          jsonb_build_array(
            v_one.options || jsonb_build_object(
              'job_type', v_one.job_type,
              'payload', v_one.payload
            )
          ),
          false
        )).ids[1];
        v_done := v_done + 1;
      end if;
      update queue.schedules
      set
        next_at = v_next,
        problem = null,
        last_slot_at = case
          when v_job_id is null then last_slot_at
          else next_at
        end,
        last_job_id = coalesce(v_job_id, last_job_id)
      where id = v_id;
    exception
      when lock_not_available or deadlock_detected or serialization_failure then
        null; -- it stays due
      when others then
        update queue.schedules
        set problem = sqlerrm, next_at = v_next
        where id = v_id;
    end;
  end loop;
  return v_done;
end;
$$;

revoke execute on function queue.do_schedules from public;

-- Ids of the first jobs before p_before that match a filter, and where to continue: what lives,
-- failed or has a tag by its table or index, else among the newest 10,000, for about 100 ms.
create or replace function queue.search_jobs(
  p_filter jsonb,
  p_workspaces uuid[],
  p_before uuid,
  p_limit integer,
  out ids uuid[],
  out last_id uuid
)
language plpgsql stable
set search_path = ''
as $$
declare
  v_until constant timestamptz := clock_timestamp() + interval '100 milliseconds';
  v_where constant text := queue.conditions_of(p_filter);
  v_states constant text[] := array(
    select jsonb_array_elements_text(jsonb_path_query_array(
      coalesce(p_filter -> 'state', p_filter -> 'status'),
      '$[*]'
    ))
  );
  v_head constant text := case
    when p_filter ? 'parent_id' then 'parent_id'
    when p_filter ? 'session_id' then 'session_id'
  end;
  v_known uuid[];
  v_left integer := 10000; -- jobs that may yet be read
  v_slice integer := p_limit;
  v_read record;
begin
  v_known := case
    when p_filter ? 'ids'
      then array(select jsonb_array_elements_text(p_filter -> 'ids')::uuid)
    when p_filter ? 'tag' then array(
      select j.id
      from public.jobs as j
      where j.tags @> array[p_filter ->> 'tag']
        and (p_workspaces is null or j.workspace_id = any (p_workspaces))
      limit 10001
    )
    when v_states <> '{}'
        and not v_states && '{completed,cancelled}'
        and p_workspaces is not null
      then array(
        select p.job_id
        from unnest(p_workspaces) as w (id)
        cross join lateral queue.places(w.id, v_states, 10001) as p
        limit 10001
      )
  end;
  if cardinality(v_known) > 10000 and not p_filter ? 'ids' then
    v_known := null;
  end if;
  ids := '{}';
  last_id := p_before;
  loop
    -- $1 ids, $2 workspaces (null: all), $3 before, $4 how many; as ranges: no index of ids serves
    execute format(
      'with p as materialized (
        select p.id, row_number() over () as n, (true %s) is true as fits
          from (select j.* from %s limit $4) as p)
      select array(select id from p where fits order by n) as ids, count(*) as jobs,
        (array_agg(id order by n desc))[1] as last from p',
      v_where,
      case
        when v_known is not null
          then 'public.jobs as j where j.id = any ($1) and j.id < $3
        and ($2 is null or j.workspace_id = any ($2)) order by j.id desc'
        when v_head is not null then format(
          'public.jobs as j where j.%1$I between %2$L and %2$L
        and j.id < $3 and ($2 is null or j.workspace_id = any ($2))
        order by j.%1$I desc, j.id desc',
          v_head,
          p_filter ->> v_head
        )
        else 'unnest($2) as w (id) cross join lateral (
        select * from public.jobs as o where o.workspace_id between w.id and w.id and o.id < $3
        order by o.workspace_id desc, o.id desc limit $4) as j order by j.id desc'
      end
    )
    into v_read
    using
      v_known,
      p_workspaces,
      coalesce(last_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff'),
      v_slice;
    ids := ids || v_read.ids;
    v_left := v_left - v_slice;
    last_id := case when v_read.jobs = v_slice then v_read.last end;
    exit when last_id is null
      or cardinality(ids) >= p_limit
      or v_left <= 0
      or clock_timestamp() > v_until;
    v_slice := least(4 * v_slice, v_left, 2000);
  end loop;
end;
$$;

revoke execute on function queue.search_jobs from public;

create or replace function public.dead_letters(p_workspace_id uuid)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
as $$
begin
  perform queue.may_read(p_workspace_id);
  perform queue.take_call_slot(p_workspace_id);
  return (
    with letters as materialized (
      select
        j.id,
        j.job_type,
        j.finished_at,
        regexp_replace( -- of ids their ends
          queue.error_line(j.error_message, j.error_data),
          '[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}([0-9a-f]{8})',
          '…\1',
          'g'
        ) as message,
        queue.fingerprint(j.error_message, j.error_data) as print,
        c.job_type as cause_type,
        queue.fingerprint(c.error_message, c.error_data) as cause_print
      from (
        select d.job_id
        from queue.dead as d
        where d.workspace_id = p_workspace_id
        order by d.workspace_id desc, d.job_id desc
        limit 10000
      ) as d
      join public.jobs as j on j.id = any (array[d.job_id])
      left join public.jobs as c on c.id = case
        when j.error_data ->> 'type' ~ '[.]ChildrenFailed$'
          then queue.deepest_below(j.id, true)
      end
    ),
    hours as ( -- of the last day
      select
        l.job_type,
        l.print,
        jsonb_object_agg(l.hour, l.jobs) as by_hour
      from (
        select
          n.job_type,
          n.print,
          floor(extract(epoch from queue.clock() - n.finished_at) / 3600) as hour,
          count(*) as jobs
        from letters as n
        where n.finished_at > queue.clock() - interval '1 day'
        group by 1, 2, 3
      ) as l
      group by 1, 2
    ),
    groups as (
      select
        l.cause_type,
        l.cause_print,
        l.job_type,
        l.print as error_fingerprint,
        count(*) as jobs,
        min(l.finished_at) as first_at,
        max(l.finished_at) as last_at,
        (array_agg(l.id order by l.finished_at desc, l.id))[1] as latest_id,
        (array_agg(l.message order by l.finished_at desc, l.id))[1] as error_message
      from letters as l
      group by 1, 2, 3, 4
    ),
    effects as (
      select
        g.cause_type,
        g.cause_print,
        jsonb_agg(jsonb_build_object(
          'job_type', g.job_type,
          'error_fingerprint', g.error_fingerprint,
          'jobs', g.jobs,
          'latest_id', g.latest_id
        )) as effects
      from groups as g
      where g.cause_type is not null
      group by 1, 2
    )
    select jsonb_build_object(
      'groups', coalesce(
        jsonb_agg(
          to_jsonb(g) - '{cause_type,cause_print}'::text[] || jsonb_build_object(
            'by_hour', coalesce(h.by_hour, '{}'),
            'consequences', coalesce(e.effects, '[]')
          )
          order by g.jobs desc, g.last_at desc
        ),
        '[]'
      ),
      'more', (select count(*) from letters) = 10000
    )
    from groups as g
    left join hours as h
      on h.job_type = g.job_type and h.print = g.error_fingerprint
    left join effects as e
      on e.cause_type = g.job_type and e.cause_print = g.error_fingerprint
    where g.cause_type is null
  );
end;
$$;

comment on function public.dead_letters is
  'Failed jobs of a workspace by what went wrong, the largest group first: {groups, more}; jobs '
  'that failed since a job below them did are consequences of its group.';

select queue.allow('authenticated, service_role', 'public.dead_letters');

drop function queue.alive_workers(p_now timestamp with time zone);

-- Workers seen within three minutes, 90 seconds where the run has ended, or with a lease in force.
create or replace function queue.alive_workers(p_now timestamptz)
returns queue.workers[]
language sql stable
set search_path = ''
as $$
select array(
  select w
  from queue.workers as w
  where w.seen_at > p_now - interval '3 minutes'
    and coalesce(w.ended_at > p_now - interval '90 seconds', true)
  union
  select w
  from (
    select distinct l.worker
    from queue.leases as l
    where l.expires_at > p_now
  ) as l
  join queue.workers as w on w.worker = l.worker
)
$$;

revoke execute on function queue.alive_workers from public;

drop function queue.served(p_job_types text[], p_queues text[], p_now timestamp with time zone);

-- Of types, each in its queue if one is named: whether workers run, but none of them serves it.
create or replace function queue.served(
  p_job_types text[],
  p_queues text[],
  p_alive queue.workers[],
  p_now timestamptz
)
returns table (job_type text, queue text, unserved boolean)
language sql stable
set search_path = ''
as $$
with workers as materialized ( -- most serve the same
  select distinct w.job_types, w.queues
  from unnest(p_alive) as w
)
select
  t.job_type,
  t.queue,
  exists (select from workers)
    and not exists (
      select from workers as w
      where (w.job_types is null or t.job_type = any (w.job_types))
        and (t.queue is null or w.queues is null or t.queue = any (w.queues))
    )
    and not exists (
      select from queue.job_types as o
      where o.job_type = t.job_type
        and o.registered_at > p_now - interval '1 minute'
    )
from unnest(p_job_types, p_queues) as t (job_type, queue)
$$;

revoke execute on function queue.served from public;

-- What keeps a job from its start: it ended, the project's own trigger refuses it, it runs, waits,
-- is put off, unpublished or paused, or no worker serves it. Null where it may start.
create or replace function queue.explain_row(
  p_job public.jobs,
  p_alive queue.workers[],
  p_now timestamptz
)
returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
  v_data constant jsonb := jsonb_build_object(
    'attempts', p_job.attempts,
    'max_attempts', p_job.max_attempts,
    'error_message', p_job.error_message,
    'error', p_job.error_data
  );
  -- so long something is a tick's to do, before it is called late
  c_patience constant interval := interval '90 seconds';
  v_late constant text := case
    when p_alive = '{}' then 'no_worker'
    else 'passed_over'
  end;
  v_wait jsonb;
  v_refusal text;
  v_found record;
begin
  if p_job.finished_at is not null then
    return jsonb_build_object('reason', p_job.status, 'data', v_data);
  end if;
  select * into v_found
  from queue.refusals as r
  where r.job_id = p_job.id
  order by r.retry_at desc
  limit 1;
  if found then
    return jsonb_build_object(
      'reason', 'refused',
      'since', v_found.refused_at,
      'cause', v_found.failure,
      'data', to_jsonb(v_found) - '{job_id,workspace_id,failure,refused_at}'::text[]
    );
  elsif p_job.status = 'processing' then
    select
      w.worker_id,
      l.leased_at,
      l.expires_at,
      l.attempt,
      case when w.evidence is not null then w.ended_at end as ended_at,
      l.expires_at + c_patience as patience_until,
      l.expires_at as run_at -- when it was due to be given back
    into v_found
    from queue.leases as l
    left join queue.workers as w on w.worker = l.worker
    where l.job_id = p_job.id;
    return jsonb_build_object(
      'since', v_found.leased_at,
      'data', to_jsonb(v_found),
      'reason', case
        when v_found.patience_until <= p_now then v_late
        when v_found.expires_at <= p_now and v_found.ended_at is not null
          then 'worker_died'
        when v_found.expires_at <= p_now then 'lease_expired'
        when p_job.cancel_requested_at is not null then 'cancelling'
        else 'running'
      end
    );
  elsif p_job.status = 'waiting' then
    v_wait := queue.job_json(p_job) -> 'waiting_for';
    return jsonb_build_object(
      'estimated_start_at', v_wait -> 'until',
      'data', v_wait,
      'since', v_wait -> 'since',
      'reason', case v_wait ->> 'kind'
        when 'sleep' then 'sleeping'
        when 'ask' then 'asking'
        else 'waiting_for_' || (v_wait ->> 'kind')
      end
    );
  end if;
  select d.run_at, d.run_at + c_patience as patience_until into v_found
  from queue.deferred as d
  where d.run_at = coalesce(p_job.next_retry_at, p_job.scheduled_for)
    and d.job_id = p_job.id;
  if found then
    return jsonb_build_object(
      'since', v_found.run_at,
      'estimated_start_at', greatest(v_found.run_at, p_now),
      'data', v_data || to_jsonb(v_found),
      'reason', case
        when v_found.patience_until <= p_now then v_late
        when v_found.run_at <= p_now then 'due'
        when p_job.next_retry_at is null then 'scheduled'
        when p_job.error_message is null then 'snoozed'
        else 'backing_off'
      end
    );
  end if;
  v_refusal := (
    select t.refusal
    from queue.job_types as t
    where t.job_type = p_job.job_type
  );
  select * into v_found
  from queue.pauses as p
  where (p.kind, p.name) in (
    ('job_type', p_job.job_type),
    ('queue', p_job.queue),
    ('workspace', p_job.workspace_id::text),
    ('workspace_type', p_job.workspace_id || '/' || p_job.job_type)
  )
  order by p.kind
  limit 1;
  return case
    when p_job.lane = 0 then jsonb_build_object(
      'reason', 'no_processor',
      'cause', v_refusal,
      'data', jsonb_build_object(
        'refusal', v_refusal,
        'unpublished', p_job.job_type,
        'nearest', queue.nearest_type(p_job.job_type)
      )
    )
    when found then jsonb_build_object(
      'reason', v_found.kind || '_paused',
      'data', to_jsonb(v_found),
      'since', v_found.paused_at,
      'cause', v_found.reason
    )
    when p_alive = '{}' then jsonb_build_object('reason', 'no_worker')
    when (
      select s.unserved
      from queue.served(array[p_job.job_type], array[p_job.queue], p_alive, p_now) as s
    )
      then jsonb_build_object(
        'reason', 'no_processor',
        'cause', v_refusal,
        'data', jsonb_build_object('refusal', v_refusal)
      )
  end;
end;
$$;

revoke execute on function queue.explain_row from public;

-- The jobs that use up a limit for a job, at most p_most of them.
create or replace function queue.holders_of(p_reason text, p_job public.jobs, p_most integer)
returns table (job_id uuid, workspace_id uuid, leased_at timestamptz)
language plpgsql stable
set search_path = ''
as $$
begin
  if p_reason = 'key_limit' then
    return query
      select g.job_id, g.workspace_id, l.leased_at
      from queue.gated as g
      left join queue.leases as l on l.job_id = g.job_id
      where g.workspace_id = p_job.workspace_id
        and g.job_type = p_job.job_type
        and g.key = coalesce(p_job.concurrency_key, '')
        and g.admitted
        and not g.ended
        and g.job_id <> p_job.id
      order by g.ord
      limit p_most;
  elsif p_reason ~ '_limit$' then -- of the type, the workspace, or both
    return query
      select l.job_id, l.workspace_id, l.leased_at
      from queue.lanes as n
      join queue.leases as l on l.lane = n.lane
      where (p_reason = 'workspace_limit' or n.job_type = p_job.job_type)
        and (p_reason = 'type_limit' or l.workspace_id = p_job.workspace_id)
      limit p_most;
  elsif p_reason = 'no_slot' then -- what the workers that serve it run
    return query
      select l.job_id, l.workspace_id, l.leased_at
      from queue.leases as l
      join queue.workers as w on w.worker = l.worker
      where (w.job_types is null or p_job.job_type = any (w.job_types))
        and (w.queues is null or p_job.queue = any (w.queues))
      limit p_most;
  end if;
end;
$$;

revoke execute on function queue.holders_of from public;

-- Who holds a job for which queue.explain_row or queue.explain_ready found the reason: {kind,
-- holder, since, waiting, more}; the holder is a job, a session, a worker, or who paused.
create or replace function queue.held_by(p_job public.jobs, p_found jsonb, p_now timestamptz)
returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
  c_most constant integer := 200;
  v_reason constant text := p_found ->> 'reason';
  v_kind constant text := queue.kind_of_holder(v_reason);
  v_is_open constant boolean := queue.is_operator() or queue.is_service();
  v_data constant jsonb := p_found -> 'data';
  v_id uuid;
  v_holder jsonb;
  v_since timestamptz := p_found ->> 'since';
begin
  if v_kind is null then
    return null;
  elsif v_kind = 'child' then
    v_id := queue.deepest_below(p_job.id, false);
  elsif v_kind in ('key', 'limit', 'slots') then
    v_id := (
      select h.job_id
      from queue.holders_of(v_reason, p_job, c_most) as h
      where h.workspace_id = p_job.workspace_id or v_is_open
      order by h.leased_at, h.job_id
      limit 1
    );
  end if;
  if v_id is not null then
    select
      jsonb_build_object(
        'job_id', j.id,
        'job_type', j.job_type,
        'state', queue.state_of(
          j.status,
          j.attempts,
          j.next_retry_at,
          j.scheduled_for,
          p_now
        ),
        'worker_id', w.worker_id
      ),
      coalesce(l.leased_at, j.updated_at)
    into v_holder, v_since
    from public.jobs as j
    left join queue.leases as l on l.job_id = j.id
    left join queue.workers as w on w.worker = l.worker
    where j.id = v_id;
  elsif v_kind in ('limit', 'slots') then
    v_since := null;
    v_holder := case
      when v_reason = 'type_limit'
        then '{"others": "jobs of other workspaces"}'::jsonb
    end;
  elsif v_kind = 'lock' then
    v_holder := jsonb_build_object(
      'pid', v_data -> 'pid',
      'application', case when v_is_open then v_data -> 'application' end
    );
  elsif v_kind = 'dead_worker' then
    v_holder := jsonb_build_object('worker_id', v_data -> 'worker_id');
    v_since := coalesce(v_data ->> 'ended_at', v_data ->> 'expires_at');
  elsif v_kind = 'pause' then
    v_holder := jsonb_build_object('pause', replace(v_reason, '_paused', ''));
  end if;
  return jsonb_build_object(
    'kind', v_kind,
    'holder', jsonb_strip_nulls(v_holder),
    'since', v_since,
    'until', coalesce(p_found ->> 'estimated_start_at', v_data ->> 'patience_until')
  ) || queue.waiting_beside(p_job, v_reason);
end;
$$;

revoke execute on function queue.held_by from public;

-- Why a job is where it is. p_lock: the session that keeps its row, of queue.locks_on; p_alive: the
-- workers: for those the leases are read, and so once for many jobs.
create or replace function queue.explain(
  p_job public.jobs,
  p_lock jsonb,
  p_alive queue.workers[],
  p_now timestamptz
)
returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
  v_found jsonb;
  v_held jsonb;
  v_error record;
begin
  v_found := case
    when p_lock is null then coalesce(
      queue.explain_row(p_job, p_alive, p_now),
      queue.explain_ready(p_job, p_now)
    )
    else jsonb_build_object('reason', 'locked', 'since', p_lock -> 'since', 'data', p_lock)
  end;
  if v_found ->> 'reason' = 'no_worker' then
    v_found := v_found || jsonb_build_object(
      'since', (select max(w.seen_at) from queue.workers as w)
    );
  end if;
  select * into v_error
  from queue.error_of(p_job);
  v_found := jsonb_build_object(
    'job_id', p_job.id,
    'status', p_job.status,
    'estimated_start_at', null,
    'data', '{}'::jsonb,
    'since', coalesce(p_job.finished_at, p_job.scheduled_for, p_job.created_at),
    'cause', v_error.cause
  ) || v_found;
  v_held := queue.held_by(p_job, v_found, p_now);
  v_found := v_found || queue.words_of(
    v_found ->> 'reason',
    v_found
      || queue.names_of(p_job, v_held)
      || jsonb_build_object('code', v_error.code)
      || jsonb_strip_nulls(v_found -> 'data'),
    v_error.kind
  );
  if p_job.status = 'pending' and p_job.started_at is null and p_job.start_by_at is not null then
    v_found := v_found || jsonb_build_object(
      'sentence', concat_ws(
        ' ',
        v_found ->> 'sentence',
        queue.words_of('start_by', jsonb_build_object('start_by_at', p_job.start_by_at))
          ->> 'sentence'
      )
    );
  end if;
  return v_found || jsonb_build_object(
    'held_by', v_held || jsonb_build_object('act', v_found #> '{next,0}')
  );
end;
$$;

revoke execute on function queue.explain from public;

create or replace function public.explain_job(p_job_id uuid)
returns jsonb
language plpgsql
security definer
set search_path = ''
set enable_seqscan = off
set jit = off
set timezone = 'UTC'
as $$ -- in which sentences give instants
declare
  v_now constant timestamptz := queue.clock();
  v_job constant public.jobs := queue.visible_job(p_job_id);
  v_lock jsonb;
begin
  if v_job.status = 'pending' then
    perform queue.take_call_slot(); -- its place in the queue is looked for
  end if;
  -- a session that may not write cannot try the lock
  if v_job.finished_at is null and not current_setting('transaction_read_only')::boolean then
    select to_jsonb(l) into v_lock
    from queue.locks_on(array[p_job_id], v_now) as l;
  end if;
  if v_lock is not null then
    perform from public.jobs
    where id = p_job_id
    for no key update skip locked;
    v_lock := case when not found then v_lock end; -- a foreign key's lock does not keep it
  end if;
  return queue.explain(
    v_job,
    v_lock,
    queue.alive_workers(v_now),
    v_now
  );
end;
$$;

comment on function public.explain_job is
  'Why a job is where it is and who holds it: {job_id, status, reason, sentence, since, cause, '
  'held_by: {kind, holder, since, until, waiting, more, act}, next: [{words, command, path}], '
  'data, estimated_start_at}.';

select queue.allow('authenticated, service_role', 'public.explain_job');

-- Jobs that wait alike, the largest groups first: one of them, how many (to a thousand), and since
-- when: by lane; by key; for an answer or event; of a worker that is gone; past their time.
create or replace function queue.groups_of_held(
  p_workspace_id uuid,
  p_job_type text,
  p_now timestamptz
)
returns table (job_id uuid, jobs bigint, oldest_at timestamptz)
language sql stable
set search_path = ''
as $$
with lanes as materialized (
  select *
  from queue.lanes as l
  where p_job_type is null or l.job_type = p_job_type
),
leases as materialized ( -- that are over
  select *
  from queue.leases as l
  where l.expires_at <= p_now
    and (p_workspace_id is null or l.workspace_id = p_workspace_id)
    and (p_job_type is null or l.lane in (select n.lane from lanes as n))
  limit 1000
),
late as materialized (
  select d.job_id, d.run_at
  from queue.deferred as d
  where d.run_at <= p_now - interval '10 seconds'
    and (p_workspace_id is null or d.workspace_id = p_workspace_id)
  order by d.run_at
  limit 1000
)
(
  select f.job_id, r.jobs, f.ready_at
  from lanes as l
  cross join lateral (
    select o.job_id, o.ready_at
    from queue.ready as o
    where o.lane = l.lane
      and (p_workspace_id is null or o.workspace_id = p_workspace_id)
    order by o.lane, o.workspace_id, o.ord
    limit 1
  ) as f
  cross join lateral (
    select count(*) as jobs
    from (
      select o.lane
      from queue.ready as o
      where o.lane = l.lane
        and (p_workspace_id is null or o.workspace_id = p_workspace_id)
      limit 1000
    ) as c
  ) as r
  order by r.jobs desc
  limit 8 -- each is explained
)
union all
(
  select (array_agg(g.job_id order by g.ord))[1], count(*), null
  from (
    select *
    from queue.gated as o
    where not o.admitted
      and (p_workspace_id is null or o.workspace_id = p_workspace_id)
      and (p_job_type is null or o.job_type = p_job_type)
    limit 10000
  ) as g
  group by g.workspace_id, g.job_type, g.key
  order by 2 desc
  limit 10
)
union all
(
  select (array_agg(u.job_id order by u.job_id))[1], count(*), null
  from (
    select *
    from queue.unpublished as o
    where (p_workspace_id is null or o.workspace_id = p_workspace_id)
      and (p_job_type is null or o.job_type = p_job_type)
    limit 10000
  ) as u
  group by u.workspace_id, u.job_type
  order by 2 desc
  limit 10
)
union all
(
  select (array_agg(w.job_id order by w.created_at))[1], count(*), min(w.created_at)
  from (
    select *
    from queue.waits as o
    where o.kind in ('ask', 'event')
      and (p_workspace_id is null or o.workspace_id = p_workspace_id)
    limit 1000
  ) as w
  join public.jobs as j on j.id = any (array[w.job_id])
  where p_job_type is null or j.job_type = p_job_type
  group by j.job_type, w.kind, w.event_name
  order by 2 desc
  limit 10
)
union all
(
  select (array_agg(l.job_id))[1], count(*), min(l.expires_at)
  from leases as l
  where not exists (
    select from queue.locks_on(array[l.job_id], p_now)
  )
  group by l.worker
  order by 2 desc
  limit 10
)
union all
(
  select (array_agg(k.job_id))[1], count(*), min(k.since)
  from queue.locks_on(
    array(select l.job_id from leases as l union select d.job_id from late as d),
    p_now
  ) as k
  join public.jobs as j on j.id = k.job_id
  where p_job_type is null or j.job_type = p_job_type
  group by k.pid
  limit 10
)
union all
(
  select (array_agg(d.job_id order by d.run_at))[1], count(*), min(d.run_at)
  from late as d
  join public.jobs as j on j.id = any (array[d.job_id])
  where (p_job_type is null or j.job_type = p_job_type)
    and not exists (select from queue.locks_on(array[d.job_id], p_now))
  group by j.job_type
  order by 2 desc
  limit 10
)
$$;

revoke execute on function queue.groups_of_held from public;

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
  from queue.alive_workers(p_now) as workers
  cross join queue.groups_of_held(p_workspace_id, p_job_type, p_now) as g
  join public.jobs as j on j.id = any (array[g.job_id])
  left join lateral (
    select to_jsonb(k) as lock
    from queue.locks_on(array[j.id], p_now) as k
    where j.status = 'processing' or coalesce(j.next_retry_at, j.scheduled_for) <= p_now
  ) as k on true
  cross join lateral queue.explain(j, k.lock, workers, p_now) as e (said)
  where jsonb_typeof(e.said -> 'held_by') = 'object'
)
select coalesce(
  jsonb_agg(
    to_jsonb(h) - 'said'
    || (h.said - '{status,data,since,held_by,estimated_start_at}'::text[])
    || jsonb_build_object(
      'kind', h.said #> '{held_by,kind}',
      'holder', h.said #> '{held_by,holder}'
    )
    order by h.jobs desc, h.since
  ),
  '[]'
)
from (
  select
    sum(s.jobs) as jobs,
    bool_or(s.jobs >= 1000) as more,
    min(coalesce(s.oldest_at, (s.said #>> '{held_by,since}')::timestamptz)) as since,
    (array_agg(s.said))[1] as said,
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

-- Due jobs by what keeps them: paused, unserved (which warns), at_limit, blocked by a key, ready.
-- For a person without others' jobs of types that no worker has published: they cannot end that.
create or replace function queue.backlog(
  p_workspace_id uuid,
  p_now timestamptz,
  p_user_id uuid default null
)
returns jsonb
language sql stable
set search_path = ''
as $$
with lanes as materialized (
  select
    l.lane,
    l.job_type,
    l.queue,
    s.unserved,
    greatest(10, 10000 / count(*) over ()) as most,
    coalesce(queue.free_of_type(l.job_type, p_now) <= 0, false) as is_full
  from (
    select array_agg(o.job_type) as types, array_agg(o.queue) as queues
    from (select distinct job_type, queue from queue.lanes) as o
  ) as a
  cross join lateral queue.served(a.types, a.queues, queue.alive_workers(p_now), p_now) as s
  join queue.lanes as l on l.job_type = s.job_type and l.queue = s.queue
),
due as (
  select
    l.job_type,
    r.ready_at,
    r.jobs,
    sum(r.jobs) over (partition by l.lane) >= l.most as is_more,
    case
      when exists (
        select from queue.pauses as p
        where (p.kind, p.name) in (
          ('job_type', l.job_type),
          ('queue', l.queue),
          ('workspace', r.workspace_id::text),
          ('workspace_type', r.workspace_id || '/' || l.job_type)
        )
      ) then 'paused'
      when l.unserved then 'unserved'
      when l.is_full
          or exists (
            select from queue.turns as t
            where t.lane = l.lane
              and t.workspace_id = r.workspace_id
              and t.blocked
              and t.look_at is not null
          )
        then 'at_limit'
      else 'ready'
    end as cause
  from lanes as l
  cross join lateral (
    select o.workspace_id, min(o.ready_at) as ready_at, count(*) as jobs
    from (
      select *
      from queue.ready as q
      where q.lane = l.lane
        and (p_workspace_id is null or q.workspace_id = p_workspace_id)
      limit l.most
    ) as o
    group by 1
  ) as r
  union all
  select
    g.job_type,
    null,
    count(*),
    sum(count(*)) over () >= 10000,
    'blocked'
  from (
    select o.job_type
    from queue.gated as o
    where (p_workspace_id is null or o.workspace_id = p_workspace_id)
      and not o.admitted
    limit 10000
  ) as g
  group by 1
  union all
  select
    u.job_type,
    null,
    count(*),
    sum(count(*)) over () >= 10000,
    'unserved'
  from (
    select o.job_type
    from queue.unpublished as o
    where (p_workspace_id is null or o.workspace_id = p_workspace_id)
      and (
        p_user_id is null
        or exists (
          select from public.jobs as j
          where j.id = o.job_id and j.user_id = p_user_id
        )
      )
    limit 10000
  ) as u
  group by 1
),
causes as (
  select
    k.*,
    coalesce(sum(d.jobs), 0)::integer as jobs,
    min(d.ready_at) as oldest_at,
    coalesce(bool_or(d.is_more), false) as is_more,
    array_to_string((array_agg(distinct d.job_type))[:3], ', ') as types
  from (
    values
      (1, 'unserved', 'wait: no worker serves'),
      (2, 'paused', 'are paused:'),
      (3, 'at_limit', 'wait for a limit:'),
      (4, 'blocked', 'wait for a job of their key:'),
      (5, 'ready', 'start next:')
  ) as k (n, cause, words)
  left join due as d on d.cause = k.cause
  group by 1, 2, 3
)
select jsonb_object_agg(
  c.cause,
  jsonb_build_object('jobs', c.jobs, 'more', c.is_more, 'types', c.types)
)
  || jsonb_build_object(
    'jobs', sum(c.jobs),
    'oldest_at', min(c.oldest_at),
    'verdict', case
      when bool_or(c.jobs > 0 and c.cause = 'unserved') then 'warn'
      else 'pass'
    end,
    'detail', coalesce(
      string_agg(
        format(
          '%s%s %s %s',
          c.jobs,
          case when c.is_more then '+' end,
          c.words,
          c.types
        ),
        '; '
        order by c.n
      ) filter (where c.jobs > 0),
      'nothing is due'
    ),
    'oldest_due_seconds', extract(
      epoch from p_now
      - min(c.oldest_at) filter (where c.cause not in ('paused', 'unserved'))
    )
  )
from causes as c
$$;

revoke execute on function queue.backlog from public;

-- What is wrong with types, pauses, schedules and questions, for whom it concerns: an
-- operator's pause is a line of the workspaces whose jobs it holds.
create or replace function queue.findings_of_workspace(p_workspace_id uuid, p_now timestamptz)
returns table (verdict text, reason text, since timestamptz, cause text, data jsonb)
language sql stable
set search_path = ''
as $$
select
  'warn',
  'refused_type',
  t.registered_at,
  t.refusal,
  jsonb_build_object('job_type', t.job_type)
from queue.job_types as t
where t.refusal is not null -- types are of all workspaces
union all
select
  'warn',
  'two_codes',
  max(c.registered_at),
  format(
    'both serve %s',
    array_to_string((array_agg(c.job_type order by c.job_type))[:5], ', ')
  ),
  jsonb_build_object(
    'codes', array_to_string(c.codes, ' and '),
    'job_type', min(c.job_type)
  )
from ( -- of types, by version and commit, that workers alive run
  select j.job_type, j.registered_at, array_agg(distinct w.version) as codes
  from unnest(queue.alive_workers(p_now)) as w
  join queue.job_types as j on j.job_type = any (w.job_types)
  group by 1, 2
) as c
where cardinality(c.codes) > 1
group by c.codes
union all
select
  'warn',
  p.kind || '_paused',
  p.paused_at,
  p.reason,
  jsonb_build_object(
    'job_type', p.job_type,
    'queue', p.name,
    'paused_at', p.paused_at,
    'jobs', d.jobs
  )
from queue.pauses as p
cross join lateral queue.due_in(
  coalesce(p_workspace_id, p.workspace_id),
  array(
    select l.lane
    from queue.lanes as l
    where case p.kind
      when 'queue' then l.queue = p.name
      when 'workspace' then true
      else l.job_type = p.job_type
    end
  )
) as d (jobs)
where p_workspace_id is null
  or p.workspace_id = p_workspace_id
  or p.workspace_id is null and d.jobs > 0
union all
select
  'warn',
  'late_schedule',
  s.next_at,
  s.problem,
  jsonb_build_object(
    'schedule', s.name,
    'problem', case when s.problem is null then 'is late' else 'made no job' end
  )
from queue.schedules as s
where s.enabled
  and (s.problem is not null or s.next_at < p_now - interval '3 minutes')
  and (p_workspace_id is null or s.workspace_id = p_workspace_id)
union all
select
  'warn',
  'unanswered',
  min(a.created_at),
  (array_agg(left(a.data ->> 'question', 200) order by a.created_at))[1],
  jsonb_build_object(
    'asked', 'answers',
    'jobs', count(*),
    'job_id', (array_agg(a.job_id order by a.created_at))[1]
  )
from (
  select *
  from queue.waits as w
  where w.kind = 'ask'
    and w.created_at < p_now - interval '1 day'
    and (p_workspace_id is null or w.workspace_id = p_workspace_id)
  limit 1000
) as a
having count(*) > 0
$$;

revoke execute on function queue.findings_of_workspace from public;

create or replace function public.list_job_types(
  p_workspace_id uuid default null,
  p_internal boolean default false,
  p_job_type text default null
)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_alive constant queue.workers[] := queue.alive_workers(v_now);
  v_types jsonb;
begin
  perform queue.may_read(p_workspace_id, p_reads_much => true);
  with types as materialized (
    select *
    from queue.job_types
    union all -- those that jobs of the workspace wait for
    select u.*
    from (
      select distinct o.job_type
      from queue.unpublished as o
      where p_workspace_id is null or o.workspace_id = p_workspace_id
    ) as w
    cross join lateral queue.type_or_refuse(w.job_type) as u
    where not exists (
      select from queue.job_types as k
      where k.job_type = w.job_type
    )
  ),
  asked as materialized (
    select *
    from types as t
    where case
      when p_job_type is null then not t.internal or coalesce(p_internal, false)
      else t.job_type = p_job_type
    end
  ),
  seen as ( -- alive, stale (seen lately), or gone
    select
      o.job_type,
      l.worker_id,
      l.version,
      l.started_at,
      l.seen_at,
      l.queues,
      case
        when l.worker in (select a.worker from unnest(v_alive) as a) then 'alive'
        when l.seen_at > v_now - interval '10 minutes' then 'stale'
        else 'gone'
      end as state,
      row_number() over (partition by o.job_type order by l.seen_at desc) as nth
    from (
      select *
      from queue.workers
      order by seen_at desc
      limit 200
    ) as l
    join asked as o on l.job_types is null or o.job_type = any (l.job_types)
  )
  select jsonb_agg(
    to_jsonb(t) - case when p_job_type is null then 'payload_schema' else '' end
    || queue.live_of_type(p_workspace_id, t.job_type)
    || jsonb_build_object(
      'published', t.schema_version > 0,
      'nearest', case t.schema_version
        when 0 then queue.nearest_type(t.job_type)
      end,
      'paused_at', p.paused_at,
      'pause_reason', p.reason,
      'day', coalesce(n.line, '{}'),
      'served', t.schema_version > 0 and not s.unserved,
      'serving', (
        select coalesce(
          jsonb_agg(to_jsonb(w) - '{job_type,nth}'::text[] order by w.nth),
          '[]'
        )
        from seen as w
        where w.job_type = t.job_type and w.nth <= 20
      ),
      'schedules', (
        select coalesce(
          jsonb_agg(
            to_jsonb(c) - '{payload,options,created_by}'::text[]
            order by c.name
          ),
          '[]'
        )
        from queue.schedules as c
        where c.job_type = t.job_type
          and p_job_type is not null
          and (
            p_workspace_id is null
            or c.workspace_id in (p_workspace_id, queue.system_workspace())
          )
      )
    )
    order by t.job_type
  )
  into v_types
  from asked as t
  left join queue.type_numbers(
    p_workspace_id,
    v_now - interval '1 day',
    '400 days',
    v_now
  ) as n on n.job_type = t.job_type
  left join lateral (
    select *
    from queue.pauses as o
    where (o.kind, o.name) in (
      ('job_type', t.job_type),
      ('workspace_type', p_workspace_id || '/' || t.job_type)
    )
    order by o.kind
    limit 1
  ) as p on true
  left join queue.served(
    array(select o.job_type from asked as o),
    null,
    v_alive,
    v_now
  ) as s on s.job_type = t.job_type;
  if p_job_type is not null then
    if v_types is null then
      perform queue.refuse(
        404,
        'unknown_job_type',
        format('no worker has registered the job type %s', left(p_job_type, 100))
      );
    end if;
    v_types := jsonb_set(
      v_types,
      '{0,holders}',
      queue.holders(p_workspace_id, p_job_type, v_now)
    );
  end if;
  return jsonb_build_object(
    'now', v_now,
    'late_since', queue.figures_late_since(v_now),
    'types', coalesce(v_types, '[]')
  );
end;
$$;

comment on function public.list_job_types is
  'Job types by name: {now, types}, each with policy, '
  'the 20 workers last seen, its day, a pause, a refusal, the nearest published name if it is not; '
  'the one named also with payload schema, schedules, and who holds its jobs.';

select queue.allow('authenticated, service_role', 'public.list_job_types');

-- Why a process ended, as the jobs of one workspace keep it: of others only how many there were.
create or replace function queue.evidence_for(p_workspace_id uuid, p_evidence jsonb)
returns jsonb
language sql stable
set search_path = ''
as $$
select p_evidence
  || jsonb_build_object('jobs_in_it', jsonb_array_length(p_evidence -> 'jobs'))
  || coalesce(jsonb_object_agg(n.name, o.ids), '{}')
from (values ('jobs'), ('guilty')) as n (name)
cross join lateral (
  select coalesce(jsonb_agg(j.id order by j.id), '[]') as ids
  from public.jobs as j
  where j.workspace_id = p_workspace_id
    and j.id = any (array(
      select e.id::uuid
      from jsonb_array_elements_text(p_evidence -> n.name) as e (id)
    ))
) as o
where p_evidence ? n.name
$$;

revoke execute on function queue.evidence_for from public;

-- Do a task for jobs, by halves where it is refused, down to the one to blame; how many were done.
create or replace function queue.do_in_parts(p_task text, p_ids uuid[], p_now timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_half constant integer := cardinality(p_ids) / 2;
  v_done integer := cardinality(p_ids);
begin
  begin
    if p_task = 'retention' then
      delete from public.jobs
      where ctid = any (array(
        select j.ctid
        from public.jobs as j
        where j.id = any (p_ids)
        order by j.id
        for update skip locked
      ));
      get diagnostics v_done = row_count;
    elsif p_task = 'reclaim' then -- expired leases are settled as lost, tried again at once
      perform queue.append_event(
        p_ids,
        'job.reclaimed',
        '{"status": "pending"}',
        p_now
      );
      perform queue.publish(s.changes, p_now)
      from queue.settle(queue.lost_items(p_ids), false) as s;
    else
      v_done := case p_task
        when 'promotion' then queue.promote(p_ids, p_now)
        when 'waits' then queue.end_waits(p_ids, p_now)
        when 'cancel' then queue.cancel(p_ids, p_now, true, 'parent_ended')
        when 'retry' then queue.retry(p_ids, p_now)
      end;
    end if;
    delete from queue.refusals as r
    where r.task = p_task and r.job_id = any (p_ids);
    return v_done;
  exception
    when connection_exception
      or transaction_rollback
      or insufficient_resources
      or object_not_in_prerequisite_state
      or operator_intervention
      or system_error
      or internal_error then
      raise; -- of locks, resources or the connection: no row is to blame
    when others then
      if v_half = 0 then
        raise warning 'maintenance (%) passes over job %: % (%)',
          p_task,
          p_ids[1],
          sqlerrm,
          sqlstate;
        perform queue.note_refusal(
          p_task,
          p_ids[1],
          format('%s (%s)', sqlerrm, sqlstate),
          p_now
        );
        return 0;
      end if;
  end;
  return queue.do_in_parts(p_task, p_ids[:v_half], p_now)
    + queue.do_in_parts(p_task, p_ids[v_half + 1:], p_now);
end;
$$;

revoke execute on function queue.do_in_parts from public;

create or replace function public.erase_person(p_user_id uuid, p_words text[] default null)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_patterns constant text[] := queue.person_patterns(p_user_id, p_words);
  v_jobs uuid[];
  v_one record;
  v_rows bigint;
  v_deleted jsonb;
  v_cleared jsonb := '{}';
begin
  v_jobs := queue.jobs_of_person(p_user_id, v_patterns);
  perform from public.jobs
  where id = any (v_jobs)
  order by id
  for update;
  delete from public.jobs where id = any (v_jobs);
  get diagnostics v_rows = row_count;
  v_deleted := jsonb_build_object('public.jobs', nullif(v_rows, 0));
  for v_one in
    select *, p.relation::regclass::text as name
    from queue.personal_tables(cardinality(v_patterns) > 0) as p
    where p.relation <> 'public.jobs'::regclass
  loop
    execute format('delete from %s as t where %s', v_one.name, v_one.is_theirs)
    using p_user_id::text, v_patterns;
    get diagnostics v_rows = row_count;
    v_deleted := v_deleted || jsonb_build_object(v_one.name, nullif(v_rows, 0));
    continue when v_one.clears is null;
    execute format(
      'update %s as t set %s where %s',
      v_one.name,
      v_one.clears,
      v_one.is_about
    )
    using p_user_id::text, v_patterns, v_jobs;
    get diagnostics v_rows = row_count;
    v_cleared := v_cleared || jsonb_build_object(v_one.name, nullif(v_rows, 0));
  end loop;
  return jsonb_strip_nulls(jsonb_build_object('deleted', v_deleted, 'cleared', v_cleared));
end;
$$;

comment on function public.erase_person is
  E'Delete a person''s jobs and all that names them: {deleted: {table: rows}, cleared}.\n\n'
  'p_words: also what quotes their id or one of these, as a name or an address; each has 3 '
  'characters or more. It reads all tables. For operators.';

select queue.allow('service_role', 'public.erase_person');

create or replace function public.export_person(p_user_id uuid, p_words text[] default null)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_patterns constant text[] := queue.person_patterns(p_user_id, p_words);
  v_jobs constant uuid[] := queue.jobs_of_person(p_user_id, v_patterns);
  v_one record;
  v_part record;
  v_rows jsonb;
  v_tables jsonb := '{}';
begin
  for v_one in
    select *, p.relation::regclass::text as name
    from queue.personal_tables(cardinality(v_patterns) > 0) as p
  loop
    for v_part in -- the rows, and those of other tables that are deleted with them
      select
        v_one.name,
        format(
          '(%s) or (%s) or %s',
          v_one.is_theirs,
          v_one.is_about,
          case
            when v_one.relation = 'public.jobs'::regclass then 't.id = any ($3)'
            when v_one.is_of_job is not null then 't.job_id = any ($3)'
            else 'false'
          end
        ) as condition
      union all
      select
        k.conrelid::regclass::text,
        format(
          '(%s) in (select %s from %s as t where %s)',
          n.its,
          n.theirs,
          v_one.name,
          v_one.is_theirs
        )
      from pg_catalog.pg_constraint as k
      cross join lateral (
        select
          string_agg(format('t.%I', a.attname), ', ' order by c.nth) as its,
          string_agg(format('t.%I', b.attname), ', ' order by c.nth) as theirs
        from unnest(k.conkey, k.confkey) with ordinality as c (its, theirs, nth)
        join pg_catalog.pg_attribute as a on a.attrelid = k.conrelid and a.attnum = c.its
        join pg_catalog.pg_attribute as b on b.attrelid = k.confrelid and b.attnum = c.theirs
      ) as n
      where k.confrelid = v_one.relation and k.confdeltype = 'c'
    loop
      execute format(
        'select jsonb_agg(to_jsonb(t) - $4) from %s as t where %s',
        v_part.name,
        v_part.condition
      )
      into v_rows
      using p_user_id::text, v_patterns, v_jobs, v_one.secrets;
      if v_rows is not null then
        v_tables := v_tables || jsonb_build_object(
          v_part.name, coalesce(v_tables -> v_part.name, '[]') || v_rows
        );
      end if;
    end loop;
  end loop;
  return jsonb_build_object('user_id', p_user_id, 'tables', v_tables);
end;
$$;

comment on function public.export_person is
  E'A person''s jobs and all that names them: {user_id, tables: {table: [row]}}.\n\nWhat '
  'erase_person with the same arguments deletes or clears. For operators.';

select queue.allow('service_role', 'public.export_person');

drop function queue.codes_side_by_side(p_now timestamp with time zone);

drop function queue.expired_leases(p_workspace_id uuid, p_job_type text, p_now timestamp with time zone);

drop function queue.is_locked(p_job_id uuid);

drop function queue.next_signals(p_now timestamp with time zone);

drop function queue.read_leases(p_ids uuid[], p_request queue.lease_request, p_now timestamp with time zone, OUT leases json, OUT changes queue.change[]);

drop function queue.with_short_ids(p_text text);
