//! One Client's way through the methods of its listener, in order. A method that does not know the
//! Client passes it on; the first that knows it decides. Who is known to none is let in only if it
//! has shown nothing, as the listener lets strangers in.
//!
//! The way is slow: it is gone on the threads of [`super::checkers`]. What has to be waited for is
//! asked on other threads, which are few, or one: they hand the Client back for all the rest.

use std::sync::{Arc, Weak};

use super::book::Directory;
use super::callout::{Callout, Word};
use super::checkers::{Checkers, Job};
use super::token::{Judgement, Tokens};
use super::users::{Question, Users};
use super::verdict::{Answer, Denied, Shown, Verdict};
use crate::clock;
use crate::codec::ReasonCode;

/// A way to prove who one is.
#[derive(Clone, Debug)]
pub enum Method {
    /// A user name and the password that is written down for it.
    Passwords(Arc<Directory>),
    /// A token in place of the password.
    Tokens(Arc<Tokens>),
    /// What a service says.
    Callout(Arc<Callout>),
}

impl Method {
    /// Whether it may know who shows neither User Name nor Password.
    pub(super) fn judges_the_silent(&self) -> bool {
        matches!(self, Self::Callout(_))
    }
}

/// See the head of this file.
pub(super) struct Case {
    methods: Arc<[Method]>,
    /// The method whose turn it is.
    at: usize,
    /// Whether the Client has waited for that method, and so is on a thread of it.
    has_waited: bool,
    /// Where it comes from, and goes on when it has waited.
    home: Weak<Checkers>,
    shown: Shown,
    /// Whose password this is not: a user name that nobody has.
    stranger: Option<(Arc<Users>, Question)>,
    /// Why the last method that had something to say does not know the Client.
    why: Option<String>,
    /// What the method has said that knows the Client.
    verdict: Option<Verdict>,
    /// What holds for somebody who shows nothing.
    unproven: Verdict,
    answer: Box<dyn Answer>,
}

/// What a method says.
enum Step {
    Decided(Verdict),
    PassedOn,
    /// The Case waits for keys.
    Waits(Arc<Tokens>, String),
    /// It goes on on a thread that may ask.
    Moves(Arc<Callout>),
}

impl Case {
    pub fn new(
        methods: Arc<[Method]>,
        shown: Shown,
        unproven: Verdict,
        answer: Box<dyn Answer>,
        home: Weak<Checkers>,
    ) -> Box<Self> {
        let (stranger, why, verdict) = (None, None, None);
        let (at, has_waited) = (0, false);
        Box::new(Self {
            methods,
            at,
            has_waited,
            home,
            shown,
            stranger,
            why,
            verdict,
            unproven,
            answer,
        })
    }
}

impl Job for Case {
    fn is_awaited(&self) -> bool {
        self.answer.is_awaited()
    }

    /// Goes the way, as far as it can be gone on this thread.
    fn carry_out(mut self: Box<Self>) {
        if !self.is_awaited() {
            return;
        }
        while self.verdict.is_none()
            && let Some(method) = self.methods.get(self.at).cloned()
        {
            match self.step(&method) {
                Step::Decided(verdict) => {
                    self.verdict = Some(verdict);
                    break;
                }
                Step::PassedOn => {}
                Step::Waits(tokens, why) => match self.wait(&tokens, why) {
                    Some(case) => self = case,
                    None => return,
                },
                Step::Moves(callout) => {
                    self.has_waited = true;
                    return callout.submit(self);
                }
            }
            self.at += 1;
            if self.has_waited {
                return self.go_home();
            }
        }
        self.end();
    }

    fn turn_away(self: Box<Self>) {
        self.answer.give(Err(Denied::new(ReasonCode::ServerBusy, "too many wait to be judged")));
    }
}

impl Case {
    fn step(&mut self, method: &Method) -> Step {
        match method {
            Method::Passwords(directory) => self.by_password(directory.users()),
            Method::Tokens(tokens) => self.by_token(tokens),
            Method::Callout(callout) => self.by_callout(callout),
        }
    }

    fn by_password(&mut self, users: Arc<Users>) -> Step {
        let Some(username) = &self.shown.username else { return Step::PassedOn };
        let question = users.question(username, self.shown.password.as_deref());
        if !question.is_of_user() {
            self.stranger = Some((users, question));
            return Step::PassedOn;
        }
        Step::Decided(match users.answer(&question) {
            true => Ok(question.identity()),
            false => Err(Denied::new(ReasonCode::BadUserNameOrPassword, "")),
        })
    }

