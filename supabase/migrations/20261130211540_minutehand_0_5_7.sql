-- 0.5.7 after the release before it; written by `python -m infra.release` from schemas.
-- Do not edit it, and do not read it: read the schemas.

alter table queue.outputs add column if not exists first_at timestamp with time zone;

alter table queue.outputs add column if not exists last_at timestamp with time zone;

alter table queue.pieces add column if not exists first_at timestamp with time zone;

alter table queue.pieces add column if not exists last_at timestamp with time zone;

-- Return the release of the engine's schema, which is the value of minutehand.version. `minutehand
-- doctor` compares this release with the release that the project recorded.
create or replace function queue.version()
returns text
language sql immutable
set search_path = ''
as $$
select '0.5.7'
$$;

-- Return true if locks, resources or the connection caused an error, and not a row.
create or replace function queue.is_temporary(p_sqlstate text)
returns boolean
language sql immutable
set search_path = ''
as $$
select p_sqlstate ~ '^(08|40|53|55|57|58|XX)'
$$;

-- Reject JSON that some clients cannot parse, because one job with such JSON would make a client
-- that lists jobs fail. Many parsers stop at about 200 levels of nesting, and numbers above 1.8e308
-- overflow a double.
create or replace function queue.check_json(p_value jsonb, p_field text)
returns void
language plpgsql stable
set search_path = ''
as $$
declare
  v_text constant text := p_value::text;
  v_bytes_max constant integer := queue.setting('payload_max_bytes')::integer;
begin
  -- Measure the JSON as text, because jsonb stores the number 1e131000 in ten bytes, but the number
  -- has 131,001 bytes as text.
  if octet_length(v_text) > v_bytes_max then
    perform queue.refuse(
      413,
      'payload_too_large',
      format(
        '%s exceeds %s bytes (payload_max_bytes); store the data and pass a reference',
        p_field,
        v_bytes_max
      ),
      p_field
    );
  elsif pg_column_size(p_value) > 800 and p_value @? 'strict $.**{101}' then
    perform queue.refuse(
      422,
      'payload_invalid',
      p_field || ' is nested more than 100 levels deep',
      p_field
    );
  elsif octet_length(v_text) > 309
    and v_text ~ '[0-9]{155}[0-9]{154}'
    and p_value @? 'strict $.**
      ? (@.type() == "number" && (@ > 1.7976931348623157e308 || @ < -1.7976931348623157e308))'
  then
    perform queue.refuse(
      422,
      'payload_invalid',
      p_field || ' contains a number that is too large for a double',
      p_field
    );
  end if;
end;
$$;

-- Reject an enqueue if the workspace would have more live jobs than its limit. A limit of up to
-- 2,000 live jobs is enforced exactly, because only one call at a time counts the jobs, and
-- concurrent enqueues are rejected. A limit above 2,000 live jobs is compared with a stored count.
-- The count may be ten seconds old, or 20 seconds if another call is counting.
-- p_count: Number of jobs that the call is about to add.
create or replace function queue.check_live_jobs(
  p_workspace_id uuid,
  p_count double precision default 1
)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_own constant integer := (
    select l.max_pending
    from queue.tenant_limits as l
    where l.workspace_id = p_workspace_id
  );
  v_max constant integer := coalesce(v_own, queue.setting('user_pending_max')::integer);
  v_bucket constant text := 'q:' || p_workspace_id;
  v_live integer;
  v_known integer; -- the stored count
  v_age interval;
  v_is_stored boolean; -- true if the call may store its count
begin
  if v_max > 2000 then
    select b.tokens, b.tokens, v_now - b.refilled_at
    into v_live, v_known, v_age
    from queue.buckets as b
    where b.name = v_bucket;
    v_is_stored := v_age < interval '10 seconds' is not true
      and queue.reserve_locks(2, 190) = 2
      and queue.try_lock('bucket ' || v_bucket);
    if v_age < interval '20 seconds' is not true then
      -- Each rejected call counts the jobs again, so a count takes a token for each 400 jobs, which
      -- are counted in about a millisecond. Only two calls at a time count more than 1,000 jobs.
      v_live := nullif(queue.live_jobs(p_workspace_id, 1001), 1001);
      perform queue.take_place('quota ' || p_workspace_id, 2) where v_live is null;
      perform queue.admit(
        'rows',
        p_count => least(
          coalesce(v_live, v_known, v_max) / 400.0,
          queue.setting('user_enqueues_burst')::numeric / 4
        )
      );
    elsif v_is_stored then
      v_live := null;
    end if;
  else
    perform queue.take_place('quota ' || p_workspace_id, 1);
  end if;
  v_live := coalesce(v_live, queue.live_jobs(p_workspace_id, v_max + 1));
  perform queue.store_tokens(v_bucket, v_live, v_now) where v_is_stored;
  if v_live + p_count > v_max then
    perform queue.refuse_full(
      p_workspace_id,
      case when v_own is null then 'user_pending_max' else 'max_pending' end,
      format('the workspace may have at most %s live jobs; wait until some have ended', v_max)
    );
  end if;
end;
$$;

-- Lease the jobs that queue.share_slots has chosen. If a trigger of the project raises an error for
-- one of the jobs, lease each half of the jobs separately, and repeat the division until the
-- rejected job is alone. Then insert a row for the rejected job into queue.refusals, so that the
-- next lease skips this job.
-- has_refused: True if a trigger rejected a job.
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

-- Determine the outcome of an attempt from the worker's report and the job's options. If the worker
-- reports a wait, insert the wait (queue.begin_wait). The delay of a retry is the field
-- retry_after_seconds of the worker's report. If the report lacks this field, the delay grows
-- exponentially with the number of attempts, and has jitter (Brooker, AWS blog, 2015).
create or replace function queue.outcome_of(
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

-- Settle those of the items whose jobs must be retried after their cancel, each in a
-- subtransaction. If a lock or another temporary error prevents one, its result is busy and has the
-- error, so that the other items of the call are settled.
create or replace function queue.settle_retries(
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

drop function queue.settle(queue.worker_item[],boolean);

-- Apply the outcomes that workers report. The result of an item is applied, cancelled, stale (the
-- lease number is old), not_found or busy (settle it again, because of a lock). If a cancel was
-- requested, the job is cancelled unless the outcome is completed. If the latest request also
-- requests a retry, the cancelled job is retried in the same transaction, so that its parent and
-- its watchers do not see it ended.
-- p_is_plain: True if all items are plain completions, which are successes at the first lease
--   (queue.read_items).
-- p_is_alone: True for a call of queue.settle_retries.
create or replace function queue.settle(
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

create or replace function public.report_jobs(p_request jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
set lock_timeout = '8s'
set plan_cache_mode = 'force_generic_plan'
set enable_seqscan = off
set jit = off
as $$
declare
  v_items constant queue.worker_item[] := (queue.read_items(p_request -> 'items')).items;
  v_reported constant uuid[] := array(
    select i.job_id
    from unnest(v_items) as i
    where num_nonnulls(i.progress, i.logs, i.steps, i.step, i.tags, i.output) > 0
  );
  v_busy uuid[] := '{}'; -- jobs of v_reported that another transaction has locked
  v_renewed uuid[];
begin
  perform queue.refuse_revoked();
  if v_reported <> '{}' then
    v_busy := queue.lock_held(v_reported);
    perform queue.write_reports(
      array(
        select i
        from unnest(v_items) as i
        where i.job_id <> all (v_busy)
      ),
      queue.clock()
    );
  end if;
  -- Renew a lease only if a fifth of its duration has passed, or if the report changes the lease,
  -- because workers report often. If another transaction has locked a lease now, the worker's next
  -- report renews the lease.
  v_renewed := array(
    select l.job_id
    from unnest(v_items) as i
    join queue.leases as l on l.job_id = i.job_id
    where num_nonnulls(i.lease_seconds, i.pulse) > 0
      or l.expires_at < queue.clock() + make_interval(secs => 0.8 * l.lease_seconds)
    order by l.job_id
    for no key update of l skip locked
  );
  update queue.leases as l
  set
    lease_seconds = s.lease_seconds,
    pulse = case
      when i.pulse is null then l.pulse
      else i.pulse - '{for_ms,left_ms}'::text[] || jsonb_build_object(
        'since', queue.clock() - (i.pulse ->> 'for_ms')::double precision * interval '1 ms',
        'times_out_at', queue.clock()
          + (i.pulse ->> 'left_ms')::double precision * interval '1 ms',
        'first_mb', coalesce(l.pulse -> 'first_mb', i.pulse -> 'memory_mb')
      )
    end,
    expires_at = queue.clock() + make_interval(secs => s.lease_seconds)
  from unnest(v_items) as i
  join queue.leases as o on o.job_id = i.job_id and o.fence = i.fence
  cross join lateral (
    select case
      when i.lease_seconds between 1 and 43200 then i.lease_seconds::integer
      else o.lease_seconds
    end as lease_seconds
  ) as s
  where l.job_id = any (v_renewed) and l.job_id = o.job_id;
  perform queue.send_unsent();
  return jsonb_build_object(
    'results', (
      select coalesce(
        jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
          'job_id', i.job_id,
          'fence', i.fence,
          'lease_expires_at', l.expires_at,
          'outcome', case
            when num_nulls(l.job_id, j.id) > 0 then 'lost'
            when i.job_id = any (v_busy) then 'busy'
            when j.cancel_requested_at is not null then 'cancel'
            else 'ok'
          end,
          'output', case
            when i.job_id <> all (v_busy) then queue.output_state(i, j)
          end
        ))),
        '[]'
      )
      from unnest(v_items) as i
      left join queue.leases as l on l.job_id = i.job_id and l.fence = i.fence
      left join public.jobs as j on j.id = l.job_id
    )
  );
end;
$$;

comment on function public.report_jobs is
  E'Report on running jobs and renew their leases: {results: [{job_id, fence, '
  'outcome: ok|cancel|lost|busy, output: followed|unfollowed|refused, lease_expires_at}]}.\n\n'
  'Items: {job_id, fence, progress?, logs?, logs_from?, steps?, step?, tags?, output?, '
  'pulse?: {last, for_ms, left_ms?, place?, code?, stack?, pid?, own_pids?, batched?, '
  'blocked_ms?, program?, memory_mb}, lease_seconds?}. Report an item again if its outcome is '
  'busy.';

select queue.allow('job_worker, service_role', 'public.report_jobs');

-- This file contains the functions with which people control jobs. People can cancel a job with its
-- children, retry a job, replay a job from a step, and pause jobs. public.cancel_jobs and
-- public.retry_jobs cancel or retry many jobs.

-- Cancel the jobs p_ids and their live descendants. A pending or waiting job is cancelled
-- immediately. For a running job, only a cancel request is stored, because its worker must stop the
-- job. If the caller has not locked the jobs, the function locks them, takes one token of the
-- person's rate limit for each job and descendant, and cancels the first 100 descendants.
-- queue.cancel inserts signals for the other descendants, so that maintenance cancels them. Return
-- the number of jobs and descendants, with at most 5,000 descendants.
-- p_retry: True to retry the jobs once they are cancelled. queue.settle retries a running job when
--   it ends, unless it completes, or its result is too large, as another attempt's would be. The
--   latest call decides whether a running job is retried. A job stays cancelled if another job now
--   has its unique key. Children that are cancelled with their parent are retried with it. Running
--   children get a request of their own, because they may end later.
create or replace function queue.cancel(
  p_ids uuid[],
  p_now timestamptz,
  p_is_locked boolean default false,
  p_reason text default 'cancelled',
  p_retry boolean default false
)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_children uuid[];
  v_asked uuid[];
  v_count integer;
  -- without the id of the person, which members who have left may not read
  v_reason constant jsonb := jsonb_strip_nulls(jsonb_build_object('reason', p_reason, 'by', case
    when p_reason <> 'cancelled' then null
    when auth.jwt() is null then 'a database session'
    when queue.caller() is null then
      '{"service_role": "the service, with a secret key", "job_worker": "a worker",
        "anon": "a guest"}'::jsonb ->> (auth.jwt() ->> 'role')
    when queue.is_operator() then 'an operator'
    else 'a signed-in user'
  end));
begin
  if not p_is_locked then
    perform queue.take_call_slot(j.workspace_id, p_writes => true)
    from public.jobs as j
    where j.id = p_ids[1];
    v_children := array(
      with recursive tree as (
        select j.id, 0 as depth
        from public.jobs as j
        where j.id = any (p_ids)
        union
        select c.id, t.depth + 1
        from tree as t
        cross join lateral (
          select j.id
          from public.jobs as j
          where j.parent_id = t.id and j.finished_at is null
          offset 0
        ) as c
      )
      select t.id
      from tree as t
      where t.depth > 0 and t.id <> all (p_ids)
      limit 5000
    );
    v_count := cardinality(p_ids) + cardinality(v_children);
    perform queue.admit(
      'changes',
      p_count => case
        -- retries cost at most half of all tokens, so that a large call can succeed
        when p_retry then greatest(
          v_count,
          least(2 * v_count, queue.setting('user_enqueues_burst')::integer / 2)
        )
        else v_count
      end
    );
    perform queue.hold_jobs(p_ids || v_children[:100]);
    perform queue.cancel(
      v_children[:100],
      p_now,
      p_is_locked => true,
      p_reason => 'parent_ended',
      p_retry => p_retry
    );
  end if;
  with asked as (
    update public.jobs
    set cancel_requested_at = p_now
    where id = any (p_ids)
      and status = 'processing'
      and (cancel_requested_at is null or queue.retry_requested(id) <> p_retry)
    returning id
  )
  select array_agg(a.id) into v_asked
  from asked as a;
  perform queue.append_event(
    v_asked,
    'job.cancel_requested',
    v_reason || case when p_retry then '{"retry": true}' else '{}' end::jsonb,
    p_now
  )
  where v_asked is not null;
  perform queue.finish(
    array(
      select j.id
      from public.jobs as j
      where j.id = any (p_ids) and j.status in ('pending', 'waiting')
      order by j.id
    ),
    'cancelled',
    v_reason || '{"type": "Cancelled"}',
    p_now
  );
  insert into queue.signals (kind, workspace_id, job_id)
  select 'cancel', j.workspace_id, j.id
  from public.jobs as j
  where j.id = any (v_asked)
    and exists (
      select from public.jobs as c
      where c.parent_id = j.id
        and c.finished_at is null
        and c.cancel_requested_at is null
      offset 0
    );
  if p_retry
    and p_reason = 'cancelled'
    and queue.retry(
      array(
        select j.id
        from public.jobs as j
        where j.id = any (p_ids) and j.status = 'cancelled'
      ),
      p_now
    ) > 0
  then
    perform queue.wake_worker(p_now);
  end if;
  return cardinality(p_ids) + coalesce(cardinality(v_children), 0);
end;
$$;

-- Make those of the jobs p_ids due that wait for a retry or for their scheduled time. The caller
-- must have locked the jobs. Return the number of these jobs.
create or replace function queue.run_now(p_ids uuid[], p_now timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_ids constant uuid[] := array(
    select j.id
    from public.jobs as j
    where j.id = any (p_ids)
      and j.status = 'pending'
      and coalesce(j.next_retry_at, j.scheduled_for) > p_now
    order by j.id
  );
begin
  if v_ids = '{}' then
    return 0;
  end if;
  perform queue.leave_places(v_ids);
  update public.jobs
  set
    next_retry_at = null,
    scheduled_for = null,
    start_by_seconds = null,
    start_by_at = null,
    last_seq = last_seq + 1
  where id = any (v_ids);
  perform queue.append_event(v_ids, 'job.redriven', '{}', p_now, p_is_counted => true);
  perform queue.place(j, p_now)
  from public.jobs as j
  where j.id = any (v_ids)
  order by j.id;
  return cardinality(v_ids);
end;
$$;

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
  v_family integer; -- number of retried jobs: this job and up to 5,000 children
begin
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
  perform queue.admit(
    'changes',
    v_job.workspace_id,
    p_count => v_family,
    p_bytes => octet_length(p_payload::text)
  );
  perform queue.hold_jobs(array[p_job_id]);
  v_job := queue.visible_job(p_job_id);
  if v_job.status in ('failed', 'cancelled') then
    if queue.retry(array[p_job_id], v_now) = 0 then
      perform queue.refuse(
        409,
        'duplicate_job',
        'another job now has the unique key of this job',
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
  elsif queue.run_now(array[p_job_id], v_now) = 0 then
    perform queue.refuse(
      409,
      'invalid_state',
      format('a %s job cannot be retried', v_job.status),
      v_job.status
    );
  end if;
  if p_payload <> 'null' then -- validate the payload as in an enqueue
    v_job := queue.new_job(
      v_job.workspace_id,
      queue.caller(),
      queue.require_type(v_job.job_type),
      p_payload,
      '{}',
      v_now
    );
    update public.jobs
    set payload = p_payload, schema_version = v_job.schema_version
    where id = p_job_id;
    perform queue.append_event(array[p_job_id], 'job.edited', '{}', v_now);
    perform queue.check_live_bytes(v_job.workspace_id);
  end if;
  perform queue.wake_worker(v_now);
  return queue.job_json(queue.visible_job(p_job_id));
end;
$$;

comment on function public.retry_job is
  E'Run a failed or cancelled job again, or a delayed job now, optionally with another payload. '
  'Returns the job.\n\nFinished steps are kept. 409 in any other state, 429 job_busy while another '
  'transaction changes the job.';

select queue.allow('authenticated, service_role', 'public.retry_job');

-- Cancel or retry up to p_limit jobs that match a filter as in public.list_jobs, newest first. The
-- search for these jobs stops after two seconds. A filter without a state selects live jobs for a
-- cancellation, and failed jobs for a retry.
-- p_then_retry: True to retry the cancelled jobs (queue.cancel).
create or replace function queue.change_jobs(
  p_workspace_id uuid,
  p_filter jsonb,
  p_limit integer,
  p_cursor uuid,
  p_is_retry boolean,
  p_then_retry boolean default false
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
    when p_is_retry then '["failed", "cancelled", "scheduled", "retrying"]'
    else '["pending", "processing", "waiting", "queued", "scheduled", "retrying", "running",
      "suspended"]'
  end;
  v_filter jsonb := jsonb_strip_nulls(p_filter);
  -- limit the tokens of the caller's rate limit that the search of one call takes, so that the
  -- caller can repeat the call
  v_unpaid integer := queue.setting('user_enqueues_burst')::integer / 4;
  v_price integer;
  v_found record;
  v_ids uuid[] := '{}';
  v_count integer;
begin
  perform queue.may_manage(p_workspace_id);
  if p_filter ? 'workspace_id' then
    perform queue.refuse(
      400,
      'invalid_argument',
      'the filter must not contain workspace_id',
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
      'the call does not apply to jobs in the states ' || v_states::text,
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
    v_price := least(v_found.searched / 20, v_unpaid);
    v_unpaid := v_unpaid - v_price;
    perform queue.admit('rows', p_count => v_price);
    v_ids := v_ids || array(
      select j.id
      from unnest(v_found.ids) as f (id)
      join public.jobs as j on j.id = f.id
      where case
        when p_is_retry then j.finished_at is null or not exists (
          select from queue.job_keys as u
          where u.workspace_id = j.workspace_id
            and u.job_type = j.job_type
            and u.key = j.unique_key
            and u.is_unique
        )
        else j.finished_at is null
          and (
            j.cancel_requested_at is null
            or queue.retry_requested(j.id) <> p_then_retry
          )
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
    perform queue.admit('changes', p_workspace_id, p_count => cardinality(v_ids));
    perform queue.hold_jobs(v_ids);
    v_count := queue.retry(v_ids, v_now) + queue.run_now(v_ids, v_now);
    perform queue.wake_worker(v_now) where v_count > 0;
  else
    perform queue.cancel(v_ids, v_now, p_retry => p_then_retry);
    v_count := cardinality(v_ids);
  end if;
  return jsonb_build_object(
    'count', v_count,
    'more', p_cursor is not null,
    'cursor', p_cursor
  );
end;
$$;

create or replace function public.retry_jobs(
  p_workspace_id uuid,
  p_filter jsonb,
  p_limit integer default 1000,
  p_cursor uuid default null
)
returns jsonb
language sql
security definer
set search_path = ''
set enable_seqscan = off
set jit = off
as $$
select queue.change_jobs(p_workspace_id, p_filter, p_limit, p_cursor, true)
$$;

comment on function public.retry_jobs is
  E'Retry failed jobs that match a filter of list_jobs, at most p_limit (1,000): {count, more, '
  'cursor}.\n\nFor managers. A filter with the state cancelled retries cancelled jobs, and one '
  'with the state scheduled or retrying runs these jobs now. While more is true, call again with '
  'the cursor as p_cursor.';

select queue.allow('authenticated, service_role', 'public.retry_jobs');

-- Describe how a process ended, for example ' (SIGKILL, 1900 MB)'. Return an empty text if the
-- evidence has no signal, exit code or memory size.
create or replace function queue.process_end(p_evidence jsonb)
returns text
language sql immutable
set search_path = ''
as $$
select coalesce(
  ' (' || nullif(concat_ws(
    ', ',
    coalesce(
      replace(p_evidence ->> 'signal', 'SIGSTOP', 'after SIGSTOP'), -- it only stops a process
      'exit code ' || (p_evidence ->> 'exit_code')
    ),
    (p_evidence ->> 'memory_mb') || ' MB'
  ), '') || ')',
  ''
)
$$;

-- Return the time of a worker's last recorded call. Renewals change the worker's leases only.
create or replace function queue.called_at(p_worker queue.workers)
returns timestamptz
language sql stable
set search_path = ''
as $$
select greatest(
  p_worker.seen_at,
  max(l.expires_at - make_interval(secs => l.lease_seconds))
)
from queue.leases as l
where l.worker = p_worker.worker
$$;

-- Convert the expired leases of jobs to outcomes that queue.settle applies. A guilty job loses the
-- attempt, with the reason worker_lost. If there is evidence of how its process ended, the guilty
-- job is retried only after its backoff. Suspects and innocent jobs are released with the reason
-- process_died, and do not lose an attempt.
create or replace function queue.expired_items(p_ids uuid[], p_now timestamptz)
returns queue.worker_item[]
language sql
set search_path = ''
as $$
select coalesce(array_agg(
  jsonb_populate_record(
    null::queue.worker_item,
    jsonb_build_object(
      'job_id', l.job_id,
      'fence', l.fence,
      'outcome', case b.verdict
        when 'guilty' then 'lost'
        when 'suspect' then 'died'
        else 'released'
      end,
      'duration_ms', greatest(
        0, -- duration until the worker's last response
        date_part('epoch', l.expires_at - l.leased_at) - case
          when w.evidence is null then l.lease_seconds
          else 0
        end
      ) * 1000,
      'error', jsonb_strip_nulls(jsonb_build_object(
        'type', 'WorkerLost',
        'reason', case b.verdict when 'guilty' then 'worker_lost' else 'process_died' end,
        'worker_id', w.worker_id,
        'company', case when b.verdict <> 'innocent' then b.others end,
        -- the evidence without ids of jobs of other workspaces, and the number of all jobs in the
        -- process
        'evidence', w.evidence
          - '{guilty,companies,current_job}'::text[] -- earlier releases sent a list `guilty`
          || jsonb_build_object(
            'jobs_in_it', jsonb_array_length(w.evidence -> 'jobs'),
            'jobs', (
              select coalesce(jsonb_agg(j.id order by j.id), '[]')
              from public.jobs as j
              where j.workspace_id = l.workspace_id
                and j.id = any (array(
                  select e.id::uuid
                  from jsonb_array_elements_text(w.evidence -> 'jobs') as e (id)
                ))
            )
          ),
        'message', format(
          case b.verdict
            when 'innocent'
              then 'attempt %1$s does not count: the process of worker %2$s ended%3$s%4$s'
            when 'suspect' then 'attempt %1$s does not count: '
              || case
                when w.evidence is null then 'the last recorded call of worker %2$s was at %6$s,'
                else 'the process of worker %2$s ended%3$s'
              end
              || ' while it also ran %5$s; the job runs next alone, or with some of these jobs'
            when 'guilty' then case
              when w.evidence is null
                then 'attempt %1$s was lost: its lease expired; the last recorded call of worker '
                  '%2$s was at %6$s'
              else 'attempt %1$s was lost: the process of worker %2$s ended%3$s while the job ran'
            end
          end,
          l.attempt,
          w.worker_id,
          queue.process_end(w.evidence),
          coalesce(
            ' while code of the job type ' || (w.evidence ->> 'guilty_type') || ' ran',
            case when w.evidence ->> 'signal' <> 'SIGSTOP' then ' while its host stopped' end
          ),
          queue.other_jobs(b.others),
          to_char(c.at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS"+00"') || coalesce(
            to_char(
              queue.key_end(w, c.at) at time zone 'UTC',
              '", and its key expired at "YYYY-MM-DD HH24:MI:SS"+00"'
            ),
            ''
          )
        )
      ))
    )
  )
  order by l.job_id
), '{}')
from queue.leases as l
join queue.blame(p_ids, p_now) as b on b.job_id = l.job_id
left join queue.workers as w on w.worker = l.worker
cross join lateral (
  values (greatest(w.seen_at, l.expires_at - make_interval(secs => l.lease_seconds)))
) as c (at)
$$;

create or replace function public.get_job(p_job_id uuid)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
as $$
declare
  v_job constant public.jobs := queue.visible_job(p_job_id);
begin
  return queue.job_json(v_job)
    || jsonb_build_object(
      'streams', queue.streams_json(v_job.id),
      'glimpse', queue.glimpse_of(v_job.payload),
      'schedule', (
        select min(s.name)
        from queue.schedules as s
        where s.job_type = v_job.job_type
          and s.workspace_id = v_job.workspace_id
          and s.last_job_id = v_job.id
          and s.last_slot_at <= v_job.created_at -- an older job only has its unique key
      )
    );
end;
$$;

comment on function public.get_job is
  E'A job as JSON. 404 if the job does not exist or the caller may not see it.\n\nstreams: the '
  'position of each stream, {name: {attempt, next}}. job_output returns the output. glimpse: the '
  'first three simple values of the payload. schedule: the schedule of which this is the latest '
  'run, or null.';

select queue.allow('authenticated, service_role', 'public.get_job');

-- Convert a client's job filter to conditions of an SQL where clause. Return null for an empty job
-- filter. Raise an error for a job filter with an unknown name or value.
create or replace function queue.conditions_of(p_filter jsonb)
returns text
language plpgsql stable
set search_path = ''
as $$
declare
  c_conditions constant jsonb := jsonb_build_object(
    'status', 'p.status = any (array(select jsonb_array_elements_text(%L)))',
    'state', 'queue.state_of(p.status, p.attempts, p.next_retry_at, p.scheduled_for, %2$L)
      = any (array(select jsonb_array_elements_text(%1$L)))',
    'job_type', 'p.job_type = %L',
    'queue', 'p.queue = %L',
    'user_id', 'p.user_id = %L',
    'mine', '(p.user_id = %3$L or not %1$L::boolean)',
    'session_id', 'p.session_id = %L',
    'parent_id', 'p.parent_id = %L',
    'concurrency_key', 'p.concurrency_key = %L',
    'worker_id', '(select w.worker from queue.workers as w where w.worker_id = %L) in (
      select p.worker -- the first worker
      union all select l.worker from queue.leases as l where l.job_id = p.id
      union all select a.worker from queue.attempts as a where a.job_id = p.id)',
    'tag', 'p.tags @> array[%L]',
    'payload', 'p.payload @> %L',
    'created_after', 'p.created_at >= %L',
    'created_before', 'p.created_at < %L',
    'error', 'strpos(lower(queue.error_line(p.error_message, p.error_data)), lower(%L)) > 0',
    'error_fingerprint', '%L in (queue.fingerprint(p.error_message, p.error_data, p.job_type),
      queue.fingerprint(p.error_message, p.error_data))', -- as earlier releases returned it
    'internal', '(p.job_type in (select t.job_type from queue.job_types as t where t.in_order))
      = %L::boolean',
    'search', 'strpos(lower(concat_ws('' '', p.job_type, p.idempotency_key,
      case
        when p.error_message is not null then queue.error_line(p.error_message, p.error_data)
      end,
      array_to_string(p.tags, '' ''),
      case when pg_column_size(p.payload) <= 8192 then p.payload::text end,
      -- search job ids only for texts of six or more characters, because a shorter text would match
      -- many ids by chance
      case when length(%1$L) >= 6 then concat(p.id, '' '', replace(p.id::text, ''-'', '''')) end)
      ), lower(%1$L)) > 0'
  );
  v_wrong text := case
    when not '["pending", "processing", "waiting", "completed", "failed", "cancelled"]'
        @> (p_filter -> 'status')
      then 'status'
    when not '["queued", "scheduled", "retrying", "running", "suspended", "completed", "failed",
      "cancelled"]'
        @> (p_filter -> 'state')
      then 'state'
  end;
begin
  perform queue.check_names(
    p_filter,
    array(select jsonb_object_keys(c_conditions)) || '{workspace_id,ids}'::text[],
    'filter'
  );
  if v_wrong is not null then
    perform queue.refuse(
      400,
      'invalid_argument',
      format('unknown %s: %s', v_wrong, p_filter ->> v_wrong),
      v_wrong
    );
  end if;
  return (
    select string_agg(
      ' and ' || format(
        c.condition,
        case
          when c.name in ('status', 'state')
            then jsonb_path_query_array(p_filter -> c.name, '$[*]')::text -- one value, or a list
          else p_filter ->> c.name
        end,
        queue.clock(),
        queue.caller()
      ),
      ''
    )
    from jsonb_each_text(c_conditions) as c (name, condition)
    where p_filter ? c.name
  );
end;
$$;

-- Return the attempts of a job in the order of their starts.
-- p_is_open: True to include tracebacks, which contain source code.
create or replace function queue.attempt_lines(
  p_job public.jobs,
  p_limit integer,
  p_is_open boolean
)
returns jsonb
language sql stable
set search_path = ''
as $$
select coalesce(
  jsonb_agg(
    to_jsonb(e) - array[
      'job_id',
      'worker',
      'error_data',
      case when not p_is_open then 'traceback' end
    ] || jsonb_build_object(
      'worker_id', w.worker_id,
      'error_message', left(e.error_message, 1000),
      'error', left(queue.error_line(e.error_message, e.error_data), 1000),
      'has_traceback', e.traceback is not null,
      -- false if only the lease expired, so that the process may still run
      'process_ended', case when e.outcome in ('lost', 'died') then e.error_data ? 'evidence' end
    )
    order by e.fence
  ),
  '[]'
)
from (
  (
    select *
    from queue.attempts as a
    where a.job_id = p_job.id
    order by a.fence desc
    limit p_limit
  )
  union all
  select
    l.job_id,
    l.fence,
    l.attempt,
    l.worker,
    l.leased_at,
    null,
    null,
    null,
    null,
    null,
    null
  from queue.leases as l
  where l.job_id = p_job.id
  union all
  select
    p_job.id,
    p_job.fence,
    p_job.attempts,
    p_job.worker,
    p_job.started_at,
    p_job.finished_at,
    'completed',
    null,
    null,
    null,
    null
  where p_job.status = 'completed' and p_job.fence = 1
) as e
left join queue.workers as w on w.worker = e.worker
$$;

create or replace function public.job_trace(p_job_id uuid)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
as $$
declare
  v_most constant integer := 300;
  v_job constant public.jobs := queue.visible_job(p_job_id);
  v_ids constant uuid[] := array(
    with recursive tree as (
      select v_job.id, 0 as level
      union all
      select c.id, t.level + 1
      from tree as t
      cross join lateral (
        select j.id
        from public.jobs as j
        where j.parent_id = t.id
        order by j.id
      ) as c
      where t.level < 6
    )
    select t.id
    from tree as t
    limit v_most + 1
  );
begin
  perform queue.take_call_slot(v_job.workspace_id);
  return jsonb_build_object(
    'now', queue.clock(),
    'more', cardinality(v_ids) > v_most,
    'jobs', (
      select jsonb_agg(
        queue.job_json(j, true) || jsonb_build_object(
          'attempts', queue.attempt_lines(j, 100, false),
          'streams', case when t.nth = 1 then queue.stream_times(j.id) end,
          'steps', (
            select coalesce(
              jsonb_agg(to_jsonb(s) order by s.ended_at, s.name),
              '[]'
            )
            from (
              (
                select
                  t.name,
                  t.kind,
                  t.started_at,
                  t.created_at as ended_at,
                  null::timestamptz as timeout_at
                from queue.steps as t
                where t.job_id = j.id and t.nth = 0
                order by t.created_at desc
                limit 200
              )
              union all
              select l.step, 'step', l.step_started_at, null, null
              from queue.leases as l
              where l.job_id = j.id and l.step is not null
              union all
              select w.step, w.kind, w.created_at, null, w.timeout_at
              from queue.waits as w
              where w.job_id = j.id
            ) as s
          )
        )
        order by t.nth
      )
      from unnest(v_ids[:v_most]) with ordinality as t (id, nth)
      join public.jobs as j on j.id = any (array[t.id])
    )
  );
end;
$$;

comment on function public.job_trace is
  'Attempts, steps and waits of a job and its descendants, six levels deep, up to 300 jobs: {now, '
  'more, jobs}. The first job also has streams, the times of its output: [{stream, first_at, '
  'last_at}].';

select queue.allow('authenticated, service_role', 'public.job_trace');

-- Each row has a sentence and advice for one reason why a job or the queue makes no progress. A row
-- with the reason failed:<kind> has the advice for failed jobs whose error has this kind. The
-- column `command` omits the command's first word, `minutehand`. If `path` is null, the advice
-- links to the job's page in the console. queue.render_guidance replaces a placeholder such as
-- {job_type} by the value with this name. Square brackets contain alternative texts, separated by
-- |. queue.render_guidance keeps the first alternative for which no value is missing. A single
-- alternative is optional. Of several alternatives, one is required, and the last may be empty.
create or replace view queue.guidance as
select row_number() over () as id, a.*
from (
  -- name all columns, because a dump of the view would otherwise differ from the view
  select
    'failed:' || f.kind as reason,
    null as sentence,
    s.words,
    s.command,
    null as path
  from (
    values
      (
        'timeout',
        'The traceback shows the line where it waited. Give that call its own time limit, remove '
          'the cause of the wait, or give the type a longer `timeout`.'
      ),
      ('abandoned', null),
      ('lost', 'Whether its process ended is unknown. See the log of its worker.'),
      (
        'lost:kill',
        '[Its process had used up to {peak_mb} MB. |]The system sends SIGKILL if memory runs out, '
          'but a person, another program or its own code may have sent it. If memory ran out, give '
          'the worker more, or let the job use less.'
      ),
      (
        'lost:fault',
        '{code} usually comes from a library in C. Update the library, or avoid the call.'
      ),
      (
        'lost:signal',
        'Its own code, another program or the system sent {code} to its process. Correct that.'
      ),
      (
        'lost:blocked',
        'A call blocked the event loop until the worker ended the process. Run the call in a '
          'thread (`asyncio.to_thread`), or write the processor without `async`. A slow regular '
          'expression or other code in C can block in a thread too: run it in another process.'
      ),
      (
        'lost:exit',
        'Its process ended itself ({code}), usually by a call in its code. Remove the call.'
      ),
      (
        'killed',
        'A program that it started was killed by {signal}. If memory ran out, give the worker '
          'more, or let the program use less.'
      ),
      (
        'variable',
        'Set the environment variable {code} for the worker: in the file of `serve --env-file`, or '
          'for `minutehand dev` and AWS by `lambda.yml` (`minutehand docs recipes`). Start the '
          'worker again.'
      ),
      ('machine', 'The database ran out of a resource ({code}). Free some of it.'),
      (
        'files',
        'The process reached its limit of open files ({code}). Close the files and connections '
          'that its code no longer uses, or raise the limit (`ulimit -n`).'
      ),
      (
        'disk',
        '[The file system of {error_path}|A file system] on the machine of the worker has no space '
          'left ({code}). Free some of it.'
      ),
      (
        'disk_quota',
        'The disk quota of the worker is used up[ at {error_path}] ({code}). Free some of it, or '
          'raise it.'
      ),
      (
        'memory',
        'Its process could not allocate memory. Give the worker more memory, or let the job use '
          'less.'
      ),
      (
        'prepared',
        'Its connection has lost a prepared statement ({code}), as with a pooler in transaction '
          'mode. Turn prepared statements off in the driver, or connect in session mode.'
      ),
      (
        'lock',
        'It waited too long for a lock of another session ({code}). `minutehand status` names '
          'sessions with a long transaction. End that session if no one needs it, or wait for its '
          'end.'
      ),
      (
        'contention',
        'It conflicted with another transaction ({code}). If this returns, take locks in one '
          'order, and briefly.'
      ),
      (
        'schema',
        'The database lacks an object that its query or call names ({code}). Apply the migration '
          '(for Minutehand, see `minutehand doctor`), or fix the query.'
      ),
      ('result', 'The result that the processor returned was rejected. Fix the code, and deploy.'),
      (
        'rejected',
        '[Its processor had finished{had_finished}, and a retry runs it again. ]Correct the '
          'trigger, constraint or value that caused the error. The doctor names a trigger that '
          'rejects all changes.'
      ),
      ('credentials', 'Fix the credentials, which were rejected ({code}).'),
      (
        'forbidden',
        '[{address}|The server] refused the call ({code})[; its answer says why{has_answer}]. '
          'Correct the cause, for example the rights of the credentials.'
      ),
      (
        'grant',
        '[The policies of {policed} rejected a row ({code}). Correct the row or the policies.|The '
          'role of the connection, or the owner of a `security definer` function that it calls, '
          'lacks a right on {object} ({code}). ][If a function of yours uses {own_object}, which '
          'belongs to Minutehand, make it `security definer` (`minutehand docs own-data`). '
          'Otherwise call the functions of Minutehand, whose rights `minutehand doctor` '
          'checks.|If {shared_object} '
          'belongs to Minutehand, call its functions instead. Otherwise grant that role the right.|'
          'Grant that role the right{is_granted}. If the table has row level security, the role '
          'also needs a policy, without which its reads are empty.|]'
      ),
      (
        'value',
        'The database rejected a value ({code}). Fix the value, or apply the migration that allows '
          'it.'
      ),
      (
        'statement',
        'The database cancelled a statement ({code}). If it took too long, make it faster or raise '
          '`statement_timeout`.'
      ),
      ('request', 'Fix the request that was rejected ({code}).'),
      (
        'slow',
        'A call[ to {address}] took longer than its time limit ({code}). Raise the limit, or fix '
          'what the call waits for.'
      ),
      (
        'unavailable',
        'The connection to [{address}|the other service] failed. Correct what the error names, for '
          'example the address, the password, a TLS setting or a limit of connections.'
      ),
      (
        'unavailable:error',
        '[{address}|The other service] could not serve the request ({code}). See its log or status '
          'page.'
      ),
      (
        'unavailable:closed',
        '[{address}|The other service] closed or rejected the connection ({code}). See whether it '
          'restarts.'
      ),
      (
        'unavailable:port',
        'Check that [{address}|the other service] is up and accepts connections from the workers '
          '({code}), or correct its address.'
      ),
      (
        'unavailable:route',
        '[{address}|Its address] cannot be reached ({code}). Check the address and the network of '
          'the worker.'
      ),
      (
        'unavailable:name',
        'The host name [{address}|in its address] cannot be resolved ({code}). Check the name and '
          'the DNS server.'
      ),
      (
        'unavailable:certificate',
        'The certificate of [{address}|the other service] was rejected ({code}). Renew it, or let '
          'the worker trust its issuer.'
      )
  ) as f (kind, words)
  cross join lateral (
    values
      (f.words, null),
      ('Then [run{is_delayed} the job now|retry {failed}].', 'retry {job_id}')
  ) as s (words, command)
  union all -- advice for several reasons, before the other advice for one of these reasons
  select r as reason, null as sentence, s.words, s.command, s.path
  from (
    values
      (
        '{no_worker, no_processor, not_leased, next_in_line, behind_others, long_line, suspect,
          rate_limited, due, passed_over, running, cancelling, lease_expired, worker_died,
          silent_worker}'::text[],
        '[All worker keys were revoked at {revoked_at}|The key of worker {worker_id} was revoked '
          'at {key_revoked_at}]. Set `SUPABASE_WORKER_KEY` of the workers to a new key:',
        'token worker',
        '/overview'
      ),
      (
        '{no_worker, no_processor, running, lease_expired, silent_worker, expired_key}',
        'Set `SUPABASE_WORKER_KEY` of the workers to a key that is valid after {key_expired_at}:',
        'token worker',
        '/overview'
      ),
      (
        '{key_limit, workspace_type_limit, workspace_limit, type_limit, rate_limited, no_slot}',
        'If it must not wait for jobs with a smaller priority ({smaller}), enqueue it again with a '
          'smaller priority.',
        null,
        null
      ),
      (
        '{key_limit, workspace_type_limit, workspace_limit, type_limit, no_slot}',
        '[Job {parent} is its parent. If the parent waits for it without `ctx.gather` or '
          '`ctx.map`, neither ends: cancel the parent, and fix its code.|Wait for job {holder}. '
          'See whether it still works:]',
        'explain {holder}',
        '/jobs/{holder}'
      ),
      (
        '{no_worker, no_processor, not_leased, next_in_line, behind_others, long_line, suspect,
          rate_limited, due, passed_over, running, cancelling, lease_expired, worker_died,
          silent_worker, sleeping, scheduled, snoozed}',
        'No job can start or end, because the database rejects writes{is_read_only}. See how to '
          'end this:',
        'status',
        '/overview'
      ),
      (
        '{lease_expired, worker_died}',
        'Nothing to do until {patience_until}, if a worker runs: its maintenance reclaims the job '
          'before then. See what happened to its worker:',
        'show {job_id}',
        null
      ),
      (
        '{recursion, recursive_type}',
        'If {recursions} generations are too many, pause the type, cancel its jobs, and correct '
          'the code.',
        'pause --type {job_type} --workspace {workspace_id}',
        '/types/{job_type}'
      ),
      (
        '{locked, open_transaction, blocking_session}',
        '[Check whether these triggers of jobs or logs take long: {triggers}.|Wait for the end '
          'of its call of {call}.|End that session if no one needs it: `select '
          'pg_terminate_backend({pid})`.]',
        null,
        '[/jobs/{job_id}|/overview]' -- Overview may not show a session that has locked one row
      ),
      (
        '{full_workspace, full_of_bytes}',
        'Wait until jobs have ended, or cancel those that are not needed.',
        'ls',
        '/jobs'
      ),
      (
        '{wrong_disk_size}',
        'Set it to the size of the disk (`set_settings`).',
        null,
        '/overview'
      ),
      (
        '{disk_filling, disk_nearly_full}',
        'Enlarge the disk and set its new size (`set_settings`, `disk_bytes`), or delete data, for '
          'example by keeping ended jobs for fewer days (`retention_days`).',
        null,
        '/overview'
      ),
      (
        '{service_full, service_locked, wrong_clock, late_events, workers_lack_right}',
        'Notify the operator of the service.',
        null,
        '/overview'
      )
  ) as s (reasons, words, command, path)
  cross join unnest(s.reasons) as r
  union all
  values
    (
      'cancelled:start_by',
      null,
      'Retry the job when that reason has gone. A retried job has no latest start time.',
      'retry {job_id}',
      null
    ),
    (
      'failed',
      'It failed at {finished_at}, because it had not started by its deadline, {deadline_at}. The '
        'reason at that time: {waited}',
      null,
      null,
      null
    ),
    (
      'failed',
      'It failed at {finished_at}[ after {used} of {max_attempts} attempts]: {error_line}',
      'Correct [the code, a setting or the data at {place}, where one of {these} failed|the code, '
        'a setting or the data at {place}|what the error names].',
      null,
      null
    ),
    (
      'failed',
      null,
      'Then [run{is_delayed} the job now|retry {failed}]. Finished steps are kept.',
      'retry {job_id}',
      null
    ),
    (
      'failed:child',
      null,
      'Follow the advice of {cause_type}, the first descendant that failed, and retry it. Then '
        'retry this job.',
      'show {child}',
      '/jobs/{child}'
    ),
    (
      'failed:deadline',
      null,
      'Enqueue a copy[ when that reason has gone{was_held}]. A copy has no deadline.',
      'replay {job_id}',
      null
    ),
    (
      'failed:payload',
      null,
      'Its payload has version {version}, and the type has version {type_version}. Write the '
        'upcaster between them, deploy, then retry the job.',
      'retry {job_id}',
      '/types/{job_type}'
    ),
    (
      'failed:payload',
      null,
      '[Worker {old_worker}, which rejected it, still runs {old_version} beside the newest '
        'version. Stop that worker, then retry the job.|Retry the job with a payload that fits the '
        'type, or give new fields of the type a default. If the worker is older than the payload, '
        'deploy the worker.]',
      'retry {job_id} --payload @payload.json',
      null
    ),
    (
      'failed:rate',
      null,
      'If a quota of [{address}|the other service] is used up, raise it there. If the calls come '
        'too fast, set a lower `rate_limit` of the type.',
      null,
      '/types/{job_type}'
    ),
    (
      'failed:rate',
      null,
      'Then [run{is_delayed} the job now|retry {failed}].',
      'retry {job_id}',
      null
    ),
    (
      'refused',
      'The database cannot change the job''s row. The change is retried at {retry_at}.',
      '[Restore the missing object{is_missing}. The doctor has the statement if it is part of '
        'Minutehand|End the transaction that keeps the lock{is_locked}|Fix the trigger or '
        'constraint that rejects the change], then wait.',
      '[doctor{is_missing}|explain {job_id}]',
      null
    ),
    (
      'passed_over',
      'It has been due since {run_at}, but maintenance [has not run since {maintained_at}|has '
        'skipped it].',
      'See why maintenance does not run, or skips the job.',
      'doctor',
      '/overview'
    ),
    (
      'cancelling',
      'It was asked to stop at {cancel_requested_at}[ {cancelled_by}]. Worker {worker_id} gets the '
        'request with its next report.[ The last recorded call of the worker was at '
        '{missed_since}.| The worker has not renewed the lease since {late_since}.|][ The request '
        'also asks for a retry{is_retried}.]',
      'Nothing to do until {expires_at}. If its worker has not stopped it or renewed its lease by '
        'then, the next maintenance ends it.',
      'watch {job_id}',
      null
    ),
    (
      'running',
      '[Its processor ended at {unstored_since}, but its outcome is not stored yet|Silent for '
        '{silent}, since {sign}|Last known update {age} ago ({last})|Last known update '
        '{age} ago|Worker {worker_id} has been running it since {leased_at}][, {seen}].[ It has '
        'run since {run_since}.][ In the last 24 hours, 99 % of {of_jobs} of its type ran for '
        '{typical} or less.| In the last 24 hours, {of_jobs} of its type ran for {longest} or '
        'less.|][ {alike} running jobs of its type are silent at this line.][ The last recorded '
        'call of its worker was at '
        '{missed_since}.| The worker has not renewed its lease since {late_since}.| Its worker '
        'last reported at {reported_at}.| Its worker has not reported on it since '
        '{unreported_since}.|][ The key of the worker expired at {key_expired_at}.| The key of the '
        'worker was revoked at {key_revoked_at}.|][ {death}. It runs with {beside} of them and '
        'nothing else.| {death}. It runs alone.|][ An earlier process of it ended while {killer} '
        'ran in it.][ The role job_worker lacks a right (`{not_granted}`), so its outcome is not '
        'stored.| Its worker lacks {a_right}, so its outcome is not stored.|][ One call of its '
        'processor runs it and {batched}.| It waits for {next_call}.|][ It waits for the program '
        '{program}.][ Its own code has blocked the event loop of the worker for {blocked} within a '
        'minute.][ Its child {kept_child} waits for a slot or limit that it uses.][ Its database '
        'session (pid {pid}) waits for a lock of the session with pid {blocker}.][ Session '
        '{own_blocker} belongs to the same job.][ The process has grown by {grown_mb} MB.]',
      '[Grant the right: `grant {not_granted} to job_worker`.|Notify the operator of the service, '
        'because the worker lacks {a_right}.|Wait for the end of {call}, which session {blocker} '
        'runs.|In code, commit that session before the call at {place}. To end this attempt: '
        '`select pg_terminate_backend({own_blocker})`.|Commit or end that session: `select '
        'pg_terminate_backend({blocker})`.|Nothing to do until {expires_at}. '
        'The job runs again when a worker has a key that was issued after {key_revoked_at}.|If the '
        'process of the worker has hung since {missed_since}, end it. The job then runs again at '
        'the latest after {expires_at}.|See in the log of worker {worker_id} why it is not stored, '
        'and whether these triggers of jobs or logs take long: {triggers}.|See in the log of '
        'worker {worker_id} why it is not stored since {unstored_since}.|If a job of this worker '
        'blocked its event loop after {late_since}, run that call with `asyncio.to_thread`.|If it '
        'waits for job {kept_child} without `ctx.gather` or `ctx.map`, it keeps a slot that its '
        'child needs: cancel it, and fix its code.|Find the code that runs long without an '
        '`await`{is_blocking}, for example near {place}, and run it with `asyncio.to_thread`, or '
        'write the processor without `async`.|Find out what the call{is_silent} at {place} waits '
        'for, and give it a time limit before any retry: an earlier attempt is still stuck in '
        'worker {stuck_in}, and each retry can leave one more.|Find out what the call{is_silent} '
        'at {place} waits for, and give it a time limit. Then cancel and retry the job if it '
        'hangs. Finished steps are kept. Then give the type a `timeout` below {shorter} if such '
        'calls should end earlier.|Find out what the call{is_silent} at {place} waits for, and '
        'give it a time limit. Then cancel and retry the job if it hangs. Finished steps are '
        'kept.|If {usual} should suffice, check the code at {place}.|If worker '
        '{worker_id} has not reported on it by {unreported_until}, see its log.|Nothing to do.]',
      'watch {job_id}',
      '/types/{job_type}'
    ),
    ('outlook', 'If it still runs at {times_out_at}, {after}.', null, null, null),
    (
      'running',
      null,
      'If the growth by {grown_mb} MB is too much, see which of the jobs of worker {worker_id} '
        'keeps objects. This job is at {place}.',
      'ls --state running',
      '/jobs?state=running'
    ),
    (
      'stopped',
      'Workers that ran it were stopped {stops} before it ended, usually by SIGTERM, the last at '
        '{last_at}.',
      'See what stops the workers, for example a deploy or a health check.',
      'workers',
      '/types/{job_type}'
    ),
    (
      'stopped_jobs',
      'Jobs whose workers were stopped again and again before they ended, usually by SIGTERM: at '
        'least {jobs}, the first stop at {since}.',
      'See what stops the workers, for example a deploy or a health check. One of the jobs:',
      'explain {job_id}',
      null
    ),
    (
      'abandoned',
      'Its processor has not reacted to the stop, and still runs, abandoned, in worker {worker_id} '
        'at {place}.',
      'Restart worker {worker_id} to end it. In code, [give the call at {thread_place} a time '
        'limit, because its thread can stop only when the call returns|do not catch the stop '
        '(`asyncio.CancelledError`), or give the call at {place} a time limit].',
      'workers',
      '/types/{job_type}'
    ),
    (
      'sleeping',
      'It sleeps until {until}.',
      'Nothing to do until [{early_deadline}. It fails then|{until}. It continues then].',
      'watch {job_id}',
      null
    ),
    (
      'asking',
      'It has waited since {since} for an answer to: {question}',
      'Answer it.',
      'answer {job_id} ANSWER',
      null
    ),
    (
      'waiting_for_event',
      'It has waited since {since} for the event {event}.[ An event with the similar name '
        '{nearest} was emitted.]',
      'Emit {event}: '
        '`select public.emit_event(…)`, or POST /api/events.',
      'docs sql',
      null
    ),
    (
      'waiting_for_children',
      'It has waited for its children since {since}.[ The first that has not ended is '
        '{holder_type} {holder} ({holder_state}).]',
      'See why this child has not ended.',
      'explain {holder}',
      '/jobs/{holder}'
    ),
    (
      'due',
      'It has been due since {run_at} and joins the queue with the next maintenance.',
      'Nothing to do until {patience_until}. After that:',
      'doctor --only schedule',
      '/overview'
    ),
    (
      'scheduled',
      'It is scheduled for {run_at}.[ It was created at {created_at}, and an enqueue with '
        'its unique key last changed it at {changed_at}.]',
      '[Run it now, or it fails at {early_deadline}.|If enqueues with its key {changed_key} '
        'postpone it too often, send fewer of them, or run it now.|Run it now.]',
      'retry {job_id}',
      null
    ),
    (
      'snoozed',
      'Its processor snoozed it until {run_at}[, {times} since {first_at}].',
      '[If {times} is too often, check the condition on which its code returns `Snooze`. Otherwise '
        'run it now.|Run it now.]',
      'retry {job_id}',
      null
    ),
    (
      'job_type_paused',
      'The job type {job_type} has been paused since {paused_at}.',
      'An operator can resume the type.',
      'resume --type {job_type}',
      '/types/{job_type}'
    ),
    (
      'queue_paused',
      'The queue {queue} has been paused since {paused_at}.',
      'An operator can resume the queue.',
      'resume --queue {queue}',
      '/types'
    ),
    (
      'workspace_paused',
      'The workspace[ {which}] has been paused since {paused_at}.',
      'A manager of the workspace can resume it.',
      'resume --all[ --workspace {which}]',
      '/overview'
    ),
    (
      'workspace_type_paused',
      'The job type {job_type} has been paused in the workspace since '
        '{paused_at}.',
      'A manager of the workspace can resume the type.',
      'resume --type {job_type}[ --workspace {which}]',
      '/types/{job_type}'
    ),
    (
      'no_worker',
      'No call of a worker has completed[ since {since}].[ The key of the last worker expired at '
        '{key_expired_at}.]',
      'If none runs, start one with `minutehand dev` or `minutehand serve`. On AWS, check the '
        'schedule. If one runs, see in its log or with `minutehand doctor` why its calls fail.',
      'doctor',
      '/overview'
    ),
    (
      'late_worker',
      'The workers that serve it began their runs at {started_at} or later, and it had to start by '
        '{must_start_by}.',
      'If no worker ran before, see why.',
      'workers',
      '/types'
    ),
    (
      'no_processor',
      'No worker serves {unpublished}. It has waited since {since}[, with {others} of its type].'
        '[ Workers serve: {served}.]',
      'Fix this in code or settings, and deploy: {refusal}',
      'types {job_type}',
      '/types/{job_type}'
    ),
    (
      'no_processor',
      'No worker serves {types}: {count} {wait} since {since}.[ Did you mean {nearest}?]',
      'If the name is misspelt, enqueue again as {nearest}, the nearest name that a worker has, '
        'and cancel what has the wrong name.',
      'cancel {job_id}',
      null
    ),
    (
      'no_processor',
      'No running worker serves the job type {job_type} in the queue {queue}.[ It waits with '
        '{others} of its type.][ Worker '
        '{last_worker}{process_end} served it, and its last recorded call was at {last_seen}.][ '
        'Workers serve: {served}.][ The key of its last worker expired at {key_expired_at}.]',
      '[Workers that have {job_type} serve only other queues. Start one with `minutehand serve '
        '--queue {not_served}`, or for all queues.|If a deploy removed {once_served}, deploy '
        'it again. Otherwise start its worker again.|Otherwise, write '
        '`@processor("{job_type}")` and deploy{is_near}. If that is deployed, check whether the '
        'code loads:|Write `@processor("{job_type}")` and deploy. If that is deployed, check '
        'whether the code loads:]',
      '[types {once_served}|doctor --only processors]',
      '[/jobs?state=queued&job_type={only_type}|/types]'
    ),
    (
      'key_limit',
      'The concurrency limit of its key {own_key} is used up: {running} of {limit}[, held by job '
        '{holder} ({holder_state})].',
      'If more may run at a time, raise `key_concurrency` of {own_type} in code, and deploy.',
      null,
      '/types/{job_type}'
    ),
    (
      'internal_key',
      'Jobs of {job_type}, which the platform itself enqueues, wait for an earlier job of the same '
        'receiver.',
      'See why the earlier jobs have not ended.',
      'ls --type {job_type} --search {receiver}',
      '/jobs?job_type={job_type}&search={receiver}'
    ),
    (
      'internal_limit',
      'Jobs of {job_type}, which the platform itself enqueues, wait for running ones to end.',
      'See which of them run, and why they take long.',
      'ls --type {listed_type} --state running',
      '/jobs?job_type={listed_type}&state=running'
    ),
    (
      'workspace_type_limit',
      'The concurrency limit of its type in the workspace is used up: {running} of {limit} run[, '
        'the longest is job {holder}, since {held_since}].',
      'If more may run at a time, raise `workspace_concurrency` in code, and deploy.',
      'ls --state running --type {job_type}',
      '/jobs?state=running&job_type={job_type}'
    ),
    (
      'workspace_limit',
      'The concurrency limit of the workspace is used up: {running} of {limit} run[, the longest '
        'is {holder_type} {holder}, since {held_since}].',
      'If more may run at a time, raise the lower of `max_running` (operators) and '
        '`own_max_running` (managers).',
      'ls --state running',
      '/jobs?state=running'
    ),
    (
      'type_limit',
      'The concurrency limit of its type is used up[ by {others}]: {running} of {limit} run[, the '
        'longest is job {holder}, since {held_since}].',
      'If more may run at a time, raise `max_concurrency` in code, and deploy.',
      'ls --state running --type {listed_type}',
      '/jobs?state=running&job_type={listed_type}'
    ),
    (
      'rate_limited',
      'The rate limit of {limit} starts per {per_seconds} s is used up. It can start at '
        '{estimated_start_at} at the earliest.',
      'Nothing to do until {estimated_start_at} if this rate is intended. Otherwise raise it in '
        'code, and deploy.',
      'types {job_type}',
      '/types/{job_type}'
    ),
    (
      'suspect',
      '{death}[, while {killer} ran in it]. It runs [next, with {beside} of them and nothing '
        'else|alone next].',
      'Nothing to do until {patience_until}. A worker that runs no jobs starts it. After that:',
      'doctor',
      '/overview'
    ),
    (
      'suspect',
      null,
      'It has been ready since {late_since}. Start another worker if all workers of its type run '
        'other jobs.',
      'doctor',
      '/overview'
    ),
    (
      'next_in_line',
      'It is the next job of its workspace, and starts when [a worker that serves it runs again. '
        'The last run ended at {ended_at}|one of {slots} slots is free. All are in use by jobs of '
        '{used_by}|a worker with a free slot leases jobs].[ The last call of such a worker was at '
        '{silent_since}.]',
      'Nothing to do until {patience_until}. After that:',
      'doctor',
      '/overview'
    ),
    (
      'no_slot',
      'Jobs of {used_by} use all {slots} slots of the workers that serve it, and none has become '
        'free since {full_since}.[ The longest is {holder_type} {holder}, since {held_since}.]',
      'If they still work, start another worker, or give the workers more slots: '
        '`WORKER_THREADS` for functions without `async`, otherwise `WORKER_CONCURRENCY`.',
      'doctor',
      '/overview'
    ),
    (
      'not_leased',
      'It has been ready since {ready_at}. [The role {without_right} lacks a right '
        '(`{lacked}`), so workers with this role lease nothing|Workers lack {a_right}, so '
        'they lease nothing|The workers that serve it '
        'use {running} of {slots} slots, but have leased nothing since {leased_at}|The workers '
        'that serve it have leased nothing since {leased_at}|No worker that serves it runs{yet}|'
        'Workers that serve it have not leased it].[ They were last seen at {seen_at}.]',
      '[Grant the right: `grant {lacked} to {without_right}`.|Notify the operator of the service, '
        'because workers lack {a_right}.|Nothing to do if a worker that serves it is starting{yet}.'
        ' Otherwise start one.|If they have hung since {silent_since}, end their processes. '
        'Otherwise check their rights and logs.|Check their rights and logs.]',
      'doctor',
      '/overview'
    ),
    (
      'not_leased',
      null,
      'Check whether these triggers of jobs or logs take long: {triggers}.',
      null,
      '/overview'
    ),
    (
      'behind_others',
      'Jobs of {job_type} in its workspace that are ahead of it: [{at_least} or more|{ahead}][, '
        '{smaller} of them because their priority is smaller].[ All {slots} slots are in use by '
        'jobs of {used_by}.][ No worker that serves it runs. The last run ended at {ended_at}.][ '
        'The last call of such a worker was at {silent_since}.]',
      '[If it must start by {must_start_by}, start another worker, or enqueue it with a smaller '
        'priority.|Nothing to do until {patience_until}. A worker starts it after them. A smaller '
        'priority goes first.]',
      'ls --state queued --type {job_type}',
      '/jobs?state=queued&job_type={job_type}'
    ),
    (
      'unplaced',
      'It is in no table of waiting jobs, so no worker finds it.',
      'Notify the operator of the service, or repair it:',
      'doctor',
      '/overview'
    ),
    (
      'long_line',
      'It has been ready since {ready_at}, with {ahead} jobs of its workspace ahead of it.[ All '
        '{slots} slots are in use by jobs of {used_by}.]',
      'If all slots are in use, start another worker, or give the workers more slots.',
      'status',
      '/overview'
    ),
    (
      'read_only',
      'The database rejects writes, because default_transaction_read_only is on.[ The disk is '
        '{percent} % full, and Supabase sets it when the disk is full.]',
      '[Run `begin; set transaction read write; {reset}; commit`. If the dashboard of Supabase '
        'shows a full disk, enlarge the disk first.|See in the dashboard of Supabase whether the '
        'disk is full. If it is, enlarge it. Otherwise turn default_transaction_read_only off, '
        'whose value comes from the {source}.|Free the disk{is_full}. Run `begin; set transaction '
        'read write; select public.set_settings(''{"retention_days": {"completed": 7, '
        '"cancelled": 7, "failed": 7}}''); select public.run_maintenance(''{"budget_ms": '
        '5000}''); commit` while it has more. Then run `vacuum full queue.job_events, '
        'public.job_logs, public.jobs`.]',
      null,
      '/overview'
    ),
    (
      'overdue',
      'A job has been due since {since}.[ Jobs of {used_by} use all slots of the workers that '
        'serve it.| No limit holds it.]',
      'See why it waits.',
      'explain {job_id}',
      null
    ),
    (
      'refused_type',
      'A worker cannot use its code of {types}.',
      'Fix its code or settings, and deploy.',
      'types {job_type}',
      '/types/{job_type}'
    ),
    (
      'late_schedule',
      'The schedule {schedule} {problem}.',
      'Check the schedule and its type.',
      null,
      '/schedules'
    ),
    (
      'unserved_schedule',
      'The schedule {schedule} enqueues jobs of {job_type}, but no worker serves that type.',
      'If the name is misspelt, change it to {nearest}, the nearest name that a worker has.',
      null,
      '/schedules'
    ),
    (
      'unserved_schedule',
      null,
      'Deploy a worker that has {job_type}, or turn the schedule off.',
      'types',
      '/schedules'
    ),
    (
      'waiting_schedule',
      'The run of the schedule {schedule} at {since} enqueued no new job, because job {job_id} has '
        'the same unique key and has not started.',
      'See why that job waits.',
      'explain {job_id}',
      null
    ),
    (
      'full_workspace',
      'The workspace[ {which}] has at least {jobs} live jobs, and its limit is {limit}. Enqueues '
        'by people are rejected.',
      'Or let an operator raise the limit: `select '
        'public.set_workspace_limits(''{workspace_id}'', ''{"max_pending": {more}}'')`.',
      null,
      '/overview'
    ),
    (
      'full_of_bytes',
      'The live jobs of the workspace[ {which}] store {live}, and the limit is {limit}. Enqueues '
        'by people with payloads above 2 kB are rejected.',
      'Or let an operator raise the limit: `select '
        'public.set_settings(''{"user_pending_bytes_max": {more}}'')`.',
      null,
      '/overview'
    ),
    (
      'full_of_schedules',
      'The workspace has {limit} schedules, so new schedules are rejected.',
      'Delete some. Or let an operator raise the limit: `select '
        'public.set_settings(''{"schedules_max": {more}}'')`.',
      'schedules',
      '/schedules'
    ),
    (
      'rate_used_up',
      'People who used up their limit of {per_second} changes per second in the last minute: '
        '{people}. Calls above this rate are rejected with the code rate_limited.',
      'Enqueue more slowly, or as the service. Or let an operator raise the limit: `select '
        'public.set_settings(''{"user_enqueues_per_second": {more}}'')`.',
      null,
      '/overview'
    ),
    (
      'no_retention',
      'Jobs are deleted within minutes of their end ({states}), because their `retention_days` are '
        '0.',
      'To keep them, let an operator raise the setting, for example to: `select '
        'public.set_settings(''{"retention_days": {longer}}'')`.',
      null,
      '/overview'
    ),
    (
      'unanswered',
      'Jobs that have waited for an answer for more than a day: {jobs}, the first since {since}.',
      'Answer the first question.',
      'answer {job_id} ANSWER',
      null
    ),
    (
      'failing_maintenance',
      'Maintenance fails.',
      'Fix the cause. Maintenance is retried within an hour. The doctor finds a damaged engine:',
      'doctor --only engine',
      '/overview'
    ),
    (
      'missing_right',
      'Workers with the role job_worker lack a right (`{right}`).',
      'Grant the right: `grant {right} to job_worker`.',
      null,
      '/overview'
    ),
    (
      'two_codes',
      'Workers run different versions of the code: {codes}[; {newest} is of the newest deploy].',
      'Stop the workers of the older version, unless they are about to end. The newer deploy sets '
        'the options of a type.',
      'types {job_type}',
      '/types/{job_type}'
    ),
    (
      'clock_skew',
      'The clock of worker {worker_id} is [{ahead} s ahead of|{behind} s behind] the database''s '
        'clock.',
      'Set the clock of its machine: `timedatectl set-ntp true`. Requests fail if their token '
        'seems to be expired.',
      null,
      '/overview'
    ),
    (
      'ends_process',
      'The last {ended} jobs of {job_type} ended their process[, with the code of commit '
        '{commit}].',
      'An operator can pause the type until its code is fixed. Jobs that wait: {jobs}.',
      'pause --type {job_type}',
      '/types/{job_type}'
    ),
    (
      'no_success',
      'No job of {job_type} has completed in the last hour, but attempts have failed or been '
        'snoozed: {attempts}.',
      'See why they fail or wait.',
      'ls --type {job_type}',
      '/jobs?job_type={job_type}'
    ),
    (
      'silent_jobs',
      '{count} of [{many} are silent, the longest|{job_type} has been silent] since {since}[, '
        'each {all_seen}|, {shared}|].',
      '[The first was last seen {seen}. ][The code of the first has blocked the event loop for '
        '{blocked} within a minute: run it with `asyncio.to_thread`.|Find out what the call '
        '{shared} waits for, and give it a time limit.|Find out what the call that hangs waits '
        'for, and give it a time limit.] [Of the jobs of {many}, the one silent the longest|The '
        'job]:',
      'explain {job_id}',
      '/jobs/{job_id}'
    ),
    (
      'silent_jobs',
      null,
      'Then cancel and retry [those of {many} that hang|the job if it hangs]. Finished steps are '
        'kept. Jobs of {job_type} count as silent {limit} after their last update.',
      null,
      '[/jobs?state=attention&job_type={many}|/jobs/{job_id}]'
    ),
    (
      'retrying_jobs',
      '[{at_least}]{count} of {job_type} are retrying: {error}. Attempts used: {used}[, the next '
        'due from {next_at} to {last_at}|, the next due at {next_at}|]. The first job started at '
        '{since}.',
      'Then run these jobs now, or wait.',
      null,
      '/jobs?state=retrying&job_type={job_type}'
    ),
    (
      'silent_worker',
      'The last recorded call of worker {worker_id} was at {since}, and it has not renewed its '
        'leases in time.[ Its key expired at {key_expired_at}.| Its key was revoked at '
        '{key_revoked_at}.|] Jobs that it runs: {jobs}.',
      'See its log. If its process hangs, end it. Its jobs then run again at the latest after '
        '{expires_at}.',
      'workers',
      '/types'
    ),
    (
      'used_up_connections',
      '{used} of {limit} database connections are in use, and the last {reserved} are reserved. '
        '{holder} has the most: {sessions}.',
      'Give it a smaller pool.[ To end its idle sessions: `select pg_terminate_backend(pid) from '
        'pg_stat_activity where {idle}`.]',
      null,
      '/overview'
    ),
    (
      'suspects_wait',
      'Jobs whose worker was lost wait for a worker that runs nothing else: {jobs}, the first '
        'since {since}.',
      'Start another worker if all workers of these job types run other jobs.',
      'explain {job_id}',
      null
    )
  union all
  select s.reason, s.sentence, null as words, null as command, null as path
  from (
    values
      ('completed', 'It completed at {finished_at}.'),
      (
        'backing_off',
        'Attempt {attempts} of {max_attempts} failed ({error_line}). It is retried at {run_at}.'
      ),
      (
        'expired_key',
        'The key of worker {worker_id} expired at {key_expired_at}, and its last recorded call was '
          'at {since}. Whether it still runs is unknown. Other workers serve its job types.'
      ),
      (
        'cancelled',
        'It was cancelled at {finished_at}[, because it had not started by {start_by_at}.| by its '
          'processor: {cancelled_for}| {cancelled_by}.|.][ The request also asked for a retry, '
          'which was not done{is_retried}.][ The reason at that time: {waited}]'
      ),
      (
        'recursion',
        'Of its {levels} nearest ancestors, {recursions} are jobs of {job_type} too.'
      ),
      (
        'recursive_type',
        'Job {job_id} has {recursions} or more ancestors of its own type, {job_type}.'
      ),
      (
        'ahead',
        'Jobs of {job_type} in its workspace that are ahead of it: [{at_least} or more|{ahead}][, '
          '{smaller} of them because their priority is smaller].'
      ),
      ('deadline', 'It fails if it has not ended at {early_deadline}.'),
      (
        'start_by',
        'It will be cancelled if it has not started by {start_by_at}[, which {ahead} jobs ahead of '
          'it may prevent].'
      ),
      ('worker_lost', 'Its process ended {ended_times} while it ran[ {alone}].'),
      (
        'worker_lost',
        'Its lease expired {lost_times} while its worker had leased no other job.'
      ),
      (
        'lease_expired',
        'The last recorded call of its worker {worker_id} was at {called_at}, and the lease '
          'expired at {expires_at}.[ The key of the worker expired at {key_expired_at}.| The key '
          'of the worker was revoked at {key_revoked_at}.|]'
      ),
      (
        'worker_died',
        'The process of its worker {worker_id} ended at {ended_at}. The job is being reclaimed.'
      ),
      ('suspect', 'It runs alone next, in a process of its own.'),
      (
        'locked',
        'A session (pid {pid}) has locked [the table {locked}|its row] in an open transaction '
          'since {held_since}, so [{effect}|it can neither start nor end].[ {work}.]'
      ),
      (
        'open_transaction',
        'A session with an open transaction delays statistics, messages to other services and '
          'maintenance.[ {work}.]'
      ),
      (
        'late_events',
        'Statistics and messages to other services do not yet include events after {since}.'
      ),
      (
        'blocking_session',
        '[A transaction that began at {since} has locked the table {locked}, so {effect}|Sessions '
          'that wait for a lock of one session: {waiting}. Its transaction began at {began_at}|'
          'Sessions that wait for a lock of one session: {waiting}, the first since {since}].'
          '[ {work}.]'
      ),
      (
        'disk_filling',
        'The disk is {percent} % full.'
      ),
      (
        'disk_nearly_full',
        'The disk is {percent} % full. Supabase makes the database read-only at 95 %.'
      ),
      ('wrong_disk_size', 'The setting disk_bytes is smaller than what is stored.'),
      (
        'service_full',
        'The disk of the service is nearly full. When it is full, new jobs are rejected.'
      ),
      (
        'service_locked',
        'A transaction that began at {since} has locked the table {locked}, so {effect}.'
      ),
      (
        'workers_lack_right',
        'Workers lack a right in the database that they need to run jobs.'
      ),
      (
        'wrong_clock',
        'The clock of worker {worker_id} is wrong, so requests of its jobs may fail.'
      )
  ) as s (reason, sentence)
) as a (reason, sentence, words, command, path);

