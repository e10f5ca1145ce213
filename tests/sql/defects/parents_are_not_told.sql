-- The end of a child leaves no signal.
do $patch$
declare
  v_body text := pg_get_functiondef('queue.after_end'::regproc);
begin
  if position($old$(j.parent_id is not null$old$ in v_body) = 0 then
    raise exception 'the defect does not apply any more';
  end if;
  execute replace(v_body, $old$(j.parent_id is not null$old$, $new$(false$new$);
end;
$patch$;
