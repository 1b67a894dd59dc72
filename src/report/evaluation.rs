//! Rows of `evaluate`, as a page reads them back.

use serde_json::{Map, Value};

/// One row of a yardstick's table: a method, a rule or a signal, and what is measured of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EvaluationRow {
    /// Which yardstick.
    pub yardstick: String,
    /// All fields, by the names that `evaluate` writes.
    pub fields: Map<String, Value>,
}

impl EvaluationRow {
    /// Of an object with the field `yardstick`.
    ///
    /// # Errors
    /// Where that names nothing, or the row does not say what it is of.
    pub fn from_object(fields: Map<String, Value>) -> Result<Self, String> {
        let Some(Value::String(yardstick)) = fields.get("yardstick").cloned() else {
            return Err("not an evaluate record: yardstick: expected a name".to_owned());
        };
        let row = Self { yardstick, fields };
        if row.name().is_empty() {
            return Err("not an evaluate record: expected one of \"method\", \"rule\" and \"signal\"".to_owned());
        }
        Ok(row)
    }

    /// What it is of.
    pub fn name(&self) -> String {
        let text = |field: &str| self.fields.get(field).and_then(Value::as_str);
        let name = ["method", "rule", "signal"].into_iter().find_map(text).unwrap_or_default();
        text("store").map_or_else(|| name.to_owned(), |store| format!("{name} ({store})"))
    }

    /// A measure's mean and interval; a plain number is its own.
    pub fn measure(&self, field: &str) -> Option<[f64; 3]> {
        let value = self.fields.get(field)?;
        if let Some(number) = value.as_f64() {
            return Some([number; 3]);
        }
        let part = |part: &str| value.get(part).and_then(Value::as_f64);
        Some([part("mean")?, part("low")?, part("high")?])
    }
}
