//! What a table says of all its versions, at once.

use lake::{Entry, Error, Table};
use serde_json::Value;

pub async fn history(table: &Table) -> Result<Vec<Entry>, Error> {
    let mut history = table.history();
    let mut told = Vec::new();
    while let Some(entry) = history.next().await? {
        told.push(entry);
    }
    Ok(told)
}

/// What each commit that says anything under `key` says there.
pub fn infos(told: &[Entry], key: &str) -> Vec<Value> {
    told.iter().filter_map(|entry| entry.info.get(key).cloned()).collect()
}
