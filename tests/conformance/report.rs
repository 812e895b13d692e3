//! The results as a page.

use std::fmt::Write;

use crate::dialogue::Header;
use crate::packet::Version;
use crate::play::Failure;

pub enum Outcome {
    Ok,
    Failed(Failure),
    Skipped(String),
}

/// A dialogue with one version.
pub struct Played<'a> {
    pub name: &'a str,
    pub header: &'a Header,
    pub version: Version,
    pub outcome: Outcome,
}

/// `40 ok, 1 failed, 2 skipped`
pub fn summary(played: &[Played]) -> String {
    let count = |is: fn(&Outcome) -> bool| played.iter().filter(|p| is(&p.outcome)).count();
    format!(
        "{} ok, {} failed, {} skipped",
        count(|outcome| matches!(outcome, Outcome::Ok)),
        count(|outcome| matches!(outcome, Outcome::Failed(_))),
        count(|outcome| matches!(outcome, Outcome::Skipped(_)))
    )
}

/// A page in Markdown. It names nothing that differs from run to run.
pub fn page(broker: &str, played: &[Played]) -> String {
    let mut page = format!(
        "# {broker}\n\nWritten by `conformance/run.sh`. Of the dialogues, each with each of its \
         versions: {}.\n\n\
         | dialogue | MQTT | shows | result | first difference, and what the standard says |\n\
         | --- | --- | --- | --- | --- |\n",
        summary(played)
    );
    for played in played {
        let Played { name, header, version, outcome } = played;
        let prefix = format!("{version}:");
        let own = header.shows.iter().filter_map(|id| id.strip_prefix(prefix.as_str()));
        let shows = own.collect::<Vec<_>>().join(", ");
        let (result, why) = match outcome {
            Outcome::Ok => ("ok", String::new()),
            Outcome::Skipped(why) => ("skipped", cell(why)),
            Outcome::Failed(failure) => ("failed", difference(broker, header, failure)),
        };
        let row = format!(
            "| [{name}](../dialogues/{name}.txt) | {version} | {shows} | {result} | {why} |"
        );
        writeln!(page, "{row}").unwrap();
    }
    page
}

fn difference(broker: &str, header: &Header, failure: &Failure) -> String {
    let lines = failure.what.lines().map(str::trim).filter(|line| !line.is_empty());
    let lines: Vec<String> = lines.map(without_bytes).collect();
    let with = if failure.with.is_empty() { "" } else { " with" };
    let place = match failure.line {
        0 => "end".into(),
        line => format!("line {line}{with}{}", failure.with),
    };
    let broker = broker.split(' ').next().unwrap_or_default().to_lowercase();
    let why = header.differs.iter().find(|(name, _)| *name == broker);
    let why = why.map_or("**Not explained.**", |(_, why)| why);
    format!("{}. {}", cell(&format!("{place}: {}", lines.join("; "))), cell(why))
}

/// Without the bytes, which hold what is made for this run.
fn without_bytes(line: &str) -> String {
    let line = line.split("  [").next().unwrap_or(line);
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}
