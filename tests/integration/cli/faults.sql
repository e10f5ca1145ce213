-- What is planted: check | verdict | a word of the detail | of the fix; the way back below it.
-- migrations | fail | not applied | migration
update supabase_migrations.schema_migrations set version = 'planted' || version
where version = (select min(version) from supabase_migrations.schema_migrations);
-- back: update supabase_migrations.schema_migrations set version = replace(version, 'planted', '');
-- publication | warn | job_logs | alter publication
alter publication supabase_realtime drop table public.job_logs;
-- back: alter publication supabase_realtime add table public.job_logs;
-- extensions | fail | no one can follow a job live | attach_extensions()
drop policy "minutehand: members and guests follow" on realtime.messages;
-- back: select public.attach_extensions();
-- extensions | fail | may not use the schema of theirs.f | grant usage on schema theirs
create schema theirs;
create function theirs.f() returns int language plpgsql as
  'begin perform queue.refuse_revoked(); return 1; end';
grant execute on function theirs.f to job_worker;
-- back: drop schema theirs cascade;
-- queue | warn | none of them serves enrich_acount. Due jobs: 1 | minutehand types
insert into queue.unpublished (job_type, workspace_id, job_id)
values ('enrich_acount', gen_random_uuid(), gen_random_uuid());
-- back: delete from queue.unpublished;
-- queue | warn | it is referenced | retried
update queue.tasks set failures = 9, failure = 'it is referenced', retry_at = 'infinity'
where name = 'retention';
-- back: update queue.tasks set failures = 0, retry_at = null;
-- queue | warn | +00. on fire | minutehand resume --type chat_message
insert into queue.pauses (kind, name, job_type, reason)
values ('job_type', 'chat_message', 'chat_message', 'on fire');
-- back: delete from queue.pauses;
-- project | fail | own shows every tenant's rows | alter table own enable row level security
create table public.own (id int, workspace_id uuid);
grant select on public.own to authenticated;
-- back: drop table public.own;
-- project | warn | authenticated may hold a connection for 3600s | statement_timeout = '8s'
alter role authenticated set statement_timeout = '3600s';
-- back: alter role authenticated set statement_timeout = '8s';
-- engine | fail | undone: grant execute on function public.lease_jobs | (jsonb) to job_worker
revoke execute on function public.lease_jobs from job_worker;
-- back: grant execute on function public.lease_jobs to job_worker;
-- queue | warn | chat_message was rejected. no such day | minutehand types chat_message
update queue.job_types set refusal = 'no such day' where job_type = 'chat_message';
-- back: update queue.job_types set refusal = null;
-- enqueue | fail | not on Fridays; your trigger own | alter table jobs disable trigger own
create function public.own() returns trigger language plpgsql as
  $$ begin raise exception 'not on Fridays'; end $$;
create trigger own before insert on public.jobs for each row execute function public.own();
-- back: drop function public.own cascade;
-- enqueue | fail | your trigger own | alter table jobs disable trigger own
create function public.own() returns trigger language plpgsql as
  $$ begin return null; end $$;
create trigger own before insert on public.jobs for each row execute function public.own();
-- back: drop function public.own cascade;
-- project | fail | workspaces shows every tenant's rows | alter table workspaces enable
alter table public.workspaces disable row level security;
-- back: alter table public.workspaces enable row level security;
