-- kuairand user_profile: 1 of 62 features
WITH "plays_part" AS (
  SELECT
    "t0"."user_id",
    COUNT(*) FILTER(WHERE
      "t0"."days_ago" <= 4) AS "play_count_4d"
  FROM "known_plays" AS "t0"
  GROUP BY
    1
),
"stored" AS (
  SELECT
    user_id,
    coalesce("play_count_4d", 0.0) AS "play_count_4d"
  FROM (
    SELECT
      "t0"."user_id"
    FROM "known_users" AS "t0"
  )
  LEFT JOIN "plays_part" USING (user_id)
)
SELECT
  user_id,
  CAST("play_count_4d" AS FLOAT) AS "play_count_4d" /* 48cc807dc914bc08 */
FROM stored
ORDER BY user_id
