-- Settle: how attempts ended, as their holder says it. Each item shows its fencing token; a stale one changes nothing.
--   public.settle_jobs       may ask for the next jobs in the same call
--     queue.settle           answers each item, repeats and stale ones too
--       queue.settle_items     one statement for all outcomes: the lease goes, the job moves
--         queue.judge          what becomes of all but plain completions
--       queue.move_on          of all but plain jobs: attempts, events, waits
--         queue.end_places     places those that go on and frees what they held: gates too, so that the lease of the
--                              same call gets the next job of a full key
--     queue.lease            see the file before
-- The one way out: queue.finish ends jobs that no worker holds by the same functions.

create type queue.worker_item as (
  job_id uuid, fence integer, outcome text, result jsonb, error jsonb, retry_after_seconds double precision,
  until timestamptz, delay_seconds double precision, wait jsonb, duration_ms double precision, progress jsonb,
  logs jsonb, logs_from integer, steps jsonb, step jsonb, tags jsonb, lease_seconds double precision
);
-- What becomes of a job: act is completed, retry, failed, cancelled, snoozed, released, waiting or lost.
create type queue.verdict as (act text, problem jsonb, message text, run_at timestamptz);

create function queue.read_items(p_items jsonb) returns queue.worker_item[]
language plpgsql stable as $$
declare
  v_items queue.worker_item[];
begin
  if jsonb_typeof(p_items) is distinct from 'array' or jsonb_array_length(p_items) > 1000 then
    perform queue.refuse(400, 'invalid_argument', 'items must be an array of at most 1000', 'items');
  end if;
  begin
    v_items := array(select i from jsonb_populate_recordset(null::queue.worker_item, p_items) as i);
    if p_items @? '$[*].logs[*].at' then -- what is cast later, in the statement that writes
      perform (l.value ->> 'at')::timestamptz
      from unnest(v_items) as i
      cross join lateral jsonb_array_elements(case when jsonb_typeof(i.logs) = 'array' then i.logs else '[]' end) as l
      where l.value ->> 'at' ~ '^\d{4}-\d\d-\d\dT';
    end if;
  exception when data_exception then
    perform queue.refuse_value('an item', 'items', sqlerrm);
  end;
  return v_items;
end;
$$;

-- An error as members read it with the job: its traceback and origin are kept with the attempt.
create function queue.public_error(p_error jsonb) returns jsonb
language sql immutable
as $$ select p_error - '{message,traceback,origin}'::text[] $$;

-- When the next attempt begins: after what a foreign service asked for, else exponentially within a tenth, never above
-- the cap. Source: Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
create function queue.retry_at(
  p_type queue.job_types, p_attempts integer, p_after double precision, p_now timestamptz
) returns timestamptz
language plpgsql volatile as $$
declare
  v_wait constant double precision :=
    power(p_type.backoff_factor, least(p_attempts, 60) - 1) * p_type.backoff_first_seconds;
begin
  return p_now + make_interval(secs => case
    when p_after is not null then least(604800, greatest(0, p_after))
    when v_wait >= p_type.backoff_cap_seconds then p_type.backoff_cap_seconds * (0.8 + 0.2 * random())
    else least(p_type.backoff_cap_seconds, v_wait * (0.9 + 0.2 * random())) end);
end;
$$;

-- Decide what becomes of a job whose worker reports anything but a completion whose result fits; lost: it reports
-- nothing any more. The caller holds the row.
create function queue.judge(p_item queue.worker_item, p_now timestamptz) returns queue.verdict
language plpgsql as $$
declare
  v_job public.jobs;
  v_type queue.job_types;
  v_reason text;
  v_bad_wait constant text := case when p_item.outcome = 'waiting' then queue.wait_problem(p_item.wait) end;
  v_made queue.verdict;
