//! Enhanced authentication (MQTT 5.0, section 4.12): the exchange of AUTH packets, whatever the
//! method. A method is a [`Mechanism`]; which ones there are is for `access` to say.
//!
//! ```text
//!   CONNECT(method, data) --> Continue: AUTH 0x18 <--> AUTH 0x18 ... --> Done: CONNACK 0x00
//!   AUTH 0x19             --> Continue: AUTH 0x18 <--> AUTH 0x18 ... --> Done: AUTH 0x00
//!   any step              --> Refused: CONNACK or DISCONNECT with an error
//! ```

use std::fmt;

use super::ProtocolError;
use crate::codec::property::{PropertyBuffer, PropertyId};
use crate::codec::{Auth, ReasonCode};

/// What a mechanism says to the Client's data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send this and wait for more.
    Continue(Vec<u8>),
    /// The Client is who it says; send this along.
    Done {
        /// Authentication Data for the last packet, may be empty.
        data: Vec<u8>,
        /// The name that the Client has proven.
        username: String,
    },
    /// Whether the Client is who it says is for others to find out.
    Ask,
    /// The Client is not who it says.
    Refused,
}

/// How far an exchange has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The Client is to be sent [`Exchange::last_data`].
    Continues,
    /// It waits for what others say of this data.
    Waits(Vec<u8>),
    /// It is over.
    Over,
}

/// A method of authentication, in one exchange.
pub trait Mechanism: Send {
    /// The Client's next Authentication Data, the first included.
    fn step(&mut self, data: &[u8]) -> Step;
}

/// One exchange under way.
pub struct Exchange {
    method: Box<str>,
    mechanism: Box<dyn Mechanism>,
    last_data: Vec<u8>,
    username: Option<String>,
}

impl Exchange {
    /// Begins an exchange by the method that the Client named in CONNECT.
    pub fn new(method: &str, mechanism: Box<dyn Mechanism>) -> Self {
        Self { method: method.into(), mechanism, last_data: Vec::new(), username: None }
    }

    /// The Authentication Method's name.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The Server's latest Authentication Data.
    pub fn last_data(&self) -> &[u8] {
        &self.last_data
    }

    /// The name that the Client has proven, when the exchange is over.
    pub fn username(&self) -> Option<&str> {
        self.username.as_deref()
    }

    /// The first data, from CONNECT or a re-authentication.
    pub fn begin(&mut self, data: &[u8]) -> Result<Progress, ProtocolError> {
        match self.mechanism.step(data) {
            Step::Continue(data) => {
                self.last_data = data;
                Ok(Progress::Continues)
            }
            Step::Done { data, username } => {
                self.last_data = data;
                self.username = Some(username);
                Ok(Progress::Over)
            }
            Step::Ask => Ok(Progress::Waits(data.into())),
            Step::Refused => Err(ProtocolError {
                reason: ReasonCode::NotAuthorized,
                what: "enhanced authentication failed",
            }),
        }
    }

    /// An AUTH packet has come; `reason` is the one that is due now.
    pub fn handle(&mut self, auth: &Auth<'_>, due: ReasonCode) -> Result<Progress, ProtocolError> {
        if auth.properties.authentication_method() != Some(&*self.method) {
            // [MQTT-4.12.0-5]
            return Err(ProtocolError::protocol("AUTH with another Authentication Method"));
        }
        if auth.reason != due {
            return Err(ProtocolError::protocol("AUTH out of turn"));
        }
        self.begin(auth.properties.authentication_data().unwrap_or_default())
    }
}

/// The properties of an AUTH packet from the Server: the method that CONNECT named
/// [MQTT-4.12.0-5] and the data, nothing else.
pub fn properties(method: &str, data: &[u8]) -> PropertyBuffer {
    let mut properties = PropertyBuffer::new();
    properties.str(PropertyId::AuthenticationMethod, method);
    if !data.is_empty() {
        properties.bytes(PropertyId::AuthenticationData, data);
    }
    properties
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Exchange({})", self.method)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks for a word and takes "sesame".
    struct Password;

    impl Mechanism for Password {
        fn step(&mut self, data: &[u8]) -> Step {
            match data {
                b"" => Step::Continue(b"word?".to_vec()),
                b"sesame" => Step::Done { data: b"welcome".to_vec(), username: "ali".into() },
                _ => Step::Refused,
            }
        }
    }

    fn answer(
        data: &[u8],
        method: &str,
        reason: ReasonCode,
    ) -> (Exchange, Result<Progress, ReasonCode>) {
        let mut exchange = Exchange::new("WORD", Box::new(Password));
        assert_eq!(exchange.begin(b""), Ok(Progress::Continues));
        let properties = properties(method, data);
        let auth = Auth { reason, properties: properties.as_properties() };
        let due = ReasonCode::ContinueAuthentication;
        let result = exchange.handle(&auth, due).map_err(|error| error.reason);
        (exchange, result)
    }

    #[test]
    fn an_exchange_goes_on_until_the_mechanism_is_satisfied() {
        let (exchange, result) = answer(b"sesame", "WORD", ReasonCode::ContinueAuthentication);
        assert_eq!(result, Ok(Progress::Over));
        assert_eq!((exchange.username(), exchange.last_data()), (Some("ali"), &b"welcome"[..]));
    }

    #[test]
    fn a_wrong_answer_is_refused() {
        let (_, result) = answer(b"simsim", "WORD", ReasonCode::ContinueAuthentication);
        assert_eq!(result, Err(ReasonCode::NotAuthorized));
    }

    #[test]
    fn another_method_or_reason_in_between_is_a_protocol_error() {
        let (_, result) = answer(b"sesame", "OTHER", ReasonCode::ContinueAuthentication);
        assert_eq!(result, Err(ReasonCode::ProtocolError));
        let (_, result) = answer(b"sesame", "WORD", ReasonCode::ReAuthenticate);
        assert_eq!(result, Err(ReasonCode::ProtocolError));
    }
}
