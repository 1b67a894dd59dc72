//! What no compiler sees of the sources: modules use those below them alone, in the one order that ARCHITECTURE.md and
//! the crate's documentation state, and comments are as wide as code.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Modules that use others of their own level.
const EXCEPTIONS: [(&str, &str, &str); 2] = [
    ("model", "factors", "a head's δ, and what a label means to it, are made where its logits are"),
    ("factors", "model", "factors are of a model's layers, for one of its problems"),
];

/// Each module's level, the highest first, as a text states it from `cli →` to `→ error`.
fn stated(text: &str) -> HashMap<String, usize> {
    let start = text.find("cli → ").expect("the order begins with cli");
    let end = start + text[start..].find("→ error").expect("and ends with error") + "→ error".len();
    let levels = text[start..end].split('→').enumerate();
    let names = levels.flat_map(|(level, names)| {
        let names = names.split(|c: char| !is_of_a_name(c)).filter(|name| !name.is_empty());
        names.map(move |name| (name.to_owned(), level))
    });
    names.collect()
}

fn is_of_a_name(c: char) -> bool {
    c.is_ascii_lowercase() || c == '_'
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("the folder is there").flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

/// The modules that code names: `crate::store::…`, `crate::{interrupt, search}`; and how many lines precede each.
fn named(code: &str) -> Vec<(&str, usize)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let (line, path) = (code[..at].lines().count(), &code[at + "crate::".len()..]);
        let paths = match path.strip_prefix('{') {
            Some(list) => list[..list.find('}').unwrap_or(list.len())].split(',').map(str::trim).collect(),
            None => vec![path],
        };
        let names = paths.into_iter().map(|path| &path[..path.find(|c| !is_of_a_name(c)).unwrap_or(path.len())]);
        found.extend(names.filter(|name| !name.is_empty()).map(|name| (name, line)));
    }
    found
}

#[test]
fn modules_use_those_below_them_alone() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &Path| fs::read_to_string(path).expect("it can be read");
    let levels = stated(&read(&root.join("ARCHITECTURE.md")));
    assert_eq!(levels, stated(&read(&root.join("src/lib.rs")).replace("//!", "")), "two orders are stated");
    let level = |module: &str| *levels.get(module).unwrap_or_else(|| panic!("{module} is not in the order"));
    let mut wrong = Vec::new();
    for path in sources(&root.join("src")) {
        let inside = path.strip_prefix(root.join("src")).expect("it is of the sources");
        let module = inside.iter().next().expect("it has a name").to_string_lossy().trim_end_matches(".rs").to_owned();
        if ["lib", "main"].contains(&module.as_str()) {
            continue;
        }
        // Links in comments bind nothing.
        let text = read(&path);
        let code: Vec<&str> =
            text.lines().map(|line| if line.trim_start().starts_with("//") { "" } else { line }).collect();
        for (used, line) in named(&code.join("\n")).into_iter().filter(|(used, _)| *used != module) {
            let excepted = EXCEPTIONS.iter().any(|(from, to, _)| (*from, *to) == (module.as_str(), used));
            if level(used) <= level(&module) && !excepted {
                wrong.push(format!("{}:{line}: {module} uses {used}", inside.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn comments_are_as_wide_as_code() {
    const WIDTH: usize = 120; // of rustfmt.toml, which leaves comments as they are
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut wider = Vec::new();
    for path in ["src", "tests", "benches"].iter().flat_map(|folder| sources(&root.join(folder))) {
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("it can be read");
        let mut is_code = false;
        for (number, line) in text.lines().enumerate() {
            let Some(comment) = line.trim_start().strip_prefix("//") else { continue };
            let comment = comment.trim_start_matches(['/', '!', ' ']);
            is_code ^= comment.starts_with("```");
            // A table's row is a line.
            if !is_code && !comment.starts_with('|') && line.chars().count() > WIDTH {
                wider.push(format!("{}:{}", path.display(), number + 1));
            }
        }
    }
    assert!(wider.is_empty(), "{}", wider.join("\n"));
}
