//! How far attributions can be trusted: the yardsticks of the field, for methods that score words and for rules that
//! score training records.
//!
//! | yardstick | says | source |
//! |---|---|---|
//! | comprehensiveness, sufficiency, AOPC | what the prediction loses without the words that matter, and with nothing else | DeYoung et al. 2020 (ERASER) |
//! | New-P | how often the rationale alone keeps the prediction, and the rest does not | Wang et al. 2022 |
//! | deletion, insertion | the area under the probability as words go, or come, in order | Petsiuk et al. 2018 |
//! | sensitivity-n | whether sums of scores follow what sets of n words are worth | Ancona et al. 2018 |
//! | completeness error | whether scores sum to the change they explain | Sundararajan et al. 2017 |
//! | randomisation | whether scores change when the model's weights are drawn anew | Adebayo et al. 2018 |
//! | token F1, IoU F1, union F1, AUPRC | whether the words are those that people marked | DeYoung et al. 2020, Wang et al. 2022 |
//! | LDS | whether sums of scores say what a model trained on other records would have said | Park et al. 2023 |
//! | leave-out | the same of one record left out, of k, or of a group | Koh & Liang 2017, Koh et al. 2019 |
//! | removal | how much the loss rises once what is ranked first is gone | Ilyas et al. 2022 |
//! | tail-patch | whether a step on what is ranked first lowers the loss | Chang et al. 2024 |
//! | stability | whether models of other seeds rank the same records first | Søgaard et al. 2021 |
//! | label noise | whether labels that were turned before training are found again | Koh & Liang 2017 |
//! | MAP | whether a text and its perturbed version have the same words in the same order | Wang et al. 2022 |
//!
//! **Random scores are always there to compare with**: a yardstick by which chance does as well measures nothing. Every
//! mean has its bootstrap interval over records.

mod amount;
mod consistency;
mod contender;
mod faithfulness;
mod gold;
mod greedy;
mod kept;
mod label_noise;
mod lds;
mod learn;
mod leave_out;
mod plausibility;
mod randomised;
mod removal;
mod retraining;
mod stability;
mod statistics;
mod subjects;
mod table;
mod tail_patch;
mod units;

pub use crate::numeric::area_under_roc;
pub use amount::Amount;
pub use consistency::{Consistency, ConsistencyOptions, consistency, mean_average_precision};
pub use contender::{Contender, Judgement, OpenQueries, RuleOver, suits};
pub use faithfulness::{AtShare, AtStep, Faithfulness, FaithfulnessOptions, faithfulness};
pub use gold::Gold;
pub use greedy::{Chosen, GreedySet};
pub use label_noise::{NoiseOptions, Recovery, label_noise};
pub use lds::{Lds, LdsOptions};
pub use leave_out::{LeaveOut, LeaveOutOptions, OfSet, Sets};
pub use plausibility::{Agreement, Plausibility, PlausibilityOptions, agreement, plausibility};
pub use randomised::draw_anew;
pub use removal::{AtAmount, ChosenRecord, ChosenSet, Removal, RemovalOptions};
pub use retraining::{Features, FullRetraining, Retraining, RetrainingPlan, Subset, Trainings};
pub use stability::{Member, Stability, StabilityOptions, stability, train_members};
pub use statistics::{Measure, average_precision, pearson, spearman};
pub use subjects::{Judged, TokenOptions};
pub use table::Table;
pub use tail_patch::{TailPatch, TailPatchOptions};
