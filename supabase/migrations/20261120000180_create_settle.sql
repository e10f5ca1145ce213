-- What the holder of a lease may call: report (progress, logs, steps, renewal), settle, spawn.
-- Each write shows its fencing token; a stale one changes nothing, and the answer says so.
--
-- The end of an attempt, in the order of the calls; each line is the function of its name:
--   public.settle_jobs       a worker says how its attempts ended, and may ask for the next jobs
--     queue.read_items       JSON becomes queue.worker_item[], or is refused
--     queue.settle           locks the jobs, then their leases
--       queue.fenced           which items show the current token
--       queue.write_reports    the last progress, log lines and steps
--       queue.settle_items     one statement for all outcomes: lease gone, job moved, event and attempt written
--         queue.judge            what becomes of all but plain completions
--       queue.move_on          retries are deferred, released jobs go back, waits begin
--       queue.after_end        those that wait for an ended job are signalled
--       queue.bring_back_of    what was at a limit may start again
--       queue.settled_before   what to answer where the lease was no longer held
--     queue.lease            see the file of the lease

create type queue.verdict as (
  act text, -- completed, retry, failed, cancelled, snoozed, released or waiting
  problem jsonb, -- the error, with the engine's reason
  run_at timestamptz, is_end boolean, is_error boolean, message text, fingerprint text
);
comment on type queue.verdict is 'What becomes of a job. message and fingerprint are of its error, null for none.';

create type queue.settled as (
  job_id uuid, workspace_id uuid, job_created_at timestamptz, partition_id uuid, ready_at timestamptz,
  run_at timestamptz, act text, is_end boolean
);
comment on type queue.settled is 'A settled job that is more than completed, or is tied to others.';

create function queue.read_items(p_items jsonb) returns queue.worker_item[]
language plpgsql stable set search_path = '' as $$
declare
  v_items queue.worker_item[];
begin
  if jsonb_typeof(p_items) is distinct from 'array' or jsonb_array_length(p_items) > 1000 then
    perform queue.refuse(400, 'invalid_argument', 'items must be an array of at most 1000', 'items');
  end if;
  begin
    v_items := array(select i from jsonb_populate_recordset(null::queue.worker_item, p_items) as i);
  exception when data_exception then -- perhaps of 5.0 for 5
    v_items := array(
      select i from jsonb_populate_recordset(null::queue.worker_item, queue.plain_fences(p_items)) as i);
  end;
  -- what is cast later, in the statement that writes
  if p_items @? '$[*].logs[*].at' then
    perform (line.value ->> 'at')::timestamptz
    from unnest(v_items) as i
    cross join lateral jsonb_array_elements(case when jsonb_typeof(i.logs) = 'array' then i.logs else '[]' end) as line
    where line.value ->> 'at' ~ '^\d{4}-\d\d-\d\dT';
  end if;
  return v_items;
exception
  when data_exception then
    perform queue.refuse_value('an item', 'items', sqlerrm);
end;
$$;
comment on function queue.read_items is E'Read what a worker reports or settles; refuse wrong types.\n\nHere and not around the writes, since a block that catches errors takes a transaction id of its own once it writes.';

create function queue.new_lines(p_logs jsonb, p_from integer, p_known integer) returns jsonb
language sql immutable set search_path = '' as $$
  select case
    when jsonb_typeof(p_logs) is distinct from 'array' then '[]'::jsonb
    when p_from is null or p_known <= p_from then p_logs
    else coalesce((select jsonb_agg(line.value order by line.ordinality)
      from jsonb_array_elements(p_logs) with ordinality as line
      where line.ordinality > p_known - p_from), '[]') end
$$;
comment on function queue.new_lines is 'The log lines not stored before: p_logs begins with the attempt''s line number p_from, of which p_known are stored. Null p_from takes all.';

