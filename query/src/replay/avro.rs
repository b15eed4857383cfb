//! Avro object container files, one for each table, in blocks of so many rows: all columns of a stored row.

use super::{Replay, Run};
use crate::error::Error;
use arrow::array::RecordBatch;
use arrow::compute::BatchCoalescer;
use futures::StreamExt;
use schemas::{Family, container};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::Write;

/// Rows of a block.
const BLOCK_ROWS: usize = 4096;

/// Where the file of a table goes; `None` leaves its rows out.
pub type AvroFiles<'a> = dyn FnMut(Family) -> Result<Option<Box<dyn Write + Send>>, Error> + Send + 'a;

/// Writes a replay to the files that `open` gives, each opened when its first row comes; gives the rows written and those left out.
pub async fn write_avro(mut replay: Replay, open: &mut AvroFiles<'_>, progress: &mut (dyn FnMut(u64) + Send)) -> Result<(u64, u64), Error> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let blocks = async_blocks(&mut replay).map(|block| async move {
        let (family, rows) = block?;
        let count = rows.num_rows() as u64;
        let bytes = tokio::task::spawn_blocking(move || container::block(family, &rows)).await;
        Ok::<_, Error>((family, count, bytes.map_err(|why| Error::panicked("writing Avro", &why))??))
    });
    let mut blocks = std::pin::pin!(blocks.buffered(threads + 1));
    let mut files: BTreeMap<Family, Option<Box<dyn Write + Send>>> = BTreeMap::new();
    let (mut written, mut left_out) = (0, 0);
    while let Some(block) = blocks.next().await {
        let (family, rows, bytes) = block?;
        let file = match files.entry(family) {
            Entry::Occupied(file) => file.into_mut(),
            Entry::Vacant(free) => {
                let mut file = open(family)?;
                if let Some(file) = &mut file {
                    file.write_all(&container::head(family))?;
                }
                free.insert(file)
            }
        };
        match file {
            Some(file) => {
                file.write_all(&bytes)?;
                written += rows;
            }
            None => left_out += rows,
        }
        progress(rows);
    }
    for file in files.values_mut().flatten() {
        file.flush()?;
    }
    Ok((written, left_out))
}

/// The rows in blocks, by table. A block's rows are in the order of the replay; tables take turns as their blocks become full.
fn async_blocks(replay: &mut Replay) -> impl futures::Stream<Item = Result<(Family, RecordBatch), Error>> {
    let state = (replay, BTreeMap::<Family, BatchCoalescer>::new(), false);
    futures::stream::try_unfold(state, |(replay, mut tables, mut ended)| async move {
        loop {
            if let Some((family, rows)) = tables.iter_mut().find_map(|(family, rows)| Some((*family, rows.next_completed_batch()?))) {
                return Ok(Some(((family, rows), (replay, tables, ended))));
            }
            if ended {
                return Ok(None);
            }
            match replay.next().await? {
                Some(run) => add(&mut tables, &run)?,
                None => {
                    ended = true;
                    tables.values_mut().try_for_each(BatchCoalescer::finish_buffered_batch).map_err(gathering)?;
                }
            }
        }
    })
}

fn add(tables: &mut BTreeMap<Family, BatchCoalescer>, run: &Run) -> Result<(), Error> {
    let topic = run.table().topic();
    // Rows of raw bytes can be as large as a message: each is a block of its own.
    let block_rows = if topic.max_message_bytes > schemas::topic::MESSAGE_BYTES_MAX { 1 } else { BLOCK_ROWS };
    let rows = tables.entry(run.table()).or_insert_with(|| BatchCoalescer::new(topic.stored_schema().clone(), block_rows));
    rows.push_batch(run.stored()?).map_err(gathering)
}

fn gathering(e: arrow::error::ArrowError) -> Error {
    Error::Execution { doing: "gathering the rows of an Avro block", what: e.to_string() }
}
