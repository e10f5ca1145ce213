-- Written by `python -m infra.release.apps` from schemas: do not edit it.

-- The beacon app stores job specs, their outbox, one execution per region, and signed receipts. In
-- this app, a job is a job spec that a user has submitted. A job of the queue runs the spec. The
-- engine does not depend on this app, so the app can be deleted.

create schema if not exists beacon;
revoke all on schema beacon from public;

create table public.beacon_jobs (
  id uuid primary key default queue.new_id(),
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  jobspec_id text not null, -- id from the spec's author, unique together with the version
  version text not null,
  spec jsonb not null,
  -- Status that the app itself stores. The view beacon_job_states adds the status of the job in the
  -- queue.
  status text not null default 'created',
  queue_job_id uuid, -- job of type beacon_job in the queue, null until the outbox row is published
  reached text[] not null default '{}', -- regions that answered, stored when the job ends
  error text,
  created_by uuid,
  created_at timestamptz not null default queue.clock(),
  started_at timestamptz,
  finished_at timestamptz,
  -- Signed receipt that is issued when the job ends. The receipt states how many other receipts the
  -- job has, so that a missing receipt is detected. The receipt is null until the job ends.
  closing jsonb,
  share_id uuid, -- random key of the public link, null without a link
  constraint beacon_jobs_one_share unique (share_id),
  constraint beacon_jobs_one_per_version unique (workspace_id, jobspec_id, version),
  constraint beacon_jobs_status_is_known
    check (status in ('created', 'processing', 'completed', 'failed', 'cancelled'))
);
comment on table public.beacon_jobs is
  'Submitted job specs. Every job has a row in the outbox.';

create table public.beacon_outbox (
  job_id uuid primary key references public.beacon_jobs (id) on delete cascade,
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  message jsonb not null, -- {version, job_id, jobspec_id}, as the schema job-message requires
  status text not null default 'pending',
  attempts integer not null default 0,
  next_attempt_at timestamptz not null default queue.clock(),
  error text, -- reason why the last attempt failed
  created_at timestamptz not null default queue.clock(),
  constraint beacon_outbox_status_is_known
    check (status in ('pending', 'published', 'dead', 'cancelled'))
);
comment on table public.beacon_outbox is
  'Messages about jobs that must reach the queue, inserted in the transaction of the job.';

-- The foreign key to the outbox is deferred, because the row of a job is inserted before the row of
-- its message.
alter table public.beacon_jobs
  add constraint beacon_jobs_have_an_outbox_row foreign key (id)
    references public.beacon_outbox (job_id) deferrable initially deferred;

create table public.beacon_executions (
  id uuid primary key default queue.new_id(),
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  job_id uuid not null references public.beacon_jobs (id) on delete cascade,
  jobspec_id text not null,
  region text not null,
  status text not null default 'pending',
  queue_job_id uuid, -- child job in the queue, null before it is created
  error text,
  -- the receipt in the form that was signed, which contains the provider, model and output
  receipt jsonb,
  created_at timestamptz not null default queue.clock(),
  started_at timestamptz,
  completed_at timestamptz,
  constraint beacon_executions_one_per_region unique (job_id, region),
  constraint beacon_executions_status_is_known
    check (status in ('pending', 'processing', 'completed', 'failed', 'cancelled')),
  constraint beacon_executions_complete_with_receipt
    check ((status = 'completed') = (receipt is not null))
);
comment on table public.beacon_executions is
  'Executions of a job, one per region, each with the answers and their signed receipt.';

create index beacon_jobs_newest on public.beacon_jobs (workspace_id, id desc);
create index beacon_jobs_live on public.beacon_jobs (created_at)
  where finished_at is null;
create index beacon_outbox_due on public.beacon_outbox (next_attempt_at, job_id)
  where status = 'pending';
create index beacon_outbox_by_workspace
  on public.beacon_outbox (workspace_id, job_id desc);
create index beacon_executions_newest
  on public.beacon_executions (workspace_id, id desc);

create table beacon.signing_key (
  id integer primary key default 1, -- always 1, because there is one key
  kid text not null, -- RFC 7638 thumbprint of the key
  x text not null, -- public key, base64url
  sealed text not null, -- private key, sealed for the workers
  created_at timestamptz not null default queue.clock(),
  constraint signing_key_one_row check (id = 1)
);
comment on table beacon.signing_key is
  'The key that signs receipts. The first worker that needs the key creates it.';

