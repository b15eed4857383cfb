//! A family with prices as SQL shows it: every row says the currency and the unit of its prices, its own or those of its instrument.

use crate::table::TapeTable;
use crate::units::{InstrumentUnits, Unit};
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::datasource::{TableProvider, TableType, provider_as_source};
use datafusion::error::{DataFusionError, Result};
use datafusion::functions::expr_fn::coalesce;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, col};
use datafusion::physical_plan::ExecutionPlan;
use schemas::{Family, Kind};
use std::borrow::Cow;
use std::sync::Arc;

/// A family with prices: `currency` and `price_unit` come from the row, else from the instrument valid at `ts_event`.
#[derive(Debug)]
pub struct PricedTable {
    schema: SchemaRef,
    plan: LogicalPlan,
}

impl PricedTable {
    /// The priced view of a table; `None` where its rows have no prices of an instrument.
    pub(crate) fn over(table: Arc<TapeTable>, units: &Arc<InstrumentUnits>) -> Result<Option<PricedTable>> {
        if !is_priced(table.family()) {
            return Ok(None);
        }
        let schema = table.schema();
        let columns = schema.fields().iter().map(|field| match field.name().as_str() {
            "currency" => filled(units, Unit::Currency),
            "price_unit" => filled(units, Unit::PriceUnit),
            name => col(name),
        });
        let columns: Vec<Expr> = columns.collect();
        let plan = LogicalPlanBuilder::scan(table.family().topic().name, provider_as_source(table), None)?.project(columns)?.build()?;
        Ok(Some(PricedTable { schema, plan }))
    }
}

fn filled(units: &Arc<InstrumentUnits>, unit: Unit) -> Expr {
    coalesce(vec![col(unit.column()), InstrumentUnits::function(units, unit).call(vec![col("dataset"), col("symbol"), col("ts_event")])])
        .alias(unit.column())
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
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn get_logical_plan(&'_ self) -> Option<Cow<'_, LogicalPlan>> {
        Some(Cow::Borrowed(&self.plan))
    }

    async fn scan(&self, _: &dyn Session, _: Option<&Vec<usize>>, _: &[Expr], _: Option<usize>) -> Result<Arc<dyn ExecutionPlan>> {
        Err(DataFusionError::Internal("a priced table is replaced by its plan before it is scanned".into()))
    }
}
