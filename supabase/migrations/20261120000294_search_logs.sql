-- Log lines over all jobs of a workspace, newest first, in bounded slices.

create index job_logs_by_workspace on public.job_logs (workspace_id, id);

create function public.search_logs(
  p_workspace_id uuid, p_filter jsonb default '{}', p_before bigint default null, p_limit integer default 100
) returns jsonb
language plpgsql stable
security definer -- membership is checked once and not per line
set search_path = ''
set enable_seqscan = off -- in order and no further than needed
set enable_bitmapscan = off
set enable_sort = off
set jit = off
as $$
declare
  v_filter jsonb := queue.list_filter(p_filter, array['search', 'level', 'job_type', 'job_id', 'since', 'until']);
  v_levels text[] := case v_filter ->> 'level' when 'warning' then array['warning', 'error'] when 'error'
    then array['error']
    when 'info' then array['info', 'warning', 'error'] end;
  v_limit integer := least(500, greatest(1, coalesce(p_limit, 100)));
  v_slice constant integer := 20000;
  v_lines jsonb;
  v_last bigint;
  v_looked bigint;
begin
  perform queue.take_turn();
  perform queue.may_steer(p_workspace_id);
  with slice as materialized (
    select l.id, l.job_id, l.attempt, l.log_level, l.message, l.metadata, l.created_at
    from public.job_logs as l
    where l.workspace_id = p_workspace_id and l.id < coalesce(p_before, 9223372036854775807)
    order by l.workspace_id desc, l.id desc limit v_slice),
  found as (
    select s.*, j.job_type from slice as s join public.jobs as j on j.id = any (array[s.job_id])
    where (v_levels is null or s.log_level = any (v_levels))
      and (not v_filter ? 'search' or strpos(lower(s.message), lower(v_filter ->> 'search')) > 0
        or s.metadata <> '{}' and strpos(lower(s.metadata::text), lower(v_filter ->> 'search')) > 0)
      and (not v_filter ? 'job_type' or j.job_type = v_filter ->> 'job_type')
      and (not v_filter ? 'job_id' or s.job_id = (v_filter ->> 'job_id')::uuid)
      and (not v_filter ? 'since' or s.created_at >= (v_filter ->> 'since')::timestamptz)
      and (not v_filter ? 'until' or s.created_at < (v_filter ->> 'until')::timestamptz)
    limit v_limit)
  select coalesce((select jsonb_agg(to_jsonb(f) order by f.id desc) from found as f), '[]'), (select min(f.id)
    from found as f),
    case when (select count(*) from slice) = v_slice then (select min(s.id) from slice as s) end
  into v_lines, v_last, v_looked;
  return jsonb_build_object('lines', v_lines, 'next', case when jsonb_array_length(v_lines) = v_limit then v_last
    else v_looked end);
exception
  when invalid_text_representation or invalid_datetime_format or datetime_field_overflow then
    perform queue.refuse_value('the filter', 'filter', sqlerrm);
end;
$$;
comment on function public.search_logs is E'Log lines of a workspace''s jobs, newest first: {lines: [{id, job_id, '
  'job_type, attempt, log_level, message, metadata, created_at}], next}; pass next as p_before to '
  'continue.\n\nFilter: search (part of a message or its metadata), level (that one or worse), job_type, job_id, '
  'since, until. Looks at 20,000 lines: a page may hold fewer than asked for, even none, and still have a next one.';

revoke execute on function public.search_logs from public, anon, authenticated, service_role;
grant execute on function public.search_logs to authenticated, service_role;
