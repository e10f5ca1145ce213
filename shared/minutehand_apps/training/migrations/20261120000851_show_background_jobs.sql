-- Two views: the app's jobs with their results, and its pending jobs.
-- Chunks and clean-ups are pieces of a job and do not appear.

create view public.background_jobs with (security_invoker = true) as
select j.id, j.user_id, j.workspace_id as company_id, t.training_id, j.job_type,
  case j.status when 'waiting' then 'processing' else j.status end as status,
  case j.status when 'completed' then 100
    else coalesce(round((j.progress ->> 'percentage')::numeric), 0) end::integer as progress_percentage,
  coalesce(j.progress ->> 'message', j.progress ->> 'stage') as progress_message,
  j.payload as input_data, j.result as output_data,
  case when j.error_message is not null or j.error_data is not null
    then jsonb_build_object('message', j.error_message) || coalesce(j.error_data, '{}') end as error_data,
  greatest(j.attempts - 1, 0) as retry_count, j.max_attempts - 1 as max_retries, j.priority, j.created_at,
  coalesce(t.started_at, j.started_at) as started_at, j.finished_at as completed_at, j.updated_at,
  j.progress ->> 'stage' as stage, j.session_id, j.next_retry_at, j.cancel_requested_at
from public.training_jobs as t
join public.jobs as j on j.id = t.job_id;
comment on view public.background_jobs is
  E'The jobs of trainings: transcription, sop_generation and mux_upload.\n\nShows what the caller may see of jobs. '
  'The service role may delete ended ones; their chunks and log lines go with them.';
comment on column public.background_jobs.id is 'The job.';
comment on column public.background_jobs.user_id is 'Who started it; null for the service.';
comment on column public.background_jobs.company_id is 'The workspace it belongs to.';
comment on column public.background_jobs.training_id is 'The training it works on.';
comment on column public.background_jobs.job_type is 'transcription, sop_generation or mux_upload.';
comment on column public.background_jobs.status is
  'pending, processing (also while it waits for its chunks), completed, failed or cancelled.';
comment on column public.background_jobs.progress_percentage is 'Percent done, 0 to 100.';
comment on column public.background_jobs.progress_message is
  'What it is doing, as a sentence; null before it reported.';
comment on column public.background_jobs.input_data is 'Its payload.';
comment on column public.background_jobs.output_data is 'Its result; null unless completed.';
comment on column public.background_jobs.error_data is
  '{message, code, stage, …} of the last failed attempt; null when none failed.';
comment on column public.background_jobs.retry_count is 'Attempts after the first.';
comment on column public.background_jobs.max_retries is 'Attempts after the first before it is failed.';
comment on column public.background_jobs.priority is 'Smaller runs first inside a workspace.';
comment on column public.background_jobs.created_at is 'When it was enqueued, UTC.';
comment on column public.background_jobs.started_at is 'Its first start, UTC; null before it. A retry keeps it.';
comment on column public.background_jobs.completed_at is 'When it completed, failed or was cancelled, UTC; null while live.';
comment on column public.background_jobs.updated_at is 'Last change, UTC.';
comment on column public.background_jobs.stage is 'What it is doing, as a word; null before it reported.';
comment on column public.background_jobs.session_id is 'training:<id>, for clients that follow a training.';
comment on column public.background_jobs.next_retry_at is
  'Earliest start of the next attempt, UTC; null when none is planned.';
comment on column public.background_jobs.cancel_requested_at is 'When it was asked to stop while it ran, UTC.';

create view public.job_queue with (security_invoker = true) as
select j.id as job_id, j.job_type, j.priority, j.created_at, j.workspace_id as company_id, t.training_id, j.user_id,
  coalesce(j.next_retry_at, j.scheduled_for, j.created_at) as due_at, j.attempts, j.max_attempts
from public.training_jobs as t
join public.jobs as j on j.id = t.job_id
where t.job_id = any (array(select queue.live_ids())) and j.status = 'pending';
comment on view public.job_queue is
  E'The pending jobs of trainings.\n\nOrder by priority, created_at for the order of leasing inside a workspace. '
  'Shows what the caller may see of jobs.';
comment on column public.job_queue.job_id is 'The job.';
comment on column public.job_queue.job_type is 'transcription, sop_generation or mux_upload.';
comment on column public.job_queue.priority is 'Smaller runs first.';
comment on column public.job_queue.created_at is 'When it was enqueued, UTC.';
comment on column public.job_queue.company_id is 'The workspace it belongs to.';
comment on column public.job_queue.training_id is 'The training it works on.';
comment on column public.job_queue.user_id is 'Who started it; null for the service.';
comment on column public.job_queue.due_at is 'Earliest start, UTC; later than now for a retry.';
comment on column public.job_queue.attempts is 'Attempts begun.';
comment on column public.job_queue.max_attempts is 'After so many it is failed.';

create function training.delete_background_job() returns trigger
language plpgsql
set search_path = ''
as $$
begin
  if old.completed_at is null then
    -- not queue.refuse, on which the caller holds no right
    raise exception using errcode = 'PT409', hint = 'invalid_state', detail = old.id::text,
      message = 'only an ended job is deleted; cancel it first';
  end if;
  delete from public.jobs where parent_id = old.id and finished_at is not null;
  delete from public.jobs where id = old.id and finished_at is not null;
  return case when found then old end;
end;
$$;
comment on function training.delete_background_job is
  'Delete an ended job with its chunks; 409 for a live one. Runs with the caller''s rights.';
create trigger background_jobs_delete instead of delete on public.background_jobs
for each row execute function training.delete_background_job();

select queue.show_to_members('public.background_jobs', 'public.job_queue');
grant delete on public.background_jobs to service_role;
revoke execute on function training.delete_background_job from public, anon, authenticated, service_role;
