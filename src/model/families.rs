//! The model families: what each calls its settings and tensors, and which head it has. Tables only, no arithmetic.
//!
//! Every family here is the same encoder: embeddings, layer normalisation, then layers of attention and feed-forward,
//! each followed by its residual and a layer normalisation ("post-LN", Vaswani et al. 2017). They differ in names, in
//! which embedding tables there are, in whether layers share weights, and in the head.

use super::Task;
use super::config::LayerId;
use crate::backend::Activation;

/// A family of encoders, by `model_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// `bert`
    Bert,
    /// `ernie`: BERT with task embeddings (where `use_task_id`).
    Ernie,
    /// `roberta`
    Roberta,
    /// `xlm-roberta`: RoBERTa with another vocabulary.
    XlmRoberta,
    /// `camembert`: RoBERTa with another vocabulary.
    Camembert,
    /// `distilbert`: BERT without segments.
    Distilbert,
    /// `electra`: the discriminator; narrow embeddings projected to E.
    Electra,
    /// `albert`: narrow embeddings, layers that share weights.
    Albert,
}

/// What a family calls its sizes in `config.json`.
#[derive(Debug)]
pub(super) struct ConfigNames {
    pub(super) width: &'static str,
    pub(super) inner_width: &'static str,
    pub(super) layers: &'static str,
    pub(super) heads: &'static str,
    pub(super) activation: &'static str,
}

/// What a family calls its tensors. A linear layer or a normalisation is named without its `.weight` and `.bias`; names
/// of a layer's parts follow [`TensorNames::layer`], where `{group}` and `{layer}` stand for its numbers.
#[derive(Debug)]
pub(super) struct TensorNames {
    /// Before the encoder's names; headless checkpoints leave it out.
    pub(super) prefix: &'static str,
    pub(super) word: &'static str,
    pub(super) position: &'static str,
    pub(super) token_type: &'static str,
    pub(super) task_type: &'static str,
    pub(super) embedding_norm: &'static str,
    pub(super) projection: &'static str,
    pub(super) layer: &'static str,
    pub(super) query: &'static str,
    pub(super) key: &'static str,
    pub(super) value: &'static str,
    pub(super) attention_out: &'static str,
    pub(super) attention_norm: &'static str,
    pub(super) inner: &'static str,
    pub(super) outer: &'static str,
    pub(super) outer_norm: &'static str,
}

impl TensorNames {
    /// What a layer's parts' names begin with, after the prefix.
    pub(super) fn layer_name(&self, id: LayerId) -> String {
        self.layer.replace("{group}", &id.group.to_string()).replace("{layer}", &id.layer.to_string())
    }
}

/// A family's head: `h = activation(dense(x₀))`, `z = last(h)`, x₀ the first token's hidden state.
#[derive(Debug)]
pub(super) struct HeadNames {
    pub(super) dense: &'static str,
    pub(super) activation: Activation,
    pub(super) last: &'static str,
}

/// A family's masked-language-model head: `z = decoder(norm(activation(dense(x))))`, the decoder's weight the word
/// embeddings'.
#[derive(Debug)]
pub(super) struct MaskHeadNames {
    pub(super) dense: &'static str,
    /// The encoder's where the family's code says nothing else.
    pub(super) activation: Option<Activation>,
    pub(super) norm: &'static str,
    /// Where its weight is its own.
    pub(super) decoder: &'static str,
    /// With its last word.
    pub(super) bias: &'static str,
}

const CONFIG: ConfigNames = ConfigNames {
    width: "hidden_size",
    inner_width: "intermediate_size",
    layers: "num_hidden_layers",
    heads: "num_attention_heads",
    activation: "hidden_act",
};

const CONFIG_DISTILBERT: ConfigNames = ConfigNames {
    width: "dim",
    inner_width: "hidden_dim",
    layers: "n_layers",
    heads: "n_heads",
    activation: "activation",
};

const BERT: TensorNames = TensorNames {
    prefix: "bert",
    word: "embeddings.word_embeddings.weight",
    position: "embeddings.position_embeddings.weight",
    token_type: "embeddings.token_type_embeddings.weight",
    task_type: "embeddings.task_type_embeddings.weight",
    embedding_norm: "embeddings.LayerNorm",
    projection: "embeddings_project",
    layer: "encoder.layer.{layer}",
    query: "attention.self.query",
    key: "attention.self.key",
    value: "attention.self.value",
    attention_out: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    inner: "intermediate.dense",
    outer: "output.dense",
    outer_norm: "output.LayerNorm",
};

