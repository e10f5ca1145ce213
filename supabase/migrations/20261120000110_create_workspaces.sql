-- Tenants and their members: tables of ours. A job belongs to one workspace; membership decides who sees it.
-- The only file that an install replaces where the tenants are an application's own, or its users.

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

create view queue.tenants as
  select id, name from public.workspaces;
comment on view queue.tenants is 'Every tenant: id and the name people see.';

create view queue.tenant_members as
  select workspace_id, user_id, role from public.workspace_members;
comment on view queue.tenant_members is 'Who belongs to which tenant, and as what.';

create trigger workspaces_before_delete before delete on public.workspaces
  for each row execute function queue.tenant_deleted('id');
create trigger workspaces_after_delete after delete on public.workspaces
  for each row execute function queue.tenant_deleted('id');

create policy "members read their workspaces" on public.workspaces
  for select to authenticated using (id in (select queue.my_workspaces()));
create policy "members see who shares their workspaces" on public.workspace_members
  for select to authenticated using (workspace_id in (select queue.my_workspaces()));

revoke all on public.workspaces, public.workspace_members from public, anon, authenticated;
grant select on public.workspaces, public.workspace_members to authenticated;
grant select, insert, update, delete on public.workspaces, public.workspace_members to service_role;
