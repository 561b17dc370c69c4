-- world recent_plays: 2 of 2 features
SELECT
  user_id,
  event_timestamp,
  created_timestamp,
  CAST(play_id AS BIGINT) AS "play_id" /* f45ad3a039eb1b0c */,
  CAST(title_id AS BIGINT) AS "title_id" /* 5cacbe8297a56075 */
FROM known_history
QUALIFY row_number() OVER (PARTITION BY user_id ORDER BY event_timestamp DESC, play_id DESC) <= 50
ORDER BY user_id, event_timestamp, play_id
