-- The key of a link that opens for anyone who has it; null: there is none.
alter table public.plans
  add column share_id uuid,
  add constraint plans_one_share unique (share_id);

-- afterwards
-- What people write there is charged.
select queue.charge_rows('public.plans');
