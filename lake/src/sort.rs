//! Batches in any order to the order of rows in each partition's file: the family's sort key, NULLs first, equal keys as they came. Pure.

use crate::{Error, layout};
use arrow::array::{Array, ArrayRef, Int32RunArray, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::{partition, take};
use arrow::datatypes::{DataType, Schema};
use arrow::row::{OwnedRow, Row, RowConverter, Rows, SortField};
use schemas::Topic;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// More leading keys than these are sorted with the rest of the key.
const GROUPS_MAX: usize = 4096;

/// The rows of one partition, in the order of its file.
#[derive(Debug)]
pub struct Partition {
    /// Partition columns and their values, in the table's order.
    pub values: Vec<(&'static str, Option<String>)>,
    /// (batch, row) in file order.
    pub order: Vec<(usize, usize)>,
}

/// Checks the batches and puts their rows in order. Partitions come in the order in which they first appear.
pub fn partitions(topic: &'static Topic, batches: &[RecordBatch]) -> Result<Vec<Partition>, Error> {
    for batch in batches {
        check(topic, batch)?;
    }
    let fault = |why: String| Error::Batch { table: topic.name, why };
    let mut found = split(topic, batches)?;
    let (lead, rest) = topic.sort_key.split_at(1);
    let leads = Keys::new(topic, lead, batches).map_err(|e| fault(e.to_string()))?;
    let rests = Keys::new(topic, rest, batches).map_err(|e| fault(e.to_string()))?;
    for partition in &mut found {
        partition.order = ordered(std::mem::take(&mut partition.order), &leads, &rests);
    }
    Ok(found)
}

/// Rows in the order of their keys, equal keys as they came. Rows of one leading key mostly come in order already: put together, they only have
/// to be looked over.
fn ordered(mut order: Vec<(usize, usize)>, leads: &Keys, rests: &Keys) -> Vec<(usize, usize)> {
    let by_rest = |a: &(usize, usize), b: &(usize, usize)| rests.of(a).cmp(&rests.of(b));
    let Some(groups) = groups(&order, leads, rests) else {
        order.sort_by(|a, b| leads.of(a).cmp(&leads.of(b)).then_with(|| by_rest(a, b)));
        return order;
    };
    order.clear();
    for mut group in groups {
        if !group.sorted {
            group.rows.sort_by(by_rest);
        }
        order.append(&mut group.rows);
    }
    order
}

/// Rows of one leading key, as they came.
struct Group<'a> {
    lead: Row<'a>,
    rows: Vec<(usize, usize)>,
    /// The rest of the last one's key, and whether all are in order.
    last: Row<'a>,
    sorted: bool,
}

/// The rows by their leading keys, in the order of those; `None` where there are too many of them to be worth it.
fn groups<'a>(order: &[(usize, usize)], leads: &'a Keys, rests: &'a Keys) -> Option<Vec<Group<'a>>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    let mut numbers: HashMap<Row<'_>, usize> = HashMap::new();
    let mut number = 0;
    for at in order {
        let (lead, rest) = (leads.of(at), rests.of(at));
        // Neighbours often share it.
        if groups.get(number).is_none_or(|group| group.lead != lead) {
            number = *numbers.entry(lead).or_insert(groups.len());
        }
        match groups.get_mut(number) {
            None if number == GROUPS_MAX => return None,
            None => groups.push(Group { lead, rows: vec![*at], last: rest, sorted: true }),
            Some(group) => {
                group.sorted &= group.last <= rest;
                group.last = rest;
                group.rows.push(*at);
            }
        }
    }
    groups.sort_by_key(|group| group.lead);
    Some(groups)
}

/// Comparable keys of all rows.
struct Keys {
    rows: Rows,
    /// Position of a batch's first row among all rows.
    firsts: Vec<usize>,
}

impl Keys {
    fn new(topic: &'static Topic, names: &[&str], batches: &[RecordBatch]) -> Result<Keys, arrow::error::ArrowError> {
        let converter = converter(topic, names)?;
        let mut rows = converter.empty_rows(batches.iter().map(RecordBatch::num_rows).sum(), 0);
        let mut firsts = Vec::with_capacity(batches.len());
        for batch in batches {
            firsts.push(rows.num_rows());
            let columns: Vec<ArrayRef> = names.iter().map(|name| column(topic.stored_schema(), batch, name)).collect();
            converter.append(&mut rows, &columns)?;
        }
        Ok(Keys { rows, firsts })
    }

    fn of(&self, (batch, row): &(usize, usize)) -> Row<'_> {
        self.rows.row(self.firsts[*batch] + row)
    }
}

/// A column that a batch lacks is NULL in all its rows; every column it has must be the table's.
fn check(topic: &'static Topic, batch: &RecordBatch) -> Result<(), Error> {
    let fault = |why: String| Err(Error::Batch { table: topic.name, why });
    let stored = topic.stored_schema();
    for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        match stored.field_with_name(field.name()) {
            Err(_) => return fault(format!("it has a column {}, which the table lacks", field.name())),
            Ok(ours) if ours.data_type() != once(column).as_ref().map_or(field.data_type(), |value| value.data_type()) => {
                return fault(format!("its column {} is {}, not {}", field.name(), field.data_type(), ours.data_type()));
            }
            Ok(ours) if !ours.is_nullable() && column.logical_null_count() > 0 => {
                return fault(format!("{} rows have no {}", column.logical_null_count(), field.name()));
            }
            Ok(_) => {}
        }
    }
    match stored.fields().iter().find(|field| !field.is_nullable() && batch.column_by_name(field.name()).is_none()) {
        Some(field) if batch.num_rows() > 0 => fault(format!("it has no column {}", field.name())),
        _ => Ok(()),
    }
}

