//! What Clients may do: publish to a topic, subscribe to a filter, receive what is published.
//!
//! An [`Acl`] is rules from two sources: mosquitto's `acl_file` ([`file`]) and the roles of the
//! configuration ([`roles`]); between them stand the rules that a Client's own proof of identity
//! gives it. The first rule that matches decides; where there are rules and none matches, it is
//! denied. [`Acl::decide`] is a function of its arguments: who asks, for what. [`guard`] keeps its
//! answers for a connection.

pub mod file;
pub mod guard;
pub mod pattern;
pub mod roles;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::codec::QoS;
use file::AclFile;
use roles::{Roles, Rule};

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// The name that it has proven.
    pub username: Option<Arc<str>>,
    /// Its Client Identifier.
    pub client_id: Arc<str>,
    /// What its proof gives it, beside what its name does.
    pub claims: Option<Arc<Claims>>,
}

impl Subject {
    /// The rules that its proof gives it; `None`: its proof says nothing of rules.
    fn own_rules(&self) -> Option<&[Rule]> {
        self.claims.as_ref()?.rules.as_deref()
    }

    /// Memory of its names and of what its proof gives it, in bytes.
    pub fn weight(&self) -> usize {
        let name = self.username.as_ref().map_or(0, |name| name.len());
        let claims = self.claims.as_ref().map_or(0, |claims| claims.weight());
        self.client_id.len() + name + claims
    }

    /// Whether its proof says what it may do.
    pub fn is_ruled(&self) -> bool {
        self.own_rules().is_some()
    }
}

/// What stands in a proof of identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// Names of roles.
    pub roles: Vec<String>,
    /// Names of groups.
    pub groups: Vec<String>,
    /// Rules for this Client alone; where they are given, what no rule allows is denied.
    pub rules: Option<Vec<Rule>>,
    /// Whether the Client may do everything.
    pub is_superuser: bool,
}

impl Claims {
    fn weight(&self) -> usize {
        let names = self.roles.iter().chain(&self.groups);
        let names = names.map(|name| size_of::<String>() + name.len());
        let rules = self.rules.iter().flatten().map(|rule| {
            size_of::<Rule>() + rule.topic.as_ref().map_or(0, |topic| topic.as_str().len())
        });
        names.chain(rules).sum()
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// To publish to a Topic Name.
    Publish,
    /// To subscribe to a Topic Filter.
    Subscribe,
    /// To be sent what is published to a Topic Name.
    Receive,
}

/// A question about a message or a subscription.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// What for.
    pub action: Action,
    /// The Topic Name, or the Topic Filter as a member of a share group is served by it.
    pub topic: &'a str,
    /// The quality of service of the message or the subscription.
    pub qos: QoS,
    /// Whether RETAIN is set.
    pub retain: bool,
}

/// Where a rule stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub path: Arc<Path>,
    /// The line, from 1.
    pub line: usize,
    /// The rule as it is to be shown.
    pub rule: Box<str>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path.display(), self.line, self.rule)
    }
}

/// What a decision rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground<'a> {
    /// A rule that matched.
    Rule(&'a Place),
    /// Something that holds for every `acl_file`.
    File(&'a Path, &'static str),
    /// A rule that its proof of identity gives it.
    Proof,
    /// It may do everything.
    Superuser,
    /// No rule matched.
    NoRule,
    /// There are no rules.
    Unrestricted,
}

/// Yes or no, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision<'a> {
    /// Yes.
    pub allowed: bool,
    /// Why.
    pub ground: Ground<'a>,
}

impl fmt::Display for Decision<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.allowed { "allowed: " } else { "denied: " })?;
        match self.ground {
            Ground::Rule(place) => place.fmt(f),
            Ground::File(path, what) => write!(f, "{}: {what}", path.display()),
            Ground::Proof => f.write_str("a rule that its proof of identity gives it"),
            Ground::Superuser => f.write_str("it may do everything"),
            Ground::NoRule => f.write_str("no rule matches"),
            Ground::Unrestricted => f.write_str("no acl_file and no [[role]] is configured"),
        }
    }
}

/// All rules that hold for the Clients of a listener.
#[derive(Debug, Default)]
pub struct Acl {
    file: Option<Arc<AclFile>>,
    roles: Arc<Roles>,
}

