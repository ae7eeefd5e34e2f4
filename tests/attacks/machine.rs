//! Measures how much of the machine other programs use. If it is much, latencies measured by the
//! suite prove nothing.

use std::fs;

use crate::support::processes;

/// The program of the suite's own contracts in containers.
const CONTAINED: &str = "/contract-server";

/// Busy and total processor time since boot, in ticks.
#[derive(Debug, Clone, Copy)]
struct Ticks {
    busy: u64,
    all: u64,
}

/// The load of the machine since a point in time.
#[derive(Debug)]
pub(crate) struct Load {
    machine: Ticks,
    own: u64,
}

impl Load {
    /// Starts to measure.
    pub(crate) fn begin() -> Self {
        Self {
            machine: machine(),
            own: own(),
        }
    }

    /// The fraction of the machine that other programs used.
    pub(crate) fn foreign(&self) -> f64 {
        let now = machine();
        let busy = now.busy.saturating_sub(self.machine.busy);
        let others = busy.saturating_sub(own().saturating_sub(self.own));
        let all = now.all.saturating_sub(self.machine.all).max(1);
        #[expect(clippy::cast_precision_loss, reason = "ticks of seconds")]
        let part = others as f64 / all as f64;
        part
    }
}

/// The processor time of this suite: this process and its descendants, which are the farms of every
/// shard, including their children that have ended. The contracts in containers count too; the
/// daemon has started them.
fn own() -> u64 {
    let this = std::process::id();
    let below = processes::descendants(this.cast_signed()).into_iter();
    let below = below.map(|seen| seen.pid.to_string());
    let stats = below
        .chain(contained())
        .chain([this.to_string()])
        .filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).ok());
    let ticks = stats.map(|stat| {
        let (_, fields) = stat.rsplit_once(')').unwrap_or_default();
        let four = fields.split_whitespace().skip(11).take(4);
        four.filter_map(|ticks| ticks.parse::<u64>().ok())
            .sum::<u64>()
    });
    ticks.sum()
}

fn contained() -> Vec<String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let is_one = |pid: &String| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        command.starts_with(CONTAINED.as_bytes())
    };
    pids.filter(is_one).collect()
}

fn machine() -> Ticks {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let fields: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .map_while(|field| field.parse().ok())
        .take(8)
        .collect();
    let all: u64 = fields.iter().sum();
    // The fourth and fifth are idle time.
    let idle: u64 = fields.iter().skip(3).take(2).sum();
    Ticks {
        busy: all - idle,
        all,
    }
}
