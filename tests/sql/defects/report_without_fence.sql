-- A zombie's heartbeat renews its heir's lease, and its news are stored.
do $patch$
declare
  v_body text := pg_get_functiondef('queue.fenced'::regproc);
begin
  if position($old$l.job_id = i.job_id and l.fence = i.fence$old$ in v_body) = 0 then
    raise exception 'the defect does not apply any more';
  end if;
  execute replace(v_body, $old$l.job_id = i.job_id and l.fence = i.fence$old$, $new$l.job_id = i.job_id$new$);
end;
$patch$;
