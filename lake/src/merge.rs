//! Sorted files to one sorted file: a k-way merge by the family's sort key, one batch of each file in memory. Equal keys come in the order of
//! the files.

use crate::file::{Encoded, FileWriter};
use crate::read::FileRows;
use crate::stop::Stop;
use crate::{Error, sort};
use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::interleave_record_batch;
use arrow::row::{RowConverter, Rows};
use schemas::Topic;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Rows that are gathered before they are written.
const GATHERED_ROWS: usize = 1 << 15;

/// Merges the rows of sorted files. A file whose rows are not in order is an error: what it would be merged to would not be in order either.
/// `None` where it was told to stop before it came to the end.
pub fn merge(topic: &'static Topic, files: Vec<FileRows>, stop: &Stop) -> Result<Option<Encoded>, Error> {
    let fault = |why: String| Error::Batch { table: topic.name, why };
    let converter = sort::converter(topic, topic.sort_key).map_err(|e| fault(e.to_string()))?;
    let mut inputs = Vec::with_capacity(files.len());
    for file in files {
        let mut input = Input { rows: file, batch: None, at: 0 };
        input.advance(topic, &converter)?;
        inputs.push(input);
    }
    let mut heap: BinaryHeap<Reverse<(Vec<u8>, usize)>> =
        inputs.iter().enumerate().filter_map(|(number, input)| Some(Reverse((input.key()?.to_vec(), number)))).collect();
    let mut out = Gathered { topic, batches: Vec::new(), current: vec![None; inputs.len()], order: Vec::new(), writer: None };
    while let Some(Reverse((mut key, number))) = heap.pop() {
        // As long as its next row is not behind the first of the others, the file has the word.
        if stop.is_set() {
            return Ok(None);
        }
        let bound = heap.peek().map(|Reverse(next)| next.clone());
        loop {
            out.push(number, &inputs[number])?;
            let input = &mut inputs[number];
            input.at += 1;
            if input.at == input.len() {
                out.current[number] = None;
                input.advance(topic, &converter)?;
            }
            let Some(next) = input.key() else { break };
            if next < key.as_slice() {
                return Err(fault(format!("{} is not in the order of its sort key", input.rows.path())));
            }
            key.clear();
            key.extend_from_slice(next);
            if bound.as_ref().is_some_and(|(other, its)| (other.as_slice(), *its) < (key.as_slice(), number)) {
                heap.push(Reverse((key, number)));
                break;
            }
        }
    }
    out.finish().map(Some)
}

/// One file, with the batch that is being merged.
struct Input {
    rows: FileRows,
    batch: Option<(RecordBatch, Rows)>,
    at: usize,
}

impl Input {
    /// The next batch that has rows, or none.
    fn advance(&mut self, topic: &'static Topic, converter: &RowConverter) -> Result<(), Error> {
        self.at = 0;
        self.batch = None;
        for batch in self.rows.by_ref() {
            let batch = batch?;
            if batch.num_rows() > 0 {
                let columns: Vec<ArrayRef> = topic.sort_key.iter().map(|name| batch.column(topic.column(name)).clone()).collect();
                let keys = converter.convert_columns(&columns).map_err(|e| Error::Batch { table: topic.name, why: e.to_string() })?;
                self.batch = Some((batch, keys));
                return Ok(());
            }
        }
        Ok(())
    }

    fn len(&self) -> usize {
        self.batch.as_ref().map_or(0, |(batch, _)| batch.num_rows())
    }

    fn key(&self) -> Option<&[u8]> {
        self.batch.as_ref().map(|(_, keys)| keys.row(self.at).data())
    }
}

/// Rows in their order, and the batches that they lie in.
struct Gathered {
    topic: &'static Topic,
    batches: Vec<RecordBatch>,
    /// Which of the batches each file's current one is.
    current: Vec<Option<usize>>,
    order: Vec<(usize, usize)>,
    writer: Option<FileWriter>,
}

impl Gathered {
    fn push(&mut self, number: usize, input: &Input) -> Result<(), Error> {
        let Some((batch, _)) = &input.batch else { return Ok(()) };
        let at = match self.current[number] {
            Some(at) => at,
            None => {
                self.batches.push(batch.clone());
                *self.current[number].insert(self.batches.len() - 1)
            }
        };
        self.order.push((at, input.at));
        if self.order.len() == GATHERED_ROWS { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Error> {
        if self.order.is_empty() {
            return Ok(());
        }
        let fault = |why: String| Error::Batch { table: self.topic.name, why };
        let lent: Vec<&RecordBatch> = self.batches.iter().collect();
        let rows = interleave_record_batch(&lent, &self.order).map_err(|e| fault(e.to_string()))?;
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => self.writer.insert(FileWriter::new(self.topic, &rows)?),
        };
        writer.write(&rows)?;
        self.order.clear();
        self.batches.clear();
        self.current.fill(None);
        Ok(())
    }

    fn finish(mut self) -> Result<Encoded, Error> {
        self.flush()?;
        match self.writer {
            Some(writer) => writer.finish(),
            None => Err(Error::Batch { table: self.topic.name, why: "the files to merge have no rows".into() }),
        }
    }
}
