-- movielens user_profile: 2 of 47 features
WITH "plays_part" AS (
  SELECT
    "t0"."user_id",
    COUNT(*) FILTER(WHERE
      "t0"."days_ago" <= 90) AS "play_count_90d",
    COUNT(*) FILTER(WHERE
      "t0"."days_ago" <= 3650) AS "play_count_3650d"
  FROM "known_plays" AS "t0"
  GROUP BY
    1
),
"stored" AS (
  SELECT
    user_id,
    coalesce("play_count_90d", 0.0) AS "play_count_90d",
    coalesce("play_count_3650d", 0.0) AS "play_count_3650d"
  FROM (
    SELECT
      "t0"."user_id"
    FROM "known_users" AS "t0"
  )
  LEFT JOIN "plays_part" USING (user_id)
)
SELECT
  user_id,
  CAST("play_count_90d" AS FLOAT) AS "play_count_90d" /* c7660d5ad5ec819e */,
  CAST("play_count_3650d" AS FLOAT) AS "play_count_3650d" /* f635f1aa9f1dbcb2 */
FROM stored
ORDER BY user_id
