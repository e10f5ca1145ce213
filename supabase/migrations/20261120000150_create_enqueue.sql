-- Enqueue, by any function: enqueue_job, enqueue_jobs, or a plain insert into public.jobs.
-- All of them admit the job to the queue and write event 1: the functions in the statement that inserts,
-- a plain insert by trigger.

create type queue.enqueue_item as (
  job_type text, payload jsonb, queue text, priority integer, scheduled_for timestamptz,
  delay_seconds double precision, max_attempts integer, idempotency_key text, idempotency_ttl_seconds double precision,
  concurrency_key text, session_id text, parent_id uuid, deadline_at timestamptz, timeout_seconds double precision,
  backoff jsonb, after jsonb, after_failed text, "unique" jsonb, debounce_seconds double precision,
  traceparent text, schema_version integer, user_id uuid, tags text[]
);
comment on type queue.enqueue_item is 'The options of a job to enqueue.';

create sequence queue.notified_ms minvalue 0 start 0;
comment on sequence queue.notified_ms is E'When workers that listen were last notified, milliseconds of the Unix epoch.\n\nA sequence, so that every transaction sees it at once and none waits for another.';

create function queue.notify_workers() returns void
language plpgsql set search_path = '' as $$
declare
  v_ms constant bigint := extract(epoch from queue.clock()) * 1000;
begin
  -- a transaction that notifies commits under a lock of the whole server: one each 20 ms is enough
  if v_ms - coalesce(pg_sequence_last_value('queue.notified_ms'), 0) not between 0 and 19 then
    perform setval('queue.notified_ms', v_ms), pg_notify('minutehand_wakeup', '');
  end if;
end;
$$;
comment on function queue.notify_workers is E'Notify minutehand_wakeup when this transaction commits, at most once each 20 ms.\n\nA listener looks at once, and again 100 ms later: what commits within those 20 ms is not notified.';

create function queue.rewind_late(p_workspace_id uuid, p_job_type text) returns void
language plpgsql set search_path = '' as $$
declare
  v_done text[] := coalesce(nullif(current_setting('minutehand.rewound', true), ''), '{}')::text[];
  v_name constant text := p_workspace_id || '/' || p_job_type;
begin
  if v_name = any (v_done) then
    return; -- a transaction may have enqueued them one by one
  end if;
  perform set_config('minutehand.rewound', (v_done || v_name)::text, true);
  insert into queue.openings (partition_id, workspace_id, queue, job_type, concurrency_key, priority, rewind)
  select p.id, p.workspace_id, p.queue, p.job_type, p.concurrency_key, p.priority, true
  from queue.partitions as p
  where p.workspace_id = p_workspace_id and p.job_type = p_job_type
    and exists (select 1 from queue.ready as r where r.partition_id = p.id and r.ready_at >= now() limit 1);
end;
$$;
comment on function queue.rewind_late is E'Make leases look from the start again in the tenant''s partitions of a type that have jobs enqueued since this transaction began.\n\nWhile a transaction that writes is open, marks follow the leases at a distance of five seconds: they have passed jobs that are committed later than that after their enqueue.';

create function queue.notify_at_commit() returns trigger
language plpgsql
security definer -- callers who enqueue may not write to the engine's sequence
set search_path = '' as $$
begin
  if clock_timestamp() - now() > interval '4 seconds' then
    perform queue.rewind_late(new.workspace_id, new.job_type);
  end if;
  perform queue.notify_workers();
  return null;
end;
$$;
comment on function queue.notify_at_commit is E'Trigger: notify workers that listen of new jobs. At the commit, since one notified earlier may have looked already and found nothing.\n\nA transaction that has lasted long also makes leases look back for its jobs.';

create constraint trigger stat_deltas_notify after insert on queue.stat_deltas deferrable initially deferred
  for each row when (new.outcome = 'enqueued') execute function queue.notify_at_commit();

create function queue.ask_for_worker(p_now timestamptz) returns boolean
language plpgsql set search_path = '' as $$
declare
  v_asked timestamptz;
begin
  if exists (select 1 from queue.wakeups where requested_at > p_now - interval '2 seconds') then
    return false; -- a worker was called and has not leased since
  end if;
  select requested_at into v_asked from queue.wakeups where id = 1 for update skip locked;
  if found then
    if v_asked > p_now - interval '2 seconds' then
      return false;
    end if;
    update queue.wakeups set requested_at = p_now where id = 1;
  end if; -- held by another enqueue that may yet roll back: ask as well
  return not exists (
    select 1 from queue.ticks
    where ended_at is null and free_slots > 0 and seen_at > p_now - interval '2 seconds'
      and started_at > p_now - interval '1 hour');
end;
$$;
comment on function queue.ask_for_worker is E'Note that a worker is wanted; true when the caller should start one.\n\nDebounced: while a wake-up is unanswered, or an active tick has room, the answer is false. A hint only: the tick of each minute is the safety net.';

create function queue.request_wake() returns boolean
language plpgsql set search_path = '' as $$
begin
  perform queue.notify_workers();
  return queue.ask_for_worker(queue.clock());
end;
$$;
comment on function queue.request_wake is 'Notify workers that listen, and note that one is wanted; true when the caller should start one.';

create function queue.wake_worker(p_now timestamptz default queue.clock()) returns boolean
language plpgsql set search_path = '' as $$
begin
  if not queue.ask_for_worker(p_now) then -- those that listen are notified at the commit
    return false;
  end if;
  -- callers through the Data API wake a worker when the answer says so; plain SQL cannot, nor can a browser
  -- that inserts: where the database is what invokes the worker, it does so for all of them
  if coalesce(current_setting('request.jwt.claims', true), '') = ''
      or queue.setting('worker_invoked_for') #>> '{}' = 'everyone' then
    perform queue.invoke_worker();
  end if;
  return true;
end;
$$;
comment on function queue.wake_worker is 'Note that new jobs need a worker; true when the caller should start one. For plain SQL the database invokes it, where it can; for all callers after connect_worker.';

create function queue.refuse_internal(p_job_type text) returns void
language plpgsql stable set search_path = '' as $$
begin
  if auth.uid() is not null and exists (select from queue.job_types where job_type = p_job_type and internal) then
    perform queue.refuse(403, 'forbidden', format('only the platform itself enqueues jobs of the type %s', p_job_type),
      'job_type');
  end if;
end;
$$;
comment on function queue.refuse_internal is 'Refuse with 403 when a person asks for a job of an internal type, now or later.';

create function queue.claim_sessions(p_workspace_id uuid, p_session_ids text[]) returns void
language plpgsql set search_path = '' as $$
declare
  v_ids text[] := array(select distinct s from unnest(p_session_ids) as s where s not like 'guest\_%' order by 1);
begin
  loop
    insert into queue.sessions (session_id, workspace_id)
    select s, p_workspace_id from unnest(v_ids) as s on conflict (session_id) do nothing;
    -- held until these jobs are committed, so that retention cannot free an id in between
    perform 1 from queue.sessions where session_id = any (v_ids) and workspace_id = p_workspace_id
    order by session_id for key share;
    exit when not exists (
      select 1 from unnest(v_ids) as s where not exists (select 1 from queue.sessions where session_id = s));
  end loop;
end;
$$;
comment on function queue.claim_sessions is 'Claim session ids for the workspace where no other has them; those of others stay theirs.';

create function queue.free_sessions(p_workspace_id uuid, p_session_ids text[]) returns void
language plpgsql set search_path = '' as $$
declare
  -- one that is being enqueued to at this moment is skipped: its new job will free it
  v_ids text[] := array(
    select session_id from queue.sessions
    where session_id = any (p_session_ids) and workspace_id = p_workspace_id
    order by session_id for update skip locked);
begin
  delete from queue.sessions as s where s.session_id = any (v_ids) and not exists (
    select 1 from public.jobs as j where j.session_id = s.session_id and j.workspace_id = p_workspace_id);
end;
$$;
comment on function queue.free_sessions is 'Free session ids of which the workspace has no job any more.';

create function queue.request_trace() returns text
language plpgsql stable set search_path = '' as $$
begin
  return substring(nullif(current_setting('request.headers', true), '')::json ->> 'x-minutehand-trace'
    from '^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$');
end;
$$;
comment on function queue.request_trace is 'The W3C trace context of the present request, from its header x-minutehand-trace; null where that is missing or malformed.';

create function queue.check_insert() returns trigger
language plpgsql
security definer -- a member inserting through the Data API holds no rights on the engine's tables
set search_path = '' as $$
declare
  v_type queue.job_types;
  v_problem text[];
  v_user uuid := auth.uid();
  v_key queue.job_keys;
