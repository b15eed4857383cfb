//! The rows of a file, row group by row group, held against what is stated of them.

use crate::Error;
use crate::bounds::{self, Bounds};
use crate::pages;
use crate::read::{BATCH_ROWS, FileRows};
use crate::sorted::Sorted;
use crate::table::{FileInfo, Lake};
use arrow::array::RecordBatch;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::file::metadata::PageIndexPolicy;
use schemas::Family;

/// The rows of one row group.
pub struct GroupRows {
    rows: FileRows,
    bounds: Bounds,
    sorted: Sorted,
    broken: Vec<String>,
}

impl Lake {
    /// The rows of a file apart for each of its row groups, in their order: they may be read side by side, where they lie. `unnamed` are columns
    /// that the table's log does not name ([`Table::columns`](crate::Table::columns)).
    pub async fn row_groups(&self, family: Family, file: &FileInfo, unnamed: &[String]) -> Result<Vec<GroupRows>, Error> {
        let fault = |why: String| self.unreadable(family, &file.path, why);
        let content = self.content(family, file).await?;
        let indexed = ArrowReaderOptions::default().with_page_index_policy(PageIndexPolicy::Optional);
        let indexed = ArrowReaderMetadata::load(&content, indexed).map_err(|e| fault(e.to_string()))?;
        // Read page after page: where the page index says that they are is held against that.
        let plain = ArrowReaderMetadata::load(&content, ArrowReaderOptions::default()).map_err(|e| fault(e.to_string()))?;
        let mut broken = bounds::of_file(family.topic(), &file.stats, unnamed, &indexed);
        broken.extend(pages::broken(&content, indexed.metadata()).map_err(|e| fault(e.to_string()))?);
        let groups = plain.metadata().num_row_groups();
        if groups == 0 && !broken.is_empty() {
            return Err(fault(broken.remove(0)));
        }
        let group = |(group, sorted): (usize, Sorted)| {
            let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(content.clone(), plain.clone());
            let reader = builder.with_row_groups(vec![group]).with_batch_size(BATCH_ROWS).build().map_err(|e| fault(e.to_string()))?;
            let bounds = Bounds::of(family.topic(), &file.stats, &indexed, group).map_err(|e| fault(e.to_string()))?;
            Ok(GroupRows { rows: FileRows::of(family, file, reader), bounds, sorted, broken: std::mem::take(&mut broken) })
        };
        Sorted::of(plain.metadata()).into_iter().enumerate().map(group).collect()
    }
}

impl GroupRows {
    /// Path of the file below the table's root.
    pub fn path(&self) -> &str {
        self.rows.path()
    }

    /// What is stated of the rows that were read since this was asked last, and is not so.
    pub fn broken(&mut self) -> Vec<String> {
        std::mem::take(&mut self.broken)
    }
}

impl Iterator for GroupRows {
    type Item = Result<RecordBatch, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.rows.next() {
            None => {
                self.broken.extend(self.bounds.end());
                match self.sorted.end() {
                    Ok(broken) => self.broken.extend(broken),
                    Err(e) => return Some(Err(self.rows.fault(&e.to_string()))),
                }
                None
            }
            Some(batch) => Some(batch.and_then(|batch| {
                self.broken.extend(self.bounds.hold(&batch));
                self.broken.extend(self.sorted.hold(&batch).map_err(|e| self.rows.fault(&e.to_string()))?);
                Ok(batch)
            })),
        }
    }
}
