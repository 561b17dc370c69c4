-- world title_profile: 17 of 78 features
WITH "plays_part" AS (
  SELECT
    "t0"."title_id",
    COUNT(*) FILTER(WHERE
      "t0"."days_ago" <= 1) AS "play_count_1d",
    COUNT(*) FILTER(WHERE
      "t0"."days_ago" <= 3) AS "play_count_3d",
    COUNT(*) FILTER(WHERE
      "t0"."days_ago" <= 7) AS "play_count_7d",
    COUNT(*) FILTER(WHERE
      "t0"."days_ago" <= 14) AS "play_count_14d",
    COUNT(*) FILTER(WHERE
      "t0"."days_ago" <= 28) AS "play_count_28d",
    COUNT(DISTINCT "t0"."user_id") FILTER(WHERE
      "t0"."days_ago" <= 28) AS "user_nunique_28d",
    AVG("t0"."watch_share") FILTER(WHERE
      "t0"."days_ago" <= 28) AS "watch_share_mean_28d",
    AVG(CAST("t0"."completed" AS DOUBLE)) FILTER(WHERE
      "t0"."days_ago" <= 28) AS "completed_share_28d"
  FROM "known_plays" AS "t0"
  GROUP BY
    1
),
"impressions_part" AS (
  SELECT
    "t0"."title_id",
    COUNT(*) FILTER(WHERE
      "t0"."days_ago" <= 1) AS "impression_count_1d"
  FROM "known_impressions" AS "t0"
  GROUP BY
    1
),
"hovers_part" AS (
  SELECT
    "t0"."title_id",
    SUM(CAST("t0"."clicked" AS INT)) FILTER(WHERE
      "t0"."days_ago" <= 1) AS "clicked_sum_1d",
    COUNT(*) FILTER(WHERE
      "t0"."days_ago" <= 28) AS "hover_count_28d",
    AVG(CAST("t0"."clicked" AS DOUBLE)) FILTER(WHERE
      "t0"."days_ago" <= 28) AS "clicked_share_28d"
  FROM "known_hovers" AS "t0"
  GROUP BY
    1
),
"stored" AS (
  SELECT
    title_id,
    "runtime_minutes",
    "genre_count",
    coalesce("play_count_1d", 0.0) AS "play_count_1d",
    coalesce("play_count_3d", 0.0) AS "play_count_3d",
    coalesce("play_count_7d", 0.0) AS "play_count_7d",
    coalesce("play_count_14d", 0.0) AS "play_count_14d",
    coalesce("play_count_28d", 0.0) AS "play_count_28d",
    coalesce("impression_count_1d", 0.0) AS "impression_count_1d",
    coalesce("clicked_sum_1d", 0.0) AS "clicked_sum_1d",
    coalesce("user_nunique_28d", 0.0) AS "user_nunique_28d",
    "watch_share_mean_28d",
    "completed_share_28d",
    coalesce("hover_count_28d", 0.0) AS "hover_count_28d",
    "clicked_share_28d"
  FROM (
    SELECT
      "t0"."title_id",
      "t0"."runtime_minutes",
      CAST("t0"."genre_count" AS DOUBLE) AS "genre_count"
    FROM "known_titles" AS "t0"
  )
  LEFT JOIN "plays_part" USING (title_id)
  LEFT JOIN "impressions_part" USING (title_id)
  LEFT JOIN "hovers_part" USING (title_id)
)
SELECT
  title_id,
  CAST("runtime_minutes" AS FLOAT) AS "runtime_minutes" /* dd614b81ab6a995a */,
  CAST("genre_count" AS FLOAT) AS "genre_count" /* 4d957647743e4f2b */,
  CAST("play_count_1d" AS FLOAT) AS "play_count_1d" /* f9a1d21808dfb0d2 */,
  CAST("play_count_3d" AS FLOAT) AS "play_count_3d" /* 66fa0f903817a88d */,
  CAST("play_count_7d" AS FLOAT) AS "play_count_7d" /* 96aa6debdc00b017 */,
  CAST("play_count_14d" AS FLOAT) AS "play_count_14d" /* f6b77e9a8ce19838 */,
  CAST("play_count_28d" AS FLOAT) AS "play_count_28d" /* 6665d9bc78d04ac4 */,
  CAST("impression_count_1d" AS FLOAT) AS "impression_count_1d" /* 5a405a978b639f40 */,
  CAST("clicked_sum_1d" AS FLOAT) AS "clicked_sum_1d" /* d705b2774d48ddc1 */,
  CAST("user_nunique_28d" AS FLOAT) AS "user_nunique_28d" /* a6a2c62b96b624cf */,
  CAST("watch_share_mean_28d" AS FLOAT) AS "watch_share_mean_28d" /* 3246452771e0f199 */,
  CAST("completed_share_28d" AS FLOAT) AS "completed_share_28d" /* 87e63854e0b9ed6f */,
  CAST("hover_count_28d" AS FLOAT) AS "hover_count_28d" /* 16854e24a756f627 */,
  CAST("clicked_share_28d" AS FLOAT) AS "clicked_share_28d" /* 99f3079e1c93e318 */,
  CAST((CAST("play_count_1d" AS DOUBLE) / NULLIF(CAST("impression_count_1d" AS DOUBLE), 0)) AS FLOAT) AS "play_per_impression_1d" /* 4ab9d7eac6050205 */,
  CAST((CAST("clicked_sum_1d" AS DOUBLE) / NULLIF(CAST("impression_count_1d" AS DOUBLE), 0)) AS FLOAT) AS "click_per_impression_1d" /* 72d6bddf7cb80236 */,
  CAST((CAST("play_count_1d" AS DOUBLE) / NULLIF(CAST("play_count_3d" AS DOUBLE), 0)) AS FLOAT) AS "play_momentum_1d_of_3d" /* ff002252ac585cce */
FROM stored
ORDER BY title_id
