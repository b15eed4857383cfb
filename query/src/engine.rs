//! One door for every query: read-only, one statement, bounded in memory and time, over the tables of one moment.

use crate::abandoned::{Abandoned, Pulse};
use crate::about::Asked;
use crate::bounds;
use crate::catalog::Catalog;
use crate::counted::counted;
use crate::ends::KnownRuns;
use crate::error::Error;
use crate::files::Listing;
use crate::gate;
use crate::limited::until;
use crate::limits::{PLACE_WAIT, PLACES, STUCK, STUCK_AFTER};
use crate::planner::Planner;
use crate::products;
use crate::queries::{Queries, Running};
use crate::session;
use crate::tail::{Moment, Tail};
use crate::watch::{MARGIN_BYTES, Watch};
use arrow::datatypes::SchemaRef;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{FairSpillPool, TrackConsumersPool};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::SessionState;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::execute_stream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;
use schemas::Family;
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

/// Limits of the engine. All queries together share memory and temporary files; each has the time.
#[derive(Debug, Clone)]
pub struct Options {
    /// Bytes that sorts, joins, aggregates and the instruments' units may hold together.
    pub memory_limit: usize,
    /// How many streams a query is split into; the number of cores.
    pub target_partitions: usize,
    /// Where what does not fit into memory goes while a query runs.
    pub temp_dir: PathBuf,
    /// Bytes that may be in `temp_dir`.
    pub temp_limit: u64,
    /// Bytes of rows that the tables do not have yet: beside `memory_limit`.
    pub tail_limit: usize,
    /// How long a query may take, from its text to its last row.
    pub timeout: Duration,
    /// Queries of one principal that run at once.
    pub principal_places: usize,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Name as the door knows it.
    pub name: String,
}

impl Principal {
    /// The person at this machine.
    pub fn local() -> Principal {
        Principal { name: "local".into() }
    }

    /// Whoever asks over HTTP: nobody says who it is yet.
    pub fn http() -> Principal {
        Principal { name: "http".into() }
    }
}

/// The query engine. Cheap to share by `Arc`. Queries are planned on threads of their own and run on the tokio runtime that opened the engine;
/// a caller on another one keeps its workers, and the time limit holds for it whatever the queries compute.
pub struct Engine {
    options: Options,
    listing: Listing,
    tail: Arc<Tail>,
    asked: Asked,
    workers: Handle,
    planner: Planner,
    places: Arc<Semaphore>,
    principals: Mutex<HashMap<String, Arc<Semaphore>>>,
    queries: Queries,
    abandoned: Abandoned,
    pulse: Pulse,
    watch: Watch,
    /// What was learned of files while queries ran.
    runs: Arc<KnownRuns>,
    runtime: Arc<RuntimeEnv>,
    current: RwLock<Published>,
    /// One refresh at a time: what is published is never older than what was.
    refreshing: tokio::sync::Mutex<()>,
}

/// A catalog with the session state that every query over it begins from.
#[derive(Clone)]
struct Published {
    catalog: Arc<Catalog>,
    state: SessionState,
}

impl Published {
    fn over(catalog: Catalog, options: &Options, runtime: &Arc<RuntimeEnv>, runs: &Arc<KnownRuns>) -> Published {
        Published { state: session::state(&catalog, options, runtime, runs), catalog: Arc::new(catalog) }
    }
}

/// Bytes of footers and page indexes of files that are kept.
const FOOTER_BYTES_MAX: usize = 256 << 20;
/// How many of the largest holders of memory an error names.
const HOLDERS_NAMED: NonZeroUsize = NonZeroUsize::new(3).expect("3 is not 0");