create view public.beacon_execution_states with (security_invoker = true) as
select
  e.id,
  e.workspace_id,
  e.job_id,
  e.jobspec_id,
  e.region,
  e.receipt ->> 'model' as model,
  e.receipt ->> 'provider' as provider,
  e.queue_job_id,
  e.receipt -> 'output' as output,
  case
    when e.completed_at is null and q.status in ('failed', 'cancelled')
      then q.status
    else e.status
  end as status,
  coalesce(
    e.error,
    case
      when e.completed_at is null then queue.user_message(q.error_message, q.error_data)
    end
  ) as error,
  e.receipt ->> 'id' as receipt_id,
  e.created_at,
  e.started_at,
  e.completed_at
from public.beacon_executions as e
left join public.jobs as q on q.id = e.queue_job_id;
comment on view public.beacon_execution_states is
  'Executions with the current state of their jobs in the queue.';

create view public.beacon_job_states with (security_invoker = true) as
select
  j.id,
  j.workspace_id,
  j.jobspec_id,
  j.version,
  j.spec,
  case
    when j.finished_at is not null then j.status
    when q.status in ('failed', 'cancelled') then q.status
    when j.started_at is not null then 'processing'
    -- Show the status `created` until the queue's job is due, and then `queued`.
    when q.id is null or q.scheduled_for > queue.clock() then 'created'
    else 'queued'
  end as status,
  coalesce(
    j.error,
    case
      when j.finished_at is null and q.status = 'failed'
        then queue.user_message(q.error_message, q.error_data)
    end
  ) as error,
  j.reached,
  j.queue_job_id,
  j.created_by,
  j.created_at,
  j.started_at,
  j.finished_at,
  o.status as outbox_status,
  (
    select jsonb_agg(to_jsonb(e) - 'output' order by e.id)
    from public.beacon_execution_states as e
    where e.job_id = j.id
  ) as executions,
  j.spec #>> '{benchmark,name}' as name,
  (j.spec #>> '{constraints,min_regions}')::numeric as min_regions,
  j.share_id,
  (
    select p.id
    from public.beacon_jobs as p
    where p.workspace_id = j.workspace_id
      and p.jobspec_id = j.jobspec_id
      and p.status = 'completed'
      and p.id < j.id
    order by p.id desc
    limit 1
  ) as previous_id -- the job with which the page compares the answers
from public.beacon_jobs as j
join public.beacon_outbox as o on o.job_id = j.id
left join public.jobs as q on q.id = j.queue_job_id;
comment on view public.beacon_job_states is
  'Jobs with their executions and their current state in the queue.';

alter table beacon.signing_key enable row level security;
revoke all on beacon.signing_key from public, anon, authenticated, service_role;
grant select (kid, x) on beacon.signing_key to anon, authenticated, service_role;
create policy public_half on beacon.signing_key for select using (true);
select queue.show_to_members('public.beacon_jobs');
select queue.show_to_members('public.beacon_outbox');
select queue.show_to_members('public.beacon_executions');
select queue.show_to_members('public.beacon_job_states');
select queue.show_to_members('public.beacon_execution_states');
select queue.charge_rows('public.beacon_jobs');

-- For the export and erasure of personal data, the comments below mark columns with the owner of a
-- row, and columns that may quote a person.
comment on column public.beacon_jobs.jobspec_id is 'Person: words';
comment on column public.beacon_jobs.version is 'Person: words';
comment on column public.beacon_jobs.spec is 'Person: words';
comment on column public.beacon_jobs.error is 'Person: words to clear';
comment on column public.beacon_jobs.created_by is 'Person: owner';
comment on column public.beacon_jobs.closing is 'Person: words';
comment on column public.beacon_outbox.message is 'Person: words';
comment on column public.beacon_outbox.error is 'Person: words to clear';
comment on column public.beacon_executions.jobspec_id is 'Person: words';
comment on column public.beacon_executions.error is 'Person: words to clear';
comment on column public.beacon_executions.receipt is 'Person: words';

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
