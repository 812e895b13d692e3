//! Has the broker report on itself, every now and then.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::broker::Broker;
use crate::broker::sys::{Resident, Sys};

/// Reports for ever, the first time at once.
pub(super) async fn report(broker: Arc<Broker>, interval: Duration) {
    let mut sys = Sys::new(broker.now());
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        broker.publish_sys(&mut sys, resident());
    }
}

/// What the system says of the process's memory; nothing where it does not.
fn resident() -> Resident {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bytes = |name: &str| {
        let kib = status.lines().find_map(|line| line.strip_prefix(name)?.strip_suffix("kB"));
        kib.and_then(|kib| kib.trim().parse::<u64>().ok()).unwrap_or(0).saturating_mul(1024)
    };
    Resident { current: bytes("VmRSS:"), maximum: bytes("VmHWM:") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_knows_how_large_the_process_is() {
        let Resident { current, maximum } = resident();
        assert!(current > 0 && maximum >= current, "{current} {maximum}");
    }
}
