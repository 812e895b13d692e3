//! `whimbrel acl explain`: which rule decides what a Client may do.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};

use crate::access::acl::file::AclFile;
use crate::access::acl::roles::Roles;
use crate::access::acl::{self, Acl, Action, Asked, Subject};
use crate::access::problem::{self, FileError};
use crate::access::token::claims;
use crate::access::token::jws::{Fault, Token};
use crate::access::{Identity, token};
use crate::clock;
use crate::codec::QoS;
use crate::config::Config;
use crate::topic::{TopicError, TopicFilter, TopicName};

/// Arguments of the command.
#[derive(Debug, Args)]
#[command(after_help = "\
The answer is a line: `allowed` or `denied`, and the rule that decided with its file and line.

Examples:
  whimbrel -c whimbrel.toml acl explain alice phone-7 publish home/door
  whimbrel -c whimbrel.toml acl explain - sensor-1 subscribe '$share/g/home/#'
  whimbrel -c whimbrel.toml acl explain alice phone-7 publish home/door --qos 2 --retain
  whimbrel -c whimbrel.toml acl explain - phone-7 publish home/door --token alice.jwt")]
pub struct Explain {
    /// The user name; `-`: none
    user: String,
    /// The Client Identifier
    client: String,
    /// What it would do
    #[arg(value_enum)]
    action: What,
    /// The Topic Name, or for `subscribe` the Topic Filter
    topic: String,
    /// Quality of service
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// With RETAIN set
    #[arg(long)]
    retain: bool,
    /// On the listener with this port, where it has an acl_file of its own
    #[arg(long, value_name = "PORT")]
    listener: Option<u16>,
    /// Who has shown this token, a JWT or the JSON of its claims, which says who the user is and
    /// what he may do beside the rules. Whether it is signed is not looked at
    #[arg(long, value_name = "FILE")]
    token: Option<PathBuf>,
    /// The [[token]] by which that is judged, where there are several
    #[arg(long, value_name = "NAME", requires = "token")]
    token_name: Option<String>,
}

/// What a Client would do.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum What {
    Publish,
    Subscribe,
    Receive,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// The rules cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// No such topic.
    #[error("`{0}`: {1}")]
    Topic(String, TopicError),
    /// No such listener.
    #[error("no [[listener]] has port {0}")]
    NoListener(u16),
    /// No such kind of token.
    #[error("no [[token]] is called `{0}`")]
    NoToken(String),
    /// None is named.
    #[error("which [[token]] is it? There are {0}: `--token-name` says which")]
    WhichToken(usize),
}

/// The answer.
pub fn explain(arguments: &Explain, config: &Config) -> Result<String, ExplainError> {
    let Explain { user, client, topic, retain, .. } = arguments;
    let action = match arguments.action {
        What::Publish => Action::Publish,
        What::Subscribe => Action::Subscribe,
        What::Receive => Action::Receive,
    };
    let checked = match action {
        Action::Subscribe => TopicFilter::new(topic).map(|_| ()),
        _ => TopicName::new(topic).map(|_| ()),
    };
    checked.map_err(|error| ExplainError::Topic(topic.clone(), error))?;
    let file = file(arguments.listener, config)?;
    let file = file.map(AclFile::read).transpose()?.map(Arc::new);
    let acl = Acl::new(file, Arc::new(Roles::new(config.roles.clone(), &config.groups)));
    let username = (user != "-").then_some(user.as_str());
    let identity = match &arguments.token {
        None => Identity { username: username.map(Into::into), ..Identity::default() },
        Some(path) => match identity(path, kind(arguments, config)?, username)? {
            Ok(identity) => identity,
            Err(why) => return Ok(format!("denied: its token is refused: {why}\n")),
        },
    };
    let Identity { username, claims, .. } = identity;
    let subject = Subject { username, client_id: client.as_str().into(), claims };
    let topic = if action == Action::Subscribe { acl::filter_to_ask(topic) } else { topic };
    let qos = QoS::from_bits(arguments.qos).unwrap_or(QoS::AtMostOnce);
    let asked = Asked { action, topic, qos, retain: *retain };
    Ok(format!("{}\n", acl.decide(&subject, &asked)))
}

/// By which settings a token is judged.
fn kind<'c>(arguments: &Explain, config: &'c Config) -> Result<&'c token::Options, ExplainError> {
    match (&arguments.token_name, &*config.tokens) {
        (None, [only]) => Ok(only),
        (None, all) => Err(ExplainError::WhichToken(all.len())),
        (Some(name), all) => {
            let named = all.iter().find(|options| options.name == *name);
            named.ok_or_else(|| ExplainError::NoToken(name.clone()))
        }
    }
}

/// Who it is by a token, or why nobody.
fn identity(
    path: &Path,
    options: &token::Options,
    username: Option<&str>,
) -> Result<Result<Identity, String>, ExplainError> {
    let text = problem::read_text(path, "")?;
    let payload = match Token::parse(text.trim().as_bytes()) {
        Ok(token) => token.payload,
        Err(Fault::NoToken) => text.into_bytes(),
        Err(Fault::Bad(why)) => return Ok(Err(why)),
    };
    Ok(claims::read(&payload)
        .and_then(|members| claims::judge(&members, options, username, clock::wall())))
}

fn file(port: Option<u16>, config: &Config) -> Result<Option<&Path>, ExplainError> {
    let own = match port {
        None => None,
        Some(port) => {
            let is_it = |listener: &&crate::config::Listener| listener.port == Some(port);
            let listener = config.listeners.iter().find(is_it);
            listener.ok_or(ExplainError::NoListener(port))?.acl_file.as_deref()
        }
    };
    Ok(own.or(config.acl_file.as_deref()))
}
