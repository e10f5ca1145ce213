-- A job chosen for removal goes, though it was retried meanwhile.
do $patch$
declare
  v_body text := pg_get_functiondef('queue.remove_jobs'::regproc);
begin
  if position($old$and j.finished_at is not null$old$ in v_body) = 0 then
    raise exception 'the defect does not apply any more';
  end if;
  execute replace(v_body, $old$and j.finished_at is not null$old$, $new$$new$);
end;
$patch$;
