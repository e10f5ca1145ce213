-- A cancelled job still asks its question.
do $patch$
declare
  v_body text := pg_get_functiondef('queue.finish'::regproc);
begin
  if position($old$delete from queue.waits where job_id = any (p_ids);$old$ in v_body) = 0 then
    raise exception 'the defect does not apply any more';
  end if;
  execute replace(v_body, $old$delete from queue.waits where job_id = any (p_ids);$old$, $new$$new$);
end;
$patch$;
