-- What binds callers beside membership: a worker's key that somebody stole, a person in a loop.

create function queue.check_worker_items(p_workspace_id uuid, p_items jsonb) returns void
language plpgsql stable
set search_path = ''
as $$
declare
  v_bad text;
begin
  select t.job_type into v_bad from jsonb_array_elements(p_items) as i
  join queue.job_types as t on t.job_type = i.value ->> 'job_type' and t.internal limit 1;
  if found then
    perform queue.refuse(403, 'forbidden', format('a worker makes jobs of the type %s through its own functions alone', v_bad), 'job_type');
  end if;
  select i.value ->> 'user_id' into v_bad from jsonb_array_elements(p_items) as i
  where i.value ->> 'user_id' is not null and not exists (
    select 1 from queue.tenant_members as m
    where m.workspace_id = p_workspace_id and m.user_id = queue.uuid_or_refuse(i.value ->> 'user_id', 'user_id')) limit 1;
  if found then
    perform queue.refuse(403, 'forbidden', 'user_id must be a member of the workspace', 'user_id');
  end if;
end;
$$;
comment on function queue.check_worker_items is E'Refuse what a worker''s key may not enqueue: jobs of internal types, and jobs in the name of a stranger.\n\nChildren of a leased job are made by spawn_jobs, in the name of their parent''s user.';
