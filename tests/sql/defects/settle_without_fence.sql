-- Anyone who knows the job's id may settle it.
do $patch$
declare
  v_name text;
  v_body text;
begin
  foreach v_name in array array['queue.settle_items'] loop
    v_body := pg_get_functiondef(v_name::regproc);
    if position($old$l.job_id = i.job_id and l.fence = i.fence$old$ in v_body) = 0 then
      raise exception 'the defect does not apply any more';
    end if;
    execute replace(v_body, $old$l.job_id = i.job_id and l.fence = i.fence$old$, $new$l.job_id = i.job_id$new$);
  end loop;
end;
$patch$;
