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
  SELECT dataset, symbol, max(expiry) AS expiry
  FROM instruments
  WHERE kind = 'future'
  GROUP BY dataset, symbol
)
SELECT l.dataset, l.symbol, CAST(c.expiry AS DATE) AS expiry, l.price, l.currency, l.price_unit, CAST(l.known_for AS DATE) AS as_of
FROM latest l
LEFT JOIN contracts c ON c.dataset = l.dataset AND c.symbol = l.symbol
ORDER BY l.dataset, regexp_replace(l.symbol, '[FGHJKMNQUVXZ]?[0-9]+$', ''), c.expiry
