-- Own tables for workers by grants and row level security: a policy of theirs names the tenant of the job that the
-- worker holds, which each request says in its headers.

create function public.held_workspace() returns uuid
language plpgsql
security definer -- the worker holds no rights on the engine's tables
set search_path = ''
as $$
declare
  v_headers jsonb := nullif(current_setting('request.headers', true), '');
  v_id uuid := v_headers ->> 'x-job-id';
  v_fence bigint := (v_headers ->> 'x-job-fence')::numeric;
  v_workspace uuid;
begin
  if not current_setting('transaction_read_only')::boolean then
    -- no other worker gets the job before what this one writes is stored
    perform from public.jobs as j where j.id = v_id for update;
  end if;
  select l.workspace_id into v_workspace from queue.leases as l where l.job_id = v_id and l.fence = v_fence;
  if not found then
    perform queue.refuse_lost(v_id, 'its tables are closed');
  end if;
  return v_workspace;
end;
$$;
comment on function public.held_workspace is E'The workspace of the job that the worker holds, as the request''s headers x-job-id and x-job-fence say; 409 lease_lost when it does not.\n\nFor policies to job_worker on tables of your own: using (workspace_id = (select public.held_workspace())).';
select queue.allow('job_worker, service_role', 'public.held_workspace');
