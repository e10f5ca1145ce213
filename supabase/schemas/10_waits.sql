-- This file lets jobs wait without a worker. A job waits when it sleeps, asks a person a question,
-- or awaits an event or its child jobs. A transaction that ends a child job or emits an event
-- inserts a row into queue.signals. A transaction that inserts a signal does not lock the waiting
-- job, because the transaction might have to wait for the lock. Maintenance later processes the row
-- of queue.signals in another transaction, which sees both the wait and the event (queue.do_waits).
-- The value of an ended wait becomes the result of a step with the wait's name, so that the job's
-- next attempt reads the value.

create table queue.waits (
  job_id uuid primary key,
  workspace_id uuid not null,
  created_at timestamptz not null,
  kind text not null, -- sleep, ask, event or children
  step text not null, -- name of the step that stores the value
  data jsonb not null default '{}', -- question, options and the person's answer, or job_ids
  event_name text,
  -- time at which the wait times out, or time of the next check of the child jobs
  timeout_at timestamptz,
  default_value jsonb, -- value of the step after a timeout
  gathered integer not null default 0, -- number of children whose results are already copied
  -- A wait that violates one of the constraints below could never end. If a wait violates a
  -- constraint, the job that requests the wait fails, and the job's error contains the name of the
  -- constraint.
  constraint a_wait_is_a_sleep_ask_event_or_children
    check (kind in ('sleep', 'ask', 'event', 'children')),
  constraint a_sleep_says_until_when
    check (kind <> 'sleep' or timeout_at is not null),
  constraint a_wait_for_an_event_names_it
    check (kind <> 'event' or coalesce(event_name, '') <> ''),
  constraint a_wait_for_children_lists_at_most_10000_ids
    check (jsonb_array_length(data -> 'job_ids') <= 10000)
);
create index waits_by_workspace on queue.waits (workspace_id, job_id);
create index waits_by_timeout on queue.waits (timeout_at)
  where timeout_at is not null;
create index waits_by_workspace_and_timeout on queue.waits (workspace_id, timeout_at)
  where timeout_at is not null;
create index waits_by_event on queue.waits (workspace_id, event_name)
  where event_name is not null;

-- A signal requests work from maintenance. A signal has one of the following kinds.
-- - check: The wait of the job job_id may have ended.
-- - cancel: The job job_id was cancelled or failed, so its live children must be cancelled.
-- - retry: The job job_id was retried, so the children that were cancelled with this job must be
--   retried.
-- - event: A named event was emitted.
-- - resumed: A pause ended, or a pause of a job type or queue began. The next lease must check the
--   paused turns, and the concurrency keys if the pause is of a job type or queue.
create table queue.signals (
  id bigint generated always as identity primary key,
  kind text not null,
  workspace_id uuid not null,
  job_id uuid,
  -- For an event signal, the name of the event. For a cancel or retry signal, the id of the first
  -- child job that is still to be processed.
  name text,
  look_at timestamptz not null default '-infinity', -- earliest time to handle the signal
  failures integer not null default 0, -- number of passes that failed to handle the signal
  created_at timestamptz not null default queue.clock()
);
create index signals_by_workspace on queue.signals (workspace_id, id);

create table queue.named_events (
  workspace_id uuid not null,
  name text not null, -- only the first event with this name is stored
  payload jsonb not null,
  emitted_at timestamptz not null,
  created_by uuid, -- null if the service emitted the event
  primary key (workspace_id, name)
);
create index named_events_by_time on queue.named_events (emitted_at);

-- Return the time at which a wait times out, or null for a wait without a timeout. A worker sends a
-- timeout as a duration, because the worker's clock may be wrong. A timeout at a fixed time comes
-- from the code of a processor, or from a worker of release 0.4.4.
create function queue.wait_until(p_wait jsonb, p_now timestamptz)
returns timestamptz
language sql stable
set search_path = ''
as $$
  select coalesce(
    p_now + make_interval(
      secs => coalesce(p_wait ->> 'timeout_seconds', p_wait ->> 'delay_seconds')::double precision
    ),
    (p_wait ->> 'timeout_at')::timestamptz,
    (p_wait ->> 'until')::timestamptz
  );
