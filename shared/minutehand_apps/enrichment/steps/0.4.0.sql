-- afterwards
-- What people write there is charged.
select queue.charge_rows(
  'public.workspace_settings',
  'public.accounts',
  'public.contacts'
);
