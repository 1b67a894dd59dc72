//! A model directory's tokenizer: loading, encoding, and what identifies it.

use std::path::{Path, PathBuf};

use tokenizers::utils::truncation::{TruncationParams, TruncationStrategy, truncate_encodings};
use tokenizers::{
    DecoderWrapper, Encoding as Pieces, Model, OffsetType, PostProcessor, PostProcessorWrapper, PreTokenizer,
    Tokenizer as Pipeline, TruncationDirection,
};

use super::Encoding;
use super::load;
use super::prefix::PrefixRule;
use super::settings::{Role, Settings};
use crate::error::{Error, Result};

/// What the model expects of its tokenizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenizerOptions {
    /// Whether the model tells segments apart (two rows or more in its token-type table); without, every segment id is
    /// 0.
    pub segments: bool,
    /// Rows of the model's word embedding table V: ids are below it.
    pub vocabulary: usize,
}

/// Text to token ids, as `transformers`' fast tokenizer of the same directory gives them.
pub struct Tokenizer {
    /// Normaliser, pre-tokenizer, model and added tokens; its post-processor, truncation and padding are taken out.
    pipeline: Pipeline,
    /// Adds the special tokens.
    template: Option<PostProcessorWrapper>,
    direction: TruncationDirection,
    prefix: Option<PrefixRule>,
    segments: bool,
    vocabulary: usize,
    special: SpecialIds,
    fingerprint: String,
    /// The file the vocabulary came from, for messages.
    source: PathBuf,
}

#[derive(Clone, Copy, Debug, Default)]
struct SpecialIds {
    padding: Option<u32>,
    mask: Option<u32>,
    unknown: Option<u32>,
}

impl Tokenizer {
    /// Loads `tokenizer.json` of a model directory, else its `vocab.txt`, with the settings beside them.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Format`] where neither file is there, or one is damaged; [`Error::Mismatch`] where
    /// the vocabulary has ids that the model's embedding table has no rows for.
    pub fn load(dir: &Path, options: &TokenizerOptions) -> Result<Self> {
        let settings = Settings::read(dir)?;
        let (mut pipeline, source) = load::read_pipeline(dir, &settings)?;
        let padding = pipeline.get_padding().map(|padding| padding.pad_token.clone());
        pipeline.with_padding(None);
        pipeline.with_decoder(None::<DecoderWrapper>);
        pipeline.with_truncation(None).expect("no truncation is always accepted");
        load::no_dropout(&mut pipeline);
        load::add_missing_tokens(&mut pipeline, &settings, &source)?;
        load::check_vocabulary(&pipeline, options.vocabulary, &source)?;
        let special = SpecialIds::find(&pipeline, &settings, padding.as_deref());
        let segments = options.segments && settings.gives_segments();
        let left = settings.config.truncation_side.as_deref() == Some("left");
        let direction = if left { TruncationDirection::Left } else { TruncationDirection::Right };
        let fingerprint = load::fingerprint(&pipeline, left, segments, &source)?;
        let template = pipeline.get_post_processor().cloned();
        pipeline.with_post_processor(None::<PostProcessorWrapper>);
        let prefix = PrefixRule::of(&pipeline).filter(|_| !left);
        let vocabulary = options.vocabulary;
        Ok(Self { pipeline, template, direction, prefix, segments, vocabulary, special, fingerprint, source })
    }

    /// Encodes a text, or a pair, in at most `max_length` tokens, special tokens included. What is too long is cut
    /// longest-first: a pair loses tokens from its longer half until the two are level, then from both. An empty pair
    /// is no pair, as where `transformers` is given one record.
    ///
    /// # Errors
    /// [`Error::Usage`] where `max_length` leaves no room for the special tokens; [`Error::Mismatch`] where a token of
    /// the text has no row in the model's embedding table.
    pub fn encode(&self, text: &str, pair: Option<&str>, max_length: usize) -> Result<Encoding> {
        let pair = pair.filter(|pair| !pair.is_empty());
        let room = self.room(pair.is_some(), max_length)?;
        let (first, second) = self.segments(text, pair, room)?;
        let truncated = first.len() + second.as_ref().map_or(0, Pieces::len) > room;
        let (first, second) = self.truncate(first, second, room)?;
        let pieces = self.assemble(first, second)?;
        self.finish(&pieces, truncated)
    }

