WITH versions AS (
  SELECT dataset, series_id, qualifier, tokens, revision, ts_publish,
         -- A period is the publisher's own days: midnight in Beijing for China's.
         CASE WHEN jurisdiction = 'CN' THEN period_start + INTERVAL '8 hours' ELSE period_start END AS first_day,
         CASE WHEN jurisdiction = 'CN' THEN period_end - INTERVAL '16 hours' ELSE period_end - INTERVAL '1 day' END AS last_day,
         ts_publish <= TIMESTAMP '2026-05-28T23:59:59Z' AS by_then
  FROM token_usage
  WHERE stat = 'daily_average' AND ts_publish IS NOT NULL AND dataset IN ('CN.NDA.USAGE', 'SYN.USAGE')
),
standing AS (
  SELECT *,
         row_number() OVER (PARTITION BY dataset, series_id, first_day, qualifier ORDER BY revision DESC) AS now_rank,
         row_number() OVER (PARTITION BY dataset, series_id, first_day, qualifier ORDER BY by_then DESC, revision DESC) AS then_rank
  FROM versions
),
known_then AS (
  SELECT dataset AS d, series_id AS s, first_day AS f, qualifier AS q, tokens AS tokens_then FROM standing WHERE then_rank = 1 AND by_then
)
SELECT dataset, CAST(first_day AS DATE) AS first_day, CAST(last_day AS DATE) AS last_day, qualifier,
       tokens_then AS tokens_by_2026_05_28, tokens AS tokens_now, tokens <> tokens_then AS restated
FROM standing
LEFT JOIN known_then ON d = dataset AND s = series_id AND f = first_day AND q = qualifier
WHERE now_rank = 1
ORDER BY dataset, first_day, qualifier