begin
  if new.status <> 'pending' then
    perform queue.refuse(400, 'invalid_argument', 'a new job must have status pending', 'status');
  end if;
  if not (case when v_user is null then exists (select 1 from queue.tenants where id = new.workspace_id)
      else queue.is_member(new.workspace_id) end) then
    perform queue.refuse_workspace(new.workspace_id);
  elsif v_user is not null then
    new.user_id := v_user;
    perform queue.refuse_spent(new.workspace_id, 1);
  end if;
  select * into v_type from queue.job_types where job_type = new.job_type;
  if not found then
    perform queue.refuse(422, 'unknown_job_type', queue.unknown_type(new.job_type), new.job_type);
  end if;
  if v_type.internal then
    perform queue.refuse_internal(new.job_type);
  end if;
  perform queue.check_served(array[new.job_type]);
  new.schema_version := coalesce(new.schema_version, v_type.schema_version);
  new.queue := coalesce(new.queue, v_type.queue);
  new.max_attempts := coalesce(new.max_attempts, v_type.max_attempts);
  new.tags := coalesce(new.tags, '{}');
  v_problem := queue.item_problem(jsonb_populate_record(null::queue.enqueue_item, to_jsonb(new)), v_type,
    (queue.setting('payload_max_bytes'))::integer);
  if v_problem is not null then
    perform queue.refuse_problem(v_problem);
  end if;
  new.backoff := case when new.backoff is not null then queue.plain(new.backoff) end;
  new.tags := queue.tags_of(v_type.tagged_by, new.payload, new.tags);
  new.traceparent := coalesce(new.traceparent, queue.request_trace());
  new.id := coalesce(new.id, queue.new_id());
  perform pg_current_xact_id(); -- before the clock is read: see the marks of queue.partitions
  new.created_at := queue.clock();
  new.updated_at := new.created_at;
  new.attempts := 0;
  new.fence := 0;
  new.generation := 1;
  new.snoozes := 0;
  new.lost_attempts := 0;
  new.last_seq := case when v_type.events = 'full' then 1 else 0 end;
  new.progress := '{"percentage": 0, "stage": null, "message": null}';
  new.result := null;
  new.cost_usd := null;
  new.replay_of := null;
  new.replay_from := null;
  new.error_message := null;
  new.error_data := null;
  new.error_fingerprint := null;
  new.started_at := null;
  new.finished_at := null;
  new.completed_at := null;
  new.queue_ms := null;
  new.run_ms := 0;
  new.held_ms := 0;
  new.outcome := null;
  new.next_retry_at := null;
  new.cancel_requested_at := null;
  new.unique_key := null;
  if new.session_id is not null then
    perform queue.claim_sessions(new.workspace_id, array[new.session_id]);
  end if;
  if new.idempotency_key is not null then
    v_key := queue.claim_key(new.workspace_id, new.job_type, new.idempotency_key, md5(new.payload::text), new.id, null);
    if v_key.job_id <> new.id then
      perform queue.refuse(409, 'duplicate_job', 'this idempotency key already belongs to a job', v_key.job_id::text);
    end if;
  end if;
  return new;
end;
$$;
comment on function queue.check_insert is 'Trigger: a plain insert into public.jobs obeys the same rules as enqueue_job.';

create function queue.pending_max(p_workspace_id uuid) returns integer
language plpgsql stable set search_path = '' as $$
begin
  return coalesce((select max_pending from queue.tenant_limits where workspace_id = p_workspace_id),
    (select value from queue.settings where name = 'user_pending_max')::integer);
end;
$$;
comment on function queue.pending_max is 'How many live jobs people may have in the workspace.';

create function queue.counted_live(p_workspace_id uuid) returns integer
language plpgsql stable set search_path = '' as $$
begin
  return (select live from queue.live_counts
    where workspace_id = p_workspace_id and counted_at > queue.clock() - interval '10 seconds');
end;
$$;
comment on function queue.counted_live is 'Live jobs of the workspace as they were counted within the last ten seconds; null when they were not.';

create function queue.refuse_quota(p_workspace_id uuid) returns void
language plpgsql stable set search_path = '' as $$
begin
  perform queue.refuse(429, 'quota_exceeded',
    format('the workspace already has %s live jobs; wait until some have ended', queue.pending_max(p_workspace_id)),
    'max_pending');
end;
$$;
comment on function queue.refuse_quota is 'Refuse with 429 quota_exceeded.';

create function queue.check_quota(p_workspace_id uuid, p_job_types text[]) returns void
language plpgsql set search_path = '' as $$
declare
  v_now timestamptz := queue.clock();
  v_max integer;
  v_live integer;
begin
  if queue.is_service() then
    return; -- quotas apply to people and guests, not to the service
  end if;
  v_max := queue.pending_max(p_workspace_id);
  if v_max > 2000 then -- counted at most every ten seconds, so that a backlog does not make each enqueue dearer
    v_live := queue.counted_live(p_workspace_id);
  else
    -- one after another until each transaction ends, so that the count below sees earlier ones; keys were taken before
    perform pg_advisory_xact_lock(hashtextextended('minutehand quota ' || p_workspace_id, 0));
  end if;
  if v_live is null then
    select count(*) into v_live from (
      select 1 from queue.live_jobs where workspace_id = p_workspace_id limit v_max + 1) as live;
    if v_max > 2000 and queue.try_lock('live_counts ' || p_workspace_id) then
      insert into queue.live_counts (workspace_id, live, counted_at) values (p_workspace_id, v_live, v_now)
      on conflict (workspace_id) do update set live = excluded.live, counted_at = excluded.counted_at;
    end if;
  end if;
  if v_live > v_max then
    perform queue.refuse_quota(p_workspace_id);
  end if;
end;
$$;
comment on function queue.check_quota is E'Refuse with 429 when a person''s new jobs of these types exceed the live jobs allowed to the workspace.\n\nExact up to 2,000, for which people''s enqueues into the workspace take turns; above, the count may be ten seconds old and no one waits.';

create function queue.claim_key(
  p_workspace_id uuid, p_job_type text, p_key text, p_hash text, p_job_id uuid, p_ttl_seconds double precision
) returns queue.job_keys
language plpgsql set search_path = '' as $$
declare
  v_now timestamptz := queue.clock();
  v_expires timestamptz := v_now + make_interval(
    secs => coalesce(p_ttl_seconds, (queue.setting('idempotency_ttl_seconds'))::integer));
  v_key queue.job_keys;
begin
  insert into queue.job_keys (workspace_id, job_type, key, request_hash, job_id, expires_at)
  values (p_workspace_id, p_job_type, p_key, p_hash, p_job_id, v_expires)
  on conflict (workspace_id, job_type, key) do nothing
  returning * into v_key;
  if found then
    return v_key;
  end if;
  select * into v_key from queue.job_keys
  where workspace_id = p_workspace_id and job_type = p_job_type and key = p_key
  for update;
  if not found then -- deleted with its job a moment ago
    return queue.claim_key(p_workspace_id, p_job_type, p_key, p_hash, p_job_id, p_ttl_seconds);
  elsif v_key.expires_at <= v_now then
    update queue.job_keys set request_hash = p_hash, job_id = p_job_id, expires_at = v_expires
    where workspace_id = p_workspace_id and job_type = p_job_type and key = p_key
    returning * into v_key;
  elsif v_key.request_hash <> p_hash then
    perform queue.refuse(409, 'idempotency_conflict',
      'this idempotency key was used with another payload', v_key.job_id::text);
  end if;
  return v_key;
end;
$$;
comment on function queue.claim_key is 'Take an idempotency key for p_job_id, or return the job that has it; 409 when it was used with another payload.';

create function queue.open_partitions(p_ids uuid[]) returns table (id uuid)
language plpgsql set search_path = '' as $$
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    return; -- a lock on a row that was changed since the snapshot would fail: leave a line instead
  end if;
  return query select p.id from queue.partitions as p where p.id = any (p_ids) for key share skip locked;
end;
$$;
comment on function queue.open_partitions is E'Return those of the partitions that are open, and keep them open until this transaction ends.\n\nOne that is being closed at this moment counts as closed; only the end of a transaction that changed it before is waited for.';

create function queue.place(p_ids uuid[], p_now timestamptz) returns void
language plpgsql set search_path = '' as $$
declare
  v_now timestamptz;
begin
  perform pg_current_xact_id(); -- before the clock is read: see the marks of queue.partitions
  v_now := greatest(p_now, queue.clock());
  with placed as materialized (
    select id, workspace_id, queue, job_type, concurrency_key, priority, created_at,
      queue.partition_id(workspace_id, queue, job_type, concurrency_key, priority) as partition_id,
      coalesce(next_retry_at, scheduled_for, created_at) as run_at
    from public.jobs where id = any (p_ids)),
  known as materialized (
    select id from queue.open_partitions(array(select partition_id from placed where run_at <= v_now))),
  opened as (
    insert into queue.openings (partition_id, workspace_id, queue, job_type, concurrency_key, priority)
    select distinct on (partition_id) partition_id, workspace_id, queue, job_type, coalesce(concurrency_key, ''),
      priority
    from placed where run_at <= v_now and partition_id not in (select id from known)),
  soon as (
    insert into queue.ready (partition_id, ready_at, job_id, workspace_id, job_created_at)
    select partition_id, v_now, id, workspace_id, created_at from placed where run_at <= v_now)
  insert into queue.deferred (job_id, run_at, partition_id, workspace_id, job_created_at)
  select id, run_at, partition_id, workspace_id, created_at from placed where run_at > v_now;
end;
$$;
comment on function queue.place is 'Make pending jobs reachable: into ready, or deferred until they are due. The caller holds their rows.';

create type queue.ready_job as (
  job_id uuid, workspace_id uuid, job_created_at timestamptz, partition_id uuid, ready_at timestamptz
);
comment on type queue.ready_job is 'A place in the queue: a row of queue.ready.';

