-- This file has the functions that the worker calls for leased jobs and executions. The worker
-- calls the providers and signs the receipts. public.beacon_finish decides whether enough regions
-- have succeeded.

create function public.beacon_start(p_request jsonb)
returns jsonb
language plpgsql
security definer -- the worker has no rights on the app's tables
set search_path = ''
as $$
declare
  v_held public.jobs := queue.held_job(
    p_request,
    array['beacon_job'],
    'nothing was started'
  );
  v_job public.beacon_jobs;
begin
  perform queue.refuse_revoked();
  update public.beacon_jobs
  set
    status = 'processing',
    started_at = coalesce(started_at, queue.clock())
  where queue_job_id = v_held.id and finished_at is null;
  select * into v_job
  from public.beacon_jobs
  where id = (v_held.payload ->> 'job_id')::uuid and queue_job_id = v_held.id;
  return jsonb_build_object(
    'job', case when v_job.id is not null then to_jsonb(v_job) end,
    'executions', (
      select coalesce(jsonb_agg(to_jsonb(e) - 'receipt' order by e.id), '[]')
      from public.beacon_executions as e
      where e.job_id = v_job.id
    )
  );
end;
$$;
comment on function public.beacon_start is
  'Start the job of a leased beacon_job {job_id, fence}: {job, executions}. job is null if it was '
  'deleted. For the worker.';

create function public.beacon_repeat(p_request jsonb)
returns jsonb
language plpgsql
security definer -- the worker has no rights on the app's tables
set search_path = ''
as $$
declare
  v_held public.jobs := queue.held_job(
    p_request,
    array['beacon_repeat'],
    'nothing was submitted'
  );
  v_job public.beacon_jobs;
