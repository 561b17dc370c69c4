-- movielens user_title: 2 of 93 features
CAST((CAST("title_activity:rating_mean_7d" AS DOUBLE) - CAST("user_activity:rating_mean_7d" AS DOUBLE)) AS FLOAT) AS "user_title:rating_mean_7d_over_habit" /* bfcfa6ca08d1beaa */,
CAST((CAST("title_activity:rating_mean_7d" AS DOUBLE) * CAST("user_activity:rating_mean_7d" AS DOUBLE)) AS FLOAT) AS "user_title:rating_mean_7d_times_habit" /* 4703b758003c49e4 */,
