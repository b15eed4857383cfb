WITH versions AS (
  SELECT dataset, series_id, period_start, period_end, tokens, qualifier, ts_publish, revision,
         row_number() OVER (PARTITION BY dataset, series_id, period_start, qualifier ORDER BY revision DESC) AS now_rank,
         row_number() OVER (
           PARTITION BY dataset, series_id, period_start, qualifier
           ORDER BY CASE WHEN ts_publish <= TIMESTAMP '2026-05-28T23:59:59Z' THEN revision ELSE -1 END DESC
         ) AS then_rank
  FROM token_usage
  WHERE stat = 'daily_average' AND dataset IN ('CN.NDA.USAGE', 'SYN.USAGE')
),
now_row AS (SELECT * FROM versions WHERE now_rank = 1),
then_row AS (SELECT * FROM versions WHERE then_rank = 1 AND ts_publish <= TIMESTAMP '2026-05-28T23:59:59Z')
SELECT n.dataset, CAST(n.period_start AS DATE) AS period_from, CAST(n.period_end AS DATE) AS period_to, n.qualifier,
       t.tokens AS tokens_by_2026_05_28, n.tokens AS tokens_now, n.tokens <> t.tokens AS restated
FROM now_row n
LEFT JOIN then_row t
  ON t.dataset = n.dataset AND t.series_id = n.series_id AND t.period_start = n.period_start AND t.qualifier = n.qualifier
ORDER BY n.dataset, n.period_start, n.qualifier