/// The value of a column that says it once for all its rows: a run-end encoded one of a single run.
pub fn once(column: &ArrayRef) -> Option<ArrayRef> {
    let DataType::RunEndEncoded(..) = column.data_type() else { return None };
    let runs = column.as_any().downcast_ref::<Int32RunArray>()?;
    let whole = runs.run_ends().values().first().is_some_and(|end| usize::try_from(*end) == Ok(runs.len()));
    (whole && runs.offset() == 0 && runs.values().len() == 1).then(|| runs.values().clone())
}

/// One value, so many times.
pub fn repeated(value: &ArrayRef, rows: usize) -> ArrayRef {
    take(value, &UInt32Array::from(vec![0; rows]), None).expect("index 0 of a one-value array exists")
}

/// The batch's column row by row, or NULLs where it has none.
pub fn column(schema: &Schema, batch: &RecordBatch, name: &str) -> ArrayRef {
    match batch.column_by_name(name) {
        Some(column) => once(column).map_or_else(|| column.clone(), |value| repeated(&value, batch.num_rows())),
        None => {
            let field = schema.field_with_name(name).expect("the table's own columns are asked for");
            new_null_array(field.data_type(), batch.num_rows())
        }
    }
}

fn split(topic: &'static Topic, batches: &[RecordBatch]) -> Result<Vec<Partition>, Error> {
    let fault = |why: String| Error::Batch { table: topic.name, why };
    let converter = converter(topic, topic.partition_by).map_err(|e| fault(e.to_string()))?;
    let mut partitions: Vec<Partition> = Vec::new();
    let mut positions: HashMap<OwnedRow, usize> = HashMap::new();
    for (number, batch) in batches.iter().enumerate() {
        let columns: Vec<ArrayRef> = topic.partition_by.iter().map(|name| column(topic.stored_schema(), batch, name)).collect();
        let rows = converter.convert_columns(&columns).map_err(|e| fault(e.to_string()))?;
        // Neighbours mostly share a partition: they are looked up together.
        for alike in partition(&columns).map_err(|e| fault(e.to_string()))?.ranges() {
            let at = match positions.entry(rows.row(alike.start).owned()) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(new) => {
                    let values = values(topic, &columns, alike.start).map_err(fault)?;
                    partitions.push(Partition { values, order: Vec::new() });
                    *new.insert(partitions.len() - 1)
                }
            };
            partitions[at].order.extend(alike.map(|row| (number, row)));
        }
    }
    Ok(partitions)
}

fn values(topic: &'static Topic, columns: &[ArrayRef], row: usize) -> Result<Vec<(&'static str, Option<String>)>, String> {
    let value = |(name, column): (&&'static str, &ArrayRef)| match layout::partition_value(column, row) {
        Ok(value) => Ok((*name, value)),
        Err(why) => Err(format!("{name} {why}")),
    };
    topic.partition_by.iter().zip(columns).map(value).collect()
}

/// Makes keys that compare as the rows do.
pub fn converter(topic: &'static Topic, names: &[&str]) -> Result<RowConverter, arrow::error::ArrowError> {
    let stored = topic.stored_schema();
    // SortField's default is ascending, NULLs first.
    RowConverter::new(names.iter().map(|name| SortField::new(stored.field(topic.column(name)).data_type().clone())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, StringArray};
    use proptest::prelude::*;
    use std::sync::Arc;

    fn keys(columns: &[ArrayRef]) -> Keys {
        let fields = columns.iter().map(|column| SortField::new(column.data_type().clone())).collect();
        let rows = RowConverter::new(fields).and_then(|converter| converter.convert_columns(columns)).expect("text and numbers have keys");
        Keys { rows, firsts: vec![0] }
    }

    proptest! {
        #[test]
        fn rows_by_leading_key_or_not_are_in_the_order_of_a_plain_stable_sort(
            rows in proptest::collection::vec((proptest::option::of("[a-d]{0,2}"), proptest::option::of(0i64..9)), 0..200),
        ) {
            let symbols: ArrayRef = Arc::new(rows.iter().map(|(symbol, _)| symbol.clone()).collect::<StringArray>());
            let times: ArrayRef = Arc::new(rows.iter().map(|(_, time)| *time).collect::<Int64Array>());
            let (leads, rests) = (keys(std::slice::from_ref(&symbols)), keys(std::slice::from_ref(&times)));
            // None sorts before any value: NULLs first.
            let mut plain: Vec<(usize, usize)> = (0..rows.len()).map(|row| (0, row)).collect();
            plain.sort_by_key(|(_, row)| rows[*row].clone());
            let came: Vec<(usize, usize)> = (0..rows.len()).map(|row| (0, row)).collect();
            prop_assert_eq!(ordered(came, &leads, &rests), plain);
        }
    }

    #[test]
    fn more_leading_keys_than_are_worth_it_are_sorted_as_well() {
        let count = GROUPS_MAX as i64 + 10;
        let numbers: ArrayRef = Arc::new((0..count).rev().collect::<Int64Array>());
        let (leads, rests) = (keys(std::slice::from_ref(&numbers)), keys(std::slice::from_ref(&numbers)));
        let came: Vec<(usize, usize)> = (0..GROUPS_MAX + 10).map(|row| (0, row)).collect();
        let turned: Vec<(usize, usize)> = came.iter().rev().copied().collect();
        assert_eq!(ordered(came, &leads, &rests), turned);
    }
}
