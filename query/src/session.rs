//! What every statement's session begins from: one catalog, our functions in the place of some of DataFusion's, our rules before and behind its own,
//! and its settings.

use crate::apart::AskApart;
use crate::average::RoundedAverage;
use crate::catalog::{CATALOG, Catalog, SCHEMA};
use crate::checked::CheckArithmetic;
use crate::ends::{KnownRuns, ReadEnds};
use crate::engine::Options;
use crate::exact::StayExact;
use crate::functions;
use crate::octets::OctetLength;
use crate::pushed::TakeBackHints;
use crate::room::Roomed;
use crate::runs::GroupRuns;
use crate::sum::ExactSum;
use crate::together::ReadTogether;
use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::{AggregateUDF, ScalarUDF};
use datafusion::optimizer::{Analyzer, AnalyzerRule};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::prelude::SessionConfig;
use std::sync::Arc;

/// The state over a catalog.
pub(crate) fn state(catalog: &Catalog, options: &Options, runtime: &Arc<RuntimeEnv>, runs: &Arc<KnownRuns>) -> SessionState {
    let mut config = SessionConfig::new()
        .with_target_partitions(options.target_partitions)
        .with_default_catalog_and_schema(CATALOG, SCHEMA)
        .with_create_default_catalog_and_schema(false)
        .with_information_schema(true);
    let settings = config.options_mut();
    // A literal 2.81 is a decimal: a float must never stand beside a price.
    settings.sql_parser.parse_float_as_decimal = true;
    settings.sql_parser.map_string_types_to_utf8view = false;
    settings.execution.time_zone = Some("+00:00".into());
    settings.explain.logical_plan_only = false;
    // Files are in the order of their family's sort key: streams are merged, not sorted again.
    settings.optimizer.prefer_existing_sort = true;
    // Ours have none; one that somebody put into a file would hide rows.
    settings.execution.parquet.bloom_filter_on_read = false;
    let mut builder = SessionStateBuilder::new().with_config(config).with_runtime_env(runtime.clone()).with_default_features();
    functions::keep_allowed(&mut builder);
    // The last function of a name is the one that is called.
    let aggregates = builder.aggregate_functions().get_or_insert_default();
    aggregates.push(Arc::new(AggregateUDF::from(ExactSum::default())));
    aggregates.push(Arc::new(AggregateUDF::from(RoundedAverage::default())));
    let functions = builder.scalar_functions().get_or_insert_default();
    let roomed: Vec<_> = functions.iter().filter_map(Roomed::over).map(|function| Arc::new(ScalarUDF::from(function))).collect();
    functions.extend(roomed);
    functions.push(Arc::new(ScalarUDF::from(OctetLength::new())));
    let mut rules: Vec<Arc<dyn AnalyzerRule + Send + Sync>> = vec![Arc::new(StayExact)];
    rules.extend(Analyzer::new().rules);
    rules.push(Arc::new(CheckArithmetic));
    let mut physical: Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> =
        vec![Arc::new(AskApart), Arc::new(ReadEnds(runs.clone())), Arc::new(ReadTogether)];
    physical.extend(PhysicalOptimizer::new().rules);
    physical.push(Arc::new(TakeBackHints));
    physical.push(Arc::new(GroupRuns));
    physical.push(Arc::new(PauseInJoins));
    let state = builder.with_analyzer_rules(rules).with_physical_optimizer_rules(physical).build();
    state.catalog_list().register_catalog(CATALOG.to_string(), catalog.provider());
    state
}

/// Lets a join pause: DataFusion's operators yield where they read, and a join can make millions of rows of what it has read.
#[derive(Debug)]
struct PauseInJoins;

impl PhysicalOptimizerRule for PauseInJoins {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let wrap = |node: Arc<dyn ExecutionPlan>| match node.name().ends_with("JoinExec") {
            true => Ok(Transformed::yes(Arc::new(CooperativeExec::new(node)) as Arc<dyn ExecutionPlan>)),
            false => Ok(Transformed::no(node)),
        };
        plan.transform_up(wrap).data()
    }

    fn name(&self) -> &str {
        "pause_in_joins"
    }

    fn schema_check(&self) -> bool {
        true
    }
}
