-- Tables and signatures of pg_cron, https://github.com/citusdata/pg_cron. The local stack stores
-- schedules but never runs them, because it has no background worker.

create schema cron;
create sequence cron.jobid_seq;
create sequence cron.runid_seq;
create table cron.job (
  jobid bigint primary key default nextval('cron.jobid_seq'), schedule text not null,
    command text not null,
  nodename text not null default 'localhost', nodeport integer not null default inet_server_port(),
  database text not null default current_database(), username text not null default current_user,
  active boolean not null default true, jobname text,
    constraint jobname_username_uniq unique (jobname, username));
alter table cron.job enable row level security;
create policy cron_job_policy on cron.job using (username = current_user);
create table cron.job_run_details (
  jobid bigint, runid bigint primary key default nextval('cron.runid_seq'), job_pid integer,
    database text,
  username text, command text, status text, return_message text, start_time timestamptz,
    end_time timestamptz);
alter table cron.job_run_details enable row level security;
create policy cron_job_run_details_policy on cron.job_run_details using (username = current_user);

create function cron.schedule(job_name text, schedule text, command text) returns bigint
language sql
as $$
  insert into cron.job (jobname, schedule, command) values (job_name, schedule, command)
  on conflict (jobname, username) do update set schedule = excluded.schedule,
    command = excluded.command, active = true
  returning jobid
$$;
create function cron.schedule(schedule text, command text) returns bigint
language sql as $$ select cron.schedule(null, schedule, command) $$;
create function cron.unschedule(job_id bigint) returns boolean
language plpgsql
as $$
begin
  delete from cron.job where jobid = job_id;
  if not found then
    raise exception 'could not find valid entry for job ''%''', job_id;
  end if;
  return true;
end;
$$;
create function cron.unschedule(job_name text) returns boolean
language plpgsql
as $$
begin
  delete from cron.job where jobname = job_name and username = current_user;
  if not found then
    raise exception 'could not find valid entry for job ''%''', job_name;
  end if;
  return true;
end;
$$;

grant usage on schema cron to postgres with grant option;
grant all on all tables in schema cron to postgres with grant option;
grant all on all sequences in schema cron to postgres with grant option;
