-- This file settles attempts, which means that it stores their outcomes. A worker reports the
-- outcome of each attempt together with the number of the job's lease (the fence). If the job has
-- been leased again in the meantime, the reported lease number is old, and the outcome changes
-- nothing. public.settle_jobs first applies the outcomes and frees concurrency keys, and then
-- leases the next jobs, so that the response can contain a job that waited for a freed concurrency
-- key. queue.finish ends jobs that no worker has leased. If the process of a worker dies, the
-- leases of its jobs expire and maintenance reclaims the jobs. Only the job that ended the process
-- loses an attempt (14_suspects.sql).
--
--   public.settle_jobs
--     queue.read_items        parses the items of the request and sorts them by job.
--     queue.settle            applies the outcomes of the items.
--       queue.lock_held         locks leases and job rows, and returns the jobs it could not lock.
--       queue.settle_retries    settles jobs to retry, each alone.
--       queue.write_reports     stores the last progress, log lines and steps of the jobs.
--       queue.decide            determines each job's next state and stores the attempt.
--       queue.end_attempts      deletes the leases and updates the job rows, in one statement.
--       queue.after_attempts    moves jobs that run again, frees keys and signals parent jobs.
--     queue.lease             leases the next jobs in the same call.
--
-- A plain completion is a success at the first lease of a job. If all items are plain completions,
-- queue.settle calls only two functions of the list above.
-- - queue.end_attempts, for all jobs.
-- - queue.after_attempts, for jobs with a key, a parent, a deadline or a latest time for the start,
--   and for jobs whose completion is not a derived event.
--
-- If another transaction keeps one of the rows locked for more than 0.1 s, queue.settle calls all
-- functions of the list above.

create type queue.worker_item as (
  job_id uuid,
  fence integer,
  outcome text,
  result jsonb,
  error jsonb,
  retry_after_seconds double precision,
  until timestamptz,
  delay_seconds double precision,
  wait jsonb,
  duration_ms double precision,
  progress jsonb,
  logs jsonb,
  logs_from integer,
  steps jsonb,
  step jsonb,
  tags jsonb,
  lease_seconds double precision,
  cost_usd double precision,
  output jsonb,
  pulse jsonb
);
-- The next state of a job after an attempt, and the event to store. If the attempt was lost with
-- its worker, the event is null, because maintenance stores the event job.reclaimed instead. All
-- fields are null if there is nothing to do, because the reported fence is old, or nothing to
-- decide, because the outcome is a plain completion (a success at the first lease).
create type queue.transition as (
  status text,
  attempts integer,
  run_at timestamptz,
  message text,
  problem jsonb,
  event text,
  data jsonb
);

-- Parse the items in a request to public.report_jobs or public.settle_jobs.
-- is_plain: True if all items are plain completions (successes at the first lease) with results of
--   up to 8,000 bytes and without progress, log lines, steps, tags or output.
create function queue.read_items(
  p_items jsonb,
  out items queue.worker_item[],
  out is_plain boolean
)
language plpgsql stable
set search_path = ''
as $$
begin
  if jsonb_typeof(p_items) is distinct from 'array'
    or jsonb_array_length(p_items) > 1000
  then
    perform queue.refuse(
      400,
      'invalid_argument',
      'items must be an array of at most 1000 items',
      'items'
    );
  end if;
  select
    coalesce(array_agg(i order by i.job_id), '{}'), -- sorted by job, so that calls cannot deadlock
    coalesce(
      bool_and(
        i.outcome = 'completed' is true
          and i.fence > 1 is not true
          and pg_column_size(i.result) > 8000 is not true
          and num_nonnulls(i.progress, i.logs, i.steps, i.step, i.tags, i.output) = 0
      ),
      true
    )
  into items, is_plain
  from jsonb_populate_recordset(null::queue.worker_item, p_items) as i;
exception when data_exception then
  perform queue.refuse(400, 'invalid_argument', sqlerrm, 'items');
end;
$$;

-- Determine the outcome of an attempt from the worker's report and the job's options. If the worker
-- reports a wait, insert the wait (queue.begin_wait). The delay of a retry is the field
-- retry_after_seconds of the worker's report. If the report lacks this field, the delay grows
-- exponentially with the number of attempts, and has jitter (Brooker, AWS blog, 2015).
create function queue.outcome_of(
  p_item queue.worker_item,
  p_job public.jobs,
  p_is_long boolean,
  p_now timestamptz,
  out outcome text,
  out problem jsonb,
  out run_at timestamptz
)
language plpgsql
set search_path = ''
as $$
declare
  v_reason text;
