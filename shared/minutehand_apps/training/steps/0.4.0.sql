-- The key of a link that opens for anyone who has it; null: there is none.
alter table public.trainings
  add column share_id uuid,
  add constraint trainings_one_share unique (share_id);

-- afterwards
-- What people write there is charged.
select queue.charge_rows('public.trainings');
