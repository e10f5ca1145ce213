-- Steps of a job read in pages: results, payloads of events and results of children, in bounds that a worker can read.

create function queue.step_lines(p_job_id uuid, p_name text, p_nth integer, p_limit integer)
returns table (name text, nth integer, bytes bigint)
language sql stable set search_path = '' as $$
  select l.name, l.nth, l.bytes from (
    (select s.name, 0 as nth, s.bytes::bigint + coalesce(e.bytes, 0) as bytes
      from queue.steps as s
      left join queue.named_events as e on e.workspace_id = s.workspace_id and e.name = s.event_name
      where s.job_id = p_job_id and (p_nth is null or s.name > p_name) order by s.name limit p_limit)
    union all
    (select g.name, g.nth, g.bytes::bigint from queue.gathered as g
      where g.job_id = p_job_id and (p_nth is null or (g.name, g.nth) > (p_name, p_nth))
      order by g.name, g.nth limit p_limit)) as l
  order by l.name, l.nth limit p_limit
$$;
comment on function queue.step_lines is 'The results of a job''s steps after a place, in order: a line for each '
  'step (nth 0) and one for each child it gathered (from 1).';

create function queue.step_line(p_job_id uuid, p_name text, p_nth integer) returns jsonb
language sql stable set search_path = '' as $$
  select case when p_nth > 0 then (
      select jsonb_build_object('name', p_name, 'nth', p_nth, 'value', jsonb_build_object('id', g.child_id,
        'status', g.status, 'result', g.result, 'error_message', g.error_message))
      from queue.gathered as g where g.job_id = p_job_id and g.name = p_name and g.nth = p_nth)
    else (
      select jsonb_build_object('name', p_name, 'nth', 0, 'created_at', s.created_at, 'value',
        case when s.event_name is null then s.result -> 'value' else jsonb_build_object('event', (
          select e.payload from queue.named_events as e
          where e.workspace_id = s.workspace_id and e.name = s.event_name)) end)
      from queue.steps as s where s.job_id = p_job_id and s.name = p_name) end
$$;
comment on function queue.step_line is 'One line of step_lines with its value: {name, nth, value, created_at?}.';

create function queue.step_page(
  p_job_id uuid, p_after jsonb, p_bytes bigint, out lines jsonb, out next jsonb, out bytes bigint
)
language sql stable set search_path = '' as $$
  with found as (
    select l.*, row_number() over (order by l.name, l.nth) as n,
      sum(l.bytes) over (order by l.name, l.nth) - l.bytes as bytes_before
    from queue.step_lines(p_job_id, p_after ->> 'name', queue.whole_in(p_after, 'nth'), 1001) as l),
  page as materialized (select * from found where n <= 1000 and bytes_before < p_bytes)
  select coalesce((select jsonb_agg(queue.step_line(p_job_id, p.name, p.nth) order by p.n) from page as p), '[]'),
    (select jsonb_build_object('name', p.name, 'nth', p.nth) from page as p
      where (select count(*) from found) > (select count(*) from page) order by p.n desc limit 1),
    (select coalesce(sum(p.bytes), 0)::bigint from page as p)
$$;
comment on function queue.step_page is E'A page of the lines of steps after a place {name, nth}: at most 1,000, and '
  'none after p_bytes bytes; always the first.\n\nnext: the last place when there are more, null otherwise.';

create function queue.whole_steps(p_lines jsonb) returns table (name text, value jsonb)
language sql immutable set search_path = '' as $$
  select l.name, case when max(l.nth) = 0 then (jsonb_agg(l.value)) -> 0
    else jsonb_build_object('children', jsonb_agg(l.value order by l.nth) filter (where l.nth > 0)) end
  from jsonb_to_recordset(p_lines) as l (name text, nth integer, value jsonb) group by l.name
$$;
comment on function queue.whole_steps is 'The steps that the lines of step_page belong to, with their children put together.';

