-- Two leases count the running jobs at the same time.
do $patch$
declare
  v_body text := pg_get_functiondef('queue.lease'::regproc);
begin
  if position($old$perform pg_advisory_xact_lock(7106381);$old$ in v_body) = 0 then
    raise exception 'the defect does not apply any more';
  end if;
  execute replace(v_body, $old$perform pg_advisory_xact_lock(7106381);$old$, $new$perform 1;$new$);
end;
$patch$;
