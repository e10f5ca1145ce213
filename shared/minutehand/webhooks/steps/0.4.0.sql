-- Maintenance knows this task by its row.
update queue.tasks set reads_feed = true where name = 'webhooks';

-- afterwards
alter table queue.webhooks alter column read_to set default queue.feed_position();
-- also where a restore had left positions above what this server has come to
select setval('queue.feed_reached', greatest(
  pg_sequence_last_value('queue.feed_reached'),
  (select max(w.read_to) from queue.webhooks as w)
));
