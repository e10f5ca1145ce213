-- Progress reserves one number more than it writes.
do $patch$
declare
  v_body text := pg_get_functiondef('queue.write_reports'::regproc);
begin
  if position($old$set last_seq = j.last_seq + c.new_events,$old$ in v_body) = 0 then
    raise exception 'the defect does not apply any more';
  end if;
  execute replace(v_body, $old$set last_seq = j.last_seq + c.new_events,$old$, $new$set last_seq = j.last_seq + c.new_events + 1,$new$);
end;
$patch$;
