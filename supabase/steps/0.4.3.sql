-- The condition is shorter, and the function compares the rest.
create or replace trigger jobs_cancel_by_update
  before update of status, priority, ord, queue, job_type, workspace_id,
    next_retry_at, scheduled_for, deadline_at, start_by_at, concurrency_key on public.jobs
  for each row
  when (new.fence = old.fence and new.last_seq = old.last_seq)
  execute function queue.cancel_by_update();
