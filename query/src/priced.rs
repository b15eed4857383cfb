//! A family with prices as SQL shows it: every row says the currency and the unit of its prices, its own or those of its instrument.

use crate::table::TapeTable;
use crate::units::{DatedUnits, InstrumentUnits, Unit};
use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::DFSchema;
use datafusion::datasource::{TableProvider, TableType};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, col, when};
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};
use schemas::{Family, Kind};
use std::sync::Arc;

/// A family with prices: `currency` and `price_unit` come from the row, else from the instrument valid at `ts_event`. A scan that does not ask
/// for them is the table's own.
#[derive(Debug)]
pub struct PricedTable {
    table: Arc<TapeTable>,
    units: Arc<InstrumentUnits>,
}

/// Both columns.
const FILLED: [Unit; 2] = [Unit::Currency, Unit::PriceUnit];
/// What an instrument is found by.
const FOUND_BY: [&str; 3] = ["dataset", "symbol", "ts_event"];

impl PricedTable {
    /// The priced form of a table; `None` where its rows have no prices of an instrument.
    pub(crate) fn over(table: Arc<TapeTable>, units: &Arc<InstrumentUnits>) -> Option<PricedTable> {
        is_priced(table.family()).then(|| PricedTable { table, units: units.clone() })
    }
}

/// A column of the schema as a row of `scanned` says it.
fn said(name: &str, units: &Arc<DatedUnits>, state: &dyn Session, scanned: &DFSchema) -> Result<Arc<dyn PhysicalExpr>> {
    let said = match FILLED.into_iter().find(|unit| unit.column() == name) {
        None => col(name),
        Some(unit) => when(col(name).is_not_null(), col(name)).otherwise(units.function(unit).call(FOUND_BY.map(col).to_vec()))?,
    };
    state.create_physical_expr(said, scanned)
}

/// Is it one of both?
fn is_filled(column: &str) -> bool {
    FILLED.into_iter().any(|unit| unit.column() == column)
}

/// Does a row hold prices per unit of an instrument that it names? `instruments` itself is where the answer comes from.
pub fn is_priced(family: Family) -> bool {
    let topic = family.topic();
    family != Family::Instruments
        && topic.fields.iter().any(|field| field.kind == Kind::Price)
        && [Unit::Currency, Unit::PriceUnit].iter().all(|unit| topic.find_column(unit.column()).is_some())
}

#[async_trait]
impl TableProvider for PricedTable {
    fn schema(&self) -> SchemaRef {
        self.table.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let own = self.table.supports_filters_pushdown(filters)?;
        let looks_at_filled = |filter: &&Expr| filter.column_refs().iter().any(|column| is_filled(&column.name));
        let each = filters.iter().zip(own);
        Ok(each.map(|(filter, own)| if looks_at_filled(filter) { TableProviderFilterPushDown::Unsupported } else { own }).collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = self.table.schema();
        let all: Vec<usize> = (0..schema.fields().len()).collect();
        let asked = projection.unwrap_or(&all);
        if !asked.iter().any(|column| is_filled(schema.field(*column).name())) {
            return self.table.scan(state, projection, filters, limit).await;
        }
        let units = self.units.at(state).await?;
        let mut needed = asked.clone();
        for name in FOUND_BY {
            let column = schema.index_of(name)?;
            if !needed.contains(&column) {
                needed.push(column);
            }
        }
        let scan = self.table.scan(state, Some(&needed), filters, limit).await?;
        let scanned = DFSchema::try_from(Schema::clone(&scan.schema()))?;
        let column = |column: &usize| {
            let name = schema.field(*column).name();
            Ok(ProjectionExpr { expr: said(name, &units, state, &scanned)?, alias: name.clone() })
        };
        let columns = asked.iter().map(column).collect::<Result<Vec<_>>>()?;
        Ok(Arc::new(ProjectionExec::try_new(columns, scan)?))
    }
}
