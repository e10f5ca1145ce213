-- What another worker holds is counted all the same, before it has committed.
do $patch$
declare
  v_body text := pg_get_functiondef('queue.count_free'::regproc);
begin
  if position($old$case when s.held
        then queue.free_slots(s.scope, s.job_type, s.workspace_id, s.concurrency_key, p_most, p_now) else 0 end as free$old$ in v_body) = 0 then
    raise exception 'the defect does not apply any more';
  end if;
  v_body := replace(v_body, $old$case when s.held
        then queue.free_slots(s.scope, s.job_type, s.workspace_id, s.concurrency_key, p_most, p_now) else 0 end as free$old$, $new$queue.free_slots(s.scope, s.job_type, s.workspace_id, s.concurrency_key, p_most, p_now) as free$new$);
  execute v_body;
end;
$patch$;
