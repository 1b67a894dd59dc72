//! Tests of models that say something of tokens: answer spans, tags, masked pieces.

mod audit;
mod command;
mod curvature;
mod dataset;
mod golden;
mod representer;
mod search;
mod stores;
mod task;
mod vocabulary;
