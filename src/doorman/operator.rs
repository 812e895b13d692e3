//! What the operator may ask of the list of bans.

use std::net::IpAddr;
use std::sync::atomic::Ordering;

use super::bans::Who;
use super::{Doorman, report_ended};
use crate::clock::Moment;
use crate::metrics::Metrics;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Who is banned.
    List,
    /// An address or a Client Identifier is banned no longer.
    Lift(String),
}

impl Doorman {
    /// Does what is asked; a line for each ban, or why not.
    pub fn carry_out(
        &self,
        request: &Request,
        now: Moment,
        metrics: &Metrics,
    ) -> Result<String, String> {
        match request {
            Request::List => Ok(self.list(now)),
            Request::Lift(name) => self.lift(name, now, metrics),
        }
    }

    fn list(&self, now: Moment) -> String {
        let tables = self.tables.lock();
        let bans = tables.bans.iter().filter(|ban| now < ban.until);
        bans.map(|ban| {
            let left_s = ban.until.since(now).div_ceil(1000);
            format!("{}: {left_s} s left, {} refused\n", ban.name, ban.refused)
        })
        .collect()
    }

    fn lift(&self, name: &str, now: Moment, metrics: &Metrics) -> Result<String, String> {
        let address: Option<IpAddr> = name.strip_suffix("/64").unwrap_or(name).parse().ok();
        let address = address.map(|address| Who::Address(address.into()));
        let ended = {
            let mut tables = self.tables.lock();
            let mut lift = |who| tables.bans.remove(who);
            let ended = address.and_then(&mut lift);
            let ended = ended.or_else(|| lift(Who::Client(self.hash(name))));
            self.banned.store(tables.bans.len(), Ordering::Relaxed);
            ended
                .ok_or_else(|| format!("{name:?} is not banned; `whimbrel ban list` says who is"))?
        };
        report_ended(&[ended], "the operator wants it", now, metrics);
        Ok(String::new())
    }
}