begin
  perform queue.refuse_revoked();
  select * into v_job
  from public.beacon_jobs
  where id::text = v_held.payload ->> 'job_id' and workspace_id = v_held.workspace_id;
  if not found then
    return '{"id": null}';
  end if;
  return beacon.submit(
    -- set the same version in each attempt of the job, so that only one attempt submits the spec
    v_job.spec || jsonb_build_object('version', format(
      '%s@%s',
      left(v_job.version, 40),
      to_char(v_held.created_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS')
    )),
    v_job.workspace_id,
    v_held.user_id -- the person whose schedule enqueued the job pays for the new one
  );
end;
$$;
comment on function public.beacon_repeat is
  'Submit a job again, with the time in its version, for a leased beacon_repeat {job_id, fence}: '
  'as beacon_submit. id is null if the job was deleted. For the worker.';

create function public.beacon_start_execution(p_request jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_held public.jobs := queue.held_job(
    p_request,
    array['beacon_execution'],
    'nothing was started'
  );
  v_execution public.beacon_executions;
begin
  perform queue.refuse_revoked();
  update public.beacon_executions
  set
    status = 'processing',
    queue_job_id = v_held.id,
    started_at = coalesce(started_at, queue.clock())
  where id = (v_held.payload ->> 'execution_id')::uuid and completed_at is null;
  select e.* into v_execution
  from public.beacon_executions as e
  join public.beacon_jobs as j
    on j.id = e.job_id and j.queue_job_id = v_held.parent_id
  where e.id = (v_held.payload ->> 'execution_id')::uuid;
  return jsonb_build_object(
    'execution', case
      when v_execution.id is not null then to_jsonb(v_execution)
    end,
    'job', (
      select to_jsonb(j)
      from public.beacon_jobs as j
      where j.id = v_execution.job_id
    )
  );
end;
$$;
comment on function public.beacon_start_execution is
  'Start the execution of a leased beacon_execution {job_id, fence}: {execution, job}, null if '
  'they were deleted. For the worker.';

create function public.beacon_issue(p_request jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
set lock_timeout = '8s'
as $$
declare
  v_held public.jobs := queue.held_job(
    p_request,
    array['beacon_execution'],
    'no receipt was stored'
  );
  v_execution public.beacon_executions;
begin
  perform queue.refuse_revoked();
  -- Lock the row of beacon_jobs before the rows of its executions, as all functions of the app do.
  perform 1
  from public.beacon_jobs
  where queue_job_id = v_held.parent_id
  for share;
  select * into v_execution
  from public.beacon_executions
  where id = (v_held.payload ->> 'execution_id')::uuid
  for update;
  if v_execution.receipt is null then
    if v_execution.id is null or v_execution.completed_at is not null then
      perform queue.refuse(
        409,
        'invalid_state',
        'the job ended without this execution',
        v_execution.status
      );
    end if;
    update public.beacon_executions
    set
      status = 'completed',
      receipt = p_request -> 'receipt',
      error = null,
      completed_at = queue.clock()
    where id = v_execution.id
    returning * into v_execution;
  end if;
  return jsonb_build_object('receipt', v_execution.receipt);
end;
$$;
comment on function public.beacon_issue is
  'Store the signed receipt of a leased execution {job_id, fence, receipt} once: {receipt}, as '
  'stored. For the worker.';

create function public.beacon_finish(p_request jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_held public.jobs := queue.held_job(
    p_request,
    array['beacon_job'],
    'nothing was finished'
  );
  v_job public.beacon_jobs;
  v_reasons text;
begin
  perform queue.refuse_revoked();
  select * into v_job
  from public.beacon_jobs
  where queue_job_id = v_held.id
  for update;
  if v_job.finished_at is null then
    -- Close each execution whose child job in the queue ended without storing a result.
    update public.beacon_executions as e
    set
      status = case q.status when 'cancelled' then 'cancelled' else 'failed' end,
      completed_at = queue.clock(),
      error = case
        when q.status <> 'cancelled'
          then coalesce(q.error_message, 'the execution did not complete')
      end
    from public.jobs as q
    where e.job_id = v_job.id
      and e.completed_at is null
      and q.parent_id = v_held.id
      and q.payload ->> 'execution_id' = e.id::text
      and q.finished_at is not null;
    v_job.reached := beacon.reached(v_job.id);
    v_job.status := 'completed';
    if cardinality(v_job.reached)
      < (v_job.spec #>> '{constraints,min_regions}')::numeric then
      select string_agg(format('%s: %s', f.region, f.error), '; ')
      into v_reasons
      from (
        select region, left(error, 300) as error
        from public.beacon_executions
        where job_id = v_job.id and error is not null
        order by id
        limit 10
      ) as f;
      v_job.status := 'failed';
      v_job.error := left(
        format(
          'reached %s of %s regions, and needs %s%s',
          cardinality(v_job.reached),
          jsonb_array_length(v_job.spec #> '{constraints,regions}'),
          v_job.spec #>> '{constraints,min_regions}',
          ': ' || v_reasons
        ),
        4000
      );
    end if;
    if p_request -> 'closing' is not null then
      perform beacon.end_job(v_job.id, v_job.status, v_job.error);
      update public.beacon_jobs
      set closing = p_request -> 'closing'
      where id = v_job.id;
    end if;
  end if;
  return jsonb_build_object(
    'status', v_job.status,
    'reached', v_job.reached,
    'error', v_job.error,
    'receipts', (
      select count(*)
      from public.beacon_executions
      where job_id = v_job.id and receipt is not null
    ),
    'executions', (
      select count(*)
      from public.beacon_executions
      where job_id = v_job.id
    )
  );
end;
$$;
comment on function public.beacon_finish is
  'Outcome of a leased beacon_job {job_id, fence, closing}: {status, reached, error, receipts, '
  'executions}. With closing, the signed closing receipt, the job ends. For the worker.';

create function public.beacon_key(p_made jsonb default null)
returns jsonb
language plpgsql
security definer -- no role may read the sealed key directly
set search_path = ''
as $$
begin
  perform queue.refuse_revoked();
  if p_made is not null then -- another worker may have stored its key first
    insert into beacon.signing_key (kid, x, sealed)
    values (p_made ->> 'kid', p_made ->> 'x', p_made ->> 'sealed')
    on conflict (id) do nothing;
  end if;
  return (select to_jsonb(k) from beacon.signing_key as k);
end;
$$;
comment on function public.beacon_key is
  'The sealed key that signs receipts, or null. p_made is stored if there is no key. For the '
  'worker.';

create function public.beacon_keys()
returns jsonb
language sql stable
set search_path = ''
as $$
select jsonb_build_object(
  'keys', coalesce(
    jsonb_agg(jsonb_build_object(
      'kty', 'OKP',
      'crv', 'Ed25519',
      'x', x,
      'kid', kid,
      'use', 'sig'
    )),
    '[]'
  )
)
from beacon.signing_key
$$;
comment on function public.beacon_keys is
  'The public key that verifies receipts, as a JWK set (RFC 7517). Public.';

create function public.beacon_health()
returns jsonb
language plpgsql stable
security definer -- probes have no rights on the app's tables
set search_path = ''
as $$
begin
  perform queue.refuse_revoked();
  return (
    select jsonb_build_object(
      'depth', count(*),
      'oldest_seconds', extract(epoch from queue.clock() - min(o.created_at)),
      'dead', (
        select count(*)
        from (
          select 1
          from public.beacon_outbox
          where status = 'dead'
          limit 10000
        ) as d
      )
    )
    from (
      select created_at
      from public.beacon_outbox
      where status = 'pending'
      order by next_attempt_at
      limit 10000
    ) as o
  );
end;
$$;
comment on function public.beacon_health is
  'Depth and oldest age of the outbox, and its dead letters, counted up to 10,000: {depth, '
  'oldest_seconds, dead}.';

grant usage on schema beacon to anon, authenticated, service_role;

-- Grants. Callers may execute only the functions that are named below.
revoke execute
  on all functions in schema beacon
  from public, anon, authenticated, service_role;
select queue.allow_guests('beacon.shared');
select queue.allow(
  'authenticated, service_role',
  'public.beacon_submit',
  'public.beacon_cancel',
  'public.beacon_share',
  'public.beacon_redrive'
);
select queue.allow(
  'job_worker, service_role',
  'public.beacon_publish',
  'public.beacon_reconcile',
  'public.beacon_start',
  'public.beacon_repeat',
  'public.beacon_start_execution',
  'public.beacon_issue',
  'public.beacon_finish',
  'public.beacon_key',
  'public.beacon_health'
);
select queue.allow('anon, authenticated, service_role', 'public.beacon_keys');
