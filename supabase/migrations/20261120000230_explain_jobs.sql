-- Why is my job not running? One sentence and data, for every reason there is.

create function queue.explain_pause(p_job public.jobs) returns jsonb
language plpgsql stable set search_path = '' as $$
declare
  v_pause record;
begin
  select * into v_pause from (
    select 'type' as kind, t.job_type as name, t.paused_at, t.paused_by, t.pause_reason as reason
    from queue.job_types as t where t.job_type = p_job.job_type and t.paused_at is not null
    union all (
      select p.kind, p.name, p.paused_at, p.paused_by, p.reason from queue.pauses as p
      where p.kind = 'workspace' and p.workspace_id = p_job.workspace_id or p.kind = 'queue' and p.name = p_job.queue
        or p.kind = 'workspace_type' and p.workspace_id = p_job.workspace_id and p.job_type = p_job.job_type
      order by p.kind)) as p limit 1;
  if not found then
    return null;
  end if;
  return jsonb_build_object('reason', v_pause.kind || '_paused',
    'sentence', format('%s been paused since %s by %s%s.', case v_pause.kind
        when 'type' then format('The job type %s has', p_job.job_type) when 'workspace' then 'The workspace has'
        when 'queue' then format('The queue %s has', v_pause.name)
        else format('The job type %s has, in this workspace,', p_job.job_type) end,
      queue.utc(v_pause.paused_at), queue.actor(v_pause.paused_by), coalesce(': ' || v_pause.reason, '')),
    'command', case v_pause.kind when 'workspace' then 'minutehand resume workspace ' || p_job.workspace_id
      when 'queue' then 'minutehand resume queue ' || v_pause.name
      when 'type' then 'minutehand resume type ' || p_job.job_type end,
    'data', jsonb_build_object('paused_at', v_pause.paused_at, 'paused_by', v_pause.paused_by,
      'pause_reason', v_pause.reason));
end;
$$;
comment on function queue.explain_pause is 'The pause that keeps a job from starting; null for none.';

create function queue.explain_workers(p_job public.jobs, p_now timestamptz) returns jsonb
language plpgsql stable set search_path = '' as $$
declare
  v_seen timestamptz;
begin
  select max(seen_at) into v_seen from (select seen_at from queue.ticks order by started_at desc limit 100) as t;
  if v_seen is null or v_seen < p_now - interval '3 minutes' then
    return jsonb_build_object('reason', 'no_worker',
      'sentence', case when v_seen is null then 'No worker has ever been seen.'
        else format('No worker has been seen for %s minutes.', floor(extract(epoch from p_now - v_seen) / 60)) end,
      'command', 'minutehand doctor --only schedule', 'data', jsonb_build_object('last_seen_at', v_seen));
  elsif not exists (select from queue.recent_runs(p_now) as t
      where (t.job_types is null or p_job.job_type = any (t.job_types))
        and (t.queues is null or p_job.queue = any (t.queues))) then
    return jsonb_build_object('reason', 'no_processor',
      'sentence', format('Workers run, but none of them serves the job type %s in the queue %s.', p_job.job_type,
        p_job.queue),
      'command', 'minutehand types ' || p_job.job_type,
      'data', jsonb_build_object('job_type', p_job.job_type, 'queue', p_job.queue,
        'registered_at', (select t.registered_at from queue.job_types as t where t.job_type = p_job.job_type)));
  end if;
  return null;
end;
$$;
comment on function queue.explain_workers is 'That no worker runs, or none that serves the job; null where one does.';

create function queue.explain_stop(p_job public.jobs, p_now timestamptz) returns jsonb
language sql stable set search_path = ''
as $$ select coalesce(queue.explain_pause(p_job), queue.explain_workers(p_job, p_now)) $$;
comment on function queue.explain_stop is 'What stops a ready job regardless of other jobs: a pause, no worker, no '
  'processor; null for nothing.';

create function queue.explain_limits(p_job public.jobs, p_now timestamptz) returns jsonb
language plpgsql stable set search_path = '' as $$
declare
  v_type queue.job_types;
  v_limits queue.tenant_limits;
  v_max integer;
  v_running integer;
  v_tokens double precision;
  v_free_at timestamptz;
