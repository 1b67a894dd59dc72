//! `--config FILE.toml`: arguments kept in a file. A top-level key is an argument of any command that has it; a key in a table named as
//! the command is that command's. Arguments on the command line come later, and so win.

use std::ffi::OsString;
use std::path::Path;

use clap::CommandFactory;
use toml::{Table, Value};
use wherefore::Error;

/// The command line with the file's arguments put in right after the command's name.
pub(crate) fn expand(arguments: Vec<OsString>) -> anyhow::Result<Vec<OsString>> {
    let Some(path) = config_path(&arguments) else { return Ok(arguments) };
    let path = Path::new(&path);
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    let table: Table = text.parse().map_err(|e: toml::de::Error| Error::format(path, e.message()))?;
    let root = super::Cli::command();
    let Some((at, command)) = arguments
        .iter()
        .enumerate()
        .skip(1)
        .find_map(|(i, a)| root.find_subcommand(a.to_str()?).map(|command| (i, command)))
    else {
        return Ok(arguments);
    };
    let own = table.get(command.get_name()).and_then(Value::as_table);
    let known = |key: &str| {
        let is = |a: &clap::Arg| a.get_long() == Some(key);
        command.get_arguments().any(is) || root.get_arguments().any(is)
    };
    let mut expanded = arguments[..=at].to_vec();
    for (key, value) in table.iter().filter(|(_, v)| !v.is_table()) {
        if known(key) {
            push(&mut expanded, key, value);
        } else if !root.get_subcommands().any(|c| c.get_arguments().any(|a| a.get_long() == Some(key))) {
            return Err(unknown(path, key).into());
        }
    }
    for (key, value) in own.into_iter().flatten() {
        if !known(key) {
            return Err(unknown(path, key).into());
        }
        push(&mut expanded, key, value);
    }
    expanded.extend_from_slice(&arguments[at + 1..]);
    Ok(expanded)
}

fn unknown(path: &Path, key: &str) -> Error {
    Error::format(path, format!("unknown key {key:?}"))
        .with_hint("keys are the long names of arguments, without the dashes")
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
