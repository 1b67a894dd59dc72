//! What speaks for each class over all records.

use serde::Serialize;

use crate::report::GlobalImportance;

/// Features of a class that are shown.
const FEATURES: u64 = 15;

/// The first features of every class, by class.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub(super) struct Importances(Vec<Class>);

#[derive(Debug, Serialize)]
struct Class {
    name: String,
    features: Vec<Feature>,
}

#[derive(Debug, Serialize)]
struct Feature {
    text: String,
    weight: String,
    count: u64,
    /// Of the class's largest weight.
    percent: String,
    #[serde(skip)]
    size: f64,
}

impl Importances {
    /// Takes one feature of one class; features of a class come from the most important down.
    pub(super) fn add(&mut self, importance: &GlobalImportance) {
        if importance.rank > FEATURES {
            return;
        }
        let place = self.0.iter().position(|class| class.name == importance.class).unwrap_or_else(|| {
            self.0.push(Class { name: importance.class.clone(), features: Vec::new() });
            self.0.len() - 1
        });
        let features = &mut self.0[place].features;
        let largest = features.first().map_or(importance.weight, |first| first.size);
        let share = if largest > 0.0 { importance.weight / largest } else { 0.0 };
        features.push(Feature {
            text: importance.feature.clone(),
            weight: format!("{:.4}", importance.weight),
            count: importance.count,
            percent: format!("{:.1}", 100.0 * share.clamp(0.0, 1.0)),
            size: importance.weight,
        });
    }
}
