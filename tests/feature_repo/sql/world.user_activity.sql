-- world user_activity: 34 of 248 features
WITH "plays_part" AS (
  SELECT
    "t0"."user_id",
    COUNT(*) FILTER(WHERE
      "t0"."days_ago" <= 1) AS "play_count_1d",
    COUNT(*) FILTER(WHERE
      "t0"."days_ago" <= 3) AS "play_count_3d",
    COUNT(*) FILTER(WHERE
      "t0"."days_ago" <= 14) AS "play_count_14d",
    SUM("t0"."watch_minutes") FILTER(WHERE
      "t0"."days_ago" <= 1) AS "watch_minutes_sum_1d",
    AVG("t0"."watch_minutes") FILTER(WHERE
      "t0"."days_ago" <= 1) AS "watch_minutes_mean_1d",
    AVG("t0"."watch_minutes") FILTER(WHERE
      "t0"."days_ago" <= 7) AS "watch_minutes_mean_7d",
    AVG("t0"."watch_minutes") FILTER(WHERE
      "t0"."days_ago" <= 28) AS "watch_minutes_mean_28d",
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
    COUNT(DISTINCT "t0"."title_id") FILTER(WHERE
      "t0"."days_ago" <= 1) AS "title_nunique_1d",
    COUNT(*) FILTER(WHERE
      (
        "t0"."days_ago" <= 7
      ) AND "t0"."in_action") AS "play_count_7d_in_action",
    SUM("t0"."watch_minutes") FILTER(WHERE
      (
        "t0"."days_ago" <= 28
      ) AND "t0"."in_action") AS "watch_minutes_sum_28d_in_action",
    AVG("t0"."watch_share") FILTER(WHERE
      (
        "t0"."days_ago" <= 28
      ) AND "t0"."in_action") AS "watch_share_mean_28d_in_action",
    AVG(CAST("t0"."completed" AS DOUBLE)) FILTER(WHERE
      (
        "t0"."days_ago" <= 28
      ) AND "t0"."in_action") AS "completed_share_28d_in_action",
    SUM("t0"."watch_minutes") FILTER(WHERE
      (
        "t0"."days_ago" <= 28
      ) AND "t0"."at_night") AS "watch_minutes_sum_28d_at_night",
    SUM("t0"."watch_minutes") FILTER(WHERE
      (
        "t0"."days_ago" <= 28
      ) AND "t0"."on_weekend") AS "watch_minutes_sum_28d_on_weekend",
    COUNT(*) FILTER(WHERE
      (
        "t0"."days_ago" <= 28
      ) AND "t0"."spoken_english") AS "play_count_28d_spoken_english",
    COUNT(*) FILTER(WHERE
      (
        "t0"."days_ago" <= 28
      ) AND "t0"."from_before_1970") AS "play_count_28d_from_before_1970",
    MIN("t0"."days_ago") AS "days_since_play"
  FROM "known_plays" AS "t0"
  GROUP BY
    1
),
"impressions_part" AS (
  SELECT
    "t0"."user_id",
    COUNT(*) FILTER(WHERE
      "t0"."days_ago" <= 1) AS "impression_count_1d",
    AVG("t0"."position") FILTER(WHERE
      "t0"."days_ago" <= 1) AS "position_mean_1d",
    COUNT(*) FILTER(WHERE
      (
        "t0"."days_ago" <= 28
      ) AND "t0"."in_action") AS "impression_count_28d_in_action",
    MIN("t0"."days_ago") AS "days_since_impression"
  FROM "known_impressions" AS "t0"
  GROUP BY
    1
),
"hovers_part" AS (
  SELECT
    "t0"."user_id",
    COUNT(*) FILTER(WHERE
      "t0"."days_ago" <= 1) AS "hover_count_1d",
    SUM(CAST("t0"."clicked" AS INT)) FILTER(WHERE
      "t0"."days_ago" <= 1) AS "clicked_sum_1d",
    AVG(CAST("t0"."clicked" AS DOUBLE)) FILTER(WHERE
      "t0"."days_ago" <= 1) AS "clicked_share_1d",
    SUM("t0"."dwell_seconds") FILTER(WHERE
      "t0"."days_ago" <= 1) AS "dwell_seconds_sum_1d",
    AVG("t0"."dwell_seconds") FILTER(WHERE
      "t0"."days_ago" <= 1) AS "dwell_seconds_mean_1d",
    SUM(CAST("t0"."clicked" AS INT)) FILTER(WHERE
      (
        "t0"."days_ago" <= 28
      ) AND "t0"."in_action") AS "clicked_sum_28d_in_action",
    MIN("t0"."days_ago") AS "days_since_click"
  FROM "known_hovers" AS "t0"
  GROUP BY
    1
),
"memberships_part" AS (
  SELECT
    "t0"."user_id",
    COUNT(*) FILTER(WHERE
      "t0"."status" = 'renewed') AS "renewal_count",
    MAX("t0"."days_to_end") FILTER(WHERE
      "t0"."newest" = 1) AS "days_to_period_end"
  FROM "known_memberships" AS "t0"
  GROUP BY
    1
),
"stored" AS (
  SELECT
    user_id,
    coalesce("play_count_1d", 0.0) AS "play_count_1d",
    coalesce("play_count_3d", 0.0) AS "play_count_3d",
    coalesce("play_count_14d", 0.0) AS "play_count_14d",
    coalesce("watch_minutes_sum_1d", 0.0) AS "watch_minutes_sum_1d",
    "watch_minutes_mean_1d",
    "watch_minutes_mean_7d",
    "watch_minutes_mean_28d",
    "watch_share_std_1d",
    "completed_share_1d",
    coalesce("title_nunique_1d", 0.0) AS "title_nunique_1d",
    coalesce("impression_count_1d", 0.0) AS "impression_count_1d",
    "position_mean_1d",
    coalesce("hover_count_1d", 0.0) AS "hover_count_1d",
    coalesce("clicked_sum_1d", 0.0) AS "clicked_sum_1d",
    "clicked_share_1d",
    coalesce("dwell_seconds_sum_1d", 0.0) AS "dwell_seconds_sum_1d",
    "dwell_seconds_mean_1d",
    coalesce("play_count_7d_in_action", 0.0) AS "play_count_7d_in_action",
    coalesce("watch_minutes_sum_28d_in_action", 0.0) AS "watch_minutes_sum_28d_in_action",
    "watch_share_mean_28d_in_action",
    "completed_share_28d_in_action",
    coalesce("clicked_sum_28d_in_action", 0.0) AS "clicked_sum_28d_in_action",
    coalesce("impression_count_28d_in_action", 0.0) AS "impression_count_28d_in_action",
    coalesce("watch_minutes_sum_28d_at_night", 0.0) AS "watch_minutes_sum_28d_at_night",
    coalesce("watch_minutes_sum_28d_on_weekend", 0.0) AS "watch_minutes_sum_28d_on_weekend",
    coalesce("play_count_28d_spoken_english", 0.0) AS "play_count_28d_spoken_english",
    coalesce("play_count_28d_from_before_1970", 0.0) AS "play_count_28d_from_before_1970",
    "days_since_play",
    "days_since_impression",
    "days_since_click",
    coalesce("renewal_count", 0.0) AS "renewal_count",
    "days_to_period_end"
  FROM (
    SELECT
      "t0"."user_id"
    FROM "known_users" AS "t0"
  )
  LEFT JOIN "plays_part" USING (user_id)
  LEFT JOIN "impressions_part" USING (user_id)
  LEFT JOIN "hovers_part" USING (user_id)
  LEFT JOIN "memberships_part" USING (user_id)
)
SELECT
  user_id,
  CAST("play_count_1d" AS FLOAT) AS "play_count_1d" /* 76f74df109315bd3 */,
  CAST("play_count_3d" AS FLOAT) AS "play_count_3d" /* 35c2cc0f30743108 */,
  CAST("play_count_14d" AS FLOAT) AS "play_count_14d" /* 30bd83b69f4fff00 */,
  CAST("watch_minutes_sum_1d" AS FLOAT) AS "watch_minutes_sum_1d" /* 47663aefc531f722 */,
  CAST("watch_minutes_mean_1d" AS FLOAT) AS "watch_minutes_mean_1d" /* 49f376f3039b12cb */,
  CAST("watch_minutes_mean_7d" AS FLOAT) AS "watch_minutes_mean_7d" /* 2ff42c5680320ac2 */,
  CAST("watch_minutes_mean_28d" AS FLOAT) AS "watch_minutes_mean_28d" /* 8439ea7e78e8137d */,
  CAST("watch_share_std_1d" AS FLOAT) AS "watch_share_std_1d" /* 136f03305f9dc0a9 */,
  CAST("completed_share_1d" AS FLOAT) AS "completed_share_1d" /* 2f033299852ee657 */,
  CAST("title_nunique_1d" AS FLOAT) AS "title_nunique_1d" /* 368839b1fd5fec5c */,
  CAST("impression_count_1d" AS FLOAT) AS "impression_count_1d" /* f03e3568258e6716 */,
  CAST("position_mean_1d" AS FLOAT) AS "position_mean_1d" /* 9b6a896ac13952ee */,
  CAST("hover_count_1d" AS FLOAT) AS "hover_count_1d" /* f9f282b216f8d57f */,
  CAST("clicked_sum_1d" AS FLOAT) AS "clicked_sum_1d" /* e77952bf8514ddf4 */,
  CAST("clicked_share_1d" AS FLOAT) AS "clicked_share_1d" /* ff07dc252829f60c */,
  CAST("dwell_seconds_sum_1d" AS FLOAT) AS "dwell_seconds_sum_1d" /* b00148338d92627f */,
  CAST("dwell_seconds_mean_1d" AS FLOAT) AS "dwell_seconds_mean_1d" /* 2c6bece3a56485e0 */,
  CAST((CAST("play_count_1d" AS DOUBLE) / NULLIF(CAST("impression_count_1d" AS DOUBLE), 0)) AS FLOAT) AS "play_per_impression_1d" /* dd9100889a1db472 */,
  CAST((CAST("clicked_sum_1d" AS DOUBLE) / NULLIF(CAST("impression_count_1d" AS DOUBLE), 0)) AS FLOAT) AS "click_per_impression_1d" /* 68a2ad07f6d3dfb5 */,
  CAST("play_count_7d_in_action" AS FLOAT) AS "play_count_7d_in_action" /* 14162c695bb92b01 */,
  CAST("watch_minutes_sum_28d_in_action" AS FLOAT) AS "watch_minutes_sum_28d_in_action" /* e3c8ccf70f7e0396 */,
  CAST("watch_share_mean_28d_in_action" AS FLOAT) AS "watch_share_mean_28d_in_action" /* 54c5062253c18991 */,
  CAST("completed_share_28d_in_action" AS FLOAT) AS "completed_share_28d_in_action" /* 5f603dd012d19606 */,
  CAST("clicked_sum_28d_in_action" AS FLOAT) AS "clicked_sum_28d_in_action" /* 3f3932e704f2d7eb */,
  CAST("impression_count_28d_in_action" AS FLOAT) AS "impression_count_28d_in_action" /* b92ae29d1f66f950 */,
  CAST("watch_minutes_sum_28d_at_night" AS FLOAT) AS "watch_minutes_sum_28d_at_night" /* 195602a63125d0f1 */,
  CAST("watch_minutes_sum_28d_on_weekend" AS FLOAT) AS "watch_minutes_sum_28d_on_weekend" /* 2f656e71f13f0de6 */,
  CAST("play_count_28d_spoken_english" AS FLOAT) AS "play_count_28d_spoken_english" /* c816c8730dfc5106 */,
  CAST("play_count_28d_from_before_1970" AS FLOAT) AS "play_count_28d_from_before_1970" /* 2c82da86c4615622 */,
  CAST("days_since_play" AS FLOAT) AS "days_since_play" /* 762463406bb578c6 */,
  CAST("days_since_impression" AS FLOAT) AS "days_since_impression" /* c2d4d84f0697a77e */,
  CAST("days_since_click" AS FLOAT) AS "days_since_click" /* ba4d587d763b3fcb */,
  CAST("renewal_count" AS FLOAT) AS "renewal_count" /* e03c4e8707b85d3a */,
  CAST("days_to_period_end" AS FLOAT) AS "days_to_period_end" /* 6663efa9ce734f6a */
FROM stored
ORDER BY user_id
