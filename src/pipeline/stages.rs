//! Which stage of a pipeline held the others up.

use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;

/// How long each stage worked, in seconds; the rest of the time it waited for another. All go on at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Stages {
    /// Parsing, decompressing and hashing the data.
    pub reading: f64,
    /// Texts to tokens.
    pub tokenizing: f64,
    /// The model's passes.
    pub running: f64,
    /// Whatever becomes of the outputs.
    pub writing: f64,
}

impl Stages {
    /// Each stage's name and seconds, in the order of the data's way.
    fn each(&self) -> [(&'static str, f64); 4] {
        let Self { reading, tokenizing, running, writing } = *self;
        [("reading", reading), ("tokenizing", tokenizing), ("running the model", running), ("writing", writing)]
    }

    /// The shares of `seconds` that each stage worked, and the stage that worked longest, as one line.
    pub fn occupancy(&self, seconds: f64) -> impl fmt::Display {
        Occupancy { stages: *self, seconds }
    }
}

struct Occupancy {
    stages: Stages,
    seconds: f64,
}

impl fmt::Display for Occupancy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stages = self.stages.each();
        for (i, (name, busy)) in stages.iter().enumerate() {
            let share = 100.0 * busy / self.seconds.max(1e-9);
            write!(f, "{}{name} {:.0} %", if i == 0 { "busy: " } else { ", " }, share.min(100.0))?;
        }
        match stages.iter().max_by(|a, b| a.1.total_cmp(&b.1)) {
            Some((name, busy)) if *busy > 0.0 => write!(f, "; {name} held the others up"),
            _ => Ok(()),
        }
    }
}

/// Adds up how long some piece of work takes each time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stopwatch(Duration);

impl Stopwatch {
    /// Does `work` and counts its time.
    pub(super) fn time<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let done = work();
        self.0 += start.elapsed();
        done
    }

    /// Counts time that was taken elsewhere.
    pub(super) fn add(&mut self, time: Duration) {
        self.0 += time;
    }

    pub(super) fn seconds(&self) -> f64 {
        self.0.as_secs_f64()
    }
}
