//! Byte streams from the network: listeners, PROXY protocol, TLS, WebSocket, unix sockets. Knows
//! no MQTT.

pub mod frames;
pub mod listener;
pub mod proxy;
pub mod tls;
pub mod transport;
pub mod websocket;
