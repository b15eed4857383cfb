//! Which functions a statement may call: those of a list. What a newer DataFusion brings is called by nobody before somebody has looked at it: does
//! it read what is no table, tell of the machine, or make much of little (room.rs)?

use datafusion::execution::session_state::SessionStateBuilder;
use std::collections::BTreeSet;
use std::sync::LazyLock;

/// One name in a line. `input_file_name` is not there: it tells where the tables lie.
static ALLOWED: LazyLock<BTreeSet<&str>> = LazyLock::new(|| include_str!("functions.txt").lines().collect());

/// Takes the others out of a state that is being made.
pub(crate) fn keep_allowed(builder: &mut SessionStateBuilder) {
    let allowed = |name: &str| ALLOWED.contains(name);
    builder.scalar_functions().get_or_insert_default().retain(|function| allowed(function.name()));
    builder.aggregate_functions().get_or_insert_default().retain(|function| allowed(function.name()));
    builder.window_functions().get_or_insert_default().retain(|function| allowed(function.name()));
    builder.table_functions().get_or_insert_default().retain(|name, _| allowed(name));
}
