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
* the log's lines for Clients that come, go or are refused are those of mosquitto 2.0.

What is different: see the notes below. Settings of ours (docs/settings.md) may stand in the
file too, such as `durability written` or `proxy_protocol_from 10.0.0.0/8`. What mosquitto has
stored is not taken over by starting.

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
