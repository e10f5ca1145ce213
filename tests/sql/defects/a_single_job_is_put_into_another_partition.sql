-- A single enqueue forgets the key when it looks for the partition.
do $patch$
declare
  v_body text := pg_get_functiondef('queue.enqueue_one'::regproc);
begin
  if position($old$v_job.workspace_id, v_job.queue, v_job.job_type, v_job.concurrency_key,$old$ in v_body) = 0 then
    raise exception 'the defect does not apply any more';
  end if;
  v_body := replace(v_body, $old$v_job.workspace_id, v_job.queue, v_job.job_type, v_job.concurrency_key,$old$, $new$v_job.workspace_id, v_job.queue, v_job.job_type, null,$new$);
  execute v_body;
end;
$patch$;
