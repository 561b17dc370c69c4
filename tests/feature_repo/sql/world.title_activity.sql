-- world title_activity: 22 of 125 features
WITH "plays_part" AS (
  SELECT
    "t0"."title_id",
    COUNT(DISTINCT "t0"."user_id") FILTER(WHERE
      "t0"."days_ago" <= 1) AS "user_nunique_1d",
    COUNT(DISTINCT "t0"."user_id") FILTER(WHERE
      "t0"."days_ago" <= 3) AS "user_nunique_3d",
    COUNT(DISTINCT "t0"."user_id") FILTER(WHERE
      "t0"."days_ago" <= 7) AS "user_nunique_7d",
    COUNT(DISTINCT "t0"."user_id") FILTER(WHERE
      "t0"."days_ago" <= 14) AS "user_nunique_14d",
    SUM("t0"."watch_minutes") FILTER(WHERE
      "t0"."days_ago" <= 1) AS "watch_minutes_sum_1d",
    SUM("t0"."watch_minutes") FILTER(WHERE
      "t0"."days_ago" <= 28) AS "watch_minutes_sum_28d",
    AVG("t0"."watch_minutes") FILTER(WHERE
      "t0"."days_ago" <= 1) AS "watch_minutes_mean_1d",
    SQRT(
      CASE
        WHEN (
          AVG("t0"."watch_share" * "t0"."watch_share") FILTER(WHERE
            "t0"."days_ago" <= 1) - (
            AVG("t0"."watch_share") FILTER(WHERE
              "t0"."days_ago" <= 1) * AVG("t0"."watch_share") FILTER(WHERE
              "t0"."days_ago" <= 1)
          )
        ) IS NULL
        THEN AVG("t0"."watch_share" * "t0"."watch_share") FILTER(WHERE
          "t0"."days_ago" <= 1) - (
          AVG("t0"."watch_share") FILTER(WHERE
            "t0"."days_ago" <= 1) * AVG("t0"."watch_share") FILTER(WHERE
            "t0"."days_ago" <= 1)
        )
        ELSE GREATEST(
          0.0,
          AVG("t0"."watch_share" * "t0"."watch_share") FILTER(WHERE
            "t0"."days_ago" <= 1) - (
            AVG("t0"."watch_share") FILTER(WHERE
              "t0"."days_ago" <= 1) * AVG("t0"."watch_share") FILTER(WHERE
              "t0"."days_ago" <= 1)
          )
        )
      END
    ) AS "watch_share_std_1d",
    AVG(CAST("t0"."completed" AS DOUBLE)) FILTER(WHERE
      "t0"."days_ago" <= 1) AS "completed_share_1d",
    COUNT(*) FILTER(WHERE
      (
        "t0"."days_ago" <= 7
      ) AND "t0"."at_night") AS "play_count_7d_at_night",
    COUNT(*) FILTER(WHERE
      (
        "t0"."days_ago" <= 7
      ) AND "t0"."on_weekend") AS "play_count_7d_on_weekend",
    AVG(CAST("t0"."completed" AS DOUBLE)) FILTER(WHERE
      (
        "t0"."days_ago" <= 7
      ) AND "t0"."at_night") AS "completed_share_7d_at_night",
    AVG("t0"."watch_share") FILTER(WHERE
      (
        "t0"."days_ago" <= 7
      ) AND "t0"."on_tv") AS "watch_share_mean_7d_on_tv",
    MIN("t0"."days_ago") AS "days_since_play"
  FROM "known_plays" AS "t0"
  GROUP BY
    1
),
"impressions_part" AS (
  SELECT
    "t0"."title_id",
    AVG("t0"."position") FILTER(WHERE
      "t0"."days_ago" <= 1) AS "position_mean_1d",
    AVG(CAST("t0"."above_fold" AS DOUBLE)) FILTER(WHERE
      "t0"."days_ago" <= 1) AS "above_fold_share_1d",
    COUNT(*) FILTER(WHERE
      (
        "t0"."days_ago" <= 28
      ) AND "t0"."on_tv") AS "impression_count_28d_on_tv"
  FROM "known_impressions" AS "t0"
  GROUP BY
    1
),
"hovers_part" AS (
  SELECT
    "t0"."title_id",
    COUNT(*) FILTER(WHERE
      "t0"."days_ago" <= 1) AS "hover_count_1d",
    AVG(CAST("t0"."clicked" AS DOUBLE)) FILTER(WHERE
      "t0"."days_ago" <= 1) AS "clicked_share_1d",
    SUM("t0"."dwell_seconds") FILTER(WHERE
      "t0"."days_ago" <= 1) AS "dwell_seconds_sum_1d",
    AVG("t0"."dwell_seconds") FILTER(WHERE
      "t0"."days_ago" <= 1) AS "dwell_seconds_mean_1d"
  FROM "known_hovers" AS "t0"
  GROUP BY
    1
),
"stored" AS (
  SELECT
    title_id,
    coalesce("user_nunique_1d", 0.0) AS "user_nunique_1d",
    coalesce("user_nunique_3d", 0.0) AS "user_nunique_3d",
    coalesce("user_nunique_7d", 0.0) AS "user_nunique_7d",
    coalesce("user_nunique_14d", 0.0) AS "user_nunique_14d",
    coalesce("watch_minutes_sum_1d", 0.0) AS "watch_minutes_sum_1d",
    coalesce("watch_minutes_sum_28d", 0.0) AS "watch_minutes_sum_28d",
    "watch_minutes_mean_1d",
    "watch_share_std_1d",
    "completed_share_1d",
    "position_mean_1d",
    "above_fold_share_1d",
    coalesce("hover_count_1d", 0.0) AS "hover_count_1d",
    "clicked_share_1d",
    coalesce("dwell_seconds_sum_1d", 0.0) AS "dwell_seconds_sum_1d",
    "dwell_seconds_mean_1d",
    coalesce("play_count_7d_at_night", 0.0) AS "play_count_7d_at_night",
    coalesce("play_count_7d_on_weekend", 0.0) AS "play_count_7d_on_weekend",
    "completed_share_7d_at_night",
    "watch_share_mean_7d_on_tv",
    coalesce("impression_count_28d_on_tv", 0.0) AS "impression_count_28d_on_tv",
    "is_simulated",
    "days_since_play"
  FROM (
    SELECT
      "t0"."title_id",
      CAST("t0"."is_simulated" AS DOUBLE) AS "is_simulated"
    FROM "known_titles" AS "t0"
  )
  LEFT JOIN "plays_part" USING (title_id)
  LEFT JOIN "impressions_part" USING (title_id)
  LEFT JOIN "hovers_part" USING (title_id)
)
SELECT
  title_id,
  CAST("user_nunique_1d" AS FLOAT) AS "user_nunique_1d" /* c778e5a22cc4bbeb */,
  CAST("user_nunique_3d" AS FLOAT) AS "user_nunique_3d" /* 15cf407a07861b2f */,
  CAST("user_nunique_7d" AS FLOAT) AS "user_nunique_7d" /* 3c700424c186d963 */,
  CAST("user_nunique_14d" AS FLOAT) AS "user_nunique_14d" /* adf3c897c435270a */,
  CAST("watch_minutes_sum_1d" AS FLOAT) AS "watch_minutes_sum_1d" /* 83cf87003f79b89e */,
  CAST("watch_minutes_sum_28d" AS FLOAT) AS "watch_minutes_sum_28d" /* 3ff8191ede792935 */,
  CAST("watch_minutes_mean_1d" AS FLOAT) AS "watch_minutes_mean_1d" /* b88da2465024a879 */,
  CAST("watch_share_std_1d" AS FLOAT) AS "watch_share_std_1d" /* 4f3336950071e245 */,
  CAST("completed_share_1d" AS FLOAT) AS "completed_share_1d" /* 0e20d3589c17e23f */,
  CAST("position_mean_1d" AS FLOAT) AS "position_mean_1d" /* 1079060dabf0d95e */,
  CAST("above_fold_share_1d" AS FLOAT) AS "above_fold_share_1d" /* 43a43cf27ded8402 */,
  CAST("hover_count_1d" AS FLOAT) AS "hover_count_1d" /* b963aa8de747a6f7 */,
  CAST("clicked_share_1d" AS FLOAT) AS "clicked_share_1d" /* 11ea22751fa0d462 */,
  CAST("dwell_seconds_sum_1d" AS FLOAT) AS "dwell_seconds_sum_1d" /* 2e267bf9da930dc8 */,
  CAST("dwell_seconds_mean_1d" AS FLOAT) AS "dwell_seconds_mean_1d" /* 3021c0eaf5de7916 */,
  CAST("play_count_7d_at_night" AS FLOAT) AS "play_count_7d_at_night" /* cbbf13e2c0ee043d */,
  CAST("play_count_7d_on_weekend" AS FLOAT) AS "play_count_7d_on_weekend" /* dac034eaa4567032 */,
  CAST("completed_share_7d_at_night" AS FLOAT) AS "completed_share_7d_at_night" /* 332d23097c4ea041 */,
  CAST("watch_share_mean_7d_on_tv" AS FLOAT) AS "watch_share_mean_7d_on_tv" /* 330f1f1879459e5e */,
  CAST("impression_count_28d_on_tv" AS FLOAT) AS "impression_count_28d_on_tv" /* 675f8ff45fa81316 */,
  CAST("is_simulated" AS FLOAT) AS "is_simulated" /* 8c9bd1a615b515e9 */,
  CAST("days_since_play" AS FLOAT) AS "days_since_play" /* afa8e93f93f8264e */
FROM stored
ORDER BY title_id
