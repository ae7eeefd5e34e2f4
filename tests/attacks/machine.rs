//! The machine beside the farm: whether others keep it busy, so that a time says nothing.

use std::fs;

use crate::support::processes::Seen;

/// Busy and all processor time since boot, in ticks.
#[derive(Debug, Clone, Copy)]
struct Ticks {
    busy: u64,
    all: u64,
}

/// A span in which the machine is looked at.
#[derive(Debug)]
pub(crate) struct Load {
    machine: Ticks,
    own: u64,
}

impl Load {
    /// Begins to look, at the machine and at the processes of a farm.
    pub(crate) fn begin(farm: &[Seen]) -> Self {
        Self {
            machine: machine(),
            own: own(farm),
        }
    }

    /// The part of the machine that was used by others than that farm and this process.
    pub(crate) fn foreign(&self, farm: &[Seen]) -> f64 {
        let now = machine();
        let busy = now.busy.saturating_sub(self.machine.busy);
        let others = busy.saturating_sub(own(farm).saturating_sub(self.own));
        let all = now.all.saturating_sub(self.machine.all).max(1);
        #[expect(clippy::cast_precision_loss, reason = "ticks of seconds")]
        let part = others as f64 / all as f64;
        part
    }
}

/// What the processes have computed, with those of their children that have ended.
fn own(farm: &[Seen]) -> u64 {
    let this = std::process::id().to_string();
    let farm = farm.iter().map(|seen| seen.pid.to_string());
    let stats = farm
        .chain([this])
        .filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).ok());
    let ticks = stats.map(|stat| {
        let (_, fields) = stat.rsplit_once(')').unwrap_or_default();
        let four = fields.split_whitespace().skip(11).take(4);
        four.filter_map(|ticks| ticks.parse::<u64>().ok())
            .sum::<u64>()
    });
    ticks.sum()
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
