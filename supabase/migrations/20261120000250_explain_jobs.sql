-- Why is my job not running? One sentence, a reason and data for each place that a job can be in.

create function queue.utc(p_at timestamptz) returns text
language sql immutable
as $$ select to_char(p_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS "UTC"') $$;

-- A job's error as part of a sentence: on one line, the first 300 characters.
create function queue.shown_error(p_job public.jobs) returns text
language plpgsql immutable as $$
declare
  v_line constant text
    := btrim(regexp_replace(queue.error_line(p_job.error_message, p_job.error_data), '\s+', ' ', 'g'));
begin
  return left(v_line, 300) || case when length(v_line) > 300 then '…' else '' end;
end;
$$;

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

-- For enqueues: a sentence about the first of these types that no worker serves, or, where the setting
-- refuse_unserved_types is true, a refusal.
create function queue.unserved_warning(p_job_types text[]) returns text
language plpgsql stable as $$
declare
  v_now constant timestamptz := queue.clock();
  v_type text;
  v_warning text;
begin
  perform from queue.ticks as t -- usually
  where t.ended_at is null and t.seen_at > v_now - interval '3 minutes'
    and (t.job_types is null or t.job_types @> p_job_types)
  limit 1;
  if found then
    return null;
  end if;
  v_type := (select u from unnest(p_job_types) as u where queue.unserved(u, v_now) order by 1 limit 1);
  if v_type is null then
    return null;
  end if;
  v_warning := format('no worker that runs now serves the job type %s; the job waits until one does', v_type);
  if queue.setting('refuse_unserved_types') = 'true' then
    perform queue.refuse(422, 'job_type_unserved', v_warning, 'job_type');
  end if;
  return v_warning;
end;
$$;

-- The pauses that keep jobs of a type, in a queue and a workspace, from starting, the widest first.
create function queue.pauses_of(p_job_type text, p_queue text, p_workspace_id uuid) returns setof queue.pauses
language sql stable rows 1 as $$
  select * from queue.pauses as p
  where (p.kind, p.name) in (('type', p_job_type), ('queue', p_queue), ('workspace', p_workspace_id::text),
    ('workspace_type', p_workspace_id || '/' || p_job_type))
  order by array_position(array['type', 'queue', 'workspace', 'workspace_type'], p.kind)
$$;

create function queue.explain_pause(p_job public.jobs) returns jsonb
language sql stable as $$
  select jsonb_build_object('reason', p.kind || '_paused',
    'sentence', format('%s been paused since %s%s.', case p.kind
        when 'type' then format('The job type %s has', p_job.job_type) when 'workspace' then 'The workspace has'
        when 'queue' then format('The queue %s has', p.name)
        else format('The job type %s has, in this workspace,', p_job.job_type) end,
      queue.utc(p.paused_at), coalesce(': ' || p.reason, '')),
    'command', case p.kind when 'workspace' then 'minutehand resume workspace ' || p_job.workspace_id
      when 'queue' then 'minutehand resume queue ' || p.name
      when 'type' then 'minutehand resume type ' || p_job.job_type end,
    'data', jsonb_build_object('paused_at', p.paused_at, 'paused_by', p.paused_by, 'pause_reason', p.reason))
  from queue.pauses_of(p_job.job_type, p_job.queue, p_job.workspace_id) as p limit 1
$$;

-- That no worker runs, or none that serves the job; null where one does.
create function queue.explain_workers(p_job public.jobs, p_now timestamptz) returns jsonb
language plpgsql stable as $$
declare
  v_seen timestamptz;
begin
  if not exists (select from queue.alive_runs(p_now)) then
    select max(seen_at) into v_seen from (select seen_at from queue.ticks order by started_at desc limit 100) as t;
    return jsonb_build_object('reason', 'no_worker',
      'sentence', case when v_seen is null then 'No worker has ever been seen.'
        else format('No worker has been seen for %s minutes.', floor(extract(epoch from p_now - v_seen) / 60)) end,
      'command', 'minutehand doctor --only schedule', 'data', jsonb_build_object('last_seen_at', v_seen));
  elsif queue.unserved(p_job.job_type, p_now, p_job.queue) then
    return (
      select jsonb_build_object('reason', 'no_processor',
        'sentence', format('Workers run, but none of them serves the job type %s in the queue %s.%s', p_job.job_type,
          p_job.queue, ' Its last registration was refused: ' || t.refusal || '.'),
        'command', 'minutehand types ' || p_job.job_type,
        'data', jsonb_build_object('job_type', p_job.job_type, 'queue', p_job.queue,
          'registered_at', t.registered_at, 'refusal', t.refusal))
      from queue.job_types as t where t.job_type = p_job.job_type);
  end if;
  return null;
end;
$$;

-- The narrowest limit of concurrency that is used up for a ready job; null for none.
create function queue.explain_concurrency(p_job public.jobs, p_type queue.job_types) returns jsonb
language sql stable as $$
  with held as materialized (
    select l.workspace_id, n.job_type from queue.leases as l join queue.lanes as n on n.lane = l.lane),
  limits as (
    select 1 as place, 'key_limit' as reason, 'of the key ' || p_job.concurrency_key as scope,
      p_type.key_concurrency as most, count(*) as running
    from queue.gated as g
    where g.workspace_id = p_job.workspace_id and g.job_type = p_job.job_type and g.key = p_job.concurrency_key
      and g.admitted and g.job_id <> p_job.id
    union all
    select 2, 'workspace_type_limit', format('of %s in this workspace', p_job.job_type),
      p_type.workspace_concurrency, count(*)
    from held as h where h.job_type = p_job.job_type and h.workspace_id = p_job.workspace_id
    union all
    select 3, 'workspace_limit', 'of the workspace',
      (select t.running_max from queue.tenant_limits as t where t.workspace_id = p_job.workspace_id), count(*)
    from held as h where h.workspace_id = p_job.workspace_id
    union all
    select 4, 'type_limit', 'of the job type ' || p_job.job_type, p_type.max_concurrency, count(*)
    from held as h where h.job_type = p_job.job_type)
  select jsonb_build_object('reason', l.reason,
    'sentence', format('The concurrency limit %s is used up: %s of %s run.', l.scope, l.running, l.most),
    'data', jsonb_build_object('running', l.running, 'limit', l.most))
  from limits as l where l.running >= l.most order by l.place limit 1
$$;

create function queue.explain_rate(p_job public.jobs, p_type queue.job_types, p_now timestamptz) returns jsonb
language plpgsql stable as $$
declare
  v_rate constant double precision := p_type.rate_limit / p_type.rate_per_seconds;
  v_tokens double precision;
  v_free_at timestamptz;
begin
  select b.tokens + extract(epoch from p_now - b.refilled_at) * v_rate into v_tokens from queue.buckets as b
  where b.name = case when p_type.rate_per_key
    then format('k:%s/%s/%s', p_job.workspace_id, p_job.job_type, coalesce(p_job.concurrency_key, ''))
    else 'r:' || p_job.job_type end;
  if v_rate is null or v_tokens is null or v_tokens >= 1 then
    return null;
  end if;
  v_free_at := p_now + make_interval(secs => (1 - v_tokens) / v_rate);
  return jsonb_build_object('reason', 'rate_limited', 'estimated_start_at', v_free_at,
    'sentence', format('The rate limit of %s starts per %s s is used up; the next start is free at %s.',
      p_type.rate_limit, p_type.rate_per_seconds, queue.utc(v_free_at)),
    'data', jsonb_build_object('limit', p_type.rate_limit, 'per_seconds', p_type.rate_per_seconds,
      'per_key', p_type.rate_per_key, 'refilled_at', v_free_at));
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
    v_rate := (select sum(s.jobs) / 600.0 from queue.stats as s
      where s.workspace_id = p_job.workspace_id and s.minutes = 1 and s.at > p_now - interval '10 minutes'
        and s.job_type = p_job.job_type and s.outcome in ('completed', 'failed'));
    return jsonb_build_object('reason', 'behind_others',
      'estimated_start_at', case when v_rate > 0 then p_now + make_interval(secs => v_ahead / v_rate) end,
      'sentence', format('It is behind %s%s job%s of its workspace.', case when v_ahead > 1000 then 'more than ' else ''
        end, least(v_ahead, 1000), case when v_ahead = 1 then '' else 's' end),
      'data', jsonb_build_object('ahead', least(v_ahead, 1000), 'more', v_ahead > 1000, 'ready_since', v_ready_at,
        'ended_per_second', v_rate));
  end if;
  select max(leased_at) into v_seen from (select leased_at from queue.ticks order by started_at desc limit 100) as t;
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

create function queue.explain_ready(p_job public.jobs, p_now timestamptz) returns jsonb
language plpgsql stable as $$
declare
  v_type queue.job_types;
begin
  select * into v_type from queue.job_types where job_type = p_job.job_type;
  return coalesce(queue.explain_pause(p_job), queue.explain_workers(p_job, p_now),
    queue.explain_concurrency(p_job, v_type), queue.explain_rate(p_job, v_type, p_now),
    queue.explain_line(p_job, p_now));
end;
$$;

create function queue.explain_end(p_job public.jobs) returns jsonb
language plpgsql stable as $$
begin
  return jsonb_build_object('reason', p_job.status,
    'sentence', case p_job.status
      when 'completed' then format('It completed at %s.', queue.utc(p_job.finished_at))
      when 'cancelled' then format('It was cancelled at %s%s.', queue.utc(p_job.finished_at), case
        when p_job.error_data ->> 'reason' = 'parent_ended' then ' because its parent ended'
        when p_job.error_data ->> 'type' = 'Cancelled' then coalesce(': ' || p_job.error_message, '') else '' end)
      else format('It failed at %s %s: %s', queue.utc(p_job.finished_at), case
        when p_job.max_attempts = 1 then 'on its only attempt'
        else format('after %s of %s attempts', p_job.attempts, p_job.max_attempts) end, queue.shown_error(p_job)) end,
    'command', case when p_job.status = 'failed' then 'minutehand retry ' || p_job.id end,
    'child_id', (select c.id from public.jobs as c where c.parent_id = p_job.id and c.status = 'failed'
        and p_job.error_data ->> 'type' like '%ChildrenFailed' order by c.finished_at desc limit 1),
    'data', jsonb_build_object('finished_at', p_job.finished_at, 'error_message', p_job.error_message,
      'error', p_job.error_data, 'attempts', p_job.attempts));
end;
$$;

create function queue.explain_lease(p_job public.jobs, p_now timestamptz) returns jsonb
language sql stable as $$
  select jsonb_build_object(
    'reason', case when l.expires_at <= p_now then 'lease_expired'
      when p_job.cancel_requested_at is not null then 'cancelling' else 'running' end,
    'sentence', case
      when l.expires_at <= p_now then format(
        'Its worker %s has not been heard of; the lease expired at %s and the next tick takes it back.',
        w.worker_id, queue.utc(l.expires_at))
      when p_job.cancel_requested_at is not null then format(
        'It was asked to stop at %s; worker %s learns it with its next report, at the latest at %s.',
        queue.utc(p_job.cancel_requested_at), w.worker_id, queue.utc(l.expires_at))
      else format('Worker %s has been running it since %s; its lease lasts until %s unless renewed.', w.worker_id,
        queue.utc(l.leased_at), queue.utc(l.expires_at)) end,
    'command', case when l.expires_at <= p_now then 'minutehand doctor --only schedule' end,
    'data', jsonb_build_object('worker_id', w.worker_id, 'leased_at', l.leased_at, 'expires_at', l.expires_at,
      'attempt', l.attempt))
  from queue.leases as l left join queue.workers as w on w.worker = l.worker where l.job_id = p_job.id
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
  return jsonb_build_object(
    'reason', case v_wait.kind when 'sleep' then 'sleeping' when 'ask' then 'asking'
      when 'event' then 'waiting_for_event' else 'waiting_for_children' end,
    'sentence', case v_wait.kind
      when 'sleep' then format('It sleeps until %s.', queue.utc(v_wait.timeout_at))
      when 'ask' then format('It waits for an answer to: %s', coalesce(v_wait.data ->> 'question', v_wait.name))
      when 'event' then format('It waits for the event %s.', v_wait.event_name)
      else format('It waits for %s of its %s children.', v_live, v_all) end
      || case when v_wait.kind in ('ask', 'event') and v_wait.timeout_at is not null
        then format(' It continues without at %s.', queue.utc(v_wait.timeout_at)) else '' end,
    'estimated_start_at', v_wait.timeout_at,
    'data', jsonb_strip_nulls(jsonb_build_object('name', v_wait.name, 'question', v_wait.data -> 'question',
      'options', v_wait.data -> 'options', 'event', v_wait.event_name, 'job_ids', v_wait.data -> 'job_ids',
      'live', v_live, 'timeout_at', v_wait.timeout_at, 'since', v_wait.created_at)));
end;
$$;

create function queue.explain_delay(p_job public.jobs, p_run_at timestamptz, p_now timestamptz) returns jsonb
language plpgsql stable as $$
begin
  return jsonb_build_object('estimated_start_at', greatest(p_run_at, p_now),
    'reason', case when p_run_at <= p_now then 'due' when p_job.next_retry_at is null then 'scheduled'
      when p_job.error_message is not null then 'backing_off' else 'snoozed' end,
    'sentence', case
      when p_run_at <= p_now
        then format('It has been due since %s and joins the queue with the next tick.', queue.utc(p_run_at))
      when p_job.next_retry_at is null then format('It is scheduled for %s.', queue.utc(p_run_at))
      when p_job.error_message is not null then format('Attempt %s of %s failed (%s); it is tried again at %s.',
        p_job.attempts, p_job.max_attempts, queue.shown_error(p_job), queue.utc(p_run_at))
      else format('Its processor put it off until %s.', queue.utc(p_run_at)) end,
    'data', jsonb_build_object('run_at', p_run_at, 'attempts', p_job.attempts, 'max_attempts', p_job.max_attempts,
      'error_message', p_job.error_message, 'error', p_job.error_data));
end;
$$;

create function public.explain_job(p_job_id uuid) returns jsonb
language plpgsql stable
security definer -- callers hold no rights on the engine's tables
set search_path = ''
set enable_seqscan = off
set jit = off as $$
declare
  v_now constant timestamptz := queue.clock();
  v_job constant public.jobs := queue.visible_job(p_job_id);
  v_run_at timestamptz;
begin
  select d.run_at into v_run_at from queue.deferred as d
  where d.run_at = coalesce(v_job.next_retry_at, v_job.scheduled_for) and d.job_id = p_job_id;
  if v_job.status = 'pending' and v_run_at is null then
    perform queue.take_turn(); -- its place in the queue is looked for
  end if;
  return jsonb_build_object('job_id', p_job_id, 'status', v_job.status, 'estimated_start_at', null, 'command', null,
      'child_id', null)
    || case
      when v_job.finished_at is not null then queue.explain_end(v_job)
      when v_job.status = 'processing' then queue.explain_lease(v_job, v_now)
      when v_job.status = 'waiting' then queue.explain_wait(v_job)
      when v_run_at is not null then queue.explain_delay(v_job, v_run_at, v_now)
      else queue.explain_ready(v_job, v_now) end;
end;
$$;
comment on function public.explain_job is
  'Why a job is where it is: {job_id, status, reason, sentence, data, estimated_start_at, command, child_id}.';

select queue.allow('authenticated, service_role', 'public.explain_job');
