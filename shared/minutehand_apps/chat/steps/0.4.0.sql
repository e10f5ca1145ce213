-- afterwards
-- What people write there is charged.
select queue.charge_rows(
  'public.async_session_state',
  'public.async_messages'
);
