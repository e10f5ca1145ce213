-- The end of a job is taken from the list of edges, but not from the count of its dependants.
do $patch$
declare
  v_body text := pg_get_functiondef('queue.close_edges'::regproc);
begin
  if position($old$open_jobs = w.open_jobs - c.jobs$old$ in v_body) = 0 then
    raise exception 'the defect does not apply any more';
  end if;
  execute replace(v_body, $old$open_jobs = w.open_jobs - c.jobs$old$, $new$open_jobs = w.open_jobs$new$);
end;
$patch$;
