//! Are the pages of a file where, and as long as, its page index states, and is there nothing beside them that hides rows? A reader that looks for
//! some rows goes by the index: one that is wrong gives it other rows, or none.

use crate::read::Content;
use parquet::column::page::PageReader;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use parquet::file::page_index::offset_index::PageLocation;
use parquet::file::serialized_reader::SerializedPageReader;
use std::sync::Arc;

/// What is stated of the pages of a file, and is not so.
pub(crate) fn broken(content: &Content, file: &ParquetMetaData) -> Result<Vec<String>, ParquetError> {
    let content = Arc::new(content.clone());
    let mut broken = Vec::new();
    for (number, group) in file.row_groups().iter().enumerate() {
        for (at, chunk) in group.columns().iter().enumerate() {
            let name = chunk.column_path().string();
            if chunk.bloom_filter_offset().is_some() {
                broken.push(format!("it has a Bloom filter of {name}, and tape writes none: it could hide rows"));
            }
            let Some(index) = file.offset_index().and_then(|groups| groups.get(number)?.get(at)) else { continue };
            if !lie_as_stated(chunk, index.page_locations()) {
                broken.push(format!("its page index has the pages of {name} where they are not"));
            }
            let rows = usize::try_from(group.num_rows()).unwrap_or(0);
            let firsts = first_rows(&content, chunk, rows)?;
            if !index.page_locations().iter().map(|page| page.first_row_index).eq(firsts) {
                broken.push(format!("its page index has other rows in the pages of {name} than they hold"));
            }
        }
    }
    Ok(broken)
}

/// One page behind the other, from where the chunk's pages begin to its end.
fn lie_as_stated(chunk: &ColumnChunkMetaData, pages: &[PageLocation]) -> bool {
    let (start, length) = chunk.byte_range();
    let mut ends = pages.iter().map(|page| page.offset + i64::from(page.compressed_page_size));
    let follow = ends.clone().zip(pages.iter().skip(1)).all(|(end, next)| end == next.offset);
    let first = pages.first().is_none_or(|page| page.offset == chunk.data_page_offset());
    follow && first && ends.next_back().is_none_or(|end| u64::try_from(end) == Ok(start + length))
}

/// The first row of each data page, as the headers of the pages count them. No column of ours is nested: a value is a row.
fn first_rows(content: &Arc<Content>, chunk: &ColumnChunkMetaData, rows: usize) -> Result<Vec<i64>, ParquetError> {
    let mut pages = SerializedPageReader::new(content.clone(), chunk, rows, None)?;
    let (mut firsts, mut row) = (Vec::new(), 0);
    while let Some(page) = pages.peek_next_page()? {
        if !page.is_dict {
            firsts.push(row);
            row += page.num_rows.or(page.num_levels).and_then(|rows| i64::try_from(rows).ok()).unwrap_or(0);
        }
        pages.skip_next_page()?;
    }
    Ok(firsts)
}