impl Acl {
    /// Rules from both sources.
    pub fn new(file: Option<Arc<AclFile>>, roles: Arc<Roles>) -> Self {
        Self { file, roles }
    }

    /// Whether nothing is configured, so that everything is allowed.
    pub fn is_unrestricted(&self) -> bool {
        self.file.is_none() && self.roles.is_empty()
    }

    /// Whether a Client may do what it asks for, and which rule says so.
    pub fn decide(&self, subject: &Subject, asked: &Asked<'_>) -> Decision<'_> {
        if subject.claims.as_ref().is_some_and(|claims| claims.is_superuser) {
            return Decision { allowed: true, ground: Ground::Superuser };
        }
        let own = subject.own_rules();
        if self.is_unrestricted() && own.is_none() {
            return Decision { allowed: true, ground: Ground::Unrestricted };
        }
        let by_file = self.file.as_ref().and_then(|file| file.decide(subject, asked));
        // All that the file says of subscriptions is that it does not judge them.
        let is_settled =
            |decision: &Decision<'_>| asked.action != Action::Subscribe || !decision.allowed;
        if let Some(decision) = by_file.filter(is_settled) {
            return decision;
        }
        if let Some(rule) = own.into_iter().flatten().find(|rule| rule.matches(subject, asked)) {
            return Decision { allowed: rule.allows, ground: Ground::Proof };
        }
        let by_roles = self.roles.decide(subject, asked);
        let otherwise = match by_file {
            Some(decision) if self.roles.is_empty() && own.is_none() => decision,
            _ => Decision { allowed: false, ground: Ground::NoRule },
        };
        by_roles.unwrap_or(otherwise)
    }

    /// How many rules may have to be asked about a subscription, which an `acl_file` does not
    /// judge.
    pub fn rules_of_subscriptions(&self, subject: &Subject) -> usize {
        self.roles.len() + subject.own_rules().map_or(0, <[Rule]>::len)
    }

    /// The answer for every quality of service and either RETAIN.
    pub fn permits(&self, subject: &Subject, action: Action, topic: &str) -> Permits {
        // The others have no conditions.
        if !self.roles.are_conditional() {
            let asked = Asked { action, topic, qos: QoS::AtMostOnce, retain: false };
            let allowed = self.decide(subject, &asked).allowed;
            return if allowed { Permits::ALL } else { Permits::NONE };
        }
        let mut permits = Permits::NONE;
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            for retain in [false, true] {
                let asked = Asked { action, topic, qos, retain };
                if self.decide(subject, &asked).allowed {
                    permits.0 |= Permits::bit(qos, retain);
                }
            }
        }
        permits
    }
}

/// The messages of one topic that are allowed: one bit for each quality of service and RETAIN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permits(u8);

impl Permits {
    /// All of them.
    pub const ALL: Self = Self(0b11_11_11);
    /// None.
    pub const NONE: Self = Self(0);

    fn bit(qos: QoS, retain: bool) -> u8 {
        1 << (qos as u8 * 2 + u8::from(retain))
    }

    /// Whether such a message is.
    pub fn allow(self, qos: QoS, retain: bool) -> bool {
        self.0 & Self::bit(qos, retain) != 0
    }
}

