-- Two workspaces and their members, for the local stack. Auth creates the users with the ids of
-- these members.
insert into public.workspaces (id, name) values
  ('11111111-1111-4111-8111-111111111111', 'Acme'),
  ('22222222-2222-4222-8222-222222222222', 'Globex')
on conflict (id) do nothing;

insert into public.workspace_members (workspace_id, user_id, role) values
  ('11111111-1111-4111-8111-111111111111', 'aaaaaaaa-0000-4000-8000-000000000001', 'manager'),
  ('11111111-1111-4111-8111-111111111111', 'aaaaaaaa-0000-4000-8000-000000000002', 'member'),
  ('22222222-2222-4222-8222-222222222222', 'aaaaaaaa-0000-4000-8000-000000000003', 'manager')
on conflict (user_id, workspace_id) do nothing;

-- Allow anonymous guests on the local stack only. The query recognizes the local stack by its
-- migrations, which are named hosted/…. On every other database, for example a Supabase branch with seeds, the operator sets
-- allow_anonymous.
update queue.settings set value = 'true', updated_at = queue.clock()
where name = 'allow_anonymous' and exists (
  select from supabase_migrations.seed_files where path like 'hosted/%');