create function queue.milliseconds(p_value jsonb) returns interval
language sql immutable set search_path = '' as $$
  select case when jsonb_typeof(p_value) = 'number' then
    make_interval(secs => least(864000, greatest(0, (p_value #>> '{}')::double precision / 1000))) end
$$;
comment on function queue.milliseconds is 'A JSON number of milliseconds as an interval of at most ten days; null for anything else.';

create function queue.write_steps(p_items queue.worker_item[], p_now timestamptz) returns void
language plpgsql set search_path = '' as $$
begin
  insert into queue.steps (job_id, name, kind, result, started_at, created_at)
  select i.job_id, left(step.value ->> 'name', 200),
    case step.value ->> 'kind' when 'graph' then 'graph' else 'step' end,
    jsonb_build_object('value', step.value -> 'result'),
    p_now - queue.milliseconds(step.value -> 'took_ms'), p_now + step.n * interval '1 microsecond' -- in their order
  from unnest(p_items) as i
  cross join lateral jsonb_array_elements(case when jsonb_typeof(i.steps) = 'array' then i.steps else '[]' end)
    with ordinality as step (value, n)
  where step.value ->> 'name' <> ''
  on conflict (job_id, name) do nothing; -- the first result of a step is kept

  insert into queue.running_steps (job_id, fence, name, started_at)
  select i.job_id, i.fence, left(i.step ->> 'name', 200), p_now - queue.milliseconds(i.step -> 'for_ms')
  from unnest(p_items) as i
  where i.step ->> 'name' <> '' and queue.milliseconds(i.step -> 'for_ms') is not null
  order by i.job_id
  on conflict (job_id) do update set fence = excluded.fence, name = excluded.name, started_at = excluded.started_at;
  delete from queue.running_steps as r using unnest(p_items) as i
  where r.job_id = i.job_id and i.step is null
    and exists (
      select 1 from jsonb_array_elements(case when jsonb_typeof(i.steps) = 'array' then i.steps else '[]' end) as step
      where step.value ->> 'name' = r.name);
end;
$$;
comment on function queue.write_steps is E'Store the steps that leased jobs have finished, and the one each is in.\n\nA worker reports how long they ran, not when they began: its clock may differ from the database''s.';

create function queue.write_reports(p_items queue.worker_item[], p_now timestamptz) returns void
language plpgsql set search_path = '' as $$
declare
  v_ids constant uuid[] := array(select i.job_id from unnest(p_items) as i);
begin
  if exists (select 1 from unnest(p_items) as i where coalesce(i.steps, i.step) is not null) then
    perform queue.write_steps(p_items, p_now);
  end if;

  with held as materialized (
    select l.job_id, l.log_lines from queue.leases as l where l.job_id = any (v_ids) order by l.job_id for update),
  items as materialized (
    select i.job_id, queue.new_lines(i.logs, i.logs_from, h.log_lines) as logs,
      case when jsonb_typeof(i.progress) = 'object' then i.progress end as progress
    from unnest(p_items) as i
    join held as h on h.job_id = i.job_id),
  counted_lines as (
    update queue.leases as l set log_lines = l.log_lines + jsonb_array_length(i.logs)
    from items as i where l.job_id = i.job_id and jsonb_array_length(i.logs) > 0),
  counted as materialized (
    select i.job_id, i.logs, i.progress, t.events = 'full' as loud,
      case when t.events = 'full' then jsonb_array_length(i.logs) else 0 end
        + case when i.progress is null then 0 else 1 end as new_events
    from items as i join public.jobs as j on j.id = any (array[i.job_id])
    join queue.job_types as t on t.job_type = j.job_type),
  moved as (
    update public.jobs as j set last_seq = j.last_seq + c.new_events, updated_at = p_now,
      progress = case when c.progress is null then j.progress else jsonb_build_object(
        'percentage', trim_scale(least(100, greatest(0, round(coalesce(
          case when jsonb_typeof(c.progress -> 'percentage') = 'number' then (c.progress ->> 'percentage')::numeric end,
          (j.progress ->> 'percentage')::numeric, 0), 1)))),
        'stage', left(c.progress ->> 'stage', 200), 'message', left(c.progress ->> 'message', 1000)) end
    from counted as c
    where j.id = c.job_id and j.id = any (v_ids) and (c.new_events > 0)
    returning j.id, j.workspace_id, j.session_id, j.attempts, j.progress, j.last_seq, c.logs, c.loud,
      c.progress as new_progress, c.new_events),
  lines as materialized (
    select m.id, m.workspace_id, m.session_id, m.attempts, m.last_seq - m.new_events + line.ordinality as seq, m.loud,
      case when line.value ->> 'level' in ('debug', 'info', 'warning', 'error') then line.value ->> 'level'
        else 'info' end as level,
      left(coalesce(line.value ->> 'message', ''), 10000) as message,
      case when jsonb_typeof(line.value -> 'metadata') = 'object' and pg_column_size(line.value -> 'metadata') <= 16384
        then line.value -> 'metadata' else '{}' end as metadata,
      coalesce(
        case when line.value ->> 'at' ~ '^\d{4}-\d\d-\d\dT' then (line.value ->> 'at')::timestamptz end, p_now) as at
    from (select * from moved union all
      select c.job_id, j.workspace_id, j.session_id, j.attempts, j.progress, j.last_seq, c.logs, c.loud, null, 0
      from counted as c join public.jobs as j on j.id = any (array[c.job_id])
      where c.new_events = 0 and jsonb_array_length(c.logs) > 0) as m
    cross join lateral jsonb_array_elements(m.logs) with ordinality as line),
  logged as (
    insert into public.job_logs (job_id, workspace_id, attempt, log_level, message, metadata, created_at)
    select id, workspace_id, attempts, level, message, metadata, at from lines order by id, seq)
  insert into queue.job_events (job_id, seq, workspace_id, session_id, type, data, created_at)
  select id, seq, workspace_id, session_id, 'job.log', jsonb_build_object('log', jsonb_build_object(
    'level', level, 'message', left(message, 2000), 'at', at, 'attempt', attempts,
    'metadata', case when pg_column_size(metadata) <= 2048 then metadata else '{}'::jsonb end)), p_now
  from lines where loud
  union all
  select id, last_seq, workspace_id, session_id, 'job.progress',
    jsonb_build_object('progress', progress, 'attempts', attempts), p_now
  from moved where new_progress is not null;
end;
$$;
comment on function queue.write_reports is 'Store steps, log lines and progress of leased jobs, and their events. The caller holds the rows, and p_items are those that queue.fenced lets through.';

create function queue.fenced(p_items queue.worker_item[]) returns queue.worker_item[]
language sql stable set search_path = '' as $$
  select array(select i from unnest(p_items) as i join queue.leases as l on l.job_id = i.job_id and l.fence = i.fence)
$$;
comment on function queue.fenced is 'Which of the items show the current fencing token.';

create function public.report_jobs(p_request jsonb) returns jsonb
language plpgsql
security definer -- the worker holds no rights on the engine's tables
set search_path = ''
set lock_timeout = '8s' as $$
declare
  v_items constant queue.worker_item[] := queue.read_items(p_request -> 'items');
  v_now timestamptz := queue.clock();
  v_ids uuid[];
  v_held queue.worker_item[];
  v_results jsonb;
begin
  v_ids := array(select i.job_id from unnest(v_items) as i
    where coalesce(i.progress, i.logs, i.steps, i.step, i.tags) is not null);
  if cardinality(v_ids) > 0 then
    perform 1 from public.jobs where id = any (v_ids) order by id for update;
    v_held := array(select i from unnest(queue.fenced(v_items)) as i where i.job_id = any (v_ids));
    perform queue.write_reports(v_held, v_now);
    perform queue.add_tags(v_held);
  end if;
  -- no waiting for a lease that is being settled, reclaimed or cancelled at this moment: a transaction that
  -- waits for a lease holds its job, and this call may hold other leases
  v_ids := array(
    select job_id from queue.leases
    where job_id = any (array(select i.job_id from unnest(v_items) as i))
    order by job_id -- one that another renewed as it was reached is waited for all the same
    for update skip locked);
  with items as materialized (
    select i.job_id, i.fence,
      case when i.lease_seconds between 1 and 43200 then i.lease_seconds::integer end as lease_seconds
    from unnest(v_items) as i),
  renewed as (
    update queue.leases as l set lease_seconds = coalesce(i.lease_seconds, l.lease_seconds),
      expires_at = v_now + make_interval(secs => coalesce(i.lease_seconds, l.lease_seconds)),
      look_at = least(l.look_at, v_now + make_interval(secs => coalesce(i.lease_seconds, l.lease_seconds)))
    from items as i
    where l.job_id = any (v_ids) and l.job_id = i.job_id and l.fence = i.fence
    returning l.job_id, l.fence, l.cancel_requested, l.expires_at)
  select jsonb_agg(jsonb_strip_nulls(jsonb_build_object('job_id', i.job_id, 'fence', i.fence,
    'outcome', case when l.job_id is null then 'lost'
      when coalesce(r.cancel_requested, l.cancel_requested) then 'cancel' else 'ok' end,
    'lease_expires_at', coalesce(r.expires_at, l.expires_at))))
  into v_results
  from items as i
  left join queue.leases as l on l.job_id = i.job_id and l.fence = i.fence
  left join renewed as r on r.job_id = i.job_id and r.fence = i.fence;
  return jsonb_build_object('results', coalesce(v_results, '[]'));
end;
$$;
comment on function public.report_jobs is E'Report on running jobs and renew their leases: {results: [{job_id, fence, outcome: ok|cancel|lost}]}.\n\nItems: {job_id, fence, progress?, logs?, steps?, lease_seconds?}. Of an item whose lease is lost nothing is stored.';

create function queue.retry_delay(
  p_attempt integer, p_first double precision, p_cap double precision, p_factor double precision
) returns double precision
language sql volatile set search_path = '' as $$
  -- within a tenth of the exponential; at the cap spread below it
  select least(p_cap, case when power(p_factor, least(p_attempt, 60) - 1) * p_first >= p_cap
    then p_cap * (0.8 + 0.2 * random())
    else power(p_factor, p_attempt - 1) * p_first * (0.9 + 0.2 * random()) end)
$$;
comment on function queue.retry_delay is E'Seconds to wait after attempt p_attempt: first × factor^(attempt − 1) within ±10 %, never above the cap.\n\nThe jitter is enough to part jobs that failed together. Source: Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.';

create function queue.wait_problem(p_wait jsonb) returns text
language plpgsql immutable set search_path = '' as $$
declare
  v_kind text := p_wait ->> 'kind';
begin
  if v_kind is null or v_kind not in ('sleep', 'ask', 'event', 'children') then
    return format('a wait must be a sleep, ask, event or children, not %s', coalesce(v_kind, 'nothing'));
  elsif v_kind = 'event' and coalesce(p_wait ->> 'event', '') = '' then
    return 'a wait for an event must name it';
  elsif v_kind = 'sleep' and coalesce(p_wait ->> 'timeout_at', p_wait ->> 'until') is null then
    return 'a sleep must say until when';
  elsif v_kind = 'children' then
    if jsonb_typeof(p_wait -> 'job_ids') is distinct from 'array' then
      return 'a wait for children must list their ids';
    elsif jsonb_array_length(p_wait -> 'job_ids') > 10000 then
      return 'a wait for children must list at most 10000 ids';
    end if;
    perform value::uuid from jsonb_array_elements_text(p_wait -> 'job_ids');
  end if;
  perform (coalesce(p_wait ->> 'timeout_at', p_wait ->> 'until'))::timestamptz;
  return null;
exception when data_exception then
  return 'a wait has a value of the wrong type: ' || sqlerrm;
end;
$$;
comment on function queue.wait_problem is 'What is wrong with a wait that a worker asks for; null when nothing is. Such a wait would never end, so the job fails instead.';

create function queue.judge(p_item queue.worker_item, p_cancelled boolean, p_now timestamptz) returns queue.verdict
language plpgsql set search_path = '' as $$
declare
  v_max_result integer := (queue.setting('result_max_bytes'))::integer;
  v_bad_wait text := case when p_item.outcome = 'waiting' then queue.wait_problem(p_item.wait) end;
  v_job record;
  v_type queue.job_types;
  v_spent boolean;
  v_late boolean;
  v_made queue.verdict;
begin
  select j.job_type, j.attempts, j.max_attempts, j.deadline_at, j.backoff into v_job
  from public.jobs as j where j.id = p_item.job_id;
  v_spent := p_item.outcome = 'retry' and v_job.attempts >= v_job.max_attempts;
  v_late := p_item.outcome = 'retry' and v_job.deadline_at <= p_now;
  v_made.act := case
    when p_item.outcome = 'completed' then 'failed' -- its result is too large
    when p_cancelled or p_item.outcome = 'cancelled' then 'cancelled'
    when p_item.outcome = 'retry' then case when v_spent or v_late then 'failed' else 'retry' end
    when p_item.outcome in ('snoozed', 'released', 'waiting') and v_bad_wait is null then p_item.outcome
    else 'failed' end;
  v_made.problem := case
    when p_item.outcome = 'completed' then jsonb_build_object('type', 'ResultTooLarge', 'reason', 'result_too_large',
      'message', format('the result exceeds %s bytes; store it and return a reference', v_max_result))
    when v_spent then coalesce(p_item.error, '{}') || '{"reason": "attempts_spent"}'
    when v_late then coalesce(p_item.error, '{}') || '{"reason": "deadline_passed"}'
    when p_item.outcome = 'failed' then '{"reason": "not_retryable"}'::jsonb || coalesce(p_item.error, '{}')
    when v_bad_wait is not null
      then jsonb_build_object('type', 'InvalidWait', 'reason', 'invalid_wait', 'message', v_bad_wait)
    when p_item.outcome not in ('cancelled', 'retry', 'snoozed', 'released', 'waiting')
      then jsonb_build_object('type', 'UnknownOutcome', 'reason', 'unknown_outcome',
        'message', 'unknown outcome ' || coalesce(left(p_item.outcome, 80), 'null'))
    else p_item.error end;
  select * into v_type from queue.job_types as t where t.job_type = v_job.job_type;
  v_made.run_at := case p_item.outcome
    when 'retry' then p_now + make_interval(secs => coalesce(
      case when p_item.retry_after_seconds is not null then least(604800, greatest(0, p_item.retry_after_seconds)) end,
      queue.retry_delay(v_job.attempts,
        coalesce((v_job.backoff ->> 'first_seconds')::double precision, v_type.backoff_first_seconds),
        coalesce((v_job.backoff ->> 'cap_seconds')::double precision, v_type.backoff_cap_seconds),
        coalesce((v_job.backoff ->> 'factor')::double precision, v_type.backoff_factor))))
    when 'snoozed' then coalesce(p_item.until, p_now + make_interval(secs => least(31536000, greatest(0,
      coalesce(p_item.delay_seconds, 60)))))
    end;
  v_made.is_end := v_made.act in ('failed', 'cancelled');
  v_made.is_error := v_made.act in ('retry', 'failed');
  if v_made.is_error or v_made.act = 'cancelled' and v_made.problem ->> 'message' <> '' then
    v_made.message := left(coalesce(v_made.problem ->> 'message', 'no reason given'), 10000);
  end if;
  if v_made.is_error then
    v_made.fingerprint := queue.fingerprint(v_made.problem ->> 'type', v_made.problem ->> 'message');
  end if;
  return v_made;
end;
$$;
comment on function queue.judge is 'Decide what becomes of a job whose worker reports anything but a completion whose result fits. The caller holds its row.';

create function queue.begin_waits(p_items queue.worker_item[], p_ids uuid[], p_now timestamptz) returns void
language plpgsql set search_path = '' as $$
begin
  with waiting as (
    select j.id, j.workspace_id, j.created_at, i.wait
    from unnest(p_items) as i
    cross join lateral (select * from public.jobs as j where j.id = i.job_id limit 1) as j
    where i.job_id = any (p_ids) and i.fence = j.fence and i.outcome = 'waiting'),
  kept as (
    insert into queue.waits (job_id, workspace_id, job_created_at, kind, name, data, event_name, timeout_at,
      default_value, created_at)
    select w.id, w.workspace_id, w.created_at, w.wait ->> 'kind',
      left(coalesce(nullif(w.wait ->> 'name', ''), w.wait ->> 'kind'), 200),
      jsonb_strip_nulls(jsonb_build_object('question', w.wait -> 'question', 'options', w.wait -> 'options',
        'job_ids', w.wait -> 'job_ids')),
      case when w.wait ->> 'kind' = 'event' then left(w.wait ->> 'event', 255) end,
      (coalesce(w.wait ->> 'timeout_at', w.wait ->> 'until'))::timestamptz, w.wait -> 'default', p_now
    from waiting as w)
  insert into queue.signals (kind, job_id, workspace_id)
  select 'check', w.id, w.workspace_id from waiting as w where w.wait ->> 'kind' in ('event', 'children');
end;
$$;
comment on function queue.begin_waits is 'Note what the jobs p_ids wait for, as their items say; maintenance checks events and children.';

create function queue.settled_answer(
  p_job_id uuid, p_fence bigint, p_act text, p_status text, p_next_retry_at timestamptz
) returns text
language plpgsql set search_path = '' as $$
begin
  return format(case when p_next_retry_at is null then '{"job_id":"%s","fence":%s,"outcome":"%s","status":"%s"}'
    else '{"job_id":"%s","fence":%s,"outcome":"%s","status":"%s","next_retry_at":%s}' end, p_job_id, p_fence,
    case p_act when 'cancelled' then p_act else 'applied' end, p_status, to_json(p_next_retry_at));
end;
$$;
comment on function queue.settled_answer is 'The answer to a settlement that is not a completion, JSON as text.';

create function queue.settled_data(
  p_status text, p_attempts integer, p_error text, p_next_retry_at timestamptz, p_wait jsonb
) returns jsonb
language plpgsql set search_path = '' as $$
begin
  return jsonb_strip_nulls(jsonb_build_object('status', p_status, 'attempts', p_attempts,
    'error_message', left(p_error, 1000), 'next_retry_at', p_next_retry_at,
    'wait', case when p_wait is not null then jsonb_build_object('kind', p_wait ->> 'kind', 'name', p_wait ->> 'name',
      'question', left(p_wait ->> 'question', 2000), 'options', p_wait -> 'options',
      'until', coalesce(p_wait ->> 'timeout_at', p_wait ->> 'until'), 'event', p_wait ->> 'event') end));
end;
$$;
comment on function queue.settled_data is 'The data of the event of a settlement that is not a completion.';

create function queue.settle_items(
  p_items queue.worker_item[], p_now timestamptz,
  out results json, out others text, out ids uuid[], out fences bigint[], out moved queue.settled[],
  out events queue.event[]
)
language plpgsql set search_path = '' as $$
declare
  v_completed constant queue.verdict := row('completed', null, null, true, false, null, null);
begin
  with found as materialized ( -- a look-up for each: by statistics of an empty table each would be compared with all
    select i.outcome as said, i.result, i.wait, i.duration_ms, i.cost_usd, h.place, h.job_place, v.verdict
    from unnest(p_items) as i
    cross join lateral (select l.ctid as place, j.ctid as job_place, l.cancel_requested
      from queue.leases as l join public.jobs as j on j.id = any (array[l.job_id])
      where l.job_id = i.job_id and l.fence = i.fence limit 1) as h
    cross join lateral (select case
      when i.outcome = 'completed' and (i.result is null or pg_column_size(i.result)
        <= (select value::integer from queue.settings where name = 'result_max_bytes')) then v_completed
      else queue.judge(i, h.cancel_requested, p_now) end as verdict offset 0) as v),
  acts as materialized (
    delete from queue.leases as l using found as f where l.ctid = f.place
    returning l.fence, l.partition_id, l.ready_at, l.attempt, l.worker_id, l.leased_at, f.job_place, f.said, f.result,
      f.wait, f.cost_usd, (f.verdict).*, (f.verdict).act = 'completed' as is_done,
      date_part('epoch', l.leased_at - l.ready_at) * 1000 as wait_ms,
      coalesce(f.duration_ms, date_part('epoch', p_now - l.leased_at) * 1000) as own_run_ms),
  moved as (
    update public.jobs as j set
      status = case when a.act in ('retry', 'snoozed', 'released') then 'pending' else a.act end, updated_at = p_now,
      outcome = case when a.is_end then a.act end, finished_at = case when a.is_end then p_now end,
      completed_at = case when a.is_done then p_now end, result = case when a.is_done then a.result end,
      progress = case when a.is_done then jsonb_set(j.progress, '{percentage}', '100') else j.progress end,
      run_ms = j.run_ms + case when a.act = 'released' then 0 else a.own_run_ms end,
      error_message = case when a.is_done then null else coalesce(a.message, j.error_message) end,
      error_fingerprint = case when a.is_done then null else coalesce(a.fingerprint, j.error_fingerprint) end,
      error_data = case when a.is_done then null when a.message is null then j.error_data
        else queue.public_error(a.problem) end,
      attempts = greatest(0, j.attempts - (a.act in ('snoozed', 'released', 'waiting'))::integer),
      held_ms = j.held_ms + date_part('epoch', p_now - a.leased_at) * 1000, last_seq = j.last_seq + 1,
      snoozes = j.snoozes + (a.act = 'snoozed')::integer,
      next_retry_at = case when a.act in ('retry', 'snoozed') then a.run_at end,
      cost_usd = case when num_nonnulls(j.cost_usd, a.cost_usd) > 0 -- least() passes over a null
        then least(99999, coalesce(j.cost_usd, 0) + coalesce(a.cost_usd, 0)) end
    from acts as a where j.ctid = a.job_place
    returning a.fence, a.partition_id, a.ready_at, a.attempt, a.worker_id, a.leased_at, a.said, a.wait, a.cost_usd,
      a.act, a.problem, a.run_at, a.is_end, a.is_error, a.message, a.is_done, a.wait_ms, a.own_run_ms, j.id,
      j.workspace_id, j.session_id, j.job_type, j.status, j.last_seq, j.attempts, j.next_retry_at,
      j.created_at, num_nonnulls(j.parent_id, j.unique_key, j.deadline_at) > 0 as is_tied),
  filed as (
    insert into queue.ended (workspace_id, outcome, job_created_at, job_id, job_type, ended_at)
    select m.workspace_id, m.act, m.created_at, m.id, m.job_type, p_now from moved as m where m.is_end),
  history as (
    insert into queue.attempts (job_id, fence, attempt, worker_id, leased_at, ended_at, outcome, error_message,
      error_data, traceback, origin)
    select id, fence, attempt, worker_id, leased_at, p_now, act, message,
      case when is_error then queue.public_error(problem) end,
      case when pg_column_size(m.problem -> 'traceback') <= 20000 then nullif(m.problem -> 'traceback', 'null') end,
      case when jsonb_typeof(m.problem -> 'origin') = 'object' then m.problem -> 'origin' end
    -- a first success is read from the job's row instead, see queue.attempt_lines
    from moved as m where not m.is_done or m.fence > 1),
  counted as (
    insert into queue.stat_deltas (at, job_type, workspace_id, outcome, jobs, cost_usd, wait_bucket,
      run_bucket) -- bucket b holds 1.25^b - 1 to 1.25^(b+1) - 1 milliseconds
    select p_now, job_type, workspace_id, act, count(*), coalesce(sum(cost_usd), 0),
      least(120, greatest(0, floor(ln(greatest(m.wait_ms, 0) + 1) * 4.481420117724551)))::smallint as wait_bucket,
      least(120, greatest(0, floor(ln(greatest(m.own_run_ms, 0) + 1) * 4.481420117724551)))::smallint as run_bucket
    from moved as m group by m.job_type, m.workspace_id, m.act, wait_bucket, run_bucket)
  select json_agg(a) filter (where m.is_done), array_agg(m.id), array_agg(m.fence),
    string_agg(queue.settled_answer(m.id, m.fence, m.act, m.status, m.next_retry_at), ',') filter (where not m.is_done),
    array_agg(row(m.id, m.workspace_id, m.created_at, m.partition_id, m.ready_at, m.run_at, m.act, m.is_end
      )::queue.settled) filter (where not m.is_done or m.is_tied),
    array_agg(row(m.id, m.last_seq, m.workspace_id, m.session_id,
      'job.' || case m.act when 'retry' then 'retried' else m.act end, case
        when not m.is_done then queue.settled_data(m.status, m.attempts, case when m.is_error then m.message end,
          m.next_retry_at, case when m.act = 'waiting' then m.wait end)
        when m.attempts = 1 then '{"status": "completed", "attempts": 1}'
        else jsonb_build_object('status', 'completed', 'attempts', m.attempts) end, p_now)::queue.event)
  into results, ids, fences, others, moved, events from moved as m -- by names: a column more stops older plans
  cross join lateral (select m.id as job_id, m.fence, 'applied' as outcome, 'completed' as status) as a;
end;
$$;
comment on function queue.settle_items is E'Apply the items whose fence holds. results: the answers to completions, others: those to the rest, as text without brackets; moved: jobs that are more than completed, or are tied to others; events: not stored yet.\n\nA completion wins over a cancel requested meanwhile; any other outcome then becomes cancelled. The caller holds the rows.';

create function queue.move_on(p_items queue.worker_item[], p_moved queue.settled[], p_now timestamptz) returns void
language plpgsql set search_path = '' as $$
declare
  v_waiting constant uuid[] := array(select m.job_id from unnest(p_moved) as m where m.act = 'waiting');
begin
  insert into queue.deferred (job_id, run_at, partition_id, workspace_id, job_created_at)
  select m.job_id, m.run_at, m.partition_id, m.workspace_id, m.job_created_at
  from unnest(p_moved) as m where m.act in ('retry', 'snoozed');
  perform queue.put_back(array(
    select row(m.job_id, m.workspace_id, m.job_created_at, m.partition_id, m.ready_at)::queue.ready_job
    from unnest(p_moved) as m where m.act = 'released'));
  perform queue.begin_waits(p_items, v_waiting, p_now) where v_waiting <> '{}';
end;
$$;
comment on function queue.move_on is 'Put settled jobs that have not ended where they are found next: deferred, ready or waiting.';

create function queue.settled_before(p_items queue.worker_item[], p_answered uuid[], p_fences bigint[]) returns text
language plpgsql stable set search_path = '' as $$
begin
  -- not held: settled before (then a repeat is answered as the first time), lost, or never there
  return (
    select string_agg(jsonb_strip_nulls(jsonb_build_object('job_id', i.job_id, 'fence', i.fence, 'status', j.status,
      'next_retry_at', j.next_retry_at, 'outcome', case
        when j.id is null then 'not_found'
        when e.outcome = 'cancelled' then 'cancelled'
        when e.outcome = i.outcome or e.outcome = 'failed' and i.outcome in ('retry', 'completed', 'waiting')
          then 'applied'
        else 'stale' end))::text, ',')
    from unnest(p_items) as i
    left join public.jobs as j on j.id = any (array[i.job_id])
    left join queue.attempts as a on a.job_id = i.job_id and a.fence = i.fence
    cross join lateral (select coalesce(a.outcome,
      case when j.outcome = 'completed' and j.fence = i.fence then 'completed' end) as outcome) as e
    -- a list that is hashed once: compared one by one a failure among 1,000 completions cost as much as all of them
    where (i.job_id, coalesce(i.fence, -1)) not in (
      select d.id, d.fence from unnest(p_answered, p_fences) as d (id, fence)));
end;
$$;
comment on function queue.settled_before is 'The answers, as JSON text, to the items whose lease is no longer held: all but p_answered with p_fences.';

create function queue.settle(p_items queue.worker_item[], out results json, out events queue.event[])
language plpgsql set search_path = ''
-- for all that a settlement calls; each setting costs what a look-up costs
set plan_cache_mode = 'force_generic_plan'
set enable_seqscan = off -- a session's plan may be older than the rows
set jit = off as $$
declare
  v_now timestamptz;
  v_ids uuid[] := array(select i.job_id from unnest(p_items) as i);
  v_held queue.worker_item[];
  v_done record;
  v_seen record;
begin
  -- first the jobs, then the leases: a report that renews one now would move its row, which is found by its place
  perform 1 from queue.leases
  where job_id = any (v_ids) and (
    select count(*) from (select 1 from public.jobs where id = any (v_ids) order by id for update) as j) > 0
  order by job_id for update;
  v_now := queue.clock();
  if exists (select 1 from unnest(p_items) as i where coalesce(i.progress, i.logs, i.steps, i.step, i.tags) is not null)
  then
    v_held := queue.fenced(p_items);
    perform queue.write_reports(v_held, v_now);
    perform queue.add_tags(v_held);
  end if;
  v_done := queue.settle_items(p_items, v_now);
  if v_done.moved is not null then
    perform queue.move_on(p_items, v_done.moved, v_now);
  end if;
  -- most completed jobs are tied to no other: only jobs that wait for them matter
  select array(
      select m.job_id from unnest(v_done.moved) as m where m.is_end
      union select d.after_id from queue.dependencies as d where d.after_id = any (v_done.ids)) as ended,
    exists (select from queue.turns where set_aside) or exists (select from queue.partitions where set_aside) as aside
  into v_seen;
  if cardinality(v_seen.ended) > 0 then
    perform queue.after_end(v_seen.ended);
  end if;
  if v_seen.aside then
    perform queue.bring_back_of(v_ids);
  end if;
  events := v_done.events;
  results := v_done.results;
  if v_done.others is not null or cardinality(p_items) > coalesce(cardinality(v_done.ids), 0) then
    -- without its brackets; text that becomes JSON is read again, so the common end goes without
    results := concat('[', concat_ws(',', nullif(substr(v_done.results::text, 2, length(v_done.results::text) - 2), ''),
      v_done.others, queue.settled_before(p_items, v_done.ids, v_done.fences)), ']');
  end if;
end;
$$;
comment on function queue.settle is E'Apply the outcomes of attempts that workers hold; per item applied, cancelled, stale or not_found.\n\nThe caller stores the events: with those of the next lease they are one statement, and one message to a workspace.';

create function public.settle_jobs(p_request jsonb) returns json
language plpgsql
security definer -- the worker holds no rights on the engine's tables
set search_path = ''
set lock_timeout = '8s' as $$
declare
  v_items constant queue.worker_item[] := queue.read_items(p_request -> 'items');
  v_done record;
  v_results json := '[]';
  v_events queue.event[];
begin
  if cardinality(v_items) > 0 then
    v_done := queue.settle(v_items);
    v_results := v_done.results;
    v_events := v_done.events;
  end if;
  if jsonb_typeof(p_request -> 'lease') = 'object' then
    return json_build_object('results', v_results, 'lease', queue.lease(p_request -> 'lease', v_events));
  end if;
  perform queue.store_events(v_events) where v_events <> '{}';
  if exists (select 1 from queue.signals) then
    perform queue.request_wake();
  end if;
  return json_build_object('results', v_results);
end;
$$;
comment on function public.settle_jobs is E'Settle attempts, and lease the next jobs in the same round trip: {results, lease?}.\n\nItems: {job_id, fence, outcome: completed|retry|failed|snoozed|released|waiting|cancelled, result?, error?, retry_after_seconds?, until?, delay_seconds?, wait?, progress?, logs?, steps?, duration_ms?, cost_usd?}. A repeat of the same settle is answered as the first; a stale fence changes nothing.';

create function queue.held_job(p_request jsonb, p_job_types text[], p_undone text) returns public.jobs
language plpgsql set search_path = '' as $$
declare
  v_id uuid := queue.uuid_or_refuse(p_request ->> 'job_id', 'job_id');
  v_job public.jobs;
begin
  select j.* into v_job from public.jobs as j
  where j.id = v_id and (j.job_type = any (p_job_types)) is not false for update;
  if not found or not exists (
      select 1 from queue.leases as l where l.job_id = v_id and l.fence = queue.big_whole_in(p_request, 'fence')) then
    perform queue.refuse_lost(v_id, p_undone);
  end if;
  return v_job;
end;
$$;
comment on function queue.held_job is E'Lock and return the leased job {job_id, fence} of one of the types, of any where they are null; refuse with lease_lost when the caller does not hold the lease.\n\nFor apps'' functions. p_undone is the end of the refusal''s sentence.';

create function public.spawn_jobs(p_request jsonb) returns jsonb
language plpgsql
security definer -- the worker holds no rights on the engine's tables
set search_path = ''
set lock_timeout = '8s' as $$
declare
  v_job public.jobs;
  v_children jsonb := p_request -> 'children';
  v_made uuid[];
begin
  if jsonb_typeof(v_children) is distinct from 'array' or jsonb_array_length(v_children) > 1000
      or p_request ->> 'name' is null then
    perform queue.refuse(400, 'invalid_argument', 'name and children (an array of at most 1000) are required',
      'children');
  end if;
  v_job := queue.held_job(p_request, null, 'its children were not created');
  select s.job_ids into v_made from queue.spawns as s where s.job_id = v_job.id and s.name = p_request ->> 'name';
  if found then
    return jsonb_build_object('job_ids', to_jsonb(v_made));
  end if;
  v_made := '{}';
  if jsonb_array_length(v_children) > 0 then
    -- no user: it is the platform's code that spawns
    v_made := array(select jsonb_array_elements_text(queue.enqueue(v_job.workspace_id, null, (
      select jsonb_agg(jsonb_build_object('session_id', v_job.session_id, 'traceparent', v_job.traceparent)
        || c.value || jsonb_build_object('parent_id', v_job.id, 'user_id', v_job.user_id) order by c.ordinality)
      from jsonb_array_elements(v_children) with ordinality as c), true) -> 'ids')::uuid);
  end if;
  insert into queue.spawns (job_id, name, job_ids) values (v_job.id, p_request ->> 'name', v_made);
  return jsonb_build_object('job_ids', to_jsonb(v_made));
exception
  when invalid_text_representation or numeric_value_out_of_range or invalid_datetime_format then
    perform queue.refuse_value('a child', 'children', sqlerrm);
end;
$$;
comment on function public.spawn_jobs is E'Create child jobs of a running job, once per name: {job_ids} in the order of children.\n\nRequest: {job_id, fence, name, children: [{job_type, payload, …options}]}.';

create function public.tick_finished(p_request jsonb) returns jsonb
language plpgsql
security definer -- the worker holds no rights on the engine's tables
set search_path = '' as $$
begin
  update queue.ticks set ended_at = queue.clock(), seen_at = queue.clock(), free_slots = 0,
    summary = p_request -> 'summary'
  where tick_id = queue.uuid_or_refuse(p_request ->> 'tick_id', 'tick_id');
  return jsonb_build_object('known', found);
end;
$$;
comment on function public.tick_finished is 'Note that a worker run has ended: {tick_id, worker_id, summary}.';

select queue.allow('job_worker, service_role', 'public.report_jobs', 'public.settle_jobs', 'public.spawn_jobs',
  'public.tick_finished');
