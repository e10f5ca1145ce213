-- The beacon app stores job specs, their outbox, one execution per region, and signed receipts. In
-- this app, a job is a job spec that a user has submitted. A job of the queue runs the spec. The
-- engine does not depend on this app, so the app can be deleted.

create schema if not exists beacon;
revoke all on schema beacon from public;

create table public.beacon_jobs (
  id uuid primary key default queue.new_id(),
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  jobspec_id text not null, -- id from the spec's author, unique together with the version
  version text not null,
  spec jsonb not null,
  -- Status that the app itself stores. The view beacon_job_states adds the status of the job in the
  -- queue.
  status text not null default 'created',
  queue_job_id uuid, -- job of type beacon_job in the queue, null until the outbox row is published
  reached text[] not null default '{}', -- regions that answered, stored when the job ends
  error text,
  created_by uuid,
  created_at timestamptz not null default queue.clock(),
  started_at timestamptz,
  finished_at timestamptz,
  -- Signed receipt that is issued when the job ends. The receipt states how many other receipts the
  -- job has, so that a missing receipt is detected. The receipt is null until the job ends.
  closing jsonb,
  share_id uuid, -- random key of the public link, null without a link
  constraint beacon_jobs_one_share unique (share_id),
  constraint beacon_jobs_one_per_version unique (workspace_id, jobspec_id, version),
  constraint beacon_jobs_status_is_known
    check (status in ('created', 'processing', 'completed', 'failed', 'cancelled'))
);
comment on table public.beacon_jobs is
  'Submitted job specs. Every job has a row in the outbox.';

create table public.beacon_outbox (
  job_id uuid primary key references public.beacon_jobs (id) on delete cascade,
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  message jsonb not null, -- {version, job_id, jobspec_id}, as the schema job-message requires
  status text not null default 'pending',
  attempts integer not null default 0,
  next_attempt_at timestamptz not null default queue.clock(),
  error text, -- reason why the last attempt failed
  created_at timestamptz not null default queue.clock(),
  constraint beacon_outbox_status_is_known
    check (status in ('pending', 'published', 'dead', 'cancelled'))
);
comment on table public.beacon_outbox is
  'Messages about jobs that must reach the queue, inserted in the transaction of the job.';

-- The foreign key to the outbox is deferred, because the row of a job is inserted before the row of
-- its message.
alter table public.beacon_jobs
  add constraint beacon_jobs_have_an_outbox_row foreign key (id)
    references public.beacon_outbox (job_id) deferrable initially deferred;

create table public.beacon_executions (
  id uuid primary key default queue.new_id(),
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  job_id uuid not null references public.beacon_jobs (id) on delete cascade,
  jobspec_id text not null,
  region text not null,
  status text not null default 'pending',
  queue_job_id uuid, -- child job in the queue, null before it is created
  error text,
  -- the receipt in the form that was signed, which contains the provider, model and output
  receipt jsonb,
  created_at timestamptz not null default queue.clock(),
  started_at timestamptz,
  completed_at timestamptz,
  constraint beacon_executions_one_per_region unique (job_id, region),
  constraint beacon_executions_status_is_known
    check (status in ('pending', 'processing', 'completed', 'failed', 'cancelled')),
  constraint beacon_executions_complete_with_receipt
    check ((status = 'completed') = (receipt is not null))
);
comment on table public.beacon_executions is
  'Executions of a job, one per region, each with the answers and their signed receipt.';

create index beacon_jobs_newest on public.beacon_jobs (workspace_id, id desc);
create index beacon_jobs_live on public.beacon_jobs (created_at)
  where finished_at is null;
create index beacon_outbox_due on public.beacon_outbox (next_attempt_at, job_id)
  where status = 'pending';
create index beacon_outbox_by_workspace
  on public.beacon_outbox (workspace_id, job_id desc);
create index beacon_executions_newest
  on public.beacon_executions (workspace_id, id desc);

create table beacon.signing_key (
  id integer primary key default 1, -- always 1, because there is one key
  kid text not null, -- RFC 7638 thumbprint of the key
  x text not null, -- public key, base64url
  sealed text not null, -- private key, sealed for the workers
  created_at timestamptz not null default queue.clock(),
  constraint signing_key_one_row check (id = 1)
);
comment on table beacon.signing_key is
  'The key that signs receipts. The first worker that needs the key creates it.';

