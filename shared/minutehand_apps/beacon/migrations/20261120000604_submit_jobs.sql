-- What members do: submit a job spec, look at it, cancel it.
-- The job, its executions and its outbox row are one transaction; running it is the worker's.

create function beacon.job_answer(p_job public.beacon_jobs, p_created boolean, p_wake boolean) returns jsonb
language sql stable
set search_path = ''
as $$
  select jsonb_build_object('id', p_job.id, 'jobspec_id', p_job.jobspec_id, 'status', p_job.status,
    'workspace_id', p_job.workspace_id, 'created', p_created, 'wake', p_wake)
$$;
comment on function beacon.job_answer is 'The answer of beacon_submit.';

create function public.beacon_submit(p_spec jsonb, p_workspace_id uuid default null, p_priority numeric default 100)
returns jsonb
language plpgsql
security definer -- members hold no right to write jobs
set search_path = ''
as $$
declare
  v_workspace uuid := queue.workspace_or_refuse(p_workspace_id);
  v_problem text := beacon.spec_problem(p_spec);
  v_job public.beacon_jobs;
  v_outbox uuid := queue.new_id();
  v_models text[];
  v_ids uuid[];
begin
  if v_problem is not null then
    perform queue.refuse(422, 'jobspec_invalid', v_problem, 'jobspec');
  elsif octet_length(p_spec::text) > 262144 then
    perform queue.refuse(413, 'jobspec_too_large', 'a job spec must be at most 262144 bytes', 'jobspec');
  elsif p_priority is null or queue.whole(p_priority, 'p_priority') not between 0 and 1000 then
    perform queue.refuse(400, 'invalid_argument', 'priority must be from 0 to 1000', 'priority');
  end if;
  insert into public.beacon_jobs (workspace_id, jobspec_id, version, spec, priority, outbox_id, created_by)
  values (v_workspace, p_spec ->> 'jobspec_id', p_spec ->> 'version', p_spec, queue.whole(p_priority, 'p_priority'),
    v_outbox, auth.uid())
  on conflict (workspace_id, jobspec_id, version) do nothing
  returning * into v_job;
  if not found then
    select * into v_job from public.beacon_jobs
    where workspace_id = v_workspace and jobspec_id = p_spec ->> 'jobspec_id' and version = p_spec ->> 'version';
    if v_job.spec <> p_spec then
      perform queue.refuse(409, 'jobspec_conflict', format('version %s of this jobspec_id was submitted with '
        || 'another body; give the change a version of its own', v_job.version), v_job.id::text);
    end if;
    return beacon.job_answer(v_job, false, false);
  end if;
  v_models := beacon.model_ids(p_spec);
  v_ids := queue.new_ids(jsonb_array_length(p_spec #> '{constraints,regions}') * cardinality(v_models));
  insert into public.beacon_outbox (id, workspace_id, job_id, message)
  values (v_outbox, v_workspace, v_job.id,
    jsonb_build_object('version', 1, 'job_id', v_job.id, 'jobspec_id', v_job.jobspec_id));
  insert into public.beacon_executions (id, workspace_id, job_id, jobspec_id, region, model)
  select v_ids[row_number() over (order by r.place, m.place)], v_workspace, v_job.id, v_job.jobspec_id,
    r.region, m.model
  from jsonb_array_elements_text(p_spec #> '{constraints,regions}') with ordinality as r (region, place)
  cross join unnest(v_models) with ordinality as m (model, place);
  return beacon.job_answer(v_job, true, queue.wake_worker());
end;
$$;
comment on function public.beacon_submit is
E'Submit a job spec: {id, jobspec_id, status, workspace_id, created, wake}; for members.\n\nThe same jobspec_id and '
  'version again returns the first job, created false; with another body it is a conflict. Submissions are not '
  'limited by the quota of live jobs: they queue, and limits are on how many run; max_beacon_jobs limits the rows.';

create function public.beacon_cancel(p_id uuid) returns jsonb
language plpgsql
security definer -- members hold no right to write jobs
set search_path = ''
as $$
declare
  v_job public.beacon_jobs;
  v_now timestamptz := queue.clock();
begin
  select * into v_job from public.beacon_jobs where id = p_id;
  if not found or not (queue.is_member(v_job.workspace_id) or queue.is_service()) then
    perform queue.refuse_job(p_id);
  end if;
  -- locks in one order everywhere: outbox, queue, job, executions
  perform 1 from public.beacon_outbox where job_id = p_id for update;
  select * into v_job from public.beacon_jobs where id = p_id;
  if v_job.queue_job_id is not null then
    perform queue.cancel(array[v_job.queue_job_id], v_now);
  end if;
  select * into v_job from public.beacon_jobs where id = p_id for update;
  if v_job.status in ('completed', 'failed') then
    perform queue.refuse(409, 'invalid_state', format('the job is already %s', v_job.status), v_job.status);
  elsif v_job.status <> 'cancelled' then
    update public.beacon_outbox set status = 'cancelled' where job_id = p_id and status in ('pending', 'dead');
    perform beacon.end_job(p_id, 'cancelled', null, v_now);
    select * into v_job from public.beacon_jobs where id = p_id;
  end if;
  return beacon.job_answer(v_job, false, false);
end;
$$;
comment on function public.beacon_cancel is
E'Cancel a job and its executions; for members.\n\nCancelling twice is harmless; 409 when it has completed or '
'failed. Executions that are complete keep their receipts.';

create function beacon.end_job(p_id uuid, p_status text, p_error text, p_now timestamptz) returns void
language plpgsql
set search_path = ''
as $$
begin
  update public.beacon_executions
  set status = case when p_status = 'cancelled' then 'cancelled' else 'failed' end, completed_at = p_now,
    error = case when p_status <> 'cancelled' then coalesce(error, p_error, 'the job ended before it') end
  where job_id = p_id and status in ('pending', 'processing');
  update public.beacon_jobs as j
  set status = p_status, error = left(p_error, 4000), finished_at = p_now, reached = beacon.reached(p_id)
  where j.id = p_id and j.finished_at is null;
end;
$$;
comment on function beacon.end_job is 'End a live job and its live executions.';

create function beacon.reached(p_id uuid) returns text[]
language sql stable
set search_path = ''
as $$
  select coalesce(array_agg(x.region order by x.first), '{}')
  from (
    select e.region, min(e.id::text) as first from public.beacon_executions as e
    where e.job_id = p_id group by e.region having bool_and(e.status = 'completed')) as x
$$;
comment on function beacon.reached is 'The regions in which every model''s execution completed.';

create view public.beacon_execution_states with (security_invoker = true) as
select e.id, e.workspace_id, e.job_id, e.jobspec_id, e.region, e.model, e.provider, e.queue_job_id, e.output,
  case when e.status in ('completed', 'failed', 'cancelled') then e.status
    when q.status in ('failed', 'cancelled') then q.status else e.status end as status,
  coalesce(e.error, case when e.completed_at is null then q.error_message end) as error,
  x.id as receipt_id, x.number as receipt_number, e.created_at, e.started_at, e.completed_at
from public.beacon_executions as e
left join public.jobs as q on q.id = e.queue_job_id
left join public.beacon_receipts as x on x.execution_id = e.id;
comment on view public.beacon_execution_states is
'Executions with the present state of their jobs in the queue, and their receipts'' ids.';
comment on column public.beacon_execution_states.status is 'pending, processing, completed, failed or cancelled.';
comment on column public.beacon_execution_states.error is 'Why it failed, or why its last attempt did; null otherwise.';
comment on column public.beacon_execution_states.receipt_id is 'Its receipt; null while there is none.';
comment on column public.beacon_execution_states.receipt_number is
'The receipt''s place in the chain; null while there is none.';

create view public.beacon_job_states with (security_invoker = true) as
select j.id, j.workspace_id, j.jobspec_id, j.version, j.spec, j.priority,
  case when j.finished_at is not null then j.status
    when q.status in ('failed', 'cancelled') then q.status else j.status end as status,
  coalesce(j.error, case when j.finished_at is null and q.status = 'failed' then q.error_message end) as error,
  j.reached, j.queue_job_id, j.created_by, j.created_at, j.started_at, j.finished_at,
  o.status as outbox_status,
  (select jsonb_agg(to_jsonb(e) - 'output' - 'workspace_id' - 'jobspec_id' order by e.id)
    from public.beacon_execution_states as e where e.job_id = j.id) as executions
from public.beacon_jobs as j
join public.beacon_outbox as o on o.id = j.outbox_id
left join public.jobs as q on q.id = j.queue_job_id;
comment on view public.beacon_job_states is 'Jobs with their executions and their present state in the queue.';
comment on column public.beacon_job_states.status is 'created, queued, processing, completed, failed or cancelled.';
comment on column public.beacon_job_states.error is 'Why it failed; null otherwise.';
comment on column public.beacon_job_states.outbox_status is 'Its outbox row: pending, published, dead or cancelled.';
comment on column public.beacon_job_states.executions is
'Its executions without outputs, by region and model in the spec''s order.';

-- any other column is what the table's column of its name is
do $$
declare
  v_same record;
begin
  for v_same in
    select v.attrelid::regclass as view, v.attname, col_description(t.attrelid, t.attnum) as words
    from (values ('public.beacon_job_states'::regclass, 'public.beacon_jobs'::regclass),
      ('public.beacon_execution_states', 'public.beacon_executions')) as s (view, relation)
    join pg_catalog.pg_attribute as v on v.attrelid = s.view
    join pg_catalog.pg_attribute as t on t.attrelid = s.relation and t.attname = v.attname and t.attnum > 0
    where col_description(v.attrelid, v.attnum) is null
  loop
    execute format('comment on column %s.%I is %L', v_same.view, v_same.attname, v_same.words);
  end loop;
end;
$$;

select queue.show_to_members('public.beacon_job_states', 'public.beacon_execution_states');
