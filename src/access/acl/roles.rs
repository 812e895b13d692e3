//! Roles: named lists of rules, given to users, to groups of users, or to everybody.
//!
//! A Client is judged by the rules of all roles that it has, in the order in which they stand in
//! the configuration; the first that matches decides. A rule that allows a subscription matches
//! a Topic Filter when it covers all of it; one that denies it matches when they have a topic in
//! common, so that a wildcard is no way round it.

use std::collections::{HashMap, HashSet};
use std::ops::BitOr;

use super::pattern::Pattern;
use super::{Action, Asked, Decision, Ground, Place, Subject};
use crate::codec::QoS;

/// What a rule speaks of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Actions(u8);

impl Actions {
    /// Of publishing.
    pub const PUBLISH: Self = Self(1);
    /// Of subscribing.
    pub const SUBSCRIBE: Self = Self(2);
    /// Of receiving.
    pub const RECEIVE: Self = Self(4);

    /// As words; others mean nothing.
    pub fn of_words(words: &[String]) -> Self {
        words.iter().fold(Self::default(), |actions, word| match word.as_str() {
            "publish" => actions | Self::PUBLISH,
            "subscribe" => actions | Self::SUBSCRIBE,
            "receive" => actions | Self::RECEIVE,
            _ => actions,
        })
    }

    fn include(self, action: Action) -> bool {
        let bit = match action {
            Action::Publish => Self::PUBLISH,
            Action::Subscribe => Self::SUBSCRIBE,
            Action::Receive => Self::RECEIVE,
        };
        self.0 & bit.0 != 0
    }
}

impl BitOr for Actions {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Whether it allows or denies.
    pub allows: bool,
    /// What.
    pub actions: Actions,
    /// For which topics.
    pub topic: Option<Pattern>,
    /// From this quality of service.
    pub qos_min: QoS,
    /// To this one.
    pub qos_max: QoS,
    /// Only messages with this RETAIN, and no subscriptions.
    pub retain: Option<bool>,
    /// Where it stands.
    pub place: Option<Place>,
}

impl Default for Rule {
    fn default() -> Self {
        Self {
            allows: false,
            actions: Actions::default(),
            topic: None,
            qos_min: QoS::AtMostOnce,
            qos_max: QoS::ExactlyOnce,
            retain: None,
            place: None,
        }
    }
}

impl Rule {
    /// A rule without conditions; for a topic that is none it matches nothing.
    pub fn new(allows: bool, actions: Actions, topic: &str) -> Self {
        Self { allows, actions, topic: Pattern::new(topic).ok(), ..Self::default() }
    }

    fn is_conditional(&self) -> bool {
        let is_of_all = self.qos_min == QoS::AtMostOnce && self.qos_max == QoS::ExactlyOnce;
        !is_of_all || self.retain.is_some()
    }

    pub(super) fn matches(&self, subject: &Subject, asked: &Asked<'_>) -> bool {
        let Some(topic) = &self.topic else { return false };
        if !self.actions.include(asked.action)
            || !(self.qos_min..=self.qos_max).contains(&asked.qos)
        {
            return false;
        }
        match (asked.action, self.retain, self.allows) {
            (Action::Subscribe, Some(_), _) => false,
            (Action::Subscribe, None, true) => topic.covers(asked.topic, subject),
            (Action::Subscribe, None, false) => topic.meets(asked.topic, subject),
            (_, retain, _) => {
                retain.is_none_or(|retain| retain == asked.retain)
                    && topic.matches(asked.topic, subject)
            }
        }
    }
}

/// A list of rules and who is judged by it.
#[derive(Clone, Debug, Default)]
pub struct Role {
    /// Its name.
    pub name: String,
    /// Users who have it.
    pub users: HashSet<String>,
    /// Groups whose members have it.
    pub groups: HashSet<String>,
    /// Whether all Clients have it, also those without a user name.
    pub everybody: bool,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
}

/// Users who have roles in common.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Its members.
    pub users: Vec<String>,
}

/// All roles.
#[derive(Debug, Default)]
pub struct Roles {
    roles: Vec<Role>,
    /// The groups of each user.
    groups: HashMap<String, Vec<String>>,
    /// Rules of all.
    len: usize,
    /// Whether one of these is for some messages of a topic only.
    is_conditional: bool,
}

