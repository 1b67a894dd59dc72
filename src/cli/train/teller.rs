//! What is told of a training on standard error.

use std::collections::HashSet;

use wherefore::factors::{Refit, Target};
use wherefore::model::{Problem, Trainee};
use wherefore::train::{EpochReport, Example, Metrics};

/// Tells what became of each epoch.
pub(super) struct Teller {
    pub(super) quiet: bool,
}

impl Teller {
    pub(super) fn epoch(&self, report: &EpochReport) {
        let dev = report.dev.as_ref().map_or_else(String::new, |dev| format!("  dev {}", worth(dev)));
        let drawn = report.rationale_loss.map_or_else(String::new, |apart| format!("  rationale {apart:.4}"));
        self.line(&format!("epoch {}  loss {:.4}{drawn}{dev}", report.epoch, report.loss));
    }

    pub(super) fn head(&self, refit: &Refit, dev: Option<&Metrics>) {
        let end = if refit.converged { "" } else { ", not converged" };
        let dev = dev.map_or_else(String::new, |dev| format!("  dev {}", worth(dev)));
        self.line(&format!("head  objective {:.4} after {} steps{end}{dev}", refit.objective, refit.iterations));
    }

    /// Tells which classes of a new head no record teaches, as where class ids leave some out.
    pub(super) fn unseen(&self, trainee: &Trainee, examples: &[Example]) {
        if trainee.problem() != Problem::SingleLabel || !trainee.has_new_head() {
            return;
        }
        let seen: HashSet<usize> = examples
            .iter()
            .filter_map(|example| if let Target::Class(class) = example.target { Some(class) } else { None })
            .collect();
        let names = trainee.class_names().names();
        let unseen: Vec<&str> =
            (0..names.len()).filter(|class| !seen.contains(class)).map(|class| names[class].as_str()).collect();
        if !unseen.is_empty() {
            let (few, more) = (&unseen[..unseen.len().min(8)], if unseen.len() > 8 { ", …" } else { "" });
            let (none, all) = (unseen.len(), names.len());
            self.line(&format!(
                "note: {none} of {all} classes have no record to learn from: {}{more} (class ids count from 0)",
                few.join(", ")
            ));
        }
    }

    pub(super) fn line(&self, line: &str) {
        if !self.quiet {
            say_line!("{line}");
        }
    }
}

fn worth(metrics: &Metrics) -> String {
    let named = [
        ("accuracy", metrics.accuracy),
        ("f1-macro", metrics.f1_macro),
        ("pearson", metrics.pearson),
        ("exact-match", metrics.exact_match),
        ("precision", metrics.precision),
        ("recall", metrics.recall),
        ("f1", metrics.f1),
        ("selection", metrics.selection),
        ("no-answer", metrics.no_answer),
        ("perplexity", metrics.perplexity),
    ];
    let shown = named.iter().filter_map(|(name, value)| value.map(|value| format!("  {name} {value:.4}")));
    format!("loss {:.4}{}", metrics.loss, shown.collect::<String>())
}