create function queue.put_back(p_jobs queue.ready_job[]) returns void
language plpgsql set search_path = '' as $$
begin
  if p_jobs = '{}' then
    return;
  end if;
  insert into queue.ready (partition_id, ready_at, job_id, workspace_id, job_created_at)
  select b.partition_id, b.ready_at, b.job_id, b.workspace_id, b.job_created_at from unnest(p_jobs) as b;
  insert into queue.openings (partition_id, workspace_id, queue, job_type, concurrency_key, priority, rewind)
  select distinct on (b.partition_id) b.partition_id, j.workspace_id, j.queue, j.job_type,
    coalesce(j.concurrency_key, ''), j.priority, true
  from unnest(p_jobs) as b join public.jobs as j on j.id = any (array[b.job_id]);
end;
$$;
comment on function queue.put_back is 'Put leased jobs back where they were in the queue: they have waited their turn once. Leases look there from the start again.';

create function queue.admit(p_ids uuid[]) returns boolean
language plpgsql set search_path = '' as $$
declare
  v_now timestamptz := queue.clock();
  v_ready boolean;
begin
  with placed as materialized (
    select id, workspace_id, session_id, queue, job_type, concurrency_key, priority, status, last_seq, created_at,
      scheduled_for, deadline_at,
      queue.partition_id(workspace_id, queue, job_type, concurrency_key, priority) as partition_id
    from public.jobs where id = any (p_ids)),
  known as materialized (select id from queue.open_partitions(array(
    select partition_id from placed where status = 'pending' and (scheduled_for is null or scheduled_for <= v_now)))),
  opened as (
    insert into queue.openings (partition_id, workspace_id, queue, job_type, concurrency_key, priority)
    select distinct on (partition_id) partition_id, workspace_id, queue, job_type, coalesce(concurrency_key, ''),
      priority
    from placed where status = 'pending' and (scheduled_for is null or scheduled_for <= v_now)
      and partition_id not in (select id from known)),
  later as (
    insert into queue.deferred (job_id, run_at, partition_id, workspace_id, job_created_at)
    select id, scheduled_for, partition_id, workspace_id, created_at
    from placed where status = 'pending' and scheduled_for > v_now),
  soon as (
    insert into queue.ready (partition_id, ready_at, job_id, workspace_id, job_created_at)
    select partition_id, created_at, id, workspace_id, created_at
    from placed where status = 'pending' and (scheduled_for is null or scheduled_for <= v_now)
    returning 1),
  appended as (
    insert into queue.job_events (job_id, seq, workspace_id, session_id, type, data, created_at)
    select id, 1, workspace_id, session_id, 'job.created',
      -- one that has ended within its own statement began as pending
      jsonb_build_object('status', case status when 'waiting' then status else 'pending' end, 'attempts', 0,
        'job_type', job_type), created_at
    from placed where last_seq >= 1),
  limited as (
    insert into queue.deadlines (job_id, deadline_at)
    select id, deadline_at from placed where deadline_at is not null and status in ('pending', 'waiting')),
  counted as (
    insert into queue.stat_deltas (at, job_type, workspace_id, outcome, jobs)
    select v_now, job_type, workspace_id, 'enqueued', count(*) from placed group by 2, 3)
  select exists (select 1 from soon) into v_ready;
  return v_ready;
end;
$$;
comment on function queue.admit is 'Put new jobs into the queue and write their event 1; true when one of them may be leased now.';

create function queue.after_insert() returns trigger
language plpgsql
security definer -- a member inserting through the Data API holds no rights on the engine's tables
set search_path = '' as $$
begin
  insert into queue.arrivals (xid, job_id) values (pg_current_xact_id(), new.id);
  return null;
end;
$$;
comment on function queue.after_insert is 'Trigger: note a job of a plain insert, to be admitted when its statement ends. The engine''s own inserts admit their jobs themselves.';

create function queue.after_inserts() returns trigger
language plpgsql
security definer -- a member inserting through the Data API holds no rights on the engine's tables
set search_path = ''
set plan_cache_mode = 'force_generic_plan' -- its plans do not depend on the values, and cost a millisecond each
as $$
declare
  v_ids uuid[];
begin
  with arrived as (
    delete from queue.arrivals where xid = pg_current_xact_id() returning job_id)
  select array_agg(job_id) into v_ids from arrived;
  if v_ids is not null then
    if queue.admit(v_ids) then
      perform queue.wake_worker();
    end if;
    perform queue.check_quota(w, job_types) from (
      select workspace_id as w, array_agg(distinct job_type) as job_types
      from public.jobs where id = any (v_ids) group by 1 order by 1) as joined;
    perform queue.charge_enqueues(cardinality(v_ids));
  end if;
  return null;
end;
$$;
comment on function queue.after_inserts is E'Trigger: admit the jobs of a plain insert, check the quotas of their workspaces and wake a worker.\n\nWithout a transition table, which would copy each row that the engine itself inserts.';

create function queue.after_delete() returns trigger
language plpgsql
security definer -- callers who may delete a job hold no rights on the engine's tables
set search_path = ''
set enable_seqscan = off -- a session's first delete decides on the plan of all
set jit = off as $$
declare
  v_ids uuid[] := array(select id from removed order by id);
begin
  -- one look-up per job, whatever the planner estimates for either side
  delete from queue.ready where ctid = any (array(
    select q.place from removed as r cross join lateral (
      select q.ctid as place from queue.ready as q
      where q.workspace_id = r.workspace_id and q.job_created_at = r.created_at and q.job_id = r.id limit 1) as q
    where r.status = 'pending'));
  delete from queue.ended where ctid = any (array(
    select q.place from removed as r cross join lateral (
      select q.ctid as place from queue.ended as q
      where q.workspace_id = r.workspace_id and q.outcome = r.outcome and q.job_created_at = r.created_at
        and q.job_id = r.id limit 1) as q
    where r.outcome is not null));
  delete from queue.job_tags as t using removed as r
  where r.tags <> '{}' and t.workspace_id = r.workspace_id and t.tag = any (r.tags)
    and t.job_created_at = r.created_at and t.job_id = r.id;
  delete from queue.deferred where job_id = any (v_ids);
  delete from queue.deadlines where job_id = any (v_ids);
  delete from queue.leases where job_id = any (v_ids);
  delete from queue.waits where job_id = any (v_ids);
  delete from queue.steps where job_id = any (v_ids);
  delete from queue.running_steps where job_id = any (v_ids);
  delete from queue.spawns where job_id = any (v_ids);
  delete from queue.attempts where job_id = any (v_ids);
  delete from queue.job_keys where job_id = any (v_ids);
  delete from queue.unique_jobs where job_id = any (v_ids);
  delete from queue.dependencies where job_id = any (v_ids);
  delete from queue.gathered where job_id = any (v_ids);
  if current_setting('minutehand.retention', true) is distinct from 'on' then -- which leaves them to their own end
    delete from queue.artefacts where job_id = any (v_ids);
  end if;
  -- jobs that waited for a deleted one are counted down as if it had failed
  insert into queue.signals (kind, job_id, workspace_id)
  select 'ended', r.id, r.workspace_id from removed as r
  where exists (select 1 from queue.dependencies as d where d.after_id = r.id)
  union
  select 'orphans', c.parent_id, c.workspace_id from public.jobs as c
  where c.parent_id = any (v_ids) and c.finished_at is null;
  delete from public.job_logs where job_id = any (v_ids);
  delete from queue.job_events where job_id = any (v_ids);
  perform queue.unpack_histories(gone.ids, gone.workspaces, gone.ends) from (
    select array_agg(id) as ids, array_agg(workspace_id) as workspaces, array_agg(finished_at) as ends
    from removed where outcome = 'completed') as gone
  where gone.ids is not null;
  perform queue.free_sessions(gone.workspace_id, gone.ids) from (
    select workspace_id, array_agg(distinct session_id) as ids
    from removed where session_id is not null group by 1) as gone;
  return null;
end;
$$;
comment on function queue.after_delete is 'Trigger: delete what belongs to deleted jobs.';

create function queue.lock_running(p_workspace_id uuid) returns void
language plpgsql set search_path = '' as $$
declare
  v_ids uuid[] := array(select job_id from queue.leases where workspace_id = p_workspace_id);
begin
  perform 1 from public.jobs where id = any (v_ids) order by id for update;
  perform 1 from queue.leases where job_id = any (v_ids) order by job_id for update;
end;
$$;
comment on function queue.lock_running is 'Lock a workspace''s running jobs and their leases, in the order of settlements.';

create table queue.forgotten (
  workspace_id uuid primary key, -- the tenant
  forgotten_at timestamptz not null -- when it was deleted
);
comment on table queue.forgotten is 'Workspaces deleted within the hour: what others were writing of them meanwhile is deleted after them.';

create function queue.forget_rows(p_workspace_id uuid) returns void
language plpgsql set search_path = '' as $$
declare
  v_table name;
begin
  delete from queue.last_deliveries where webhook_id in (
    select id from queue.webhooks where workspace_id = p_workspace_id);
  for v_table in
    select c.relname from pg_catalog.pg_class as c
    where c.relnamespace = 'queue'::regnamespace and c.relkind = 'r'
      and exists (select from pg_catalog.pg_attribute as a where a.attrelid = c.oid and a.attname = 'workspace_id')
      -- rows of a job go with it, and what leases opened is closed by the leases that find it empty
      and (c.relname = 'artefacts'
        or c.relname not in ('partitions', 'turns', 'openings', 'forgotten')
        and not exists (select from pg_catalog.pg_attribute as a where a.attrelid = c.oid and a.attname = 'job_id'))
    order by c.relname
  loop
    execute format('delete from queue.%1$I where ctid = any (array('
      'select o.ctid from queue.%1$I as o where o.workspace_id = $1 for update skip locked))', v_table)
    using p_workspace_id;
  end loop;
