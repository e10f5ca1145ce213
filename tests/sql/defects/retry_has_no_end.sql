-- A failing job is retried for ever.
do $patch$
declare
  v_body text := pg_get_functiondef('queue.judge'::regproc);
begin
  if position($old$when p_item.outcome = 'retry' then case when v_spent or v_late then 'failed'$old$ in v_body) = 0 then
    raise exception 'the defect does not apply any more';
  end if;
  execute replace(v_body, $old$when p_item.outcome = 'retry' then case when v_spent or v_late then 'failed'$old$, $new$when p_item.outcome = 'retry' then case when v_late then 'failed'$new$);
end;
$patch$;