begin
  outcome := coalesce(p_item.outcome, 'null');
  problem := case
    when outcome in ('retry', 'lost', 'died', 'failed', 'cancelled', 'released')
      then p_item.error
  end;
  if p_is_long then
    outcome := 'failed';
    problem := jsonb_build_object(
      'type', 'ResultTooLarge',
      'reason', 'result_too_large',
      'message', format(
        'the result has more than %s bytes (payload_max_bytes); store the result and return a '
          'reference',
        queue.setting('payload_max_bytes')
      )
    );
  elsif p_job.cancel_requested_at is not null and outcome <> 'completed' then
    -- Drop the error that describes a lost worker, because the cancel request may be the reason why
    -- the worker stopped.
    problem := case when outcome not in ('lost', 'died') then problem end;
    outcome := 'cancelled';
  elsif outcome in ('retry', 'lost') then
    v_reason := case
      when p_job.deadline_at <= p_now then 'deadline_passed'
      when p_job.attempts >= p_job.max_attempts then 'attempts_spent'
      when outcome = 'lost'
          and p_job.lost_attempts + 1 >= queue.setting('lost_attempts_max')::integer
        then 'lost_too_often'
    end;
    if v_reason is not null then
      problem := case
        when outcome = 'lost' and v_reason <> 'deadline_passed' then problem
        else coalesce(problem, '{}') || jsonb_build_object('reason', v_reason)
      end;
      outcome := 'failed';
    -- If there is evidence that the job ended its worker process, the retry waits for the backoff,
    -- as after any failure. Without evidence that the job ended its worker process, the job is
    -- retried immediately, because something else may have stopped the worker.
    elsif outcome = 'retry' or problem ? 'evidence' then
      run_at := p_now + make_interval(
        secs => case
          when p_item.retry_after_seconds is not null
            then least(604800, greatest(0, p_item.retry_after_seconds))
          else (
            select (0.8 + 0.2 * random()) * least(
              t.backoff_cap_seconds,
              t.backoff_first_seconds * power(t.backoff_factor, p_job.attempts - 1)
            )
            from queue.job_types as t
            where t.job_type = p_job.job_type
          )
        end
      );
    end if;
  elsif outcome = 'failed' then
    problem := '{"reason": "not_retryable"}' || coalesce(problem, '{}');
  elsif outcome = 'snoozed' then
    -- The delay of a snooze is at least one second, because a snooze does not count as an attempt.
    -- Without a minimum, a processor that always returns a snooze without a delay would run in an
    -- endless loop.
    run_at := greatest(
      p_now + interval '1 second',
      coalesce(
        p_item.until,
        p_now + make_interval(secs => least(
          31536000,
          coalesce(p_item.delay_seconds, 60)
        ))
      )
    );
  elsif outcome = 'waiting' then
    problem := queue.begin_wait(p_job, p_item.wait, p_now);
    outcome := case when problem is null then 'waiting' else 'failed' end;
  elsif outcome not in ('completed', 'cancelled', 'released', 'died') then
    problem := jsonb_build_object(
      'type', 'UnknownOutcome',
      'reason', 'unknown_outcome',
      'message', 'unknown outcome ' || left(outcome, 80)
    );
    outcome := 'failed';
  end if;
end;
$$;

-- Determine the next state of a job, and insert its attempt into queue.attempts. The caller has
-- locked the lease and the job's row. Return null if the reported lease number (fence) is old. Also
-- return null for a plain completion (a success at the first lease). The attempt of a plain
-- completion is not stored, because the job's row contains the same values.
create function queue.decide(p_item queue.worker_item, p_now timestamptz)
returns queue.transition
language plpgsql
set search_path = ''
as $$
declare
  v_is_long constant boolean := p_item.outcome = 'completed'
    and pg_column_size(p_item.result) > 8000
    and pg_column_size(p_item.result) > queue.setting('payload_max_bytes')::integer;
  v_lease queue.leases;
  v_job public.jobs;
  v_end record;
  v_made queue.transition;
