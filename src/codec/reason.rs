//! Reason Codes (section 2.4): one table.

use std::fmt;

use super::frame::PacketType;

macro_rules! reason_codes {
    ($($value:literal $name:ident $text:literal in $($packet:ident)|+;)+) => {
        /// How an operation went; 0x80 and above: it failed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum ReasonCode {
            $(#[doc = $text] $name = $value,)+
        }

        impl ReasonCode {
            /// Every Reason Code.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The Reason Code with this value.
            pub const fn from_u8(value: u8) -> Option<Self> {
                match value {
                    $($value => Some(Self::$name),)+
                    _ => None,
                }
            }

            /// Its name in the specification.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }

            /// Whether a packet of this type may carry it.
            pub const fn is_allowed_in(self, packet: PacketType) -> bool {
                match self {
                    $(Self::$name => matches!(packet, $(PacketType::$packet)|+),)+
                }
            }
        }
    };
}

// 0x00 is also Normal disconnection and Granted QoS 0; 0x01, 0x02: Granted QoS 1, 2.
reason_codes! {
    0x00 Success "Success" in ConnAck | PubAck | PubRec | PubRel | PubComp | SubAck | UnsubAck | Disconnect | Auth;
    0x01 GrantedQoS1 "Granted QoS 1" in SubAck;
    0x02 GrantedQoS2 "Granted QoS 2" in SubAck;
    0x04 DisconnectWithWill "Disconnect with Will Message" in Disconnect;
    0x10 NoMatchingSubscribers "No matching subscribers" in PubAck | PubRec;
    0x11 NoSubscriptionExisted "No subscription existed" in UnsubAck;
    0x18 ContinueAuthentication "Continue authentication" in Auth;
    0x19 ReAuthenticate "Re-authenticate" in Auth;
    0x80 UnspecifiedError "Unspecified error" in ConnAck | PubAck | PubRec | SubAck | UnsubAck | Disconnect;
    0x81 MalformedPacket "Malformed Packet" in ConnAck | Disconnect;
    0x82 ProtocolError "Protocol Error" in ConnAck | Disconnect;
    0x83 ImplementationSpecificError "Implementation specific error" in ConnAck | PubAck | PubRec | SubAck | UnsubAck | Disconnect;
    0x84 UnsupportedProtocolVersion "Unsupported Protocol Version" in ConnAck;
    0x85 ClientIdentifierNotValid "Client Identifier not valid" in ConnAck;
    0x86 BadUserNameOrPassword "Bad User Name or Password" in ConnAck;
    0x87 NotAuthorized "Not authorized" in ConnAck | PubAck | PubRec | SubAck | UnsubAck | Disconnect;
    0x88 ServerUnavailable "Server unavailable" in ConnAck;
    0x89 ServerBusy "Server busy" in ConnAck | Disconnect;
    0x8A Banned "Banned" in ConnAck;
    0x8B ServerShuttingDown "Server shutting down" in Disconnect;
    0x8C BadAuthenticationMethod "Bad authentication method" in ConnAck | Disconnect;
    0x8D KeepAliveTimeout "Keep Alive timeout" in Disconnect;
    0x8E SessionTakenOver "Session taken over" in Disconnect;
    0x8F TopicFilterInvalid "Topic Filter invalid" in SubAck | UnsubAck | Disconnect;
    0x90 TopicNameInvalid "Topic Name invalid" in ConnAck | PubAck | PubRec | Disconnect;
    0x91 PacketIdentifierInUse "Packet Identifier in use" in PubAck | PubRec | SubAck | UnsubAck;
    0x92 PacketIdentifierNotFound "Packet Identifier not found" in PubRel | PubComp;
    0x93 ReceiveMaximumExceeded "Receive Maximum exceeded" in Disconnect;
    0x94 TopicAliasInvalid "Topic Alias invalid" in Disconnect;
    0x95 PacketTooLarge "Packet too large" in ConnAck | Disconnect;
    0x96 MessageRateTooHigh "Message rate too high" in Disconnect;
    0x97 QuotaExceeded "Quota exceeded" in ConnAck | PubAck | PubRec | SubAck | Disconnect;
    0x98 AdministrativeAction "Administrative action" in Disconnect;
    0x99 PayloadFormatInvalid "Payload format invalid" in ConnAck | PubAck | PubRec | Disconnect;
    0x9A RetainNotSupported "Retain not supported" in ConnAck | Disconnect;
    0x9B QoSNotSupported "QoS not supported" in ConnAck | Disconnect;
    0x9C UseAnotherServer "Use another server" in ConnAck | Disconnect;
    0x9D ServerMoved "Server moved" in ConnAck | Disconnect;
    0x9E SharedSubscriptionsNotSupported "Shared Subscriptions not supported" in SubAck | Disconnect;
    0x9F ConnectionRateExceeded "Connection rate exceeded" in ConnAck | Disconnect;
    0xA0 MaximumConnectTime "Maximum connect time" in Disconnect;
    0xA1 SubscriptionIdentifiersNotSupported "Subscription Identifiers not supported" in SubAck | Disconnect;
    0xA2 WildcardSubscriptionsNotSupported "Wildcard Subscriptions not supported" in SubAck | Disconnect;
}

impl ReasonCode {
    /// The value on the wire.
    pub const fn as_u8(self) -> u8 {
        self as u8
    }

    /// Whether the operation failed.
    pub const fn is_error(self) -> bool {
        self as u8 >= 0x80
    }

    /// The return code of a CONNACK before MQTT 5.0 (table 3.1 of 3.1.1) that comes closest.
    pub const fn connect_return_code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::UnsupportedProtocolVersion => 1,
            Self::ClientIdentifierNotValid => 2,
            Self::BadUserNameOrPassword => 4,
            Self::NotAuthorized | Self::Banned | Self::BadAuthenticationMethod => 5,
            _ => 3,
        }
    }

    /// The Reason Code that a return code of a CONNACK before MQTT 5.0 stands for.
    pub const fn from_connect_return_code(code: u8) -> Option<Self> {
        Some(match code {
            0 => Self::Success,
            1 => Self::UnsupportedProtocolVersion,
            2 => Self::ClientIdentifierNotValid,
            3 => Self::ServerUnavailable,
            4 => Self::BadUserNameOrPassword,
            5 => Self::NotAuthorized,
            _ => return None,
        })
    }
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (0x{:02X})", self.name(), self.as_u8())
    }
}
