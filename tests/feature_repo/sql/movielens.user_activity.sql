-- movielens user_activity: 2 of 87 features
WITH "plays_part" AS (
  SELECT
    "t0"."user_id",
    COUNT(*) FILTER(WHERE
      "t0"."days_ago" <= 30) AS "play_count_30d",
    COUNT(*) FILTER(WHERE
      "t0"."days_ago" <= 365) AS "play_count_365d"
  FROM "known_plays" AS "t0"
  GROUP BY
    1
),
"stored" AS (
  SELECT
    user_id,
    coalesce("play_count_30d", 0.0) AS "play_count_30d",
    coalesce("play_count_365d", 0.0) AS "play_count_365d"
  FROM (
    SELECT
      "t0"."user_id"
    FROM "known_users" AS "t0"
  )
  LEFT JOIN "plays_part" USING (user_id)
)
SELECT
  user_id,
  CAST("play_count_30d" AS FLOAT) AS "play_count_30d" /* 9cc9ffe88b94b6ee */,
  CAST("play_count_365d" AS FLOAT) AS "play_count_365d" /* 2cec04ac437c1cb9 */
FROM stored
ORDER BY user_id
