-- What is planted in a database for the loop of `test_doctor_loop`: one fault a paragraph.

-- row level security of jobs is off
alter table public.jobs disable row level security;

-- the worker may not lease
revoke execute on function public.lease_jobs from job_worker;

-- nor settle, report or release
revoke execute on function public.settle_jobs, public.report_jobs from job_worker;

-- people may not enqueue
revoke execute on function public.enqueue_job from authenticated;

-- nor read their jobs
revoke select on public.jobs, public.job_logs from authenticated;

-- strangers read jobs
grant select on public.jobs to anon;

-- strangers write logs
grant insert, update, delete on public.job_logs to anon;

-- everyone leases
grant execute on function public.lease_jobs to public;

-- the clients' schema is closed to people
revoke usage on schema public from authenticated;

-- the schema of the engine is open to people
grant usage on schema queue to authenticated;

-- and to everyone
grant usage, create on schema queue to public;

-- what is made in the engine's schema is open
alter default privileges for role postgres in schema queue grant select on tables to authenticated;

-- and functions there
alter default privileges for role postgres in schema queue grant execute on functions to anon;

-- a policy lets everyone read
do $$ declare p record; begin
  for p in select policyname as name from pg_policies
    where schemaname = 'public' and tablename = 'jobs' and cmd = 'SELECT' loop
    execute format('alter policy %I on public.jobs using (true)', p.name);
  end loop;
end $$;

-- a policy more
create policy all_of_them on public.jobs for select to authenticated using (true);

-- a policy less
do $$ begin
  execute (select format('drop policy %I on public.jobs', min(policyname)) from pg_policies
    where schemaname = 'public' and tablename = 'jobs');
end $$;

-- triggers are off
alter table public.jobs disable trigger user;

-- an index is gone
do $$ begin
  execute 'drop index ' || (select min(indexrelid::regclass::text) from pg_index
    where indrelid = 'public.jobs'::regclass and not indisunique);
end $$;

-- a function works with its caller's rights
alter function public.enqueue_job security invoker;

-- and finds names by its caller's path
alter function public.lease_jobs reset search_path;

-- a function belongs to someone else
set role none; alter function public.lease_jobs owner to service_role;

-- a table of the engine does
set role none; alter table queue.settings owner to service_role;

-- the worker passes row level security
alter role job_worker bypassrls;

-- and signs in by itself
alter role job_worker login;

-- the worker's role is not the Data API's to take
revoke job_worker from authenticator;

-- people may become the worker
grant job_worker to authenticated;

-- the worker has no time
alter role job_worker set statement_timeout = '1ms';

-- the worker may not write
alter role job_worker set default_transaction_read_only = on;

-- in this database
do $$ begin
  execute format('alter role job_worker in database %I set default_transaction_read_only = on',
    current_database());
end $$;

-- the worker reads a snapshot
alter role job_worker set default_transaction_isolation = 'repeatable read';

-- every session has little time
do $$ begin
  execute format('alter database %I set statement_timeout = ''5ms''', current_database());
end $$;

-- every session waits for no lock
do $$ begin
  execute format('alter database %I set lock_timeout = ''1ms''', current_database());
end $$;

-- no trigger of the service's runs
alter role service_role set session_replication_role = replica;

-- people's calls hold connections for an hour
alter role authenticated set statement_timeout = '3600s';

-- people have no time
alter role authenticated set statement_timeout = '2ms';

-- the Data API has no time
alter role authenticator set statement_timeout = '10';

-- people read without row level security's policies
alter role authenticated set row_security = off;

-- a table is not published
alter publication supabase_realtime drop table public.job_logs;

-- nothing is published
drop publication supabase_realtime;

-- Realtime's policies are gone
drop policy "minutehand: members and guests follow" on realtime.messages;

-- a function of the project's that a revoked key calls
create schema theirs; grant usage on schema theirs to job_worker;
create function theirs.f() returns int language sql as 'select 1';
grant execute on function theirs.f to job_worker;

-- one in a schema that the worker may not use
create schema other;
create function other.f() returns int language plpgsql as
  'begin perform queue.refuse_revoked(); return 1; end';
grant execute on function other.f to job_worker;

-- a table of the project's shows all tenants
create table public.own (id int, workspace_id uuid);
grant select on public.own to authenticated;

-- what wakes the worker is gone
insert into queue.settings (name, value) values ('worker_url', '"https://jobs.example.com"');

-- a type is paused
insert into queue.pauses (kind, name, job_type, reason)
values ('job_type', 'chat_message', 'chat_message', 'on fire');
