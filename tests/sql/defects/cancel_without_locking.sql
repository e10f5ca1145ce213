-- Cancel reads states first and locks nothing: a settle in between is overlooked.
do $patch$
declare
  v_body text := pg_get_functiondef('queue.cancel'::regproc);
begin
  if position($old$perform 1 from public.jobs where id = any (v_all) order by id for update;$old$ in v_body) = 0 then
    raise exception 'the defect does not apply any more';
  end if;
  execute replace(v_body, $old$perform 1 from public.jobs where id = any (v_all) order by id for update;$old$, $new$$new$);
end;
$patch$;
