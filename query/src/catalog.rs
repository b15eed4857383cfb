//! The tables as they stood at one moment: every family is there, an empty one too, and a catalog never changes once it is made.
//!
//! `files.rs` says which files each table consists of, and up to where of the log they have everything: the cut, from which on
//! [`crate::table::TapeTable`] puts the rows of the hot tail in union with the scan.

use crate::about::{Asked, ExplainedTable, asked_table, view_schema};
use crate::error::Error;
use crate::files::TableFiles;
use crate::folders::Folders;
use crate::priced::PricedTable;
use crate::queries::Queries;
use crate::table::TapeTable;
use crate::tail::{Followed, Place};
use crate::units::InstrumentUnits;
use arrow::array::{ArrayRef, Int32Array, RecordBatch, StringArray};
use datafusion::catalog::{CatalogProvider, MemTable, MemoryCatalogProvider, MemorySchemaProvider, SchemaProvider};
use datafusion::execution::runtime_env::RuntimeEnv;
use schemas::Family;
use schemas::about::{self, View};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;
use url::Url;

/// Name of the SQL catalog.
pub const CATALOG: &str = "tokentape";
/// Name of the SQL schema that holds the families; it is the default one.
pub const SCHEMA: &str = "tape";

/// What identifies the state of a table: its root, its version, and which log it has up to where.
type Standing = (Url, i64, BTreeMap<i32, i64>);

/// All tables at one moment.
#[derive(Debug)]
pub struct Catalog {
    provider: Arc<dyn CatalogProvider>,
    standing: BTreeMap<Family, Standing>,
    rows: BTreeMap<Family, u64>,
    tapes: BTreeMap<Family, Arc<TapeTable>>,
    units: Arc<InstrumentUnits>,
    /// The log whose cuts the tables were asked for.
    followed: Option<Arc<Followed>>,
    folders: Folders,
}

impl Catalog {
    /// The catalog over these tables, with the cuts of the log that is followed, and what is asked; `earlier` lends what has not changed since.
    pub(crate) fn new(
        tables: Vec<TableFiles>,
        followed: Option<Arc<Followed>>,
        asked: &Asked,
        queries: &Queries,
        runtime: &RuntimeEnv,
        earlier: Option<&Catalog>,
    ) -> Result<Catalog, Error> {
        let folders = Folders::of(&tables);
        let mut listed: BTreeMap<Family, TableFiles> = tables.into_iter().map(|table| (table.family, table)).collect();
        let standing: BTreeMap<Family, Standing> = standing(listed.values());
        let rows = listed.iter().map(|(family, table)| (*family, table.rows())).collect();
        let mut tapes = BTreeMap::new();
        for family in Family::ALL {
            let table = match listed.remove(&family) {
                Some(files) => TapeTable::open(files, runtime)?,
                None => TapeTable::empty(family),
            };
            tapes.insert(family, Arc::new(table));
        }
        let instruments = tapes[&Family::Instruments].clone();
        let units = earlier
            .filter(|earlier| earlier.standing.get(&Family::Instruments) == standing.get(&Family::Instruments))
            .map_or_else(|| Arc::new(InstrumentUnits::new(instruments)), |earlier| earlier.units.clone());
        let sources = tapes[&Family::Sources].clone();
        let schema = MemorySchemaProvider::new();
        let building = |e| Error::from_engine("building the catalog", e);
        for (family, table) in tapes.clone() {
            let priced = PricedTable::over(table.clone(), &units);
            let explained = ExplainedTable::over(&table, &sources, asked).map_err(building)?;
            let provider = match (priced, explained) {
                (Some(priced), _) => Arc::new(priced) as _,
                (None, Some(explained)) => Arc::new(explained) as _,
                (None, None) => table as _,
            };
            schema.register_table(family.topic().name.to_string(), provider).map_err(building)?;
        }
        schema.register_table(about::SCHEMAS.to_string(), Arc::new(wire_schemas().map_err(building)?)).map_err(building)?;
        for (name, table) in asked.tables() {
            schema.register_table(name.to_string(), table).map_err(building)?;
        }
        let view = View::named(about::QUERIES).expect("schemas declares it");
        schema.register_table(about::QUERIES.to_string(), asked_table(view, &queries.ask())).map_err(building)?;
        let provider = MemoryCatalogProvider::new();
        provider.register_schema(SCHEMA, Arc::new(schema)).map_err(building)?;
        Ok(Catalog { provider: Arc::new(provider), standing, rows, tapes, units, followed, folders })
    }

    /// True when this is what the catalog was made of.
    pub(crate) fn is_of(&self, tables: &[TableFiles], followed: &Option<Arc<Followed>>) -> bool {
        self.followed == *followed && self.standing == standing(tables)
    }

    /// The log whose cuts it has.
    pub(crate) fn followed(&self) -> &Option<Arc<Followed>> {
        &self.followed
    }

    /// The next offset of a partition of the followed log that the tables do not have; `None` where their table cannot be read.
    pub fn cut(&self, (family, partition): Place) -> Option<i64> {
        self.tapes[&family].cut(partition)
    }

    /// Rows of a family's files.
    pub fn rows(&self, family: Family) -> u64 {
        self.rows.get(&family).copied().unwrap_or(0)
    }

    /// Delta version of a family's table; `None` where there is no table yet.
    pub fn version(&self, family: Family) -> Option<i64> {
        self.standing.get(&family).map(|(_, version, _)| *version)
    }

    /// A family's table with nothing added to it.
    pub(crate) fn tape(&self, family: Family) -> Arc<TapeTable> {
        self.tapes[&family].clone()
    }

    pub(crate) fn provider(&self) -> Arc<dyn CatalogProvider> {
        self.provider.clone()
    }

    /// Where the tables lie.
    pub(crate) fn folders(&self) -> &Folders {
        &self.folders
    }
}

fn standing<'a>(tables: impl IntoIterator<Item = &'a TableFiles>) -> BTreeMap<Family, Standing> {
    tables.into_iter().map(|table| (table.family, (table.root.clone(), table.version, table.cut.clone()))).collect()
}

/// `tape.schemas`: what `_schema` in a row refers to.
fn wire_schemas() -> datafusion::error::Result<MemTable> {
    let topics: Vec<_> = Family::ALL.iter().map(|family| family.topic()).collect();
    let id = topics.iter().map(|topic| i32::try_from(topic.schema_id).expect("ids are declared small"));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int32Array::from_iter_values(id)),
        Arc::new(StringArray::from_iter_values(topics.iter().map(|topic| topic.name))),
        Arc::new(StringArray::from_iter_values(topics.iter().map(|topic| hex::encode(Sha256::digest(topic.avro()))))),
        Arc::new(StringArray::from_iter_values(topics.iter().map(|topic| topic.avro()))),
    ];
    let schema = view_schema(View::named(about::SCHEMAS).expect("schemas declares it"));
    MemTable::try_new(schema.clone(), vec![vec![RecordBatch::try_new(schema, columns)?]])
}
