-- Two leases below one limit count the running jobs at the same time.
do $patch$
declare
  v_body text := pg_get_functiondef('queue.hold_caps'::regproc);
begin
  if position($old$order by c.id for update skip locked);$old$ in v_body) = 0 then
    raise exception 'the defect does not apply any more';
  end if;
  execute replace(v_body, $old$order by c.id for update skip locked);$old$, $new$order by c.id);$new$);
end;
$patch$;