-- Return the sentence of queue.guidance for the reason p_reason, and the advice for the reason
-- p_advice. Values of p_with replace the placeholders. A sentence or an advice is omitted if p_with
-- lacks a value outside of brackets, or a value for each of several alternatives. The kind of an
-- advice is none if there is nothing to do, wait if there is nothing to do for some time, and
-- otherwise act. If the worker keys were revoked (revoked_at), or the database is read-only
-- (is_read_only), advice that a job continues later is omitted.
-- p_advice: Null for the advice of p_reason.
create or replace function queue.render_guidance(
  p_reason text,
  p_with jsonb,
  p_advice text default null
)
returns jsonb
language sql stable
set search_path = ''
as $$
with texts as (
  select
    a.id,
    t.name,
    case
      when bool_and(p.part is not null) then string_agg(p.part, '' order by p.n)
    end as text
  from queue.guidance as a
  cross join lateral (
    values
      ('sentence', a.sentence),
      ('words', a.words),
      ('command', 'minutehand ' || a.command),
      ('path', coalesce(a.path, '/jobs/{job_id}'))
  ) as t (name, text)
  cross join lateral ( -- every second part is the text between two brackets
    select
      s.n,
      case s.n % 2
        when 1 then queue.fill_names(s.part, p_with)
        else coalesce(
          (
            select f.text
            from string_to_table(s.part, '|') with ordinality as c (text, n)
            cross join lateral queue.fill_names(c.text, p_with) as f (text)
            where f.text is not null
            order by c.n
            limit 1
          ),
          case when s.part !~ '\|' then '' end
        )
      end as part
    from regexp_split_to_table(t.text, '[][]') with ordinality as s (part, n)
  ) as p
  where a.reason = case t.name
    when 'sentence' then p_reason
    else coalesce(p_advice, p_reason)
  end
  group by 1, 2
)
select jsonb_build_object(
  'sentence', (
    array_agg(l.line -> 'sentence' order by l.id) filter (where l.line ? 'sentence')
  )[1],
  'next', coalesce(
    jsonb_agg(
      l.line - 'sentence' || jsonb_build_object('kind', case
        when l.line ->> 'words' = 'Nothing to do.' then 'none'
        when starts_with(l.line ->> 'words', 'Nothing to do ') then 'wait'
        else 'act'
      end)
      order by l.id
    ) filter (
      where case
        when p_with ->> 'revoked_at' <> '' or p_with ->> 'is_read_only' = ''
          then l.line ->> 'words' !~ '^Nothing to do|again at the latest'
        else l.line ? 'words'
      end
    ),
    '[]'
  )
)
from (
  select t.id, jsonb_object_agg(t.name, t.text) as line
  from texts as t
  where t.text is not null
  group by 1
) as l
$$;

