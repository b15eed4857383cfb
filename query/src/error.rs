//! Everything that can go wrong with a query, in words that say what to do about it.

use arrow::datatypes::DataType;
use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::parser::ParserError;
use schemas::Family;
use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is not one statement.
    #[error("{0}")]
    NotOneStatement(&'static str),
    /// The statement would change something or reach outside the tables.
    #[error("{statement} is refused: the history is read-only and only its tables can be queried; SELECT, EXPLAIN, SHOW and DESCRIBE work")]
    Refused {
        /// What was asked for.
        statement: String,
    },
    /// The text is not SQL.
    #[error("not understood as SQL: {0}")]
    Syntax(String),
    /// No such table.
    #[error("no table {name}{}; SHOW TABLES (in the shell: \\d) lists all", did_you_mean(.nearest))]
    NoTable {
        /// The name as asked for.
        name: String,
        /// A name that exists.
        nearest: Option<String>,
    },
    /// No such column.
    #[error("no column {name}{}; DESCRIBE {} (in the shell: \\d {}) lists its columns", did_you_mean(.nearest), .table, .table)]
    NoColumn {
        /// The name as asked for.
        name: String,
        /// The table it was looked for in.
        table: String,
        /// A name that exists.
        nearest: Option<String>,
    },
    /// The statement is SQL, but has no meaning here.
    #[error("cannot be answered: {0}")]
    Plan(String),
    /// A number would have been wrong.
    #[error(transparent)]
    Inexact(#[from] Inexact),
    /// The query needs more memory than it may have.
    #[error(
        "more memory is needed than a query may have: {0}; narrow it (a filter on dataset, date or symbol, fewer columns, LIMIT) or allow more"
    )]
    Memory(String),
    /// The statement would become a plan far larger than itself.
    #[error("too large to be planned: {0}")]
    TooLarge(String),
    /// Every place to plan in is held.
    #[error("the server is busy planning other statements, some of which do not end: try again later, or restart it where that goes on")]
    Busy,
    /// Every place to run in is held.
    #[error("the server runs {0} statements already, and none ended in time: try again later, and read the answers that you ask for")]
    Full(usize),
    /// The query took too long.
    #[error("stopped after {} s, the time limit of a query: narrow it (a filter on dataset, date or symbol) or allow more", .0.as_secs_f32())]
    TimedOut(Duration),
    /// The query was stopped by the person who asked.
    #[error("cancelled")]
    Cancelled,
    /// A table's file list cannot be used.
    #[error("table {table} version {version} at {root}: {what}; the table's log and this program disagree, run tape verify")]
    Table {
        /// The table.
        table: &'static str,
        /// Where it is.
        root: String,
        /// Its version.
        version: i64,
        /// What is wrong.
        what: String,
    },
    /// The tables could not be listed.
    #[error("listing the tables: {0}")]
    Listing(Box<dyn std::error::Error + Send + Sync>),
    /// What a view shows could not be had.
    #[error("tape.{view}: {what}")]
    View {
        /// The view.
        view: &'static str,
        /// Why not, and what to do.
        what: String,
    },
    /// The result is no picture.
    #[error(
        "a plot shows two columns, a time, a date or a number and then a number; this result has: {0}; CAST what is text, or take another format"
    )]
    Plot(String),
    /// The query began and could not go on.
    #[error("{doing}: {what}")]
    Execution {
        /// What was being done.
        doing: &'static str,
        /// What the engine says.
        what: String,
    },
    /// The engine broke a promise of its own. Other queries go on.
    #[error("{doing}: the engine failed, {what}; this is a fault of the program, please report it with the statement")]
    Panicked {
        /// What was being done.
        doing: &'static str,
        /// What it says.
        what: String,
    },
    /// The result could not be written.
    #[error("writing the result: {0}")]
    Write(#[from] io::Error),
    /// What is to be replayed, and where to, do not go together.
    #[error("{0}")]
    Replay(String),
    /// Two runs of one replay: the one that came second goes on, from where the first was.
    #[error(
        "another process has begun the same replay to the same topics and goes on from here: this one stops; nothing was published twice"
    )]
    TakenOver,
    /// The log that is replayed to.
    #[error(transparent)]
    Log(#[from] eventlog::Error),
    /// The tables' own logs.
    #[error(transparent)]
    Lake(#[from] lake::Error),
    /// Rows could not be made into records.
    #[error(transparent)]
    Schema(#[from] schemas::Error),
    /// The terminal could not be used.
    #[error("reading from the terminal: {0}")]
    Terminal(String),
}

/// Arithmetic that has no exact answer in its type, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Inexact(String);

impl Inexact {
    /// `what` became more than its type holds.
    pub(crate) fn overflow(what: &str, result: &DataType) -> Inexact {
        let remedy = match result {
            DataType::Decimal128(_, 0) => "take fewer rows or smaller numbers at once",
            result if result.is_decimal() => {
                "keep fewer digits after the point, for example CAST(… AS DECIMAL(38,0)) or CAST(… AS DECIMAL(20,0)) where they are whole"
            }
            result if result.is_integer() => "compute in decimals, for example CAST(… AS DECIMAL(38,0)) of one side",
            _ => "take fewer rows at once",
        };
        Inexact(format!("{what} does not fit {}: {remedy}", sql_name(result)))
    }

    /// `what` is computed in floats and was given exact numbers.
    pub(crate) fn in_floats(what: &str, function: &str) -> Inexact {
        let instead = match function {
            "array_sum" | "array_avg" => {
                let aggregate = function.trim_start_matches("array_");
                format!("; exact is SELECT {aggregate}(v) FROM (SELECT unnest(…) AS v)")
            }
            function if function.contains("percentile") || function == "approx_median" => "; median(…) is exact".into(),
            _ => String::new(),
        };
        Inexact(format!(
            "{what} is computed in floats, of about 15 digits: say that this is meant with CAST(… AS DOUBLE) of each number, or CAST(… AS \
             DOUBLE[]) of a list{instead}"
        ))
    }

    /// `what` is seconds since 1970 in a float.
    pub(crate) fn float_seconds(what: &str) -> Inexact {
        Inexact(format!(
            "{what} is seconds in a float, of about 15 digits: CAST(… AS BIGINT) of the time is its exact nanoseconds; where the float is \
             meant, CAST({what} AS DOUBLE)"
        ))
    }

    /// `what` divides by zero.
    pub(crate) fn division_by_zero(what: &str) -> Inexact {
        Inexact(format!("{what} divides by zero: leave such rows out, or divide by NULLIF(…, 0) to get NULL"))
    }
}

impl From<Error> for DataFusionError {
    fn from(error: Error) -> DataFusionError {
        DataFusionError::External(Box::new(error))
    }
}

impl From<Inexact> for DataFusionError {
    fn from(inexact: Inexact) -> DataFusionError {
        DataFusionError::External(Box::new(inexact))
    }
}

/// A type in SQL's words, where it has one.
fn sql_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Int8 => "TINYINT".into(),
        DataType::Int16 => "SMALLINT".into(),
        DataType::Int32 => "INT".into(),
        DataType::Int64 => "BIGINT".into(),
        DataType::UInt8 => "TINYINT UNSIGNED".into(),
        DataType::UInt16 => "SMALLINT UNSIGNED".into(),
        DataType::UInt32 => "INT UNSIGNED".into(),
        DataType::UInt64 => "BIGINT UNSIGNED".into(),
        DataType::Decimal32(digits, scale)
        | DataType::Decimal64(digits, scale)
        | DataType::Decimal128(digits, scale)
        | DataType::Decimal256(digits, scale) => format!("DECIMAL({digits},{scale})"),
        other => other.to_string(),
    }
}

fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!("; did you mean {name}?")).unwrap_or_default()
}

impl Error {
    /// Is it the statement that must change? Else something around it went wrong, and the same statement may be answered another time.
    pub fn is_wrong_use(&self) -> bool {
        match self {
            Error::NotOneStatement(_)
            | Error::Refused { .. }
            | Error::Syntax(_)
            | Error::NoTable { .. }
            | Error::NoColumn { .. }
            | Error::Plan(_)
            | Error::Inexact(_)
            | Error::Replay(_)
            | Error::Plot(_)
            | Error::TooLarge(_) => true,
            Error::Busy
            | Error::Full(_)
            | Error::Memory(_)
            | Error::TimedOut(_)
            | Error::Cancelled
            | Error::Table { .. }
            | Error::Listing(_)
            | Error::View { .. }
            | Error::Execution { .. }
            | Error::Panicked { .. }
            | Error::Write(_)
            | Error::TakenOver
            | Error::Log(_)
            | Error::Lake(_)
            | Error::Schema(_)
            | Error::Terminal(_) => false,
        }
    }

    /// The process holds so much memory that the statements that run are ended.
    pub(crate) fn too_much_held(bytes: u64) -> Error {
        Error::Memory(format!("the process holds {} MiB, and the statements that ran were ended", bytes >> 20))
    }

