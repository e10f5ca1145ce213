-- Running jobs as a list: no index of jobs may mention their status (leases would not be heap-only
-- any more), so this list starts from the leases, whose number is bounded by concurrency.

create function queue.running_ids() returns setof uuid
language sql stable rows 100
security definer -- members hold no rights on the engine's tables
set search_path = '' as $$
  select job_id from queue.leases
  where workspace_id in (select queue.my_workspaces()) or auth.uid() is null and queue.is_service()
$$;
comment on function queue.running_ids is 'Jobs of the caller''s workspaces that a worker holds right now; all for '
  'the service.';

create function queue.live_ids() returns setof uuid
language sql stable rows 1000
security definer -- members hold no rights on the engine's tables
set search_path = '' as $$
  select job_id from queue.live_jobs
  where workspace_id in (select queue.my_workspaces()) or auth.uid() is null and queue.is_service()
$$;
comment on function queue.live_ids is 'Jobs of the caller''s workspaces that have not ended; all for the service.';

create view public.running_jobs with (security_invoker = on) as
select jobs.*
from public.jobs as jobs
where jobs.id = any (array(select queue.running_ids())) and jobs.status = 'processing';
comment on view public.running_jobs is E'Jobs a worker holds right now, as in jobs.\n\n'
  'Reads as many rows as there are running jobs, where jobs with status processing reads every newer live job too.';

do $$
declare
  v_column record;
begin
  for v_column in
    select attname, col_description(attrelid, attnum) as comment
    from pg_catalog.pg_attribute where attrelid = 'public.jobs'::regclass and attnum > 0 and not attisdropped
  loop
    execute format('comment on column public.running_jobs.%I is %L', v_column.attname, v_column.comment);
  end loop;
end;
$$;

select queue.show_to_members('public.running_jobs');
