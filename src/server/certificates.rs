//! Certificates are read again when their files change, and their end is told in time. SIGHUP has
//! the listeners read them, and what they have then is watched from there on.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;

use crate::broker::Broker;
use crate::clock::Moment;
use crate::net::listener::Bind;
use crate::net::tls::Tls;

/// Days before its end from which a certificate is warned of.
const WARNED_DAYS: i64 = 30;

const DAY_S: i64 = 86_400;

/// Time between two looks at how long certificates last, in seconds.
const LOOK_S: u64 = 3_600;

/// What is in use, by where it is.
#[derive(Debug, Default)]
pub(super) struct Watched {
    listeners: Mutex<Vec<(Bind, Arc<Tls>)>>,
    bell: Notify,
}

impl Watched {
    /// This is in use from now on.
    pub fn set(&self, listeners: Vec<(Bind, Arc<Tls>)>) {
        *self.listeners.lock() = listeners;
        self.bell.notify_one();
    }

    fn all(&self) -> Vec<(Bind, Arc<Tls>)> {
        self.listeners.lock().clone()
    }
}

/// Keeps the certificates of all listeners, for ever.
pub(super) async fn keep(broker: Arc<Broker>, watched: Arc<Watched>, interval: Duration) {
    let mut looks = tokio::time::interval(if interval.is_zero() { FOR_EVER } else { interval });
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut hours = tokio::time::interval(Duration::from_secs(LOOK_S));
    let mut told = Moment::default();
    loop {
        tokio::select! {
            _ = hours.tick() => tell_ends(&broker, &watched.all(), &mut told),
            () = watched.bell.notified() => {
                // Also of the new ones, once.
                told = Moment::default();
                tell_ends(&broker, &watched.all(), &mut told);
            }
            _ = looks.tick() => {
                let (listeners, mut any) = (watched.all(), false);
                for (bind, tls) in &listeners {
                    any |= tls.has_changed() && reload(bind, tls);
                }
                if any {
                    told = Moment::default();
                    tell_ends(&broker, &listeners, &mut told);
                }
            }
        }
    }
}

/// As long as nobody waits for.
const FOR_EVER: Duration = Duration::from_secs(365 * 86_400);

/// Whether they could be read.
fn reload(bind: &Bind, tls: &Tls) -> bool {
    match tls.reload() {
        Ok(()) => tracing::info!("the certificates for {bind} have been read again"),
        Err(ref error) => {
            tracing::error!("the certificates for {bind} stay as they are: {error}");
            return false;
        }
    }
    true
}

/// Says how long certificates last: all of them at first, and every day those that end soon.
fn tell_ends(broker: &Broker, listeners: &[(Bind, Arc<Tls>)], told: &mut Moment) {
    let now = broker.now();
    let now_s = i64::try_from(now.unix_ms() / 1000).unwrap_or(i64::MAX);
    let is_first = *told == Moment::default();
    let is_due = now.since(*told) >= DAY_S as u64 * 1000;
    let mut least = None;
    for (bind, tls) in listeners {
        for (file, expires_at) in tls.expiries() {
            let left = expires_at.saturating_sub(now_s).div_euclid(DAY_S);
            least = Some(least.map_or(left, |least: i64| least.min(left)));
            let file = file.display();
            if left < 0 && is_due {
                tracing::error!("the certificate {file} for {bind} has expired: renew it");
            } else if left < WARNED_DAYS && is_due {
                tracing::warn!(
                    "the certificate {file} for {bind} expires in {left} days: renew it"
                );
            } else if is_first {
                tracing::info!("the certificate {file} for {bind} expires in {left} days");
            }
        }
    }
    if let Some(least) = least {
        broker.metrics.certificate_days_left.set(u64::try_from(least).unwrap_or(0));
    }
    if is_due {
        *told = now;
    }
}
