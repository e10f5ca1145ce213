-- The statement that finds a lease's only job does not stop where limits begin.
do $patch$
declare
  v_body text := pg_get_functiondef('queue.lock_first'::regproc);
begin
  if position($old$and not c.is_bound and$old$ in v_body) = 0 then
    raise exception 'the defect does not apply any more';
  end if;
  v_body := replace(v_body, $old$and not c.is_bound and$old$, $new$and$new$);
  execute v_body;
end;
$patch$;
