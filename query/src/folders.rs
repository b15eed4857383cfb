//! Plans as who asks may see them: a file is named as its table's log names it, not by where on this machine the tables lie.

use crate::files::TableFiles;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::datatypes::DataType;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Where tables lie: what stands in a plan before the part of a path that the table's log states, and the table's name in its place.
#[derive(Debug, Clone, Default)]
pub(crate) struct Folders(BTreeSet<(String, String)>);

impl Folders {
    pub(crate) fn of(tables: &[TableFiles]) -> Folders {
        let folder = |table: &TableFiles| {
            let file = table.files.first()?;
            let own = object_store::path::Path::from(file.path.as_str()).parts().count();
            let parts: Vec<String> = file.location.parts().map(|part| part.as_ref().to_string()).collect();
            let before = parts[..parts.len().checked_sub(own)?].join("/");
            (!before.is_empty()).then(|| (before + "/", table.family.topic().name.to_string() + "/"))
        };
        Folders(tables.iter().filter_map(folder).collect())
    }

    /// The stream, with them taken out of its texts.
    pub(crate) fn out_of(&self, stream: SendableRecordBatchStream) -> SendableRecordBatchStream {
        let (schema, folders) = (stream.schema(), self.clone());
        let hidden = stream.map(move |batch| batch.and_then(|batch| Ok(folders.out_of_batch(&batch)?)));
        Box::pin(RecordBatchStreamAdapter::new(schema, hidden))
    }

    fn out_of_batch(&self, batch: &RecordBatch) -> Result<RecordBatch, arrow::error::ArrowError> {
        let hide = |column: &ArrayRef| -> ArrayRef {
            match column.data_type() {
                DataType::Utf8 => {
                    Arc::new(column.as_string::<i32>().iter().map(|text| text.map(|text| self.out_of_text(text))).collect::<StringArray>())
                }
                _ => column.clone(),
            }
        };
        RecordBatch::try_new(batch.schema(), batch.columns().iter().map(hide).collect())
    }

    fn out_of_text(&self, text: &str) -> String {
        self.0.iter().fold(text.to_string(), |text, (folder, name)| text.replace(folder, name))
    }
}
