-- Accounts, contacts and imports of a workspace are bounded by quotas, as the engine's rows are.
-- An import's rows come from the worker, so a workspace that is full may not begin one.

select queue.bound_rows(q.relation, q.name, q.most)
from (values
  ('public.accounts'::regclass, 'max_accounts', 200000),
  ('public.contacts'::regclass, 'max_contacts', 200000),
  ('public.account_imports'::regclass, 'max_account_imports', 10000)
) as q (relation, name, most);

create trigger quota_of_accounts_is_held after insert on public.account_imports referencing new table as made
  for each statement execute function queue.hold_quota('max_accounts', 'false');
