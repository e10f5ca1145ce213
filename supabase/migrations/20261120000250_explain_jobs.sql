-- Why is my job not running? One sentence, a reason and data for each place that a job can be in.

create function queue.utc(p_at timestamptz) returns text
language sql immutable
as $$ select to_char(p_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS "UTC"') $$;

-- The latest run of each worker that is alive: it was seen within three minutes, within 90 seconds where the run has
-- ended, or it holds a lease that has not expired.
create function queue.alive_runs(p_now timestamptz) returns setof queue.ticks
language sql stable as $$
  select distinct on (t.worker) t.*
  from (select * from queue.ticks order by started_at desc limit 200) as t
  where t.seen_at > p_now - case when t.ended_at is null then interval '3 minutes' else interval '90 seconds' end
    or exists (select from queue.leases as l where l.worker = t.worker and l.expires_at > p_now)
  order by t.worker, t.started_at desc
$$;

-- Whether workers run, but none of them serves the type, in the queue if one is named. False while no worker runs, and
-- for a type registered a moment ago: its worker is about to begin.
create function queue.unserved(p_job_type text, p_now timestamptz, p_queue text default null) returns boolean
language sql stable as $$
  select count(*) > 0 and not coalesce(bool_or((r.job_types is null or p_job_type = any (r.job_types))
      and (p_queue is null or r.queues is null or p_queue = any (r.queues))), false)
    and not exists (select from queue.job_types as t
      where t.job_type = p_job_type and t.registered_at > p_now - interval '1 minute')
  from queue.alive_runs(p_now) as r
$$;

-- The pauses that keep jobs of a type, in a queue and a workspace, from starting, the widest first.
create function queue.pauses_of(p_job_type text, p_queue text, p_workspace_id uuid) returns setof queue.pauses
language sql stable rows 1 as $$
  select * from queue.pauses as p
  where (p.kind, p.name) in (('type', p_job_type), ('queue', p_queue), ('workspace', p_workspace_id::text),
    ('workspace_type', p_workspace_id || '/' || p_job_type))
  order by array_position(array['type', 'queue', 'workspace', 'workspace_type'], p.kind)
$$;

-- What keeps a ready job from starting: a pause, no worker, none that serves it, or the narrowest limit that is used
-- up; null for nothing.
create function queue.explain_stop(p_job public.jobs, p_type queue.job_types, p_now timestamptz) returns jsonb
language plpgsql stable as $$
declare
  v_pause queue.pauses;
  v_seen timestamptz;
  v_rate constant double precision := p_type.rate_limit / p_type.rate_per_seconds;
  v_full record;
  v_free_at timestamptz;
begin
  select * into v_pause from queue.pauses_of(p_job.job_type, p_job.queue, p_job.workspace_id) limit 1;
  if found then
    return jsonb_build_object('reason', v_pause.kind || '_paused',
      'sentence', format('%s been paused since %s%s.', case v_pause.kind
          when 'type' then format('The job type %s has', p_job.job_type) when 'workspace' then 'The workspace has'
          when 'queue' then format('The queue %s has', v_pause.name)
          else format('The job type %s has, in this workspace,', p_job.job_type) end,
        queue.utc(v_pause.paused_at), coalesce(': ' || v_pause.reason, '')),
      'command', 'minutehand resume ' || case v_pause.kind when 'workspace' then '--all'
        when 'type' then '--type ' || v_pause.name when 'queue' then '--queue ' || v_pause.name end,
      'data', jsonb_build_object('paused_at', v_pause.paused_at, 'paused_by', v_pause.paused_by,
        'pause_reason', v_pause.reason));
  elsif not exists (select from queue.alive_runs(p_now)) then
    v_seen := (select max(seen_at) from (select seen_at from queue.ticks order by started_at desc limit 100) as t);
    return jsonb_build_object('reason', 'no_worker', 'command', 'minutehand doctor --only schedule',
      'sentence', case when v_seen is null then 'No worker has ever been seen.'
        else format('No worker has been seen for %s minutes.', floor(extract(epoch from p_now - v_seen) / 60)) end,
      'data', jsonb_build_object('last_seen_at', v_seen));
  elsif queue.unserved(p_job.job_type, p_now, p_job.queue) then
    return jsonb_build_object('reason', 'no_processor', 'command', 'minutehand types ' || p_job.job_type,
      'sentence', format('Workers run, but none of them serves the job type %s in the queue %s.%s', p_job.job_type,
        p_job.queue, ' Its last registration was refused: ' || p_type.refusal || '.'),
      'data', jsonb_build_object('job_type', p_job.job_type, 'queue', p_job.queue,
        'registered_at', p_type.registered_at, 'refusal', p_type.refusal));
  end if;
  select l.* into v_full from (
    select 1 as place, 'key_limit' as reason, 'of the key ' || p_job.concurrency_key as scope,
      p_type.key_concurrency as most, count(*) as running
    from queue.gated as g
    where g.workspace_id = p_job.workspace_id and g.job_type = p_job.job_type and g.key = p_job.concurrency_key
      and g.admitted and not g.ended and g.job_id <> p_job.id
    union all
    select s.place, s.reason, s.scope, s.most, (
      select count(*) from queue.leases as l join queue.lanes as n on n.lane = l.lane
      where (s.is_of_type is false or n.job_type = p_job.job_type)
        and (s.reason = 'type_limit' or l.workspace_id = p_job.workspace_id))
    from (values
      (2, 'workspace_type_limit', format('of %s in this workspace', p_job.job_type), p_type.workspace_concurrency,
        true),
      (3, 'workspace_limit', 'of the workspace',
        (select t.running_max from queue.tenant_limits as t where t.workspace_id = p_job.workspace_id), false),
      (4, 'type_limit', 'of the job type ' || p_job.job_type, p_type.max_concurrency, true))
      as s (place, reason, scope, most, is_of_type) where s.most is not null) as l
  where l.running >= l.most order by l.place limit 1;
  if found then
    return jsonb_build_object('reason', v_full.reason,
      'sentence', format('The concurrency limit %s is used up: %s of %s run.', v_full.scope, v_full.running,
        v_full.most), 'data', jsonb_build_object('running', v_full.running, 'limit', v_full.most));
  end if;
  select b.refilled_at + make_interval(secs => (1 - b.tokens) / v_rate) into v_free_at from queue.buckets as b
  where b.name = case when p_type.rate_per_key
    then format('k:%s/%s/%s', p_job.workspace_id, p_job.job_type, coalesce(p_job.concurrency_key, ''))
    else 'r:' || p_job.job_type end;
  return case when v_free_at > p_now then jsonb_build_object('reason', 'rate_limited', 'estimated_start_at', v_free_at,
    'sentence', format('The rate limit of %s starts per %s s is used up; the next start is free at %s.',
      p_type.rate_limit, p_type.rate_per_seconds, queue.utc(v_free_at)),
    'data', jsonb_build_object('limit', p_type.rate_limit, 'per_seconds', p_type.rate_per_seconds,
      'per_key', p_type.rate_per_key, 'refilled_at', v_free_at)) end;
end;
$$;

-- How many jobs are ahead of a ready one that nothing else stops: those of its tenant in its lane that can run.
create function queue.explain_line(p_job public.jobs, p_now timestamptz) returns jsonb
language plpgsql stable as $$
declare
  v_ready_at constant timestamptz := coalesce(p_job.next_retry_at, p_job.scheduled_for, p_job.created_at);
  v_from constant bigint := coalesce((select t.from_ord from queue.turns as t
    where t.lane = p_job.lane and t.workspace_id = p_job.workspace_id), 0);
  v_rate double precision;
  v_ahead integer;
  v_seen timestamptz;
begin
  select count(*) into v_ahead from (
    select from queue.ready as r join public.jobs as j on j.id = any (array[r.job_id])
    where r.lane = p_job.lane and r.workspace_id = p_job.workspace_id and r.ord >= v_from and r.ord < p_job.ord
      and coalesce(j.deadline_at > p_now, true)
    limit 1001) as ahead;
  if v_ahead > 0 then
    v_rate := (select sum((s.counts ->> 'completed')::bigint + (s.counts ->> 'failed')::bigint) / 600.0
      from queue.stats as s where s.workspace_id = p_job.workspace_id and s.minutes = 1
        and s.at > p_now - interval '10 minutes' and s.job_type = p_job.job_type);
    return jsonb_build_object('reason', 'behind_others',
      'estimated_start_at', case when v_rate > 0 then p_now + make_interval(secs => v_ahead / v_rate) end,
      'sentence', format('Jobs of its workspace that are ahead of it: %s.',
        case when v_ahead > 1000 then 'more than 1000' else v_ahead::text end),
      'data', jsonb_build_object('ahead', least(v_ahead, 1000), 'more', v_ahead > 1000, 'ready_since', v_ready_at,
        'ended_per_second', v_rate));
  end if;
  v_seen := (
    select max(t.leased_at) from (select leased_at from queue.ticks order by started_at desc limit 100) as t);
  if v_ready_at < p_now - interval '15 seconds' and coalesce(v_seen, '-infinity') < v_ready_at then
    return jsonb_build_object('reason', 'not_leased',
      'sentence', format('It is the next of its workspace, but no worker has leased anything since it became ready '
        '%s s ago: every slot is taken, or the workers cannot lease.', floor(extract(epoch from p_now - v_ready_at))),
      'data', jsonb_build_object('ready_since', v_ready_at, 'last_leased_at', v_seen));
  end if;
  return jsonb_build_object('reason', 'next_in_line', 'estimated_start_at', p_now,
    'sentence', 'It is the next of its workspace and starts with the next lease call.',
    'data', jsonb_build_object('ready_since', v_ready_at));
end;
$$;

create function queue.explain_wait(p_job public.jobs) returns jsonb
language plpgsql stable as $$
declare
  v_wait queue.waits;
  v_live integer;
  v_all integer;
begin
  select * into v_wait from queue.waits where job_id = p_job.id;
  if v_wait.kind = 'children' then
    select count(*) filter (where j.finished_at is null), count(*) into v_live, v_all
    from jsonb_array_elements_text(v_wait.data -> 'job_ids') as a (id) left join public.jobs as j on j.id = a.id::uuid;
  end if;
  return jsonb_build_object('estimated_start_at', v_wait.timeout_at,
    'reason', case v_wait.kind when 'sleep' then 'sleeping' when 'ask' then 'asking'
      when 'event' then 'waiting_for_event' else 'waiting_for_children' end,
    'sentence', case v_wait.kind
      when 'sleep' then format('It sleeps until %s.', queue.utc(v_wait.timeout_at))
      when 'ask' then format('It waits for an answer to: %s', coalesce(v_wait.data ->> 'question', v_wait.name))
      when 'event' then format('It waits for the event %s.', v_wait.event_name)
      else format('It waits for %s of its %s children.', v_live, v_all) end
      || case when v_wait.kind in ('ask', 'event')
        then coalesce(' It continues without at ' || queue.utc(v_wait.timeout_at) || '.', '') else '' end,
    'data', jsonb_strip_nulls(jsonb_build_object('name', v_wait.name, 'question', v_wait.data -> 'question',
      'options', v_wait.data -> 'options', 'event', v_wait.event_name, 'job_ids', v_wait.data -> 'job_ids',
      'live', v_live, 'timeout_at', v_wait.timeout_at, 'since', v_wait.created_at)));
end;
$$;

create function public.explain_job(p_job_id uuid) returns jsonb
language plpgsql stable security definer set search_path = ''
set enable_seqscan = off set jit = off as $$
declare
  v_now constant timestamptz := queue.clock();
  v_job constant public.jobs := queue.visible_job(p_job_id);
  v_error constant text
    := left(btrim(regexp_replace(queue.error_line(v_job.error_message, v_job.error_data), '\s+', ' ', 'g')), 300);
  v_type queue.job_types;
  v_run_at timestamptz;
  v_delay text;
  v_found jsonb;
begin
  select d.run_at into v_run_at from queue.deferred as d
  where d.run_at = coalesce(v_job.next_retry_at, v_job.scheduled_for) and d.job_id = p_job_id;
  v_delay := case when v_run_at <= v_now then 'due' when v_job.next_retry_at is null then 'scheduled'
    when v_job.error_message is not null then 'backing_off' else 'snoozed' end;
  v_found := case
    when v_job.finished_at is not null then jsonb_build_object('reason', v_job.status,
      'sentence', format(case v_job.status
        when 'completed' then 'It completed at %1$s.'
        when 'cancelled' then 'It was cancelled at %1$s%5$s.'
        else 'It failed at %1$s after %2$s of %3$s attempts: %4$s' end,
        queue.utc(v_job.finished_at), v_job.attempts, v_job.max_attempts, v_error, case v_job.error_data ->> 'reason'
          when 'parent_ended' then ' because its parent ended' else ': ' || v_job.error_message end),
      'command', case when v_job.status = 'failed' then 'minutehand retry ' || v_job.id end,
      'child_id', (select c.id from public.jobs as c where c.parent_id = v_job.id and c.status = 'failed'
        and v_job.error_data ->> 'type' like '%ChildrenFailed' order by c.finished_at desc limit 1),
      'data', jsonb_build_object('finished_at', v_job.finished_at, 'error_message', v_job.error_message,
        'error', v_job.error_data, 'attempts', v_job.attempts))
    when v_job.status = 'processing' then (
      select jsonb_build_object('reason', s.reason,
        'sentence', format(case s.reason
          when 'lease_expired' then 'Its worker %1$s has not been heard of; the lease expired at %3$s and the '
            'next tick takes it back.'
          when 'cancelling' then 'It was asked to stop at %4$s; worker %1$s learns it with its next report, at '
            'the latest at %3$s.'
          else 'Worker %1$s has been running it since %2$s; its lease lasts until %3$s unless renewed.' end,
          w.worker_id, queue.utc(l.leased_at), queue.utc(l.expires_at), queue.utc(v_job.cancel_requested_at)),
        'command', case s.reason when 'lease_expired' then 'minutehand doctor --only schedule' end,
        'data', jsonb_build_object('worker_id', w.worker_id, 'leased_at', l.leased_at, 'expires_at', l.expires_at,
          'attempt', l.attempt))
      from queue.leases as l left join queue.workers as w on w.worker = l.worker
      cross join lateral (select case when l.expires_at <= v_now then 'lease_expired'
        when v_job.cancel_requested_at is not null then 'cancelling' else 'running' end as reason) as s
      where l.job_id = v_job.id)
    when v_job.status = 'waiting' then queue.explain_wait(v_job)
    when v_run_at is not null then jsonb_build_object('estimated_start_at', greatest(v_run_at, v_now),
      'reason', v_delay, 'sentence', format(case v_delay
        when 'due' then 'It has been due since %1$s and joins the queue with the next tick.'
        when 'scheduled' then 'It is scheduled for %1$s.'
        when 'backing_off' then 'Attempt %2$s of %3$s failed (%4$s); it is tried again at %1$s.'
        else 'Its processor put it off until %1$s.' end,
        queue.utc(v_run_at), v_job.attempts, v_job.max_attempts, v_error),
      'data', jsonb_build_object('run_at', v_run_at, 'attempts', v_job.attempts, 'max_attempts', v_job.max_attempts,
        'error_message', v_job.error_message, 'error', v_job.error_data)) end;
  if v_found is null then
    perform queue.take_turn(); -- its place in the queue is looked for
    select * into v_type from queue.job_types where job_type = v_job.job_type;
    v_found := coalesce(queue.explain_stop(v_job, v_type, v_now), queue.explain_line(v_job, v_now));
  end if;
  return jsonb_build_object('job_id', p_job_id, 'status', v_job.status, 'estimated_start_at', null, 'command', null,
    'child_id', null) || v_found;
end;
$$;
comment on function public.explain_job is
  'Why a job is where it is: {job_id, status, reason, sentence, data, estimated_start_at, command, child_id}.';

select queue.allow('authenticated, service_role', 'public.explain_job');
