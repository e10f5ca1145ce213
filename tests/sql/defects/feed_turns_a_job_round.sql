-- Events are told by transaction alone, though an older one may have written later.
do $patch$
declare
  v_body text := pg_get_functiondef('queue.feed_order'::regproc);
begin
  if position($old$min(e.xid) over (partition by e.job_id order by e.seq desc)$old$ in v_body) = 0 then
    raise exception 'the defect does not apply any more';
  end if;
  execute replace(v_body, $old$min(e.xid) over (partition by e.job_id order by e.seq desc)$old$, $new$e.xid$new$);
end;
$patch$;
