//! `--config FILE.toml`: arguments kept in a file. A key is an argument's long name; at the top it is for every command
//! that has the argument, in a table named as a command for that one, and for a command's own commands there are tables
//! within (`[audit.dirty]`). Of two the inner one wins, and arguments on the command line win over both: over those
//! that they go not together with, too.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use clap::{Arg, Command, CommandFactory};
use toml::{Table, Value};
use wherefore::Error;

/// The command line with the file's arguments put in right after the command's name.
pub(crate) fn expand(arguments: Vec<OsString>) -> anyhow::Result<Vec<OsString>> {
    let Some(path) = config_path(&arguments) else { return Ok(arguments) };
    let path = Path::new(&path);
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    let table: Table = text.parse().map_err(|e: toml::de::Error| Error::format(path, e.message()))?;
    let mut root = super::Cli::command();
    root.build(); // hands the common arguments down
    let Some((at, commands)) = named(&arguments, &root) else { return Ok(arguments) };
    let command = commands[commands.len() - 1];

    let (mut kept, mut tables) = (BTreeMap::new(), Some(&table));
    for (depth, level) in commands.iter().enumerate() {
        let Some(table) = tables else { break };
        for (key, value) in table {
            match value {
                Value::Table(_) if level.find_subcommand(key).is_some() => {}
                Value::Table(_) => return Err(unknown(path, key, "tables are named as commands are").into()),
                _ => {
                    if let Some(argument) = argument(command, key) {
                        kept.insert(key.as_str(), (argument, value));
                    } else if !anywhere(level, key) {
                        return Err(unknown(
                            path,
                            key,
                            "keys are the long names of arguments without the first two dashes, as in top-k",
                        )
                        .into());
                    }
                }
            }
        }
        tables = commands.get(depth + 1).and_then(|next| table.get(next.get_name())).and_then(Value::as_table);
    }

    let mut expanded = arguments[..=at].to_vec();
    let given: Vec<&Arg> = command.get_arguments().filter(|argument| is_given(argument, &arguments)).collect();
    let yields = |argument: &Arg| given.iter().any(|given| *given == argument || exclude(command, given, argument));
    for (key, (_, value)) in kept.iter().filter(|(_, (argument, _))| !yields(argument)) {
        push(&mut expanded, key, value);
    }
    expanded.extend_from_slice(&arguments[at + 1..]);
    Ok(expanded)
}

/// The root, the command that is named, and its own command where it has some; with the place of the last name.
fn named<'a>(arguments: &[OsString], root: &'a Command) -> Option<(usize, Vec<&'a Command>)> {
    let (mut at, mut commands) = (0, vec![root]);
    for (i, argument) in arguments.iter().enumerate().skip(1) {
        let found = argument.to_str().and_then(|name| commands[commands.len() - 1].find_subcommand(name));
        if let Some(command) = found {
            at = i;
            commands.push(command);
        }
    }
    (at > 0).then_some((at, commands))
}

fn argument<'a>(command: &'a Command, key: &str) -> Option<&'a Arg> {
    command.get_arguments().find(|argument| argument.get_long() == Some(key))
}

/// Whether a command, or one within it, has the argument.
fn anywhere(command: &Command, key: &str) -> bool {
    argument(command, key).is_some() || command.get_subcommands().any(|within| anywhere(within, key))
}

/// Whether a command takes one of two arguments, not both.
fn exclude(command: &Command, one: &Arg, other: &Arg) -> bool {
    let excludes = |one, other| command.get_arg_conflicts_with(one).contains(&other);
    excludes(one, other) || excludes(other, one)
}

/// Whether the command line has the argument, by whichever of its names.
fn is_given(argument: &Arg, arguments: &[OsString]) -> bool {
    let longs = argument.get_long_and_visible_aliases().unwrap_or_default();
    let is = |text: &str| match (text.strip_prefix("--"), text.strip_prefix('-')) {
        (Some(name), _) => longs.contains(&name.split('=').next().unwrap_or(name)),
        (None, Some(name)) => argument.get_short().is_some_and(|short| name.starts_with(short)),
        (None, None) => false,
    };
    arguments.iter().skip(1).filter_map(|text| text.to_str()).any(is)
}

fn unknown(path: &Path, key: &str, hint: &str) -> Error {
    Error::format(path, format!("unknown key {key:?}")).with_hint(hint)
}

fn config_path(arguments: &[OsString]) -> Option<OsString> {
    let mut arguments = arguments.iter().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--config" {
            return arguments.next().cloned();
        }
        if let Some(path) = argument.to_str().and_then(|a| a.strip_prefix("--config=")) {
            return Some(path.into());
        }
    }
    None
}

fn push(arguments: &mut Vec<OsString>, key: &str, value: &Value) {
    match value {
        Value::Boolean(true) => arguments.push(format!("--{key}").into()),
        Value::Boolean(false) | Value::Table(_) => {}
        Value::Array(items) => items.iter().for_each(|item| push(arguments, key, item)),
        Value::String(text) => arguments.push(format!("--{key}={text}").into()),
        Value::Integer(number) => arguments.push(format!("--{key}={number}").into()),
        Value::Float(number) => arguments.push(format!("--{key}={number}").into()),
        Value::Datetime(time) => arguments.push(format!("--{key}={time}").into()),
    }
}