begin
  select * into v_job from public.jobs as j where j.id = p_item.job_id;
  select * into v_type from queue.job_types as t where t.job_type = v_job.job_type;
  v_reason := case
    when p_item.outcome in ('retry', 'lost') and v_job.attempts >= v_job.max_attempts then 'attempts_spent'
    when p_item.outcome in ('retry', 'lost') and v_job.deadline_at <= p_now then 'deadline_passed'
    when p_item.outcome = 'lost'
      and v_job.lost_attempts + 1 >= (queue.setting('lost_attempts_max'))::integer then 'lost_too_often' end;
  v_made.act := case
    when p_item.outcome = 'completed' then 'failed' -- its result is too large
    when v_job.cancel_requested_at is not null or p_item.outcome = 'cancelled' then 'cancelled'
    when p_item.outcome in ('retry', 'lost') and v_reason is null then p_item.outcome
    when p_item.outcome in ('snoozed', 'released', 'waiting') and v_bad_wait is null then p_item.outcome
    else 'failed' end;
  v_made.problem := case
    when p_item.outcome = 'completed' then jsonb_build_object('type', 'ResultTooLarge', 'reason', 'result_too_large',
      'message', format('the result exceeds %s bytes; store it and return a reference',
        queue.setting('result_max_bytes')))
    when v_reason is not null and not (p_item.outcome = 'lost' and v_reason <> 'deadline_passed')
      then coalesce(p_item.error, '{}') || jsonb_build_object('reason', v_reason)
    when p_item.outcome = 'failed' then '{"reason": "not_retryable"}'::jsonb || coalesce(p_item.error, '{}')
    when v_bad_wait is not null
      then jsonb_build_object('type', 'InvalidWait', 'reason', 'invalid_wait', 'message', v_bad_wait)
    when p_item.outcome = any ('{cancelled,retry,lost,snoozed,released,waiting}') then p_item.error
    else jsonb_build_object('type', 'UnknownOutcome', 'reason', 'unknown_outcome',
      'message', 'unknown outcome ' || coalesce(left(p_item.outcome, 80), 'null')) end;
  v_made.message := case
    when v_made.act in ('retry', 'failed', 'lost')
      then left(coalesce(v_made.problem ->> 'message', 'no reason given'), 10000)
    when v_made.act = 'cancelled' and p_item.outcome <> 'lost'
      then left(nullif(v_made.problem ->> 'message', ''), 10000) end;
  v_made.run_at := case v_made.act
    when 'retry' then queue.retry_at(v_type, v_job.attempts, p_item.retry_after_seconds, p_now)
    when 'snoozed' then coalesce(p_item.until, p_now + make_interval(secs =>
      least(31536000, greatest(0, coalesce(p_item.delay_seconds, 60))))) end;
  return v_made;
end;
$$;

-- The data of the event of a settlement.
create function queue.settled_data(
  p_status text, p_attempts integer, p_message text, p_next_retry_at timestamptz, p_wait jsonb
) returns jsonb
language plpgsql immutable as $$
begin
  if num_nonnulls(p_message, p_next_retry_at, p_wait) = 0 then
    return jsonb_build_object('status', p_status, 'attempts', p_attempts);
  end if;
  return jsonb_strip_nulls(jsonb_build_object('status', p_status, 'attempts', p_attempts,
    'error_message', left(p_message, 1000), 'next_retry_at', p_next_retry_at,
    'wait', case when p_wait is not null then jsonb_build_object('kind', p_wait ->> 'kind', 'name', p_wait ->> 'name',
      'question', left(p_wait ->> 'question', 2000), 'options', p_wait -> 'options',
      'until', coalesce(p_wait ->> 'timeout_at', p_wait ->> 'until'), 'event', p_wait ->> 'event') end));
end;
$$;

create type queue.gate as (workspace_id uuid, job_type text, key text, lane integer);

-- Take jobs that a worker held, or that have ended, out of all that they held: those that go on are placed, then the
-- gates of their keys open, so that the lease of the same call gets the next job of a full key; unique keys of those
-- that have ended are freed, and those that wait for them are noted.
create function queue.end_places(p_ids uuid[], p_now timestamptz) returns void
language plpgsql as $$
declare
  v_gates queue.gate[];
  v_gate queue.gate;
  v_ended constant uuid[] := array(
    select j.id from public.jobs as j where j.id = any (p_ids) and j.finished_at is not null);