const ERNIE: TensorNames = TensorNames { prefix: "ernie", ..BERT };
const ROBERTA: TensorNames = TensorNames { prefix: "roberta", ..BERT };
const ELECTRA: TensorNames = TensorNames { prefix: "electra", ..BERT };

const DISTILBERT: TensorNames = TensorNames {
    prefix: "distilbert",
    layer: "transformer.layer.{layer}",
    query: "attention.q_lin",
    key: "attention.k_lin",
    value: "attention.v_lin",
    attention_out: "attention.out_lin",
    attention_norm: "sa_layer_norm",
    inner: "ffn.lin1",
    outer: "ffn.lin2",
    outer_norm: "output_layer_norm",
    ..BERT
};

const ALBERT: TensorNames = TensorNames {
    prefix: "albert",
    projection: "encoder.embedding_hidden_mapping_in",
    layer: "encoder.albert_layer_groups.{group}.albert_layers.{layer}",
    query: "attention.query",
    key: "attention.key",
    value: "attention.value",
    attention_out: "attention.dense",
    attention_norm: "attention.LayerNorm",
    inner: "ffn",
    outer: "ffn_output",
    outer_norm: "full_layer_layer_norm",
    ..BERT
};

// The heads' activations are fixed by the families' code, whatever `hidden_act` says.
const HEAD_BERT: HeadNames = HeadNames { dense: "pooler.dense", activation: Activation::Tanh, last: "classifier" };
const HEAD_ALBERT: HeadNames = HeadNames { dense: "pooler", ..HEAD_BERT };
const HEAD_DISTILBERT: HeadNames =
    HeadNames { dense: "pre_classifier", activation: Activation::Relu, last: "classifier" };
const HEAD_ROBERTA: HeadNames =
    HeadNames { dense: "classifier.dense", activation: Activation::Tanh, last: "classifier.out_proj" };
const HEAD_ELECTRA: HeadNames = HeadNames { activation: Activation::Gelu, ..HEAD_ROBERTA };

const MASKS_BERT: MaskHeadNames = MaskHeadNames {
    dense: "cls.predictions.transform.dense",
    activation: None,
    norm: "cls.predictions.transform.LayerNorm",
    decoder: "cls.predictions.decoder",
    bias: "cls.predictions.bias",
};
const MASKS_ROBERTA: MaskHeadNames = MaskHeadNames {
    dense: "lm_head.dense",
    activation: Some(Activation::Gelu),
    norm: "lm_head.layer_norm",
    decoder: "lm_head.decoder",
    bias: "lm_head.bias",
};
const MASKS_DISTILBERT: MaskHeadNames = MaskHeadNames {
    dense: "vocab_transform",
    activation: None,
    norm: "vocab_layer_norm",
    decoder: "vocab_projector",
    bias: "vocab_projector.bias",
};
const MASKS_ELECTRA: MaskHeadNames = MaskHeadNames {
    dense: "generator_predictions.dense",
    activation: Some(Activation::Gelu),
    norm: "generator_predictions.LayerNorm",
    decoder: "generator_lm_head",
    bias: "generator_lm_head.bias",
};
const MASKS_ALBERT: MaskHeadNames = MaskHeadNames {
    dense: "predictions.dense",
    activation: None,
    norm: "predictions.LayerNorm",
    decoder: "predictions.decoder",
    bias: "predictions.bias",
};

