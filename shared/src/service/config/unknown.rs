//! Variables that look like settings of the farm and are none: most likely a typing error.

use super::Program;

/// Prefixes that the farm shares with other software, which has more variables than it reads.
const FOREIGN: [&str; 3] = ["DOCKER_", "OTEL_", "RUST_"];

/// A variable that no program of the farm reads.
#[derive(Debug, PartialEq, Eq)]
pub struct Unknown {
    /// Its name.
    pub name: String,
    /// The known name that is most like it.
    pub nearest: &'static str,
}

/// Finds the names that begin with the first word of a setting, but are known to no program of the
/// farm.
pub fn unknown(program: &Program, names: impl IntoIterator<Item = String>) -> Vec<Unknown> {
    let known: Vec<_> = known(program).collect();
    let is_known = |name: &str| {
        let matches = |known: &&str| match known.strip_suffix('_') {
            Some(_) => name.starts_with(*known),
            None => name == *known,
        };
        known.iter().any(matches)
    };
    let is_ours = |name: &str| {
        let prefix = first_word(name);
        !FOREIGN.contains(&prefix) && known.iter().any(|known| first_word(known) == prefix)
    };
    let mut found: Vec<_> = names
        .into_iter()
        .filter(|name| is_ours(name) && !is_known(name))
        .filter_map(|name| {
            let likeness = |known: &&str| strsim::jaro_winkler(known, &name);
            let nearest = known
                .iter()
                .copied()
                .max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
            Some(Unknown { name, nearest })
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn known(program: &Program) -> impl Iterator<Item = &'static str> {
    let others = program.others.iter().copied();
    program.settings().map(|setting| setting.name).chain(others)
}

/// A name up to its first underscore, which is included.
fn first_word(name: &str) -> &str {
    name.split_inclusive('_').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::{Group, Setting};
    use super::*;

    const PROGRAM: Program = Program {
        name: "program",
        about: "",
        version: "",
        commit: "",
        groups: &[Group {
            title: "",
            settings: &[
                Setting::new("WORKER_CAPACITY", "64", ""),
                Setting::new("EXECUTE_TIMEOUT_MS", "2000", ""),
            ],
        }],
        others: &["EXECUTE_DEADLINE_MS", "EXECUTION_API_"],
    };

    #[test]
    fn a_misspelt_setting_is_found_with_the_nearest_known_one() {
        let names = [
            "WORKER_CAPACTY",
            "EXECUTE_TIMEOUT",
            "WORKER_CAPACITY",
            "EXECUTE_DEADLINE_MS",
            "EXECUTION_API_PORT",
            "PATH",
            "EXECUTIONER",
        ];
        let found = unknown(&PROGRAM, names.map(str::to_owned));
        let found: Vec<_> = found.iter().map(|u| (u.name.as_str(), u.nearest)).collect();
        assert_eq!(
            found,
            [
                ("EXECUTE_TIMEOUT", "EXECUTE_TIMEOUT_MS"),
                ("WORKER_CAPACTY", "WORKER_CAPACITY"),
            ]
        );
    }
}