begin
  with gone as (
    update queue.gated as g set ended = true from public.jobs as j
    where j.id = any (p_ids) and g.workspace_id = j.workspace_id and g.job_type = j.job_type
      and g.key = coalesce(j.concurrency_key, '') and g.job_id = j.id and g.admitted
      and (j.status <> 'pending' or not exists (
        select from queue.job_types as t where t.job_type = j.job_type and t.in_order))
    returning g.lane, g.workspace_id, g.job_type, g.key)
  select array_agg(row(k.workspace_id, k.job_type, k.key, k.lane)::queue.gate) into v_gates
  from (select g.workspace_id, g.job_type, g.key, min(g.lane) as lane from gone as g group by 1, 2, 3) as k;
  perform queue.place(j, p_now) from public.jobs as j where j.id = any (p_ids) and j.status = 'pending';
  foreach v_gate in array coalesce(v_gates, '{}') loop
    if not queue.open_gate(v_gate.job_type, v_gate.workspace_id, v_gate.key, p_now) then
      insert into queue.notes (lane, workspace_id, key) values (v_gate.lane, v_gate.workspace_id, v_gate.key);
    end if;
  end loop;
  if v_ended <> '{}' then
    delete from queue.unique_jobs as u using public.jobs as j
    where j.id = any (v_ended) and j.unique_key is not null and u.workspace_id = j.workspace_id
      and u.job_type = j.job_type and u.key = j.unique_key and u.job_id = j.id;
    delete from queue.deferred as d using public.jobs as j
    where j.id = any (v_ended) and j.deadline_at is not null and d.run_at = j.deadline_at and d.job_id = j.id;
    insert into queue.dead (workspace_id, job_id)
    select j.workspace_id, j.id from public.jobs as j where j.id = any (v_ended) and j.status = 'failed'
    on conflict do nothing;
    -- a parent that may wait, live children of one that did not complete
    insert into queue.signals (kind, workspace_id, job_id)
    select distinct 'check', j.workspace_id, j.parent_id from public.jobs as j
    where j.id = any (v_ended) and j.parent_id is not null
    union all
    select 'orphans', j.workspace_id, j.id from public.jobs as j
    where j.id = any (v_ended) and j.status in ('failed', 'cancelled')
      and exists (select from public.jobs as c where c.parent_id = j.id and c.finished_at is null);
  end if;
end;
$$;

-- A job that was settled and is not plain. Plain is one that completed at its first lease and is tied to nothing: all
-- follows from its row. is_lost: it ended as its worker was lost, which is an event of its own before that of the end.
create type queue.settled as (
  id uuid, workspace_id uuid, fence integer, status text, attempts integer, last_seq integer, act text, message text,
  next_retry_at timestamptz, wait jsonb, is_lost boolean, attempt integer, worker integer, leased_at timestamptz,
  problem jsonb
);

create function queue.settled_type(p_act text) returns text
language plpgsql immutable as $$
begin
  return case p_act when 'retry' then 'job.retried' when 'lost' then 'job.reclaimed' else 'job.' || p_act end;
end;
$$;

-- Apply the items whose fence holds, in one statement. A completion wins over a cancel requested meanwhile; any other
-- outcome then becomes cancelled. results: the answers; changes: what is to be published; rest: those not plain.
create function queue.settle_items(
  p_items queue.worker_item[], p_now timestamptz,
  out results json, out changes queue.change[], out ids uuid[], out rest queue.settled[]
)
language plpgsql as $$
declare
  v_bytes_max constant integer := (queue.setting('result_max_bytes'))::integer;
