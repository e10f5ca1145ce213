-- Counts per hour: what ranges beyond a day are drawn from.

create table queue.stat_hours (
  workspace_id uuid not null, -- the tenant
  hour timestamptz not null, -- start of the hour, UTC
  job_type text not null, -- the type
  outcome text not null, -- how attempts ended, or enqueued, or redriven
  wait_bucket smallint not null, -- histogram bucket of the wait
  run_bucket smallint not null, -- histogram bucket of the run
  jobs bigint not null, -- how many
  primary key (workspace_id, hour, job_type, outcome, wait_bucket, run_bucket)
);
create index stat_hours_by_hour on queue.stat_hours (hour);
comment on table queue.stat_hours is 'The counts of stat_minutes per hour, kept for 31 days.';