begin
  select * into v_type from queue.job_types where job_type = p_job.job_type;
  -- limits, the narrowest first
  if v_type.key_concurrency is not null and p_job.concurrency_key is not null then
    select count(*) into v_running from queue.leases
    where job_type = p_job.job_type and workspace_id = p_job.workspace_id and concurrency_key = p_job.concurrency_key;
    if v_running >= v_type.key_concurrency then
      return queue.explain_limit('key_limit', format('of the key %s', p_job.concurrency_key), v_running,
        v_type.key_concurrency, v_type.run_p95_ms,
        (select min(leased_at) from queue.leases where job_type = p_job.job_type and workspace_id = p_job.workspace_id
          and concurrency_key = p_job.concurrency_key));
    end if;
  end if;
  if v_type.workspace_concurrency is not null then
    select count(*) into v_running from queue.leases where job_type = p_job.job_type
      and workspace_id = p_job.workspace_id;
    if v_running >= v_type.workspace_concurrency then
      return queue.explain_limit('workspace_type_limit', format('of %s in this workspace', p_job.job_type), v_running,
        v_type.workspace_concurrency,
        v_type.run_p95_ms, (select min(leased_at) from queue.leases where job_type = p_job.job_type
          and workspace_id = p_job.workspace_id));
    end if;
  end if;
  select * into v_limits from queue.tenant_limits where workspace_id = p_job.workspace_id;
  v_max := v_limits.running_max;
  if v_max is not null then
    select count(*) into v_running from queue.leases where workspace_id = p_job.workspace_id;
    if v_running >= v_max then
      return queue.explain_limit('workspace_limit', 'of the workspace', v_running, v_max, null,
        (select min(leased_at) from queue.leases where workspace_id = p_job.workspace_id));
    end if;
  end if;
  if v_type.max_concurrency is not null then
    select count(*) into v_running from queue.leases where job_type = p_job.job_type;
    if v_running >= v_type.max_concurrency then
      return queue.explain_limit('type_limit', format('of the job type %s', p_job.job_type), v_running,
        v_type.max_concurrency,
        v_type.run_p95_ms, (select min(leased_at) from queue.leases where job_type = p_job.job_type));
    end if;
  end if;
  if v_type.rate_limit is not null then
    select queue.tokens(b.tokens, b.refilled_at, v_type.rate_limit, v_type.rate_per_seconds, p_now) into v_tokens
      from queue.buckets as b
    where b.job_type = p_job.job_type
      and b.workspace_id = case when v_type.rate_per_key then p_job.workspace_id
        else '00000000-0000-0000-0000-000000000000' end
      and b.concurrency_key = case when v_type.rate_per_key then coalesce(p_job.concurrency_key, '') else '' end;
    if v_tokens < 1 then
      v_free_at := p_now + make_interval(secs => (1 - v_tokens) * v_type.rate_per_seconds / v_type.rate_limit);
      return jsonb_build_object('reason', 'rate_limited', 'estimated_start_at', v_free_at,
        'sentence', format('The rate limit of %s starts per %s s is used up; the next start is free at %s.',
          v_type.rate_limit, v_type.rate_per_seconds, queue.utc(v_free_at)),
        'data', jsonb_build_object('limit', v_type.rate_limit, 'per_seconds', v_type.rate_per_seconds, 'per_key',
          v_type.rate_per_key, 'refilled_at', v_free_at));
    end if;
  end if;
  return null;
end;
$$;
comment on function queue.explain_limits is 'The narrowest limit that is used up for a ready job; null for none.';

create function queue.explain_line(p_job public.jobs, p_now timestamptz) returns jsonb
language plpgsql stable set search_path = '' as $$
declare
  v_ready_at timestamptz;
  v_ahead integer;
  v_seen timestamptz;
  v_rate double precision;
