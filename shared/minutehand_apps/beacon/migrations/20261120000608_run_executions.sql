-- What a running job and its executions read and report, as the holders of their leases.
-- The worker asks the providers; whether enough regions succeeded is decided here.

create function public.beacon_start(p_request jsonb) returns jsonb
language plpgsql
security definer -- the worker holds no rights on the app's tables
set search_path = ''
as $$
declare
  v_held public.jobs := queue.held_job(p_request, array['beacon_job'], 'nothing was started');
  v_job public.beacon_jobs;
begin
  update public.beacon_jobs set status = 'processing', started_at = coalesce(started_at, queue.clock())
  where id = (v_held.payload ->> 'job_id')::uuid and queue_job_id = v_held.id and finished_at is null;
  select * into v_job from public.beacon_jobs
  where id = (v_held.payload ->> 'job_id')::uuid and queue_job_id = v_held.id;
  return jsonb_build_object('job', case when v_job.id is not null then to_jsonb(v_job) end,
    'executions', (select coalesce(jsonb_agg(to_jsonb(e) - 'output' order by e.id), '[]')
      from public.beacon_executions as e where e.job_id = v_job.id));
end;
$$;
comment on function public.beacon_start is
E'Start the job of a leased beacon_job {job_id, fence}: {job, executions}; for the worker.\n\njob is null when it '
'is gone, or another job of the queue runs it.';

create function public.beacon_finish(p_request jsonb) returns jsonb
language plpgsql
security definer -- the worker holds no rights on the app's tables
set search_path = ''
as $$
declare
  v_held public.jobs := queue.held_job(p_request, array['beacon_job'], 'nothing was finished');
  v_now timestamptz := date_trunc('milliseconds', queue.clock());
  v_job public.beacon_jobs;
  v_regions text[];
  v_closed jsonb;
