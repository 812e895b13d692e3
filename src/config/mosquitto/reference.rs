//! The reference for those who come from mosquitto, as Markdown.

use super::options::{Fate, OPTIONS, Row, Scope};

const HEAD: &str = "\
# Coming from mosquitto

Written by `whimbrel settings --mosquitto`; a test keeps it up to date.

Start Whimbrel with the file that mosquitto was started with:

    whimbrel -c /etc/mosquitto/mosquitto.conf --test-config
    whimbrel -c /etc/mosquitto/mosquitto.conf

The first says what is wrong with the file and what means something else here, with file and line.
In a systemd unit only the program's name changes; `-d`, `-p`, `-q` and `-v` are as there. A
file is taken for a mosquitto.conf by its syntax; `include_dir` is read as there, and paths are
relative to the working directory.

With such a file the broker keeps to what mosquitto 2.1 does where the standard leaves it open:

* nothing is stored unless `persistence true` is given; then all that was acknowledged is;
* largest packet 2,000,000 bytes, Receive Maximum 20, 20 messages in flight, 10 Topic Aliases in
  each direction, 1000 messages in a queue;
* without a listener only Clients on this machine are let in; with one, only who
  `allow_anonymous` or a password lets in, and a certificate alone is no password;
* before MQTT 5.0 a Keep Alive above `max_keepalive` is answered with 0x02, a wrong password
  with 0x05;
* the properties of CONNACK stand in the order of mosquitto's, which some compare byte for byte;
  acknowledgements and DISCONNECT are as short as can be, PUBACK says 0x10 when nobody is
  subscribed and PUBREC never, Packet Identifiers rise (here to 256), and the identifiers that
  Clients are given look alike;
* Topic Names and Filters of more than 200 separators are malformed (0x81);
* a Will is not published when its Session goes on by another connection;
* where no listener has a `password_file`, or another way to prove who one is, a User Name is
  believed, for `acl_file` too;
* the log's lines for Clients that come, go or are refused, and for what they may not publish, are
  those of mosquitto 2.1; what is wrong begins with `Error: `, what may be with `Warning: `. What
  scripts wait for is there too: `Opening ipv4 listen socket on port 1883.` and `mosquitto version
  2.1.2 running`, each with words of ours beside it. Other lines are ours;
* the exit status is 3 when the file, or one of passwords or rules, is not good.

The same holds without a file when the program is called `mosquitto`, by a link or a copy; then 3
is also the status of a command line that is not good.

The topics below `$SYS/broker/` are those of 2.1 with their meanings, but for `packet/out/...`, of
which there is no count; they are of QoS 0. `version` says `whimbrel version`, `heap/...` is the
process's resident memory, `store/messages/bytes` are messages with what they cost, and `log/M/...`
and `log/WS` are part of the debugging that is not published.

Where mosquitto breaks the standard, or loses what it has acknowledged, Whimbrel does not:

* the Will of a Session that ends with its connection is published at once, whatever its delay;
* a PUBLISH of QoS 2 with an identifier that is not released is a repetition, however often it
  comes and whatever is in it;
* a bad file on SIGHUP changes nothing and is told, where mosquitto ends;
* a PROXY header of version 2 with LOCAL is a connection of the proxy's own, one of an unspecified
  family is somebody's whom the proxy does not name, and the addresses of unix sockets have their
  216 bytes; a certificate or TLS that it speaks of counts only if its bits say so, and TLS may be
  spoken behind it (`certfile`);
* the Maximum Packet Size of a Client bounds the whole packet, also its first byte;
* a page of another origin than `websockets_origin` is answered 403.

What is different: see the notes below. Errors are said in other words, all of a file at once.
After a restart of the broker Packet Identifiers begin at 1 again where none is in use, and a
message that is too large for its Client, or that it may not read, takes none. There is no
`$CONTROL`. Who fails again and again to log in, and
is not on this machine, is answered later and later and banned for a time (docs/limits.md).
Settings of ours (docs/settings.md) may stand in the file too, such as `durability written` or
`proxy_protocol_from 10.0.0.0/8`. What mosquitto has stored is not taken over by starting, but by
`whimbrel store import`.

## Taking over what mosquitto has stored

    systemctl stop mosquitto
    whimbrel store import /var/lib/mosquitto/mosquitto.db -c /etc/mosquitto/mosquitto.conf

The configuration says where Whimbrel's store is (`persistence true` must be in it), and whether
Sessions have owners: where there are users, only who had a Session in mosquitto gets it. Files of
version 5 name no owners, nor does any file for Clients without a user name: such a Session, with
what waits in it, belongs to whoever takes its Client Identifier first, and is counted. Started
by root, it becomes the `user` of the configuration, whose the store is to be. Both brokers must be
stopped. All is taken over or nothing; a
Client or a retained topic that Whimbrel's store has already is an error, and nothing is
overwritten.

Files of mosquitto 1.6 and 2 are read (versions 5, of 1.6.0 to 1.6.10, and 6), written on a
little-endian machine; a mosquitto of 2.0 that is started and stopped with an older file makes it
one. Taken over are

* Sessions with their owners and their expiry, which goes on as if mosquitto had run on;
* subscriptions with options and Subscription Identifiers;
* retained messages, except those below `$SYS`;
* messages of QoS 1 and 2 that wait, in order, with QoS, RETAIN, properties, Subscription
  Identifiers, and what is left of their expiry;
* messages on their way to a Client: they are sent again with their Packet Identifier and DUP, or
  PUBREL alone where the Client has the message;
* messages of QoS 2 from a Client that wait for its PUBREL: they are distributed at once, and the
  PUBREL is answered.

Not taken over are messages of QoS 0 that wait. What else is left out, such as what has expired, is
told with its count. Mosquitto does not write Wills and Shared Subscriptions: Clients with a Shared
Subscription must subscribe again. A bridge's Session is one of a Client like others.

## The options

| option | of | what becomes of it |
| --- | --- | --- |
";

fn state(row: &Row) -> String {
    let state = match row.fate {
        _ if row.is_setting() => "implemented".to_owned(),
        Fate::Read => "implemented".to_owned(),
        Fate::Warned(instead) => format!("accepted with a warning: {instead}"),
        Fate::Refused(reason) => format!("refused: {reason}"),
    };
    if row.note.is_empty() { state } else { format!("{state}. {}", row.note) }
}

/// The whole page.
pub fn markdown() -> String {
    let rows = OPTIONS.iter().map(|row| {
        let of = match row.scope {
            Scope::Global => "broker",
            Scope::Listener => "listener",
            Scope::Security => "broker or listener",
            Scope::Bridge => "bridge",
        };
        format!("| `{}` | {of} | {} |\n", row.name, state(row))
    });
    format!("{HEAD}{}", rows.collect::<String>())
}
