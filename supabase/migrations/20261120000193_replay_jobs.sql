-- Run again from a step, as a new job; change the payload of one that is to run.

create function queue.kept_steps(p_job_id uuid, p_from text) returns table (name text)
language sql stable set search_path = '' as $$
  with recursive graph as (
    select g.result -> 'value' as shape from queue.steps as g
    where g.job_id = p_job_id and g.kind = 'graph' and jsonb_typeof(g.result -> 'value') = 'object'
      and g.result -> 'value' ? p_from
    order by g.created_at limit 1),
  again as (
    select p_from as stage
    union
    select s.key from again as a cross join graph as g cross join lateral jsonb_each(g.shape) as s (key, after)
    where s.after ? a.stage)
  select s.name from queue.steps as s
  where s.job_id = p_job_id and p_from is not null and not exists (select from again as a where a.stage = s.name)
    and (exists (select from graph as g where g.shape ? s.name)
      or s.created_at < coalesce((select f.created_at from queue.steps as f where f.job_id = p_job_id
        and f.name = p_from), 'infinity'))
$$;
comment on function queue.kept_steps is 'The steps that a replay from a step keeps: those that finished before it; in '
  'its graph all but it and the stages that come after it. None for null.';

create function queue.replay(p_job public.jobs, p_request jsonb) returns jsonb
language plpgsql set search_path = '' as $$
declare
  v_from constant text := p_request ->> 'from_step';
  v_results constant jsonb := coalesce(nullif(p_request -> 'results', 'null'), '{}');
  v_unknown text;
  v_made jsonb;
  v_id uuid;
