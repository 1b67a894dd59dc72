//! An explanation at a terminal: the text with each word coloured by its score, or followed by it where there are no
//! colours.

use std::fmt::Write;

use console::{Style, measure_text_width};

use super::{Render, plain, style, width};
use crate::report::numbers::listed;
use crate::report::{Explanation, WordScore};

/// Spaces before the text.
const INDENT: &str = "  ";

/// Digits of the largest score.
const DIGITS: usize = 2;

impl Render for Explanation {
    fn render(&self, colour: bool) -> String {
        let mut out = format!("{}\n", self.heading(colour));
        let _ = writeln!(out, "{INDENT}{}", self.method_line());
        for line in lay_out(&self.pieces(colour)) {
            let _ = writeln!(out, "{INDENT}{line}");
        }
        let rationale = self.rationale_line();
        if !rationale.is_empty() {
            let _ = writeln!(out, "{INDENT}rationale: {rationale}");
        }
        out + "\n"
    }
}

impl Explanation {
    /// Who is explained, and what: `7 · predicted spam · label ham · explaining spam: 0.998, 0.500 at the baseline`.
    fn heading(&self, colour: bool) -> String {
        let predicted = style(colour).bold().apply_to(plain(&self.predicted));
        let mut line = format!("{} · predicted {predicted}", self.id);
        if let Some(label) = self.label.as_ref() {
            let style = if *label == self.predicted { Style::new() } else { style(colour).red() };
            let _ = write!(line, " · {}", style.apply_to(format!("label {}", plain(label))));
        }
        let _ = write!(line, " · explaining {}", self.target);
        if let Some(against) = &self.against {
            let _ = write!(line, " against {against}");
        }
        if let Some(probability) = self.probability {
            let _ = write!(line, ", probability {probability:.3}");
        }
        let unit = self.unit().map_or_else(String::new, |unit| format!("{unit} "));
        let _ = write!(line, ": {unit}{:.3}", self.output);
        if let Some(baseline) = self.baseline_output {
            let _ = write!(line, ", {baseline:.3} at the baseline");
        }
        line
    }

    /// `integrated-gradients · 50 steps · convergence delta +1.2e-4`.
    fn method_line(&self) -> String {
        std::iter::once(self.method.clone())
            .chain(self.diagnostics().into_iter().map(|(text, _)| text))
            .collect::<Vec<_>>()
            .join(" · ")
    }

    /// What does not speak for the target is no reason, however few words there are.
    fn rationale_line(&self) -> String {
        let word = |&i: &usize| {
            let word = self.words.get(i).filter(|word| word.score > 0.0)?;
            Some(format!("{} {}", listed(&word.text), self.show(word.score, DIGITS)))
        };
        self.rationale.iter().filter_map(word).collect::<Vec<_>>().join(" · ")
    }

    /// The words with what stood between them; the tokens where there are no words.
    fn pieces(&self, colour: bool) -> Vec<Piece> {
        if self.words.is_empty() {
            let tokens = self.tokens.iter().zip(&self.scores);
            return tokens.map(|(text, &score)| self.piece(text, score, Gap::Space, colour)).collect();
        }
        let (mut segment, mut end) = (0, 0);
        let word = |word: &WordScore| {
            let gap = match (word.segment == segment, word.start > end) {
                (false, _) => Gap::Segment,
                (true, true) => Gap::Space,
                (true, false) => Gap::None,
            };
            (segment, end) = (word.segment, word.end);
            self.piece(&word.text, word.score, gap, colour)
        };
        self.words.iter().map(word).collect()
    }

    /// One piece in its colours, or followed by its score.
    fn piece(&self, text: &str, score: f32, gap: Gap, colour: bool) -> Piece {
        let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let shown = if colour {
            self.shade(score).apply_to(text).to_string()
        } else {
            format!("{text}({})", self.show(score, DIGITS))
        };
        Piece { shown, gap }
    }
}

/// A word or token as it goes to the screen.
struct Piece {
    shown: String,
    gap: Gap,
}

/// What stands before a piece.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gap {
    None,
    Space,
    /// The second segment starts here, on a line of its own.
    Segment,
}

/// Lines no wider than the terminal.
fn lay_out(pieces: &[Piece]) -> Vec<String> {
    let room = width() - INDENT.len();
    let (mut lines, mut line, mut used) = (Vec::new(), String::new(), 0);
    for Piece { shown, gap } in pieces {
        let columns = measure_text_width(shown);
        let space = usize::from(*gap == Gap::Space && used > 0);
        if used > 0 && (*gap == Gap::Segment || used + space + columns > room) {
            lines.push(std::mem::take(&mut line));
            used = 0;
        } else if space > 0 {
            line.push(' ');
            used += 1;
        }
        line.push_str(shown);
        used += columns;
    }
    lines.push(line);
    lines
}

/// Background colours of the 256, from faint to strong: the first two for black text, the last for white.
type Ramp = [u8; 3];

const SUPPORTS: Ramp = [151, 114, 28];
const OPPOSES: Ramp = [217, 210, 124];
const MATTERS: Ramp = [153, 111, 25];

impl Explanation {
    /// Green for what supports the target, red and underlined for what opposes it, blue where the method knows no
    /// sides; deeper for what weighs more. Each background brings its own text colour, so that both are readable
    /// whatever the terminal's.
    fn shade(&self, score: f32) -> Style {
        let plain = Style::new().force_styling(true);
        let (ramp, faint, plain) = match (self.is_signed(), score > 0.0) {
            (true, true) => (SUPPORTS, plain.clone().green(), plain),
            (true, false) => (OPPOSES, plain.clone().red().underlined(), plain.underlined()),
            (false, true) => (MATTERS, plain.clone().blue(), plain),
            (false, false) => return plain,
        };
        let (black, white) = (16, 231);
        match score.abs() / self.largest() {
            strength if strength.is_nan() || strength < 0.1 => Style::new().force_styling(true),
            strength if strength < 0.25 => faint,
            strength if strength < 0.5 => plain.color256(black).on_color256(ramp[0]),
            strength if strength < 0.75 => plain.color256(black).on_color256(ramp[1]),
            _ => plain.bold().color256(white).on_color256(ramp[2]),
        }
    }
}
