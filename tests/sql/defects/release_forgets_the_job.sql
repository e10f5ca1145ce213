-- A job handed back is not made ready again.
do $patch$
declare
  v_body text := pg_get_functiondef('queue.move_on'::regproc);
begin
  if position($old$where m.act = 'released'));$old$ in v_body) = 0 then
    raise exception 'the defect does not apply any more';
  end if;
  execute replace(v_body, $old$where m.act = 'released'));$old$, $new$where false));$new$);
end;
$patch$;
