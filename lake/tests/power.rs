//! Power loss: whatever was promised is there, wherever the power went, and whatever part of the rest the disk kept.
//!
//! The run is a real one, over a disk that records; then, for every step of it, a directory is made as a power loss at that step would leave it, and
//! opened. `TAPE_POWER_SEED` repeats a run that failed; `TAPE_POWER_APART=1` and `TAPE_POWER_KILLS=1000` make it a long one.

#[path = "support/dice.rs"]
mod dice;
#[path = "support/power.rs"]
mod power;
#[path = "support/told.rs"]
mod told;

use arrow::array::{ArrayRef, Int32Array, RecordBatch, StringArray};
use dice::{Dice, column};
use lake::{Compaction, DurableLocal, Error, Horizon, Lake, Stop, Table, Txn};
use power::{Recorded, Tape};
use schemas::Family;
use serde_json::{Map, json};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use url::Url;

const FAMILY: Family = Family::Bars;
const APP: &str = "bars/x/0";
const OWNER: &[u8] = b"{\"cluster\":\"ours\"}\n";
const ROWS: u64 = 5;

/// Rows of two days.
fn batch(dice: &mut Dice) -> RecordBatch {
    let topic = FAMILY.topic();
    let rows = ROWS as usize;
    let columns = topic.stored_fields().into_iter().zip(topic.stored_schema().fields()).map(|(field, arrow)| match field.name.as_ref() {
        "dataset" => Arc::new(StringArray::from(vec!["T.DATA"; rows])) as ArrayRef,
        "date" => arrow::compute::cast(&Int32Array::from_iter_values((0..ROWS as i32).map(|row| row % 2)), arrow.data_type()).unwrap(),
        _ => column(dice, &field, rows),
    });
    RecordBatch::try_new(topic.stored_schema().clone(), columns.collect()).unwrap()
}

fn over(disk: Recorded, place: &Path) -> Lake {
    let root = Url::from_directory_path(place).unwrap();
    Lake::with_store(root, Arc::new(DurableLocal::over(Arc::new(disk)))).unwrap()
}

fn env(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap())
}

fn seed() -> u64 {
    let seed = env("TAPE_POWER_SEED", SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64 & 0xffff_ffff);
    println!("TAPE_POWER_SEED={seed}");
    seed
}

async fn commit(table: &mut Table, dice: &mut Dice) -> Result<(), Error> {
    let from = table.txn_version(APP).await?;
    let next = from.unwrap_or(0) + 1;
    let info = Map::from_iter([("tokentape".to_string(), json!({ "next": next }))]);
    table.commit(&[batch(dice)], &[Txn { app_id: APP.into(), from, to: next }], info).await?;
    Ok(())
}

/// A life: claimed, made, filled; merged, with a checkpoint, and cleaned up between. Each commit that returned is a promise.
async fn live(lake: &Lake, tape: &Mutex<Tape>, dice: &mut Dice) -> Result<(), Error> {
    assert_eq!(lake.claim(OWNER.to_vec().into()).await?, OWNER);
    tape.lock().unwrap().promise(0);
    let mut table = lake.table(FAMILY).await?;
    let mut next = 1;
    for part in 0..2 {
        for _ in 0..3 {
            commit(&mut table, dice).await?;
            tape.lock().unwrap().promise(next);
            next += 1;
        }
        keep(&mut table).await?;
        if part == 0 {
            table.forget_removed_after(Duration::from_secs(86_400)).await?;
        }
    }
    Ok(())
}

/// Upkeep, with a horizon that begins in the future: everything goes that is not of the newest version.
async fn keep(table: &mut Table) -> Result<(), Error> {
    let stop = Stop::default();
    table.compact(&Compaction { small_files_max: 1, ..Compaction::default() }, &stop).await?;
    table.checkpoint().await?;
    let now_ms = 10_000 + SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as i64;
    table.clean_up(&Horizon { keep: Duration::from_millis(1), now_ms, dry_run: false }, &stop).await.map(drop)
}

/// What was promised is there, the tables say nothing else, and they go on.
async fn check(place: &Path, promised: Option<usize>, dice: &mut Dice) -> Result<(), String> {
    let lake = Lake::open(place.to_str().unwrap()).unwrap();
    let said = |e: Error| e.to_string();
    let Some(promised) = promised else { return Ok(()) };
    if lake.owner().await.map_err(said)?.as_deref() != Some(OWNER) {
        return Err("the claim is gone".into());
    }
    let mut table = lake.table(FAMILY).await.map_err(said)?;
    let stored = table.txn_version(APP).await.map_err(said)?.unwrap_or(0) as u64;
    // A commit whose answer was on its way may be there or not.
    if stored != promised as u64 && stored != promised as u64 + 1 {
        return Err(format!("{promised} commits were promised, {stored} are there"));
    }
    commit(&mut table, dice).await.map_err(said)?;
    let mut rows = 0;
    for file in table.snapshot().files() {
        let bytes = lake.fetch(FAMILY, file).await.map_err(said)?;
        for batch in lake.rows(FAMILY, file, bytes).map_err(said)? {
            rows += batch.map_err(said)?.num_rows() as u64;
        }
    }
    if rows != (stored + 1) * ROWS {
        return Err(format!("{rows} rows of {} commits", stored + 1));
    }
    let infos = told::infos(&told::history(&table).await.map_err(said)?, "tokentape");
    let told: Vec<u64> = infos.iter().map(|info| info["next"].as_u64().unwrap()).collect();
    if told != (1..=stored + 1).collect::<Vec<_>>() {
        return Err(format!("the history tells of {told:?}"));
    }
    Ok(())
}

