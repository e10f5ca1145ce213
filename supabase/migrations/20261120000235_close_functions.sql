-- The engine's functions are called by functions in public alone.
-- Later migrations close what they add themselves.

revoke execute on all functions in schema queue from public, anon, authenticated, service_role;
grant execute on function queue.my_workspaces, queue.my_managed_workspaces, queue.is_member, queue.is_manager,
  queue.visible_tenants, queue.visible_members,
  queue.clock, queue.new_id -- the last two for the defaults of rows they insert
  to authenticated, service_role;