begin
  select * into v_lease
  from queue.leases as l
  where l.job_id = p_item.job_id and l.fence = p_item.fence;
  if not found
    or p_item.outcome = 'completed' and v_lease.fence = 1 and v_is_long is not true
  then
    return null;
  end if;
  select * into v_job
  from public.jobs as j
  where j.id = p_item.job_id;
  if not found then -- the job was deleted in the meantime
    return null;
  end if;
  v_end := queue.outcome_of(p_item, v_job, v_is_long, p_now);
  v_made.status := case
    when v_end.outcome in ('completed', 'failed', 'cancelled', 'waiting')
      then v_end.outcome
    else 'pending'
  end;
  v_made.attempts := v_job.attempts
    - (v_end.outcome in ('snoozed', 'released', 'waiting', 'died'))::integer;
  v_made.run_at := v_end.run_at;
  v_made.message := left(
    coalesce(
      nullif(v_end.problem ->> 'message', ''),
      case
        when v_end.outcome in ('retry', 'failed') then 'no reason given'
      end
    ),
    10000
  );
  v_made.problem := v_end.problem - '{message,traceback,origin}'::text[];
  v_made.event := case v_end.outcome
    when 'retry' then 'job.retried'
    when 'lost' then null
    when 'died' then 'job.released'
    else 'job.' || v_end.outcome
  end;
  v_made.data := jsonb_strip_nulls(jsonb_build_object(
    'error_message', left(v_made.message, 1000),
    'next_retry_at', v_made.run_at,
    'wait', case v_end.outcome
      when 'waiting' then jsonb_build_object(
        'kind', p_item.wait -> 'kind',
        'name', p_item.wait -> 'name',
        'question', left(p_item.wait ->> 'question', 2000),
        'options', p_item.wait -> 'options',
        'event', p_item.wait -> 'event',
        'until', queue.wait_until(p_item.wait, p_now)
      )
    end
  ));
  insert into queue.attempts (
    job_id, fence, attempt, worker, leased_at, ended_at, outcome, error_message,
    error_data, traceback, origin
  )
  values (
    v_job.id,
    v_lease.fence,
    v_lease.attempt,
    v_lease.worker,
    v_lease.leased_at,
    p_now,
    case when p_item.outcome in ('lost', 'died') then p_item.outcome else v_end.outcome end,
    v_made.message,
    v_made.problem,
    case
      when pg_column_size(v_end.problem -> 'traceback') <= 20000
        then nullif(v_end.problem -> 'traceback', 'null')
    end,
    case
      when jsonb_typeof(v_end.problem -> 'origin') = 'object'
        then v_end.problem -> 'origin'
    end
  );
  return v_made;
end;
$$;

-- After attempts have ended, move jobs that will run again to queue.deferred, queue.gated or
-- queue.ready. Then admit waiting jobs of freed concurrency keys, free the unique keys of ended
-- jobs, and insert signals for parent and child jobs. queue.after_attempts moves jobs before it
-- admits other jobs, so that a moved job of a type with in_order still counts against the limit of
-- its concurrency key.
create function queue.after_attempts(p_ids uuid[], p_now timestamptz)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_gate record;
  v_ended constant uuid[] := array(
    select j.id
    from public.jobs as j
    where j.id = any (p_ids) and j.finished_at is not null
  );
