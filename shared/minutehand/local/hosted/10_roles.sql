-- The roles that a hosted project has before its first migration.
-- Cluster wide, so every statement must allow being run again for another database.
do $$
declare
  v_role record;
begin
  -- an advisory lock: two databases of one cluster may be prepared at the same moment
  perform pg_advisory_xact_lock(hashtext('minutehand.hosted.roles'));
  for v_role in
    select roles.name, roles.attributes
    from (values
      ('anon', 'nologin'),
      ('authenticated', 'nologin'),
      ('service_role', 'nologin bypassrls'),
      ('authenticator', 'login noinherit'),
      ('supabase_auth_admin', 'nologin noinherit createrole'),
      ('supabase_realtime_admin', 'nologin noinherit'),
      ('supabase_storage_admin', 'nologin noinherit createrole'),
      ('supabase_functions_admin', 'nologin noinherit createrole'),
      ('dashboard_user', 'nologin createdb createrole replication'),
      -- owns what migrations make; no superuser, as on a hosted project
      ('postgres', 'login createdb createrole replication bypassrls')
    ) as roles (name, attributes)
    where not exists (select from pg_catalog.pg_roles where rolname = roles.name)
  loop
    execute format('create role %I %s', v_role.name, v_role.attributes);
  end loop;
end;
$$;

do $$
begin
  perform pg_advisory_xact_lock(hashtext('minutehand.hosted.roles'));
  if exists (
    select from pg_catalog.pg_auth_members as members
    where members.roleid = 'supabase_storage_admin'::regrole
      and members.member = 'postgres'::regrole
  ) then
    return;
  end if;
  grant anon, authenticated, service_role to authenticator;
  -- with admin, for migrations alter these roles, as on a hosted project
  grant anon, authenticated, service_role, authenticator to postgres with admin option;
  -- hosted, an extension lets postgres keep policies on these schemas' tables; here membership does
  grant supabase_realtime_admin, supabase_storage_admin to postgres;
  grant pg_monitor, pg_read_all_data, pg_signal_backend to postgres with admin option;
  grant set on parameter pgrst.db_aggregates_enabled, pgrst.db_pre_request, pgrst.db_schemas,
    pgrst.db_max_rows, pgrst.db_plan_enabled, pgrst.db_extra_search_path, pgrst.jwt_secret,
    pgrst.openapi_mode, session_replication_role to postgres;
  alter role anon set statement_timeout = '3s';
  alter role authenticated set statement_timeout = '8s';
  alter role authenticator set statement_timeout = '8s';
end;
$$;
