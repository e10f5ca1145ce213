-- Why is my job not running? One sentence, a reason and data for each place that a job can be in. What to do about it
-- is said by those who show it.

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

-- What keeps a ready job from starting: a pause, no worker, none that serves it, the narrowest limit that is used up,
-- or jobs of its tenant in its lane that are ahead of it and can run.
create function queue.explain_ready(p_job public.jobs, p_now timestamptz) returns jsonb
language plpgsql stable as $$
declare
  v_type queue.job_types;
  v_pause queue.pauses;
  v_full record;
  v_free_at timestamptz;
  v_ahead integer;
begin
  select * into v_type from queue.job_types where job_type = p_job.job_type;
  select * into v_pause from queue.pauses_of(p_job.job_type, p_job.queue, p_job.workspace_id) limit 1;
  if found then
    return jsonb_build_object('reason', v_pause.kind || '_paused', 'data', to_jsonb(v_pause),
      'sentence', format('Its %s has been paused since %s%s.', case v_pause.kind when 'type' then 'job type'
        when 'workspace_type' then 'job type in this workspace' else v_pause.kind end,
        v_pause.paused_at::timestamptz(0), ': ' || v_pause.reason));
  elsif not exists (select from queue.alive_runs(p_now)) then
    return jsonb_build_object('reason', 'no_worker', 'data', '{}', 'sentence', 'No worker has been seen for minutes.');
  elsif queue.unserved(p_job.job_type, p_now, p_job.queue) then
    return jsonb_build_object('reason', 'no_processor', 'data', jsonb_build_object('refusal', v_type.refusal),
      'sentence', format('Workers run, but none of them serves the job type %s in the queue %s.%s', p_job.job_type,
        p_job.queue, ' Its last registration was refused: ' || v_type.refusal || '.'));
  end if;
  select l.* into v_full
  from (values
    (1, 'key_limit', 'of its key', v_type.key_concurrency, (
      select count(*) from queue.gated as g where g.workspace_id = p_job.workspace_id and g.job_type = p_job.job_type
        and g.key = p_job.concurrency_key and g.admitted and not g.ended and g.job_id <> p_job.id)),
    (2, 'workspace_type_limit', 'of its type in the workspace', v_type.workspace_concurrency, (
      select count(*) from queue.leases as h join queue.lanes as n on n.lane = h.lane
      where h.workspace_id = p_job.workspace_id and n.job_type = p_job.job_type)),
    (3, 'workspace_limit', 'of the workspace', (
      select t.running_max from queue.tenant_limits as t where t.workspace_id = p_job.workspace_id), (
      select count(*) from queue.leases as h where h.workspace_id = p_job.workspace_id)),
    (4, 'type_limit', 'of its type', v_type.max_concurrency, (
      select count(*) from queue.leases as h join queue.lanes as n on n.lane = h.lane
      where n.job_type = p_job.job_type))) as l (place, reason, scope, most, running)
  where l.running >= l.most order by l.place limit 1;
  if found then
    return jsonb_build_object('reason', v_full.reason, 'data', jsonb_build_object('running', v_full.running,
      'limit', v_full.most), 'sentence', format('The concurrency limit %s is used up: %s of %s run.', v_full.scope,
      v_full.running, v_full.most));
  end if;
  select b.refilled_at + make_interval(secs => (1 - b.tokens) * v_type.rate_per_seconds / v_type.rate_limit)
  into v_free_at from queue.buckets as b
  where b.name = case when v_type.rate_per_key
    then format('k:%s/%s/%s', p_job.workspace_id, p_job.job_type, coalesce(p_job.concurrency_key, ''))
    else 'r:' || p_job.job_type end;
  if v_free_at > p_now then
    return jsonb_build_object('reason', 'rate_limited', 'estimated_start_at', v_free_at,
      'sentence', format('The rate limit of %s starts per %s s is used up; the next start is free at %s.',
        v_type.rate_limit, v_type.rate_per_seconds, v_free_at::timestamptz(0)),
      'data', jsonb_build_object('limit', v_type.rate_limit, 'per_seconds', v_type.rate_per_seconds));
  end if;
  select count(*) into v_ahead from (
    select from queue.ready as r join public.jobs as j on j.id = any (array[r.job_id])
    where r.lane = p_job.lane and r.workspace_id = p_job.workspace_id and r.ord < p_job.ord
      and r.ord >= coalesce((select t.from_ord from queue.turns as t
        where t.lane = p_job.lane and t.workspace_id = p_job.workspace_id), 0)
      and coalesce(j.deadline_at > p_now, true) limit 1000) as a;
  return jsonb_build_object('data', jsonb_build_object('ahead', v_ahead)) || case when v_ahead = 0
    then jsonb_build_object('reason', 'next_in_line', 'estimated_start_at', p_now,
      'sentence', 'It is the next of its workspace and starts with the next lease call that has a slot.')
    else jsonb_build_object('reason', 'behind_others', 'sentence', format('Jobs of its workspace that are ahead of it: '
      '%s%s.', v_ahead, case when v_ahead = 1000 then ' or more' end)) end;
