//! Results of one kind from several files, which are told apart by the files' names.

use std::path::Path;

/// What was read, file by file in their order.
#[derive(Debug)]
pub(super) struct BySource<T>(Vec<(String, T)>);

impl<T> Default for BySource<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> BySource<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is of this file, new or not.
    pub(super) fn of(&mut self, source: &str) -> &mut T
    where
        T: Default,
    {
        let at = self.0.iter().position(|(known, _)| known == source).unwrap_or_else(|| {
            self.0.push((source.to_owned(), T::default()));
            self.0.len() - 1
        });
        &mut self.0[at].1
    }

    /// All of it, each under the heading `title`, with its file's name where there are several.
    pub(super) fn under(&self, title: &str) -> impl Iterator<Item = (String, &T)> {
        let sources: Vec<&str> = self.0.iter().map(|(source, _)| source.as_str()).collect();
        let headings: Vec<String> = (0..sources.len()).map(|at| heading(title, &sources, at)).collect();
        headings.into_iter().zip(self.0.iter().map(|(_, what)| what))
    }
}

/// What a plan did to its data lies in a folder with the arm's or the round's name.
const OF_FOLDERS: &str = "changes.jsonl";

/// The heading of what is of the file `sources[at]`.
pub(super) fn heading(title: &str, sources: &[&str], at: usize) -> String {
    match name(sources, at) {
        Some(name) if title.ends_with('?') => format!("{title} ({name})"),
        Some(name) => format!("{title}: {name}"),
        None => title.to_owned(),
    }
}

/// A file's own name.
pub(super) fn file(path: &str) -> Option<String> {
    Path::new(path).file_name().map(|name| name.to_string_lossy().into_owned())
}

/// The shortest name that tells a file from the others: its own, its folder's where they all have the same, or all of
/// its path. Nothing where it is the only one, unless its folder says what it is.
pub(super) fn name(sources: &[&str], at: usize) -> Option<String> {
    let folder = |path: &str| Path::new(path).parent().and_then(|folder| file(&folder.to_string_lossy()));
    if sources.len() < 2 {
        return folder(sources[at]).filter(|_| file(sources[at]).is_some_and(|name| name == OF_FOLDERS));
    }
    let are_apart = |name: &dyn Fn(&str) -> Option<String>| {
        let own = name(sources[at]);
        own.filter(|own| sources.iter().filter(|path| name(path).as_ref() == Some(own)).count() == 1)
    };
    let are_alike = sources.iter().all(|path| file(path) == file(sources[0]));
    let short = if are_alike { are_apart(&folder) } else { are_apart(&file) };
    Some(short.unwrap_or_else(|| sources[at].to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_apart_by_as_little_as_does() {
        let names =
            |sources: &[&str]| -> Vec<String> { (0..sources.len()).map(|at| heading("T", sources, at)).collect() };
        assert_eq!(names(&["out/a.jsonl"]), ["T"]);
        assert_eq!(names(&["out/drop/changes.jsonl"]), ["T: drop"]);
        assert_eq!(heading("Why?", &["a.jsonl", "b.jsonl"], 1), "Why? (b.jsonl)");
        assert_eq!(names(&["x/a.jsonl", "y/b.jsonl"]), ["T: a.jsonl", "T: b.jsonl"]);
        assert_eq!(names(&["x/ask.jsonl", "y/ask.jsonl"]), ["T: x", "T: y"]);
        assert_eq!(names(&["x/a.jsonl", "y/a.jsonl", "b.jsonl"]), ["T: x/a.jsonl", "T: y/a.jsonl", "T: b.jsonl"]);
        assert_eq!(names(&["p/x/a.jsonl", "q/x/a.jsonl"]), ["T: p/x/a.jsonl", "T: q/x/a.jsonl"]);
    }
}