/// The Topic Filter that is asked for: of a Shared Subscription the filter inside, of anything
/// else the whole.
pub fn filter_to_ask(whole: &str) -> &str {
    let inside = whole.strip_prefix("$share/").and_then(|shared| shared.split_once('/'));
    inside.map_or(whole, |(_, filter)| filter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use roles::{Actions, Role, Rule};

    fn acl(file: Option<&str>, roles: Vec<Role>) -> Acl {
        let path = Path::new("acl");
        let file = file.map(|text| Arc::new(AclFile::parse(text, path).unwrap()));
        Acl::new(file, Arc::new(Roles::new(roles, &[])))
    }

    fn role(rule: Rule) -> Vec<Role> {
        vec![Role { name: "r".into(), everybody: true, rules: vec![rule], ..Role::default() }]
    }

    fn allowed(acl: &Acl, action: Action, topic: &str) -> bool {
        let asked = Asked { action, topic, qos: QoS::AtMostOnce, retain: false };
        acl.decide(&Subject::default(), &asked).allowed
    }

    #[test]
    fn without_rules_all_is_allowed_and_with_any_what_none_matches_is_denied() {
        assert!(allowed(&acl(None, vec![]), Action::Publish, "a"));
        assert!(!allowed(&acl(Some(""), vec![]), Action::Publish, "a"));
        let nothing = role(Rule::new(true, Actions::PUBLISH, "b"));
        assert!(!allowed(&acl(None, nothing), Action::Publish, "a"));
    }

    #[test]
    fn the_file_goes_before_the_roles_except_about_subscriptions() {
        let all = Actions::PUBLISH | Actions::SUBSCRIBE | Actions::RECEIVE;
        let both = acl(Some("topic deny a/b\ntopic read c"), role(Rule::new(true, all, "a/#")));
        assert!(!allowed(&both, Action::Publish, "a/b"));
        assert!(allowed(&both, Action::Publish, "a/c") && allowed(&both, Action::Receive, "c"));
        assert!(allowed(&both, Action::Subscribe, "a/b"));
        assert!(!allowed(&both, Action::Subscribe, "c"));
        let file = acl(Some("topic read c"), vec![]);
        assert!(allowed(&file, Action::Subscribe, "anything/#"));
    }

    #[test]
    fn the_rules_of_a_proof_stand_between_the_file_and_the_roles() {
        let may = |acl: &Acl, claims: &Claims, action, topic: &str| {
            let claims = Some(Arc::new(claims.clone()));
            let subject = Subject { claims, ..Subject::default() };
            let asked = Asked { action, topic, qos: QoS::AtMostOnce, retain: false };
            acl.decide(&subject, &asked).allowed
        };
        let both = Actions::SUBSCRIBE | Actions::RECEIVE;
        let own = Claims { rules: Some(vec![Rule::new(true, both, "a/#")]), ..Claims::default() };
        let none = Claims { rules: Some(vec![]), ..Claims::default() };
        let open = acl(None, vec![]);
        assert!(may(&open, &own, Action::Subscribe, "a/b"));
        assert!(!may(&open, &own, Action::Subscribe, "#"));
        assert!(!may(&open, &own, Action::Publish, "a/b"));
        assert!(!may(&open, &none, Action::Receive, "a/b"));
        assert!(may(&open, &Claims::default(), Action::Publish, "a/b"));
        let file = acl(Some("topic deny a/b"), role(Rule::new(false, both, "a/#")));
        assert!(!may(&file, &own, Action::Receive, "a/b"));
        assert!(may(&file, &own, Action::Receive, "a/c"));
        // A file that judges no subscriptions does not let in what the proof leaves out.
        let file = acl(Some("topic read #"), vec![]);
        assert!(!may(&file, &own, Action::Subscribe, "b"));
        let all = Claims { is_superuser: true, ..Claims::default() };
        assert!(may(&acl(Some("topic deny #"), vec![]), &all, Action::Publish, "a"));
    }

    #[test]
    fn permits_tell_every_kind_of_message() {
        let rule = Rule {
            qos_max: QoS::AtLeastOnce,
            retain: Some(false),
            ..Rule::new(true, Actions::PUBLISH, "a")
        };
        let acl = acl(None, role(rule));
        let permits = acl.permits(&Subject::default(), Action::Publish, "a");
        assert!(permits.allow(QoS::AtMostOnce, false) && permits.allow(QoS::AtLeastOnce, false));
        assert!(!permits.allow(QoS::ExactlyOnce, false) && !permits.allow(QoS::AtMostOnce, true));
        assert_eq!(acl.permits(&Subject::default(), Action::Receive, "a"), Permits::NONE);
        let without = self::acl(None, role(Rule::new(true, Actions::PUBLISH, "a")));
        assert_eq!(without.permits(&Subject::default(), Action::Publish, "a"), Permits::ALL);
        assert_eq!(without.permits(&Subject::default(), Action::Publish, "b"), Permits::NONE);
        assert_eq!(without.rules_of_subscriptions(&Subject::default()), 1);
    }

    #[test]
    fn of_a_shared_subscription_the_filter_inside_is_asked_for() {
        for (whole, asked) in
            [("$share/g/a/#", "a/#"), ("a", "a"), ("$queue/q", "$queue/q"), ("$share", "$share")]
        {
            assert_eq!(filter_to_ask(whole), asked);
        }
    }
}