end;
$$;

create function public.explain_job(p_job_id uuid) returns jsonb
language plpgsql stable security definer set search_path = ''
set enable_seqscan = off set jit = off
set timezone = 'UTC' -- in which sentences give instants
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_job constant public.jobs := queue.visible_job(p_job_id);
  v_wait constant jsonb := queue.job_json(v_job) -> 'waiting_for';
  v_error constant text
    := regexp_replace(left(queue.error_line(v_job.error_message, v_job.error_data), 300), '\s+', ' ', 'g');
  v_data constant jsonb := jsonb_build_object('attempts', v_job.attempts, 'max_attempts', v_job.max_attempts,
    'error_message', v_job.error_message, 'error', v_job.error_data);
  v_run_at constant timestamptz := (
    select d.run_at from queue.deferred as d
    where d.run_at = coalesce(v_job.next_retry_at, v_job.scheduled_for) and d.job_id = p_job_id);
  v_found jsonb;
begin
  if v_job.finished_at is not null then
    v_found := jsonb_build_object('reason', v_job.status, 'data', v_data, 'sentence', format(
      case v_job.status when 'failed' then 'It failed at %2$s after %3$s of %4$s attempts: %5$s'
        when 'completed' then 'It %s at %s.' else 'It was %s at %s.' end,
      v_job.status, v_job.finished_at::timestamptz(0), v_job.attempts, v_job.max_attempts, v_error));
  elsif v_job.status = 'processing' then
    select jsonb_build_object('reason', k.reason, 'sentence', format(k.words, w.worker_id,
        l.leased_at::timestamptz(0), l.expires_at::timestamptz(0), v_job.cancel_requested_at::timestamptz(0)),
      'data', jsonb_build_object('worker_id', w.worker_id, 'leased_at', l.leased_at, 'expires_at', l.expires_at,
        'attempt', l.attempt)) into v_found
    from queue.leases as l
    left join queue.workers as w on w.worker = l.worker
    join (values
      ('lease_expired', 'Its worker %1$s has not been heard of; the lease expired at %3$s and the next tick takes it '
        'back.'),
      ('cancelling', 'It was asked to stop at %4$s; worker %1$s learns it with its next report, at the latest at '
        '%3$s.'),
      ('running', 'Worker %1$s has been running it since %2$s; its lease lasts until %3$s unless renewed.'))
      as k (reason, words) on k.reason = case when l.expires_at <= v_now then 'lease_expired'
        when v_job.cancel_requested_at is not null then 'cancelling' else 'running' end
    where l.job_id = v_job.id;
  elsif v_job.status = 'waiting' then
    select jsonb_build_object('reason', k.reason, 'estimated_start_at', v_wait -> 'until', 'data', v_wait,
      'sentence', format(k.words, (v_wait ->> 'until')::timestamptz(0),
        coalesce(v_wait ->> 'question', v_wait ->> 'event'))) into v_found
    from (values ('sleep', 'sleeping', 'It sleeps until %s.'),
      ('ask', 'asking', 'It waits for an answer to: %2$s'),
      ('event', 'waiting_for_event', 'It waits for the event %2$s.'),
      ('children', 'waiting_for_children', 'It waits for its children.')) as k (kind, reason, words)
    where k.kind = v_wait ->> 'kind';
  elsif v_run_at is not null then
    select jsonb_build_object('reason', k.reason, 'estimated_start_at', greatest(v_run_at, v_now),
      'sentence', format(k.words, v_run_at::timestamptz(0), v_job.attempts, v_job.max_attempts, v_error),
      'data', v_data || jsonb_build_object('run_at', v_run_at)) into v_found
    from (values ('due', 'It has been due since %s and joins the queue with the next tick.'),
      ('scheduled', 'It is scheduled for %s.'), ('snoozed', 'Its processor put it off until %s.'),
      ('backing_off', 'Attempt %2$s of %3$s failed (%4$s); it is tried again at %1$s.')) as k (reason, words)
    where k.reason = case when v_run_at <= v_now then 'due' when v_job.next_retry_at is null then 'scheduled'
      when v_job.error_message is null then 'snoozed' else 'backing_off' end;
  else
    perform queue.take_turn(); -- its place in the queue is looked for
    v_found := queue.explain_ready(v_job, v_now);
  end if;
  return jsonb_build_object('job_id', p_job_id, 'status', v_job.status, 'estimated_start_at', null) || v_found;
end;
$$;
comment on function public.explain_job is
  'Why a job is where it is: {job_id, status, reason, sentence, data, estimated_start_at}.';

select queue.allow('authenticated, service_role', 'public.explain_job');
