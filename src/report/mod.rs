//! Results on the way out: JSONL, Parquet and text for a terminal.