end;
$$;
comment on function queue.forget_rows is 'Delete the rows of a workspace from every table of the engine that names it. Waits for no one.';

create function queue.forget_workspace(p_workspace_id uuid) returns void
language plpgsql set search_path = '' as $$
begin
  perform queue.lock_running(p_workspace_id);
  delete from public.jobs where workspace_id = p_workspace_id;
  perform queue.forget_rows(p_workspace_id);
  insert into queue.forgotten as f (workspace_id, forgotten_at) values (p_workspace_id, queue.clock())
  on conflict (workspace_id) do update set forgotten_at = excluded.forgotten_at;
end;
$$;
comment on function queue.forget_workspace is 'Delete everything of a workspace, and what is written of it within the hour.';

-- the setting marks the engine's own insert, and not one that a user's trigger makes within it;
-- the policy on inserts refuses a person who sets it by hand
create trigger jobs_check_insert before insert on public.jobs
  for each row when (current_setting('queue.checked', true) is distinct from pg_trigger_depth()::text)
  execute function queue.check_insert();
create trigger jobs_after_insert after insert on public.jobs
  for each row when (current_setting('queue.checked', true) is distinct from pg_trigger_depth()::text)
  execute function queue.after_insert();
create trigger jobs_after_inserts after insert on public.jobs
  for each statement when (current_setting('queue.checked', true) is distinct from pg_trigger_depth()::text)
  execute function queue.after_inserts();
create trigger jobs_after_delete after delete on public.jobs
  referencing old table as removed for each statement execute function queue.after_delete();

create function queue.tie_problem(p_item queue.enqueue_item) returns text[]
language plpgsql stable set search_path = '' as $$
begin
  if p_item.after is not null and jsonb_typeof(p_item.after) <> 'array' then
    return array['400', 'invalid_argument', 'after must be an array of job ids', 'after'];
  elsif p_item.after is not null and jsonb_array_length(p_item.after) > 1000 then
    return array['400', 'invalid_argument', 'after must name at most 1000 jobs',
      'after'];
  elsif coalesce(p_item.after_failed, 'fail') not in ('fail', 'run', 'cancel') then
    return array['400', 'invalid_argument', 'after_failed must be fail, run or cancel', 'after_failed'];
  elsif p_item."unique" is not null and (jsonb_typeof(p_item."unique") <> 'object'
      or p_item."unique" - '{key,until,on_conflict}'::text[] <> '{}'
      or char_length(p_item."unique" ->> 'key') not between 1 and 255 or p_item."unique" ->> 'key' is null
      or coalesce(p_item."unique" ->> 'until', 'finished') not in ('leased', 'finished')
      or coalesce(p_item."unique" ->> 'on_conflict', 'skip') not in ('skip', 'replace', 'raise')) then
    return array['400', 'invalid_argument',
      'unique must be {key, until: leased|finished, on_conflict: skip|replace|raise}', 'unique'];
  elsif p_item.debounce_seconds is not null
      and (p_item."unique" is null or p_item.debounce_seconds not between 0.1 and 86400) then
    return array['400', 'invalid_argument', 'debounce_seconds needs unique.key and must be between 0.1 and 86400',
      'debounce_seconds'];
  elsif p_item.backoff is not null and (jsonb_typeof(p_item.backoff) <> 'object'
      or p_item.backoff - '{first_seconds,cap_seconds,factor}'::text[] <> '{}'
      or coalesce((p_item.backoff ->> 'first_seconds')::double precision, 1) not between 0 and 86400
      or coalesce((p_item.backoff ->> 'cap_seconds')::double precision, 1) not between 0 and 604800
      or coalesce((p_item.backoff ->> 'factor')::double precision, 2) not between 1 and 10) then
    return array['400', 'invalid_argument',
      'backoff must be {first_seconds 0..86400, cap_seconds 0..604800, factor 1..10}', 'backoff'];
  end if;
  return null;
end;
$$;
comment on function queue.tie_problem is 'What is wrong with the options after, after_failed, unique, debounce_seconds and backoff of an item: {status, hint, message, field}; null when nothing is.';

create function queue.item_problem(p_item queue.enqueue_item, p_type queue.job_types, p_max_bytes integer)
returns text[]
language plpgsql stable set search_path = '' as $$
declare
  v_problem text[];
begin
  if p_item.job_type is null then
    return array['400', 'invalid_argument', 'job_type is required', 'job_type'];
  elsif p_type.job_type is null then
    return array['422', 'unknown_job_type', queue.unknown_type(p_item.job_type), 'job_type'];
  elsif p_item.payload is not null and jsonb_typeof(p_item.payload) <> 'object' then
    return array['422', 'payload_invalid', 'payload must be an object', 'payload'];
  end if;
  -- a condition costs as much as a look-up, and most items have few options
  if num_nonnulls(p_item.priority, p_item.max_attempts, p_item.delay_seconds, p_item.scheduled_for,
      p_item.deadline_at, p_item.schema_version, p_item.timeout_seconds) > 0 then
    if p_item.priority not between 0 and 1000 then
      return array['400', 'invalid_argument', 'priority must be between 0 and 1000', 'priority'];
    elsif p_item.max_attempts not between 1 and 50 then
      return array['400', 'invalid_argument', 'max_attempts must be between 1 and 50', 'max_attempts'];
    elsif p_item.delay_seconds not between 0 and 315360000 then
      return array['400', 'invalid_argument', 'delay_seconds must be between 0 and ten years', 'delay_seconds'];
    elsif p_item.scheduled_for is not null and p_item.delay_seconds is not null then
      return array['400', 'invalid_argument', 'give scheduled_for or delay_seconds, not both', 'delay_seconds'];
    elsif p_item.scheduled_for not between '1970-01-01 00:00:00+00' and '9999-01-01 00:00:00+00' then
      return array['400', 'invalid_argument', 'scheduled_for must lie between the years 1970 and 9999',
        'scheduled_for'];
    elsif p_item.deadline_at not between '1970-01-01 00:00:00+00' and '9999-01-01 00:00:00+00' then
      return array['400', 'invalid_argument', 'deadline_at must lie between the years 1970 and 9999', 'deadline_at'];
    elsif p_item.schema_version < 1 then
      return array['400', 'invalid_argument', 'schema_version must be at least 1', 'schema_version'];
    elsif p_item.schema_version > p_type.schema_version then
      return array['422', 'payload_invalid',
        format('schema_version %s is newer than any worker knows', p_item.schema_version), 'schema_version'];
    elsif p_item.timeout_seconds not between 1 and 43200 then
      return array['400', 'invalid_argument', 'timeout_seconds must be between 1 and 43200', 'timeout_seconds'];
    end if;
  end if;
  if num_nonnulls(p_item.queue, p_item.concurrency_key, p_item.session_id, p_item.traceparent,
      p_item.idempotency_key, p_item.idempotency_ttl_seconds, p_item.tags) > 0 then
    if char_length(p_item.queue) not between 1 and 100 then
      return array['400', 'invalid_argument', 'queue must have 1 to 100 characters', 'queue'];
    elsif char_length(p_item.concurrency_key) not between 1 and 255 then
      return array['400', 'invalid_argument', 'concurrency_key must have 1 to 255 characters', 'concurrency_key'];
    elsif char_length(p_item.session_id) not between 1 and 255 then
      return array['400', 'invalid_argument', 'session_id must have 1 to 255 characters', 'session_id'];
    elsif concat(p_item.queue, p_item.concurrency_key) ~ '[[:cntrl:]]' then
      return array['400', 'invalid_argument', 'queue and concurrency_key must not contain control characters',
        case when p_item.queue ~ '[[:cntrl:]]' then 'queue' else 'concurrency_key' end];
    elsif char_length(p_item.traceparent) > 512 then
      return array['400', 'invalid_argument', 'traceparent is too long', 'traceparent'];
    elsif p_item.idempotency_key is not null and char_length(p_item.idempotency_key) not between 1 and 255 then
      return array['400', 'invalid_argument', 'idempotency_key must have 1 to 255 characters', 'idempotency_key'];
    elsif p_item.idempotency_ttl_seconds not between 0 and 315360000 then
      return array['400', 'invalid_argument', 'idempotency_ttl_seconds must be between 0 and ten years',
        'idempotency_ttl_seconds'];
    elsif p_item.tags is not null and not queue.tags_fit(p_item.tags) then
      return array['400', 'invalid_argument', 'tags must be at most 20 texts of 1 to 100 characters', 'tags'];
    end if;
  end if;
  if coalesce(p_item.after, p_item."unique", p_item.backoff) is not null
      or p_item.after_failed <> 'fail' or p_item.debounce_seconds is not null then
    v_problem := queue.tie_problem(p_item);
  end if;
  v_problem := coalesce(v_problem, queue.json_problem(p_item.payload, 'payload', p_max_bytes));
  if v_problem is null and p_type.payload_schema is not null
      and (p_item.schema_version is null or p_item.schema_version = p_type.schema_version) then
    v_problem := (select array['422', 'payload_invalid', e, split_part(e, ' ', 1)]
      from queue.schema_error(p_type.payload_schema, coalesce(p_item.payload, '{}'), 'payload') as e
      where e is not null);
  end if;
  return v_problem;