$$;

-- Insert the wait of a job into queue.waits, and return null. If the wait is invalid, insert
-- nothing and return the error as JSON.
create function queue.begin_wait(p_job public.jobs, p_wait jsonb, p_now timestamptz)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_kind constant text := p_wait ->> 'kind';
  v_until timestamptz;
begin
  v_until := queue.wait_until(p_wait, p_now);
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
    -- If the wait is for a job that is not a child of this job, let maintenance check the wait
    -- every ten seconds, because only the end of a child inserts a signal.
    v_until := p_now + interval '10 seconds';
  -- Let a wait last at least one second. A wait does not count as an attempt, so a processor that
  -- waits again and again could otherwise run in a fast endless loop.
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
  -- Insert the job's deadline into queue.deferred, as queue.place does, so that maintenance
  -- enforces the deadline during the wait.
  insert into queue.deferred (run_at, job_id, workspace_id, is_place)
  select p_job.deadline_at, p_job.id, p_job.workspace_id, false
  where p_job.deadline_at is not null
  on conflict do nothing;
  -- Insert a signal, so that maintenance checks the wait immediately, because the event may already
  -- have been emitted, or the children may already have ended.
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

-- Copy results of the awaited child jobs to queue.steps, up to 1,000 results or about 8 MB in a
-- call. Every later attempt of the parent job reads the copies, so that all attempts get the same
-- results, until a person retries the parent (queue.retry). Return the value of the wait when all
-- results are copied. Return null while a child job is live or results remain to be copied.
create function queue.gather(p_wait queue.waits, p_now timestamptz)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_ids constant uuid[] := array(
    select jsonb_array_elements_text(p_wait.data -> 'job_ids')
  );
  v_gathered integer;
begin
  if exists (
    select from unnest(v_ids) as a (id)
    where exists (
      select from public.jobs as j
      where j.id = a.id and j.finished_at is null
      offset 0
    )
  ) then
    update queue.waits
    set
      gathered = 0, -- a child may have been retried since the last copy
      timeout_at = case
        when timeout_at <= p_now then p_now + interval '10 seconds'
        else timeout_at
      end
    where job_id = p_wait.job_id and (gathered > 0 or timeout_at <= p_now);
    return null;
  end if;
  with slice as (
    select
      a.nth,
      jsonb_build_object(
        'id', a.id,
        'status', coalesce(j.status, 'cancelled'),
        'result', j.result,
        'error_message', coalesce(
          j.error_message,
          case when j.id is null then 'the job does not exist' end
        )
      ) as value,
      sum(coalesce(pg_column_size(j.result), 0)) over (order by a.nth)
        - coalesce(pg_column_size(j.result), 0) as bytes_before
    from unnest(v_ids) with ordinality as a (id, nth)
    left join public.jobs as j on j.id = a.id
    where a.nth > p_wait.gathered and a.nth <= p_wait.gathered + 1000
  ),
  copied as (
    insert into queue.steps as s (job_id, name, nth, kind, value, created_at)
    select p_wait.job_id, p_wait.step, c.nth, 'children', c.value, p_now
    from slice as c
    where c.bytes_before < 8000000
    -- a cancelled wait with the same name may have left rows from an earlier attempt, so overwrite
    -- them
    on conflict (job_id, name, nth) do update set value = excluded.value
    returning 1
  )
  select p_wait.gathered + count(*) into v_gathered
  from copied;
  if v_gathered = cardinality(v_ids) then
    return '{"children": []}'; -- the results are separate rows of queue.steps
  end if;
  update queue.waits
  set gathered = v_gathered
  where job_id = p_wait.job_id;
  insert into queue.signals (kind, workspace_id, job_id)
  values ('check', p_wait.workspace_id, p_wait.job_id);
  return null;
end;
$$;

