-- Handing back counts as trying.
do $patch$
declare
  v_body text := pg_get_functiondef('queue.settle_others'::regproc);
begin
  if position($old$when a.act in ('snoozed', 'released', 'waiting') then greatest(0, j.attempts - 1)$old$ in v_body) = 0 then
    raise exception 'the defect does not apply any more';
  end if;
  execute replace(v_body, $old$when a.act in ('snoozed', 'released', 'waiting') then greatest(0, j.attempts - 1)$old$, $new$when a.act in ('never') then 0$new$);
end;
$patch$;
