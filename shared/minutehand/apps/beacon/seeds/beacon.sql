-- Beacon's demo measures the local stack itself, which only a development database allows.
-- The worker asks for STAGE=local besides.

update queue.settings set value = 'true' where name = 'beacon_private_addresses';