-- End the waits of the jobs p_ids if their result has arrived or they have timed out. The caller
-- must have locked the jobs. Return the number of ended waits.
create function queue.end_waits(p_ids uuid[], p_now timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_wait queue.waits;
  v_value jsonb;
  v_ended uuid[] := '{}';
begin
  for v_wait in
    select *
    from queue.waits as w
    where w.job_id = any (p_ids)
    order by w.job_id
  loop
    v_value := case v_wait.kind
      when 'children' then queue.gather(v_wait, p_now)
      when 'ask' then v_wait.data -> 'given'
      when 'event' then (
        select jsonb_build_object('event', e.payload)
        from queue.named_events as e
        where e.workspace_id = v_wait.workspace_id and e.name = v_wait.event_name
      )
    end;
    if v_value is null
      and v_wait.kind <> 'children'
      and v_wait.timeout_at <= p_now
    then
      v_value := case v_wait.kind
        when 'sleep' then '{"slept": true}'
        else jsonb_build_object(
          'timed_out', true,
          case v_wait.kind
            when 'ask' then 'answer'
            else 'event'
          end, v_wait.default_value
        )
      end;
    end if;
    continue when v_value is null;
    v_ended := v_ended || v_wait.job_id;
    insert into queue.steps (job_id, name, kind, value, started_at, created_at)
    values (
      v_wait.job_id, v_wait.step, v_wait.kind, v_value, v_wait.created_at, p_now
    )
    on conflict do nothing;
  end loop;
  if v_ended = '{}' then
    return 0;
  end if;
  delete from queue.waits where job_id = any (v_ended);
  update public.jobs
  set
    status = 'pending',
    updated_at = p_now,
    next_retry_at = null,
    last_seq = last_seq + 1
  where id = any (v_ended) and status = 'waiting';
  perform queue.append_event(
    v_ended,
    'job.resumed',
    '{}',
    p_now,
    p_is_counted => true
  );
  perform queue.place(j, p_now)
  from public.jobs as j
  where j.id = any (v_ended) and j.status = 'pending';
  return cardinality(v_ended);
end;
$$;

-- Process a signal of the kind cancel, retry or resumed. Return null if a part of the work remains,
-- so that maintenance must process the signal again.
-- - For a cancel or retry signal, process 500 child jobs, beginning with the job whose id is in the
--   column `name`. If child jobs remain, are locked, or were not changed because of a trigger,
--   insert new signals for these jobs.
-- - For a signal of the kind resumed, insert notes for the paused turns of the workspace, so that
--   the next lease opens the turns. If the pause is of a type or a queue, insert notes for all
--   concurrency keys instead. A lease that read the pause before the pause ended may still pause a
--   turn, so process the signal again until no such lease runs.
create function queue.handle_signal(p_signal queue.signals, p_now timestamptz)
returns integer
language plpgsql
set lock_timeout = '100ms'
set search_path = ''
as $$
declare
  v_ids constant uuid[] := array(
    select c.id
    from public.jobs as c
    where c.parent_id = p_signal.job_id
      and c.id
      >= coalesce(p_signal.name, '00000000-0000-0000-0000-000000000000')::uuid
      and case p_signal.kind
        when 'retry'
          then c.status = 'cancelled' and c.error_data ->> 'reason' = 'parent_ended'
        else c.finished_at is null and c.cancel_requested_at is null
      end
      and (p_signal.kind = 'retry') = exists (
        select from public.jobs as p
        where p.id = c.parent_id
          and p.finished_at is null
          and p.cancel_requested_at is null
      )
    order by c.id
    limit 500
  );
  v_refused uuid[] := queue.refused(p_signal.kind, p_now);
  v_free uuid[] := array(
    select c
    from unnest(v_ids) as c
    where c <> all (v_refused)
  );
  v_next uuid := v_ids[500];
  v_done integer := 0;
begin
  if p_signal.kind = 'resumed' then
    -- A lease holds the lock 'pauses' in shared mode while it admits jobs of concurrency keys, or
    -- sets turns to limited or paused. queue.try_lock succeeds only if no lease has the lock
    -- 'pauses'.
    v_done := case when queue.try_lock('pauses') then 1 end;
    perform queue.note_gates(array(select l.lane from queue.lanes as l))
    where p_signal.workspace_id = queue.system_workspace();
    insert into queue.notes (lane, workspace_id, ord)
    select t.lane, t.workspace_id, t.from_ord
    from queue.turns as t
    where t.workspace_id = p_signal.workspace_id
      and t.blocked
      and t.look_at = 'infinity';
    return v_done;
  elsif not queue.lock_jobs(v_free) then
    v_free := array(
      select c
      from unnest(v_free) as c
      where queue.lock_jobs(array[c])
    );
    v_next := (
      select c
      from unnest(v_ids) as c
      where c <> all (v_free) and c <> all (v_refused)
      order by c
      limit 1
    );
    if v_free = '{}' then
      return null;
    end if;
  end if;
  if v_free <> '{}' then
    v_done := queue.bisect_task(p_signal.kind, v_free, p_now);
  end if;
  v_refused := queue.refused(p_signal.kind, p_now);
  insert into queue.signals (kind, workspace_id, job_id, name)
  select p_signal.kind, p_signal.workspace_id, p_signal.job_id, v_next
  where v_next is not null;
  insert into queue.signals (kind, workspace_id, job_id, name, look_at)
  select
    p_signal.kind,
    p_signal.workspace_id,
    p_signal.job_id,
    c,
    p_now + interval '5 seconds'
  from unnest(v_ids) as c
  where c = any (v_refused)
  order by c
  limit 1;
  return v_done;
exception when lock_not_available then
  return null; -- another transaction has locked the unique key of a child
end;
$$;

-- Return up to 500 due rows of a table for maintenance, chosen so that no workspace has to wait for
-- the rows of another workspace. If 500 rows or more are due, half of the result consists of the
-- first rows in the order p_order. The other half of the result has the same number of rows from
-- each workspace. With more than 125 workspaces, the other half has rows of the 125 workspaces with
-- the smallest ids, and of the next 125 workspaces after a random id.
-- p_rows: Condition of the table's partial index on workspace_id, or 'true' if the index covers all
--   rows.
-- p_due: Condition that a row must meet to be due. In this condition, $1 is p_now, and $2 is
--   p_passed_over.
-- p_order: Expression by which due rows are sorted, the first due row first.
-- p_passed_over: Ids of jobs whose rows are skipped.
create function queue.fair_batch(
  p_table regclass,
  p_rows text,
  p_due text,
  p_order text,
  p_now timestamptz,
  p_passed_over uuid[] default '{}'
)
returns tid[]
language plpgsql
set search_path = ''
as $$
declare
  v_first tid[];
  v_shares tid[];
begin
  execute format(
    'select array(select o.ctid from %s as o where %s and %s order by %s limit 500)',
    p_table,
    p_rows,
    p_due,
    p_order
  )
  into v_first
  using p_now, p_passed_over;
  if cardinality(v_first) < 500 then
    return v_first;
  end if;
  execute format(
    $q$
      with recursive tenants as ( -- one index lookup per workspace
        select s.id, 0 as n
        from (
          values (gen_random_uuid()), ('00000000-0000-0000-0000-000000000000')
        ) as s (id)
        union all
        select f.id, t.n + 1
        from tenants as t
        cross join lateral (
          select o.workspace_id as id
          from %1$s as o
          where %2$s and o.workspace_id > t.id
          order by o.workspace_id
          limit 1
        ) as f
        where t.n < 125
      )
      select array_agg(f.tid)
      from (
        select d.id, count(*) over () as many
        from (select distinct t.id from tenants as t where t.n > 0) as d
      ) as t
      cross join lateral (
        select o.ctid as tid
        from %1$s as o
        where %2$s and o.workspace_id = t.id and %3$s
        order by %4$s
        limit ceil(250.0 / t.many)
      ) as f
    $q$,
    p_table,
    p_rows,
    p_due,
    p_order
  )
  into v_shares
  using p_now, p_passed_over;
  return v_first[:250] || v_shares;
end;
$$;

-- Run the maintenance task `waits`. The task `waits` processes signals and ends waits that have
-- timed out, until a pass changes nothing. A pass keeps a signal of the kind check if another
-- transaction has locked the job of the signal. A pass keeps a signal of the kind event if more
-- jobs wait for the event than the pass could resume. A pass spends up to 0.1 s on signals about
-- children and pauses, one workspace after the other, so that timed-out waits are checked again
-- soon.
create function queue.do_waits(p_now timestamptz, p_until timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_signals bigint[];
  v_kept bigint[];
  v_refused uuid[];
  v_rows tid[];
  v_waiting uuid[];
  v_signal queue.signals;
  v_passed integer;
  v_moved integer; -- jobs and signals handled in this pass
  v_until timestamptz; -- time when this pass stops handling children and pauses
  v_done integer := 0;
begin
  loop
    v_rows := queue.fair_batch(
      'queue.signals',
      'true',
      'o.look_at <= $1',
      'o.id',
      p_now
    );
    v_signals := array(
      select s.id
      from queue.signals as s
      where s.ctid = any (v_rows) and s.look_at <= p_now
      order by s.id
      for update skip locked
    );
    v_refused := queue.refused('waits', p_now);
    v_rows := queue.fair_batch(
      'queue.waits',
      'o.timeout_at is not null',
      'o.timeout_at <= $1 and o.job_id <> all ($2)',
      'o.timeout_at',
      p_now,
      v_refused
    );
    v_waiting := array( -- jobs that a signal names or whose wait timed out
      select w.job_id
      from queue.waits as w
      join public.jobs as j on j.id = w.job_id
      where w.job_id <> all (v_refused)
        and w.job_id = any (array(
          select o.job_id
          from queue.waits as o
          where o.ctid = any (v_rows)
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
      else queue.bisect_task('waits', v_waiting, p_now)
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
  -- If the last pass processed no signal, other transactions have locked the rows of the signals'
  -- jobs. Increase the column failures of each remaining signal, because otherwise
  -- queue.maintenance_is_due would immediately report the signals as due again.
  if v_moved = 0 then
    update queue.signals
    set failures = failures + 1
    where id = any (v_kept);
  end if;
  return v_done;
end;
$$;

create function public.answer_job(p_job_id uuid, p_answer jsonb)
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
  perform queue.admit(
    'changes',
    p_bytes => octet_length(p_answer::text)
  );
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
  perform queue.wake_worker(v_now);
  return queue.job_json(queue.visible_job(p_job_id));
end;
$$;
comment on function public.answer_job is
  'Answer the question of a waiting job with {"answer": …, "name"?}. Returns the job.';
select queue.allow('authenticated, service_role', 'public.answer_job');

create function public.emit_event(
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
  perform queue.admit(
    'changes',
    p_workspace_id,
    p_bytes => octet_length(p_payload::text)
  );
  perform queue.check_json(p_payload, 'payload');
  insert into queue.named_events (workspace_id, name, payload, emitted_at, created_by)
  values (p_workspace_id, p_name, coalesce(p_payload, '{}'), v_now, queue.caller())
  on conflict do nothing;
  v_is_first := found;
  if v_is_first then
    insert into queue.signals (kind, workspace_id, name)
    values ('event', p_workspace_id, p_name);
    perform queue.send_wakeup(v_now), queue.wake_worker(v_now);
  end if;
  return jsonb_build_object('first', v_is_first);
end;
$$;
comment on function public.emit_event is
  E'Emit a named event that jobs may wait for: {first}.\n\nOnly the first event with a name is '
  'stored. The event may come before or after the wait begins.';
select queue.allow('authenticated, service_role', 'public.emit_event');

-- Store the ids of the child jobs that a call creates in one row of queue.steps with nth -1, so
-- that a repeated call returns the same ids. queue.step_page does not return the row with nth -1.
create function public.spawn_jobs(p_request jsonb)
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
  if not found then -- the service creates the children, so there is no person
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
