-- The Data API of a hosted project notices new tables and functions by itself: an event trigger tells it.
create or replace function extensions.pgrst_ddl_watch() returns event_trigger
language plpgsql
set search_path = ''
as $$
begin
  if exists (
    select from pg_catalog.pg_event_trigger_ddl_commands() as c
    where c.schema_name is distinct from 'pg_temp' and c.command_tag in (
      'CREATE SCHEMA', 'ALTER SCHEMA', 'CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'ALTER TABLE', 'CREATE VIEW',
        'ALTER VIEW',
      'CREATE MATERIALIZED VIEW', 'CREATE FUNCTION', 'ALTER FUNCTION', 'CREATE TRIGGER', 'CREATE TYPE', 'CREATE RULE',
        'COMMENT')) then
    notify pgrst, 'reload schema';
  end if;
end;
$$;

create or replace function extensions.pgrst_drop_watch() returns event_trigger
language plpgsql
set search_path = ''
as $$
begin
  if exists (
    select from pg_catalog.pg_event_trigger_dropped_objects() as d
    where not d.is_temporary and d.object_type in ('schema', 'table', 'view', 'materialized view', 'function',
      'trigger', 'type', 'rule')) then
    notify pgrst, 'reload schema';
  end if;
end;
$$;

do $$
begin
  execute 'drop event trigger if exists pgrst_ddl_watch';
  execute 'create event trigger pgrst_ddl_watch on ddl_command_end execute function extensions.pgrst_ddl_watch()';
  execute 'drop event trigger if exists pgrst_drop_watch';
  execute 'create event trigger pgrst_drop_watch on sql_drop execute function extensions.pgrst_drop_watch()';
end;
$$;
