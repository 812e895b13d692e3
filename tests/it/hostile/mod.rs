//! Hostile input over real sockets. Each test is a [`Siege`]: a broker with two well-behaved
//! Clients that exchange messages throughout, and at its end the broker lives, has not panicked,
//! and has not grown beyond a stated bound.

mod bomb;
mod flood;
mod foreign;
mod long;
mod siege;
mod slow;
mod stalled;
mod state;
mod turns;
mod websocket;

use siege::Siege;