begin
  with gone as ( -- by the job and its token; a report that renews it now is waited for
    delete from queue.leases as l using unnest(p_items) as i where l.job_id = i.job_id and l.fence = i.fence
    returning l.job_id, l.leased_at, l.attempt, l.worker, l.key, i.outcome as said, i.result, i.duration_ms,
      (i.outcome = 'completed' and coalesce(pg_column_size(i.result), 0) <= v_bytes_max) is true as is_done, i as item),
  judged as (
    select g.*, coalesce(v.act, 'completed') as act, v.problem, v.message, v.run_at
    from gone as g
    left join lateral (select * from queue.judge(g.item, p_now) where not g.is_done offset 0) as v on true),
  moved as materialized (
    update public.jobs as j set
      status = case when a.act in ('completed', 'failed', 'cancelled', 'waiting') then a.act else 'pending' end,
      finished_at = case when a.act in ('completed', 'failed', 'cancelled') then p_now end,
      completed_at = case when a.is_done then p_now end, updated_at = p_now,
      result = case when a.is_done then a.result end,
      progress = case when a.is_done and j.progress is not null
        then jsonb_set(j.progress, '{percentage}', '100') else j.progress end,
      error_message = case when not a.is_done then coalesce(a.message, j.error_message) end,
      error_data = case when a.is_done then null when a.message is null then j.error_data
        else queue.public_error(a.problem) end,
      attempts = greatest(0, j.attempts - (a.act in ('snoozed', 'released', 'waiting'))::integer),
      lost_attempts = j.lost_attempts + (a.said = 'lost')::integer,
      run_ms = coalesce(j.run_ms, 0) + case when a.act = 'released' then 0
        else coalesce(a.duration_ms, date_part('epoch', p_now - a.leased_at) * 1000) end,
      next_retry_at = case when a.act in ('retry', 'snoozed') then a.run_at end,
      last_seq = j.last_seq + 1 + (a.said = 'lost' and a.act <> 'lost')::integer
    from judged as a where j.id = any (array[a.job_id])
    returning j.id, j.workspace_id, j.session_id, j.status, j.attempts, j.last_seq, j.fence, j.next_retry_at,
      a.is_done and j.fence = 1 and j.last_seq = case when j.is_minimal then 1 else 3 end
        and num_nonnulls(a.key, j.parent_id, j.unique_key, j.deadline_at) = 0 as is_plain, a.act, a.message, a.problem,
      case when a.act = 'waiting' then (a.item).wait end as wait, a.said = 'lost' and a.act <> 'lost' as is_lost,
      a.leased_at, a.attempt, a.worker, case a.act when 'cancelled' then a.act else 'applied' end as outcome),
  kinds as (
    select m.workspace_id, m.session_id, 'lost' as act, 'processing' as status, m.attempts, null as message,
      null::timestamptz as next_retry_at, null::jsonb as wait, array[m.id] as ids, array[m.last_seq - 1] as seqs
    from moved as m where m.is_lost
    union all
    select m.workspace_id, m.session_id, m.act, m.status, m.attempts, m.message, m.next_retry_at, m.wait,
      array_agg(m.id), array_agg(m.last_seq)
    from moved as m group by 1, 2, 3, 4, 5, 6, 7, 8)
  select json_strip_nulls(json_agg(answer)), (
      select array_agg(row(k.workspace_id, k.session_id, queue.settled_type(k.act),
        queue.settled_data(k.status, k.attempts, k.message, k.next_retry_at, k.wait), k.ids, k.seqs)::queue.change)
      from kinds as k),
    array_agg(m.id), array_agg(row(m.id, m.workspace_id, m.fence, m.status, m.attempts, m.last_seq, m.act, m.message,
      m.next_retry_at, m.wait, m.is_lost, m.attempt, m.worker, m.leased_at, m.problem)::queue.settled)
      filter (where not m.is_plain)
  into results, changes, ids, rest from moved as m
  cross join lateral (select m.id as job_id, m.fence, m.outcome, m.status, m.next_retry_at) as answer;
end;
$$;

-- What follows from settlements that are more than a completion: their attempts and events are kept, but those of a
-- first that completed, and the jobs go on.
create function queue.move_on(p_moved queue.settled[], p_now timestamptz) returns void
language plpgsql as $$
declare
  v_waits constant jsonb := (
    select jsonb_agg(jsonb_build_object('job_id', m.id, 'wait', m.wait)) from unnest(p_moved) as m
    where m.act = 'waiting');