-- Return an object that describes a running job: its timeout, and its last update, such as a log
-- line or a finished step. If the worker has reported no update of the job, the object contains
-- lease_until, the time at which the lease expires.
-- timeout: Null if the type may have had another timeout when the attempt began.
-- late_since: Time of the lease's last renewal, if the next one is late. Otherwise null.
-- seen: The running step and the line of code, as text.
-- sign, last: Kind of the job's last update as text, for example 'its last log line', 'log line'.
-- age: Time since the last update of the job, as text.
-- reported_at: Time of the last report of the worker of a silent job.
-- unreported_since: Time of the lease's last renewal, a minute ago or more.
-- unstored_since, triggers: End of the processor, if its worker could not yet store the outcome,
--   and queue.own_triggers().
-- is_silent: Empty for a silent job, otherwise null.
-- alike: How many of the type's running jobs in the workspace are silent at the same line, as text.
--   Null for a single job, for 100 or more, and while the line of one of them is unknown.
-- silent: The age. Null for less than 20 seconds, because workers report updates of jobs only every
--   15 seconds.
-- code, stack: Text of the line of code, and the calls that led there, the innermost last. Missing
--   for workers before 0.5.6.
-- shorter: The timeout of a job that is silent at a line of code, unless the timeout has already
--   started again. It starts again for each call of a split batch, and once after another job has
--   blocked the event loop.
-- times_out_at, after: Time at which the timeout or the deadline stops the job's call, and what
--   follows, as text. Null if this time is unknown.
-- blocked, is_blocking: Time for which the job's code blocked the event loop within a minute, as
--   text, and an empty text. Null for less than 10 seconds.
-- blocker, call: Database session that holds a lock for which the session of the silent job waits,
--   and its call from queue.session_work.
-- own_blocker: The same session, if the job's own code has opened it.
-- grown_mb: Growth of the memory of the job's process since the job's first pulse, in megabytes.
--   Null for less than 128 MB.
-- run_since: Start of this run. Null without an update.
-- usual: Duration that 99 % of the type's jobs did not exceed, as text, if the job has run longer.
--   If fewer than 20 jobs have ended, the duration that none of at least 5 exceeded, if the job has
--   run twice as long. Null for a job that is not silent also in its first minute.
create or replace function queue.pulse_of(p_job public.jobs, p_now timestamptz)
returns jsonb
language plpgsql stable
set search_path = ''
as $$ -- plpgsql, because queue.run_times_in_words is created later
declare
  v_times constant jsonb := queue.run_times_in_words(
    p_job.workspace_id,
    p_job.job_type,
    p_now
  );
  v_type constant queue.job_types := (
    select t
    from queue.job_types as t
    where t.job_type = p_job.job_type
  );
  v_timeout constant double precision := coalesce(
    p_job.timeout_seconds,
    v_type.timeout_seconds
  );
