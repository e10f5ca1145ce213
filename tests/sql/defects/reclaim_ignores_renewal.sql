-- Reclaim computes the lease's end from its start, as if no one renewed.
do $patch$
declare
  v_body text := pg_get_functiondef('queue.reclaim'::regproc);
begin
  if position($old$where job_id = any (v_ids) and expires_at <= p_now returning$old$ in v_body) = 0 then
    raise exception 'the defect does not apply any more';
  end if;
  execute replace(v_body, $old$where job_id = any (v_ids) and expires_at <= p_now returning$old$, $new$where job_id = any (v_ids) and leased_at + make_interval(secs => lease_seconds) <= p_now returning$new$);
end;
$patch$;