create view public.beacon_execution_states with (security_invoker = true) as
select
  e.id,
  e.workspace_id,
  e.job_id,
  e.jobspec_id,
  e.region,
  e.receipt ->> 'model' as model,
  e.receipt ->> 'provider' as provider,
  e.queue_job_id,
  e.receipt -> 'output' as output,
  case
    when e.completed_at is null and q.status in ('failed', 'cancelled')
      then q.status
    else e.status
  end as status,
  coalesce(
    e.error,
    case
      when e.completed_at is null then queue.user_message(q.error_message, q.error_data)
    end
  ) as error,
  e.receipt ->> 'id' as receipt_id,
  e.created_at,
  e.started_at,
  e.completed_at
from public.beacon_executions as e
left join public.jobs as q on q.id = e.queue_job_id;
comment on view public.beacon_execution_states is
  'Executions with the current state of their jobs in the queue.';

create view public.beacon_job_states with (security_invoker = true) as
select
  j.id,
  j.workspace_id,
  j.jobspec_id,
  j.version,
  j.spec,
  case
    when j.finished_at is not null then j.status
    when q.status in ('failed', 'cancelled') then q.status
    when j.started_at is not null then 'processing'
    -- Show the status `created` until the queue's job is due, and then `queued`.
    when q.id is null or q.scheduled_for > queue.clock() then 'created'
    else 'queued'
  end as status,
  coalesce(
    j.error,
    case
      when j.finished_at is null and q.status = 'failed'
        then queue.user_message(q.error_message, q.error_data)
    end
  ) as error,
  j.reached,
  j.queue_job_id,
  j.created_by,
  j.created_at,
  j.started_at,
  j.finished_at,
  o.status as outbox_status,
  (
    select jsonb_agg(to_jsonb(e) - 'output' order by e.id)
    from public.beacon_execution_states as e
    where e.job_id = j.id
  ) as executions,
  j.spec #>> '{benchmark,name}' as name,
  (j.spec #>> '{constraints,min_regions}')::numeric as min_regions,
  j.share_id,
  (
    select p.id
    from public.beacon_jobs as p
    where p.workspace_id = j.workspace_id
      and p.jobspec_id = j.jobspec_id
      and p.status = 'completed'
      and p.id < j.id
    order by p.id desc
    limit 1
  ) as previous_id -- the job with which the page compares the answers
from public.beacon_jobs as j
join public.beacon_outbox as o on o.job_id = j.id
left join public.jobs as q on q.id = j.queue_job_id;
comment on view public.beacon_job_states is
  'Jobs with their executions and their current state in the queue.';

alter table beacon.signing_key enable row level security;
revoke all on beacon.signing_key from public, anon, authenticated, service_role;
grant select (kid, x) on beacon.signing_key to anon, authenticated, service_role;
create policy public_half on beacon.signing_key for select using (true);
select queue.show_to_members('public.beacon_jobs');
select queue.show_to_members('public.beacon_outbox');
select queue.show_to_members('public.beacon_executions');
select queue.show_to_members('public.beacon_job_states');
select queue.show_to_members('public.beacon_execution_states');
select queue.charge_rows('public.beacon_jobs');

-- For the export and erasure of personal data, the comments below mark columns with the owner of a
-- row, and columns that may quote a person.
comment on column public.beacon_jobs.jobspec_id is 'Person: words';
comment on column public.beacon_jobs.version is 'Person: words';
comment on column public.beacon_jobs.spec is 'Person: words';
comment on column public.beacon_jobs.error is 'Person: words to clear';
comment on column public.beacon_jobs.created_by is 'Person: owner';
comment on column public.beacon_jobs.closing is 'Person: words';
comment on column public.beacon_outbox.message is 'Person: words';
comment on column public.beacon_outbox.error is 'Person: words to clear';
comment on column public.beacon_executions.jobspec_id is 'Person: words';
comment on column public.beacon_executions.error is 'Person: words to clear';
comment on column public.beacon_executions.receipt is 'Person: words';
