//! What clap has to say about a command line, told as every other error is: one line, and a hint.

use std::error::Error as _;
use std::ffi::OsString;

use clap::CommandFactory;
use clap::error::ErrorKind;
use wherefore::Error;

/// Clap's refusal as the house's error; back as it came where it is no refusal (help, version), for clap to print.
///
/// # Errors
/// The help or version that was asked for.
pub(super) fn refusal(error: clap::Error, arguments: &[OsString]) -> Result<Error, clap::Error> {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return Err(error);
    }
    let (name, command) = command(arguments);
    let hint = format!("`{name} --help` tells what there is");
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        // Clap would print the whole help, as if that had been asked for.
        let all: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
        let wrong =
            format!("'{name}' requires a subcommand but one was not provided [subcommands: {}]", all.join(", "));
        return Ok(Error::usage(wrong).with_hint(hint));
    }
    let text = error.to_string();
    // Paragraphs: what is wrong, tips, usage, where to read more.
    let mut paragraphs = text.split("\n\n").map(one_line);
    let wrong = paragraphs.next().unwrap_or_default();
    let wrong = wrong.strip_prefix("error: ").unwrap_or(&wrong);
    let tip = paragraphs.find_map(|p| p.strip_prefix("tip: ").map(str::to_owned));
    // What refused a value may know better than clap what to do.
    let own = error.source().and_then(|source| source.downcast_ref::<Error>()).and_then(Error::hint);
    Ok(Error::usage(wrong).with_hint(own.map(str::to_owned).or(tip).unwrap_or(hint)))
}

fn one_line(paragraph: &str) -> String {
    paragraph.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

/// `wherefore audit dirty`, of its arguments, and what it takes.
fn command(arguments: &[OsString]) -> (String, clap::Command) {
    let mut at = super::Cli::command();
    let mut name = at.get_name().to_owned();
    for argument in arguments.iter().skip(1).filter_map(|a| a.to_str()) {
        if let Some(found) = at.find_subcommand(argument).cloned() {
            name = format!("{name} {}", found.get_name());
            at = found;
        }
    }
    (name, at)
}