end;
$$;
comment on function queue.item_problem is 'What is wrong with an item: {status, hint, message, field}; null when nothing is.';

create function queue.check_later_job(p_item jsonb, p_within text) returns void
language plpgsql stable set search_path = '' as $$
declare
  v_type queue.job_types;
  v_problem text[];
begin
  perform queue.refuse_internal(p_item ->> 'job_type');
  select * into v_type from queue.job_types as t where t.job_type = p_item ->> 'job_type';
  v_problem := queue.item_problem(
    jsonb_populate_record(null::queue.enqueue_item, queue.plain_item(p_item, p_within)), v_type,
    (queue.setting('payload_max_bytes'))::integer);
  if v_problem is not null then
    perform queue.refuse_problem(v_problem, p_within);
  end if;
end;
$$;
comment on function queue.check_later_job is 'Refuse a job that a schedule is to enqueue later unless it could be enqueued now. p_within comes before the field''s name.';

create function queue.replace_pending(p_holders jsonb, p_items queue.enqueue_item[], p_now timestamptz) returns uuid[]
language plpgsql set search_path = '' as $$
declare
  v_ids uuid[] := array(select key::uuid from jsonb_each(p_holders) order by 1);
  v_old public.jobs;
  v_item queue.enqueue_item;
begin
  perform 1 from public.jobs where id = any (v_ids) order by id for update;
  for v_old in select * from public.jobs where id = any (v_ids) and status = 'pending' order by id loop
    v_item := p_items[(p_holders ->> v_old.id::text)::integer];
    perform queue.leave(array[v_old.id]);
    update public.jobs set
      payload = coalesce(v_item.payload, '{}'),
      tags = queue.tags_of((select t.tagged_by from queue.job_types as t where t.job_type = v_old.job_type),
        coalesce(v_item.payload, '{}'), coalesce(v_item.tags, queue.given_tags(v_old))),
      schema_version = coalesce(v_item.schema_version,
        (select t.schema_version from queue.job_types as t where t.job_type = v_old.job_type)),
      priority = coalesce(v_item.priority, v_old.priority),
      scheduled_for = case
        when v_item.debounce_seconds is not null then p_now + make_interval(secs => v_item.debounce_seconds)
        when v_item.delay_seconds is not null then p_now + make_interval(secs => v_item.delay_seconds)
        else coalesce(v_item.scheduled_for, v_old.scheduled_for) end,
      -- a retry's own time would go before a newer one
      next_retry_at = case when num_nonnulls(v_item.debounce_seconds, v_item.delay_seconds, v_item.scheduled_for) = 0
        then v_old.next_retry_at end,
      last_seq = last_seq + 1, updated_at = p_now
    where id = v_old.id;
    insert into queue.job_events (job_id, seq, workspace_id, session_id, type, data, created_at)
    select id, last_seq, workspace_id, session_id, 'job.replaced',
      jsonb_build_object('status', status, 'attempts', attempts, 'scheduled_for', scheduled_for), p_now
    from public.jobs where id = v_old.id;
    perform queue.place(array[v_old.id], p_now);
  end loop;
  return array(select h from unnest(v_ids) as h
    where not exists (select 1 from queue.unique_jobs as u where u.job_id = h));
end;
$$;
comment on function queue.replace_pending is E'Give pending holders of a unique key the newer payload and time; return those that gave up their key meanwhile.\n\np_holders maps job id to the item''s number.';

create function queue.depend(
  p_workspace_id uuid, p_job_id uuid, p_created_at timestamptz, p_after jsonb, p_policy text
) returns void
language plpgsql set search_path = '' as $$
declare
  v_after uuid[] := array(select distinct queue.uuid_or_refuse(value, 'after') from jsonb_array_elements_text(p_after));
  v_missing uuid;
begin
  select a into v_missing from unnest(v_after) as a
  where not exists (select 1 from public.jobs where id = a and workspace_id = p_workspace_id);
  if found then
    perform queue.refuse(404, 'job_not_found', 'a job named in after does not exist', v_missing::text);
  end if;
  insert into queue.dependencies (after_id, job_id) select a, p_job_id from unnest(v_after) as a;
  insert into queue.waits (job_id, workspace_id, job_created_at, kind, name, data, open_jobs)
  values (p_job_id, p_workspace_id, p_created_at, 'after', 'after',
    jsonb_build_object('job_ids', to_jsonb(v_after), 'after_failed', p_policy), cardinality(v_after));
  -- they may have ended already
  insert into queue.signals (kind, job_id, workspace_id) values ('check', p_job_id, p_workspace_id);
end;
$$;
comment on function queue.depend is 'Make a job that is about to be inserted wait for others of its workspace.';

create function queue.plain_item(p_item jsonb, p_within text default '') returns jsonb
language plpgsql immutable set search_path = '' as $$
declare
  v_name text;
begin
  -- most have no number that could be written otherwise, and none too long for an integer
  if (p_item - 'payload')::text !~ '[0-9]\.[0-9]|[0-9]{10}' then
    return p_item;
  end if;
  foreach v_name in array array['priority', 'max_attempts', 'schema_version'] loop
    if jsonb_typeof(p_item -> v_name) = 'number' then
      p_item := jsonb_set(p_item, array[v_name],
        to_jsonb(queue.whole((p_item ->> v_name)::numeric, p_within || v_name)));
    end if;
  end loop;
  return case when p_item ? 'backoff' then jsonb_set(p_item, '{backoff}', queue.plain(p_item -> 'backoff'))
    else p_item end;
end;
$$;
comment on function queue.plain_item is 'An item with its numbers in one spelling, 5 for 5.0; refuses one that must be whole and is not. p_within comes before the field''s name.';

create function queue.check_options(p_items jsonb, p_bulk boolean) returns void
language plpgsql set search_path = '' as $$
declare
  v_known text[] := array(
    select jsonb_object_keys(to_jsonb(jsonb_populate_record(null::queue.enqueue_item, '{}'))));
  v_bad record;
begin
  select names.name, items.ordinality - 1 as index into v_bad
  from jsonb_array_elements(p_items) with ordinality as items,
    lateral (select jsonb_object_keys(case when jsonb_typeof(items.value) = 'object' then items.value
      else '{"an item that is not an object": 1}' end) as name) as names
  where names.name <> all (v_known)
  limit 1;
  if found then
    perform queue.refuse(400, 'invalid_argument', format('unknown option: %s', left(v_bad.name, 80)),
      case when p_bulk then format('jobs[%s].%s', v_bad.index, left(v_bad.name, 80)) else left(v_bad.name, 80) end);
  end if;
end;
$$;
comment on function queue.check_options is 'Refuse items that are not objects or have options of unknown names, so that a typo is not ignored.';

create function queue.check_items(p_items jsonb, p_user_id uuid, p_bulk boolean, p_plain boolean) returns void
language plpgsql set search_path = '' as $$
declare
  v_max_bytes integer := (queue.setting('payload_max_bytes'))::integer;
  v_bad record;
begin
  select checked.index, checked.problem into v_bad
  from (
    select closer.index, case when (closer.types).internal and p_user_id is not null
      then array['403', 'forbidden',
        format('only the platform itself enqueues jobs of the type %s', (closer.types).job_type), 'job_type']
      else queue.item_problem(
        jsonb_populate_record(null::queue.enqueue_item, closer.value), closer.types, v_max_bytes) end as problem
    from (
      select items.ordinality - 1 as index, items.value, types
      from jsonb_array_elements(p_items) with ordinality as items
      left join queue.job_types as types on types.job_type = items.value ->> 'job_type'
      -- a type and a small payload alone need no full check
      where case
        when types.job_type is null or types.payload_schema is not null or types.internal then true
        when not p_plain and items.value - '{job_type,payload}'::text[] <> '{}' then true
        when jsonb_typeof(coalesce(items.value -> 'payload', '{}')) <> 'object' then true
        when octet_length(items.value::text) > 200
          then queue.json_problem(items.value -> 'payload', 'payload', v_max_bytes) is not null
        else false end
      offset 0 -- otherwise the planner checks all of them in full first
    ) as closer) as checked
  where checked.problem is not null
  order by checked.index
  limit 1;
  if found then
    perform queue.refuse_problem(v_bad.problem, case when p_bulk then format('jobs[%s].', v_bad.index) else '' end);
  end if;
end;
$$;
comment on function queue.check_items is E'Refuse the first item that has a problem; p_plain says that none has more than a type and a payload.\n\np_user_id is a person, who may not enqueue internal types.';

create function queue.claim_keys(p_workspace_id uuid, p_items queue.enqueue_item[], p_new uuid[]) returns uuid[]
language plpgsql set search_path = '' as $$
declare
  v_ids uuid[] := p_new;
  v_item record;
  v_key queue.job_keys;
begin
  -- keys in one order for every caller, so that two bulk calls never deadlock
  for v_item in
    select items.*, md5(coalesce(items.payload, '{}')::text) as hash
    from unnest(p_items) with ordinality as items where items.idempotency_key is not null
    order by items.job_type, items.idempotency_key, items.ordinality
  loop
    v_key := queue.claim_key(p_workspace_id, v_item.job_type, v_item.idempotency_key, v_item.hash,
      p_new[v_item.ordinality], v_item.idempotency_ttl_seconds);
    v_ids[v_item.ordinality] := v_key.job_id;
  end loop;
  return v_ids;
end;
$$;
comment on function queue.claim_keys is 'Take the items'' idempotency keys; return the job of each item, its own of p_new or an earlier one.';