begin
  return (
    select v_times || jsonb_build_object(
      'timeout', case
        when o.is_known or o.delay between interval '-1 second' and interval '10 seconds'
          then queue.length_in_words(1000 * v_timeout)
      end,
      'late_since', s.late_since,
      'renewed_at', s.renewed_at
    ) || case
      when l.pulse is null then jsonb_build_object('lease_until', l.expires_at) || case
        when s.late_since is null and s.renewed_at <= p_now - interval '1 minute'
          then jsonb_build_object(
            'unreported_since', s.renewed_at,
            'unreported_until', l.expires_at
          )
        else '{}'
      end
      when l.pulse ->> 'last' = 'end' then jsonb_build_object(
        'unstored_since', l.pulse -> 'since',
        'triggers', queue.own_triggers()
      )
      else l.pulse - '{since,own_pids}'::text[] || jsonb_build_object(
        'silent_since', s.since,
        'step', l.step,
        'seen', case when p.is_silent and s.late_since is null then '' else 'last seen ' end
          || queue.seen_in(l.step, l.pulse ->> 'place'),
        'batched', queue.other_jobs(nullif((l.pulse ->> 'batched')::integer, 0)),
        'next_call', case
          when l.pulse ->> 'batched' = '0' then 'the next call of its batch, which was split'
        end,
        'last', case u.last
          when 'log' then 'log line'
          when 'step' then 'end of a step'
          else u.last
        end,
        'sign', case u.last
          when 'start' then case
            when t.has_restarted then 'its timeout started again'
            else 'its start'
          end
          when 'log' then 'its last log line'
          when 'step' then 'the end of its last step'
          else 'its last ' || coalesce(u.last, 'update')
        end,
        'age', queue.length_in_words(p.ms),
        'silent', case when p.is_silent then queue.length_in_words(p.ms) end,
        'shorter', case
          when p.is_silent and not t.has_restarted and l.pulse ->> 'place' <> ''
              and (o.is_known or o.delay <= interval '10 seconds')
            then queue.length_in_words(1000 * v_timeout)
        end,
        'times_out_at', case when s.late_since is null and t.at > p_now then t.at end,
        'after', case
          when p_job.deadline_at < t.at + interval '1 second'
            then 'it fails, because its deadline has passed'
          when (l.pulse ->> 'batched')::integer > 0
            then 'its call is stopped, and its batch is run again in halves'
          when p_job.attempts >= p_job.max_attempts then 'it times out and fails'
          else 'it times out' || case
            when p_job.deadline_at is null
              then format(', then attempt %s of %s follows', p_job.attempts + 1, p_job.max_attempts)
            else ''
          end
        end,
        'blocker', b.pid,
        'call', (select w.call from queue.session_work(b.pid) as w),
        'blocked', queue.length_in_words((l.pulse ->> 'blocked_ms')::double precision),
        'is_blocking', left(l.pulse ->> 'blocked_ms', 0),
        'program', case when p.is_silent then l.pulse -> 'program' end,
        'own_blocker', case when l.pulse -> 'own_pids' @> to_jsonb(b.pid) then b.pid end,
        'grown_mb', case when m.grown >= 128 then m.grown end,
        'run_since', l.leased_at,
        'usual', case
          when extract(epoch from p_now - l.leased_at) * 1000 > greatest(
            case when p.is_silent then 0 else 60000 end,
            coalesce(
              (v_times ->> 'typical_ms')::double precision,
              2 * (v_times ->> 'longest_ms')::double precision,
              'Infinity'
            )
          )
            then coalesce(v_times ->> 'typical', v_times ->> 'longest')
        end,
        'reported_at', case when p.is_silent and s.late_since is null then s.renewed_at end,
        'is_silent', case when p.is_silent then '' end,
        'alike', case when p.is_silent then (
          select format(
            '%s of %s',
            count(*) filter (
              where o.pulse -> 'place' = l.pulse -> 'place'
                and greatest((o.pulse ->> 'since')::timestamptz, j.updated_at)
                  <= p_now - interval '20 seconds'
            ),
            count(*)
          )
          from (
            select *
            from queue.leases as r
            where r.lane in (select n.lane from queue.lanes as n where n.job_type = p_job.job_type)
              and r.workspace_id = p_job.workspace_id
              and r.expires_at > p_now
            limit 100
          ) as o
          join public.jobs as j on j.id = o.job_id
          -- the line of a job without a pulse is unknown
          having count(*) between 2 and 99 and count(*) = count(o.pulse)
        ) end
      )
    end
    from queue.leases as l
    cross join lateral (
      values (
        (l.pulse ->> 'times_out_at')::timestamptz
          - make_interval(secs => v_timeout)
          - l.leased_at,
        -- the worker may use an earlier timeout of the type
        p_job.timeout_seconds is not null or v_type.registered_at <= l.leased_at
      )
    ) as o (delay, is_known)
    cross join lateral (
      values (
        (l.pulse ->> 'times_out_at')::timestamptz,
        coalesce(o.delay > interval '10 seconds' and o.is_known, false)
      )
    ) as t (at, has_restarted)
    cross join lateral (
      values (
        greatest(
          (l.pulse ->> 'since')::timestamptz,
          p_job.updated_at,
          case
            when t.has_restarted and l.pulse ->> 'last' = 'start'
              then t.at - make_interval(secs => v_timeout)
          end
        ),
        (l.pulse ->> 'pid')::integer,
        l.expires_at - make_interval(secs => l.lease_seconds),
        case -- a worker renews a lease after a fifth of its duration
          when p_now between
              l.expires_at + make_interval(secs => 10 - 0.75 * l.lease_seconds) and l.expires_at
            then l.expires_at - make_interval(secs => l.lease_seconds)
        end
      )
    ) as s (since, pid, renewed_at, late_since)
    cross join lateral (
      select a.ms, a.ms >= 20000 as is_silent
      from (
        values (greatest(0, extract(epoch from p_now - s.since) * 1000)::double precision)
      ) as a (ms)
    ) as p
    cross join lateral ( -- an update after the pulse has an event
      select case
        when p_job.updated_at
            < greatest((l.pulse ->> 'since')::timestamptz, l.leased_at) + interval '2 seconds'
          then l.pulse ->> 'last'
        else (
          select substring(e.type from '^job\.(log|progress)$')
          from queue.job_events as e
          where e.job_id = p_job.id
            and e.seq = p_job.last_seq
            and e.created_at = p_job.updated_at
        )
      end as last
    ) as u
    cross join lateral (
      values (case when p.is_silent then nullif(queue.last_blocker(s.pid), s.pid) end)
    ) as b (pid)
    cross join lateral (
      values ((l.pulse ->> 'memory_mb')::integer - (l.pulse ->> 'first_mb')::integer)
    ) as m (grown)
    where l.job_id = p_job.id
  );
end;
$$;

-- Return the names of the triggers of public.jobs and public.job_logs that are not the engine's.
create or replace function queue.own_triggers()
returns text
language sql stable
set search_path = ''
as $$
select string_agg(t.tgname, ', ' order by t.tgname)
from pg_catalog.pg_trigger as t
join pg_catalog.pg_proc as f on f.oid = t.tgfoid
where t.tgrelid in ('public.jobs'::regclass, 'public.job_logs'::regclass)
  and not t.tgisinternal
  and t.tgenabled <> 'D'
  and f.pronamespace <> 'queue'::regnamespace
$$;

-- Return the reason why a job has not started. A job cannot start if for example it has ended,
-- runs, waits or is delayed, if a trigger of the project rejects a change of its row, if its type
-- is paused, or if no worker serves its type. For a job that may start, queue.explain_ready returns
-- the reason.
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
    'max_attempts', p_job.max_attempts
  );
  -- a due job counts as late if maintenance has not made it ready within 90 seconds
  c_patience constant interval := interval '90 seconds';
  v_late constant text := case
    when p_alive = '{}' then 'no_worker'
    else 'passed_over'
  end;
  v_wait jsonb;
  v_early_deadline timestamptz; -- null unless the deadline precedes the next run
  v_postponed jsonb; -- null if no later enqueue has changed the job's time
  v_refusal text;
  v_nearest text;
  v_found record;
