-- Restrict postgres in the schemas of Auth, Storage and Realtime. On a hosted project, postgres may
-- create policies, create and drop triggers, and grant rights in the schemas auth, storage and
-- realtime. The event triggers of this file reject all other statements of postgres in these
-- schemas.
--
-- On a hosted project, the extension supautils gives postgres additional rights. On the local
-- stack, postgres is a member of the roles that own the schemas, and the event triggers restrict
-- the rights of postgres. Superusers and the roles that own the schemas are not restricted.

-- Auth's and Storage's roles own their tables, so that a sign-up trigger can be tested with Auth's
-- role. Row level security is enabled, as on a hosted project.
do $$
declare
  v_table record;
begin
  for v_table in
    select oid::regclass as name, relnamespace::regnamespace as home from pg_catalog.pg_class
    where relnamespace in ('auth'::regnamespace, 'storage'::regnamespace) and relkind = 'r'
  loop
    execute format('alter table %s owner to supabase_%s_admin', v_table.name, v_table.home);
    execute format('alter table %s enable row level security', v_table.name);
  end loop;
end;
$$;

-- Return true for the tables that a hosted project lists in the settings supautils.policy_grants
-- and supautils.drop_trigger_grants, which are all tables here but the histories of migrations.
create or replace function extensions.is_open_to_policies(p_table regclass) returns boolean
language sql stable
set search_path = ''
as $$ select p_table::text !~ 'migrations$' $$;

create or replace function extensions.owns_reserved_schemas() returns boolean
language sql stable
set search_path = ''
as $$
  select rolsuper
    or rolname in ('supabase_auth_admin', 'supabase_storage_admin', 'supabase_realtime_admin')
  from pg_catalog.pg_roles where rolname = current_user
$$;

-- Return true if the role postgres itself has the right to create triggers on a table.
create or replace function extensions.may_make_triggers(p_table regclass) returns boolean
language sql stable
set search_path = ''
as $$
  select exists (
    select from pg_catalog.pg_class as c cross join pg_catalog.aclexplode(c.relacl) as a
    where c.oid = p_table and a.privilege_type = 'TRIGGER'
      and a.grantee in (0, current_user::regrole)
  )
$$;

create or replace function extensions.refuse_reserved_ddl() returns event_trigger
language plpgsql
set search_path = ''
as $$
declare
  v_done record;
  v_table regclass;
begin
  if extensions.owns_reserved_schemas() then
    return;
  end if;
  for v_done in
    select c.classid, c.objid, c.command_tag, c.object_type, c.object_identity,
      coalesce(c.schema_name, case c.object_type when 'schema' then c.object_identity end) as home
    from pg_catalog.pg_event_trigger_ddl_commands() as c
    where c.command_tag not in ('GRANT', 'REVOKE', 'ALTER DEFAULT PRIVILEGES')
  loop
    v_table := case v_done.object_type
      when 'table' then v_done.objid::regclass
      when 'index' then
        (select indrelid from pg_catalog.pg_index where indexrelid = v_done.objid)
      when 'policy' then (select polrelid from pg_catalog.pg_policy where oid = v_done.objid)
      when 'trigger' then (select tgrelid from pg_catalog.pg_trigger where oid = v_done.objid)
      when 'rule' then (select ev_class from pg_catalog.pg_rewrite where oid = v_done.objid)
      when 'publication relation' then
        (select prrelid from pg_catalog.pg_publication_rel where oid = v_done.objid)
    end;
    v_done.home := coalesce(v_done.home, (
      select relnamespace::regnamespace::text from pg_catalog.pg_class where oid = v_table
    ));
    continue when v_done.home is null or v_done.home not in ('auth', 'storage', 'realtime');
    continue when v_done.object_type = 'policy' and extensions.is_open_to_policies(v_table);
    continue when v_done.command_tag = 'CREATE TRIGGER' and extensions.may_make_triggers(v_table);
    if v_done.command_tag in ('CREATE FUNCTION', 'CREATE TABLE', 'CREATE VIEW', 'CREATE TYPE') then
      raise exception 'permission denied for schema %', v_done.home using errcode = '42501',
        hint = 'A hosted project also rejects this statement. Create your objects in a schema'
          ' of your own.';
    end if;
    raise exception 'must be owner of %', coalesce('table ' || (
      select relname from pg_catalog.pg_class where oid = v_table
    ), v_done.object_type || ' ' || v_done.object_identity) using errcode = '42501',
      hint = 'A hosted project also rejects this statement, because Supabase owns the object.'
        ' Policies, triggers and grants are allowed, and row level security is enabled.';
  end loop;
end;
$$;

create or replace function extensions.refuse_reserved_drop() returns event_trigger
language plpgsql
set search_path = ''
as $$
declare
  v_gone record;
begin
  if extensions.owns_reserved_schemas() then
    return;
  end if;
  for v_gone in
    select d.object_type, d.object_identity, d.address_names,
      coalesce(d.schema_name, d.address_names[1]) as home
    from pg_catalog.pg_event_trigger_dropped_objects() as d
    where d.original and not d.is_temporary
  loop
    continue when v_gone.home not in ('auth', 'storage', 'realtime');
    continue when v_gone.object_type in ('policy', 'trigger')
      and extensions.is_open_to_policies(
        to_regclass(format('%I.%I', v_gone.address_names[1], v_gone.address_names[2])));
    raise exception 'must be owner of % %', v_gone.object_type, v_gone.object_identity
      using errcode = '42501',
        hint = 'A hosted project also rejects this statement, because Supabase owns the object.';
  end loop;
end;
$$;

-- Let postgres use the foreign data wrappers of extensions and grant this right to other roles, as
-- on hosted projects.
create or replace function extensions.grant_foreign_data_wrappers() returns event_trigger
language plpgsql
security definer -- only a superuser may grant rights on an extension's objects
set search_path = ''
as $$
declare
  v_wrapper name;
begin
  for v_wrapper in select fdwname from pg_catalog.pg_foreign_data_wrapper
  loop
    execute format('grant usage on foreign data wrapper %I to postgres with grant option',
      v_wrapper);
  end loop;
end;
$$;

do $$
begin
  drop event trigger if exists refuse_reserved_ddl;
  drop event trigger if exists refuse_reserved_drop;
  drop event trigger if exists grant_foreign_data_wrappers;
  create event trigger refuse_reserved_ddl on ddl_command_end
    execute function extensions.refuse_reserved_ddl();
  create event trigger refuse_reserved_drop on sql_drop
    execute function extensions.refuse_reserved_drop();
  create event trigger grant_foreign_data_wrappers on ddl_command_end
    when tag in ('CREATE EXTENSION') execute function extensions.grant_foreign_data_wrappers();
end;
$$;
