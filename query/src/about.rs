//! Tables about the tables: what commits and the log say when they are asked, and the rows of `gaps` and `quarantine` with what explains them.

use crate::error::Error;
use crate::table::{TapeTable, sql_type};
use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray, TimestampNanosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::datasource::{TableProvider, TableType, provider_as_source};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::functions::expr_fn::{coalesce, concat, encode};
use datafusion::functions_aggregate::expr_fn::{last_value, min};
use datafusion::logical_expr::{Expr, JoinType, LogicalPlan, LogicalPlanBuilder, cast, col, lit, when};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchReceiverStream;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use futures::future::BoxFuture;
use schemas::about::{self, View};
use schemas::{Family, Kind};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use tokio::sync::mpsc::Sender;

/// Batches of rows that wait to be read.
const BATCHES_WAITING: usize = 2;

/// A value of a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cell {
    /// NULL.
    Null,
    /// An integer; of a time, nanoseconds since 1970 UTC.
    Int(i64),
    /// Text.
    Text(String),
}

impl From<Option<i64>> for Cell {
    fn from(value: Option<i64>) -> Cell {
        value.map_or(Cell::Null, Cell::Int)
    }
}

impl From<Option<String>> for Cell {
    fn from(value: Option<String>) -> Cell {
        value.map_or(Cell::Null, Cell::Text)
    }
}

/// Gives the rows of a view as they are now, some at a time.
pub type Ask = Arc<dyn Fn(Asker) -> BoxFuture<'static, std::result::Result<(), Box<dyn std::error::Error + Send + Sync>>> + Send + Sync>;

/// Takes rows as fast as the statement that asks for them does.
pub struct Asker {
    view: &'static View,
    schema: SchemaRef,
    batches: Sender<Result<RecordBatch>>,
}

impl Asker {
    /// Takes rows, each with a cell for each column of the view. Gives whether more are wanted.
    pub async fn take(&self, rows: Vec<Vec<Cell>>) -> bool {
        let batch = batch(self.view, &self.schema, rows).map_err(|what| failed(self.view, what));
        self.batches.send(batch).await.is_ok()
    }
}

fn failed(view: &View, what: String) -> DataFusionError {
    DataFusionError::External(Box::new(Error::View { view: view.name, what }))
}

/// Who knows what the views show.
#[derive(Clone)]
pub struct Asked {
    /// Rows of `commits`.
    pub commits: Ask,
    /// Rows of `intervals`.
    pub intervals: Ask,
    /// Rows of `lag`.
    pub lag: Ask,
    /// Rows of `schemas::about::NOTED`.
    pub noted: Ask,
}

impl Asked {
    /// For an engine over tables alone: whoever reads one of the views is told that this one cannot show them.
    pub fn nobody() -> Asked {
        let refuse: Ask = Arc::new(|_| Box::pin(async { Err("this engine knows the tables' files alone: ask `tape sql`".into()) }));
        // When a loss was noted is not known here; what was lost is in the files.
        let nothing: Ask = Arc::new(|_| Box::pin(async { Ok(()) }));
        Asked { commits: refuse.clone(), intervals: refuse.clone(), lag: refuse, noted: nothing }
    }

    /// The views that are asked for, with their names.
    pub(crate) fn tables(&self) -> [(&'static str, Arc<dyn TableProvider>); 3] {
        [(about::COMMITS, &self.commits), (about::INTERVALS, &self.intervals), (about::LAG, &self.lag)].map(|(name, ask)| {
            let view = View::named(name).expect("schemas declares it");
            (name, asked_table(view, ask))
        })
    }
}

pub(crate) fn asked_table(view: &'static View, ask: &Ask) -> Arc<dyn TableProvider> {
    Arc::new(AskedTable { view, schema: view_schema(view), ask: ask.clone() })
}

/// The columns of a view as SQL shows them.
pub(crate) fn view_schema(view: &View) -> SchemaRef {
    Arc::new(Schema::new(view.fields.iter().map(|f| Field::new(f.name.as_ref(), sql_type(f.kind), !f.required)).collect::<Vec<_>>()))
}

/// A view whose rows are asked for by every statement that names it.
struct AskedTable {
    view: &'static View,
    schema: SchemaRef,
    ask: Ask,
}

impl fmt::Debug for AskedTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the view {}", self.view.name)
    }
}

