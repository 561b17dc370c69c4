-- world artwork_profile: 2 of 28 features
WITH "stored" AS (
  SELECT
    artwork_id,
    "brightness",
    "in_action"
  FROM (
    SELECT
      "t0"."artwork_id",
      "t0"."brightness",
      CAST("t0"."in_action" AS DOUBLE) AS "in_action"
    FROM "known_artworks" AS "t0"
  )
)
SELECT
  artwork_id,
  CAST("brightness" AS FLOAT) AS "brightness" /* eccb5227d752c53e */,
  CAST("in_action" AS FLOAT) AS "in_action" /* 382f863a92b25e1f */
FROM stored
ORDER BY artwork_id
