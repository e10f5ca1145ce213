-- A wait does not look at events that came before it.
do $patch$
declare
  v_body text := pg_get_functiondef('queue.settle_others'::regproc);
begin
  if position($old$and wait ->> 'kind' in ('event', 'children')$old$ in v_body) = 0 then
    raise exception 'the defect does not apply any more';
  end if;
  execute replace(v_body, $old$and wait ->> 'kind' in ('event', 'children')$old$, $new$and wait ->> 'kind' in ('children')$new$);
end;
$patch$;