#[async_trait]
impl TableProvider for AskedTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let rows = Arc::new(AskedRows { view: self.view, schema: self.schema.clone(), ask: self.ask.clone() });
        Ok(Arc::new(StreamingTableExec::try_new(self.schema.clone(), vec![rows], projection, [], false, limit)?))
    }
}

/// The rows of a view, asked for when a statement begins to read them.
struct AskedRows {
    view: &'static View,
    schema: SchemaRef,
    ask: Ask,
}

impl fmt::Debug for AskedRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rows of the view {}", self.view.name)
    }
}

impl PartitionStream for AskedRows {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let mut rows = RecordBatchReceiverStream::builder(self.schema.clone(), BATCHES_WAITING);
        let asker = Asker { view: self.view, schema: self.schema.clone(), batches: rows.tx() };
        let (asked, view) = ((self.ask)(asker), self.view);
        rows.spawn(async move { asked.await.map_err(|why| failed(view, why.to_string())) });
        rows.build()
    }
}

/// Rows of cells as columns.
fn batch(view: &View, schema: &SchemaRef, rows: Vec<Vec<Cell>>) -> std::result::Result<RecordBatch, String> {
    if rows.iter().any(|row| row.len() != view.fields.len()) {
        return Err("a row has not one cell for each column: a mistake in the program".into());
    }
    let int = |column: usize| {
        rows.iter().map(move |row| match &row[column] {
            Cell::Int(value) => Some(*value),
            Cell::Null | Cell::Text(_) => None,
        })
    };
    let text = |column: usize| {
        rows.iter().map(move |row| match &row[column] {
            Cell::Text(value) => Some(value.as_str()),
            Cell::Null | Cell::Int(_) => None,
        })
    };
    let column = |(at, field): (usize, &schemas::Field)| -> ArrayRef {
        match field.kind {
            Kind::I32 => Arc::new(int(at).map(|value| value.and_then(|value| i32::try_from(value).ok())).collect::<Int32Array>()),
            Kind::Time => Arc::new(int(at).collect::<TimestampNanosecondArray>().with_timezone("UTC")),
            Kind::I64 => Arc::new(int(at).collect::<Int64Array>()),
            _ => Arc::new(text(at).collect::<StringArray>()),
        }
    };
    let columns = view.fields.iter().enumerate().map(column).collect();
    RecordBatch::try_new(schema.clone(), columns).map_err(|e| e.to_string())
}

/// `gaps` or `quarantine` with the columns that explain their rows.
#[derive(Debug)]
pub(crate) struct ExplainedTable {
    schema: SchemaRef,
    plan: LogicalPlan,
}

