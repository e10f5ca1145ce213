-- An ended job continues holding its unique key.
do $patch$
declare
  v_body text := pg_get_functiondef('queue.after_end'::regproc);
begin
  if position($old$delete from queue.unique_jobs where job_id = any (p_ids);$old$ in v_body) = 0 then
    raise exception 'the defect does not apply any more';
  end if;
  execute replace(v_body, $old$delete from queue.unique_jobs where job_id = any (p_ids);$old$, $new$$new$);
end;
$patch$;
