-- Who belongs where, for policies and functions: asked of queue.tenants and queue.tenant_members.
-- Those two views are the tenancy; the file after this one makes them. Bodies here are read when they run.

create function queue.is_operator() returns boolean
language plpgsql stable set search_path = '' as $$
begin
  return coalesce(auth.jwt() #>> '{app_metadata,minutehand_operator}', '') = 'true';
end;
$$;
comment on function queue.is_operator is 'Whether the caller is staff, who see every tenant: app_metadata.minutehand_operator is true in their token.';

create function queue.my_workspaces() returns setof uuid
language plpgsql stable
security definer -- reads membership for policies without being subject to them
set search_path = '' as $$
begin
  return query select m.workspace_id from queue.tenant_members as m where m.user_id = (select auth.uid())
    union select t.id from queue.tenants as t where queue.is_operator();
end;
$$;
comment on function queue.my_workspaces is E'Workspaces of the caller, all of them for staff, for policies.\n\nUse as "workspace_id in (select queue.my_workspaces())", so that it runs once a query.';

create function queue.my_managed_workspaces() returns setof uuid
language plpgsql stable
security definer -- reads membership for policies without being subject to them
set search_path = '' as $$
begin
  return query select m.workspace_id from queue.tenant_members as m
    where m.user_id = (select auth.uid()) and m.role = 'manager';
end;
$$;
comment on function queue.my_managed_workspaces is 'Workspaces the caller manages, for policies.';

create function queue.is_member(p_workspace_id uuid) returns boolean
language plpgsql stable
security definer -- reads membership without being subject to policies
set search_path = '' as $$
begin
  return exists (
    select from queue.tenant_members as m
    where m.user_id = (select auth.uid()) and m.workspace_id = p_workspace_id)
    or queue.is_operator() and exists (select from queue.tenants as t where t.id = p_workspace_id);
end;
$$;
comment on function queue.is_member is 'Whether the caller belongs to the workspace, or is staff.';

create function queue.is_manager(p_workspace_id uuid) returns boolean
language plpgsql stable
security definer -- reads membership without being subject to policies
set search_path = '' as $$
begin
  return exists (
    select from queue.tenant_members as m
    where m.user_id = (select auth.uid()) and m.workspace_id = p_workspace_id and m.role = 'manager');
end;
$$;
comment on function queue.is_manager is 'Whether the caller manages the workspace.';

create function queue.is_service() returns boolean
language plpgsql stable set search_path = '' as $$
declare
  v_claims constant text := coalesce(current_setting('request.jwt.claims', true), '');
begin
  if v_claims = '' then
    return true;
  end if;
  return coalesce(v_claims::jsonb ->> 'role', '') in ('service_role', 'job_worker');
end;
$$;
comment on function queue.is_service is E'Whether the caller is the service itself: the service role, the worker, or plain SQL outside the Data API.\n\nOnly for functions whose execute grant already keeps browsers'' roles apart by name.';

create function queue.is_service_role() returns boolean
language plpgsql stable set search_path = '' as $$
begin
  return coalesce(auth.jwt() ->> 'role', '') = 'service_role';
end;
$$;
comment on function queue.is_service_role is 'Whether the service role calls, by name: for functions that browsers call too, whose calls may come without any claims.';

create function queue.is_worker() returns boolean
language plpgsql stable set search_path = '' as $$
begin
  return coalesce((nullif(current_setting('request.jwt.claims', true), '')::jsonb) ->> 'role', '') = 'job_worker';
end;
$$;
comment on function queue.is_worker is 'Whether the caller holds a worker''s key and not the operator''s.';

create function queue.workspace_or_refuse(p_workspace_id uuid) returns uuid
language plpgsql stable
security definer -- reads names of workspaces without being subject to policies
set search_path = '' as $$
declare
  v_mine jsonb;
begin
  if p_workspace_id is not null then
    if not (queue.is_member(p_workspace_id)
        or queue.is_service_role() and exists (select from queue.tenants where id = p_workspace_id)) then
      perform queue.refuse_workspace(p_workspace_id);
    end if;
    return p_workspace_id;
  end if;
  select jsonb_agg(jsonb_build_object('id', t.id, 'name', t.name) order by t.name, t.id) into v_mine
  from queue.tenants as t where t.id in (select queue.my_workspaces());
  if v_mine is null then
    perform queue.refuse_workspace(null);
  elsif jsonb_array_length(v_mine) > 1 then
    -- never one of them: what a person writes would be stored where someone else decided
    perform queue.refuse(400, 'workspace_needed', format('workspace_id must name one of your workspaces: %s',
      (select string_agg(left(w ->> 'name', 60) || ' (' || (w ->> 'id') || ')', ', ') from (
        select value as w from jsonb_array_elements(v_mine) limit 20) as named)), v_mine::text);
  end if;
  return (v_mine #>> '{0,id}')::uuid;
end;
$$;
comment on function queue.workspace_or_refuse is E'The workspace a caller acts in: the one named, which must be theirs, else their only one.\n\nThe one place for a workspace that is not named: with several it refuses with 400 workspace_needed and their list [{id, name}], and never chooses; without any, with 404.';

create function public.own_workspace(p_workspace_id uuid default null) returns jsonb
language sql stable
security definer -- callers hold no rights on the engine's functions
set search_path = ''
as $$ select jsonb_build_object('workspace_id', queue.workspace_or_refuse(p_workspace_id)) $$;
comment on function public.own_workspace is E'The workspace that a call without one means: {workspace_id}, the one named, which must be the caller''s, or their only one.\n\n404 workspace_not_found; 400 workspace_needed with the list [{id, name}] when there are several.';
select queue.allow('authenticated, service_role', 'public.own_workspace');

create function queue.visible_tenants() returns table (id uuid, name text)
language plpgsql stable
security definer -- an application's own tables may be closed to the caller
set search_path = '' as $$
begin
  return query select t.id, t.name::text from queue.tenants as t
    where queue.is_service() or t.id in (select queue.my_workspaces());
end;
$$;
comment on function queue.visible_tenants is E'The caller''s tenants; all of them for the service role.\n\nFor the view workspaces of an install whose tenants are an application''s own.';

create function queue.visible_members() returns table (workspace_id uuid, user_id uuid, role text)
language plpgsql stable
security definer -- an application's own tables may be closed to the caller
set search_path = '' as $$
begin
  return query select m.workspace_id, m.user_id, m.role from queue.tenant_members as m
    where queue.is_service() or m.workspace_id in (select queue.my_workspaces());
end;
$$;
comment on function queue.visible_members is E'The members of the caller''s tenants; of all tenants for the service role.\n\nFor the view workspace_members of an install whose tenants are an application''s own.';

create function queue.tenant_deleted() returns trigger
language plpgsql
security definer -- callers who may delete a tenant hold no rights on jobs
set search_path = '' as $$
declare
  v_id uuid := (to_jsonb(old) ->> tg_argv[0])::uuid;
begin
  if tg_when = 'BEFORE' then
    perform queue.lock_running(v_id);
    return old;
  end if;
  perform queue.forget_workspace(v_id);
  return null;
end;
$$;
comment on function queue.tenant_deleted is E'Trigger: delete a deleted tenant''s jobs. Its argument names the column that holds the id.\n\nBefore the deletion it locks those that run, since a deletion cascades to what applications keep of a job first, and a worker locks the job first.';