begin
  perform queue.place(j, p_now)
  from public.jobs as j
  where j.id = any (p_ids) and j.status = 'pending';
  for v_gate in
    with gone as (
      update queue.gated as g
      set ended = true
      from public.jobs as j
      where j.id = any (p_ids)
        and g.workspace_id = j.workspace_id
        and g.job_type = j.job_type
        and g.key = coalesce(j.concurrency_key, '')
        and g.job_id = j.id
        and g.admitted
        and (
          j.status <> 'pending'
          or not exists (
            select from queue.job_types as t
            where t.job_type = j.job_type and t.in_order
          )
        )
      returning g.lane, g.workspace_id, g.job_type, g.key
    )
    select g.workspace_id, g.job_type, g.key, min(g.lane) as lane
    from gone as g
    group by 1, 2, 3
  loop
    perform queue.open_gate(
      v_gate.lane,
      v_gate.workspace_id,
      v_gate.job_type,
      v_gate.key,
      p_now
    );
  end loop;
  if v_ended = '{}' then
    return;
  end if;
  delete from queue.job_keys as u
  using public.jobs as j
  where j.id = any (v_ended)
    and j.unique_key is not null
    and u.workspace_id = j.workspace_id
    and u.job_type = j.job_type
    and u.key = j.unique_key
    and u.is_unique
    and u.job_id = j.id;
  delete from queue.deferred as d
  using public.jobs as j
  where j.id = any (v_ended)
    and num_nonnulls(j.deadline_at, j.start_by_at) > 0
    and d.run_at in (j.deadline_at, j.start_by_at)
    and d.job_id = j.id;
  insert into queue.dead (workspace_id, job_id)
  select j.workspace_id, j.id
  from public.jobs as j
  where j.id = any (v_ended) and j.status = 'failed'
  on conflict do nothing;
  -- For each ended job, insert a signal to check the parent job, which may be waiting for the ended
  -- job. If the ended job failed or was cancelled, insert a signal to cancel its child jobs that
  -- have not ended.
  insert into queue.signals (kind, workspace_id, job_id)
  select distinct 'check', j.workspace_id, j.parent_id
  from public.jobs as j
  where j.id = any (v_ended) and j.parent_id is not null
  union all
  select 'cancel', j.workspace_id, j.id
  from public.jobs as j
  where j.id = any (v_ended)
    and j.status in ('failed', 'cancelled')
    and exists (
      -- `offset 0` makes Postgres look up the child jobs of each job in an index, regardless of the
      -- planner's estimates.
      select from public.jobs as c
      where c.parent_id = j.id and c.finished_at is null
      offset 0
    );
end;
$$;

-- Delete the leases of ended attempts, and update their jobs to the states that queue.decide has
-- determined. The deletes and updates are one statement, because a second statement would make
-- every settlement slower. An item with an old lease number (fence) matches no lease, so the
-- statement ignores the item.
-- p_transitions: The result of queue.decide for each item. Null if all items are plain completions
--   (successes at the first lease).
-- changes: Events of the jobs, which the caller must publish.
-- rest: Ids of jobs for which queue.after_attempts must run, because the jobs will run again, or
--   have a key, a parent, a deadline, a latest time for the start, or an event to store.
-- with_event: Ids of jobs whose last event must be stored, because it is not a derived event.
-- results: Results for the response, if all items are plain completions with current lease numbers.
--   Null if an item is not a plain completion or has an old lease number, so that the caller builds
--   the response from the stored rows.
-- has_blocked: True if a turn is limited.
-- has_suspects: True if any job is a suspect.
create function queue.end_attempts(
  p_items queue.worker_item[],
  p_transitions queue.transition[],
  p_now timestamptz,
  out changes queue.change[],
  out rest uuid[],
  out with_event uuid[],
  out results json,
  out has_blocked boolean,
  out has_suspects boolean
)
language plpgsql
set lock_timeout = '100ms'
set search_path = ''
as $$
begin
  -- If a worker's report is renewing the lease at this moment, the delete waits for the report, and
  -- then deletes the renewed row.
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
          k.seqs,
          p_now
        )::queue.change
      )
      from kinds as k
    ),
    array_agg(m.id) filter (where m.is_tied or not m.is_derived),
    array_agg(m.id) filter (where not m.is_derived),
    case
      when count(*) filter (where m.data is null) = cardinality(p_items)
        then (
          '[' || string_agg( -- json_build_object would take six times as long
            '{"job_id": "' || m.id || '", "fence": ' || m.fence
              || ', "outcome": "applied", "status": "completed"}',
            ', '
          ) || ']'
        )::json
    end,
    exists (select from queue.turns as t where t.blocked and t.look_at < 'infinity'),
    exists (select from queue.suspects)
  into changes, rest, with_event, results, has_blocked, has_suspects
  from moved as m;
end;
$$;

-- Return true if the job's latest cancel request also requests a retry. A request that came from
-- the job's parent ends with the parent.
create function queue.retry_requested(p_job_id uuid)
returns boolean
language sql stable
set search_path = ''
as $$
select coalesce(
  (
    select e.data @> '{"retry": true}'
      and (
        e.data ->> 'reason' <> 'parent_ended'
        or not exists (
          select from public.jobs as p
          where p.id = j.parent_id and p.finished_at is not null
        )
      )
    from public.jobs as j
    join queue.job_events as e on e.job_id = j.id and e.type = 'job.cancel_requested'
    where j.id = p_job_id and j.cancel_requested_at is not null
    order by e.seq desc
    limit 1
  ),
  false
)
$$;

