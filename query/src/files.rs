//! What one version of a table consists of, as `lake` lists it.

use object_store::ObjectStore;
use schemas::Family;
use std::fmt;
use std::sync::Arc;
use url::Url;

/// One Parquet file of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    /// Where it is, as the table's object store names it (not percent-encoded).
    pub path: String,
    /// Length in bytes.
    pub size: u64,
    /// Number of rows.
    pub rows: u64,
    /// Value of every partition column as Delta writes it; `None` is NULL.
    pub partition_values: Vec<(String, Option<String>)>,
    /// When it was written, in milliseconds since 1970.
    pub modification_time_ms: i64,
}

/// The files that one version of a table consists of.
#[derive(Clone)]
pub struct TableFiles {
    /// The family stored in the table.
    pub family: Family,
    /// The table's root, for messages and to tell two installations apart.
    pub root: Url,
    /// The object store: it knows a file by [`FileInfo::path`].
    pub store: Arc<dyn ObjectStore>,
    /// Delta version.
    pub version: i64,
    /// The files of that version.
    pub files: Vec<FileInfo>,
}

impl fmt::Debug for TableFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} version {} at {}: {} files", self.family.topic().name, self.version, self.root, self.files.len())
    }
}
