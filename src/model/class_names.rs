//! What a label in the data means to a model: class names to class ids, numbers to targets.

use std::collections::HashMap;

use super::Problem;
use crate::dataset::Label;
use crate::factors::Target;

/// The model's outputs by name, and what it was trained to do with them.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassNames {
    names: Vec<String>,
    problem: Problem,
}

impl ClassNames {
    /// The names `id2label` gives, or `LABEL_0`… where it gives none (`transformers` leaves out its default names).
    ///
    /// # Errors
    /// Where `id2label` names another number of classes than the last layer has, or two of them alike: results tell
    /// classes by their names.
    pub(crate) fn new(id2label: Option<Vec<String>>, problem: Problem, classes: usize) -> Result<Self, String> {
        let names = id2label.filter(|_| problem != Problem::Headless);
        let names = names.unwrap_or_else(|| (0..classes).map(|class| format!("LABEL_{class}")).collect());
        if names.len() != classes {
            return Err(format!(
                "\"id2label\": expected {classes} names, one for each row of the last layer, found {}",
                names.len()
            ));
        }
        let mut seen = HashMap::new();
        for (class, name) in names.iter().enumerate() {
            if let Some(other) = seen.insert(name, class) {
                return Err(format!(
                    "\"id2label\": expected a name of its own for each class, found \"{name}\" for both {other} and {class}"
                ));
            }
        }
        Ok(Self { names, problem })
    }

    /// What the model was trained to do.
    pub fn problem(&self) -> Problem {
        self.problem
    }

    /// In class order; empty for a headless model.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The target a label of the data stands for.
    ///
    /// * Single-label: an integer (or a number that is whole) is a class id; a string is a class name, else such a
    ///   number written out.
    /// * Multi-label: a list of class ids or names; one of them alone is a list of one. A list of K numbers that are
    ///   all 0 or 1 is one number a class, never ids (so with K = 2, `[0, 1]` is the second class alone), and so is
    ///   every list of fractions.
    /// * Regression: a number, also as a string; a list of K of them where K > 1.
    ///
    /// # Errors
    /// What is wrong with the label, without its place.
    pub fn resolve(&self, label: &Label) -> Result<Target, String> {
        match self.problem {
            Problem::SingleLabel => self.class(label).map(Target::Class),
            Problem::MultiLabel => self.classes(label).map(Target::Classes),
            Problem::Regression => self.values(label).map(Target::Values),
            Problem::Headless => Err("the model has no head that could give a label a meaning".to_owned()),
        }
    }

    fn class(&self, label: &Label) -> Result<usize, String> {
        match label {
            Label::Integer(id) => self.class_id(*id),
            Label::Number(number) if number.fract() == 0.0 && number.abs() < 1e15 => self.class_id(*number as i64),
            Label::Number(number) => Err(format!("label {number}: expected a class id or name")),
            Label::Name(name) => self.class_named(name),
            Label::Many(_) => Err("label: expected one class, found a list".to_owned()),
            Label::Answers(_) => Err("label: expected one class, found answers".to_owned()),
        }
    }

    fn class_id(&self, id: i64) -> Result<usize, String> {
        let class = usize::try_from(id).ok().filter(|class| *class < self.names.len());
        class.ok_or_else(|| format!("label {id}: expected a class id from 0 to {}", self.names.len() - 1))
    }

    fn class_named(&self, name: &str) -> Result<usize, String> {
        match (self.names.iter().position(|own| own == name), written_id(name)) {
            (Some(class), _) => Ok(class),
            (None, Some(id)) => self.class_id(id),
            (None, None) => Err(format!("label \"{name}\": expected {}", self.expected_names())),
        }
    }

    /// The first few class names, for an error line.
    fn expected_names(&self) -> String {
        const SHOWN: usize = 8;
        let shown: Vec<_> = self.names.iter().take(SHOWN).map(|name| format!("\"{name}\"")).collect();
        let more =
            if self.names.len() > SHOWN { format!(", … ({} classes)", self.names.len()) } else { String::new() };
        format!("one of {}{more}", shown.join(", "))
    }

    fn classes(&self, label: &Label) -> Result<Vec<f32>, String> {
        let Label::Many(items) = label else {
            return self.class(label).map(|class| self.multi_hot([class]));
        };
        if self.is_row(items) {
            return items.iter().map(|item| number(item).and_then(probability)).collect();
        }
        if let Some(Label::Number(fraction)) =
            items.iter().find(|item| matches!(item, Label::Number(n) if n.fract() != 0.0))
        {
            return Err(format!(
                "label: {fraction} in a list of {} numbers; expected {}, one a class",
                items.len(),
                self.names.len()
            ));
        }
        items.iter().map(|item| self.class(item)).collect::<Result<Vec<_>, _>>().map(|classes| self.multi_hot(classes))
    }

    /// Whether a list is one number a class: K numbers, and either all of them 0 or 1, or one of them a fraction.
    fn is_row(&self, items: &[Label]) -> bool {
        let numbers: Option<Vec<f64>> =
            items.iter().map(|item| number(item).ok().filter(|_| !matches!(item, Label::Name(_)))).collect();
        let Some(numbers) = numbers.filter(|numbers| numbers.len() == self.names.len()) else { return false };
        numbers.iter().all(|n| *n == 0.0 || *n == 1.0) || numbers.iter().any(|n| n.fract() != 0.0)
    }

    fn multi_hot(&self, classes: impl IntoIterator<Item = usize>) -> Vec<f32> {
        let mut row = vec![0.0; self.names.len()];
        for class in classes {
            row[class] = 1.0;
        }
        row
    }

    fn values(&self, label: &Label) -> Result<Vec<f32>, String> {
        let items = match label {
            Label::Many(items) => items.as_slice(),
            one => std::slice::from_ref(one),
        };
        if items.len() != self.names.len() {
            return Err(format!("label: expected {} numbers, found {}", self.names.len(), items.len()));
        }
        items.iter().map(|item| number(item).map(|number| number as f32)).collect()
    }
}

/// The class id that a text is: `1`, or `1.0` as pandas writes a column of them in which one is missing.
pub(crate) fn written_id(text: &str) -> Option<i64> {
    let text = text.trim();
    let whole = |number: &f64| number.fract() == 0.0 && number.abs() < 1e15;
    text.parse().ok().or_else(|| text.parse().ok().filter(whole).map(|number| number as i64))
}

fn number(label: &Label) -> Result<f64, String> {
    let number = match label {
        Label::Integer(integer) => Some(*integer as f64),
        Label::Number(number) => Some(*number),
        Label::Name(name) => name.trim().parse().ok(),
        Label::Many(_) | Label::Answers(_) => None,
    };
    // What does not fit f32 would be an infinite target.
    let number = number.filter(|number| (*number as f32).is_finite());
    number.ok_or_else(|| match label {
        Label::Name(name) => format!("label \"{name}\": expected a number"),
        Label::Number(number) => format!("label {number:?}: expected a number within f32's range"),
        _ => "label: expected a number".to_owned(),
    })
}

fn probability(number: f64) -> Result<f32, String> {
    if (0.0..=1.0).contains(&number) {
        Ok(number as f32)
    } else {
        Err(format!("label: expected a number from 0 to 1 for each class, found {number}"))
    }
}
