//! A context as sentences, whatever its language.

/// Ends a sentence wherever it stands.
const ENDS: [char; 8] = ['。', '\u{FF01}', '\u{FF1F}', '\u{FF1B}', '!', '?', ';', '|'];
/// What may stand between an end and white space.
const CLOSING: [char; 8] = ['"', '\'', '”', '’', '」', '』', ')', '\u{FF09}'];

/// The sentences of `text` as places in Unicode characters, each with what ends it and the white space behind: together
/// they are all of the text. A full stop ends one before white space and after an ideograph, as two of them do; what
/// has no letter or digit is no sentence of its own, and goes with what stands before it.
pub fn sentences(text: &str) -> Vec<(usize, usize)> {
    let characters: Vec<char> = text.chars().collect();
    let at = |place: usize| characters.get(place).copied();
    let ends = |place: usize| match characters[place] {
        c if ENDS.contains(&c) => true,
        '\n' => true,
        '.' => {
            let before = place.checked_sub(1).and_then(at);
            at(place + 1).is_none_or(|c| c.is_whitespace() || CLOSING.contains(&c))
                || before.is_some_and(|c| c == '.' || ('\u{4E00}'..='\u{9FFF}').contains(&c))
        }
        _ => false,
    };
    let mut found: Vec<(usize, usize)> = Vec::new();
    let (mut start, mut place) = (0, 0);
    while place < characters.len() {
        let is_end = ends(place);
        place += 1;
        if !is_end && place < characters.len() {
            continue;
        }
        // Whatever else ends it or closes it, and the white space behind, is a part of it.
        while at(place).is_some_and(|c| c == '.' || CLOSING.contains(&c) || ENDS.contains(&c)) {
            place += 1;
        }
        while at(place).is_some_and(char::is_whitespace) {
            place += 1;
        }
        let says = characters[start..place].iter().any(|c| c.is_alphanumeric());
        match found.last_mut() {
            Some(last) if !says => last.1 = place,
            _ => found.push((start, place)),
        }
        start = place;
    }
    found
}