create function queue.claim_unique(
  p_workspace_id uuid, p_items queue.enqueue_item[], p_new uuid[], p_now timestamptz, inout ids uuid[], out own jsonb
)
language plpgsql set search_path = '' as $$
declare
  v_item record;
  v_holder uuid;
  v_holders jsonb := '{}';
  v_late uuid[];
begin
  own := '{}';
  loop -- until no holder of a key was leased between being found and being replaced
    for v_item in
      select items.* from unnest(p_items) with ordinality as items
      where items."unique" is not null and (v_late is null or ids[items.ordinality] = any (v_late))
      order by items.job_type, items."unique" ->> 'key', items.ordinality
    loop
      continue when v_late is null and ids[v_item.ordinality] <> p_new[v_item.ordinality];
      loop
        v_holder := p_new[v_item.ordinality];
        insert into queue.unique_jobs (workspace_id, job_type, key, job_id, until)
        values (p_workspace_id, v_item.job_type, v_item."unique" ->> 'key', v_holder,
          case when v_item.debounce_seconds is not null then 'leased'
            else coalesce(v_item."unique" ->> 'until', 'finished') end)
        on conflict (workspace_id, job_type, key) do nothing;
        exit when found;
        select u.job_id into v_holder from queue.unique_jobs as u
        where u.workspace_id = p_workspace_id and u.job_type = v_item.job_type and u.key = v_item."unique" ->> 'key';
        continue when not found; -- freed between the two statements: try again
        if v_item."unique" ->> 'on_conflict' = 'raise' then
          perform queue.refuse(409, 'duplicate_job', 'this unique key already belongs to a job', v_holder::text);
        elsif v_item.debounce_seconds is not null or v_item."unique" ->> 'on_conflict' = 'replace' then
          v_holders := v_holders || jsonb_build_object(v_holder, v_item.ordinality);
        end if;
        exit;
      end loop;
      if v_holder <> ids[v_item.ordinality] and v_item.idempotency_key is not null then
        update queue.job_keys set job_id = v_holder
        where workspace_id = p_workspace_id and job_type = v_item.job_type and key = v_item.idempotency_key;
      end if;
      ids[v_item.ordinality] := v_holder;
    end loop;
    own := own || coalesce((select jsonb_object_agg(key, value) from jsonb_each(v_holders)
      where key::uuid = any (p_new)), '{}');
    v_late := queue.replace_pending(v_holders - p_new::text[], p_items, p_now);
    exit when cardinality(v_late) = 0;
    v_holders := '{}';
  end loop;
  -- items of one call that share an idempotency key get the same job
  ids := array(select coalesce(other.job_id, own.id) from unnest(ids) with ordinality as own (id, n)
    left join unnest(p_new, ids) as other (id, job_id) on other.id = own.id order by own.n);
end;
$$;
comment on function queue.claim_unique is E'Take the items'' unique keys, and replace pending holders where the item says so: {ids, own}.\n\nids: the job of each item. own: holders that this call itself creates, with the number of the item that replaces each.';

create function queue.tie_items(
  p_workspace_id uuid, p_items queue.enqueue_item[], p_new uuid[], p_ids uuid[], p_now timestamptz
) returns boolean[]
language plpgsql set search_path = '' as $$
declare
  v_waiting boolean[] := array_fill(false, array[cardinality(p_new)]);
  v_item record;
begin
  for v_item in
    select items.* from unnest(p_items) with ordinality as items
    where items.parent_id is not null or items.after is not null and jsonb_array_length(items.after) > 0
    order by items.ordinality
  loop
    continue when p_ids[v_item.ordinality] <> p_new[v_item.ordinality];
    if v_item.parent_id is not null and not exists (
        select 1 from public.jobs where id = v_item.parent_id and workspace_id = p_workspace_id) then
      perform queue.refuse(404, 'job_not_found', 'the parent job does not exist', v_item.parent_id::text);
    end if;
    if v_item.after is not null and jsonb_array_length(v_item.after) > 0 then
      v_waiting[v_item.ordinality] := true;
      perform queue.depend(p_workspace_id, p_new[v_item.ordinality],
        p_now + make_interval(secs => v_item.ordinality * 1e-6), v_item.after, coalesce(v_item.after_failed, 'fail'));
    end if;
  end loop;

  if exists (select from unnest(p_items) as items where items.session_id is not null) then
    perform queue.claim_sessions(p_workspace_id, array(
      select distinct items.session_id from unnest(p_items) as items where items.session_id is not null));
  end if;
  return v_waiting;
end;
$$;
comment on function queue.tie_items is 'Tie new jobs to their parents, dependencies and sessions; return which of them wait for others.';

create function queue.insert_plain(
  p_workspace_id uuid, p_user_id uuid, p_items jsonb, p_new uuid[], p_now timestamptz
) returns void
language plpgsql set search_path = '' as $$
begin
  with made as (
    insert into public.jobs (id, workspace_id, user_id, queue, job_type, payload, schema_version, max_attempts,
      created_at, updated_at, traceparent, last_seq, tags)
    select p_new[items.ordinality], p_workspace_id, p_user_id, types.queue, types.job_type,
      coalesce(nullif(items.value -> 'payload', 'null'), '{}'), types.schema_version, types.max_attempts,
      p_now + make_interval(secs => items.ordinality * 1e-6), p_now, (select queue.request_trace()),
      case when types.events = 'full' then 1 else 0 end,
      case types.tagged_by when '{}' then '{}' else queue.tags_of(types.tagged_by, items.value -> 'payload', null) end
    from jsonb_array_elements(p_items) with ordinality as items
    join queue.job_types as types on types.job_type = items.value ->> 'job_type'
    order by items.ordinality
    returning id, queue, job_type, priority, created_at, last_seq),
  kinds as materialized ( -- what queue.admit finds for each job, once per type
    select k.*, queue.partition_id(p_workspace_id, k.queue, k.job_type, null, k.priority) as partition_id,
      jsonb_build_object('status', 'pending', 'attempts', 0, 'job_type', k.job_type) as data
    from (select queue, job_type, priority, count(*) as jobs from made group by 1, 2, 3) as k),
  known as materialized (select id from queue.open_partitions(array(select partition_id from kinds))),
  opened as (
    insert into queue.openings (partition_id, workspace_id, queue, job_type, concurrency_key, priority)
    select partition_id, p_workspace_id, queue, job_type, '', priority
    from kinds where partition_id not in (select id from known)),
  soon as (
    insert into queue.ready (partition_id, ready_at, job_id, workspace_id, job_created_at)
    select k.partition_id, m.created_at, m.id, p_workspace_id, m.created_at
      from made as m join kinds as k on k.job_type = m.job_type
    order by m.created_at), -- a join may reverse the order, and indexes filled backwards stay half empty
  appended as (
    insert into queue.job_events (job_id, seq, workspace_id, type, data, created_at)
    select m.id, 1, p_workspace_id, 'job.created', k.data, m.created_at
    from made as m join kinds as k on k.job_type = m.job_type where m.last_seq = 1 order by m.created_at)
  insert into queue.stat_deltas (at, job_type, workspace_id, outcome, jobs)
  select p_now, job_type, p_workspace_id, 'enqueued', jobs from kinds;
end;
$$;
comment on function queue.insert_plain is 'Insert and admit jobs of a type and a payload alone, in one statement that reads no options.';

create function queue.insert_jobs(
  p_workspace_id uuid, p_user_id uuid, p_items queue.enqueue_item[], p_new uuid[], p_ids uuid[], p_waiting boolean[],
  p_now timestamptz
) returns void
language plpgsql set search_path = '' as $$
begin
  insert into public.jobs (id, workspace_id, user_id, session_id, queue, job_type, payload, schema_version, status,
    priority, max_attempts, scheduled_for, created_at, updated_at, deadline_at, timeout_seconds, backoff,
    idempotency_key, concurrency_key, unique_key, parent_id, traceparent, last_seq, tags)
  select new.id, p_workspace_id, coalesce(p_user_id, items.user_id), items.session_id,
    coalesce(items.queue, types.queue), items.job_type, coalesce(items.payload, '{}'),
    coalesce(items.schema_version, types.schema_version), case when new.waiting then 'waiting' else 'pending' end,
    coalesce(items.priority, 100), coalesce(items.max_attempts, types.max_attempts),
    case when items.debounce_seconds is not null then p_now + make_interval(secs => items.debounce_seconds)
      when items.delay_seconds is not null then p_now + make_interval(secs => items.delay_seconds)
      else items.scheduled_for end,
    p_now + make_interval(secs => items.ordinality * 1e-6), p_now, items.deadline_at, items.timeout_seconds,
    items.backoff, items.idempotency_key, items.concurrency_key, items."unique" ->> 'key', items.parent_id,
    coalesce(items.traceparent, (select queue.request_trace())),
    case when types.events = 'full' then 1 else 0 end,
    case types.tagged_by when '{}' then coalesce(items.tags, '{}')
      else queue.tags_of(types.tagged_by, items.payload, items.tags) end
  from unnest(p_items) with ordinality as items
  join rows from (unnest(p_new, p_ids, p_waiting)) with ordinality as new (id, job_id, waiting, ordinality)
    on new.ordinality = items.ordinality and new.id = new.job_id
  join queue.job_types as types on types.job_type = items.job_type
  order by items.ordinality;
