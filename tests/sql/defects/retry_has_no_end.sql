-- A failing job is retried for ever.
do $patch$
declare
  v_body text := pg_get_functiondef('queue.settle_others'::regproc);
begin
  if position($old$when h.outcome = 'retry' then case when j.attempts >= j.max_attempts or$old$ in v_body) = 0 then
    raise exception 'the defect does not apply any more';
  end if;
  execute replace(v_body, $old$when h.outcome = 'retry' then case when j.attempts >= j.max_attempts or$old$, $new$when h.outcome = 'retry' then case when$new$);
end;
$patch$;
