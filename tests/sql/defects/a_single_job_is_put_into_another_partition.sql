-- A single enqueue forgets the key when it looks for the partition.
do $patch$
declare
  v_body text := pg_get_functiondef('queue.admit_one'::regproc);
begin
  if position($old$p_job.concurrency_key,$old$ in v_body) = 0 then
    raise exception 'the defect does not apply any more';
  end if;
  v_body := replace(v_body, $old$p_job.concurrency_key,$old$, $new$null,$new$);
  execute v_body;
end;
$patch$;