begin
  select r.ready_at into v_ready_at from queue.ready as r
  where r.workspace_id = p_job.workspace_id and r.job_created_at = p_job.created_at and r.job_id = p_job.id;
  select count(*) into v_ahead from (
    (select 1
      from (select * from queue.known_partitions as k
        where k.workspace_id = p_job.workspace_id and k.priority < p_job.priority limit 1001) as p
      cross join lateral (select 1 from queue.ready as r where r.partition_id = p.id limit 1001) as r limit 1001)
    union all
    (select 1
      from (select * from queue.known_partitions as k -- there may be any number of keys: it reads at most these
        where k.workspace_id = p_job.workspace_id and k.priority = p_job.priority limit 1001) as p
      cross join lateral (
        select 1 from queue.ready as r
        where r.partition_id = p.id and (r.ready_at, r.job_id) < (v_ready_at, p_job.id)
          -- rows before the mark are gone, though their dead versions may still be there
          and r.ready_at >= p.claim_from
        order by r.ready_at, r.job_id limit 1001) as r limit 1001)
    limit 1001) as ahead;
  if v_ahead = 0 and v_ready_at < p_now - interval '15 seconds' then
    -- it should have been leased by now: report what is known, without an estimate
    select max(leased_at) into v_seen from (select leased_at from queue.ticks order by started_at desc limit 100) as t;
    if coalesce(v_seen, '-infinity') < v_ready_at then
      return jsonb_build_object('reason', 'not_leased',
        'sentence', format(
          'It is the next of its workspace, but no worker has leased anything since it became ready %s s ago: %s.',
          floor(extract(epoch from p_now - v_ready_at)), case when exists (
            select 1 from (select * from queue.ticks order by started_at desc limit 100) as t
            where t.ended_at is null and t.free_slots > 0 and t.seen_at > p_now - interval '1 minute')
          then 'look at the queue''s health' else 'every slot is taken, or the workers cannot lease' end),
        'data', jsonb_build_object('ready_since', v_ready_at, 'last_leased_at', v_seen));
    end if;
  end if;
  if v_ahead = 0 then
    return jsonb_build_object('reason', 'next_in_line', 'estimated_start_at', p_now,
      'sentence', 'It is the next of its workspace and starts with the next lease call.',
      'data', jsonb_build_object('ready_since', v_ready_at));
  end if;
  select sum(jobs) / 600.0 into v_rate from (
    select jobs from queue.stat_deltas where at > p_now - interval '10 minutes' and workspace_id = p_job.workspace_id
      and outcome in ('completed', 'failed')
    union all
    select jobs from queue.stat_minutes where minute > p_now - interval '10 minutes'
      and workspace_id = p_job.workspace_id and outcome in ('completed', 'failed')) as n;
  return jsonb_build_object('reason', 'behind_others',
    'estimated_start_at', case when v_rate > 0 then p_now + make_interval(secs => v_ahead / v_rate) end,
    'sentence', format('It is behind %s%s job%s of its workspace.',
      case when v_ahead > 1000 then 'more than ' else '' end, least(v_ahead, 1000),
      case when v_ahead = 1 then '' else 's' end),
    'data', jsonb_build_object('ahead', least(v_ahead, 1000), 'more', v_ahead > 1000, 'ready_since', v_ready_at,
      'ended_per_second', v_rate));
end;
$$;
comment on function queue.explain_line is 'How many jobs are ahead of a ready one that nothing else stops.';

create function queue.explain_ready(p_job public.jobs, p_now timestamptz) returns jsonb
language plpgsql stable set search_path = '' as $$
begin
  return coalesce(queue.explain_stop(p_job, p_now), queue.explain_limits(p_job, p_now),
    queue.explain_line(p_job, p_now));
end;
$$;
comment on function queue.explain_ready is 'Why a ready job has not been leased yet: {reason, sentence, data, '
  'estimated_start_at}.';