end;
$$;
comment on function queue.insert_jobs is E'Insert the jobs of those items that have no earlier job; the caller calls queue.admit then.\n\nIts columns are all that a new job may have. queue.enqueue_one and queue.insert_plain write some of them at half of its price; test_catalogue.py compares the three.';

create function queue.enqueue(p_workspace_id uuid, p_user_id uuid, p_items jsonb, p_bulk boolean) returns jsonb
language plpgsql set search_path = ''
set plan_cache_mode = 'force_generic_plan' -- its plans do not depend on the values, and cost a millisecond each
set enable_seqscan = off -- a session's plan may be older than the rows
set jit = off as $$
declare
  v_now timestamptz;
  v_new uuid[] := queue.new_ids(jsonb_array_length(p_items)); -- an id for each item
  v_ids uuid[] := v_new; -- the job of each item in the end
  v_made uuid[];         -- those that are new
  v_items queue.enqueue_item[]; -- read once, where they have options
  v_own jsonb := '{}';
  v_plain boolean;
  v_waiting boolean[];
  v_ready boolean := true;
  v_outer text := coalesce(current_setting('queue.checked', true), ''); -- of an enqueue whose trigger calls this one
begin
  perform pg_current_xact_id(); -- before the clock is read: see the marks of queue.partitions
  v_now := queue.clock();
  v_plain := not exists (
    select 1 from jsonb_array_elements(p_items) as item
    where case when jsonb_typeof(item.value) = 'object' then item.value - '{job_type,payload}'::text[] <> '{}'
      else true end)
    -- a user's own trigger before inserts may set what the items do not
    and not exists (select 1 from pg_catalog.pg_trigger
      where tgrelid = 'public.jobs'::regclass and tgtype & 7 = 7 and tgname <> 'jobs_check_insert');
  -- a repeated call gets the earlier job, whatever the limits
  if v_plain or not p_items @? '$[*] ? (exists(@.idempotency_key) || exists(@.unique))' then
    perform queue.refuse_spent(p_workspace_id, cardinality(v_new));
  end if;
  if not v_plain then
    perform queue.check_options(p_items, p_bulk);
    p_items := (select jsonb_agg(
      queue.plain_item(item, case when p_bulk then format('jobs[%s].', place - 1) else '' end) order by place)
      from jsonb_array_elements(p_items) with ordinality as i (item, place));
  end if;
  perform queue.check_items(p_items, p_user_id, p_bulk, v_plain);
  if not v_plain then
    perform queue.check_edges(p_items);
    v_items := array(select i from jsonb_populate_recordset(null::queue.enqueue_item, p_items) as i);
    v_ids := queue.claim_keys(p_workspace_id, v_items, v_new);
    select * into v_ids, v_own from queue.claim_unique(p_workspace_id, v_items, v_new, v_now, v_ids);
    v_waiting := queue.tie_items(p_workspace_id, v_items, v_new, v_ids, v_now);
  end if;

  perform set_config('queue.checked', pg_trigger_depth()::text, true);
  if v_plain then
    perform queue.insert_plain(p_workspace_id, p_user_id, p_items, v_new, v_now);
  else
    perform queue.insert_jobs(p_workspace_id, p_user_id, v_items, v_new, v_ids, v_waiting, v_now);
  end if;
  perform set_config('queue.checked', v_outer, true);
  if not v_plain then
    v_made := array(select n from unnest(v_new, v_ids) as made (n, job_id) where n = job_id);
    v_ready := queue.admit(v_made);
  end if;
  if v_plain or cardinality(v_made) > 0 then
    perform queue.check_quota(p_workspace_id, array(
      select distinct item ->> 'job_type' from jsonb_array_elements(p_items) as item));
    perform queue.charge_enqueues(cardinality(case when v_plain then v_new else v_made end));
  end if;
  if v_own <> '{}' then
    perform queue.replace_pending(v_own, v_items, v_now);
  end if;

  return jsonb_build_object('ids', to_jsonb(v_ids),
    'created', case when v_plain then to_jsonb(array_fill(true, array[cardinality(v_new)]))
      else (select jsonb_agg(a = b order by o) from unnest(v_ids, v_new) with ordinality as t (a, b, o)) end,
    'wake', v_ready and queue.wake_worker());
end;
$$;
comment on function queue.enqueue is E'Enqueue many jobs in one statement: {ids, created, wake}, in the order of p_items.\n\np_user_id is the person who calls, who may not enqueue internal types; the platform''s own code passes null and names the job''s user in its user_id.';

create function queue.check_caller(p_workspace_id uuid) returns uuid
language plpgsql set search_path = '' as $$
declare
  v_user uuid := auth.uid();
begin
  if v_user is not null then
    if queue.is_member(p_workspace_id) then
      return v_user;
    end if;
  elsif queue.is_service() and exists (select 1 from queue.tenants where id = p_workspace_id) then
    return null;
  end if;
  perform queue.refuse_workspace(p_workspace_id);
end;
$$;
comment on function queue.check_caller is 'Return the user who enqueues, a member of the workspace, or null for the service; refuse others with 404.';

create function queue.enqueue_for(p_workspace_id uuid, p_items jsonb, p_bulk boolean) returns jsonb
language plpgsql set search_path = '' as $$
declare
  v_user uuid := queue.check_caller(p_workspace_id);
  v_warning text;
begin
  if p_items @? '$[*] ? (exists(@.after) || exists(@.after_failed))' then -- functions of apps alone may
    perform queue.refuse(400, 'invalid_argument', 'unknown option: after', 'after');
  end if;
  v_warning := queue.check_served(array(select distinct i.value ->> 'job_type' from jsonb_array_elements(p_items) as i
    where jsonb_typeof(i.value) = 'object'));
  return queue.enqueue(p_workspace_id, v_user, p_items, p_bulk) || jsonb_build_object('warning', v_warning);
exception
  when invalid_text_representation or numeric_value_out_of_range or invalid_datetime_format
    or datetime_field_overflow or invalid_parameter_value then
    perform queue.refuse_value('the job', null, sqlerrm);
end;
$$;
comment on function queue.enqueue_for is 'Enqueue for the caller: membership, then queue.enqueue; wrong types become 400.';

create function queue.read_item(p_job_type text, p_payload jsonb, p_options jsonb, p_type queue.job_types)
returns queue.enqueue_item
language plpgsql set search_path = '' as $$
declare
  v_item queue.enqueue_item;
  v_problem text[];
begin
  if p_options <> '{}' then
    v_item := jsonb_populate_record(null::queue.enqueue_item, queue.plain_item(p_options));
  end if;
  v_item.job_type := p_job_type;
  v_item.payload := p_payload;
  v_problem := queue.item_problem(v_item, p_type, (queue.setting('payload_max_bytes'))::integer);
  if v_problem is not null then
    perform queue.refuse_problem(v_problem);
  end if;
  return v_item;
exception
  when invalid_text_representation or numeric_value_out_of_range or invalid_datetime_format
    or datetime_field_overflow or invalid_parameter_value then
    perform queue.refuse_value('the job', null, sqlerrm);
end;
$$;
comment on function queue.read_item is 'Read a job to enqueue from its options; refuse wrong types and values. p_type is null where its type is unknown.';

create function queue.is_single(p_options jsonb) returns boolean
language plpgsql immutable set search_path = '' as $$
begin
  return p_options - '{queue,priority,scheduled_for,delay_seconds,max_attempts,idempotency_key,
    idempotency_ttl_seconds,concurrency_key,session_id,deadline_at,timeout_seconds,backoff,traceparent,schema_version,
    user_id,tags}'::text[] = '{}';
end;
$$;
comment on function queue.is_single is 'Whether a job''s options tie it to no other, so that queue.enqueue_one may make it. An unknown option is not of these, and is refused by queue.enqueue.';

-- its row is the type of an answer, which one call of to_jsonb writes: what job_facts says is put beside the job's
-- columns, and not merged into them afterwards
create view queue.new_jobs as
select null::text as state, null::timestamptz as next_run_at, null::text as error, null::jsonb as waiting_for,
  null::timestamptz as running_since, null::text as worker_id, null::jsonb as times, jobs.*
from public.jobs;
comment on view queue.new_jobs is 'A job as job_json writes it, for the answer of an enqueue; never read.';
create type queue.enqueued as (job queue.new_jobs, created boolean, wake boolean, warning text);
comment on type queue.enqueued is 'The answer of enqueue_job.';

create function queue.enqueued_json(p_job_id uuid, p_created boolean, p_wake boolean, p_warning text) returns jsonb
language plpgsql stable set search_path = '' as $$
begin
  return jsonb_build_object('created', p_created, 'wake', p_wake, 'warning', p_warning,
    'job', (select queue.job_json(j) from public.jobs as j where j.id = p_job_id));
end;
$$;
comment on function queue.enqueued_json is 'The answer of enqueue_job: {job, created, wake, warning}.';

create function queue.admit_one(p_job queue.new_jobs, p_now timestamptz) returns void
language plpgsql set search_path = '' as $$
declare
  v_partition uuid := queue.partition_id(p_job.workspace_id, p_job.queue, p_job.job_type, p_job.concurrency_key,
    p_job.priority);