    /// The end of a task that did not end by itself.
    pub(crate) fn panicked(doing: &'static str, why: &tokio::task::JoinError) -> Error {
        Error::Panicked { doing, what: why.to_string() }
    }

    /// What [`Error::from_engine`] will make of an error of a running query: of another one, since that error goes on.
    pub(crate) fn told(error: &DataFusionError) -> Error {
        let own = match error {
            DataFusionError::External(own) => own.downcast_ref::<Error>(),
            _ => None,
        };
        match own {
            Some(Error::TimedOut(limit)) => Error::TimedOut(*limit),
            Some(Error::Cancelled) => Error::Cancelled,
            Some(own) => Error::Execution { doing: "running the query", what: own.to_string() },
            None => Error::Execution { doing: "running the query", what: plain(&error.find_root().strip_backtrace()) },
        }
    }

    /// The engine's error in our words.
    pub fn from_engine(doing: &'static str, error: DataFusionError) -> Error {
        if let DataFusionError::External(inner) = error.find_root()
            && let Some(inexact) = inner.downcast_ref::<Inexact>()
        {
            return Error::Inexact(inexact.clone());
        }
        // The rows of a view come while the statement runs: what they end with is handed through its parts.
        if let DataFusionError::External(inner) = error.find_root()
            && let Some(Error::View { view, what }) = inner.downcast_ref::<Error>()
        {
            return Error::View { view, what: what.clone() };
        }
        if let DataFusionError::External(own) = error {
            return match own.downcast::<Error>() {
                Ok(own) => *own,
                Err(other) => Error::Execution { doing, what: other.to_string() },
            };
        }
        let root = error.find_root();
        match root {
            DataFusionError::SchemaError(schema, _) => schema_error(schema),
            DataFusionError::ResourcesExhausted(what) => Error::Memory(exhausted(what)),
            DataFusionError::SQL(parser, _) if **parser == ParserError::RecursionLimitExceeded => {
                Error::TooLarge("its parentheses or subqueries lie too deep inside each other: name the inner ones in a WITH".into())
            }
            DataFusionError::SQL(parser, _) => Error::Syntax(parser.to_string()),
            DataFusionError::Plan(what) => plan_error(&plain(what)),
            DataFusionError::ExecutionJoin(why) => Error::panicked(doing, why),
            DataFusionError::NotImplemented(what) => Error::Plan(not_known(&plain(what))),
            _ => {
                let what = plain(&root.strip_backtrace());
                match put_aside(&what) {
                    Some(full) => Error::Memory(full),
                    None => wrong_value(&what).map_or_else(|what| Error::Execution { doing, what }, Error::Plan),
                }
            }
        }
    }
}