/// Given a table's whole life, when the power goes at any step, then what was promised is there.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_promised_survives_power_loss_at_every_step() {
    let seed = seed();
    let mut dice = Dice(seed);
    let home = tempfile::tempdir().unwrap();
    let place = home.path().join("tables");
    let tape: Arc<Mutex<Tape>> = Arc::default();
    live(&over(Recorded::new(&tape), &place), &tape, &mut dice).await.unwrap();
    let tape = tape.lock().unwrap().clone();
    println!("{} steps", tape.steps.len());
    // Every step with every one of these takes minutes: a usual run takes one in so many, others each time.
    let apart = env("TAPE_POWER_APART", 5) as usize;
    for steps in (dice.below(apart as u64) as usize..=tape.steps.len()).step_by(apart) {
        let rest = tempfile::tempdir().unwrap();
        // Nothing of the rest, all of it, or some.
        let left = dice.pick(&[0, 1, 1, 2]);
        tape.after_power_loss(steps, home.path(), rest.path(), &mut dice, |dice| match left {
            0 => true,
            1 => dice.below(2) == 0,
            _ => false,
        });
        if let Err(why) = check(&rest.path().join("tables"), tape.promised(steps), &mut dice).await {
            panic!("seed {seed}, power lost after step {steps} ({:?}): {why}", tape.steps.get(steps.saturating_sub(1)));
        }
    }
}

/// Given a process that was killed at any step, when another one goes on where it was, upkeep included, and then the power goes, then what that one
/// promised is there: it cannot know what the first one left unsynced.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_process_left_unsynced_is_synced_by_the_next() {
    let seed = seed();
    let mut dice = Dice(seed);
    for kill in 0..env("TAPE_POWER_KILLS", 12) {
        // The beginning has most that is new.
        let killed_after = if kill % 2 == 0 { dice.below(40) } else { dice.below(400) } as usize;
        let home = tempfile::tempdir().unwrap();
        let place = home.path().join("tables");
        let tape: Arc<Mutex<Tape>> = Arc::default();
        let _ = live(&over(Recorded { killed_after, ..Recorded::new(&tape) }, &place), &tape, &mut dice).await;
        let lake = over(Recorded::new(&tape), &place);
        lake.claim(OWNER.to_vec().into()).await.unwrap();
        let mut table = lake.table(FAMILY).await.unwrap();
        commit(&mut table, &mut dice).await.unwrap();
        let stored = table.txn_version(APP).await.unwrap().unwrap() as usize;
        tape.lock().unwrap().promise(stored);
        let promised_at = tape.lock().unwrap().steps.len();
        keep(&mut table).await.unwrap();
        let tape = tape.lock().unwrap().clone();
        for steps in [promised_at, promised_at + dice.below((tape.steps.len() - promised_at) as u64) as usize, tape.steps.len()] {
            let rest = tempfile::tempdir().unwrap();
            let all = dice.below(2) == 0;
            tape.after_power_loss(steps, home.path(), rest.path(), &mut dice, |dice| all || dice.below(2) == 0);
            if let Err(why) = check(&rest.path().join("tables"), Some(stored), &mut dice).await {
                panic!("seed {seed}, killed after step {killed_after}, power lost after step {steps}: {why}");
            }
        }
    }
}

/// Given a disk whose directories are never synced, then this test notices.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_not_synced_is_noticed() {
    let mut dice = Dice(1);
    let home = tempfile::tempdir().unwrap();
    let place = home.path().join("tables");
    let tape: Arc<Mutex<Tape>> = Arc::default();
    live(&over(Recorded { forgets_names: true, ..Recorded::new(&tape) }, &place), &tape, &mut dice).await.unwrap();
    let tape = tape.lock().unwrap().clone();
    let rest = tempfile::tempdir().unwrap();
    tape.after_power_loss(tape.steps.len(), home.path(), rest.path(), &mut dice, |_| true);
    let lost = check(&rest.path().join("tables"), tape.promised(tape.steps.len()), &mut dice).await;
    assert_eq!(lost, Err("the claim is gone".into()));
}