begin
  select * into v_job from public.beacon_jobs
  where id = (v_held.payload ->> 'job_id')::uuid and queue_job_id = v_held.id for update;
  v_regions := array(select jsonb_array_elements_text(v_job.spec #> '{constraints,regions}'));
  if v_job.finished_at is null then
    -- children that ended without their processor
    update public.beacon_executions as e
    set status = case q.status when 'cancelled' then 'cancelled' else 'failed' end, completed_at = v_now,
      error = case when q.status <> 'cancelled' then coalesce(q.error_message, 'it did not complete') end
    from public.jobs as q
    where e.job_id = v_job.id and e.completed_at is null and q.parent_id = v_held.id
      and q.payload ->> 'execution_id' = e.id::text and q.finished_at is not null;
    v_job := beacon.judged(v_job, v_regions, coalesce((p_request #>> '{receipt,completed_at}')::timestamptz, v_now));
    v_closed := beacon.close_job(v_job, p_request -> 'receipt', v_now);
    if not (v_closed ->> 'issued')::boolean then
      return v_closed; -- the job ends together with its closing receipt, or not yet
    end if;
    perform beacon.end_job(v_job.id, v_job.status, v_job.error, v_job.finished_at);
  end if;
  return jsonb_build_object('issued', true, 'status', v_job.status, 'reached', v_job.reached, 'error', v_job.error,
    'missing', array(select r from unnest(v_regions) as r where r <> all (v_job.reached)));
end;
$$;
comment on function public.beacon_finish is
E'End the job of a leased beacon_job {job_id, fence, receipt?} whose children have ended: {issued, status, reached, '
'missing, error}, or {issued: false, stated, head, key} to be signed first; for the worker.\n\ncompleted when at '
'least min_regions regions completed for every model, else failed with what was reached.';

create function beacon.judged(p_job public.beacon_jobs, p_regions text[], p_at timestamptz) returns public.beacon_jobs
language plpgsql
set search_path = ''
as $$
declare
  v_reasons text;
begin
  update public.beacon_executions set status = 'failed', completed_at = p_at,
    error = coalesce(error, 'the job ended before it')
  where job_id = p_job.id and completed_at is null;
  p_job.finished_at := p_at;
  p_job.reached := beacon.reached(p_job.id);
  p_job.status := 'completed';
  if cardinality(p_job.reached) < (p_job.spec #>> '{constraints,min_regions}')::numeric then
    select string_agg(format('%s: %s', f.region, f.error), '; ') into v_reasons from (
      select distinct on (e.region) e.region, left(e.error, 300) as error from public.beacon_executions as e
      where e.job_id = p_job.id and e.error is not null order by e.region, e.id limit 10) as f;
    p_job.status := 'failed';
    p_job.error := left(format('reached %s of %s regions, min_regions is %s%s', cardinality(p_job.reached),
      cardinality(p_regions), p_job.spec #>> '{constraints,min_regions}', ': ' || v_reasons), 4000);
  end if;
  return p_job;
end;
$$;
comment on function beacon.judged is
'The job as it ends when all its executions have: by what was reached. Only executions are written.';

create function beacon.held_execution(p_request jsonb, out held public.jobs, out execution public.beacon_executions)
language plpgsql
set search_path = ''
as $$
begin
  held := queue.held_job(p_request, array['beacon_execution'], 'nothing was stored');
  select e.* into execution from public.beacon_executions as e
  join public.beacon_jobs as j on j.id = e.job_id and j.queue_job_id = held.parent_id
  where e.id = (held.payload ->> 'execution_id')::uuid and e.workspace_id = held.workspace_id;
end;
$$;
comment on function beacon.held_execution is
'Lock and return the leased job and its execution, null when it is gone; lease_lost for callers that do not hold the lease.';

create function public.beacon_start_execution(p_request jsonb) returns jsonb
language plpgsql
security definer -- the worker holds no rights on the app's tables
set search_path = ''
as $$
declare
  v_of record;
  v_job public.beacon_jobs;
begin
  v_of := beacon.held_execution(p_request);
  if (v_of.execution).id is null then
    return jsonb_build_object('execution', null);
  end if;
  update public.beacon_executions
  set status = 'processing', queue_job_id = (v_of.held).id, started_at = coalesce(started_at, queue.clock())
  where id = (v_of.execution).id and completed_at is null;
  select * into v_job from public.beacon_jobs where id = (v_of.execution).job_id;
  return jsonb_build_object('job', to_jsonb(v_job),
    'execution', (select to_jsonb(e) - 'output' from public.beacon_executions as e where e.id = (v_of.execution).id),
    'over', case when v_job.finished_at is not null then format('the job is already %s', v_job.status)
      when (v_of.execution).status in ('failed', 'cancelled')
        then format('it is already %s', (v_of.execution).status) end,
    'receipt', (select x.receipt from public.beacon_receipts as x where x.execution_id = (v_of.execution).id),
    'key', queue.current_key('beacon'), 'head', queue.chain_end('beacon', v_job.workspace_id), 'now', queue.clock(),
    'health', (select coalesce(jsonb_agg(to_jsonb(p)), '[]') from beacon.provider_health as p
      where p.region = (v_of.execution).region));
end;
$$;
comment on function public.beacon_start_execution is
E'Start the execution of a leased beacon_execution {job_id, fence}; for the worker.\n\n{execution, job, over, '
'receipt, key, head, now, health}: execution is null when it is gone; over says why it is not to run; receipt is what '
'an earlier attempt issued.';

create function public.beacon_note_execution(p_request jsonb) returns jsonb
language plpgsql
security definer -- the worker holds no rights on the app's tables
set search_path = ''
as $$
declare
  v_of record;
begin
  v_of := beacon.held_execution(p_request);
  update public.beacon_executions set provider = p_request ->> 'provider', provider_task = p_request ->> 'task'
  where id = (v_of.execution).id and status <> 'completed'; -- one cancelled meanwhile must be stopped at its provider
  return jsonb_build_object('noted', found);
end;
$$;
comment on function public.beacon_note_execution is
'Note which provider works on a leased execution {job_id, fence, provider, task}, for the run after a wait; for '
'the worker.';

create function public.beacon_cancel_stragglers(p_request jsonb) returns jsonb
language plpgsql
security definer -- the worker holds no rights on the app's tables
set search_path = ''
as $$
declare
  v_id uuid := (p_request ->> 'job_id')::uuid;
  v_parent uuid;
  v_ids uuid[];
begin
  -- the caller's own row stays unlocked: two that do this at once would wait for each other
  select j.parent_id into v_parent from public.jobs as j join queue.leases as l on l.job_id = j.id
  where j.id = v_id and j.job_type = 'beacon_execution' and l.fence = queue.big_whole_in(p_request, 'fence');
  if not found then
    perform queue.refuse_lost(v_id, 'nothing was cancelled');
  end if;
  v_ids := array(select c.id from public.jobs as c
    where c.parent_id = v_parent and c.id <> v_id and c.finished_at is null order by c.id);
  return jsonb_build_object('cancelled',
    case when cardinality(v_ids) > 0 then queue.cancel(v_ids, queue.clock()) else 0 end);
end;
$$;
comment on function public.beacon_cancel_stragglers is
E'Cancel the other executions of a leased beacon_execution''s job {job_id, fence}: {cancelled}; for the '
'worker.\n\nCalled once enough regions completed, where the spec says so.';

create function public.beacon_take_abandoned() returns jsonb
language plpgsql
security definer -- the worker holds no rights on the app's tables
set search_path = ''
as $$
declare
  v_tasks jsonb;
begin
  with abandoned as (
    select e.id, e.provider, e.provider_task from public.beacon_executions as e
    where e.provider_task is not null and e.completed_at is not null order by e.id limit 20 for update skip locked),
  taken as (
    update public.beacon_executions as e set provider_task = null
    from abandoned as a where e.id = a.id returning a.provider, a.provider_task)
  select jsonb_agg(to_jsonb(taken)) into v_tasks from taken;
  return jsonb_build_object('tasks', coalesce(v_tasks, '[]'));
end;
$$;
comment on function public.beacon_take_abandoned is
E'Take up to 20 tasks that providers still work on though their executions have ended: {tasks: [{provider, '
  'provider_task}]}; for the worker.\n\nEach is returned once, since cancelling is best effort.';

create function public.beacon_report_providers(p_reports jsonb) returns jsonb
language plpgsql
security definer -- the worker holds no rights on the app's tables
set search_path = ''
as $$
declare
  v_now timestamptz := queue.clock();
begin
  insert into beacon.provider_health as h (provider, region, failures, error)
  select r.provider, r.region, case when r.ok then 0 else 1 end, case when not r.ok then left(r.error, 500) end
  from jsonb_to_recordset(p_reports) as r (provider text, region text, ok boolean, error text)
  order by r.provider, r.region
  on conflict (provider, region) do update set
    failures = case when excluded.failures = 0 then 0 else least(h.failures + 1, 1000000) end,
    -- three in a row: others first, for 2, 4, 8 ... seconds, a minute at most; then one may try
    open_until = case when excluded.failures = 0 then null
      when h.failures + 1 >= 3 then v_now + make_interval(secs => least(60, 2 ^ least(h.failures - 1, 6))) end,
    error = coalesce(excluded.error, h.error);
  return jsonb_build_object('noted', jsonb_array_length(p_reports));
end;
$$;
comment on function public.beacon_report_providers is
E'Note how calls of providers ended, [{provider, region, ok, error}], each pair once; for the worker.\n\nThree '
'failures in a row make other providers preferred for a while.';

create function public.beacon_health() returns jsonb
language plpgsql stable
security definer -- probes hold no rights on the app's tables
set search_path = ''
as $$
declare
  v_now timestamptz := queue.clock();
begin
  return jsonb_build_object(
    'outbox', (
      select jsonb_build_object('depth', count(*), 'oldest_seconds', extract(epoch from v_now - min(o.created_at)))
      from (select created_at from public.beacon_outbox
        where status = 'pending' order by next_attempt_at limit 10000) as o),
    'dead', (select count(*) from (select 1 from public.beacon_outbox where status = 'dead' limit 10000) as d),
    'providers', (
      select coalesce(jsonb_agg(jsonb_build_object('provider', p.provider, 'region', p.region,
        'open', coalesce(p.open_until > v_now, false)) order by p.region, p.provider), '[]')
      from beacon.provider_health as p));
end;
$$;
comment on function public.beacon_health is
E'Depth and oldest age of the outbox, its dead letters, which providers are avoided where.\n\nFor probes; counts stop at 10,000.';
