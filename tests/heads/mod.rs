//! Tests of models that say something of tokens: answer spans, tags, masked pieces.

mod command;
mod curvature;
mod dataset;
mod golden;
mod search;
mod stores;
mod task;