begin
  if p_job.scheduled_for > p_now then
    insert into queue.deferred (job_id, run_at, partition_id, workspace_id, job_created_at)
    values (p_job.id, p_job.scheduled_for, v_partition, p_job.workspace_id, p_job.created_at);
  else
    if current_setting('transaction_isolation') = 'read committed' then -- see queue.open_partitions
      perform 1 from queue.partitions as p where p.id = v_partition for key share skip locked;
    end if;
    if not found then
      insert into queue.openings (partition_id, workspace_id, queue, job_type, concurrency_key, priority)
      values (v_partition, p_job.workspace_id, p_job.queue, p_job.job_type, coalesce(p_job.concurrency_key, ''),
        p_job.priority);
    end if;
    insert into queue.ready (partition_id, ready_at, job_id, workspace_id, job_created_at)
    values (v_partition, p_job.created_at, p_job.id, p_job.workspace_id, p_job.created_at);
  end if;
  if p_job.last_seq >= 1 then
    insert into queue.job_events (job_id, seq, workspace_id, session_id, type, data, created_at)
    values (p_job.id, 1, p_job.workspace_id, p_job.session_id, 'job.created',
      jsonb_build_object('status', 'pending', 'attempts', 0, 'job_type', p_job.job_type), p_job.created_at);
  end if;
  if p_job.deadline_at is not null then
    insert into queue.deadlines (job_id, deadline_at) values (p_job.id, p_job.deadline_at);
  end if;
  insert into queue.stat_deltas (at, job_type, workspace_id, outcome, jobs)
  values (p_now, p_job.job_type, p_job.workspace_id, 'enqueued', 1);
end;
$$;
comment on function queue.admit_one is 'The same as queue.admit for one new pending job, by small statements that together cost less to start than its large one.';

create function queue.enqueue_one(
  p_workspace_id uuid, p_user_id uuid, p_job_type text, p_payload jsonb, p_options jsonb, p_warning text default null
) returns jsonb
language plpgsql set search_path = ''
set plan_cache_mode = 'force_generic_plan' -- its plans do not depend on the values
as $$
declare
  v_payload constant jsonb := coalesce(p_payload, '{}');
  v_is_limited constant boolean := p_user_id is not null and not queue.is_service(); -- people and guests are
  -- of an enqueue whose trigger calls this one
  v_outer constant text := coalesce(current_setting('queue.checked', true), '');
  v_id constant uuid := queue.new_id();
  v_now timestamptz;
  v_type queue.job_types;
  v_item queue.enqueue_item;
  v_key queue.job_keys;
  v_job queue.new_jobs;
  v_set text; -- to set by an assignment, cheaper than a query
begin
  select * into v_type from queue.job_types as t where t.job_type = p_job_type;
  if v_type.internal and p_user_id is not null then
    perform queue.refuse_internal(p_job_type);
  end if;
  -- a small payload alone needs no full check
  if p_options <> '{}' or v_type.job_type is null or v_type.payload_schema is not null
      or jsonb_typeof(v_payload) <> 'object' or octet_length(v_payload::text) > 200 then
    v_item := queue.read_item(p_job_type, v_payload, p_options, v_type);
  end if;
  v_set := pg_current_xact_id(); -- before the clock is read: see the marks of queue.partitions
  v_now := queue.clock();
  if v_item.idempotency_key is not null then
    v_key := queue.claim_key(p_workspace_id, p_job_type, v_item.idempotency_key, md5(v_payload::text), v_id,
      v_item.idempotency_ttl_seconds);
    if v_key.job_id <> v_id then
      return queue.enqueued_json(v_key.job_id, false, false, p_warning);
    end if;
  elsif v_is_limited then -- a repeated call gets the earlier job, whatever the limits
    perform queue.refuse_spent(p_workspace_id, 1);
  end if;
  if v_item.session_id is not null then
    perform queue.claim_sessions(p_workspace_id, array[v_item.session_id]);
  end if;

  v_set := set_config('queue.checked', pg_trigger_depth()::text, true);
  insert into public.jobs (id, workspace_id, user_id, session_id, queue, job_type, payload, schema_version, priority,
    max_attempts, scheduled_for, created_at, updated_at, deadline_at, timeout_seconds, backoff, idempotency_key,
    concurrency_key, traceparent, last_seq, tags)
  values (v_id, p_workspace_id, coalesce(p_user_id, v_item.user_id), v_item.session_id,
    coalesce(v_item.queue, v_type.queue), p_job_type, v_payload,
    coalesce(v_item.schema_version, v_type.schema_version), coalesce(v_item.priority, 100),
    coalesce(v_item.max_attempts, v_type.max_attempts),
    case when v_item.delay_seconds is null then v_item.scheduled_for
      else v_now + make_interval(secs => v_item.delay_seconds) end,
    v_now, v_now, v_item.deadline_at, v_item.timeout_seconds, v_item.backoff, v_item.idempotency_key,
    v_item.concurrency_key, coalesce(v_item.traceparent, queue.request_trace()),
    case when v_type.events = 'full' then 1 else 0 end,
    case v_type.tagged_by when '{}' then coalesce(v_item.tags, '{}')
      else queue.tags_of(v_type.tagged_by, v_payload, v_item.tags) end)
  returning 'queued', created_at, null::text, null::jsonb, null::timestamptz, null::text,
    '{"queue_ms": 0.0, "run_ms": 0.0, "runs": 0, "held_ms": 0.0, "wait_ms": 0.0, "total_ms": 0.0}'::jsonb, jobs.*
  into v_job;
  v_set := set_config('queue.checked', v_outer, true);
  perform queue.admit_one(v_job, v_now);
  if v_is_limited then
    perform queue.check_quota(p_workspace_id, array[p_job_type]), queue.charge_enqueues(1);
  end if;

  if v_job.scheduled_for is not null then
    return queue.enqueued_json(v_job.id, true, v_job.scheduled_for <= v_now and queue.wake_worker(v_now), p_warning);
  end if;
  return to_jsonb(row(v_job, true, queue.wake_worker(v_now), p_warning)::queue.enqueued);
end;
$$;
comment on function queue.enqueue_one is E'Enqueue one job that is tied to no other: {job, created, wake, warning}.\n\nThe common call, by statements that each do one thing: the large one of queue.enqueue takes longer to start than one job takes to write.';

create function public.enqueue_job(
  p_workspace_id uuid, p_job_type text, p_payload jsonb default '{}', p_options jsonb default '{}'
) returns jsonb
language plpgsql
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
declare
  v_options constant jsonb := coalesce(p_options, '{}');
  v_done jsonb;
begin
  if jsonb_typeof(v_options) <> 'object' then
    perform queue.refuse(400, 'invalid_argument', 'p_options must be an object', 'p_options');
  elsif v_options = '{}' or queue.is_single(v_options) then
    return queue.enqueue_one(p_workspace_id, queue.check_caller(p_workspace_id), p_job_type, p_payload, v_options,
      queue.check_served(array[p_job_type]));
  end if;
  v_done := queue.enqueue_for(p_workspace_id, jsonb_build_array(
    v_options || jsonb_build_object('job_type', p_job_type, 'payload', coalesce(p_payload, '{}'))), false);
  return queue.enqueued_json((v_done #>> '{ids,0}')::uuid, (v_done #> '{created,0}')::boolean,
    (v_done -> 'wake')::boolean, v_done ->> 'warning');
end;
$$;
comment on function public.enqueue_job is E'Enqueue one job: {job, created, wake, warning}.\n\nOptions: queue, priority, scheduled_for or delay_seconds, max_attempts, idempotency_key, idempotency_ttl_seconds, concurrency_key, session_id, parent_id, deadline_at, timeout_seconds, backoff, unique, debounce_seconds, traceparent, schema_version, tags; a service''s also user_id.\nwarning is a sentence when no worker that runs serves the type, else null.\ncreated is false when an idempotency or unique key belonged to an earlier job, which is returned. The job exists if and only if the caller''s transaction commits.';

create function public.enqueue_jobs(p_workspace_id uuid, p_jobs jsonb, p_return text default 'jobs') returns jsonb
language plpgsql
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
declare
  v_done jsonb;
begin
  if jsonb_typeof(p_jobs) is distinct from 'array' or jsonb_array_length(p_jobs) not between 1 and 1000 then
    perform queue.refuse(400, 'invalid_argument', 'p_jobs must be an array of 1 to 1000 jobs', 'jobs');
  elsif p_return not in ('jobs', 'ids') then
    perform queue.refuse(400, 'invalid_argument', 'p_return must be jobs or ids', 'p_return');
  end if;
  if jsonb_array_length(p_jobs) > 100 then
    perform queue.take_turn();
  end if;
  v_done := queue.enqueue_for(p_workspace_id, p_jobs, true);
  if p_return = 'ids' then
    return v_done;
  end if;
  return jsonb_build_object('wake', v_done -> 'wake', 'warning', v_done -> 'warning', 'jobs', (
    select jsonb_agg(
      jsonb_build_object('job', to_jsonb(jobs), 'created', v_done #> array['created', (ids.n - 1)::text])
      order by ids.n)
    from jsonb_array_elements_text(v_done -> 'ids') with ordinality as ids (id, n)
    join public.jobs on jobs.id = ids.id::uuid));
end;
$$;
comment on function public.enqueue_jobs is E'Enqueue 1 to 1,000 jobs, all or none: {jobs: [{job, created}], wake, warning}, or {ids: […], created: […], wake, warning} with p_return ids.\n\nEach element holds job_type, payload and the options of enqueue_job. An error''s detail names the element. A job has its columns alone: get_job also has what follows from them.';

select queue.allow('authenticated, service_role', 'public.enqueue_job', 'public.enqueue_jobs');
