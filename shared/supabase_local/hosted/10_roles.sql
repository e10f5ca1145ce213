-- This file creates the roles that a hosted Supabase project has before its first migration. Roles
-- are shared by all databases of a Postgres cluster, so each statement must also succeed if the
-- role exists.
do $$
declare
  v_role record;
begin
  -- take a lock, because another database of the same Postgres cluster may run this file at the
  -- same time
  perform pg_advisory_xact_lock(hashtext('supabase_local.roles'));
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
      -- postgres owns the objects of migrations, and is not a superuser, as on a hosted project
      ('postgres', 'login createdb createrole replication bypassrls')
    ) as roles (name, attributes)
    where not exists (select from pg_catalog.pg_roles where rolname = roles.name)
  loop
    execute format('create role %I %s', v_role.name, v_role.attributes);
  end loop;
end;
$$;

do $$
declare
  v_admin text;
begin
  perform pg_advisory_xact_lock(hashtext('supabase_local.roles'));
  -- If postgres already is a member of supabase_auth_admin, keep all grants. The previous release
  -- granted two of the admin roles to postgres with the set option, so that postgres could switch
  -- to them.
  if not exists (
    select from pg_catalog.pg_auth_members as members
    where members.roleid = 'supabase_auth_admin'::regrole
      and members.member = 'postgres'::regrole
  ) then
    grant anon, authenticated, service_role to authenticator;
    -- grant with admin option, because migrations may alter these roles, as on a hosted project
    grant anon, authenticated, service_role, authenticator to postgres with admin option;
    -- On a hosted project, the extension supautils lets postgres create policies and drop triggers
    -- on tables of the three admin roles. On the local stack, postgres is a member of the admin
    -- roles, and 70_reserved.sql rejects all other statements on their tables.
    foreach v_admin in array array[
      'supabase_auth_admin', 'supabase_realtime_admin', 'supabase_storage_admin'
    ]
    loop
      execute format('grant %I to postgres %s', v_admin, case
        when current_setting('server_version_num')::int >= 160000
          then 'with inherit true, set false' else '' end);
    end loop;
    grant pg_monitor, pg_read_all_data, pg_signal_backend to postgres with admin option;
    alter role anon set statement_timeout = '3s';
    alter role authenticated set statement_timeout = '8s';
    alter role authenticator set statement_timeout = '8s';
  end if;
  alter role authenticator set lock_timeout = '8s';
end;
$$;

-- let postgres set the configuration parameters that it may set on a hosted project
do $$
begin
  grant set on parameter
    pgrst.db_aggregates_enabled, pgrst.db_pre_request, pgrst.db_schemas, pgrst.db_max_rows,
    pgrst.db_plan_enabled, pgrst.db_extra_search_path, pgrst.jwt_secret, pgrst.openapi_mode,
    pgrst.client_error_verbosity,
    auto_explain.log_min_duration, auto_explain.log_nested_statements, auto_explain.log_analyze,
    auto_explain.log_buffers, auto_explain.log_timing, auto_explain.log_verbose,
    pgaudit.log, pgaudit.log_catalog, pgaudit.log_client, pgaudit.log_level, pgaudit.log_parameter,
    pgaudit.log_relation, pgaudit.log_rows, pgaudit.log_statement, pgaudit.log_statement_once,
    pgaudit.role, pg_net.batch_size, pg_net.ttl, pg_stat_statements.max, pg_stat_statements.track,
    plan_filter.limit_select_only, plan_filter.statement_cost_limit, safeupdate.enabled,
    deadlock_timeout, log_duration, log_lock_waits, log_min_duration_statement, log_min_messages,
    log_parameter_max_length, log_replication_commands, log_statement, log_temp_files,
    session_replication_role, track_functions, track_io_timing, wal_compression
  to postgres;
end;
$$;
