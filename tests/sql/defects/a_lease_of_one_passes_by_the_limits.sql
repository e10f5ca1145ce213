-- The short way for one job does not stop where limits begin.
do $patch$
declare
  v_body text := pg_get_functiondef('queue.lock_head'::regproc);
begin
  if position($old$exit when v_head.is_bound;$old$ in v_body) = 0 then
    raise exception 'the defect does not apply any more';
  end if;
  v_body := replace(v_body, $old$exit when v_head.is_bound;$old$, $new$$new$);
  execute v_body;
end;
$patch$;
