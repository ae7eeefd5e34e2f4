//! Which node of a cluster serves which slot, as `CLUSTER SLOTS` reports it.

use redis::Value;
use redis::cluster_routing::Slot;

use super::address::Endpoint;

/// Slots that follow each other and are served by one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Range {
    first: u16,
    last: u16,
    /// The node that may write.
    pub(super) primary: Endpoint,
}

impl Range {
    /// Its slots.
    pub(super) fn slots(&self) -> impl Iterator<Item = Slot> + use<> {
        (self.first..=self.last).filter_map(Slot::new)
    }
}

/// What one node knows of its cluster. A node that was cut off, or has just been started, may know
/// less than others.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) ranges: Vec<Range>,
    /// Whether it serves its slots, as far as it knows.
    is_up: bool,
    /// Grows with every failover.
    epoch: u64,
}

impl View {
    /// Parses the answers to `CLUSTER INFO` and `CLUSTER SLOTS` of the node `from`.
    pub(super) fn parse(info: &str, slots: &Value, from: &Endpoint) -> Self {
        let field = |name| {
            let mut lines = info.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        };
        let epoch = field("cluster_current_epoch").and_then(|text| text.trim().parse().ok());
        Self {
            ranges: parse(slots, from),
            is_up: is_up(info),
            epoch: epoch.unwrap_or_default(),
        }
    }

    /// The view with the higher rank is the one to follow.
    pub(super) fn rank(&self) -> (bool, u64) {
        (self.is_up, self.epoch)
    }
}

/// Whether a node serves its slots, by its answer to `CLUSTER INFO`.
pub(super) fn is_up(info: &str) -> bool {
    info.lines().any(|line| line.trim() == "cluster_state:ok")
}

/// Parses the answer to `CLUSTER SLOTS` of the node `from`. Ranges whose node is not known to it
/// are left out.
fn parse(answer: &Value, from: &Endpoint) -> Vec<Range> {
    let Value::Array(ranges) = answer else {
        return Vec::new();
    };
    ranges
        .iter()
        .filter_map(|range| parse_range(range, from))
        .collect()
}

fn parse_range(range: &Value, from: &Endpoint) -> Option<Range> {
    let Value::Array(parts) = range else {
        return None;
    };
    let [first, last, Value::Array(primary), ..] = parts.as_slice() else {
        return None;
    };
    let number = |value: &Value| match value {
        Value::Int(number) => u16::try_from(*number).ok(),
        _ => None,
    };
    let host = match primary.first()? {
        Value::BulkString(host) => String::from_utf8_lossy(host).into_owned(),
        Value::Nil => String::new(),
        _ => return None,
    };
    if host == "?" {
        return None;
    }
    let host = if host.is_empty() { from.host() } else { &host };
    Some(Range {
        first: number(first)?,
        last: number(last)?,
        primary: Endpoint::new(host, number(primary.get(1)?)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_without_a_known_node_are_left_out() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let range = |first, last, host| {
            let node = Value::Array(vec![host, Value::Int(7000), text("id")]);
            Value::Array(vec![Value::Int(first), Value::Int(last), node])
        };
        let answer = Value::Array(vec![
            range(0, 1, text("10.0.0.2")),
            range(2, 3, text("")),
            range(4, 5, Value::Nil),
            range(6, 7, text("?")),
        ]);
        let from = Endpoint::new("10.0.0.1", 6379);
        let parsed = parse(&answer, &from);
        let hosts: Vec<_> = parsed.iter().map(|range| range.primary.host()).collect();
        assert_eq!(hosts, ["10.0.0.2", "10.0.0.1", "10.0.0.1"]);
        assert_eq!(parsed[0].slots().count(), 2);
    }

    #[test]
    fn a_node_that_is_cut_off_knows_less() {
        let view = |state: &str, epoch: u64| {
            let info = format!("cluster_state:{state}\r\ncluster_current_epoch:{epoch}\r\n");
            View::parse(&info, &Value::Nil, &Endpoint::new("10.0.0.1", 6379))
        };
        assert!(view("ok", 7).rank() > view("ok", 6).rank());
        assert!(view("ok", 6).rank() > view("fail", 9).rank());
    }
}