impl ExplainedTable {
    /// The explained view of a table; `None` where its rows need no explanation.
    pub(crate) fn over(table: &Arc<TapeTable>, sources: &Arc<TapeTable>, asked: &Asked) -> Result<Option<ExplainedTable>> {
        let family = table.family();
        if about::explaining(family).is_empty() {
            return Ok(None);
        }
        let scan = |table: &Arc<TapeTable>| LogicalPlanBuilder::scan(table.family().topic().name, provider_as_source(table.clone()), None);
        let name = family.topic().name;
        let named = scan(sources)?
            .aggregate(vec![col("source_id")], vec![last_value(col("name"), vec![col("_offset").sort(true, true)]).alias("source_name")])?
            .alias("named")?
            .build()?;
        let own = |column: &str| col(format!("{name}.{column}"));
        let mut plan = scan(table)?.join_on(named, JoinType::Left, [own("source_id").eq(col("named.source_id"))])?;
        let mut columns: Vec<Expr> = family.topic().stored_fields().iter().map(|field| own(&field.name)).collect();
        let source = coalesce(vec![col("named.source_name"), encode(own("source_id"), lit("hex"))]);
        let text = |column: &str| cast(own(column), DataType::Utf8);
        let topic = || concat(vec![own("origin_topic"), lit("["), text("origin_partition"), lit("]")]);
        match family {
            Family::Quarantine => {
                // What was published again is named by a record of its own, which cancels the one that it names.
                let requeued = scan(table)?
                    .filter(own("change").eq(lit("cancel")))?
                    .aggregate(places(name), vec![min(own("_log_ts")).alias("requeued_at")])?
                    .alias("requeued")?
                    .build()?;
                let same = places(name).into_iter().zip(PLACES).map(|(place, named)| place.unalias().eq(col(format!("requeued.{named}"))));
                plan = plan.join_on(requeued, JoinType::Left, same)?;
                let in_log = concat(vec![topic(), lit(" offset "), text("origin_offset")]);
                let in_source = concat(vec![source, lit(", record "), text("source_record"), lit(", byte "), text("source_byte")]);
                columns.push(when(own("origin_offset").is_not_null(), in_log).otherwise(in_source)?.alias("stood"));
                columns.push(col("named.source_name"));
                let first = own("change").not_eq(lit("cancel"));
                columns.push(when(first, col("requeued.requeued_at")).end()?.alias("requeued_at"));
            }
            _ => {
                // A row does not say when it was noted, the version that brought it does: so equal losses are equal rows, whoever noted them.
                let noted =
                    LogicalPlanBuilder::scan("commits_of_gaps", provider_as_source(asked_table(&about::NOTED, &asked.noted)), None)?
                        .aggregate(vec![col("topic"), col("partition"), col("to_seq")], vec![min(col("noted_at")).alias("noted_at")])?
                        .alias("noted")?
                        .build()?;
                let same = [("origin_topic", "noted.topic"), ("origin_partition", "noted.partition"), ("to_seq", "noted.to_seq")];
                plan = plan.join_on(noted, JoinType::Left, same.map(|(ours, theirs)| own(ours).eq(col(theirs))))?;
                columns.push(when(own("origin_partition").is_not_null(), topic()).otherwise(source)?.alias("stood"));
                columns.push(col("named.source_name"));
                columns.push((own("to_seq") - own("from_seq") + lit(1i64)).alias("missing"));
                // What a source published has a place in the log of its own.
                columns.push(when(own("_partition").is_null(), col("noted.noted_at")).end()?.alias("noted_at"));
            }
        }
        let plan = plan.project(columns)?.build()?;
        let schema = Arc::new(Schema::new(plan.schema().fields().iter().map(|field| field.as_ref().clone()).collect::<Vec<_>>()));
        Ok(Some(ExplainedTable { schema, plan }))
    }
}

/// What a place of a bad record is compared by, in the order of [`places`].
const PLACES: [&str; 6] = ["topic", "partition", "offset", "source", "record", "byte"];

/// Where a bad record stood: in the log, or in its source. The other of the two is NULL or 0.
fn places(table: &str) -> Vec<Expr> {
    let own = |column: &str| col(format!("{table}.{column}"));
    let values = [
        coalesce(vec![own("origin_topic"), lit("")]),
        coalesce(vec![own("origin_partition"), lit(-1i32)]),
        coalesce(vec![own("origin_offset"), lit(-1i64)]),
        own("source_id"),
        own("source_record"),
        own("source_byte"),
    ];
    values.into_iter().zip(PLACES).map(|(value, name)| value.alias(name)).collect()
}

#[async_trait]
impl TableProvider for ExplainedTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn get_logical_plan(&'_ self) -> Option<Cow<'_, LogicalPlan>> {
        Some(Cow::Borrowed(&self.plan))
    }

    async fn scan(&self, _: &dyn Session, _: Option<&Vec<usize>>, _: &[Expr], _: Option<usize>) -> Result<Arc<dyn ExecutionPlan>> {
        Err(DataFusionError::Internal("an explained table is replaced by its plan before it is scanned".into()))
    }
}