/// `Additional allocation failed for Sort with top memory consumers (across reservations) as:` and these, and last how much was missing of what.
fn exhausted(text: &str) -> String {
    let of = |from: usize| text[from..].lines().next().unwrap_or_default();
    let missing = text.find("Failed to allocate additional").map_or_else(|| of(0), of);
    let short = missing.split(" with top memory consumers").next().unwrap_or(missing);
    short.trim_end_matches(['.', ':', ' ']).to_string()
}

/// `Unsupported ast node Pivot { table: …`: the word that is not known, without the syntax tree behind it.
fn not_known(text: &str) -> String {
    match text.split_once(" { ") {
        Some((words, _)) if text.starts_with("Unsupported") => {
            let word = words.rsplit(' ').next().unwrap_or(words);
            format!("{} is not known here", word.to_uppercase())
        }
        _ => text.to_string(),
    }
}

/// The engine's words in one line, without the names of its parts and its asking for bug reports.
fn plain(text: &str) -> String {
    const PARTS: [&str; 8] = [
        "Arrow error: ",
        "Cast error: ",
        "Parser error: ",
        "Compute error: ",
        "Execution error: ",
        "External error: ",
        "Internal error: ",
        "Error during planning: ",
    ];
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let one_line = lines.join(" ");
    let mut plain = one_line.as_str();
    while let Some(rest) = PARTS.iter().find_map(|part| plain.strip_prefix(part)) {
        plain = rest;
    }
    let asks = "This issue was likely caused by a bug in DataFusion's code. Please help us to resolve this by filing a bug report in our issue tracker: \
                https://github.com/apache/datafusion/issues";
    plain.replace(asks, "").trim_end_matches(['.', ' ']).to_string()
}

/// What is said where there is no more room on disk for what does not fit into memory. Nothing else of a query writes.
fn put_aside(what: &str) -> Option<String> {
    if let Some((_, limit)) = what.split_once("during the spilling process has exceeded the allowable limit of ") {
        let limit = limit.split(". Please").next().unwrap_or(limit);
        return Some(format!("sorts and joins have put {limit} aside on disk, as much as they may"));
    }
    what.contains("No space left on device").then(|| "the disk that takes what does not fit into memory is full".into())
}

/// What is said of a value that another type does not hold, with what to do; else the text as it is.
fn wrong_value(what: &str) -> Result<String, String> {
    const TIMES: &str = "a time is one from 1677-09-22 to 2262-04-11: compare with one of these, or leave the bound out";
    let of_times = what.starts_with("Overflow converting") || (what.contains("Timestamp(") && what.contains("exceeds the representable"));
    match what {
        what if of_times => Ok(format!("{}: {TIMES}", what.split(". The dates").next().unwrap_or(what))),
        what if what.starts_with("Cannot cast") || what.starts_with("Can't cast") => Ok(format!("{what}; TRY_CAST gives NULL instead")),
        what if what.starts_with("Error parsing timestamp") => Ok(format!("{what}; a time is written as in 2026-10-05T14:30:00Z")),
        what => Err(what.to_string()),
    }
}

fn schema_error(error: &SchemaError) -> Error {
    let (field, valid_fields) = match error {
        SchemaError::FieldNotFound { field, valid_fields } => (field, valid_fields),
        SchemaError::AmbiguousReference { field } => {
            let name = &field.name;
            return Error::Plan(format!(
                "{name} is a column of more than one table: write the table's name or alias before it, as in a.{name}"
            ));
        }
        other => return Error::Plan(plain(&other.to_string())),
    };
    let tables: BTreeSet<&str> = valid_fields.iter().filter_map(|column| column.relation.as_ref()).map(|table| table.table()).collect();
    if let Some(asked) = field.relation.as_ref().map(|table| table.table())
        && !tables.is_empty()
        && !tables.contains(asked)
    {
        let there: Vec<&str> = tables.into_iter().collect();
        return Error::Plan(format!("{asked}.{}: the query's FROM has no table or alias {asked}; it has {}", field.name, there.join(", ")));
    }
    let nearest = nearest(&field.name, valid_fields.iter().map(|column| column.name.as_str()));
    let table = field.relation.as_ref().or_else(|| valid_fields.iter().find_map(|column| column.relation.as_ref()));
    Error::NoColumn {
        name: field.name.clone(),
        table: table.map_or("<table>".to_string(), |table| table.table().to_string()),
        nearest: nearest.map(str::to_string),
    }
}

