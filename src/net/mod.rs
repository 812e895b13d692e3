//! Byte streams from the network: listeners, TLS, WebSocket, unix sockets. Knows no MQTT.

pub mod listener;
pub mod tls;
pub mod transport;
pub mod websocket;
