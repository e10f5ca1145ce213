-- 0.4.1 after the release before it; written by `python -m infra.release` from schemas.
-- Do not edit it, and do not read it: read the schemas.

create or replace function public.beacon_finish(p_request jsonb)
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
    -- children that ended without their processor
    update public.beacon_executions as e
    set
      status = case q.status when 'cancelled' then 'cancelled' else 'failed' end,
      completed_at = queue.clock(),
      error = case
        when q.status <> 'cancelled'
          then coalesce(q.error_message, 'it did not complete')
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
  'What a leased beacon_job {job_id, fence} came to: {status, reached, error, receipts, '
  'executions}; with its signed '
  'closing receipt, the job ends as this; for the worker.';

select queue.allow('job_worker, service_role', 'public.beacon_finish');
