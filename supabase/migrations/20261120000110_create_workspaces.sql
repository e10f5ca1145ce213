-- Tenants and their members. A job belongs to one workspace; membership decides who sees it.

create table public.workspaces (
  id uuid primary key default gen_random_uuid(),
  name text not null,
  created_at timestamptz not null default now(),
  constraint workspaces_name_has_text check (char_length(name) between 1 and 200)
);
comment on table public.workspaces is 'A tenant: people who share jobs and data.';
comment on column public.workspaces.id is 'Identity of the workspace.';
comment on column public.workspaces.name is 'Name people see, 1 to 200 characters.';
comment on column public.workspaces.created_at is 'When it was created.';

create table public.workspace_members (
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  user_id uuid not null,
  role text not null default 'member',
  created_at timestamptz not null default now(),
  primary key (user_id, workspace_id),
  constraint workspace_members_role_is_known check (role in ('manager', 'member'))
);
create index workspace_members_by_workspace on public.workspace_members (workspace_id);
comment on table public.workspace_members is 'Who belongs to which workspace, and as what.';
comment on column public.workspace_members.workspace_id is 'The workspace.';
comment on column public.workspace_members.user_id is 'The Supabase Auth user.';
comment on column public.workspace_members.role is 'manager: may also change settings and pause work; member: may create, read and cancel jobs.';
comment on column public.workspace_members.created_at is 'When the person joined.';

alter table public.workspaces enable row level security;
alter table public.workspace_members enable row level security;

create function queue.my_workspaces() returns setof uuid
language sql stable
security definer -- reads membership for policies without being subject to them
set search_path = ''
as $$
  select workspace_id from public.workspace_members where user_id = (select auth.uid())
$$;
comment on function queue.my_workspaces is E'Workspaces of the caller, for policies.\n\nUse as "workspace_id in (select queue.my_workspaces())", so that it runs once a query.';

create function queue.my_managed_workspaces() returns setof uuid
language sql stable
security definer -- reads membership for policies without being subject to them
set search_path = ''
as $$
  select workspace_id from public.workspace_members
  where user_id = (select auth.uid()) and role = 'manager'
$$;
comment on function queue.my_managed_workspaces is 'Workspaces the caller manages, for policies.';

create function queue.is_member(p_workspace_id uuid) returns boolean
language sql stable
security definer -- reads membership without being subject to policies
set search_path = ''
as $$
  select exists (
    select 1 from public.workspace_members
    where user_id = (select auth.uid()) and workspace_id = p_workspace_id)
$$;
comment on function queue.is_member is 'Whether the caller belongs to the workspace.';

create function queue.is_manager(p_workspace_id uuid) returns boolean
language sql stable
security definer -- reads membership without being subject to policies
set search_path = ''
as $$
  select exists (
    select 1 from public.workspace_members
    where user_id = (select auth.uid()) and workspace_id = p_workspace_id and role = 'manager')
$$;
comment on function queue.is_manager is 'Whether the caller manages the workspace.';

create function queue.is_service() returns boolean
language sql stable
set search_path = ''
as $$
  select coalesce(current_setting('request.jwt.claims', true), '') = ''
    or coalesce((nullif(current_setting('request.jwt.claims', true), '')::jsonb) ->> 'role', '')
       in ('service_role', 'job_worker')
$$;
comment on function queue.is_service is E'Whether the caller is the service itself: the service role, the worker, or plain SQL outside the Data API.\n\nOnly for functions whose execute grant already keeps browsers'' roles apart by name.';

create policy "members read their workspaces" on public.workspaces
  for select to authenticated using (id in (select queue.my_workspaces()));
create policy "members see who shares their workspaces" on public.workspace_members
  for select to authenticated using (workspace_id in (select queue.my_workspaces()));

revoke all on public.workspaces, public.workspace_members from public, anon, authenticated;
grant select on public.workspaces, public.workspace_members to authenticated;
grant select, insert, update, delete on public.workspaces, public.workspace_members to service_role;
