-- world user_profile: 19 of 74 features
WITH "plays_part" AS (
  SELECT
    "t0"."user_id",
    COUNT(*) FILTER(WHERE
      "t0"."days_ago" <= 7) AS "play_count_7d",
    COUNT(*) FILTER(WHERE
      "t0"."days_ago" <= 28) AS "play_count_28d",
    SUM("t0"."watch_minutes") FILTER(WHERE
      "t0"."days_ago" <= 7) AS "watch_minutes_sum_7d",
    AVG("t0"."watch_share") FILTER(WHERE
      "t0"."days_ago" <= 28) AS "watch_share_mean_28d",
    AVG(CAST("t0"."completed" AS DOUBLE)) FILTER(WHERE
      "t0"."days_ago" <= 28) AS "completed_share_28d",
    COUNT(DISTINCT "t0"."title_id") FILTER(WHERE
      "t0"."days_ago" <= 28) AS "title_nunique_28d",
    COUNT(*) FILTER(WHERE
      (
        "t0"."days_ago" <= 28
      ) AND "t0"."in_action") AS "play_count_28d_in_action",
    COUNT(*) FILTER(WHERE
      (
        "t0"."days_ago" <= 28
      ) AND "t0"."at_night") AS "play_count_28d_at_night",
    COUNT(*) FILTER(WHERE
      (
        "t0"."days_ago" <= 28
      ) AND "t0"."on_weekend") AS "play_count_28d_on_weekend"
  FROM "known_plays" AS "t0"
  GROUP BY
    1
),
"impressions_part" AS (
  SELECT
    "t0"."user_id",
    COUNT(*) FILTER(WHERE
      "t0"."days_ago" <= 7) AS "impression_count_7d"
  FROM "known_impressions" AS "t0"
  GROUP BY
    1
),
"hovers_part" AS (
  SELECT
    "t0"."user_id",
    COUNT(*) FILTER(WHERE
      "t0"."days_ago" <= 7) AS "hover_count_7d",
    SUM(CAST("t0"."clicked" AS INT)) FILTER(WHERE
      "t0"."days_ago" <= 7) AS "clicked_sum_7d",
    AVG(CAST("t0"."clicked" AS DOUBLE)) FILTER(WHERE
      "t0"."days_ago" <= 28) AS "clicked_share_28d",
    AVG("t0"."dwell_seconds") FILTER(WHERE
      "t0"."days_ago" <= 28) AS "dwell_seconds_mean_28d"
  FROM "known_hovers" AS "t0"
  GROUP BY
    1
),
"stored" AS (
  SELECT
    user_id,
    "days_member",
    coalesce("play_count_7d", 0.0) AS "play_count_7d",
    coalesce("play_count_28d", 0.0) AS "play_count_28d",
    coalesce("watch_minutes_sum_7d", 0.0) AS "watch_minutes_sum_7d",
    coalesce("impression_count_7d", 0.0) AS "impression_count_7d",
    coalesce("hover_count_7d", 0.0) AS "hover_count_7d",
    coalesce("clicked_sum_7d", 0.0) AS "clicked_sum_7d",
    "watch_share_mean_28d",
    "completed_share_28d",
    coalesce("title_nunique_28d", 0.0) AS "title_nunique_28d",
    "clicked_share_28d",
    "dwell_seconds_mean_28d",
    coalesce("play_count_28d_in_action", 0.0) AS "play_count_28d_in_action",
    coalesce("play_count_28d_at_night", 0.0) AS "play_count_28d_at_night",
    coalesce("play_count_28d_on_weekend", 0.0) AS "play_count_28d_on_weekend",
    "owns_tv"
  FROM (
    SELECT
      "t0"."user_id",
      "t0"."days_member",
      CAST("t0"."owns_tv" AS DOUBLE) AS "owns_tv"
    FROM "known_users" AS "t0"
  )
  LEFT JOIN "plays_part" USING (user_id)
  LEFT JOIN "impressions_part" USING (user_id)
  LEFT JOIN "hovers_part" USING (user_id)
)
SELECT
  user_id,
  CAST("days_member" AS FLOAT) AS "days_member" /* 76b5366b896e584f */,
  CAST("play_count_7d" AS FLOAT) AS "play_count_7d" /* 12880f5ec1c07a58 */,
  CAST("play_count_28d" AS FLOAT) AS "play_count_28d" /* e9357eab946ad361 */,
  CAST("watch_minutes_sum_7d" AS FLOAT) AS "watch_minutes_sum_7d" /* e8c09bae06811c4a */,
  CAST("impression_count_7d" AS FLOAT) AS "impression_count_7d" /* 61f6102246dce75c */,
  CAST("hover_count_7d" AS FLOAT) AS "hover_count_7d" /* fc38cc32e7e55f00 */,
  CAST("clicked_sum_7d" AS FLOAT) AS "clicked_sum_7d" /* a7da46110589d0bb */,
  CAST("watch_share_mean_28d" AS FLOAT) AS "watch_share_mean_28d" /* 677f4ea7b9d474b7 */,
  CAST("completed_share_28d" AS FLOAT) AS "completed_share_28d" /* 849a036098574754 */,
  CAST("title_nunique_28d" AS FLOAT) AS "title_nunique_28d" /* 87bbe58f7d800cb8 */,
  CAST("clicked_share_28d" AS FLOAT) AS "clicked_share_28d" /* a4aa41c8ff72e74b */,
  CAST("dwell_seconds_mean_28d" AS FLOAT) AS "dwell_seconds_mean_28d" /* d3fcb81acf6e130d */,
  CAST((CAST("play_count_7d" AS DOUBLE) / NULLIF(CAST("impression_count_7d" AS DOUBLE), 0)) AS FLOAT) AS "play_per_impression_7d" /* 19417d114e336e19 */,
  CAST((CAST("clicked_sum_7d" AS DOUBLE) / NULLIF(CAST("impression_count_7d" AS DOUBLE), 0)) AS FLOAT) AS "click_per_impression_7d" /* 0ea6da258abf651e */,
  CAST("play_count_28d_in_action" AS FLOAT) AS "play_count_28d_in_action" /* fd2a24e3fb82c901 */,
  CAST("play_count_28d_at_night" AS FLOAT) AS "play_count_28d_at_night" /* 06039d2e5e002286 */,
  CAST("play_count_28d_on_weekend" AS FLOAT) AS "play_count_28d_on_weekend" /* ef43799bc4119739 */,
  CAST((CAST("play_count_28d_at_night" AS DOUBLE) / NULLIF(CAST("play_count_28d" AS DOUBLE), 0)) AS FLOAT) AS "play_share_28d_at_night" /* cff3775fc065be6f */,
  CAST("owns_tv" AS FLOAT) AS "owns_tv" /* f52f44684561a963 */
FROM stored
ORDER BY user_id
