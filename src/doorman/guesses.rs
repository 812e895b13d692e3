//! What was tried from an address: whoever tries the same again guesses nothing.

use std::collections::VecDeque;

/// Guesses of one address that are remembered.
pub(super) const REMEMBERED_MAX: usize = 16;

/// What a login failed with. It is not shown, since a password may be in it.
#[derive(Clone, Copy)]
pub enum Attempt<'a> {
    /// Nothing was shown.
    Silence,
    /// User Name and Password.
    Guess(Option<&'a str>, Option<&'a [u8]>),
    /// A proof, which is another one each time.
    Proof,
}

/// The latest guesses of one address, as hashes with a seed that nobody knows.
#[derive(Debug, Default)]
pub(super) struct Guesses(VecDeque<u64>);

impl Guesses {
    /// Whether this is a new one; it is remembered.
    pub fn take(&mut self, guess: u64) -> bool {
        let before = self.0.len();
        self.0.retain(|&other| other != guess);
        let is_new = self.0.len() == before;
        if self.0.len() >= REMEMBERED_MAX {
            self.0.pop_front();
        }
        self.0.push_back(guess);
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_again_is_not_new_as_long_as_it_is_remembered() {
        let mut guesses = Guesses::default();
        let max = REMEMBERED_MAX as u64;
        assert!((0..max).all(|n| guesses.take(n)));
        assert!(!(0..max).any(|n| guesses.take(n)));
        assert!(guesses.take(max), "the first makes room");
        assert!(!guesses.take(1) && guesses.take(0));
        assert_eq!(guesses.0.len(), REMEMBERED_MAX);
    }
}
