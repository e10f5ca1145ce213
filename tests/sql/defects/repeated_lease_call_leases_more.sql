-- A lost answer leases a second batch.
do $patch$
declare
  v_body text := pg_get_functiondef('queue.lease'::regproc);
begin
  if position($old$if v_request.call <= v_tick.last_call then$old$ in v_body) = 0 then
    raise exception 'the defect does not apply any more';
  end if;
  execute replace(v_body, $old$if v_request.call <= v_tick.last_call then$old$, $new$if v_request.call < v_tick.last_call then$new$);
end;
$patch$;
