-- A single enqueue forgets the key when it looks for the partition.
do $patch$
declare
  v_body text := pg_get_functiondef('queue.admit_one'::regproc);
begin
  if position($old$p_job.job_type, p_job.concurrency_key, p_job.priority)$old$ in v_body) = 0 then
    raise exception 'the defect does not apply any more';
  end if;
  v_body := replace(v_body, $old$p_job.job_type, p_job.concurrency_key, p_job.priority)$old$, $new$p_job.job_type, null, p_job.priority)$new$);
  execute v_body;
end;
$patch$;
