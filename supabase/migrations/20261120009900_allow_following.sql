-- Who may join the private topics. Alone and last: on a hosted project realtime.messages belongs to
-- Supabase, and a refusal here must not undo the rest.

do $$
begin
  if to_regclass('realtime.messages') is null then
    raise warning 'realtime.messages does not exist: clients will poll until Realtime is enabled and this migration is repeated';
    return;
  end if;
  drop policy if exists "minutehand: members follow their jobs" on realtime.messages;
  create policy "minutehand: members follow their jobs" on realtime.messages
    for select to authenticated
    using (extension = 'broadcast' and (select queue.may_follow((select realtime.topic()))));
  -- one policy a role, so that each join evaluates the function once
  drop policy if exists "minutehand: guests follow their session" on realtime.messages;
  create policy "minutehand: guests follow their session" on realtime.messages
    for select to anon
    using (extension = 'broadcast' and (select queue.may_follow((select realtime.topic()))));
exception when insufficient_privilege then
  raise warning 'no right to create policies on realtime.messages: run this migration''s statements in the dashboard''s SQL editor; clients poll until then';
end;
$$;
