//! THE TABLE, of who may do what and by which proof.

use std::time::Duration;

use super::Setting;
use super::kinds::*;
use crate::access::acl::roles::{Actions, Group, Role, Rule};
use crate::access::token::jws::Algorithm;
use crate::access::{callout, token};
use crate::config::relative_to;
use crate::config::value::Kind;

settings! { GROUP: Group;
    "name" Kind::Text, "needed",
        "What roles call it."
        => |g, v, _| g.name = v.text().into();
    "users" Kind::Texts, "none",
        "User names of its members."
        => |g, v, _| g.users = v.texts().to_vec();
}

settings! { ROLE: Role;
    "name" Kind::Text, "needed",
        "What it is called in `whimbrel acl explain`."
        => |r, v, _| r.name = v.text().into();
    "users" Kind::Texts, "none",
        "User names of those who have it."
        => |r, v, _| r.users = v.texts().iter().cloned().collect();
    "groups" Kind::Texts, "none",
        "Groups whose members have it."
        => |r, v, _| r.groups = v.texts().iter().cloned().collect();
    "everybody" Kind::Bool, "false",
        "Whether all Clients have it, also those without a user name."
        => |r, v, _| r.everybody = v.bool();
}

settings! { RULE: Rule;
    "allow" ACTIONS, "none",
        "What the rule allows; or `deny`."
        => |r, v, _| (r.allows, r.actions) = (true, Actions::of_words(v.texts()));
    "deny" ACTIONS, "none",
        "What the rule denies; or `allow`."
        => |r, v, _| (r.allows, r.actions) = (false, Actions::of_words(v.texts()));
    "topic" Kind::Pattern, "needed",
        "For which topics: %u stands for the user name, %c for the Client Identifier. A subscription is allowed when this covers all of its Topic Filter, and denied when they have a topic in common; of a Shared Subscription the filter inside is judged."
        => |r, v, _| r.topic = v.pattern();
    "min_qos" QOS, "0",
        "Only for this quality of service and above: of the message, or asked for by the subscription."
        => |r, v, _| r.qos_min = qos(v);
    "max_qos" QOS, "2",
        "Only for this quality of service and below."
        => |r, v, _| r.qos_max = qos(v);
    "retain" Kind::Bool, "either",
        "Only for messages with RETAIN set, or only for those without; not for subscriptions."
        => |r, v, _| r.retain = Some(v.bool());
}

