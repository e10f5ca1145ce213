-- The count of a key's running jobs is lost.
do $patch$
declare
  v_body text := pg_get_functiondef('queue.free_slots'::regproc);
begin
  if position($old$and workspace_id = p_workspace_id and concurrency_key = p_key$old$ in v_body) = 0 then
    raise exception 'the defect does not apply any more';
  end if;
  v_body := replace(v_body, $old$and workspace_id = p_workspace_id and concurrency_key = p_key$old$, $new$and workspace_id = p_workspace_id and concurrency_key = p_key || ' '$new$);
  execute v_body;
end;
$patch$;