impl MaskHeadNames {
    /// What the last layer's bias is called, and what else it may be called. A decoder that is not the word embeddings
    /// has one of its own, which checkpoints written before `transformers` 5 have under the tied one's name alone.
    pub(super) fn biases(&self, tied: bool) -> [String; 2] {
        let bias = self.bias.to_owned();
        if tied { [bias.clone(), bias] } else { [format!("{}.bias", self.decoder), bias] }
    }
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Bert,
        Self::Ernie,
        Self::Roberta,
        Self::XlmRoberta,
        Self::Camembert,
        Self::Distilbert,
        Self::Electra,
        Self::Albert,
    ];

    /// As `config.json` has it.
    pub const fn model_type(self) -> &'static str {
        match self {
            Self::Bert => "bert",
            Self::Ernie => "ernie",
            Self::Roberta => "roberta",
            Self::XlmRoberta => "xlm-roberta",
            Self::Camembert => "camembert",
            Self::Distilbert => "distilbert",
            Self::Electra => "electra",
            Self::Albert => "albert",
        }
    }

    /// The class of `transformers` that is its encoder under a head for this task, as `architectures` names it.
    pub(super) fn class_name(self, task: Task) -> String {
        let family = match self {
            Self::Bert => "Bert",
            Self::Ernie => "Ernie",
            Self::Roberta => "Roberta",
            Self::XlmRoberta => "XLMRoberta",
            Self::Camembert => "Camembert",
            Self::Distilbert => "DistilBert",
            Self::Electra => "Electra",
            Self::Albert => "Albert",
        };
        let head = match task {
            Task::Record => "SequenceClassification",
            Task::Spans => "QuestionAnswering",
            Task::Tags => "TokenClassification",
            Task::Masks => "MaskedLM",
        };
        format!("{family}For{head}")
    }

    /// The family of a `model_type`, where it is one of these.
    pub fn from_model_type(model_type: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.model_type() == model_type)
    }

    const fn is_roberta(self) -> bool {
        matches!(self, Self::Roberta | Self::XlmRoberta | Self::Camembert)
    }

    pub(super) const fn config_names(self) -> &'static ConfigNames {
        if matches!(self, Self::Distilbert) { &CONFIG_DISTILBERT } else { &CONFIG }
    }

    pub(super) const fn tensor_names(self) -> &'static TensorNames {
        match self {
            Self::Bert => &BERT,
            Self::Ernie => &ERNIE,
            Self::Roberta | Self::XlmRoberta | Self::Camembert => &ROBERTA,
            Self::Distilbert => &DISTILBERT,
            Self::Electra => &ELECTRA,
            Self::Albert => &ALBERT,
        }
    }

    pub(super) const fn head_names(self) -> &'static HeadNames {
        match self {
            Self::Bert | Self::Ernie => &HEAD_BERT,
            Self::Roberta | Self::XlmRoberta | Self::Camembert => &HEAD_ROBERTA,
            Self::Distilbert => &HEAD_DISTILBERT,
            Self::Electra => &HEAD_ELECTRA,
            Self::Albert => &HEAD_ALBERT,
        }
    }

    pub(super) const fn mask_head_names(self) -> &'static MaskHeadNames {
        match self {
            Self::Bert | Self::Ernie => &MASKS_BERT,
            Self::Roberta | Self::XlmRoberta | Self::Camembert => &MASKS_ROBERTA,
            Self::Distilbert => &MASKS_DISTILBERT,
            Self::Electra => &MASKS_ELECTRA,
            Self::Albert => &MASKS_ALBERT,
        }
    }

    pub(super) const fn has_token_types(self) -> bool {
        !matches!(self, Self::Distilbert)
    }

    pub(super) const fn shares_layers(self) -> bool {
        matches!(self, Self::Albert)
    }

    /// Whether embeddings go through a linear layer on their way in: always in ALBERT, in ELECTRA where the widths
    /// differ.
    pub(super) const fn projects_embeddings(self, embedding_width: usize, width: usize) -> bool {
        matches!(self, Self::Albert) || (matches!(self, Self::Electra) && embedding_width != width)
    }

    /// RoBERTa keeps the position table's rows up to the padding token's own for itself (a habit of fairseq's).
    pub(super) const fn positions_start_after_pad(self) -> bool {
        self.is_roberta()
    }

    pub(super) const fn pad_id_default(self) -> u32 {
        if self.is_roberta() { 1 } else { 0 }
    }

    pub(super) const fn has_narrow_embeddings(self) -> bool {
        matches!(self, Self::Electra | Self::Albert)
    }

    pub(super) const fn activation_default(self) -> Activation {
        if matches!(self, Self::Albert) { Activation::GeluTanh } else { Activation::Gelu }
    }
}
