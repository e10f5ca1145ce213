-- Log lines over all jobs of a workspace, newest first, in bounded slices.

create index job_logs_by_workspace on public.job_logs (workspace_id, id);

create function public.search_logs(
  p_workspace_id uuid default null, p_filter jsonb default '{}', p_before numeric default null,
  p_limit numeric default 100
) returns jsonb
language plpgsql
security definer -- membership is checked once and not per line
set search_path = '' as $$
declare
  v_filter jsonb := queue.list_filter(p_filter, array['search', 'level', 'job_type', 'job_id', 'since', 'until']);
  v_limit integer := least(500, greatest(1, coalesce(queue.whole(p_limit, 'p_limit'), 100)));
  v_before constant bigint := coalesce(queue.big_whole(p_before, 'p_before'), 9223372036854775807);
begin
  perform queue.take_turn();
  perform queue.may_read_all(p_workspace_id);
  return queue.in_order(null::jsonb, format($query$
    with slice as materialized (
      select l.id, l.job_id, l.attempt, l.log_level, l.message, %s as metadata, l.created_at
      from public.job_logs as l where l.id < %s %s l.id desc limit 20000),
    found as (
      select s.*, j.job_type from slice as s join public.jobs as j on j.id = any (array[s.job_id])
      where true %s limit %s)
    select jsonb_build_object('lines', coalesce(jsonb_agg(to_jsonb(f) || jsonb_build_object(
        'message', left(f.message, 2000),
        'metadata', case when octet_length(f.metadata::text) <= 2000 then f.metadata else '{}' end)
        order by f.id desc), '[]'),
      'next', case when count(*) = %5$s then min(f.id)
        when (select count(*) from slice) = 20000 then (select min(s.id) from slice as s) end)
    from found as f$query$,
    -- of all workspaces without metadata, which may be anyone's
    case when p_workspace_id is null then '''{}''::jsonb' else 'l.metadata' end, v_before,
    coalesce('and l.workspace_id = ' || quote_literal(p_workspace_id) || ' order by l.workspace_id desc,', 'order by'),
    concat(' and s.log_level = any (' || quote_literal(case v_filter ->> 'level' when 'warning' then '{warning,error}'
        when 'error' then '{error}' when 'info' then '{info,warning,error}' end) || ')',
      ' and (strpos(lower(s.message), ' || quote_literal(lower(v_filter ->> 'search'))
        || ') > 0 or s.metadata <> ''{}'' and strpos(lower(s.metadata::text), '
        || quote_literal(lower(v_filter ->> 'search')) || ') > 0)',
      ' and j.job_type = ' || quote_literal(v_filter ->> 'job_type'),
      ' and s.job_id = ' || quote_literal(v_filter ->> 'job_id'),
      ' and s.created_at >= ' || quote_literal(v_filter ->> 'since'),
      ' and s.created_at < ' || quote_literal(v_filter ->> 'until')), v_limit));
exception
  when invalid_text_representation or invalid_datetime_format or datetime_field_overflow then
    perform queue.refuse_value('the filter', 'filter', sqlerrm);
end;
$$;
comment on function public.search_logs is E'Log lines of a workspace''s jobs, newest first: {lines: [{id, job_id, '
  'job_type, attempt, log_level, message, metadata, created_at}], next}; pass next as p_before to '
  'continue.\n\nFilter: search (part of a message or its metadata), level (that one or worse), job_type, job_id, '
  'since, until. Without a workspace, for operators, of all, without metadata. A message is cut to 2,000 characters, and metadata of more bytes omitted: the job''s own lines have both whole. Looks at 20,000 lines: a page may hold fewer than asked for, even none, and still have a next one.';

select queue.allow('authenticated, service_role', 'public.search_logs');
