-- The upgrade takes functions, views, triggers, policies, grants, comments and new columns from
-- supabase/schemas. This file has the changes that the schemas cannot express.

-- The webhooks of 0.5.1 do not read queue.feed.leased_ids, so do not run the task `webhooks` before
-- the migration of webhooks.
update queue.tasks set retry_at = 'infinity' where name = 'webhooks';

-- afterwards

alter table queue.feed
  alter leased_ids set storage external,
  alter leased_seqs set storage external;