    fn by_token(&mut self, tokens: &Arc<Tokens>) -> Step {
        let Some(password) = &self.shown.password else { return Step::PassedOn };
        let counts = &tokens.counts;
        match tokens.judge(self.shown.username.as_deref(), password, clock::wall()) {
            Judgement::Admitted(identity) => {
                counts.tokens_admitted.increment();
                Step::Decided(Ok(identity))
            }
            Judgement::Refused(why) => {
                counts.tokens_refused.increment();
                Step::Decided(Err(denied(tokens, &why)))
            }
            Judgement::NoKey(why) if !self.has_waited => Step::Waits(tokens.clone(), why),
            Judgement::NoKey(why) => self.without_key(tokens, &why),
            Judgement::Unknown(why) => {
                if let Some(why) = why {
                    self.why = Some(said(tokens, &why));
                }
                Step::PassedOn
            }
        }
    }

    fn by_callout(&mut self, callout: &Arc<Callout>) -> Step {
        let wall = clock::wall();
        let asked = match callout.kept(&self.shown, wall) {
            Some(word) => Ok(word),
            None if !self.has_waited => return Step::Moves(callout.clone()),
            None => callout.ask(&self.shown, wall),
        };
        let said = |why: &str| format!("callout `{}`: {why}", callout.name());
        match asked {
            Ok(Word::Ignore) => Step::PassedOn,
            Ok(Word::Allow(identity)) => {
                callout.counts.callouts_allowed.increment();
                Step::Decided(Ok(identity))
            }
            Ok(Word::Deny(why)) => {
                callout.counts.callouts_denied.increment();
                let why = if why.is_empty() { said("denied") } else { said(&why) };
                Step::Decided(Err(Denied { reason: self.reason(), why }))
            }
            Err(why) => {
                let reason = ReasonCode::ServerUnavailable;
                Step::Decided(Err(Denied { reason, why: said(&why) }))
            }
        }
    }

    /// Why somebody is not let in who is known and not wanted.
    fn reason(&self) -> ReasonCode {
        match self.shown.username.is_some() || self.shown.password.is_some() {
            true => ReasonCode::BadUserNameOrPassword,
            false => ReasonCode::NotAuthorized,
        }
    }

    /// Waits for keys; comes back when that is not to be.
    fn wait(mut self: Box<Self>, tokens: &Arc<Tokens>, why: String) -> Option<Box<Self>> {
        self.has_waited = true;
        let mut case = tokens.wait(self).err()?;
        case.has_waited = false;
        if let Step::Decided(verdict) = case.without_key(tokens, &why) {
            case.verdict = Some(verdict);
        }
        Some(case)
    }

    /// Goes on on a thread that has nothing to wait for, if there is room.
    fn go_home(mut self: Box<Self>) {
        self.has_waited = false;
        // Without them the broker is about to end, and answers nobody.
        if let Some(checkers) = self.home.upgrade() {
            checkers.submit(self);
        }
    }

    /// The key that a token is signed with is not there, and not looked for now.
    fn without_key(&mut self, tokens: &Tokens, why: &str) -> Step {
        if tokens.has_keys() {
            self.why = Some(said(tokens, why));
            return Step::PassedOn;
        }
        tokens.counts.tokens_refused.increment();
        let why = said(tokens, "no keys have been fetched");
        Step::Decided(Err(Denied { reason: ReasonCode::ServerUnavailable, why }))
    }

    /// A method has decided, or nobody knows the Client.
    fn end(mut self: Box<Self>) {
        let verdict = self.verdict.take().unwrap_or_else(|| self.unknown());
        if verdict.is_err()
            && let Some((users, question)) = &self.stranger
        {
            if self.has_waited {
                self.verdict = Some(verdict);
                return self.go_home();
            }
            // A stranger costs what a user costs, and cannot be told from one.
            users.answer(question);
        }
        self.answer.give(verdict);
    }

    /// What is said of somebody who is known to nobody.
    fn unknown(&mut self) -> Verdict {
        if self.shown.username.is_none() && self.shown.password.is_none() {
            return self.unproven.clone();
        }
        let why = self.why.take().unwrap_or_default();
        Err(Denied { reason: ReasonCode::BadUserNameOrPassword, why })
    }
}

