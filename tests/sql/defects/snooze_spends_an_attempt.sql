-- Handing back counts as trying.
do $patch$
declare
  v_body text := pg_get_functiondef('queue.settle_items'::regproc);
begin
  if position($old$(a.act in ('snoozed', 'released', 'waiting'))::integer$old$ in v_body) = 0 then
    raise exception 'the defect does not apply any more';
  end if;
  execute replace(v_body, $old$(a.act in ('snoozed', 'released', 'waiting'))::integer$old$, $new$0$new$);
end;
$patch$;
