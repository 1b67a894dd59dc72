//! The shape of a result record, for the formats that need it before the first one.

/// The type of a field; every field may be null.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    Text,
    /// A whole number, 64 bits.
    Integer,
    /// A number, 64 bits.
    Number,
    /// A number, 32 bits.
    Single,
    /// True or false.
    Boolean,
    /// Several of the same.
    List(Box<Kind>),
    /// Named fields, in order.
    Struct(Vec<(String, Kind)>),
}

impl Kind {
    /// A list of `kind`.
    pub fn list(kind: Self) -> Self {
        Self::List(Box::new(kind))
    }

    /// A struct from literal names.
    pub fn fields<const N: usize>(fields: [(&str, Self); N]) -> Self {
        Self::Struct(columns(fields))
    }
}

/// Columns from literal names.
pub(super) fn columns<const N: usize>(fields: [(&str, Kind); N]) -> Vec<(String, Kind)> {
    fields.into_iter().map(|(name, kind)| (name.to_owned(), kind)).collect()
}