    /// Encodes a question with a context of any length, as windows of at most `max_length` tokens: the question is in
    /// each, and neighbours share `stride` tokens of the context. These are `transformers`' own
    /// (`truncation="only_second"`, `return_overflowing_tokens`); where a window has no room for more than what is to
    /// be shared, which they refuse, neighbours share half of it.
    ///
    /// # Errors
    /// [`Error::Usage`] where the question leaves no room for its context; as [`Tokenizer::encode`].
    pub fn windows(&self, question: &str, context: &str, max_length: usize, stride: usize) -> Result<Vec<Encoding>> {
        let room = self.room(true, max_length)?;
        let (first, mut second) = (self.tokenize(question, None)?, self.tokenize(context, None)?);
        let left = room.saturating_sub(first.len());
        if second.len() > left || first.len() > room {
            if left == 0 {
                return Err(Error::usage(format!(
                    "a question of {} tokens leaves nothing of {max_length} for its context",
                    first.len()
                ))
                .with_hint("take longer windows (--max-length)"));
            }
            second.truncate(left, if left > stride { stride } else { left / 2 }, self.direction);
        }
        let further = second.take_overflowing();
        std::iter::once(second)
            .chain(further)
            .map(|part| self.finish(&self.assemble(first.clone(), Some(part))?, false))
            .collect()
    }

    /// What a token of this id is, as the vocabulary writes it.
    pub fn piece(&self, id: u32) -> Option<String> {
        self.pipeline.id_to_token(id)
    }

    /// The id of a piece, as the vocabulary writes it.
    pub fn id(&self, piece: &str) -> Option<u32> {
        self.pipeline.token_to_id(piece)
    }