-- Settle those of the items whose jobs must be retried after their cancel, each in a
-- subtransaction. If a lock or another temporary error prevents one, its result is busy and has the
-- error, so that the other items of the call are settled.
create function queue.settle_retries(
  p_items queue.worker_item[],
  out results jsonb,
  out changes queue.change[]
)
language plpgsql
set lock_timeout = '100ms'
set search_path = ''
as $$
declare
  v_item queue.worker_item;
  v_settled record;
begin
  results := '[]';
  for v_item in
    select i.*
    from unnest(p_items) as i
    join public.jobs as j on j.id = i.job_id
    where j.cancel_requested_at is not null and queue.retry_requested(j.id)
    order by i.job_id, i.fence
  loop
    begin
      v_settled := queue.settle(array[v_item], false, true);
      results := results || v_settled.results::jsonb;
      changes := changes || v_settled.changes;
    exception when others then
      if not queue.is_temporary(sqlstate) then
        raise;
      end if;
      results := results || jsonb_build_object(
        'job_id', v_item.job_id,
        'fence', v_item.fence,
        'outcome', 'busy',
        'error', format('%s (%s)', sqlerrm, sqlstate)
      );
      perform set_config('lock_timeout', '1ms', true); -- many waits would end the call
    end;
  end loop;
end;
$$;