impl Engine {
    /// An engine over the tables that `listing` gives now; `asked` knows what the views over them show.
    pub async fn open(options: Options, listing: Listing, asked: Asked) -> Result<Engine, Error> {
        let starting = |e| Error::from_engine("starting the query engine", e);
        std::fs::create_dir_all(&options.temp_dir).map_err(|e| Error::Execution {
            doing: "making the folder for temporary files",
            what: format!("{}: {e}", options.temp_dir.display()),
        })?;
        let disk = DiskManagerBuilder::default()
            .with_mode(DiskManagerMode::Directories(vec![options.temp_dir.clone()]))
            .with_max_temp_directory_size(options.temp_limit);
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(TrackConsumersPool::new(FairSpillPool::new(options.memory_limit), HOLDERS_NAMED)))
            .with_disk_manager_builder(disk)
            .with_metadata_cache_limit(FOOTER_BYTES_MAX)
            .build_arc()
            .map_err(starting)?;
        let tables = listing(None).await.map_err(Error::Listing)?;
        let (queries, runs) = (Queries::default(), Arc::default());
        let catalog = Catalog::new(tables, None, &asked, &queries, &runtime, None)?;
        let current = RwLock::new(Published::over(catalog, &options, &runtime, &runs));
        let watch = Watch::over((options.memory_limit as u64).saturating_add(MARGIN_BYTES))
            .map_err(|e| Error::Execution { doing: "starting the thread that watches memory", what: e.to_string() })?;
        let abandoned = Abandoned::default();
        Ok(Engine {
            listing,
            tail: Arc::new(Tail::new(options.tail_limit)),
            options,
            asked,
            workers: Handle::current(),
            planner: Planner::new(abandoned.clone()),
            places: Arc::new(Semaphore::new(PLACES)),
            principals: Mutex::default(),
            queries,
            abandoned,
            pulse: Pulse::default(),
            watch,
            runs,
            runtime,
            current,
            refreshing: tokio::sync::Mutex::default(),
        })
    }

    /// The rows that the log has and the tables have not: empty as long as nobody fills it.
    pub fn tail(&self) -> &Arc<Tail> {
        &self.tail
    }

    /// Why a query that begins now may not see the newest records of the log: `None` where it does, and where no log is followed.
    pub fn behind(&self) -> Option<String> {
        self.tail.behind()
    }

    /// Takes the tables' newest versions for queries that begin from now on; a running query keeps its own. True when something is new.
    pub async fn refresh(&self) -> Result<bool, Error> {
        let _one = self.refreshing.lock().await;
        let followed = self.tail.followed();
        let tables = (self.listing)(followed.clone()).await.map_err(Error::Listing)?;
        let earlier = self.catalog();
        if earlier.is_of(&tables, &followed) {
            return Ok(false);
        }
        let catalog = Catalog::new(tables, followed, &self.asked, &self.queries, &self.runtime, Some(&earlier))?;
        let published = Published::over(catalog, &self.options, &self.runtime, &self.runs);
        let mut current = self.current.write().expect("no holder of this lock can panic");
        // Under the lock: a query takes catalog and tail together.
        self.tail.trim(|place| published.catalog.cut(place));
        *current = published;
        Ok(true)
    }

    /// The tables that the next query will see.
    pub fn catalog(&self) -> Arc<Catalog> {
        self.published().catalog
    }

    /// Rows of every family that the next query will see.
    pub fn rows(&self) -> Vec<(Family, u64)> {
        let (Published { catalog, .. }, moment) = self.moment();
        let beyond = |family| moment.count(family, |partition| catalog.cut((family, partition)));
        Family::ALL.into_iter().map(|family| (family, catalog.rows(family) + beyond(family))).collect()
    }

    /// The tables, and the state that a query over them begins from, for plans that no SQL says.
    pub(crate) fn tables(&self) -> (Arc<Catalog>, SessionState) {
        let Published { catalog, state } = self.published();
        (catalog, state)
    }

    fn published(&self) -> Published {
        self.current.read().expect("no holder of this lock can panic").clone()
    }

    /// What a query sees that begins now: the tables at one version each, and the rows of the log beyond them.
    fn moment(&self) -> (Published, Moment) {
        let current = self.current.read().expect("no holder of this lock can panic");
        let followed = self.tail.followed();
        let moment = if followed.is_some() && *current.catalog.followed() == followed { self.tail.freeze() } else { Moment::default() };
        (current.clone(), moment)
    }

    /// Answers one statement. The query runs while the stream is polled and ends when it is dropped; an error in the stream is an
    /// engine error that [`Error::from_engine`] turns into ours.
    pub async fn run(&self, principal: &Principal, sql: &str) -> Result<(SchemaRef, SendableRecordBatchStream), Error> {
        let begun = Instant::now();
        tracing::debug!(principal = %principal.name, sql, "query");
        let deadline = begun + self.options.timeout;
        let running = self.queries.begin(&principal.name, sql, deadline);
        match self.start(principal, sql, begun, deadline, &running).await {
            Ok(stream) => Ok((stream.schema(), noted(stream, running))),
            Err(why) => {
                running.failed(&why);
                Err(why)
            }
        }
    }

    async fn start(
        &self,
        principal: &Principal,
        sql: &str,
        begun: Instant,
        deadline: Instant,
        running: &Running,
    ) -> Result<SendableRecordBatchStream, Error> {
        let limit = self.options.timeout;
        let places = self.places(principal, begun + limit.min(PLACE_WAIT)).await?;
        let mut watch = self.watch.anew();
        let planning = plan_and_start(self.moment(), counted(&self.runtime, running.memory()), sql.to_string());
        let stream = tokio::select! {
            planned = self.planner.plan(&self.workers, deadline, limit, planning) => planned?,
            held = watch.struck() => return Err(Error::too_much_held(held)),
        };
        let schema = stream.schema();
        let _on_workers = self.workers.enter();
        let limited = until(stream, deadline, limit, watch, self.abandoned.begin());
        let placed = limited.inspect(move |_| {
            let _held = &places;
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, placed)))
    }

    /// A place among those of the principal, then one among those of all: whoever asks for much waits for himself.
    async fn places(&self, principal: &Principal, until: Instant) -> Result<[OwnedSemaphorePermit; 2], Error> {
        let most = self.options.principal_places;
        let own = {
            let mut principals = self.principals.lock().expect("no holder of this lock can panic");
            principals.retain(|_, places| Arc::strong_count(places) > 1 || places.available_permits() < most);
            principals.entry(principal.name.clone()).or_insert_with(|| Arc::new(Semaphore::new(most))).clone()
        };
        let own = timeout_at(until, own.acquire_owned()).await.map_err(|_| Error::Full(most))?;
        let all = timeout_at(until, self.places.clone().acquire_owned()).await.map_err(|_| Error::Full(PLACES))?;
        Ok([own.expect("this semaphore is never closed"), all.expect("this semaphore is never closed")])
    }

    /// Why this process should be begun again, where it should: statements that have ended compute on, and nobody else is served, or too many do.
    /// To be asked again and again.
    pub fn stuck(&self) -> Option<String> {
        let going_on = self.abandoned.for_longer_than(STUCK_AFTER);
        if going_on >= STUCK || (going_on > 0 && !self.queries.any_live(Instant::now())) {
            return Some(format!("{going_on} statements have ended and compute on, which nothing but the end of the process stops"));
        }
        let since = self.pulse.stands_since(&self.workers, STUCK_AFTER)?;
        let live = self.queries.any_live(since.into());
        (!live).then(|| format!("every worker computes for statements that have ended, for {} s by now", since.elapsed().as_secs()))
    }
}

