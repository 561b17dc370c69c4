-- kuairand user_activity: 1 of 185 features
WITH "plays_part" AS (
  SELECT
    "t0"."user_id",
    COUNT(*) FILTER(WHERE
      "t0"."days_ago" <= 2) AS "play_count_2d"
  FROM "known_plays" AS "t0"
  GROUP BY
    1
),
"stored" AS (
  SELECT
    user_id,
    coalesce("play_count_2d", 0.0) AS "play_count_2d"
  FROM (
    SELECT
      "t0"."user_id"
    FROM "known_users" AS "t0"
  )
  LEFT JOIN "plays_part" USING (user_id)
)
SELECT
  user_id,
  CAST("play_count_2d" AS FLOAT) AS "play_count_2d" /* cea883f844e8a6bd */
FROM stored
ORDER BY user_id
