//! Sorted files to one sorted file: a k-way merge by the family's sort key, of rows that are read as they are needed and written as they come. Equal
//! keys come in the order of the files.

use crate::file::{FileLayout, FileWriter};
use crate::read::FileRows;
use crate::stats::Stats;
use crate::stop::Stop;
use crate::table::{Upload, Uploaded};
use crate::{Error, sort};
use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::interleave_record_batch;
use arrow::row::{RowConverter, Rows};
use schemas::Topic;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Merges the rows of sorted files into a new one; `gathered_rows` of them are put together before they are written. A file whose rows are not in order
/// is an error: what it would be merged to would not be in order either. `None` where it was told to stop before it came to the end.
pub fn merge(
    topic: &'static Topic,
    layout: FileLayout,
    files: Vec<FileRows>,
    gathered_rows: usize,
    into: Upload,
    stop: &Stop,
) -> Result<Option<(Uploaded, Stats)>, Error> {
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
    let current = vec![None; inputs.len()];
    let mut out =
        Gathered { topic, layout, rows: gathered_rows, batches: Vec::new(), current, order: Vec::new(), file: Some(into), writer: None };
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
    layout: FileLayout,
    /// So many are written at a time.
    rows: usize,
    batches: Vec<RecordBatch>,
    /// Which of the batches each file's current one is.
    current: Vec<Option<usize>>,
    order: Vec<(usize, usize)>,
    /// The new file, until its first rows settle how it is written.
    file: Option<Upload>,
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
        if self.order.len() == self.rows { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Error> {
        if self.order.is_empty() {
            return Ok(());
        }
        let lent: Vec<&RecordBatch> = self.batches.iter().collect();
        let rows = interleave_record_batch(&lent, &self.order).map_err(|e| self.fault(e.to_string()))?;
        if let Some(file) = self.file.take() {
            self.writer = Some(FileWriter::new(self.topic, self.layout, &rows, file)?);
        }
        match &mut self.writer {
            Some(writer) => writer.write(&rows)?,
            None => return Err(self.fault("its file was given up".into())),
        }
        self.order.clear();
        self.batches.clear();
        self.current.fill(None);
        Ok(())
    }

    fn finish(mut self) -> Result<(Uploaded, Stats), Error> {
        self.flush()?;
        match self.writer.take() {
            Some(writer) => writer.finish(),
            None => Err(self.fault("the files to merge have no rows".into())),
        }
    }

    fn fault(&self, why: String) -> Error {
        Error::Batch { table: self.topic.name, why }
    }
}
