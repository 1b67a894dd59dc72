//! What clap has to say about a command line, told as every other error is: one line, and a hint.

use std::ffi::OsString;

use clap::CommandFactory;
use clap::error::ErrorKind;
use wherefore::Error;

/// Clap's refusal as the house's error; back as it came where it is no refusal (help, version), for clap to print.
///
/// # Errors
/// The help or version that was asked for.
pub(super) fn refusal(error: clap::Error, arguments: &[OsString]) -> Result<Error, clap::Error> {
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    ) {
        return Err(error);
    }
    let text = error.to_string();
    // Paragraphs: what is wrong, tips, usage, where to read more.
    let mut paragraphs = text.split("\n\n").map(one_line);
    let wrong = paragraphs.next().unwrap_or_default();
    let wrong = wrong.strip_prefix("error: ").unwrap_or(&wrong);
    let tip = paragraphs.find_map(|p| p.strip_prefix("tip: ").map(str::to_owned));
    Ok(Error::usage(wrong)
        .with_hint(tip.unwrap_or_else(|| format!("`{} --help` tells what there is", command(arguments)))))
}

fn one_line(paragraph: &str) -> String {
    paragraph.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

/// `wherefore audit dirty`, of its arguments.
fn command(arguments: &[OsString]) -> String {
    let mut at = super::Cli::command();
    let mut name = at.get_name().to_owned();
    for argument in arguments.iter().skip(1).filter_map(|a| a.to_str()) {
        if let Some(found) = at.find_subcommand(argument).cloned() {
            name = format!("{name} {}", found.get_name());
            at = found;
        }
    }
    name
}
