-- What once failed is left out of maintenance and never tried again.
do $patch$
declare
  v_body text := pg_get_functiondef('queue.retry_parked'::regproc);
begin
  if position($old$where retry_at <= p_now order by$old$ in v_body) = 0 then
    raise exception 'the defect does not apply any more';
  end if;
  execute replace(v_body, $old$where retry_at <= p_now order by$old$, $new$where false order by$new$);
end;
$patch$;
