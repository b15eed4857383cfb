//! Builds a batch of one family row by row: a column that a row does not set is NULL there, a column that no row sets costs nothing.

use crate::Error;
use crate::topic::{Family, Topic};
use arrow::array::{
    ArrayRef, BinaryArray, BinaryBuilder, BooleanArray, BooleanBuilder, Date32Builder, Decimal128Builder, Int32Array, Int32Builder,
    Int64Builder, RecordBatch, StringArray, StringBuilder, UInt32Array, new_null_array,
};
use arrow::compute::take;
use arrow::error::ArrowError;
use std::sync::Arc;

/// Rows of one family under construction. Columns are named by their position, [`Topic::column`].
#[derive(Debug)]
pub struct Rows {
    family: Family,
    columns: Vec<Column>,
    rows: usize,
    abandoned: Vec<usize>,
}

#[derive(Debug)]
enum Column {
    Untouched,
    Text(StringBuilder),
    I32(Int32Builder),
    I64(Int64Builder),
    Decimal(Decimal128Builder),
    Date(Date32Builder),
    Bool(BooleanBuilder),
    Bytes(BinaryBuilder),
    /// The same value in every row.
    Constant(ArrayRef),
}

macro_rules! pad {
    ($builder:expr, $rows:expr) => {{
        use arrow::array::ArrayBuilder;
        for _ in ArrayBuilder::len($builder)..$rows {
            $builder.append_null();
        }
    }};
}

macro_rules! setter {
    ($(#[$doc:meta])* $name:ident, $variant:ident, $value:ty, $new:expr) => {
        $(#[$doc])*
        pub fn $name(&mut self, column: usize, value: $value) {
            let (rows, topic) = (self.rows, self.topic());
            if let Column::Untouched = self.columns[column] {
                self.columns[column] = Column::$variant($new(topic.fields[column].kind.arrow()));
            }
            match &mut self.columns[column] {
                Column::$variant(builder) => {
                    pad!(builder, rows);
                    builder.append_value(value);
                }
                other => panic!("column {column} of {} was begun as {other:?}", topic.name),
            }
        }
    };
}

impl Rows {
    /// No rows yet.
    pub fn new(family: Family) -> Rows {
        let columns = family.topic().fields.iter().map(|_| Column::Untouched).collect();
        Rows { family, columns, rows: 0, abandoned: Vec::new() }
    }

    /// The family that is built.
    pub fn family(&self) -> Family {
        self.family
    }

    /// The family's declaration.
    pub fn topic(&self) -> &'static Topic {
        self.family.topic()
    }

    /// Good rows ended so far.
    pub fn len(&self) -> usize {
        self.rows - self.abandoned.len()
    }

    /// True when no good row was ended.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    setter!(/// Sets a text column of the current row.
        text, Text, &str, |_| StringBuilder::new());
    setter!(/// Sets a 32-bit column of the current row.
        i32, I32, i32, |_| Int32Builder::new());
    setter!(/// Sets a 64-bit or time column of the current row.
        i64, I64, i64, |_| Int64Builder::new());
    setter!(/// Sets a decimal column of the current row, to the unscaled value.
        decimal, Decimal, i128, |data_type| Decimal128Builder::new().with_data_type(data_type));
    setter!(/// Sets a date column of the current row, in days since 1970-01-01.
        date, Date, i32, |_| Date32Builder::new());
    setter!(/// Sets a true-or-false column of the current row.
        bool, Bool, bool, |_| BooleanBuilder::new());
    setter!(/// Sets a bytes column of the current row.
        bytes, Bytes, &[u8], |_| BinaryBuilder::new());

    /// Gives a text column one value for all rows, unless a row has set it.
    pub fn default_text(&mut self, column: usize, value: &str) {
        self.default_value(column, Arc::new(StringArray::from(vec![value])));
    }

    /// Gives a 32-bit column one value for all rows, unless a row has set it.
    pub fn default_i32(&mut self, column: usize, value: i32) {
        self.default_value(column, Arc::new(Int32Array::from(vec![value])));
    }

    /// Gives a bytes column one value for all rows, unless a row has set it.
    pub fn default_bytes(&mut self, column: usize, value: &[u8]) {
        self.default_value(column, Arc::new(BinaryArray::from(vec![value])));
    }

    fn default_value(&mut self, column: usize, value: ArrayRef) {
        if matches!(self.columns[column], Column::Untouched | Column::Constant(_)) {
            self.columns[column] = Column::Constant(value);
        }
    }

    /// Ends the current row: what it did not set is NULL.
    pub fn end_row(&mut self) {
        self.rows += 1;
    }

    /// Ends the current row as one that turned out bad: it will not be in the batch.
    pub fn abandon_row(&mut self) {
        self.abandoned.push(self.rows);
        self.rows += 1;
    }

    /// The batch in the family's wire schema; the builder is empty again.
    pub fn finish(&mut self) -> Result<RecordBatch, Error> {
        let topic = self.topic();
        let rows = std::mem::take(&mut self.rows);
        let abandoned = std::mem::take(&mut self.abandoned);
        let arrays: Vec<ArrayRef> = self
            .columns
            .iter_mut()
            .zip(&topic.fields)
            .map(|(column, field)| -> ArrayRef {
                macro_rules! done {
                    ($builder:expr) => {{
                        pad!($builder, rows);
                        Arc::new($builder.finish())
                    }};
                }
                match column {
                    Column::Untouched => new_null_array(&field.kind.arrow(), rows),
                    Column::Text(b) => done!(b),
                    Column::I32(b) => done!(b),
                    Column::I64(b) => done!(b),
                    Column::Decimal(b) => done!(b),
                    Column::Date(b) => done!(b),
                    Column::Bool(b) => done!(b),
                    Column::Bytes(b) => done!(b),
                    Column::Constant(value) => {
                        take(value, &UInt32Array::from(vec![0; rows]), None).expect("index 0 of a one-value array exists")
                    }
                }
            })
            .collect();
        let fault = |e: ArrowError| Error::Build { topic: topic.name, why: e.to_string() };
        let arrays = if abandoned.is_empty() { arrays } else { without(&arrays, rows, &abandoned).map_err(fault)? };
        RecordBatch::try_new(topic.wire_schema().clone(), arrays).map_err(fault)
    }
}

fn without(arrays: &[ArrayRef], rows: usize, abandoned: &[usize]) -> Result<Vec<ArrayRef>, ArrowError> {
    let mut keep = vec![true; rows];
    abandoned.iter().for_each(|row| keep[*row] = false);
    let keep = BooleanArray::from(keep);
    arrays.iter().map(|array| arrow::compute::filter(array, &keep)).collect()
}