    /// What decides the ids, as 64 hexadecimal digits: equal fingerprints encode every text alike.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Pieces in the vocabulary, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.pipeline.get_vocab_size(true)
    }

    /// The padding token (never used to pad here).
    pub fn pad_id(&self) -> Option<u32> {
        self.special.padding
    }

    /// The mask token.
    pub fn mask_id(&self) -> Option<u32> {
        self.special.mask
    }

    /// The unknown token.
    pub fn unk_id(&self) -> Option<u32> {
        self.special.unknown
    }

    /// The side that texts are cut on.
    pub(super) fn direction(&self) -> TruncationDirection {
        self.direction
    }

    /// Tokens left for the texts once the special tokens have theirs.
    pub(super) fn room(&self, is_pair: bool, max_length: usize) -> Result<usize> {
        let special = self.template.as_ref().map_or(0, |template| template.added_tokens(is_pair));
        max_length.checked_sub(special).filter(|_| max_length > 0).ok_or_else(|| {
            let what = if is_pair { "a pair" } else { "a text" };
            Error::usage(format!(
                "a maximum length of {max_length} tokens has no room for the {special} special tokens of {what}"
            ))
        })
    }

    /// Both segments' tokens: all of them, or more than there is room for.
    fn segments(&self, text: &str, pair: Option<&str>, room: usize) -> Result<(Pieces, Option<Pieces>)> {
        let first = self.start(text, room + 1)?;
        let Some(pair) = pair else { return Ok((first, None)) };
        let second = self.start(pair, room + 1)?;
        if room % 2 == 1 && first.len() > room && second.len() > room {
            // Halves of an odd number: the truly longer segment has the odd token.
            return Ok((self.tokenize(text, None)?, Some(self.tokenize(pair, None)?)));
        }
        Ok((first, Some(second)))
    }

    /// One segment's tokens, or the first `limit` of them at least.
    fn start(&self, text: &str, limit: usize) -> Result<Pieces> {
        if let Some(prefix) = self.prefix.and_then(|rule| rule.prefix(text, limit)) {
            let pieces = self.tokenize(prefix, Some(limit))?;
            if self.is_settled(&pieces, limit) {
                return Ok(pieces);
            }
        }
        self.tokenize(text, Some(limit))
    }

    /// Whether a prefix gave what the whole text would: tokenizing stops after the first word that reaches the limit,
    /// but goes on past an added token that does.
    fn is_settled(&self, pieces: &Pieces, limit: usize) -> bool {
        let added = self.pipeline.get_added_vocabulary().get_added_tokens_decoder();
        pieces.len() >= limit && pieces.get_ids().last().is_some_and(|id| !added.contains_key(id))
    }

    /// Tokens up to the end of the word (from the side that is kept) that reaches the limit.
    pub(super) fn tokenize(&self, text: &str, limit: Option<usize>) -> Result<Pieces> {
        let added = self.pipeline.get_added_vocabulary();
        let mut words = added.extract_and_normalize(self.pipeline.get_normalizer(), text);
        if let Some(splitter) = self.pipeline.get_pre_tokenizer() {
            splitter.pre_tokenize(&mut words).map_err(|error| self.failure(&*error))?;
        }
        let model = self.pipeline.get_model();
        let limit = limit.map(|limit| (limit, self.direction));
        model.tokenize_in_pretokenized(&mut words, limit).map_err(|error| self.failure(&*error))?;
        words.into_encoding(None, 0, OffsetType::Char).map_err(|error| self.failure(&*error))
    }

    fn truncate(&self, first: Pieces, second: Option<Pieces>, room: usize) -> Result<(Pieces, Option<Pieces>)> {
        let params = TruncationParams {
            direction: self.direction,
            max_length: room,
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
        };
        let (mut first, mut second) =
            truncate_encodings(first, second, &params).map_err(|error| self.failure(&*error))?;
        // What was cut off comes along as further encodings, and every pair of those would be put together next.
        first.take_overflowing();
        second.as_mut().map(Pieces::take_overflowing);
        Ok((first, second))
    }

    /// Both segments and the special tokens as one sequence.
    pub(super) fn assemble(&self, mut first: Pieces, second: Option<Pieces>) -> Result<Pieces> {
        if let Some(template) = &self.template {
            return template.process(first, second, true).map_err(|error| self.failure(&*error));
        }
        first.set_sequence_id(0);
        if let Some(mut second) = second {
            second.set_sequence_id(1);
            second.set_type_ids(vec![1; second.len()]);
            first.merge_with(second, false);
        }
        Ok(first)
    }

    pub(super) fn finish(&self, pieces: &Pieces, truncated: bool) -> Result<Encoding> {
        let ids = pieces.get_ids().to_vec();
        if ids.is_empty() {
            return Err(Error::usage("the text has no token, and the tokenizer adds none"));
        }
        if let Some(at) = ids.iter().position(|&id| id as usize >= self.vocabulary) {
            let (id, rows, piece) = (ids[at], self.vocabulary, &pieces.get_tokens()[at]);
            return Err(load::too_many_ids(piece, id, rows, &self.source));
        }
        let segments: Vec<Option<u8>> =
            pieces.get_sequence_ids().into_iter().map(|segment| segment.map(|s| s as u8)).collect();
        let offsets = segments.iter().zip(pieces.get_offsets()).map(|(s, &o)| s.map(|_| o)).collect();
        let type_ids = if self.segments { pieces.get_type_ids().to_vec() } else { vec![0; ids.len()] };
        let words = segments.iter().zip(pieces.get_word_ids()).map(|(s, &word)| s.and(word)).collect();
        Ok(Encoding { ids, type_ids, tokens: pieces.get_tokens().to_vec(), offsets, segments, words, truncated })
    }

    fn failure(&self, error: &(dyn std::error::Error + Send + Sync)) -> Error {
        Error::format(&self.source, format!("cannot tokenize: {error}"))
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("source", &self.source)
            .field("segments", &self.segments)
            .field("special", &self.special)
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

impl SpecialIds {
    /// By role where the settings name one, else by the names BERT's and RoBERTa's families use.
    fn find(pipeline: &Pipeline, settings: &Settings, padding: Option<&str>) -> Self {
        let id = |role: Role, others: &[&str]| {
            let named = settings.token(role).into_iter();
            named.chain(others.iter().copied()).find_map(|text| pipeline.token_to_id(text))
        };
        Self {
            padding: id(Role::Padding, &[padding.unwrap_or("[PAD]"), "[PAD]", "<pad>"]),
            mask: id(Role::Mask, &["[MASK]", "<mask>"]),
            unknown: id(Role::Unknown, &["[UNK]", "<unk>"]),
        }
    }
}