begin
  if p_job.finished_at is not null then
    return jsonb_build_object(
      'reason', p_job.status,
      'data', v_data
        || queue.run_times_in_words(p_job.workspace_id, p_job.job_type, p_now)
    );
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
        || jsonb_build_object('is_missing', case
          -- an undefined function, table, column, object or schema
          when v_found.failure ~ '[(](42883|42P01|42703|42704|3F000)[)]$' then ''
        end)
        || jsonb_build_object('is_locked', case when v_found.failure ~ '[(]55P03[)]$' then '' end)
    );
  elsif p_job.status = 'processing' then
    select
      w.worker_id,
      l.leased_at,
      l.expires_at,
      case when w.evidence is not null then w.ended_at end as ended_at,
      case
        when l.expires_at > p_now and w.evidence is null and w.worker not in (
          select a.worker
          from unnest(p_alive) as a
        )
          then c.at
      end as missed_since,
      c.at as called_at,
      queue.key_end(w, c.at) as key_expired_at,
      queue.key_revoked_at(w, c.at) as key_revoked_at,
      l.expires_at + c_patience as patience_until,
      l.expires_at as run_at -- time when the lease could be reclaimed
    into v_found
    from queue.leases as l
    left join queue.workers as w on w.worker = l.worker
    cross join lateral (
      values (greatest(w.seen_at, l.expires_at - make_interval(secs => l.lease_seconds)))
    ) as c (at)
    where l.job_id = p_job.id;
    return jsonb_build_object(
      'since', v_found.leased_at,
      'data', to_jsonb(v_found)
        || coalesce(queue.suspicion_of(p_job), '{}')
        || queue.maintained_before(v_found.expires_at)
        || queue.pulse_of(p_job, p_now)
        || jsonb_build_object('not_granted', (
          select min(queue.lacked_right(f.function))
          from unnest('{public.settle_jobs,public.report_jobs}'::regproc[]) as f (function)
        )),
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
    v_early_deadline := case
      when p_job.deadline_at < coalesce((v_wait ->> 'until')::timestamptz, 'infinity')
        then p_job.deadline_at
    end;
    return jsonb_build_object(
      -- a person or an event may end any other wait before its time limit
      'estimated_start_at', case
        when v_wait ->> 'kind' = 'sleep' and v_early_deadline is null then v_wait -> 'until'
      end,
      'data', v_wait || jsonb_build_object(
        'early_deadline', v_early_deadline,
        -- The emitted event whose name is most similar. Only the names before and after it in the
        -- alphabet are compared, and only names with the same numbers, because numbers usually
        -- identify the subject of an event.
        'nearest', queue.nearest_name(v_wait ->> 'event', array(
          select e.name
          from (
            (
              select n.name
              from queue.named_events as n
              where n.workspace_id = p_job.workspace_id and n.name > v_wait ->> 'event'
              order by n.name
              limit 5
            )
            union all
            (
              select n.name
              from queue.named_events as n
              where n.workspace_id = p_job.workspace_id and n.name < v_wait ->> 'event'
              order by n.name desc
              limit 5
            )
          ) as e
          where array(select n[1]::numeric from regexp_matches(e.name, '[0-9]+', 'g') as n)
            = array(
              select n[1]::numeric
              from regexp_matches(v_wait ->> 'event', '[0-9]+', 'g') as n
            )
        ))
      ),
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
    v_early_deadline := case when p_job.deadline_at < v_found.run_at then p_job.deadline_at end;
    v_postponed := (
      select jsonb_build_object(
        'created_at', p_job.created_at,
        'changed_at', p_job.updated_at,
        'changed_key', left(k.key, 100)
      )
      from queue.job_keys as k
      where (k.workspace_id, k.job_type, k.key, k.is_unique)
          = (p_job.workspace_id, p_job.job_type, p_job.unique_key, true)
        and k.job_id = p_job.id
        and k.freed_when = 'leased' -- as debounce_seconds sets it
        and p_job.attempts = 0
        and p_job.updated_at > p_job.created_at
    );
    return jsonb_build_object(
      'since', v_found.run_at,
      'estimated_start_at', case
        when v_found.run_at > p_now and v_postponed is null and v_early_deadline is null
          then v_found.run_at
      end,
      'data', v_data
        || to_jsonb(v_found)
        || queue.maintained_before(v_found.run_at)
        || jsonb_build_object('early_deadline', v_early_deadline)
        || coalesce(v_postponed, '{}')
        || (
          select jsonb_build_object(
            'first_at', min(a.ended_at),
            'times', case when count(*) > 1 then queue.times_in_words(count(*)) end
          )
          from queue.attempts as a
          where a.job_id = p_job.id and a.outcome = 'snoozed'
        ),
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
  if p_job.lane = 0 then
    v_nearest := queue.nearest_type(p_job.job_type);
  end if;
  return case
    when p_job.lane = 0 then jsonb_build_object(
      'reason', 'no_processor',
      'cause', v_refusal,
      'data', jsonb_build_object(
        'refusal', v_refusal,
        'unpublished', p_job.job_type,
        'nearest', v_nearest,
        'is_near', left(v_nearest, 0)
      )
    )
    when found then jsonb_build_object(
      'reason', v_found.kind || '_paused',
      'data', to_jsonb(v_found),
      'since', v_found.paused_at,
      'cause', v_found.reason
    )
    when p_alive = '{}' then jsonb_build_object('reason', 'no_worker')
    else (
      select case
        when s.unserved then jsonb_build_object(
          'reason', 'no_processor',
          'cause', v_refusal,
          'data', jsonb_build_object(
            'refusal', v_refusal,
            'key_expired_at', queue.key_expired_at(p_job.job_type),
            'not_served', case when s.in_other_queues then p_job.queue end
          ) || coalesce(
            (
              select jsonb_build_object(
                'once_served', p_job.job_type,
                'last_worker', w.worker_id,
                'last_seen', queue.called_at(w),
                'process_end', queue.process_end(w.evidence)
              )
              from queue.workers as w
              where p_job.job_type = any (w.job_types) and not s.in_other_queues
              order by w.seen_at desc
              limit 1
            ),
            '{}'
          )
        )
        else queue.explain_ready(p_job, p_alive, p_now)
      end
      from queue.is_unserved(array[p_job.job_type], array[p_job.queue], p_alive, p_now) as s
    )
  end;
end;
$$;

-- Return the reason why a job that may start has not started. If its latest start has passed,
-- queue.explain_ready first tests whether its workers started later. The concurrency limits come
-- next, from the limit of the job's key to the limit of its type. queue.explain_ready then tests
-- the rate limit, whether the job must run alone because its worker's process died, and whether
-- other jobs are ahead of the job. A lack of slots is returned as the reason only if running jobs
-- use all slots of the workers, and have not ended for ten seconds. If jobs end more often, the job
-- waits for its turn.
create or replace function queue.explain_ready(
  p_job public.jobs,
  p_alive queue.workers[],
  p_now timestamptz
)
returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
  v_type queue.job_types;
  v_full record;
  v_free_at timestamptz;
  v_suspicion jsonb;
  v_ready_at timestamptz;
  v_ahead integer;
  v_smaller integer;
  v_rank jsonb; -- number of jobs ahead of the job
  v_workers record;
  v_reason text;
  v_must_start_by constant timestamptz := case
    when p_job.started_at is null then least(p_job.deadline_at, p_job.start_by_at)
  end;
  v_silent_since timestamptz; -- null if a worker that serves the job has called recently
  v_lacked constant text := queue.lacked_right('public.lease_jobs');
begin
  if v_must_start_by <= p_now then
    select min(w.started_at) as started_at, v_must_start_by as must_start_by
    into v_workers
    from unnest(p_alive) as w
    where (w.job_types is null or p_job.job_type = any (w.job_types))
      and (w.queues is null or p_job.queue = any (w.queues))
      and w.slots is distinct from '[]';
    if v_workers.started_at > v_must_start_by then
      return jsonb_build_object('reason', 'late_worker', 'data', to_jsonb(v_workers));
    end if;
  end if;
  v_ready_at := (
    select r.ready_at
    from queue.ready as r
    where r.lane = p_job.lane
      and r.workspace_id = p_job.workspace_id
      and r.ord = p_job.ord
      and r.job_id = p_job.id
  );
  if v_ready_at is null
    -- maintenance ends an overdue job, which may be in no table
    and (least(p_job.deadline_at, v_must_start_by) <= p_now) is not true
    and not exists (
      select from queue.gated as g
      where g.workspace_id = p_job.workspace_id
        and g.job_type = p_job.job_type
        and g.key = coalesce(p_job.concurrency_key, '')
        and not g.admitted
        and g.ord = p_job.ord
        and g.job_id = p_job.id
    )
  then
    -- a trigger of the engine was disabled when the job was inserted, or the row was deleted
    return '{"reason": "unplaced"}';
  end if;
  select * into v_type
  from queue.job_types
  where job_type = p_job.job_type;
  -- Find the narrowest concurrency limit that has been reached. Skip a concurrency limit that is
  -- not set.
  select l.* into v_full
  from (
    values
      (1, 'key_limit', v_type.key_concurrency),
      (2, 'workspace_type_limit', v_type.workspace_concurrency),
      (
        3,
        'workspace_limit',
        (
          select t.running_max
          from queue.tenant_limits as t
          where t.workspace_id = p_job.workspace_id
        )
      ),
      (4, 'type_limit', v_type.max_concurrency)
  ) as l (n, reason, most)
  where l.most is not null
    and (
      select count(*)
      from queue.find_holders(l.reason, p_job, l.most) as h
    ) >= l.most
  order by l.n
  limit 1;
  if v_full.reason = 'key_limit' then -- these jobs are not in queue.ready
    v_ahead := (
      select count(*)
      from (
        select from queue.gated as g
        where g.workspace_id = p_job.workspace_id
          and g.job_type = p_job.job_type
          and g.key = coalesce(p_job.concurrency_key, '')
          and not g.admitted
          and g.ord < p_job.ord
        limit 1000
      ) as k
    );
  else
    select
      count(*),
      count(*) filter (where a.priority < p_job.priority)
    into v_ahead, v_smaller
    from (
      select j.priority
      from queue.ready as r
      join public.jobs as j on j.id = any (array[r.job_id])
      where r.lane = p_job.lane
        and r.workspace_id = p_job.workspace_id
        and r.ord < p_job.ord
        and r.ord >= coalesce(
          (
            select t.from_ord
            from queue.turns as t
            where t.lane = p_job.lane and t.workspace_id = p_job.workspace_id
          ),
          0
        )
        and coalesce(j.deadline_at > p_now, true)
        and (j.start_by_at is null or j.started_at is not null or j.start_by_at > p_now)
        and (
          not exists (select from queue.suspects) -- evaluated once, and usually finds no row
          or not exists (select from queue.suspects as s where s.job_id = r.job_id)
        )
      limit 1000
    ) as a;
  end if;
  v_rank := jsonb_build_object(
    'ahead', nullif(v_ahead, 0),
    'at_least', case v_ahead when 1000 then v_ahead end,
    'smaller', nullif(v_smaller, 0)
  );
  if v_full.reason is not null then
    return jsonb_build_object(
      'reason', v_full.reason,
      'data', v_rank || jsonb_build_object('running', v_full.most, 'limit', v_full.most)
    );
  end if;
  select b.refilled_at + make_interval(
    secs => (1 - b.tokens) * v_type.rate_per_seconds / v_type.rate_limit
  )
  into v_free_at
  from queue.buckets as b
  where b.name = case
    when v_type.rate_per_key then format(
      'k:%s/%s/%s',
      p_job.workspace_id,
      p_job.job_type,
      coalesce(p_job.concurrency_key, '')
    )
    else 'r:' || p_job.job_type
  end;
  if v_free_at > p_now then
    return jsonb_build_object(
      'reason', 'rate_limited',
      -- jobs of other workspaces or keys may delay the start further
      'estimated_start_at', v_free_at + make_interval(
        secs => case when v_type.rate_per_key then 0 else v_ahead end
          * v_type.rate_per_seconds / v_type.rate_limit
      ),
      'data', v_rank || jsonb_build_object(
        'limit', v_type.rate_limit,
        'per_seconds', v_type.rate_per_seconds
      )
    );
  end if;
  v_suspicion := queue.suspicion_of(p_job);
  if v_suspicion is not null then
    v_ready_at := (v_suspicion ->> 'suspect_since')::timestamptz;
    return jsonb_build_object(
      'reason', 'suspect',
      'since', v_ready_at,
      'data', v_suspicion || case
        when v_ready_at <= p_now - interval '1 minute'
          then jsonb_build_object('late_since', v_ready_at)
        else jsonb_build_object('patience_until', v_ready_at + interval '1 minute')
      end
    );
  end if;
  select
    s.slots,
    s.running,
    s.ended_at,
    s.yet,
    s.full_since,
    greatest(s.seen_at, s.leased_at) as seen_at,
    case when i.is_idle then s.leased_at end as leased_at,
    case when s.running >= s.slots then s.used_by end as used_by,
    s.running >= s.slots as is_full,
    i.is_idle
  into v_workers
  from queue.slots_for(p_job, p_alive) as s
  cross join lateral (
    values (case
      when s.running >= s.slots then false
      -- workers with free slots usually lease the jobs ahead within seconds
      when s.running < s.slots and s.leased_at <= p_now - interval '1 minute' then true
      else coalesce(s.leased_at <= v_ready_at, true)
    end)
  ) as i (is_idle);
  -- a worker's row is updated once a minute, so older workers may have been killed with their host
  v_silent_since := case
    when v_workers.seen_at < p_now - interval '75 seconds' then v_workers.seen_at
  end;
  v_reason := case
    when v_workers.full_since <= p_now - interval '10 seconds' and v_workers.is_full then 'no_slot'
    when v_lacked is not null
        or v_workers.yet is not null
        or v_ready_at <= p_now - interval '1 minute'
        and v_workers.is_full is not true
        and (v_ahead = 0 or v_workers.is_idle)
      then 'not_leased'
    when v_ahead = 0 then 'next_in_line'
    when v_ready_at <= p_now - interval '15 minutes' then 'long_line'
    else 'behind_others'
  end;
  return case
    when v_reason in ('no_slot', 'not_leased') then jsonb_build_object('since', v_ready_at)
    else '{}'
  end || jsonb_build_object(
    'reason', v_reason,
    'data', to_jsonb(v_workers) - '{is_full,is_idle}'::text[] || v_rank || jsonb_build_object(
      'must_start_by', (select p_job.start_by_at where p_job.started_at is null),
      'lacked', v_lacked,
      'without_right', (select 'job_worker' where v_lacked is not null),
      'silent_since', v_silent_since,
      'triggers', (
        select queue.own_triggers()
        where v_reason = 'not_leased' and v_lacked is null and v_workers.yet is null
      ),
      'ready_at', v_ready_at,
      'patience_until', v_ready_at + case v_reason
        when 'next_in_line' then interval '1 minute'
        when 'behind_others' then interval '15 minutes'
      end
    )
  );
end;
$$;

drop function queue.session_work(integer);

-- Holders. A holder is a database session, worker, pause or job that keeps other jobs from starting
-- or ending. The functions below find the holders for public.explain_job and for queue.holders. If
-- the holder is a job of another workspace, only operators and the service learn which job it is.

-- Return the function of the queue that a database session is running, the same with the event for
-- which it waits, as text, and queue.own_triggers(). All are null if the session runs no such
-- function. No one should end such a session.
create or replace function queue.session_work(p_pid integer)
returns table (call text, work text, triggers text)
language sql stable
set search_path = ''
as $$
select
  c.call,
  'It runs ' || c.call || coalesce(' and waits (' || a.wait_event || ')', ''),
  queue.own_triggers()
from pg_catalog.pg_stat_activity as a
cross join lateral substring(
  a.query from '\m(?:(?:answer|lease|settle|report|spawn|enqueue|retry|cancel)_jobs?|emit_event|'
    'erase_person|register_job_types|run_maintenance|tick_finished)\M'
) as c (call)
where a.pid = p_pid and a.state = 'active' and c.call is not null
$$;

drop function queue.locks_on(uuid[],timestamp with time zone);

-- Return the database sessions that have locked the rows of the jobs p_ids. A database session is
-- returned only if its transaction has been open for at least two seconds. If a session that has
-- locked a row waits for another session, return the last session in the chain of waits, because
-- the last session must end first. The xmax of a row identifies the transaction that has locked the
-- row (supabase/DECISIONS.md).
create or replace function queue.locks_on(p_ids uuid[], p_now timestamptz)
returns table (
  job_id uuid,
  pid integer,
  since timestamptz,
  application text,
  call text,
  work text,
  triggers text
)
language sql stable
set search_path = ''
as $$
select distinct on (j.id) j.id, a.pid, s.since, a.application_name, w.*
from public.jobs as j
join pg_catalog.pg_locks as l on l.transactionid = j.xmax
cross join lateral queue.last_blocker(l.pid) as b (pid)
join pg_catalog.pg_stat_activity as a on a.pid = b.pid
cross join lateral coalesce(a.xact_start, a.state_change) as s (since)
left join lateral queue.session_work(a.pid) as w on true
where j.id = any (p_ids)
  and j.xmax <> '0'::xid
  and l.locktype = 'transactionid'
  and l.granted
  and l.pid <> pg_backend_pid()
  and s.since <= p_now - interval '2 seconds'
order by j.id, s.since
$$;

-- Return the first child of a running job that has not started, if the child waits for a limit or a
-- slot that the running job uses. Limits above 200 are not compared.
create or replace function queue.kept_child(p_job public.jobs, p_alive queue.workers[])
returns uuid
language sql stable
set search_path = ''
as $$
select c.id
from (
  select *
  from public.jobs as j
  where j.parent_id = p_job.id and j.status = 'pending'
  order by j.id
  limit 1
) as c
join queue.job_types as t on t.job_type = c.job_type
cross join lateral queue.explain_row(c::public.jobs, p_alive, queue.clock()) as w
where w ->> 'reason' ~ '_limit$|^(no_slot|next_in_line|behind_others|long_line)$' and exists (
  select from (
    values
      ('key_limit', t.key_concurrency),
      ('workspace_type_limit', t.workspace_concurrency),
      ('type_limit', t.max_concurrency),
      ('no_slot', (select s.slots from queue.slots_for(c::public.jobs, p_alive) as s))
  ) as l (reason, most)
  cross join lateral (
    select count(*) as jobs, bool_or(h.job_id = p_job.id) as is_holder
    from queue.find_holders(l.reason, c::public.jobs, l.most::integer) as h
  ) as u
  where l.most <= 200 and u.is_holder and u.jobs >= l.most
)
$$;

-- Return the number of ancestors of a job, at most 20, and how many of them have the job's type.
-- Return null if fewer than ten have its type, because most types that enqueue themselves end
-- before.
create or replace function queue.recursion_of(p_job public.jobs)
returns jsonb
language sql stable
set search_path = ''
as $$
with recursive ancestors as (
  select p_job.parent_id as id, 1 as level, null::text as job_type
  union all
  select j.parent_id, a.level + 1, j.job_type
  from ancestors as a
  join public.jobs as j on j.id = any (array[a.id])
  where a.level <= 20
)
select jsonb_build_object(
  'job_type', p_job.job_type,
  'workspace_id', p_job.workspace_id, -- an operator's command would pause the type everywhere
  'levels', count(a.job_type),
  'recursions', count(*) filter (where a.job_type = p_job.job_type)
)
from ancestors as a
where not exists ( -- who paused the type knows it already
  select from queue.pauses as p
  where (p.kind, p.name) in (
    ('job_type', p_job.job_type),
    ('workspace_type', p_job.workspace_id || '/' || p_job.job_type)
  )
)
having count(*) filter (where a.job_type = p_job.job_type) >= 10
$$;

-- Return the kind, code and cause of a job's last error. queue.error_of classifies the error by its
-- exception type and its code, never by its message.
-- kind: Kind of the error, for example 'timeout'. The row failed:timeout of queue.guidance has the
--   advice for this kind.
-- code: HTTP status, SQLSTATE or errno name.
-- cause: Response of another service, line of code that ended the process, or last error of an
--   exception chain.
-- place: Location in the code at which a failed or delayed job raised its error.
create or replace function queue.error_of(p_job public.jobs)
returns table (kind text, code text, cause text, place text)
language sql stable
set search_path = ''
as $$
select
  case
    when p_job.status in ('failed', 'pending') then coalesce(
      '{"AttemptTimeout": "timeout",
    "DeadlinePassed": "deadline", "PayloadRejected": "payload",
    "ResultRejected": "result", "ResultTooLarge": "result", "SettleRejected": "rejected",
    "minutehand.worker.context.ChildrenFailed": "child"}'::jsonb ->> e.type,
      case
        when e.type = 'WorkerLost' then concat_ws(':', 'lost', case
          when e.evidence ->> 'signal' = 'SIGKILL' then 'kill'
          when e.evidence ->> 'signal' ~ '^SIG(SEGV|ABRT|BUS|FPE|ILL)$' then 'fault'
          when e.evidence ? 'signal' then 'signal'
          -- only the worker's watchdog writes stacks without a signal
          when e.evidence ?& '{exit_code,stack}' then 'blocked'
          when e.evidence ? 'exit_code' then 'exit'
        end)
        when e.sqlstate = '42501' then 'grant' -- the Data API maps these codes to 403 or 404
        when e.sqlstate ~ '^(42|PGRST2)' then 'schema'
        when e.status in ('401', '407') or e.sqlstate ^@ '28' then 'credentials'
        when e.status = '403' then 'forbidden'
        when e.status = '429' then 'rate'
        when e.sqlstate ~ '^2[23]' then 'value'
        when e.sqlstate = '57014' then 'statement'
        when e.status ^@ '4' then 'request'
        when e.sqlstate = '26000' then 'prepared'
        when e.sqlstate = '55P03' then 'lock'
        when e.sqlstate ~ '^(40|55)' then 'contention'
        when e.signal is not null then 'killed'
        -- code that handles another error may look up a variable
        when coalesce(e.status, e.sqlstate, e.errno) is null and e.variable is not null
          then 'variable'
        when e.errno = 'ENOMEM' then 'memory'
        when e.sqlstate ^@ '53' then 'machine'
        when e.errno = 'EMFILE' then 'files'
        when e.errno = 'ENOSPC' then 'disk'
        when e.errno = 'EDQUOT' then 'disk_quota'
        -- Python's own TimeoutError has no errno
        when e.errno in ('ETIMEDOUT', 'TimeoutError') then 'slow'
        when e.status ^@ '5' then 'unavailable:error'
        when e.sqlstate ~ '^(08|57P)' or e.errno = 'ECONNRESET' then 'unavailable:closed'
        when e.errno = 'ECONNREFUSED' then 'unavailable:port'
        when e.errno in ('EHOSTUNREACH', 'ENETUNREACH') then 'unavailable:route'
        when e.errno ^@ 'EAI_' then 'unavailable:name'
        when e.errno = 'CERTIFICATE_VERIFY_FAILED' then 'unavailable:certificate'
        -- psycopg and SQLAlchemy report failed connections without a code
        when e.type ~ '^(psycopg|sqlalchemy).*OperationalError$' and e.sqlstate is null
          then 'unavailable'
      end
    )
    when p_job.status = 'cancelled' and e.type = 'StartByPassed' then 'start_by'
  end as kind,
  coalesce(
    replace('SQLSTATE ' || e.sqlstate, 'SQLSTATE PGRST', 'PGRST'), -- a code of the Data API
    'HTTP ' || e.status,
    e.errno,
    e.variable,
    e.evidence ->> 'signal',
    'exit code ' || (e.evidence ->> 'exit_code')
  ) as code,
  coalesce(
    e.response,
    (
      select string_agg(
        concat_ws(': ', nullif(array_to_string(array(
          select jsonb_array_elements_text(p.path)
        ), '.'), ''), p.message),
        '; '
      )
      from jsonb_to_recordset(
        case when e.type = 'PayloadRejected' then e.data -> 'problems' end
      ) as p (path jsonb, message text)
    ),
    -- the line belongs to another job if the job did not end the process
    case when e.reason = 'worker_lost' then e.evidence ->> 'line' end,
    (
      select concat_ws(
        ': ',
        a.traceback #>> '{causes,-1,type}',
        -- the worker stores the class in place of an empty message
        nullif(a.traceback #>> '{causes,-1,message}', a.traceback #>> '{causes,-1,type}')
      )
      from queue.attempts as a
      where a.job_id = p_job.id
        and a.traceback ? 'causes'
        and not a.traceback #> '{causes,-1}' ? 'handled'
        -- the other errors of a task group are not the cause of its first error
        and a.traceback #> '{causes,0,frames,0}' is distinct from a.traceback #> '{frames,0}'
      order by a.fence desc
      limit 1
    )
  ) as cause,
  case
    when p_job.status in ('failed', 'pending') then (
      select (f.frame ->> 'file') || ':' || (f.frame ->> 'line')
      from queue.attempts as a
      cross join lateral (select a.traceback #> '{frames,0}' as frame) as f
      where a.job_id = p_job.id
      order by a.fence desc
      limit 1
    )
  end as place
from jsonb_to_record(p_job.error_data) as e (
  type text, status text, sqlstate text, errno text, signal text, variable text, response text,
  reason text, evidence jsonb, data jsonb
)
$$;

-- Return the reason why a job waits, and the job, limit or pause for which it waits.
-- p_lock: Database session that has locked the job's row, from queue.locks_on.
-- p_alive: Live workers, from queue.live_workers. A caller that explains many jobs reads the live
--   workers only once, because queue.live_workers reads all leases.
-- p_is_open: True to return also jobs of other workspaces and names of people, roles and
--   applications.
create or replace function queue.explain(
  p_job public.jobs,
  p_lock jsonb,
  p_alive queue.workers[],
  p_now timestamptz,
  p_is_open boolean default queue.is_operator() or queue.is_service()
)
returns jsonb
language plpgsql stable
set search_path = ''
set timezone = 'UTC'
as $$ -- sentences show times in UTC
declare
  v_recursion jsonb;
  v_stopped jsonb;
  v_found jsonb;
  v_held jsonb;
  v_error record;
  v_revoked_at timestamptz; -- null while workers can call
  v_abandoned jsonb; -- the worker and the location of a stopped processor that still runs
  v_left jsonb; -- the sentence and the advice about this processor
  v_more jsonb; -- advice without which waiting does not help
begin
  v_found := case
    when p_lock is null then queue.explain_row(p_job, p_alive, p_now)
    else jsonb_build_object('reason', 'locked', 'since', p_lock -> 'since', 'data', p_lock)
  end;
  if v_found ->> 'reason' = 'no_worker' then
    v_found := v_found || jsonb_build_object(
      'since', queue.last_call(),
      'data', jsonb_build_object('key_expired_at', queue.key_expired_at())
    );
  elsif v_found ->> 'reason' = 'no_processor' then
    v_found := v_found || jsonb_build_object('data', (
      select v_found -> 'data' || jsonb_build_object('served', nullif(
        concat_ws(
          ', ',
          string_agg(o.job_type, ', ' order by o.job_type) filter (where o.n <= 10),
          case when count(*) > 10 then 'and others' end
        ),
        ''
      ))
      from (
        select t.job_type, row_number() over (order by t.job_type) as n
        from queue.job_types as t
        where not t.internal
          and exists (select from unnest(p_alive) as w where t.job_type = any (w.job_types))
      ) as o
    ));
  elsif v_found ->> 'reason' = 'running' then
    v_found := jsonb_set(
      v_found,
      '{data,kept_child}',
      coalesce(to_jsonb(queue.kept_child(p_job, p_alive)), 'null')
    );
  end if;
  select * into v_error
  from queue.error_of(p_job);
  select
    to_jsonb(w)
      || to_jsonb(a)
      || jsonb_build_object('thread_place', case when a.in_thread then a.place end)
  into v_abandoned
  from unnest(p_alive) as w
  cross join lateral jsonb_to_recordset(w.abandoned)
    as a (job_id uuid, place text, in_thread boolean)
  where a.job_id = p_job.id
    -- the end of a run leaves the processor running, but the end of the process ends it
    and coalesce(w.evidence, w.summary -> 'stopped') is null
  limit 1;
  v_found := jsonb_build_object(
    'job_id', p_job.id,
    'status', p_job.status,
    'estimated_start_at', null,
    'data', '{}'::jsonb,
    'since', coalesce(p_job.finished_at, p_job.scheduled_for, p_job.created_at),
    'cause', v_error.cause
  ) || v_found;
  v_revoked_at := case
    when p_job.status in ('pending', 'processing') then queue.revoked_for(case
      when v_found ->> 'reason' <> 'no_worker' then p_job.job_type
    end)
  end;
  if v_revoked_at is not null then
    v_found := jsonb_set(v_found, '{data,revoked_at}', to_jsonb(v_revoked_at));
  end if;
  if current_setting('default_transaction_read_only')::boolean and p_job.finished_at is null then
    v_found := jsonb_set(v_found, '{data,is_read_only}', '""');
  end if;
  if not (p_is_open or queue.is_manager(p_job.workspace_id)) then -- as job_attempts
    v_found := v_found #- '{data,code}' #- '{data,stack}';
  end if;
  if not p_is_open then -- hide the names of others from members
    v_found := v_found || jsonb_build_object(
      'data', (v_found -> 'data')
        - '{application,triggers,without_right,lacked,not_granted}'::text[]
        || jsonb_build_object('a_right', case
          when v_found #>> '{data,without_right}' <> '' or v_found #>> '{data,not_granted}' <> ''
            then 'a right in the database'
        end) || case
        when v_found -> 'data' ? 'paused_by' then jsonb_build_object(
          'paused_by',
          queue.shown_person(v_found #>> '{data,paused_by}', p_job.workspace_id)
        )
        else '{}'
      end
    );
  end if;
  v_held := queue.held_by(p_job, v_found, p_now, p_is_open);
  v_left := queue.render_guidance(
    'abandoned',
    v_abandoned || jsonb_build_object('job_type', p_job.job_type)
  );
  v_recursion := queue.render_guidance('recursion', queue.recursion_of(p_job));
  v_stopped := (
    select queue.render_guidance('stopped', to_jsonb(s) || jsonb_build_object(
      'job_type', p_job.job_type,
      'stops', queue.times_in_words(s.stops)
    ))
    from queue.stops_of(p_job) as s
  );
  v_more := (v_left -> 'next')
    || (v_recursion -> 'next')
    || coalesce(v_stopped -> 'next', '[]');
  v_found := v_found || queue.render_guidance(
    v_found ->> 'reason',
    v_found
      || queue.names_of(p_job, v_held)
      || jsonb_build_object(
        'code', v_error.code,
        'place', v_error.place,
        'is_delayed', case when p_job.status = 'pending' then '' end,
        'failed', 'the job',
        'which', case when p_is_open then p_job.workspace_id end,
        'stuck_in', v_abandoned -> 'worker_id'
      )
      || coalesce(
        (
          -- the worker that rejected the payload, if another live worker runs the newest deploy
          select jsonb_build_object('old_worker', w.worker_id, 'old_version', w.version)
          from unnest(p_alive) as w
          join queue.job_types as t on t.job_type = p_job.job_type
          where v_error.kind = 'payload'
            and w.worker = (
              select a.worker
              from queue.attempts as a
              where a.job_id = p_job.id
              order by a.fence desc
              limit 1
            )
            and t.deployed_at is not null
            and w.version not like '%+' || left(t.commit, 9)
            and exists (
              select from unnest(p_alive) as o
              where p_job.job_type = any (o.job_types)
                and o.version like '%+' || left(t.commit, 9)
            )
        ),
        '{}'
      )
      || jsonb_strip_nulls(v_found -> 'data'),
    '{"failed": "failed", "backing_off": "failed", "cancelled": "cancelled"}'::jsonb
      ->> (v_found ->> 'reason')
      || coalesce(
        ':' || case
          when v_left ->> 'sentence' <> '' and v_error.kind = 'timeout' then 'abandoned'
          else v_error.kind
        end,
        ''
      )
  );
  v_found := v_found || jsonb_build_object(
    'next', case
      when v_more <> '[]'
        then v_more || jsonb_path_query_array(v_found -> 'next', '$[*] ? (@.kind == "act")')
      when jsonb_array_length(v_found -> 'next') > 1
        then jsonb_path_query_array(v_found -> 'next', '$[*] ? (@.kind != "none")')
      else v_found -> 'next'
    end,
    'sentence', concat_ws(
      ' ',
      -- put the sentences about the lost worker and the abandoned processor before the job's
      -- error, because the console hides the error and all text after the error
      ( -- count only losses that no other job can have caused
        select queue.render_guidance(
          'worker_lost',
          jsonb_build_object(
            -- null if there is no evidence of how any of the processes ended
            'ended_times', queue.times_in_words(count(*) filter (where a.error_data ? 'evidence')),
            -- if the job was the only job of its process in each loss with evidence
            'alone', case
              when bool_and(a.error_data ->> 'company' = '0')
                  filter (where a.error_data ? 'evidence')
                then 'alone'
            end,
            'lost_times', queue.times_in_words(count(*))
          )
        ) ->> 'sentence'
        from queue.attempts as a
        where a.job_id = p_job.id
          and a.outcome = 'lost'
          and p_job.error_data ->> 'type' = 'WorkerLost'
        having count(*) > 0
      ),
      v_left ->> 'sentence',
      v_found ->> 'sentence',
      queue.render_guidance('deadline', v_found -> 'data') ->> 'sentence',
      case
        when v_found ->> 'reason' ~ '(_limit|^rate_limited|^no_slot)$'
          then queue.render_guidance(
            'ahead',
            v_found -> 'data' || jsonb_build_object('job_type', p_job.job_type)
          ) ->> 'sentence'
      end,
      v_recursion ->> 'sentence',
      v_stopped ->> 'sentence',
      case
        when p_job.status = 'pending' and p_job.started_at is null
            and p_job.start_by_at > p_now
          then queue.render_guidance(
            'start_by',
            jsonb_build_object(
              'start_by_at', p_job.start_by_at,
              'ahead', v_found #> '{data,ahead}'
            )
          ) ->> 'sentence'
      end
    )
  );
  return v_found || jsonb_build_object(
    'outlook', case
      when v_found ->> 'reason' = 'running'
        then queue.render_guidance('outlook', jsonb_strip_nulls(v_found -> 'data')) -> 'sentence'
    end,
    'abandoned_at', v_abandoned -> 'place',
    'held_by', v_held || jsonb_build_object('act', v_found #> '{next,0}')
  );
end;
$$;

-- Return the values of a job and its holder that replace the placeholders in texts of
-- queue.guidance.
create or replace function queue.names_of(p_job public.jobs, p_held jsonb)
returns jsonb
language sql stable
set search_path = ''
as $$
select jsonb_build_object(
  'job_type', p_job.job_type,
  'own_type', case when not queue.is_internal(p_job.job_type) then p_job.job_type end,
  'own_key', left(p_job.concurrency_key, 100),
  'queue', p_job.queue,
  'finished_at', p_job.finished_at,
  'start_by_at', case
    when p_job.error_data ->> 'type' = 'StartByPassed' then p_job.start_by_at
  end,
  'deadline_at', p_job.deadline_at,
  'used', nullif(p_job.attempts, 0),
  'waited', p_job.error_data -> 'waited',
  'was_held', case when p_job.error_data ->> 'waited' <> '' then '' end,
  'cancel_requested_at', p_job.cancel_requested_at,
  'is_retried', case
    when p_job.cancel_requested_at is not null and queue.retry_requested(p_job.id) then ''
  end,
  'error_line', regexp_replace(
    left(queue.error_line(p_job.error_message, p_job.error_data), 300),
    '\s+',
    ' ',
    'g'
  ),
  -- the first address in the message is db.test:5432, ('10.0.0.1', 80) or https://db.test/, for
  -- example
  'address', coalesce(
    p_job.error_data ->> 'address',
    array_to_string(regexp_match(
      left(p_job.error_message, 2000),
      '((?:[[:alnum:]_-]+\.)+(?!py:)[[:alpha:]]{2,}|(?:\d{1,3}\.){3}\d{1,3}|localhost)'
        '(?:["''], (?:port[ =])?|:)(\d{2,5})\M(?!@)'
    ), ':'),
    substring(left(p_job.error_message, 2000) from '://(?:[^/@\s]*@)?([[:alnum:].-]+(?::\d+)?)'),
    substring( -- such as: host name "db.test"; failed to resolve 'db.test'
      left(p_job.error_message, 2000)
      from '(?i)\m(?:host(?:[ _]?name)?|resolve)[ :=]*["'']([[:alnum:]._-]+)["'']'
    )
  ),
  'error_path', p_job.error_data -> 'path',
  'has_answer', left(p_job.error_data ->> 'response', 0),
  'object', coalesce(g.object, 'an object'),
  'policed', case when p_job.error_message ~ 'violates row-level security' then g.object end,
  'is_granted', case when p_job.error_message ~ 'violates row-level security' is not true then '' end,
  'own_object', case when o.is_own then g.object end,
  'shared_object', case when o.is_shared then g.object end,
  'had_finished', case
    when p_job.error_message ^@ 'the database rejected the outcome completed' then ''
  end,
  'signal', p_job.error_data -> 'signal',
  'peak_mb', p_job.error_data #> '{evidence,memory_mb}',
  'cancelled_for', case
    when p_job.error_data @> '{"type": "Cancelled"}' and not p_job.error_data ? 'reason'
      then left(p_job.error_message, 300)
  end,
  'cancelled_by', (
    select case e.data ->> 'reason'
      when 'parent_ended' then 'because its parent ended'
      else 'by ' || (e.data ->> 'by')
    end
    from (
      select p_job.error_data as data, null::integer as seq
      where p_job.cancel_requested_at is null
        and p_job.status = 'cancelled'
      union all -- a running job keeps the error of its last attempt
      select v.data, v.seq
      from queue.job_events as v
      where p_job.cancel_requested_at is not null
        and v.job_id = p_job.id
        and v.type = 'job.cancel_requested'
    ) as e
    order by e.seq desc
    limit 1
  ),
  -- The job that may have ended an earlier process of the job: its type, and its id if it has lost
  -- a process itself. Null while the type is unknown, or while several jobs may have ended the
  -- process.
  'killer', case
    when p_job.error_data ->> 'reason' = 'process_died' then coalesce(
      (
        select min(concat_ws(' ', j.job_type, j.id))
        from jsonb_array_elements_text(p_job.error_data #> '{evidence,jobs}') as e (id)
        join public.jobs as j on j.id = e.id::uuid
        where j.id <> p_job.id
          and j.status <> 'completed' -- a completed job did not end the process
          -- the stack of the process may already have shown the type
          and coalesce(j.job_type = p_job.error_data #>> '{evidence,guilty_type}', true)
        having count(*) = 1
          and bool_and(exists (
            select from queue.attempts as a
            where a.job_id = j.id and a.outcome = 'lost' and a.error_data ? 'evidence'
          ))
      ),
      p_job.error_data #>> '{evidence,guilty_type}'
    )
  end,
  'version', p_job.schema_version,
  'type_version', (
    select t.schema_version
    from queue.job_types as t
    where t.job_type = p_job.job_type and t.schema_version <> p_job.schema_version
  ),
  'child', c.id,
  'cause_type', coalesce(c.job_type, 'the child'),
  'holder', p_held #> '{holder,job_id}',
  'parent', case
    when p_held #>> '{holder,job_id}' = p_job.parent_id::text then p_job.parent_id
  end,
  -- the job's type, if a list of the job's workspace shows the running jobs
  'listed_type', (
    select p_job.job_type
    from public.jobs as h
    where h.id = (p_held #>> '{holder,job_id}')::uuid
      and h.workspace_id = p_job.workspace_id
  ),
  'holder_type', p_held #> '{holder,job_type}',
  'holder_state', p_held #> '{holder,state}',
  'others', case
    when p_held @> '{"kind": "no_worker"}' -- up to 999 jobs that also have no worker
      then queue.other_jobs(nullif((p_held ->> 'waiting')::integer - 1, 0))
    else p_held #>> '{holder,others}'
  end,
  'held_since', p_held -> 'since'
)
from (
  select case
    when p_job.error_data ->> 'type' = 'minutehand.worker.context.ChildrenFailed'
      then queue.blocking_descendant(p_job.id, true)
  end as id
) as b
left join public.jobs as c on c.id = b.id
cross join lateral substring(
  p_job.error_message
  from '\m(?:permission denied for|policy for) '
    '((?:table|view|sequence|schema|function|procedure|database) "?\w+)'
) as p (object)
cross join lateral replace(p.object, '"', '') as g (object)
cross join lateral ( -- a table of the project may have the name of a table of the engine
  select
    bool_and(k.is_own) or g.object = 'schema queue' as is_own,
    count(distinct k.is_own) = 2 as is_shared
  from pg_catalog.pg_class as t
  cross join lateral (
    values (
      t.relnamespace = 'queue'::regnamespace
      -- by name, because a repair may restore this function before the tables
      or t.relnamespace = 'public'::regnamespace and t.relname ~ '^job(s|_logs|_events)$'
    )
  ) as k (is_own)
  where t.relname = substring(g.object from '^(?:table|view|sequence) (.+)')
) as o
$$;

-- Return the advice for the last error of a failed or delayed job. p_jobs is the number of jobs
-- with the same error.
create or replace function queue.error_advice(p_job_id uuid, p_jobs bigint)
returns jsonb
language sql stable
set search_path = ''
as $$
select queue.render_guidance(
  'failed',
  queue.names_of(j, null) || jsonb_build_object(
    'job_id', case when p_jobs = 1 then j.id end, -- neither a command nor a link for one of several
    'these', case when p_jobs > 1 then 'these jobs' end,
    'failed', case -- only failed jobs can be retried
      when p_jobs = 1 then 'the job'
      when j.status = 'failed' then 'these jobs'
    end,
    'code', e.code,
    'place', e.place
  ),
  'failed:' || e.kind
) -> 'next'
from public.jobs as j
cross join lateral queue.error_of(j) as e
where j.id = any (array[p_job_id])
$$;

-- Explain a job that the caller may see, as for public.explain_job.
create or replace function queue.explain_visible(p_job_id uuid, p_now timestamptz)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_job constant public.jobs := queue.visible_job(p_job_id);
  v_lock jsonb;
begin
  if v_job.status = 'pending' then
    perform queue.take_call_slot(); -- take a slot, because the call counts the jobs ahead
  end if;
  -- in a read-only session, ignore locks of other sessions, because a read-only session cannot try
  -- to lock the job's row
  if v_job.finished_at is null and not current_setting('transaction_read_only')::boolean then
    select to_jsonb(l) into v_lock
    from queue.locks_on(array[p_job_id], p_now) as l;
  end if;
  if v_lock is not null then
    perform from public.jobs
    where id = p_job_id
    for no key update skip locked;
    -- If this session can also lock the job's row, the lock of the other session comes from a
    -- foreign key check. A lock of a foreign key check does not keep workers from leasing the job.
    v_lock := case when not found then v_lock end;
  end if;
  if v_lock is null and v_job.finished_at is null then
    select to_jsonb(o) into v_lock
    from (
      select l.*, w.*, a.xact_start as since, a.application_name as application
      from queue.table_locks() as l
      join pg_catalog.pg_stat_activity as a on a.pid = l.pid
      left join lateral queue.session_work(a.pid) as w on true
      where a.xact_start <= p_now - interval '2 seconds'
      order by a.xact_start
      limit 1
    ) as o;
  end if;
  return ( -- read the job and its wait in one statement, because a worker may change both
    select queue.explain(j, v_lock, queue.live_workers(p_now), p_now)
    from queue.visible_job(p_job_id) as j
  );
end;
$$;

create or replace function public.explain_job(p_job_id uuid)
returns jsonb
language plpgsql
security definer
set search_path = ''
set enable_seqscan = off
set jit = off
set timezone = 'UTC'
as $$ -- sentences show times in UTC
declare
  v_now constant timestamptz := queue.clock();
begin
  if exists (select from queue.table_locks() as l where l.mode = 'AccessExclusiveLock') then
    -- Name the session that must end, because all reads of the table would wait for it. A variable
    -- of the type public.jobs would wait too, so only queue.explain_visible has one.
    perform queue.refuse(
      503,
      'busy',
      concat_ws(' ', g.said ->> 'sentence', g.said #>> '{next,0,words}')
    )
    from queue.findings_of_locks(
      case
        when not (queue.is_operator() or queue.is_service()) then queue.system_workspace()
      end,
      v_now
    ) as f
    cross join lateral queue.render_guidance(
      f.reason,
      f.data || jsonb_build_object('since', f.since)
    ) as g (said)
    where f.data ->> 'locked' <> '';
  end if;
  return queue.explain_visible(p_job_id, v_now);
end;
$$;

comment on function public.explain_job is
  'Why a job waits and what blocks it: {job_id, status, reason, sentence, since, cause, '
  'held_by: {kind, holder, since, until, waiting, more, act}, next: [{kind, words, command, '
  'path}], outlook, data, estimated_start_at, abandoned_at}. The kind of a step is act, wait or '
  'none. outlook is the time at which the timeout stops a running job, and what follows. '
  'abandoned_at is the code location of a stopped processor that still runs. An error with the '
  'status 503 if a table of the queue is locked.';

select queue.allow('authenticated, service_role', 'public.explain_job');

-- Return how many jobs of a type completed or failed in the last day, and the duration in
-- milliseconds that 99 % of them did not exceed. The duration is the end of its range in the
-- histogram, rounded up as queue.length_in_words shows it.
create or replace function queue.run_times(p_workspace_id uuid, p_job_type text, p_now timestamptz)
returns table (jobs bigint, most_ms double precision)
language sql stable
set search_path = ''
as $$
select o.jobs, r.ms
from (
  select
    sum((s.counts ->> 'completed')::bigint + (s.counts ->> 'failed')::bigint) as jobs,
    queue.percentiles(queue.sum_jsonb(array_agg(s.run_times))) ->> 'p99_ms' as middle
  from queue.stats as s
  where s.workspace_id = p_workspace_id
    and s.at > p_now - interval '1 day'
    and s.job_type = p_job_type
) as o
cross join lateral (values ((o.middle::double precision + 1) * sqrt(1.25) - 1)) as e (ms)
cross join lateral (
  select ceil(e.ms / u.size) * u.size as ms
  from (
    values (
      case
        when e.ms < 1000 then 1
        when e.ms < 10000 then 100
        when e.ms < 7200000 then 1000
        else 60000
      end
    )
  ) as u (size)
) as r
$$;

-- Return the duration in milliseconds that 99 % of the jobs of a type did not exceed in the last
-- day. Return null if fewer than 20 jobs of the type ended.
create or replace function queue.usual_ms(p_workspace_id uuid, p_job_type text, p_now timestamptz)
returns double precision
language sql stable
set search_path = ''
as $$
select t.most_ms
from queue.run_times(p_workspace_id, p_job_type, p_now) as t
where t.jobs >= 20
$$;

-- Describe the run times of a type in the last day. Fields without a value are null.
-- of_jobs: Number of jobs that completed or failed, as text.
-- typical, typical_ms: Duration that 99 % of at least 20 jobs did not exceed.
-- longest: Duration that none of fewer than 20 jobs exceeded.
-- longest_ms: The same, if at least 5 jobs ended. Fewer jobs do not show how long a job may run.
create or replace function queue.run_times_in_words(
  p_workspace_id uuid,
  p_job_type text,
  p_now timestamptz
)
returns jsonb
language sql stable
set search_path = ''
as $$
select jsonb_build_object('of_jobs', t.jobs || case t.jobs when 1 then ' job' else ' jobs' end)
  || case
    when t.jobs < 20 then jsonb_build_object(
      'longest', w.most,
      'longest_ms', case when t.jobs >= 5 then t.most_ms end
    )
    else jsonb_build_object(
      'typical', w.most,
      'typical_ms', t.most_ms
    )
  end
from queue.run_times(p_workspace_id, p_job_type, p_now) as t
cross join lateral queue.length_in_words(t.most_ms) as w (most)
$$;

-- Return the number of due jobs for each reason why due jobs have not started. The reasons are
-- paused, unserved (no worker serves the job type), suspect (the job's process died), at_limit,
-- blocked (by a concurrency key) and ready. Only unserved jobs cause the verdict `warn`. The key
-- `attention` has the jobs that wait for a worker, as public.explain_queue returns them.
-- p_user_id: Id of the person who calls, or null to count the jobs of all callers. Among jobs of
--   unpublished types, only the person's own jobs are counted, because the person cannot change the
--   jobs of other people.
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
    case when s.in_other_queues then l.queue end as not_served,
    greatest(10, 10000 / count(*) over ()) as most,
    coalesce(queue.free_of_type(l.job_type, p_now) <= 0, false) as is_full
  from (
    select array_agg(o.job_type) as types, array_agg(o.queue) as queues
    from (select distinct job_type, queue from queue.lanes) as o
  ) as a
  cross join lateral queue.is_unserved(a.types, a.queues, queue.live_workers(p_now), p_now) as s
  join queue.lanes as l on l.job_type = s.job_type and l.queue = s.queue
),
unpublished as materialized (
  select o.workspace_id, o.job_type, o.job_id
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
),
due as (
  select
    l.job_type,
    l.not_served,
    r.ready_at,
    r.jobs,
    r.workspace_id,
    r.job_ids,
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
      when r.is_suspect then 'suspect'
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
    select
      o.workspace_id,
      exists (select from queue.suspects) -- evaluated once, and usually finds no row
        and exists (select from queue.suspects as s where s.job_id = o.job_id) as is_suspect,
      min(o.ready_at) as ready_at,
      count(*) as jobs,
      (array_agg(o.job_id))[:200] as job_ids
    from (
      select *
      from queue.ready as q
      where q.lane = l.lane
        and (p_workspace_id is null or q.workspace_id = p_workspace_id)
      limit l.most
    ) as o
    group by 1, 2
  ) as r
  union all
  select
    g.job_type,
    null,
    null,
    count(*),
    null,
    null,
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
    coalesce(j.next_retry_at, j.scheduled_for, j.created_at),
    u.jobs,
    u.workspace_id,
    u.job_ids,
    sum(u.jobs) over () >= 10000,
    'unserved'
  from (
    select
      i.job_type,
      i.workspace_id,
      count(*) as jobs,
      (array_agg(i.job_id order by i.job_id))[:200] as job_ids
    from unpublished as i
    group by 1, 2
  ) as u
  join public.jobs as j on j.id = any (array[u.job_ids[1]])
),
causes as (
  select
    k.*,
    coalesce(sum(d.jobs), 0)::integer as jobs,
    min(d.ready_at) as oldest_at,
    coalesce(bool_or(d.is_more), false) as is_more,
    min(d.job_type) as job_type,
    (array_agg(d.not_served order by d.job_type, d.not_served))[1] as not_served,
    (array_agg(distinct d.job_type) filter (where d.not_served is null))[:100] as job_types,
    array_to_string((array_agg(distinct d.job_type || case
      when d.cause = 'unserved' then coalesce(' in the queue ' || d.not_served, '')
      else ''
    end))[:3], ', ') as types
  from (
    values
      (1, 'unserved', 'waiting: no worker serves'),
      (2, 'paused', 'paused:'),
      (3, 'suspect', 'to run alone, because the worker was lost:'),
      (4, 'at_limit', 'waiting for a limit:'),
      (5, 'blocked', 'waiting for a job of the same key:'),
      (6, 'ready', 'ready to start:')
  ) as k (n, cause, words)
  left join due as d on d.cause = k.cause
  group by 1, 2, 3
)
select jsonb_object_agg(
  c.cause,
  jsonb_build_object(
    'jobs', c.jobs,
    'more', c.is_more,
    'types', c.types,
    'job_type', c.job_type,
    'job_types', c.job_types,
    'not_served', c.not_served,
    'oldest_at', c.oldest_at
  )
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
    ),
    'attention', (
      select coalesce(
        jsonb_agg(
          to_jsonb(a) || jsonb_build_object(
            'nearest', case
              when not exists (select from queue.job_types as t where t.job_type = a.job_type)
                then queue.nearest_type(a.job_type)
            end
          )
        ),
        '[]'
      )
      from (
        select
          d.workspace_id,
          'no_worker' as kind,
          case d.cause when 'unserved' then 'no_processor' else 'no_worker' end as reason,
          d.job_type,
          d.jobs,
          d.job_ids,
          d.ready_at as since
        from due as d
        where case
          when d.cause = 'unserved' then true
          when d.cause <> 'paused' and d.job_ids is not null
            -- no worker has called, as in the finding no_worker
            then coalesce((select queue.last_call() < p_now - interval '90 seconds'), true)
        end
        order by d.jobs desc
        limit 50 -- limits the response
      ) as a
    )
  )
from causes as c
$$;

-- Return the database sessions that have locked the table of jobs, so that no job can be changed,
-- or another table of the engine, so that it cannot be read.
create or replace function queue.table_locks()
returns table (pid integer, mode text, locked text, effect text)
language sql stable
set search_path = ''
as $$
select
  l.pid,
  l.mode,
  c.oid::regclass::text,
  case c.relnamespace
    when 'queue'::regnamespace then 'calls that use it wait'
    else 'no job can be added or changed'
  end
from pg_catalog.pg_locks as l
join pg_catalog.pg_class as c on c.oid = l.relation
join pg_catalog.pg_database as d on d.oid = l.database
where l.granted
  and l.locktype = 'relation' -- a session that waits for a row has a lock of a tuple
  and d.datname = current_database()
  and (
    l.mode = 'AccessExclusiveLock' and c.relnamespace = 'queue'::regnamespace and c.relkind = 'r'
    or c.oid = 'public.jobs'::regclass
    and l.mode in (
      'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock'
    )
  )
$$;

-- Return a finding for each database session for whose lock other sessions wait, or that has locked
-- a table of the engine. The session's transaction, or the first wait, must have lasted for ten
-- seconds. The finding begins with the transaction, because a call that waits is repeated. Members
-- of a workspace do not see sessions.
create or replace function queue.findings_of_locks(p_workspace_id uuid, p_now timestamptz)
returns setof queue.finding
language sql stable
set search_path = ''
as $$
select
  'warn',
  case when p_workspace_id is null then 'blocking_session' else 'service_locked' end,
  coalesce(h.xact_start, min(w.since)),
  case
    when p_workspace_id is null then format(
      '%s (pid %s) is %s',
      coalesce(nullif(h.application_name, ''), h.usename, h.backend_type),
      h.pid,
      coalesce(h.state, 'active')
    )
  end,
  jsonb_build_object(
    'pid', h.pid,
    'waiting', count(*),
    'locked', (min(array[w.locked, w.effect]))[1],
    'effect', (min(array[w.locked, w.effect]))[2],
    'began_at', h.xact_start,
    'call', max(k.call),
    'work', max(k.work),
    'triggers', max(k.triggers)
  )
from (
  (
    select
      a.query_start as since,
      queue.last_blocker(a.pid) as pid,
      null as locked,
      null as effect
    from pg_catalog.pg_stat_activity as a
    where a.datname = current_database()
      and a.wait_event_type = 'Lock'
      and a.query_start <= p_now - interval '1 second'
    limit 20
  )
  union all
  -- calls of people wait for at most two seconds, so no waiting session may show this lock
  select a.xact_start, a.pid, l.locked, l.effect
  from queue.table_locks() as l
  join pg_catalog.pg_stat_activity as a on a.pid = l.pid
) as w
join pg_catalog.pg_stat_activity as h
  on h.pid = w.pid and h.wait_event_type is distinct from 'Lock'
left join lateral queue.session_work(h.pid) as k on true
group by h.pid, h.application_name, h.usename, h.backend_type, h.state, h.xact_start
having coalesce(h.xact_start, min(w.since)) <= p_now - interval '10 seconds'
  and (p_workspace_id is null or max(w.locked) is not null)
$$;

-- Return findings about workers, due jobs, the database and maintenance. A transaction that has
-- written rows is a finding after a minute, or after 30 seconds if its session is idle, because
-- readers of queue.feed wait for the end of the transaction. A read-only transaction is a finding
-- after five minutes, because Postgres cannot remove dead rows until the transaction ends.
create or replace function queue.findings_of_queue(
  p_workspace_id uuid,
  p_now timestamptz,
  p_backlog jsonb,
  p_seen_at timestamptz
)
returns setof queue.finding
language plpgsql stable
set search_path = ''
as $$
declare
  v_alive constant queue.workers[] := queue.live_workers(p_now);
  -- functions that workers have no right to call
  v_is_open constant boolean := p_workspace_id is null
    or queue.is_operator()
    or queue.is_service();
  v_denied constant regproc[] := array(
    select f.function
    from unnest(
      '{public.lease_jobs, public.report_jobs, public.settle_jobs,
        public.run_maintenance}'::regproc[]
    ) as f (function)
    where queue.lacked_right(f.function) is not null
  );
begin
  return query
    select
      'fail',
      'read_only',
      null::timestamptz,
      null::text,
      coalesce(f.data || '{"is_full": ""}', jsonb_build_object(
        'reset', (
          select string_agg(
            format(
              'alter %s reset default_transaction_read_only',
              case s.setrole
                when 0 then format('database %I', current_database())
                else concat('role ', s.setrole::regrole, ' in database ' || quote_ident(d.datname))
              end
            ),
            '; '
          )
          from pg_catalog.pg_db_role_setting as s
          left join pg_catalog.pg_database as d on d.oid = s.setdatabase
          where (s.setdatabase = 0 or d.datname = current_database())
            and s.setrole in (0, to_regrole(quote_ident(session_user)))
            and s.setconfig::text ~* '[{,"]default_transaction_read_only=(on|t|y|1)'
        ),
        'source', p.source
      ))
    from pg_catalog.pg_settings as p
    left join queue.findings_of_disk() as f on f.reason = 'disk_nearly_full'
    where p.name = 'default_transaction_read_only' and p.setting = 'on'
    union all
    select
      'warn',
      'no_retention',
      null,
      null,
      jsonb_build_object(
        'states', string_agg(d.key, ', ' order by d.key) filter (where d.value = '0'),
        'longer', jsonb_object_agg(d.key, case
          when d.value <> '0' then d.value::integer
          when d.key = 'failed' then 90
          else 30
        end)::text
      )
    from jsonb_each_text(queue.setting('retention_days')) as d
    -- some projects keep no completed jobs, but without failed jobs no one sees why they failed
    having bool_or(d.key = 'failed' and d.value = '0')
    union all
    select
      case
        when p_now - p_seen_at > interval '200 seconds' then 'fail'
        else 'warn'
      end,
      'no_worker',
      p_seen_at,
      null,
      jsonb_build_object(
        'jobs', p_backlog -> 'jobs',
        'key_expired_at', queue.key_expired_at(),
        'revoked_at', queue.revoked_for()
      )
    where coalesce(p_now - p_seen_at > interval '90 seconds', true)
      -- rejected workers may be running
      and 'public.lease_jobs'::regproc <> all (v_denied)
    union all
    select
      case
        when p_seen_at is null and o.at < p_now - interval '15 minutes' then 'fail'
        else 'warn'
      end,
      'overdue',
      o.at,
      null,
      jsonb_build_object(
        'jobs', p_backlog #> '{ready,jobs}',
        'job_id', w.job_id,
        'used_by', w.used_by
      )
    from (values ((p_backlog #>> '{ready,oldest_at}')::timestamptz)) as o (at)
    left join lateral (
      select
        j.id as job_id,
        e.said ->> 'reason' as reason,
        e.said #> '{data,used_by}' as used_by
      from (
        select r.job_id
        from queue.lanes as l
        cross join lateral (
          select *
          from queue.ready as q
          where q.lane = l.lane
            and (p_workspace_id is null or q.workspace_id = p_workspace_id)
          limit 1
        ) as r -- the first job of each lane
        where r.ready_at >= o.at -- older jobs wait for a limit, or their type is paused
        order by r.ready_at
        limit 1
      ) as f
      join public.jobs as j on j.id = any (array[f.job_id])
      cross join lateral queue.explain_row(j, v_alive, p_now) as e (said)
    ) as w on true
    where o.at < p_now - interval '2 minutes'
      and 'public.lease_jobs'::regproc <> all (v_denied)
      -- the job only waits for its turn, or for a limit that was reached after the last lease
      and coalesce(w.reason !~ '^(behind_others|next_in_line|rate_limited|.*_limit)$', true)
    union all
    select
      'warn',
      'no_processor',
      u.oldest_at,
      null,
      jsonb_build_object(
        'jobs', u.jobs,
        'types', u.types,
        'unserved', u.job_types,
        'job_type', u.job_type,
        'only_type', (select u.job_type where u.types = u.job_type),
        'nearest', n.nearest,
        'is_near', left(n.nearest, 0),
        'not_served', u.not_served,
        'revoked_at', queue.revoked_for(u.job_type),
        'key_expired_at', queue.key_expired_at(u.job_type),
        'once_served', case
          when exists (select from queue.workers as w where u.job_type = any (w.job_types))
            then u.job_type
        end
      )
    from jsonb_to_record(p_backlog -> 'unserved') as u (
      jobs integer,
      types text,
      job_type text,
      job_types text[],
      not_served text,
      oldest_at timestamptz
    )
    left join lateral queue.nearest_type(u.job_type) as n (nearest)
      on u.types = u.job_type
        and not exists (select from queue.job_types as t where t.job_type = u.job_type)
    where u.jobs > 0
    union all
    select
      'warn',
      'silent_worker',
      c.at,
      null,
      jsonb_build_object(
        'worker_id', w.worker_id,
        'jobs', h.jobs,
        'expires_at', h.expires_at,
        'is_read_only', (
          select '' where current_setting('default_transaction_read_only')::boolean
        ),
        'key_expired_at', queue.key_end(w, c.at),
        'key_revoked_at', queue.key_revoked_at(w, c.at)
      )
    from queue.lease_holders(p_workspace_id, p_now) as h
    join queue.workers as w on w.worker = h.worker
    cross join lateral (values (greatest(w.seen_at, h.renewed_at))) as c (at)
    where h.due_at <= p_now and w.seen_at <= h.due_at and w.evidence is null
    union all
    select
      'warn',
      'expired_key',
      c.at,
      null,
      jsonb_build_object('worker_id', w.worker_id, 'key_expired_at', k.expired_at)
    from queue.workers as w
    cross join lateral queue.called_at(w) as c (at)
    cross join lateral queue.key_end(w, c.at) as k (expired_at)
    where p_workspace_id is null
      and w.ended_at is null
      and (w.summary ->> 'key_expires_at')::timestamptz <= p_now -- before the read of leases
      and w.seen_at > p_now - interval '10 minutes' -- an older worker is listed as gone
      and k.expired_at is not null
      -- otherwise the jobs of a type, or all, have no worker, which is another finding
      and exists (
        select from unnest(v_alive) as a
        where a.worker <> w.worker
          and (a.job_types is null or a.job_types @> w.job_types)
          and (a.queues is null or a.queues @> w.queues)
      )
    union all
    (
      select distinct on (j.job_type)
        'warn',
        'recursive_type',
        null::timestamptz,
        null,
        r || jsonb_build_object('job_id', j.id)
      from (
        select l.job_id
        from queue.leases as l
        where p_workspace_id is null or l.workspace_id = p_workspace_id
        order by l.job_id desc
        limit 10 -- a sample, because each job reads up to 20 ancestors
      ) as l
      join public.jobs as j on j.id = any (array[l.job_id])
      cross join queue.recursion_of(j) as r
      where r is not null
    )
    union all
    select
      'warn',
      case when p_workspace_id is null then 'clock_skew' else 'wrong_clock' end,
      null,
      null,
      jsonb_build_object(
        'worker_id', w.worker_id,
        'behind', case when s.seconds < 0 then round(-s.seconds) end,
        'ahead', case when s.seconds > 0 then round(s.seconds) end
      )
    from unnest(v_alive) as w
    cross join lateral (
      values ((w.summary ->> 'clock_skew_seconds')::numeric)
    ) as s (seconds)
    where s.seconds is not null;
  return query
    select
      'fail',
      case when v_is_open then 'missing_right' else 'workers_lack_right' end,
      null::timestamptz,
      null::text,
      case
        when v_is_open
          then jsonb_build_object('right', r.lacked, 'function', min(f.function::text))
        else '{}'
      end
    from unnest(v_denied) as f (function)
    cross join lateral queue.lacked_right(f.function) as r (lacked)
    group by r.lacked
    limit case when not v_is_open then 1 end;
  if p_workspace_id is not null then
    -- only operators see the cause, for example a session with an open transaction
    return query
      select 'warn', 'late_events', s.at, null, '{}'::jsonb
      from queue.statistics_stale_since(p_now) as s (at)
      where s.at < p_now - interval '2 minutes' and p_now - p_seen_at < interval '90 seconds';
    return;
  end if;
  return query
    select
      'warn',
      'failing_maintenance',
      null::timestamptz,
      string_agg(m.words, '; '),
      '{}'::jsonb
    from (
      select format('the task %s fails: %s', t.name, left(t.failure, 300)) as words
      from queue.tasks as t
      where t.failures > 0
      union all
      (
        select format(
          '%s skips job %s: %s',
          r.task,
          r.job_id,
          left(r.failure, 300)
        )
        from queue.refusals as r
        join public.jobs as j on j.id = any (array[r.job_id])
        order by r.refused_at, r.job_id
        limit 20
      )
    ) as m
    having count(*) > 0
    union all
    (
      select
        'warn',
        'open_transaction',
        o.xact_start,
        format(
          '%s (pid %s) has an open transaction for %s s; %s',
          coalesce(nullif(o.application_name, ''), o.usename, 'a session'),
          o.pid,
          o.seconds,
          case
            when o.backend_xid is null then 'Postgres keeps dead rows until it ends'
            else 'readers of events wait until it ends'
          end
        ),
        jsonb_build_object(
          'pid', o.pid,
          'call', w.call,
          'work', w.work,
          'triggers', w.triggers
        )
      from (
        select
          a.*,
          extract(epoch from queue.clock() - a.xact_start)::integer as seconds
        from pg_catalog.pg_stat_activity as a
        where a.datname = current_database()
          and a.pid <> pg_backend_pid()
          and a.backend_type = 'client backend'
          and num_nonnulls(a.backend_xid, a.backend_xmin) > 0
          and a.wait_event_type is distinct from 'Lock' -- the session that it waits for is named
      ) as o
      left join lateral queue.session_work(o.pid) as w on true
      where o.seconds >= case
        when o.backend_xid is null then 300
        when o.state = 'active' then 60
        else 30
      end -- 30 seconds if the transaction has written and is now idle
      order by o.seconds desc
      limit 20
    );
end;
$$;

-- Return a finding if at least 80 % of the disk is used. An operator sets the size of the disk in
-- the setting disk_bytes. The used space is the size of all databases to which the owner of this
-- function may connect. The size of the write-ahead log is added if the owner of this function may
-- read the log.
create or replace function queue.findings_of_disk()
returns setof queue.finding
language plpgsql stable
set search_path = ''
as $$
declare
  v_size constant bigint := (queue.setting('disk_bytes') #>> '{}')::bigint;
  v_used bigint;
begin
  if v_size is null then
    return;
  end if;
  v_used := (
    select sum(pg_database_size(d.oid))
    from pg_catalog.pg_database as d
    where has_database_privilege(d.oid, 'connect')
  );
  if has_function_privilege('pg_catalog.pg_ls_waldir()', 'execute') then
    v_used := v_used + (select sum(w.size) from pg_ls_waldir() as w);
  end if;
  return query
    select
      'warn',
      case
        when v_used > v_size then 'wrong_disk_size'
        when v_used >= 0.9 * v_size then 'disk_nearly_full'
        else 'disk_filling'
      end,
      null::timestamptz,
      format(
        '%s of %s are used',
        pg_size_pretty(v_used),
        pg_size_pretty(v_size)
      ),
      jsonb_build_object('percent', floor(100.0 * v_used / v_size))
    where v_used >= 0.8 * v_size;
end;
$$;

-- Return a finding if at least the share p_share of the unreserved connections is in use. The
-- finding names the application, role and address with the most sessions. Its statement ends
-- only idle sessions of this application. Sessions without a name, and those of Supabase, a pooler
-- or a worker, have no statement.
create or replace function queue.findings_of_connections(p_share numeric default 0.9)
returns setof queue.finding
language sql stable
set search_path = ''
as $$
select
  'warn',
  'used_up_connections',
  null::timestamptz,
  null,
  jsonb_build_object(
    'used', g.used,
    'limit', m.most + m.reserved,
    'reserved', m.reserved,
    'sessions', g.sessions,
    'holder', format(
      'The application %s (%s)',
      coalesce(nullif(g.application_name, ''), 'without a name'),
      concat_ws(', ', 'role ' || g.usename, 'address ' || host(g.client_addr))
    ),
    'idle', case
      when g.usename !~ '^(authenticator|job_worker|pgbouncer|supabase_)'
        and g.application_name <> ''
        and g.application_name !~* '`|postgrest|supavisor|pgbouncer|minutehand'
        then format(
          'state = ''idle'' and application_name = %L and usename = %L and query !~* ''^listen''',
          g.application_name,
          g.usename
        )
    end
  )
from (
  select
    a.application_name,
    a.usename,
    a.client_addr,
    count(*) as sessions,
    sum(count(*)) over () as used
  from pg_catalog.pg_stat_activity as a
  where a.backend_type = 'client backend'
  group by 1, 2, 3
  order by 4 desc
  limit 1
) as g
cross join (
  select
    sum(s.setting::integer * case s.name when 'max_connections' then 1 else -1 end) as most,
    sum(s.setting::integer) filter (where s.name <> 'max_connections') as reserved
  from pg_catalog.pg_settings as s
  where s.name in ('max_connections', 'reserved_connections', 'superuser_reserved_connections')
) as m
where g.used >= p_share * m.most
$$;

-- Return findings about job types, versions of the code, pauses, schedules, unanswered questions,
-- silent jobs, and jobs that retry after the same error. Such a job waits for its retry, is due or
-- runs again. Of the next 5,000 rows of queue.deferred, up to 1,000 delayed jobs are read, and of
-- each of up to 70 turns the first 20 ready jobs. The turns are those of such jobs, and of types
-- whose attempts failed in the last hour. A running job is silent if the time since its last update
-- exceeds both a minute and the duration of 99 % of the jobs of its type. If too few jobs of the
-- type have ended, a job is silent after ten minutes. If an operator pauses a queue or a job type
-- for all workspaces, the pause is a finding in each workspace that has due jobs there.
create or replace function queue.findings_of_workspace(p_workspace_id uuid, p_now timestamptz)
returns setof queue.finding
language sql stable
set search_path = ''
as $$
with tried as materialized ( -- jobs that may wait for a retry, and jobs that run one
  select j.*, d.is_cut
  from (
    select u.job_id, count(*) over () >= 1000 as is_cut
    from (
      (
        select o.job_id
        from (
          -- each read has its own index; due jobs usually leave the table within seconds
          (
            select *
            from queue.deferred as q
            where p_workspace_id is null and q.run_at > p_now - interval '10 minutes'
            order by q.run_at
            limit 5000 -- many jobs may have a deadline
          )
          union all
          (
            select *
            from queue.deferred as q
            where q.workspace_id = p_workspace_id and q.run_at > p_now - interval '10 minutes'
            order by q.run_at
            limit 5000
          )
        ) as o
        where o.is_place
        limit 1000
      )
      union all
      (
        select l.job_id
        from queue.leases as l
        where l.attempt > 1 and (p_workspace_id is null or l.workspace_id = p_workspace_id)
        limit 1000
      )
    ) as u
  ) as d
  cross join lateral (
    select *
    from public.jobs as i
    where i.id = any (array[d.job_id])
    offset 0 -- without statistics, the planner would read all jobs first
  ) as j
  where j.attempts > 0 and j.error_message is not null
),
counted as materialized ( -- counts of a key are null if it was never counted
  select
    s.job_type,
    sum((s.counts ->> 'completed')::bigint) as completed,
    sum(
      (s.counts ->> 'retried')::bigint
      + (s.counts ->> 'failed')::bigint
      + coalesce((s.counts ->> 'snoozed')::bigint, 0)
    ) as failed
  from queue.stats as s
  where s.workspace_id = coalesce(p_workspace_id, '00000000-0000-0000-0000-000000000000')
    and s.at > p_now - interval '1 hour'
  group by 1
),
retrying as materialized (
  select
    j.workspace_id,
    'retrying' as kind,
    j.job_type,
    count(*) as jobs,
    bool_or(j.is_cut) as more,
    (array_agg(j.id order by n.next_at, j.id))[:200] as job_ids,
    min(j.started_at) as since,
    min(n.next_at) as next_at,
    max(n.next_at) as last_at,
    bool_or(j.status = 'pending' and n.next_at is null) as is_due,
    min(j.attempts) as fewest,
    max(j.attempts) as most,
    min(j.max_attempts) as least_allowed,
    max(j.max_attempts) as most_allowed,
    queue.fingerprint(j.error_message, j.error_data) as print,
    min(queue.short_error(j.error_message, j.error_data)) as error
  from (
    select *
    from tried
    union all
    select i.*, r.is_cut
    from (
      (
        select distinct t.workspace_id, t.lane
        from tried as t
        limit 20
      )
      union
      (
        select t.workspace_id, t.lane
        from counted as y
        join queue.lanes as l on l.job_type = y.job_type
        cross join lateral (
          select o.workspace_id, o.lane
          from queue.turns as o
          where p_workspace_id is null and o.lane = l.lane and not o.blocked
          union all
          select o.workspace_id, o.lane
          from queue.turns as o
          where o.workspace_id = p_workspace_id and o.lane = l.lane
        ) as t
        where y.failed > 0
        limit 50
      )
    ) as t
    cross join lateral (
      select o.job_id, count(*) over () = 20 as is_cut
      from (
        select *
        from queue.ready as q
        where q.lane = t.lane and q.workspace_id = t.workspace_id
        order by q.lane, q.workspace_id, q.ord, q.job_id
        limit 20 -- a due retry precedes the jobs that were enqueued after it
      ) as o
    ) as r
    cross join lateral (
      select *
      from public.jobs as o
      where o.id = any (array[r.job_id])
      offset 0
    ) as i
    where i.attempts > 0 and i.error_message is not null
  ) as j
  cross join lateral (
    values (case when j.next_retry_at > p_now then j.next_retry_at end)
  ) as n (next_at)
  where (j.status = 'processing' or j.next_retry_at is not null)
    and not queue.is_internal(j.job_type)
  group by j.workspace_id, j.job_type, print
  having count(*) >= 3
)
select
  'warn',
  'retrying_jobs',
  min(r.since),
  null::text,
  jsonb_build_object(
    'job_type', r.job_type,
    'print', r.print,
    'jobs', sum(r.jobs),
    'error', min(r.error),
    'used', concat(
      concat_ws(' to ', min(r.fewest), nullif(max(r.most), min(r.fewest))),
      ' of ' || nullif(min(r.least_allowed), case -- one limit for all jobs
        when min(r.least_allowed) < max(r.most_allowed) then min(r.least_allowed)
      end)
    ),
    'advice', queue.error_advice((array_agg(r.job_ids[1] order by r.next_at))[1], 2),
    'attention', jsonb_agg(
      to_jsonb(r) - '{next_at,last_at,is_due,fewest,most,least_allowed,most_allowed}'::text[]
    ),
    'at_least', case when bool_or(r.more) then 'At least ' end
  ) || case
    when bool_or(r.is_due) then '{}'
    else jsonb_build_object(
      'next_at', min(r.next_at),
      'last_at', nullif(
        date_trunc('second', max(r.last_at)),
        date_trunc('second', min(r.next_at))
      )
    )
  end
from retrying as r
group by r.job_type, r.print
union all
select
  'warn',
  'refused_type',
  min(t.registered_at),
  t.refusal,
  jsonb_build_object(
    'job_type', min(t.job_type),
    'types', concat(
      array_to_string((array_agg(t.job_type order by t.job_type))[:3], ', '),
      ' and ' || nullif(greatest(count(*) - 3, 0), 0) || ' more'
    )
  )
from queue.job_types as t
where t.refusal is not null -- types belong to all workspaces
group by t.refusal
union all
select
  'warn',
  'two_codes',
  max(c.registered_at),
  format(
    'they serve %s',
    array_to_string((array_agg(c.job_type order by c.job_type))[:5], ', ')
  ),
  jsonb_build_object(
    'codes', array_to_string(c.codes, ' and '),
    -- a registered type is that of the newest deploy
    'newest', max(c.newest),
    'job_type', min(c.job_type)
  )
from ( -- code versions of each type that live workers run
  select
    j.job_type,
    j.registered_at,
    array_agg(distinct w.version) as codes,
    min(w.version) filter (
      where j.deployed_at is not null and w.version like '%+' || left(j.commit, 9)
    ) as newest
  from unnest(queue.live_workers(p_now)) as w
  join queue.job_types as j on j.job_type = any (w.job_types)
    -- several projects may serve the internal types
    and not j.in_order
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
    'workspace_id', p.workspace_id,
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
    'problem', case when s.problem is null then 'is late' else 'enqueued no job' end
  )
from queue.schedules as s
where s.enabled
  and (s.problem is not null or s.next_at < p_now - interval '3 minutes')
  and (p_workspace_id is null or s.workspace_id = p_workspace_id)
union all
select
  'warn',
  'no_success',
  null,
  null,
  jsonb_build_object(
    'job_type', t.job_type,
    'attempts', t.failed
  )
from counted as t
where t.completed = 0
  and t.failed >= 20
  and not queue.is_internal(t.job_type)
  -- the finding retrying_jobs names the error
  and t.job_type not in (select r.job_type from retrying as r)
union all
select
  'warn',
  'unserved_schedule',
  null,
  null,
  jsonb_build_object(
    'schedule', u.name,
    'job_type', u.job_type,
    'nearest', queue.nearest_type(u.job_type)
  )
from queue.unserved_schedules(p_workspace_id, p_now) as u
union all
select
  'warn',
  'waiting_schedule',
  w.since,
  null,
  jsonb_build_object('schedule', w.name, 'job_id', w.job_id)
from queue.waiting_schedules(p_workspace_id) as w
union all
select
  'warn',
  'silent_jobs',
  (s.jobs[1] ->> 'since')::timestamptz,
  null,
  s.jobs[1] || jsonb_build_object(
    'jobs', cardinality(n.jobs),
    'silent', (
      select jsonb_object_agg(j ->> 'job_id', j -> 'since')
      from unnest(n.jobs[:200]) as j -- limits the response
    ),
    'attention', (
      select jsonb_agg(to_jsonb(w))
      from (
        select
          j ->> 'workspace_id' as workspace_id,
          'silent' as kind,
          s.job_type,
          count(*) as jobs,
          (array_agg(j ->> 'job_id'))[:200] as job_ids,
          min(j ->> 'since') as since,
          h.shared as seen
        from unnest(n.jobs) as j
        group by 1
      ) as w
    ),
    'limit', queue.length_in_words(u.ms),
    'shared', h.shared,
    'all_seen', h.all_seen,
    'seen', h.seen
  )
from (
  select l.job_type, array_agg(to_jsonb(l) order by l.since) as jobs
  from (
    select n.job_type, o.*
    from (
      select
        r.lane,
        r.workspace_id,
        r.job_id,
        queue.seen_in(r.step, r.pulse ->> 'place') as seen,
        queue.length_in_words((r.pulse ->> 'blocked_ms')::double precision) as blocked,
        (r.pulse ->> 'since')::timestamptz as since
      from queue.leases as r
      where r.ctid > '(0,0)' -- reads pages in order, because all running jobs are read
        and r.pulse ->> 'last' <> 'end'
        and r.expires_at > p_now
        and (p_workspace_id is null or r.workspace_id = p_workspace_id)
      offset 0 -- few jobs are silent, so find them before the join with queue.lanes
    ) as o
    join queue.lanes as n on n.lane = o.lane
    where o.since < p_now - interval '1 minute'
  ) as l
  group by 1
) as s
cross join lateral greatest(
  60000,
  coalesce(
    queue.usual_ms(
      coalesce(p_workspace_id, '00000000-0000-0000-0000-000000000000'),
      s.job_type,
      p_now
    ),
    600000
  )
) as u (ms)
cross join lateral (
  select array(
    select j
    from unnest(s.jobs) as j
    where (j ->> 'since')::timestamptz < p_now - u.ms * interval '1 ms'
  ) as jobs
) as n
cross join lateral ( -- the step and the line of code, if they are the same for all silent jobs
  select
    case when a.is_shared then a.seen end as shared,
    case when a.is_shared and a.jobs > 1 then a.seen end as all_seen,
    case when not a.is_shared then s.jobs[1] ->> 'seen' end as seen
  from (
    select
      count(*) as jobs,
      min(j ->> 'seen') as seen,
      count(*) = count(j ->> 'seen') and count(distinct j ->> 'seen') = 1 as is_shared
    from unnest(n.jobs) as j
  ) as a
) as h
where n.jobs <> '{}'
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

-- Return a finding for each workspace that has reached its limit of live jobs or of payload bytes,
-- and one if people have used up their rate limit, because the engine then rejects enqueues by
-- people. Return another if p_workspace_id can have no more schedules. Counting takes time, so the
-- live jobs of a workspace are counted only if its limit is at most 2,000, if the last count was at
-- least 90 % of the limit, or if the limit rejected an enqueue, because a rejected call stores no
-- count.
create or replace function queue.findings_of_limits(p_workspace_id uuid, p_now timestamptz)
returns setof queue.finding
language sql stable
set search_path = ''
as $$
with workspaces as (
  select p_workspace_id as id
  where p_workspace_id is not null
  union
  (
    select t.workspace_id
    from queue.tenant_limits as t
    where p_workspace_id is null and t.max_pending <= 2000
    limit 20
  )
  union
  (
    select t.workspace_id
    from queue.tenant_limits as t
    where p_workspace_id is null and t.max_pending > 2000
    limit 20
  )
  union
  (
    select substr(b.name, 3)::uuid
    from queue.buckets as b
    where p_workspace_id is null
      and b.name ~ '^[qb]:'
      and b.refilled_at > p_now - interval '1 hour'
    limit 20
  )
),
limits as (
  select
    w.id,
    coalesce(t.max_pending, queue.setting('user_pending_max')::integer) as jobs,
    (array['user_pending_max', 'max_pending'])[1 + num_nonnulls(t.max_pending)] as jobs_limit,
    queue.setting('user_pending_bytes_max')::bigint as bytes,
    q.tokens as last_jobs,
    b.tokens as last_bytes
  from workspaces as w
  left join queue.tenant_limits as t on t.workspace_id = w.id
  left join queue.buckets as q on q.name = 'q:' || w.id
  left join queue.buckets as b on b.name = 'b:' || w.id
)
select
  'warn',
  'full_workspace',
  null::timestamptz,
  null::text,
  jsonb_build_object(
    'limit', l.jobs,
    'more', 2 * greatest(c.jobs, 1),
    'workspace_id', l.id,
    'jobs', c.jobs
  )
from limits as l
cross join lateral queue.live_jobs(l.id, greatest(l.jobs + 1, 2000)) as c (jobs)
where c.jobs >= l.jobs
  and (
    l.jobs <= 2000
    or l.last_jobs >= 0.9 * l.jobs
    or (queue.last_full(l.id, l.jobs_limit)).rejected_at > p_now - interval '10 minutes'
  )
union all
select
  'warn',
  'full_of_bytes',
  null,
  null,
  jsonb_build_object(
    'live', pg_size_pretty(c.bytes),
    'limit', pg_size_pretty(l.bytes),
    'more', 2 * greatest(c.bytes, l.bytes),
    'workspace_id', l.id
  )
from limits as l
cross join lateral (
  select sum(pg_column_size(j.payload)) as bytes
  from queue.places(l.id, '{pending,processing,waiting}', 1000000) as p
  join public.jobs as j on j.id = p.job_id
) as c
where c.bytes >= l.bytes
  and (
    l.last_bytes >= 0.9 * l.bytes
    or (queue.last_full(l.id, 'user_pending_bytes_max')).rejected_at > p_now - interval '10 minutes'
  )
union all
select
  'warn',
  'full_of_schedules',
  null,
  null,
  jsonb_build_object('limit', count(*), 'more', 2 * count(*))
from queue.schedules as s
where s.workspace_id = p_workspace_id
having count(*) >= queue.setting('schedules_max')::bigint
union all
select
  'warn',
  'rate_used_up',
  max(b.refilled_at),
  null,
  jsonb_build_object('per_second', r.most, 'more', 2 * r.most, 'people', count(*))
from (values (queue.setting('user_enqueues_per_second')::numeric)) as r (most)
cross join (
  select b.name
  from queue.buckets as b
  where p_workspace_id is null and b.name ~ '^u:.*/enqueues$'
  union all
  select format('u:%s/enqueues', m.user_id)
  from queue.tenant_members as m
  where m.workspace_id = p_workspace_id
) as u
join queue.buckets as b on b.name = u.name
where b.tokens < 1 and b.refilled_at > p_now - interval '1 minute'
group by r.most
$$;

create or replace function public.explain_queue(p_workspace_id uuid default null)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
set timezone = 'UTC'
as $$ -- sentences show times in UTC
declare
  v_now constant timestamptz := queue.clock();
  v_seen_at timestamptz;
  v_backlog jsonb;
  v_findings jsonb;
  v_attention jsonb;
begin
  perform queue.refuse_revoked();
  perform queue.may_read(p_workspace_id, p_reads_much => true);
  if exists (select from queue.table_locks() as l where l.mode = 'AccessExclusiveLock') then
    -- report only the session that must end, because all reads of the table would wait for it
    select jsonb_agg(
      to_jsonb(f) - 'data' || jsonb_build_object('key', f.reason) || queue.render_guidance(
        f.reason,
        f.data || jsonb_build_object('since', f.since)
      )
    )
    into v_findings
    from queue.findings_of_locks(p_workspace_id, v_now) as f;
    if v_findings is not null then
      return jsonb_build_object(
        'now', v_now,
        'verdict', 'warn',
        'findings', v_findings,
        'attention', '[]'::jsonb,
        'holders', '[]'::jsonb,
        'backlog', '{"jobs": null, "detail": "unknown: a table of the queue is locked"}'::jsonb,
        'last_tick_seconds', null
      );
    end if;
  end if;
  v_seen_at := queue.last_call();
  v_backlog := queue.backlog(
    p_workspace_id,
    v_now,
    case when not queue.is_operator() then queue.caller() end
  );
  if p_workspace_id is null then
    -- also use the age of due jobs in queue.deferred, because maintenance makes these jobs ready
    -- only while workers run
    v_backlog := v_backlog || jsonb_build_object(
      'oldest_due_seconds', greatest(
        (v_backlog ->> 'oldest_due_seconds')::numeric,
        (
          select extract(epoch from v_now - min(d.run_at))
          from queue.deferred as d
          where d.run_at <= v_now - interval '10 seconds'
        )
      )
    );
  end if;
  select jsonb_agg(
    jsonb_build_object(
      'verdict', f.verdict,
      'reason', f.reason,
      'key', k.key,
      'since', f.since,
      'cause', f.cause,
      'jobs', f.data -> 'jobs',
      'silent', f.data -> 'silent',
      'unserved', f.data -> 'unserved',
      'next_at', f.data -> 'next_at'
    ) || g.said
      || jsonb_build_object('next', coalesce(f.data -> 'advice', '[]') || (g.said -> 'next'))
    order by f.verdict <> 'fail', (f.data ->> 'jobs')::integer desc nulls last, f.reason
  ), jsonb_path_query_array(
    coalesce(jsonb_agg(f.data -> 'attention') filter (where f.data ? 'attention'), '[]'),
    '$[*][*]'
  )
  into v_findings, v_attention
  from (
    select *
    from queue.findings_of_queue(p_workspace_id, v_now, v_backlog, v_seen_at)
    union all
    select *
    from queue.findings_of_locks(p_workspace_id, v_now)
    union all
    -- members of a workspace do not see the size of the database
    select
      d.verdict,
      case when p_workspace_id is null then d.reason else 'service_full' end,
      d.since,
      case when p_workspace_id is null then d.cause end,
      d.data
    from queue.findings_of_disk() as d
    where p_workspace_id is null or d.reason = 'disk_nearly_full'
    union all
    select *
    from queue.findings_of_connections() as c
    where p_workspace_id is null
    union all
    select *
    from queue.findings_of_workspace(p_workspace_id, v_now)
    union all
    select *
    from queue.findings_of_limits(p_workspace_id, v_now)
    union all
    select *
    from queue.findings_of_deaths(p_workspace_id, v_now)
    union all
    select *
    from queue.findings_of_apps(p_workspace_id)
  ) as f
  cross join concat_ws(
    ' ',
    f.reason,
    coalesce(
      f.data ->> 'queue',
      f.data ->> 'schedule',
      f.data ->> 'job_type',
      f.data ->> 'workspace_id',
      f.data ->> 'url',
      f.data ->> 'worker_id',
      f.data ->> 'function',
      f.data ->> 'asked'
    ),
    f.data ->> 'print'
  ) as k (key)
  cross join lateral coalesce(
    f.data -> 'said',
    queue.render_guidance(
      f.reason,
      queue.number_of(f.data) || f.data || jsonb_build_object(
        'since', f.since,
        -- the sentences about one of all workspaces name the workspace
        'which', case when p_workspace_id is null then f.data -> 'workspace_id' end
      )
    )
  ) as g (said);
  return jsonb_build_object(
    'now', v_now,
    'verdict', coalesce(v_findings #>> '{0,verdict}', 'pass'),
    'findings', coalesce(v_findings, '[]'),
    'attention', v_backlog -> 'attention' || v_attention
      || queue.recent_failures(p_workspace_id, v_now),
    'holders', queue.holders(p_workspace_id, null, v_now),
    'backlog', v_backlog - 'attention',
    'last_tick_seconds', extract(epoch from v_now - v_seen_at)
  );
end;
$$;

comment on function public.explain_queue is
  'Findings, worst first, and holders for which jobs wait, most jobs first: {now, verdict, '
  'findings: [{verdict, reason, key, sentence, since, cause, jobs, silent, unserved, next_at, '
  'next: [{kind, words, command, path}]}], attention: [{workspace_id, kind, job_type, jobs, more, '
  'job_ids, since, error, print, next, nearest, seen, reason}], holders: [{jobs, more, since, '
  'kind, reason, sentence, cause, next, holder, job_id, job_types, keys}], backlog, '
  'last_tick_seconds}. silent has the time of the last update of each silent job, unserved the job '
  'types that no worker serves. attention has up to 200 ids of the jobs that are silent, have '
  'no_worker, are retrying or failed in the last hour. print: identifies the error, and ends the '
  'key of a finding about it. reason: of the finding about jobs that have no_worker. Only '
  'operators may omit p_workspace_id.';

create or replace function public.queue_health()
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_found constant jsonb := public.explain_queue();
begin
  perform queue.refuse_revoked();
  if v_found #>> '{backlog,jobs}' is null then
    -- checks and metrics would read null as no due job
    perform queue.refuse(503, 'busy', v_found #>> '{findings,0,sentence}');
  end if;
  return v_found || jsonb_build_object(
    'oldest_due_seconds', v_found #> '{backlog,oldest_due_seconds}'
  );
end;
$$;

comment on function public.queue_health is
  'Health of the queue in one call: explain_queue of all workspaces, and the age of the oldest due '
  'job. An error with the status 503 if a table of the queue is locked.';

select queue.allow('job_worker, service_role', 'public.queue_health');

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
  v_alive constant queue.workers[] := queue.live_workers(v_now);
  v_types jsonb;
begin
  perform queue.may_read(p_workspace_id, p_reads_much => true);
  with types as materialized (
    select *
    from queue.job_types
    union all -- unpublished types of waiting jobs
    select u.*
    from (
      select distinct o.job_type
      from queue.unpublished as o
      where p_workspace_id is null or o.workspace_id = p_workspace_id
    ) as w
    cross join lateral queue.require_type(w.job_type) as u
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
  seen as ( -- a worker is alive, stale (last call less than ten minutes ago) or gone
    select
      o.job_type,
      l.worker_id,
      l.version,
      l.started_at,
      greatest(l.seen_at, h.renewed_at) as seen_at,
      l.ended_at,
      queue.process_end(l.evidence) as process_end,
      case when a.worker is null then l.key_expired_at end as key_expired_at,
      l.queues,
      case
        when a.worker is not null and num_nulls(l.evidence, l.ended_at) > 0 then 'alive'
        when l.evidence is null and l.seen_at > v_now - interval '10 minutes' then 'stale'
        else 'gone'
      end as state,
      row_number() over (
        partition by o.job_type
        -- many short runs must not hide a worker that runs
        order by a.worker is not null and l.ended_at is null desc, l.seen_at desc
      ) as nth
    from (
      select w.*, queue.key_end(w, w.seen_at) as key_expired_at
      from queue.workers as w
      order by w.seen_at desc
      limit 200
    ) as l
    left join unnest(v_alive) as a on a.worker = l.worker
    left join queue.lease_holders(null, v_now) as h on h.worker = l.worker
    join asked as o on l.job_types is null or o.job_type = any (l.job_types)
  )
  select jsonb_agg(
    to_jsonb(t) - case when p_job_type is null then 'payload_schema' else '' end
    || jsonb_build_object(
      'waiting', queue.due_in(p_workspace_id, k.lanes, t.job_type),
      'running', ( -- up to 1,000
        select count(*)
        from (
          select l.job_id
          from queue.leases as l
          where l.lane = any (k.lanes)
            and (p_workspace_id is null or l.workspace_id = p_workspace_id)
          limit 1000
        ) as r
      ),
      'published', t.schema_version > 0,
      'nearest', case t.schema_version
        when 0 then queue.nearest_type(t.job_type)
      end,
      'paused_at', p.paused_at,
      'pause_reason', p.reason,
      'queue_paused_at', (
        select q.paused_at
        from queue.pauses as q
        where q.kind = 'queue' and q.name = t.queue
      ),
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
  cross join lateral (
    select array_agg(l.lane) as lanes
    from queue.lanes as l
    where l.job_type = t.job_type
  ) as k
  left join queue.type_numbers(
    p_workspace_id,
    v_now - interval '1 day',
    '9 days'
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
  left join queue.is_unserved(
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
        format('no worker serves the job type %s', left(p_job_type, 100))
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
    'late_since', queue.statistics_stale_since(v_now),
    'types', coalesce(v_types, '[]')
  );
end;
$$;

comment on function public.list_job_types is
  'Job types, sorted by name: {now, types}. Each type has its options, the 20 workers seen last, '
  'statistics of the last day, and a pause or a refusal if there is one. An unpublished type has '
  'the most similar published name. With p_job_type, the type also has its payload schema, its '
  'schedules and the holders of its jobs.';

select queue.allow('authenticated, service_role', 'public.list_job_types');

-- Run a maintenance task on a batch of jobs, and return the number of jobs that the task has
-- changed. If the database rejects the change of a job, divide the batch in halves until this job
-- is found.
create or replace function queue.bisect_task(p_task text, p_ids uuid[], p_now timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_half constant integer := cardinality(p_ids) / 2;
  v_done integer := cardinality(p_ids);
  v_items queue.worker_item[];
  v_settled record;
  v_busy jsonb := '{}'; -- the error of each job that cannot be settled now
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
    elsif p_task = 'reclaim' then -- the outcome depends on which job ended the process
      v_items := queue.expired_items(p_ids, p_now);
      perform queue.append_event(
        array_agg(i.job_id),
        'job.reclaimed',
        jsonb_build_object('status', 'pending', 'reason', i.error -> 'reason'),
        p_now
      )
      from unnest(v_items) as i
      group by i.error -> 'reason';
      v_settled := queue.settle(v_items, false);
      v_busy := (
        select coalesce(jsonb_object_agg(b ->> 'job_id', b -> 'error'), '{}')
        from jsonb_path_query(v_settled.results::jsonb, '$[*] ? (@.outcome == "busy")') as b
      );
      if v_busy <> '{}' then
        raise 'jobs are busy'; -- undo their events
      end if;
      perform queue.publish(v_settled.changes, p_now);
    else
      v_done := case p_task
        when 'promotion' then queue.promote(p_ids, p_now)
        when 'waits' then queue.end_waits(p_ids, p_now)
        when 'cancel' then queue.cancel(
          p_ids,
          p_now,
          true,
          'parent_ended',
          exists ( -- the jobs have the same parent
            select from public.jobs as j
            join public.jobs as p on p.id = j.parent_id
            where j.id = p_ids[1] and p.status = 'processing' and queue.retry_requested(p.id)
          )
        )
        when 'retry' then queue.retry(p_ids, p_now)
      end;
    end if;
    delete from queue.refusals as r
    where r.task = p_task and r.job_id = any (p_ids);
    return v_done;
  exception when others then
    if queue.is_temporary(sqlstate) then
      raise;
    end if;
    if v_half = 0 and v_busy = '{}' then
      raise warning 'maintenance (%) skips job %: % (%)',
        p_task,
        p_ids[1],
        sqlerrm,
        sqlstate;
      perform queue.record_rejection(
        p_task,
        p_ids[1],
        format('%s (%s)', sqlerrm, sqlstate),
        p_now
      );
      return 0;
    end if;
  end;
  if v_busy <> '{}' then
    perform queue.record_rejection(p_task, b.key::uuid, b.value, p_now)
    from jsonb_each_text(v_busy) as b;
    return queue.bisect_task(
      p_task,
      array(select i.id from unnest(p_ids) as i (id) where not v_busy ? i.id::text),
      p_now
    );
  end if;
  return queue.bisect_task(p_task, p_ids[:v_half], p_now)
    + queue.bisect_task(p_task, p_ids[v_half + 1:], p_now);
end;
$$;

create or replace view queue.output as
select *
from queue.pieces
union all
select *
from queue.outputs;

-- Store pieces of output, and publish them to the clients that follow the job. The caller must have
-- locked the leases of the jobs. A piece of output is a JSON object with the keys stream, attempt,
-- start (its offset), step, and either text or items. If an earlier report stored the beginning of
-- a piece, store only the remainder. A piece that exceeds the job's byte limit, or that would begin
-- a 21st stream, is not stored. After a piece that was not stored, later pieces of the stream are
-- not stored either, so that the stream has no gap.
create or replace function queue.write_output(p_items queue.worker_item[], p_now timestamptz)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_most constant bigint := queue.setting('output_max_bytes')::bigint;
  v_piece record;
  v_job uuid;
  v_bytes bigint; -- bytes that the job has stored, or null before they are counted
  v_last record; -- last stored piece of the stream
  v_known integer; -- end of the stored stream
  v_text text;
  v_list jsonb;
  v_size integer;
  v_grown bigint; -- bytes that the piece adds
  v_changes queue.change[] := '{}';
begin
  for v_piece in
    select
      l.job_id,
      l.workspace_id,
      l.output_bytes,
      j.session_id,
      p.value ->> 'stream' as stream,
      (p.value ->> 'attempt')::integer as attempt,
      (p.value ->> 'start')::integer as start,
      p.value ->> 'step' as step,
      p.value ->> 'text' as text,
      nullif(p.value -> 'items', 'null') as items
    from unnest(p_items) as i
    join queue.leases as l on l.job_id = i.job_id and l.fence = i.fence
    join public.jobs as j on j.id = l.job_id
    cross join lateral jsonb_array_elements(
      i.output
    ) with ordinality as p (value, n)
    order by l.job_id, p.n
  loop
    if v_job is distinct from v_piece.job_id then
      v_job := v_piece.job_id;
      v_bytes := v_piece.output_bytes;
    end if;
    select o.attempt, o.end_offset into v_last
    from queue.output as o
    where o.job_id = v_job and o.stream = v_piece.stream
    order by o.attempt desc, o.end_offset desc
    limit 1;
    continue when v_piece.attempt < v_last.attempt;
    v_known := case v_last.attempt
      when v_piece.attempt then v_last.end_offset
      else 0
    end;
    v_text := substr(v_piece.text, v_known - v_piece.start + 1);
    v_list := jsonb_path_query_array(
      v_piece.items,
      '$[$known to last]',
      jsonb_build_object('known', greatest(0, v_known - v_piece.start))
    );
    v_size := coalesce(char_length(v_text), jsonb_array_length(v_list), 0);
    continue when v_piece.start > v_known
      or v_size = 0 and v_piece.attempt = v_last.attempt;
    if v_piece.attempt > v_last.attempt then
      perform queue.drop_output(v_job, v_piece.stream);
      v_bytes := null;
    end if;
    continue when v_last.attempt is null
      and (select count(*) from queue.stream_ends(v_job)) >= 20;
    v_bytes := coalesce(v_bytes, queue.output_bytes(v_job));
    v_grown := coalesce(octet_length(coalesce(v_text, v_list::text)), 0);
    continue when v_bytes + v_grown > v_most;
    v_bytes := v_bytes + v_grown;
    insert into queue.pieces (
      job_id, stream, attempt, end_offset, step, text, items, first_at, last_at
    )
    values (
      v_job, v_piece.stream, v_piece.attempt, v_known
        + v_size, v_piece.step, v_text, v_list, p_now, p_now
    );
    update queue.leases
    set output_bytes = v_bytes
    where job_id = v_job;
    v_changes := v_changes || row(
      v_piece.workspace_id,
      v_piece.session_id,
      'job.output',
      jsonb_strip_nulls(jsonb_build_object(
        'stream', v_piece.stream,
        'attempt', v_piece.attempt,
        'from', v_known,
        'next', v_known + v_size,
        -- the message omits texts and items of more than 8,000 bytes, which followers read from the
        -- database
        'text', case when octet_length(v_text) <= 8000 then v_text end,
        'items', case when pg_column_size(v_list) <= 8000 then v_list end
      )),
      array[v_job],
      array[null::integer],
      p_now
    )::queue.change;
  end loop;
  perform queue.publish(v_changes, p_now) where v_changes <> '{}';
end;
$$;

-- Return the times of the first and the last output of each of a job's streams.
create or replace function queue.stream_times(p_job_id uuid)
returns jsonb
language sql stable
set search_path = ''
as $$
select jsonb_agg(
  jsonb_build_object('stream', e.stream, 'first_at', f.first_at, 'last_at', l.last_at)
)
from queue.stream_ends(p_job_id) as e
cross join lateral (
  select o.first_at
  from queue.output as o
  where (o.job_id, o.stream, o.attempt) = (p_job_id, e.stream, e.attempt)
  order by o.end_offset
  limit 1
) as f
cross join lateral (
  select o.last_at
  from queue.output as o
  where (o.job_id, o.stream, o.attempt, o.end_offset)
    = (p_job_id, e.stream, e.attempt, e.end_offset)
) as l
$$;

-- Run the maintenance task `output`. The task `output` joins the pieces of output of an ended job
-- into one row per stream, or into one row per step that wrote to the stream. For a completed job,
-- keep only the output of the last attempt. For other ended jobs, keep the output of all attempts,
-- because these jobs may be retried.
create or replace function queue.do_output(p_now timestamptz, p_until timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_found uuid[];
  v_ids uuid[]; -- jobs of v_found whose rows could be locked
  v_count integer := 0;
begin
  loop
    v_found := array(
      with recursive found as (
        (
          select p.job_id
          from queue.pieces as p
          order by p.job_id
          limit 1
        )
        union all
        select (
          select p.job_id
          from queue.pieces as p
          where p.job_id > f.job_id
          order by p.job_id
          limit 1
        )
        from found as f
        where f.job_id is not null
      )
      select f.job_id
      from found as f
      join public.jobs as j on j.id = f.job_id
      where j.finished_at is not null
      limit 200
    );
    v_ids := array( -- the lock prevents a retry of these jobs meanwhile
      select j.id
      from public.jobs as j
      where j.id = any (v_found) and j.finished_at is not null
      order by j.id
      for no key update skip locked
    );
    with said as (
      delete from queue.pieces as p
      where p.job_id = any (v_ids)
      returning *
    ),
    old as (
      delete from queue.outputs as o
      using said as p, public.jobs as j
      where o.job_id = any (v_ids)
        and p.job_id = o.job_id
        and p.stream = o.stream
        and p.attempt > o.attempt
        and j.id = o.job_id
        and j.status = 'completed'
    ),
    placed as (
      select
        s.*,
        max(s.attempt) over (partition by s.job_id, s.stream) as last,
        row_number() over a - row_number() over (
          partition by s.job_id, s.stream, s.attempt, s.step
          order by s.end_offset
        ) as nth_part
      from said as s
      window a as (partition by s.job_id, s.stream, s.attempt order by s.end_offset)
    )
    insert into queue.outputs (
      job_id, stream, attempt, end_offset, step, text, items, first_at, last_at
    )
    select
      p.job_id,
      p.stream,
      p.attempt,
      max(p.end_offset),
      p.step,
      string_agg(p.text, '' order by p.end_offset),
      jsonb_path_query_array(
        jsonb_agg(p.items order by p.end_offset) filter (where p.items is not null),
        '$[*][*]'
      ),
      -- null if the first piece is older than this field
      (array_agg(p.first_at order by p.end_offset))[1],
      max(p.last_at)
    from placed as p
    join public.jobs as j on j.id = p.job_id
    where p.attempt = p.last or j.status <> 'completed'
    group by p.job_id, p.stream, p.attempt, p.step, p.nth_part;
    v_count := v_count + cardinality(v_ids);
    exit when cardinality(v_found) < 200
      or v_ids = '{}'
      or clock_timestamp() >= p_until;
  end loop;
  return v_count;
end;
$$;

select queue.close_tables();

-- Revoke the right of all roles to execute private functions. Rights of single roles remain,
-- because policies, column defaults and guests need them.
revoke execute on all functions in schema queue from public;
