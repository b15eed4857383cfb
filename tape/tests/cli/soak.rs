//! `make soak ROUNDS=500`: one death after the other of ingest, store and upkeep, at random moments and at named points, on both logs. In the
//! end every record is in the tables once; how long a store takes from its start to its first commit is measured.

use crate::feed::Random;
use crate::killed::POINTS;
use crate::run;
use crate::running;
use crate::trial::{Count, Trial};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Rounds between two looks at the tables.
const LOOK_EVERY: u64 = 25;
/// So often a named point is passed at most before the death: later ones are mostly not reached.
const TIMES_MAX: u64 = 6;
/// How often the tables are looked at for a first commit.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// A store that commits nothing for so long has failed.
const COMMIT_WAIT: Duration = Duration::from_secs(120);
/// Restart to first commit, at most for 99 of 100.
const GOAL: Duration = Duration::from_secs(5);

#[test]
#[ignore = "takes half an hour: make soak ROUNDS=500"]
fn soak() {
    let rounds: u64 = std::env::var("TAPE_SOAK_ROUNDS").map_or(500, |text| text.parse().expect("TAPE_SOAK_ROUNDS is a number"));
    let began = Instant::now();
    let broker = run::broker();
    let mut trials: Vec<Soaked> = [None, broker.as_deref()].into_iter().take(1 + usize::from(broker.is_some())).map(Soaked::new).collect();
    for round in 0..rounds {
        let of = trials.len() as u64;
        let soaked = &mut trials[(round % of) as usize];
        soaked.round();
        if (round + 1) % LOOK_EVERY == 0 {
            trials.iter_mut().for_each(Soaked::look);
            println!("{} of {rounds} rounds, {:.0} s", round + 1, began.elapsed().as_secs_f64());
        }
    }
    trials.iter_mut().for_each(Soaked::look);
    let mut restarts: Vec<Duration> = trials.iter().flat_map(|soaked| soaked.restarts.clone()).collect();
    restarts.sort_unstable();
    let of = |share: f64| restarts[((restarts.len() as f64 * share) as usize).min(restarts.len() - 1)];
    let lost: u64 = trials.iter().map(|soaked| soaked.count.lost).sum();
    let doubled: u64 = trials.iter().map(|soaked| soaked.count.doubled).sum();
    for soaked in &trials {
        println!(
            "{}: {:?}, {} rounds passed their point before the kill and were repeated",
            soaked.trial.name(),
            soaked.deaths,
            soaked.missed
        );
    }
    println!(
        "rounds {rounds}  lost {lost}  doubled {doubled}  restart to first commit: p50 {:?}  p99 {:?}  max {:?}  ({} restarts)",
        of(0.5),
        of(0.99),
        restarts[restarts.len() - 1],
        restarts.len()
    );
    assert_eq!((lost, doubled), (0, 0));
    assert!(of(0.99) <= GOAL, "restart to first commit takes longer than {GOAL:?}");
}

/// One home under deaths, and what came of them.
struct Soaked {
    trial: Trial,
    /// How often each command died how.
    deaths: BTreeMap<String, u64>,
    missed: u64,
    restarts: Vec<Duration>,
    count: Count,
    /// How long each command takes undisturbed, by the last time that it was.
    undisturbed: BTreeMap<&'static str, Duration>,
}

impl Soaked {
    fn new(broker: Option<&str>) -> Soaked {
        let (deaths, undisturbed) = (BTreeMap::new(), BTreeMap::new());
        Soaked { trial: Trial::new(broker), deaths, missed: 0, restarts: vec![], count: Count::default(), undisturbed }
    }

    /// One death, and the recovery from it.
    fn round(&mut self) {
        loop {
            let command = ["ingest", "ingest", "ingest", "store", "store", "store", "store", "upkeep"][self.trial.random.below(8) as usize];
            let lines = 150 + self.trial.random.below(300);
            self.trial.grow(lines);
            if command != "ingest" {
                self.finish("ingest");
                if self.trial.random.below(4) == 0 {
                    self.trial.poison(3);
                }
            }
            if command == "upkeep" {
                self.restart();
            }
            let died = match self.trial.random.below(2) {
                0 => self.at_a_point(command),
                _ => self.at_any_moment(command),
            };
            match &died {
                Some(how) => *self.deaths.entry(how.clone()).or_default() += 1,
                None => self.missed += 1,
            }
            // What comes after a death is more work, and a restart that has something to commit.
            self.trial.grow(120);
            self.finish("ingest");
            self.restart();
            if command == "upkeep" {
                self.finish("upkeep");
            }
            if died.is_some() {
                return;
            }
        }
    }

    fn at_a_point(&mut self, command: &str) -> Option<String> {
        let here: Vec<&str> = POINTS
            .iter()
            .filter(|(_, of, log)| *of == command && log.is_none_or(|log| log == self.trial.name()))
            .map(|(point, ..)| *point)
            .collect();
        let point = *pick(&mut self.trial.random, &here);
        let times = 1 + self.trial.random.below(TIMES_MAX) * self.trial.random.below(2);
        let output = self.trial.run(command, Some(&format!("{point}:{times}")));
        assert!(matches!(output.status.code(), None | Some(0 | 1)), "{command}: {}", run::text(&output));
        output.status.code().is_none().then(|| point.to_string())
    }

    fn at_any_moment(&mut self, command: &'static str) -> Option<String> {
        let longest = self.undisturbed.get(command).copied().unwrap_or(Duration::from_millis(500));
        let delay = Duration::from_millis(self.trial.random.below(longest.as_millis() as u64 + 1));
        let args = self.trial.args(command);
        let mut running = running::start(&self.trial.home, &args.iter().map(String::as_str).collect::<Vec<_>>());
        let began = Instant::now();
        while began.elapsed() < delay && !running.ended() {
            std::thread::sleep(LOOK_AGAIN);
        }
        running.kill().then(|| format!("{command}, kill -9 at any moment"))
    }

    fn finish(&mut self, command: &'static str) {
        let began = Instant::now();
        self.trial.finish(command);
        self.undisturbed.insert(command, began.elapsed());
    }

    /// Starts a store that has something to commit, and measures from there to its first commit.
    fn restart(&mut self) {
        let before = self.trial.commits();
        let began = Instant::now();
        let mut store = running::start(&self.trial.home, &["store", "--once"]);
        loop {
            let ended = store.ended();
            if self.trial.commits() > before {
                break;
            }
            assert!(!ended, "the store ended without a commit: {}", store.said());
            assert!(began.elapsed() < COMMIT_WAIT, "no commit for {COMMIT_WAIT:?}: {}", store.said());
            std::thread::sleep(LOOK_AGAIN);
        }
        self.restarts.push(began.elapsed());
        let status = store.end();
        assert!(matches!(status.code(), Some(0 | 1)), "tape store after a kill: {}", store.said());
        self.undisturbed.insert("store", began.elapsed());
    }

    fn look(&mut self) {
        self.count = self.trial.count();
        assert_eq!(self.count, Count::default(), "on {}", self.trial.name());
    }
}

fn pick<'a, T>(random: &mut Random, of: &'a [T]) -> &'a T {
    &of[random.below(of.len() as u64) as usize]
}
