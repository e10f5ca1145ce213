-- A job handed back is not made ready again.
do $patch$
declare
  v_body text := pg_get_functiondef('queue.settle_others'::regproc);
begin
  if position($old$from moved where act = 'released'),$old$ in v_body) = 0 then
    raise exception 'the defect does not apply any more';
  end if;
  execute replace(v_body, $old$from moved where act = 'released'),$old$, $new$from moved where act = 'released' and false),$new$);
end;
$patch$;