/// DataFusion has one variant for many mistakes; the frequent ones are told by their words. What is not recognised stays as it is.
fn plan_error(what: &str) -> Error {
    unknown_table(what)
        .or_else(|| unknown_function(what).or_else(|| wrong_arguments(what)).or_else(|| not_grouped(what)).map(Error::Plan))
        .unwrap_or_else(|| Error::Plan(what.to_string()))
}

fn unknown_table(what: &str) -> Option<Error> {
    let name = what.strip_prefix("table '")?.strip_suffix("' not found")?;
    let name = name.strip_prefix("tokentape.tape.").unwrap_or(name).to_string();
    let short = name.rsplit('.').next().unwrap_or(&name);
    let nearest = nearest(short, Family::ALL.into_iter().map(|family| family.topic().name));
    Some(Error::NoTable { nearest: nearest.map(str::to_string), name })
}

/// `Invalid function 'summ'. Did you mean 'sum'?`
fn unknown_function(what: &str) -> Option<String> {
    let (name, rest) = what.strip_prefix("Invalid function '")?.split_once('\'')?;
    let guess = rest.split_once("Did you mean '").and_then(|(_, guess)| guess.split_once('\'')).map(|(guess, _)| guess);
    let nearest = guess.and_then(|guess| nearest(name, std::iter::once(guess))).map(str::to_string);
    Some(format!("no function {name}{}; SHOW FUNCTIONS lists all", did_you_mean(&nearest)))
}

/// `… No function matches the given name and argument types 'sum(Utf8)'. … Candidate functions: sum(Decimal) sum(UInt64)`
fn wrong_arguments(what: &str) -> Option<String> {
    let (_, asked) = what.split_once("No function matches the given name and argument types '")?;
    let (asked, rest) = asked.split_once("'. ")?;
    let (name, _) = asked.split_once('(')?;
    let (_, candidates) = rest.split_once("Candidate functions: ")?;
    let there_is = candidates.replace(&format!(" {name}("), &format!(", {name}("));
    Some(format!("no function {asked}: CAST the arguments to what there is: {there_is}"))
}

/// `Column in SELECT must be in GROUP BY …: While expanding wildcard, column "trades.symbol" must appear in …`
fn not_grouped(what: &str) -> Option<String> {
    let (_, rest) = what.split_once("column \"")?;
    let (column, rest) = rest.split_once('"')?;
    let grouping = rest.starts_with(" must appear in the GROUP BY clause");
    grouping.then(|| format!("column {column} must be in GROUP BY or inside an aggregate function"))
}

/// The name that takes the fewest edits, where these are few enough to be a slip.
fn nearest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = wanted.to_lowercase();
    let slip = (wanted.chars().count() / 3).max(1);
    names.map(|name| (edits(&wanted, name), name)).filter(|(edits, _)| *edits <= slip).min().map(|(_, name)| name)
}

/// Levenshtein's distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let cost = (diagonal + usize::from(from != *to)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], cost);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_other_words_are_not() {
        let names = ["trades", "quotes", "token_usage"];
        assert_eq!(nearest("trade", names.into_iter()), Some("trades"));
        assert_eq!(nearest("Token_Usages", names.into_iter()), Some("token_usage"));
        assert_eq!(nearest("candles", names.into_iter()), None);
        assert_eq!((edits("", "abc"), edits("kitten", "sitting"), edits("same", "same")), (3, 3, 0));
    }

    #[test]
    fn a_word_that_is_not_known_is_named_without_its_syntax_tree() {
        assert_eq!(not_known("Unsupported JOIN operator AsOf { match_condition: … }"), "ASOF is not known here");
        assert_eq!(not_known("FETCH clause is not supported yet"), "FETCH clause is not supported yet");
    }
}
