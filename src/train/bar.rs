//! A training's bar on standard error: how far, how fast, at what loss.

use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Silent where nobody looks.
pub(super) struct Bar {
    bar: ProgressBar,
    began: Instant,
}

impl Bar {
    /// Of so many steps.
    pub(super) fn new(steps: u64, quiet: bool) -> Self {
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr_with_hz(5) };
        let bar = ProgressBar::with_draw_target(Some(steps), target);
        if let Ok(style) = ProgressStyle::with_template("training {bar:30} {pos}/{len} steps  {msg}  {eta} left") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar, began: Instant::now() }
    }

    /// After so many steps; with the loss so far, and the tokens of this run.
    pub(super) fn set(&self, steps: u64, loss_and_tokens: Option<(f64, u64)>) {
        self.bar.set_position(steps);
        if let Some((loss, tokens)) = loss_and_tokens {
            let rate = tokens as f64 / self.began.elapsed().as_secs_f64().max(1e-3);
            self.bar.set_message(format!("loss {loss:.4}  {} tokens/s", HumanCount(rate.round() as u64)));
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