create function queue.utc(p_at timestamptz) returns text
language sql immutable set search_path = ''
as $$ select to_char(p_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS "UTC"') $$;
comment on function queue.utc is 'An instant as text in UTC, for sentences.';

create function queue.explain_limit(
  p_reason text, p_of text, p_running integer, p_limit integer, p_run_p95_ms double precision, p_oldest timestamptz
) returns jsonb
language sql immutable set search_path = '' as $$
  select jsonb_build_object('reason', p_reason,
    'estimated_start_at', p_oldest + make_interval(secs => p_run_p95_ms / 1000),
    'sentence', format('The concurrency limit %s is used up: %s of %s run.', p_of, p_running, p_limit),
    'data', jsonb_build_object('running', p_running, 'limit', p_limit))
$$;
comment on function queue.explain_limit is 'The explanation that a concurrency limit is used up.';

create function queue.explain_end(p_job public.jobs) returns jsonb
language plpgsql stable set search_path = '' as $$
declare
  v_reason text := p_job.error_data ->> 'reason';
begin
  return jsonb_build_object('reason', p_job.status,
    'sentence', case p_job.status
      when 'completed' then format('It completed at %s.', queue.utc(p_job.finished_at))
      when 'cancelled' then format('It was cancelled at %s%s.', queue.utc(p_job.finished_at), case
        when v_reason = 'parent_ended' then ' because its parent ended'
        when v_reason = 'dependency_failed' then ' because a job it was to run after did not complete'
        when v_reason is null and p_job.error_data ->> 'type' = 'Cancelled'
          then coalesce(': ' || p_job.error_message, '')
        else '' end)
      else format('It failed at %s %s: %s', queue.utc(p_job.finished_at), case
        when p_job.max_attempts = 1 then 'on its only attempt'
        else format('after %s of %s attempts', p_job.attempts, p_job.max_attempts) end,
        queue.shown_error(p_job)) end,
    'data', jsonb_build_object('finished_at', p_job.finished_at, 'error_message', p_job.error_message,
      'error', p_job.error_data, 'attempts', p_job.attempts));
end;
$$;
comment on function queue.explain_end is 'How a job ended: {reason, sentence, data}.';

create function queue.explain_lease(p_job public.jobs, p_now timestamptz) returns jsonb
language plpgsql stable set search_path = '' as $$
declare
  v_lease queue.leases;
begin
  select * into v_lease from queue.leases where job_id = p_job.id;
  return jsonb_build_object(
    'reason', case when v_lease.expires_at <= p_now then 'lease_expired'
      when v_lease.cancel_requested then 'cancelling' else 'running' end,
    'sentence', case
      when v_lease.expires_at <= p_now then format(
        'Its worker %s has not been heard of; the lease expired at %s and the next tick takes it back.',
        v_lease.worker_id, queue.utc(v_lease.expires_at))
      when v_lease.cancel_requested then format(
        'It was asked to stop at %s; worker %s learns it with its next report, at the latest at %s.',
        queue.utc(p_job.cancel_requested_at), v_lease.worker_id, queue.utc(v_lease.expires_at))
      else format('Worker %s has been running it since %s; its lease lasts until %s unless renewed.', v_lease.worker_id,
        queue.utc(v_lease.leased_at), queue.utc(v_lease.expires_at)) end,
    'data', jsonb_build_object('worker_id', v_lease.worker_id, 'leased_at', v_lease.leased_at,
      'expires_at', v_lease.expires_at, 'attempt', v_lease.attempt));
end;
$$;
comment on function queue.explain_lease is 'Which worker runs a job, and until when: {reason, sentence, data}.';

create function queue.explain_wait(p_job public.jobs) returns jsonb
language plpgsql stable set search_path = '' as $$
declare
  v_wait queue.waits;
  v_live integer;
  v_all integer;
begin
  select * into v_wait from queue.waits where job_id = p_job.id;
  if v_wait.kind in ('children', 'after') then
    select count(*) filter (where j.id is not null and j.finished_at is null), count(*) into v_live, v_all
    from jsonb_array_elements_text(v_wait.data -> 'job_ids') as a (id)
    left join public.jobs as j on j.id = any (array[a.id::uuid]);
  end if;
  return jsonb_build_object(
    'reason', case v_wait.kind when 'sleep' then 'sleeping' when 'ask' then 'asking'
      when 'event' then 'waiting_for_event' when 'children' then 'waiting_for_children' else 'waiting_for_jobs' end,
    'sentence', case v_wait.kind
      when 'sleep' then format('It sleeps until %s.', queue.utc(v_wait.timeout_at))
      when 'ask' then format('It waits for an answer to: %s', coalesce(v_wait.data ->> 'question', v_wait.name))
      when 'event' then format('It waits for the event %s.', v_wait.event_name)
      when 'children' then format('It waits for %s of its %s children.', v_live, v_all)
      else format('It runs after %s other jobs, of which %s have not ended.', v_all, v_live) end
      || case when v_wait.kind in ('ask', 'event') and v_wait.timeout_at is not null
        then format(' It continues without at %s.', queue.utc(v_wait.timeout_at)) else '' end,
    'estimated_start_at', v_wait.timeout_at,
    'data', jsonb_strip_nulls(jsonb_build_object('name', v_wait.name, 'question', v_wait.data -> 'question',
      'options', v_wait.data -> 'options', 'event', v_wait.event_name, 'job_ids', v_wait.data -> 'job_ids',
      'live', v_live, 'timeout_at', v_wait.timeout_at, 'since', v_wait.created_at)));
end;
$$;
comment on function queue.explain_wait is 'What a waiting job waits for: {reason, sentence, data, estimated_start_at}.';

create function queue.explain_delay(p_job public.jobs, p_run_at timestamptz, p_now timestamptz) returns jsonb
language plpgsql stable set search_path = '' as $$
begin
  return jsonb_build_object('estimated_start_at', greatest(p_run_at, p_now),
    'reason', case when p_run_at <= p_now then 'due' when p_job.next_retry_at is null then 'scheduled'
      when p_job.error_message is not null then 'backing_off' else 'snoozed' end,
    'sentence', case
      when p_run_at <= p_now
        then format('It has been due since %s and joins the queue with the next tick.', queue.utc(p_run_at))
      when p_job.next_retry_at is null then format('It is scheduled for %s.', queue.utc(p_run_at))
      when p_job.error_message is not null then format('Attempt %s of %s failed (%s); it is tried again at %s.',
        p_job.attempts, p_job.max_attempts, queue.shown_error(p_job),
        queue.utc(p_run_at))
      else format('Its processor put it off until %s.', queue.utc(p_run_at)) end,
    'data', jsonb_build_object('run_at', p_run_at, 'attempts', p_job.attempts, 'max_attempts', p_job.max_attempts,
      'error_message', p_job.error_message, 'error', p_job.error_data));
end;
$$;
comment on function queue.explain_delay is 'Why a pending job is not in the queue before p_run_at: {reason, sentence, data, estimated_start_at}.';

create function public.explain_job(p_job_id uuid) returns jsonb
language plpgsql stable
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
declare
  v_now timestamptz := queue.clock();
  v_job public.jobs := queue.visible_job(p_job_id);
  v_run_at timestamptz := (select d.run_at from queue.deferred as d where d.job_id = p_job_id);
  v_told jsonb;
begin
  if v_job.status = 'pending' and v_run_at is null then
    perform queue.take_turn(); -- its place in the queue is looked for
  end if;
  v_told := case
    when v_job.finished_at is not null then queue.explain_end(v_job)
    when v_job.status = 'processing' then queue.explain_lease(v_job, v_now)
    when v_job.status = 'waiting' then queue.explain_wait(v_job)
    when v_run_at is not null then queue.explain_delay(v_job, v_run_at, v_now)
    else queue.explain_ready(v_job, v_now) end;
  return jsonb_build_object('job_id', p_job_id, 'status', v_job.status, 'estimated_start_at', null) || v_told
    || queue.advice(v_job, v_told ->> 'reason', v_now);
end;
$$;
comment on function public.explain_job is E'Why a job is where it is, and what to do: {job_id, status, reason, '
  'sentence, data, estimated_start_at, remedy, command, child_id, checks, history}.\n\nremedy and command, where '
  'something can be done. checks: [{check, verdict, detail, command}] that concern a job that has not ended well, what '
  'failed first. history of a failure: {first_seen_at, version, commit, jobs, workspaces, last_success_at}, of the '
  'caller''s workspace, for operators of all. Reasons: '
  'scheduled, due, backing_off, snoozed, next_in_line, behind_others, key_limit, '
  'workspace_type_limit, workspace_limit, type_limit, rate_limited, type_paused, workspace_type_paused, '
  'queue_paused, workspace_paused, no_worker, no_processor, running, cancelling, lease_expired, sleeping, asking, '
  'waiting_for_event, waiting_for_children, waiting_for_jobs, completed, failed, cancelled.';

select queue.allow('authenticated, service_role', 'public.explain_job');