begin
  perform queue.check_names(p_request, array['from_step', 'payload', 'results', 'idempotency_key'], 'request');
  if jsonb_typeof(v_results) <> 'object' then
    perform queue.refuse(400, 'invalid_argument', 'results must be an object', 'results');
  elsif v_from is not null and not exists (
    select from queue.steps as s where s.job_id = p_job.id
      and (s.name = v_from or s.kind = 'graph' and s.result -> 'value' ? v_from)) then
    perform queue.refuse(400, 'invalid_argument', format('the job has no finished step %s', v_from), 'from_step');
  end if;
  select r.name into v_unknown from jsonb_object_keys(v_results) as r (name) where not exists (
    select 1 from queue.kept_steps(p_job.id, v_from) as k where k.name = r.name);
  if found then
    perform queue.refuse(400, 'invalid_argument', format('%s is not a step that is kept', v_unknown), 'results');
  elsif octet_length(v_results::text) > (queue.setting('result_max_bytes'))::integer then
    perform queue.refuse(413, 'payload_too_large', 'the results are longer than a result may be', 'results');
  end if;

  v_made := public.enqueue_job(p_job.workspace_id, p_job.job_type,
    coalesce(nullif(p_request -> 'payload', 'null'), p_job.payload),
    jsonb_strip_nulls(jsonb_build_object('queue', p_job.queue, 'priority', p_job.priority,
      'max_attempts', p_job.max_attempts, 'timeout_seconds', p_job.timeout_seconds, 'backoff', p_job.backoff,
      'concurrency_key', p_job.concurrency_key, 'session_id', p_job.session_id,
      'tags', to_jsonb(queue.given_tags(p_job)),
      'idempotency_key', p_request ->> 'idempotency_key',
      'schema_version', case when coalesce(p_request -> 'payload', 'null') = 'null' then p_job.schema_version end,
      'user_id', case when auth.uid() is null then p_job.user_id end)));
  if not (v_made -> 'created')::boolean then
    if (v_made #>> '{job,replay_of}', v_made #>> '{job,replay_from}') is distinct from (p_job.id::text, v_from) then
      perform queue.refuse(409, 'idempotency_conflict', 'this idempotency key was used with another request',
        v_made #>> '{job,id}');
    end if;
    return v_made;
  end if;
  v_id := v_made #>> '{job,id}';
  update public.jobs set replay_of = p_job.id, replay_from = v_from where id = v_id;
  insert into queue.steps (job_id, name, kind, result, started_at, created_at, workspace_id, event_name)
  select v_id, s.name, s.kind,
    case when v_results ? s.name then jsonb_build_object('value', v_results -> s.name) else s.result end, s.started_at,
    s.created_at, s.workspace_id, case when v_results ? s.name then null else s.event_name end
  from queue.steps as s join queue.kept_steps(p_job.id, v_from) as k on k.name = s.name where s.job_id = p_job.id;
  insert into queue.gathered (job_id, name, nth, child_id, status, result, error_message)
  select v_id, g.name, g.nth, g.child_id, g.status, g.result, g.error_message
  from queue.gathered as g join queue.kept_steps(p_job.id, v_from) as k on k.name = g.name
  where g.job_id = p_job.id and not v_results ? k.name;
  perform queue.charge_enqueues((
    select (sum(l.bytes) / 16384)::bigint from queue.step_lines(v_id, null, null, null) as l));
  return v_made || jsonb_build_object('job', (select queue.job_json(j) from public.jobs as j where j.id = v_id));
end;
$$;
comment on function queue.replay is 'Run a job again as a new one, as public.replay_job says.';

create function public.replay_job(p_job_id uuid, p_request jsonb default '{}') returns jsonb
language plpgsql
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
declare
  v_job public.jobs := queue.visible_job(p_job_id);
  v_made jsonb;
begin
  perform queue.take_turn(); -- as many steps as its origin has
  v_made := queue.replay(v_job, p_request);
  return v_made;
end;
$$;
comment on function public.replay_job is E'Run a job again as a new one, from a finished step, a stage or its start: {job, created, wake, warning} as enqueue_job.\n\nRequest: {from_step?, payload?, results?, idempotency_key?}. The steps that finished before from_step are kept (of a graph all but that stage, finished or not, and those after it), with the results given in results ({name: value}) in place of theirs; without from_step none are. The new job has the payload given or the origin''s, and its options, but neither its keys against repetition nor its family; replay_of and replay_from name the origin. The caller must be allowed to enqueue; each 16 kB of results that are kept count as one enqueue more.';

create function public.job_replays(p_job_id uuid) returns jsonb
language plpgsql stable
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
declare
  v_most constant integer := 100;
  v_workspace uuid := (queue.visible_job(p_job_id)).workspace_id;
begin
  return (
    with recursive up as (
      select p_job_id as id, 0 as n
      union all
      select j.replay_of, up.n + 1 from up join public.jobs as j on j.id = any (array[up.id])
      where up.n < v_most),
    family as (
      (select j.id, 0 as n from up join public.jobs as j on j.id = any (array[up.id])
        where j.workspace_id is not distinct from v_workspace -- which no index serves, so that the key does
        order by up.n desc limit 1)
      union all
      select j.id, f.n + 1 from family as f join public.jobs as j on j.replay_of = f.id
      where f.n < v_most and j.workspace_id is not distinct from v_workspace)
    select coalesce(jsonb_agg(line order by line ->> 'created_at', line ->> 'id'), '[]') from (
      select jsonb_build_object('id', j.id, 'replay_of', j.replay_of, 'replay_from', j.replay_from,
        'status', j.status, 'state', queue.state_of(j.status, j.attempts, j.next_retry_at, j.scheduled_for,
          queue.clock()), 'created_at', j.created_at, 'finished_at', j.finished_at) as line
      from family as f join public.jobs as j on j.id = any (array[f.id]) limit v_most) as l);
end;
$$;
comment on function public.job_replays is E'The job, what it is a replay of, and all replays of those, oldest first, at most 100: [{id, replay_of, replay_from, status, state, created_at, finished_at}].\n\nOf a job without replays itself alone. An origin that retention has deleted is missing; replay_of still names it.';

create function public.edit_job(p_job_id uuid, p_changes jsonb) returns jsonb
language plpgsql
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
declare
  v_job public.jobs := queue.visible_job(p_job_id);
begin
  perform queue.check_names(p_changes, array['payload'], 'changes');
  perform 1 from public.jobs where id = p_job_id for update;
  select * into v_job from public.jobs where id = p_job_id;
  if v_job.status <> 'pending' or not exists (select 1 from queue.deferred where job_id = p_job_id) then
    perform queue.refuse(409, 'invalid_state', format('the payload of a %s job cannot be changed',
      queue.state_of(v_job.status, v_job.attempts, v_job.next_retry_at, v_job.scheduled_for, queue.clock())),
      v_job.status);
  end if;
  perform queue.change_payload(p_job_id, p_changes -> 'payload');
  return (select queue.job_json(jobs) from public.jobs where id = p_job_id);
end;
$$;
comment on function public.edit_job is E'Change the payload of a scheduled or retrying job before it runs; returns the job.\n\nChanges: {payload}, checked by the type''s schema as at an enqueue. An event job.edited has what changed, the audit log who did. Finished steps are kept: replay_job runs them again. 409 in any other state; retry_job takes a payload for ended jobs.';

select queue.allow('authenticated, service_role', 'public.replay_job', 'public.job_replays', 'public.edit_job');