begin
  insert into queue.attempts (job_id, fence, attempt, worker, leased_at, ended_at, outcome, error_message, error_data,
    traceback, origin)
  select m.id, m.fence, m.attempt, m.worker, m.leased_at, p_now, case when m.is_lost then 'lost' else m.act end,
    m.message, case when m.message is not null then queue.public_error(m.problem) end,
    case when pg_column_size(m.problem -> 'traceback') <= 20000 then nullif(m.problem -> 'traceback', 'null') end,
    case when jsonb_typeof(m.problem -> 'origin') = 'object' then m.problem -> 'origin' end
  from unnest(p_moved) as m where m.act <> 'completed' or m.fence > 1;
  insert into queue.job_events (job_id, seq, workspace_id, type, data, created_at)
  select m.id, m.last_seq, m.workspace_id, queue.settled_type(m.act), queue.settled_data(m.status, m.attempts,
    m.message, m.next_retry_at, m.wait), p_now
  from unnest(p_moved) as m join public.jobs as j on j.id = m.id
  where not (m.act = 'completed' and m.fence = 1 and m.last_seq = case when j.is_minimal then 1 else 3 end)
  union all
  select m.id, m.last_seq - 1, m.workspace_id, 'job.reclaimed',
    jsonb_build_object('status', 'processing', 'attempts', m.attempts), p_now
  from unnest(p_moved) as m where m.is_lost;
  perform queue.end_places(array(select m.id from unnest(p_moved) as m), p_now);
  if v_waits is not null then
    with waiting as (
      select j.id, j.workspace_id, w.wait, w.wait ->> 'kind' as kind,
        -- the ends of jobs that are not its children signal nothing: it looks again now and then
        case when w.wait ->> 'kind' = 'children' and exists (
            select from jsonb_array_elements_text(w.wait -> 'job_ids') as c (id)
            where not exists (select from public.jobs as o where o.id = c.id::uuid and o.parent_id = j.id offset 0))
          then p_now + interval '10 seconds' end as look_at
      from jsonb_to_recordset(v_waits) as w (job_id uuid, wait jsonb) join public.jobs as j on j.id = w.job_id),
    kept as (
      insert into queue.waits (job_id, workspace_id, kind, name, data, event_name, timeout_at, default_value,
        created_at)
      select w.id, w.workspace_id, w.kind, left(coalesce(nullif(w.wait ->> 'name', ''), w.kind), 200),
        jsonb_strip_nulls(jsonb_build_object('question', w.wait -> 'question', 'options', w.wait -> 'options',
          'job_ids', w.wait -> 'job_ids')),
        case when w.kind = 'event' then left(w.wait ->> 'event', 255) end,
        coalesce(w.look_at, (w.wait ->> 'timeout_at')::timestamptz, (w.wait ->> 'until')::timestamptz),
        w.wait -> 'default', p_now
      from waiting as w)
    insert into queue.signals (kind, workspace_id, job_id)
    select 'check', w.workspace_id, w.id from waiting as w where w.kind in ('event', 'children');
  end if;
end;
$$;

-- Apply the outcomes of attempts that workers hold; per item applied, cancelled, stale or not_found.
create function queue.settle(p_items queue.worker_item[], out results json, out changes queue.change[])
language plpgsql as $$
declare
  v_now timestamptz := queue.clock();
  v_done record;
begin
  if exists (select from unnest(p_items) as i
      where i.outcome is distinct from 'completed'
        or num_nonnulls(i.progress, i.logs, i.steps, i.step, i.tags) > 0) then
    -- judged by the row: the lease before it, as everywhere
    perform from queue.leases where job_id = any (array(select i.job_id from unnest(p_items) as i))
    order by job_id for update;
    perform from public.jobs where id = any (array(select i.job_id from unnest(p_items) as i)) order by id for update;
    perform queue.write_reports(p_items, v_now);
    v_now := queue.clock();
  end if;
  v_done := queue.settle_items(p_items, v_now);
  results := coalesce(v_done.results, '[]');
  changes := v_done.changes;
  if coalesce(cardinality(v_done.ids), 0) < cardinality(p_items) then
    results := (select json_agg(a.value) from (
      select value from json_array_elements(results)
      union all
      -- settled before (then a repeat is answered as the first time), lost, or never there
      select json_strip_nulls(json_build_object('job_id', i.job_id, 'fence', i.fence, 'status', j.status,
        'next_retry_at', j.next_retry_at, 'outcome', case
          when j.id is null then 'not_found'
          when e.outcome = 'cancelled' then 'cancelled'
          when e.outcome = i.outcome or e.outcome = 'failed' and i.outcome in ('retry', 'completed', 'waiting')
            then 'applied'
          else 'stale' end))
      from unnest(p_items) as i
      left join public.jobs as j on j.id = i.job_id
      left join queue.attempts as a on a.job_id = i.job_id and a.fence = i.fence
      cross join lateral (select coalesce(a.outcome,
        case when j.status = 'completed' and j.fence = i.fence then 'completed' end) as outcome) as e
      where (i.job_id = any (v_done.ids) and i.fence = j.fence) is not true) as a);
  end if;
  if v_done.rest is not null then
    perform queue.move_on(v_done.rest, v_now);
  end if;
  if exists (select from queue.turns where aside and look_at < 'infinity') then -- what was at a limit may start again
    update queue.turns set aside = false, look_at = null where ctid = any (array(
      select t.ctid from queue.turns as t
      where t.aside and t.look_at < 'infinity' and t.workspace_id = any (array(
        select j.workspace_id from public.jobs as j where j.id = any (v_done.ids)))
      for update skip locked));
  end if;
