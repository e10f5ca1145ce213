-- Tenants and their members: a job belongs to one workspace, and membership decides who sees it.
-- A project with tenants of its own edits queue.is_member and queue.is_manager, and the two views that list.

create table public.workspaces (
  id uuid primary key default gen_random_uuid(),
  name text not null,
  created_at timestamptz not null default now(),
  constraint workspaces_name_has_text check (char_length(name) between 1 and 200)
);
comment on table public.workspaces is 'A tenant: people who share jobs and data.';

create table public.workspace_members (
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  user_id uuid not null,
  role text not null default 'member',
  created_at timestamptz not null default now(),
  primary key (user_id, workspace_id),
  constraint workspace_members_role_is_known check (role in ('manager', 'member'))
);
create index workspace_members_by_workspace on public.workspace_members (workspace_id);
comment on table public.workspace_members is
  'Who belongs to which workspace, and as what: managers also change settings, pause work and manage members.';

create view queue.tenants as
select id, name from public.workspaces;
create view queue.tenant_members as
select workspace_id, user_id, role from public.workspace_members;

-- Staff, who see every tenant and belong to none.
create function queue.is_operator() returns boolean
language plpgsql stable as $$
begin
  return coalesce((auth.jwt() #>> '{app_metadata,minutehand_operator}')::boolean, false);
end;
$$;

-- Workspaces of the caller, for policies. Use as "workspace_id in (select queue.my_workspaces())": once a query.
create function queue.my_workspaces() returns setof uuid
language plpgsql stable security definer set search_path = '' as $$
begin
  if queue.is_operator() then
    return query select t.id from queue.tenants as t;
  else
    return query select m.workspace_id from queue.tenant_members as m where m.user_id = (select auth.uid());
  end if;
end;
$$;

create function queue.is_member(p_workspace_id uuid) returns boolean
language plpgsql stable security definer set search_path = '' as $$
begin
  return exists (
      select from queue.tenant_members as m where m.user_id = (select auth.uid()) and m.workspace_id = p_workspace_id)
    or queue.is_operator() and exists (select from queue.tenants as t where t.id = p_workspace_id);
end;
$$;

create function queue.is_manager(p_workspace_id uuid) returns boolean
language plpgsql stable security definer set search_path = '' as $$
begin
  return exists (
    select from queue.tenant_members as m
    where m.user_id = (select auth.uid()) and m.workspace_id = p_workspace_id and m.role = 'manager');
end;
$$;

-- Whether the service itself calls: its role, the worker's, or plain SQL outside the Data API, and no person. Only for
-- functions whose execute grant already keeps the roles of browsers apart by name.
create function queue.is_service() returns boolean
language plpgsql stable as $$
begin
  return auth.uid() is null
    and (auth.jwt() is null or coalesce(auth.jwt() ->> 'role', '') in ('service_role', 'job_worker'));
end;
$$;

-- Refuse callers that do not belong to the workspace with 404, as one that is missing; returns the user who calls, null
-- for the service.
create function queue.may_read(p_workspace_id uuid) returns uuid
language plpgsql stable as $$
declare -- as auth.uid and queue.is_service read them, once
  v_claims constant jsonb := nullif(current_setting('request.jwt.claims', true), '')::jsonb;
  v_user constant uuid := (v_claims ->> 'sub')::uuid;
begin
  if v_user is null and (v_claims is null or v_claims ->> 'role' in ('service_role', 'job_worker')) then
    perform from queue.tenants as t where t.id = p_workspace_id;
    if found or p_workspace_id = queue.system_workspace() then
      return null;
    end if;
  elsif queue.is_member(p_workspace_id) then
    return v_user;
  end if;
  perform queue.refuse(404, 'workspace_not_found', 'no such workspace', p_workspace_id::text);
end;
$$;

-- The same of one who counts, where null means every workspace: for operators and the service alone.
create function queue.may_read_all(p_workspace_id uuid) returns void
language plpgsql stable as $$
begin
  perform queue.take_turn();
  if p_workspace_id is not null then
    perform queue.may_read(p_workspace_id);
  elsif not (queue.is_operator() or queue.is_service()) then
    perform queue.refuse(403, 'forbidden', 'only an operator sees every workspace', 'p_workspace_id');
  end if;
end;
$$;

-- Refuse outsiders with 404, and members who do not manage the workspace with 403.
create function queue.may_manage(p_workspace_id uuid) returns void
language plpgsql stable as $$
begin
  perform queue.may_read(p_workspace_id);
  if not (queue.is_manager(p_workspace_id) or queue.is_operator() or queue.is_service()) then
    perform queue.refuse(403, 'forbidden', 'only managers of the workspace may do this', p_workspace_id::text);
  end if;
end;
$$;

-- The workspace that a caller acts in: the one named, which must be theirs, else their only one. With several it never
-- chooses: what a person writes would be stored where someone else decided. The service is known by its name, not by
-- is_service: functions that guests call ask here too, without any claims.
create function public.own_workspace(p_workspace_id uuid default null) returns jsonb
language plpgsql stable security definer set search_path = '' as $$
declare
  v_mine constant jsonb := (
    select jsonb_agg(jsonb_build_object('id', t.id, 'name', t.name) order by t.name, t.id)
    from queue.tenants as t where t.id in (
      select m.workspace_id from queue.tenant_members as m
      where p_workspace_id is null and m.user_id = (select auth.uid())
      union all
      select p_workspace_id where queue.is_member(p_workspace_id) or auth.jwt() ->> 'role' = 'service_role'));
begin
  if v_mine is null then
    perform queue.refuse(404, 'workspace_not_found', 'no such workspace', p_workspace_id::text);
  elsif jsonb_array_length(v_mine) > 1 then
    perform queue.refuse(400, 'workspace_needed', 'workspace_id must name one of your workspaces', v_mine::text);
  end if;
  return jsonb_build_object('workspace_id', v_mine #> '{0,id}');
end;
$$;
comment on function public.own_workspace is 'The workspace that a call without one means: {workspace_id}.';

create function public.list_workspaces() returns jsonb
language sql stable security definer set search_path = '' as $$
  select jsonb_build_object('workspaces', coalesce(
    jsonb_agg(jsonb_build_object('id', t.id, 'name', t.name) order by t.name, t.id), '[]'))
  from queue.tenants as t where queue.is_service() or t.id in (select queue.my_workspaces())
$$;
comment on function public.list_workspaces is 'The caller''s workspaces: {workspaces: [{id, name}]}.';

-- A deleted tenant's jobs go with it. The argument names the column that holds the tenant's id.
create function queue.tenant_deleted() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  v_workspace constant uuid := to_jsonb(old) ->> tg_argv[0];
  v_table name;
begin
  perform from queue.leases where workspace_id = v_workspace order by job_id for update;
  delete from public.jobs where workspace_id = v_workspace;
  for v_table in
    select c.relname from pg_catalog.pg_class as c
    join pg_catalog.pg_attribute as a on a.attrelid = c.oid and a.attname = 'workspace_id'
    where c.relnamespace = 'queue'::regnamespace and c.relkind in ('r', 'p') and c.relname not in ('turns', 'notes')
    order by c.relname
  loop
    execute format('delete from queue.%1$I where ctid = any (array('
      'select o.ctid from queue.%1$I as o where o.workspace_id = $1 for update skip locked))', v_table)
    using v_workspace;
  end loop;
  return old;
end;
$$;
create trigger workspaces_before_delete before delete on public.workspaces
  for each row execute function queue.tenant_deleted('id');

select queue.show_to_members('public.workspace_members');
alter table public.workspaces enable row level security;
revoke all on public.workspaces from public, anon, authenticated, service_role;
create policy "members read their workspaces" on public.workspaces
  for select to authenticated using (id in (select queue.my_workspaces()));
create policy "managers manage members" on public.workspace_members
  for all to authenticated using (workspace_id in (select queue.my_workspaces()) and queue.is_manager(workspace_id))
  with check (queue.is_manager(workspace_id));

grant select on public.workspaces to authenticated;
grant insert (workspace_id, user_id, role), update (role), delete on public.workspace_members to authenticated;
grant select, insert, update, delete on public.workspaces, public.workspace_members to service_role;
select queue.allow('authenticated, service_role', 'public.own_workspace', 'public.list_workspaces');
