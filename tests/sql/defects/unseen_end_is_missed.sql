-- A job that is ending this very moment is taken for one that will tell its dependants.
do $patch$
declare
  v_body text := pg_get_functiondef('queue.busy_jobs'::regproc);
begin
  if position($old$return array(select a from unnest(p_ids) as a except select f from unnest(v_free) as f);$old$ in v_body) = 0 then
    raise exception 'the defect does not apply any more';
  end if;
  execute replace(v_body, $old$return array(select a from unnest(p_ids) as a except select f from unnest(v_free) as f);$old$, $new$return '{}';$new$);
end;
$patch$;
