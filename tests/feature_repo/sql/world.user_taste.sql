-- world user_taste: 1 of 20 features
WITH "plays_part" AS (
  SELECT
    "t0"."user_id",
    AVG(CAST("t0"."in_action" AS DOUBLE)) FILTER(WHERE
      "t0"."days_ago" <= 28) AS "in_action_share_28d"
  FROM "known_plays" AS "t0"
  GROUP BY
    1
),
"stored" AS (
  SELECT
    user_id,
    "in_action_share_28d"
  FROM (
    SELECT
      "t0"."user_id"
    FROM "known_users" AS "t0"
  )
  LEFT JOIN "plays_part" USING (user_id)
)
SELECT
  user_id,
  CAST("in_action_share_28d" AS FLOAT) AS "in_action_share_28d" /* b5011c9ec1edd7e9 */
FROM stored
ORDER BY user_id
