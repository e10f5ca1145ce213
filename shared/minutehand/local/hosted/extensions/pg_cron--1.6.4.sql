-- The tables and signatures of pg_cron, https://github.com/citusdata/pg_cron
-- Schedules are recorded and not run: no background worker runs here.

create schema cron;
create sequence cron.jobid_seq;
create sequence cron.runid_seq;
create table cron.job (
  jobid bigint primary key default nextval('cron.jobid_seq'), schedule text not null, command text not null,
  nodename text not null default 'localhost', nodeport integer not null default inet_server_port(),
  database text not null default current_database(), username text not null default current_user,
  active boolean not null default true, jobname text, constraint jobname_username_uniq unique (jobname, username));
alter table cron.job enable row level security;
create policy cron_job_policy on cron.job using (username = current_user);
create table cron.job_run_details (
  jobid bigint, runid bigint primary key default nextval('cron.runid_seq'), job_pid integer, database text,
  username text, command text, status text, return_message text, start_time timestamptz, end_time timestamptz);
alter table cron.job_run_details enable row level security;
create policy cron_job_run_details_policy on cron.job_run_details using (username = current_user);

create function cron.schedule_in_database(
  job_name text, schedule text, command text, database text, username text default null, active boolean default true
) returns bigint
language plpgsql
as $$
#variable_conflict use_column
declare
  v_id bigint;
begin
  if $2 !~* '^\s*(@(reboot|yearly|annually|monthly|weekly|daily|midnight|hourly)|[1-5]?\d seconds?|(\S+\s+){4}\S+)\s*$'
  then
    raise exception 'invalid schedule: %', $2 using errcode = '22023',
      hint = 'Use cron format (e.g. 5 4 * * *), or interval format ''[1-59] seconds''';
  end if;
  insert into cron.job (jobname, schedule, command, database, username, active)
  values ($1, $2, $3, $4, coalesce($5, current_user), $6)
  on conflict (jobname, username) do update
    set schedule = excluded.schedule, command = excluded.command, database = excluded.database, active = excluded.active
  returning jobid into v_id;
  return v_id;
end;
$$;
create function cron.schedule(schedule text, command text) returns bigint
language sql as $$ select cron.schedule_in_database(null, schedule, command, current_database()) $$;
create function cron.schedule(job_name text, schedule text, command text) returns bigint
language sql as $$ select cron.schedule_in_database(job_name, schedule, command, current_database()) $$;
create function cron.alter_job(
  job_id bigint, schedule text default null, command text default null, database text default null,
  username text default null, active boolean default null
) returns void
language sql
as $$
  update cron.job as j set schedule = coalesce($2, j.schedule), command = coalesce($3, j.command),
    database = coalesce($4, j.database), username = coalesce($5, j.username), active = coalesce($6, j.active)
  where j.jobid = $1
$$;
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
