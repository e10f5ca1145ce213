-- How apps open what they add: each table and function is closed first, and then open to those named.
-- Later migrations call these; a table or function with rules of its own says them itself.

create function queue.show_to_members(variadic p_relations regclass[]) returns void
language plpgsql set search_path = '' as $$
declare
  v_one record;
begin
  perform queue.close_tables(variadic p_relations);
  for v_one in select oid::regclass as id, relname, relkind from pg_catalog.pg_class where oid = any (p_relations) loop
    execute format('grant select on %s to authenticated, service_role', v_one.id);
    if v_one.relkind <> 'v' then
      execute format('create policy %I on %s for select to authenticated using '
        '(workspace_id in (select queue.my_workspaces()))', v_one.relname || '_read_by_members', v_one.id);
    end if;
  end loop;
end;
$$;
comment on function queue.show_to_members is E'Let members read the rows of their workspaces, and the service all, and no one write.\n\nThe policy of a table is <table>_read_by_members; a view needs security_invoker.';

create function queue.expose(p_schema text, p_prefix text, p_roles text, variadic p_names text[]) returns void
language plpgsql set search_path = '' as $$
declare
  v_name text;
  v_body regproc;
  v_found pg_catalog.pg_proc;
begin
  foreach v_name in array p_names loop
    v_body := format('%I.%I', p_schema, v_name);
    select * into v_found from pg_catalog.pg_proc where oid = v_body;
    v_name := p_prefix || v_name;
    -- bound when it is made: roles that call it need no usage of the schema
    execute format('create function %s(%s) returns jsonb language sql %s set search_path = '''' '
      'begin atomic select %s(%s); end', v_name, pg_get_function_arguments(v_body),
      case v_found.provolatile when 's' then 'stable' else '' end, v_body, array_to_string(v_found.proargnames, ', '));
    execute format('comment on function %s is %L', v_name, obj_description(v_body, 'pg_proc'));
    perform queue.allow(p_roles, v_name::regproc, v_body);
  end loop;
end;
$$;
comment on function queue.expose is E'Make the functions of a schema callable as p_prefix and their name, as public.plan_read for plans.read.\n\nFor functions with rights that callers do not have: guests may call none that is security definer itself. The new ones take the same arguments and have the same comment.';
