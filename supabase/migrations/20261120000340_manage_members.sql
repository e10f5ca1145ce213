-- Tenancy: workspaces. An install whose tenants are an application's own, or its users, leaves this file out.
-- Who makes workspaces, and who changes their members: managers write rows of workspace_members under these policies.

create function queue.keep_manager() returns trigger
language plpgsql
security definer -- callers see the members of their workspaces alone
set search_path = '' as $$
begin
  -- one at a time per workspace: two managers who remove each other at once would leave none;
  -- a workspace that goes itself takes its members along
  perform from public.workspaces where id = old.workspace_id for no key update;
  if found and old.role = 'manager' and not exists (
      select from public.workspace_members as m where m.workspace_id = old.workspace_id and m.role = 'manager') then
    perform queue.refuse(409, 'last_manager',
      'a workspace must keep one manager: make another person manager first', old.workspace_id::text);
  end if;
  return null;
end;
$$;
comment on function queue.keep_manager is 'Trigger: refuse a change that leaves a workspace without a manager.';

create trigger workspace_members_after_change after update or delete on public.workspace_members
  for each row execute function queue.keep_manager();

create policy "managers add members" on public.workspace_members
  for insert to authenticated with check (workspace_id in (select queue.my_managed_workspaces()));
create policy "managers change roles" on public.workspace_members
  for update to authenticated using (workspace_id in (select queue.my_managed_workspaces()));
create policy "managers remove members, and all may leave" on public.workspace_members
  for delete to authenticated using (
    workspace_id in (select queue.my_managed_workspaces()) or user_id = (select auth.uid()));
grant insert (workspace_id, user_id, role), update (role), delete on public.workspace_members to authenticated;

create function public.create_workspace(p_name text, p_manager text) returns jsonb
language plpgsql
security definer -- the operator's way in; execute is the service role's alone
set search_path = '' as $$
declare
  v_id uuid;
  v_manager uuid;
begin
  if char_length(btrim(coalesce(p_name, ''))) not between 1 and 200 then
    perform queue.refuse(400, 'invalid_argument', 'name must have 1 to 200 characters', 'name');
  end if;
  select u.id into v_manager from auth.users as u
  where u.id::text = p_manager or lower(u.email) = lower(btrim(p_manager)) and u.email_confirmed_at is not null
  order by u.id limit 1;
  if v_manager is null then
    perform queue.refuse(404, 'account_not_found',
      'manager must be the id or the confirmed mail address of an account', 'manager');
  end if;
  -- a command that is repeated after a timeout must not leave two
  perform pg_advisory_xact_lock(hashtextextended('minutehand create_workspace', 0));
  if exists (select from public.workspaces where name = btrim(p_name)) then
    perform queue.refuse(409, 'workspace_exists', format('there is a workspace %s already', btrim(p_name)), 'name');
  end if;
  insert into public.workspaces (name) values (btrim(p_name)) returning id into v_id;
  insert into public.workspace_members (workspace_id, user_id, role) values (v_id, v_manager, 'manager');
  return jsonb_build_object('id', v_id, 'name', btrim(p_name), 'manager', v_manager);
end;
$$;
comment on function public.create_workspace is E'Create a workspace with its first manager, an account by id or mail address: {id, name, manager}. For the operator.\n\n404 account_not_found; a name that is taken is refused with 409 workspace_exists.';

create function public.list_workspaces() returns jsonb
language sql stable
security definer -- the operator's view over all; a person sees their own
set search_path = '' as $$
  select jsonb_build_object('workspaces', coalesce(jsonb_agg(jsonb_build_object(
    'id', w.id, 'name', w.name, 'created_at', w.created_at,
    'members', (select count(*) from public.workspace_members as m where m.workspace_id = w.id),
    'managers', (select count(*) from public.workspace_members as m
      where m.workspace_id = w.id and m.role = 'manager'))
    order by w.name, w.id), '[]'))
  from public.workspaces as w
  where auth.uid() is null and queue.is_service() or w.id in (select queue.my_workspaces())
$$;
comment on function public.list_workspaces is 'Workspaces with how many belong to them: {workspaces: [{id, name, created_at, members, managers}]}; the operator''s all, a person''s own.';

select queue.allow('authenticated, service_role', 'public.list_workspaces');
select queue.allow('service_role', 'public.create_workspace');
