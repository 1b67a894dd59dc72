//! What a training is to teach, as the user names it.

use wherefore::dataset;
use wherefore::model::Task;

/// What a training is to teach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Job {
    Classification,
    Answers,
    Tags,
    Masks,
    /// Which sentences of a context are evidence.
    Selector,
}

impl std::str::FromStr for Job {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "classification" => Ok(Self::Classification),
            "answers" => Ok(Self::Answers),
            "tags" => Ok(Self::Tags),
            "masks" => Ok(Self::Masks),
            "selector" => Ok(Self::Selector),
            _ => Err(format!("expected classification, answers, tags, masks or selector, found {text:?}")),
        }
    }
}

impl Job {
    pub(super) fn task(self) -> Task {
        match self {
            Self::Classification => Task::Record,
            Self::Answers => Task::Spans,
            Self::Tags | Self::Selector => Task::Tags,
            Self::Masks => Task::Masks,
        }
    }

    pub(super) fn shape(self) -> dataset::Shape {
        match self {
            Self::Classification | Self::Masks => dataset::Shape::Texts,
            Self::Answers | Self::Selector => dataset::Shape::Questions,
            Self::Tags => dataset::Shape::Words,
        }
    }
}

impl std::fmt::Display for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Classification => "classification",
            Self::Answers => "answers",
            Self::Tags => "tags",
            Self::Masks => "masks",
            Self::Selector => "selector",
        })
    }
}
