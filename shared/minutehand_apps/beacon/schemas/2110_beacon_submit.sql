-- This file has the functions that members call, and the functions that move messages from the
-- outbox to the queue. public.beacon_submit inserts a job, its executions and its outbox message in
-- one transaction.

create function beacon.spec_problem(p_spec jsonb)
returns text
language sql immutable
set search_path = ''
as $$
-- beacon.spec_problem checks only some fields of a job spec. The API and the worker check the other
-- fields of the job spec.
select coalesce(
  queue.schema_error('{
    "type": "object", "required": ["jobspec_id", "version", "benchmark", "constraints",
      "questions"],
    "properties": {
      "jobspec_id": {"type": "string", "minLength": 1, "maxLength": 200},
      "version": {"anyOf": [{"type": "string", "minLength": 1, "maxLength": 64},
        {"type": "integer", "minimum": 0, "maximum": 9007199254740991}]},
      "questions": {"type": "array", "minItems": 1, "maxItems": 500},
      "constraints": {"type": "object", "required": ["regions", "min_regions"], "properties": {
        "regions": {"type": "array", "minItems": 1, "maxItems": 50, "items": {"type": "string",
          "minLength": 1, "maxLength": 63}},
        "min_regions": {"type": "number", "minimum": 1}}}
    }}', coalesce(p_spec, 'null'), 'jobspec'),
  case
    when (p_spec #>> '{constraints,min_regions}')::numeric
        > jsonb_array_length(p_spec #> '{constraints,regions}')
      then 'constraints.min_regions must be at most the number of regions'
    when octet_length(p_spec::text) > 262144
      then 'a job spec must be at most 262144 bytes'
  end
)
$$;

create function beacon.submit(
  p_spec jsonb,
  p_workspace_id uuid,
  p_user_id uuid
)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_problem text;
  v_job public.beacon_jobs;
begin
  perform queue.admit('changes', p_workspace_id, p_user_id, p_bytes => pg_column_size(p_spec));
  v_problem := beacon.spec_problem(p_spec);
  if v_problem is not null then
    perform queue.refuse(422, 'jobspec_invalid', v_problem, 'jobspec');
  end if;
  perform queue.check_json(p_spec, 'jobspec');
  perform queue.hold_id(concat_ws('/', p_workspace_id, p_spec ->> 'jobspec_id'));
  insert into public.beacon_jobs (workspace_id, jobspec_id, version, spec, created_by)
  values (
    p_workspace_id,
    p_spec ->> 'jobspec_id',
    p_spec ->> 'version',
    p_spec,
    p_user_id
  )
  on conflict (workspace_id, jobspec_id, version) do nothing
  returning * into v_job;
  if not found then
    select * into v_job
    from public.beacon_jobs
    where workspace_id = p_workspace_id
      and jobspec_id = p_spec ->> 'jobspec_id'
      and version = p_spec ->> 'version';
    if v_job.spec <> p_spec then
      perform queue.refuse(
        409,
        'jobspec_conflict',
        format(
          'version %s was submitted with another '
            'body; give the changed spec a new version',
          v_job.version
        ),
        v_job.id::text
      );
    end if;
    return beacon.answer(v_job.id, false, false);
  end if;
  perform queue.admit(
    'jobs',
    p_workspace_id,
    p_user_id, -- the number of executions
    jsonb_array_length(p_spec #> '{constraints,regions}')
  );
  insert into public.beacon_outbox (job_id, workspace_id, message)
  values (
    v_job.id,
    p_workspace_id,
    jsonb_build_object(
      'version', 1,
      'job_id', v_job.id,
      'jobspec_id', v_job.jobspec_id
    )
  );
  insert into public.beacon_executions (workspace_id, job_id, jobspec_id, region)
  select p_workspace_id, v_job.id, v_job.jobspec_id, r.region
  from jsonb_array_elements_text(
    p_spec #> '{constraints,regions}'
  ) with ordinality as r (region, place)
  order by r.place;
  return beacon.answer(v_job.id, true, queue.wake_worker());
end;
$$;
create function public.beacon_submit(p_spec jsonb, p_workspace_id uuid default null)
returns jsonb
language sql
security definer -- members may not write jobs directly
set search_path = ''
as $$
select beacon.submit(
  p_spec,
  (public.own_workspace(p_workspace_id) ->> 'workspace_id')::uuid,
  queue.caller()
)
$$;
comment on function public.beacon_submit is
  'Submit a job spec: {id, jobspec_id, status, workspace_id, created, wake}. A repeated spec '
  'returns the first job.';

create function beacon.answer(p_id uuid, p_created boolean, p_wake boolean)
returns jsonb
language sql stable
set search_path = ''
as $$
select jsonb_build_object(
  'id', id,
  'jobspec_id', jobspec_id,
  'status', status,
  'workspace_id', workspace_id,
  'created', p_created,
  'wake', p_wake
)
from public.beacon_job_states
where id = p_id
$$;

create function beacon.end_job(p_id uuid, p_status text, p_error text)
returns void
language plpgsql
set search_path = ''
as $$
begin
  update public.beacon_executions
  set
    status = case when p_status = 'cancelled' then 'cancelled' else 'failed' end,
    completed_at = queue.clock(),
    error = case
      when p_status <> 'cancelled'
        then coalesce(error, p_error, 'the job ended before it')
    end
  where job_id = p_id and completed_at is null;
  update public.beacon_jobs
  set
    status = p_status,
    error = left(p_error, 4000),
    finished_at = queue.clock(),
    reached = beacon.reached(p_id)
  where id = p_id and finished_at is null;
end;
$$;

create function beacon.reached(p_id uuid)
returns text[]
language sql stable
set search_path = ''
as $$
select coalesce(array_agg(region order by id), '{}')
from public.beacon_executions
where job_id = p_id and status = 'completed'
$$;

create function public.beacon_share(p_id uuid, p_is_shared boolean)
returns jsonb
language plpgsql
security definer -- no role may write jobs directly
set search_path = ''
as $$
declare
  v_share_id uuid;
begin
  perform queue.admit('changes', j.workspace_id, queue.caller())
  from public.beacon_jobs as j
  where j.id = p_id;
  update public.beacon_jobs
  set share_id = case when p_is_shared then coalesce(share_id, gen_random_uuid()) end
  where id = p_id and queue.is_member(workspace_id)
  returning share_id into v_share_id;
  if not found then
    perform queue.refuse(404, 'job_not_found', 'job not found', p_id::text);
  end if;
  return jsonb_build_object('share_id', v_share_id);
end;
$$;
comment on function public.beacon_share is
  'Create or delete the public link of a job''s answers: {share_id}.';

create function beacon.shared(p_share_id uuid)
returns jsonb
language sql stable
security definer
set search_path = ''
as $$ -- The random share id authorises reading. The result has no ids.
select jsonb_build_object(
  'job', (
    select jsonb_build_object(
      'spec', j.spec,
      'executions', (
        select jsonb_agg(
          jsonb_build_object(
            'region', e.region,
            'provider', e.receipt -> 'provider',
            'model', e.receipt -> 'model',
            'output', e.receipt -> 'output'
          )
          order by e.id
        )
        from public.beacon_executions as e
        where e.job_id = j.id and e.receipt is not null
      )
    )
    from public.beacon_jobs as j
    where j.share_id = p_share_id
  )
)
$$;
comment on function beacon.shared is
  'The job with this public link: {job: {spec, executions}}, or null.';

create function public.beacon_cancel(p_id uuid)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_job public.beacon_jobs;
begin
  -- charge the caller's rate limit before the call waits for a concurrent change of the job
  perform queue.admit('changes', j.workspace_id, queue.caller())
  from public.beacon_jobs as j
  where j.id = p_id;
  -- To prevent deadlocks, all functions of the app lock the outbox row first, then the job of the
  -- queue, then the row of beacon_jobs, and then its executions.
  perform 1
  from public.beacon_outbox
  where job_id = p_id
  for update;
  select * into v_job
  from public.beacon_jobs
  where id = p_id;
  if not found or not queue.is_member(v_job.workspace_id) then
    perform queue.refuse(404, 'job_not_found', 'job not found', p_id::text);
  end if;
  if v_job.queue_job_id is not null then
    perform queue.cancel(array[v_job.queue_job_id], queue.clock());
  end if;
  select * into v_job
  from public.beacon_jobs
  where id = p_id
  for update;
  if v_job.status in ('completed', 'failed') then
    perform queue.refuse(
      409,
      'invalid_state',
      format('the job is already %s', v_job.status),
      v_job.status
    );
  end if;
  update public.beacon_outbox
  set status = 'cancelled'
  where job_id = p_id and status in ('pending', 'dead');
  perform beacon.end_job(p_id, 'cancelled', null);
  return beacon.answer(p_id, false, false);
end;
$$;
comment on function public.beacon_cancel is
  'Cancel a job and its executions. Repeatable. 409 if the job has completed or failed.';

create function public.beacon_redrive(p_workspace_id uuid default null)
returns jsonb
language plpgsql
security definer -- members may not write the outbox directly
set search_path = ''
as $$
declare
  v_workspace uuid := (
    public.own_workspace(p_workspace_id) ->> 'workspace_id'
  )::uuid;
  v_jobs uuid[];
begin
  perform queue.admit('changes', v_workspace, queue.caller());
  with dead as (
    select o.job_id
    from public.beacon_outbox as o
    where o.workspace_id = v_workspace and o.status = 'dead'
    order by o.job_id
    limit 500
    for update skip locked
  ),
  redriven as (
    update public.beacon_outbox as o
    set
      status = 'pending',
      attempts = 0,
      next_attempt_at = queue.clock()
    from dead
    where o.job_id = dead.job_id
    returning o.job_id
  )
  select coalesce(array_agg(job_id order by job_id), '{}')
  into v_jobs
  from redriven;
  update public.beacon_jobs
  set
    status = 'created',
    error = null,
    finished_at = null,
    reached = '{}'
  where id = any (v_jobs);
  update public.beacon_executions
  set status = 'pending', error = null, completed_at = null
  where job_id = any (v_jobs);
  return jsonb_build_object(
    'count', cardinality(v_jobs),
    'wake', cardinality(v_jobs) > 0 and queue.wake_worker()
  );
end;
$$;
comment on function public.beacon_redrive is
  'Publish the dead letters of a workspace again, at most 500: {count, wake}.';

create function public.beacon_publish()
returns jsonb
language plpgsql
security definer -- the worker has no rights on the app's tables
set search_path = ''
set lock_timeout = '8s'
as $$
declare
  v_row public.beacon_outbox;
  v_job public.beacon_jobs;
  v_id uuid;
  v_published integer := 0;
  v_message text;
  v_hint text;
begin
  perform queue.refuse_revoked();
  for v_row in
    select *
    from public.beacon_outbox
    where status = 'pending' and next_attempt_at <= queue.clock()
    order by next_attempt_at, job_id
    limit 50
    for update skip locked -- concurrent publishers take different rows
  loop
    -- enqueue the job and update the outbox row in one transaction, so that each job is published
    -- once
    begin
      select * into v_job
      from public.beacon_jobs
      where id = v_row.job_id;
      insert into public.jobs (
        workspace_id, job_type, payload, status, user_id, session_id, scheduled_for
      )
      values (
        v_job.workspace_id, 'beacon_job', v_row.message, 'pending', v_job.created_by,
        'beacon:' || v_job.id,
        -- Start the job after a second, because a client that reads its job directly after the
        -- submission must find the status `created`.
        v_job.created_at + interval '1 second'
      )
      returning id into v_id;
      update public.beacon_outbox
      set status = 'published', error = null
      where job_id = v_row.job_id;
      update public.beacon_jobs
      set queue_job_id = v_id
      where id = v_job.id;
      v_published := v_published + 1;
    exception when others then
      get stacked diagnostics v_message = message_text, v_hint = pg_exception_hint;
      -- A message that the queue rejects is never retried. After any other error,
      -- public.beacon_publish tries the message again, up to ten times in all.
      update public.beacon_outbox
      set
        attempts = attempts + 1,
        error = left(v_message, 2000),
        status = case
          when attempts >= 9
              or v_hint
                in ('payload_invalid', 'payload_too_large', 'invalid_argument')
            then 'dead'
          else status
        end,
        next_attempt_at = queue.clock()
          + make_interval(secs => least(60, 2 ^ (attempts + 1)))
      where job_id = v_row.job_id
      returning * into v_row;
      if v_row.status = 'dead' then
        perform beacon.end_job(
          v_row.job_id,
          'failed',
          'the job could not be queued: ' || v_message
        );
      end if;
    end;
  end loop;
  return jsonb_build_object('published', v_published);
end;
$$;
comment on function public.beacon_publish is
  'Enqueue up to 50 due messages separately, oldest first: {published}. For the worker.';

create function public.beacon_reconcile()
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
begin
  perform queue.refuse_revoked();
  -- End each benchmark job whose job in the queue ended, or was deleted, without storing a result.
  return (
    select jsonb_build_object(
      'ended', count(
        beacon.end_job(
          o.id,
          case o.status when 'cancelled' then 'cancelled' else 'failed' end,
          case
            when o.status <> 'cancelled'
              then coalesce(o.error_message, 'its job in the queue was deleted')
          end
        )::text
      )
    )
    from (
      select j.id, coalesce(q.status, 'failed') as status, q.error_message
      from public.beacon_jobs as j
      left join public.jobs as q on q.id = j.queue_job_id
      where j.finished_at is null
        and j.queue_job_id is not null
        and (q.id is null or q.finished_at is not null)
      order by j.id
      limit 200
      for update of j skip locked
    ) as o
  );
end;
$$;
comment on function public.beacon_reconcile is
  'End jobs whose job in the queue ended without storing a result: {ended}. For the worker.';
