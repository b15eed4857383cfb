WITH settled AS (
  SELECT dataset, symbol, price, currency, price_unit, ts_ref AS known_for,
         row_number() OVER (PARTITION BY dataset, symbol ORDER BY ts_event DESC, sequence DESC) AS latest
  FROM statistics
  WHERE stat_type = 3 AND dataset LIKE 'SYN.%'
),
snapped AS (
  SELECT dataset, symbol, last_price AS price, currency, price_unit, ts_event AS known_for,
         row_number() OVER (PARTITION BY dataset, symbol ORDER BY ts_event DESC, source_record DESC) AS latest
  FROM snapshots
  WHERE dataset LIKE 'SYN.%'
),
latest AS (
  SELECT * FROM settled WHERE latest = 1
  UNION ALL
  SELECT * FROM snapped WHERE latest = 1
),
contracts AS (
  SELECT dataset AS venue, symbol AS contract, max(root) AS root, max(expiry) AS ends
  FROM instruments
  WHERE kind = 'future'
  GROUP BY dataset, symbol
)
SELECT dataset, root, symbol, CAST(ends AS DATE) AS expiry, price, currency, price_unit, CAST(known_for AS DATE) AS as_of
FROM latest
LEFT JOIN contracts ON venue = dataset AND contract = symbol
ORDER BY dataset, root, expiry
