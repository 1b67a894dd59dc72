//! A model that there is none of yet: a configuration and a tokenizer made from the data, for a training from scratch.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde_json::json;

use crate::destination::Destination;
use crate::error::Result;
use crate::tokens::{learn_vocabulary, write_vocabulary};

/// How large a new BERT is. Heads are 32 wide, the inner layers four times the hidden size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Layers.
    pub layers: usize,
    /// The hidden size.
    pub hidden: usize,
}

/// Numbers of a head.
const HEAD: usize = 32;
/// Positions of a new model.
const POSITIONS: usize = 512;

impl Default for Shape {
    /// Small enough for a laptop.
    fn default() -> Self {
        Self { layers: 4, hidden: 256 }
    }
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('x').and_then(|(layers, hidden)| {
            Some(Self { layers: layers.trim().parse().ok()?, hidden: hidden.trim().parse().ok()? })
        });
        parsed
            .filter(|shape| (1..=96).contains(&shape.layers) && (1..=16_384).contains(&shape.hidden))
            .filter(|shape| shape.hidden.is_multiple_of(HEAD))
            .ok_or_else(|| {
                format!("expected LAYERSxHIDDEN, the hidden size a multiple of {HEAD}, such as 4x256, found {text:?}")
            })
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.layers, self.hidden)
    }
}

/// Writes `config.json`, `vocab.txt` and `tokenizer_config.json` of a BERT of this shape, its vocabulary of at most
/// `vocabulary` pieces learnt from `texts`; gives the number of pieces. The directory is then what
/// [`super::Blueprint::read`] reads from scratch.
///
/// # Errors
/// As [`learn_vocabulary`]; what the file system says.
pub fn write_untrained<'a>(
    directory: &Path,
    shape: Shape,
    vocabulary: usize,
    texts: impl IntoIterator<Item = &'a str>,
) -> Result<usize> {
    let pieces = learn_vocabulary(texts, vocabulary)?;
    let config = json!({
        "model_type": "bert",
        "architectures": ["BertForSequenceClassification"],
        "vocab_size": pieces.len(),
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.hidden / HEAD,
        "intermediate_size": 4 * shape.hidden,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "max_position_embeddings": POSITIONS,
        "type_vocab_size": 2,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        "dtype": "float32",
    });
    write_vocabulary(directory, &pieces, POSITIONS)?;
    let mut file = Destination::create(Some(&directory.join("config.json")))?;
    file.write(format!("{config:#}\n").as_bytes())?;
    file.finish()?;
    Ok(pieces.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Blueprint, HeadPlan, Problem};

    #[test]
    fn shapes_are_read_as_they_are_written() {
        assert_eq!("2x64".parse(), Ok(Shape { layers: 2, hidden: 64 }));
        assert_eq!(Shape { layers: 2, hidden: 64 }.to_string(), "2x64");
        assert!(["2", "0x64", "2x65", "2x", "axb"].iter().all(|text| text.parse::<Shape>().is_err()));
    }

    #[test]
    fn what_is_untrained_can_be_trained() {
        let folder = tempfile::tempdir().unwrap();
        let texts = ["a good book", "a bad book", "好书 好书"];
        let pieces = write_untrained(folder.path(), Shape { layers: 1, hidden: 32 }, 40, texts).unwrap();
        assert!(pieces > 5 && pieces <= 40);
        let blueprint = Blueprint::read(&folder.path().to_string_lossy(), true).unwrap();
        let head = HeadPlan { names: vec!["bad".into(), "good".into()], problem: Problem::SingleLabel };
        let trainee =
            blueprint.build_on(crate::model::Device::Cpu, crate::backend::Precision::default(), head, 0, None).unwrap();
        let record = crate::dataset::Record { text: "A good book!".into(), ..Default::default() };
        assert!(trainee.encode(&record).unwrap().ids.len() >= 5);
    }
}