create function queue.steps_of(p_job_id uuid) returns jsonb
language plpgsql stable set search_path = '' as $$
declare
  v_bytes_max constant bigint := 16000;
  v_page record;
begin
  if not exists (select 1 from queue.steps where job_id = p_job_id) then
    return '{}';
  elsif v_bytes_max < (
    select sum(l.bytes) from queue.step_lines(p_job_id, null, null, 1001) as l) then
    return null;
  end if;
  v_page := queue.step_page(p_job_id, null, v_bytes_max);
  return case when v_page.next is null then (
    select jsonb_object_agg(s.name, s.value) from queue.whole_steps(v_page.lines) as s) end;
end;
$$;
comment on function queue.steps_of is E'The results of a job''s finished steps by name, as a lease returns them; '
  'null when they are longer than 16,000 bytes.\n\nThen the worker reads them by read_steps: one answer to a lease '
  'may hold a thousand jobs.';

create function public.read_steps(p_request jsonb) returns jsonb
language plpgsql stable
security definer -- the worker holds no rights on the engine's tables
set search_path = '' as $$
declare
  v_id uuid := queue.uuid_or_refuse(p_request ->> 'job_id', 'job_id');
  v_page record;
begin
  if not exists (select 1 from queue.leases where job_id = v_id and fence = queue.big_whole_in(p_request, 'fence')) then
    perform queue.refuse_lost(v_id, 'its steps are not shown');
  end if;
  v_page := queue.step_page(v_id, nullif(p_request -> 'after', 'null'), 1000000);
  return jsonb_build_object('lines', v_page.lines, 'next', v_page.next, 'bytes', v_page.bytes);
exception
  when invalid_text_representation or numeric_value_out_of_range then
    perform queue.refuse_value('the request', 'p_request', sqlerrm);
end;
$$;
comment on function public.read_steps is E'Steps of a leased job, in pages of about 1 MB: {lines: [{name, nth, '
  'value, created_at}], next: {name, nth} | null, bytes}.\n\nRequest: {job_id, fence, after?}; give next as after to '
  'continue. A line with nth 0 is a step''s result; those from 1 on are what the children of the step returned, in '
  'order: {id, status, result, error_message}. Needed when a lease has null for steps.';

create function public.job_steps(p_job_id uuid, p_after jsonb default null) returns jsonb
language plpgsql stable
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
declare
  v_page record;
begin
  perform queue.visible_job(p_job_id);
  v_page := queue.step_page(p_job_id, nullif(p_after, 'null'), 1000000);
  return jsonb_build_object(
    'steps', (
      select coalesce(jsonb_agg(jsonb_build_object('name', s.name, 'kind', t.kind, 'result', s.value,
        'created_at', t.created_at,
        'took_ms', round((date_part('epoch', t.created_at - t.started_at) * 1000)::numeric, 1))
        order by t.created_at, s.name), '[]')
      from queue.whole_steps(v_page.lines) as s join queue.steps as t on t.job_id = p_job_id and t.name = s.name),
    'next', v_page.next,
    'waiting_for', (select jsonb_build_object('kind', kind, 'name', name, 'question', data -> 'question',
        'options', data -> 'options', 'job_ids', data -> 'job_ids', 'event', event_name, 'timeout_at', timeout_at,
        'default', default_value, 'since', created_at)
      from queue.waits where job_id = p_job_id));
end;
$$;
comment on function public.job_steps is E'Finished steps of a job and what it waits for: {steps: [{name, kind, '
  'result, created_at, took_ms}], next, waiting_for}.\n\nkind is step, graph (its result has what each stage of it '
  'comes after, by name), or the kind of the wait that it was. In pages of about 1 MB, by name; give next as p_after to continue. A page '
  'may end within the children of a step, which the next page continues under the same name.';

select queue.allow('job_worker, service_role', 'public.read_steps');
select queue.allow('authenticated, service_role', 'public.job_steps');
