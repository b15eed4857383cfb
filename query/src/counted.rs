//! The memory of queries as one of them takes it: the pool of all, and a count of what this one holds.

use crate::queries::Memory;
use datafusion::common::Result;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};
use datafusion::execution::runtime_env::RuntimeEnv;
use std::fmt;
use std::sync::Arc;

/// The runtime of all queries, with what this one holds counted.
pub(crate) fn counted(runtime: &RuntimeEnv, memory: Arc<Memory>) -> Arc<RuntimeEnv> {
    let pool = Arc::new(Counted { all: runtime.memory_pool.clone(), memory });
    Arc::new(RuntimeEnv { memory_pool: pool, ..runtime.clone() })
}

#[derive(Debug)]
struct Counted {
    all: Arc<dyn MemoryPool>,
    memory: Arc<Memory>,
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.all)
    }
}

impl MemoryPool for Counted {
    fn name(&self) -> &str {
        self.all.name()
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.all.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.all.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.all.grow(reservation, additional);
        self.memory.add(additional as i64);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.all.shrink(reservation, shrink);
        self.memory.add(-(shrink as i64));
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        self.all.try_grow(reservation, additional)?;
        self.memory.add(additional as i64);
        Ok(())
    }

    fn reserved(&self) -> usize {
        self.all.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        self.all.memory_limit()
    }
}
