//! The store: immutable shards of factors beside their texts, and the manifest that says what they are.