fn said(tokens: &Tokens, why: &str) -> String {
    format!("token `{}`: {why}", tokens.name())
}

fn denied(tokens: &Tokens, why: &str) -> Denied {
    Denied { reason: ReasonCode::BadUserNameOrPassword, why: said(tokens, why) }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;
    use crate::access::checkers::Options;
    use crate::access::file::PasswordFile;
    use crate::access::password::argon2id;
    use crate::access::verdict::Identity;

    /// Says on which thread a verdict was given.
    struct Told {
        verdicts: Sender<(String, Verdict)>,
        is_awaited: bool,
    }

    impl Answer for Told {
        fn is_awaited(&self) -> bool {
            self.is_awaited
        }

        fn give(self: Box<Self>, verdict: Verdict) {
            let thread = std::thread::current().name().unwrap_or_default().to_owned();
            self.verdicts.send((thread, verdict)).unwrap();
        }
    }

    /// Of a user ali, whose password is "sesame".
    fn directory() -> Arc<Directory> {
        let hash = argon2id(b"sesame", &[1; 16]).unwrap();
        let file = PasswordFile::parse(&format!("ali:{hash}")).unwrap();
        Arc::new(Directory::new(Users::new(file, [7; 32])))
    }

    fn case(
        directory: &Arc<Directory>,
        (username, password): (&str, &str),
        is_awaited: bool,
        home: Weak<Checkers>,
    ) -> (Box<Case>, Receiver<(String, Verdict)>) {
        let (verdicts, receiver) = channel();
        let methods = Arc::new([Method::Passwords(directory.clone())]);
        let (username, password) = (Some(username.into()), Some(password.as_bytes().into()));
        let shown = Shown { username, password, ..Shown::default() };
        let answer = Box::new(Told { verdicts, is_awaited });
        (Case::new(methods, shown, Ok(Identity::default()), answer, home), receiver)
    }

    #[test]
    fn a_user_is_let_in_by_the_right_password_only() {
        let directory = directory();
        for (password, is_right) in [("sesame", true), ("simsim", false)] {
            let (case, verdict) = case(&directory, ("ali", password), true, Weak::default());
            case.carry_out();
            assert_eq!(verdict.recv().unwrap().1.is_ok(), is_right, "{password}");
        }
    }

    #[test]
    fn who_does_not_wait_any_more_is_passed_over() {
        let (case, verdict) = case(&directory(), ("ali", "sesame"), false, Weak::default());
        case.carry_out();
        assert!(verdict.recv().is_err());
    }

    #[test]
    fn who_is_turned_away_is_told_that_the_server_is_busy() {
        let (case, verdict) = case(&directory(), ("ali", "sesame"), true, Weak::default());
        case.turn_away();
        let busy = |denied: Denied| denied.reason == ReasonCode::ServerBusy;
        assert!(verdict.recv().unwrap().1.is_err_and(busy));
    }

    #[test]
    fn who_has_waited_goes_back_for_all_that_takes_long() {
        let directory = directory();
        let options = Options { threads: 1, ..Options::default() };
        let home = Arc::new(Checkers::start("home", &options).unwrap());
        let judged = |prepare: &dyn Fn(&mut Case)| {
            let home = Arc::downgrade(&home);
            let (mut case, verdict) = case(&directory, ("stranger", "x"), true, home);
            prepare(&mut case);
            case.carry_out();
            let (thread, verdict) = verdict.recv().unwrap();
            (thread, verdict.is_ok())
        };
        let here = std::thread::current().name().unwrap_or_default().to_owned();
        let there = "home-0".to_owned();
        let decide = |case: &mut Case, verdict| {
            let users = directory.users();
            let question = users.question("stranger", None);
            case.stranger = Some((users, question));
            (case.verdict, case.has_waited) = (Some(verdict), true);
        };
        assert_eq!(judged(&|_| {}), (here.clone(), false));
        assert_eq!(judged(&|case| case.has_waited = true), (there.clone(), false));
        let denied = || Err(Denied::new(ReasonCode::BadUserNameOrPassword, ""));
        assert_eq!(judged(&|case| decide(case, denied())), (there, false));
        assert_eq!(judged(&|case| decide(case, Ok(Identity::default()))), (here, true));
    }
}