end;
$$;

create function public.settle_jobs(p_request jsonb) returns json
language plpgsql security definer set search_path = ''
set lock_timeout = '8s'
set plan_cache_mode = 'force_generic_plan'
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
set enable_bitmapscan = off set enable_sort = off set jit = off as $$
declare
  v_items constant queue.worker_item[] := queue.read_items(p_request -> 'items');
  v_done record;
begin
  select '[]'::json as results, null::queue.change[] as changes into v_done;
  if cardinality(v_items) > 0 then
    v_done := queue.settle(v_items);
  end if;
  if jsonb_typeof(p_request -> 'lease') = 'object' then
    return json_build_object('results', v_done.results, 'lease', queue.lease(p_request -> 'lease', v_done.changes));
  end if;
  if v_done.changes is not null then
    perform queue.publish(v_done.changes, queue.clock());
  end if;
  return json_build_object('results', v_done.results);
end;
$$;
comment on function public.settle_jobs is
  E'Settle attempts, and lease the next jobs in the same call: {results, lease?}.\n\nItems: {job_id, fence, '
  'outcome: completed|retry|failed|snoozed|released|waiting|cancelled, result?, error?, retry_after_seconds?, '
  'until?, delay_seconds?, wait?, progress?, logs?, steps?, duration_ms?}. A repeat is answered as the first; a '
  'stale fence changes nothing.';

-- End jobs that no worker holds: cancelled, expired, or failed with a reason. The caller has locked them.
create function queue.finish(p_ids uuid[], p_status text, p_error jsonb, p_now timestamptz) returns integer
language plpgsql as $$
declare
  v_ids uuid[];
begin
  perform queue.take_place(p_ids);
  delete from queue.waits where job_id = any (p_ids);
  with ended as (
    update public.jobs set status = p_status, finished_at = p_now, next_retry_at = null,
      error_message = coalesce(p_error ->> 'message', error_message),
      error_data = coalesce(queue.public_error(p_error), error_data)
    where id = any (p_ids) and status in ('pending', 'waiting') returning id)
  select array_agg(e.id) into v_ids from ended as e;
  if v_ids is null then
    return 0;
  end if;
  perform queue.append_event(v_ids, 'job.' || p_status, case when p_status = 'failed'
    then jsonb_build_object('error_message', left(p_error ->> 'message', 1000)) else '{}' end, p_now);
  perform queue.end_places(v_ids, p_now);
  return cardinality(v_ids);
end;
$$;

-- Lock and return the leased job {job_id, fence}, of one of the types or of any; refuse with lease_lost where the
-- caller does not hold it. p_undone is the end of the refusal's sentence.
create function queue.held_job(p_request jsonb, p_job_types text[], p_undone text) returns public.jobs
language plpgsql as $$
declare
  v_id constant uuid := queue.uuid_or_refuse(p_request ->> 'job_id', 'job_id');
  v_job public.jobs;
begin
  perform from queue.leases as l where l.job_id = v_id for update;
  select j.* into v_job from public.jobs as j
  where j.id = v_id and (j.job_type = any (p_job_types)) is not false for update;
  if not found or not exists (
      select from queue.leases as l where l.job_id = v_id and l.fence::text = p_request ->> 'fence') then
    perform queue.refuse(409, 'lease_lost', 'the lease on the job is lost; ' || p_undone, v_id::text);
  end if;
  return v_job;
end;
$$;

create function public.tick_finished(p_request jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
begin
  update queue.ticks set ended_at = queue.clock(), seen_at = queue.clock(), free_slots = 0,
    summary = p_request -> 'summary'
  where tick_id = queue.uuid_or_refuse(p_request ->> 'tick_id', 'tick_id');
  return jsonb_build_object('known', found);
end;
$$;
comment on function public.tick_finished is 'Note that a worker''s run has ended: {tick_id, worker_id, summary}.';

select queue.allow('job_worker, service_role', 'public.settle_jobs', 'public.tick_finished');