impl Roles {
    /// Roles in order, and the groups that they speak of.
    pub fn new(roles: Vec<Role>, groups: &[Group]) -> Self {
        let mut of_users: HashMap<String, Vec<String>> = HashMap::new();
        for group in groups {
            for user in &group.users {
                of_users.entry(user.clone()).or_default().push(group.name.clone());
            }
        }
        let rules = || roles.iter().flat_map(|role| &role.rules);
        let (len, is_conditional) = (rules().count(), rules().any(Rule::is_conditional));
        Self { roles, groups: of_users, len, is_conditional }
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether a rule is for some messages of a topic only.
    pub(super) fn are_conditional(&self) -> bool {
        self.is_conditional
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.roles.is_empty()
    }

    /// What the roles of a Client say; `None`: nothing.
    pub fn decide(&self, subject: &Subject, asked: &Asked<'_>) -> Option<Decision<'_>> {
        let held = self.roles.iter().filter(|role| self.has(subject, role));
        let rule = held.flat_map(|role| &role.rules).find(|rule| rule.matches(subject, asked))?;
        let ground = rule.place.as_ref().map_or(Ground::NoRule, Ground::Rule);
        Some(Decision { allowed: rule.allows, ground })
    }

    fn has(&self, subject: &Subject, role: &Role) -> bool {
        let username = subject.username.as_deref();
        let by_name = |name: &str| {
            let groups = self.groups.get(name).map_or(&[][..], Vec::as_slice);
            role.users.contains(name) || groups.iter().any(|group| role.groups.contains(group))
        };
        let claims = subject.claims.as_deref();
        role.everybody
            || username.is_some_and(by_name)
            || claims.is_some_and(|claims| {
                claims.roles.contains(&role.name)
                    || claims.groups.iter().any(|group| role.groups.contains(group))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::acl::Claims;
    use std::sync::Arc;

    fn subject(username: &str) -> Subject {
        let username = (!username.is_empty()).then(|| username.into());
        Subject { username, client_id: "c".into(), claims: None }
    }

    fn asked(action: Action, topic: &str) -> Asked<'_> {
        Asked { action, topic, qos: QoS::AtLeastOnce, retain: false }
    }

    fn says(roles: &Roles, who: &Subject, action: Action, topic: &str) -> Option<bool> {
        roles.decide(who, &asked(action, topic)).map(|decision| decision.allowed)
    }

    fn everybody(rules: Vec<Rule>) -> Roles {
        Roles::new(vec![Role { everybody: true, rules, ..Role::default() }], &[])
    }

    #[test]
    fn a_role_is_held_by_name_by_group_by_claim_or_by_everybody() {
        let role = |name: &str| Role {
            name: name.into(),
            rules: vec![Rule::new(true, Actions::PUBLISH, name)],
            ..Role::default()
        };
        let roles = vec![
            Role { users: ["ali".to_owned()].into(), ..role("a") },
            Role { groups: ["forty".to_owned()].into(), ..role("b") },
            Role { everybody: true, ..role("c") },
        ];
        let groups = [Group { name: "forty".into(), users: vec!["cassim".into()] }];
        let roles = Roles::new(roles, &groups);
        let may = |who: &Subject| {
            ["a", "b", "c"].map(|topic| says(&roles, who, Action::Publish, topic) == Some(true))
        };
        assert_eq!(may(&subject("ali")), [true, false, true]);
        assert_eq!(may(&subject("cassim")), [false, true, true]);
        assert_eq!(may(&subject("")), [false, false, true]);
        let claimed = |roles: &[&str], groups: &[&str]| {
            let texts = |names: &[&str]| names.iter().map(|&name| name.into()).collect();
            let (roles, groups) = (texts(roles), texts(groups));
            let claims = Claims { roles, groups, ..Claims::default() };
            Subject { claims: Some(Arc::new(claims)), ..subject("x") }
        };
        assert_eq!(may(&claimed(&["a"], &[])), [true, false, true]);
        assert_eq!(may(&claimed(&[], &["forty"])), [false, true, true]);
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let roles = everybody(vec![
            Rule::new(false, Actions::PUBLISH, "a/secret"),
            Rule::new(true, Actions::PUBLISH | Actions::RECEIVE, "a/#"),
            Rule::new(true, Actions::PUBLISH, "a/secret"),
        ]);
        let who = subject("");
        assert_eq!(says(&roles, &who, Action::Publish, "a/secret"), Some(false));
        assert_eq!(says(&roles, &who, Action::Receive, "a/secret"), Some(true));
        assert_eq!(says(&roles, &who, Action::Publish, "a/b"), Some(true));
        assert_eq!(says(&roles, &who, Action::Subscribe, "a/b"), None);
    }

    #[test]
    fn an_allowed_subscription_is_covered_and_a_denied_one_touched() {
        let roles = everybody(vec![
            Rule::new(false, Actions::SUBSCRIBE, "a/secret"),
            Rule::new(true, Actions::SUBSCRIBE, "a/#"),
        ]);
        let may = |filter| says(&roles, &subject(""), Action::Subscribe, filter);
        assert_eq!(may("a/b/+"), Some(true));
        for filter in ["a/#", "a/+", "a/secret", "#"] {
            assert_eq!(may(filter), Some(false), "{filter}");
        }
        assert_eq!(may("b/#"), None);
    }

    #[test]
    fn conditions_narrow_a_rule() {
        let retained = Rule { retain: Some(true), ..Rule::new(false, Actions::PUBLISH, "#") };
        let high = Rule { qos_min: QoS::ExactlyOnce, ..Rule::new(false, Actions::PUBLISH, "#") };
        let all = Rule::new(true, Actions::PUBLISH | Actions::SUBSCRIBE, "#");
        let roles = everybody(vec![retained, high, all]);
        for (qos, retain, expected) in [
            (QoS::AtMostOnce, false, true),
            (QoS::AtLeastOnce, false, true),
            (QoS::ExactlyOnce, false, false),
            (QoS::AtMostOnce, true, false),
        ] {
            let asked = Asked { qos, retain, ..asked(Action::Publish, "a") };
            let decision = roles.decide(&subject(""), &asked).unwrap();
            assert_eq!(decision.allowed, expected, "{qos:?} {retain}");
        }
    }
}