/// The stream, with what it gives and how it ends noted.
fn noted(stream: SendableRecordBatchStream, running: Running) -> SendableRecordBatchStream {
    let schema = stream.schema();
    let noted = futures::stream::unfold(Some((stream, running)), |given| async move {
        let (mut stream, running) = given?;
        match stream.next().await {
            Some(Ok(batch)) => {
                let bytes = batch.columns().iter().map(|column| column.to_data().get_slice_memory_size().unwrap_or(0)).sum();
                running.gave(batch.num_rows(), bytes);
                Some((Ok(batch), Some((stream, running))))
            }
            Some(Err(why)) => {
                running.failed(&Error::told(&why));
                Some((Err(why), Some((stream, running))))
            }
            None => {
                running.done();
                None
            }
        }
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, noted))
}

async fn plan_and_start(
    (Published { catalog, mut state }, moment): (Published, Moment),
    runtime: Arc<RuntimeEnv>,
    sql: String,
) -> Result<SendableRecordBatchStream, Error> {
    // The query has its own now().
    state.mark_start_execution();
    state.config_mut().set_extension(Arc::new(moment));
    let planning = |e| Error::from_engine("planning the query", e);
    let statement = gate::admit(&sql)?;
    let explains = gate::explains(&statement);
    let plan = state.statement_to_plan(statement).await.map_err(planning)?;
    gate::verify_read_only(&plan)?;
    bounds::check_plan(&plan)?;
    let plan = state.optimize(&plan).map_err(planning)?;
    bounds::check_optimized(&plan)?;
    let plan = state.query_planner().create_physical_plan(&plan, &state).await.map_err(planning)?;
    products::check_joins(&plan)?;
    let context = Arc::new(TaskContext::from(&state).with_runtime(runtime));
    let stream = execute_stream(plan, context).map_err(|e| Error::from_engine("starting the query", e))?;
    Ok(if explains { catalog.folders().out_of(stream) } else { stream })
}
