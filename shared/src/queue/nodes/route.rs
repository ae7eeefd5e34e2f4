//! Where the commands of the queue go in a cluster: the key of each, and the redirections that
//! nodes answer with.

use redis::cluster_routing::Slot;
use redis::{Arg, Cmd, RedisError, ServerError, Value};

use super::address::Endpoint;

/// The key by which a command is routed. None if any node can run it.
///
/// Knows the commands that the queue uses. All keys of a command are in one slot.
pub(super) fn key_of(command: &Cmd) -> Option<&[u8]> {
    let mut words = command.args_iter().filter_map(|argument| match argument {
        Arg::Simple(word) => Some(word),
        _ => None,
    });
    match words.next()? {
        b"PING" | b"TIME" | b"INFO" | b"CONFIG" | b"SCRIPT" | b"SCAN" | b"CLUSTER" => None,
        b"XREAD" | b"XREADGROUP" => {
            words.find(|word| *word == b"STREAMS")?;
            words.next()
        }
        // The subcommand, or the hash of the script and the number of keys, come first.
        b"XGROUP" | b"XINFO" | b"PUBSUB" => words.nth(1),
        b"EVALSHA" | b"EVAL" => words.nth(2),
        _ => words.next(),
    }
}

/// The slot of a command, if it has a key.
pub(super) fn slot_of(command: &Cmd) -> Option<Slot> {
    key_of(command).map(Slot::for_key)
}

/// How a node refuses a command that it does not serve. None of these was carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Redirect {
    /// The slot is served by another node from now on.
    Moved(Slot, Endpoint),
    /// This key has already gone to the node that the slot is moving to.
    Ask(Endpoint),
    /// Some keys of the command have gone there, others have not.
    TryAgain,
}

impl Redirect {
    /// The redirection in an answer, if it is one. `from` is the node that answered.
    pub(super) fn of(answer: &Value, from: &Endpoint) -> Option<Self> {
        match answer {
            Value::ServerError(error) => Self::of_error(error, from),
            _ => None,
        }
    }

    /// The redirection of a transaction. Redis refuses all of it because of one command.
    pub(super) fn of_transaction(error: &RedisError, from: &Endpoint) -> Option<Self> {
        let errors = error.clone().into_server_errors()?;
        errors
            .iter()
            .find_map(|(_, error)| Self::of_error(error, from))
    }

    fn of_error(error: &ServerError, from: &Endpoint) -> Option<Self> {
        if error.code() == "TRYAGAIN" {
            return Some(Self::TryAgain);
        }
        let (slot, to) = error.details()?.split_once(' ')?;
        let to = Endpoint::parse(to, from)?;
        match error.code() {
            "MOVED" => Some(Self::Moved(Slot::new(slot.parse().ok()?)?, to)),
            "ASK" => Some(Self::Ask(to)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use redis::Script;

    use super::*;

    fn key(words: &[&str]) -> Option<String> {
        let command = redis::cmd(words[0]).arg(&words[1..]).to_owned();
        key_of(&command).map(|key| String::from_utf8_lossy(key).into_owned())
    }

    #[test]
    fn the_key_of_each_kind_of_command_is_found() {
        for words in [
            &["GET", "k"][..],
            &["XADD", "k", "NOMKSTREAM", "*", "b", "x"],
            &["XGROUP", "CREATE", "k", "g", "0", "MKSTREAM"],
            &["XINFO", "STREAM", "k"],
            &["XPENDING", "k", "g", "-", "+", "1"],
            &["XREAD", "COUNT", "1", "BLOCK", "1", "STREAMS", "k", "0-0"],
            &["XREADGROUP", "GROUP", "g", "c", "STREAMS", "k", ">"],
            &["PUBSUB", "SHARDNUMSUB", "k", "l"],
            &["EVALSHA", "0123", "2", "k", "l", "argument"],
        ] {
            assert_eq!(key(words).as_deref(), Some("k"), "{words:?}");
        }
        for words in [&["PING"][..], &["INFO", "memory"], &["SCRIPT", "LOAD", "x"]] {
            assert_eq!(key(words), None);
        }
        drop(Script::new("return 1"));
    }

    #[test]
    fn redirections_are_recognised() {
        let answer = |text: &str| redis::parse_redis_value(text.as_bytes()).unwrap();
        let from = Endpoint::new("10.0.0.1", 7000);
        let redirect = |text: &str| Redirect::of(&answer(text), &from);
        assert_eq!(
            redirect("-MOVED 3999 10.0.0.2:6381\r\n"),
            Some(Redirect::Moved(
                Slot::new(3999).unwrap(),
                Endpoint::new("10.0.0.2", 6381)
            ))
        );
        assert_eq!(
            redirect("-ASK 3999 ::1:6381\r\n"),
            Some(Redirect::Ask(Endpoint::new("::1", 6381)))
        );
        assert_eq!(
            redirect("-ASK 3999 :6381\r\n"),
            Some(Redirect::Ask(Endpoint::new("10.0.0.1", 6381))),
            "the same host"
        );
        assert_eq!(redirect("-TRYAGAIN later\r\n"), Some(Redirect::TryAgain));
        assert_eq!(redirect("-CLUSTERDOWN the cluster is down\r\n"), None);
        assert_eq!(redirect("+OK\r\n"), None);
    }
}
