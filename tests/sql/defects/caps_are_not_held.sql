-- Two leases below one limit count the running jobs at the same time.
do $patch$
declare
  v_body text := pg_get_functiondef('queue.hold_caps'::regproc);
begin
  if position($old$limit 1 for update skip locked) as c on true$old$ in v_body) = 0 then
    raise exception 'the defect does not apply any more';
  end if;
  execute replace(v_body, $old$limit 1 for update skip locked) as c on true$old$, $new$limit 1) as c on true$new$);
end;
$patch$;
