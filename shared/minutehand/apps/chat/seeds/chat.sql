-- Ids as people type them when they try the chat here; elsewhere they must be harder to guess.
update queue.settings set value = '8', updated_at = queue.clock() where name = 'chat_session_id_min_characters';
