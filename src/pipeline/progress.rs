//! A bar on standard error: how far, how fast, how long still. Silent where nobody looks (no terminal, or `--quiet`).

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

/// One job's progress, in records; the share done is told in whatever unit is known beforehand (bytes read, rows scanned).
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
        let rate = records as f64 / self.began.elapsed().as_secs_f64().max(1e-3);
        self.bar.set_message(format!(
            "{} records  {}/s",
            indicatif::HumanCount(records),
            indicatif::HumanCount(rate.round() as u64)
        ));
    }

    /// Seconds since the start.
    pub fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
