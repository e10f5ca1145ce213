-- Cancel or retry the jobs that match a filter, a batch a call; callers repeat the call while more is true.

create function queue.find_jobs(p_workspace_id uuid, p_filter jsonb, p_able text[], p_limit integer) returns uuid[]
language plpgsql stable set search_path = '' as $$
declare
  v_filter jsonb := queue.list_words(coalesce(p_filter, '{}'));
  v_key constant text := case when v_filter ? 'status' and not v_filter ? 'state' then 'status' else 'state' end;
  v_words text[] := array(select jsonb_array_elements_text(v_filter -> v_key));
  v_source queue.list_source;
  v_read queue.list_read;
  v_place queue.list_place;
  v_ids uuid[] := '{}';
begin
  perform queue.may_manage(p_workspace_id);
  if v_filter ? 'workspace_id' then
    perform queue.refuse(400, 'invalid_argument', 'the filter must not name a workspace', 'filter');
  elsif v_words <> '{}' and not v_words && p_able then
    perform queue.refuse(400, 'invalid_argument', format('does not apply to %s jobs',
      array_to_string(v_words, ', ')), v_key);
  end if;
  v_filter := v_filter || jsonb_build_object(v_key, to_jsonb(case
    when v_words <> '{}' then array(select w from unnest(v_words) as w where w = any (p_able))
    when 'failed' = any (p_able) then array['failed'] else p_able[:5] end));
  for v_source in select * from queue.list_sources(v_filter, array[p_workspace_id]) loop
    v_place := null;
    loop
      v_read := queue.list_slice(v_source, v_filter, array[p_workspace_id], v_place, p_limit + 1, 'infinity');
      v_ids := v_ids || array(select f.id from unnest(v_read.found) as f join public.jobs as j on j.id = f.id
        where j.finished_at is not null or j.cancel_requested_at is null);
      v_place := v_read.place;
      exit when v_place.id is null or cardinality(v_ids) > p_limit;
    end loop;
    exit when cardinality(v_ids) > p_limit;
  end loop;
  return v_ids[:p_limit + 1];
exception
  when invalid_text_representation or invalid_datetime_format or datetime_field_overflow or invalid_parameter_value then
    perform queue.refuse_value('the filter', 'filter', sqlerrm);
end;
$$;
comment on function queue.find_jobs is 'The jobs of a workspace that match and are in one of the states that an action applies to: at most p_limit, and one more if there are others.';

create function public.cancel_jobs(p_workspace_id uuid, p_filter jsonb, p_limit numeric default 1000) returns jsonb
language plpgsql
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
declare
  v_limit constant integer := least(1000, greatest(1, coalesce(queue.whole(p_limit, 'p_limit'), 1000)));
  v_ids uuid[];
  v_count integer;
begin
  perform queue.take_turn();
  if jsonb_strip_nulls(coalesce(p_filter, '{}')) in ('{}', 'null') then
    perform queue.refuse(422, 'validation_failed', 'filter: name at least one criterion', 'filter');
  end if;
  v_ids := queue.find_jobs(p_workspace_id, p_filter, array['queued', 'scheduled', 'retrying', 'running', 'suspended',
    'pending', 'processing', 'waiting'], v_limit);
  v_count := queue.cancel(v_ids[:v_limit], queue.clock());
  return jsonb_build_object('count', v_count, 'more', v_count > 0 and cardinality(v_ids) > v_limit);
end;
$$;
comment on function public.cancel_jobs is E'Cancel live jobs that match a filter, at most p_limit (1 to 1,000): {count, more}; repeat while more.\n\nThe filter is that of list_jobs without workspace_id, and names something. count includes children, which are cancelled too. For managers.';

create function public.retry_jobs(p_workspace_id uuid, p_filter jsonb, p_limit numeric default 1000) returns jsonb
language plpgsql
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
declare
  v_limit constant integer := least(1000, greatest(1, coalesce(queue.whole(p_limit, 'p_limit'), 1000)));
  v_ids uuid[];
  v_count integer;
begin
  perform queue.take_turn();
  v_ids := queue.find_jobs(p_workspace_id, p_filter, array['failed', 'cancelled'], v_limit);
  perform 1 from public.jobs where id = any (v_ids[:v_limit]) order by id for update;
  v_count := queue.retry_jobs(v_ids[:v_limit], queue.clock());
  return jsonb_build_object('count', v_count, 'more', v_count > 0 and cardinality(v_ids) > v_limit);
end;
$$;
comment on function public.retry_jobs is E'Run failed jobs that match a filter again (cancelled ones, if it says so), at most p_limit (1 to 1,000): {count, more}; repeat while more.\n\nThe filter is that of list_jobs without workspace_id. Jobs whose unique key another one holds by now stay as they are. For managers.';

select queue.allow('authenticated, service_role', 'public.cancel_jobs', 'public.retry_jobs');
