//! What of a replay's range is nowhere in the tables: a slip in a name, or a time beyond all that there is.

use anyhow::Result;
use arrow::array::{Array, AsArray};
use futures::TryStreamExt;
use query::replay::Range;
use query::{Engine, Principal};
use schemas::Family;

/// Values of datasets, symbols and sources that no record of the range's families has, each as it was typed, with its flag.
pub async fn values(engine: &Engine, range: &Range) -> Result<Vec<String>> {
    let sources: Vec<String> = range.sources.iter().map(hex::encode).collect();
    let asked: [(&str, &str, &[String]); 3] = [
        ("--dataset", "dataset", &range.datasets),
        ("--symbol", "symbol", &range.symbols),
        ("--source", "encode(source_id, 'hex')", &sources),
    ];
    let mut unmatched = Vec::new();
    for (flag, column, values) in asked {
        let mut missing: Vec<&String> = values.iter().collect();
        missing.dedup();
        // What the store could not decode is replayed as well.
        for family in range.families.iter().chain([&Family::Quarantine]) {
            if missing.is_empty() {
                break;
            }
            let among = missing.iter().map(|value| text(value)).collect::<Vec<_>>().join(", ");
            let sql = format!("SELECT DISTINCT {column} AS value FROM {} WHERE {column} IN ({among})", family.topic().name);
            let there = first_column(engine, &sql).await?;
            missing.retain(|value| !there.contains(value));
        }
        unmatched.extend(missing.into_iter().map(|value| format!("{flag} {value}: no record {}has it", of(range))));
    }
    Ok(unmatched)
}

/// Why a range with names that are all there has no record: empty tables, or a time or offsets beyond what there is.
pub async fn range(engine: &Engine, range: &Range) -> Result<Vec<String>> {
    let mut why = Vec::new();
    let families: Vec<&Family> = range.families.iter().filter(|family| engine.catalog().rows(**family) > 0).collect();
    if families.is_empty() {
        why.push(format!("there is no record {}in the tables", of(range)));
        return Ok(why);
    }
    if range.from.is_some() || range.to.is_some() {
        let clock = range.clock.column();
        let span = spans(engine, &families, &format!("min({clock}), max({clock})")).await?;
        why.push(match span {
            Some((first, last)) => format!("--since and --until: the records {}have {clock} from {first} to {last}", of(range)),
            None => format!("--clock {clock}: no record {}has that time", of(range)),
        });
    }
    if range.partition.is_some() || range.from_offset.is_some() || range.to_offset.is_some() {
        let parts = range.partition.map_or(String::new(), |partition| format!(" FILTER (WHERE _partition = {partition})"));
        let span = spans(engine, &families, &format!("min(_offset){parts}, max(_offset){parts}")).await?;
        let where_ = range.partition.map_or(String::new(), |partition| format!("of partition {partition} "));
        why.push(match span {
            Some((first, last)) => {
                format!("--from-offset and --to-offset: the records {}{where_}have offsets from {first} to {last}", of(range))
            }
            None => format!("--partition: there is no record {}{where_}in the tables", of(range)),
        });
    }
    Ok(why)
}

/// `of trades and bars `, where families were named.
fn of(range: &Range) -> String {
    let names: Vec<&str> = range.families.iter().map(|family| family.topic().name).collect();
    match names.len() == Family::ALL.len() {
        true => String::new(),
        false => format!("of {} ", names.join(", ")),
    }
}

/// Least and greatest of two columns of one row for each table.
async fn spans(engine: &Engine, families: &[&Family], columns: &str) -> Result<Option<(String, String)>> {
    let mut span: Option<(Span, Span)> = None;
    for family in families {
        let (_, rows) = engine.run(&Principal::local(), &format!("SELECT {columns} FROM {}", family.topic().name)).await?;
        for rows in rows.try_collect::<Vec<_>>().await? {
            let value = |at: usize| -> Result<Option<Span>> {
                let column = rows.column(at);
                let number = arrow::compute::cast(column, &arrow::datatypes::DataType::Int64)?;
                let number = number.as_primitive::<arrow::datatypes::Int64Type>();
                let shown = arrow::util::display::array_value_to_string(column, 0)?;
                Ok(number.is_valid(0).then(|| (number.value(0), shown)))
            };
            if let (Some(first), Some(last)) = (value(0)?, value(1)?) {
                span = Some(match span {
                    None => (first, last),
                    Some((least, greatest)) => (least.min(first), greatest.max(last)),
                });
            }
        }
    }
    Ok(span.map(|((_, first), (_, last))| (first, last)))
}

/// A number, and how it is shown.
type Span = (i64, String);

async fn first_column(engine: &Engine, sql: &str) -> Result<Vec<String>> {
    let (_, rows) = engine.run(&Principal::local(), sql).await?;
    let mut found = Vec::new();
    for rows in rows.try_collect::<Vec<_>>().await? {
        found.extend(rows.column(0).as_string::<i32>().iter().flatten().map(String::from));
    }
    Ok(found)
}

/// As SQL writes text.
fn text(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}
