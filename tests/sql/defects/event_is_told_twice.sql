-- A page of the feed begins with the event that the one before ended with.
do $patch$
declare
  v_body text := pg_get_functiondef('queue.feed_page'::regproc);
begin
  if position($old$(o.xid, o.job_id, o.seq) > ($old$ in v_body) = 0 then
    raise exception 'the defect does not apply any more';
  end if;
  execute replace(v_body, $old$(o.xid, o.job_id, o.seq) > ($old$, $new$(o.xid, o.job_id, o.seq) >= ($new$);
end;
$patch$;