settings! { TOKEN: token::Options;
    "name" Kind::Text, "needed",
        "What `authentication` and the log call these tokens."
        => |t, v, _| t.name = v.text().into();
    "key_file" Kind::Path, "none",
        "The public keys that tokens are verified with: PEM (PUBLIC KEY or CERTIFICATE), or JSON (a JWK or a set of them; there also secrets). Read at the start and on SIGHUP. What kind of key it is decides by which algorithms tokens may be signed with it: RSA by RS256 to PS512, P-256 by ES256, P-384 by ES384, Ed25519 by EdDSA."
        => |t, v, base| t.key_file = Some(relative_to(base, v.text()));
    "secret_file" Kind::Path, "none",
        "Instead: the secret of HS256, HS384 and HS512, of 32 bytes or more; a line feed at the end is none of it. Read at the start and on SIGHUP."
        => |t, v, base| t.secret_file = Some(relative_to(base, v.text()));
    "keys_url" URL, "none",
        "Instead: the address of a set of public keys (JWKS). Fetched at the start, every `keys_interval`, on SIGHUP, and when a token is signed with an unknown key, but for that not more often than every 5 s. When that fails, the keys fetched before stay in use."
        => |t, v, _| t.keys_url = Some(v.text().into());
    "keys_interval" Kind::Time, "\"1h\"",
        "Time between two fetches of the keys; after one that failed at most 30 s."
        => |t, v, _| t.keys_interval = v.time().max(Duration::from_secs(1));
    "keys_timeout" Kind::Time, "\"5s\"",
        "Time for a fetch. Clients whose token waits for a key wait as long."
        => |t, v, _| t.keys_deadline = v.time().max(Duration::from_millis(10));
    "cafile" Kind::Path, "the authorities that browsers know",
        "Authorities that vouch for `keys_url` (PEM)."
        => |t, v, base| t.authorities = Some(relative_to(base, v.text()));
    "algorithms" ALGORITHMS, "all that the keys are for",
        "The only algorithms by which tokens may be signed. There is no \"none\"."
        => |t, v, _| t.algorithms = v.texts().iter().filter_map(|name| Algorithm::named(name)).collect();
    "issuer" Kind::Text, "any",
        "The issuer (`iss`) of the tokens. Tokens of others are left to the next method."
        => |t, v, _| t.issuer = Some(v.text().into());
    "audience" Kind::Texts, "none",
        "For whom tokens must be (`aud`): one of these. Without it no token is taken that is for somebody."
        => |t, v, _| t.audience = v.texts().to_vec();
    "leeway" Kind::Time, "\"5s\"",
        "By how much clocks may differ: a token holds so much earlier than its `nbf` and longer than its `exp`."
        => |t, v, _| t.leeway = v.time();
    "require_expiry" Kind::Bool, "true",
        "Whether a token without `exp` is refused."
        => |t, v, _| t.needs_expiry = v.bool();
    "username_claim" Kind::Text, "\"sub\"",
        "The claim that is the Client's user name, for rules and for whose its Session is. A claim is named by its name, or by the path to it with dots."
        => |t, v, _| t.username_claim = v.text().into();
    "check_username" Kind::Bool, "false",
        "Whether the User Name that the Client gives must be the same; otherwise it means nothing."
        => |t, v, _| t.checks_username = v.bool();
    "roles_claim" Kind::Text, "none",
        "The claim with the names of roles that the Client has beside those of its name: a list, or one text with spaces between them."
        => |t, v, _| t.roles_claim = Some(v.text().into());
    "groups_claim" Kind::Text, "none",
        "The same with the names of groups."
        => |t, v, _| t.groups_claim = Some(v.text().into());
    "publish_claim" Kind::Text, "none",
        "The claim with the Topic Filters that the Client may publish to: a list, or one. %u and %c stand for user name and Client Identifier. Where this or `subscribe_claim` is given, what neither the token nor another rule allows is denied."
        => |t, v, _| t.publish_claim = Some(v.text().into());
    "subscribe_claim" Kind::Text, "none",
        "The same with those that it may subscribe to and receive from."
        => |t, v, _| t.subscribe_claim = Some(v.text().into());
}

settings! { CALLOUT: callout::Options;
    "name" Kind::Text, "needed",
        "What `authentication` and the log call it."
        => |c, v, _| c.name = v.text().into();
    "url" URL, "needed",
        "The address that is asked, by POST with JSON (docs/access.md)."
        => |c, v, _| c.url = v.text().into();
    "timeout" Kind::Time, "\"2s\"",
        "Time for a request; then the Client is told that the Server is unavailable. Should be below `connect_timeout`."
        => |c, v, _| c.deadline = v.time().max(Duration::from_millis(10));
    "cafile" Kind::Path, "the authorities that browsers know",
        "Authorities that vouch for `url` (PEM)."
        => |c, v, base| c.authorities = Some(relative_to(base, v.text()));
    "bearer_file" Kind::Path, "none",
        "A file with what the broker proves by who it is: sent as `Authorization: Bearer`. Read at the start and on SIGHUP."
        => |c, v, base| c.bearer_file = Some(relative_to(base, v.text()));
    "max_requests" Kind::Int { min: 1, max: 256 }, "8",
        "Requests at once, each on a thread of its own. Beside them `max_waiting_passwords` Clients may wait; others are told that the Server is busy."
        => |c, v, _| c.requests_max = v.usize();
    "cache_ttl" Kind::Time, "0",
        "How long an answer holds for a Client that shows the same again from the same address; 0: each time it is asked. SIGHUP forgets all answers."
        => |c, v, _| c.cache_ttl = v.time();
    "max_cached" Kind::Int { min: 1, max: 10_000_000 }, "10000",
        "Answers that are kept; the oldest go first. Some 200 bytes each, and what they say."
        => |c, v, _| c.cached_max = v.usize();
}