-- Apply the outcomes that workers report. The result of an item is applied, cancelled, stale (the
-- lease number is old), not_found or busy (settle it again, because of a lock). If a cancel was
-- requested, the job is cancelled unless the outcome is completed. If the latest request also
-- requests a retry, the cancelled job is retried in the same transaction, so that its parent and
-- its watchers do not see it ended.
-- p_is_plain: True if all items are plain completions, which are successes at the first lease
--   (queue.read_items).
-- p_is_alone: True for a call of queue.settle_retries.
create function queue.settle(
  p_items queue.worker_item[],
  p_is_plain boolean,
  p_is_alone boolean default false,
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
  v_alone jsonb := '[]'; -- results of the items that queue.settle_retries has settled
  v_changes queue.change[];
  v_retried uuid[];
  v_id uuid;
begin
  if p_is_plain then
    begin
      v_ended := queue.end_attempts(p_items, null, v_now);
    exception when lock_not_available then
      p_is_plain := false;
    end;
  end if;
  if not p_is_plain then -- skip jobs whose rows are locked by other transactions
    v_busy := queue.lock_held(array(select i.job_id from unnest(p_items) as i));
    if not p_is_alone then
      select r.results, r.changes into v_alone, v_changes
      from queue.settle_retries(array(
        select i
        from unnest(p_items) as i
        where i.job_id <> all (v_busy)
      )) as r;
      if v_alone <> '[]' then
        p_items := array(
          select i
          from unnest(p_items) as i
          where not v_alone @> jsonb_build_array(jsonb_build_object('job_id', i.job_id))
        );
      end if;
    end if;
    v_now := queue.clock();
    v_items := array( -- drop duplicate items
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
  if v_ended.has_suspects then
    -- The process of a worker did not end during the attempts that the worker has settled. A job
    -- that the worker released did not finish its attempt, so it remains a suspect.
    delete from queue.suspects as s
    using unnest(p_items) as i
    join public.jobs as j on j.id = i.job_id and j.fence = i.fence
    where s.job_id = i.job_id
      and j.status <> 'processing'
      and i.outcome not in ('lost', 'died', 'released');
  end if;
  changes := v_ended.changes;
  results := v_ended.results;
  -- Build the response from the stored rows, so that a repeated call gets the same outcomes. The
  -- status is the present status of the job.
  if results is null or v_busy <> '{}' then
    select json_agg(json_strip_nulls(json_build_object(
      'job_id', i.job_id,
      'fence', i.fence,
      'status', case when coalesce(a.fence, j.fence) = i.fence then j.status end,
      'outcome', case
        when j.id is null then 'not_found'
        when i.job_id = any (v_busy) then 'busy'
        when a.outcome = 'cancelled' then 'cancelled'
        -- the outcome of the stored attempt, or the job's status if no attempt is stored
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
  if v_alone <> '[]' then
    results := v_alone || coalesce(results::jsonb, '[]');
    changes := v_changes || changes;
  end if;
  if v_ended.rest is not null then
    insert into queue.job_events (job_id, seq, workspace_id, type, data, created_at)
    select e.id, e.seq, c.workspace_id, c.type, c.data, v_now
    from unnest(changes) as c
    cross join lateral unnest(c.job_ids, c.seqs) as e (id, seq)
    where e.id = any (v_ended.with_event);
    perform queue.after_attempts(v_ended.rest, v_now);
    v_retried := array(
      select e.id
      from unnest(changes) as c
      cross join lateral unnest(c.job_ids) as e (id)
      where c.type = 'job.cancelled' and queue.retry_requested(e.id)
      order by e.id
    );
    if v_retried <> '{}' then
      perform queue.publish(changes, v_now); -- before the events of the retries
      changes := null;
    end if;
    foreach v_id in array v_retried loop
      begin
        perform queue.retry(array[v_id], v_now);
      exception when others then
        if queue.is_temporary(sqlstate) then
          raise; -- the worker settles again
        end if;
        -- an error would undo the settlement of all items
        raise warning 'job % stays cancelled: % (%)', v_id, sqlerrm, sqlstate;
      end;
    end loop;
  end if;
  -- Let the next lease check the limits of the jobs' tenants again, by setting look_at in the
  -- tenants' limited turns. Attempts that have ended no longer count against the limits of their
  -- tenants.
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

create function public.settle_jobs(p_request jsonb)
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
  v_lease json;
  v_is_sent boolean;
begin
  if p_request -> 'items' is distinct from '[]' then
    v_read := queue.read_items(p_request -> 'items');
    v_settled := queue.settle(v_read.items, v_read.is_plain);
    v_results := v_settled.results;
    v_changes := v_settled.changes;
  end if;
  if jsonb_typeof(p_request -> 'lease') = 'object' then
    v_lease := queue.lease(p_request -> 'lease', v_changes);
    v_is_sent := queue.send_unsent();
    return json_build_object('results', v_results, 'lease', v_lease);
  end if;
  v_is_sent := queue.publish(v_changes, queue.clock());
  v_is_sent := queue.send_unsent();
  return json_build_object('results', v_results);
end;
$$;
comment on function public.settle_jobs is
  E'Settle attempts, and lease the next jobs in the same call: {results, lease?}.\n\nItems: '
  '{job_id, fence, outcome: completed|retry|failed|snoozed|released|waiting|cancelled, result?, '
  'error?, retry_after_seconds?, until?, delay_seconds?, wait?, progress?, logs?, step?, steps?, '
  'output?, tags?, cost_usd?, duration_ms?}. A repeated call returns the same outcomes. An item '
  'with the fence of an earlier lease changes nothing. Settle an item again if its outcome is '
  'busy.';
select queue.allow('job_worker, service_role', 'public.settle_jobs');

-- End jobs that no worker has leased. The caller has locked the jobs.
-- p_status: Status of the ended jobs, which is 'cancelled' or 'failed'.
create function queue.finish(
  p_ids uuid[],
  p_status text,
  p_error jsonb,
  p_now timestamptz
)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_ids uuid[];
begin
  perform queue.leave_places(p_ids);
  delete from queue.waits where job_id = any (p_ids);
  with ended as (
    update public.jobs
    set
      status = p_status,
      updated_at = p_now,
      finished_at = p_now,
      next_retry_at = null,
      last_seq = last_seq + 1,
      error_message = coalesce(p_error ->> 'message', error_message),
      error_data = coalesce(p_error - 'message', error_data)
    where id = any (p_ids) and status in ('pending', 'waiting')
    returning id
  )
  select array_agg(e.id) into v_ids
  from ended as e;
  if v_ids is not null then
    perform queue.append_event(
      v_ids,
      'job.' || p_status,
      jsonb_strip_nulls(jsonb_build_object(
        'error_message', left(p_error ->> 'message', 1000)
      )),
      p_now,
      p_is_counted => true
    );
    perform queue.after_attempts(v_ids, p_now);
  end if;
end;
$$;

-- Lock and return the job whose lease p_request names as {job_id, fence}. Raise the error
-- lease_lost if the worker that calls no longer has this lease.
-- p_job_types: Job types whose jobs may make this request, or null for all job types.
-- p_undone: Text at the end of the error message, for example 'its children were not created'.
create function queue.held_job(p_request jsonb, p_job_types text[], p_undone text)
returns public.jobs
language plpgsql
set search_path = ''
as $$
declare
  v_id constant uuid := p_request ->> 'job_id';
  v_job public.jobs;
begin
  -- Reject a revoked worker key in this function too, because some callers call queue.held_job in
  -- their declare section, before these callers check the worker key.
  perform queue.refuse_revoked();
  select j.* into v_job
  from queue.leases as l
  join public.jobs as j on j.id = l.job_id
  where l.job_id = v_id
    and l.fence::text = p_request ->> 'fence'
    and (j.job_type = any (p_job_types)) is not false
  for no key update of l, j; -- lock leases before job rows, as in all functions
  if not found then
    perform queue.refuse(
      409,
      'lease_lost',
      'the lease on the job is lost; ' || p_undone,
      v_id::text
    );
  end if;
  return v_job;
end;
$$;

create function public.tick_finished(p_request jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_tick constant uuid := p_request ->> 'tick_id';
  v_worker integer;
  v_refused boolean;
  v_ignored bigint;
  v_response jsonb;
begin
  perform queue.refuse_revoked();
  v_ignored := queue.withdraw_run(queue.clock());
  -- wait until the last lease of the process has committed, because the process may have requested
  -- jobs just before its end
  perform queue.try_lock('process ' || (p_request ->> 'worker_id'), p_waits => true)
  where p_request ->> 'evidence' is not null;
  update queue.ticks
  set expires_at = null
  where tick_id = v_tick and expires_at is not null
  returning has_refused into v_refused;
  -- store the end of a process that has not called yet, because its first lease request may still be
  -- on its way
  insert into queue.workers (worker_id, job_types)
  select p_request ->> 'worker_id', '{}'
  where p_request ->> 'evidence' is not null and p_request ->> 'worker_id' is not null
  on conflict (worker_id) do nothing;
  if coalesce(p_request ->> 'summary', p_request ->> 'evidence') is not null then
    update queue.workers
    set
      ended_at = queue.clock(),
      seen_at = queue.clock(),
      summary = coalesce(
        p_request -> 'summary' || jsonb_build_object(
          'key_expires_at', summary -> 'key_expires_at',
          'key_issued_at', summary -> 'key_issued_at'
        ),
        summary
      ),
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
  v_response := jsonb_build_object('ended', true, 'refused', coalesce(v_refused, false));
  if p_request ->> 'evidence' is not null and v_worker is not null then
    -- wait for the last reports of the process, because queue.do_reclaim skips locked leases
    perform queue.lock_held(array(select l.job_id from queue.leases as l where l.worker = v_worker));
    v_ignored := queue.do_reclaim(queue.clock(), clock_timestamp() + interval '2 seconds');
    -- Open the turns of the reclaimed jobs now, because several processes will soon lease these
    -- suspected jobs at the same time. A lease does not see a turn that another lease is opening.
    perform queue.open_turns(200, queue.clock()) where queue.try_lock('turns');
    v_response := v_response || jsonb_build_object(
      'guilty', array(
        select s.job_id
        from queue.suspects as s
        where s.worker = v_worker and s.company = s.job_id
      ),
      'suspects', (
        select count(distinct s.company)
        from queue.suspects as s
        join public.jobs as j on j.id = s.job_id
        where s.worker = v_worker and j.status = 'pending' and s.company <> s.job_id
      )
    );
  end if;
  return v_response;
end;
$$;
comment on function public.tick_finished is
  E'Record that a worker''s run has ended: {tick_id, summary?}. Returns {ended, refused}. '
  'ends of lease_jobs does the same.\n\nWith {worker_id, evidence}: record that the process of a '
  'worker ended without a report. The jobs of the process keep the evidence, and are reclaimed '
  'immediately. The response also contains {guilty, suspects}. guilty has the ids of the jobs that '
  'ended the process. suspects is the number of groups of other suspects. Each group must run in a '
  'separate process.';
select queue.allow('job_worker, service_role', 'public.tick_finished');
