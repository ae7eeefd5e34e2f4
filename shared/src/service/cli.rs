//! The command line of a program: `--help`, `--version`, and the health check.
//!
//! Everything else is set by environment variables, which `--help` lists.

use std::fmt::Write as _;

use clap::{ArgMatches, Command};

use super::config::{Program, Setting, Value};

/// The subcommand that asks the process beside this one whether it is ready.
const HEALTHCHECK: &str = "healthcheck";

/// The width of a line of `--help`.
const WIDTH: usize = 100;

/// What a program is started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// To serve until it is stopped.
    Serve,
    /// To report whether the process that serves is ready.
    Healthcheck,
}

/// Reads the arguments of this process. `--help`, `--version` and arguments that it does not know
/// end the process.
pub fn task(program: &Program) -> Task {
    task_of(&command(program).get_matches())
}

/// The same for a program with subcommands of its own: its arguments, for [`task_of`] and the rest.
pub fn arguments(program: &Program, more: impl IntoIterator<Item = Command>) -> ArgMatches {
    command(program).subcommands(more).get_matches()
}

/// What a program was started for, unless it is one of its own subcommands.
pub fn task_of(arguments: &ArgMatches) -> Task {
    match arguments.subcommand_name() {
        Some(HEALTHCHECK) => Task::Healthcheck,
        _ => Task::Serve,
    }
}

fn command(program: &Program) -> Command {
    let healthcheck = Command::new(HEALTHCHECK)
        .about("Ask the process with the same settings whether it is ready; exit with 0 if it is");
    Command::new(program.name)
        .about(program.about)
        .version(format!("{} ({})", program.version, program.commit))
        .after_help(settings(program))
        .subcommand(healthcheck)
        .disable_help_subcommand(true)
}

/// All settings with default and meaning, by group.
fn settings(program: &Program) -> String {
    let mut text = "Environment variables:\n".to_owned();
    for group in program.groups {
        _ = write!(text, "\n{}:\n", group.title);
        for setting in group.settings {
            describe(setting, &mut text);
        }
    }
    text
}

fn describe(setting: &Setting, text: &mut String) {
    let default = match setting.default {
        Value::Text(default) | Value::Described(default) => default,
    };
    _ = writeln!(text, "  {} [default: {default}]", setting.name);
    let mut line = String::new();
    for word in setting.meaning.split(' ') {
        if line.len() + word.len() + INDENT.len() >= WIDTH {
            _ = writeln!(text, "{INDENT}{}", line.trim_end());
            line.clear();
        }
        line.push_str(word);
        line.push(' ');
    }
    _ = writeln!(text, "{INDENT}{}", line.trim_end());
}

/// Stands before what a setting means.
const INDENT: &str = "          ";

#[cfg(test)]
mod tests {
    use super::super::config::Group;
    use super::*;

    const PROGRAM: Program = Program {
        name: "program",
        about: "Does something",
        version: "1.2.3",
        commit: "abc",
        groups: &[Group {
            title: "Limits",
            settings: &[Setting::new(
                "LIMIT_MS",
                "5",
                "How long it may take, in milliseconds.",
            )],
        }],
        others: &[],
    };

    #[test]
    fn help_lists_every_setting_with_default_and_meaning() {
        let help = command(&PROGRAM).render_help().to_string();
        for text in [
            "Limits:\n",
            "LIMIT_MS [default: 5]\n",
            "How long it may take",
            "healthcheck",
        ] {
            assert!(help.contains(text), "{help}");
        }
        assert!(help.lines().all(|line| line.len() <= WIDTH), "{help}");
    }

    #[test]
    fn the_version_names_the_commit() {
        assert_eq!(command(&PROGRAM).render_version(), "program 1.2.3 (abc)\n");
    }

    #[test]
    fn a_program_serves_unless_it_is_asked_for_its_health() {
        let task = |arguments: &[&str]| {
            command(&PROGRAM)
                .try_get_matches_from(arguments)
                .map(|arguments| task_of(&arguments))
        };
        assert_eq!(task(&["program"]).unwrap(), Task::Serve);
        assert_eq!(
            task(&["program", "healthcheck"]).unwrap(),
            Task::Healthcheck
        );
        assert!(task(&["program", "other"]).is_err());
    }
}
