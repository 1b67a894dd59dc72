//! A bar on standard error: how far, how fast, how long still. Silent where nobody looks (no terminal, or `--quiet`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::interrupt;

/// One job's progress, in records; the share done is told in whatever unit is known beforehand (bytes read, rows
/// scanned).
pub struct Progress {
    job: &'static str,
    bar: ProgressBar,
    began: Instant,
}

impl Progress {
    /// A bar named `job`, of `total` units (unknown where `None`).
    pub fn new(job: &'static str, total: Option<u64>, quiet: bool) -> Self {
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr_with_hz(5) };
        let bar = ProgressBar::with_draw_target(total, target);
        let template = match total {
            Some(_) => "{prefix} {bar:30} {percent:>3}%  {msg}  {left} left",
            None => "{prefix} {spinner} {elapsed}  {msg}",
        };
        let left = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            let _ = write!(out, "{}", indicatif::HumanDuration(state.eta()));
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.with_key("left", left));
        }
        bar.set_prefix(job);
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { job, bar, began: Instant::now() }
    }

    /// What is being done.
    pub fn job(&self) -> &'static str {
        self.job
    }

    /// `done` of the total units, which is `records` records so far.
    pub fn set(&self, done: u64, records: u64) {
        self.bar.set_position(done);
        let rate = per_second(records, self.seconds());
        self.bar.set_message(format!("{} records  {rate}/s", indicatif::HumanCount(records)));
    }

    /// Seconds since the start.
    pub fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }
}

/// `count / seconds` to be read, with a tenth where that says more than the whole number.
pub fn per_second(count: u64, seconds: f64) -> String {
    let rate = count as f64 / seconds.max(1e-3);
    if rate < 10.0 { format!("{rate:.1}") } else { indicatif::HumanCount(rate.round() as u64).to_string() }
}

/// The progress of a computation that asks whether to go on as it goes.
pub(super) struct Going {
    progress: Progress,
    asked: AtomicU64,
    /// How often it will have asked, where that is known.
    steps: Option<u64>,
    /// What it is over: all of them in all its steps, or so many at each where it is not known how many those are.
    records: u64,
}

impl Going {
    /// A computation over `records` that asks `steps` times.
    pub(super) fn over(job: &'static str, records: u64, steps: u64, quiet: bool) -> Self {
        Self { progress: Progress::new(job, Some(steps), quiet), asked: AtomicU64::new(0), steps: Some(steps), records }
    }

    /// One that asks once for each `records`, and over and over them until it is done.
    pub(super) fn on_and_on(job: &'static str, records: u64, quiet: bool) -> Self {
        Self { progress: Progress::new(job, None, quiet), asked: AtomicU64::new(0), steps: None, records }
    }

    /// Whether to go on, where it has come to the next step.
    pub(super) fn on(&self) -> bool {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        match self.steps {
            Some(steps) => {
                let done = asked.min(steps);
                let records = u128::from(self.records) * u128::from(done) / u128::from(steps.max(1));
                self.progress.set(done, records as u64);
            }
            None => self.progress.set(asked, asked * self.records),
        }
        !interrupt::asked()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
