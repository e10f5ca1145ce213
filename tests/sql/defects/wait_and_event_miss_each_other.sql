-- A wait does not look at events that came before it.
do $patch$
declare
  v_body text := pg_get_functiondef('queue.begin_waits'::regproc);
begin
  if position($old$where w.wait ->> 'kind' in ('event', 'children')$old$ in v_body) = 0 then
    raise exception 'the defect does not apply any more';
  end if;
  execute replace(v_body, $old$where w.wait ->> 'kind' in ('event', 'children')$old$, $new$where w.wait ->> 'kind' in ('children')$new$);
end;
$patch$;
