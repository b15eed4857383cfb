SELECT dataset, symbol, count(*) AS trades, sum(size) AS lots, sum(price * size) / sum(size) AS vwap,
       min(currency) AS currency, min(price_unit) AS price_unit
FROM trades
WHERE dataset LIKE 'SYN.%'
GROUP BY dataset, symbol
ORDER BY dataset, symbol
