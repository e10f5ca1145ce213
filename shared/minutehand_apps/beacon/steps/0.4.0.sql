-- afterwards
-- What people write there is charged.
select queue.charge_rows('public.beacon_jobs');
